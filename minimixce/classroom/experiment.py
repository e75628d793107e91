"""A4, an experiment: what is registered before, one seed of it, and the interval of the result.

MLE and MixCE are trained on the same sentences of `stories()`, from the same initial weights, with
the same batches: a seed is a pair. The control is MLE at the temperature that gives its sentences
MixCE's entropy. P is known, so a sentence is either possible or not: `validity` is the share of
sampled sentences that are. Sentences are cut after 15 words.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

import minimixce as mm

from ..experiments.intervals import interval, t_quantile
from ..experiments.on_worlds import RowBatches
from ..logprob import chosen, log_softmax

FIELDS = {  # of prereg.json: type, and what it must be
    "question": (str, "a sentence"),
    "hypothesis": (str, "a sentence that can turn out wrong"),
    "measure": (str, "validity"),
    "direction": (str, "higher, lower or either"),
    "smallest_difference": (float, "the smallest difference that would matter to you, above 0"),
    "eta": (float, "a ratio above 0 and below 1"),
    "seeds": (list, "at least five different integers"),
    "steps": (int, "at least 100 and at most 1500"),
    "sentences": (int, "to train on, at least 1000 and at most 20000"),
    "samples": (int, "sentences to measure on, at least 500 and at most 3000"),
    "level": (float, "of the interval, above 0.5 and below 1"),
    "excluded": (str, "when a seed would be left out; usually never"),
}
_MODEL = {"n_layer": 1, "n_head": 2, "n_embd": 16}
_HORIZON = 16
_BATCH = 64
COLUMNS = ("seed", "mle", "mixce", "control", "temperature", "entropy_mixce", "entropy_control")


# ---- what is registered --------------------------------------------------------------------------


def check_prereg(prereg: dict[str, Any]) -> list[str]:
    """What is wrong with a pre-registration, a dict -> list of sentences, empty if nothing is."""
    wrong = [
        f"{name} is missing: {what}" for name, (_, what) in FIELDS.items() if name not in prereg
    ]
    wrong += [f"{name} is no field of a pre-registration" for name in prereg if name not in FIELDS]
    for name, (kind, what) in FIELDS.items():
        if name in prereg and not _fits(name, prereg[name], kind):
            wrong.append(f"{name} must be {what}, got {prereg[name]!r:.80}")
    return wrong


def _fits(name, value, kind):
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is str:
        allowed = {"measure": ("validity",), "direction": ("higher", "lower", "either")}.get(name)
        return isinstance(value, str) and (value in allowed if allowed else len(value.split()) >= 3)
    if kind is list:
        whole = isinstance(value, list) and all(type(seed) is int and seed >= 0 for seed in value)
        return whole and len(value) == len(set(value)) >= 5
    if not number or (kind is int and type(value) is not int):
        return False
    least, most = {
        "steps": (100, 1500),
        "sentences": (1000, 20_000),
        "samples": (500, 3000),
        "level": (0.5, 1),
        "eta": (0, 1),
        "smallest_difference": (0, 1),
    }[name]
    return least <= value <= most if kind is int else least < value < most


# ---- one seed ------------------------------------------------------------------------------------


def run_seed(prereg: dict[str, Any], seed: int) -> dict[str, float]:
    """Train and measure one pair -> a row of results.csv, {column: number}.

    The same prereg and seed give the same row on one machine, up to the last digits.
    """
    world = mm.worlds.stories()
    rows = world.sample(prereg["sentences"], _HORIZON, seed=np.random.default_rng([seed, 1]))
    models = {
        eta: _train(world, rows, seed, eta, prereg["steps"]) for eta in (1.0, float(prereg["eta"]))
    }
    mle, mixce = models[1.0], models[float(prereg["eta"])]
    measure = functools.partial(_measure, world=world, n=prereg["samples"], seed=seed)
    of_mixce = measure(mixce)
    temperature = _matching_temperature(measure, mle, of_mixce["entropy"])
    control = measure(mle, temperature=temperature)
    return {
        "seed": seed,
        "mle": measure(mle)["validity"],
        "mixce": of_mixce["validity"],
        "control": control["validity"],
        "temperature": temperature,
        "entropy_mixce": of_mixce["entropy"],
        "entropy_control": control["entropy"],
    }


def _train(world, rows, seed, eta, steps):
    config = mm.GPTConfig(vocab_size=world.vocab_size, block_size=_HORIZON - 1, **_MODEL)
    model = mm.GPT(config, seed=seed, device="cpu")
    batches = RowBatches(world, rows, _BATCH, seed=seed)
    objective = functools.partial(mm.objectives.mixce, eta=eta)
    mm.fit(
        model,
        batches,
        objective,
        steps=steps,
        lr=6e-3,
        warmup=100,
        seed=seed,
        progress=False,
        reuse_memory=False,
    )
    return model


def _measure(model, *, world, n, seed, temperature=1.0):
    """Validity and entropy of n sentences at a temperature -> dict. Entropy is in nats a sentence.

    The same seed samples for all: what differs is the model.
    """
    start = np.zeros((n, 1), dtype=int)
    tokens = model.generate(start, _HORIZON - 1, temperature=temperature, stop=0, seed=seed)
    rows = np.concatenate([tokens, np.zeros((n, 1), dtype=tokens.dtype)], axis=1)
    rows = np.where(np.cumsum(rows == 0, axis=1) > 2, -1, rows)
    inputs, targets = world.batch(rows)
    chunks = model.logits_in_chunks(inputs)
    parts = [chosen(log_softmax(part / temperature), targets[rows]) for rows, part in chunks]
    log_q = np.concatenate(parts)
    possible = np.isfinite(world.log_prob(rows))
    entropy = -np.where(targets >= 0, log_q, 0).sum(axis=1).mean()
    return {"validity": float(possible.mean()), "entropy": float(entropy)}


def _matching_temperature(measure, model, entropy):
    """The temperature at which a model's sentences have this entropy: bisection, to 1/512."""
    low, high = 0.3, 1.3
    for _ in range(9):
        middle = (low + high) / 2
        if measure(model, temperature=middle)["entropy"] < entropy:
            low = middle
        else:
            high = middle
    return (low + high) / 2


# ---- the interval --------------------------------------------------------------------------------


def coverage(n: int, level: float, draws: int = 20_000, seed: int = 0) -> dict[str, float]:
    """How often an interval from n normal differences holds the truth -> {"t": share, "normal":
    share}: with Student's quantile, and with the normal one, as if the deviation were known.
    """
    normal = t_quantile((1 + level) / 2, 10_000)
    values = np.random.default_rng(seed).standard_normal((draws, n))
    error = values.std(axis=1, ddof=1) / math.sqrt(n)
    ratio = np.abs(values.mean(axis=1)) / error
    student = t_quantile((1 + level) / 2, n - 1)
    return {"t": float((ratio < student).mean()), "normal": float((ratio < normal).mean())}


def summary(
    prereg: dict[str, Any], rows: Sequence[dict[str, float]]
) -> dict[str, dict[str, float]]:
    """Both comparisons of the report from the rows of results.csv -> dict of intervals."""
    found = {}
    for other in ("mle", "control"):
        differences = [row["mixce"] - row[other] for row in rows]
        mean, low, high = interval(differences, prereg["level"])
        found[f"mixce - {other}"] = {"mean": mean, "low": low, "high": high}
    found["coverage"] = coverage(len(rows), prereg["level"])
    return found
