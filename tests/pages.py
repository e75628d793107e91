"""What the tests of pages share: a reader of HTML, the contrast of colours, and a browser."""

import re
import shutil
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "hr", "input", "source", "wbr"}  # tags that nothing closes


class Page(HTMLParser):
    """Anchors, links, pictures, headings and text of a page; raises AssertionError where tags do
    not nest.
    """

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.ids, self.links, self.sources, self.images = [], [], [], []
        self.text, self.open, self.headings, self.landmarks = [], [], [], []
        self.formulas = []  # what is said in their place
        self.tables, self.table_heads = 0, 0  # how many, and how many of them have headers
        self.language = None
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
        self.headings += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        name = attributes.get("aria-label") or attributes.get("aria-labelledby")
        self.landmarks += [(tag, name)] if tag in ("main", "nav") else []
        self.formulas += [attributes.get("alttext")] if tag == "math" else []
        self.tables += tag == "table"
        self.table_heads += tag == "thead"
        self.language = attributes.get("lang") if tag == "html" else self.language
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


def luminance(color):
    color = color if len(color) == 7 else "#" + "".join(2 * digit for digit in color[1:])
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    """Of two colours, #rrggbb or #rgb, as WCAG 2 defines it: 1 to 21."""
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def chromium(playwright):
    """A headless Chromium, which must be there where playwright is."""
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    assert any(found), "playwright is here, but no Chromium is"
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
        " --disable-background-networking --disable-component-update --disable-sync"
    )
    return playwright.chromium.launch(executable_path=next(filter(None, found)), args=flags.split())
