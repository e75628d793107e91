"""What the tests of the explorer share: its module, its page, and the page in Chromium."""

import importlib
import sys
from pathlib import Path

import pages
import pytest

TUTORIALS = Path(__file__).parent.parent / "tutorials"


@pytest.fixture(scope="module")
def explorer():
    sys.path.insert(0, str(TUTORIALS))
    yield importlib.import_module("explorer")
    sys.path.remove(str(TUTORIALS))


@pytest.fixture(scope="module")
def page(explorer, tmp_path_factory):
    return explorer.build(tmp_path_factory.mktemp("page") / "made for it")


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = pages.chromium(playwright)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, page):
    """visit(fragment, …) -> the page opened there; the test fails if it said anything on the
    console.
    """
    opened, said = [], []

    def visit(fragment="", width=1200, scheme="light", motion="reduce"):
        tab = chromium.new_page(
            viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion=motion
        )
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on(
            "request",
            lambda request: request.url.startswith(("file:", "data:")) or said.append(request.url),
        )
        tab.goto(page.as_uri() + fragment)
        opened.append(tab)
        return tab

    yield visit
    for tab in opened:
        tab.close()
    assert said == []
