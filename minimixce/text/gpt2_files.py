"""What transformers wrote of a GPT-2's tokenizer: tokenizer.json, or the older vocab.json with
merges.txt, and who is who among its tokens. Only what they say is read; nothing of it is run.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from ..storage import files
from ..storage.shapes import FilePath
from .hugging_face import CONFIG_JSON, END_OF_TEXT, TOKENIZER_JSON, bpe_json

_VOCAB, _MERGES, _ADDED = "vocab.json", "merges.txt", "added_tokens.json"
# tokens of several letters that no merge makes, such as <pad>: so many, or that share of them
_MOST_UNMADE, _UNMADE_SHARE = 16, 0.1
_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")


class Described(NamedTuple):
    """A tokenizer of Hugging Face's: what tokenizer.json says, as text, the id of the boundary, the
    tokens that have a role, and the file that says so.
    """

    content: str
    boundary: int
    roles: dict[str, str]
    path: FilePath


def read_folder(folder: FilePath) -> Described:
    """The tokenizer of a folder that transformers wrote: tokenizer.json, or else vocab.json and
    merges.txt.

    Raises FileNotFoundError for a folder without one, ValueError, naming the file, for files that
    are not as GPT-2's.
    """
    folder = Path(folder)
    config = _read_if_there(folder / CONFIG_JSON)
    roles = _roles(_read_if_there(folder / "special_tokens_map.json") | config)
    path: FilePath = folder / TOKENIZER_JSON
    if os.path.exists(path):
        content = files.read_text(path)
        try:
            ids = _ids_of(checked(content, path), path)
        except OtherKind as error:
            ours = folder / "minimixce_tokenizer.json"
            raise ValueError(f"{error}, and {ours} does not exist") from None
    else:
        path = f"{folder / _VOCAB} with {_MERGES}"
        ids = _read_vocab(folder)
        added = _read_ids(folder / _ADDED) if (folder / _ADDED).exists() else {}
        end = roles.get("eos_token", END_OF_TEXT)
        special = {end: ids[end]} if end in ids else {}
        prefix_space = config.get("add_prefix_space") is True
        merges = _read_merges(folder / _MERGES, ids)
        content = bpe_json(ids, merges, special | added, prefix_space=prefix_space)
        ids = ids | added
    boundary = _boundary(folder, ids, roles)
    end = next(token for token, i in ids.items() if i == boundary)
    known = {role: token for role, token in roles.items() if token in ids}
    return Described(content, boundary, {"bos_token": end, "eos_token": end} | known, path)


def _read_if_there(path: Path) -> dict[str, Any]:
    return files.read_json(path) if path.exists() else {}


def _roles(config: dict[str, Any]) -> dict[str, str]:
    """The tokens of _ROLES that a configuration names, by themselves or with their properties."""
    found = {}
    for role in _ROLES:
        token = config.get(role)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            found[role] = token
    return found


def _ids_of(content: dict[str, Any], path: FilePath) -> dict[str, int]:
    """{token: id} of a tokenizer.json's content."""
    model = content.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    added = content.get("added_tokens") or []
    if not isinstance(vocab, dict) or not isinstance(added, list):
        raise ValueError(f"{path} is damaged: vocab must be an object, added_tokens a list")
    ids = dict(vocab)
    for token in added:
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise ValueError(f"{path}: added_tokens must be objects with a content and an id")
        ids[token["content"]] = token.get("id")
    return _checked_ids(ids, path)


def _read_ids(path: Path) -> dict[str, int]:
    """{token: id} of a file that holds nothing else."""
    return _checked_ids(files.read_json(path), path)


def _checked_ids(ids: dict[str, Any], path: FilePath) -> dict[str, int]:
    for token, number in ids.items():
        if type(number) is not int or not 0 <= number < 1 << 31:
            raise ValueError(
                f"{path}: the id of {token!r:.80} must be an integer of 0 to 2³¹ − 1, got"
                f" {number!r:.80}"
            )
    return ids


def _read_vocab(folder: Path) -> dict[str, int]:
    """vocab.json's {token: id}, where merges.txt is beside it."""
    there = [name for name in (_VOCAB, _MERGES) if (folder / name).exists()]
    if not there:
        raise FileNotFoundError(
            f"{folder}/minimixce_tokenizer.json does not exist, nor a tokenizer of transformers':"
            f" {TOKENIZER_JSON}, or {_VOCAB} with {_MERGES}"
        )
    if len(there) == 1:
        missing = _MERGES if there[0] == _VOCAB else _VOCAB
        raise FileNotFoundError(f"{folder} holds {there[0]}, but {missing} does not exist")
    return _read_ids(folder / _VOCAB)


def _read_merges(path: Path, ids: dict[str, int]) -> list[str]:
    """The merges of a merges.txt, one a line: two tokens of vocab.json (ids) with a space between
    them, which together are a third.
    """
    found = []
    made = set()
    for number, line in enumerate(files.read_text(path).split("\n"), start=1):
        line = line.rstrip("\r")
        if not line.strip() or line.startswith("#version"):
            continue
        if len(line.split(" ")) != 2 or "" in line.split(" "):
            raise ValueError(f"{path}, line {number}, must be two tokens, got {line!r:.80}")
        for token in (*line.split(" "), line.replace(" ", "")):
            if token not in ids:
                raise ValueError(f"{path}, line {number}: {token!r:.80} is no token of {_VOCAB}")
        found.append(line)
        made.add(line.replace(" ", ""))
    # a file that lost its end would still encode any text, into ids that the model never learnt
    longer = sum(len(token) > 1 for token in ids)
    if longer - len(made) > max(_MOST_UNMADE, _UNMADE_SHARE * longer):
        raise ValueError(
            f"{path} makes {len(made):,} of the {longer:,} tokens of {_VOCAB} that have two letters"
            " or more; is it cut short?"
        )
    return found


def _boundary(folder: Path, ids: dict[str, int], roles: dict[str, str]) -> int:
    """The id of the token that ends a text: eos_token, or else <|endoftext|>, or else what the
    model's configuration says.
    """
    end = roles.get("eos_token", END_OF_TEXT)
    if end in ids:
        return ids[end]
    if "eos_token" in roles:
        raise ValueError(f"{folder}: its eos_token {end!r} is none of the tokenizer's tokens")
    token = _read_if_there(folder / "config.json").get("eos_token_id")
    if type(token) is int and token in ids.values():
        return token
    raise ValueError(
        f"{folder} does not say which token ends a text: its tokenizer has neither an eos_token nor"
        f" {END_OF_TEXT}"
    )


# ---- what a tokenizer.json may ask for -----------------------------------------------------------


class OtherKind(ValueError):
    """A tokenizer is no byte-level BPE."""


_MOST = 1 << 25  # characters: GPT-2's has 3.5 million, and what quotes one must stay readable, too
_NORMALIZERS = ("NFC", "NFD", "NFKC", "NFKD")
_POST_PROCESSORS = ("ByteLevel", "TemplateProcessing")


def checked(content: str, path: FilePath) -> dict[str, Any]:
    """What `content`, of the tokenizer.json `path`, says -> dict. ValueError unless it describes a
    byte-level BPE and asks for nothing but what is listed here: for no pattern of its own, with
    which a search may never end, and for nothing that depends on chance.
    """
    if len(content) > _MOST:
        raise ValueError(f"{path} has {len(content):,} characters; at most {_MOST:,} are read")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file ({error})") from None
    found = found if isinstance(found, dict) else {}
    model = found.get("model")
    model = model if isinstance(model, dict) else {}
    pre_tokenizers = _parts(found.get("pre_tokenizer"), "pretokenizers")
    is_bpe = model.get("type", "BPE") == "BPE" and "merges" in model
    if not is_bpe or "ByteLevel" not in pre_tokenizers:
        raise OtherKind(f"{path} describes no byte-level BPE, GPT-2's kind of tokenizer")
    allowed = {
        "normalizer": (_parts(found.get("normalizer"), "normalizers"), _NORMALIZERS),
        "pre_tokenizer": (pre_tokenizers, ("ByteLevel", "Digits")),
        "post_processor": (_parts(found.get("post_processor"), "processors"), _POST_PROCESSORS),
    }
    for name, (parts, known) in allowed.items():
        if others := [part for part in parts if part not in known]:
            raise ValueError(
                f"{path}: {name} {others[0]!r:.80} is not supported, only {', '.join(known)}"
            )
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise ValueError(f"{path}: {name}={model[name]!r:.80} is not supported")
    return found


def _parts(part: Any, several: str) -> list[Any]:
    """The types of a part of a tokenizer.json, or of those it is a sequence of, under the key
    `several`.
    """
    if part is None:
        return []
    if not isinstance(part, dict):
        return [part]
    if part.get("type") != "Sequence":
        return [part.get("type")]
    inside = part.get(several)
    if not isinstance(inside, list):
        return [inside]
    return [each.get("type") if isinstance(each, dict) else each for each in inside]


def may_be_cut(found: dict[str, Any]) -> bool:
    """Whether a text may be cut before a space, by what a tokenizer.json says (`found`): words are
    told apart by their spaces, and no added token has one inside or takes one behind it.
    """
    part = found["pre_tokenizer"]
    parts = part.get("pretokenizers", [part]) if part.get("type") == "Sequence" else [part]
    splits = all(each.get("use_regex", True) for each in parts if each["type"] == "ByteLevel")
    added = found.get("added_tokens") or []
    return splits and not any(
        token.get("rstrip") or any(map(str.isspace, token["content"])) for token in added
    )


def special_around(found: dict[str, Any], path: FilePath) -> tuple[list[int], list[int]]:
    """The ids that transformers puts before and behind a single text, by what the tokenizer.json
    `path` says (`found`). ValueError for a template that cannot be read.
    """
    part = found.get("post_processor") or {}
    parts = part.get("processors", []) if part.get("type") == "Sequence" else [part]
    before: list[int] = []
    after: list[int] = []
    try:
        for template in parts:
            if template.get("type") != "TemplateProcessing":
                continue
            ids = before
            for piece in template["single"]:
                if "Sequence" in piece:
                    ids = after
                else:
                    name = piece["SpecialToken"]["id"]
                    ids.extend(template["special_tokens"][name]["ids"])
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is damaged: its post_processor cannot be read") from None
    return before, after
