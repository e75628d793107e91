"""Worlds to learn from: Markov chains, n-grams of a corpus, and two small languages.

A world is an automaton.World: a data distribution P that is known exactly.
"""

import functools
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .automaton import LOG_P_FLOOR, World, batch, reach
from .storage import files, memory
from .storage.shapes import Array, FilePath, Int, Matrix
from .storage.validate import check_count, check_number, check_probs, check_text, to_array

__all__ = [
    "LOG_P_FLOOR",
    "World",
    "agreement",
    "batch",
    "from_text",
    "load",
    "markov",
    "ngram",
    "random_markov",
    "stories",
]


_MOST_BYTES = 1 << 30  # of a world's file, which has 25 or so for each possible move


def load(path: FilePath) -> World:
    """The world that World.save wrote to the file `path`.

    Raises FileNotFoundError, or ValueError for a damaged file.
    """
    fields = files.read_json(path, _MOST_BYTES)
    if missing := [key for key in ("name", "log_p_floor", "words", "states") if key not in fields]:
        raise ValueError(f"{path} does not describe a world: it lacks {', '.join(missing)}")
    words, states = fields["words"], fields["states"]
    try:
        if not isinstance(words, list) or not isinstance(states, list):
            raise ValueError("words and states must be lists")
        _check_room(len(states), len(words), f"{path}, a world")
        probs = np.zeros((len(states), len(words)))
        next_state = np.zeros((len(states), len(words)), np.int64)
        for s, state in enumerate(states):
            live, other = state["probs"], state["next"]
            integers = [state["else"], *other.values(), *map(int, live), *map(int, other)]
            if not all(type(x) is int and x >= 0 for x in integers) or not all(
                type(p) in (int, float) for p in live.values()
            ):
                raise ValueError(f"state {s} holds something else than numbers")
            next_state[s] = state["else"]
            probs[s, list(map(int, live))] = list(live.values())
            next_state[s, list(map(int, other))] = list(other.values())
        return World(probs, next_state, words, fields["name"], fields["log_p_floor"])
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        what = f"a state lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} does not describe a world: {what}") from None


def markov(transitions: Matrix, words: Sequence[str] | None = None, **options: Any) -> World:
    """The Markov chain with a matrix transitions (V,V) of rows that sum to one.

    Row 0 is the start, column 0 the end. options: name, log_p_floor, as for World.

    >>> round(mm.worlds.markov([[0.5, 0.5], [1, 0]]).entropy(3), 4)
    0.6931
    """
    transitions = check_probs("transitions", transitions)
    vocab_size = len(transitions)
    if transitions.shape != (vocab_size, vocab_size):
        raise ValueError(f"transitions must be square, (V,V), got {transitions.shape}")
    return World(transitions, np.tile(np.arange(vocab_size), (vocab_size, 1)), words, **options)


def random_markov(vocab_size: int, zero_fraction: float, seed: int) -> World:
    """A random Markov chain, the one that the MixCE authors' code draws for this seed.

    It is the same number for number. Rows are Dirichlet(½, …, ½); transitions between words are
    zero with probability zero_fraction (0 … 1), those to the boundary never, so every sequence can
    end; the start row is uniform, the boundary (an empty sequence) included. Source: the synthetic
    experiments of Zhang et al., ACL 2023. Raises TypeError or ValueError for a vocab_size below 2
    or a zero_fraction or seed out of range.

    >>> mm.worlds.random_markov(5, 0.5, seed=7)
    World('random_markov(5, 0.5, 7)', 5 states, 5 tokens)
    """
    vocab_size = check_count("vocab_size", vocab_size, 2)
    check_number("zero_fraction", zero_fraction)
    if not 0 <= zero_fraction <= 1:
        raise ValueError(f"zero_fraction must be between 0 and 1, got {zero_fraction}")
    _check_room(vocab_size, vocab_size)
    # the legacy generator, which the authors' code uses
    rng = np.random.RandomState(check_count("seed", seed, 0))
    # in the authors' order: words, then the boundary
    rows = rng.dirichlet(np.full(vocab_size, 0.5), vocab_size)
    rows[:-1, :-1][rng.random_sample((vocab_size - 1, vocab_size - 1)) < zero_fraction] = 0
    rows /= rows.sum(axis=1, keepdims=True)
    rows[-1] = 1 / vocab_size
    return markov(
        np.roll(rows, 1, axis=(0, 1)), name=f"random_markov({vocab_size}, {zero_fraction}, {seed})"
    )


def ngram(
    tokens: Int[Array, "..."] | Sequence[Any],
    n: int,
    vocab_size: int,
    words: Sequence[str] | None = None,
) -> World:
    """The n-gram model of a corpus as a world: relative frequencies, zeros kept.

    n = 2 is a bigram model. tokens: a stream of ids (N,) with a boundary (0) after every sequence,
    or a list of sequences, or rows as sample() gives them. A boundary before the first token of a
    stream or sequence is left out, one that is missing after the last is added. States are the
    contexts that occur: the last n−1 tokens since the boundary, in order of length and then of ids.
    A context that does not occur falls to its longest suffix that does, in the end to the start.
    Raises TypeError or ValueError. Ids are below vocab_size; words: its names, as for World.
    """
    n, vocab_size = check_count("n", n), check_count("vocab_size", vocab_size, 2)
    counts: dict[tuple[int, ...], Counter[int]] = {}
    context: tuple[int, ...] = ()
    for token in _stream(tokens, vocab_size).tolist():
        counts.setdefault(context, Counter())[token] += 1
        context = (*context, token)[1 - n :] if token and n > 1 else ()
    contexts = sorted(counts, key=lambda context: (len(context), context))
    number = {context: s for s, context in enumerate(contexts)}
    _check_room(len(contexts), vocab_size)
    longer: dict[
        tuple[int, ...], list[tuple[int, ...]]
    ] = {}  # context -> the states that lengthen it by one token
    for context in contexts[1:]:
        longer.setdefault(context[:-1], []).append(context)
    targets = {}

    def targets_of(context):
        """(V,) for every next token the longest suffix of context · token that is a state."""
        if context not in targets:
            targets[context] = (
                targets_of(context[1:]).copy() if context else np.zeros(vocab_size, np.int64)
            )
            for state in longer.get(context, ()):
                targets[context][state[-1]] = number[state]
        return targets[context]

    probs = np.zeros((len(contexts), vocab_size))
    for s, context in enumerate(contexts):
        probs[s, list(counts[context])] = list(counts[context].values())
    probs /= probs.sum(axis=1, keepdims=True)
    next_state = np.stack([targets_of(c[1:] if c and len(c) == n - 1 else c) for c in contexts])
    return World(probs, next_state, words, name=f"{n}-gram")


def _check_room(num_states, vocab_size, what="a world"):
    """Raise MemoryError where the tables of a world (64-bit numbers for every state and token:
    probs and next_state, a copy of each while it is made) are sure not to fit.
    """
    memory.check(
        4 * 8 * num_states * vocab_size,
        f"{what} of {num_states:,} states and {vocab_size:,} tokens",
        "make one of fewer",
    )


def _stream(tokens: Int[Array, "..."] | Sequence[Any], vocab_size: int) -> Int[Array, " N"]:
    """What ngram takes -> ids (N,), every sequence followed by one boundary."""
    if not isinstance(tokens, (list, tuple, np.ndarray)):
        raise TypeError(
            f"tokens must be a stream of ids or a list of sequences, got {type(tokens).__name__}"
        )
    if len(tokens) == 0:
        raise ValueError("tokens must hold at least one sequence, got none")
    stream: list[Any] = []
    for part in tokens if isinstance(tokens[0], (list, tuple, np.ndarray)) else [tokens]:
        ids = np.zeros(0, np.int64) if isinstance(part, (list, tuple)) and not part else part
        ids = to_array("tokens", ids, "iu", "integers")
        if ids.ndim != 1:
            raise ValueError(
                "tokens must be a stream of ids or a list of sequences, got deeper lists or ids"
                " beside sequences"
            )
        ids = ids[: np.flatnonzero(ids != -1).max(initial=-1) + 1]  # a row's −1 after the end
        if len(ids) and (ids.min() < 0 or ids.max() >= vocab_size):
            raise ValueError(
                f"tokens must be in 0 … {vocab_size - 1}, got {ids.min()} … {ids.max()}"
            )
        ids = ids[1:] if len(ids) and ids[0] == 0 else ids
        stream += [ids] if len(ids) and ids[-1] == 0 else [ids, [0]]
    return np.concatenate(stream).astype(np.int64)


def from_text(text: str, vocab_size: int) -> World:
    """The Markov chain of a text's most frequent words.

    It is like the matrices that the MixCE paper takes from WebText. The paper's code does not say
    how it counts. Here a sequence is a line or a sentence (up to . ! ? and a space); a word is a
    run of letters and digits, apostrophes inside included, in lower case. The vocab_size − 1 most
    frequent words are kept, of equally frequent ones the first in order of code points. Pairs of
    neighbours count where both are kept, the start and the end of a sequence being neighbours too;
    another word breaks the chain there and is not jumped over. From a word where the counted pairs
    lead to no end, one end is added to the counts, so a word without successors ends. Zeros are
    kept. Raises TypeError, or ValueError for too little text.

    >>> mm.worlds.from_text("a cat. a dog.", 4).words
    ['', 'a', 'cat', 'dog']
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, got {type(text).__name__}")
    check_text("text", text)
    vocab_size = check_count("vocab_size", vocab_size, 2)
    sequences = [find_words(part) for part in re.split(r"[.!?]+(?:\s|$)|\n", text.lower())]
    frequency = Counter(word for sequence in sequences for word in sequence)
    if len(frequency) < vocab_size - 1:
        raise ValueError(
            f"text must have at least vocab_size − 1 = {vocab_size - 1} different words, got"
            f" {len(frequency)}"
        )
    _check_room(vocab_size, vocab_size)
    kept = sorted(frequency, key=lambda word: (-frequency[word], word))[: vocab_size - 1]
    number, counts = {word: v for v, word in enumerate(kept, 1)}, np.zeros((vocab_size, vocab_size))
    for sequence in filter(None, sequences):
        for pair in itertools.pairwise([0, *map(number.get, sequence), 0]):
            if None not in pair:
                counts[pair] += 1
    if not counts[0].any():
        raise ValueError(
            "text must have a line or sentence that begins with a kept word; give more text or"
            " vocab_size"
        )
    source, target = np.nonzero(counts)
    counts[~reach(counts[:, 0] > 0, target, source), 0] = 1
    return markov(
        counts / counts.sum(axis=1, keepdims=True),
        ["", *kept],
        name=f"{vocab_size - 1} words of a text",
    )


def find_words(text: str, of: str = "letters and digits") -> list[str]:
    """The words of a text: runs of letters with apostrophes (' or ’) inside.

    Digits count as letters unless of="letters"; the combining marks and joiners that follow a
    letter belong to it.
    """
    return _word_pattern(of).findall(text)


@functools.cache
def _word_pattern(of: str) -> re.Pattern[str]:
    letter = r"\w" if of == "letters and digits" else r"[^\W\d_]"
    # Python's \w has no combining marks: vowels of Indic scripts, accents of decomposed Latin
    characters = map(chr, range(0x300, 0xE0200))
    marks = "".join(c for c in characters if unicodedata.category(c).startswith("M"))
    run = rf"{letter}(?:{letter}|[{marks}\u200c\u200d])*"
    return re.compile(rf"{run}(?:['’]{run})*")


def agreement() -> World:
    """The smallest world that a bigram model cannot learn.

    A verb agrees with a noun that may be two words back. "cat" (.6) or "cats" (.4); then "here"
    (.5) or the verb; after "here" the verb; then the end. 4 of the 156 sequences of max_len 4 are
    possible. The best bigram model forgets the number after "here": 76 % of what it says is
    possible.

    >>> world = mm.worlds.agreement()
    >>> [world.text(row) for row in world.sample(2, max_len=4, seed=0)]
    ['cats here sleep', 'cat here sleeps']
    """
    # an impossible word keeps the state
    probs, next_state = np.zeros((6, 6)), np.tile(np.arange(6)[:, None], 6)
    from_state, token = [0, 0, 1, 1, 2, 3, 3, 4, 5], [1, 2, 3, 4, 4, 3, 5, 5, 0]
    probs[from_state, token] = [0.6, 0.4, 0.5, 0.5, 1, 0.5, 0.5, 1, 1]
    # 1, 2: one cat, then "here"; 3, 4: cats; 5: after the verb
    next_state[from_state, token] = [1, 3, 2, 5, 5, 4, 5, 5, 0]
    return World(
        probs, next_state, ["", "cat", "cats", "here", "sleeps", "sleep"], name="agreement"
    )


def stories() -> World:
    """Short English sentences of about 60 words.

    Agreement in number across phrases and clauses, and pronouns that fit. Made by
    data/make_stories.py, where the grammar is; an impossible word keeps the state.
    """
    here = Path(__file__).parent
    # installed; in a clone of the repository
    places = [here / "data" / "stories.json", here.parent / "data" / "stories.json"]
    return load(places[0] if places[0].exists() else places[1])
