"""Execute every lesson and build the notebooks and the static site.

    pip install -e ".[site]" && python tutorials/build.py

writes the lessons' notebooks, with outputs, beside their sources, and the site into site/ (open site/index.html): lessons,
explorer, results, which-objective page, adding your own, glossary, mathematics, map, assignments and the API reference.
Formulas become MathML and nothing is fetched from a network, so the site works offline and from a folder. --fast does a tenth
of the work, for tests, and leaves notebooks alone.
"""

import argparse
import base64
import html
import os
import re
import shutil
import sys
from pathlib import Path, PurePosixPath

try:
    import ipykernel  # noqa: F401, in which the lessons run
    import jupytext
    import nbformat
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from latex2mathml.converter import convert
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin
    from nbclient import NotebookClient
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound
except ImportError as error:
    sys.exit(f'the site needs {error.name}: pip install -e ".[site]"')

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))  # for the builders beside this file
import api_reference  # noqa: E402

LESSONS = sorted(path.stem for path in HERE.glob("[1-9]_*.py"))
PAGES = (  # file in tutorials/, title in the menu
    ("installing.md", "Installing"),
    ("using.md", "Train, sample, measure"),
    ("gradient_checking.md", "Checking gradients"),
    ("worlds.md", "Known worlds"),
    ("comparing.md", "Compare objectives"),
    ("synthetic.md", "The paper's experiments"),
    ("synthetic_results.md", "Results"),
    ("which_objective.md", "Which objective"),
    ("add_your_own.md", "Add your own"),
    ("glossary.md", "Glossary"),
    ("math.md", "The mathematics"),
    ("map.md", "Map: paper to code"),
    ("code.md", "Reading the code"),
    ("speed.md", "Speed"),
    ("reproducibility.md", "What repeats"),
    ("promises.md", "What is promised"),
    ("assignments/README.md", "Assignments"),
    ("assignments/a0/README.md", "A0 Warm-up"),
    ("assignments/a1/README.md", "A1 Objectives"),
    ("assignments/a2/README.md", "A2 Backprop by hand"),
    ("assignments/a3/README.md", "A3 The reverse direction"),
    ("assignments/a4/README.md", "A4 An experiment"),
    ("assignments/concept_test/form_a.md", "Concept test, form A"),
    ("assignments/concept_test/form_b.md", "Concept test, form B"),
)
FOLDED = {"solution", "reveal"}  # tags of cells that a page shows folded
STYLE = (HERE / "site.css").read_text(encoding="utf-8")


# ---- lessons to notebooks ---------------------------------------------------------------------------------------------


def to_notebook(path):
    """A percent-format file -> a notebook without outputs, the same every time."""
    notebook = jupytext.read(path)
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        tags = cell.metadata.get("tags", [])
        cell.metadata = {"tags": tags} if tags else {}
        if cell.cell_type == "code" and FOLDED & set(tags):  # JupyterLab folds these as the page does
            cell.metadata["jupyter"] = {"source_hidden": True} | ({"outputs_hidden": True} if "reveal" in tags else {})
    return notebook


def execute(notebook, fast):
    """Run a notebook's cells in tutorials/, in place. Raises nbclient's CellExecutionError with the failing cell."""
    here = KernelSpecManager(kernel_dirs=[])  # no kernel that is installed somewhere: the Python that runs this file
    client = NotebookClient(
        notebook,
        km=AsyncKernelManager(kernel_name="python3", kernel_spec_manager=here),
        timeout=600,
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": HERE}},
    )
    client.execute(env=os.environ | {"MINIMIXCE_FAST": "1" if fast else ""})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]  # progress bars
    notebook.metadata.pop("language_info", None)
    nbformat.validate(notebook)
    return notebook


# ---- Markdown to HTML -------------------------------------------------------------------------------------------------


def formula(latex, display=False):
    """LaTeX -> MathML. Raises ValueError where a command would be left over, so that no page shows one."""
    mathml = convert(latex.strip(), display="block" if display else "inline")
    if "\\" in mathml or "<mi>&</mi>" in mathml:
        raise ValueError(f"a formula cannot be shown as MathML: {latex}")
    thin = '<mspace width="0.17em"></mspace>'  # which browsers leave out around the names of functions
    mathml = re.sub(r"(<mi>(?:log|exp|ln)</mi>)(?=<m(?:i|n|sub|sup|frac|row|over|subsup)\b)", rf"\1{thin}", mathml)
    return re.sub(r"(</mi>|</msub>|</msup>|&#x00029;</mo>)(?=<mi>(?:log|exp|ln)</mi>)", rf"\1{thin}", mathml)


def code(text, language="python", **options):
    """Source text -> highlighted HTML; options of Pygments' HtmlFormatter."""
    try:
        lexer = get_lexer_by_name(language or "text", stripnl=False)
    except ClassNotFound:
        lexer = get_lexer_by_name("text")
    return highlight(text.rstrip("\n"), lexer, HtmlFormatter(cssclass="highlight", **options))


def slug(heading):
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def page_name(file):
    """A file of PAGES -> the name of its page: math.md -> math; assignments/a1/README.md -> a1, as its folder."""
    path = PurePosixPath(file)
    return path.parent.name if path.name == "README.md" else path.stem


def entry(page, text):
    """The anchor of a name in the API reference, where the text of a link is one: `minimixce.exact.measure` -> #measure."""
    module = page.removesuffix(".html") + "."
    named = module.startswith("minimixce.") and text is not None and text.type == "code_inline"
    return "#" + text.content.removeprefix(module) if named and text.content.startswith(module) else ""


def wide_table(found):
    """A table in a box of its own, that scrolls where it is too wide; its numbers do not break."""
    whole = re.sub(r"(?<=[> (])[\d.]+e-\d+", r'<span class="number">\g<0></span>', found[0])
    return f'<div class="wide">{whole}</div>'


class Site:
    """The folder a site is written to, and the files its pages turn out to link to, which are copied along."""

    def __init__(self, out):
        self.out, self.headings = Path(out), {}
        self.markdown = MarkdownIt("commonmark", {"html": True, "highlight": lambda text, lang, _: code(text, lang)})
        self.markdown.enable(["table", "strikethrough"]).use(dollarmath_plugin, double_inline=True)
        rules = self.markdown.renderer.rules
        rules["math_inline"] = lambda tokens, i, *_: formula(tokens[i].content)
        rules["math_inline_double"] = rules["math_block"] = lambda tokens, i, *_: formula(tokens[i].content, True) + "\n"
        rules["code_inline"] = lambda tokens, i, *_: f"<code>{api_reference.breakable(tokens[i].content)}</code>"
        rules["fence"] = lambda tokens, i, *_: code(tokens[i].content, tokens[i].info.strip())

    def render(self, text, page, base=HERE):
        """Markdown -> HTML with anchors, MathML, and links that hold on the site. base: the folder that links start from."""
        tokens = self.markdown.parse(text)
        for i, token in enumerate(tokens):
            if token.type == "heading_open":
                title = "".join(t.content for t in tokens[i + 1].children if t.type in ("text", "code_inline", "math_inline"))
                token.attrSet("id", slug(title))
                if token.tag == "h2":
                    self.headings.setdefault(page, []).append((slug(title), title))
            children = token.children or ()
            for child, following in zip(children, [*children[1:], None]):
                for name in ("href", "src"):
                    if name in child.attrs:
                        target = self.link(child.attrs[name], base)
                        child.attrSet(name, target + entry(target, following) if name == "href" else target)
        body = self.markdown.renderer.render(tokens, self.markdown.options, {})
        body = re.sub(r'<img src="([^"]+)"[^>]*>', r'<a href="\1">\g<0></a>', body)  # at its full size
        return re.sub(r"<table>.*?</table>", wide_table, body, flags=re.S)

    def link(self, target, base):
        """Where a link of the repository leads on the site; any file that is no page is copied under files/."""
        if re.match(r"[a-z]+:|#", target):
            return target
        path, _, anchor = target.partition("#")
        anchor = f"#{anchor}" if anchor else ""
        file = (base / path).resolve()
        where = PurePosixPath(file.relative_to(ROOT).as_posix())
        if where.parent.name == "tutorials" and where.suffix == ".ipynb" and where.stem in LESSONS:
            return f"{where.stem}.html{anchor}"
        if str(where) in ("tutorials/explorer.py", *(f"tutorials/{name}" for name, _ in PAGES)):
            return f"{page_name(where)}.html{anchor}"
        if str(where) == "README.md":
            return f"readme.html{anchor}"
        if str(where) == "tutorials/one_file.py":
            return "one_file.html"
        if page := api_reference.page_of_file(where):
            return page
        if not file.is_file():
            raise FileNotFoundError(f"a page links to {target}, which is not there")
        copy = self.out / "files" / where
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        return f"files/{where}"


def lesson_body(notebook, name, site):
    """An executed notebook -> the body of its page; cells tagged solution or reveal are folded."""
    parts, folded = [], None  # folded: the summary and parts of the fold that is being filled
    for number, cell in enumerate(notebook.cells):
        tags = FOLDED & set(cell.metadata.get("tags", []))
        found = re.match(r"\*\*(.+?)\.?\*\*", cell.source) if cell.cell_type == "markdown" else None
        if folded and (not tags or "reveal" in tags or found):
            parts.append(fold(*folded))
            folded = None
        if tags and folded is None:
            folded = (found.group(1) if found else "Show the answer" if "reveal" in tags else "Solution", [])
        body = (
            site.render(cell.source, name) if cell.cell_type == "markdown" else cell_body(cell, f"{name}_{number}", name, site)
        )
        (folded[1] if folded else parts).append(body)
    if folded:
        parts.append(fold(*folded))
    return "\n".join(parts)


def fold(summary, parts):
    return f"<details><summary>{html.escape(summary)}</summary>\n" + "\n".join(parts) + "\n</details>"


def cell_body(cell, figure, page, site):
    """A code cell and its outputs -> HTML."""
    parts = [f'<div class="input">{code(cell.source)}</div>']
    for k, output in enumerate(cell.outputs):
        data = output.get("data", {})
        if "image/png" in data:
            path = site.out / "figures" / f"{figure}_{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(base64.b64decode(data["image/png"]))
            parts.append(f'<img class="figure" src="figures/{path.name}" alt="{html.escape(data["text/plain"])}">')
        elif "text/markdown" in data:
            parts.append(f'<div class="said">{site.render(data["text/markdown"], page)}</div>')
        else:
            text = output.get("text") or data.get("text/plain", "")
            parts.append(f'<pre class="output">{html.escape(text.rstrip())}</pre>')
    return "\n".join(parts)


# ---- pages ------------------------------------------------------------------------------------------------------------

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · minimixce</title>
<link rel="stylesheet" href="style.css">
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<details class="menu" open>
<summary>minimixce</summary>
<nav aria-label="Pages">
{menu}
</nav>
</details>
<main id="content"{wide}>
{body}
{around}
</main>
<script>
if (matchMedia("(max-width: 60rem)").matches) document.querySelector(".menu").open = false;
for (const box of document.querySelectorAll("pre, .wide, math[display=block]"))
  if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;  // what scrolls, a keyboard must reach
</script>
</body>
</html>
"""


def menu(current, titles, headings):
    """The list of all pages; below the current one its sections."""
    lines = ["<ul>"]
    for name, title in titles.items():
        here = ' aria-current="page"' if name == current else ""
        lines.append(f'<li><a href="{name}.html"{here}>{html.escape(title)}</a>')
        if name == current and len(headings) > 1:
            lines += ["<ul>", *(f'<li><a href="#{anchor}">{html.escape(text)}</a></li>' for anchor, text in headings), "</ul>"]
        lines.append("</li>")
    return "\n".join([*lines, "</ul>"])


def build(out, fast=False, lessons=LESSONS):
    """The whole site into the folder `out`, of `lessons` alone where these are fewer -> the names of its pages."""
    import explorer

    site = Site(out)
    make_room(site.out)
    bodies, titles = {}, {"index": "Start here"}
    for name in lessons:
        print(name, flush=True)
        notebook = execute(to_notebook(HERE / f"{name}.py"), fast)
        if not fast:
            nbformat.write(notebook, HERE / f"{name}.ipynb")
        bodies[name], titles[name] = (
            lesson_body(notebook, name, site),
            notebook.cells[0].source.split("\n")[0].removeprefix("# "),
        )
    explorer.build(site.out, home="index.html")
    titles["explorer"] = "Explorer"
    for file, title in PAGES:
        name, path = page_name(file), HERE / file
        bodies[name], titles[name] = site.render(path.read_text(encoding="utf-8"), name, path.parent), title
    other_bodies, other_titles = other_pages(site)
    write_pages(site, bodies | other_bodies, titles | other_titles)
    return ["explorer", *bodies, *other_bodies]


def make_room(out):
    """The folder `out` with the style sheet alone: what an older build left is gone. Raises OSError, FileExistsError where
    `out` is or holds something else."""
    style = out / "style.css"
    ours = style.is_file() and style.read_bytes().startswith(STYLE.partition("\n")[0].encode())
    if out.exists() and not ours and (out.is_file() or any(out.iterdir())):
        raise FileExistsError(f"{out} is or holds something else than a site of this command; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    for folder in ("figures", "files"):
        shutil.rmtree(out / folder, ignore_errors=True)
    for page in out.glob("*.html"):
        page.unlink()
    style.write_text(STYLE + pygments_css(), encoding="utf-8")


def other_pages(site):
    """The first page, the one-file version, README and the API reference -> bodies and titles by name of page."""
    one_file = code((HERE / "one_file.py").read_text(encoding="utf-8"))
    reference = {Path(file).stem: page for file, page in api_reference.pages().items()}
    bodies = {name: with_source_links(body) for name, (_, body) in reference.items()}
    titles = {"one_file": "One file", "readme": "README", "api": "API reference"}
    titles |= {name: title for name, (title, _) in reference.items() if name != "api"}
    for module in api_reference.MODULES:
        file = api_reference.file_of(module)
        numbered = code((ROOT / file).read_text(encoding="utf-8"), lineanchors="line")
        bodies[f"source.{module}"] = f"<h1>{api_reference.breakable(file)}</h1>\n{numbered}"
        titles[f"source.{module}"] = file
    bodies |= {
        "index": site.render((HERE / "index.md").read_text(encoding="utf-8"), "index"),
        "one_file": f"<h1>The whole idea in one file</h1>\n{one_file}",
        "readme": site.render((ROOT / "README.md").read_text(encoding="utf-8"), "readme", ROOT),
    }
    return bodies, titles


def with_source_links(body):
    """The body of a page of the API reference, whose "minimixce/gpt.py, line 7" lead to that line."""
    for module in api_reference.MODULES:
        where = re.escape(f"{api_reference.file_of(module)}, line ")
        shown = f"{api_reference.breakable(api_reference.file_of(module))}, line "
        body = re.sub(rf"{where}(\d+)", rf'<a href="source.{module}.html#line-\1">{shown}\1</a>', body)
    return body


def write_pages(site, bodies, titles):
    """Each body in its frame. The menu has every title but those of single modules, which stand under the API reference."""
    in_menu = {name: title for name, title in titles.items() if not name.startswith(("minimixce.", "source."))}
    for name, body in bodies.items():
        headings = site.headings.get(name, []) if name not in ("index", "readme") else []
        page = _PAGE.format(
            title=html.escape(titles[name]),
            menu=menu(name if name in in_menu else "api", in_menu, headings),
            wide=' class="source"' if name.startswith(("one_file", "source.")) else "",
            body=body,
            around=neighbours(name, list(titles), titles) if name in LESSONS else "",
        )
        (site.out / f"{name}.html").write_text(page, encoding="utf-8")


def neighbours(name, order, titles):
    """The end of a lesson's page: how to run it, and links to the lessons before and after."""
    i = order.index(name)
    links = [(order[i - 1], "← ", "prev")] if i and order[i - 1] in LESSONS else []
    links += [(order[i + 1], "", "next")] if order[i + 1] in LESSONS else []
    run = f'<p class="run">To run and change it: <code>python tutorials/{name}.py</code>, or open it as a notebook.</p>'
    around = (
        f'<a rel="{rel}" href="{other}.html">{arrow}{html.escape(titles[other])}{" →" if rel == "next" else ""}</a>'
        for other, arrow, rel in links
    )
    return f'{run}\n<nav class="around" aria-label="Lessons">{" ".join(around)}</nav>'


def pygments_css():
    """Colours of code, light and dark."""
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("default", "github-dark"))
    dark = f"@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}"
    return f"\n{light}\n{dark}\n.highlight {{ background: var(--panel); }}\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", default="site", help="folder of the site (default: site)")
    parser.add_argument("--fast", action="store_true", help="a tenth of the work, for tests; notebooks are left alone")
    parser.add_argument("--lesson", action="append", help="execute only this one (its number), leave out the others")
    args = parser.parse_args()
    if unknown := set(args.lesson or ()) - {name[0] for name in LESSONS}:
        parser.error(f"--lesson must be a number from 1 to {len(LESSONS)}, got {min(unknown)}")
    chosen = [name for name in LESSONS if not args.lesson or name[0] in args.lesson]
    try:
        pages = build(args.out, args.fast, chosen)
    except OSError as error:
        parser.error(str(error))
    print(f"{len(pages)} pages; open {args.out}/index.html")


if __name__ == "__main__":
    main()
