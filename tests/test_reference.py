"""The pages to look things up in: math.md, map.md, the glossary and the API reference hold what
they promise, and links lead somewhere. What Sphinx makes of them is for test_site.py.
"""

import ast
import importlib
import inspect
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from minimixce import estimators, exact, gpt, layers, objectives
from minimixce.experiments.fixed_points import fixed_point

ROOT = Path(__file__).parent.parent
TUTORIALS = ROOT / "tutorials"
PACKAGE = ROOT / "minimixce"
sys.path.insert(0, str(TUTORIALS / "_site"))
reference = pytest.importorskip("reference")  # which needs Sphinx, of the extra "site"

MATH, MAP, GLOSSARY, API = (
    (TUTORIALS / f"{name}.md").read_text(encoding="utf-8")
    for name in ("math", "map", "glossary", "api")
)
PAGES = {  # the lines of every page of the API reference
    name: reference.page(name) for name in re.findall(r"^   (minimixce\.[\w.]+)$", API, re.M)
}
LESSONS = {path.stem for path in TUTORIALS.glob("[1-9]_*.py")}


def formulas(text):
    """LaTeX of all $…$ and $$…$$."""
    return [(a or b).strip() for a, b in re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", text, re.S)]


def anchors(text):
    """Of all headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# ---- math.md and map.md --------------------------------------------------------------------------


def test_the_sections_that_lessons_link_to_are_there():
    assert re.findall(r"^## (.+)$", MATH, re.M) == [
        "1 Setting",
        "2 The quantities",
        "3 Exact gradients by the list",
        "4 Exact gradients by the tree",
        "5 The approximation",
        "6 Token objectives",
        "7 Estimators",
        "8 Measures",
    ]


def test_every_formula_becomes_mathml():
    convert = pytest.importorskip("latex2mathml.converter").convert
    found = formulas(MATH)
    assert len(found) > 300
    assert MATH.count("$") % 2 == 0
    for formula in found:
        assert "\\" not in convert(formula), formula


def test_no_formula_breaks_a_table_or_a_renderer():
    for formula in formulas(MATH):
        # GitHub takes these for its own
        assert not re.search(r"[|*]|\\[,;!\\{}]", formula), formula


@pytest.mark.parametrize("name", sorted(path.name for path in TUTORIALS.glob("*.md")))
def test_links_lead_somewhere(name):
    text = (TUTORIALS / name).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("https://")]
    for link in links:
        path, _, anchor = link.removeprefix("path:").partition("#")
        target = TUTORIALS / (path or name)
        made_with_the_site = target.suffix == ".ipynb" and target.stem in LESSONS
        assert target.is_file() or made_with_the_site, link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def test_the_example_of_fixed_points():
    p = np.array([0.5, 0.25, 0.15, 0.07, 0.03])
    for name, (q, _) in (
        ("`mixce`, η = 0.1", fixed_point("mixce", p, 0.1)),
        ("`tailr`, γ = 0.1", fixed_point("tailr", p, 0.1)),
    ):
        (cells,) = re.findall(rf"^\| {name} \| (\.\d.*) \|$", MATH, re.M)
        np.testing.assert_allclose([float(cell) for cell in cells.split(" | ")], q, atol=5.1e-4)


def test_what_is_said_of_sizes_and_signs():
    V, T = 20, 5
    by_list = sum((V - 1) ** k * min(k + 1, T - 1) for k in range(T))
    by_tree = sum((V - 1) ** k for k in range(T - 1))
    assert by_list / by_tree == pytest.approx((T - 1) * (V - 1), rel=0.01)
    assert exact.num_sequences(V, T) == sum((V - 1) ** k for k in range(T))
    q, eta = np.exp(-2.0), 0.05
    assert eta + (1 - eta) * q * (1 + np.log(q)) < 0
    logits, targets = np.zeros((1, V)), np.zeros(1, int)  # at the start
    for weight, (_, w) in (
        (0.3 + 0.7 / V, objectives.mixce(logits, targets, eta=0.3, reduction="none")),
        (1 / (1 + 0.3 * (V - 1)), objectives.tailr(logits, targets, gamma=0.3, reduction="none")),
    ):
        assert w[0] == pytest.approx(weight)


def named_object(name):
    """What a dotted name means, or None: modules as far as there are any, then attributes."""
    parts = name.split(".")
    thing = None
    for i in range(1, len(parts) + 1):
        try:
            thing = importlib.import_module(".".join(parts[:i]))
        except ModuleNotFoundError:
            thing = getattr(thing, parts[i - 1], None)
    return thing


def functions_of(file):
    """The names of a Python file's functions."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_map_names_what_exists():
    functions = re.findall(r"`(minimixce\.[\w.]+)`", MAP)
    tests = re.findall(r"`(tests/\w+\.py)::(\w+)`", MAP)
    rows = [row for row in re.findall(r"^\| .+ \|$", MAP, re.M) if "::" in row]
    assert len(rows) >= 60
    assert len(tests) == len(rows)
    for name in functions:
        assert named_object(name) is not None, name
    linked = re.findall(r"\[`(minimixce\.[\w.]+)`\]\(\.\./([\w/]+\.py)\)", MAP)
    assert len(linked) == len(functions)
    for name, file in linked:  # the file that defines it, not one that hands it on
        module = file.removesuffix(".py").replace("/", ".")
        prefix, attribute = name.rsplit(".", 1)
        of_class = f".. autoclass:: {prefix}" in PAGES[module]  # which has its methods below it
        kinds = ("autofunction", "autoclass", "py:data")
        assert of_class or any(f".. {kind}:: {name}" in PAGES[module] for kind in kinds), name
        assert prefix.startswith(module)
        assert attribute[0] != "_"
    named = {file: functions_of(file) for file in {file for file, _ in tests}}
    assert [f"{file}::{name}" for file, name in tests if name not in named[file]] == []
    lessons = [re.search(r"\| (?:\[\d\]\((\d_\w+)\.ipynb\)|—) \|$", row) for row in rows]
    assert all(lessons)
    assert {lesson.group(1) for lesson in lessons} == LESSONS | {None}


def test_the_map_covers_every_section_objective_estimator_and_layer():
    for section in anchors(MATH) - {"the-mathematics"}:
        assert f"math.md#{section}" in MAP, section

    def public(module, *first):
        """Functions of a module whose first parameters are these."""
        return [
            name
            for name, f in inspect.getmembers(module, inspect.isfunction)
            if not name.startswith("_")
            and f.__module__ == module.__name__
            and [*inspect.signature(f).parameters][: len(first)] == [*first]
        ]

    def covered(names, *sections):
        rows = re.findall(rf"^\| ([^|]+) \|.*math\.md#[{''.join(sections)}]-", MAP, re.M)
        missing = {name for name in names if not any(f"`{name}`" in row for row in rows)}
        assert not missing, missing

    of_samples = set(public(estimators, "model", "world", "rows")) - {"score", "score_sequences"}
    assert len(of_samples) == 7
    covered([*objectives.names("sequences"), "mixce"], "2")
    covered(objectives.names("tokens"), "5", "6")
    covered([*of_samples, "gumbel"], "7")
    pairs = [
        (module, name)
        for module in (layers, gpt)
        for name in public(module)
        if name.endswith(("_forward", "_backward"))
    ]
    assert len(pairs) == 22
    for module, name in pairs:
        assert f"`{module.__name__}.{name}`" in MAP, name


# ---- the glossary --------------------------------------------------------------------------------


def test_the_glossary_is_in_order_and_has_the_words_of_the_lessons():
    terms = re.findall(r"^## (.+)$", GLOSSARY, re.M)
    letters = {"η (eta)": "eta", "γ (gamma)": "gamma"}
    keys = [letters.get(term, term).lower() for term in terms]
    assert keys == sorted(keys)
    assert len(terms) == len(set(terms)) > 50
    for word in ("REINFORCE", "advantage", "baseline", "Jensen's inequality", "score function"):
        assert word in terms
    assert "reward to go" in terms
    assert {f"#{anchor}" for anchor in re.findall(r"\]\(#(.+?)\)", GLOSSARY)} <= {
        f"#{anchor}" for anchor in anchors(GLOSSARY)
    }


# ---- the API reference ---------------------------------------------------------------------------

PROGRAMS = ("classroom", "cli")  # whose interface is the command line
WITHOUT_WORDS = {"Job.name"}  # says it all
FILES = {  # {module: path in the package} of every file that can have a page
    ".".join(path.with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(file.relative_to(PACKAGE) for file in PACKAGE.rglob("*.py"))
    if path.parts[0] not in (*PROGRAMS, "__init__.py", "__main__.py")
}
HEART = {name for name, path in FILES.items() if len(path.parts) == 1}
LISTED = re.findall(r"^   minimixce\.([\w.]+)$", API, re.M)


def directives(name):
    """Names that a module's page shows: functions, classes and constants, in the page's order."""
    kinds = r"^\.\. (?:autofunction|autoclass|py:data):: minimixce\.(\S+)$"
    return [found.removeprefix(f"{name}.") for found in re.findall(kinds, pages_of(name), re.M)]


def pages_of(name):
    return "\n".join(PAGES[f"minimixce.{name}"])


def public_names(module):
    """Functions and classes that a module defines."""
    return {
        key
        for key, thing in vars(module).items()
        if not key.startswith("_") and getattr(thing, "__module__", "") == module.__name__
    }


def test_pages_stand_in_the_order_of_reading():
    readme = (PACKAGE / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)\.py`", readme)
    assert sorted(named) == sorted(HEART)  # each once
    heart = [name for name in LISTED if name in HEART]
    assert heart == [name for name in named if name in heart]
    assert LISTED[: len(heart)] == heart
    assert len(LISTED) == len(set(LISTED))
    folders = {path.parts[0] for path in FILES.values()} - {f"{name}.py" for name in HEART}
    tools = readme[readme.index("The tools:") :]
    assert sorted(re.findall(r"`(\w+)/`", tools)) == sorted({*folders, *PROGRAMS})


@pytest.mark.parametrize("name", sorted(FILES))
def test_every_public_name_stands_there_once(name):
    module = importlib.import_module(f"minimixce.{name}")
    wanted = public_names(module)
    constants = {key for key in vars(module) if key.isupper() and not key.startswith("_")}
    if name not in LISTED:
        assert not wanted
        return
    shown = directives(name)
    assert len(shown) == len(set(shown))
    assert wanted <= set(shown), wanted - set(shown)
    assert set(shown) <= wanted | constants, set(shown) - wanted - constants


@pytest.mark.parametrize("name", LISTED)
def test_every_public_name_has_a_docstring(name):
    module = importlib.import_module(f"minimixce.{name}")
    assert module.__doc__
    for key in public_names(module):
        thing = getattr(module, key)
        of_class = vars(thing) if isinstance(thing, type) else {}
        methods = {
            f"{key}.{part}": member
            for part, member in of_class.items()
            if part[0] != "_" and isinstance(member, types.FunctionType | property | classmethod)
        }
        # the pair of functions beside it says what it is
        is_cache = isinstance(thing, type) and key.endswith("Cache")
        for each, member in ({} if is_cache else {key: thing}).items() | methods.items():
            assert member.__doc__ or each in WITHOUT_WORDS, f"{name}.{each}"


def test_docstrings_become_restructured_text_line_by_line():
    rst = reference.to_rst(objectives.__doc__.splitlines())
    table = next(line for line in objectives.__doc__.splitlines() if line.startswith("| js "))
    assert f"   {table}" in rst  # line structure and all, in a literal block
    laid = [line for line in rst if line.startswith("   |")]
    assert len(laid) == objectives.__doc__.count("\n|") > 10
    assert reference.escaped("a_ * `b_` x_t") == r"a\_ \* `b_` x_t"
    assert reference.escaped("of `a long\nname`, b*") == "of `a long\nname`, b\\*"


def test_signatures_and_fields_are_those_of_the_source():
    parameters, result = reference.signature_of(layers.linear_backward, False)
    assert "dy: Float[Array, '*rows O']" in parameters
    assert result.startswith("tuple[Float[Array,")
    assert "dropout: float = 0.0" in reference.fields_of(gpt.GPTConfig)
    assert reference.full_name("minimixce.exact", "World") == "minimixce.automaton.World"
    assert reference.full_name("minimixce.layers", "backend.rng") == "minimixce.backend.rng"
    assert reference.full_name("minimixce.layers", "nothing") is None
