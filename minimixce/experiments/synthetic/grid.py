"""Grids of runs: which there are, running them in any number of processes, and reading what they
left.
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ... import exact, worlds
from ...storage import files
from ...storage.shapes import Array, FilePath, Float
from .. import matrices
from . import data, optima, paper
from .curves import Curve, average_js
from .job import Job, information_used

OBJECTIVES = ("mle", "mixce", "mixce_star", "two_kls", "js")  # the paper's


ETAS = (0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0)


SEEDS = (7, 42, 777, 4222, 99999)


RUNS_FILE = "runs.jsonl"


MATRICES = "matrices"  # the folder of learned matrices and curves


_MOST_MATRIX = 1 << 30  # bytes of a file there: 5,000 tokens have half as many


# the fields of a line of RUNS_FILE
_NUMBERS = ("avg_js", "avg_zeros", "loss", "steps", "seconds")
RESULT = (*Job._fields, "uses", "gradient", *_NUMBERS)


# ---- which runs ----------------------------------------------------------------------------------


def jobs_of_grid(
    vocab_sizes: Sequence[int] = (20, 50, 100),
    zeros: Sequence[float] = (0.5,),
    seeds: Sequence[int] = SEEDS,
    objectives: Sequence[str] = OBJECTIVES,
    etas: Sequence[float] = ETAS,
    corpora: Sequence[str] = (),
    **fields: str,
) -> list[Job]:
    """All jobs: worlds × vocab_sizes × seeds × objectives × etas -> list of Job. mle has no η, js
    none of 0 and 1.

    zeros: shares of impossible transitions, each a random world; corpora: paths of text files, each
    a world; `fields`: those of Job that all jobs share. Raises ValueError, naming the argument, for
    unknown objectives, numbers out of range, things named twice, and a grid without jobs.
    """
    _check_grid(vocab_sizes, zeros, seeds, objectives, etas, corpora)
    of_worlds = [("", share) for share in zeros] + [(corpus, 0.0) for corpus in corpora]
    jobs = [
        Job(corpus, vocab_size, share, seed, objective, float(eta), **fields)
        for corpus, share in of_worlds
        for vocab_size in vocab_sizes
        for seed in seeds
        for objective in objectives
        for eta in _ratios(objective, etas)
    ]
    if not jobs:
        raise ValueError("there is nothing to run: js needs an eta above 0 and below 1")
    return jobs


def _ratios(objective: str, etas: Sequence[float]) -> Sequence[float]:
    if objective == "mle":
        return (1.0,)
    return [eta for eta in etas if objective != "js" or 0 < eta < 1]


def _check_grid(
    vocab_sizes: Sequence[int],
    zeros: Sequence[float],
    seeds: Sequence[int],
    objectives: Sequence[str],
    etas: Sequence[float],
    corpora: Sequence[str],
) -> None:
    if unknown := [name for name in objectives if name not in OBJECTIVES]:
        raise ValueError(f"objectives must be among {', '.join(OBJECTIVES)}, got {unknown[0]!r}")
    for name, values, low, high in (
        ("etas", etas, 0, 1),
        ("zeros", zeros, 0, 0.99),
        ("vocab_sizes", vocab_sizes, 2, 5000),
        ("seeds", seeds, 0, 2**32 - 1),
    ):
        if wrong := [value for value in values if not low <= value <= high]:
            raise ValueError(f"{name} must be between {low} and {high}, got {wrong[0]}")
    for name, named in (
        ("objectives", objectives),
        ("names of corpora", [Path(path).stem for path in corpora]),
    ):
        if len(set(named)) < len(named):
            raise ValueError(f"{name} must be different, got {', '.join(named)}")


# ---- running them --------------------------------------------------------------------------------


def run(job: Job) -> tuple[dict[str, Any], Float[Array, "V V"], Curve]:
    """Carry out one job -> (result dict, learned transition matrix (V,V), curve: a list of dicts).

    The result's loss is what was minimised, in nats: per sequence (of a token objective of a GPT:
    per token), that of js by RLOO without its part under P; steps are optimizer steps, seconds are
    of wall time.
    """
    start = time.perf_counter()
    sampled = data.data_of(job.corpus, job.vocab_size, job.zeros, job.seed)
    learned, loss, steps, curve, gradient = _fit(job, sampled)
    world = sampled.world
    seen = sampled.world.reachable
    result = {
        **job._asdict(),
        "uses": information_used(job),
        "gradient": gradient,
        "avg_js": average_js(world, learned),
        "avg_zeros": matrices.average_zeros(world.probs[seen], learned[seen]),
        "loss": loss,
        "steps": steps,
        "seconds": time.perf_counter() - start,
    }
    return result, learned, curve


def _fit(job: Job, sampled: data.Data) -> tuple[Float[Array, "V V"], float, int, Curve, str]:
    """-> learned, loss, steps, curve, and in words which gradient that was."""
    if job.protocol == "paper":
        from_counts = information_used(job) == "samples"
        gradient = "counts" if from_counts else "Gumbel-softmax (sampled)"
        return *paper.fit_paper(job, sampled), gradient
    if job.model == "gpt":
        return optima.fit_gpt(job, sampled)
    gradient = "RLOO (sampled)" if job.objective == "js" else "exact"
    if job.model == "neural":
        return *optima.fit_neural(job, sampled), gradient
    fit_table = optima.fit_js if job.objective == "js" else optima.fit_exact
    return *fit_table(job, sampled), gradient


def run_grid(
    jobs: Sequence[Job], folder: FilePath, executor: Executor | None = None, progress: bool = True
) -> list[dict[str, Any]]:
    """Run jobs, on `executor` (concurrent.futures) or one after another -> results, dicts, in the
    order of jobs.

    Each finished job is a line of folder/runs.jsonl at once, so a killed grid goes on where it
    stopped; learned matrices and curves are kept beside it. Results depend neither on the executor
    nor on what was done before. progress: whether to show a bar.
    """
    folder = Path(folder)
    done = read_runs(folder)
    waiting = [job for job in jobs if job not in done]
    (folder / MATRICES).mkdir(parents=True, exist_ok=True)
    files.write_atomically(
        folder / RUNS_FILE, "".join(json.dumps(r) + "\n" for r in done.values()).encode()
    )
    finished = len(jobs) - len(waiting)
    with tqdm(total=len(jobs), initial=finished, disable=None if progress else True) as bar:
        for job, (result, learned, curve) in _results(waiting, executor):
            files.write_atomically(
                folder / matrix_file(job),
                json.dumps({"learned": learned.tolist(), "curve": curve}).encode(),
            )
            _append(folder / RUNS_FILE, json.dumps(result).encode() + b"\n")
            done[job] = result
            bar.update()
    return [done[job] for job in jobs]


def _append(path: Path, line: bytes) -> None:
    """Add a line to a file, to last. A line that a full disk cuts short is no line: see
    read_runs.
    """
    with files.naming(path), open(path, "ab", buffering=0) as file:
        while line:
            line = line[file.write(line) :]
        os.fsync(file.fileno())


def matrix_file(job: Job) -> str:
    """The name of the file with a job's learned matrix and curve, in the grid's folder."""
    return f"{MATRICES}/{job.name}.json"


def read_matrix(folder: FilePath, job: Job) -> dict[str, Any]:
    """The learned matrix (V,V) and the curve of a finished job -> dict: learned, an array, which
    takes a quarter of a list's memory, and curve, a list of dicts. Raises FileNotFoundError or
    ValueError for a file that is missing or damaged.
    """
    path = Path(folder) / matrix_file(job)
    found = files.read_json(path, _MOST_MATRIX)
    try:
        learned = np.array(found["learned"], float)
        curve = found["curve"]
    except (KeyError, TypeError, ValueError, OverflowError):
        curve = []
    if not _is_curve(curve) or learned.shape != (job.vocab_size, job.vocab_size):
        raise ValueError(
            f"{path} is damaged: it holds no learned matrix of {job.vocab_size} tokens with its"
            " curve"
        )
    return {"learned": learned, "curve": curve}


def _is_curve(found: Any) -> bool:
    """Whether it is a list of points that all have numbers by the same names."""
    if not isinstance(found, list) or not found or not isinstance(found[0], dict):
        return False
    names = found[0].keys()
    return names >= {"step", "loss"} and all(
        isinstance(point, dict) and point.keys() == names and all(map(_is_number, point.values()))
        for point in found
    )


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 1 << 63)


def _results(
    jobs: Sequence[Job], executor: Executor | None
) -> Iterator[tuple[Job, tuple[dict[str, Any], Float[Array, "V V"], Curve]]]:
    """(job, what `run` returns) of each job, in the order in which they finish."""
    if executor is None:
        for job in jobs:
            yield job, run(job)
        return
    futures = {executor.submit(run, job): job for job in jobs}
    for future in as_completed(futures):
        yield futures[future], future.result()


def read_runs(folder: FilePath) -> dict[Job, dict[str, Any]]:
    """{job: result} of the runs that are finished in a folder; a last line cut short by a kill is
    dropped.

    Raises ValueError, naming the line, where the file holds something else.
    """
    path = Path(folder) / RUNS_FILE
    done = {}
    data = files.read_bytes(path) if path.exists() else b""
    whole, _, _ = data.rpartition(b"\n")
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            job, result = _read_run(line)
            done[job] = result
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(
                f"{path}: line {number} is not a run of this version; choose another folder"
            ) from None
    return done


def _read_run(line: bytes) -> tuple[Job, dict[str, Any]]:
    found = json.loads(line)
    job = Job(*(found[name] for name in Job._fields))
    if not all(_is_number(found[name]) for name in _NUMBERS):
        raise TypeError
    return job, {name: found[name] for name in RESULT}


# ---- how long that takes -------------------------------------------------------------------------


# exact gradients of a run from a table
_GRADIENTS = {"mle": 2, "mixce": 100, "mixce_star": 100, "two_kls": 40, "js": 0}


def estimate(jobs: Sequence[Job]) -> float:
    """Seconds that jobs should take one after another, from the time of one exact gradient at each
    vocabulary.

    How many gradients a run needs, and what sampling costs, were measured at 20 to 1000 tokens: an
    order of magnitude.
    """
    gradient = {V: _seconds_of_gradient(V) for V in {job.vocab_size for job in jobs}}
    to_sample = {(job.corpus, job.vocab_size, job.zeros, job.seed) for job in jobs}
    total = sum(0.3 + V / 140 for _, V, _, _ in to_sample)
    return total + sum(_seconds_of_run(job, gradient[job.vocab_size]) for job in jobs)


def _seconds_of_gradient(V: int) -> float:
    world = worlds.random_markov(V, 0.5, 0)
    z = np.zeros((V, V))
    times = []
    z[:, 0] = 2  # so that sequences end
    for _ in range(2):
        start = time.perf_counter()
        exact.bigram_loss_and_grads(z, world, objective="two_kls", eta=0.5)
        times.append(time.perf_counter() - start)
    return min(times)


def _seconds_of_run(job: Job, gradient: float) -> float:
    V = job.vocab_size
    if job.protocol == "paper":
        return 0.5 + V / 50 + (V**2 / 16 if information_used(job) != "samples" else 0)
    if job.model == "gpt":
        return 60
    if job.model == "neural":
        return 3500 * (gradient if job.objective != "js" else 0.0025 + V / 20_000)
    by_rloo = (0.3 + V / 200) if job.objective == "js" else 0
    return 0.1 + _GRADIENTS[job.objective] * gradient + by_rloo
