"""The data distribution P as a probabilistic automaton, which samples, scores and adds up exactly.

A world has S states and V tokens. It starts in state 0; in state s it draws token v with
probability probs[s, v] and goes to next_state[s, v]; token 0, the boundary, ends the sequence. So
P(x) is a product along one walk, and sums over all sequences (entropy, expected length) are sums
over states. A Markov chain is the case where the state is the last token.

Rows, here and wherever sequences of a world go: (n, max_len+1) integers, each row the boundary, the
tokens, the boundary, then −1. The horizon `max_len` forces the boundary in the last column: it is
drawn from nothing and adds nothing to log P. Everything is kept on the host in float64; only the
methods that take rows follow these to a GPU. Logs are natural (nats).
"""

import contextlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import backend
from .storage import files
from .storage.shapes import Array, ArrayModule, Bool, FilePath, Float, Int, Matrix, Rows, Seed
from .storage.validate import check_count, check_number, check_probs, check_text, to_array

# The paper's: what an impossible token costs inside a reverse cross-entropy, −69.08 nats.
LOG_P_FLOOR = math.log(1e-30)
_MAX_DENSE_STATES = 4096  # the largest linear system that is solved


class Tables(NamedTuple):
    """What walks through a world look up, (S,V) each, on some device; see World.tables."""

    log_p: Float[Array, "S V"]  # −inf where impossible
    log_p_floored: Float[Array, "S V"]
    impossible: Float[Array, "S V"]  # 1.0 or 0.0
    next_state: Int[Array, "S V"]


class World:
    """A probabilistic automaton with start state 0 and boundary 0.

    probs (S,V), rows summing to one; next_state (S,V) integers. next_state must be valid
    everywhere: a model can take an impossible token, and a floored score then walks on. words: V
    names to print, words[0] the boundary's. log_p_floor replaces log P of impossible tokens where
    asked for (with_floor gives the same world another). Arrays are copied and read-only. Raises
    TypeError or ValueError, also where some sequence could never end.

    Further attributes: num_states S, vocab_size V, is_markov (whether the state is the last token,
    as closed forms for Markov worlds need), reachable (S,) bool (states that sequences of P meet).
    name: what it is called where it is printed.
    """

    def __init__(
        self,
        probs: Matrix,
        next_state: Matrix,
        words: Sequence[str] | None = None,
        name: str = "world",
        log_p_floor: float = LOG_P_FLOOR,
    ) -> None:
        probs = check_probs("probs", probs)
        next_state = to_array("next_state", next_state, "iu", "integers")
        next_state = next_state.astype(np.int64, copy=False)
        if next_state.shape != probs.shape:
            raise ValueError(
                f"next_state must have the shape of probs, {probs.shape}, got {next_state.shape}"
            )
        self.num_states, self.vocab_size = num_states, vocab_size = probs.shape
        if next_state.min() < 0 or next_state.max() >= num_states:
            raise ValueError(
                f"next_state must be in 0 … {num_states - 1}, got {next_state.min()} …"
                f" {next_state.max()}"
            )
        words = ["", *map(str, range(1, vocab_size))] if words is None else words
        if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
            raise TypeError(f"words must be a list of strings, got {words!r:.80}")
        check_text("words", "".join(words))
        if len(words) != vocab_size:
            raise ValueError(
                f"words must have {vocab_size} entries, one for every token, got {len(words)}"
            )
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, got {name!r:.80}")
        check_text("name", name)
        check_number("log_p_floor", log_p_floor)
        if not -math.inf < log_p_floor < 0:
            raise ValueError(f"log_p_floor must be negative and finite, got {log_p_floor}")
        for array in (probs, next_state):
            array.setflags(write=False)
        self.probs, self.next_state = probs, next_state
        self.words, self.name, self._log_p_floor = list(words), name, float(log_p_floor)
        self._tables: dict[tuple[str, int], Tables] = {}  # by device
        self._entropies: dict[int | None, float] = {}  # by horizon
        last_token = np.arange(vocab_size)
        self.is_markov = num_states == vocab_size and bool((next_state == last_token)[:, 1:].all())

        # The moves that can happen, in order of state and token: everything below is a sum or a
        # search over these.
        self._from, self._token = np.nonzero(probs)
        self._to, self._prob = next_state[self._from, self._token], probs[self._from, self._token]
        goes_on = self._token > 0
        source, target = self._from[goes_on], self._to[goes_on]
        self.reachable = reach(np.arange(num_states) == 0, source, target)
        endless = self.reachable & ~reach(probs[:, 0] > 0, target, source)
        if endless.any():
            state = int(np.argmax(endless))
            raise ValueError(
                f"probs must let every sequence end, but from state {state} the boundary is out of"
                " reach"
            )
        self.reachable.setflags(write=False)

    def __repr__(self) -> str:
        return f"World({self.name!r}, {self.num_states} states, {self.vocab_size} tokens)"

    @property
    def log_p_floor(self) -> float:
        """The least log P of a token, in nats, inside reverse cross-entropy and reverse KL."""
        return self._log_p_floor

    def with_floor(self, log_p_floor: float) -> "World":
        """The same world with another log_p_floor."""
        return World(self.probs, self.next_state, self.words, self.name, log_p_floor)

    def tables(self, xp: ArrayModule) -> Tables:
        """Tables on xp's current device, float64; they are made once."""
        key = backend.current_device(xp)
        if key not in self._tables:
            with np.errstate(divide="ignore"):
                log_p = np.log(self.probs)
            host = (
                log_p,
                np.maximum(log_p, self.log_p_floor),
                (self.probs == 0) * 1.0,
                self.next_state,
            )
            self._tables[key] = Tables(*(xp.asarray(table) for table in host))
        return self._tables[key]

    # ---- samples and their probabilities ---------------------------------------------------------

    def sample(self, n: int, max_len: int, seed: Seed = 0) -> Int[Array, "{n} {max_len}+1"]:
        """Draw n sequences of at most max_len tokens -> rows (n, max_len+1) int64.

        max_len counts the final boundary. seed: an integer, or a NumPy generator, from which one
        uniform number is drawn per token. Raises TypeError or ValueError for n or max_len below 1.
        """
        n, max_len = check_count("n", n), check_count("max_len", max_len)
        rng = backend.rng(seed, np)
        # State s owns the interval from s to s+1, cut up among its live tokens: one sorted list for
        # all states.
        cut = self._from + np.minimum(np.cumsum(self.probs, axis=1)[self._from, self._token], 1)
        last = np.searchsorted(self._from, np.arange(self.num_states), side="right") - 1
        rows = np.full((n, max_len + 1), -1, np.int64)
        rows[:, 0] = 0
        alive, state = np.arange(n), np.zeros(n, np.int64)
        for t in range(1, max_len):
            move = np.searchsorted(cut, state + rng.random(len(alive)), side="right")
            move = np.minimum(move, last[state])  # rounding may reach the end of the interval
            token = self._token[move]
            rows[alive, t] = token
            goes_on = token > 0
            alive, state = alive[goes_on], self._to[move[goes_on]]
            if not len(alive):
                break
        rows[alive, max_len] = 0
        return rows

    def batch(self, rows: Rows) -> tuple[Int[Array, "n L-2"], Int[Array, "n L-2"]]:
        """rows (n, max_len+1) -> inputs, targets, both (n, max_len−1).

        What a model reads and what it is to predict. Inputs are 0 after the end, targets −1; the
        forced column is neither. Raises TypeError for rows that are no integer array, ValueError
        for a wrong layout; what rows hold is checked on the CPU only, since a GPU would have to
        wait.
        """
        return batch(rows, self.vocab_size)

    def states(self, rows: Rows) -> Int[Array, "n L-2"]:
        """rows (n, max_len+1) -> (n, max_len−1) the state each target is drawn from.

        After the end it is some valid state. Raises what batch() raises.
        """
        return self._walk(self.batch(rows)[0])

    def _walk(self, inputs):
        if self.is_markov:
            return inputs
        xp = backend.array_module(inputs)
        next_state, columns = self.tables(xp).next_state, xp.ascontiguousarray(inputs.T)
        states = xp.zeros(columns.shape, dtype="int64")
        for t in range(1, len(columns)):
            states[t] = next_state[states[t - 1], columns[t]]
        return states.T

    def token_log_probs(self, rows: Rows, floored: bool = False) -> Float[Array, "n L-2"]:
        """rows (n, max_len+1) -> log P(x_t | x_<t) of every target, (n, max_len−1).

        float64 on rows' device, 0 after the end. An impossible token has −inf; with floored=True no
        token has less than log_p_floor. Raises what batch() raises.
        """
        used = self._used_log_probs(rows, floored)
        log_probs = backend.array_module(rows).zeros(
            (rows.shape[0], rows.shape[1] - 2), dtype="float64"
        )
        log_probs[:, : used.shape[1]] = used
        return log_probs

    def log_prob(self, rows: Rows, floored: bool = False) -> Float[Array, " n"]:
        """rows (n, max_len+1) -> log P(x), nats per sequence (n,) float64.

        −inf where impossible; floored and errors: as for token_log_probs.
        """
        return self._used_log_probs(rows, floored).sum(axis=1)

    def _used_log_probs(self, rows, floored):
        """token_log_probs, on the CPU without the last columns, where every sequence has ended:
        often most of them.
        """
        xp = _check_rows(rows, self.vocab_size)
        if xp is np and rows.size:
            rows = rows[:, : np.flatnonzero((rows >= 0).any(axis=0))[-1] + 2]
        inputs, targets = _split(rows)
        table = self.tables(xp).log_p_floored if floored else self.tables(xp).log_p
        is_target = targets >= 0
        return xp.where(is_target, table[self._walk(inputs), xp.where(is_target, targets, 0)], 0.0)

    def validity(self, rows: Rows) -> float:
        """Fraction of rows (n, max_len+1) that P can produce, a float.

        Raises ValueError for no rows, and what batch raises.
        """
        if len(rows) == 0:
            raise ValueError("rows must hold at least one sequence, got none")
        return float((self.log_prob(rows) > -math.inf).mean())

    # ---- exact sums ------------------------------------------------------------------------------

    def visits(self, max_len: int | None = None) -> Float[Array, " S"]:
        """Expected number of tokens drawn from each state in a sequence -> (S,).

        The forced boundary is not drawn. max_len=None means no horizon and solves a linear system
        over the states. Raises ValueError where that cannot be done.
        """
        goes_on = self._token > 0
        source, target, prob = self._from[goes_on], self._to[goes_on], self._prob[goes_on]
        total, now = np.zeros(self.num_states), np.eye(1, self.num_states)[0]
        if max_len is not None:
            for _ in range(check_count("max_len", max_len) - 1):
                if now.sum() <= 1e-20 * total.sum():  # what comes later would be lost in rounding
                    break
                total += now
                now = np.bincount(target, prob * now[source], self.num_states)
            return total
        # μ = e_0 (I − A)^−1 with A the moves that do not end, among the reachable states: elsewhere
        # it may have no inverse.
        states, inside = np.flatnonzero(self.reachable), self.reachable[source]
        if len(states) > _MAX_DENSE_STATES:
            raise ValueError(
                f"max_len=None takes at most {_MAX_DENSE_STATES} states, here {len(states)}; give a"
                " max_len"
            )
        number = np.cumsum(self.reachable) - 1
        system = np.eye(len(states))
        # transposed
        np.subtract.at(system, (number[target[inside]], number[source[inside]]), prob[inside])
        with contextlib.suppress(np.linalg.LinAlgError):
            total[states] = np.linalg.solve(system, now[states])
        if not (total[0] > 0.5 and total.min() > -1e-9 and np.isfinite(total).all()):
            raise ValueError(
                "max_len=None does not work here: sequences hardly ever end; give a max_len"
            )
        return np.maximum(total, 0)

    def entropy(self, max_len: int | None = None) -> float:
        """H(P) in nats per sequence, a float.

        Expected visits of each state times the entropy of its next token. max_len: the horizon, or
        None; what is refused and raised is as for visits.
        """
        if max_len not in self._entropies:
            of_states = np.bincount(self._from, -self._prob * np.log(self._prob), self.num_states)
            self._entropies[max_len] = float(self.visits(max_len) @ of_states)
        return self._entropies[max_len]

    def expected_length(self, max_len: int | None = None) -> float:
        """Expected |x|, tokens per sequence with the final boundary, drawn or forced.

        max_len: the horizon, or None; what is refused and raised is as for visits.
        """
        # One column more and the forced boundary would be drawn.
        return float(
            self.visits(None if max_len is None else check_count("max_len", max_len) + 1).sum()
        )

    # ---- to read, to keep ------------------------------------------------------------------------

    def text(self, row: Int[Array, " L"] | Sequence[int]) -> str:
        """One row (max_len+1,), array or list, as words joined by spaces, without boundaries.

        Raises TypeError or ValueError for another row, or tokens that the world does not have.
        """
        given: Any = row
        on_host = backend.to_numpy(given) if hasattr(row, "get") else row
        row = to_array("row", on_host, "iu", "integers")
        if row.ndim != 1 or row.max(initial=0) >= self.vocab_size:
            raise ValueError(
                f"row must have one axis and tokens below {self.vocab_size}, got {row.ndim} and up"
                f" to {row.max()}"
            )
        return " ".join(self.words[token] for token in row.tolist() if token > 0)

    def rows(self, sentences: Sequence[str], max_len: int) -> Int[Array, "n {max_len}+1"]:
        """Sentences as rows (n, max_len+1): the reverse of text.

        sentences: n strings of the world's words. Raises ValueError for another word, and for a
        sentence that is longer than max_len.
        """
        ids = {word: token for token, word in enumerate(self.words) if token}
        rows = np.full((len(sentences), max_len + 1), -1)
        for row, sentence in zip(rows, sentences):
            if unknown := [word for word in sentence.split() if word not in ids]:
                raise ValueError(f"sentences must be made of the world's words, got {unknown[0]!r}")
            tokens = [0, *(ids[word] for word in sentence.split()), 0]
            if len(tokens) > max_len + 1:
                raise ValueError(
                    f"max_len must be at least {len(tokens) - 1} for {sentence!r}, got {max_len}"
                )
            row[: len(tokens)] = tokens
        return rows

    def describe(self) -> str:
        """Several lines about the world, to print.

        With sentences, drawn with seed 0, where its tokens have words.
        """
        live = self.probs[self.reachable] > 0
        horizon = 100_000  # as good as none for short sequences, and quick for any world
        entropy, length = self.entropy(horizon), self.expected_length(horizon)
        lines = [
            (
                f"{self.name}: {self.num_states} states ({live.shape[0]} reachable),"
                f" {self.vocab_size} tokens"
            ),
            (
                f"impossible moves: {1 - live.mean():.1%}; states with 4 words or more:"
                f" {(live[:, 1:].sum(axis=1) > 3).sum()}"
            ),
            (
                f"entropy: {entropy:.4g} nats per sequence, perplexity"
                f" {math.exp(entropy / length):.4g} per token"
            ),
            f"expected length: {length:.4g} tokens with the boundary",
        ]
        if self.words[1:] != list(map(str, range(1, self.vocab_size))):
            lines += [f"  {self.text(row)}" for row in self.sample(5, 100)]
        return "\n".join(lines)

    def save(self, path: FilePath, *, overwrite: bool = False) -> None:
        """Write the world to the file `path` as JSON, one state a line.

        load() makes the same arrays of it, bit by bit. Raises FileExistsError where something is,
        unless overwrite=True.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise FileExistsError(
                f"{path} already exists; choose another name or allow overwriting"
            )
        states = []
        for probs, targets in zip(self.probs, self.next_state):
            # most tokens lead to one state; only the others are listed
            usual = int(np.bincount(targets).argmax())
            live, other = np.flatnonzero(probs).tolist(), np.flatnonzero(targets != usual).tolist()
            state = {
                "probs": {v: float(probs[v]) for v in live},
                "next": {v: int(targets[v]) for v in other},
                "else": usual,
            }
            states.append(json.dumps(state, separators=(",", ":")))
        head = json.dumps(
            {"name": self.name, "log_p_floor": self.log_p_floor, "words": self.words},
            ensure_ascii=False,
        )
        lines = [f'{head.removesuffix("}")}, "states": [', ",\n".join(states), "]}", ""]
        files.write_atomically(path, "\n".join(lines).encode())


# ---- rows ----------------------------------------------------------------------------------------


def batch(rows: Rows, vocab_size: int) -> tuple[Int[Array, "n L-2"], Int[Array, "n L-2"]]:
    """World.batch for rows (n, max_len+1) of any world of vocab_size tokens -> inputs, targets.

    Both are (n, max_len−1). Raises TypeError or ValueError for other rows.
    """
    _check_rows(rows, vocab_size)
    return _split(rows)


def _check_rows(rows, vocab_size):
    xp = backend.check_array("rows", rows)
    if rows.dtype.kind not in "iu":
        raise TypeError(f"rows must be integers, got {rows.dtype}")
    if rows.ndim != 2 or rows.shape[1] < 2:
        raise ValueError(f"rows must have shape (n, max_len+1) with max_len ≥ 1, got {rows.shape}")
    if xp is not np or rows.size == 0:
        return xp
    if rows.min() < -1 or rows.max() >= vocab_size:
        raise ValueError(f"rows must be in −1 … {vocab_size - 1}, got {rows.min()} … {rows.max()}")
    # −1 stands just where a boundary or −1 stands before; the first column is no place before.
    fits = ((rows[:, 2:] < 0) == (rows[:, 1:-1] <= 0)).all(axis=1)
    fits &= (rows[:, 0] == 0) & (rows[:, 1] >= 0) & (rows[:, -1] <= 0)
    if not fits.all():
        bad = int(np.argmin(fits))
        raise ValueError(
            f"rows must be 0, tokens, 0, then −1 only, but row {bad} is {rows[bad].tolist()!s:.80}"
        )
    return xp


def _split(rows):
    """rows (n, max_len+1) -> inputs, targets (n, max_len−1)."""
    inputs = rows[:, :-2]
    return backend.array_module(rows).where(inputs >= 0, inputs, 0), rows[:, 1:-1]


def reach(
    start: Bool[Array, " S"], source: Int[Array, " N"], target: Int[Array, " N"]
) -> Bool[Array, " S"]:
    """Which states (S,) bool some moves lead to from the states where start is true.

    The moves are source[i] -> target[i].
    """
    reached = start.copy()
    while True:
        before = reached.sum()
        reached[target[reached[source]]] = True
        if reached.sum() == before:
            return reached
