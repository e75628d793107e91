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


DOCUMENTED = [n for n in NAMES if n not in PROTOCOLS]


def test_each_says_what_it_is_in_one_line():
    """The summary fits on its line; what follows stands below an empty one."""
    without = [n for n in FUNCTIONS + CLASSES if not doc_of(n)]
    assert not without
    too_long = [n for n in DOCUMENTED if len(doc_of(n).partition("\n\n")[0].splitlines()) > 1]
    assert not too_long


def unsaid_parameters(name):
    docs = docs_of(name)
    # `cache` is always what the forward function returned, and its type says which
    return [
        p.name
        for p in parameters(name)
        if p.name != "cache" and not re.search(rf"(?<!\w){re.escape(p.name)}(?!\w)", docs)
    ]


def test_each_names_every_parameter():
    unsaid = {name: found for name in FUNCTIONS + CLASSES if (found := unsaid_parameters(name))}
    assert not unsaid


def untyped_parts(name):
    value = NAMES[name]
    function = value.__init__ if inspect.isclass(value) else value
    signature = inspect.signature(function)
    untyped = [p.name for p in parameters(name) if p.annotation is p.empty]
    return untyped + ["return"] * (signature.return_annotation is signature.empty)


def test_all_that_each_takes_and_returns_has_a_type():
    untyped = {name: found for name in FUNCTIONS + CLASSES if (found := untyped_parts(name))}
    assert not untyped


ARRAY = re.compile(r"(Float|Int|Integer|Bool)\[(Array|Any)")
# (B,T,C), (…,V), (n,), (n, max_len+1); or in words
SHAPE = re.compile(r"\([\w…·+−/ ]+,[^)]*\)|\(…\)|\{name: array|shape|0-d", re.I)


def test_each_says_the_shapes_of_arrays():
    takes_arrays = [
        name
        for name in FUNCTIONS + CLASSES
        if any(ARRAY.search(str(p.annotation)) for p in parameters(name))
    ]
    assert len(takes_arrays) > 50
    without_shapes = [name for name in takes_arrays if not SHAPE.search(docs_of(name))]
    assert not without_shapes


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


def may_raise(name):
    value = NAMES[name]
    constructor = getattr(value, "__post_init__", getattr(value, "__init__", value))
    if dataclasses.is_dataclass(value) and not hasattr(value, "__post_init__"):
        return False  # its constructor is made of its fields
    return raises_itself(constructor if inspect.isclass(value) else value)


def test_each_says_what_it_raises():
    raising = [name for name in FUNCTIONS + CLASSES if may_raise(name)]
    assert len(raising) > 20
    unsaid = [name for name in raising if not re.search(r"[Rr]aise|Error", docs_of(name))]
    assert not unsaid


def test_none_sends_the_reader_away():
    """No "see the module": what help() shows has to be enough."""
    away = re.compile(r"[Ss]ee the (module|file|code|source)|[Mm]odule docstring")
    assert not [name for name in DOCUMENTED if away.search(doc_of(name))]
