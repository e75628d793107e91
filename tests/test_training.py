"""The loop: it learns, repeats itself bit for bit, takes any objective, and says where it broke."""

import functools
import signal
import subprocess
import sys

import numpy as np
import pytest

import minimixce as mm
from minimixce import text
from minimixce.storage import checkpoint
from minimixce.training import steps
from minimixce.training.evaluation import evaluate, loss_of_uniform
from minimixce.training.run import STATE_FILE

V, TOKENS = 5, np.tile(np.array([1, 2, 3, 4, 0, 3]), 60)


def new_model(seed=0, dropout=0.0, dtype="float32"):
    return mm.GPT(mm.GPTConfig(V, 8, 1, 2, 16, dropout, dtype), seed=seed, device="cpu")


def train(model, objective=mm.objectives.mixce, steps=60, **options):
    batches = text.random_batches(TOKENS, 4, 8)
    return mm.fit(model, batches, objective, steps=steps, lr=1e-2, progress=False, **options)


def test_learns_a_repeating_text_and_reports_as_asked():
    validation = text.consecutive_batches(TOKENS, 16, 8)
    found = train(new_model(), steps=250, eval_every=100, warmup=10, validation=validation)
    assert [m["step"] for m in found] == [100, 200, 250]
    assert found[-1]["validation_mle"] < 0.2
    assert found[-1]["loss"] < found[0]["loss"]
    assert found[-1]["mean_q"] > 0.85
    assert all(m["tokens_per_second"] > 0 and m["grad_norm"] > 0 for m in found)


def test_same_seed_same_run_bit_for_bit():
    runs = [new_model(dropout=0.2) for _ in range(3)]
    first, second, other = (train(model, seed=seed) for model, seed in zip(runs, (1, 1, 2)))
    assert [m["loss"] for m in first] == [m["loss"] for m in second] != [m["loss"] for m in other]
    for name, value in runs[0].params.items():
        assert np.array_equal(value, runs[1].params[name])


def test_a_step_function_takes_the_place_of_an_objective():
    def step(net, batch):  # its parameters may have any names
        inputs, targets = batch
        logits, cache = net.forward(inputs)
        loss, dlogits = mm.objectives.mle(logits, targets)
        return loss, net.backward(dlogits, cache)

    a, b = new_model(), new_model()
    train(a, None, step=step)
    train(b, mm.objectives.mle)
    assert all(np.array_equal(a.params[name], b.params[name]) for name in a.params)


def test_stops_where_the_batches_end_and_without_decay():
    batches = [text.random_batches(TOKENS, 4, 8)[k] for k in range(3)]
    found = mm.fit(new_model(), batches, eval_every=1, progress=False)
    assert [m["step"] for m in found] == [1, 2, 3]
    assert mm.fit(new_model(), batches, eval_every=1, steps=2, progress=False)[-1]["step"] == 2


def test_a_loss_that_is_not_finite_names_its_step():
    def objective(logits, targets, calls=iter(range(100))):  # noqa: B008
        loss, dlogits = mm.objectives.mle(logits, targets)
        return (loss * np.nan if next(calls) >= 6 else loss), dlogits

    with pytest.raises(FloatingPointError, match="not finite since step 7; try a smaller lr"):
        train(new_model(), objective, eval_every=4)


def test_evaluate_is_the_mean_over_all_targets():
    model = new_model(dtype="float64")
    model.params = {name: 20 * value for name, value in model.params.items()}
    tokens = TOKENS[:30]
    found = evaluate(model, text.consecutive_batches(tokens, 2, 8))
    logits = [model.forward(tokens[None, i : min(i + 8, 29)])[0][0] for i in range(0, 29, 8)]
    logits = np.concatenate(logits)
    nll = mm.objectives.mle(logits, tokens[1:])[0]
    mixce = mm.objectives.mixce(logits, tokens[1:], eta=0.3)[0]
    assert found["validation_mle"] == pytest.approx(float(nll), rel=1e-12)
    assert 0.3 * found["validation_mle"] - 0.7 * found["mean_q"] == pytest.approx(
        float(mixce), rel=1e-12
    )


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_loss_of_a_uniform_model_is_what_an_untrained_one_has(eta):
    objective = functools.partial(mm.objectives.mixce, eta=eta)
    uniform = loss_of_uniform(objective, V)
    assert uniform == pytest.approx(-eta * np.log(1 / V) - (1 - eta) / V, rel=1e-12)
    inputs, targets = text.random_batches(TOKENS, 4, 8)[0]
    assert float(objective(new_model().forward(inputs)[0], targets)[0]) == pytest.approx(
        uniform, abs=0.1
    )


VALIDATION = text.consecutive_batches(TOKENS[:100], 16, 8)


def params_of(folder):
    return {name: p.tobytes() for name, p in mm.GPT.load(folder, device="cpu").params.items()}


def without_speed(measurements):
    return [{k: v for k, v in m.items() if k != "tokens_per_second"} for m in measurements]


def test_accumulated_batches_equal_one_big_batch():
    def cut(batch, rows):
        return batch[0][rows], batch[1][rows]

    # the last row is padded: unequal targets a part
    big = [text.consecutive_batches(TOKENS[: 8 * 12 - 3], 12, 8)[0]] * 3
    parts = [cut(batch, rows) for batch in big for rows in (slice(0, 4), slice(4, 8), slice(8, 12))]
    a, b = new_model(dtype="float64"), new_model(dtype="float64")
    first = mm.fit(a, big, mm.objectives.mixce, lr=1e-2, eval_every=1, progress=False)
    second = mm.fit(
        b, parts, mm.objectives.mixce, lr=1e-2, eval_every=1, accumulate=3, progress=False
    )
    assert [m["loss"] for m in first] == pytest.approx([m["loss"] for m in second], rel=1e-12)
    for name in a.params:
        # AdamW's step is near lr for any gradient, so gradients that are zero except for rounding
        # move weights at random.
        if "c_attn.bias" not in name:
            assert np.allclose(a.params[name], b.params[name], rtol=1e-8, atol=1e-10), name


@pytest.mark.parametrize("shards", [2, 3, 40])  # 40: more than rows
def test_shards_over_threads_equal_the_whole_batch_and_repeat_bit_for_bit(shards):
    # the last row is padded
    batches = list(text.consecutive_batches(TOKENS[: 5 * 8 - 3], 5, 8)) * 3

    def run(shards):
        model = new_model(dtype="float64")
        return model, mm.fit(
            model,
            batches,
            mm.objectives.mixce,
            lr=1e-2,
            eval_every=1,
            shards=shards,
            progress=False,
        )

    (whole, first), (split, second), (again, third) = run(1), run(shards), run(shards)
    assert [m["loss"] for m in first] == pytest.approx([m["loss"] for m in second], rel=1e-12)
    assert without_speed(second) == without_speed(third)
    for name in whole.params:
        assert np.array_equal(split.params[name], again.params[name])
        if "c_attn.bias" not in name:  # see above
            assert np.allclose(whole.params[name], split.params[name], rtol=1e-8, atol=1e-10), name


def test_shards_drop_different_elements_and_refuse_what_they_cannot_split():
    seen = []

    class Watched(mm.GPT):
        def forward(self, tokens, training=False, rng=None):
            seen.append(rng.random(2).tolist() if rng else None)
            return super().forward(tokens, training, rng)

    batch = text.consecutive_batches(TOKENS[:49], 12, 8)[0]
    mm.fit(
        Watched(mm.GPTConfig(V, 12, 1, 1, 4, dropout=0.1), device="cpu"),
        [batch],
        shards=2,
        progress=False,
    )
    assert len(seen) == 2
    assert seen[0] != seen[1]
    for how in (
        {"objective": lambda logits, targets: mm.objectives.mle(logits, targets)},
        {"step": lambda model, batch: None},
    ):
        with pytest.raises(ValueError, match="shards must be 1"):
            mm.fit(new_model(), [batch], **how, shards=2, progress=False)


@pytest.mark.parametrize("stop", [1, 30, 45, 59])
def test_a_run_stopped_anywhere_resumes_bit_for_bit(tmp_path, stop):
    def run(folder, steps_until_interrupt=None, resume=False):
        calls = iter(range(1, 1000))

        def objective(logits, targets, normalizer=None):
            if next(calls) == steps_until_interrupt:
                signal.raise_signal(signal.SIGINT)
            return mm.objectives.mixce(logits, targets, normalizer=normalizer)

        options = {"steps": 60, "eval_every": 15, "validation": VALIDATION, "seed": 3}
        model = new_model(dropout=0.3)
        return train(model, objective, folder=folder, resume=resume, **options)

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", steps_until_interrupt=stop)
    resumed = run(tmp_path / "cut", resume=True)
    assert without_speed(whole) == without_speed(resumed)
    for part in ("", "last"):
        assert params_of(tmp_path / "whole" / part) == params_of(tmp_path / "cut" / part)
    arrays, info = checkpoint.load_state(tmp_path / "cut" / STATE_FILE)
    expected, expected_info = checkpoint.load_state(tmp_path / "whole" / STATE_FILE)
    assert all(np.array_equal(arrays[name], expected[name]) for name in expected)
    assert info["step"] == expected_info["step"] == 60


def test_best_and_last_models_and_patience(tmp_path):
    model = new_model()
    options = {"eval_every": 10, "validation": VALIDATION, "folder": tmp_path, "patience": 2}
    # A learning rate this large breaks the model sooner or later; what is kept is the best one.
    found = mm.fit(
        model, text.random_batches(TOKENS, 4, 8), steps=400, lr=0.3, progress=False, **options
    )
    losses = [m["validation_loss"] for m in found]
    assert len(losses) < 40
    best = min(range(len(losses)), key=losses.__getitem__)
    assert best == len(losses) - 3
    kept = mm.GPT.load(tmp_path, device="cpu")
    objective = mm.objectives.mixce
    assert evaluate(kept, VALIDATION, objective)["validation_loss"] == losses[best]
    assert (
        evaluate(mm.GPT.load(tmp_path / "last", device="cpu"), VALIDATION, objective)[
            "validation_loss"
        ]
        == losses[-1]
    )


def test_batches_that_end_are_measured_and_saved(tmp_path):
    batches = [text.random_batches(TOKENS, 4, 8)[k] for k in range(7)]
    model = new_model()
    found = mm.fit(model, iter(batches), eval_every=5, folder=tmp_path, progress=False)
    assert [m["step"] for m in found] == [5, 7]
    assert params_of(tmp_path) == {name: p.tobytes() for name, p in model.params.items()}


def test_validation_loss_is_the_objectives_own():
    model = new_model()
    found = evaluate(model, VALIDATION, functools.partial(mm.objectives.mixce, eta=0.3))
    assert found["validation_loss"] == pytest.approx(
        0.3 * found["validation_mle"] - 0.7 * found["mean_q"], rel=1e-5
    )


ETA = 0.3


def mixce_of_eta(logits, targets, normalizer=None):
    return mm.objectives.mixce(logits, targets, eta=ETA, normalizer=normalizer)


def test_validation_does_not_depend_on_how_the_same_loss_is_written():
    reports = []
    for objective in (
        functools.partial(mm.objectives.mixce, eta=ETA),
        lambda logits, targets, normalizer=None: mixce_of_eta(logits, targets, normalizer),
        mixce_of_eta,
    ):
        options = {"validation": VALIDATION, "validation_eta": ETA}
        found = train(new_model(), objective, steps=10, **options)
        reports.append(without_speed(found))
        measured = evaluate(new_model(), VALIDATION, objective)
        assert measured["validation_mixce"] == pytest.approx(
            0.5 * measured["validation_mle"] - 0.5 * measured["mean_q"], rel=1e-12
        )
    assert reports[0] == reports[1] == reports[2]
    found = reports[0][-1]
    assert found["validation_mixce"] == pytest.approx(
        ETA * found["validation_mle"] - (1 - ETA) * found["mean_q"], rel=1e-12
    )


def whole_step(net, batch):
    inputs, targets = batch
    logits, cache = net.forward(inputs)
    return mm.objectives.mle(logits, targets)[0], net.backward(logits, cache)


def returns_one_number(logits, targets):
    return logits.sum()


def returns_a_gradient_of_targets_shape(logits, targets):
    return logits.sum(), logits.sum(axis=-1)


def takes_one_argument(logits):
    return logits.sum(), logits


@pytest.mark.parametrize(
    "objective",
    [
        whole_step,
        returns_one_number,
        returns_a_gradient_of_targets_shape,
        takes_one_argument,
    ],
)
def test_what_is_no_objective_is_one_sentence_with_its_name(objective):
    with pytest.raises(TypeError) as raised:
        train(new_model(), objective)
    message = str(raised.value)
    assert message.startswith(f"{objective.__name__} ")
    assert "\n" not in message
    for words in ("(logits, targets)", "(loss, dlogits)", "goes in step="):
        assert words in message


def test_an_error_inside_an_objective_that_is_one_stays_as_it_is():
    def objective(logits, targets):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        train(new_model(), objective)


def test_an_objective_and_a_step_exclude_each_other():
    for objective in (mm.objectives.mle, mm.objectives.mixce):
        with pytest.raises(TypeError, match="an objective or a step, not both"):
            train(new_model(), objective, step=whole_step)
    with pytest.raises(TypeError, match="step must be a function"):
        train(new_model(), None, step="mle")


def test_another_name_of_the_objective_starts_a_new_count_of_the_best(tmp_path):
    best = []
    for k, name in enumerate(("a", "a", "b")):
        options = {"folder": tmp_path, "validation": VALIDATION, "objective_name": name}
        options |= {"resume": k > 0, "eval_every": 10, "steps": 10 * (k + 1)}
        found = train(new_model(), mixce_of_eta, **options)
        _, info = checkpoint.load_state(tmp_path / STATE_FILE)
        best.append((info["objective"], info["best"]))
    losses = [m["validation_loss"] for m in found]
    assert best == [("a", losses[0]), ("a", min(losses[:2])), ("b", losses[2])]


@pytest.mark.parametrize(
    "option",
    [
        {"steps": 0},
        {"eval_every": 0},
        {"warmup": -1},
        {"final_lr": 1.5},
        {"max_grad_norm": 0},
        {"accumulate": 0},
        {"shards": 0},
        {"patience": 0},
    ],
)
def test_options_out_of_range_are_named(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        mm.fit(new_model(), [], progress=False, **({"steps": 5} | option))


def test_an_objective_that_is_an_object_keeps_its_name_from_process_to_process():
    class Loss:
        def __call__(self, logits, targets):
            return mm.objectives.mle(logits, targets)

    assert steps.describe(Loss()) == steps.describe(Loss())
    half, third = (functools.partial(mm.objectives.mixce, eta=eta) for eta in (1 / 2, 1 / 3))
    assert steps.describe(half) != steps.describe(third)


@pytest.mark.slow
def test_memory_does_not_grow_over_a_thousand_steps():
    """Resident memory after 1,100 steps against that after 100, in a process of its own."""
    script = """if True:
        import numpy as np, minimixce as mm
        from minimixce import text

        def resident():
            with open("/proc/self/status") as status:
                return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

        tokens = np.random.default_rng(0).integers(0, 65, 10_000)
        model = mm.GPT(mm.GPTConfig(65, 32, 2, 2, 64), device="cpu")
        batches = text.random_batches(tokens, 8, 32, 0)
        seen = []
        def watched(logits, targets, normalizer=None, calls=[0]):
            calls[0] += 1
            if calls[0] in (100, 1100):
                seen.append(resident())
            return mm.objectives.mixce(logits, targets, normalizer=normalizer)
        mm.fit(model, batches, watched, steps=1100, eval_every=50, progress=False)
        print(seen[1] - seen[0])
    """
    grown = int(
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout
    )
    assert grown < 2048, f"{grown} KiB"  # one step's activations are more
