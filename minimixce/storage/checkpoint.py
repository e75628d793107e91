"""Files ⇄ named arrays: the Hugging Face GPT-2 folder and the like. Knows no model class; arrays
are NumPy's on return.

A folder holds config.json and model.safetensors (or its shards). Nothing is pickled, and every file
is written under a temporary name, synced and renamed, so that a crash leaves the old file or the
new one, never half of one. What is written here is noticed when it has changed: model.safetensors
has a checksum of its own (tensors.py), and remembers those of the files beside it. A folder without
them, as transformers writes it, is opened as it is.
"""

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import to_numpy
from . import files, install, tensors
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


CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
WEIGHTS_FILE = "model.safetensors"
# a tokenizer's, which text/ writes: transformers' two and our own
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "minimixce_tokenizer.json")

_INDEX = "model.safetensors.index.json"
_BESIDE = tensors.key("files")
_STATE = tensors.key("state")


def save_model(
    folder: FilePath, fields: dict[str, Any], params: Arrays, *, overwrite: bool = False
) -> None:
    """Write fields (a JSON-able dict) as config.json and params {name: array} as model.safetensors.

    Raises FileExistsError where a model is, unless overwrite=True.
    """
    _save(Path(folder), {CONFIG_FILE: _json(fields)}, params, overwrite)


def _json(fields):
    return json.dumps(fields, indent=2).encode() + b"\n"


def _save(folder, beside, params, overwrite):
    """Write the weights, and then the files `beside` them, {name: content}."""
    if not overwrite and any((folder / name).exists() for name in (WEIGHTS_FILE, _INDEX, *beside)):
        raise FileExistsError(
            f"{folder} already holds a model; choose another folder or allow overwriting"
        )
    install.make_folder(folder)
    on_host = {name: to_numpy(value) for name, value in params.items()}
    metadata = {"format": "pt", _BESIDE: json.dumps(_checksums_beside(folder, beside))}
    tensors.write(folder / WEIGHTS_FILE, on_host, metadata)
    for name, content in beside.items():
        files.write_atomically(folder / name, content)


def _checksums_beside(folder, beside):
    """{name: [checksum, …]} of what may be beside the weights in `folder`: what is written next,
    and what is there now, so that a kill before the one has replaced the other leaves a whole
    folder.
    """
    checksums = {}
    for name in (CONFIG_FILE, GENERATION_FILE, *TOKENIZER_FILES):
        allowed = [beside[name]] if name in beside else []
        if (folder / name).is_file():
            allowed.append(files.read_bytes(folder / name))
        if allowed:
            checksums[name] = list(dict.fromkeys(map(_checksum_of, allowed)))
    return checksums


def _checksum_of(content):
    """What tells a file's content from another's: its length and checksum."""
    return f"{len(content)}-{zlib.crc32(content):08x}"


def check_beside(folder: FilePath, names: Iterable[str] = TOKENIZER_FILES) -> None:
    """Raise ValueError unless the files `names` of a folder are what they were when its model was
    saved. Those that are missing, or were missing then, are passed over.
    """
    weights = Path(folder) / WEIGHTS_FILE
    checksums = _read_checksums(weights)
    for name in names:
        path = Path(folder) / name
        if name not in checksums or not path.exists():
            continue
        if _checksum_of(files.read_bytes(path)) not in checksums[name]:
            tensors.check(weights)  # it may be this file that has changed
            raise ValueError(
                f"{path} is not the file that {WEIGHTS_FILE} was saved with; one of the two is"
                " damaged or was changed"
            )


def _read_checksums(weights):
    try:
        checksums = json.loads(tensors.read_metadata(weights).get(_BESIDE, "{}"))
    except (ValueError, TypeError, RecursionError):
        checksums = None
    if isinstance(checksums, dict) and all(isinstance(known, list) for known in checksums.values()):
        return checksums
    tensors.check(weights)
    raise ValueError(f"{weights} is damaged: it must list the files beside it")


def check_model(folder: FilePath) -> None:
    """Raise ValueError where something of a saved model, or of a tokenizer beside it, was changed
    since, as far as the folder remembers it.
    """
    tensors.check(Path(folder) / WEIGHTS_FILE)
    check_beside(folder, (CONFIG_FILE, GENERATION_FILE, *TOKENIZER_FILES))


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
    # so that transformers' pipeline, which writes 256 tokens by itself, stays inside the window
    limits = boundary_fields(boundary) | {"do_sample": True, "max_length": config.block_size}
    limits["pad_token_id"] = limits["eos_token_id"]
    beside = {CONFIG_FILE: _json(fields), GENERATION_FILE: _json(limits)}
    named = {f"transformer.{name}": value for name, value in params.items()}
    _save(Path(folder), beside, named, overwrite)


def read_gpt2_fields(folder: FilePath) -> dict[str, Any]:
    """The fields of GPTConfig that a GPT-2 folder's config.json settles -> dict, all but dtype.

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
    return sizes | {"dropout": float(rates[0])}


def load_gpt2(folder: FilePath, dtype: str | None = None) -> tuple[dict[str, Any], Arrays]:
    """Read a GPT-2 folder -> (fields of GPTConfig, {name: array}). dtype=None keeps float64 and
    reads others as float32.

    Raises what read_gpt2_fields raises.
    """
    fields = read_gpt2_fields(folder)
    weights = _read_weights(folder, prefix="transformer.")
    head = weights.pop("lm_head.weight", None)
    if head is not None and not np.array_equal(head, weights.get("wte.weight")):
        raise ValueError(
            f"{folder}: lm_head.weight differs from wte.weight; an untied output projection is not"
            " supported"
        )
    params = {
        name: value
        for name, value in weights.items()
        if not name.endswith((".attn.bias", ".attn.masked_bias"))
    }
    if fields["n_layer"] > len(params):  # before listing the weights of a billion layers
        raise ValueError(
            f"{folder}: config.json says n_layer={fields['n_layer']}, but there are only"
            f" {len(params)} weights"
        )
    dtype, params = _in_dtype(folder, params, dtype)
    return fields | {"dtype": dtype}, params


def _read_config(folder):
    """The path and the content of a folder's config.json, which is the one the model was saved
    with.
    """
    folder = Path(folder)
    if folder.is_file():
        raise ValueError(f"{folder} is a file; give the folder that holds it")
    content = files.read_json(folder / CONFIG_FILE)
    check_beside(folder, (CONFIG_FILE, GENERATION_FILE))
    return folder / CONFIG_FILE, content


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
    weights = {}
    for path in _weight_files(Path(folder)):
        for name, value in tensors.read(path)[0].items():
            name = name.removeprefix(prefix)
            if name in weights:
                raise ValueError(f"{folder} holds the weight {name} twice")
            weights[name] = value
    return weights


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
    if (folder / WEIGHTS_FILE).exists():
        return [folder / WEIGHTS_FILE]
    index = folder / _INDEX
    if index.exists():
        shards = files.read_json(index).get("weight_map")
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


def save_state(path: FilePath, arrays: dict[str, Array], info: dict[str, Any]) -> None:
    """Replace `path` atomically by one safetensors file with {name: array} and a JSON-able dict."""
    on_host = {name: to_numpy(value) for name, value in arrays.items()}
    tensors.write(path, on_host, {_STATE: json.dumps(info)})


def load_state(path: FilePath) -> tuple[dict[str, Array], dict[str, Any]]:
    """What save_state wrote -> ({name: NumPy array}, info). Raises FileNotFoundError or ValueError,
    also for changed bytes.
    """
    arrays, metadata = tensors.read(path)
    if "info" in metadata and "checksum" in metadata:
        raise ValueError(
            f"{path} is of an earlier version of minimixce, whose runs cannot go on in this one"
        )
    if _STATE not in metadata:
        raise ValueError(f"{path} is not the state of a run")
    try:
        info = json.loads(metadata[_STATE])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: its description is not JSON ({error})") from None
    if not isinstance(info, dict):
        raise ValueError(f"{path} is damaged: its description must be a JSON object")
    return arrays, info


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
