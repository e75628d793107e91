"""The examples in docstrings are what Python answers."""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest

import minimixce as mm

# __main__ runs the program, and the classroom has pieces of assignments and a program of its own
LEFT_OUT = ("minimixce.__main__", "minimixce.classroom")
MODULES = [
    info.name
    for info in pkgutil.walk_packages(mm.__path__, "minimixce.")
    if not info.name.startswith(LEFT_OUT)
]


def examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in MODULES:
        # what every example may use, as in the README
        found = finder.find(importlib.import_module(name), name, globs={"np": np, "mm": mm})
        yield from (example for example in found if example.examples)


EXAMPLES = {example.name: example for example in examples()}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_says_what_python_answers(name):
    said = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(EXAMPLES[name], out=said.append, clear_globs=False)
    assert not runner.summarize(verbose=False).failed, "".join(said)


def test_an_example_is_short():
    """One to four lines of code, so that help() stays easy to read."""
    lines = {n: sum(e.source.count("\n") for e in x.examples) for n, x in EXAMPLES.items()}
    assert not {name: count for name, count in lines.items() if count > 4}


def test_the_most_used_names_have_examples():
    most_used = {
        "checks.gradcheck",
        "estimators.rloo",
        "exact.loss_and_grads",
        "model.LanguageModel.generate",
        "objectives.mixce",
        "objectives.mle",
        "training.loop.fit",
        "worlds.agreement",
        "worlds.markov",
    }
    assert {f"minimixce.{name}" for name in most_used} <= EXAMPLES.keys()
