"""The sentences of the agreement() world, in one order everywhere, and the best tables for it."""

import numpy as np

from .. import exact, optim, worlds
from ..bigram import TableBigram
from ..model import LanguageModel
from ..storage.shapes import Array, Float
from ..worlds import World
from .reports import full_or_fast

MAX_LEN = 4  # the horizon of every sum over its sentences: three words and the boundary
VALID = ("cat sleeps", "cats sleep", "cat here sleeps", "cats here sleep")
INVALID = ("cat here sleep", "cats here sleeps")  # what a model writes that forgets the number
SENTENCES = (*VALID, *INVALID, "anything else")


def sentence_probs(model: LanguageModel | World) -> Float[Array, "7"]:
    """The probability a model, or the world itself, gives to each of SENTENCES -> (7,).

    Sequences end at the horizon MAX_LEN; "anything else" has the rest of the probability.
    """
    rows = worlds.agreement().rows(SENTENCES[:-1], MAX_LEN)
    if isinstance(model, World):
        probs = np.exp(model.log_prob(rows))
    else:
        probs = np.exp(exact.log_prob(model, rows))
    return np.append(probs, max(0.0, 1 - probs.sum()))


def optimal_table(
    objective: str,
    eta: float = 0.5,
    world: World | None = None,
    max_len: int = MAX_LEN,
    steps: int = 3000,
) -> TableBigram:
    """The table bigram at which an exact objective is least, from the uniform start -> TableBigram.

    objective, eta: as in `exact.loss_and_grads`; world: agreement() if None. A rate that falls to
    nothing takes AdamW to the optimum as nearly as float64 can show; in fast mode less near.
    """
    world = worlds.agreement() if world is None else world
    model = TableBigram(world.vocab_size)
    optimizer = optim.AdamW(model.params, lr=0.1, weight_decay=0.0)
    steps = full_or_fast(steps, 300)
    for step in range(steps):
        if objective == "js":
            _, grads = exact.loss_and_grads(model, world, max_len, objective=objective, eta=eta)
        else:
            _, dlogits = exact.bigram_loss_and_grads(
                model.params["logits"], world, objective=objective, eta=eta, max_len=max_len
            )
            grads = {"logits": dlogits}
        optimizer.step(grads, lr=optim.warmup_cosine(step, 0.1, 0, steps, 1e-4))
    return model
