"""compare and synthetic where something goes wrong: killed at any operation on files, a full or
broken disk, a worker that is ended, Ctrl-C, files of the user's in the way. Nothing of the user's
is lost, and the command, or --resume, comes to the same end byte for byte.

With MINIMIXCE_CAMPAIGN=1 every operation of every command is tried (an hour on one core).
"""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults import driver, scenarios
from faults.scenarios import MODEL, OUT, Scenario
from helpers import locked_by_another

from minimixce import cli
from minimixce.experiments import compare, plots, written
from minimixce.experiments.synthetic import data as data_module
from minimixce.experiments.synthetic import grid, study

CAMPAIGN = int(os.environ.get("MINIMIXCE_CAMPAIGN", "0"))
CASES = 2  # of a scenario and a mode, without a campaign

SMALL = f"{MODEL} --eval-every 2 --steps 2 --quiet"
COMPARE = f"compare --world agreement --out {OUT} --objectives mle,mixce:0.5 --seeds 1 {SMALL}"
# some of the runs' folders have the same names
OTHER_COMPARE = (
    f"compare --world agreement --out {OUT} --objectives mle,js --seeds 1 {SMALL} --lr 1"
)
SYNTHETIC = (
    f"synthetic --vocab 4 --out {OUT} --seeds 7 --objectives mle,mixce --etas 0.5 --jobs 1 --quiet"
)
OTHER_SYNTHETIC = SYNTHETIC.replace("--objectives mle,mixce", "--objectives mle,two_kls")


def scenarios_of(command, smaller, other):
    """{name: Scenario} of a command; smaller: the same with fewer runs; other: with some of the
    same names, and another result.
    """
    again = f"{command} --resume"
    return {
        "": Scenario(command, ways=((command, again),)),
        " --resume": Scenario(again, (smaller,), ((again,),)),
        " --overwrite": Scenario(f"{command} --overwrite", (other,), ((again,),)),
    }


STUDIES = {
    f"{command.split()[0]}{name}": scenario
    for command, smaller, other in (
        (COMPARE, COMPARE.replace("mle,mixce:0.5", "mle"), OTHER_COMPARE),
        (SYNTHETIC, SYNTHETIC.replace("mle,mixce", "mle"), OTHER_SYNTHETIC),
    )
    for name, scenario in scenarios_of(command, smaller, other).items()
}


class Stage(scenarios.Stage):
    """A scenario in which what was there before can be told from what comes: see spoil."""

    def __init__(self, machine, scenario, place):
        super().__init__(machine, scenario, place)
        self.whole = scenarios.content_of_all(self.start / OUT)

    def _make_ready(self, command, cut):
        super()._make_ready(command, cut)
        if self.scenario.command.endswith("--overwrite"):
            spoil(self.start / OUT)

    def problem_afterwards(self, case, way):
        """After a killed --overwrite the old is whole, or the new one goes on: never both."""
        if self.scenario.command.endswith("--overwrite"):
            left = set(scenarios.litter(case / OUT))
            found = scenarios.content_of_all(case / OUT)
            if {name: data for name, data in found.items() if name not in left} == self.whole:
                way = (self.scenario.command,)
        return super().problem_afterwards(case, way)


def spoil(folder):
    """Change the results of finished runs in a grid, as another version may have had them."""
    path = folder / "runs.jsonl"
    if path.exists():
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(line | {"avg_js": 9.0}) + "\n" for line in lines))


@pytest.fixture(scope="module")
def machine():
    if reason := driver.why_not():
        pytest.skip(reason)
    with driver.Machine("warm_studies.py") as found:
        yield found


@pytest.fixture(scope="module")
def stage(machine, tmp_path_factory):
    """A function: the name of a scenario -> its Stage."""
    return functools.cache(
        lambda name: Stage(machine, STUDIES[name], tmp_path_factory.mktemp("study"))
    )


@pytest.mark.hostile
@pytest.mark.parametrize("mode", ["kill", "half", "full", "eio"])
@pytest.mark.parametrize("name", STUDIES)
def test_whatever_happens_at_an_operation_it_ends_the_same(stage, name, mode):
    stage = stage(name)
    numbers = range(1, len(stage.operations) + 1)
    if not CAMPAIGN:
        numbers = random.Random(f"{name} {mode}").sample(numbers, CASES)
    found = {at: scenarios.problem_at(stage, at, mode, 0) for at in numbers}
    print(f"{len(found)} cases of {len(stage.operations)} operations")
    assert {at: problem for at, problem in found.items() if problem} == {}


# ---- files of the user's -------------------------------------------------------------------------

MINE = "what a user put here"


def refused(command, place, capsys, sentence):
    """A command in the folder `place` ends in one sentence, and changes nothing."""
    before = scenarios.content_of_all(place)
    capsys.readouterr()
    assert run_in(place, command) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert scenarios.content_of_all(place) == before


def run_in(place, command):
    before = os.getcwd()
    os.chdir(place)
    try:
        return cli.main(command.split())
    finally:
        os.chdir(before)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (SYNTHETIC, "runs.csv"),
        (SYNTHETIC, "curves.png"),
        (SYNTHETIC, "matrices/random-0.5_V4_seed7_mle_eta1.0_exact-table-samples.json"),
        (COMPARE, "table.json"),
        (COMPARE, "mle_seed1/notes.txt"),
        (COMPARE, "mixce_eta0.5_seed1"),
    ],
)
def test_a_file_of_the_user_s_is_named_and_stays(tmp_path, capsys, command, name):
    path = tmp_path / OUT / name
    path.parent.mkdir(parents=True)
    path.write_text(MINE)
    named = Path(OUT, name if name.startswith("matrices") else name.partition("/")[0])
    sentence = f"{named} is there already, and not by minimixce {command.split()[0]}; choose"
    for more in ("", " --resume", " --overwrite"):
        refused(command + more, tmp_path, capsys, sentence)


@pytest.mark.parametrize(
    "record",
    [
        "[]",
        '{"command": "synthetic"}',
        '{"command": "synthetic", "files": ["../x"]}',
        '{"command": "synthetic", "files": ["matrices/../x.json"]}',
        '{"command": "synthetic", "files": ["mine.txt"]}',
        '{"command": "synthetic", "files": [], "remove": ["mine.txt"]}',
        '{"command": "compare", "files": []}',
    ],
)
def test_a_list_from_somebody_else_replaces_nothing(tmp_path, capsys, record):
    (tmp_path / OUT).mkdir()
    (tmp_path / OUT / "mine.txt").write_text(MINE)
    (tmp_path / OUT / "study.json").write_text(record)
    for more in ("", " --resume", " --overwrite"):
        refused(SYNTHETIC + more, tmp_path, capsys, f"{OUT}/study.json ")


@pytest.mark.parametrize(
    ("command", "link", "listed", "mine"),
    [
        (SYNTHETIC, "matrices", "matrices/mine.json", "mine.json"),
        (COMPARE, "mle_seed1", "mle_seed1", "model.safetensors"),
        (COMPARE, "mle_seed9", "mle_seed9", "last/model.safetensors"),
        (COMPARE, "mle_seed1/last", "mle_seed1", "config.json"),
    ],
)
def test_no_link_to_a_folder_is_followed(tmp_path, capsys, command, link, listed, mine):
    elsewhere = tmp_path / "elsewhere" / mine
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_text(MINE)
    (tmp_path / OUT / link).parent.mkdir(parents=True)
    (tmp_path / OUT / link).symlink_to(tmp_path / "elsewhere")
    record = {"command": command.split()[0], "files": [listed]}
    (tmp_path / OUT / "study.json").write_text(json.dumps(record))
    assert cli.main([*f"{command} --overwrite".split(), "--out", str(tmp_path / OUT)]) == 2
    assert f"{OUT}/{link} is a link to a folder" in capsys.readouterr().err
    assert elsewhere.read_text() == MINE


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no names of open files")
@pytest.mark.parametrize(
    ("kind", "name", "inside"),
    [(study._KIND, "matrices/a.json", ""), (compare._KIND, "mle_seed1", "/run.json")],
)
def test_what_is_removed_is_off_the_disk_before_it_is_no_longer_listed(
    tmp_path, monkeypatch, kind, name, inside
):
    sync, synced = os.fsync, []

    def told(place):
        synced.append(Path(os.readlink(f"/proc/self/fd/{place}")))
        sync(place)

    path = tmp_path / f"{name}{inside}"
    written.begin(tmp_path, kind, [name])
    path.parent.mkdir()
    path.write_text("{}")
    monkeypatch.setattr(os, "fsync", told)
    written.begin(tmp_path, kind, [name], overwrite=True)
    assert not path.exists()
    assert path.parent in synced[:-2]  # and then the list, and the folder it is in


def test_what_a_study_wrote_is_listed_and_only_that_is_replaced(tmp_path, monkeypatch):
    """Of the study before, too: no matrix of a job that is not of the new one is left."""
    make_cheaper(monkeypatch)
    scenarios.put_mine(tmp_path / OUT)
    matrices = tmp_path / OUT / "matrices"
    matrices.mkdir()
    (matrices / "mine.json").write_text(MINE)
    assert run_in(tmp_path, OTHER_SYNTHETIC) == 0
    assert run_in(tmp_path, f"{SYNTHETIC} --overwrite") == 0
    assert scenarios.mine_is_there(tmp_path / OUT)
    record = json.loads((tmp_path / OUT / "study.json").read_text())
    there = {
        path.relative_to(tmp_path / OUT).as_posix()
        for path in (tmp_path / OUT).rglob("*")
        if path.is_file()
    }
    mine = {*scenarios.MINE, "matrices/mine.json"}
    assert there - mine == {*record["files"], "study.json"}
    assert not [name for name in there if "two_kls" in name]


def make_cheaper(monkeypatch):
    data_of = functools.partial(data_module.data_of, train=1_000, development=100)
    monkeypatch.setattr(data_module, "data_of", data_of)
    for name in ("_matrices", "_ratios", "_curves"):
        monkeypatch.setattr(plots, name, lambda *_: plots.new_figure(figsize=(1, 1)))


def test_a_second_process_is_told_so(tmp_path, capsys):
    for command in (COMPARE, SYNTHETIC):
        with locked_by_another(tmp_path / OUT):
            refused(command, tmp_path, capsys, f"another process is at work in {OUT}")


def test_objectives_that_would_share_a_folder_are_refused(tmp_path, capsys):
    (tmp_path / "own.py").write_text("def mixce_eta1(logits, targets): pass\n")
    for objectives, sentence in (
        ("mixce:1,own.py:mixce_eta1", "mixce η=1 and mixce_eta1 would have the same folder"),
        ("own.py:../x", "'../x' in 'own.py:../x' is not the name of a function"),
        ("own.py:=1+1", "'=1+1' in 'own.py:=1+1' is not the name of a function"),
    ):
        refused(COMPARE.replace("mle,mixce:0.5", objectives), tmp_path, capsys, f"{sentence}\n")


# ---- memory, workers, Ctrl-C ---------------------------------------------------------------------


def test_a_grid_that_does_not_fit_is_refused_before_anything_is_written(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("minimixce.storage.memory.available", lambda: 4 << 30)
    command = SYNTHETIC.replace("--vocab 4", "--vocab 4,5000")
    sentence = "running 1 of the jobs at a time, with up to 5,000 tokens, needs more than 7,247 MiB"
    refused(command, tmp_path, capsys, sentence)
    monkeypatch.setattr("minimixce.storage.memory.available", lambda: 1 << 30)
    command = SYNTHETIC.replace("--vocab 4", "--vocab 5000 --model gpt")
    refused(command, tmp_path, capsys, "drawing the first world, of 5,000 tokens, needs more than")


def test_a_matrix_of_many_tokens_is_read(tmp_path, monkeypatch):
    """It may be larger than other JSON files are allowed to be."""
    job = grid.jobs_of_grid((4,), (0.5,), (7,), ("mle",))[0]
    make_cheaper(monkeypatch)
    monkeypatch.setattr("minimixce.storage.files.MOST_JSON", 10)
    grid.run_grid([job], tmp_path, progress=False)
    assert grid.read_matrix(tmp_path, job)["learned"].shape == (4, 4)
    for damaged in ("{}", '{"learned": [[1]], "curve": [1]}', '{"learned": "x", "curve": []}'):
        (tmp_path / grid.matrix_file(job)).write_text(damaged)
        with pytest.raises(ValueError, match=r"\.json is damaged"):
            grid.read_matrix(tmp_path, job)


@pytest.mark.hostile
def test_ctrl_c_of_a_study_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own.py"
    own.write_text("def stop(logits, targets): raise KeyboardInterrupt\n")
    command = COMPARE.replace("mle,mixce:0.5", "mle,own.py:stop") + " --unchecked"
    assert cli.main(command.split()) == 130
    assert capsys.readouterr().err == "stopped; go on with the same options and --resume\n"
    own.write_text("import minimixce\nstop = minimixce.objectives.mle\n")
    assert cli.main([*command.split(), "--resume"]) == 0


LONG = f"synthetic --vocab 4 --out {OUT} --protocol paper --objectives js --quiet --jobs 2"
QUICK = f"synthetic --vocab 4 --out {OUT} --objectives mle,mixce --quiet --jobs 2"


def start(command, place):
    """A command in a Python of its own, which heeds Ctrl-C -> the process, with workers at work."""
    process = subprocess.Popen(
        [sys.executable, "-m", "minimixce", *command.split()],
        cwd=place,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while len(workers_of(process)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    return process


def workers_of(process):
    """The workers of a pool that have begun to compute."""
    psutil = pytest.importorskip("psutil")
    children = psutil.Process(process.pid).children() if process.poll() is None else []
    return [
        child
        for child in children
        if "spawn_main" in " ".join(child.cmdline()) and sum(child.cpu_times()[:2]) > 1
    ]


@pytest.mark.hostile
@pytest.mark.parametrize("signalled", ["worker", "all"])
def test_a_worker_that_is_killed_and_ctrl_c_end_in_a_sentence_and_without_workers(
    tmp_path, signalled
):
    psutil = pytest.importorskip("psutil")
    process = start(LONG, tmp_path)
    workers = workers_of(process)
    assert len(workers) == 2
    if signalled == "worker":
        workers[0].kill()  # as the system does where memory runs out
    else:
        os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    if signalled == "worker":
        assert (process.returncode, error.count("\n")) == (2, 1)
        assert "a worker process was ended from outside" in error
        assert "go on with --resume" in error
    else:
        assert (process.returncode, error) == (
            130,
            "stopped; go on with the same options and --resume\n",
        )
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    argv = [sys.executable, "-m", "minimixce", *QUICK.split(), "--seeds", "7", "--resume"]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
