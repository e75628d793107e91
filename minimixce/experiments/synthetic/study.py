"""What `minimixce synthetic` does, for programs: a grid of runs, its tables and its figures."""

import math
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...storage import files, install, memory, validate
from ...storage.shapes import Array, FilePath, Float
from .. import plots, pool, written
from ..tables import format_table
from . import grid
from .data import world_of
from .job import Job

RUNS_TABLE = "runs.csv"


SUMMARY_TABLE = "table.csv"


_RESULTS = (RUNS_TABLE, SUMMARY_TABLE, *plots.SYNTHETIC_FIGURES)


PROTOCOLS = ("exact", "paper")


MODELS = ("table", "neural", "gpt")


FORWARD_PARTS = ("samples", "population")


FULL_VOCAB_SIZES = (20, 50, 100, 500, 1000)


FULL_ZEROS = (0.1, 0.5, 0.9)


class Study(NamedTuple):
    """What run_study found and wrote."""

    results: list[dict[str, Any]]  # dicts, in the order of jobs, with the fields grid.RESULT
    table: list[dict[str, Any]]  # dicts, see summarize
    figures: tuple[str, ...]  # names of PNG files in the folder


def jobs_of_study(
    vocab_sizes: Sequence[int] | None = None,
    zeros: Sequence[float] | None = None,
    seeds: Sequence[int] = grid.SEEDS,
    objectives: Sequence[str] = grid.OBJECTIVES,
    etas: Sequence[float] = grid.ETAS,
    corpora: Sequence[FilePath] = (),
    *,
    full: bool = False,
    protocol: str = "exact",
    model: str | None = None,
    forward: str | None = None,
) -> list[Job]:
    """The jobs of `minimixce synthetic` -> list of Job. vocab_sizes, zeros, seeds, objectives, etas
    and corpora: see jobs_of_grid.

    None is the default of each: vocabularies of 20, 50 and 100 tokens, half of the transitions
    impossible, a table, the forward part from samples. Corpora come without random worlds unless
    zeros are given. full: vocabularies up to 1000 and zeros 0.1, 0.5 and 0.9 instead, with the
    corpora, if any. protocol "paper" has its own model and data, so it takes neither `model` nor
    `forward`, and model "gpt" no `forward`. Raises FileNotFoundError for a corpus that is no file,
    ValueError for a poor one and for anything else, before any run.
    """
    for name, value, allowed in (
        ("protocol", protocol, PROTOCOLS),
        ("model", model, MODELS),
        ("forward", forward, FORWARD_PARTS),
    ):
        if value is not None and value not in allowed:
            one_of = f"{', '.join(allowed[:-1])} or {allowed[-1]}"
            raise ValueError(f"--{name} must be {one_of}, got {value!r}")
    if protocol == "paper" and not model is forward is None:
        raise ValueError(
            "--protocol paper has its own model and data: leave out --model and --forward"
        )
    if model == "gpt" and forward is not None:
        raise ValueError("--model gpt is trained on samples: leave out --forward")
    for path in corpora:
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path} is not a file")
        validate.check_text("the name of a --corpus", str(path))
    if zeros is None:
        zeros = FULL_ZEROS if full else () if corpora else (0.5,)
    if vocab_sizes is None:
        vocab_sizes = FULL_VOCAB_SIZES if full else (20, 50, 100)
    jobs = grid.jobs_of_grid(
        vocab_sizes,
        zeros,
        seeds,
        objectives,
        etas,
        tuple(os.path.abspath(path) for path in corpora),
        protocol=protocol,
        model="neural" if protocol == "paper" else model or "table",
        forward=forward or "samples",
    )
    for corpus, size in dict.fromkeys((job.corpus, job.vocab_size) for job in jobs if job.corpus):
        world_of(corpus, size, 0.0, 0)  # what is wrong with a corpus comes out now, not after hours
    return jobs


def run_study(
    jobs: Sequence[Job],
    out: FilePath,
    *,
    workers: int = 0,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
) -> Study:
    """Run jobs and write folder `out`: runs.jsonl, runs.csv, table.csv, the learned matrices and
    the figures -> Study.

    workers: processes, 0 for one a core (pool.worker_pool). A folder that holds a grid is refused
    (FileExistsError) unless overwrite=True, which starts anew, or resume=True, which goes on: jobs
    that are finished are not run again. What else is in the folder stays as it is: FileExistsError
    where it has a name that the grid needs. progress: print how many runs there are and about how
    long they take, and show a bar. Needs matplotlib, which ValueError says before anything runs.
    MemoryError where the jobs need more memory than there is; RuntimeError where a worker is ended
    from outside.
    """
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other")
    if workers < 0:
        raise ValueError(f"--jobs must be at least 0, got {workers}")
    plots.new_figure()
    out = Path(out)
    names = (*_RESULTS, grid.RUNS_FILE, *map(grid.matrix_file, jobs))
    with install.locked(out):
        if written.check(out, _KIND, names, resume=resume, overwrite=overwrite):
            install.finish(out, _RESULTS)
        done = {} if overwrite else grid.read_runs(out)
        waiting = [job for job in jobs if job not in done]
        _check_memory(jobs, waiting, pool.count_workers(workers, len(waiting)))
        written.begin(out, _KIND, names, overwrite=overwrite)
        try:
            with pool.worker_pool(workers, len(waiting)) as (executor, count):
                if progress:
                    time = _time(waiting, count)
                    print(f"{len(waiting)} runs, {count} at a time, about {time}", flush=True)
                results = grid.run_grid(jobs, out, executor, progress)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(written.GO_ON) from None
        except BrokenExecutor:
            raise RuntimeError(
                "a worker process was ended from outside, as happens where memory runs out; what is"
                " finished is kept: go on with --resume, and with fewer --jobs if it was memory"
            ) from None
        return _tabulate(results, out)


def _tabulate(results: list[dict[str, Any]], out: Path) -> Study:
    table = summarize(results)
    drawn = [{**r, "world": world_name(r["corpus"], r["zeros"])} for r in results]
    shown = examples(results, table, out)
    with install.replacing(out, _RESULTS) as new:  # together: they show the same runs
        # seconds differ from run to run
        _write_csv(new / RUNS_TABLE, results, [name for name in grid.RESULT if name != "seconds"])
        _write_csv(new / SUMMARY_TABLE, table, list(table[0]))
        figures = plots.synthetic(drawn, *shown, new)
    return Study(results, table, figures)


def _is_name(name: str) -> bool:
    """Whether a grid could have written a file of this name to its folder."""
    of_matrix = re.fullmatch(rf"{grid.MATRICES}/[^/\\\0]+\.json", name)
    return name in (*_RESULTS, grid.RUNS_FILE) or of_matrix is not None


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


_KIND = written.Kind("synthetic", "a grid", _is_name, _remove)


# 64-bit numbers for each pair of tokens, as measured at 500 to 2,000 tokens: in the process of a
# job, in the one that writes its result, and where the figures are drawn
_IN_JOB, _IN_WRITER, _IN_FIGURES = 26, 12, 22


def _check_memory(jobs: Sequence[Job], waiting: Sequence[Job], count: int) -> None:
    """Raise MemoryError where `count` of the jobs that wait, or the figures of all, are sure not to
    fit.
    """
    sizes = sorted((job.vocab_size for job in waiting if job.model != "gpt"), reverse=True)[:count]
    if sizes:
        numbers = sum(_IN_JOB * size**2 for size in sizes) + _IN_WRITER * sizes[0] ** 2
        what = f"running {len(sizes)} of the jobs at a time, with up to {sizes[0]:,} tokens,"
        memory.check(8 * numbers, what, "choose a smaller --vocab or fewer --jobs")
    shown = jobs[0].vocab_size
    what = f"drawing the first world, of {shown:,} tokens,"
    memory.check(8 * _IN_FIGURES * shown**2, what, "name a smaller --vocab first")


def _time(jobs: Sequence[Job], workers: int) -> str:
    seconds = grid.estimate(jobs) / workers
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _write_csv(path: Path, rows: Sequence[dict[str, Any]], fields: Sequence[str]) -> None:
    rows = [{field: row[field] for field in fields} for row in rows]
    files.write_atomically(path, files.to_csv(rows).encode())


# ---- what the runs say ---------------------------------------------------------------------------


def world_name(corpus: str, zeros: float) -> str:
    """A world in tables and figures: that of the file `corpus`, or the random one with a share
    `zeros` of impossible transitions.
    """
    return Path(corpus).stem if corpus else f"random {100 * zeros:.6g}% zeros"


def summarize(results: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The paper's table of `results` (run_grid's): for each world, vocabulary and objective the η
    with the least mean avg. JS over seeds -> list of dicts, with mean and standard error over seeds
    (NaN for a single one).
    """
    groups: dict[tuple[str, int, str], dict[float, list[dict[str, Any]]]] = {}
    for r in results:
        of_row = (world_name(r["corpus"], r["zeros"]), r["vocab_size"], r["objective"])
        groups.setdefault(of_row, {}).setdefault(r["eta"], []).append(r)
    return [_row_of_table(*of_row, by_eta) for of_row, by_eta in groups.items()]


def _row_of_table(
    world: str, vocab_size: int, objective: str, by_eta: dict[float, list[dict[str, Any]]]
) -> dict[str, Any]:
    rows = min(by_eta.values(), key=lambda rows: np.mean([r["avg_js"] for r in rows]))
    row = {
        "world": world,
        "vocab_size": vocab_size,
        "objective": objective,
        "best_eta": rows[0]["eta"],
    }
    for name in ("avg_js", "avg_zeros"):
        values = np.array([r[name] for r in rows])
        error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        row |= {name: float(values.mean()), f"{name}_se": float(error)}
    return row | {"seeds": len(rows), "uses": rows[0]["uses"], "gradient": rows[0]["gradient"]}


def format_summary(table: Sequence[dict[str, Any]]) -> str:
    """Lines to print of summarize's table -> text."""
    headings = ("world", "V", "objective", "best η", "avg. JS", "avg. 0s", "gradient, from")
    rows = [
        (
            row["world"],
            row["vocab_size"],
            row["objective"],
            "" if row["objective"] == "mle" else f"{row['best_eta']:g}",
            *(_mean_and_error(row, name) for name in ("avg_js", "avg_zeros")),
            f"{row['gradient']}, {row['uses']}",
        )
        for row in table
    ]
    return format_table(headings, rows, "{:<22}{:>5}  {:<11}{:>7}{:>22}{:>22}  {}")


def _mean_and_error(row: dict[str, Any], name: str) -> str:
    error = f" ± {row[name + '_se']:.0e}" if row["seeds"] > 1 else ""
    return f"{row[name]:.2e}{error}"


def examples(
    results: Sequence[dict[str, Any]], table: Sequence[dict[str, Any]], folder: FilePath
) -> tuple[dict[str, dict[str, Any]], Float[Array, "V V"], dict[str, dict[str, Any]]]:
    """What the figures show of the first world and seed of `results` (run_grid's, in `folder`) and
    their `table` (summarize's) -> {label: learned matrix and curve at the best η of each
    objective}, the world (V,V), and such a dict of the one run of mixce whose loss is worth a look:
    η nearest to 0.1, between 0 and 1.
    """
    first = Job(*(results[0][name] for name in Job._fields))

    def stored(objective, eta):
        job = first._replace(objective=objective, eta=eta)
        label = objective if objective == "mle" else f"{objective}, η = {eta:g}"
        return {label: grid.read_matrix(folder, job)}

    best: dict[str, Any] = {}
    at_a_ratio: dict[str, Any] = {}
    for row in table:
        if (row["world"], row["vocab_size"]) == (table[0]["world"], first.vocab_size):
            best |= stored(row["objective"], row["best_eta"])
    if between := [r["eta"] for r in results if r["objective"] == "mixce" and 0 < r["eta"] < 1]:
        at_a_ratio = stored("mixce", min(between, key=lambda eta: abs(math.log(eta / 0.1))))
    if at_a_ratio and not all("surrogate" in run["curve"][0] for run in at_a_ratio.values()):
        at_a_ratio = {}  # a GPT's is printed on batches, where it is noise
    world = world_of(first.corpus, first.vocab_size, first.zeros, first.seed)
    return best, world.probs, at_a_ratio
