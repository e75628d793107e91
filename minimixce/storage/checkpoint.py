"""Files ⇄ named arrays: the Hugging Face GPT-2 folder and the like. Knows no model class; arrays
are NumPy's on return.

A folder holds config.json and model.safetensors (or its shards). Nothing is pickled, and every file
is written under a temporary name, synced and renamed, so that a crash leaves the old file or the
new one, never half of one.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import to_numpy
from ..storage.files import read_bytes, read_json, write_atomically
from .shapes import Array, Arrays, FilePath

# Hugging Face's fields that change GPT-2's computation, and the values under which it is the one in
# gpt.py.
_SUPPORTED = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}


GENERATION_FILE = "generation_config.json"

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def save_model(
    folder: FilePath, fields: dict[str, Any], params: Arrays, *, overwrite: bool = False
) -> None:
    """Write fields (a JSON-able dict) as config.json and params {name: array} as model.safetensors.

    Raises FileExistsError where a model is, unless overwrite=True.
    """
    folder = Path(folder)
    if not overwrite and any((folder / name).exists() for name in ("config.json", *_WEIGHTS)):
        raise FileExistsError(
            f"{folder} already holds a model; choose another folder or allow overwriting"
        )
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(to_numpy(value)) for name, value in params.items()}
    _write_safetensors(folder / "model.safetensors", arrays, {"format": "pt"})
    write_atomically(folder / "config.json", json.dumps(fields, indent=2).encode() + b"\n")


def load_model(
    folder: FilePath, model_type: str, fields: dict[str, Any], dtype: str | None = None
) -> tuple[dict[str, Any], Arrays]:
    """Read what save_model wrote -> (the config's values of `fields`, and dtype), {name: array}.

    model_type is what config.json must say; fields {name: int or float} are those it must hold.
    dtype=None keeps float64 and reads others as float32. Raises FileNotFoundError for a missing
    file, ValueError for a corrupt one or another model's.
    """
    path, config = _read_config(folder)
    if config.get("model_type") != model_type:
        raise ValueError(
            f"{path}: model_type={config.get('model_type')!r} is not supported, only {model_type!r}"
        )
    values = {name: _number(path, config, name, kind) for name, kind in fields.items()}
    dtype, params = _in_dtype(folder, _read_weights(folder), dtype)
    return values | {"dtype": dtype}, params


def boundary_fields(boundary: int | None) -> dict[str, int | None]:
    """The boundary's id (None where there is none) by the names that Hugging Face's config.json has
    for it.
    """
    token = None if boundary is None else int(boundary)
    return {"bos_token_id": token, "eos_token_id": token}


def save_gpt2(
    folder: FilePath,
    config: Any,
    params: Arrays,
    *,
    overwrite: bool = False,
    boundary: int | None = None,
) -> None:
    """Write config (fields as in GPTConfig) and params {name: array} as a folder that transformers
    opens.

    `boundary` becomes bos_token_id and eos_token_id. Raises FileExistsError where a model is,
    unless overwrite=True.
    """
    fields = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_positions": config.block_size,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "tie_word_embeddings": True,
        **boundary_fields(boundary),
        "dtype": config.dtype,
    }
    generation = Path(folder) / GENERATION_FILE
    if not overwrite and generation.exists():
        raise FileExistsError(
            f"{folder} already holds a model; choose another folder or allow overwriting"
        )
    save_model(
        folder,
        fields,
        {f"transformer.{name}": value for name, value in params.items()},
        overwrite=overwrite,
    )
    # so that transformers' pipeline, which writes 256 tokens by itself, stays inside the window
    limits = boundary_fields(boundary) | {"do_sample": True, "max_length": config.block_size}
    limits["pad_token_id"] = limits["eos_token_id"]
    write_atomically(generation, json.dumps(limits, indent=2).encode() + b"\n")


def load_gpt2(folder: FilePath, dtype: str | None = None) -> tuple[dict[str, Any], Arrays]:
    """Read a GPT-2 folder -> (fields of GPTConfig, {name: array}). dtype=None keeps float64 and
    reads others as float32.

    Raises FileNotFoundError for a missing file, ValueError for a corrupt one or a config that
    gpt.py does not compute.
    """
    path, config = _read_config(folder)
    for name, allowed in _SUPPORTED.items():
        if config.get(name, allowed[0]) not in allowed:
            raise ValueError(
                f"{path}: {name}={config[name]!r} is not supported, only {allowed[0]!r}"
            )
    positions = (
        "n_ctx" if config.get("n_positions") is None and "n_ctx" in config else "n_positions"
    )
    sizes = {}
    for name in ("vocab_size", positions, "n_layer", "n_head", "n_embd"):
        sizes["block_size" if name == positions else name] = _number(path, config, name, int)
    if config.get("n_inner") not in (None, 4 * config["n_embd"]):
        raise ValueError(f"{path}: n_inner={config['n_inner']!r} is not supported, only 4·n_embd")
    rates = [config.get(name, 0.1) for name in ("embd_pdrop", "attn_pdrop", "resid_pdrop")]
    if not all(isinstance(rate, (int, float)) for rate in rates) or len(set(rates)) > 1:
        raise ValueError(
            f"{path}: embd_pdrop, attn_pdrop and resid_pdrop must be one number, got {rates}"
        )

    tensors = _read_weights(folder, prefix="transformer.")
    head = tensors.pop("lm_head.weight", None)
    if head is not None and not np.array_equal(head, tensors.get("wte.weight")):
        raise ValueError(
            f"{folder}: lm_head.weight differs from wte.weight; an untied output projection is not"
            " supported"
        )
    params = {
        name: value
        for name, value in tensors.items()
        if not name.endswith((".attn.bias", ".attn.masked_bias"))
    }
    if sizes["n_layer"] > len(params):  # before listing the weights of a billion layers
        raise ValueError(
            f"{folder}: config.json says n_layer={sizes['n_layer']}, but there are only"
            f" {len(params)} weights"
        )
    dtype, params = _in_dtype(folder, params, dtype)
    return sizes | {"dropout": float(rates[0]), "dtype": dtype}, params


def _read_config(folder):
    """The path and the content of a folder's config.json."""
    folder = Path(folder)
    if folder.is_file():
        raise ValueError(f"{folder} is a file; give the folder that holds it")
    return folder / "config.json", read_json(folder / "config.json")


def _number(path, config, name, kind):
    """The field `name` of a config, an int, or a float (which may be written as an int)."""
    if name not in config:
        raise ValueError(f"{path} lacks {name}")
    value = config[name]
    if isinstance(value, bool) or not isinstance(value, (int, kind)):
        raise ValueError(
            f"{path}: {name} must be {'an integer' if kind is int else 'a number'}, got {value!r}"
        )
    return value


def _read_weights(folder, prefix=""):
    """{name without prefix: array} of all weight files of a folder."""
    tensors = {}
    for path in _weight_files(Path(folder)):
        for name, value in read_safetensors(path).items():
            name = name.removeprefix(prefix)
            if name in tensors:
                raise ValueError(f"{folder} holds the weight {name} twice")
            tensors[name] = value
    return tensors


def _in_dtype(folder, params, dtype):
    """dtype, or where it is None the one that loses nothing, and params in it."""
    for name, value in params.items():
        if value.dtype.kind != "f":
            raise ValueError(
                f"{folder}: {name} is {value.dtype}, but weights must be floating point"
            )
    if dtype is None:
        dtype = (
            "float64" if any(value.dtype == np.float64 for value in params.values()) else "float32"
        )
    return dtype, {name: value.astype(dtype) for name, value in params.items()}


def _weight_files(folder):
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = read_json(index).get("weight_map")
        inside = isinstance(shards, dict) and all(
            isinstance(n, str) and Path(n).name == n for n in shards.values()
        )
        if not inside or not shards:
            raise ValueError(f"{index} names no weight files beside it")
        return [folder / name for name in sorted(set(shards.values()))]
    if (folder / "pytorch_model.bin").exists():
        raise ValueError(
            f"{folder} holds only pytorch_model.bin, a pickle; save it from transformers as"
            " safetensors first"
        )
    raise FileNotFoundError(f"{folder} holds no model.safetensors")


# The library is imported where a file is read or written: models, exact sums and gradient checks
# work without it.


def _write_safetensors(path, arrays, metadata):
    from safetensors.numpy import save

    write_atomically(path, save(arrays, metadata=metadata))


def read_safetensors(path: FilePath) -> dict[str, Array]:
    """{name: NumPy array} of one file; bfloat16, which NumPy lacks, comes as float32."""
    from safetensors import SafetensorError, deserialize

    try:
        entries = deserialize(read_bytes(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or is cut short ({error})") from None
    return {name: _to_array(path, name, entry) for name, entry in entries}


_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "U8": "u1",
    "BOOL": "?",
}


def _to_array(path, name, entry):
    if entry["dtype"] == "BF16":  # the upper half of a float32
        bits = np.frombuffer(entry["data"], "<u2").astype("<u4") << 16
        return bits.view("<f4").reshape(entry["shape"])
    if entry["dtype"] not in _DTYPES:
        raise ValueError(
            f"{path}: tensor {name} has dtype {entry['dtype']}, which is not supported"
        )
    return np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])


def save_state(path: FilePath, arrays: dict[str, Array], info: Any) -> None:
    """Replace `path` atomically by one safetensors file with {name: array} and a JSON-able dict."""
    arrays = {name: np.ascontiguousarray(to_numpy(value)) for name, value in arrays.items()}
    info = json.dumps(info)
    _write_safetensors(path, arrays, {"info": info, "checksum": _checksum(arrays, info)})


def load_state(path: FilePath) -> tuple[dict[str, Array], Any]:
    """What save_state wrote -> ({name: NumPy array}, info). Raises FileNotFoundError or ValueError,
    also for changed bytes.
    """
    from safetensors import safe_open

    arrays = read_safetensors(path)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
    if not {"info", "checksum"} <= metadata.keys():
        raise ValueError(f"{path} is not the state of a run")
    if metadata["checksum"] != _checksum(arrays, metadata["info"]):
        raise ValueError(f"{path} is damaged: its checksum does not fit its content")
    return arrays, json.loads(metadata["info"])


def _checksum(arrays, info):
    crc = zlib.crc32(info.encode())
    for name, value in sorted(arrays.items()):
        crc = zlib.crc32(value, zlib.crc32(f"{name} {value.dtype} {value.shape}".encode(), crc))
    return f"{crc:08x}"


def check_shapes(folder: FilePath, expected: dict[str, tuple[int, ...]], params: Arrays) -> None:
    """Raise ValueError unless params {name: array} has exactly the names and shapes of expected
    {name: shape}.
    """
    if missing := sorted(expected.keys() - params.keys()):
        raise ValueError(
            f"{folder} lacks the weights {', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}"
        )
    if extra := sorted(params.keys() - expected.keys()):
        raise ValueError(
            f"{folder} holds unknown weights {', '.join(extra[:3])}{' …' if len(extra) > 3 else ''}"
        )
    for name, shape in expected.items():
        if params[name].shape != shape:
            raise ValueError(
                f"{folder}: {name} has shape {params[name].shape}, but config.json says {shape}"
            )
