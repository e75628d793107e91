"""What is written for others: releases for students, kits for Gradescope, nbgrader and otter."""

import json
import os
import re
import subprocess
import sys
import unicodedata
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import minimixce
from minimixce.classroom import release
from minimixce.classroom.assignments import NAMES, assignment
from minimixce.classroom.grader import exports, gradescope, grading, in_kernel, notebooks, tiers

PACKAGE = Path(minimixce.__file__).parent
VARIANTS = [(name, k) for name in NAMES for k in range(assignment(name).variants)]


# ---- releases ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "variant"), [*VARIANTS, (release.EXPERIMENT, 0)])
def test_a_release_is_whole_and_says_which_variant_it_is(name, variant, tmp_path):
    paths = release.write(name, tmp_path / "new" / "folder", variant)
    assert all(path.is_file() for path in paths)
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    handout = texts[tmp_path / "new" / "folder" / "README.md"]
    for command in re.findall(rf"minimixce grade {name} \.\s+--local.*", handout):
        assert (f"--variant {variant}" in command) == (variant > 0)
    if name != release.EXPERIMENT:
        assert f", variant {variant};" in handout.splitlines()[2]
        tests = texts[tmp_path / "new" / "folder" / f"test_{name}.py"]
        assert f"\nVARIANT = {variant}\n" in tests
    for path, text in texts.items():
        links = re.findall(r"\]\(([^)\s]+)\)", text) if path.suffix == ".md" else []
        for link in links:
            target = link.partition("#")[0]
            assert re.match(r"https?:", link) or (path.parent / target).exists(), (path.name, link)


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_no_line_of_a_solution_is_in_a_release(name, variant, tmp_path):
    secret = {s.strip() for s in release.solution_lines(assignment(name, variant).source(variant))}
    assert len(secret) > 10
    for path in release.write(name, tmp_path, variant):
        if path.name.startswith("test_"):
            continue  # a test may have to say what is right
        text = path.read_text(encoding="utf-8")
        lines = {line.strip(' ",').removesuffix("\\n") for line in text.splitlines()}
        assert not {line for line in secret if len(line) > 25} & lines, path.name


def test_a_release_is_not_written_over_what_is_there(tmp_path):
    (tmp_path / "objectives.py").write_text("mine")
    with pytest.raises(FileExistsError, match=r"has objectives\.py already; choose a new folder"):
        release.write("a1", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["objectives.py"]
    with pytest.raises(FileExistsError, match="is a file"):
        release.write("a1", tmp_path / "objectives.py")
    with pytest.raises(ValueError, match="a4 has no variants, got 1"):
        release.write("a4", tmp_path, 1)


def test_commands_in_a_release_keep_what_stands_beside_them_in_its_column():
    line = "    minimixce grade a2 . --local                 all points"
    assert release._with_variant("a2", 3, line).index("all") == line.index("all")


# ---- Gradescope's results ------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=[]), max_size=300)


@given(TEXTS)
def test_a_cleaned_text_steers_nothing_and_is_short(text):
    cleaned = gradescope.clean(text * 20)
    assert len(cleaned.encode()) <= 8000
    controls = {c for c in cleaned if unicodedata.category(c) in ("Cc", "Cs")}
    assert controls <= {"\n", "\t"}
    assert gradescope.clean(cleaned) == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a\r\nb\rc\n", "a\nb\nc\n"),
        ("\x1b[1;31mred\x1b[0m \x1b]0;title\x07on", "red on"),
        ("\x1b]8;;http://x\x1b\\link", "link"),
        ("nul\0 bell\x07 \u202eturned", "nul\ufffd bell\ufffd \ufffdturned"),
        ("x² ≠ 🙂 é\t|", "x² ≠ 🙂 é\t|"),
        ("<b>kept, it is shown as text</b>", "<b>kept, it is shown as text</b>"),
    ],
)
def test_what_becomes_of_a_text(text, cleaned):
    assert gradescope.clean(text) == cleaned


def test_a_long_text_is_cut_between_characters():
    cleaned = gradescope.clean("🙂" * 5000)
    assert cleaned.startswith("🙂" * 1990)
    assert cleaned.endswith("\n… (cut)")


def check_results(results):
    """What Gradescope's specification and this package ask of results.json."""
    text = json.dumps(results, allow_nan=False)
    assert not re.search(r"\\u001b|\\r", text)
    assert results["stdout_visibility"] == "hidden"
    assert results["score"] == sum(test["score"] for test in results["tests"])
    for test in results["tests"]:
        assert test["status"] in ("passed", "failed")
        assert test["output_format"] == "text"
        assert test["visibility"] == "visible"
        assert isinstance(test["name"], str)
        assert isinstance(test["number"], str)
        assert (4 * test["score"]).is_integer()
        assert test["max_score"] >= test["score"] >= 0 or "bonus" in test["name"]
        assert len(test["output"].encode()) <= 8000


def graded_by_program(name, variant=0):
    whole = assignment(name, variant)
    tasks = [task for task in whole.tasks if not task.title.startswith("bonus")]
    return sum(task.total for task in tasks)


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
@pytest.mark.parametrize("hints", ["none", "where", "why"])
def test_results_hold_the_points_of_a_record(name, variant, hints):
    record = grading.not_graded(name, isolation_tier="user", variant=variant)
    record |= {"status": "graded", "mistakes": ["some-mistake"], "remarks": ["a remark"]}
    for k, task in enumerate(record["tasks"]):
        task["points"] = task["total"] - (0.25 * k) % task["total"]
    results = gradescope.results_of(record, hints)
    check_results(results)
    assert results["score"] == sum(task["points"] for task in record["tasks"])
    assert sum(t["max_score"] for t in results["tests"]) == graded_by_program(name, variant)
    assert [t["number"] for t in results["tests"]] == [t.number for t in assignment(name).tasks]
    assert results["tests"][0]["status"] == "passed"
    kept = ("version", "variant", "isolation", "sha256", "seed", "mistakes", "status")
    assert results["extra_data"] == {key: record[key] for key in kept}
    assert results["output"].startswith("a remark")
    for number in assignment(name).written:
        assert f"{number} (" in results["output"]


def test_results_of_what_was_not_graded_have_no_points_and_say_why():
    record = grading.not_graded("a2", isolation_tier="bwrap")
    record |= {"status": "missing file", "says": "no backprop.py"}
    results = gradescope.results_of(record)
    check_results(results)
    assert results["score"] == 0
    assert all("missing file: no backprop.py" in test["output"] for test in results["tests"])
    assert "missing file: no backprop.py" in results["output"]


def test_the_first_results_are_valid_and_blame_no_student():
    check_results(gradescope.fallback())
    assert "not your fault" in gradescope.fallback()["output"]


# ---- Gradescope's folder -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    (path,) = exports.write_gradescope("a1", tmp_path_factory.mktemp("kit"), salt="s", variant=1)
    return path


def test_the_archive_holds_the_package_and_what_gradescope_starts(archive):
    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
        modes = {i.filename: i.external_attr >> 16 & 0o777 for i in opened.infolist()}
        settings = json.loads(opened.read("settings.json"))
        scripts = {name: opened.read(name).decode() for name in ("setup.sh", "run_autograder")}
    assert {modes["setup.sh"], modes["run_autograder"]} == {0o755}
    assert all(text.startswith("#!/usr/bin/env bash\n") for text in scripts.values())
    chosen = {"assignment": "a1", "variant": 1, "hints": "why", "salt": "s", "isolation": "auto"}
    assert settings == chosen
    assert "minimixce/data/stories.json" in names
    assert "minimixce/classroom/catalogues/a1.txt" in names
    here = {f"minimixce/{p.relative_to(PACKAGE).as_posix()}" for p in PACKAGE.rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == here
    assert not [name for name in names if "__pycache__" in name or "tests/" in name]


def test_the_archive_is_the_same_each_time_and_replaces_nothing(archive, tmp_path):
    (again,) = exports.write_gradescope("a1", tmp_path, salt="s", variant=1)
    assert again.read_bytes() == archive.read_bytes()
    with pytest.raises(FileExistsError, match="exists already; choose a new folder"):
        exports.write_gradescope("a1", tmp_path)


HANG = "import numpy as np\n\n\ndef log_softmax(z):\n    while True:\n        pass\n"
SUBMISSIONS = {
    "right": lambda text: {"objectives.py": text},
    "wrong": lambda text: {"objectives.py": text.replace("return shifted - np.log", "return z - ")},
    "missing": lambda text: {"other.py": text},
    "does not load": lambda text: {"objectives.py": "import nothing_of_this_name\n" + text},
    "hanging": lambda text: {"objectives.py": HANG},
    "ending": lambda text: {"objectives.py": "import os\nos._exit(0)\n"},
}


def autograder(folder, archive, submission):
    """A folder as Gradescope's /autograder, with a submission in it."""
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder / "source")
    (folder / "submission").mkdir()
    for name, text in submission.items():
        (folder / "submission" / name).write_text(text, encoding="utf-8")
    settings = json.loads((folder / "source" / "settings.json").read_text())
    try:
        tiers.choose("auto")
    except ValueError:  # no sandbox works on this machine
        settings["isolation"] = "none"
    (folder / "source" / "settings.json").write_text(json.dumps(settings))
    return folder


def run_autograder(folder, python=sys.executable):
    """Run what Gradescope runs -> results.json, what was printed."""
    paths = {"MINIMIXCE_ROOT": str(folder), "MINIMIXCE_PYTHON": python, "OMP_NUM_THREADS": "1"}
    line = ["bash", str(folder / "source" / "run_autograder")]
    done = subprocess.run(line, env=os.environ | paths, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "results" / "results.json").read_text(encoding="utf-8"))
    check_results(results)
    return results, done.stdout


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="Gradescope runs Linux")
@pytest.mark.parametrize("kind", SUBMISSIONS)
def test_gradescope_gets_results_of_every_submission(kind, archive, tmp_path):
    files = SUBMISSIONS[kind](assignment("a1", 1).source(1))
    results, printed = run_autograder(autograder(tmp_path, archive, files))
    assert printed.startswith("isolation: ")
    assert sum(test["max_score"] for test in results["tests"]) == 45
    scores = {test["number"]: test["score"] for test in results["tests"]}
    if kind == "right":
        assert results["score"] == 45
        assert len(results["extra_data"]["sha256"]) == 64
    elif kind == "wrong":  # and later tasks are judged with the right one
        assert scores["1.1"] < 4
        assert results["score"] == 41 + scores["1.1"]
        assert results["tests"][0]["output"].startswith("1.1 ")
    else:
        assert results["score"] == 0
    says = {
        "missing": "missing file: no objectives.py; there is other.py",
        "does not load": "ModuleNotFoundError: No module named 'nothing_of_this_name'",
        "hanging": "takes too long",
        "ending": "does not load",
    }
    assert says.get(kind, "") in results["tests"][0]["output"]


@pytest.mark.skipif(os.name != "posix", reason="Gradescope runs Linux")
def test_where_the_grader_cannot_start_the_first_results_stand(archive, tmp_path):
    folder = autograder(tmp_path, archive, {"objectives.py": ""})
    results, _ = run_autograder(folder, python="/nowhere/python3")
    assert results == gradescope.fallback()


def test_where_the_grader_stops_the_first_results_stand_and_the_reason_is_printed(tmp_path, capsys):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "settings.json").write_text('{"assignment": "a1"}')
    assert gradescope.main(["--root", str(tmp_path)]) == 1
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert results == gradescope.fallback()
    assert "settings.json lacks variant, hints, salt, isolation" in capsys.readouterr().out


# ---- notebooks -----------------------------------------------------------------------------------


def source_of(cell):
    return "".join(cell["source"])


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
@pytest.mark.parametrize("salt", ["", "salt"])
def test_nbgraders_notebook_has_all_points_and_solutions_in_their_cells_alone(name, variant, salt):
    book, whole = notebooks.for_nbgrader(name, variant, "where", salt), assignment(name, variant)
    pytest.importorskip("nbformat").validate(book)
    found = [cell["metadata"].get("nbgrader", {}) for cell in book["cells"]]
    ids = [settings["grade_id"] for settings in found if settings]
    assert len(set(ids)) == len(ids)
    assert sum(settings.get("points", 0) for settings in found) == whole.total
    assert all(settings["schema_version"] == 3 for settings in found if settings)
    graded = [c for c, settings in zip(book["cells"], found) if settings.get("locked")]
    assert len(graded) == len(whole.tasks)
    for cell, task in zip(graded, whole.tasks):
        assert f'points("{name}", "{task.number}", globals()' in source_of(cell)
        assert ("### BEGIN HIDDEN TESTS" in source_of(cell)) == bool(salt)
        assert f", variant={variant}" in source_of(cell) or variant == 0
    others = [source_of(c) for c, s in zip(book["cells"], found) if not s.get("solution")]
    secret = release.solution_lines(whole.source(variant))
    assert not {line for line in secret if len(line.strip()) > 25} & set(
        "\n".join(others).split("\n")
    )


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
@pytest.mark.parametrize("salt", ["", "salt"])
def test_otters_notebook_has_all_points_and_matching_marks(name, variant, salt):
    book, whole = notebooks.for_otter(name, variant, "none", salt), assignment(name, variant)
    pytest.importorskip("nbformat").validate(book)
    raw = [source_of(c).split("\n") for c in book["cells"] if c["cell_type"] == "raw"]
    assert raw[0][0] == "# ASSIGNMENT CONFIG"
    open_ones = []
    for first, *_ in raw[1:]:
        word = first.removeprefix("# BEGIN ").removeprefix("# END ")
        if first.startswith("# BEGIN"):
            open_ones.append(word)
        else:
            assert open_ones.pop() == word
    assert not open_ones
    code = [source_of(c) for c in book["cells"] if c["cell_type"] == "code"]
    for source in code:
        compile(source, name, "exec")
    lines = "\n".join(["\n".join(lines) for lines in raw] + code)
    assert sum(map(float, re.findall(r"^points: (.*)$", lines, re.M))) == whole.total
    assert ("hidden: true" in lines) == bool(salt)


@pytest.mark.parametrize(("name", "number"), [(n, k) for n in NAMES for k in assignment(n).written])
def test_a_question_in_words_is_the_handouts(name, number):
    texts = [source_of(cell) for cell in notebooks.for_nbgrader(name)["cells"]]
    (text,) = [text for text in texts if text.startswith(f"## {number} In words, ")]
    assert len(text) > 200
    assert "**" not in text
    assert "answers.md" not in text
    assert "Make that file" not in text
    asked = text.split("\n\n", 1)[1]
    assert asked in release.handout(name)


def notebook_names(text):
    """The names of a notebook in which this program was run."""
    names = {"__name__": "__main__"}
    exec(text, names)
    return names


def test_points_in_a_notebook(capsys):
    text = assignment("a1").source(0)
    assert in_kernel.points("a1", "1.2", notebook_names(text)) == 10.0
    assert "1.2 " in capsys.readouterr().out
    with pytest.raises(AssertionError, match=r"1\.2 .*not written yet"):
        in_kernel.points("a1", "1.2", notebook_names(release.starter("a1")))
    loud = "print(0), __import__('sys').stderr.write('1'), __import__('warnings').warn('2')"
    loud = text.replace("    shifted = z -", f"    {loud}\n    shifted = z -")
    assert in_kernel.points("a1", "1.1", notebook_names(loud)) == 4.0
    said = capsys.readouterr()
    assert said.out.startswith("1.1 ")  # and no print of the student's
    assert said.err == ""


def test_functions_of_a_notebook_call_those_that_are_supplied():
    names = notebook_names("def a(x, *, k=2):\n    return k * b(x)\n\n\ndef b(x):\n    return x\n")
    replaced = in_kernel.InKernel(names).supplied_with({"b": lambda x: 10 * x})
    assert (replaced.a(1), replaced.a(1, k=3), replaced.b(1)) == (20, 30, 10)
    assert names["a"](1) == 2


@pytest.mark.slow
def test_in_a_notebook_an_earlier_mistake_does_not_sink_a_later_task():
    text = assignment("a1").source(0)
    names = notebook_names(text.replace("return shifted - np.log", "return 1.1 * shifted - np.log"))
    assert 0 < in_kernel.points("a1", "1.1", names) < 4
    assert in_kernel.points("a1", "1.2", names) == 10.0
    in_kernel.assert_check("a1", "1.2", "consistent", names)
    with pytest.raises(AssertionError, match=r"1\.1 log-softmax"):
        in_kernel.assert_check("a1", "1.1", "value", names)


def kernels_environment():
    """The environment of a process whose programs are those of this Python's folder."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}


def run_in(folder, *line):
    done = subprocess.run(
        line, cwd=folder, env=kernels_environment(), capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr


def write_handed_in(path, cells, solutions=()):
    """A student's notebook: a released one, whose cells with these ids have these sources."""
    book = json.loads(cells.read_text(encoding="utf-8"))
    for cell in book["cells"]:
        grade_id = cell["metadata"].get("nbgrader", {}).get("grade_id")
        if grade_id in solutions:
            cell["source"] = solutions[grade_id]
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(book), encoding="utf-8")


@pytest.mark.nbgrader
@pytest.mark.parametrize(("name", "salt"), [("a1", ""), ("a1", "salt"), ("a2", "")])
def test_nbgrader_gives_full_and_no_points(name, salt, tmp_path):
    api = pytest.importorskip("nbgrader.api")
    (source, _) = exports.write_nbgrader(name, tmp_path, salt=salt)
    run_in(tmp_path, "nbgrader", "generate_assignment", name)
    book = json.loads(source.read_text(encoding="utf-8"))
    marked = [cell for cell in book["cells"] if "nbgrader" in cell["metadata"]]
    solutions = {cell["metadata"]["nbgrader"]["grade_id"]: cell["source"] for cell in marked}
    partly = {k: [s.replace("return shifted -", "return 1.1 * shifted -") for s in solution]
              for k, solution in solutions.items()}  # fmt: skip
    released = tmp_path / "release" / name / f"{name}.ipynb"
    assert "BEGIN" not in released.read_text(encoding="utf-8")
    for student, cells in {"empty": (), "partly": partly, "solved": solutions}.items():
        path = tmp_path / "submitted" / student / name / f"{name}.ipynb"
        write_handed_in(path, released, cells)
    run_in(tmp_path, "nbgrader", "autograde", name)
    with api.Gradebook(f"sqlite:///{tmp_path}/gradebook.db") as gradebook:
        found = {s.student_id: s for s in gradebook.assignment_submissions(name)}
        scores = {student: one.score for student, one in found.items()}
        assert {one.max_score for one in found.values()} == {assignment(name).total}
    full = sum(task.total for task in assignment(name).tasks)
    assert scores["empty"] == 0
    assert scores["solved"] == full
    if name == "a1":
        assert 41 < scores["partly"] < 45
        assert (4 * scores["partly"]).is_integer()


@pytest.mark.nbgrader
@pytest.mark.parametrize("salt", ["", "salt"])
def test_otter_gives_full_and_no_points(salt, tmp_path):
    """Where otter-grader is installed, tried with 7.0.0."""
    pytest.importorskip("otter")
    exports.write_otter("a1", tmp_path, salt=salt)
    run_in(tmp_path, "otter", "assign", "a1.ipynb", "out")
    (grader,) = (tmp_path / "out" / "autograder").glob("*.zip")
    for kind, full in (("student", 0), ("autograder", 45)):
        (tmp_path / kind).mkdir()
        book = tmp_path / "out" / kind / "a1.ipynb"
        run_in(tmp_path, "otter", "run", "-a", str(grader), "-o", str(tmp_path / kind), str(book))
        results = json.loads((tmp_path / kind / "results.json").read_text(encoding="utf-8"))
        assert sum(test.get("score") or 0 for test in results["tests"]) == full
        assert sum(test.get("max_score") or 0 for test in results["tests"]) == 45
