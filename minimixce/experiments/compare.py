"""Measure trained models beside held-out text, and train several objectives under the same
conditions.
"""

import math

import numpy as np

from .. import backend, layers, objectives
from . import measures as metrics

MEASURES = {  # name: (heading, format)
    "perplexity": ("perplexity", ".3f"),
    "entropy": ("entropy", ".3f"),
    "diversity": ("diversity", ".3f"),
    "repetition": ("repetition", ".4f"),
    "repetition_length": ("rep. length", ".2f"),
    "word_validity": ("word validity", ".3f"),
}


def fit_to_text(model, batches, temperature=1.0):
    """Perplexity on the targets of `batches`, and the mean entropy (nats per token) of Q(·|context)
    at those contexts, with logits divided by `temperature` -> (perplexity, entropy).
    """
    nll, entropy, count = 0.0, 0.0, 0
    for inputs, targets in batches:
        logits = model.forward(model.xp.asarray(inputs))[0] / temperature
        there = model.xp.asarray(targets)
        nll += float(objectives.mle(logits, there, reduction="none")[0].sum())
        entropy += float((_entropies(logits) * (there >= 0)).sum())
        count += int((targets >= 0).sum())
    return perplexity(nll / count), entropy / count


def perplexity(nats):
    """exp(nats), and infinity where that is more than a float holds."""
    with np.errstate(over="ignore"):
        return float(np.exp(nats))


def _entropies(logits):
    """H(softmax(z)) = log Σ exp(z) − Σ q z: (B,T,V) -> (B,T)."""
    xp = backend.array_module(logits)
    z = logits - logits.max(axis=-1, keepdims=True)
    q, _ = layers.softmax_forward(z)
    return xp.log(xp.exp(z).sum(axis=-1)) - (q * z).sum(axis=-1)


def matching_temperature(model, batches, entropy):
    """The temperature in [0.05, 1] at which the model's entropy (fit_to_text) is nearest to
    `entropy`, by bisection.
    """
    low, high = 0.05, 1.0
    if fit_to_text(model, batches)[1] <= entropy:
        return 1.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if fit_to_text(model, batches, middle)[1] < entropy else (low, middle)
        )
    return (low + high) / 2


def sample_texts(model, boundary, count, tokens, temperature=1.0, seed=0, lines=False):
    """`count` samples from the start of a document -> ids (count, tokens) on the host; they run on
    over boundaries.

    With lines, the model has learnt single lines only: whole lines are sampled and put one after
    another.
    """
    prompt, rng = model.xp.full((count, 1), boundary), backend.rng(seed, model.xp)
    if not lines:
        return backend.to_numpy(model.generate(prompt, tokens, temperature, seed=rng))[:, 1:]
    stream = []
    while len(stream) < count * tokens:
        longest = model.config.block_size
        for line in backend.to_numpy(
            model.generate(prompt, longest, temperature, stop=boundary, seed=rng)
        ).tolist():
            end = line.index(boundary, 1) if boundary in line[1:] else len(line)
            stream += line[:end]
    return np.array(stream[: count * tokens]).reshape(count, tokens)


def held_out_texts(ids, count, tokens):
    """`count` stretches of held-out text of the same length, evenly spread -> ids (n, tokens), n ≤
    count.
    """
    count = min(count, len(ids) // tokens)
    starts = np.linspace(0, len(ids) - tokens, count).astype(int)
    return np.array([ids[s : s + tokens] for s in starts]).reshape(count, tokens)


def measure_texts(texts, tokenizer, vocabulary):
    """Diversity, repetition and word validity of texts (n, tokens): the measures that need no model
    -> dict.
    """
    if not len(texts):
        return {}
    shares, lengths = zip(*(metrics.repetition(ids) for ids in texts))
    repeated = [length for length in lengths if length]
    return {
        "diversity": float(np.mean([metrics.diversity(ids) for ids in texts])),
        "repetition": float(np.mean(shares)),
        "repetition_length": float(np.mean(repeated)) if repeated else 0.0,
        "word_validity": metrics.word_validity(
            [_decode(tokenizer, ids) for ids in texts], vocabulary
        ),
    }


def _decode(tokenizer, ids):
    """Text with a line break where a document ends, so that words of two documents do not join."""
    ends = np.flatnonzero(ids == tokenizer.boundary)
    return "\n".join(tokenizer.decode(part) for part in np.split(ids, ends))


def vocabulary_of(corpus):
    """The words of the training text; of a very long one, of its first ten million tokens."""
    return set(metrics.words(_decode(corpus.tokenizer, np.asarray(corpus.train[:10_000_000]))))


def check_options(samples, tokens, temperature=1.0):
    """Raise ValueError, naming the option, unless `measure` can work with these."""
    for name, value, least in (("samples", samples, 0), ("tokens", tokens, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be a positive number, got {temperature}")


def measure(model, batches, corpus, vocabulary, samples, tokens, temperature=1.0, seed=0):
    """All MEASURES of one model at one temperature -> dict."""
    perplexity, entropy = fit_to_text(model, batches, temperature)
    sampling = (corpus.tokenizer.boundary, samples, tokens, temperature, seed, corpus.lines)
    texts = sample_texts(model, *sampling) if samples else []
    return {"perplexity": perplexity, "entropy": entropy} | measure_texts(
        texts, corpus.tokenizer, vocabulary
    )


def spread(rows, measures=MEASURES):
    """Mean and standard deviation of every measure over rows (dicts) -> {name: (mean, deviation)}."""
    names = [name for name in measures if all(name in row for row in rows)]
    return {name: metrics.mean_and_deviation([row[name] for row in rows]) for name in names}


def table(groups, measures=MEASURES):
    """Lines of a table from {label: list of measurement dicts}: mean ± standard deviation over the
    list.
    """
    lines = [f"{'':<28}" + "".join(f"{heading:>18}" for heading, _ in measures.values())]
    for label, rows in groups.items():
        found, cells = spread(rows, measures), []
        for name, (_, form) in measures.items():
            mean, deviation = found.get(name, (None, None))
            cells.append(
                ""
                if mean is None
                else f"{mean:{form}}" + (f" ± {deviation:{form}}" if len(rows) > 1 else "")
            )
        lines.append(f"{label:<28}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)
