"""The instructor's kit: what its pages say is so, slides build and fit, points reach a gradebook, a
bundle gives no solution away.
"""

import csv
import dataclasses
import html
import importlib.util
import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import Page, chromium

from minimixce.classroom import bundle, release
from minimixce.classroom.assignments import NAMES, assignment
from minimixce.classroom.local import Submission
from minimixce.classroom.results import judge_submission
from minimixce.cli import grade

ROOT = Path(__file__).parent.parent
ASSIGNMENTS = ROOT / "tutorials" / "assignments"
KIT = ASSIGNMENTS / "instructor"
RIGHT = re.compile(r"Right: [a-e]\.")  # in the notes of a question
SOURCES = sorted((KIT / "slides").glob("[1-6]_*.md"))


def script(path):
    """A script of the kit as a module."""
    specification = importlib.util.spec_from_file_location(f"kit_{path.stem}", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def slides():
    pytest.importorskip("jupytext")  # of the extra "site"
    return script(KIT / "slides" / "build_slides.py")


@pytest.fixture(scope="module")
def built(slides, tmp_path_factory):
    """The HTML of all sittings, with notes -> {stem: text}."""
    files = slides.build(tmp_path_factory.mktemp("slides"))
    return {path.stem: path.read_text(encoding="utf-8") for path in files}


# ---- pages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", sorted(KIT.glob("*.md")), ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
            slugs = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in slugs, link


def rows_below(text, heading):
    """The first cells of the tables between a heading of level two and the next, as numbers."""
    (section,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    return [float(cell) for cell in re.findall(r"^\| (\d+) \|", section, re.M)]


@pytest.mark.parametrize(("name", "number"), [("a1", "1.8"), ("a2", "2.8"), ("a3", "3.8")])
def test_rubrics_add_up_to_the_points_of_the_task(name, number):
    text = (KIT / "rubrics.md").read_text(encoding="utf-8")
    points = assignment(name).written[number]
    assert sum(rows_below(text, f"{number}, {points:g} points")) == points


def test_every_written_task_has_a_rubric():
    text = (KIT / "rubrics.md").read_text(encoding="utf-8")
    written = [number for name in NAMES for number in assignment(name).written]
    assert re.findall(r"^## (\d\.\d),", text, re.M) == written


def test_the_syllabus_has_the_points_that_there_are():
    text = (KIT / "syllabus.md").read_text(encoding="utf-8")
    stated = re.findall(r"\[A\d .*?\| (\d+)(?: \+ (\d+))? \|$", text, re.M)
    wholes = [assignment(name) for name in NAMES]
    bonus = [sum(t.total for t in w.tasks if t.title.startswith("bonus")) for w in wholes]
    assert [(float(a), float(b or 0)) for a, b in stated] == [
        *((w.total - b, b) for w, b in zip(wholes, bonus)),
        (60, 0),
    ]
    assert sum(float(a) for a, _ in stated) == 300
    by_person = sum(sum(w.written.values()) for w in wholes) + 26  # and the rubric of A4
    assert f"{300 - by_person:g} are checked by a program, {by_person:g} by a person" in text
    assert f"300 points, {sum(bonus):g} more as a bonus" in text


def oral_examples():
    """(task, the line, what it becomes, the checks that are said to fail) of oral.md."""
    text = (KIT / "oral.md").read_text(encoding="utf-8")
    for part in re.split(r"^### ", text, flags=re.M)[1:]:
        task = re.match(r"\d+ · task (\d\.\d),", part)[1]
        old, new = re.findall(r"^    (.*)$", part, re.M)
        fails = re.findall(r"`([^`]+)`", re.search(r"Fails: (.*?)\. ", part, re.S)[1])
        yield pytest.param(task, old, new, fails, id=task)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "old", "new", "fails"), list(oral_examples()))
def test_the_examples_of_the_oral_fail_what_they_are_said_to(task, old, new, fails):
    name = f"a{task[0]}"
    source = assignment(name).source(0)
    assert source.count(f"    {old}\n") == 1
    (found,) = judge_submission(name, Submission(source.replace(old, new)), [task]).judged
    assert [check.name for check in found.checks if not check.passed] == fails


def test_there_are_twelve_examples():
    assert len(list(oral_examples())) == 12


def test_commands_of_the_guide_are_commands():
    """Every option of `minimixce grade` that the guide shows is one, and every script is there."""
    text = (KIT / "guide.md").read_text(encoding="utf-8")
    options = {f"--{field.name}" for field in dataclasses.fields(grade.Flags)}
    shown = re.findall(r"minimixce grade [^`\n]*", text)
    assert len(shown) > 8
    for command in shown:
        assert set(re.findall(r"--\w+", command)) <= options, command
    for path in re.findall(r"python (tutorials/\S+\.py)", text):
        assert (ROOT / path).is_file(), path


# ---- slides --------------------------------------------------------------------------------------


def test_every_sitting_has_its_slides_titles_notes_and_two_questions(slides):
    assert len(SOURCES) == 6
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        found = slides.read_slides(text)
        assert 12 <= len(found) <= 18, path
        assert all(slide.title and slide.notes for slide in found), path
        questions = [k for k, slide in enumerate(found) if "@question" in slide.body]
        assert questions == [len(found) - 3, len(found) - 2], path
        minutes = [int(re.match(r"(\d+) minutes", slide.notes)[1]) for slide in found[1:]]
        assert 70 <= sum(minutes) <= 80, path


def test_every_figure_is_there_and_has_words(slides):
    found = [
        slides.figure(target, alt)
        for path in SOURCES
        for alt, target in slides._IMAGE.findall(path.read_text(encoding="utf-8"))
    ]
    assert len(found) > 15
    assert all(figure.kind == "png" or b"<svg" in figure.data for figure in found)
    assert all(len(figure.alt) > 15 for figure in found)
    with pytest.raises(ValueError, match="has figures 1 to"):
        slides.figure("../../../1_two_cross_entropies.ipynb#99")
    with pytest.raises(FileNotFoundError):
        slides.figure("nowhere.png")


def test_a_slide_without_a_title_or_with_an_unknown_question_is_refused(slides):
    with pytest.raises(ValueError, match="slide 2 must begin with its title"):
        slides.read_slides("# One\n\nx\n---\ntext alone\n")
    for call in ("no_such(1)", "mixce_weight(open)", "1 + 1", "mixce_weight("):
        with pytest.raises(ValueError, match="@question must be followed by a call"):
            slides.questions.question(call)


def test_questions_have_one_right_answer_and_other_numbers_than_the_test(slides):
    forms = "".join(
        path.read_text("utf-8") for path in (ASSIGNMENTS / "concept_test").glob("f*.md")
    )
    topics = {item.topic for letter in "AB" for item in slides.questions.make.form(letter)}
    asked = set()
    for path in SOURCES:
        for call in re.findall(r"^@question (.*)$", path.read_text("utf-8"), re.M):
            question = slides.questions.question(call)
            answers = [answer for _, _, answer in question.choices]
            assert len(set(answers)) == len(answers) == 5, call
            assert [name for _, name, _ in question.choices].count(slides.questions.make.RIGHT) == 1
            assert question.text not in forms, call
            asked.add(question.topic)
    assert asked == topics


def test_slides_are_whole_load_nothing_and_keep_answers_in_the_notes(slides, built, tmp_path):
    for name, text in built.items():
        page = Page(re.sub(r"</?(mspace|m\w+)[^>]*>", "", text))
        assert page.headings[0] == 1 == page.headings.count(1), name
        assert page.sources, name
        assert all(source.startswith("data:image/") for source in page.sources), name
        assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", text), name
        assert "default-src 'none'" in text, name
        assert not re.search(r"[^\n]*[$\\][^\n]*", "".join(page.text)), name
    (plain,) = slides.build(tmp_path, SOURCES[:1], with_notes=False)
    assert len(RIGHT.findall(built[plain.stem])) == 2
    assert not RIGHT.search(plain.read_text(encoding="utf-8"))


@pytest.mark.browser
def test_slides_fit_turn_and_print_a_page_each(slides, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    overflow = """() => {
        const slide = document.querySelector('.slide.now'), foot = slide.querySelector('footer');
        const end = foot.getBoundingClientRect().top + 1;
        return [...slide.querySelectorAll('.body *')].map((e) => e.getBoundingClientRect())
            .filter((box) => box.bottom > end || box.right > innerWidth).length; }"""
    with sync_api.sync_playwright() as playwright:
        browser = chromium(playwright)
        for path in slides.build(tmp_path):
            page = browser.new_page(viewport={"width": 1280, "height": 720})
            asked = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(path.as_uri())
            count = page.evaluate("document.querySelectorAll('.slide').length")
            for number in range(1, count + 1):
                assert page.evaluate("document.querySelector('.slide.now').id") == str(number)
                assert page.evaluate(overflow) == 0, (path.stem, number)
                page.keyboard.press("ArrowRight")
            assert page.evaluate("document.querySelector('.slide.now').id") == str(count)
            hidden = "getComputedStyle(document.querySelector('.slide.now .notes')).display"
            assert page.evaluate(hidden) == "none"
            page.keyboard.press("n")
            assert page.evaluate(hidden) == "block"
            assert not [url for url in asked if not url.startswith(("file:", "data:"))]
            for address in (path.as_uri(), f"{path.as_uri()}?notes"):
                page.goto(address)
                pdf = page.pdf(prefer_css_page_size=True, print_background=True)
                assert len(re.findall(rb"/Type\s*/Page[^s]", pdf)) == count, address
                assert set(re.findall(rb"/MediaBox \[([^]]*)\]", pdf)) == {b"0 0 960 540"}
            page.close()
        browser.close()


# ---- gradebooks ----------------------------------------------------------------------------------

to_gradebook = script(KIT / "to_gradebook.py")
NAMES_OF_STUDENTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1)


@settings(max_examples=40)
@given(NAMES_OF_STUDENTS)
def test_a_guarded_cell_is_no_formula_and_comes_back(cell):
    guarded = to_gradebook.guarded(cell)
    assert not guarded.startswith(to_gradebook.FORMULAS)
    if not (cell.startswith("'") and cell[1:].startswith(to_gradebook.FORMULAS)):
        assert to_gradebook.unguarded(guarded) == cell


@settings(max_examples=30)
@given(
    st.dictionaries(NAMES_OF_STUDENTS, st.integers(0, 400), min_size=1, max_size=8),
    st.sets(st.integers(0, 7)),
    st.sampled_from(["canvas", "moodle"]),
)
def test_points_reach_the_right_row_or_are_named(points, absent, form):
    key = to_gradebook.KEYS[form]
    grades = [{"student": s, "status": "graded", "total": f"{p / 4:g}"} for s, p in points.items()]
    there = [s for k, s in enumerate(points) if k not in absent]
    columns = dict.fromkeys((*to_gradebook.COLUMNS[form], key), "x")
    roster = [columns | {key: s} for s in reversed([*there, "no one else"])]
    made = to_gradebook.convert(grades, roster, form, column="A1")
    assert made.header[-1] == "A1"
    place = made.header.index(key)
    found = {to_gradebook.unguarded(row[place]): float(row[-1]) for row in made.rows}
    guarded_twice = {s for s in there if to_gradebook.unguarded(to_gradebook.guarded(s)) != s}
    there = [s for s in there if s not in guarded_twice and s != "no one else"]
    assert all(found[s] == points[s] / 4 for s in there)
    assert set(made.left_out) == set(points) - {row[key] for row in roster}


def csv_file(path, rows):
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8-sig", newline="")
    return str(path)


CANVAS = [
    ["Student", "ID", "SIS User ID", "SIS Login ID", "Section"],
    ["    Points Possible", "", "", "", ""],
    ["Lee, Ann", "1", "s1", "ann", "A"],
    ["Bob", "2", "s2", "bob", "A"],
    ["=cmd()", "3", "s3", "=cmd()", "B"],
]


def test_the_command_writes_what_canvas_imports(tmp_path, capsys):
    grades = [
        ["student", "status", "total", "1.1", "bonus", "mistakes"],
        ["'=cmd()", "graded", "45", "4", "2", ""],
        ["ann", "graded", "12.25", "1", "0", "log2"],
        ["bob", "missing file", "0", "0", "0", ""],
        ["carl", "graded", "3", "0", "0", ""],
    ]
    given = [csv_file(tmp_path / "g.csv", grades), "--format", "canvas", "--bonus", "--roster"]
    given += [csv_file(tmp_path / "r.csv", CANVAS), "--column", "A1 (4711)"]
    assert to_gradebook.main(given) == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "Student,ID,SIS User ID,SIS Login ID,Section,A1 (4711)",
        '"Lee, Ann",1,s1,ann,A,12.25',
        "'=cmd(),3,s3,'=cmd(),B,47",
    ]
    assert said.err.splitlines() == [
        "left out, missing file: 'bob'",
        "left out, not in the roster: 'carl'",
    ]
    assert to_gradebook.main([*given, "--out", str(tmp_path / "up.csv")]) == 1
    assert (tmp_path / "up.csv").read_text(encoding="utf-8") == said.out


@pytest.mark.parametrize(
    ("grades", "roster", "said"),
    [
        ([["student", "total"], ["a", "1"]], CANVAS, "grades.csv has no column 'status'"),
        ([["student", "status", "total"]], CANVAS, "grades.csv has no rows"),
        ([["student", "status", "total"], ["a", "graded", "x"]], CANVAS, "must be a number"),
        ([["student", "status", "total"], ["a", "graded", "nan"]], CANVAS, "must be a number"),
        ([["student", "status", "total"], *[["a", "graded", "1"]] * 2], CANVAS, "has 'a' twice"),
        ([["student", "status", "total"], ["a", "graded"]], CANVAS, "longer or shorter"),
        ([["student", "status", "total"], ["a", "graded", "1"]], CANVAS[:1], "roster has no rows"),
        ([["student", "status", "total"], ["a", "graded", "1"]], [["Student"], ["A"]], "'ID'"),
    ],
)
def test_what_cannot_be_converted_is_said(grades, roster, said, tmp_path, capsys):
    files = csv_file(tmp_path / "g.csv", grades), csv_file(tmp_path / "r.csv", roster)
    with pytest.raises(SystemExit) as stop:
        to_gradebook.main([files[0], "--roster", files[1], "--format", "canvas"])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


# ---- the bundle ----------------------------------------------------------------------------------

VARIANTS = {"a1": 2, "a2": 5}


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """A bundle of variants without wheels and site."""
    pytest.importorskip("jupytext")
    out = tmp_path_factory.mktemp("bundle") / "class"
    return bundle.make(out, ROOT, variants=VARIANTS, wheels=False)


def test_the_bundle_has_no_solution_line_catalogue_or_key(bundled):
    chosen = dict.fromkeys(NAMES, 0) | VARIANTS
    assert bundle.leaks(bundled, chosen) == []
    for name, variant in chosen.items():
        secret = release.solution_lines(assignment(name, variant).source(variant))
        for path in (bundled / "tutorials" / "assignments" / name).glob("[!t]*.*"):
            assert not secret.intersection(path.read_text(encoding="utf-8").splitlines()), path
    names = {path.name for path in bundled.rglob("*")}
    assert not names & {"key.md", "form_a.md", "rubrics.md", "oral.md", "a1.txt", "sources"}
    words = "".join(path.read_text(encoding="utf-8") for path in (bundled / "slides").iterdir())
    assert not RIGHT.search(words)


def test_the_bundle_has_what_a_class_needs(bundled):
    there = {path.relative_to(bundled).as_posix() for path in bundled.rglob("*") if path.is_file()}
    lessons = {path.name for path in (ROOT / "tutorials").glob("[0-9]_*.ipynb")}
    assert len(lessons) == 10
    assert {f"tutorials/{name}" for name in lessons} <= there
    assert len([path for path in there if path.startswith("slides/")]) == 6
    for name in NAMES:
        folder = f"tutorials/assignments/{name}"
        needed = ("README.md", assignment(name).file, f"{name}.ipynb", f"test_{name}.py")
        assert {f"{folder}/{file}" for file in needed} <= there
    assert "tutorials/assignments/a4/example/report.md" in there
    text = (bundled / "tutorials/assignments/a2/backprop.py").read_text(encoding="utf-8")
    assert text == release.starter("a2", 5)
    readme = (bundled / "README.md").read_text(encoding="utf-8")
    assert "a1 --variant 2, a2 --variant 5" in readme
    assert len([line for line in readme.splitlines() if line]) <= 10


def test_links_of_the_bundle_lead_somewhere(bundled):
    for page in bundled.rglob("*.md"):
        for link in re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8")):
            assert re.match(r"[a-z]+:", link) or (page.parent / link).exists(), (page, link)


def test_what_would_give_a_solution_away_is_found(tmp_path):
    line = "return np.repeat(weight[:, None], costs.shape[1], axis=1)"
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "x.html").write_text(f"<pre><b>{html.escape(line)}</b></pre>", "utf-8")
    (tmp_path / "concept_test").mkdir()
    (tmp_path / "concept_test" / "key.md").write_text("# Key", "utf-8")
    (tmp_path / "lesson.py").write_text("    ### BEGIN SOLUTION\n", "utf-8")
    found = bundle.leaks(tmp_path, {"a3": 0})
    assert found == [
        "concept_test/key.md: key.md",
        "lesson.py: a solution's marker",
        f"slides/x.html: {line}",
    ]


def test_a_bundle_cannot_be_made_of_anything(tmp_path):
    with pytest.raises(FileExistsError, match="choose another name"):
        bundle.make(tmp_path, ROOT)
    with pytest.raises(FileNotFoundError, match="is no clone of the repository"):
        bundle.make(tmp_path / "out", tmp_path)
    with pytest.raises(ValueError, match="variant must be in 0 … 2 for a1, got 3"):
        bundle.make(tmp_path / "out", ROOT, variants={"a1": 3})
    with pytest.raises(ValueError, match="assignment must be one of"):
        bundle.make(tmp_path / "out", ROOT, variants={"b1": 0})
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_makes_a_zip_with_the_site(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("<title>site</title>", "utf-8")
    command = [sys.executable, str(KIT / "bundle.py"), str(tmp_path / "class.zip"), "--no-wheels"]
    command += ["--site", str(site), "--variant", "a2=3"]
    subprocess.run(command, check=True, capture_output=True)
    with zipfile.ZipFile(tmp_path / "class.zip") as archive:
        names = archive.namelist()
        readme = archive.read("class/README.md").decode()
    assert "class/site/index.html" in names
    assert "class/tutorials/assignments/a2/backprop.py" in names
    assert "a2 --variant 3" in readme
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".bundle")]


# ---- samples -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_right_empty_and_wrong_in_one_task_each(name):
    for variant in range(assignment(name).variants):
        found = script(KIT / "samples.py").samples(name, variant)
        right, empty, *wrong = found.values()
        assert list(found)[:2] == ["right", "empty"]
        assert right == assignment(name, variant).source(variant)
        assert empty == release.starter(name, variant)
        assert len(wrong) == min(3, len(assignment(name).tasks))
        assert len({right, empty, *wrong}) == 2 + len(wrong)


def test_a_sample_with_a_mistake_is_told_so():
    for code, text in list(script(KIT / "samples.py").samples("a1").items())[2:]:
        (mistake,) = (m for m in assignment("a1").mistakes if m.code == code)
        (one,) = judge_submission("a1", Submission(text), [mistake.task]).judged
        assert (code,) in one.finding.codes
        assert one.points < one.total


@pytest.mark.slow
def test_the_first_ten_minutes_of_the_guide(tmp_path):
    """The commands as they are printed, except for the first, which installs."""
    text = (KIT / "guide.md").read_text(encoding="utf-8")
    block = text.split("## The first ten minutes")[1].split("\n\n")[2]
    install, *commands = [line.strip() for line in block.splitlines()]
    assert install == "pip install -e ."
    assert len(commands) == 3
    place = tmp_path / "clone"
    place.mkdir()
    for command in commands:
        words = command.replace("tutorials/", f"{ROOT}/tutorials/").split()
        words = (
            [sys.executable, "-m", *words]
            if words[0] == "minimixce"
            else [sys.executable, *words[1:]]
        )
        words += ["--isolation", "none"] if "--csv" in words else []
        subprocess.run(words, cwd=place, check=True, capture_output=True)
    with open(tmp_path / "class" / "grades.csv", encoding="utf-8", newline="") as stream:
        rows = {row["student"]: row for row in csv.DictReader(stream)}
    assert rows["right"]["total"] == "45"
    assert rows["empty"]["total"] == "0"
    assert len(rows) == 5
