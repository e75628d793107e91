"""The site: one build of it, then every page's links, formulas, pictures, headings and looks."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from pages import Page, chromium, contrast

TUTORIALS = Path(__file__).parent.parent / "tutorials"
LESSON = "3_one_softmax_by_hand"
pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def builder():
    sys.path.insert(0, str(TUTORIALS))
    import build

    yield build
    sys.path.remove(str(TUTORIALS))


@pytest.fixture(scope="module")
def site(builder, tmp_path_factory):
    """MINIMIXCE_SITE, if set, is a folder that build.py has just made."""
    if made := os.environ.get("MINIMIXCE_SITE"):
        return Path(made)
    folder = tmp_path_factory.mktemp("site")
    builder.build(folder, execute=False)
    return folder


@pytest.fixture(scope="module")
def pages(site):
    """Every page, by its path; the explorer has tests of its own."""
    files = {path.relative_to(site).as_posix(): path for path in site.rglob("*.html")}
    return {
        name: Page(path.read_text(encoding="utf-8"))
        for name, path in files.items()
        if name != "explorer.html" and not name.startswith("_static/")
    }


def is_written(name):
    """Whether a page is neither a source nor made by Sphinx alone."""
    return not name.startswith(("_modules/", "genindex", "search", "py-modindex"))


# ---- links ---------------------------------------------------------------------------------------


def broken_links(site, pages):
    """[(page, link), ...] of the links into the site that lead nowhere."""
    broken = []
    for name, page in pages.items():
        for link in page.links + page.sources:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            file = (site / name).parent / unquote(parts.path) if parts.path else site / name
            file = file.resolve()
            target = (
                file.relative_to(site.resolve()).as_posix()
                if file.is_relative_to(site.resolve())
                else None
            )
            ids = pages[target].ids if target in pages else []
            is_there = target is not None and file.is_file()
            has_anchor = not parts.fragment or target not in pages
            if not is_there or not (has_anchor or unquote(parts.fragment) in ids):
                broken.append((name, link))
    return broken


def test_every_link_leads_somewhere(site, pages):
    assert len([name for name in pages if is_written(name)]) > 80
    assert broken_links(site, pages) == []


def test_a_broken_link_would_be_found(site, pages):
    bad = Page('<a href="nowhere.html">x</a><a href="math.html#no-such-section">y</a>')
    assert len(broken_links(site, {**pages, "bad.html": bad})) == 2


def test_every_page_is_reached_from_the_first(pages):
    seen, waiting = set(), ["index.html"]
    while waiting:
        name = waiting.pop()
        if name in pages and name not in seen:
            seen.add(name)
            links = (urlsplit(link).path for link in pages[name].links)
            waiting += [os.path.normpath(os.path.join(os.path.dirname(name), x)) for x in links]
    written = {name for name in pages if is_written(name)}
    assert written <= seen


def test_both_trails_downloads_and_the_way_to_run_a_lesson(site, builder):
    trail = "One evening: {}. All lessons:"
    for name in builder.LESSONS:
        text = re.sub("<[^>]+>", "", (site / f"{name}.html").read_text(encoding="utf-8"))
        steps = trail.format("1 → 3 → 6")
        assert (steps in text) == (name[0] in "136"), name
        assert "1 → 2 → 3 → 4 → 5 → 6 → 7 → 8" in text
        assert f"python tutorials/{name}.py" in text
        page = Page((site / f"{name}.html").read_text(encoding="utf-8"))
        copies = {Path(link).name: site / link for link in page.links if "/" in link}
        for kind in ("py", "ipynb"):
            copy = copies[f"{name}.{kind}"]
            assert copy.read_bytes() == (TUTORIALS / f"{name}.{kind}").read_bytes()


# ---- what pages hold -----------------------------------------------------------------------------


def test_nothing_comes_from_a_network(site, pages):
    links = [urlsplit(link) for page in pages.values() for link in page.sources]
    assert not [link for link in links if link.scheme not in ("", "data") or link.netloc]
    for style in site.rglob("*.css"):
        found = re.findall(r"url\(['\"]?([^)'\"]*)|@import", style.read_text(encoding="utf-8"))
        assert not [link for link in found if re.match("(https?:)?//", link)], style


def test_formulas_are_mathml_with_words_and_pictures_have_some(site, pages):
    for name, page in pages.items():
        # what is left of LaTeX
        if is_written(name) and not name.startswith(("api/", "cli.html")):  # texts of programs
            assert not re.search(r"[^\n]*[$\\][^\n]*", "".join(page.text)), name
        assert all(len(image.get("alt", "")) > 15 for image in page.images), name
        assert len(set(page.ids)) == len(page.ids), name
        assert all(words for words in page.formulas), name
    assert len(pages["math.html"].formulas) > 300
    assert "MathJax" not in (site / "math.html").read_text(encoding="utf-8")


def test_a_screen_reader_finds_its_way(pages):
    for name, page in pages.items():
        assert page.language == "en", name
        assert page.links[0] == "#main-content", name
        assert page.headings[0] == 1 == page.headings.count(1), name
        assert [tag for tag, _ in page.landmarks].count("main") == 1, name
        assert None not in [label for tag, label in page.landmarks if tag == "nav"], name
        if is_written(name):
            assert all(b <= a + 1 for a, b in zip(page.headings, page.headings[1:])), name
            assert page.tables == page.table_heads, name


def test_answers_and_solutions_are_folded(site, builder):
    for lesson in builder.LESSONS:
        source = (TUTORIALS / f"{lesson}.py").read_text(encoding="utf-8")
        text = (site / f"{lesson}.html").read_text(encoding="utf-8")
        folds = re.findall(r"<details>\s*<summary>(.*?)</summary>", text)
        count = source.count("**Solution ")
        assert folds[-count:] == [f"Solution {k}" for k in range(1, 1 + count)], lesson
        answers = source.count("# <details><summary>")
        embedded = text.count('<iframe class="explorer"')
        assert embedded == (lesson[0] in "146"), lesson
        assert len(folds) == count + answers + embedded, lesson
        hidden = re.findall(r'<details class="(?:[^"]* )?hide above-input"', text)
        assert len(hidden) == source.count('tags=["fold"]'), lesson


def test_a_lesson_weighs_at_most_a_megabyte(site, pages, builder):
    for name in builder.LESSONS:
        own = [link for link in pages[f"{name}.html"].sources if link.startswith("_images/")]
        files = [site / f"{name}.html", *(site / link for link in dict.fromkeys(own))]
        assert sum(file.stat().st_size for file in files) <= 1_000_000, name


def test_the_reference_shows_types_as_written_and_every_option(site):
    layers = (site / "api/minimixce.layers.html").read_text(encoding="utf-8")
    shown = re.sub("<[^>]+>", "", layers)
    assert 'x: Float[Array, "*rows I"]' in shown.replace("&quot;", '"')
    objectives = (site / "api/minimixce.objectives.html").read_text(encoding="utf-8")
    assert "\n| mixce(η)           | η + (1−η) q       |" in objectives  # line structure and all
    assert 'href="#minimixce.layers.LinearCache"' in layers
    from minimixce.cli.program import COMMANDS

    page = (site / "cli.html").read_text(encoding="utf-8")
    for command in COMMANDS:
        help = subprocess.run(
            [sys.executable, "-m", "minimixce", command, "--help"], capture_output=True, text=True
        ).stdout
        for option in set(re.findall(r"^  (--[\w-]+)", help, re.M)) - {"--help"}:
            assert f'id="cmdoption-minimixce-{command}{option[1:]}"' in page, (command, option)


# ---- building ------------------------------------------------------------------------------------


def test_an_older_site_gives_way_and_nothing_else_does(builder, tmp_path):
    site, other, file = tmp_path / "site", tmp_path / "other", tmp_path / "file"
    builder.make_room(site)
    (site / "_images").mkdir()
    for name in (builder.OURS, "gone.html", "_images/gone.png", "kept.txt"):
        (site / name).touch()
    builder.make_room(site)
    assert sorted(path.name for path in site.iterdir()) == [builder.OURS, "kept.txt"]
    other.mkdir()
    (other / "index.html").touch()
    file.touch()
    for taken in (other, file):
        with pytest.raises(FileExistsError, match="choose another --out"):
            builder.make_room(taken)


@pytest.mark.parametrize(
    "address",
    ["foo", "https://github.com/a/b/", "https://github.com/a/b.git", "git@github.com:a/b"],
)
def test_a_repository_that_is_no_address_is_refused_before_anything_is_executed(builder, address):
    builder.check_surroundings("https://github.com/a/b")
    with pytest.raises(ValueError, match="MINIMIXCE_REPOSITORY must be an address such as"):
        builder.check_surroundings(address)


def test_a_fast_execution_leaves_the_notebooks_alone_and_shows_those_it_did_not_make(
    builder, tmp_path
):
    name, other, *_ = builder.LESSONS
    before = (TUTORIALS / f"{name}.ipynb").read_bytes()
    builder.write_notebooks(tmp_path, [name], fast=True, jobs=1)
    made = json.loads((tmp_path / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert all(cell.get("execution_count") for cell in made["cells"] if cell["cell_type"] == "code")
    assert (TUTORIALS / f"{name}.ipynb").read_bytes() == before
    few = ["-D", f"include_patterns={name}.ipynb,{other}.ipynb", "-D", f"root_doc={name}"]
    command = [sys.executable, "-m", "sphinx", "-Q", "-D", f"minimixce_notebooks={tmp_path}", *few]
    subprocess.run([*command, "-d", tmp_path / "doctrees", TUTORIALS, tmp_path / "out"], check=True)
    assert (tmp_path / "out" / f"{other}.html").is_file()


@pytest.mark.parametrize("repository", ["", "https://github.com/someone/minimixce"])
def test_buttons_to_edit_and_launch_stand_where_a_repository_is_set(repository, tmp_path):
    name = "1_two_cross_entropies"
    few = f"include_patterns=index.md,{name}.ipynb"
    command = [sys.executable, "-m", "sphinx", "-Q", "-D", few, "-d", tmp_path / "doctrees"]
    environment = os.environ | {"MINIMIXCE_REPOSITORY": repository}
    subprocess.run([*command, TUTORIALS, tmp_path / "out"], check=True, env=environment)
    page = Page((tmp_path / "out" / f"{name}.html").read_text(encoding="utf-8"))
    away = [link for link in page.links if "github" in link or "binder" in link or "colab" in link]
    if not repository:
        assert away == []
        return
    for wanted in (
        f"{repository}/edit/main/tutorials/{name}.ipynb",
        "https://mybinder.org/v2/gh/someone/minimixce/main",
        f"https://colab.research.google.com/github/someone/minimixce/blob/main/tutorials/{name}",
    ):
        assert [link for link in away if link.startswith(wanted)], wanted


# ---- in a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        opened = chromium(playwright)
        yield opened
        opened.close()


# the ground of a page, and every distinct pair of text colour and ground below it
COLOURS = """() => {
  const parse = (c) => (c.match(/[\\d.]+/g) || []).map(Number);
  const two = (x) => (x | 0).toString(16).padStart(2, '0');
  const hex = (c) => '#' + parse(c).slice(0, 3).map(two).join('');
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor, p = parse(c);
      if (p.length === 3 || p[3] > 0.99) return hex(c);
    }
    return '#ffffff';
  };
  const found = {};
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !e.checkVisibility({checkVisibilityCSS: true})) continue;
    const style = getComputedStyle(e);
    if (e.closest('script, style, .headerlink, .skip-link') || style.opacity < 1) continue;
    const pair = hex(style.color) + ' ' + ground(e);
    found[pair] = e.className + ': ' + walker.currentNode.data.trim().slice(0, 40);
  }
  return found;
}"""


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_pages_fit_have_two_faces_and_ask_no_network(site, pages, browser, width, scheme):
    view = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    page = browser.new_page(**view, reduced_motion="reduce")  # no colour on its way to another
    errors, asked, faint = [], [], {}
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    written = sorted(filter(is_written, pages))
    modules = [name for name in written if name.startswith("api/")]
    for name in [name for name in written if name not in modules] + modules[::4]:
        page.goto((site / name).as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        ground = page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        )
        assert (sum(ground[:3]) > 600) == (scheme == "light"), name
        for pair, where in page.evaluate(COLOURS).items():
            if contrast(*pair.split()) < 4.5:
                faint[pair] = (name, where)
    page.close()
    assert errors == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert faint == {}


@pytest.mark.browser
def test_search_finds_from_a_folder(site, browser):
    page = browser.new_page()
    page.goto((site / "search.html").as_uri() + "?q=Jensen")
    page.wait_for_selector("#search-results li a[href*=glossary]")
    page.close()


@pytest.mark.browser
def test_code_can_be_copied_and_headings_linked_to(site, browser):
    page = browser.new_page()
    page.goto((site / f"{LESSON}.html").as_uri())
    blocks = page.locator("div.cell_input div.highlight").count()
    assert blocks > 10
    assert page.locator("div.cell_input button.copybtn").count() == blocks
    assert page.locator("section h2 a.headerlink").count() > 5
    page.close()
