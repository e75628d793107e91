"""The reference: docstrings, signatures and constants for autodoc, and options of the command line.

Docstrings of the package are plain text, in which a line that begins with a space or a bar is laid
by hand. Signatures, fields and constants are shown as the source has them, since objects lose what
a reader needs of these: names of shapes, texts of defaults, comments.
"""

import argparse
import ast
import functools
import importlib.util
import inspect
import itertools
import re
import textwrap
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.ext.autosummary import autosummary_table

from minimixce.cli import program
from minimixce.storage.files import write_atomically

_LONG = 12  # lines of a constant that is not shown in full


# ---- pages ---------------------------------------------------------------------------------------


def write_pages(app):
    """A page for each module that api.md names, in tutorials/api/, which holds nothing else.

    A page that stands there as it should is left alone: another build may be reading it.
    """
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    index = folder.with_suffix(".md").read_text(encoding="utf-8")
    names = re.findall(r"^   (minimixce\.[\w.]+)$", index, re.M)
    for file in folder.glob("*.rst"):
        if file.stem not in names:
            file.unlink(missing_ok=True)
    for name in names:
        file, text = folder / f"{name}.rst", "\n".join(page(name)) + "\n"
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            write_atomically(file, text.encode())


def page(module):
    """The page of a module: its public names in the order of its source -> lines."""
    text = Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8")
    tree = ast.parse(text)
    lines = [f"``{module}``", "=" * (len(module) + 4), "", f".. automodule:: {module}", ""]
    for node in tree.body:
        name = getattr(node, "name", "_")
        if isinstance(node, ast.FunctionDef) and name[0] != "_":
            lines += [f".. autofunction:: {module}.{name}", ""]
        elif isinstance(node, ast.ClassDef) and name[0] != "_":
            lines += [f".. autoclass:: {module}.{name}", *_members(node), ""]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            lines += _constants(module, node, text)
    return lines


def _members(node):
    """Options of autoclass; what a class has of private bases is its own."""
    bases = [ast.unparse(base) for base in node.bases]
    public = [base for base in bases if base[0] != "_"]
    own = ["   :members:", "   :undoc-members:"]
    if len(public) < len(bases):
        own.append(f"   :inherited-members: {', '.join([*public, 'object'])}")
    return own + (["   :show-inheritance:"] if set(public) - {"NamedTuple"} else [])


def _constants(module, node, text):
    """The capital names that an assignment makes: the comment behind it, and the assignment."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    names = [name for target in targets for name in getattr(target, "elts", [target])]
    code = ast.get_source_segment(text, node).splitlines()
    comment = text.splitlines()[node.end_lineno - 1].partition("  # ")[2]
    code = code if len(code) <= _LONG else [code[0] + "  # …"]
    for name in names:
        if isinstance(name, ast.Name) and name.id.isupper() and name.id[0] != "_":
            yield from (f".. py:data:: {module}.{name.id}", "", f"   {escaped(comment)}", "")
            yield from ("   .. code-block:: python", "", *(f"      {line}" for line in code), "")


# ---- sources -------------------------------------------------------------------------------------


def source_of(thing):
    """The text and syntax tree of a function or class; None where there is no source."""
    try:
        text = textwrap.dedent(inspect.getsource(inspect.unwrap(thing)))
        return text, ast.parse(text).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return None


def fields_of(cls):
    """The annotated fields of a NamedTuple or dataclass, as they stand in its source -> lines."""
    found = source_of(cls)
    if not found or not isinstance(found[1], ast.ClassDef):
        return []
    text, tree = found
    lines = text.splitlines()
    fields = [node for node in tree.body if isinstance(node, ast.AnnAssign)]
    return [line[4:] for node in fields for line in lines[node.lineno - 1 : node.end_lineno]]


def signature_of(thing, is_method):
    """The parameters and the result of a function, as they are written -> two strings or None."""
    found = source_of(thing)
    if not found or not isinstance(found[1], ast.FunctionDef):
        return None
    arguments, result = found[1].args, found[1].returns
    if is_method:
        (arguments.posonlyargs or arguments.args).pop(0)
    return f"({ast.unparse(arguments)})", ast.unparse(result) if result else None


# ---- autodoc's hooks -----------------------------------------------------------------------------


def choose_members(app, what, name, thing, skip, options):
    """Of a class, methods and properties: it shows its fields itself."""
    is_shown = inspect.isroutine(thing) or isinstance(thing, property | functools.cached_property)
    return True if what == "class" and not is_shown else None


def write_signature(app, what, name, thing, options, signature, result):
    """Signatures as they are written."""
    if what == "class":
        made_by = vars(thing).get("__init__")
        written = signature_of(made_by, True) if inspect.isfunction(made_by) else None
        return (written[0], None) if written else None
    if what in ("function", "method"):
        bound = isinstance(inspect.getattr_static(_owner(thing), thing.__name__, None), classmethod)
        return signature_of(thing, what == "method" or bound)
    return None


def _owner(thing):
    """The class of a bound class method, or nothing."""
    return getattr(thing, "__self__", None)


def write_docstring(app, what, name, thing, options, lines):
    """Plain text -> reStructuredText, in place; and the fields of a class below it."""
    lines[:] = to_rst(lines)
    fields = fields_of(thing) if what == "class" else []
    if fields:
        lines += ["", ".. code-block:: python", "", *(f"   {line}" for line in fields), ""]


def to_rst(lines):
    """Lines of a docstring -> lines of reStructuredText."""
    found = []
    for is_laid, block in itertools.groupby(lines, lambda line: line.startswith((" ", "|"))):
        if is_laid:
            found += ["", "::", "", *(f"   {line}" for line in block), ""]
        else:
            found += escaped("\n".join(block)).split("\n")
    return found


def escaped(text):
    """Prose, of which only `names` and **headings** mean something."""
    parts = re.split(r"(`[^`]+`|\*\*[^*]+\*\*)", text)
    return "".join(part if k % 2 else re.sub(r"([\\*|`]|_(?!\w))", r"\\\1", part) for k, part in enumerate(parts))


def double_quotes(app, doctree):
    """Texts in signatures in the quotes of the source."""
    kinds = (addnodes.desc_sig_literal_string, nodes.inline)
    for node in doctree.findall(lambda node: isinstance(node, kinds)):
        text = node.astext()
        is_text = text[:1] == text[-1:] == "'" and '"' not in text
        if is_text and isinstance(node.children[0], nodes.Text):
            node.children = [nodes.Text(f'"{text[1:-1]}"')]


def head_tables(app, doctree):
    """The tables of modules get the row of headings that autosummary leaves out."""
    for table in doctree.findall(autosummary_table):
        (group,) = table.findall(nodes.tgroup)
        titles = (nodes.entry("", nodes.paragraph("", words)) for words in ("module", "what it has"))
        group.insert(group.index(group[-1]), nodes.thead("", nodes.row("", *titles)))


def full_names(app, doctree):
    """References by the name that Python itself finds for them: several modules have a `Job`."""
    for node in doctree.findall(addnodes.pending_xref):
        if node.get("refdomain") == "py" and node.get("py:module"):
            names = [node["reftarget"].partition("(")[0]]
            if node.get("py:class"):
                names.insert(0, f"{node['py:class']}.{names[0]}")
            found = filter(None, (full_name(node["py:module"], name) for name in names))
            node.attributes.pop("refspecific", None)  # which asks for any name that ends like it
            node["reftarget"] = next(found, node["reftarget"])


def full_name(module, name):
    """What a module, or the package, calls `name`, by the module that defines it, or None."""
    for start in (module, "minimixce"):
        thing = importlib.import_module(start)
        for part in name.removeprefix("mm.").split("."):
            thing = getattr(thing, part, None)
        thing = thing.fget if isinstance(thing, property) else thing
        home, path = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
        if str(home).startswith("minimixce.") and path:
            return f"{home}.{path}"
    return None


# ---- the command line ----------------------------------------------------------------------------


class Command(Directive):
    """`.. command:: train`: its usage, and each option with its choices, default and meaning."""

    required_arguments = 1

    def run(self):
        """The directive's nodes."""
        name = self.arguments[0]
        (parser,) = (
            action.choices[name] for action in program._parser(name)._actions if isinstance(action, argparse._SubParsersAction)
        )
        lines = [f".. program:: minimixce {name}", ""]
        for action in parser._actions:
            if action.help is not argparse.SUPPRESS and action.dest != "help":
                lines += _option(action, parser)
        node = nodes.container()
        self.state.nested_parse(StringList(lines, name), self.content_offset, node)
        return node.children


def _option(action, parser):
    value = parser._get_formatter()._format_args(action, action.dest.upper())
    named = action.option_strings or [value]
    value = f" {value}" if action.option_strings and action.nargs != 0 else ""
    shown = ", ".join(name + value for name in named)
    words = (action.help or "") % {"default": action.default, "prog": parser.prog}
    return [f".. option:: {shown}", "", f"   {escaped(words)}", ""]


def setup(app):
    """Connect the hooks."""
    app.connect("builder-inited", write_pages)
    app.add_directive("command", Command)
    app.connect("autodoc-skip-member", choose_members)
    app.connect("autodoc-process-signature", write_signature)
    app.connect("autodoc-process-docstring", write_docstring)
    app.connect("doctree-read", double_quotes)
    app.connect("doctree-read", full_names)
    app.connect("doctree-read", head_tables)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
