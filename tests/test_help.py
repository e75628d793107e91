"""help() suffices: every public function, method and class of the heart says what it takes, in what
shapes, and what it raises; its signature says of what type everything is.
"""

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from pathlib import Path

import pytest

import minimixce

HEART = sorted(
    path.stem for path in Path(minimixce.__file__).parent.glob("*.py") if path.stem[0] != "_"
)
MODULES = {name: importlib.import_module(f"minimixce.{name}") for name in HEART}


def public_names():
    """ "module.name" or "module.Class.method" -> function or class, as written in that module."""
    found = {}
    for module_name, module in MODULES.items():
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(value) or inspect.isclass(value):
                found[f"{module_name}.{name}"] = value
            if inspect.isclass(value):
                for method, raw in vars(value).items():
                    function = getattr(raw, "fget", None) or getattr(raw, "__func__", raw)
                    own = getattr(function, "__module__", None) == module.__name__
                    if own and inspect.isfunction(function) and not method.startswith("_"):
                        found[f"{module_name}.{name}.{method}"] = function
    return found


NAMES = public_names()
PROTOCOLS = [name for name in NAMES if name.startswith("model.Model")]
FUNCTIONS = [n for n, value in NAMES.items() if inspect.isfunction(value) and n not in PROTOCOLS]
# a class that is called by users is documented in its own docstring
CLASSES = [
    n
    for n, value in NAMES.items()
    if inspect.isclass(value) and "__init__" in vars(value) and n not in PROTOCOLS
]


def doc_of(name):
    return inspect.getdoc(NAMES[name]) or ""


def docs_of(name):
    """The docstring of a name, and those that it refers to: "as for mle", "GPT's", "errors are
    those of loss_and_grads", "as Bigram does", "dropout and rng are dropout_forward's".
    """
    doc = " ".join(doc_of(name).split())
    references = re.findall(r"(?=\b(?:as for|as|those of|see|errors:|what) ([\w.]+))", doc, re.I)
    references += re.findall(r"([\w.]+)'s\b", doc)
    docs = [doc]
    for reference in {r.rstrip(".") for r in references}:
        for other in NAMES:
            method = name.count(".") == 2 and other.rpartition(".")[2] == name.rpartition(".")[2]
            if other == name:
                continue
            if other.endswith(f".{reference}") or (method and f".{reference}." in other):
                docs.append(doc_of(other))
    return "\n".join(docs)


def parameters(name):
    value = NAMES[name]
    function = value.__init__ if inspect.isclass(value) else value
    return [
        p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "cls")
    ]


@pytest.mark.parametrize("name", [n for n in NAMES if n not in PROTOCOLS])
def test_it_says_what_it_is_in_one_line(name):
    """The summary fits on its line; what follows stands below an empty one."""
    doc = doc_of(name)
    if name in CLASSES or name in FUNCTIONS:
        assert doc, "has no docstring"
    assert len(doc.partition("\n\n")[0].splitlines()) <= 1


@pytest.mark.parametrize("name", FUNCTIONS + CLASSES)
def test_it_names_every_parameter(name):
    docs = docs_of(name)
    # `cache` is always what the forward function returned, and its type says which
    unsaid = [
        p.name
        for p in parameters(name)
        if p.name != "cache" and not re.search(rf"(?<!\w){re.escape(p.name)}(?!\w)", docs)
    ]
    assert not unsaid


@pytest.mark.parametrize("name", FUNCTIONS + CLASSES)
def test_everything_it_takes_and_returns_has_a_type(name):
    value = NAMES[name]
    function = value.__init__ if inspect.isclass(value) else value
    signature = inspect.signature(function)
    untyped = [p.name for p in parameters(name) if p.annotation is p.empty]
    assert not untyped
    assert signature.return_annotation is not signature.empty


ARRAY = re.compile(r"(Float|Int|Integer|Bool)\[(Array|Any)")
# (B,T,C), (…,V), (n,), (n, max_len+1); or in words
SHAPE = re.compile(r"\([\w…·+−/ ]+,[^)]*\)|\(…\)|\{name: array|shape|0-d", re.I)


@pytest.mark.parametrize("name", FUNCTIONS + CLASSES)
def test_it_says_the_shapes_of_arrays(name):
    if any(ARRAY.search(str(p.annotation)) for p in parameters(name)):
        assert SHAPE.search(docs_of(name))


def raises_itself(function):
    """Whether its body raises an error or calls a check; functions inside it do not count."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    todo = list(ast.iter_child_nodes(tree))
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Raise) and node.exc is not None:
            return "NotImplementedError" not in ast.unparse(node.exc)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).rpartition(".")[2]
            if re.match(r"_?check_(?!point|objective$)|_check$", called):
                return True
        if not isinstance(node, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
            todo += ast.iter_child_nodes(node)
    return False


@pytest.mark.parametrize("name", FUNCTIONS + CLASSES)
def test_it_says_what_it_raises(name):
    value = NAMES[name]
    constructor = getattr(value, "__post_init__", getattr(value, "__init__", value))
    if dataclasses.is_dataclass(value) and not hasattr(value, "__post_init__"):
        return  # its constructor is made of its fields
    if raises_itself(constructor if inspect.isclass(value) else value):
        assert re.search(r"[Rr]aise|Error", docs_of(name))


@pytest.mark.parametrize("name", [n for n in NAMES if n not in PROTOCOLS])
def test_it_does_not_send_the_reader_away(name):
    """No "see the module": what help() shows has to be enough."""
    assert not re.search(r"[Ss]ee the (module|file|code|source)|[Mm]odule docstring", doc_of(name))
