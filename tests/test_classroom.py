"""The assignments: solutions, starters, releases, and the catalogue of mistakes."""

import random
import re
import sys
from pathlib import Path

import pytest

from minimixce.classroom import release
from minimixce.classroom.assignments import NAMES, assignment
from minimixce.classroom.catalogue import Catalogue, functions_of, load_source, run_task
from minimixce.classroom.diagnose import diagnose
from minimixce.classroom.local import Submission
from minimixce.classroom.mistakes import edit
from minimixce.classroom.results import catalogue, judge_submission

FOLDER = Path(__file__).parent.parent / "tutorials" / "assignments"
VARIANTS = [(name, k) for name in NAMES for k in range(assignment(name).variants)]
TASKS = [
    pytest.param(name, k, t.number, marks=[pytest.mark.slow] if k else [])
    for name, k in VARIANTS
    for t in assignment(name, k).tasks
]


@pytest.fixture(scope="module", autouse=True)
def assignments_folder():
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))
    sys.modules.pop("build", None)


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_the_solution_has_all_points_with_another_seed_too(name, variant):
    solution = Submission(assignment(name, variant).source(variant))
    for seed in (0, 7):
        found = judge_submission(name, solution, variant=variant, seed=seed)
        assert found.points == found.total, found.text()


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_the_starter_has_none_and_raises_nothing_but_not_implemented(name, variant):
    found = judge_submission(name, Submission(release.starter(name, variant)), variant=variant)
    assert found.points == 0
    assert {one.finding.kind for one in found.judged} == {"unfinished"}


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_points_are_quarters_and_add_up(name, variant):
    whole = assignment(name, variant)
    assert whole.total == {"a0": 10, "a1": 50, "a2": 110, "a3": 86}[name]
    for task in whole.tasks:
        assert all(points % 0.25 == 0 for points in task.points.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_handout_has_every_task_with_its_points(name):
    text = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    whole = assignment(name)
    for task in whole.tasks:
        number = "bonus" if task.title.startswith("bonus") else task.number
        row = next(r for r in rows if r[0].strip() == number and task.functions[0] in r[1])
        assert row[2].strip().startswith(f"{task.total:g}"), row
        assert all(f"`{f}" in row[1] for f in task.functions), row
    assert all(f"**{number}** (in `answers.md`)" in text for number in whole.written)


@pytest.mark.parametrize("name", ["a1", "a2", "a3"])
def test_the_handout_has_the_points_of_every_check(name):
    text = (FOLDER / name / "README.md").read_text(encoding="utf-8").split("| | in points |")[1]
    rows = dict(re.findall(r"^\| ([\w.]+) \| (.*) \|$", text, flags=re.MULTILINE))
    for task in assignment(name).tasks:
        row = rows["bonus" if task.title.startswith("bonus") else task.number]
        said = sorted(float(part.split()[-1]) for part in row.split(", "))
        assert said == sorted(task.points.values()), task.number


@pytest.mark.parametrize("name", NAMES)
def test_codes_are_of_one_mistake_each_and_belong_to_a_task(name):
    mistakes = assignment(name).mistakes
    assert len({m.code for m in mistakes}) == len(mistakes)
    assert {m.task for m in mistakes} <= {t.number for t in assignment(name).tasks}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_edit_applies_to_some_variant_and_shows(name):
    """Each form of a mistake changes the results, of the textbook form or of a variant."""
    shown = set()
    for k in range(assignment(name).variants):
        for task in assignment(name, k).tasks:
            shown |= set(catalogue(name, task.number, k).singles)
    forms = {(m.code, k) for m in assignment(name).mistakes for k in range(len(m.edits))}
    assert forms - shown == set()


@pytest.mark.parametrize(("name", "variant", "number"), TASKS)
def test_every_mistake_is_named(name, variant, number):
    """As the class it is in, which has few members."""
    this = catalogue(name, number, variant)
    for code, form in this.singles:
        text = edit(this.own_text, this.mistakes[code].edits[form])
        functions = functions_of(load_source(text, "wrong", this.names))
        found = diagnose(this, functions, run_task(this.task, functions, this.probes))
        assert (code,) in found.codes, (code, form, found.text())
        assert len(found.codes) <= 2
        assert this.mistakes[code].says in found.text()


def share_named(name, variant, numbers, count):
    """Of pairs of mistakes in these tasks, `count` at most, how many get one name; no name lies."""
    pairs = [
        (catalogue(name, n, variant), k) for n in numbers for k in catalogue(name, n, variant).pairs
    ]
    random.Random(0).shuffle(pairs)
    tried = named = 0
    for this, key in pairs:
        results = this.results_of_pair(key)
        if results is None or tried == count:
            continue
        names = this.name(results)
        assert any(set(codes) <= set(key[:2]) for codes in names), (key, names)
        tried += 1
        named += len(names) == 1
    assert tried >= min(count, 10)
    return named / tried


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_of_200_pairs_of_mistakes_none_is_misnamed(name, variant):
    numbers = [task.number for task in assignment(name, variant).tasks]
    assert share_named(name, variant, numbers, 200 if variant == 0 else 40) > 0.7


@pytest.mark.parametrize(("name", "number"), [("a1", "1.4"), ("a2", "2.4")])
def test_of_30_pairs_of_mistakes_none_is_misnamed(name, number):
    assert share_named(name, 0, [number], 30) > 0.7


def test_handouts_link_to_files_that_are_there_and_none_to_a_key():
    """Files and not folders: the site has a page or a copy of each."""
    pages = [*FOLDER.glob("*.md"), *FOLDER.glob("a?/*.md"), *FOLDER.glob("concept_test/form_*.md")]
    links = [
        (page.parent / link).resolve()
        for page in pages
        for link in re.findall(r"\]\(([^)#:]+)[^)]*\)", page.read_text(encoding="utf-8"))
    ]
    assert len(links) > 30
    assert all(link.is_file() for link in links)
    assert not [link for link in links if link.name == "key.md"]


@pytest.mark.parametrize("name", NAMES)
def test_starter_and_notebook_are_made_from_the_source(name):
    import build

    for file, text in build.files_of(name).items():
        written = (FOLDER / name / file).read_text(encoding="utf-8")
        assert text == written, f"run python tutorials/assignments/build.py {name}"


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_no_line_of_the_solution_is_in_the_release(name, variant):
    import build

    secret = release.solution_lines(assignment(name, variant).source(variant))
    assert len(secret) > 10
    for file, text in build.files_of(name, variant).items():
        if file.startswith("test_"):
            continue  # a test may have to say what is right
        lines = {line.strip(' ",').removesuffix("\\n") for line in text.splitlines()}
        assert not {s for line in secret if len(s := line.strip()) > 25} & lines, file


def test_markers_that_do_not_match_are_refused():
    begin, end = "### BEGIN SOLUTION", "### END SOLUTION"
    with pytest.raises(ValueError, match=r"line 2: .* inside a solution"):
        release.clear_solutions(f"{begin}\n{begin}\n{end}")
    with pytest.raises(ValueError, match="no ### END SOLUTION"):
        release.clear_solutions(f"{begin}\nx = 1")
    with pytest.raises(ValueError, match=r"line 2: .* without a beginning"):
        release.clear_solutions(f"x = 1\n{end}")


@pytest.mark.nbgrader
@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_nbgraders_clear_solutions_makes_the_same_starter(name, variant):
    nbformat = pytest.importorskip("nbformat")
    preprocessors = pytest.importorskip("nbgrader.preprocessors")
    source = assignment(name, variant).source(variant)
    book = nbformat.reads(release.notebook(name, variant, source), 4)
    cleared, _ = preprocessors.ClearSolutions().preprocess(book, {})
    ours = release.cells(release.starter(name, variant))
    assert [(c.cell_type, c.source) for c in cleared.cells] == ours


def test_an_earlier_task_that_is_wrong_does_not_sink_a_later_one():
    text = assignment("a1").source(0)
    wrong = Submission(text.replace("return shifted - np.log", "return 1.1 * shifted - np.log"))
    found = judge_submission("a1", wrong, ["1.1", "1.2"])
    assert found.judged[0].points < found.judged[0].total
    assert found.judged[1].passed
    assert "once the earlier tasks" in found.judged[1].text()


def test_a_catalogue_leaves_out_what_is_right_in_a_variant():
    """1/a for 1/(1−a) is the truth at a = ½, and a mistake elsewhere."""
    forms = {k: (("fixed-point-exponent", 2) in catalogue("a1", "1.7", k).singles) for k in (0, 1)}
    assert forms == {0: False, 1: True}


def test_hints_say_less():
    task = catalogue("a1", "1.2")
    text = edit(task.text, task.mistakes["gradient-not-divided"].edits[0])
    found = judge_submission("a1", Submission(text), ["1.2"]).judged[0]
    assert "\n" not in found.text("none")
    assert "everywhere" in found.text("where")
    assert "divided by N" not in found.text("where")
    assert "divided by N, the gradient is not" in found.text("why")
    assert "Read lesson 3." in found.text("why")


def test_a_catalogue_can_be_made_by_hand():
    this = Catalogue(assignment("a1"), assignment("a1").task("1.3"))
    assert this.name(this.right) == []
    wrong = functions_of(load_source(this.text.replace("return -log_q, np", "return log_q, np")))
    assert this.name(run_task(this.task, wrong, this.probes)) == [("mle-sign",)]
