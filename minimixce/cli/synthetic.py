"""minimixce synthetic."""

import argparse
from dataclasses import dataclass
from typing import Any

from ..experiments.options import option
from ..experiments.synthetic.job import Job
from ..experiments.synthetic.study import FORWARD_PARTS, MODELS, PROTOCOLS
from ..storage.terminal import one_line
from .options import CommonOptions, add_fields, chosen, parse_numbers
from .output import say


@dataclass
class Flags:
    """The options of the command."""

    out: str = option(
        "synthetic",
        "folder for runs.jsonl, runs.csv, table.csv, the learned matrices and the figures",
        metavar="FOLDER",
    )
    overwrite: bool = option(False, "start anew in FOLDER")
    resume: bool = option(
        False,
        "go on with the grid in FOLDER, given its options again: jobs that are finished are not run"
        " again (corpora must not have changed)",
    )
    protocol: str = option(
        "exact",
        "exact gradients brought to the optimum, or paper: its network, Adam, dropout,"
        " Gumbel-softmax",
        choices=PROTOCOLS,
    )
    model: str = option(
        "table",
        "table, neural (the paper's network) or gpt (trained on batches); the paper protocol has"
        " its own",
        choices=MODELS,
    )
    forward: str = option(
        "samples",
        "what the forward part is taken from: samples or, with exact gradients, population",
        choices=FORWARD_PARTS,
    )
    vocab: str = option("20,50,100", "vocabularies, boundary included")
    zeros: str = option("0.5", "shares of impossible transitions of the random worlds")
    corpus: list[str] | None = option(  # noqa: RUF009 (no list is shared: it is None)
        None, "bigram worlds of these text files; random ones too only with --zeros or --full"
    )
    objectives: str = option("mle,mixce,mixce_star,two_kls,js", "objectives")
    etas: str = option("0,0.01,0.1,0.5,0.9,0.99,1", "ratios η of all but mle (js: those between)")
    seeds: str = option("7,42,777,4222,99999", "seeds of worlds and samples")
    full: bool = option(
        False,
        "vocabularies 20,50,100,500,1000, zeros 0.1,0.5,0.9 and the corpora, if any; hours",
    )
    jobs: int = option(0, "processes; 0 means one per core; under MPI all ranks are used")
    quiet: bool = option(False, "print no progress")


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command on `parser`."""
    helps = {
        "device": "cpu, where all runs are",
        "seed": "none here: --seeds names one for each run",
        "threads": "none here: each run has one, and --jobs says how many run at a time",
    }
    add_fields(parser, CommonOptions, helps=helps)
    add_fields(parser, Flags)


def run(given: dict[str, Any]) -> int:
    """Run a grid, and print its table -> exit status. given: the options that the user gave, by
    name. Raises ValueError, FileExistsError or FileNotFoundError for options that cannot work.
    """
    from .. import backend
    from ..experiments.synthetic import study

    backend.reuse_freed_memory()
    flags = chosen(Flags, given)
    found = study.run_study(
        _jobs(flags, given),
        flags.out,
        workers=flags.jobs,
        overwrite=flags.overwrite,
        resume=flags.resume,
        progress=not flags.quiet,
    )
    say(study.format_summary(found.table))
    say(
        "mean ± standard error over seeds, at the η of least avg. JS; files in"
        f" {one_line(flags.out)}/: runs.jsonl, runs.csv, table.csv, {', '.join(found.figures)}"
    )
    return 0


def _jobs(flags: Flags, given: dict[str, Any]) -> list[Job]:
    from ..experiments.options import parse_seeds
    from ..experiments.synthetic import study

    for name, instead in (("seed", "--seeds names them"), ("threads", "a run has one: see --jobs")):
        if name in given:
            raise ValueError(f"synthetic takes no --{name}: {instead}")
    if given.get("device", "cpu") not in ("auto", "cpu"):
        raise ValueError(f"--device must be cpu for synthetic, got {given['device']!r}")
    return study.jobs_of_study(
        parse_numbers("vocab", given.get("vocab"), int),
        parse_numbers("zeros", given.get("zeros"), float),
        parse_seeds(flags.seeds),
        [name.strip() for name in flags.objectives.split(",")],
        parse_numbers("etas", flags.etas, float) or (),
        tuple(flags.corpus or ()),
        full=flags.full,
        protocol=flags.protocol,
        model=given.get("model"),
        forward=given.get("forward"),
    )
