"""Tokenizers in the form that Hugging Face's libraries open: tokenizer.json and
tokenizer_config.json, written without those libraries.
"""

import json
from typing import Any

TOKENIZER_JSON, CONFIG_JSON = "tokenizer.json", "tokenizer_config.json"
END_OF_TEXT = "<|endoftext|>"


def tokenizer_files(kind: str, tokens: list[str] | None) -> dict[str, bytes]:
    """{file name: content} for a tokenizer of `kind` "character", "byte" or "word", whose tokens
    (None for bytes) have the ids 1, 2, … after the boundary's 0.

    Opened by transformers.AutoTokenizer, it gives the ids that ours gives, after a boundary, which
    is a special token. Decoded words have a space before the first one, too. Text with a character
    or word that it does not know is an error there, too.
    """
    boundary = END_OF_TEXT
    while tokens and boundary in tokens:
        boundary += "|"
    tokens = byte_letters() if tokens is None else tokens
    vocab = {boundary: 0} | {token: i for i, token in enumerate(tokens, start=1)}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_special(boundary, 0)],
        "normalizer": None,
        "pre_tokenizer": _PRE_TOKENIZERS[kind],
        "post_processor": _boundary_first(boundary, 0),
        "decoder": _DECODERS[kind],
        "model": _model(kind, vocab),
    }
    roles = {"bos_token": boundary, "eos_token": boundary}
    return {TOKENIZER_JSON: _to_bytes(content)} | config_file(roles)


def config_file(roles: dict[str, str]) -> dict[str, bytes]:
    """{name: content} of tokenizer_config.json, which says which tokens have a role ("bos_token",
    "eos_token", …).
    """
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **roles,
        "clean_up_tokenization_spaces": False,
    }
    return {CONFIG_JSON: _to_bytes(config)}


def _boundary_first(boundary: str, token: int) -> dict[str, Any]:
    """A boundary, whose id is `token`, before each text."""
    start = {"SpecialToken": {"id": boundary, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [start, text],
        "pair": [start, text, start, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {boundary: {"id": boundary, "ids": [token], "tokens": [boundary]}},
    }


_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": False,
    "use_regex": False,
}

_PRE_TOKENIZERS = {
    "character": {
        "type": "Split",
        "pattern": {"Regex": r"[\s\S]"},
        "behavior": "Isolated",
        "invert": False,
    },
    "byte": _BYTE_LEVEL,
    "word": {"type": "WhitespaceSplit"},
}

# A space before each word, also before the first: a pipeline appends what is new to the prompt.
_SPACE_BEFORE = {"type": "Replace", "pattern": {"Regex": "^"}, "content": " "}

_DECODERS = {
    "character": {"type": "Fuse"},
    "byte": _BYTE_LEVEL,
    "word": {"type": "Sequence", "decoders": [_SPACE_BEFORE, {"type": "Fuse"}]},
}


def _model(kind: str, vocab: dict[str, int]) -> dict[str, Any]:
    if kind != "byte":  # no unknown token, so that an unknown character is an error
        return {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}
    return _bpe(vocab, [])  # each byte stays a token


def _bpe(vocab: dict[str, int], merges: list[str]) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": merges,
    }


def _special(content: str, token: int) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": content} | plain | {"special": True}


def byte_letters() -> list[str]:
    """GPT-2's letters for the bytes 0 … 255: the visible ones of Latin-1 for themselves, the others
    from U+0100 on.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(b if b in visible else next(others)) for b in range(256)]


def _to_bytes(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n"


# ---- byte-level BPE, GPT-2's kind ----------------------------------------------------------------


def bpe_json(
    vocab: dict[str, int],
    merges: list[str],
    special: dict[str, int],
    *,
    prefix_space: bool = False,
    boundary_first: str | None = None,
) -> str:
    """The content of a tokenizer.json for GPT-2's byte-level BPE: vocab {token: id}, in GPT-2's
    letters; merges ("a b", the first to be made first); special tokens {content: id}.

    prefix_space: whether a text that begins without a space gets one; boundary_first: the special
    token that transformers puts before each text, if any.
    """
    byte_level = {"type": "ByteLevel", "add_prefix_space": prefix_space, "trim_offsets": True}
    pre_tokenizer = byte_level | {"use_regex": True}
    post_processor = pre_tokenizer | {"trim_offsets": False}
    if boundary_first is not None:
        post_processor = _boundary_first(boundary_first, special[boundary_first])
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_special(token, i) for token, i in special.items()],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": pre_tokenizer,
        "model": _bpe(vocab, merges),
    }
    return json.dumps(content, ensure_ascii=False)
