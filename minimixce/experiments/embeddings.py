"""Texts as vectors: the hidden states of a GPT, and how alike a prompt and its continuation are."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from .. import backend
from ..gpt import GPT
from ..storage import files, validate
from ..storage.shapes import Array, Float, Int
from ..text import encode_prompt
from ..text.tokenizers import Tokenizer

Encode: TypeAlias = Callable[[Sequence[str]], Float[Array, "n d"]]

_POSITIONS = 1 << 12  # in a batch, padding included


def last_states(model: GPT, tokenizer: Tokenizer, texts: Sequence[str]) -> Float[np.ndarray, "n C"]:
    """What MAUVE compares texts by: the hidden state behind the last layer norm at the last token
    of each of n texts (n,C), float64 on the host.

    The texts are encoded as transformers does it, some with a boundary first; of one that is longer
    than the model has positions, the beginning is taken, as in mauve-text. Raises ValueError for a
    text that the tokenizer does not know, and NotFinite, a ValueError, for states that are not
    finite.
    """
    return _states(model, _encoded(model, tokenizer, texts), lambda ids, states: states[-1])


def mean_states(model: GPT, tokenizer: Tokenizer, texts: Sequence[str]) -> Float[np.ndarray, "n C"]:
    """The mean of a text's hidden states over its tokens, boundaries left out: (n,C), float64 on
    the host. Of an empty text, the state at the boundary. Otherwise as last_states.
    """

    def pool(ids, states):
        inside = ids != tokenizer.boundary
        return states[inside if inside.any() else slice(None)].mean(axis=0)

    return _states(model, _encoded(model, tokenizer, texts), pool)


def _encoded(model: GPT, tokenizer: Tokenizer, texts: Sequence[str]) -> list[Array]:
    longest = model.config.block_size
    return [encode_prompt(tokenizer, text)[:longest] for text in texts]


def _states(
    model: GPT,
    encoded: Sequence[Int[np.ndarray, " _"]],
    pool: Callable[[Array, Array], Array],
) -> Float[np.ndarray, "n C"]:
    """pool(ids (T,), states (T,C)) of each text, in batches of texts of like lengths. What pads a
    text comes behind it, where causal attention does not look.
    """
    found = np.zeros((len(encoded), model.config.n_embd))
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    while order:
        rows = max(1, _POSITIONS // len(encoded[order[-1]]))
        chosen, order = order[-rows:], order[:-rows]  # the longest first, to fail early
        ids = np.zeros((len(chosen), len(encoded[chosen[-1]])), np.int64)
        for row, i in zip(ids, chosen):
            row[: len(encoded[i])] = encoded[i]
        states = backend.to_numpy(model.hidden_states(model.xp.asarray(ids)))
        for i, of_text in zip(chosen, states):
            of_text = of_text[: len(encoded[i])].astype(np.float64)
            found[i] = pool(encoded[i], of_text)
    validate.check_finite("hidden states", found)
    return found


def coherence(encode: Encode, prompts: Sequence[str], continuations: Sequence[str]) -> float:
    """The mean cosine between the vectors of n prompts and of their continuations, by `encode`.

    encode(list of n texts) -> (n,d). Numbers of two encoders cannot be compared: the MixCE paper's
    are SimCSE's, and those of a GPT's hidden states (mean_states) are higher for any two texts.
    Raises ValueError where encode returns another shape or a number that is not finite.
    """
    a, b = (_checked(encode, list(texts)) for texts in (prompts, continuations))
    if a.shape[1] != b.shape[1]:
        widths = f"{a.shape[1]} and then {b.shape[1]}"
        raise ValueError(f"encode must return vectors of one length, got {widths} numbers")
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = (a * b).sum(axis=1) / np.where(norms > 0, norms, 1)
    return float(cosines.mean())


def _checked(encode: Encode, texts: list[str], name: str = "encode") -> Float[np.ndarray, "n d"]:
    """encode(texts) in float64, if it is an array of a finite vector for each text."""
    returned = encode(texts)
    try:
        found = np.asarray(returned)
    except (TypeError, ValueError):  # a ragged list, an array on a GPU
        found = np.array(None)
    is_right = found.ndim == 2 and len(found) == len(texts) and found.shape[1] > 0
    if not is_right or found.dtype.kind not in "fiu":
        raise ValueError(
            f"{name} must return numbers of shape ({len(texts)}, d) for {len(texts)} texts, got"
            f" {type(returned).__name__} of {found.dtype}, shape {found.shape}"
        )
    found = found.astype(np.float64)
    if not np.isfinite(found).all():
        raise ValueError(f"{name} must return finite numbers, got some that are not")
    return found


def encoder_of_file(name: str) -> Encode:
    """The function that "FILE.py:NAME" names, encode(list of n texts) -> (n,d). The file is
    executed: name none that you would not run yourself. Raises FileNotFoundError or ValueError.
    """
    path, _, function = name.rpartition(":")
    if not path.endswith(".py"):
        raise ValueError(f"--encode must be FILE.py:NAME, got {name!r}")
    (found,) = files.load_functions(Path(path), function)

    def called(texts: Sequence[str]) -> Any:
        try:
            return found(texts)
        except (Exception, SystemExit) as error:
            said = f"{type(error).__name__}: {error}".removesuffix(": ")
            raise ValueError(f"{function} in {path} fails: {said}") from error

    return lambda texts: _checked(called, list(texts), f"{function} in {path}")
