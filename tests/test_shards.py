"""Rows of a batch over processes or threads: the same gradients, and nothing left behind."""

import errno
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minimixce as mm
from minimixce.training import shards, steps, threads

V, T = 7, 6
FORKED = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
MIXCE = functools.partial(mm.objectives.mixce, eta=0.3)


def model(dtype="float64", dropout=0.0):
    return mm.GPT(mm.GPTConfig(V, T, 2, 2, 8, dropout, dtype), seed=1, device="cpu")


def batch(rows, positions=T, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, V, (rows, positions)), rng.integers(-1, V, (rows, positions))


def grads_of(step, model, group, number=0):
    with steps.ending(step):
        return step(model, group, number)


def assert_close(found, expected):
    (loss, grads), (expected_loss, expected_grads) = found, expected
    assert abs(loss - expected_loss) <= 1e-12 * abs(expected_loss)
    assert list(grads) == list(expected_grads)
    for name, g in expected_grads.items():
        assert np.abs(grads[name] - g).max() <= 1e-12 * max(np.abs(g).max(), 1e-6), name


def children():
    return {p.pid for p in psutil.Process().children(recursive=True)}


def user_mixce(logits, targets, *, normalizer=None):
    """An objective of a user's own, whose shards are threads."""
    return MIXCE(logits, targets, normalizer=normalizer)


@pytest.mark.parametrize("objective", [MIXCE, user_mixce])
@given(rows=st.integers(1, 5), count=st.integers(2, 4), groups=st.integers(1, 2))
@settings(max_examples=4, deadline=None)
def test_shards_equal_the_whole(objective, rows, count, groups):
    group = [batch(rows, seed=k) for k in range(groups)]
    whole = grads_of(steps.GroupedObjective(MIXCE), model(), group)
    found = grads_of(steps.GroupedObjective(objective, shards=count), model(), group)
    assert_close(found, whole)


@FORKED
def test_processes_and_threads_give_the_same_bits_with_dropout():
    group, found = [batch(5)], []
    for objective in (MIXCE, user_mixce, MIXCE):
        step = steps.GroupedObjective(objective, seed=3, shards=2)
        found.append(grads_of(step, model(dropout=0.3), group, number=4))
        assert (step._side_by_side.processes, objective) in ((True, MIXCE), (False, user_mixce))
    for loss, grads in found[1:]:
        assert loss == found[0][0]
        assert all(np.array_equal(g, found[0][1][name]) for name, g in grads.items())


@FORKED
def test_children_follow_the_parameters_and_end():
    before, gpt, group = children(), model(), [batch(4)]
    step = steps.GroupedObjective(MIXCE, shards=3)
    with steps.ending(step):
        for k in range(3):
            assert_close(step(gpt, group, k), grads_of(steps.GroupedObjective(MIXCE), gpt, group))
            born = children() - before
            assert len(born) == 2
            for p in gpt.params.values():
                p += 0.01 * (k + 1)
        other = model()  # another model: other children
        step(other, group, 0)
        assert len(children() - before) == 2
        assert not (children() - before) & born
    assert children() == before


@FORKED
def test_what_a_shard_raises_is_raised_and_children_end():
    before, gpt = children(), model()
    inputs, targets = batch(4)
    inputs[3, 0] = V  # in the second shard
    step = steps.GroupedObjective(MIXCE, shards=2)
    with pytest.raises(ValueError, match=rf"must be in 0 … {V - 1}"):
        step(gpt, [(inputs, targets)], 0)
    assert children() == before
    assert_close(  # and the next step begins anew
        grads_of(step, gpt, [batch(4)]),
        grads_of(steps.GroupedObjective(MIXCE), gpt, [batch(4)]),
    )


@FORKED
@pytest.mark.slow
def test_sigterm_is_a_parents_that_acts_on_it(tmp_path):
    """Its children hear none, and end with it even where it forgets to end them."""
    path = tmp_path / "program.py"
    path.write_text(
        "import os, signal, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_shards import MIXCE, batch, children, model, steps\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "gpt, step = model(), steps.GroupedObjective(MIXCE, shards=2)\n"
        "step(gpt, [batch(4)], 0)\n"
        "(child,) = children()\n"
        "os.kill(child, signal.SIGTERM)\n"
        "step(gpt, [batch(4)], 1)\n"
    )
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@FORKED
def test_a_child_that_is_killed_is_told_in_a_sentence():
    before, gpt = children(), model()
    step = steps.GroupedObjective(MIXCE, shards=2)
    with steps.ending(step):
        step(gpt, [batch(4)], 0)
        (child,) = children() - before
        os.kill(child, signal.SIGKILL)
        while psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        with pytest.raises(RuntimeError, match=r"has ended \(status -9\).*--shards 1"):
            step(gpt, [batch(4)], 1)


@FORKED
def test_an_interrupt_in_the_parents_share_ends_the_children(monkeypatch):
    before, gpt = children(), model()
    step = steps.GroupedObjective(MIXCE, shards=2)
    step(gpt, [batch(4)], 0)

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(gpt, "forward", interrupted)
    with steps.ending(step):
        with pytest.raises(KeyboardInterrupt):
            step(gpt, [batch(4)], 1)
        assert children() == before


class HereAndThere(ValueError):
    """It goes into a pipe, and does not come out: what it is made anew of is one sentence."""

    def __init__(self, here, there):
        super().__init__(f"{here} and {there}")


@FORKED
def test_an_error_that_does_not_come_out_of_a_pipe_is_told(monkeypatch):
    def forward(self, tokens, **options):
        if len(tokens) == 3:  # the second shard's
            raise HereAndThere("here", "there")
        return plain(self, tokens, **options)

    plain = mm.GPT.forward
    monkeypatch.setattr(mm.GPT, "forward", forward)
    with pytest.raises(RuntimeError, match="HereAndThere: here and there"):
        grads_of(steps.GroupedObjective(MIXCE, shards=2), model(), [batch(5)])


@FORKED
def test_parameters_of_another_dtype_or_shape_are_not_squeezed_into_the_old_ones():
    gpt, group = model("float32"), [batch(4)]
    step = steps.GroupedObjective(MIXCE, shards=2)
    with steps.ending(step):
        step(gpt, group, 0)
        gpt.params = {n: p.astype("float64") + 1e-9 for n, p in gpt.params.items()}
        assert_close(step(gpt, group, 0), grads_of(steps.GroupedObjective(MIXCE), gpt, group))


@FORKED
def test_where_no_process_can_be_forked_threads_give_the_same_bits(monkeypatch):
    group, before = [batch(5)], children()
    expected = grads_of(steps.GroupedObjective(MIXCE, shards=3), model(dropout=0.3), group)
    fork, forked = os.fork, []

    def second_fails():
        if forked:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        forked.append(fork())
        return forked[0]

    monkeypatch.setattr(os, "fork", second_fails)
    step = steps.GroupedObjective(MIXCE, shards=3)
    with steps.ending(step):
        loss, grads = step(model(dropout=0.3), group, 0)
        assert children() == before
    assert loss == expected[0]
    assert all(np.array_equal(g, expected[1][name]) for name, g in grads.items())


@FORKED
def test_a_child_has_no_file_of_its_parents_and_hears_no_signal_of_its_own():
    """Files beyond a limit that was lowered count, and a handler that Python code set."""
    import fcntl
    import resource

    before, gpt, heard = children(), model(), []
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    handler = signal.signal(signal.SIGUSR1, lambda *_: heard.append(os.getpid()))
    step = steps.GroupedObjective(MIXCE, shards=2)
    high = fcntl.fcntl(0, fcntl.F_DUPFD, 500)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (400, limits[1]))
        with steps.ending(step):
            step(gpt, [batch(4)], 0)
            (child,) = children() - before
            assert sum(int(fd) > 2 for fd in os.listdir(f"/proc/{child}/fd")) == 1
            for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
                os.kill(child, number)
            step(gpt, [batch(4)], 1)  # it lives
            os.kill(os.getpid(), signal.SIGUSR1)
            assert heard == [os.getpid()]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(high)
        signal.signal(signal.SIGUSR1, handler)


@FORKED
def test_a_fork_beside_another_thread_warns_of_nothing():
    """As tqdm's, of which Python 3.12 warns: children take no lock of its."""
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            grads_of(steps.GroupedObjective(MIXCE, shards=2), model(), [batch(4)])
    finally:
        done.set()
        other.join()
    assert not [w for w in seen if "fork" in str(w.message)]


def test_limits_on_threads_are_lifted_however_runs_in_threads_end():
    """The second ends last: it must not bring back what it found, the limit of the first."""
    entered, ended = threading.Event(), threading.Event()

    def second():
        with threads.share_of_threads(2):
            entered.set()
            ended.wait()

    def run(target, *args):
        thread = threading.Thread(target=target, args=args)
        thread.start()
        return thread

    before = threads.threads_in_use()
    run(threads.limit_threads, 4).join()  # for good, from a thread that is no more
    try:
        with threads.share_of_threads(2):
            assert threads.threads_in_use() == 2
            other = run(second)
            entered.wait()
        ended.set()
        other.join()
        assert threads.threads_in_use() == 4
    finally:
        run(threads.limit_threads, before).join()


@FORKED
def test_a_killed_parents_child_ends_in_silence(tmp_path):
    """In the middle of a step, too."""
    parent = subprocess.Popen(
        [sys.executable, "-c", _AT_WORK],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout.readline() == "at work\n"
    parent.kill()
    assert parent.communicate(timeout=20) == ("", "")  # once the child has ended, too


_AT_WORK = """
import functools, os, time
import numpy as np
import minimixce as mm
from minimixce.training import steps
parent, forward = os.getpid(), mm.GPT.forward
def slow(self, *args, **options):
    if os.getpid() == parent:
        print("at work", flush=True)
        time.sleep(60)
    while os.getppid() == parent:
        time.sleep(0.01)
    return forward(self, *args, **options)
mm.GPT.forward = slow
model = mm.GPT(mm.GPTConfig(7, 6, 1, 1, 4), device="cpu")
batch = np.zeros((4, 6), int), np.zeros((4, 6), int)
steps.GroupedObjective(mm.objectives.mixce, shards=2)(model, [batch], 0)
"""


_STOPPED = """
import fcntl, functools, os, sys, time
import numpy as np
import minimixce as mm
from minimixce.training import steps
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
model = mm.GPT(mm.GPTConfig(7, 6, 1, 1, 4), device="cpu")
step = steps.GroupedObjective(mm.objectives.mixce, shards=2)
batch = np.zeros((4, 6), int), np.zeros((4, 6), int)
step(model, [batch], 0)
print("ready", flush=True)
time.sleep(60)
"""


@FORKED
@pytest.mark.slow
def test_a_killed_parent_leaves_no_child_and_no_lock(tmp_path):
    import fcntl

    lock = tmp_path / "lock"
    parent = subprocess.Popen(
        [sys.executable, "-c", _STOPPED, lock], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout.readline() == "ready\n"
    (child,) = psutil.Process(parent.pid).children()
    with open(lock) as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        parent.kill()
        parent.wait()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the child does not hold it
    for _ in range(100):
        if not child.is_running() or child.status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the child outlives its parent")


def test_the_default_is_a_function_of_shape_threads_and_objective(monkeypatch):
    assert shards.default_shards(420_000, 12, 64, 2) == 2
    assert shards.default_shards(420_000, 12, 64, 1) == 1
    assert shards.default_shards(420_000, 1, 64, 8) == 1  # a row is not split
    assert shards.default_shards(3_000, 12, 64, 8) == 1  # too little to share
    assert shards.default_shards(10**9, 1000, 64, 8) == 8
    monkeypatch.setattr(shards, "WORTH_SHARING", 1)
    monkeypatch.setattr(steps, "threads_in_use", lambda: 3)
    gpt, of = model(), batch(5)
    assert steps.shards_for(MIXCE, gpt, of) == 3
    assert steps.shards_for(mm.objectives.mle, gpt, of) == 3
    assert steps.shards_for(user_mixce, gpt, of) == 1
    emo = functools.partial(mm.objectives.emo, cost_embedding=gpt.params["wte.weight"])
    assert steps.shards_for(emo, gpt, of) == 1  # an array may change

    class Own(mm.GPT):
        """A model of a user's own, which may count."""

    own = Own(gpt.config, device="cpu")
    assert steps.shards_for(MIXCE, own, of) == 1
    gpt.forward = lambda *args, **options: mm.GPT.forward(gpt, *args, **options)
    assert steps.shards_for(MIXCE, gpt, of) == 1


@FORKED
def test_fit_uses_the_default(monkeypatch):
    monkeypatch.setattr(shards, "WORTH_SHARING", 1)
    monkeypatch.setattr(steps, "threads_in_use", lambda: 2)
    before, seen = children(), []
    whole, split = model(), model()
    batches = [batch(4, seed=k) for k in range(4)]

    def watched():
        for b in batches:
            yield b
            seen.append(len(children() - before))

    mm.fit(split, watched(), MIXCE, progress=False)
    assert seen == [1, 1, 1, 1]
    assert children() == before
    mm.fit(whole, batches, MIXCE, progress=False, shards=1)
    for name, p in whole.params.items():
        np.testing.assert_allclose(split.params[name], p, atol=1e-9)


@pytest.mark.parametrize("kind", [list, iter])
def test_a_run_that_goes_on_keeps_the_shards_of_its_first_batch(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "WORTH_SHARING", 4 * T * model().num_params // 2)
    monkeypatch.setattr(steps, "threads_in_use", lambda: 2)
    batches = [batch(4), batch(4, seed=1), batch(4, positions=1), batch(4, positions=2)]
    calm, stopped, resumed = (model("float32", dropout=0.2) for _ in range(3))
    options = {"final_lr": 1, "progress": False}
    mm.fit(calm, kind(batches), MIXCE, steps=4, **options)
    mm.fit(stopped, kind(batches), MIXCE, steps=2, folder=tmp_path / "run", **options)
    mm.fit(resumed, kind(batches), MIXCE, steps=4, folder=tmp_path / "run", resume=True, **options)
    for name, p in calm.params.items():
        np.testing.assert_array_equal(resumed.params[name], p)


@pytest.mark.parametrize("shape", [(0, T), (4, 0), (0, 0)])
def test_a_batch_of_nothing_is_told_in_a_sentence(shape):
    empty = np.zeros(shape, int)
    for count in (1, 2):
        with pytest.raises(ValueError, match=r"at least one row and one position, got \("):
            mm.fit(model(), [(empty, empty)], MIXCE, shards=count, progress=False)


def test_a_run_keeps_its_number_of_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "WORTH_SHARING", 1)
    monkeypatch.setattr(steps, "threads_in_use", lambda: 2)
    from minimixce.cli import main

    (tmp_path / "t.txt").write_text("the cat sat on the mat. " * 60)
    small = "--n-layer 1 --n-head 1 --n-embd 4 --block-size 8 --batch-size 4 --quiet".split()
    out = tmp_path / "run"
    command = ["train", "--data", str(tmp_path / "t.txt"), "--out", str(out), *small]
    assert main([*command, "--steps", "2"]) == 0
    assert json.loads((out / "run.json").read_text())["shards"] == 2


@pytest.mark.parametrize("at_once", [1, 8, 13, 10**6])
def test_parts_of_a_shard_equal_the_whole(at_once, monkeypatch):
    group = [batch(5), batch(3, positions=4, seed=1)]
    monkeypatch.setattr(steps, "AT_ONCE", 10**9)
    whole = grads_of(steps.GroupedObjective(MIXCE), model(), group)
    monkeypatch.setattr(steps, "AT_ONCE", at_once)
    assert_close(grads_of(steps.GroupedObjective(MIXCE), model(), group), whole)
    calls = []

    def counted(logits, targets, *, normalizer=None):
        calls.append(len(logits))
        return MIXCE(logits, targets, normalizer=normalizer)

    assert_close(grads_of(steps.GroupedObjective(counted), model(), group), whole)
    assert calls == [5, 3]  # a user's own objective sees whole batches
