"""Corpora, tokenizers and batches: from documents to arrays of ids.

A corpus becomes one stream of ids a split, boundary · document · boundary · document · … · boundary, and batches are blocks
cut from it. Everything here is NumPy on the host; training moves each batch to the model's device.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import checkpoint

BOUNDARY = 0  # the id that starts and ends every document; tokenizers count their own tokens from 1
TOKENIZER_FILE = "minimixce_tokenizer.json"


class CharTokenizer:
    """One id per character: boundary 0, then the given characters 1, 2, … in sorted order."""

    def __init__(self, characters):
        self.characters = "".join(sorted(set(characters)))
        self._ids = {c: i for i, c in enumerate(self.characters, 1)}

    boundary = BOUNDARY

    @property
    def vocab_size(self):
        return 1 + len(self.characters)

    def encode(self, text):
        """str -> ids (n,) int32. Raises ValueError that names the first character the training text did not have."""
        try:
            return np.array([self._ids[c] for c in text], dtype=np.int32)
        except KeyError as error:
            raise ValueError(f"character {error.args[0]!r} is not in this tokenizer's {len(self.characters)}") from None

    def decode(self, ids):
        """ids (n,) -> str; boundaries are left out."""
        return "".join(self.characters[i - 1] for i in np.asarray(ids).tolist() if i != BOUNDARY)

    def save(self, folder):
        """Write the tokenizer beside a model."""
        fields = {"type": "character", "boundary": BOUNDARY, "characters": self.characters}
        checkpoint.write_atomically(Path(folder) / TOKENIZER_FILE, json.dumps(fields, ensure_ascii=False).encode() + b"\n")


def load_tokenizer(folder):
    """The tokenizer that was saved beside a model. Raises FileNotFoundError or ValueError."""
    fields = checkpoint.read_json(Path(folder) / TOKENIZER_FILE)
    if fields.get("type") != "character" or not isinstance(fields.get("characters"), str):
        raise ValueError(f"{Path(folder) / TOKENIZER_FILE} does not describe a character tokenizer")
    return CharTokenizer(fields["characters"])


def python_docs():
    """The default corpus: the language reference topics every CPython carries -> list of documents (str).

    Topics quote each other, so a paragraph of 40 or more characters is kept only where it first occurs; otherwise text
    held out would have been seen in training.
    """
    from pydoc_data.topics import topics

    return drop_repeated_paragraphs(topics.values())


def drop_repeated_paragraphs(documents, min_length=40):
    """Documents without the paragraphs (blank-line separated) of min_length or more characters that occurred before."""
    seen, kept_documents = set(), []
    for document in documents:
        kept = []
        for paragraph in document.split("\n\n"):
            key = " ".join(paragraph.split())
            if len(key) >= min_length and key in seen:
                continue
            seen.add(key)
            kept.append(paragraph)
        kept_documents.append("\n\n".join(kept).strip("\n"))
    return [document for document in kept_documents if document]


def read_documents(path):
    """A text file as one document, in a list. Raises FileNotFoundError or ValueError (empty, not UTF-8)."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start})") from None
    if not text.strip():
        raise ValueError(f"{path} holds no text")
    return [text]


def split_documents(documents, held_out=0.1, seed=0):
    """(training documents, validation documents): whole documents, drawn at random until held_out of the characters are
    reached. A single document is cut, its end held out."""
    if len(documents) == 1:
        (text,) = documents
        cut = len(text) - round(held_out * len(text))
        return [text[:cut]], [text[cut:]]
    order = np.random.default_rng(seed).permutation(len(documents))
    budget, validation = held_out * sum(map(len, documents)), []
    for i in order[: len(documents) - 1]:  # at least one stays for training
        if len(documents[i]) <= budget or not validation:
            validation.append(i)
            budget -= len(documents[i])
    chosen = set(validation)
    return [d for i, d in enumerate(documents) if i not in chosen], [documents[i] for i in sorted(chosen)]


def encode_documents(tokenizer, documents):
    """Documents -> one stream of ids (n,): boundary, document, boundary, …, boundary."""
    boundary = np.array([tokenizer.boundary], np.int32)
    return np.concatenate([boundary, *(part for d in documents for part in (tokenizer.encode(d), boundary))])


class Corpus(NamedTuple):
    """What training needs of a text: ids of both splits (n,) and the tokenizer they were made with."""

    train: np.ndarray
    validation: np.ndarray
    tokenizer: CharTokenizer


def load_corpus(path=None, held_out=0.1, seed=0):
    """The corpus of a text file, or by default of Python's documentation, split by document and encoded by character."""
    documents = python_docs() if path is None else read_documents(path)
    train, validation = split_documents(documents, held_out, seed)
    tokenizer = CharTokenizer("".join(documents))
    return Corpus(encode_documents(tokenizer, train), encode_documents(tokenizer, validation), tokenizer)


class RandomBlocks:
    """Endless batches of blocks cut from a stream at random: iterate for (inputs, targets), each (B,T) ids.

    targets[:, t] is the token after inputs[:, t]. Batch k depends on (seed, k) alone, so training can go on from any step.
    """

    def __init__(self, tokens, batch_size, block_size, seed=0):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if len(tokens) <= block_size:
            raise ValueError(f"the text has {len(tokens)} tokens, too few for blocks of {block_size} + 1")
        self.tokens, self.batch_size, self.block_size, self.seed = tokens, batch_size, block_size, seed

    def __getitem__(self, k):
        rng = np.random.default_rng([self.seed, k])
        starts = rng.integers(0, len(self.tokens) - self.block_size, self.batch_size)
        blocks = self.tokens[starts[:, None] + np.arange(self.block_size + 1)]
        return blocks[:, :-1], blocks[:, 1:]


def consecutive_blocks(tokens, batch_size, block_size):
    """A list of batches (inputs, targets) in which every token but the first is a target exactly once; the rest is −1."""
    if len(tokens) < 2:
        raise ValueError(f"evaluation needs at least 2 tokens, got {len(tokens)}")
    n = -(-(len(tokens) - 1) // block_size)  # blocks, the last one padded
    inputs, targets = np.zeros((n, block_size), np.int32), np.full((n, block_size), -1, np.int32)
    inputs.reshape(-1)[: len(tokens) - 1] = tokens[:-1]
    targets.reshape(-1)[: len(tokens) - 1] = tokens[1:]
    return [(inputs[i : i + batch_size], targets[i : i + batch_size]) for i in range(0, n, batch_size)]
