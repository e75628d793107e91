"""Tokenizers in the form that Hugging Face's libraries open: tokenizer.json and
tokenizer_config.json, written without those libraries.
"""

import json
from typing import Any

TOKENIZER_JSON, CONFIG_JSON = "tokenizer.json", "tokenizer_config.json"


def tokenizer_files(kind: str, tokens: list[str] | None) -> dict[str, bytes]:
    """{file name: content} for a tokenizer of `kind` "character", "byte" or "word", whose tokens
    (None for bytes) have the ids 1, 2, … after the boundary's 0.

    Opened by transformers.AutoTokenizer, it gives the ids that ours gives, after a boundary, which
    is a special token. Decoded words have a space before the first one, too. Text with a character
    or word that it does not know is an error there, too.
    """
    boundary = "<|endoftext|>"
    while tokens and boundary in tokens:
        boundary += "|"
    tokens = _byte_letters() if tokens is None else tokens
    vocab = {boundary: 0} | {token: i for i, token in enumerate(tokens, start=1)}
    start = {"SpecialToken": {"id": boundary, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_special(boundary)],
        "normalizer": None,
        "pre_tokenizer": _PRE_TOKENIZERS[kind],
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, text],
            "pair": [start, text, start, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {boundary: {"id": boundary, "ids": [0], "tokens": [boundary]}},
        },
        "decoder": _DECODERS[kind],
        "model": _model(kind, vocab),
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": boundary,
        "eos_token": boundary,
        "clean_up_tokenization_spaces": False,
    }
    return {TOKENIZER_JSON: _to_bytes(content), CONFIG_JSON: _to_bytes(config)}


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
        "merges": [],  # each byte stays a token
    }


def _special(boundary: str) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": 0, "content": boundary} | plain | {"special": True}


def _byte_letters() -> list[str]:
    """GPT-2's letters for the bytes 0 … 255: the visible ones of Latin-1 for themselves, the others
    from U+0100 on.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(b if b in visible else next(others)) for b in range(256)]


def _to_bytes(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n"
