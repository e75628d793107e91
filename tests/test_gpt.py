"""GPT: initialisation, forward and backward whole and in pieces, generation, saving, and its
complaints.

The oracle for values and gradients is a naive GPT under HIPS autograd; for generation, full forward
passes.
"""

import json
import math

import numpy as np
import pytest
from helpers import (
    assert_close,
    assert_same_grads,
    autograd_oracle,
    check_pieces,
    naive_gpt,
    random_gpt,
    twenty_five_examples,
)
from hypothesis import example, given
from hypothesis import strategies as st

import minimixce as mm
from minimixce.kv import KV


def ids(model, B, T, seed=0):
    return np.random.default_rng(seed).integers(0, model.config.vocab_size, (B, T))


# ---- initialisation ------------------------------------------------------------------------------


def test_parameters_have_gpt2s_names_and_shapes_in_its_order():
    V, T, C = 11, 7, 6
    expected = {"wte.weight": (V, C), "wpe.weight": (T, C)}
    for i in range(2):
        expected |= {
            f"h.{i}.ln_1.weight": (C,),
            f"h.{i}.ln_1.bias": (C,),
            f"h.{i}.attn.c_attn.weight": (C, 3 * C),
            f"h.{i}.attn.c_attn.bias": (3 * C,),
            f"h.{i}.attn.c_proj.weight": (C, C),
            f"h.{i}.attn.c_proj.bias": (C,),
            f"h.{i}.ln_2.weight": (C,),
            f"h.{i}.ln_2.bias": (C,),
            f"h.{i}.mlp.c_fc.weight": (C, 4 * C),
            f"h.{i}.mlp.c_fc.bias": (4 * C,),
            f"h.{i}.mlp.c_proj.weight": (4 * C, C),
            f"h.{i}.mlp.c_proj.bias": (C,),
        }
    expected |= {"ln_f.weight": (C,), "ln_f.bias": (C,)}
    model = mm.GPT(mm.GPTConfig(V, T, 2, 3, C), device="cpu")
    assert [(name, p.shape) for name, p in model.params.items()] == list(expected.items())
    assert model.num_params == sum(math.prod(shape) for shape in expected.values())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_initial_values(dtype):
    model = mm.GPT(
        mm.GPTConfig(100, 100, n_layer=3, n_head=2, n_embd=64, dtype=dtype), device="cpu"
    )
    for name, p in model.params.items():
        assert p.dtype == dtype
        if name.endswith("bias"):
            assert (p == 0).all(), name
        elif "ln_" in name:
            assert (p == 1).all(), name
        else:
            std = 0.02 / math.sqrt(6) if "c_proj" in name else 0.02
            assert abs(p.std() / std - 1) < 5 / math.sqrt(2 * p.size), name
            assert abs(p.mean()) < 5 * std / math.sqrt(p.size), name


def test_the_seed_decides_the_parameters():
    config = mm.GPTConfig(5, 4, 1, 1, 4)
    first, again, other = (mm.GPT(config, seed=seed, device="cpu").params for seed in (1, 1, 2))
    for name, p in first.items():
        np.testing.assert_array_equal(p, again[name])
    assert (first["wte.weight"] != other["wte.weight"]).all()


# ---- forward and backward ------------------------------------------------------------------------


@given(*[st.integers(1, 3)] * 5, st.integers(1, 5), st.integers(0, 2), st.sampled_from([0.0, 0.3]))
@example(1, 1, 1, 1, 1, 1, 0, 0.0)
@example(1, 3, 1, 2, 1, 4, 1, 0.0)
@example(2, 1, 3, 1, 3, 5, 0, 0.0)
@example(2, 4, 2, 3, 2, 5, 2, 0.0)
@example(2, 4, 2, 3, 2, 5, 2, 0.3)
@twenty_five_examples
def test_logits_and_gradients_equal_a_naive_gpt_under_autograd(
    B, T, n_layer, H, D, V, spare, dropout
):
    model = random_gpt(B + T, V, T + spare, n_layer, H, H * D, dropout)
    tokens = ids(model, B, T)
    dlogits = np.random.default_rng(1).standard_normal((B, T, V))
    names = list(model.params)

    def naive(*values):
        return naive_gpt(dict(zip(names, values)), tokens, model.config, np.random.default_rng(7))

    expected_logits, expected = autograd_oracle(naive, list(model.params.values()), dlogits)
    logits, cache = model.forward(tokens, training=True, rng=mm.backend.rng(7, np))
    assert_close(logits, expected_logits, 1e-9)
    assert_same_grads(model.backward(dlogits, cache), dict(zip(names, expected)), 1e-9)


def test_logits_of_a_prefix_are_the_prefix_of_the_logits():
    model = random_gpt(block_size=8)
    tokens = ids(model, 3, 8)
    logits, _ = model.forward(tokens)
    for T in range(1, 9):
        assert_close(model.forward(tokens[:, :T])[0], logits[:, :T], 1e-12)
        other_future = tokens.copy()
        other_future[:, T:] = (other_future[:, T:] + 1) % 5
        np.testing.assert_array_equal(model.forward(other_future)[0][:, :T], logits[:, :T])


@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([1, 1, 2, 3])), min_size=2, max_size=3),
    st.integers(1, 2),
    st.integers(0, 99),
)
@example([(2, 1), (3, 1)], 2, 0)
@example([(1, 1), (3, 1), (2, 1)], 2, 1)
@example([(2, 1), (3, 2), (1, 3)], 1, 2)
@twenty_five_examples
def test_sequences_in_pieces_and_with_shared_prefixes(pieces, rows, seed):
    """Pieces of (T, G): each row of the previous piece is continued by G rows. Against all
    sequences in full, where a shared prefix is repeated and its dlogits stand at the first of its
    repetitions.
    """
    rng = np.random.default_rng(seed)
    model = random_gpt(seed, block_size=9, n_embd=8)
    pieces[0] = pieces[0][0], 1
    batch = rows * math.prod(G for _, G in pieces)

    past, caches, in_pieces, whole_tokens, dlogits, whole_dlogits = None, [], [], [], [], []
    for T, G in pieces:
        rows *= G
        tokens, dpiece = rng.integers(0, 5, (rows, T)), rng.standard_normal((rows, T, 5))
        piece_logits, past, cache = model.extend_forward(tokens, past)
        caches.append(cache)
        dlogits.append(dpiece)
        in_pieces.append(np.repeat(piece_logits, batch // rows, axis=0))
        whole_tokens.append(np.repeat(tokens, batch // rows, axis=0))
        first = np.zeros((batch, T, 5))
        first[:: batch // rows] = dpiece
        whole_dlogits.append(first)

    logits, present, cache = model.extend_forward(np.concatenate(whole_tokens, axis=1))
    assert_close(np.concatenate(in_pieces, axis=1), logits, 1e-12)
    dpresent = [
        KV(rng.standard_normal(kv.k.shape), rng.standard_normal(kv.v.shape)) for kv in present
    ]
    for got, want in zip(past, present, strict=True):
        assert_close(got.k, want.k, 1e-12)
        assert_close(got.v, want.v, 1e-12)

    dx, dpast, expected = model.extend_backward(
        np.concatenate(whole_dlogits, axis=1), dpresent, cache
    )
    assert dx is None
    assert dpast is None
    grads = {}
    for dpiece, cache in zip(reversed(dlogits), reversed(caches)):
        dx, dpresent, returned = model.extend_backward(dpiece, dpresent, cache, grads)
        assert dx is None
    assert dpresent is None
    assert_same_grads(returned, expected, 1e-12)
    assert all(grads[name] is returned[name] for name in expected)


@pytest.mark.parametrize("shared_by", [1, 2, 3])
def test_gradients_into_soft_inputs_and_past(shared_by):
    model = random_gpt(n_layer=2, vocab_size=4)
    report = check_pieces(
        model, rows=2, shared_by=shared_by, names=["wte.weight", "h.0.ln_1.bias"], coordinates=30
    )
    assert report.max_relative_error <= 1e-6, f"\n{report}"


def test_exact_one_hots_are_ids():
    model = random_gpt()
    tokens = ids(model, 3, 4)
    dlogits = np.random.default_rng(1).standard_normal((3, 4, 5))
    logits, _, cache = model.extend_forward(np.eye(5)[tokens])
    dx, _, grads = model.extend_backward(dlogits, None, cache)
    expected_logits, cache = model.forward(tokens)
    assert dx.shape == (3, 4, 5)
    assert_close(logits, expected_logits, 1e-12)
    assert_same_grads(grads, model.backward(dlogits, cache), 1e-12)


def test_grads_accumulate():
    model = random_gpt()
    tokens, dlogits = ids(model, 2, 4), np.random.default_rng(1).standard_normal((3, 2, 4, 5))
    separate = [model.backward(d, model.forward(tokens)[1]) for d in dlogits]
    expected = {name: sum(grads[name] for grads in separate) for name in model.params}
    grads = {}
    for d in dlogits:
        returned = model.backward(d, model.forward(tokens)[1], grads)
    assert_same_grads(returned, expected, 1e-12)
    assert all(grads[name] is returned[name] for name in expected)
    fresh = model.backward(dlogits[0], model.forward(tokens)[1])
    assert not any(np.shares_memory(a, b) for a in fresh.values() for b in model.params.values())


def test_a_cache_serves_one_backward():
    model = random_gpt()
    logits, cache = model.forward(ids(model, 2, 3))
    model.backward(np.ones_like(logits), cache)
    with pytest.raises(ValueError, match="cache has served a backward already"):
        model.backward(np.ones_like(logits), cache)


def test_float32_stays_float32():
    model = random_gpt(dropout=0.1, dtype="float32")
    onehots = np.eye(5, dtype="float32")[ids(model, 2, 3)]
    _, past, first = model.extend_forward(onehots, None, training=True, rng=mm.backend.rng(0, np))
    logits, present, cache = model.extend_forward(
        onehots, past, training=True, rng=mm.backend.rng(1, np)
    )
    dx, dpast, grads = model.extend_backward(np.ones_like(logits), present, cache)
    dx_1, _, grads = model.extend_backward(np.ones_like(logits), dpast, first, grads)
    arrays = [
        logits,
        dx,
        dx_1,
        *grads.values(),
        *(x for kv in (*past, *present, *dpast) for x in kv),
    ]
    assert {x.dtype for x in arrays} == {np.dtype("float32")}


def test_dropout_acts_in_training_only():
    model, plain = random_gpt(dropout=0.3), random_gpt(dropout=0.0)
    tokens = ids(model, 2, 4)
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


def test_one_batch_can_be_learned_by_heart():
    model = mm.GPT(
        mm.GPTConfig(vocab_size=12, block_size=8, n_layer=2, n_head=2, n_embd=32), device="cpu"
    )
    rows = ids(model, 6, 9)
    rows[:, 0] = range(6)
    optimizer = mm.AdamW(model.params, lr=1e-2, weight_decay=0.0)
    losses = []
    for _ in range(120):
        logits, cache = model.forward(rows[:, :-1])
        loss, dlogits = mm.objectives.mle(logits, rows[:, 1:])
        optimizer.step(model.backward(dlogits, cache))
        losses.append(float(loss))
    assert abs(losses[0] - math.log(12)) < 0.1
    assert losses[-1] < 0.01


# ---- generation ----------------------------------------------------------------------------------


def naive_greedy(model, prompt, n):
    """One full forward pass a token. When all block_size positions were used, the last
    block_size//2 tokens stay.
    """
    block_size, tokens = model.config.block_size, prompt
    window = prompt[:, -block_size:]
    for _ in range(n):
        token = model.forward(window)[0][:, -1].argmax(axis=-1)[:, None]
        tokens = np.concatenate([tokens, token], axis=1)
        full = window.shape[1] == block_size
        window = np.concatenate([window, token], axis=1)
        if full:
            window = window[:, -max(1, block_size // 2) :]
    return tokens


@pytest.mark.parametrize("block_size", [1, 2, 5, 8])
@pytest.mark.parametrize("prompt_length", [1, 4, 8, 11])
def test_greedy_equals_full_forward_passes(block_size, prompt_length):
    """Within the window, beyond it, and from prompts longer than it; a whole batch and each of its
    rows alone.
    """
    model = random_gpt(block_size, vocab_size=11, block_size=block_size)
    prompt = ids(model, 3, prompt_length)
    tokens = model.generate(prompt, 20, temperature=0)
    assert tokens.shape == (3, prompt_length + 20)
    assert tokens.dtype == prompt.dtype
    np.testing.assert_array_equal(tokens, naive_greedy(model, prompt, 20))
    for row in range(3):
        np.testing.assert_array_equal(
            model.generate(prompt[row : row + 1], 20, temperature=0)[0], tokens[row]
        )
    np.testing.assert_array_equal(model.generate(prompt, 20, top_k=1, seed=1), tokens)
    np.testing.assert_array_equal(model.generate(prompt, 20, top_p=1e-9, seed=2), tokens)


def allowed_probs(logits, temperature=1.0, top_k=None, top_p=None):
    probs = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    order = np.argsort(-probs)
    if top_k is not None:
        probs[order[top_k:]] = 0
        probs /= probs.sum()
    if top_p is not None:
        size = next(
            n
            for n in range(1, len(probs) + 1)
            if n == len(probs) or probs[order[:n]].sum() >= top_p
        )
        probs[order[size:]] = 0
    return probs / probs.sum()


@pytest.mark.parametrize(
    ("options", "support"),
    [
        ({}, 7),
        ({"temperature": 0.5}, 7),
        ({"temperature": 3.0}, 7),
        ({"top_k": 3}, 3),
        ({"top_k": 3, "temperature": 0.5}, 3),
        ({"top_k": 99}, 7),
        ({"top_p": 0.6}, None),
        ({"top_p": 1.0}, 7),
        ({"top_p": 0.9, "top_k": 4, "temperature": 1.5}, None),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sampled_frequencies(options, support, dtype):
    """Every token within five standard deviations of its probability, and tokens outside the
    allowed set never.
    """
    model, n = random_gpt(seed=2, vocab_size=7, block_size=2, dtype=dtype), 20_000
    for token in (0, 3):
        probs = allowed_probs(
            model.forward(np.array([[token]]))[0][0, 0].astype("float64"), **options
        )
        assert (probs > 0).sum() == support or (support is None and 1 < (probs > 0).sum() < 7)
        drawn = model.generate(np.full((n, 1), token), 1, **options, seed=1)[:, 1]
        frequencies = np.bincount(drawn, minlength=7) / n
        assert (frequencies[probs == 0] == 0).all()
        assert (np.abs(frequencies - probs) <= 5 * np.sqrt(probs * (1 - probs) / n)).all()


def test_a_row_that_met_stop_is_filled_with_it():
    """Up to its stop a row is what it would have been without one; a stop inside the prompt does
    not count.
    """
    model, stop = random_gpt(vocab_size=4), 2
    prompt = np.full((8, 2), stop)
    free = model.generate(prompt, 12, seed=1)
    tokens = model.generate(prompt, 12, stop=stop, seed=1)
    met = 0
    for row, free_row in zip(tokens[:, 2:], free[:, 2:]):
        end = list(free_row).index(stop) if stop in free_row else 12
        met += end < 11
        np.testing.assert_array_equal(row[:end], free_row[:end])
        assert (row[end:] == stop).all()
    assert met > 4
    only = random_gpt(vocab_size=1)
    np.testing.assert_array_equal(only.generate(np.array([[0]]), 9, stop=0), np.zeros((1, 10)))


def test_generate_follows_its_seed_and_stream_agrees():
    model = random_gpt()
    prompt = ids(model, 3, 2)
    kept = prompt.copy()
    options = {"temperature": 0.9, "top_k": 4, "top_p": 0.95, "stop": 1}
    first, again, other = (model.generate(prompt, 15, **options, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(prompt, kept)
    np.testing.assert_array_equal(first[:, :2], prompt)
    np.testing.assert_array_equal(
        np.stack(list(model.stream(prompt, 15, **options, seed=1)), axis=1), first[:, 2:]
    )
    np.testing.assert_array_equal(
        model.generate(prompt, 15, **options, seed=mm.backend.rng(1, np)), first
    )
    np.testing.assert_array_equal(model.generate(prompt, 0), prompt)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32"])
def test_prompts_of_narrow_integers(dtype):
    """Either every token fits the prompt's dtype, or the answer is of a wider one: ids never wrap
    around.
    """
    model = random_gpt(vocab_size=300)
    prompt = np.zeros((4, 1), dtype)
    np.testing.assert_array_equal(
        model.generate(prompt, 9, seed=3), model.generate(prompt.astype("int64"), 9, seed=3)
    )


# ---- saving --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_save_and_load_bit_for_bit(tmp_path, dtype):
    model = random_gpt(dropout=0.25, dtype=dtype)
    model.save(tmp_path / "new" / "folder", boundary=3)
    loaded = mm.GPT.load(tmp_path / "new" / "folder", device="cpu")
    assert loaded.config == model.config
    assert list(loaded.params) == list(model.params)
    for name, p in model.params.items():
        assert loaded.params[name].dtype == dtype
        np.testing.assert_array_equal(loaded.params[name], p)
        loaded.params[name] += 1  # writable, as training needs it
    config = json.loads((tmp_path / "new" / "folder" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (3, 3)


def test_load_converts_to_the_asked_dtype(tmp_path):
    model = random_gpt()
    model.save(tmp_path / "m")
    loaded = mm.GPT.load(tmp_path / "m", device="cpu", dtype="float32")
    assert loaded.config.dtype == "float32"
    for name, p in model.params.items():
        np.testing.assert_array_equal(loaded.params[name], p.astype("float32"))


def test_save_overwrites_only_when_told(tmp_path):
    first, second = random_gpt(1), random_gpt(2)
    first.save(tmp_path / "m")
    with pytest.raises(FileExistsError, match="already holds a model"):
        second.save(tmp_path / "m")
    np.testing.assert_array_equal(
        mm.GPT.load(tmp_path / "m", device="cpu").params["wte.weight"], first.params["wte.weight"]
    )
    second.save(tmp_path / "m", overwrite=True)
    np.testing.assert_array_equal(
        mm.GPT.load(tmp_path / "m", device="cpu").params["wte.weight"], second.params["wte.weight"]
    )


def test_a_config_of_numpy_integers_works_throughout(tmp_path):
    config = mm.GPTConfig(*(np.int64(n) for n in (5, 4, 1, 2, 4)), dropout=np.float32(0.5))
    model = mm.GPT(config, device="cpu")
    model.save(tmp_path / "m", boundary=np.int64(0))
    assert mm.GPT.load(tmp_path / "m", device="cpu").config == config


# ---- complaints ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vocab_size", "block_size", "n_layer", "n_head", "n_embd"])
@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), (True, TypeError), (4.0, TypeError)]
)
def test_config_sizes(name, value, error):
    sizes = {"vocab_size": 5, "block_size": 4, "n_layer": 1, "n_head": 1, "n_embd": 4, name: value}
    with pytest.raises(error, match=rf"{name} must be .*got {value}"):
        mm.GPTConfig(**sizes)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n_head": 3}, "n_embd must be a multiple of n_head.*n_embd=4 and n_head=3"),
        ({"dropout": -0.1}, "dropout.*-0.1"),
        ({"dropout": 1.0}, "dropout.*1.0"),
        ({"dropout": math.nan}, "dropout.*nan"),
        ({"dtype": "float16"}, "dtype.*float16"),
        ({"dtype": np.float32}, "dtype.*float32"),
    ],
)
def test_config_values(fields, words):
    with pytest.raises(ValueError, match=words):
        mm.GPTConfig(
            **({"vocab_size": 5, "block_size": 4, "n_layer": 1, "n_head": 1, "n_embd": 4} | fields)
        )


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.array([[0, 5]]), "0 … 4, got 0 … 5"),
        (np.array([[-1, 2]]), "0 … 4, got -1 … 2"),
        (np.array([1, 2]), r"\(B,T\)"),
        (np.zeros((1, 2, 5), int), r"\(B,T\)"),
        (np.zeros((2, 0), int), "0 positions"),
        (np.zeros((2, 7), int), "7 positions.*block_size 6"),
        (np.zeros((2, 3)), r"float64 one-hots \(B,T,5\)"),
        (np.zeros((2, 3, 4)), r"float64 one-hots \(B,T,5\)"),
        (np.zeros((2, 3, 5), "float32"), "float64 one-hots.*got float32"),
        (np.zeros((2, 3), bool), "integer ids.*got bool"),
        (np.zeros((0, 3), int), "row"),
    ],
    ids=[
        "too large",
        "−1",
        "one axis",
        "three axes",
        "T=0",
        "T > block_size",
        "floats",
        "V",
        "dtype",
        "bool",
        "B=0",
    ],
)
def test_forward_names_what_is_wrong_with_its_input(x, words):
    with pytest.raises(ValueError, match=words):
        random_gpt().forward(x)


def test_extend_forward_names_what_is_wrong_with_its_past():
    model = random_gpt()
    _, past, _ = model.extend_forward(np.zeros((2, 4), int))
    with pytest.raises(ValueError, match="3 rows of input cannot share 2 rows of past"):
        model.extend_forward(np.zeros((3, 1), int), past)
    with pytest.raises(ValueError, match="3 positions after 4 does not fit block_size 6"):
        model.extend_forward(np.zeros((2, 3), int), past)


def test_a_list_is_not_an_array():
    with pytest.raises(TypeError, match="array, got list"):
        random_gpt().forward([[1, 2]])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens.*-1"),
        ({"temperature": -1.0}, "temperature.*-1.0"),
        ({"temperature": math.nan}, "temperature.*nan"),
        ({"temperature": math.inf}, "temperature.*inf"),
        ({"top_k": 0}, "top_k.*0"),
        ({"top_p": 0.0}, "top_p.*0.0"),
        ({"top_p": 1.5}, "top_p.*1.5"),
        ({"seed": -1}, "seed.*-1"),
        ({"stop": 5}, "stop.*5"),
        ({"stop": -1}, "stop.*-1"),
        ({"prompt": np.array([1, 2])}, r"\(B,T"),
        ({"prompt": np.zeros((1, 2, 5))}, r"\(B,T"),
        ({"prompt": np.zeros((1, 0), int)}, "0 positions"),
        ({"prompt": np.array([[5]])}, "0 … 4, got 5 … 5"),
    ],
    ids=lambda value: (
        " ".join(map(str, value.items())).replace("\n", "") if isinstance(value, dict) else ""
    ),
)
def test_generate_names_what_is_wrong(options, words):
    with pytest.raises(ValueError, match=words):
        random_gpt().generate(**({"prompt": np.array([[1, 2]]), "max_new_tokens": 3} | options))


def test_a_past_can_be_extended_twice_and_grows_without_copies():
    model = random_gpt(block_size=12)
    tokens = np.random.default_rng(0).integers(0, 5, (2, 9))
    _, past, _ = model.extend_forward(tokens[:, :3])
    _, past, _ = model.extend_forward(tokens[:, 3:5], past)  # from here on there is room to grow
    _, longer, _ = model.extend_forward(tokens[:, 5:6], past)
    assert np.shares_memory(longer[0].k, past[0].k)
    branch = (tokens[:, 5:9] + 1) % 5
    a, _, _ = model.extend_forward(branch, past)
    b, _, _ = model.extend_forward(tokens[:, 6:9], longer)
    np.testing.assert_allclose(
        a, model.forward(np.concatenate([tokens[:, :5], branch], axis=1))[0][:, 5:], atol=1e-12
    )
    np.testing.assert_allclose(b, model.forward(tokens)[0][:, 6:], atol=1e-12)


def test_a_config_is_needed():
    with pytest.raises(TypeError, match="config must be a GPTConfig, got int"):
        mm.GPT(6)
    with pytest.raises(TypeError, match="config must be a BigramConfig, got int"):
        mm.Bigram(6)
    with pytest.raises(TypeError, match="objective must be a function"):
        mm.fit(random_gpt(), [], "mle", progress=False)
