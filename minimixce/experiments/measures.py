"""Measures of trained models, on text and on worlds, and of what they write.

A measure is a function and a row of a table, TEXT_MEASURES or WORLD_MEASURES: from there the
command line, the tables, the pictures and the CSV files have it.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .. import backend, layers, objectives, worlds
from ..model import LanguageModel, check_drawn
from ..storage import validate
from ..storage.shapes import Array, Batch, Float, Int, Seed
from ..text import Corpus
from ..text.prepared import Tokens
from ..text.tokenizers import Tokenizer
from ..training.evaluation import check_targets

Ids: TypeAlias = Int[Array, " _"] | Sequence[int]  # of one text
_PIECE = 250_000  # tokens to count words of at a time
# ids of texts of one length; without a text, NumPy calls the empty array one of floats
Texts: TypeAlias = Int[Array, "n T"] | Float[Array, "0 T"] | Sequence[Ids]


class Measure(NamedTuple):
    """A row of TEXT_MEASURES or WORLD_MEASURES."""

    heading: str  # of its column
    format: str  # of its numbers, such as ".3f"
    function: Callable[
        [Any], Any
    ]  # on text: TextEvidence -> float; on worlds: Sequences -> value, its error
    needs: str  # on text: "model" or "texts"; on worlds: "P" or "Q", whose sequences are averaged
    name: str | None = None  # in a line of its own, on worlds; None: the heading
    panel: tuple[str, str] | None = None  # (title, unit) of its panel where texts are compared


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (n − 1) of `values`, some numbers; the deviation of a single one
    is 0.
    """
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def spread(
    rows: Sequence[Mapping[str, Any]], measures: Iterable[str]
) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation over rows (dicts) of each of `measures` that all of them have ->
    {name: (mean, deviation)}.
    """
    names = [name for name in measures if all(name in row for row in rows)]
    return {name: mean_and_deviation([row[name] for row in rows]) for name in names}


# ---- a model's fit to text -----------------------------------------------------------------------


def fit_to_text(
    model: LanguageModel, batches: Iterable[Batch], temperature: float = 1.0
) -> tuple[float, float]:
    """A model's perplexity on the targets of `batches`, and the mean entropy (nats per token) of
    Q(·|context) at those contexts, with logits divided by `temperature` -> (perplexity, entropy).

    batches: (inputs, targets), ids (B,T) on the host, targets −1 ignored. Raises ValueError for
    batches without a target, and NotFinite, a ValueError, for logits that are not finite.
    """
    nll, entropy, count = 0.0, 0.0, 0
    for inputs, targets in batches:
        on_device = model.xp.asarray(targets)
        for rows, logits in model.logits_in_chunks(model.xp.asarray(inputs)):
            logits, wanted = logits / temperature, on_device[rows]
            nll += float(objectives.mle(logits, wanted, reduction="none")[0].sum())
            entropy += float((_entropies(logits) * (wanted >= 0)).sum())
        count += int((targets >= 0).sum())
    check_targets("batches", count)
    validate.check_finite("loss on text", nll, infinite=True)  # NaN where logits are not finite
    return perplexity(nll / count), entropy / count


def perplexity(nats: float) -> float:
    """exp(nats), and infinity where that is more than a float holds."""
    with np.errstate(over="ignore"):
        return float(np.exp(nats))


def _entropies(logits: Float[Array, "B T V"]) -> Float[Array, "B T"]:
    """H(softmax(z)) = log Σ exp(z) − Σ q z: (B,T,V) -> (B,T)."""
    xp = backend.array_module(logits)
    z = logits - logits.max(axis=-1, keepdims=True)
    q, _ = layers.softmax_forward(z)
    return xp.log(xp.exp(z).sum(axis=-1)) - (q * z).sum(axis=-1)


def matching_temperature(model: LanguageModel, batches: Iterable[Batch], entropy: float) -> float:
    """The temperature in [0.05, 1] at which the model's entropy on `batches` (fit_to_text) is
    nearest to `entropy` (nats per token), by bisection.

    batches: (inputs, targets), ids (B,T), that can be iterated over again. Raises ValueError for an
    entropy that is not finite, and what fit_to_text raises.
    """
    validate.check_finite("entropy", entropy)
    low, high = 0.05, 1.0
    if fit_to_text(model, batches)[1] <= entropy:
        return 1.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if fit_to_text(model, batches, middle)[1] < entropy else (low, middle)
        )
    return (low + high) / 2


# ---- the counting baseline ----------------------------------------------------------------------


def ngram_cross_entropy(train: Tokens, validation: Tokens, n: int, vocab_size: int) -> float:
    """Nats per token of an interpolated Witten–Bell n-gram model: the counting baseline for a
    character model.

    P_k(w|h) = (c(hw) + T(h) P_{k−1}(w|h′)) / (c(h) + T(h)), where T(h) is the number of different
    tokens seen after the context h, h′ drops its oldest token, and P_0 = 1/V (Witten & Bell 1991).
    train, validation: ids (n,), below vocab_size; every validation token but the first is a target.
    Raises ValueError for fewer than two tokens.
    """
    for name, ids in (("train", train), ("validation", validation)):
        if len(ids) < 2:
            raise ValueError(f"{name} must hold at least 2 tokens, got {len(ids)}")
    train, validation = train[:], validation[:]  # of files, too, their ids
    targets = validation[1:].astype(np.int64)
    seen_next = train[1:].astype(np.int64)
    prob = np.full(len(targets), 1 / vocab_size)
    for seen_context, context in _contexts(train, validation, n, vocab_size):
        pairs, pair_counts = np.unique(seen_context * vocab_size + seen_next, return_counts=True)
        contexts, first, kinds = np.unique(
            pairs // vocab_size, return_index=True, return_counts=True
        )
        context_counts = np.add.reduceat(pair_counts, first)
        c_pair = _look_up(pairs, pair_counts, context * vocab_size + targets)
        c, t = _look_up(contexts, context_counts, context), _look_up(contexts, kinds, context)
        seen = c > 0
        prob[seen] = ((c_pair + t * prob) / np.maximum(c + t, 1))[seen]
    return float(-np.log(prob).mean())


def _contexts(
    train: Int[Array, " N"], validation: Int[Array, " M"], n: int, vocab_size: int
) -> Iterator[tuple[Array, Array]]:
    """For each length 0 … n−1, a number for the tokens before each target of the two texts, the
    same for the same tokens; boundaries stand before the beginning. They are counted anew for each
    length, since codes in base V would soon be larger than 2^63.
    """
    sizes = len(train) - 1, len(validation) - 1
    number = np.zeros(sum(sizes), np.int64)
    for length in range(n):
        if length:
            older = [_tokens_before(ids, length) for ids in (train, validation)]
            codes = number * vocab_size + np.concatenate(older)
            _, number = np.unique(codes, return_inverse=True)
        yield number[: sizes[0]], number[sizes[0] :]


def _tokens_before(ids: Int[Array, " N"], distance: int) -> Int[Array, " N-1"]:
    """The token `distance` places before each target."""
    found = np.zeros(len(ids) - 1, np.int64)
    found[distance - 1 :] = ids[: max(0, len(ids) - distance)]
    return found


def _look_up(
    keys: Int[Array, " K"], values: Int[Array, " K"], wanted: Int[Array, " N"]
) -> Int[Array, " N"]:
    """values of the sorted keys, 0 where a wanted key is absent."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)


# ---- what a model writes -------------------------------------------------------------------------


def sample_texts(
    model: LanguageModel,
    boundary: int,
    count: int,
    tokens: int,
    temperature: float = 1.0,
    seed: Seed = 0,
    lines: bool = False,
) -> Int[Array, "{count} {tokens}"]:
    """`count` samples from the start of a document, the token `boundary` -> ids (count, tokens) on
    the host; they run on over boundaries.

    temperature: of the samples; seed: an integer or a backend.rng generator. With lines, the model
    has learnt single lines only: whole lines are sampled and put one after another. Raises
    NotFinite, a ValueError, for logits that are not finite.
    """
    prompt = model.xp.full((count, 1), boundary)
    rng = backend.rng(seed, model.xp)
    if not lines:
        return _on_host(model.generate(prompt, tokens, temperature, seed=rng))[:, 1:]
    stream: list[int] = []
    while len(stream) < count * tokens:
        longest = model.config.block_size
        drawn = model.generate(prompt, longest, temperature, stop=boundary, seed=rng)
        for line in _on_host(drawn).tolist():
            end = line.index(boundary, 1) if boundary in line[1:] else len(line)
            stream += line[:end]
    return np.array(stream[: count * tokens]).reshape(count, tokens)


def _on_host(tokens: Int[Array, "..."]) -> Int[Array, "..."]:
    tokens = backend.to_numpy(tokens)
    check_drawn(tokens)
    return tokens


def held_out_texts(ids: Tokens, count: int, tokens: int) -> Texts:
    """`count` stretches of held-out text, `ids` (n,), of the same length, evenly spread -> ids (n,
    tokens), n ≤ count.
    """
    count = min(count, len(ids) // tokens)
    starts = np.linspace(0, len(ids) - tokens, count).astype(int)
    return np.array([ids[s : s + tokens] for s in starts]).reshape(count, tokens)


def diversity(ids: Ids, longest: int = 4) -> float:
    """Distinct n-grams over all n-grams of a text, `ids` (n,), n = 1 … `longest` pooled; n-grams
    with n > 2 of one repeated token are left out. 1 is no repetition at all; NaN for an empty text.

    >>> from minimixce.experiments.measures import diversity
    >>> diversity([1, 2, 3, 4]), diversity([7, 7, 7, 7])
    (1.0, 0.2857142857142857)
    """
    ids = np.asarray(ids)
    distinct = 0
    total = 0
    for n in range(1, min(longest, len(ids)) + 1):
        grams = np.lib.stride_tricks.sliding_window_view(ids, n)
        if n > 2:
            grams = grams[(grams != grams[:, :1]).any(axis=1)]
        distinct += len(np.unique(grams, axis=0)) if len(grams) else 0
        total += len(grams)
    return distinct / total if total else float("nan")


def repetition(ids: Ids, times: int = 3) -> tuple[float, int]:
    """(share of a text, `ids` (n,), inside phrases repeated `times` or more times in a row, length
    of the longest such phrase or 0). The share of an empty text is NaN.

    A phrase of length L stands `times` in a row where x_i = x_{i+L} for (times−1)·L consecutive i.
    One that is itself a repetition of a shorter one does not count as longer. The MixCE authors'
    repetition is another number: published.authors_repetition.
    """
    ids = np.asarray(ids)
    inside = np.zeros(len(ids), bool)
    longest = 0
    for length in range(1, len(ids) // times + 1):
        same = np.concatenate([[0], (ids[:-length] == ids[length:]).astype(np.int8), [0]])
        starts, ends = np.flatnonzero(np.diff(same) == 1), np.flatnonzero(np.diff(same) == -1)
        for start, end in zip(starts, ends):
            if end - start >= (times - 1) * length:
                inside[start : end + length] = True
                if not _is_repeated(ids[start : start + length]):
                    longest = length
    return (float(inside.mean()) if len(ids) else float("nan")), longest


def _is_repeated(phrase: Int[Array, " n"]) -> bool:
    """Whether a phrase (n,) is a shorter one, two or more times."""
    n = len(phrase)
    parts = (part for part in range(1, n // 2 + 1) if n % part == 0)
    return any((phrase[part:] == phrase[:-part]).all() for part in parts)


def words(text: str) -> list[str]:
    """The words of a text: runs of letters with their combining marks, with apostrophes (' or ’)
    inside. A script that puts no spaces between words, as Thai, has long ones.
    """
    return worlds.find_words(text, "letters")


def word_validity(texts: Iterable[str], vocabulary: set[str]) -> float:
    """Share of the words of `texts` that are in the set `vocabulary`; a text's first and last word
    may be cut off and are left out. NaN without words.
    """
    inner = [word for text in texts for word in words(text)[1:-1]]
    return sum(word in vocabulary for word in inner) / len(inner) if inner else float("nan")


def _decode(tokenizer: Tokenizer, ids: Int[Array, " n"]) -> str:
    """Text with a line break where a document ends, so that words of two documents do not join."""
    ends = np.flatnonzero(ids == tokenizer.boundary)
    return "\n".join(tokenizer.decode(part) for part in np.split(ids, ends))


def vocabulary_of(corpus: Corpus) -> set[str]:
    """The words of the training text of a corpus; of a very long one, of its first ten million
    tokens.
    """
    found: set[str] = set()
    ends = _ends_of_words(corpus.tokenizer)
    rest = corpus.train[:0]
    for start in range(0, min(len(corpus.train), 10_000_000), _PIECE):
        # piece by piece, to take little memory; what is after the last end of a word waits
        ids = np.concatenate([rest, corpus.train[start : start + _PIECE]])
        cut = np.flatnonzero(np.isin(ids, ends)).max(initial=0)
        found.update(words(_decode(corpus.tokenizer, ids[:cut])))
        rest = ids[cut:]
    return found | set(words(_decode(corpus.tokenizer, rest)))


def _ends_of_words(tokenizer: Tokenizer) -> list[int]:
    """Ids that no word goes on in: of the boundary, and of what begins with a space or the end of a
    line.
    """
    ids = range(tokenizer.vocab_size)
    spaces = [i for i in ids if tokenizer.decode([i]).startswith((" ", "\n"))]
    return [tokenizer.boundary, *spaces]


@dataclass
class TextEvidence:
    """What a function of TEXT_MEASURES may look at: texts, ids (n, tokens), with their tokenizer
    and the set of words that count as valid; where there is a model, held-out batches (inputs,
    targets) and the temperature its logits are divided by.
    """

    texts: Texts
    tokenizer: Tokenizer
    vocabulary: set[str]
    model: LanguageModel | None = None
    batches: Iterable[Batch] | None = None
    temperature: float = 1.0

    def has(self, needs: str) -> bool:
        """Whether it can serve a measure that needs "model" or "texts"."""
        return self.model is not None if needs == "model" else len(self.texts) > 0

    @functools.cached_property
    def fit(self) -> tuple[float, float]:
        """(perplexity, entropy): fit_to_text, computed once."""
        assert self.model is not None  # has("model") says so
        assert self.batches is not None
        return fit_to_text(self.model, self.batches, self.temperature)

    @functools.cached_property
    def repetitions(self) -> list[tuple[float, int]]:
        """`repetition` of each text, computed once."""
        return [repetition(ids) for ids in self.texts]

    def decoded(self) -> list[str]:
        """The texts as strings, with a line break where a document ends."""
        return [_decode(self.tokenizer, np.asarray(ids)) for ids in self.texts]


def _mean_repetition_length(evidence: TextEvidence) -> float:
    """Of the texts that repeat a phrase; 0 where none does."""
    lengths = [length for _, length in evidence.repetitions if length]
    return float(np.mean(lengths)) if lengths else 0.0


TEXT_MEASURES = {
    "perplexity": Measure("perplexity", ".3f", lambda e: e.fit[0], "model"),
    "entropy": Measure(
        "entropy",
        ".3f",
        lambda e: e.fit[1],
        "model",
        panel=("Entropy of Q at held-out contexts", "nats per token"),
    ),
    "diversity": Measure(
        "diversity",
        ".3f",
        lambda e: float(np.mean([diversity(ids) for ids in e.texts])),
        "texts",
        panel=("Diversity of samples", "distinct n-grams / n-grams"),
    ),
    "repetition": Measure(
        "repetition",
        ".4f",
        lambda e: float(np.mean([share for share, _ in e.repetitions])),
        "texts",
        panel=("Repetition in samples", "share of text"),
    ),
    "repetition_length": Measure("rep. length", ".2f", _mean_repetition_length, "texts"),
    "word_validity": Measure(
        "word validity",
        ".3f",
        lambda e: word_validity(e.decoded(), e.vocabulary),
        "texts",
        panel=("Word validity of samples", "share of words"),
    ),
}


def check_sampling_options(samples: int, tokens: int, temperature: float = 1.0) -> None:
    """Raise ValueError, naming the option, unless measure_on_text can work with `samples`, `tokens`
    and `temperature`.
    """
    for name, value, least in (("samples", samples, 0), ("tokens", tokens, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be a positive number, got {temperature}")


def measure_on_text(
    model: LanguageModel,
    batches: Iterable[Batch],
    corpus: Corpus,
    vocabulary: set[str],
    samples: int,
    tokens: int,
    temperature: float = 1.0,
    seed: Seed = 0,
) -> dict[str, float]:
    """All TEXT_MEASURES of one model at one temperature -> {name: float}.

    batches: held-out (inputs, targets), ids (B,T); vocabulary: a set of words, see vocabulary_of.
    `samples` texts of `tokens` tokens are sampled from the model by `seed`, and read with the
    tokenizer of `corpus`; with samples=0 the measures that need texts are left out.
    """
    sampling = (corpus.tokenizer.boundary, samples, tokens, temperature, seed, corpus.lines)
    texts: Texts = sample_texts(model, *sampling) if samples else []
    evidence = TextEvidence(texts, corpus.tokenizer, vocabulary, model, batches, temperature)
    return _measure_text(evidence)


def measure_texts(texts: Texts, tokenizer: Tokenizer, vocabulary: set[str]) -> dict[str, float]:
    """Those of TEXT_MEASURES that need no model, of texts (n, tokens) -> {name: float}, empty
    without texts.

    tokenizer: what reads the ids; vocabulary: the words that count as valid.
    """
    return _measure_text(TextEvidence(texts, tokenizer, vocabulary))


def _measure_text(evidence: TextEvidence) -> dict[str, float]:
    return {
        name: measure.function(evidence)
        for name, measure in TEXT_MEASURES.items()
        if evidence.has(measure.needs)
    }
