"""The bigrams: values and gradients, what makes them bigrams, generation, folders, training,
devices, and their complaints.

The oracle for values and gradients is a naive bigram under HIPS autograd; what a model says of
pairs of tokens is the oracle for everything it says of sequences.
"""

import json
import math
import shutil

import autograd.numpy as anp
import numpy as np
import pytest
import strict_device as sd
from helpers import (
    assert_close,
    assert_same_grads,
    autograd_oracle,
    check_pieces,
    forget_checksums,
    random_gpt,
    twenty_five_examples,
)
from hypothesis import assume, example, given
from hypothesis import strategies as st

import minimixce as mm
from minimixce import text
from minimixce.bigram import TableBigramConfig
from minimixce.training.evaluation import loss_of_uniform


def random_bigram(seed=0, vocab_size=5, n_embd=4, n_hidden=6, dropout=0.0, dtype="float64"):
    model = mm.Bigram(mm.BigramConfig(vocab_size, n_embd, n_hidden, dropout, dtype), device="cpu")
    return randomized(model, seed)


def random_table(seed=0, vocab_size=5, dtype="float64"):
    return randomized(mm.TableBigram(vocab_size, device="cpu", dtype=dtype), seed)


def randomized(model, seed):
    rng = np.random.default_rng(seed)
    model.params = {
        name: (0.6 * rng.standard_normal(p.shape)).astype(model.config.dtype)
        for name, p in model.params.items()
    }
    return model


both = pytest.mark.parametrize("make", [random_bigram, random_table], ids=["neural", "table"])


def some_input(V, B, T, soft, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((B, T, V)) if soft else rng.integers(0, V, (B, T))


def table_of(model):
    """The (V,V) logits after each token."""
    return model.forward(np.arange(model.config.vocab_size)[:, None])[0][:, 0]


def probs_of(model):
    return mm.layers.softmax_forward(table_of(model).astype("float64"))[0]


# ---- parameters ----------------------------------------------------------------------------------


def test_names_and_shapes():
    model = mm.Bigram(mm.BigramConfig(vocab_size=7, n_embd=3, n_hidden=4), device="cpu")
    assert {name: p.shape for name, p in model.params.items()} == {
        "embedding.weight": (7, 3),
        "hidden.weight": (3, 4),
        "hidden.bias": (4,),
        "output.weight": (4, 7),
        "output.bias": (7,),
    }
    assert model.num_params == 7 * 3 + 3 * 4 + 4 + 4 * 7 + 7
    table = mm.TableBigram(7, device="cpu")
    assert {name: p.shape for name, p in table.params.items()} == {"logits": (7, 7)}
    assert table.num_params == 49
    assert model.xp is table.xp is np


def test_the_default_is_the_papers_bigram():
    config = mm.BigramConfig(20)
    assert (config.n_embd, config.n_hidden, config.dropout, config.dtype) == (
        50,
        50,
        0.0,
        "float32",
    )
    for c in (config, mm.TableBigram(20, device="cpu").config):
        assert (c.vocab_size, c.n_layer, c.dropout) == (20, 0, 0.0)
        assert c.block_size > 10**9


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_initial_values_are_pytorchs_and_zero(dtype):
    model = mm.Bigram(mm.BigramConfig(200, n_embd=100, n_hidden=25, dtype=dtype), device="cpu")
    embedding = model.params["embedding.weight"]
    assert abs(embedding.mean()) < 5 / math.sqrt(embedding.size)
    assert abs(embedding.std() - 1) < 5 / math.sqrt(2 * embedding.size)
    for name, limit in (
        ("hidden.weight", 0.1),
        ("hidden.bias", 0.1),
        ("output.weight", 0.2),
        ("output.bias", 0.2),
    ):
        p = model.params[name]
        assert np.abs(p).max() <= limit * (1 + 1e-6), name
        assert np.abs(p).max() > 0.8 * limit, name
        # that of a uniform distribution
        assert abs(p.std() * math.sqrt(3) / limit - 1) < 5 / math.sqrt(p.size), name
    table = mm.TableBigram(9, device="cpu", dtype=dtype)
    assert (table.params["logits"] == 0).all()
    assert {p.dtype for p in (*model.params.values(), *table.params.values())} == {np.dtype(dtype)}


def test_the_seed_decides_the_parameters():
    first, again, other = (
        mm.Bigram(mm.BigramConfig(5), seed=seed, device="cpu").params for seed in (1, 1, 2)
    )
    for name, p in first.items():
        np.testing.assert_array_equal(p, again[name])
        assert (p != other[name]).all()


# ---- forward and backward ------------------------------------------------------------------------


def naive_logits(model, x, params):
    """With dropout, drawn from seed 7, on what the hidden layer puts out."""
    x = x if x.ndim == 3 else np.eye(model.config.vocab_size)[x]
    if "logits" in params:
        return anp.tensordot(x, params["logits"], 1)
    hidden = (
        anp.tensordot(anp.tensordot(x, params["embedding.weight"], 1), params["hidden.weight"], 1)
        + params["hidden.bias"]
    )
    rate = model.config.dropout
    scale = (np.random.default_rng(7).random(hidden.shape) >= rate) / (1 - rate)
    return (
        anp.tensordot(hidden * (hidden > 0) * scale, params["output.weight"], 1)
        + params["output.bias"]
    )


def check_against_autograd(model, x):
    names = ["x", *model.params]
    dlogits = np.random.default_rng(1).standard_normal((*x.shape[:2], model.config.vocab_size))

    def naive(x, *values):
        return naive_logits(model, x, dict(zip(names[1:], values)))

    expected_logits, (expected_dx, *expected) = autograd_oracle(
        naive, [x, *model.params.values()], dlogits
    )
    logits, present, cache = model.extend_forward(x, None, training=True, rng=mm.backend.rng(7, np))
    assert_close(logits, expected_logits, 1e-9)
    dx, dpast, grads = model.extend_backward(dlogits, None, cache)
    assert_same_grads(grads, dict(zip(names[1:], expected)), 1e-9)
    assert present == []
    assert dpast is None
    if x.ndim == 2:
        assert dx is expected_dx is None
    else:
        assert_close(dx, expected_dx, 1e-9)


def check_numerically(model, x):
    names = ["x", *model.params]

    def forward(x, *values):
        model.params = dict(zip(names[1:], values))
        logits, _, cache = model.extend_forward(x, None, training=True, rng=mm.backend.rng(7, np))
        return logits, cache

    def backward(dlogits, cache):
        dx, _, grads = model.extend_backward(dlogits, None, cache)
        return dx, *grads.values()

    report = mm.gradcheck(forward, backward, [x, *model.params.values()], names=names)
    assert report.ok, f"\n{report}"
    assert len(report.rows) == len(names) - (x.ndim == 2)
    assert report.max_relative_error <= 1e-6


@given(*[st.integers(1, 4)] * 5, st.booleans(), st.sampled_from([0.0, 0.3]), st.integers(0, 99))
@example(1, 1, 1, 1, 1, False, 0.0, 0)
@example(1, 1, 1, 1, 1, True, 0.0, 0)
@example(2, 3, 4, 1, 3, False, 0.3, 0)
@example(2, 3, 4, 3, 1, True, 0.3, 0)
@example(3, 2, 1, 4, 2, True, 0.0, 0)
@twenty_five_examples
def test_neural_logits_and_gradients(B, T, V, E, H, soft, dropout, seed):
    model, x = random_bigram(seed, V, E, H, dropout), some_input(V, B, T, soft, seed)
    check_against_autograd(model, x)
    p, onehots = model.params, x if soft else np.eye(V)[x]
    hidden = onehots @ p["embedding.weight"] @ p["hidden.weight"] + p["hidden.bias"]
    # a numerical derivative must not reach across the corner of ReLU
    assume(np.abs(hidden).min() > 0.003)
    check_numerically(model, x)


@given(*[st.integers(1, 4)] * 3, st.booleans())
@example(1, 1, 1, False)
@example(1, 1, 1, True)
@twenty_five_examples
def test_table_logits_and_gradients(B, T, V, soft):
    model, x = random_table(B + T, V), some_input(V, B, T, soft)
    check_against_autograd(model, x)
    check_numerically(model, x)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("shared_by", [1, 3])
def test_in_pieces_with_shared_prefixes_and_accumulated_gradients(shared_by, dropout):
    for model in (random_bigram(dropout=dropout), random_table()):
        report = check_pieces(model, rows=2, shared_by=shared_by)
        assert report.ok, f"\n{report}"
        assert report.max_relative_error <= 1e-6


@both
def test_exact_one_hots_are_ids(make):
    model, tokens = make(), some_input(5, 3, 4, soft=False)
    dlogits = np.random.default_rng(1).standard_normal((3, 4, 5))
    logits, _, cache = model.extend_forward(np.eye(5)[tokens])
    _, _, grads = model.extend_backward(dlogits, None, cache)
    expected_logits, cache = model.forward(tokens)
    assert_close(logits, expected_logits, 1e-12)
    assert_same_grads(grads, model.backward(dlogits, cache), 1e-12)


@both
def test_grads_accumulate(make):
    model, tokens = make(), some_input(5, 2, 4, soft=False)
    dlogits = np.random.default_rng(1).standard_normal((3, 2, 4, 5))
    separate = [model.backward(d, model.forward(tokens)[1]) for d in dlogits]
    expected = {name: sum(grads[name] for grads in separate) for name in model.params}
    grads = {}
    for d in dlogits:
        returned = model.backward(d, model.forward(tokens)[1], grads)
    assert_same_grads(returned, expected, 1e-12)
    assert all(grads[name] is returned[name] for name in expected)
    assert not any(
        np.shares_memory(a, b) for a in separate[0].values() for b in model.params.values()
    )


@both
@pytest.mark.parametrize("soft", [False, True], ids=["ids", "one-hots"])
def test_a_cache_serves_one_backward(make, soft):
    model = make()
    logits, cache = model.forward(some_input(5, 2, 3, soft))
    model.backward(np.ones_like(logits), cache)
    with pytest.raises(ValueError, match="cache has served a backward already; run forward again"):
        model.backward(np.ones_like(logits), cache)


@both
def test_float32_stays_float32(make):
    model = make(dtype="float32")
    for x in (np.eye(5, dtype="float32")[None], np.arange(5)[None]):
        logits, _, cache = model.extend_forward(x, None, training=True, rng=mm.backend.rng(0, np))
        dx, _, grads = model.extend_backward(np.ones_like(logits), None, cache)
        assert {a.dtype for a in (logits, dx, *grads.values()) if a is not None} == {
            np.dtype("float32")
        }


def test_dropout_acts_in_training_only():
    model, plain, tokens = (
        random_bigram(dropout=0.5, n_hidden=30),
        random_bigram(n_hidden=30),
        np.arange(5)[None],
    )
    expected, _ = plain.forward(tokens)
    np.testing.assert_array_equal(model.forward(tokens)[0], expected)
    first, again, other = (
        model.forward(tokens, training=True, rng=mm.backend.rng(s, np))[0] for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
    assert (first != expected).all()
    with pytest.raises(ValueError, match="rng"):
        model.forward(tokens, training=True)
    draws = [
        model.forward(tokens, training=True, rng=mm.backend.rng(s, np))[0] for s in range(4000)
    ]
    # above the last linear layer the mean is that without dropout
    error = np.mean(draws, axis=0) - expected
    assert (np.abs(error) < 5 * np.std(draws, axis=0) / math.sqrt(4000)).all()


# ---- a bigram is its table -----------------------------------------------------------------------


@both
def test_logits_depend_on_the_last_token_alone(make):
    model, tokens = make(), some_input(5, 3, 8, soft=False)
    logits, _ = model.forward(tokens)
    assert_close(logits, table_of(model)[tokens], 1e-12)
    for t in range(8):
        others = some_input(5, 3, 8, soft=False, seed=t + 1)
        others[:, t] = tokens[:, t]
        assert_close(model.forward(others)[0][:, t], logits[:, t], 1e-12)


def test_the_table_is_the_parameter():
    model = random_table()
    np.testing.assert_array_equal(table_of(model), model.params["logits"])
    copy = mm.TableBigram(6, device="cpu")
    copy.params["logits"] = table_of(random_bigram(vocab_size=6))
    np.testing.assert_array_equal(probs_of(copy), probs_of(random_bigram(vocab_size=6)))


@both
def test_any_number_of_positions_and_an_empty_past(make):
    model, tokens = make(), some_input(5, 2, 3000, soft=False)
    logits, present, _ = model.extend_forward(tokens)
    assert logits.shape == (2, 3000, 5)
    assert present == []
    first, past, _ = model.extend_forward(tokens[:, :10])
    second, _, _ = model.extend_forward(tokens[:, 10:], past)
    assert_close(np.concatenate([first, second], axis=1), logits, 1e-12)
    _, past, _ = random_gpt().extend_forward(tokens[:, :2])
    with pytest.raises(
        ValueError, match="past must be empty, because a bigram remembers nothing, got 2 layers"
    ):
        model.extend_forward(tokens, past)


# ---- generation ----------------------------------------------------------------------------------


@both
def test_generated_pairs_have_the_tables_frequencies(make):
    """Every pair of tokens within five standard deviations of its probability, in long rows."""
    model = make(seed=3)
    rows = model.generate(np.zeros((2000, 1), int), 30, seed=1)
    counts = np.zeros((5, 5))
    np.add.at(counts, (rows[:, :-1].ravel(), rows[:, 1:].ravel()), 1)
    n, probs = counts.sum(axis=1, keepdims=True), probs_of(model)
    assert n.min() > 100
    assert (np.abs(counts / n - probs) <= 5 * np.sqrt(probs * (1 - probs) / n)).all()


@both
def test_greedy_follows_the_likeliest_next_token(make):
    model = make(vocab_size=11)
    tokens, best = (
        model.generate(some_input(11, 4, 3, soft=False), 40, temperature=0),
        table_of(model).argmax(axis=1),
    )
    np.testing.assert_array_equal(tokens[:, 3:], best[tokens[:, 2:-1]])
    np.testing.assert_array_equal(model.generate(tokens[:, :3], 40, top_k=1, seed=5), tokens)


@both
def test_generate_stops_streams_and_follows_its_seed(make):
    model, prompt = make(), np.array([[2, 0], [0, 1], [1, 1]] * 5)
    options = {"temperature": 0.9, "top_k": 4, "top_p": 0.95, "stop": 1}
    first, again, other = (model.generate(prompt, 25, **options, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(
        np.stack(list(model.stream(prompt, 25, **options, seed=1)), axis=1), first[:, 2:]
    )
    ends = [[*row, 1].index(1) for row in first[:, 2:]]
    for row, end in zip(first[:, 2:], ends):
        assert (row[end:] == 1).all()
    assert min(ends) < 25
    with pytest.raises(ValueError, match="stop must be a token id in 0 … 4, got 5"):
        model.generate(prompt, 2, stop=5)


@both
def test_generation_feeds_one_token_at_a_time(make, monkeypatch):
    model, fed = make(), []
    extend_forward = model.extend_forward
    monkeypatch.setattr(
        model, "extend_forward", lambda x, *rest: (fed.append(x.shape), extend_forward(x, *rest))[1]
    )
    model.generate(np.zeros((2, 7), int), 50)
    assert fed == [(2, 7)] + [(2, 1)] * 49


# ---- saving --------------------------------------------------------------------------------------

CLASSES = {"minimixce-bigram": mm.Bigram, "minimixce-table-bigram": mm.TableBigram, "gpt2": mm.GPT}


@both
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_save_and_load_bit_for_bit(tmp_path, make, dtype):
    model = make(dtype=dtype)
    model.save(tmp_path / "new" / "m", boundary=np.int64(3))
    assert sorted(path.name for path in (tmp_path / "new" / "m").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    loaded = type(model).load(tmp_path / "new" / "m", device="cpu")
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    assert list(loaded.params) == list(model.params)
    for name, p in model.params.items():
        np.testing.assert_array_equal(loaded.params[name], p, strict=True)
        loaded.params[name] += 1  # writable, as training needs it
    config = json.loads((tmp_path / "new" / "m" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (3, 3)
    assert CLASSES[config["model_type"]] is type(model)
    model.save(tmp_path / "new" / "m", overwrite=True)
    assert json.loads((tmp_path / "new" / "m" / "config.json").read_text())["bos_token_id"] is None


def test_dropout_and_numpy_integers_are_saved(tmp_path):
    config = mm.BigramConfig(np.int64(5), np.int32(3), np.uint8(2), dropout=np.float32(0.25))
    mm.Bigram(config, device="cpu").save(tmp_path / "m")
    assert (
        mm.Bigram.load(tmp_path / "m", device="cpu").config
        == mm.BigramConfig(5, 3, 2, 0.25)
        == config
    )
    mm.TableBigram(np.int64(5), device="cpu").save(tmp_path / "t")
    assert mm.TableBigram.load(tmp_path / "t", device="cpu").config == TableBigramConfig(5)


@both
def test_load_converts_to_the_asked_dtype(tmp_path, make):
    model = make()
    model.save(tmp_path / "m")
    loaded = type(model).load(tmp_path / "m", device="cpu", dtype="float32")
    assert loaded.config.dtype == "float32"
    for name, p in model.params.items():
        np.testing.assert_array_equal(loaded.params[name], p.astype("float32"), strict=True)
    with pytest.raises(ValueError, match='dtype must be "float32" or "float64"'):
        type(model).load(tmp_path / "m", device="cpu", dtype="float16")


@both
def test_save_overwrites_only_when_told(tmp_path, make):
    first, second = make(1), make(2)
    first.save(tmp_path)
    with pytest.raises(FileExistsError, match="already holds a model"):
        second.save(tmp_path)
    with pytest.raises(FileExistsError, match="already holds a model"):
        random_gpt().save(tmp_path)
    np.testing.assert_array_equal(
        table_of(type(first).load(tmp_path, device="cpu")), table_of(first)
    )
    second.save(tmp_path, overwrite=True)
    np.testing.assert_array_equal(
        table_of(type(first).load(tmp_path, device="cpu")), table_of(second)
    )


@pytest.mark.parametrize("make", [random_bigram, random_table, random_gpt])
@pytest.mark.parametrize("wanted", CLASSES)
def test_another_model_is_refused_in_one_sentence(tmp_path, make, wanted):
    model = make()
    model.save(tmp_path)
    if CLASSES[wanted] is type(model):
        CLASSES[wanted].load(tmp_path, device="cpu")
        return
    saved = next(name for name, cls in CLASSES.items() if cls is type(model))
    with pytest.raises(
        ValueError, match=f"config.json: model_type='{saved}' is not supported, only '{wanted}'$"
    ):
        CLASSES[wanted].load(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": ...}, "model_type=None is not supported, only 'minimixce-bigram'"),
        ({"n_hidden": ...}, "lacks n_hidden"),
        ({"dropout": ...}, "lacks dropout"),
        ({"n_embd": "4"}, "n_embd must be an integer, got '4'"),
        ({"n_embd": 4.0}, r"n_embd must be an integer, got 4\.0"),
        ({"vocab_size": True}, "vocab_size must be an integer, got True"),
        ({"dropout": None}, "dropout must be a number, got None"),
        ({"dropout": 1}, "dropout must be at least 0 and below 1, got 1"),
        ({"n_hidden": 0}, "n_hidden must be at least 1, got 0"),
        ({"n_embd": 2_000_000_000}, r"embedding\.weight has shape \(5, 4\), but config\.json says"),
    ],
    ids=str,
)
def test_a_config_that_is_wrong_is_named(tmp_path, fields, message):
    random_bigram().save(tmp_path)
    forget_checksums(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | fields
    (tmp_path / "config.json").write_text(
        json.dumps({name: value for name, value in config.items() if value is not ...})
    )
    with pytest.raises(ValueError, match=message) as error:
        mm.Bigram.load(tmp_path, device="cpu")
    assert "\n" not in str(error.value)


def test_an_integer_is_a_rate(tmp_path):
    random_bigram().save(tmp_path)
    forget_checksums(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"dropout": 0}))
    assert mm.Bigram.load(tmp_path, device="cpu").config.dropout == 0.0


@both
def test_missing_and_corrupt_files(tmp_path, make):
    model, whole, folder = make(), tmp_path / "whole", tmp_path / "m"
    model.save(whole)

    def after(damage, error, message):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        damage()
        with pytest.raises(error, match=message) as found:
            type(model).load(folder, device="cpu")
        assert "\n" not in str(found.value)

    weights, config = folder / "model.safetensors", folder / "config.json"
    after(lambda: shutil.rmtree(folder), FileNotFoundError, "config.json does not exist")
    after(config.unlink, FileNotFoundError, "config.json does not exist")
    after(weights.unlink, FileNotFoundError, "holds no model.safetensors")
    after(lambda: config.write_text("{"), ValueError, "config.json is not a JSON file")
    after(
        lambda: weights.write_bytes(weights.read_bytes()[:-1]),
        ValueError,
        "not a safetensors file, or is cut short",
    )
    other = make(vocab_size=6)
    other.save(tmp_path / "other")
    forget_checksums(tmp_path / "other")
    after(
        lambda: shutil.copy(tmp_path / "other" / "model.safetensors", weights),
        ValueError,
        "has shape .* but config.json says",
    )
    random_gpt().save(tmp_path / "gpt")
    forget_checksums(tmp_path / "gpt")
    after(
        lambda: shutil.copy(tmp_path / "gpt" / "model.safetensors", weights),
        ValueError,
        "lacks the weights",
    )
    with pytest.raises(ValueError, match="is a file; give the folder"):
        type(model).load(whole / "config.json", device="cpu")


# ---- training ------------------------------------------------------------------------------------

TRANSITIONS = np.random.default_rng(5).dirichlet(np.full(6, 0.4), 6)


def chain(n, seed):
    """n tokens of the Markov chain of TRANSITIONS."""
    rng, cumulative = np.random.default_rng(seed), TRANSITIONS.cumsum(axis=1)
    tokens, uniform = np.zeros(n, int), rng.random(n)
    for t in range(1, n):
        tokens[t] = min((cumulative[tokens[t - 1]] <= uniform[t]).sum(), 5)
    return tokens


def new_model(kind, dropout=0.0):
    if kind == "table":
        return mm.TableBigram(6, device="cpu")
    return mm.Bigram(mm.BigramConfig(6, 8, 16, dropout), device="cpu")


@pytest.mark.parametrize("kind", ["neural", "table"])
def test_fit_learns_a_markov_chain(kind):
    batches, held_out = text.random_batches(chain(40_000, 0), 32, 32), chain(5000, 1)
    validation, model = text.consecutive_batches(held_out, 16, 32), new_model(kind)
    rate = 3e-2 if kind == "table" else 1e-2
    found = mm.fit(
        model,
        batches,
        mm.objectives.mle,
        steps=400,
        lr=rate,
        weight_decay=0,
        validation=validation,
        progress=False,
    )
    entropy = -np.log(TRANSITIONS[held_out[:-1], held_out[1:]]).mean()
    assert found[-1]["validation_mle"] == pytest.approx(entropy, abs=0.01)
    uniform = loss_of_uniform(mm.objectives.mle, 6)
    assert entropy < uniform - 0.3
    assert np.abs(probs_of(model) - TRANSITIONS).max() < 0.08


@pytest.mark.parametrize("kind", ["neural", "table"])
def test_a_run_resumes_bit_for_bit(tmp_path, kind):
    batches = [text.random_batches(chain(500, 0), 4, 9)[k] for k in range(20)]
    options = {
        "eval_every": 10,
        "validation": text.consecutive_batches(chain(200, 1), 4, 9),
        "lr": 1e-2,
        "progress": False,
    }

    def run(folder, batches, **more):
        model = new_model(kind, dropout=0.2)
        return (
            mm.fit(model, batches, folder=tmp_path / folder, boundary=0, **options, **more),
            model,
        )

    whole, model = run("whole", batches)
    run("cut", batches[:10])
    resumed, again = run("cut", batches, resume=True)
    for one, other in zip(whole, resumed, strict=True):
        assert {k: v for k, v in one.items() if k != "tokens_per_second"}.items() <= other.items()
    for name, p in model.params.items():
        np.testing.assert_array_equal(again.params[name], p)
        np.testing.assert_array_equal(
            type(model).load(tmp_path / "cut" / "last", device="cpu").params[name], p
        )


def test_shards_and_accumulation_work_alike():
    batch = text.consecutive_batches(chain(100, 0), 8, 10)[0]
    parts = [tuple(x[rows] for x in batch) for rows in (slice(0, 4), slice(4, 8))]
    runs = []
    for batches, options in (([batch], {}), ([batch], {"shards": 3}), (parts, {"accumulate": 2})):
        model = random_bigram(vocab_size=6)
        mm.fit(model, batches * 3, lr=1e-2, progress=False, **options)
        runs.append(model.params)
    for params in runs[1:]:
        assert_same_grads(params, runs[0], 1e-9)


# ---- on a device ---------------------------------------------------------------------------------


def moved(model, xp):
    model.params = {name: xp.asarray(p) for name, p in model.params.items()}
    return model


@both
@pytest.mark.parametrize("soft", [False, True], ids=["ids", "one-hots"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_steps_on_a_device_equal_numpys_and_never_wait(make, soft, dtype):
    def train(xp):
        model = moved(make(dtype=dtype, **({"dropout": 0.3} if make is random_bigram else {})), xp)
        x, targets = some_input(5, 3, 4, soft), xp.asarray(some_input(5, 3, 4, soft=False, seed=1))
        x, rng = xp.asarray(x.astype(dtype) if soft else x), mm.backend.rng(0, xp)
        optimizer, grads = mm.AdamW(model.params, lr=0.01, eps=1e-3), None
        for _ in range(2):
            logits, _, cache = model.extend_forward(x, None, True, rng)
            loss, dlogits = mm.objectives.mixce(logits, targets)
            dx, _, grads = model.extend_backward(dlogits, None, cache, grads)
            optimizer.step(grads)
        return {**model.params, **grads, "logits now": logits, "loss": loss} | (
            {"dx": dx} if soft else {}
        )

    with sd.no_host_reads():
        on_device = train(sd)
    expected = train(np)
    for name, value in on_device.items():
        assert type(value) is sd.ndarray
        assert value.dtype == expected[name].dtype
        np.testing.assert_allclose(
            value.get(), expected[name], rtol=0, atol=20 * np.finfo(dtype).eps, err_msg=name
        )


@both
def test_generation_on_a_device_equals_numpys_and_never_waits(make):
    prompt = some_input(5, 4, 2, soft=False)
    with sd.no_host_reads():
        on_device = moved(make(), sd).generate(sd.asarray(prompt), 9, top_k=4, top_p=0.9, seed=4)
    np.testing.assert_array_equal(
        on_device.get(), make().generate(prompt, 9, top_k=4, top_p=0.9, seed=4)
    )


@both
def test_models_are_made_saved_and_loaded_on_a_device(make, monkeypatch, tmp_path):
    monkeypatch.setattr(
        mm.backend, "select_device", lambda device="auto": np if device == "cpu" else sd
    )
    made = (
        mm.TableBigram(5, device="cuda")
        if make is random_table
        else mm.Bigram(mm.BigramConfig(5), device="cuda")
    )
    assert made.xp is sd
    model = moved(make(), sd)
    model.save(tmp_path)
    loaded = type(model).load(tmp_path, device="cuda")
    for name, p in loaded.params.items():
        assert type(p) is sd.ndarray
        np.testing.assert_array_equal(p.get(), model.params[name].get())


@both
@pytest.mark.parametrize(
    ("model_xp", "data_xp"), [(sd, np), (np, sd)], ids=["NumPy to device", "device to NumPy"]
)
def test_mixing_devices_raises_type_error(make, model_xp, data_xp):
    model = moved(make(), model_xp)
    for soft in (False, True):
        with pytest.raises(TypeError, match="same device"):
            model.forward(data_xp.asarray(some_input(5, 2, 3, soft)))
    _, cache = model.forward(model_xp.asarray(some_input(5, 2, 3, soft=False)))
    with pytest.raises(TypeError):
        model.backward(data_xp.asarray(np.ones((2, 3, 5))), cache)


# ---- complaints ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vocab_size", "n_embd", "n_hidden"])
@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), (True, TypeError), (4.0, TypeError)]
)
def test_config_sizes(name, value, error):
    with pytest.raises(error, match=rf"{name} must be .*got {value}"):
        mm.BigramConfig(**({"vocab_size": 5} | {name: value}))
    if name == "vocab_size":
        with pytest.raises(error, match=rf"{name} must be .*got {value}"):
            mm.TableBigram(value, device="cpu")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dropout": -0.1}, "dropout.*-0.1"),
        ({"dropout": 1.0}, "dropout.*1.0"),
        ({"dropout": math.nan}, "dropout.*nan"),
        ({"dropout": "0"}, "dropout.*'0'"),
        ({"dtype": "float16"}, "dtype.*float16"),
        ({"dtype": np.float32}, "dtype.*float32"),
    ],
)
def test_config_values(fields, words):
    with pytest.raises(ValueError, match=words):
        mm.BigramConfig(5, **fields)
    if "dtype" in fields:
        with pytest.raises(ValueError, match=words):
            mm.TableBigram(5, device="cpu", **fields)


@both
@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.array([[0, 5]]), "0 … 4, got 0 … 5"),
        (np.array([[-1, 2]]), "0 … 4, got -1 … 2"),
        (np.array([1, 2]), r"\(B,T\)"),
        (np.zeros((1, 2, 5), int), r"\(B,T\)"),
        (np.zeros((2, 0), int), "at least one position"),
        (np.zeros((2, 3)), r"float64 one-hots \(B,T,5\)"),
        (np.zeros((2, 3, 4)), r"float64 one-hots \(B,T,5\)"),
        (np.zeros((2, 3, 5), "float32"), "float64 one-hots.*got float32"),
        (np.zeros((2, 3), bool), "integer ids.*got bool"),
        (np.zeros((0, 3), int), "row"),
    ],
    ids=["too large", "−1", "one axis", "three axes", "T=0", "floats", "V", "dtype", "bool", "B=0"],
)
def test_forward_names_what_is_wrong_with_its_input(make, x, words):
    with pytest.raises(ValueError, match=words):
        make().forward(x)


# ---- the same model in PyTorch -------------------------------------------------------------------


@pytest.mark.parity
@pytest.mark.parametrize("soft", [False, True], ids=["ids", "one-hots"])
@pytest.mark.parametrize("sizes", [(5, 1, 1), (20, 50, 50)])
def test_parity_with_pytorch(sizes, soft):
    torch = pytest.importorskip("torch")
    V, E, H = sizes
    torch.manual_seed(0)
    embedding, hidden, output = (
        torch.nn.Embedding(V, E),
        torch.nn.Linear(E, H),
        torch.nn.Linear(H, V),
    )
    theirs = (
        torch.nn.Sequential(embedding, hidden, torch.nn.ReLU(), torch.nn.Dropout(0.1), output)
        .double()
        .eval()
    )
    ours = mm.Bigram(mm.BigramConfig(V, E, H, dropout=0.1, dtype="float64"), device="cpu")

    def in_our_layout(embedding, *linear):
        # PyTorch keeps a linear layer's weight as (out, in)
        arrays = [embedding, *(a.T if a.ndim == 2 else a for a in linear)]
        return {name: a.detach().numpy().copy() for name, a in zip(ours.params, arrays)}

    ours.params = in_our_layout(*theirs.parameters())
    x, targets = some_input(V, 4, 7, soft), some_input(V, 4, 7, soft=False, seed=1)
    their_x = torch.tensor(x, requires_grad=soft)
    their_logits = theirs[1:](their_x @ embedding.weight) if soft else theirs(their_x)
    their_loss = torch.nn.functional.cross_entropy(
        their_logits.reshape(-1, V), torch.tensor(targets).reshape(-1)
    )
    their_loss.backward()
    logits, _, cache = ours.extend_forward(x)
    loss, dlogits = mm.objectives.mle(logits, targets)
    dx, _, grads = ours.extend_backward(dlogits, None, cache)
    assert_close(logits, their_logits.detach().numpy(), 1e-9)
    assert float(loss) == pytest.approx(their_loss.item(), rel=1e-9)
    assert_same_grads(grads, in_our_layout(*(p.grad for p in theirs.parameters())), 1e-9)
    if soft:
        assert_close(dx, their_x.grad.numpy(), 1e-9)
