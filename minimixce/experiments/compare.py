"""Train with several objectives on the same data, seeds and budget, and measure: what `minimixce
compare` does.
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

from .. import objectives
from ..storage import files, install
from ..storage.shapes import FilePath
from ..training import run
from . import (
    compare_continuations,
    continuation_runs,
    measures,
    on_worlds,
    options,
    plots,
    pool,
    world_measures,
    written,
)
from .continuations import ContinuationOptions
from .jobs import Job
from .options import ComparisonOptions, TrainingOptions, parse_seeds
from .reading import describe_reading, load_corpus
from .trained import (
    Comparison,
    Runs,
    Trained,
    curve,
    folder_name,
    labels_and_seeds,
    over_seeds,
    shared_options,
)

TABLE_FILE = "table.json"
CSV_FILE = "table.csv"
PAGE_FILE = "table.md"
PICTURE_FILE = "comparison.png"
_RESULTS = (TABLE_FILE, CSV_FILE, PAGE_FILE, PICTURE_FILE)

_TEMPERATURES = (1.0, 0.9, 0.8, 0.7, 0.6)


def compare(
    comparison_options: ComparisonOptions,
    out: FilePath,
    *,
    continuations: ContinuationOptions | None = None,
    test: Sequence[FilePath] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    say: Callable[[str], object] = print,
) -> Comparison:
    """Train a model for each objective and seed of comparison_options, each in a run folder of its
    own in `out`, and measure them all -> Comparison, which table.json, table.csv, table.md and
    comparison.png in `out` show too.

    With continuations, whose prompt_tokens are above 0, models go on from held-out texts and are
    measured on the files and folders `test` (compare_continuations); what they write is kept in
    `out`, too.

    resume: runs that are finished are not trained again; otherwise FileExistsError where `out`
    holds a comparison, unless overwrite=True, which removes it as soon as the first run can be
    trained. What else is in `out` stays as it is: FileExistsError where it has a name that the
    comparison needs. say: takes the name of each run before it is trained, unless the options are
    quiet. Under `python -m mpi4py.futures` its ranks train the runs side by side; all must see
    `out`. Raises ValueError for options that cannot work, before the first run is trained.
    """
    o, out = comparison_options, Path(out)
    if pool.on_mpi() and o.shards is None:
        o = dataclasses.replace(o, shards=1)  # a rank has one thread
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other")
    plots.new_figure()  # a missing matplotlib is better found before the training
    runs = parse_objectives(o)
    seeds = parse_seeds(o.seeds)
    measures.check_sampling_options(o.samples, o.tokens)
    if o.samples < 1:
        raise ValueError(f"--samples must be at least 1, got {o.samples}")
    folders = _folders(runs, seeds)
    names = [*_RESULTS, *folders.values()]
    if c := continuations if continuations and continuations.prompt_tokens else None:
        c = continuation_runs.check(o, c, list(runs), test)
        names += [way.file for way in continuation_runs.ways(list(runs), seeds, c)]
    with install.locked(out):
        if written.check(out, _KIND, names, resume=resume, overwrite=overwrite):
            install.finish(out, _RESULTS)
        runs_there = [out / name for name in folders.values()] if resume else []
        jobs = _jobs(o, out, runs, seeds, runs_there)
        corpus = next(iter(jobs.values())).corpus
        held_out = continuation_runs.deal_texts(o, c, test, corpus) if c else None

        def measure(trained):
            if held_out is None or c is None:
                return (compare_on_world if o.world else compare_on_text)(o, trained)
            return compare_continuations.compare_on_continuations(
                o, c, runs, trained, held_out, out, say
            )

        written.begin(out, _KIND, names, overwrite=overwrite)
        # only now, when nothing is left of a study that is replaced
        _check_runs(jobs, out, folders)
        try:
            for line in held_out.remarks if held_out else []:
                say(line)
            return _compare(o, out, jobs, folders, measure, say)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(written.GO_ON) from None


def _jobs(
    o: ComparisonOptions,
    out: Path,
    runs: dict[str, dict[str, Any]],
    seeds: list[int],
    runs_there: Sequence[Path],
) -> dict[tuple[str, int], Job]:
    """The jobs of all runs, by label and seed. All are made before the first is trained, so that
    bad options fail at once. runs_there: their folders, where some may be trained by now.
    """
    corpus = load_corpus(o, out=out, of_run=_started(runs_there))
    if not o.world and len(corpus.validation) < o.tokens:
        raise ValueError(
            f"--tokens must be at most the {len(corpus.validation)} tokens held out, got {o.tokens}"
        )
    jobs = {}
    for label, changes in runs.items():
        for seed in seeds:
            job = Job(dataclasses.replace(o, **changes, seed=seed), corpus)
            job.drop_model()  # there is memory for one at a time
            jobs[label, seed] = job
    return jobs


def _started(folders: Iterable[Path]) -> Path | None:
    """The first of the runs' folders whose run has a tokenizer by now."""
    return next((folder for folder in folders if (folder / run.RUN_FILE).exists()), None)


def _compare(
    o: ComparisonOptions,
    out: Path,
    jobs: dict[tuple[str, int], Job],
    folders: dict[tuple[str, int], str],
    measure: Callable[[Runs], Comparison],
    say: Callable[[str], object],
) -> Comparison:
    """Train and measure, in a folder that is this process's."""
    job = next(iter(jobs.values()))
    for line in [*describe_reading(job.corpus), *job.describe_batches()]:
        say(line.strip())
    train = _train_on_mpi if pool.on_mpi() else _train_here
    trained = train(o, jobs, {key: out / name for key, name in folders.items()}, say)
    found = measure(trained)
    with install.replacing(out, _RESULTS) as new:  # together: they show the same runs
        files.write_atomically(new / TABLE_FILE, files.to_json(found.result).encode())
        _write_csv(new / CSV_FILE, found, () if o.world else ("temperature",))
        files.write_atomically(new / PAGE_FILE, found.markdown().encode())
        if o.world:
            plots.world_comparison(found.result, new / PICTURE_FILE)
        else:
            plots.comparison(found.result, new / PICTURE_FILE, found.measures)
    return found


def _check_runs(
    jobs: dict[tuple[str, int], Job], out: Path, folders: dict[tuple[str, int], str]
) -> None:
    """Raise ValueError unless all runs that are there can go on, before the first of them does."""
    for key, job in jobs.items():
        folder = out / folders[key]
        if folder.exists():
            with run.keeping(folder):
                if (folder / run.RUN_FILE).exists():
                    run.check_corpus(folder, job.corpus)
                    options.check_same(folder, job.options)


def _train_here(
    o: ComparisonOptions,
    jobs: dict[tuple[str, int], Job],
    folders: dict[tuple[str, int], Path],
    say: Callable[[str], object],
) -> Runs:
    """Train the runs one after the other, or go on with them."""
    trained: Runs = {}
    for (label, seed), job in jobs.items():
        if not o.quiet:
            say(f"\n{label}, seed {seed}")
        measurements = _train(job, folders[label, seed], progress=not o.quiet)
        trained[label, seed] = Trained(job, folders[label, seed], measurements)
    return trained


def _train_on_mpi(
    o: ComparisonOptions,
    jobs: dict[tuple[str, int], Job],
    folders: dict[tuple[str, int], Path],
    say: Callable[[str], object],
) -> Runs:
    """The same on the ranks of mpi4py.futures, side by side; they see the same folders."""
    trained: Runs = {}
    with pool.worker_pool(0, len(jobs)) as (executor, count):
        assert executor is not None
        if not o.quiet:
            say(f"{len(jobs)} runs, {count} at a time")
        futures = {
            executor.submit(_train_alone, job.options, folders[key], [*folders.values()]): key
            for key, job in jobs.items()
        }
        for future in as_completed(futures):
            label, seed = key = futures[future]
            measurements = future.result()
            run.check_corpus(folders[key], jobs[key].corpus)  # read there, and maybe another
            trained[key] = Trained(jobs[key], folders[key], measurements)
            if not o.quiet:
                say(f"{label}, seed {seed}: trained")
    return {key: trained[key] for key in jobs}


def _train_alone(
    job_options: TrainingOptions, folder: Path, places: list[Path]
) -> list[dict[str, Any]]:
    """Train a run in a process that knows nothing of it but its options."""
    corpus = load_corpus(job_options, out=folder.parent, of_run=_started(places))
    return _train(Job(job_options, corpus), folder, progress=False)


def _train(job: Job, folder: Path, progress: bool) -> list[dict[str, Any]]:
    """Train one run, or go on with it -> its measurements."""
    with run.keeping(folder):
        found = job.fit(folder, (folder / run.RUN_FILE).exists(), progress=progress)
    job.drop_model()
    return found


def compare_on_text(comparison_options: ComparisonOptions, trained: Runs) -> Comparison:
    """Measure models trained on text -> Comparison.

    comparison_options: its objectives, samples and tokens are used; trained: {(label, seed):
    Trained}. Beside each of them stand the model of "mle", if there is one, sampled at the
    temperature that gives it the same entropy and at fixed ones, and the held-out text.
    """
    o = comparison_options
    labels, seeds = labels_and_seeds(trained)
    corpus = next(iter(trained.values())).job.corpus
    vocabulary = measures.vocabulary_of(corpus)

    def measured(label, seed, temperature=1.0):
        job = trained[label, seed].job
        model = trained[label, seed].load()
        return measures.measure_on_text(
            model, job.validation, corpus, vocabulary, o.samples, o.tokens, temperature, seed
        )

    def tempered(seed, temperature):
        return {"seed": seed, "temperature": temperature} | measured("mle", seed, temperature)

    def matching(row):
        mle = trained["mle", row["seed"]]
        return measures.matching_temperature(mle.load(), mle.job.validation, row["entropy"])

    rows = {label: [{"seed": seed} | measured(label, seed) for seed in seeds] for label in labels}
    controls, temperatures = {}, {}
    if "mle" in labels:
        controls = {
            f"mle, entropy of {label}": [
                tempered(row["seed"], matching(row)) for row in rows[label]
            ]
            for label in labels
            if label != "mle"
        }
        temperatures = {t: [tempered(seed, t) for seed in seeds] for t in _TEMPERATURES}
    texts = measures.held_out_texts(corpus.validation, o.samples, o.tokens)
    held_out = measures.measure_texts(texts, corpus.tokenizer, vocabulary)
    result = {
        "objectives": parse_objectives(o),
        "rows": rows,
        "controls": controls,
        "temperatures": temperatures,
        "held_out": held_out,
        "curves": {label: [curve(trained[label, seed]) for seed in seeds] for label in labels},
        "options": shared_options(o),
    }
    groups = (
        rows
        | controls
        | {f"mle, temperature {t}": found for t, found in temperatures.items() if t != 1.0}
        | {"held-out text": [held_out]}
    )
    note = f"{over_seeds(seeds)}entropy in nats per token at held-out contexts"
    return Comparison(result, groups, measures.TEXT_MEASURES, note)


def compare_on_world(comparison_options: ComparisonOptions, trained: Runs) -> Comparison:
    """Measure models trained on a world, against P itself -> Comparison.

    comparison_options: what table.json keeps of them; trained: {(label, seed): Trained}.
    """
    labels, seeds = labels_and_seeds(trained)
    corpus = on_worlds.of_world(next(iter(trained.values())).job.corpus)

    def measured(label, seed):
        own = trained[label, seed]
        return {"seed": seed} | own.job.measure_on_world(own.load())

    rows = {label: [measured(label, seed) for seed in seeds] for label in labels}
    entropy = corpus.world.entropy(corpus.max_len)
    result = {
        "world": corpus.world.name,
        "max_len": corpus.max_len,
        "objectives": parse_objectives(comparison_options),
        "rows": rows,
        "options": shared_options(comparison_options),
        "entropy_p": entropy,
    }
    exact = all(row["exact"] for group in rows.values() for row in group)
    note = (
        f"{over_seeds(seeds)}nats per sequence,"
        f" {'exact' if exact else 'from 10,000 samples each, standard errors in table.csv'};"
        f" {corpus.world.name}, horizon {corpus.max_len}, H(P) = {entropy:.4f}"
    )
    return Comparison(result, rows, world_measures.WORLD_MEASURES, note)


# ---- the folder ----------------------------------------------------------------------------------


def _folders(runs: Iterable[str], seeds: Sequence[int]) -> dict[tuple[str, int], str]:
    """The names of the runs' folders, by label and seed."""
    by_name: dict[str, str] = {}
    for label in runs:
        other = by_name.setdefault(folder_name(label), label)
        if other != label:
            raise ValueError(f"--objectives: {other} and {label} would have the same folder")
    return {
        (label, seed): f"{name}_seed{seed}" for name, label in by_name.items() for seed in seeds
    }


def _is_name(name: str) -> bool:
    """Whether a comparison could have written something of this name to its folder."""
    of_run = r"\w[^/\\\0]*_seed\d+"
    texts = rf"{continuation_runs.TEXTS}/{of_run}_\w[^/\\\0]*\.json"
    return name in _RESULTS or re.fullmatch(f"{of_run}|{texts}", name) is not None


def _remove(path: Path) -> None:
    """Remove a result, or a run and its folder, in which what a user put there stays."""
    if path.name in _RESULTS or path.parent.name == continuation_runs.TEXTS:
        path.unlink(missing_ok=True)
        return
    if not path.is_dir():
        return
    with run.keeping(path):
        for name in run.NAMES:
            for file in (path / name, path / run.LAST / name):
                if file.is_file():
                    file.unlink()
        files.sync_folder(path)  # or, after a crash, the run would be back and gone on with
    for folder in (path / run.LAST, path):
        with contextlib.suppress(OSError):  # something else is in it
            folder.rmdir()


_KIND = written.Kind("compare", "a comparison", _is_name, _remove)


# ---- objectives and seeds ------------------------------------------------------------------------


def parse_objectives(comparison_options: ComparisonOptions) -> dict[str, dict[str, Any]]:
    """The runs that "mle,mixce:0.5,FILE.py:NAME", the objectives of comparison_options, asks for ->
    {label: the options of a run that differ from the comparison's}.

    An objective without its ratio has the comparison's. Raises ValueError for a ratio that is no
    number or that the objective does not have, and for two runs of one label.
    """
    runs = {}
    for item in comparison_options.objectives.split(","):
        label, changes = _parse_objective(item.strip(), comparison_options)
        if label in runs:
            raise ValueError(f"--objectives names {label} twice")
        runs[label] = changes
    return runs


def _parse_objective(
    item: str, comparison_options: ComparisonOptions
) -> tuple[str, dict[str, Any]]:
    if ".py:" in item:
        label = item.rpartition(":")[2]  # and the beginning of a folder's name
        if not label.isidentifier():
            raise ValueError(f"--objectives: {label!r} in {item!r} is not the name of a function")
        return label, options.absolute({"objective": item})
    name, _, text = item.partition(":")
    row = objectives.OBJECTIVES.get(name)
    ratio = row.ratio if row else None  # what is no objective is refused where the job is made
    if text and ratio is None:
        raise ValueError(f"--objectives: {name} takes no ratio, got {item!r}")
    if ratio is None:
        return name, {"objective": name}
    try:
        value = float(text) if text else getattr(comparison_options, ratio)
    except ValueError:
        raise ValueError(f"--objectives: {text!r} in {item!r} is not a number") from None
    return objectives.label(name, value), {"objective": name, ratio: value}


def _write_csv(path: Path, found: Comparison, more: Iterable[str]) -> None:
    """A line a model: its label, its seed, `more`, and all that was measured."""
    rows = [{"model": label} | row for label, group in found.groups.items() for row in group]
    columns = dict.fromkeys(("model", "seed", *more, *found.measures))
    for row in rows:
        columns |= dict.fromkeys(row)
    files.write_atomically(
        path,
        files.to_csv([{name: row.get(name, "") for name in columns} for row in rows]).encode(),
    )
