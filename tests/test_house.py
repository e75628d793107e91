"""The rule of the house: a file directly in minimixce/ is something to read, a folder is a tool
around it, imports go one way, and no file is long.
"""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "minimixce"
ORDER = "backend storage heart text training experiments testing lessons classroom cli"
RANK = {room: rank for rank, room in enumerate(ORDER.split())}
RANK["fast"] = RANK["heart"]
PLAIN = {f"minimixce.{name}" for name in ("layers", "objectives", "kv", "logprob")}
# Many functions, whose annotated signatures take several lines each.
LONGER = {"minimixce.layers": 500, "minimixce.objectives": 520, "minimixce.estimators": 520}
LONGER["minimixce.model"] = 540  # sampling is in it
EXEMPT = ("minimixce", "minimixce.__main__")  # they hand names on


def name_of(path):
    """minimixce/text/corpus.py -> minimixce.text.corpus, minimixce/text/__init__.py ->
    minimixce.text
    """
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
HEART = [n for n, path in FILES.items() if path.parent == PACKAGE and n not in EXEMPT]


def imports(name):
    """Full names of what a file imports, inside functions too, one for each place."""
    package = FILES[name].relative_to(PACKAGE.parent).parent.parts
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in FILES else base


def room(name):
    if name == "minimixce":
        return "experiments"  # it hands on names of training, so only what comes later may ask it
    if name == "minimixce.storage.shapes":
        return "backend"  # it imports nothing of the package, so everything may ask it
    first = name.split(".")[1]
    return "heart" if name in HEART and first != "backend" else first


INSIDE = {n: [i for i in imports(n) if i in FILES] for n in FILES if n not in EXEMPT}


# a model takes a layer from where faster forms are chosen; a faster form stands on its plain one
FASTER_AND_PLAIN = {"heart": {"minimixce.fast"}, "fast": PLAIN}


@pytest.mark.parametrize("name", INSIDE)
def test_imports_go_one_way(name):
    here = room(name)
    allowed = FASTER_AND_PLAIN.get(here, ())
    others = [i for i in INSIDE[name] if room(i) != here and i not in allowed]
    assert not [i for i in others if RANK[room(i)] >= RANK[here]]


def test_imports_make_no_circle():
    order = [*TopologicalSorter(INSIDE).static_order()]  # CycleError where there is a circle
    assert set(order) >= set(INSIDE)


def test_the_heart_asks_for_faster_forms_in_one_place():
    """fast/__init__.py, which chooses them: never the files beside it."""
    asked = {i for name in HEART for i in INSIDE[name] if room(i) == "fast"}
    assert asked == {"minimixce.fast"}


def test_files_are_few_and_short():
    """18 files to read; at most 450 lines of 100 columns in each file, with four exceptions."""
    assert len(HEART) <= 18
    lines = {name: path.read_text(encoding="utf-8").splitlines() for name, path in FILES.items()}
    too_long = {n: len(found) for n, found in lines.items() if len(found) > LONGER.get(n, 450)}
    assert not too_long
    assert not [n for n, found in lines.items() if any(len(line) > 100 for line in found)]


def test_other_array_libraries_stay_outside():
    """CuPy is imported in two places, other frameworks nowhere; a string counts, for importlib
    takes it.
    """
    outside = {"cupy", "cupyx", "torch", "jax", "tensorflow"}
    for name, tree in TREES.items():
        strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
        named = outside & ({i.partition(".")[0] for i in imports(name)} | strings)
        assert named <= {"cupy", "cupyx"}, name
        assert not named or name in ("minimixce.backend", "minimixce.fast.kernels"), name
