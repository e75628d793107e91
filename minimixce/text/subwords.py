"""Byte-level BPE through Hugging Face's tokenizers library, which is imported only here, and only
when such a tokenizer is opened or made.
"""

import json
from collections.abc import Iterable
from typing import Any

from ..storage.shapes import FilePath
from .hugging_face import END_OF_TEXT, bpe_json, byte_letters

BYTES = 256  # tokens that every byte-level BPE begins with
LARGEST = 1 << 20  # tokens of a vocabulary that is learnt here


def _library() -> Any:
    """The module `tokenizers`; ValueError, with the command that installs it, where it is not."""
    try:
        import tokenizers
    except ImportError:
        raise ValueError(
            'byte-level BPE needs the library tokenizers: pip install "minimixce[text]"'
        ) from None
    return tokenizers


def opened(found: dict[str, Any], path: FilePath) -> Any:
    """The library's tokenizer for what a tokenizer.json, the file `path`, says (found, as
    gpt2_files.checked returns it), except for truncation, padding and special tokens around a text.

    Raises ValueError, naming the file, for one that is damaged.
    """
    library = _library()
    plain = found | dict.fromkeys(("truncation", "padding", "post_processor"))
    try:
        tokenizer = library.Tokenizer.from_str(json.dumps(plain))
    except Exception as error:  # the library raises no other
        raise ValueError(f"{path} is no tokenizer that can be read: {error}") from None
    ids = sorted(tokenizer.get_vocab(with_added_tokens=True).values())
    if not ids or ids != list(range(len(ids))):
        raise ValueError(
            f"{path}: the ids of {len(ids):,} tokens must be 0 … {len(ids) - 1:,}, each once"
        )
    return tokenizer


def bytes_of(token: str, is_added: bool, bytes_of_letters: dict[str, int]) -> bytes:
    """The bytes that a token of byte-level BPE is for: those of GPT-2's letters, or of a token that
    was added, its own text.
    """
    if is_added or any(letter not in bytes_of_letters for letter in token):
        return token.encode()
    return bytes(map(bytes_of_letters.__getitem__, token))


def learn(texts: Iterable[str], vocab_size: int) -> tuple[str, int]:
    """Learn a byte-level BPE of at most vocab_size tokens from texts -> (the content of a
    tokenizer.json, the id of its boundary, the last).

    The pairs that are most frequent are merged first, of equally frequent ones those with the
    lowest ids, so the same texts give the same tokens; a pair that stands there once is not merged.
    No token crosses GPT-2's borders between words. Raises ValueError for a vocab_size out of range.
    """
    if not BYTES < vocab_size <= LARGEST:
        raise ValueError(
            f"vocab_size must be {BYTES + 1} … {LARGEST:,}, for {BYTES} bytes and the boundary at"
            f" least, got {vocab_size}"
        )
    library = _library()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=2,
        initial_alphabet=byte_letters(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    # a pair in the newer form of the library, "a b" in the older one
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    vocab = dict(sorted(model["vocab"].items(), key=lambda item: item[1]))
    boundary = len(vocab)
    content = bpe_json(vocab, merges, {END_OF_TEXT: boundary}, boundary_first=END_OF_TEXT)
    return content, boundary
