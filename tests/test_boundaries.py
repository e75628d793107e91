"""What comes in from outside: shapes and kinds that do not fit are named in a sentence."""

import json
import math
from functools import partial
from types import ModuleType

import numpy as np
import pytest
from helpers import random_gpt

import minimixce as mm
from minimixce import text
from minimixce.experiments import matrices, measures, on_worlds, options
from minimixce.storage import files
from minimixce.training import steps
from minimixce.training.evaluation import evaluate


class Tensor:
    """What PyTorch's tensor is to NumPy."""

    __module__ = "torch"
    shape, ndim, dtype = (2, 3), 2, "torch.int64"

    def __array__(self, *args, **kwargs):
        return np.zeros((2, 3), int)


@pytest.fixture(autouse=True)
def torch(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", ModuleType("torch"))


def models():
    bigram = mm.Bigram(mm.BigramConfig(5, 4, 3, dtype="float64"), device="cpu")
    return {"GPT": random_gpt(), "Bigram": bigram, "TableBigram": mm.TableBigram(5, device="cpu")}


KINDS = list(models())
tokens = np.random.default_rng(0).integers(0, 5, (2, 3))


# ---- backward ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 2, 5), (6, 5), (2, 3, 4), (1, 3, 5), (2, 3)])
def test_dlogits_of_another_shape(kind, shape):
    model = models()[kind]
    logits, cache = model.forward(tokens)
    with pytest.raises(
        ValueError, match=r"dlogits must have the shape of logits, \(2, 3, 5\), got \("
    ):
        model.backward(np.ones(shape), cache)
    model.backward(np.ones_like(logits), cache)  # nothing was used up


@pytest.mark.parametrize("kind", KINDS)
def test_dlogits_of_another_kind(kind):
    model = models()[kind]
    _, cache = model.forward(tokens)
    with pytest.raises(TypeError, match="dlogits must be a NumPy or CuPy array, got list"):
        model.backward(np.ones((2, 3, 5)).tolist(), cache)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", [*KINDS, "its twin"])
def test_the_cache_of_another_model(kind, other):
    model = models()[kind]
    foreign = models()[kind if other == "its twin" else other]
    if other == kind:
        foreign = model
    logits, cache = foreign.forward(tokens)
    if foreign is model:
        model.backward(logits, cache)
        with pytest.raises(ValueError, match="has served a backward already"):
            model.backward(logits, cache)
        return
    with pytest.raises(
        (TypeError, ValueError), match="cache must be one that this model's forward"
    ):
        model.backward(logits, cache)


@pytest.mark.parametrize("cache", [None, [], (1, 2)], ids=str)
def test_what_is_no_cache(cache):
    for model in models().values():
        with pytest.raises(TypeError, match="cache must be one that this model's forward"):
            model.backward(np.ones((2, 3, 5)), cache)


# ---- lists and tensors ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", [tokens.tolist(), Tensor(), None], ids=["list", "tensor", "None"])
def test_generate_and_forward_take_arrays(kind, given):
    model, got = models()[kind], type(given).__name__
    with pytest.raises(TypeError, match=f"prompt must be a NumPy or CuPy array, got {got}"):
        model.generate(given, 3)
    with pytest.raises(TypeError, match=f"prompt must be a NumPy or CuPy array, got {got}"):
        model.stream(given, 3)
    with pytest.raises(TypeError, match=f"input must be a NumPy or CuPy array, got {got}"):
        model.forward(given)


BATCHES = {
    "lists": (tokens.tolist(), tokens.tolist()),
    "a list of targets": (tokens, tokens.tolist()),
    "tensors": (Tensor(), Tensor()),
    "floats": (tokens * 1.0, tokens),
    "two shapes": (tokens, tokens[:, :2]),
    "swapped": (tokens, tokens.T),
    "one axis": (tokens[0], tokens[0]),
    "an array": tokens,
    "three": (tokens, tokens, tokens),
    "None": None,
}


@pytest.mark.parametrize("name", BATCHES)
def test_fit_and_evaluate_take_batches_of_arrays(name):
    words = r"a batch must be \(inputs, targets\), two integer arrays of one shape \(B,T\), got "
    for objective in (None, "step"):
        given = {"step": lambda model, batch: (np.zeros(()), {})} if objective else {}
        with pytest.raises((TypeError, ValueError), match=words):
            mm.fit(random_gpt(), [BATCHES[name]], progress=False, **given)
    with pytest.raises((TypeError, ValueError), match=words):
        evaluate(random_gpt(), [BATCHES[name]])


def test_objectives_name_what_is_no_array():
    z, y = np.zeros((2, 3, 5)), tokens
    for objective in (
        mm.objectives.mle,
        partial(mm.objectives.emo, cost_embedding=np.ones((5, 2))),
    ):
        with pytest.raises(TypeError, match="logits must be a NumPy or CuPy array, got list"):
            objective(z.tolist(), y)
        with pytest.raises(TypeError, match="targets must be a NumPy or CuPy array, got list"):
            objective(z, y.tolist())
    with pytest.raises(
        TypeError, match="cost_embedding must be a NumPy or CuPy array, got NoneType"
    ):
        mm.objectives.emo(z, y, None)


# ---- NumPy's scalars -----------------------------------------------------------------------------


def batches():
    drawn = np.random.default_rng(1).integers(0, 5, (4, 2, 4))
    return [(t[:, :-1], t[:, 1:]) for t in drawn]


@pytest.mark.parametrize("number", [np.float32, np.float64, np.float16])
def test_numpys_scalars_as_rates_and_ratios_are_python_s_numbers(tmp_path, number):
    """Measurements go into JSON, and the numbers are those of Python's floats of the same value."""
    runs = {}
    for kind in (number, lambda x: float(number(x))):
        model = random_gpt(dtype="float32")
        runs[kind is number] = (
            model,
            mm.fit(
                model,
                batches(),
                partial(mm.objectives.mixce, eta=kind(0.3)),
                lr=kind(0.01),
                warmup=2,
                final_lr=kind(0.1),
                betas=(kind(0.9), kind(0.95)),
                weight_decay=kind(0.1),
                max_grad_norm=kind(1.0),
                validation=batches(),
                validation_eta=kind(0.3),
                eval_every=1,
                folder=tmp_path / str(kind is number),
                progress=False,
            ),
        )
    for name, p in runs[True][0].params.items():
        assert p.dtype == np.float32
        np.testing.assert_array_equal(p, runs[False][0].params[name])
    for ours, theirs in zip(runs[True][1], runs[False][1], strict=True):
        ours.pop("tokens_per_second"), theirs.pop("tokens_per_second")
        assert ours == theirs
        json.dumps(ours)


def test_a_ratio_keeps_the_dtype_of_logits():
    z, y = np.zeros((2, 5), "float32"), np.zeros(2, int)
    for objective in (
        partial(mm.objectives.mixce, eta=np.float64(0.3)),
        partial(mm.objectives.mixce_surrogate, eta=np.float64(0.3)),
        partial(mm.objectives.tailr, gamma=np.float64(0.3)),
    ):
        loss, dlogits = objective(z, y)
        assert loss.dtype == dlogits.dtype == np.float32


@pytest.mark.parametrize("number", [np.float32, np.float16, np.float64])
def test_a_changed_ratio_is_noticed_on_resume(number):
    names = {steps.describe(partial(mm.objectives.mixce, eta=number(eta))) for eta in (0.25, 0.5)}
    assert names == {'mixce {"eta": 0.25}', 'mixce {"eta": 0.5}'}
    assert steps.describe(partial(mm.objectives.mixce, k=np.int64(3))) == 'mixce {"k": 3}'


def test_options_hold_pythons_numbers():
    given = options.TrainingOptions(eta=np.float32(0.5), steps=np.int64(3), lr=np.float64(0.01))
    for name in ("eta", "steps", "lr"):
        assert options.fits(name, getattr(given, name)), name
    json.dumps(options.dataclasses.asdict(given))


def test_json_of_numpys_scalars():
    assert json.loads(
        files.to_json({"a": np.float32(0.5), "b": [np.int64(2), np.float64("nan")]})
    ) == {
        "a": 0.5,
        "b": [2, None],
    }


def test_an_evaluation_is_of_pythons_floats():
    found = evaluate(random_gpt(), batches(), eta=np.float32(0.5))
    assert {type(value) for value in found.values()} == {float}
    with pytest.raises(ValueError, match="eta must be between 0 and 1, got 2"):
        evaluate(random_gpt(), batches(), eta=2)


# ---- tokenizers ----------------------------------------------------------------------------------

TOKENIZERS = [text.CharTokenizer("abc"), text.WordTokenizer(["a", "b", "c"]), text.ByteTokenizer()]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda t: t.kind)
def test_ids_outside_the_alphabet(tokenizer):
    last = tokenizer.vocab_size - 1
    assert tokenizer.decode([1, 0, last]) == tokenizer.decode(np.array([1, last], "uint16"))
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode(np.zeros(0)) == ""
    for bad in (-1, last + 1, -2, 2**40):
        with pytest.raises(ValueError, match=rf"ids must be in 0 … {last}, got {bad}$"):
            tokenizer.decode([1, bad])
    for bad in ([1.0], ["a"], [True]):
        with pytest.raises(TypeError, match="ids must be integers, got"):
            tokenizer.decode(bad)
    with pytest.raises(ValueError, match=r"ids must have one axis, got shape \(1, 2\)"):
        tokenizer.decode(np.ones((1, 2), int))


def test_surrogates_are_no_text():
    words = r"must be text that UTF-8 can hold, without lone surrogates, got '\\ud800'"
    for make in (
        lambda: text.CharTokenizer("ab\ud800"),
        lambda: text.WordTokenizer(["a", "b\ud800"]),
        lambda: text.ByteTokenizer().encode("a\ud800"),
        lambda: mm.worlds.markov([[0.5, 0.5], [0.5, 0.5]], words=["", "\ud800"]),
        lambda: mm.worlds.markov([[0.5, 0.5], [0.5, 0.5]], name="\ud800"),
        lambda: mm.worlds.from_text("a b\ud800. a b", 2),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    for tokenizer in TOKENIZERS[:2]:
        with pytest.raises(ValueError, match=r"'\\ud800'"):
            tokenizer.encode("a \ud800" if tokenizer.kind == "word" else "a\ud800")


# ---- nothing to measure --------------------------------------------------------------------------

ignored = [(tokens, np.full((2, 3), -1))]


@pytest.mark.parametrize("nothing", [[], ignored, ignored * 2], ids=["empty", "ignored", "twice"])
def test_validation_without_targets(nothing):
    for use in (
        lambda: evaluate(random_gpt(), nothing),
        lambda: measures.fit_to_text(random_gpt(), nothing),
        lambda: measures.matching_temperature(random_gpt(), nothing, 1.0),
    ):
        with pytest.raises(ValueError, match="batches must hold at least one target, got none"):
            use()


@pytest.mark.parametrize("nothing", [[], ignored], ids=["empty", "ignored"])
def test_fit_looks_for_targets_of_the_validation_before_it_trains(nothing):
    def step(model, batch):
        raise AssertionError("trained")

    with pytest.raises(ValueError, match="validation must hold at least one target, got none"):
        mm.fit(random_gpt(), batches(), step=step, validation=nothing, progress=False)


def test_the_baseline_needs_a_target():
    for train, validation in ((tokens[0], tokens[0, :1]), (tokens[0, :1], tokens[0])):
        with pytest.raises(
            ValueError, match=r"(train|validation) must hold at least 2 tokens, got 1"
        ):
            measures.ngram_cross_entropy(train, validation, 2, 5)


# ---- matrices and samples ------------------------------------------------------------------------


def test_matrices_of_two_shapes():
    for measure in (matrices.average_js, matrices.average_zeros):
        with pytest.raises(
            ValueError, match=r"gold and learned must have one shape, got \(3, 3\) and \(1, 3\)"
        ):
            measure(np.full((3, 3), 1 / 3), np.full((1, 3), 1 / 3))
        with pytest.raises(TypeError, match="gold must be a NumPy or CuPy array, got list"):
            measure([[1.0]], np.ones((1, 1)))


def test_counts_of_samples():
    model = random_gpt(vocab_size=6)
    assert mm.estimators.sample(model, np.int64(2), np.int64(3)).shape == (2, 4)
    for bad in (2.0, "2", None):
        with pytest.raises(TypeError, match="n must be an integer, got"):
            mm.estimators.sample(model, bad, 3)
    assert model.generate(tokens, np.int64(2), stop=np.int64(1)).shape == (2, 5)
    with pytest.raises(TypeError, match=r"stop must be an integer, got 1\.5"):
        model.generate(tokens, 2, stop=1.5)
    assert on_worlds.RowBatches  # it makes batches of int64, which check_batch takes
    assert math.isfinite(float(mm.objectives.mle(np.zeros((1, 2)), np.zeros(1, "uint8"))[0]))
