"""The pages to look things up in: math.md, map.md and the API reference hold what they promise, and
links lead somewhere.
"""

import ast
import importlib
import inspect
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from pages import Page

from minimixce import estimators, exact, gpt, layers, objectives
from minimixce.experiments.fixed_points import fixed_point

ROOT = Path(__file__).parent.parent
TUTORIALS = ROOT / "tutorials"
sys.path.insert(0, str(TUTORIALS))
import api_reference  # noqa: E402

MATH, MAP = ((TUTORIALS / name).read_text(encoding="utf-8") for name in ("math.md", "map.md"))
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
        path, _, anchor = link.partition("#")
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
        found = [
            module for module in api_reference.MODULES if api_reference.file_of(module) == file
        ]
        assert found, file
        prefix = f"minimixce.{found[0]}."
        assert name.startswith(prefix), (name, file)
        assert name.removeprefix(prefix) in READ[api_reference.page_of(found[0])].ids, name
    for file, name in tests:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (
            f"{file}::{name}"
        )
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

    of_samples = set(public(estimators, "model", "world", "rows")) - {"score"}
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


# ---- the API reference ---------------------------------------------------------------------------

PAGES = api_reference.pages()
WITHOUT_WORDS = {"Job.name"}  # says it all


READ = {file: Page(body) for file, (_, body) in PAGES.items()}


FILES = {}  # {module: path in the package} of every file that can have a page
for file in api_reference.FILES:
    path = file.relative_to(api_reference.PACKAGE)
    if path.name != "__main__.py" and str(path) != "__init__.py":
        FILES[".".join(part for part in path.with_suffix("").parts if part != "__init__")] = path
HEART = {name for name, path in FILES.items() if len(path.parts) == 1}


def public_names(module):
    """Functions and classes that a module defines, methods as Class.method; those of a private
    base are the class's own."""
    names = set()
    for key, thing in vars(module).items():
        if key.startswith("_") or getattr(thing, "__module__", "") != module.__name__:
            continue
        names.add(key)
        for base in thing.__mro__ if isinstance(thing, type) else ():
            is_own = base is thing or (
                base.__name__.startswith("_") and base.__module__ == module.__name__
            )
            if is_own and not hasattr(base, "_fields"):
                members = [
                    name
                    for name, value in vars(base).items()
                    if callable(value) or isinstance(value, property | classmethod)
                ]
                names |= {f"{key}.{name}" for name in members if not name.startswith("_")}
    return names


def test_pages_stand_in_the_order_of_reading():
    assert [*PAGES] == ["api.html", *map(api_reference.page_of, api_reference.MODULES)]
    listed = [link for link in READ["api.html"].links if "#" not in link]
    assert listed == [*PAGES][1:]
    readme = (api_reference.PACKAGE / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)\.py`", readme)
    assert sorted(named) == sorted(HEART)  # each once
    heart = [name for name in api_reference.MODULES if name in HEART]
    assert heart == [name for name in named if name in heart]
    assert api_reference.MODULES[: len(heart)] == heart
    folders = {path.parts[0] for path in FILES.values()} - {f"{name}.py" for name in HEART}
    tools = readme[readme.index("The tools:") :]
    assert sorted(re.findall(r"`(\w+)/`", tools)) == sorted(folders)


@pytest.mark.parametrize("name", sorted(FILES))
def test_every_public_name_stands_there_once(name):
    module = importlib.import_module(f"minimixce.{name}")
    wanted = public_names(module)
    constants = {key for key in vars(module) if key.isupper() and not key.startswith("_")}
    if name not in api_reference.MODULES:
        assert not wanted
        return
    ids = READ[api_reference.page_of(name)].ids
    assert len(ids) == len(set(ids))
    assert wanted <= set(ids), wanted - set(ids)
    for anchor in ids:
        thing = module
        for part in anchor.split("."):
            thing = getattr(thing, part)
        assert anchor.split(".")[0] in wanted | constants, anchor


def test_every_public_name_has_a_docstring():
    for name in api_reference.MODULES:
        module = api_reference.read_module(name)
        assert module.doc
        for entry in module.entries:
            for each in (entry, *entry.methods):
                # the pair of functions beside it says what it is
                cache = each.kind == "class" and each.name.endswith("Cache")
                assert each.doc or each.kind == "constant" or cache or each.name in WITHOUT_WORDS, (
                    f"{name}.{each.name}"
                )


def test_links_between_entries_resolve():
    count = 0
    for file, page in READ.items():
        for link in page.links:
            target, _, anchor = link.partition("#")
            assert (target or file) in READ, link
            assert not anchor or anchor in READ[target or file].ids, link
            count += bool(anchor)
    assert count > 250


def test_docstrings_keep_their_lines_and_backticks_become_links():
    body = PAGES["minimixce.objectives.html"][1]
    table = next(line for line in objectives.__doc__.splitlines() if line.startswith("| js "))
    assert f"\n{table}" in body  # line structure and all
    tables = [
        text
        for text in re.findall(r'<pre class="laid">(.+?)</pre>', body, re.S)
        if text.startswith("|")
    ]
    lines = sum(text.count("\n") + 1 for text in tables)
    assert lines == objectives.__doc__.count("\n|") > 10
    body = PAGES["minimixce.exact.html"][1]
    # a break that only the width of the source made
    assert "A sequence x has at most T−1 ordinary tokens" in body
    assert "objective: str=&quot;mixce_star&quot;" in body
    assert (
        '<a href="minimixce.backend.html#rng">backend.rng</a>' in PAGES["minimixce.layers.html"][1]
    )
    assert '<a href="minimixce.exact.html#loss_and_grads">' not in body  # its own page: no detour
    assert "−inf where P = 0" not in body  # which is in a private class
    assert "−inf where impossible" in PAGES["minimixce.automaton.html"][1]  # beside a field


def test_the_reader_sees_a_tag_that_is_not_closed():
    with pytest.raises(AssertionError):
        Page("<p><code>x</p></code>")
    with pytest.raises(AssertionError):
        Page("<section><p>x</p>")
