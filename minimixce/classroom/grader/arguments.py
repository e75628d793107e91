"""Functions and objects that a student's functions are called with, made from arrays alone.

The grader makes them in the student's process, by name, so nothing here may know an answer, and
this file imports NumPy and nothing of the package. It is one of the files that the sandbox holds.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

_groups = itertools.count()


class Recipe(NamedTuple):
    """How a function or object was made: part `part` of MAKERS[name](*arrays).

    Parts of one group were made together and may share what they remember.
    """

    name: str
    arrays: tuple[Any, ...]
    part: int
    group: int


def made(name: str, *arrays: Any) -> Any:
    """The function or object that MAKERS has under this name, or the tuple of them.

    Each has the Recipe by which another process can make it, as its attribute `recipe`.
    """
    value = MAKERS[name](*arrays)
    parts = value if isinstance(value, tuple) else (value,)
    group = next(_groups)
    for k, part in enumerate(parts):
        part.recipe = Recipe(name, arrays, k, group)
    return value


def cubic_and_sine(a: np.ndarray) -> Callable[[Any], float]:
    """f(x) = Σ a x³ + (Σ sin x)², with third derivatives, and a part where all x meet."""
    a = a.astype(float)

    def f(x):
        x = np.asarray(x, float)
        return float((a * x**3).sum() + np.sin(x).sum() ** 2)

    return f


def example_f_and_w() -> Callable[[Any], tuple[Any, Any]]:
    """An objective whose weight differs from token to token."""

    def f_and_w(log_q):
        q = np.exp(log_q)
        return -0.3 * log_q - 0.7 * q, 0.3 + 0.7 * q

    return f_and_w


class TinyWorld:
    """A bigram world with the methods that model_grad calls. cost: −log P, (V,V)."""

    def __init__(self, cost: np.ndarray) -> None:
        self.vocab_size = len(cost)
        self._cost = cost

    def batch(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows (n,T+1) -> inputs, −1 read as 0, and targets, both (n,T−1)."""
        inputs, targets = rows[:, :-2], rows[:, 1:-1]
        return np.maximum(inputs, 0), targets.copy()

    def token_costs(self, rows: np.ndarray) -> np.ndarray:
        """−log P of each target, (n,T−1), 0 where there is none."""
        inputs, targets = self.batch(rows)
        return np.where(targets >= 0, self._cost[inputs, targets], 0)


def prefix_model(W: np.ndarray) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """logits_of(tokens) and pull_back(dlogits) of a model that is linear in its whole prefix.

    W (V,V). pull_back gives the gradients {"W": …} of the tokens that logits_of saw last.
    """
    last = {}

    def logits_of(tokens):
        last["features"] = _features(tokens, len(W)).astype(W.dtype)
        return last["features"] @ W

    def pull_back(dlogits):
        return {"W": np.einsum("ntf,ntv->fv", last["features"], dlogits)}

    return logits_of, pull_back


def _features(inputs, v):
    """What the model sees of a prefix: one-hots of its tokens, the last ones more, (n,t,v)."""
    seen = np.eye(v)[inputs]
    features = np.zeros_like(seen)
    for t in range(seen.shape[1]):
        before = features[:, t - 1] if t else 0
        features[:, t] = seen[:, t] + 0.5 * before
    return features


def draw_from(noise: np.ndarray) -> Callable[[], np.ndarray]:
    """The draw of task 3.9, from an array of noise (k,n,V): draw() returns one after the other.

    After the last comes the first again.
    """
    calls = itertools.count()

    def draw():
        return noise[next(calls) % len(noise)].copy()

    return draw


MAKERS: dict[str, Callable[..., Any]] = {
    "cubic_and_sine": cubic_and_sine,
    "draw_from": draw_from,
    "example_f_and_w": example_f_and_w,
    "prefix_model": prefix_model,
    "tiny_world": TinyWorld,
}
