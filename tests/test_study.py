"""The study of the synthetic experiments: grids of runs in many processes, tables, figures and the
page of results.
"""

import csv
import functools
import importlib.util
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from minimixce import cli, worlds
from minimixce.experiments import plots, pool
from minimixce.experiments.synthetic import data as data_module
from minimixce.experiments.synthetic import grid, paper, study
from minimixce.experiments.synthetic.job import Job

SMALL = ("--vocab", "5,6", "--seeds", "1,2", "--etas", "0.1,0.5,1", "--quiet")
MINIMIXCE = (sys.executable, "-m", "minimixce")
CORPUS = "the cat sat.\nthe dog sat.\na cat ran.\n" * 20


@pytest.fixture
def five_thousand_sequences(monkeypatch):
    """Five thousand training sequences instead of fifty thousand."""
    data_of = functools.partial(data_module.data_of, train=5_000)
    monkeypatch.setattr(data_module, "data_of", data_of)


@pytest.fixture
def a_thousand_sequences(monkeypatch):
    """A thousand training sequences and a hundred held out."""
    data_of = functools.partial(data_module.data_of, train=1_000, development=100)
    monkeypatch.setattr(data_module, "data_of", data_of)


class Stopped(Exception):
    """What no command catches."""


def stop_here(look=lambda jobs: None):
    """A function in the place of run_grid, which shows the jobs to `look` and stops."""

    def run_grid(jobs, *_):
        look(jobs)
        raise Stopped

    return run_grid


# ---- grids ---------------------------------------------------------------------------------------


def test_a_grid_has_every_ratio_where_it_makes_sense():
    jobs = grid.jobs_of_grid()
    assert len(jobs) == len(set(jobs)) == 3 * 5 * (1 + 7 + 7 + 7 + 5)
    assert {job.eta for job in jobs if job.objective == "js"} == {0.01, 0.1, 0.5, 0.9, 0.99}
    others = [
        jobs[0]._replace(**{name: value})
        for name, value in (("corpus", "a/text.txt"), ("corpus", "b/text.txt"))
    ]
    others += [
        jobs[0]._replace(protocol="paper"),
        jobs[0]._replace(model="gpt"),
        jobs[0]._replace(forward="population"),
    ]
    others += [jobs[0]._replace(zeros=0.50000001), jobs[0]._replace(eta=0.50000001)]
    assert len({job.name for job in [*jobs, *others]}) == len(jobs) + len(others)
    for options, message in (
        ({"objectives": ("mle", "emo")}, "objectives must be among .*, got 'emo'"),
        ({"etas": (0.5, 2)}, "etas must be between 0 and 1, got 2"),
        ({"vocab_sizes": (1,)}, "vocab_sizes must be between 2"),
        (
            {"corpora": ("a/text.txt", "b/text.md")},
            "names of corpora must be different, got text, text",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            grid.jobs_of_grid(**options)


def test_the_summary_takes_the_best_mean_over_seeds():
    base = {
        "corpus": "",
        "zeros": 0.5,
        "vocab_size": 20,
        "uses": "samples",
        "gradient": "exact",
        "objective": "mixce",
    }
    results = [
        base | {"eta": eta, "avg_js": js, "avg_zeros": 0.0}
        for eta, js in ((0.1, 1.0), (0.1, 5.0), (0.5, 2.0), (0.5, 3.0))
    ]
    (row,) = study.summarize(results)
    assert (row["best_eta"], row["avg_js"], row["seeds"]) == (0.5, 2.5, 2)
    assert row["avg_js_se"] == pytest.approx(0.5)
    assert "random 50% zeros" in study.format_summary([row])
    assert "2.50e+00 ± 5e-01" in study.format_summary([row])
    (row,) = study.summarize(results[:1])
    assert math.isnan(row["avg_js_se"])  # a single run has no error to tell
    assert "±" not in study.format_summary([row])
    near = [
        results[0] | {"zeros": 0.501},
        results[0] | {"zeros": 0.502},
        results[0] | {"corpus": "a/text.txt", "zeros": 0.0},
    ]
    assert [row["world"] for row in study.summarize(near)] == [
        "random 50.1% zeros",
        "random 50.2% zeros",
        "text",
    ]


def test_results_come_in_the_order_of_jobs(tmp_path, monkeypatch):
    jobs = grid.jobs_of_grid((5,), (0.5,), (1, 2, 3), ("mle",))

    def last_first(job):
        time.sleep(0.1 * (3 - job.seed))
        return {name: getattr(job, name, 0) for name in grid.RESULT}, np.zeros((5, 5)), []

    monkeypatch.setattr(grid, "run", last_first)
    with ThreadPoolExecutor(3) as executor:
        results = grid.run_grid(jobs, tmp_path, executor, progress=False)
    assert [r["seed"] for r in results] == [1, 2, 3]
    assert [job.seed for job in grid.read_runs(tmp_path)] == [3, 2, 1]


def test_what_is_not_a_run_is_refused_and_a_line_cut_short_dropped(
    five_thousand_sequences, tmp_path
):
    jobs = grid.jobs_of_grid((5,), (0.5,), (1, 2), ("mle",))
    grid.run_grid(jobs, tmp_path, progress=False)
    path = tmp_path / "runs.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:-1])  # all of it except the end
    assert list(grid.read_runs(tmp_path)) == jobs[:1]
    for damaged in (
        b"{}\n",
        b"[1]\n",
        b"\xff\xfe\n",
        b"\n",
        first.replace(b'"avg_js"', b'"js"'),
        first.replace(b"1.0", b"[1]"),
        first.replace(b'"avg_js": ', b'"avg_js": "", "was": '),
        b"[" * 100_000 + b"\n",
    ):
        path.write_bytes(second + damaged + first)
        with pytest.raises(ValueError, match=r"runs\.jsonl: line 2 is not a run"):
            grid.run_grid(jobs, tmp_path, progress=False)
        assert path.read_bytes() == second + damaged + first


@pytest.mark.slow
def test_starting_anew_leaves_nothing_of_the_old_grid(
    five_thousand_sequences, tmp_path, capsys, monkeypatch
):
    words = ["synthetic", "--vocab", "5", *"--objectives mle --jobs 1 --out".split(), str(tmp_path)]
    assert cli.main([*words, "--quiet", "--seeds", "1,2"]) == 0
    assert cli.main([*words, "--resume", "--seeds", "1,2,3"]) == 0
    assert "1 runs, 1 at a time" in capsys.readouterr().out
    monkeypatch.setattr(grid, "run_grid", stop_here())
    with pytest.raises(Stopped):
        cli.main([*words, "--overwrite", "--seeds", "4"])
    found = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert found == ["study.json"]


def test_without_options_the_command_runs_the_default_grid(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(grid, "run_grid", stop_here(seen.append))
    for options in ([], ["--full"]):
        with pytest.raises(Stopped):
            cli.main(
                ["synthetic", *options, "--quiet", "--jobs", "1", "--out", str(tmp_path / "out")]
            )
    assert seen == [
        grid.jobs_of_grid(),
        grid.jobs_of_grid((20, 50, 100, 500, 1000), (0.1, 0.5, 0.9)),
    ]


def test_one_worker_is_a_process_unless_the_threads_are_told(monkeypatch):
    """Linear algebra with several threads differs in its last digits from the one thread of a
    worker.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pool.worker_pool(1, 3) as (executor, workers):
        assert (executor, workers) == (None, 1)
    monkeypatch.delenv("OMP_NUM_THREADS")
    with pool.worker_pool(1, 3) as (executor, workers):
        assert workers == 1
        assert executor.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"
        # Ctrl-C is for the parent
        assert executor.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN
    assert "OMP_NUM_THREADS" not in os.environ
    with pool.worker_pool(4, 0) as (executor, _):
        assert executor is None


@pytest.mark.slow
def test_a_table_depends_on_no_threads_of_linear_algebra(tmp_path):
    """With more than one core, the solves of 100 tokens would."""
    words = (
        "synthetic --vocab 100 --seeds 7 --etas 0.5 --objectives mixce_star,two_kls --quiet".split()
    )
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    for jobs in ("1", "2"):
        argv = [*MINIMIXCE, *words, "--jobs", jobs, "--out", str(tmp_path / jobs)]
        subprocess.run(argv, check=True, env=env, capture_output=True)
    assert (tmp_path / "1" / "runs.csv").read_text() == (tmp_path / "2" / "runs.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("when", [0.8, 6])  # while workers start, and in the middle of long runs
def test_ctrl_c_ends_a_pool_at_once_with_one_sentence(tmp_path, when):
    words = "synthetic --protocol paper --vocab 20 --objectives js --quiet --jobs 2 --out".split()
    argv = [*MINIMIXCE, *words, str(tmp_path / "out")]
    # also where the tests themselves run unheeding
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(
        argv, start_new_session=True, preexec_fn=heed, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "out").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(when)
    os.killpg(process.pid, signal.SIGINT)
    _, printed = process.communicate(timeout=20)
    assert process.returncode == 130
    assert printed == "stopped; go on with the same options and --resume\n"
    assert ends(process.pid)


@pytest.mark.slow
def test_the_command_s_table_depends_on_no_number_of_workers(tmp_path, capsys):
    words = ["synthetic", *SMALL, "--objectives", "mle,mixce,two_kls", "--out"]
    assert cli.main([*words, str(tmp_path / "one"), "--jobs", "1"]) == 0
    assert cli.main([*words, str(tmp_path / "four"), "--jobs", "4"]) == 0
    assert len((tmp_path / "one" / "runs.jsonl").read_text().splitlines()) == 2 * 2 * (1 + 3 + 3)
    for name in ("runs.csv", "table.csv"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "four" / name).read_text()
    with open(tmp_path / "one" / "table.csv") as file:
        table = list(csv.DictReader(file))
    assert [(row["vocab_size"], row["objective"]) for row in table[:3]] == [
        ("5", "mle"),
        ("5", "mixce"),
        ("5", "two_kls"),
    ]
    for figure in ("matrices.png", "ratios.png", "curves.png"):
        assert (tmp_path / "one" / figure).stat().st_size > 5_000
    assert cli.main([*words, str(tmp_path / "one"), "--jobs", "1"]) == 2
    assert "already holds a grid" in capsys.readouterr().err


def ends(group):
    """Whether all processes of a group end: within some seconds, for the system takes a moment to
    put them away.
    """
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_a_grid_that_is_killed_goes_on(tmp_path):
    words = ["synthetic", *SMALL, *"--objectives mle,mixce,two_kls --jobs 2 --out".split()]
    assert cli.main([*words, str(tmp_path / "whole")]) == 0
    process = subprocess.Popen(
        [*MINIMIXCE, *words, str(tmp_path / "killed")],
        start_new_session=True,
    )
    runs, deadline = tmp_path / "killed" / "runs.jsonl", time.monotonic() + 120
    while (
        time.monotonic() < deadline
        and process.poll() is None
        and not (runs.exists() and runs.read_text().count("\n") > 2)
    ):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert ends(process.pid)  # its workers too
    assert runs.read_text().count("\n") > 2
    assert not (tmp_path / "killed" / "table.csv").exists()
    assert cli.main([*words, str(tmp_path / "killed"), "--resume"]) == 0
    for name in ("runs.csv", "table.csv"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "killed" / name).read_text()


def test_going_on_with_a_larger_grid_runs_what_is_new(
    five_thousand_sequences, tmp_path, monkeypatch
):
    """A job that differs from a finished one in a single field is another job."""
    first = Job("", 5, 0.5, 1, "mixce", 0.5)
    changes = {
        "corpus": "x",
        "vocab_size": 6,
        "zeros": 0.1,
        "seed": 2,
        "objective": "mle",
        "eta": 0.9,
    }
    changes |= {"protocol": "paper", "model": "neural", "forward": "population"}
    assert changes.keys() == set(Job._fields)
    ran = []

    def run(job):  # what ran before is in the file by now
        assert (tmp_path / "runs.jsonl").read_text().count("\n") == len(ran)
        ran.append(job)
        return {name: getattr(job, name, 0) for name in grid.RESULT}, np.eye(5), []

    monkeypatch.setattr(grid, "run", run)
    jobs = [first, *(first._replace(**{name: value}) for name, value in changes.items())]
    grid.run_grid(jobs[:1], tmp_path, progress=False)
    results = grid.run_grid(jobs, tmp_path, progress=False)
    assert ran == jobs
    assert [Job(*(r[name] for name in Job._fields)) for r in results] == jobs
    assert len(list((tmp_path / "matrices").iterdir())) == len(jobs)


def test_going_on_with_a_smaller_grid_keeps_what_was_done(five_thousand_sequences, tmp_path):
    jobs = grid.jobs_of_grid((5,), (0.5,), (1, 2), ("mle",))
    grid.run_grid(jobs, tmp_path, progress=False)
    assert len(grid.run_grid(jobs[:1], tmp_path, progress=False)) == 1
    assert list(grid.read_runs(tmp_path)) == jobs


def test_the_estimate_comes_first_and_grows_with_the_grid(
    five_thousand_sequences, tmp_path, capsys, monkeypatch
):
    def stop(*_, **__):
        raise ValueError("stopped before any run")

    monkeypatch.setattr(grid, "run_grid", stop)
    words = "synthetic --full --vocab 5,200 --jobs 1 --out".split()
    assert cli.main([*words, str(tmp_path / "out")]) == 2
    # zeros 10, 50 and 90 %
    assert f"{2 * 3 * 5 * 27} runs, 1 at a time, about " in capsys.readouterr().out
    small, large = (grid.estimate(grid.jobs_of_grid((V,), seeds=(1,))) for V in (20, 300))
    assert large > 2 * small > 0


@pytest.mark.parametrize("objective", ["mle", "two_kls"])
@pytest.mark.slow
def test_the_protocol_takes_a_corpus(a_thousand_sequences, tmp_path, monkeypatch, objective):
    monkeypatch.setattr(
        paper,
        "fit_paper",
        functools.partial(paper.fit_paper, epochs=20, batch_size=100, rate=2e-2),
    )
    (tmp_path / "text.txt").write_text(CORPUS)
    words = "synthetic --protocol paper --vocab 6 --seeds 1 --etas 0.5 --quiet --jobs 1".split()
    words += ["--corpus", str(tmp_path / "text.txt"), "--objectives", objective]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0
    (line,) = (tmp_path / "out" / "runs.jsonl").read_text().splitlines()
    assert json.loads(line)["avg_js"] < 0.1


@pytest.mark.slow
def test_figures_show_the_runs_they_name(five_thousand_sequences, tmp_path, monkeypatch):
    """By P, the best run of each objective, of the first world and seed; means over seeds; MixCE at
    the η nearest to 0.1.
    """
    pytest.importorskip("matplotlib")
    jobs = grid.jobs_of_grid(
        (5, 6), (0.5, 0.2), (1, 2), ("mle", "mixce", "two_kls"), (0.0, 0.1, 0.5, 0.9)
    )
    results = grid.run_grid(jobs, tmp_path, progress=False)
    table = study.summarize(results)
    best, gold, at_a_ratio = study.examples(results, table, tmp_path)
    np.testing.assert_array_equal(gold, worlds.random_markov(5, 0.5, 1).probs)
    assert list(at_a_ratio) == ["mixce, η = 0.1"]
    of_table = {
        row["objective"]: row["best_eta"]
        for row in table
        if (row["world"], row["vocab_size"]) == ("random 50% zeros", 5)
    }
    for (label, shown), objective in zip(best.items(), ("mle", "mixce", "two_kls"), strict=True):
        job = Job("", 5, 0.5, 1, objective, of_table[objective])
        assert label == (objective if objective == "mle" else f"{objective}, η = {job.eta:g}")
        np.testing.assert_array_equal(shown["learned"], grid.run(job)[1])
    figures, new_figure = [], plots.new_figure
    monkeypatch.setattr(
        plots, "new_figure", lambda **options: figures.append(new_figure(**options)) or figures[-1]
    )
    drawn = [r | {"world": study.world_name(r["corpus"], r["zeros"])} for r in results]
    plots.synthetic(drawn, best, gold, at_a_ratio, tmp_path)
    matrices, ratios, curves = (
        [ax for ax in figure.axes if ax.get_label() != "<colorbar>"] for figure in figures
    )
    for ax, (label, matrix) in zip(
        matrices,
        [("P", gold), *((label, run["learned"]) for label, run in best.items())],
        strict=True,
    ):
        assert ax.get_title() == label
        np.testing.assert_allclose(ax.images[0].get_array(), np.maximum(matrix, 1e-9))
        assert ax.images[0].get_clim() == (1e-6, 1)
    titles = [
        f"{m}, random {z}% zeros, {V} tokens"
        for z in (50, 20)
        for m in ("avg. JS", "avg. 0s")
        for V in (5, 6)
    ]
    assert [ax.get_title() for ax in ratios] == titles
    for ax, (zeros, measure, V) in zip(
        ratios, itertools.product((0.5, 0.2), ("avg_js", "avg_zeros"), (5, 6))
    ):
        for line in ax.lines:
            own = [
                r
                for r in results
                if (r["zeros"], r["vocab_size"], r["objective"]) == (zeros, V, line.get_label())
            ]
            by_eta = {
                e: np.mean([max(r[measure], 1e-12) for r in own if r["eta"] == e])
                for e in sorted({r["eta"] for r in own})
            }
            found = line.get_ydata() if len(by_eta) > 1 else line.get_ydata()[:1]  # mle is a level
            np.testing.assert_allclose(found, list(by_eta.values()))
        assert [line.get_label() for line in ax.lines] == ["mle", "mixce", "two_kls"]
    fit, *losses = curves
    for line, (label, run) in zip(fit.lines, best.items(), strict=True):
        assert line.get_label() == label
        np.testing.assert_allclose(
            line.get_ydata(), [max(point["avg_js"], 1e-12) for point in run["curve"]]
        )
    for ax, key in zip(losses, ("loss", "surrogate"), strict=True):
        np.testing.assert_allclose(
            ax.lines[0].get_ydata(), [point[key] for point in at_a_ratio["mixce, η = 0.1"]["curve"]]
        )


def test_full_has_corpora_and_random_worlds(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(CORPUS)
    words = ["synthetic", "--corpus", str(tmp_path / "text.txt")]
    words += "--vocab 6 --quiet --jobs 1".split()
    seen = []
    monkeypatch.setattr(
        grid,
        "run_grid",
        stop_here(lambda jobs: seen.append({(bool(j.corpus), j.zeros) for j in jobs})),
    )
    for options in (["--full"], []):
        with pytest.raises(Stopped):
            cli.main([*words, *options])
    assert seen == [{(False, 0.1), (False, 0.5), (False, 0.9), (True, 0.0)}, {(True, 0.0)}]


@pytest.mark.slow
def test_a_corpus_makes_a_world(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(CORPUS)
    words = (
        "synthetic --vocab 6 --seeds 1 --etas 0.5 --objectives mle,mixce --quiet --jobs 1".split()
    )
    assert cli.main([*words, "--corpus", str(text), "--out", str(tmp_path / "out")]) == 0
    line = json.loads((tmp_path / "out" / "runs.jsonl").read_text().splitlines()[0])
    assert line["corpus"] == str(text)
    assert line["avg_js"] < 1e-2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not make a world of 3 tokens: text must have"),
        (b"one two three", "got 3"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ],
)
def test_a_poor_corpus_is_named_before_anything_runs(tmp_path, capsys, content, message):
    text = tmp_path / "text.txt"
    text.write_bytes(content)
    words = ["synthetic", "--full", "--vocab", "3,5", "--corpus", str(text)]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert f"minimixce synthetic: {text} " in printed
    assert message in printed
    assert not (tmp_path / "out").exists()


def test_a_corpus_whose_name_is_no_text_is_refused(tmp_path):
    corpus = tmp_path / os.fsdecode(b"\xff.txt")
    corpus.write_text("one two")
    with pytest.raises(ValueError, match="the name of a --corpus must be text that UTF-8 can hold"):
        study.jobs_of_study(corpora=[corpus])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--protocol their", "--protocol must be exact or paper"),
        ("--model gpt2", "--model must be table, neural or gpt"),
        ("--forward p", "--forward must be samples or population"),
        ("--protocol paper --model table", "leave out --model"),
        ("--vocab 20,x", "--vocab must be numbers"),
        ("--vocab 20,20", "names a number twice"),
        ("--etas 2", "etas must be between 0 and 1"),
        ("--seeds 1,1", "--seeds must be different"),
        ("--seeds 4294967296", "seeds must be between 0 and 4294967295"),
        ("--seed 3", "synthetic takes no --seed: --seeds"),
        ("--threads 1", "synthetic takes no --threads"),
        ("--device cuda", "--device must be cpu"),
        ("--objectives mle,mle", "objectives must be different, got mle, mle"),
        ("--objectives js --etas 0,1", "nothing to run: js needs an eta above 0 and below 1"),
        ("--zeros 0.5,1", "zeros must be between 0 and 0.99"),
        ("--model gpt --forward samples", "leave out --forward"),
        ("--objectives mle,x", "objectives must be among"),
        ("--corpus nowhere.txt", "nowhere.txt is not a file"),
        ("--jobs -1", "--jobs must be at least 0"),
        ("--resume --overwrite", "exclude each other"),
    ],
)
def test_bad_options_are_one_sentence(options, message, tmp_path, capsys):
    assert cli.main(["synthetic", "--out", str(tmp_path / "out"), *options.split()]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out" / "runs.jsonl").exists()


@pytest.mark.mpi
@pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="needs mpi4py")
def test_four_ranks_of_mpi_give_the_same_table(tmp_path):
    words = ["synthetic", *SMALL, "--objectives", "mle,two_kls", "--out"]
    assert cli.main([*words, str(tmp_path / "one"), "--jobs", "1"]) == 0
    mpiexec = shutil.which("mpiexec", path=f"{sys.prefix}/bin") or shutil.which("mpiexec")
    argv = [mpiexec, "-n", "4", sys.executable, "-m", "mpi4py.futures", *MINIMIXCE[1:], *words]
    argv.append(str(tmp_path / "four"))
    subprocess.run(argv, check=True, timeout=300, capture_output=True)
    for name in ("runs.csv", "table.csv"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "four" / name).read_text()


# ---- the results page ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page():
    """tutorials/results/synthetic_page.py as a module."""
    path = Path(__file__).parents[1] / "tutorials" / "results" / "synthetic_page.py"
    spec = importlib.util.spec_from_file_location("synthetic_page", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_s_tables_are_those_of_the_files(page):
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.rendered(text) == text
    assert page.rendered(text.replace("| `mle` |", "| `mle`, better |")) == text


def test_the_files_of_the_page_are_what_the_code_gives(page):
    """Seed 7 again: fixed points to rounding, and the exact runs of the default grid where they
    take no time.
    """
    rows = [row for row in page.read("fixed_points") if row["seed"] == 7]
    for row, again in zip(rows, page.fixed_points(7), strict=True):
        assert row == pytest.approx(again, rel=1e-9)
    for found, again in zip(page.read("collapse"), page.collapse(), strict=True):
        assert found["objective"] == again["objective"]
        assert [found[k] for k in ("empty", "entropy", "length")] == pytest.approx(
            [again[k] for k in ("empty", "entropy", "length")], rel=1e-5, abs=1e-5
        )
    for objective, eta in (("mle", 1.0), ("two_kls", 0.5), ("mixce", 0.5), ("mixce_star", 0.99)):
        result, _, _ = grid.run(Job("", 20, 0.5, 7, objective, eta))
        (value,) = page.of(page.read("runs"), vocab_size=20, seed=7, objective=objective, eta=eta)
        assert result["avg_js"] == pytest.approx(value, rel=1e-6)
        (used,) = page.of(
            page.read("runs"), "uses", vocab_size=20, seed=7, objective=objective, eta=eta
        )
        assert used == result["uses"]
