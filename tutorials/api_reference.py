"""The API reference of the site, from the package's docstrings: `pages()` -> {file name: (title, HTML body)}.

One page for each file that defines public names, and an index, api.html: first the heart, the files directly in the package,
in the order in which minimixce/README.md names them, then the folders. Modules are read as source and not imported, because a
syntax tree keeps what objects lose: the order of the file, the text of default values, and the comments beside fields and
constants. Docstrings are plain text: hand-laid tables and formulas keep their lines, paragraphs lose the breaks that only the
width of the source made.
Classes for the style sheet: module, contents, entry, method, signature, kind, doc (paragraphs with white-space: pre-wrap, for
a break that stays is a newline), laid (a table or formula, in pre), fields (in pre), bases, source.
"""

import ast
import copy
import html
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parent.parent / "minimixce"
_WRAPPED_FROM = 84  # characters: a line that could not have held another word; sources are 100 wide, indentation included
_NAME = re.compile(r"`([^`\n]+)`|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


class Entry(NamedTuple):
    """One public name. `name` is also its anchor: loss_and_grads, World, World.sample."""

    name: str
    kind: str  # function, class, constant, method, classmethod or property
    signature: str
    doc: str  # "" where there is none
    line: int
    parameters: frozenset
    fields: str = ""  # as it stands in the source: the attributes of a NamedTuple or dataclass, the value of a constant
    bases: tuple = ()
    methods: tuple = ()


class Module(NamedTuple):
    """What one file holds. `name` is without minimixce: layers, experiments.measures; a folder's __init__ has the folder's."""

    name: str
    doc: str
    entries: tuple


# The assignments' sources hold their solutions, and are no part of the interface.
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "sources"]


# ---- reading ----------------------------------------------------------------------------------------------------------


def modules_in_order():
    """The names of all files that define public names: the heart in the README's order, then folder after folder."""
    named = re.findall(r"`([\w/]+?)(?:\.py|/)`", (PACKAGE / "README.md").read_text(encoding="utf-8"))
    found = [_module_of(path) for path in FILES]

    def order(module):
        first = module.split(".")[0]
        is_tool = (PACKAGE / first).is_dir()
        return is_tool, named.index(first) if first in named else len(named)

    return sorted((name for name in found if name and read_module(name).entries), key=order)


def _module_of(path):
    """The name of a file of the package; "" for minimixce/__init__.py and __main__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part not in ("__init__", "__main__"))


def file_of(module):
    """The file of a module: layers -> minimixce/layers.py."""
    path = PACKAGE.joinpath(*module.split("."))
    path = path / "__init__.py" if (path / "__init__.py").exists() else path.with_suffix(".py")
    return path.relative_to(PACKAGE.parent).as_posix()


def page_of_file(file):
    """The page of a file, minimixce/layers.py -> minimixce.layers.html, or None where it has none."""
    return next((page_of(module) for module in MODULES if file_of(module) == str(file)), None)


def read_module(name):
    """The public names of a module, in the order of its source -> Module."""
    source = (PACKAGE.parent / file_of(name)).read_text(encoding="utf-8")
    tree, lines, entries = ast.parse(source), source.splitlines(), []
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and _is_public(node.name):
            entries.append(_function(node, node.name, "function"))
        elif isinstance(node, ast.ClassDef) and _is_public(node.name):
            entries.append(_class(node, classes, lines))
        elif isinstance(node, ast.Assign):
            entries += _constants(node, source, lines)
    return Module(name, ast.get_docstring(tree) or "", tuple(entries))


def _is_public(name):
    return not name.startswith("_")


def _function(node, name, kind):
    """name and kind as in Entry; a method loses its first parameter, self or cls."""
    arguments = copy.deepcopy(node.args)
    if kind != "function":
        (arguments.posonlyargs or arguments.args).pop(0)
    parameters = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    signature = name if kind == "property" else f"{name}({_double_quoted(ast.unparse(arguments))})"
    return Entry(name, kind, signature, ast.get_docstring(node) or "", node.lineno, frozenset(parameters))


def _double_quoted(code):
    """ast.unparse writes 'single' quotes, the package "double" ones."""
    return code if '"' in code else code.replace("'", '"')


def _class(node, classes, lines):
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
    written = "\n".join(line.strip() for item in fields for line in lines[item.lineno - 1 : item.end_lineno])
    made_by = next((item for item in node.body if getattr(item, "name", "") == "__init__"), None)
    if made_by:
        init = _function(made_by, node.name, "method")
        signature, parameters = init.signature, init.parameters
    else:
        parameters = frozenset(item.target.id for item in fields)
        values = [item.target.id + (f"={ast.unparse(item.value)}" if item.value else "") for item in fields]
        signature = f"{node.name}({_double_quoted(', '.join(values))})" if fields else node.name
    bases, methods = _of_bases(node, classes), {}  # what a private base of the same file holds is public here
    for base in [*(classes[base] for base in bases if base.startswith("_") and base in classes), node]:
        for item in base.body:
            if isinstance(item, ast.FunctionDef) and _is_public(item.name):
                decorators = {ast.unparse(decorator) for decorator in item.decorator_list}
                kind = next((kind for kind in ("property", "classmethod") if kind in decorators), "method")
                methods[item.name] = (item, kind)
    return Entry(
        node.name,
        "class",
        f"class {signature}",
        ast.get_docstring(node) or "",
        node.lineno,
        parameters,
        written,
        tuple(base for base in bases if _is_public(base) and base != "NamedTuple"),
        tuple(_function(item, f"{node.name}.{name}", kind) for name, (item, kind) in methods.items()),
    )


def _of_bases(node, classes):
    """Names of the bases of a class, its private ones' bases included, the farthest first."""
    names = [ast.unparse(base) for base in node.bases]
    return [name for base in names for name in (*(_of_bases(classes[base], classes) if base in classes else ()), base)]


def _constants(node, source, lines):
    """The capital names that an assignment makes: the assignment as it stands in fields, the comment behind it in doc."""
    for target in node.targets:
        for name in getattr(target, "elts", [target]):
            if isinstance(name, ast.Name) and name.id.isupper() and _is_public(name.id):
                value = ast.get_source_segment(source, node)
                comment = lines[node.end_lineno - 1].partition("  # ")[2]
                yield Entry(name.id, "constant", name.id, comment, node.lineno, frozenset(), value)


# ---- links ------------------------------------------------------------------------------------------------------------


def page_of(module):
    """The file name of a module's page."""
    return f"minimixce.{module}.html"


def _targets(modules, exported):
    """Every name that may be linked -> {name as it is written: page#anchor}, for all modules and for each one's own words."""
    everywhere, bare, own = {}, {}, {}
    last_parts = Counter(module.name.split(".")[-1] for module in modules)
    for module in modules:
        page, own[module.name] = page_of(module.name), {}
        short = module.name.split(".")[-1]
        names = {module.name, short} if last_parts[short] == 1 else {module.name}
        prefixes = [prefix + name for name in sorted(names) for prefix in ("", "minimixce.", "mm.")]
        everywhere |= {prefix: page for prefix in prefixes if "." in prefix}
        everywhere |= {f"{name.replace('.', '/')}.py": page for name in names}
        for entry in module.entries:
            for each in (entry, *entry.methods):
                own[module.name][each.name] = f"{page}#{each.name}"
                everywhere |= {f"{prefix}.{each.name}": f"{page}#{each.name}" for prefix in prefixes}
                bare.setdefault(each.name.split(".")[-1], []).append((each, page))
    for name, module in exported.items():  # mm.GPT, text.load_corpus
        target = f"{page_of(module)}#{name.split('.')[-1]}"
        everywhere |= {f"mm.{name}": target} | ({name: target, f"minimixce.{name}": target} if "." in name else {})
    for places in bare.values():
        if len(places) == 1 and places[0][0].kind in ("function", "class"):  # a name that means one thing
            (entry, page), *_ = places
            everywhere[entry.name] = f"{page}#{entry.name}"
    for module in modules:
        for entry in module.entries:
            for method in entry.methods:
                everywhere.setdefault(method.name, f"{page_of(module.name)}#{method.name}")
    return everywhere, own


def _doc_html(doc, find):
    """A docstring as HTML. Lines that begin with a space or a bar are laid by hand; where a line of prose is so long that the
    next word would not have fitted, its break means nothing."""
    parts, kind, previous = [], None, ""  # parts: [whether laid, text]
    for line in doc.split("\n"):
        laid = line.startswith((" ", "|"))
        if not line:
            kind = None
        elif kind is not laid:
            parts.append([laid, line])
            kind = laid
        else:
            joint = " " if not laid and len(previous) + len(line.split()[0]) >= _WRAPPED_FROM else "\n"
            parts[-1][1] += joint + line
        previous = line
    tags = {True: ('<pre class="laid">', "</pre>"), False: ("<p>", "</p>")}
    return f'<div class="doc">{"".join(tags[laid][0] + _linked(text, find) + tags[laid][1] for laid, text in parts)}</div>'


def _linked(doc, find):
    """Text as HTML: what stands in backticks is code; what `find` knows becomes a link."""
    parts, end = [], 0
    for match in _NAME.finditer(doc):
        code, plain = match.group(1), match.group(0)
        target = find(code.partition("(")[0] if code else plain, code is not None)
        shown = f"<code>{html.escape(code)}</code>" if code else html.escape(plain)
        parts += [html.escape(doc[end : match.start()]), f'<a href="{target}">{shown}</a>' if target else shown]
        end = match.end()
    return "".join(parts) + html.escape(doc[end:])


def _finder(module, everywhere, own, entry=None):
    """find(name, in_backticks) -> page#anchor or None. An English word is a name only in backticks; what an entry calls its
    own parameters is no link, nor is an entry to itself."""
    class_name = "" if entry is None else entry.name.split(".")[0]

    def find(name, in_backticks):
        capitals = sum(letter.isupper() for letter in name)
        if not in_backticks and not ("_" in name.strip("_") or "." in name or (capitals > 1 and not name.isupper())):
            return None
        if entry is not None and (name in entry.parameters or name == entry.name):
            return None
        found = own[module].get(f"{class_name}.{name}") or own[module].get(name) or everywhere.get(name)
        page, _, anchor = (found or "").partition("#")
        return None if found is None else f"#{anchor}" if page == page_of(module) and anchor else found

    return find


def breakable(name):
    """Code inside a line, escaped, which may break between the parts of a long name."""
    return re.sub(r"(_|\.|::|/)(?=\w)", r"\1<wbr>", html.escape(name))


# ---- writing ----------------------------------------------------------------------------------------------------------


def _first_sentence(doc):
    """Of a docstring, on one line."""
    paragraph = " ".join(doc.partition("\n\n")[0].split())
    return re.split(r"(?<=[.?!])(?<!et al\.)(?<!e\.g\.) ", paragraph)[0]


def _entry_html(entry, module, everywhere, own):
    tag, shown = ("h3", "method") if "." in entry.name else ("h2", "entry")
    find = _finder(module, everywhere, own, entry)
    kind = f' <small class="kind">{entry.kind}</small>' if entry.kind in ("classmethod", "property", "constant") else ""
    parts = [
        f'<section class="{shown}" id="{entry.name}">',
        f'<{tag} class="signature"><code>{html.escape(entry.signature)}</code>{kind}</{tag}>',
    ]
    if entry.bases:
        links = (f"{_link(base, everywhere.get(base))}" for base in entry.bases)
        parts.append(f'<p class="bases">Has also what {", ".join(links)} has.</p>')
    if entry.doc:
        parts.append(_doc_html(entry.doc, find))
    if entry.fields:
        parts.append(f'<pre class="fields"><code>{html.escape(entry.fields)}</code></pre>')
    parts.append(f'<p class="source">{file_of(module)}, line {entry.line}</p>')
    parts += [_entry_html(method, module, everywhere, own) for method in entry.methods]
    return "\n".join([*parts, "</section>"])


def _link(name, target):
    shown = f"<code>{breakable(name)}</code>"
    return f'<a href="{target}">{shown}</a>' if target else shown


def _module_html(module, everywhere, own):
    links = "\n".join(f"<li>{_link(entry.name, f'#{entry.name}')}</li>" for entry in module.entries)
    entries = "\n".join(_entry_html(entry, module.name, everywhere, own) for entry in module.entries)
    return (
        f'<article class="module">\n<h1><code>{breakable(f"minimixce.{module.name}")}</code></h1>\n'
        f"{_doc_html(module.doc, _finder(module.name, everywhere, own))}\n"
        f'<nav class="contents" aria-label="On this page"><ul>\n{links}\n</ul></nav>\n{entries}\n'
        '<p><a href="api.html">All modules</a></p>\n</article>'
    )


def _exported():
    """What files hand on from others -> {name as after `mm.`: the module that defines it}: GPT, text.load_corpus."""
    found = {}
    for path in FILES:
        if path.name == "__main__.py":
            continue
        module, parts = _module_of(path), path.relative_to(PACKAGE).parts
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.level and node.module:
                source = ".".join([*parts[: len(parts) - node.level], node.module])
                for alias in node.names:
                    found[".".join(filter(None, (module, alias.asname or alias.name)))] = source
    return {name: source for name, source in found.items() if source in MODULES and _defines(source, name.split(".")[-1])}


def _defines(module, name):
    return name in {entry.name for entry in read_module(module).entries}


def _index_html(modules, exported):
    heart = [module for module in modules if not (PACKAGE / module.name.split(".")[0]).is_dir()]
    parts = [
        '<article class="module">\n<h1>API reference</h1>',
        "<p>One page for each file of <code>minimixce</code> that defines public names, with its docstrings.</p>",
        "<h2>The heart, in an order to read it in</h2>",
        _index_table(heart),
    ]
    for folder in dict.fromkeys(module.name.split(".")[0] for module in modules if module not in heart):
        doc = ast.get_docstring(ast.parse((PACKAGE / folder / "__init__.py").read_text(encoding="utf-8"))) or ""
        parts.append(f"<h2><code>{folder}/</code></h2>\n<p>{html.escape(_first_sentence(doc))}</p>")
        parts.append(_index_table([module for module in modules if module.name.split(".")[0] == folder]))
    top = {name: module for name, module in sorted(exported.items()) if "." not in name}
    names = "\n".join(f"<li>{_link(f'mm.{name}', f'{page_of(module)}#{name}')}</li>" for name, module in top.items())
    parts.append(
        "<h2>Under <code>mm</code> itself</h2>\n<p>After <code>import minimixce as mm</code> these stand under <code>mm</code> "
        f"itself, everything else under its module:</p>\n<ul>\n{names}\n</ul>\n</article>"
    )
    return "\n".join(parts)


def _index_table(modules):
    rows = "\n".join(
        f"<tr><td>{_link(module.name, page_of(module.name))}</td><td>{html.escape(_first_sentence(module.doc))}</td></tr>"
        for module in modules
    )
    return f"<table>\n<thead><tr><th>module</th><th>what it holds</th></tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"


MODULES = modules_in_order()


def pages():
    """All pages -> {file name: (title, HTML body)}; api.html is the index."""
    modules, exported = [read_module(name) for name in MODULES], _exported()
    everywhere, own = _targets(modules, exported)
    made = {"api.html": ("API reference", _index_html(modules, exported))}
    for module in modules:
        made[page_of(module.name)] = (f"minimixce.{module.name}", _module_html(module, everywhere, own))
    return made
