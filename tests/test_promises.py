"""The page of promises: what it names exists, and its numbers are those of the last campaign."""

import ast
import importlib.util
import json
import re
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PAGE = (ROOT / "tutorials/promises.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/\w+\.py)::(\w+)`", PAGE)))


def test_every_test_that_the_page_names_exists():
    assert len(NAMED) > 15
    functions = {}
    for file in {file for file, _ in NAMED}:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        functions[file] = {f.name for f in tree.body if isinstance(f, ast.FunctionDef)}
    for file, name in NAMED:
        assert name in functions[file], f"{file}: {name}"
    for file in re.findall(r"`((?:tests|benchmarks)/[\w/]+\.\w+)", PAGE):
        assert (ROOT / file).is_file(), file


def test_every_promise_has_a_test():
    """In the tables under a heading that has tests, each line names one."""
    for table in re.findall(r"\| promise \|.*?\n\n", f"{PAGE}\n\n", re.S):
        for line in table.strip().splitlines()[2:]:
            assert "tests/" in line or "| the same" in line, line


def campaign():
    """tests/campaigns/faults.py as a module."""
    path = TESTS / "campaigns/faults.py"
    spec = importlib.util.spec_from_file_location("campaign_of_faults", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_and_the_date_are_those_of_the_last_campaign():
    of_faults = campaign()
    found = json.loads((TESTS / "campaigns/faults.json").read_text(encoding="utf-8"))
    assert "\n".join(of_faults.table(found)) in PAGE
    assert found["date"] in PAGE
    assert f"{found['total']['tried']:,} trials" in PAGE
    assert {line["command"] for line in found["lines"]} == {*of_faults.PLAN, "folders"}
    assert found["total"]["stuck"] == found["total"]["unequal"] == 0
