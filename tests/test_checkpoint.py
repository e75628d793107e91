"""The Hugging Face GPT-2 folder: round trips, the forms it comes in, and every way in which it can
be wrong.
"""

import dataclasses
import json
import os
import struct

import numpy as np
import pytest
from helpers import forget_checksums
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import minimixce as mm
from minimixce.storage import files

CONFIG = mm.GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=2, n_embd=4, dropout=0.1)
TOKENS = np.array([[0, 3, 1], [4, 4, 2]])


def gpt(dtype="float32"):
    """A small GPT; its parameters are halves and quarters, which every floating dtype holds
    exactly.
    """
    model, rng = (
        mm.GPT(dataclasses.replace(CONFIG, dtype=dtype), device="cpu"),
        np.random.default_rng(0),
    )
    model.params = {
        name: (rng.integers(-7, 8, p.shape) / 4).astype(dtype) for name, p in model.params.items()
    }
    return model


@pytest.fixture
def folder(tmp_path):
    gpt().save(tmp_path / "model")
    return tmp_path / "model"


def load(folder, **options):
    return mm.GPT.load(folder, device="cpu", **options)


def assert_same_model(loaded, dtype="float32"):
    model = gpt()
    assert loaded.config == dataclasses.replace(CONFIG, dtype=dtype)
    assert list(loaded.params) == list(model.params)
    for name, p in loaded.params.items():
        assert p.dtype == dtype
        np.testing.assert_array_equal(p, model.params[name], err_msg=name)


def set_config(folder, **fields):
    forget_checksums(folder)
    config = json.loads((folder / "config.json").read_text())
    # ... removes a field
    config = {name: value for name, value in {**config, **fields}.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(config))


def tensors_of(folder):
    return load_file(folder / "model.safetensors")


def write_safetensors(path, tensors):
    """The format by hand, {name: (dtype, shape, bytes)}, for what the library would not write."""
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def assert_one_sentence(error, *names):
    message = str(error.value)
    assert message.strip() == message != ""
    assert "\n" not in message
    for name in names:
        assert str(name) in message


# ---- round trips and forms -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trip(tmp_path, dtype):
    model = gpt(dtype)
    model.params["wte.weight"] += np.array(1, dtype) / 3  # not exact in fewer bits
    model.save(tmp_path / "new" / "folder", boundary=4)
    loaded = load(tmp_path / "new" / "folder")
    assert loaded.config == model.config
    for name, p in model.params.items():
        np.testing.assert_array_equal(loaded.params[name], p, strict=True)
    np.testing.assert_array_equal(loaded.forward(TOKENS)[0], model.forward(TOKENS)[0])
    config = json.loads((tmp_path / "new" / "folder" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (4, 4)
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    optimizer = mm.AdamW(loaded.params, lr=0.1)  # the arrays are the model's own and can be trained
    optimizer.step({name: np.ones_like(p) for name, p in loaded.params.items()})


def test_dtype_on_loading(tmp_path, folder):
    assert_same_model(load(folder, dtype="float64"), "float64")
    gpt("float64").save(tmp_path / "64")
    assert_same_model(load(tmp_path / "64"), "float64")
    assert_same_model(load(tmp_path / "64", dtype="float32"))
    with pytest.raises(ValueError, match='dtype must be "float32" or "float64", got \'float16\''):
        load(folder, dtype="float16")


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_names_with_and_without_prefix_in_every_precision(folder, prefix, dtype):
    tensors = {prefix + name: p.astype(dtype) for name, p in gpt().params.items()}
    save_file(tensors, folder / "model.safetensors")
    assert_same_model(load(folder), "float64" if dtype == "float64" else "float32")


def test_bfloat16(folder):
    raw = {name: (p.view("<u4") >> 16).astype("<u2") for name, p in gpt().params.items()}
    write_safetensors(
        folder / "model.safetensors", {n: ("BF16", x.shape, x.tobytes()) for n, x in raw.items()}
    )
    assert_same_model(load(folder))


def test_shards(folder):
    tensors = tensors_of(folder)
    (folder / "model.safetensors").unlink()
    shards = {f"model-0000{i + 1}-of-00002.safetensors": list(tensors)[i::2] for i in range(2)}
    for file, names in shards.items():
        save_file({name: tensors[name] for name in names}, folder / file)
    weight_map = {name: file for file, names in shards.items() for name in names}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert_same_model(load(folder))
    (folder / list(shards)[1]).unlink()
    with pytest.raises(FileNotFoundError) as error:
        load(folder)
    assert_one_sentence(error, list(shards)[1])
    for text in ("{}", '{"weight_map": {}}', '{"weight_map": 3}', "[]", "{"):
        index.write_text(text)
        with pytest.raises(ValueError, match=r"index\.json") as error:
            load(folder)
        assert_one_sentence(error)


def test_mask_buffers_are_ignored(folder):
    buffers = {
        "h.0.attn.bias": np.tril(np.ones((1, 1, 4, 4), bool)),
        "transformer.h.0.attn.masked_bias": np.array(-1e4, "float32"),
    }
    save_file({**tensors_of(folder), **buffers}, folder / "model.safetensors")
    assert_same_model(load(folder))
    save_file(
        {**tensors_of(folder), "h.0.attn.bias": np.tril(np.ones((4, 4), "uint8"))},
        folder / "model.safetensors",
    )
    assert_same_model(load(folder))


def test_tied_and_untied_output_projection(folder):
    tensors = tensors_of(folder)
    head = tensors["transformer.wte.weight"].copy()
    save_file({**tensors, "lm_head.weight": head}, folder / "model.safetensors")
    assert_same_model(load(folder))
    for untied in (head + 0.5, head[:-1]):
        save_file({**tensors, "lm_head.weight": untied}, folder / "model.safetensors")
        with pytest.raises(ValueError, match=r"lm_head\.weight differs from wte\.weight") as error:
            load(folder)
        assert_one_sentence(error, folder)


# ---- the config ----------------------------------------------------------------------------------


def test_harmless_config_fields(folder):
    harmless = {
        "n_inner": 16,
        "activation_function": "gelu_pytorch_tanh",
        "summary_type": "x",
        "n_ctx": 4,
    }
    set_config(
        folder, **harmless, tie_word_embeddings=..., layer_norm_epsilon=..., scale_attn_weights=True
    )
    assert_same_model(load(folder))
    # n_ctx; 0.1 is GPT-2's
    set_config(
        folder, n_inner=None, n_positions=..., embd_pdrop=..., attn_pdrop=..., resid_pdrop=...
    )
    assert_same_model(load(folder))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_inner", 15),
        ("activation_function", "relu"),
        ("activation_function", "gelu"),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("add_cross_attention", True),
        ("tie_word_embeddings", False),
        ("layer_norm_epsilon", 1e-6),
        ("layer_norm_epsilon", "1e-5"),
        ("model_type", "llama"),
        ("model_type", None),
        ("attn_pdrop", 0.2),
        ("resid_pdrop", 0.0),
        ("embd_pdrop", ...),  # GPT-2's default, 0.1, then differs from the others
    ],
)
def test_unsupported_config_fields_are_refused_by_name(folder, field, value):
    if value is ...:
        set_config(folder, attn_pdrop=0.3, resid_pdrop=0.3)
    set_config(folder, **{field: value})
    with pytest.raises(ValueError, match=field) as error:
        load(folder)
    assert_one_sentence(error, folder / "config.json")


@pytest.mark.parametrize("field", ["vocab_size", "n_layer", "n_head", "n_embd", "n_positions"])
def test_missing_config_fields_are_named(folder, field):
    set_config(folder, **{field: ...})
    with pytest.raises(ValueError, match=f"lacks {field}") as error:
        load(folder)
    assert_one_sentence(error, folder / "config.json")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 0}, "vocab_size must be at least 1"),
        ({"n_head": 3}, "n_embd must be a multiple of n_head"),
        ({"n_embd": 8}, "wte.weight has shape"),
        ({"n_positions": 5}, "wpe.weight has shape"),
        ({"vocab_size": 6}, "wte.weight has shape"),
        ({"n_layer": 2}, "lacks the weights h.1."),
        (
            {"embd_pdrop": 1, "attn_pdrop": 1, "resid_pdrop": 1},
            "dropout must be at least 0 and below 1",
        ),
    ],
)
def test_config_that_does_not_fit(folder, fields, message):
    set_config(folder, **fields)
    with pytest.raises(ValueError, match=message) as error:
        load(folder)
    assert_one_sentence(error)


@pytest.mark.parametrize(
    "fields",
    [
        {"n_embd": None},
        {"n_embd": "4"},
        {"vocab_size": 5.0},
        {"embd_pdrop": [0.1]},
        {"embd_pdrop": None},
        {"attn_pdrop": "0.1"},
    ],
    ids=str,
)
def test_config_fields_of_another_type(folder, fields):
    set_config(folder, **fields)
    with pytest.raises(ValueError, match=next(iter(fields))) as error:
        load(folder)
    assert_one_sentence(error, folder / "config.json")


def test_a_config_far_larger_than_its_weights(folder):
    set_config(folder, n_embd=2_000_000)
    with pytest.raises(ValueError, match=r"wte\.weight has shape"):
        load(folder)


# ---- missing and corrupt files -------------------------------------------------------------------


def test_missing_files(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="does not exist") as error:
        load(tmp_path / "nowhere")
    assert_one_sentence(error, "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no model\.safetensors") as error:
        load(folder)
    assert_one_sentence(error, folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist") as error:
        load(folder)
    assert_one_sentence(error)


def test_a_file_in_the_place_of_the_folder(folder):
    with pytest.raises((FileNotFoundError, ValueError), match=r"model\.safetensors"):
        load(folder / "model.safetensors")


def test_a_pickle_is_not_opened(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"only pytorch_model\.bin, a pickle") as error:
        load(folder)
    assert_one_sentence(error, folder)


@pytest.mark.parametrize(
    "text", [b"", b"{", b'{"model_type": "gpt2"', b"\xff\xfe{}", b"[]", b"null", b'"gpt2"', b"3"]
)
def test_corrupt_json(folder, text):
    (folder / "config.json").write_bytes(text)
    with pytest.raises(
        ValueError, match=r"config\.json (is not a JSON file|must hold a JSON object)"
    ) as error:
        load(folder)
    assert_one_sentence(error, folder)


def test_json_nested_too_deeply(folder):
    (folder / "config.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match=r"config\.json"):
        load(folder)


def test_weights_cut_short(folder):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    cuts = {
        0,
        1,
        7,
        8,
        9,
        header - 1,
        header,
        header + 1,
        len(data) - 1,
        *np.linspace(10, len(data) - 2, 12, dtype=int).tolist(),
    }
    assert len(cuts) >= 20
    for cut in sorted(cuts):
        path.write_bytes(data[:cut])
        with pytest.raises(ValueError, match="is not a safetensors file, or is cut short") as error:
            load(folder)
        assert_one_sentence(error, path)
    path.write_bytes(data + b"\0")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load(folder)


def test_a_header_with_any_bytes_flipped_is_refused_or_harmless(tmp_path):
    gpt().save(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    data = path.read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    refused = []

    @settings(derandomize=True, deadline=None, database=None, max_examples=150)
    @given(
        st.lists(st.tuples(st.integers(0, header - 1), st.integers(1, 255)), min_size=1, max_size=3)
    )
    def flip(changes):
        damaged = bytearray(data)
        for place, mask in changes:
            damaged[place] ^= mask
        path.write_bytes(damaged)
        try:
            loaded = load(tmp_path / "model")
        except ValueError as error:
            refused.append(str(error))
        else:
            assert_same_model(loaded)  # spaces, metadata

    flip()
    assert len(refused) > 100
    assert all("model" in message and "\n" not in message for message in refused)


def test_missing_extra_and_misshapen_weights_are_named(folder):
    tensors = tensors_of(folder)
    path = folder / "model.safetensors"
    for change, message in (
        ({"transformer.ln_f.bias": ...}, "lacks the weights ln_f.bias"),
        ({"transformer.extra": np.ones(2, "float32")}, "holds unknown weights extra"),
        (
            {"transformer.h.1.ln_1.bias": np.ones(4, "float32")},
            r"holds unknown weights h\.1\.ln_1\.bias",
        ),
        (
            {"transformer.ln_f.bias": np.ones(5, "float32")},
            r"ln_f\.bias has shape \(5,\), but config\.json says \(4,\)",
        ),
        (
            {"transformer.wpe.weight": np.ones((1, 16), "float32")},
            r"wpe\.weight has shape \(1, 16\)",
        ),
        (
            {"transformer.h.0.attn.c_attn.weight": np.ones((12, 4), "float32")},
            r"c_attn\.weight has shape \(12, 4\)",
        ),
    ):
        save_file(
            {name: value for name, value in {**tensors, **change}.items() if value is not ...}, path
        )
        with pytest.raises(ValueError, match=message) as error:
            load(folder)
        assert_one_sentence(error, folder)
    save_file({"unrelated": np.ones(1, "float32")}, path)
    with pytest.raises(ValueError, match=r"lacks the weights h\.0\.attn\.c_attn\.bias, .* …$"):
        load(folder)


def test_unsupported_dtypes_are_named(folder):
    write_safetensors(folder / "model.safetensors", {"wte.weight": ("F8_E4M3", (5, 4), bytes(20))})
    with pytest.raises(
        ValueError, match=r"tensor wte\.weight has dtype F8_E4M3, which is not supported"
    ) as error:
        load(folder)
    assert_one_sentence(error, folder)


def test_integer_weights_are_refused(folder):
    tensors = tensors_of(folder)
    save_file(
        {**tensors, "transformer.ln_f.bias": np.array([1, 2, 3, 4], "int32")},
        folder / "model.safetensors",
    )
    with pytest.raises(ValueError, match=r"ln_f\.bias"):
        load(folder)


def test_a_weight_given_twice_is_refused(folder):
    tensors = tensors_of(folder)
    save_file({**tensors, "ln_f.bias": np.full(4, 9, "float32")}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"ln_f\.bias"):
        load(folder)


# ---- writing -------------------------------------------------------------------------------------


def test_saving_refuses_to_overwrite(folder):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    other = gpt()
    other.params["ln_f.bias"] += 1
    with pytest.raises(FileExistsError, match="already holds a model") as error:
        other.save(folder)
    assert_one_sentence(error, folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    other.save(folder, overwrite=True)
    np.testing.assert_array_equal(load(folder).params["ln_f.bias"], other.params["ln_f.bias"])


def test_saving_does_not_overwrite_weights_without_a_config(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"someone's")
    with pytest.raises(FileExistsError):
        gpt().save(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == b"someone's"


def test_write_atomically(tmp_path):
    path = tmp_path / "file"
    for data in (b"new", b"", b"other"):
        files.write_atomically(path, data)
        assert path.read_bytes() == data
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "exception", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr
)
@pytest.mark.parametrize("step", ["replace", "fsync"])
@pytest.mark.parametrize("old", [b"old", None])
def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path, monkeypatch, step, old, exception
):
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)

    def fail(*args):
        raise exception

    with monkeypatch.context() as patched:
        patched.setattr(os, step, fail)
        with pytest.raises(type(exception)):
            files.write_atomically(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ([] if old is None else ["file"])
    assert old is None or path.read_bytes() == old


def test_the_temporary_file_is_nobodys(tmp_path, monkeypatch):
    """A user's file.tmp stays, and a link that waits under a name like it is not followed."""
    (tmp_path / "file.tmp").write_bytes(b"mine")
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    files.write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file.tmp").read_bytes() == b"mine"
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: "0" * 2 * count)
    name = f".file.{'0' * 16}.tmp"
    os.symlink(victim, tmp_path / name)
    with pytest.raises(FileExistsError):
        files.write_atomically(tmp_path / "file", b"newer")
    assert victim.read_bytes() == b"mine"
    assert (tmp_path / name).is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


def test_the_file_is_synced_before_it_replaces_the_old_one(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("sync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("replace"), replace(a, b)))
    files.write_atomically(tmp_path / "file", b"x" * 100_000)
    assert events[:2] == ["sync", "replace"]
    assert (tmp_path / "file").stat().st_size == 100_000


def test_a_failed_save_leaves_the_old_model(folder, monkeypatch):
    other = gpt()
    other.params["ln_f.bias"] += 1

    def fail(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            other.save(folder, overwrite=True)
    assert_same_model(load(folder))
