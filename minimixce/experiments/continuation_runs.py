"""What the runs of a comparison write when they go on from texts that are held out.

What is written, and what was measured of it, is kept in the folder of the comparison, a file for
each model and way to sample, and is not made again by --resume.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import backend
from ..model import LanguageModel
from ..storage import files
from ..storage.shapes import Array, FilePath, Int
from ..text import Batches, Corpus, formats
from ..text.corpus import read_files
from ..text.prepared import Tokens
from ..training import run
from . import embeddings, mauve, measures
from .continuations import ContinuationOptions, Hands, check_options, deal, tune_top_p, write_on
from .measures import Ids
from .options import ComparisonOptions
from .reading import held_out_batches
from .trained import Runs, folder_name

TEXTS = "texts"  # the folder of what was written
_MOST = 1 << 32  # bytes of a file of texts


class Way(NamedTuple):
    """A way to let a run write: split: "validation" or "test"; like: the label of a run whose
    entropy MLE is given; top_p: whether with the top-p of the options.
    """

    label: str
    seed: int
    split: str
    like: str = ""
    top_p: bool = False

    @property
    def group(self) -> str:
        """Its label in tables."""
        if self.like:
            return f"{self.label}, entropy of {self.like}"
        return f"{self.label}, top-p" if self.top_p else self.label

    @property
    def file(self) -> str:
        """The file of its texts, in the folder of the comparison."""
        what = f"_entropy_of_{folder_name(self.like)}" if self.like else ""
        what += "_top_p" if self.top_p else ""
        return f"{TEXTS}/{folder_name(self.label)}_seed{self.seed}_{self.split}{what}.json"


def ways(labels: Sequence[str], seeds: Sequence[int], o: ContinuationOptions) -> list[Way]:
    """All ways that a comparison with options o needs, those of a run together."""
    found = []
    for label in labels:
        for seed in seeds:
            found += [Way(label, seed, "validation"), Way(label, seed, "test")]
            if o.tune_top_p or o.top_p is not None:
                found.append(Way(label, seed, "test", top_p=True))
            if label != "mle":
                found.append(Way("mle", seed, "test", like=label))
    return found


# ---- before anything is trained ------------------------------------------------------------------


def check(
    o: ComparisonOptions,
    c: ContinuationOptions,
    labels: Sequence[str],
    test: Sequence[FilePath] | None,
) -> ContinuationOptions:
    """Raise ValueError or FileNotFoundError, naming the option or the file, for options that cannot
    work -> c, with the folder that texts are compared by.
    """
    if o.world:
        raise ValueError("--prompt-tokens is for text, and --world has none: leave one of them out")
    check_options(c, o.samples, o.tokens)
    if "mle" not in labels or len(labels) < 2:
        raise ValueError(
            "--objectives must name mle, with which the others are compared, and at least one"
            f" other beside --prompt-tokens, got {o.objectives}"
        )
    if test is None and not _is_lines(o):
        raise ValueError(
            "--prompt-tokens compares on texts that neither training nor the choice among the"
            " objectives has seen: name them with --test"
        )
    features = c.features or o.init
    if features is None and (c.mauve or c.encode is None):
        raise ValueError(
            "models are compared by the hidden states of one and the same model: name its folder"
            " with --features"
        )
    # opened once before hours of training, where what is wrong with them would come out at the end
    if features is not None:
        run.open_folder(features, "cpu")
    if c.encode is not None:
        embeddings.encoder_of_file(c.encode)
    return dataclasses.replace(c, features=features)


def _is_lines(o: ComparisonOptions) -> bool:
    return o.data is not None and len(o.data) == 1 and formats.is_lines(o.data[0])


class HeldOut(NamedTuple):
    """Texts to go on from, by split, and batches of the test text (inputs, targets)."""

    hands: dict[str, Hands]
    batches: Batches
    remarks: list[str]


def deal_texts(
    o: ComparisonOptions,
    c: ContinuationOptions,
    test: Sequence[FilePath] | None,
    corpus: Corpus,
) -> HeldOut:
    """The texts that models are measured on. Raises ValueError or FileNotFoundError for `test`
    without a text, and for too few texts.
    """
    if test is None:
        assert o.data is not None  # check says so
        test = [formats.test_lines(o.data[0])]
    read, sources = read_files(test, corpus.tokenizer, corpus.lines)
    ids, seen = _without_seen(read, corpus)
    if not len(ids):
        raise ValueError("--test must name texts that are not trained on or held out already")
    whole = o.lines or corpus.lines or o.batches == "texts"
    hands = {}
    for split, stream in (("validation", corpus.validation), ("test", ids)):
        try:
            hands[split] = deal(
                stream, corpus.tokenizer.boundary, o.samples, o.tokens, c.prompt_tokens, whole
            )
            if c.mauve:
                mauve.check_count(len(hands[split].measured))
        except ValueError as error:
            raise ValueError(f"the {split} text is too short: {error}") from None
    held = held_out_batches(corpus, ids[: o.eval_tokens], o.block_size, o.batches)
    remarks = [f"the test text: {line}" for line in sources.describe()]
    if seen:
        remarks.append(f"the test text: left out {seen:,} that are in the other texts, too")
    return HeldOut(hands, held, remarks)


def _without_seen(ids: Int[Array, " N"], corpus: Corpus) -> tuple[Int[Array, " n"], int]:
    """A stream without those of its documents that are trained on or held out, and their number."""
    boundary = corpus.tokenizer.boundary
    seen = {_digest(text) for part in corpus[:2] for text in _documents(part, boundary)}
    texts = list(_documents(ids, boundary))
    kept = [text for text in texts if _digest(text) not in seen]
    # a document begins behind a boundary and ends with one
    ends = np.array([boundary])
    found = [part for text in kept for part in (ends, np.asarray(text))]
    stream = np.concatenate([*found, ends]) if kept else ends[:0]
    return stream.astype(ids.dtype), len(texts) - len(kept)


def _documents(ids: Tokens, boundary: int) -> Iterator[Ids]:
    stream = np.asarray(ids[:])
    for text in np.split(stream, np.flatnonzero(stream == boundary)):
        text = text[1:] if len(text) and text[0] == boundary else text
        if len(text):
            yield text


# ---- what the models write -----------------------------------------------------------------------


class Writer:
    """Lets the runs of a comparison write, once: what is in the folder by now is read."""

    def __init__(
        self,
        o: ComparisonOptions,
        c: ContinuationOptions,
        trained: Runs,
        held_out: HeldOut,
        out: Path,
    ) -> None:
        self._o, self._c, self._trained, self._out = o, c, trained, out
        self.held_out = held_out
        self._digests = {key: digest_of_model(own.load()) for key, own in trained.items()}

    def write(self, way: Way) -> bool:
        """Write the texts of a way to its file, unless they are there -> whether they were not."""
        key = self._key(way)
        if self._read(way).get("key") == key:
            return False
        own = self._trained[way.label, way.seed]
        model, tokenizer = own.load(), own.job.corpus.tokenizer
        temperature = self._temperature(way, model) if way.like else 1.0
        hands = self.held_out.hands[way.split]

        def write(hands, texts, top_p):
            how = {"temperature": temperature, "top_p": top_p, "seed": way.seed}
            return write_on(model, texts, hands, tokenizer.boundary, self._o.tokens, **how)

        top_p = self._top_p(write) if way.top_p else None
        drawn = write(hands, hands.measured, top_p)
        found = {"key": key, "model": way.label, "seed": way.seed, "split": way.split}
        found |= {"temperature": temperature, "top_p": top_p}
        found["texts"] = [tokenizer.decode(ids) for ids in drawn]
        found["tokens"] = [ids.tolist() for ids in drawn]
        self._save(way, found)
        return True

    def measured(
        self, way: Way, by: str, measure: Callable[[Sequence[Ids], float], dict[str, float]]
    ) -> dict[str, Any]:
        """A row of what `measure`(texts, temperature) finds of a way's texts, kept in its file
        under `by`, which says by what they are measured.
        """
        found = self._read(way)
        if found.get("by") != by:
            found |= {"by": by, "row": measure(self.texts(way), found["temperature"])}
            self._save(way, found)
        how = {name: found[name] for name in ("seed", "temperature", "top_p")}
        return how | found["row"]

    def texts(self, way: Way) -> list[Ids]:
        """The ids (n,) of each text of a way, which are written."""
        return [np.asarray(ids, np.int64) for ids in self._read(way)["tokens"]]

    def _key(self, way: Way) -> str:
        """What the texts of a way depend on."""
        o, c, hands = self._o, self._c, self.held_out.hands
        parts: list[Any] = [self._digests[way.label, way.seed]]
        parts += map(_digest, hands[way.split].measured)
        if way.like:
            parts += ["entropy of", self._digests[way.like, way.seed], o.eval_tokens]
        if way.top_p:
            parts += [c.top_p, *(map(_digest, hands["validation"].others) if c.tune_top_p else ())]
        return digest_of([*parts, c.prompt_tokens, o.tokens, hands[way.split].whole, way.seed])

    def _temperature(self, way: Way, model: LanguageModel) -> float:
        """That at which a model, of MLE, has the entropy of another run at validation contexts."""
        other = self._trained[way.like, way.seed]
        _, entropy = measures.fit_to_text(other.load(), other.job.validation)
        return measures.matching_temperature(model, other.job.validation, entropy)

    def _top_p(self, write: Callable[[Hands, Sequence[Ids], float], list[Ids]]) -> float:
        """The top-p that was given, or the one that is tuned on validation texts."""
        if self._c.top_p is not None:
            return self._c.top_p
        hands = self.held_out.hands["validation"]
        return tune_top_p(lambda top_p: write(hands, hands.others, top_p), hands.others)[0]

    def _read(self, way: Way) -> dict[str, Any]:
        path = self._out / way.file
        return files.read_json(path, _MOST) if path.exists() else {}

    def _save(self, way: Way, content: dict[str, Any]) -> None:
        path = self._out / way.file
        path.parent.mkdir(exist_ok=True)
        files.write_atomically(path, files.to_json(content).encode() + b"\n")


def _digest(ids: Ids) -> str:
    return hashlib.blake2b(np.asarray(ids, np.int64).tobytes(), digest_size=16).hexdigest()


def digest_of(parts: Sequence[Any]) -> str:
    """A short text that changes with any of the parts, which repr shows whole."""
    return hashlib.blake2b(repr(list(parts)).encode(), digest_size=16).hexdigest()


def digest_of_model(model: LanguageModel) -> str:
    """A short text that changes with any of its weights."""
    found = hashlib.blake2b(digest_size=16)
    for name, values in sorted(model.params.items()):
        found.update(name.encode())
        found.update(backend.to_numpy(values).tobytes())
    return found.hexdigest()
