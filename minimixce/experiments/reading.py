"""The corpus that options name, and batches of it to measure on."""

from .. import text
from ..storage.shapes import FilePath
from ..text.prepared import Tokens
from . import on_worlds, starting
from .options import TrainingOptions

MOST_POSITIONS = 1 << 12  # in a batch to measure on, each with V logits


def load_corpus(
    job_options: TrainingOptions,
    folder: FilePath | None = None,
    overwrite: bool = False,
    out: FilePath | None = None,
    of_run: FilePath | None = None,
) -> text.Corpus:
    """The corpus that job_options name: a world's samples (on_worlds.WorldCorpus) or a text's
    (text.Corpus), written to `folder` if there is one, where it may replace another one with
    overwrite=True. out: where results go, which is not read as text; of_run: the folder of a run of
    these options, which has a tokenizer by now.

    The split of a text does not depend on the seed: runs with different seeds are measured on the
    same held-out text. Raises ValueError or FileNotFoundError as text.load_corpus and
    on_worlds.load_corpus do.
    """
    o = job_options
    if o.world:
        return on_worlds.load_corpus(o.world, o.sequences, o.max_len, o.block_size + 1)
    made = starting.tokenizer_of_run(of_run, o) if of_run else starting.tokenizer_for(o)
    return text.load_corpus(
        o.data,
        tokenizer=made,
        vocab_size=o.vocab_size,
        lines=o.lines,
        held_out=o.held_out,
        include=o.include,
        exclude=o.exclude,
        validation=o.validation,
        without=[] if out is None else [out],
        folder=folder,
        overwrite=overwrite,
        verify=o.verify,
    )


def held_out_batches(
    corpus: text.Corpus, ids: Tokens, block_size: int, kind: str = "stream", most: int = 32
) -> text.Batches:
    """Batches of `ids`, held-out text of `corpus`, to measure on, of 32 rows, or of `most` where
    that is fewer, or of fewer where these are long, cut as `kind`, the option --batches, says.
    """
    boundary = corpus.tokenizer.boundary
    rows = max(1, min(32, most, MOST_POSITIONS // block_size))
    if kind == "texts":
        return text.whole_text_batches(ids, rows, block_size, boundary=boundary)
    return text.consecutive_batches(ids, rows, block_size, corpus.lines, boundary=boundary)


def describe_reading(corpus: text.Corpus) -> list[str]:
    """Lines on what was not read of the files of a corpus, or not as one would expect; often
    none.
    """
    remarks = [] if corpus.sources is None else corpus.sources.describe()
    return [f"         {remark}" for remark in remarks]
