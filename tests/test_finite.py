"""Weights, logits, noise and rates that are not finite: whichever function meets them says so."""

import math
from functools import partial

import numpy as np
import pytest
from helpers import random_gpt

import minimixce as mm
from minimixce import cli
from minimixce.experiments import matrices, measures, world_measures
from minimixce.storage.validate import check_finite
from minimixce.training.evaluation import evaluate

BAD = [math.nan, math.inf]
agreement = mm.worlds.agreement()


def broken(value, vocab_size=6):
    model = random_gpt(vocab_size=vocab_size)
    model.params["ln_f.bias"][0] = value
    return model


def batches():
    tokens = np.random.default_rng(0).integers(0, 6, (2, 3, 5))
    return [(t[:, :-1], t[:, 1:]) for t in tokens]


rows = agreement.sample(4, 4, seed=0)
noise = mm.estimators.gumbel_noise(4, 4, 6)

USES = {
    "generate": lambda m: m.generate(np.zeros((2, 1), int), 3),
    "generate, temperature 0": lambda m: m.generate(np.zeros((2, 1), int), 3, temperature=0),
    "estimators.sample": lambda m: mm.estimators.sample(m, 3, 4),
    "exact.measure": lambda m: mm.exact.measure(m, agreement, 4),
    "exact.measure, list": lambda m: mm.exact.measure(m, agreement, 4, method="list"),
    "exact.cross_entropies": lambda m: mm.exact.cross_entropies(m, agreement, 4),
    "exact.loss_and_grads": lambda m: mm.exact.loss_and_grads(m, agreement, 4),
    "exact.policy_gradient": lambda m: mm.exact.policy_gradient(m, agreement, 4),
    "exact.log_prob": lambda m: mm.exact.log_prob(m, rows),
    "reinforce": lambda m: mm.estimators.reinforce(m, agreement, rows),
    "gumbel": lambda m: mm.estimators.gumbel(m, agreement, noise),
    "evaluate": lambda m: evaluate(m, batches()),
    "fit_to_text": lambda m: measures.fit_to_text(m, batches()),
    "matching_temperature": lambda m: measures.matching_temperature(m, batches(), 1.0),
    "sample_texts": lambda m: measures.sample_texts(m, 0, 2, 5),
    "transition_matrix": lambda m: matrices.transition_matrix(m),
    "transition_matrix, memory": lambda m: matrices.transition_matrix(m, agreement, 9, 4),
    "measure_on_world": lambda m: world_measures.measure_on_world(m, agreement, 4),
}


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("use", USES)
def test_whatever_uses_a_model_says_that_it_is_broken(use, value):
    USES[use](random_gpt(vocab_size=6))
    with (
        pytest.raises(FloatingPointError, match=r"must be finite, got (nan|inf)"),
        np.errstate(all="ignore"),
    ):
        USES[use](broken(value))


def test_an_impossible_token_is_no_broken_model():
    logits = np.array([[[0.0, -math.inf, 1.0]]])
    assert mm.logprob.log_softmax(logits)[0, 0, 1] == -math.inf
    for bad in ([math.nan, 0, 0], [math.inf, 0, 0], [-math.inf] * 3):
        with pytest.raises(ValueError, match="logits must be finite, got"):
            mm.logprob.log_softmax(np.array([[bad]]))


@pytest.mark.parametrize("value", BAD)
def test_an_entropy_to_match_that_is_broken(value):
    with pytest.raises(ValueError, match="entropy must be finite, got"):
        measures.matching_temperature(random_gpt(vocab_size=6), batches(), value)


def test_a_world_step_that_breaks_names_the_step():
    model = random_gpt(vocab_size=6)

    def step(model, batch, *, number):
        if number == 2:
            model.params["ln_f.bias"][0] = math.nan
        return mm.exact.loss_and_grads(model, agreement, 4, progress=False)

    with pytest.raises(FloatingPointError, match=r"finite.* step 3; try a smaller lr"):
        mm.fit(model, batches() * 3, step=step, progress=False)


def test_a_table_q_that_is_broken():
    for value in BAD:
        logits = np.zeros((6, 6))
        logits[2, 3] = value
        with pytest.raises(ValueError, match="logits must be finite, got"):
            mm.exact.bigram_loss_and_grads(logits, agreement, max_len=4)


@pytest.mark.parametrize("value", [*BAD, -math.inf])
def test_noise_that_is_broken(value):
    bad = noise.copy()
    bad[1, 2, 3] = value
    with pytest.raises(ValueError, match="noise must be finite, got"):
        mm.estimators.gumbel(random_gpt(vocab_size=6), agreement, bad)


@pytest.mark.parametrize("value", BAD)
def test_matrices_that_are_broken(value):
    gold = agreement.probs
    for measure in (matrices.average_js, matrices.average_zeros):
        for pair in ((gold, gold * value), (gold * value, gold)):
            with (
                pytest.raises(ValueError, match=r"(gold|learned) must be finite, got"),
                np.errstate(all="ignore"),
            ):
                measure(*pair)


@pytest.mark.parametrize("command", ["sample run", "eval run --samples 2 --tokens 9"])
@pytest.mark.parametrize("value", BAD)
def test_on_the_command_line(command, value, tmp_path, monkeypatch, capsys, recwarn):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "story.txt").write_text("the cat sat on the mat\n" * 40)
    size = "--n-layer 1 --n-head 1 --n-embd 4 --block-size 8 --batch-size 2 --steps 1 --device cpu"
    assert cli.main(f"train --data story.txt {size} --out run --quiet".split()) == 0
    model = mm.GPT.load("run", device="cpu")
    model.params["ln_f.bias"][0] = value
    model.save("run", overwrite=True, boundary=0)
    capsys.readouterr()
    assert cli.main(f"{command} --device cpu".split()) == 2
    error = capsys.readouterr().err
    assert not recwarn.list
    assert error.count("\n") == 1
    assert "must be finite, got" in error


# ---- the optimizer -------------------------------------------------------------------------------


def params():
    return {"a": np.ones((2, 2)), "b": np.ones(3)}


@pytest.mark.parametrize("lr", [math.nan, math.inf, -0.1])
@pytest.mark.parametrize("kind", [mm.AdamW, partial(mm.optim.Adam, l2=0.1)])
def test_a_rate_that_is_broken_changes_nothing(kind, lr):
    given = params()
    optimizer = kind(given, 0.1)
    with pytest.raises(ValueError, match=f"lr must be a finite number, at least 0, got {lr}"):
        optimizer.step({"a": np.ones((2, 2)), "b": np.ones(3)}, lr=lr)
    assert optimizer.steps == 0
    assert all((p == 1).all() for p in given.values())
    optimizer.step({"a": np.ones((2, 2)), "b": np.ones(3)}, lr=0.0)  # where a schedule ends


BAD_GRADS = {
    "shape": (np.ones((3, 1)), "the gradient of b must have its shape"),
    "integers": (np.ones(3, int), "the gradient of b must be floats"),
    "complex": (np.ones(3, complex), "the gradient of b must be floats"),
    "list": ([1.0, 1.0, 1.0], "the gradient of b must be a NumPy or CuPy array, got list"),
    "None": (None, "the gradient of b must be a NumPy or CuPy array, got NoneType"),
    "broadcast": (np.ones(1), "the gradient of b must have its shape"),
}


@pytest.mark.parametrize("name", BAD_GRADS)
@pytest.mark.parametrize("kind", [mm.AdamW, partial(mm.optim.Adam, l2=0.1)])
def test_a_step_that_fails_changes_nothing(kind, name):
    bad, words = BAD_GRADS[name]
    given = params()
    optimizer = kind(given, 0.1)
    with pytest.raises((TypeError, ValueError), match=words):
        optimizer.step({"a": np.ones((2, 2)), "b": bad})
    assert optimizer.steps == 0
    for array in (*optimizer.mean.values(), *optimizer.square.values()):
        assert not array.any()
    assert all((p == 1).all() for p in given.values())


def test_a_step_on_weights_that_cannot_be_written_changes_nothing():
    given = params()
    optimizer = mm.AdamW(given, 0.1)
    given["b"].setflags(write=False)
    with pytest.raises(ValueError, match="the parameter b cannot be written"):
        optimizer.step({"a": np.ones((2, 2)), "b": np.ones(3)})
    assert all((p == 1).all() for p in given.values())
    assert optimizer.steps == 0


@pytest.mark.parametrize("grads", [{}, None, [np.ones(3)]], ids=str)
def test_clip_grads_needs_gradients(grads):
    with pytest.raises(
        (TypeError, ValueError), match="grads must be a dict of arrays, with at least one, got"
    ):
        mm.optim.clip_grads(grads, 1.0)


def test_check_finite():
    check_finite("x", np.zeros(0))
    check_finite("x", 1)
    check_finite("x", math.inf, infinite=True)
    check_finite("x", np.array([1.0, -math.inf]), infinite=True)
    with pytest.raises(FloatingPointError, match="x must be finite, got -inf"):
        check_finite("x", np.array([1.0, -math.inf, math.nan]))
    with pytest.raises(ValueError, match="x must be finite, got nan"):
        check_finite("x", np.array([1.0, -math.inf, math.nan]), infinite=True)
