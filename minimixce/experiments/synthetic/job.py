"""One run of a grid, and what it may see of P."""

import zlib
from pathlib import Path
from typing import NamedTuple

from ... import objectives


class Job(NamedTuple):
    """One run: everything that decides its result, except what the corpus's file holds."""

    corpus: str  # a text file whose bigram world it is, or "" for a random one
    vocab_size: int
    zeros: float  # share of impossible transitions of a random world
    seed: int
    objective: str
    eta: float
    protocol: str = "exact"
    model: str = "table"
    forward: str = "samples"  # or "population": the forward part from P itself

    @property
    def name(self) -> str:
        """A file name that no other job has."""
        crc = f"{zlib.crc32(self.corpus.encode()):08x}"
        world = f"{Path(self.corpus).stem}-{crc}" if self.corpus else f"random-{self.zeros!r}"
        way = f"{self.protocol}-{self.model}-{self.forward}"
        return f"{world}_V{self.vocab_size}_seed{self.seed}_{self.objective}_eta{self.eta!r}_{way}"


def information_used(job: Job) -> str:
    """What decides where a run (a Job) ends -> "samples" (of P), "P" (its probabilities), "samples
    and P".

    The rule is objectives.information_used, with two exceptions. A run whose forward part comes
    from the population sees P and no sample. js is no mixture of a part from samples and one from
    P, but its runs from tables and networks start at what the samples say and end before that is
    forgotten, and in the paper's protocol its part under P is an average over samples; only a GPT's
    js uses P alone. Otherwise what only gives the start of a job is not counted. Choosing η by avg.
    JS uses P, whichever the objective is.
    """
    if job.forward == "population":
        return "P"
    if job.objective == "js":
        return "P" if job.model == "gpt" else "samples and P"
    return objectives.information_used(job.objective, job.eta)


def forward_part(job: Job) -> tuple[float, str]:
    """The part of a job's objective that samples of P can give -> (its share, its name).

    (1.0, "mixce") for mixce, (η, "forward_kl") for two_kls. Raises ValueError for js, which has no
    such part.
    """
    for share, part in objectives.parts(job.objective, job.eta):
        if objectives.information_used(part, job.eta) == "samples":
            return share, part
    raise ValueError(f"{job.objective} has no part that samples of P alone can give")
