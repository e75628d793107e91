"""minimixce: autoregressive language models trained by mixing forward and reverse cross-entropies,
from scratch.
"""

from . import backend, estimators, exact, layers, objectives, optim, testing, text, worlds
from .bigram import Bigram, BigramConfig, TableBigram
from .checks import gradcheck
from .gpt import GPT, GPTConfig
from .optim import AdamW
from .training.loop import fit

__version__ = "0.1.0"
__all__ = [
    "GPT",
    "AdamW",
    "Bigram",
    "BigramConfig",
    "GPTConfig",
    "TableBigram",
    "backend",
    "estimators",
    "exact",
    "fit",
    "gradcheck",
    "layers",
    "objectives",
    "optim",
    "testing",
    "text",
    "worlds",
]
