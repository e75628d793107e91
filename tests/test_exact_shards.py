"""Exact sums by several threads that share the subtrees: the same numbers, the same every time."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
import strict_device as sd
from threadpoolctl import threadpool_info

import minimixce as mm
from minimixce import exact, exact_tree, objectives, worlds
from minimixce.experiments.world_measures import measure_on_world
from minimixce.logprob import Sums
from minimixce.training import threads

WORLD = worlds.random_markov(5, 0.4, 0)
T = 5  # 85 prefixes with a choice, 4 and then 16 subtrees to share


def small_model(kind, dtype="float64"):
    """A model with parameters from a seed, large enough for gradients of every size."""
    if kind == "gpt":
        model = mm.GPT(mm.GPTConfig(5, T - 1, 2, 2, 8, dtype=dtype), device="cpu")
    elif kind == "bigram":
        model = mm.Bigram(mm.BigramConfig(5, 3, 4, dtype=dtype), device="cpu")
    else:
        model = mm.TableBigram(5, device="cpu", dtype=dtype)
    rng = np.random.default_rng(0)
    model.params = {
        name: (p + 0.3 * rng.standard_normal(p.shape)).astype(dtype)
        for name, p in model.params.items()
    }
    return model


@pytest.fixture
def few_subtrees(monkeypatch):
    """A thread is content with one subtree, so that small trees are shared out, too."""
    monkeypatch.setattr(exact_tree, "_SUBTREES", 1)


def assert_same(found, expected, tolerance=1e-12):
    """found and expected: loss, grads; to `tolerance` of each tensor's largest entry."""
    (loss, grads), (expected_loss, expected_grads) = found, expected
    assert abs(float(loss) - float(expected_loss)) <= tolerance * abs(float(expected_loss))
    assert list(grads) == list(expected_grads)
    for name, g in expected_grads.items():
        assert np.abs(grads[name] - g).max() <= tolerance * np.abs(g).max(), name


# ---- the same numbers ----------------------------------------------------------------------------


@pytest.mark.usefixtures("few_subtrees")
@pytest.mark.parametrize(
    # of 4 or 16 subtrees, in even and uneven shares
    ("kind", "shards"),
    [("gpt", 3), ("bigram", 2), ("table", 5)],
)
def test_shards_give_what_one_thread_does(kind, shards):
    """By the weights of sequences and of tokens, by costs to go, and for values alone."""
    model = small_model(kind)
    for name in objectives.exact_names():
        alone = exact.loss_and_grads(model, WORLD, T, objective=name, eta=0.3)
        shared = exact.loss_and_grads(model, WORLD, T, objective=name, eta=0.3, shards=shards)
        assert_same(shared, alone)
    for name in ("reverse_ce", "reverse_kl"):
        alone = exact.policy_gradient(model, WORLD, T, objective=name)
        assert_same(exact.policy_gradient(model, WORLD, T, objective=name, shards=shards), alone)
    alone, shared = (exact.measure(model, WORLD, T, eta=0.3, shards=n) for n in (1, shards))
    assert list(shared) == list(alone)
    for name in alone:
        assert abs(shared[name] - alone[name]) <= 1e-12 * abs(alone[name]), name
    four = exact.cross_entropies(model, WORLD, T, shards=shards)
    assert four.reverse == shared["reverse_ce"]


@pytest.mark.usefixtures("few_subtrees")
def test_a_number_of_shards_gives_the_same_bits_every_time(monkeypatch):
    """Whichever thread is first."""
    model = small_model("gpt", "float32")
    visit = exact_tree._Walk.visit
    late = itertools.cycle([0, 0.002, 0.001])

    def delayed(self, *args):
        if threading.current_thread() is not threading.main_thread():
            threading.Event().wait(next(late))
        return visit(self, *args)

    def results():
        loss, grads = exact.loss_and_grads(model, WORLD, T, shards=3)
        values = exact.measure(model, WORLD, T, shards=3)
        return [loss, *grads.values(), *values.values()]

    expected = results()
    monkeypatch.setattr(exact_tree._Walk, "visit", delayed)
    for _ in range(3):
        for a, b in zip(results(), expected):
            np.testing.assert_array_equal(a, b)


def visits(monkeypatch, shards, max_len=T):
    """How many prefixes each shard visits at a time -> {shard: list}, and what visited() counts."""
    found, counts = {}, []
    visit = exact_tree._Walk.visit

    def watched(self, tokens, *args):
        found.setdefault(id(self.sums), []).append(len(tokens))
        return visit(self, tokens, *args)

    monkeypatch.setattr(exact_tree._Walk, "visit", watched)
    rule = exact_tree.by_cost_to_go(objectives.OBJECTIVES["reverse_ce"].cost)
    model, sums = small_model("table"), Sums()
    exact_tree.sum_over_tree(model, WORLD, max_len, rule, sums, {}, counts.append, shards)
    return found, counts


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_every_prefix_is_visited_once_and_counted(shards, monkeypatch):
    monkeypatch.setattr(exact_tree, "_SUBTREES", 4)
    found, counts = visits(monkeypatch, shards)
    each = sorted(sum(sizes) for sizes in found.values())
    assert sum(each) == sum(counts) == exact.num_sequences(5, T - 1) == 85
    # 16 prefixes have the children that are shared out: 8 or 16 are asked for
    assert each == ([85] if shards == 1 else sorted([21, *[64 // shards] * shards]))


def test_a_tree_without_subtrees_enough_has_one_thread(monkeypatch):
    found, _ = visits(monkeypatch, 2, max_len=3)  # 5 prefixes
    assert [*found.values()] == [[1, 4]]
    assert float(exact.measure(small_model("table"), WORLD, 1, shards=2)["validity"]) == 1


@pytest.mark.usefixtures("few_subtrees")
@pytest.mark.parametrize("shards", [1, 2])
def test_shards_hold_no_more_rows_than_one_thread_does(monkeypatch, shards):
    monkeypatch.setattr(exact_tree, "rows_at_once", lambda xp: 8)
    found, _ = visits(monkeypatch, shards)
    assert max(max(sizes) for sizes in found.values()) == 8


def test_the_default_is_a_function_of_sizes_and_threads():
    assert exact.default_shards(11, 8, 2) == 2  # 1,111,111 prefixes
    assert exact.default_shards(11, 8, 64) == 64
    assert exact.default_shards(11, 8, 10**6) == 111
    assert exact.default_shards(6, 8, 4) == 1  # 19,531
    assert exact.default_shards(2, 400, 8) == 1
    assert exact.default_shards(5, 1, 8) == 1


def test_a_measurement_shares_the_tree_out(monkeypatch):
    """measure_on_world, by which `eval` measures, gives each thread one of linear algebra's."""
    monkeypatch.setattr(exact, "_PREFIXES_OF_A_SHARD", 40)
    monkeypatch.setattr(threads, "threads_in_use", lambda: 2)
    calls, measure = [], exact.measure

    def watched(*args, **options):
        calls.append((options, [lib["num_threads"] for lib in threadpool_info()]))
        return measure(*args, **options)

    monkeypatch.setattr(exact, "measure", watched)
    model = small_model("gpt")
    shared = measure_on_world(model, WORLD, T)
    assert calls == [({"shards": 2}, [1] * len(calls[0][1]))]
    alone = measure(model, WORLD, T)
    for name in shared.keys() & alone.keys():
        assert abs(shared[name] - alone[name]) <= 1e-12 * abs(alone[name]), name


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("few_subtrees")
@pytest.mark.parametrize("failing", [0, 1, 2])
def test_the_error_of_a_shard_comes_up_and_ends_the_others(monkeypatch, failing):
    """The one that failed, not those that were told to stop."""
    monkeypatch.setattr(exact_tree, "rows_at_once", lambda xp: 4)
    model = small_model("table")
    extend_forward, calls, started = model.extend_forward, [], threading.Barrier(3)
    numbers = threading.local()

    def failing_forward(x, past=None):
        if threading.current_thread() is threading.main_thread():
            return extend_forward(x, past)
        if not hasattr(numbers, "own"):
            numbers.own = int(threading.current_thread().name.rpartition("_")[2])
            started.wait()  # all three threads run
        calls.append(numbers.own)
        if numbers.own == failing:
            raise RuntimeError(f"shard {failing}")
        threading.Event().wait(0.02)
        return extend_forward(x, past)

    model.extend_forward = failing_forward
    before = threading.active_count()
    with pytest.raises(RuntimeError, match=f"shard {failing}"):
        exact.loss_and_grads(model, WORLD, T + 2, shards=3)
    assert threading.active_count() == before
    assert calls.count(failing) == 1
    assert len(calls) < 40  # of 340


@pytest.mark.usefixtures("few_subtrees")
def test_settings_of_numpy_hold_in_the_threads():
    model, found = small_model("table"), []
    extend_forward = model.extend_forward

    def watched(x, past=None):
        found.append((threading.current_thread() is threading.main_thread(), np.geterr()["under"]))
        return extend_forward(x, past)

    model.extend_forward = watched
    with np.errstate(under="raise"):
        exact.loss_and_grads(model, WORLD, T, shards=2)
    assert set(found) == {(True, "raise"), (False, "raise")}


@pytest.mark.slow
def test_ctrl_c_ends_the_threads_too():
    """A long sum, interrupted: the process ends at once by KeyboardInterrupt."""
    program = textwrap.dedent(
        """
        import signal
        import minimixce as mm
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what & has started
        world = mm.worlds.random_markov(11, 0.5, 0)
        model = mm.GPT(mm.GPTConfig(11, 8, 2, 4, 64), device="cpu")
        class Seen(mm.GPT):
            def extend_forward(self, x, past=None):
                if len(x) > 500:
                    print("running", flush=True)
                return super().extend_forward(x, past)
        model.__class__ = Seen
        mm.exact.loss_and_grads(model, world, 8, shards=2, progress=False)
        """
    )
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline().startswith("running")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert out.count("running") < 100  # of a thousand groups
    assert process.returncode != 0
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert "CancelledError" not in err


# ---- complaints ----------------------------------------------------------------------------------


def test_shards_that_cannot_be_are_refused():
    model = small_model("table")
    calls = (exact.loss_and_grads, exact.policy_gradient, exact.measure, exact.cross_entropies)
    on_device = object.__new__(mm.TableBigram)
    on_device.config = model.config
    on_device.params = {name: sd.asarray(p) for name, p in model.params.items()}
    for call in calls:
        for shards in (0, -1):
            with pytest.raises(ValueError, match=f"shards must be at least 1, got {shards}"):
                call(model, WORLD, 3, shards=shards)
        for shards in (1.0, True, "2", None):
            with pytest.raises(TypeError, match="shards must be an integer"):
                call(model, WORLD, 3, shards=shards)
        with pytest.raises(ValueError, match="shards must be at most 1024, got 1025"):
            call(model, WORLD, 3, shards=1025)
        with pytest.raises(ValueError, match=r"shards must be 1 .* on a GPU, got 2"):
            call(on_device, WORLD, 3, shards=2)
    for call in (exact.loss_and_grads, exact.measure, exact.cross_entropies):
        with pytest.raises(ValueError, match=r'shards must be 1 for method="list" .*, got 2'):
            call(model, WORLD, 3, method="list", shards=2)
