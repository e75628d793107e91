"""Files ⇄ named arrays: the Hugging Face GPT-2 folder. Knows no model class; arrays are NumPy's on return.

A folder holds config.json and model.safetensors (or its shards). Nothing is pickled, and every file is written under a
temporary name, synced and renamed, so that a crash leaves the old file or the new one, never half of one.
"""

import contextlib
import json
import os
import zlib
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save as to_safetensors

from .backend import to_numpy

# Hugging Face's fields that change GPT-2's computation, and the values under which it is the one in gpt.py.
_SUPPORTED = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}


_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def save_gpt2(folder, config, params, *, overwrite=False, boundary=None):
    """Write config (fields as in GPTConfig) and params {name: array} as a folder that transformers opens.

    `boundary` becomes bos_token_id and eos_token_id. Raises FileExistsError where a model is, unless overwrite=True.
    """
    folder = Path(folder)
    if not overwrite and any((folder / name).exists() for name in ("config.json", *_WEIGHTS)):
        raise FileExistsError(f"{folder} already holds a model; choose another folder or allow overwriting")
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {f"transformer.{name}": np.ascontiguousarray(to_numpy(value)) for name, value in params.items()}
    write_atomically(folder / "model.safetensors", to_safetensors(arrays, metadata={"format": "pt"}))
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
        "bos_token_id": None if boundary is None else int(boundary),
        "eos_token_id": None if boundary is None else int(boundary),
        "dtype": config.dtype,
    }
    write_atomically(folder / "config.json", json.dumps(fields, indent=2).encode() + b"\n")


def load_gpt2(folder, dtype=None):
    """Read a GPT-2 folder -> (fields of GPTConfig, {name: array}). dtype=None keeps float64 and reads others as float32.

    Raises FileNotFoundError for a missing file, ValueError for a corrupt one or a config that gpt.py does not compute.
    """
    folder, path = Path(folder), Path(folder) / "config.json"
    if folder.is_file():
        raise ValueError(f"{folder} is a file; give the folder that holds it")
    config = read_json(path)
    for name, allowed in _SUPPORTED.items():
        if config.get(name, allowed[0]) not in allowed:
            raise ValueError(f"{path}: {name}={config[name]!r} is not supported, only {allowed[0]!r}")
    positions = "n_ctx" if config.get("n_positions") is None and "n_ctx" in config else "n_positions"
    sizes = {}
    for name in ("vocab_size", positions, "n_layer", "n_head", "n_embd"):
        if name not in config:
            raise ValueError(f"{path} lacks {name}")
        if not isinstance(config[name], int) or isinstance(config[name], bool):
            raise ValueError(f"{path}: {name} must be an integer, got {config[name]!r}")
        sizes["block_size" if name == positions else name] = config[name]
    if config.get("n_inner") not in (None, 4 * config["n_embd"]):
        raise ValueError(f"{path}: n_inner={config['n_inner']!r} is not supported, only 4·n_embd")
    rates = [config.get(name, 0.1) for name in ("embd_pdrop", "attn_pdrop", "resid_pdrop")]
    if not all(isinstance(rate, (int, float)) for rate in rates) or len(set(rates)) > 1:
        raise ValueError(f"{path}: embd_pdrop, attn_pdrop and resid_pdrop must be one number, got {rates}")

    tensors = {}
    for path in _weight_files(folder):
        for name, value in read_safetensors(path).items():
            name = name.removeprefix("transformer.")
            if name in tensors:
                raise ValueError(f"{folder} holds the weight {name} twice")
            tensors[name] = value
    head = tensors.pop("lm_head.weight", None)
    if head is not None and not np.array_equal(head, tensors.get("wte.weight")):
        raise ValueError(f"{folder}: lm_head.weight differs from wte.weight; an untied output projection is not supported")
    params = {name: value for name, value in tensors.items() if not name.endswith((".attn.bias", ".attn.masked_bias"))}
    if sizes["n_layer"] > len(params):  # so that nobody lists the weights of a billion layers
        raise ValueError(f"{folder}: config.json says n_layer={sizes['n_layer']}, but there are only {len(params)} weights")
    for name, value in params.items():
        if value.dtype.kind != "f":
            raise ValueError(f"{folder}: {name} is {value.dtype}, but weights must be floating point")
    if dtype is None:
        dtype = "float64" if any(value.dtype == np.float64 for value in params.values()) else "float32"
    fields = sizes | {"dropout": float(rates[0]), "dtype": dtype}
    return fields, {name: value.astype(dtype) for name, value in params.items()}


def _weight_files(folder):
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = read_json(index).get("weight_map")
        inside = isinstance(shards, dict) and all(isinstance(n, str) and Path(n).name == n for n in shards.values())
        if not inside or not shards:
            raise ValueError(f"{index} names no weight files beside it")
        return [folder / name for name in sorted(set(shards.values()))]
    if (folder / "pytorch_model.bin").exists():
        raise ValueError(f"{folder} holds only pytorch_model.bin, a pickle; save it from transformers as safetensors first")
    raise FileNotFoundError(f"{folder} holds no model.safetensors")


def read_safetensors(path):
    """{name: NumPy array} of one file; bfloat16, which NumPy lacks, comes as float32."""
    try:
        entries = deserialize(Path(path).read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or is cut short ({error})") from None
    return {name: _to_array(path, name, entry) for name, entry in entries}


_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}


def _to_array(path, name, entry):
    if entry["dtype"] == "BF16":  # the upper half of a float32
        bits = np.frombuffer(entry["data"], "<u2").astype("<u4") << 16
        return bits.view("<f4").reshape(entry["shape"])
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"{path}: tensor {name} has dtype {entry['dtype']}, which is not supported")
    return np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])


def save_state(path, arrays, info):
    """Replace `path` atomically by one safetensors file with {name: array} and a JSON-able dict."""
    arrays, info = {name: np.ascontiguousarray(to_numpy(value)) for name, value in arrays.items()}, json.dumps(info)
    write_atomically(path, to_safetensors(arrays, metadata={"info": info, "checksum": _checksum(arrays, info)}))


def load_state(path):
    """What save_state wrote -> ({name: NumPy array}, info). Raises FileNotFoundError or ValueError, also for changed bytes."""
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


def check_shapes(folder, expected, params):
    """Raise ValueError unless params {name: array} has exactly the names and shapes of expected {name: shape}."""
    if missing := sorted(expected.keys() - params.keys()):
        raise ValueError(f"{folder} lacks the weights {', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}")
    if extra := sorted(params.keys() - expected.keys()):
        raise ValueError(f"{folder} holds unknown weights {', '.join(extra[:3])}{' …' if len(extra) > 3 else ''}")
    for name, shape in expected.items():
        if params[name].shape != shape:
            raise ValueError(f"{folder}: {name} has shape {params[name].shape}, but config.json says {shape}")


def read_json(path):
    """A JSON object from a file, or FileNotFoundError, or ValueError that names the file."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, got a {type(value).__name__}")
    return value


def write_atomically(path, data):
    """Write bytes to `path` so that a crash at any moment leaves the old file or the new one."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # a full disk names no file, and nobody asked for the temporary one
        raise
    with contextlib.suppress(OSError):  # the new name lasts once the folder is written, where a system can say so
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
