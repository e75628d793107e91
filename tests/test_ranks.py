"""Ranks that train one model together: the same numbers as shards, one error for all, one writer.
Here they are threads; tests/test_mpi.py has processes.
"""

import ctypes
import functools
import itertools
import json
import os
import signal
import sys
import threading
import types

import numpy as np
import pytest
import strict_device as sd
from communicator import on_ranks

import minimixce as mm
from minimixce import backend, worlds
from minimixce.experiments import on_worlds
from minimixce.training import interrupts, ranks, steps
from minimixce.training.evaluation import evaluate

V, T = 7, 6
MIXCE = functools.partial(mm.objectives.mixce, eta=0.3)


def model(xp=np, dropout=0.0, dtype="float64"):
    gpt = mm.GPT(mm.GPTConfig(V, T, 1, 2, 8, dropout, dtype), seed=1, device="cpu")
    gpt.params = {name: xp.asarray(p) for name, p in gpt.params.items()}
    return gpt


def batches(count=12, rows=5):
    rng = np.random.default_rng(0)
    return [(rng.integers(0, V, (rows, T)), rng.integers(-1, V, (rows, T))) for _ in range(count)]


def trained(gpt, given=None, **options):
    """The parameters after six steps, and the measurements."""
    options = {"objective": MIXCE, "accumulate": 2, "eval_every": 3, "progress": False} | options
    found = mm.fit(gpt, batches() if given is None else given, **options)
    return {name: backend.to_numpy(p) for name, p in gpt.params.items()}, found


def assert_same(found, expected, tolerance=1e-9):
    for name, p in expected.items():
        assert np.abs(found[name] - p).max() <= tolerance * np.abs(p).max(), name


# ---- the same numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "shards"), [(2, 1), (3, 1), (2, 2), (7, 1)])
def test_ranks_are_shards(size, shards):
    """Seven for five rows: two have none."""
    validation = batches(5)
    expected, measured = trained(model(dropout=0.2), shards=size * shards, validation=validation)

    def run(communicator):
        gpt = model(dropout=0.2)
        return trained(gpt, shards=shards, validation=validation, ranks=communicator)

    for params, found in on_ranks(size, run):
        assert_same(params, expected)
        for m, e in zip(found, measured, strict=True):
            assert {**m, "tokens_per_second": 0} == pytest.approx({**e, "tokens_per_second": 0})


def test_a_gpus_gradients_go_through_the_host():
    for params, _ in on_ranks(2, lambda c: trained(model(sd), validation=batches(3), ranks=c)):
        assert_same(params, trained(model(), shards=2)[0])


class Nccl:
    """cupy.cuda.nccl for ranks that are threads: a sum over the memory at addresses, and no more of
    its API than the package uses.
    """

    available = True
    NCCL_SUM, NCCL_FLOAT32, NCCL_FLOAT64 = 0, 7, 8

    def __init__(self):
        self.sums = []
        self.together = threading.Barrier(2)
        self.places = {}

    def get_unique_id(self):
        return bytes(range(128))

    def NcclCommunicator(self, size, identity, rank):
        assert (size, identity) == (2, self.get_unique_id())
        return types.SimpleNamespace(allReduce=functools.partial(self.all_reduce, rank))

    def all_reduce(self, rank, sent, received, count, kind, op, stream):
        assert (op, stream) == (self.NCCL_SUM, STREAM)
        number = {self.NCCL_FLOAT32: ctypes.c_float, self.NCCL_FLOAT64: ctypes.c_double}[kind]
        places = ((number * count).from_address(place) for place in (sent, received))
        own, summed = map(np.ctypeslib.as_array, places)
        self.places[rank] = own.copy()
        self.together.wait(60)
        summed[:] = self.places[0] + self.places[1]
        self.together.wait(60)
        self.sums.append(count)


STREAM = 77


@pytest.fixture
def gpus(monkeypatch):
    """The strict device, with NCCL and as many GPUs as ranks -> (NCCL, numbers of GPUs)."""
    nccl, numbers = Nccl(), iter(range(100))
    cuda = types.SimpleNamespace(
        get_current_stream=lambda: types.SimpleNamespace(ptr=STREAM),
        Device=lambda: types.SimpleNamespace(pci_bus_id=f"0000:{next(cuda.numbers)}"),
        runtime=types.SimpleNamespace(getDevice=lambda: 0),
        numbers=numbers,
    )
    monkeypatch.setattr(sd, "cuda", cuda, raising=False)
    monkeypatch.setitem(sys.modules, "strict_device.cuda.nccl", nccl)
    return nccl


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gpus_sum_by_nccl(gpus, dtype):
    def run(communicator):
        return trained(model(sd, dtype=dtype), validation=batches(3), ranks=communicator)

    expected, _ = trained(model(dtype=dtype), shards=2)
    for params, _ in on_ranks(2, run):
        assert_same(params, expected, 1e-9 if dtype == "float64" else 1e-2)
    count = sum(p.size for p in expected.values())
    assert gpus.sums == [count + 1] * 2 * 6  # with the loss, on two ranks, in six steps


def test_a_sum_by_nccl_reads_nothing(gpus):
    def step(communicator):
        group, gpt = ranks.Ranks(communicator), model(sd)
        step = steps.GroupedObjective(MIXCE, share=(group.rank, group.size))
        with sd.no_host_reads():
            group.step(gpt, lambda: step(gpt, batches(2), 0), False)
        return len(gpus.sums)

    assert on_ranks(2, step)[-1] in (1, 2)


@pytest.mark.parametrize("missing", ["library", "gpu"])
def test_without_nccl_on_all_ranks_gradients_go_through_the_host(gpus, missing, monkeypatch):
    if missing == "library":
        gpus.available = False
    else:
        monkeypatch.setattr(sd.cuda, "numbers", itertools.repeat(0))  # one for both
    for params, _ in on_ranks(2, lambda c: trained(model(sd), ranks=c)):
        assert_same(params, trained(model(), shards=2)[0])
    assert gpus.sums == []


def test_an_error_on_one_gpu_is_raised_on_all(gpus):
    def run(communicator):
        given = batches()
        if communicator.rank == 1:
            given[3] = (given[3][0] + V, given[3][1])
        return trained(model(sd), given, ranks=communicator)

    assert_all_raise(on_ranks(2, run), ValueError, "a batch's inputs must be in 0 … 6")


def test_gradients_of_one_step():
    def gradients(communicator):
        group = ranks.Ranks(communicator)
        step = steps.GroupedObjective(MIXCE, share=(group.rank, group.size))
        gpt = model()
        return group.step(gpt, lambda: step(gpt, batches(2), 0), False)

    loss, grads = steps.GroupedObjective(MIXCE)(model(), batches(2), 0)
    for found_loss, found in on_ranks(4, gradients):
        assert found_loss == pytest.approx(float(loss), rel=1e-12)
        assert_same(found, grads, 1e-12)


@pytest.mark.parametrize("name", on_worlds.SEQUENCE_OBJECTIVES)
@pytest.mark.parametrize("most", [on_worlds.MAX_LISTED, 0])
def test_shares_of_a_step_on_sequences_add_up(monkeypatch, name, most):
    if name == "overlap" and most == 0:
        return  # exact only
    monkeypatch.setattr(on_worlds, "MAX_LISTED", most)
    monkeypatch.setattr(on_worlds.is_listed, "__defaults__", (most,))
    world = worlds.agreement()
    gpt = mm.GPT(mm.GPTConfig(world.vocab_size, 4, 1, 1, 4, dtype="float64"), device="cpu")
    batch = world.batch(world.sample(5, 4, seed=0))
    step = on_worlds.sequence_step(name, world, 4, samples=5)
    loss, grads = step(gpt, batch, number=3)
    for m in (2, 6):
        shares = [step(gpt, batch, number=3, share=(k, m)) for k in range(m)]
        assert sum(float(part) for part, _ in shares) == pytest.approx(float(loss), rel=1e-12)
        assert_same({n: sum(g[n] for _, g in shares) for n in grads}, grads, 1e-11)


def test_validation_is_shared_out():
    seen = []

    def count(communicator):
        group = ranks.Ranks(communicator)

        def objective(logits, targets, *, normalizer=None):
            seen.append(group.rank)
            return MIXCE(logits, targets, normalizer=normalizer)

        return evaluate(model(), batches(5), objective, ranks=group)

    for found in on_ranks(2, count):
        assert found == pytest.approx(evaluate(model(), batches(5), MIXCE), rel=1e-12)
    assert sorted(seen) == [0, 0, 0, 1, 1]


# ---- one end for all -----------------------------------------------------------------------------


def assert_all_raise(found, kind, match):
    assert [type(error) for error in found] == [kind] * len(found)
    assert all(match in str(error) for error in found), found


def test_what_one_rank_raises_all_raise():
    def run(communicator):
        given = batches()
        if communicator.rank == 1:
            given[3] = (given[3][0] + V, given[3][1])  # in the second step
        return trained(model(), given, ranks=communicator)

    assert_all_raise(on_ranks(3, run), ValueError, "a batch's inputs must be in 0 … 6")


def test_nan_on_one_rank_stops_all_at_one_step():
    def run(communicator):
        calls = []

        def objective(logits, targets, *, normalizer=None):
            calls.append(1)
            loss, dlogits = MIXCE(logits, targets, normalizer=normalizer)
            bad = communicator.rank == 1 and len(calls) == 4
            return loss * np.nan if bad else loss, dlogits

        return trained(model(), objective=objective, ranks=communicator)

    assert_all_raise(on_ranks(2, run), FloatingPointError, "not finite since step 2")


def test_a_signal_that_comes_twice_is_one(monkeypatch):
    """As from mpiexec and from a scheduler; a later one acts at once."""
    with interrupts.noted(True, terminate=True) as noted:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert len(noted) == 1
        monkeypatch.setattr(interrupts, "REPEATED", 0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_patience_stops_all_at_one_step():
    def run(communicator):
        options = {"patience": 1, "eval_every": 1, "lr": 1.0, "validation": batches(3, rows=2)}
        return trained(model(), batches(400), **options, ranks=communicator)

    (params, found), (others, again) = on_ranks(2, run)
    assert len(found) < 200
    assert found == again
    assert_same(params, others, 0)


def test_ranks_that_are_not_alike():
    def run(communicator, **of_second):
        options = of_second if communicator.rank == 1 else {}
        return trained(model(), ranks=communicator, **options)

    for options, match in (
        ({"seed": 1}, "all ranks must have the same option seed: rank 0 has 0, rank 1 has 1"),
        ({"eval_every": 2}, "all ranks must have the same option eval_every: rank 0 has 3"),
        ({"max_grad_norm": 0.5}, "all ranks must have the same option max_grad_norm"),
        ({"resume": True}, "all ranks must have the same option resume: rank 0 has False"),
        ({"lr": -1}, "all ranks must have the same option lr: rank 0 has 0.001, rank 1 has -1"),
        ({"objective": mm.objectives.mle}, "all ranks must have the same option objective"),
        ({"given": batches(11, rows=4)}, "all ranks must have the same batches"),
        ({"validation": batches(1)}, "all ranks must have the same validation batches"),
    ):
        assert_all_raise(on_ranks(2, functools.partial(run, **options)), ValueError, match)
    other = functools.partial(run, given=batches(8))
    assert_all_raise(on_ranks(2, other), ValueError, "batches have ended on 1 of 2 ranks")


def test_what_cannot_be_shared_out():
    def uncounted(logits, targets):
        return MIXCE(logits, targets)

    def step(model, batch):
        return model.loss_and_grads(*batch, MIXCE)

    def run(communicator, **options):
        return trained(model(), ranks=communicator, **options)

    found = on_ranks(2, functools.partial(run, objective=uncounted))
    assert_all_raise(found, ValueError, "an objective needs a parameter `normalizer`")
    found = on_ranks(2, functools.partial(run, objective=None, step=step))
    assert_all_raise(found, ValueError, "a step needs a parameter `share`")


# ---- one writer, and going on --------------------------------------------------------------------


def test_the_first_writes_and_others_take_over(tmp_path):
    """A run of two ranks goes on with three, from what the first of them finds."""
    whole, _ = trained(model(), shards=2)

    def run(communicator, **options):
        folder = tmp_path / f"run{communicator.rank}"
        return trained(model(), ranks=communicator, folder=folder, **options)

    on_ranks(2, functools.partial(run, given=batches(6)))
    assert [path.name for path in tmp_path.iterdir()] == ["run0"]
    found = on_ranks(3, functools.partial(run, resume=True))
    for params, measured in found:
        assert [m["step"] for m in measured] == [3, 6]
        assert_same(params, whole)
    lines = (tmp_path / "run0" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 6]


def test_a_folder_that_vanishes_ends_all(tmp_path):
    def run(communicator):
        def gone(place=tmp_path / "run"):
            (place / "resume.safetensors").unlink(missing_ok=True)

        def objective(logits, targets, *, normalizer=None):
            if communicator.rank == 0:
                gone()
            return MIXCE(logits, targets, normalizer=normalizer)

        return trained(model(), objective=objective, folder=tmp_path / "run", ranks=communicator)

    assert_all_raise(on_ranks(2, run), FileNotFoundError, "no longer holds the run")
