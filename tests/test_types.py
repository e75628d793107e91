"""Annotations are true: mypy reads two programs, and tests run with every call checked at run time.

Without jaxtyping the names of types cost nothing, and help() shows them.
"""

import ast
import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PROGRAMS = HERE / "typing"
SETTINGS = HERE.parent / "setup.cfg"


def run(*command, cwd=HERE.parent, **variables):
    """Run Python with these arguments -> exit status, what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=environment, capture_output=True
    )
    return done.returncode, (done.stdout + done.stderr).decode()


# ---- without the extra ---------------------------------------------------------------------------


def test_jaxtyping_is_neither_needed_nor_imported():
    """What help() shows is what is written, and typing.get_type_hints can read it."""
    program = """if True:
        import inspect, sys, typing
        import minimixce as mm
        assert "jaxtyping" not in sys.modules and "beartype" not in sys.modules
        print(inspect.signature(mm.layers.linear_forward))
        print(inspect.signature(mm.GPT.forward))
        for function in vars(mm.layers).values():
            if inspect.isfunction(function):
                typing.get_type_hints(function)
    """
    status, printed = run("-c", program)
    assert status == 0, printed
    assert printed.splitlines()[0].startswith(
        '(x: Float[Array, "*rows I"], weight: Float[Array, "I O"], bias: Float[Array, "O"]) ->'
    )
    assert '(self, tokens: Int[Array, "B T"] | Float[Array, "B T V"], training: bool' in printed


# ---- nothing public without annotations ----------------------------------------------------------

PACKAGE = HERE.parent / "minimixce"
UNTYPED = ("classroom/sources/",)  # as students see it


def public_functions(tree):
    """(name, function) of what a module or a class in it offers: no underscore but __init__'s."""
    for node in tree.body:
        hidden = getattr(node, "name", "_").startswith("_")
        if isinstance(node, ast.ClassDef) and not hidden:
            yield from ((f"{node.name}.{name}", f) for name, f in public_functions(node))
        special = getattr(node, "name", "") in ("__init__", "__call__", "__getitem__", "__iter__")
        if isinstance(node, ast.FunctionDef) and (special or not hidden):
            yield node.name, node


def lacks(function):
    """What a signature does not annotate: names of parameters, "return"."""
    a = function.args
    parameters = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    untyped = [p.arg for p in parameters if p.annotation is None and p.arg not in ("self", "cls")]
    return untyped + ["return"] * (function.returns is None)


FILES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if not path.relative_to(PACKAGE).as_posix().startswith(UNTYPED)
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_public_function_is_annotated(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    untyped = {name: lacks(function) for name, function in public_functions(tree)}
    assert not {name: what for name, what in untyped.items() if what}


def test_the_rule_sees_what_is_missing():
    source = """if True:
        pass
def whole(a: int, *b: int, c: int = 0, **d: int) -> None: ...
def some(a, *b, c=0, **d) -> None: ...
def _hidden(a): ...
class Public:
    def __init__(self, x): ...
    def _hidden(self, x): ...
    @classmethod
    def made(cls, x: int): ...
class _Hidden:
    def method(self, x): ...
"""
    found = {name: lacks(function) for name, function in public_functions(ast.parse(source))}
    assert found == {
        "whole": [],
        "some": ["a", "c", "b", "d"],
        "Public.__init__": ["x", "return"],
        "Public.made": ["return"],
    }


# ---- mypy ----------------------------------------------------------------------------------------


def mypy(program, folder):
    pytest.importorskip("mypy")
    options = ("--strict", "--follow-imports=silent", "--cache-dir", folder)
    return run("-m", "mypy", *options, program)


@pytest.mark.types
def test_a_program_that_uses_every_public_name_is_clean(tmp_path):
    status, printed = mypy(PROGRAMS / "uses_everything.py", tmp_path)
    assert status == 0, printed


@pytest.mark.types
def test_that_program_runs_and_uses_every_function_of_the_heart(tmp_path):
    status, printed = run(PROGRAMS / "uses_everything.py", cwd=tmp_path)
    assert status == 0, printed
    import minimixce as mm

    text = (PROGRAMS / "uses_everything.py").read_text(encoding="utf-8")
    unused = [
        f"{module}.{name}"
        for module in ("layers", "estimators", "exact", "worlds", "objectives")
        for name in getattr(getattr(mm, module), "__all__", vars(getattr(mm, module)))
        if inspect.isfunction(function := getattr(getattr(mm, module), name))
        and function.__module__ == f"minimixce.{module}"
        and not name.startswith("_")
        and f"mm.{module}.{name}" not in text
    ]
    assert not unused


@pytest.mark.types
def test_the_package_itself_is_clean(tmp_path):
    pytest.importorskip("mypy")
    status, printed = run("-m", "mypy", "--cache-dir", tmp_path)
    assert status == 0, printed


@pytest.mark.types
def test_real_mistakes_are_found_and_nothing_else(tmp_path):
    """Every line that ends in `# wrong` has an error, no other line has one."""
    program = PROGRAMS / "mistakes.py"
    lines = program.read_text(encoding="utf-8").splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("  # wrong")}
    status, printed = mypy(program, tmp_path)
    errors = [line for line in printed.splitlines() if ": error: " in line]
    assert status == 1, printed
    assert all("mistakes.py:" in line for line in errors), printed
    assert {int(line.split(":")[1]) for line in errors} == wrong, printed


# ---- every call checked --------------------------------------------------------------------------


def checked_pytest(*arguments, cwd=HERE.parent):
    """pytest in which every call of minimixce is checked against its annotations."""
    pytest.importorskip("jaxtyping")
    pytest.importorskip("beartype")
    options = (
        "-p",
        "checked_calls",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        HERE.parent / "setup.cfg",
    )
    return run("-m", "pytest", *options, *arguments, cwd=cwd, PYTHONPATH=str(PROGRAMS))


# A test file, and which of its tests: enough to call every function of the heart, in minutes.
SELECTED = {
    "layers": "",
    "gpt": "autograd or generate or config",
    "bigram": "backward or generat",
    "objectives": "",
    "optim": "",
    "worlds": "sum_to_one or sample",
    "checks": "right_pair or located",
    "logprob": "",
    "estimators": "samples_are or gumbel_s_value",
    "exact": "0_d or any_number_of_pieces",
    "recomputing": "on_the_device or soft or arithmetic",
}


@pytest.mark.types
@pytest.mark.parametrize("name", SELECTED)
def test_tests_pass_with_every_call_checked(name):
    selection = ["-k", SELECTED[name]] if SELECTED[name] else []
    status, printed = checked_pytest(HERE / f"test_{name}.py", *selection)
    assert status == 0, printed[-5000:]


# The same for experiments, training, the command line and testing, in one process.
OF_EXPERIMENTS = {
    "measures": "test",
    "continuations": "not imports_the_library",
    "fixed_points": "not any_weight",
    "selfcheck": "test",
    "synthetic": "counts_give or js_under_p or gumbel_softmax or keeps_the_best or rloo_from",
    "world_training": "compare or measures_are_exact or where_the_space",
    "study": "a_corpus_makes or one_worker",
}


@pytest.mark.types
def test_experiments_pass_with_every_call_checked():
    files = [HERE / f"test_{name}.py" for name in OF_EXPERIMENTS]
    selection = " or ".join(f"(test_{n}.py and ({which}))" for n, which in OF_EXPERIMENTS.items())
    status, printed = checked_pytest(*files, "-k", selection)
    assert status == 0, printed[-5000:]


PLANTS = {  # a file of the package, what it says, a wrong annotation in its place, a test
    "a shape": (
        "layers.py",
        'x: Float[Array, "*rows I"], weight: Float[Array, "I O"], bias',
        'x: Float[Array, "*rows I"], weight: Float[Array, "O I"], bias',
        "test_layers.py::test_linear",
    ),
    "a result": (
        "layers.py",
        ') -> tuple[Float[Array, "*rows O"], LinearCache]:',
        ') -> tuple[Float[Array, "*rows I"], LinearCache]:',
        "test_layers.py::test_linear",
    ),
    "a field of a cache": (
        "layers.py",
        'rstd: Float[Array, "*rows 1"]',
        'rstd: Float[Array, "*rows C"]',
        "test_layers.py::test_layer_norm",
    ),
    "a kind": (
        "storage/shapes.py",
        'IdsOrOneHots: TypeAlias = Int[Array, "B T"] |',
        'IdsOrOneHots: TypeAlias = Bool[Array, "B T"] |',
        "test_layers.py::test_embedding_of_ids",
    ),
    "a number": (
        "layers.py",
        "rate: float = 0.0,",
        "rate: str = 0.0,",
        "test_layers.py::test_dropout",
    ),
    "an experiment's shape": (
        "experiments/fixed_points.py",
        '-> tuple[Float[Array, "*batch V"], Float[Array, "*batch"]]:',
        '-> tuple[Float[Array, "*batch V"], Float[Array, "*batch V"]]:',
        "test_fixed_points.py::test_one_context_is_a_row_of_many",
    ),
    "an experiment's result": (
        "experiments/measures.py",
        "def diversity(ids: Ids, longest: int = 4) -> float:",
        "def diversity(ids: Ids, longest: int = 4) -> str:",
        "test_measures.py::test_diversity_counts_distinct_ngrams",
    ),
    "a field of an experiment's class": (
        "experiments/world_measures.py",
        "    rows: Rows\n",
        '    rows: Float[Array, "n L"]\n',
        "test_measures.py::test_functions_of_the_table_say_what_the_exact_sums_say",
    ),
}


@pytest.mark.types
@pytest.mark.parametrize("plant", PLANTS)
def test_a_wrong_annotation_makes_them_fail(plant, tmp_path):
    file, right, wrong, test = PLANTS[plant]
    ignored = shutil.ignore_patterns("__pycache__")
    copy = shutil.copytree(HERE.parent / "minimixce", tmp_path / "minimixce", ignore=ignored)
    source = (copy / file).read_text(encoding="utf-8")
    assert source.count(right) == 1
    (copy / file).write_text(source.replace(right, wrong), encoding="utf-8")
    status, printed = checked_pytest(HERE / test, cwd=tmp_path)
    assert status == 1, printed[-3000:]
    assert "TypeCheckError" in printed
