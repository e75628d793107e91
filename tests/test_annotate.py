"""tutorials/annotate.py: a file's own comments beside its code, with nothing lost."""

import html
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pages
import pytest

pytest.importorskip("pygments", reason="the pages need Pygments")
TUTORIALS = Path(__file__).parents[1] / "tutorials"
ONE_FILE = TUTORIALS / "one_file.py"

SMALL = '''"""Two numbers.

    a < b
"""

import math

# ---- 1. First: the idea ------------
# Some `code` & prose,
# in two lines.
#
#     y = x²    for every x
#     z = 1
def first(x):
    # a comment of the code
    return x * x


# ---- 2. Second ----

TWO = 2
'''


@pytest.fixture(scope="module")
def annotate():
    sys.path.insert(0, str(TUTORIALS))
    yield importlib.import_module("annotate")
    sys.path.remove(str(TUTORIALS))


def test_a_small_file_in_its_parts(annotate):
    introduction, imports, (first, second) = annotate.split(SMALL)
    assert introduction == "Two numbers.\n\n    a < b"
    assert imports == "import math"
    assert (first.title, first.idea, first.anchor) == ("1. First", "the idea", "first")
    assert first.prose.splitlines()[:2] == ["Some `code` & prose,", "in two lines."]
    assert first.code.startswith("def first(x):\n    # a comment of the code")
    assert (second.idea, second.prose, second.code) == ("", "", "TWO = 2")


def test_prose_becomes_paragraphs_and_formulas(annotate):
    _, _, (first, _) = annotate.split(SMALL)
    shown = annotate.prose_html(first.prose)
    assert "<p>Some <code>code</code> &amp; prose, in two lines.</p>" in shown
    assert '<span class="cell">y = x²</span>    <span class="cell">for every x</span>' in shown


def test_every_line_of_one_file_is_on_its_page_once(annotate):
    source = ONE_FILE.read_text(encoding="utf-8")
    introduction, imports, sections = annotate.split(source)
    rebuilt = [f'"""{introduction}\n"""', imports]
    for section in sections:
        header = section.title + (f": {section.idea}" if section.idea else "")
        prose = [f"# {line}" for line in section.prose.splitlines()]
        rebuilt += [f"# ---- {header} ---", *prose, section.code]
    assert plain("\n".join(rebuilt)) == plain(source)


def plain(source):
    """The lines of a file that say something; rulers and the marks of empty comments are none."""
    lines = (re.sub(r"-{3,}$", "", line).rstrip("# ").rstrip() for line in source.splitlines())
    return [line for line in lines if line]


def test_the_page_shows_the_code_as_it_is(annotate):
    page = annotate.annotated(ONE_FILE, title="One file")
    pages.Page(page)  # tags nest
    shown = html.unescape(re.sub(r"<[^>]*>", "", page))
    _, _, sections = annotate.split(ONE_FILE.read_text(encoding="utf-8"))
    assert len(sections) > 10
    assert all(section.code in shown for section in sections)
    assert all(section.idea and section.prose for section in sections)
    ids = [section.anchor for section in sections]
    assert len(set(ids)) == len(ids)
    assert page.count("<h1>") == 1
    assert "<h1>" not in annotate.annotated(ONE_FILE)


def test_a_file_without_docstring_or_section_is_refused(annotate):
    with pytest.raises(ValueError, match=r"bare\.py has no docstring"):
        annotate.split("x = 1\n", "bare.py")
    with pytest.raises(ValueError, match=r"bare\.py has no section"):
        annotate.split('"""About x."""\nx = 1\n', "bare.py")


def test_the_command_says_what_is_wrong(tmp_path):
    command = [sys.executable, TUTORIALS / "annotate.py", tmp_path / "missing.py"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=False)
    assert done.returncode == 2
    assert "missing.py" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.browser
@pytest.mark.parametrize(("width", "beside"), [(1280, True), (390, False)])
def test_prose_stands_beside_the_code_where_there_is_room(annotate, tmp_path, width, beside):
    sync_api = pytest.importorskip("playwright.sync_api")
    page = tmp_path / "page.html"
    head = '<!doctype html><meta name="viewport" content="width=device-width">'
    page.write_text(head + annotate.annotated(ONE_FILE), encoding="utf-8")
    boxes = """[".prose", ".highlight"].map((name) =>
      document.querySelector("#layer-norm " + name).getBoundingClientRect().top)"""
    with sync_api.sync_playwright() as playwright:
        browser = pages.chromium(playwright)
        tab = browser.new_page(viewport={"width": width, "height": 800})
        tab.goto(page.as_uri())
        prose, code = tab.evaluate(boxes)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()
    assert (abs(prose - code) < 20) == beside
