"""What Sphinx reads, made of what stands in the repository.

Lessons and pages are written to be read in Jupyter and on GitHub. On their way into Sphinx, links
out of tutorials/ are turned to the pages that the site has for these files, and every lesson gets
its place on the two trails.
"""

import json
import re
from pathlib import Path, PurePosixPath

from docutils import nodes
from sphinx.util import logging

import annotate  # beside the lessons, which conf.py puts on the path
import explorer

HERE = Path(__file__).resolve().parent.parent
ROOT = HERE.parent
LESSONS = sorted(path.stem for path in HERE.glob("[0-9]_*.py"))
# what of the explorer a lesson's page shows before its summary: the view, and what it is called
EMBEDDED = {
    "1": ("simplex", "The triangle, with a P that you can move"),
    "4": ("tree", "The tree of prefixes, with the costs to go"),
    "6": ("context", "One context, with an η that you can turn"),
}
EVENING = [name for name in LESSONS if name[0] in "136"]
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?![a-z]+:|#)([^)\s]+)\)")
_logger = logging.getLogger(__name__)

_CONTENTS = """

```{{toctree}}
:hidden:
:caption: Lessons

Start here <self>
{lessons}
explorer
one_file
```

```{{toctree}}
:hidden:
:caption: Use it

installing
using
measures
gradient_checking
worlds
comparing
finetuning
mpi
which_objective
claims
add_your_own
cli
api
```

```{{toctree}}
:hidden:
:caption: Understand it

glossary
math
estimating_kl
map
code
synthetic
Results <synthetic_results>
speed
reproducibility
promises
README <readme>
```

```{{toctree}}
:hidden:
:caption: For a class

assignments/README
assignments/a0/README
assignments/a1/README
assignments/a2/README
assignments/a3/README
assignments/a4/README
assignments/a4/rubric
A report for A4 <assignments/a4/example/report>
assignments/concept_test/form_a
assignments/concept_test/form_b
```
"""


# ---- links ---------------------------------------------------------------------------------------


def redirect(text, docname, pages):
    """The Markdown of a page whose links lead to `pages` of the site where it has one for a file,
    and else to a copy of the file.
    """

    def replace(found):
        words, (path, _, anchor) = found[1], found[2].partition("#")
        file = ((HERE / docname).parent / path).resolve()
        target = page_of(file)
        if target is None:
            is_page = file.with_suffix("").is_relative_to(HERE) and (file.with_suffix("").relative_to(HERE).as_posix() in pages)
            is_copied = file.suffix in (".md", ".ipynb") and file.is_file() and not is_page
            return f"[{words}](path:{path})" if is_copied else found[0]
        if words.startswith("`minimixce.") and target.startswith("/api/"):
            return "{py:obj}" + words
        return f"[{words}]({target}{'#' + anchor if anchor else ''})"

    return _LINK.sub(replace, text)


def page_of(file):
    """The page, from the root of the site, that shows a file of the repository; None where it is
    a page itself or none shows it."""
    try:
        where = PurePosixPath(file.relative_to(ROOT).as_posix())
    except ValueError:
        return None
    pages = {
        "README.md": "/readme.md",
        "tutorials/one_file.py": "/one_file.md",
        "tutorials/explorer.py": "/explorer.md",
    }
    if str(where) in pages:
        return pages[str(where)]
    if where.parts[0] == "minimixce" and where.suffix == ".py":
        name = ".".join(where.with_suffix("").parts).removesuffix(".__init__")
        stub = HERE / "api" / f"{name}.rst"
        return f"/api/{name}.rst" if stub.is_file() else None
    return None


# ---- notebooks -----------------------------------------------------------------------------------


def _markdown(text):
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def trails(name):
    """The place of a lesson on both trails, and how to run it, in Markdown."""

    def trail(names):
        steps = (f"**{other[0]}**" if other == name else f"[{other[0]}]({other}.ipynb)" for other in names)
        return " → ".join(steps)

    evening = f"One evening: {trail(EVENING)}. " if name in EVENING else ""
    return (
        f"---\n\n{evening}All lessons: {trail(LESSONS)}.\n\n"
        f"To run and change this one: `python tutorials/{name}.py` ([as a script]({name}.py)), or "
        f"open it [as a notebook](path:{name}.ipynb)."
    )


def with_explorer(cells, name):
    """The cells of a lesson, with its view of the explorer, folded, before the summary."""
    view, title = EMBEDDED.get(name[0], ("", ""))
    frame = (
        f"<details>\n<summary>{title}</summary>\n"
        f'<iframe class="explorer" src="explorer.html?view={view}" title="{title}" loading="lazy">'
        "</iframe>\n</details>"
    )
    for cell in cells:
        before, heading, after = "".join(cell["source"]).partition("## Summary\n")
        if view and heading:
            yield from map(_markdown, (before, frame, heading + after))
        else:
            yield cell


def read_notebook(text, name, pages):
    """The JSON of a lesson's notebook -> the JSON that the site shows."""
    notebook = json.loads(text)
    cells = list(with_explorer(notebook["cells"], name))
    for cell in cells:
        if cell["cell_type"] == "markdown":
            cell["source"] = redirect("".join(cell["source"]), name, pages)
        for data in (output.get("data", {}) for output in cell.get("outputs", ())):
            if "text/markdown" in data:
                data["text/markdown"] = redirect("".join(data["text/markdown"]), name, pages)
    cells.append(_markdown(trails(name)))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    notebook["cells"] = cells
    return json.dumps(notebook)


# ---- hooks ---------------------------------------------------------------------------------------


def on_read(app, docname, source):
    """Change what Sphinx has read of a page."""
    if docname in LESSONS:
        executed = Path(app.config.minimixce_notebooks or HERE) / f"{docname}.ipynb"
        if executed.is_file():  # or it was not among those to execute
            source[0] = executed.read_text(encoding="utf-8")
        source[0] = read_notebook(source[0], docname, app.env.found_docs)
        return
    if docname == "readme":  # whose links start from the folder above
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        source[0] = re.sub(r"\]\((?![a-z]+:|#)", "](../", text)
    source[0] = redirect(source[0], docname, app.env.found_docs)
    if docname == "one_file":
        fragment = annotate.annotated(HERE / "one_file.py")
        source[0] += f"\n``````{{raw}} html\n{fragment}\n``````\n"
    if docname == "index":
        source[0] += _CONTENTS.format(lessons="\n".join(LESSONS))


def describe_figures(app, doctree):
    """Give every figure of a lesson the words that stand beside it in the notebook."""
    for bundle in doctree.findall(nodes.container):
        if bundle.get("nb_element") != "mime_bundle":
            continue
        words = [c.astext() for c in bundle.children if c.get("mime_type") == "text/plain"]
        for image in bundle.findall(nodes.image):
            image["alt"] = " ".join(words[0].split())


def add_script_button(app, pagename, templatename, context, doctree):
    """The source of a lesson, a script, beside its notebook in the menu of downloads."""
    file = app.env.dlfiles.get(f"{pagename}.py") if pagename in LESSONS else None
    for group in context.get("header_buttons", ()):
        if file and group.get("label") == "download-buttons":
            url = context["pathto"](f"_downloads/{file[1]}", 1)
            script = {"type": "link", "url": url, "text": ".py", "icon": "fas fa-file-code"}
            group["buttons"].insert(1, script | {"tooltip": "Download as a script", "label": "py"})


def add_explorer(app, error):
    """The explorer is a page of its own, which replaces the one that names it."""
    if error is None and app.builder.name == "html":
        explorer.build(app.outdir, home="index.html")


def setup(app):
    """Connect the hooks."""
    app.add_config_value("minimixce_notebooks", "", "env")
    app.connect("source-read", on_read)
    app.connect("doctree-read", describe_figures)
    app.connect("html-page-context", add_script_button, priority=900)
    app.connect("build-finished", add_explorer)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
