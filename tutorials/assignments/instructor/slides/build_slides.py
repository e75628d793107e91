"""Build the slides of the six sittings: python tutorials/assignments/instructor/slides/build_slides.py [--out FOLDER]

One Markdown file a sitting -> one HTML file that needs nothing else: arrow keys turn the slides, n shows the notes, f fills the
screen, and the browser's print command gives a slide a page (with ?notes at the end of the address, the notes beside it).
Formulas become MathML as on the site, figures are those of the lessons' notebooks. It needs `pip install -e ".[site]"`.

The source: slides are divided by lines of `---`, notes follow a line of `???`, a figure is
`![](../../../1_two_cross_entropies.ipynb#2)`, the second one of that notebook (its words come from there, too), and
`@question CALL` is a question of questions.py.
"""

import argparse
import base64
import functools
import html
import json
import re
import struct
import sys
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

HERE = Path(__file__).resolve().parent
TUTORIALS = HERE.parents[2]
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(TUTORIALS / "_site"))
import questions  # noqa: E402
from mathml import formula  # noqa: E402

SOURCES = sorted(HERE.glob("[1-6]_*.md"))
TALL = 1.35  # a figure whose width is less than this many heights stands beside the text
_IMAGE = re.compile(r"!\[(.*?)\]\((\S+?)\)")


class Slide(NamedTuple):
    """The text of one slide, in Markdown: its title, what is shown, and the notes."""

    title: str
    body: str
    notes: str


class Figure(NamedTuple):
    """A picture, an SVG or a PNG, and the words that say what is to be seen."""

    data: bytes
    alt: str

    @property
    def kind(self):
        """The last part of its MIME type."""
        return "png" if self.data.startswith(b"\x89PNG") else "svg+xml"

    @property
    def is_tall(self):
        """Whether it stands beside the text and not below it."""
        if self.kind == "png":
            width, height = struct.unpack(">II", self.data[16:24])
        else:
            width, height = map(float, re.search(rb'viewBox="0 0 ([\d.]+) ([\d.]+)"', self.data).groups())
        return width < TALL * height


def read_slides(text):
    """The source of a sitting -> a list of Slide. Raises ValueError for a slide without a title."""
    found = []
    for part in re.split(r"^---\n", text, flags=re.MULTILINE):
        shown, _, notes = part.partition("\n???\n")
        title, _, body = shown.strip().partition("\n")
        if not title.startswith(("# ", "## ")):
            raise ValueError(f"slide {len(found) + 1} must begin with its title, # or ##, got {title!r:.60}")
        found.append(Slide(title.lstrip("# "), body.strip(), notes.strip()))
    return found


def figure(target, alt=""):
    """The figure that a source names, notebook#number or a PNG beside the lessons -> Figure.

    Raises FileNotFoundError where there is no such file, ValueError where the notebook has no such figure.
    """
    path, _, number = target.partition("#")
    path = HERE / path
    if path.suffix == ".png":
        return Figure(path.read_bytes(), alt)
    outputs = [o.get("data", {}) for c in json.loads(path.read_text("utf-8"))["cells"] for o in c.get("outputs", [])]
    images = [data for data in outputs if "image/svg+xml" in data]
    if not number.isdecimal() or not 1 <= int(number) <= len(images):
        raise ValueError(f"{path.name} has figures 1 to {len(images)}, got {number!r}")
    data = images[int(number) - 1]
    picture, words = ("".join(data[kind]) for kind in ("image/svg+xml", "text/plain"))
    return Figure(picture.encode(), alt or words)


def with_questions(slide):
    """A slide whose `@question CALL` is that question, and in its notes which answer is right and what the others show."""
    found = re.search(r"^@question (.*)$", slide.body, re.MULTILINE)
    if not found:
        return slide
    asked = questions.question(found[1])
    choices = "\n".join(f"- ({letter}) {answer}" for letter, _, answer in asked.choices)
    others = "; ".join(f"{letter}: {name}" for letter, name, _ in asked.choices if letter != asked.right)
    key = f"**Right: {asked.right}.** The others: {others}.\n\n"
    shown = f"{asked.text}\n\n{choices}"
    return slide._replace(body=slide.body.replace(found[0], shown), notes=key + slide.notes)


@functools.cache
def markdown():
    """A function, Markdown -> HTML: formulas as on the site, code in colours."""
    reader = MarkdownIt("commonmark", {"html": True, "highlight": lambda text, name, _: code(text, name)})
    reader.enable(["table", "strikethrough"]).use(dollarmath_plugin, double_inline=True)
    rules = reader.renderer.rules
    rules["math_inline"] = lambda tokens, i, *_: formula(tokens[i].content)
    rules["math_inline_double"] = rules["math_block"] = lambda tokens, i, *_: formula(tokens[i].content, True) + "\n"
    rules["fence"] = lambda tokens, i, *_: code(tokens[i].content, tokens[i].info.strip())
    return reader.render


def code(text, language):
    """Source text -> highlighted HTML."""
    lexer = get_lexer_by_name(language or "text", stripnl=False)
    return highlight(text.rstrip("\n"), lexer, HtmlFormatter(cssclass="highlight"))


def colours_of_code():
    """Style of code, light and dark."""
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("default", "github-dark"))
    dark = f"@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}"
    return f"\n{light}\n{dark}\n.highlight {{ background: var(--panel); }}\n"


def face(slide, number, count, sitting, render, with_notes):
    """One slide -> HTML."""
    asks, slide = "@question" in slide.body, with_questions(slide)
    figures = [figure(target, alt) for alt, target in _IMAGE.findall(slide.body)]
    body = render(_IMAGE.sub("", slide.body).strip())
    for one in figures:
        source = base64.b64encode(one.data).decode()
        body += f'<figure><img src="data:image/{one.kind};base64,{source}" alt="{html.escape(one.alt)}"></figure>\n'
    kinds = ["slide", "first" if number == 1 else "", "question" if asks else ""]
    kinds += ["beside"] if figures and figures[0].is_tall else ["below"] if figures else []
    level = "h1" if number == 1 else "h2"
    title = render(slide.title).strip().removeprefix("<p>").removesuffix("</p>")
    notes = f'<aside class="notes" aria-label="Notes">{render(slide.notes)}</aside>' if with_notes and slide.notes else ""
    return f"""<section class="{" ".join(filter(None, kinds))}" id="{number}" aria-label="Slide {number} of {count}">
<div class="face"><{level}>{title}</{level}>
<div class="body">
{body}</div>
<footer>{html.escape(sitting)}<span>{number} / {count}</span></footer></div>
{notes}
</section>
"""


def page(path, with_notes=True):
    """The HTML of one sitting. with_notes: False for a copy that students get: the notes have the answers."""
    slides = read_slides(path.read_text(encoding="utf-8"))
    sitting = slides[0].title
    faces = [face(slide, k, len(slides), sitting, markdown(), with_notes) for k, slide in enumerate(slides, 1)]
    style = (HERE / "slides.css").read_text(encoding="utf-8") + colours_of_code()
    script = (HERE / "slides.js").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(sitting)} · minimixce</title>
<style>
{style}</style>
</head>
<body>
<main>
{"".join(faces)}</main>
<nav class="turn" aria-label="Slides"><button id="back" aria-label="Slide before">‹</button>
<button id="on" aria-label="Next slide">›</button></nav>
<script>
{script}</script>
</body>
</html>
"""


def build(out, sources=None, with_notes=True):
    """Write the HTML of the sittings into a folder -> list of the files written."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for path in sources or SOURCES:
        written.append(out / f"{path.stem}.html")
        written[-1].write_text(page(path, with_notes), encoding="utf-8")
    return written


def main():
    """Build them all."""
    parser = argparse.ArgumentParser(description="Build the slides of the six sittings.")
    parser.add_argument("--out", type=Path, default=HERE / "built", help="a folder (default: built, beside the sources)")
    parser.add_argument("--without-notes", action="store_true", help="for students: the notes have the answers")
    given = parser.parse_args()
    for path in build(given.out, with_notes=not given.without_notes):
        print(path)


if __name__ == "__main__":
    main()
