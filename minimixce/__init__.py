"""minimixce: autoregressive language models trained by mixing forward and reverse cross-entropies,
from scratch.
"""

# What `import minimixce as mm` offers. Each name is imported where it is first used: a command that
# still starts can then be stopped (see cli).
TYPE_CHECKING = False  # which type checkers take for True, as that of typing, a slow import
if TYPE_CHECKING:
    from typing import Any

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

_MODULES = {
    "GPT": "gpt",
    "GPTConfig": "gpt",
    "AdamW": "optim",
    "Bigram": "bigram",
    "BigramConfig": "bigram",
    "TableBigram": "bigram",
    "fit": "training.loop",
    "gradcheck": "checks",
}


def __getattr__(name: str) -> "Any":
    """A name of __all__, or a module of the package, on its first use."""
    import importlib.util

    module = f"{__name__}.{_MODULES.get(name, name)}"
    if name.startswith("_") or importlib.util.find_spec(module) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = importlib.import_module(module)
    if name in _MODULES:
        value = getattr(value, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
