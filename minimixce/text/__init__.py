"""Corpora, tokenizers and batches: from files to arrays of ids."""

from .batches import (
    Batches,
    WholeTexts,
    consecutive_batches,
    random_batches,
    whole_text_batches,
)
from .corpus import HELD_OUT, TOKENIZERS, VOCAB_SIZE, Corpus, encode_files, load_corpus
from .documents import drop_repeated_paragraphs, python_docs
from .prepared import is_prepared
from .sources import LeftOut, Sources
from .splits import split_documents
from .tokenizers import (
    BOUNDARY,
    TOKENIZER_FILE,
    ByteTokenizer,
    CharTokenizer,
    SubwordTokenizer,
    WordTokenizer,
    encode_prompt,
    learn_bpe,
    load_tokenizer,
    save_tokenizer,
)

__all__ = [
    "BOUNDARY",
    "HELD_OUT",
    "TOKENIZERS",
    "TOKENIZER_FILE",
    "VOCAB_SIZE",
    "Batches",
    "ByteTokenizer",
    "CharTokenizer",
    "Corpus",
    "LeftOut",
    "Sources",
    "SubwordTokenizer",
    "WholeTexts",
    "WordTokenizer",
    "consecutive_batches",
    "drop_repeated_paragraphs",
    "encode_files",
    "encode_prompt",
    "is_prepared",
    "learn_bpe",
    "load_corpus",
    "load_tokenizer",
    "python_docs",
    "random_batches",
    "save_tokenizer",
    "split_documents",
    "whole_text_batches",
]
