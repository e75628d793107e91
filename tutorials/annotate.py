"""A Python file as an annotated page: its prose on the left, the code that it is about on the right.

    python tutorials/annotate.py tutorials/one_file.py > page.html

Nothing is written twice. A section of the file starts with a line such as

    # ---- 5. Layer norm: no row may grow too large or too small -----------------

and the comment directly below it is the section's prose: paragraphs, and indented lines for
formulas. The file's docstring introduces the page. All the rest is code and stays as it is.
"""

import argparse
import ast
import html
import re
from dataclasses import dataclass
from pathlib import Path

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

_HEADER = re.compile(r"^# -{4} (?P<title>.+?) -+$", re.MULTILINE)

# Two columns where the page leaves the fragment 56rem, one below the other where it does not.
STYLE = """\
.annotated {
  --annotated-line: color-mix(in srgb, currentColor 22%, transparent);
  container-type: inline-size;
}
.annotated section { border-top: 1px solid var(--annotated-line); padding: .4rem 0 1.4rem; }
.annotated .columns { display: grid; grid-template-columns: minmax(0, 1fr); gap: .2rem 2rem; }
.annotated .columns > * { min-width: 0; }
.annotated h2 { font-size: 1.2rem; line-height: 1.35; margin: .8rem 0 .4rem; padding: 0; border: 0; }
.annotated h2 .idea { display: block; font-size: 1rem; font-weight: 400; font-style: italic; }
.annotated .prose p { margin: .5rem 0 .7rem; max-width: 44rem; }
.annotated pre { margin: .4rem 0; overflow-x: auto; font-size: .78rem; line-height: 1.5; }
.annotated .prose pre {
  border: 0; border-left: 3px solid var(--annotated-line); border-radius: 0;
  padding: .1rem 0 .1rem .8rem; background: none; white-space: pre-wrap;
}
.annotated .line { display: block; padding-left: 2em; text-indent: -2em; }
.annotated .cell { display: inline-block; text-indent: 0; }
.annotated .highlight { align-self: start; }
.annotated .highlight pre { padding: .6rem .8rem; }
@container (min-width: 56rem) {
  .annotated .columns { grid-template-columns: minmax(0, 23rem) minmax(0, 1fr); }
  .annotated .columns .prose { font-size: .95rem; }
}
"""


@dataclass(frozen=True)
class Section:
    """One part of an annotated file.

    `title` and `idea` are what stands before and after the colon of its header ("" where there is
    none), `prose` is the comment below it without its "# ", and `code` the lines after that.
    """

    title: str
    idea: str
    prose: str
    code: str

    @property
    def anchor(self) -> str:
        """The name that a link to the section ends in: "5. Layer norm" has "layer-norm"."""
        words = re.findall(r"\w+", self.title.lower())
        return "-".join(word for word in words if not word.isdigit())


def annotated(path: str | Path, title: str = "") -> str:
    """A Python file -> an HTML fragment: a <style>, then <div class="annotated"> with its sections.

    The code is in Pygments' classes (`highlight`), whose colours the page around it must bring.
    `title`: the first heading, an <h1>; without one the fragment has none. Each section is an
    <h2>. Raises FileNotFoundError, and ValueError where the file has no docstring or no section.
    """
    introduction, imports, sections = split(Path(path).read_text(encoding="utf-8"), Path(path).name)
    parts = [f"<style>\n{STYLE}</style>", '<div class="annotated">']
    if title:
        parts.append(f"<h1>{html.escape(title)}</h1>")
    parts.append(f'<div class="prose">\n{prose_html(introduction)}\n</div>')
    parts.append(_code_html(imports))
    parts += [section_html(section) for section in sections]
    parts.append("</div>")
    return "\n".join(parts)


def split(source: str, name: str = "the file") -> tuple[str, str, list[Section]]:
    """Python source -> its docstring, the lines up to the first header (imports), its sections.

    Raises ValueError, with `name` in its sentence, where there is no docstring or no section.
    """
    introduction = (ast.get_docstring(ast.parse(source), clean=False) or "").strip("\n")
    headers = list(_HEADER.finditer(source))
    if not introduction:
        raise ValueError(f"{name} has no docstring, which an annotated page starts with")
    if not headers:
        raise ValueError(f'{name} has no section: a line "# ---- title: idea ----"')
    ends = [header.start() for header in headers[1:]] + [len(source)]
    bodies = [source[header.end() : end] for header, end in zip(headers, ends)]
    sections = [_section(header["title"], body) for header, body in zip(headers, bodies)]
    return introduction, _after_docstring(source[: headers[0].start()]), sections


def _section(header, body):
    """What stands below a header: comment lines up to the first line of code, then code."""
    title, _, idea = header.partition(": ")
    comment = re.match(r"\n*((?:#.*\n)*)", body)
    lines = [line[1:].removeprefix(" ") for line in comment[1].splitlines()]
    return Section(title, idea, "\n".join(lines), body[comment.end() :].strip("\n"))


def _after_docstring(source):
    """The lines of code below the docstring of a module."""
    docstring = ast.parse(source).body[0]
    return "\n".join(source.splitlines()[docstring.end_lineno :]).strip("\n")


def prose_html(text: str) -> str:
    """Paragraphs -> <p>; paragraphs of indented lines -> <pre>. `code` in backticks -> <code>."""
    blocks = re.split(r"\n\s*\n", text.strip("\n"))
    return "\n".join(_block(block) for block in blocks if block.strip())


def _block(block):
    lines = block.splitlines()
    if all(line.startswith("    ") for line in lines):
        return "<pre>" + "".join(_formula(line.removeprefix("    ")) for line in lines) + "</pre>"
    paragraph = html.escape(" ".join(line.strip() for line in lines), quote=False)
    paragraph = re.sub(r"`([^`]+)`", r"<code>\1</code>", paragraph)
    return f"<p>{paragraph}</p>"


def _formula(line):
    """A line whose cells, which stand four spaces or more apart, wrap as wholes where it is narrow."""
    line = html.escape(line, quote=False)
    cells = re.sub(r"\S+( {1,3}\S+)*", r'<span class="cell">\g<0></span>', line)
    return f'<span class="line">{cells}</span>'


def section_html(section: Section) -> str:
    """A section -> <section>: its heading, its prose, and beside them, if it is wide, its code."""
    idea = f' <span class="idea">{html.escape(section.idea)}</span>' if section.idea else ""
    return (
        f'<section id="{section.anchor}">\n<h2>{html.escape(section.title)}{idea}</h2>\n'
        f'<div class="columns">\n<div class="prose">\n{prose_html(section.prose)}\n</div>\n'
        f"{_code_html(section.code)}</div>\n</section>"
    )


def _code_html(code):
    highlighted = highlight(code, PythonLexer(), HtmlFormatter(cssclass="highlight"))
    reachable = '<pre tabindex="0">'  # what scrolls, a keyboard must reach
    return highlighted.replace("<pre>", reachable, 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", help="a Python file with a docstring and sections")
    try:
        print(annotated(parser.parse_args().file))
    except (OSError, SyntaxError, ValueError) as error:
        parser.error(str(error))
