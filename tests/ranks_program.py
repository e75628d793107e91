"""What tests/test_mpi.py starts on every rank: `ranks_program.py WHAT FOLDER`."""

import functools
import resource
import signal
import sys
from pathlib import Path

import numpy as np
from mpi4py import MPI

import minimixce as mm
from minimixce import worlds
from minimixce.experiments import on_worlds
from minimixce.training import ranks, shards, steps

V, T, STEPS = 7, 6, 50
RANKS = ranks.Ranks(MPI.COMM_WORLD)
MIXCE = functools.partial(mm.objectives.mixce, eta=0.3)


def batches(count=2 * STEPS, rows=5):
    rng = np.random.default_rng(0)
    return [(rng.integers(0, V, (rows, T)), rng.integers(-1, V, (rows, T))) for _ in range(count)]


def model(dropout=0.0):
    config = mm.GPTConfig(V, T, 2, 2, 8, dropout, "float64")
    return mm.GPT(config, seed=1, device="cpu")


def weights(name, gpt):
    return {f"{name} {of}": p for of, p in gpt.params.items()}


def gradients():
    """One step's, of two batches."""
    step = steps.GroupedObjective(MIXCE, share=(RANKS.rank, RANKS.size))
    gpt = model()
    _, together = RANKS.step(gpt, lambda: step(gpt, batches(2), 0), False)
    _, alone = steps.GroupedObjective(MIXCE)(gpt, batches(2), 0)
    return together, alone


def tokens(**options):
    """Fifty steps, of the ranks or of as many shards."""
    gpt = model(dropout=0.1)
    common = {"accumulate": 2, "progress": False, "eval_every": 20, "validation": batches(3)}
    mm.fit(gpt, batches(), MIXCE, **common, **options)
    return gpt


def own_objective(logits, targets, *, normalizer=None):
    """Whose shards are threads, and which sees each batch of a shard whole."""
    return MIXCE(logits, targets, normalizer=normalizer)


def threads(**options):
    gpt = model()
    mm.fit(gpt, batches(), own_objective, accumulate=2, progress=False, **options)
    return gpt


def sequences(world, max_len, name, **options):
    """Fifty steps over sequences of a world."""
    config = mm.GPTConfig(world.vocab_size, max_len, 1, 1, 8, dtype="float64")
    gpt = mm.GPT(config, seed=2, device="cpu")
    rows = world.sample(200, max_len, seed=0)
    step = on_worlds.sequence_step(name, world, max_len, samples=6)
    given = on_worlds.RowBatches(world, rows, 4, seed=0)
    mm.fit(gpt, given, step=step, steps=STEPS, progress=False, **options)
    return gpt


def equal(folder):
    n = RANKS.size
    found, expected = gradients()
    exact = (worlds.agreement(), 4, "two_kls")
    sampled = (worlds.random_markov(9, 0.4, 0), 7, "reverse_ce")
    assert on_worlds.is_listed(*exact[:2])
    assert not on_worlds.is_listed(*sampled[:2])
    for name, run, options in (
        ("tokens", tokens, {"shards": n}),
        ("tokens, two shards", functools.partial(tokens, shards=2), None),
        ("threads", threads, {"shards": n}),
        ("exact", functools.partial(sequences, *exact), {}),
        ("sampled", functools.partial(sequences, *sampled), {}),
    ):
        found |= weights(name, run(ranks=MPI.COMM_WORLD))
        if RANKS.is_first:
            alone = tokens(shards=2 * n) if options is None else run(**options)
            expected |= weights(name, alone)
    if RANKS.is_first:
        np.savez(folder / "found.npz", **found)
        np.savez(folder / "expected.npz", **expected)


def full(folder):
    """The first rank's files may grow no further after the second step."""

    def objective(logits, targets, *, normalizer=None):
        if RANKS.is_first and counted.send(None) == 2:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))
        return MIXCE(logits, targets, normalizer=normalizer)

    counted = (k for k in range(1000))
    options = {"folder": folder / "run", "eval_every": 5, "progress": False}
    try:
        mm.fit(model(), batches(), objective, **options, ranks=MPI.COMM_WORLD)
    except OSError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1)) if RANKS.rank else None
        print(f"rank {RANKS.rank}: {type(error).__name__} {error.strerror}", flush=True)


if __name__ == "__main__":
    assert shards.can_fork()
    {"equal": equal, "full": full}[sys.argv[1]](Path(sys.argv[2]))
