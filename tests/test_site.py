"""The site: one build of it, fast, then every page's links, formulas, pictures and looks."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

TUTORIALS = Path(__file__).parent.parent / "tutorials"
VOID = {"meta", "link", "img", "br", "hr", "input", "mspace", "path", "circle", "line", "rect", "source", "wbr"}
pytestmark = [pytest.mark.slow]


class Page(HTMLParser):
    """Anchors, links, pictures and text of a page; raises AssertionError where tags do not nest."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.ids, self.links, self.sources, self.images, self.text, self.open = [], [], [], [], [], []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        self.sources += [attributes[name] for name in ("src",) if name in attributes]
        self.sources += [attributes["href"]] if tag == "link" else []
        if tag == "img":
            self.images.append(attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open, f"closed, but never opened: {tag}"
            assert self.open[-1] == tag, f"{tag} closed inside {self.open[-1]}"
            self.open.pop()

    def handle_data(self, data):
        if not {"code", "pre", "script", "style", "math"} & set(self.open):
            self.text.append(data)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    sys.path.insert(0, str(TUTORIALS))
    import build

    folder = tmp_path_factory.mktemp("site")
    build.build(folder, fast=True)
    sys.path.remove(str(TUTORIALS))
    return folder


@pytest.fixture(scope="session")
def pages(site):
    return {path.name: Page(path.read_text(encoding="utf-8")) for path in site.glob("*.html")}


def broken_links(site, pages):
    broken = []
    for name, page in pages.items():
        for link in page.links + page.sources:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = unquote(parts.path) or name
            there = pages[target].ids if target in pages else [] if (site / target).is_file() else None
            if there is None or (parts.fragment and unquote(parts.fragment) not in there and target != "explorer.html"):
                broken.append((name, link))
    return broken


def test_every_link_leads_somewhere(site, pages):
    assert len(pages) > 25
    assert broken_links(site, pages) == []


def test_a_broken_link_would_be_found(site, pages):
    bad = {**pages, "bad.html": Page('<a href="nowhere.html">x</a><a href="math.html#no-such-section">y</a>')}
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
    assert not [link for page in pages.values() for link in page.sources if urlsplit(link).scheme not in ("", "data")]
    assert "url(" not in (site / "style.css").read_text()


def test_formulas_are_mathml_and_pictures_have_words(site, pages):
    for name, page in pages.items():
        text = "".join(page.text)
        assert not re.search(r"\$[^$]*\\|\\(frac|sum|log|mathbb|eta)\b", text), name
        assert all(len(image.get("alt", "")) > 15 for image in page.images), name
        assert len(set(page.ids)) == len(page.ids), name
    assert (site / "math.html").read_text(encoding="utf-8").count("<math") > 50


def test_answers_and_solutions_are_folded(site):
    text = (site / "1_two_cross_entropies.html").read_text(encoding="utf-8")
    folds = re.findall(r"<details><summary>(.*?)</summary>", text)
    assert "Show the answer" in folds
    assert [fold for fold in folds if fold != "Show the answer"][:4] == [f"Solution {k}" for k in range(1, 5)]


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_pages_fit_and_have_two_faces(site, pages, width, scheme):
    import shutil

    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync".split()
        chromium = playwright.chromium.launch(
            executable_path=next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))), args=flags
        )
        page = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        for name in pages:
            page.goto((site / name).as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            brightness = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
            if name != "explorer.html":
                assert (sum(brightness[:3]) > 600) == (scheme == "light"), name
        chromium.close()
    assert errors == []
