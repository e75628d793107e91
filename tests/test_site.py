"""The site: one build of it, fast, then every page's links, formulas, pictures and looks."""

import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from pages import Page, chromium, contrast

TUTORIALS = Path(__file__).parent.parent / "tutorials"
pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def builder():
    sys.path.insert(0, str(TUTORIALS))
    import build

    yield build
    sys.path.remove(str(TUTORIALS))


@pytest.fixture(scope="module")
def site(builder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    builder.build(folder, fast=True)
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path.name: Page(path.read_text(encoding="utf-8")) for path in site.glob("*.html")}


def broken_links(site, pages):
    broken = []
    for name, page in pages.items():
        for link in page.links + page.sources:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = unquote(parts.path) or name
            there = (
                pages[target].ids if target in pages else [] if (site / target).is_file() else None
            )
            if there is None or (
                parts.fragment
                and unquote(parts.fragment) not in there
                and target != "explorer.html"
            ):
                broken.append((name, link))
    return broken


def test_every_link_leads_somewhere(site, pages):
    assert len(pages) > 25
    assert broken_links(site, pages) == []


def test_a_broken_link_would_be_found(site, pages):
    bad = {
        **pages,
        "bad.html": Page('<a href="nowhere.html">x</a><a href="math.html#no-such-section">y</a>'),
    }
    assert len(broken_links(site, bad)) == 2


def test_every_page_is_reached_from_the_first(pages):
    seen, waiting = set(), ["index.html"]
    while waiting:
        name = waiting.pop()
        if name in pages and name not in seen:
            seen.add(name)
            waiting += [urlsplit(link).path for link in pages[name].links]
    assert seen == set(pages)


def test_nothing_comes_from_a_network(site, pages):
    links = [urlsplit(link) for page in pages.values() for link in page.sources]
    assert not [link for link in links if link.scheme not in ("", "data") or link.netloc]
    assert not re.search(r"url\(|@import", (site / "style.css").read_text(encoding="utf-8"))


def test_formulas_are_mathml_and_pictures_have_words(site, pages):
    for name, page in pages.items():
        # what is left of LaTeX
        assert not re.search(r"[^\n]*[$\\][^\n]*", "".join(page.text)), name
        assert all(len(image.get("alt", "")) > 15 for image in page.images), name
        assert len(set(page.ids)) == len(page.ids), name
    assert (site / "math.html").read_text(encoding="utf-8").count("<math") > 50


def test_a_screen_reader_finds_its_way(pages):
    for name, page in pages.items():
        assert page.headings[0] == 1 == page.headings.count(1), name
        assert all(b <= a + 1 for a, b in zip(page.headings, page.headings[1:])), name
        assert [tag for tag, _ in page.landmarks].count("main") == 1, name
        named = [label for tag, label in page.landmarks if tag == "nav"]
        assert None not in named, name
        assert len(named) == len(set(named)), name


def test_answers_and_solutions_are_folded(site, builder):
    for lesson in builder.LESSONS:
        source, text = (
            (folder / f"{lesson}.{kind}").read_text(encoding="utf-8")
            for folder, kind in ((TUTORIALS, "py"), (site, "html"))
        )
        folds = re.findall(r"<details><summary>(.*?)</summary>", text)
        assert folds.count("Show the answer") == source.count('tags=["reveal"]') > 0
        solutions = [fold for fold in folds if fold != "Show the answer"]
        assert solutions == [f"Solution {k}" for k in range(1, 1 + source.count("**Solution "))], (
            lesson
        )


def test_an_older_site_gives_way_and_nothing_else_does(builder, tmp_path):
    site, other, file = tmp_path / "site", tmp_path / "other", tmp_path / "file"
    builder.make_room(site)
    (site / "figures").mkdir()
    for name in ("gone.html", "figures/gone.png", "kept.txt"):
        (site / name).touch()
    builder.make_room(site)
    assert sorted(path.name for path in site.iterdir()) == ["kept.txt", "style.css"]
    other.mkdir()
    (other / "style.css").write_text("body {}", encoding="utf-8")
    file.touch()
    for taken in (other, file):
        with pytest.raises(FileExistsError, match="choose another --out"):
            builder.make_room(taken)


@pytest.mark.parametrize("dark", [False, True])
def test_colours_stand_out_as_wcag_asks(builder, dark):
    names = dict(
        re.findall(
            r"--(\w+): (#[0-9a-f]{6})", re.findall(r":root \{(.*?)\}", builder.STYLE, re.S)[dark]
        )
    )
    for ground in ("page", "panel"):
        assert min(contrast(names[name], names[ground]) for name in ("text", "soft", "link")) >= 4.5
    rules = re.split("@media", builder.pygments_css())[dark]
    colors = re.findall(
        r"\.highlight \.(?!w\b)\w+ \{ (?:[\w-]+: [^;}]+; )*color: (#[0-9A-F]{3,6})\b", rules, re.I
    )
    assert len(colors) > 30
    assert min(contrast(color, names["panel"]) for color in colors) >= 4.5


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_pages_fit_and_have_two_faces(site, pages, width, scheme):
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = chromium(playwright)
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        for name in pages:
            page.goto((site / name).as_uri())
            page.evaluate(
                "document.querySelectorAll('details').forEach((fold) => { fold.open = true })"
            )
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            brightness = page.evaluate(
                "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
            )
            assert (sum(brightness[:3]) > 600) == (scheme == "light"), name
        browser.close()
    assert errors == []
