"""What tutorials/add_your_own.md tells a reader to paste into the package is pasted into a copy of
it; then the page's own tests and commands run there.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "tutorials" / "add_your_own.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.M | re.S)
PLACE = re.compile(r"# (\S+\.py)(?:, (above|a row of) (\w+))?\n")


def paste(folder, block):
    """Put a block where its first line says: above a table, into it, or at the end of a file, which
    may be a new one.
    """
    place = PLACE.match(block)
    assert place, f"a block that names no file: {block[:60]}"
    name, where, table = place.groups()
    path, code = folder / name, block[place.end() :]
    assert path.exists() or name.startswith("tests/"), name
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if where:
        before, start, after = text.partition(f"\n{table} = {{")
        assert start, f"{name} has no table {table}"
        added = f"\n\n{code}\n{start}" if where == "above" else f"{start}\n{code}"
        text = before + added + after
    else:
        text = f"{text}\n\n{code}"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clone")
    for name in ("minimixce", "data"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for kind, block in BLOCKS:
        if kind == "python":
            paste(folder, block)
    return folder


SMALL_MODEL = ["--n-layer", "1", "--n-embd", "8", "--n-head", "1"]
SMALL = {"train": SMALL_MODEL, "compare": SMALL_MODEL}
END = "# ---- the end of a command\n"
# each argument is the words of a command, as JSON: one process imports the package once
ONE_PROCESS = f"""
import json, sys
from minimixce import cli
for n, words in enumerate(sys.argv[1:]):
    if n:
        print({END!r}, end="")
    assert cli.main(json.loads(words)) == 0, words
"""


def run(copy, *arguments):
    """Python in the copy -> what it printed."""
    environment = {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env=os.environ | environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


@pytest.mark.slow
def test_the_tests_of_the_page_pass(copy):
    files = sorted(path.name for path in (copy / "tests").glob("test_*.py"))
    assert files == ["test_brackets.py", "test_lengths.py", "test_power.py", "test_rms_norm.py"]
    found = run(copy, "-c", "import minimixce; print(minimixce.__file__)").strip()
    assert found == str(copy / "minimixce" / "__init__.py")
    assert "8 passed" in run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")


@pytest.mark.slow
def test_its_rows_show_up_in_checks_tables_and_files(copy):
    (commands,) = (block.splitlines() for kind, block in BLOCKS if kind == "sh")
    (copy / "story.txt").write_text("The cat sat on the mat. The dog sat on the log.\n" * 50)
    programs = [shlex.split(command) for command in commands]
    assert {name for name, *_ in programs} == {"minimixce"}
    words = [[command, *rest, *SMALL.get(command, [])] for _, command, *rest in programs]
    shown = run(copy, "-c", ONE_PROCESS, *map(json.dumps, words))
    gradcheck, on_world, world_measures, comparison, on_text, text_measures = shown.split(END)
    assert "power" in gradcheck
    assert "power" in on_world
    assert "power" in on_text
    assert re.search(r"^length +\d", world_measures, re.M)
    assert "word length" in text_measures
    assert "power γ=0.3" in comparison
    assert "length" in comparison
    header, *_ = (copy / "comparison" / "table.csv").read_text(encoding="utf-8").splitlines()
    assert "length" in header.split(",")
