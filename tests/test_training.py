"""The loop: it learns, repeats itself bit for bit, takes any objective, and says where it broke."""

import functools

import numpy as np
import pytest

import minimixce as mm
from minimixce import text, training

V, TOKENS = 5, np.tile(np.array([1, 2, 3, 4, 0, 3]), 60)


def new_model(seed=0, dropout=0.0, dtype="float32"):
    return mm.GPT(mm.GPTConfig(V, 8, 1, 2, 16, dropout, dtype), seed=seed, device="cpu")


def train(model, objective=mm.objectives.mixce, steps=60, **options):
    batches = text.RandomBlocks(TOKENS, 4, 8)
    return mm.fit(model, batches, objective, steps=steps, lr=1e-2, progress=False, **options)


def test_learns_a_repeating_text_and_reports_as_asked():
    validation = text.consecutive_blocks(TOKENS, 16, 8)
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
    def step(model, batch):
        inputs, targets = batch
        logits, cache = model.forward(inputs)
        loss, dlogits = mm.objectives.mle(logits, targets)
        return loss, model.backward(dlogits, cache)

    a, b = new_model(), new_model()
    train(a, step)
    train(b, mm.objectives.mle)
    assert all(np.array_equal(a.params[name], b.params[name]) for name in a.params)


def test_stops_where_the_batches_end_and_without_decay():
    batches = [text.RandomBlocks(TOKENS, 4, 8)[k] for k in range(3)]
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
    found = training.evaluate(model, text.consecutive_blocks(tokens, 2, 8))
    logits = [model.forward(tokens[None, i : min(i + 8, 29)])[0][0] for i in range(0, 29, 8)]
    logits = np.concatenate(logits)
    nll = mm.objectives.mle(logits, tokens[1:])[0]
    mixce = mm.objectives.mixce(logits, tokens[1:], eta=0.3)[0]
    assert found["validation_mle"] == pytest.approx(float(nll), rel=1e-12)
    assert 0.3 * found["validation_mle"] - 0.7 * found["mean_q"] == pytest.approx(float(mixce), rel=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_loss_of_a_uniform_model_is_what_an_untrained_one_has(eta):
    objective = functools.partial(mm.objectives.mixce, eta=eta)
    uniform = training.loss_of_uniform(objective, V)
    assert uniform == pytest.approx(-eta * np.log(1 / V) - (1 - eta) / V, rel=1e-12)
    inputs, targets = text.RandomBlocks(TOKENS, 4, 8)[0]
    assert float(objective(new_model().forward(inputs)[0], targets)[0]) == pytest.approx(uniform, abs=0.1)
