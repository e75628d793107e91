"""What the package promises beyond what it computes: one version, few imports, its entry points."""

import io
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest

import minimixce as mm
from minimixce import cli

ROOT = Path(__file__).parent.parent


def test_the_version_stands_in_one_place_and_the_files_that_repeat_it_agree():
    assert "version = attr: minimixce.__version__" in (ROOT / "setup.cfg").read_text()
    (cited,) = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)
    (latest, *_) = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert cited == latest == mm.__version__


def test_version_says_what_a_report_needs(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    package, python, numpy, cupy, device = capsys.readouterr().out.splitlines()
    assert package == f"minimixce {mm.__version__}"
    assert python.startswith(f"Python {platform.python_version()}")
    assert numpy.startswith(f"NumPy {np.__version__}, ")
    assert re.search(r"\b\d+ threads?$|threads unknown", numpy)
    assert cupy.startswith("CuPy ")
    assert device.startswith("device ")


WITHOUT = """
import sys

for name in ("tqdm", "safetensors", "matplotlib", "threadpoolctl", "hypothesis"):
    sys.modules[name] = None  # importing it raises ImportError

import numpy as np
import minimixce as mm

model = mm.GPT(mm.GPTConfig(vocab_size=6, block_size=3, n_layer=1, n_head=2, n_embd=8))
logits, cache = model.forward(np.array([[0, 1, 2]]))
loss, dlogits = mm.objectives.mixce(logits, np.array([[1, 2, 0]]), eta=0.5)
model.backward(dlogits, cache)
model.generate(np.array([[0]]), 2)

world = mm.worlds.agreement()
mm.exact.loss_and_grads(model, world, max_len=4, objective="two_kls")
mm.exact.measure(model, world, max_len=4)
rows = mm.estimators.sample(model, 8, max_len=4, seed=0)
mm.estimators.rloo(model, world, rows)

assert mm.gradcheck(lambda x: (x**2, x), lambda dy, x: 2 * x * dy, [np.ones(3)]).ok
from minimixce.testing import assert_gradients
assert_gradients(lambda x: (x**2, x), lambda dy, x: 2 * x * dy, np.ones(3))
print("done")
"""


def test_models_exact_sums_and_gradient_checks_need_numpy_alone():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("done", 0), done.stderr[-2000:]


def test_pytest_finds_the_fixture_by_an_entry_point():
    """Set up anew after a change of setup.cfg: pip install -e ."""
    found = {point.value for point in entry_points(group="pytest11")}
    assert "minimixce.testing.plugin" in found


def test_reports_and_proposals_ask_for_the_versions():
    templates = [*(ROOT / ".github").rglob("*.md")]
    assert len(templates) == 3
    assert all("minimixce --version" in path.read_text(encoding="utf-8") for path in templates)


# ---- wheels --------------------------------------------------------------------------------------

PARTS = ("pyproject.toml", "setup.cfg", "README.md", "LICENSE", "minimixce", "data", "tutorials")
RELEASES = """
import sys
from pathlib import Path

import minimixce
from minimixce.classroom import release
from minimixce.classroom.assignments import NAMES
from minimixce.classroom.grader import exports

out = Path(sys.argv[1])
assert Path(sys.argv[2]) in Path(minimixce.__file__).parents
assert len(minimixce.worlds.stories().words) > 50
for name in (*NAMES, release.EXPERIMENT):
    release.write(name, out / name)
exports.write_gradescope("a1", out / "kit")
"""


def contents(folder):
    """{path: bytes} of the files in a folder and of those in its archives."""
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    found = {path.as_posix(): file.read_bytes() for path, file in found.items()}
    for path in [path for path in found if path.endswith(".zip")]:
        with zipfile.ZipFile(io.BytesIO(found.pop(path))) as archive:
            found |= {f"{path}/{name}": archive.read(name) for name in archive.namelist()}
    return found


@pytest.mark.slow
def test_what_a_wheel_releases_is_what_a_clone_releases(tmp_path):
    """Built from a copy, because a build leaves files behind."""
    source, environment = tmp_path / "source", tmp_path / "environment"
    for part in PARTS:
        if (ROOT / part).is_dir():
            left_out = shutil.ignore_patterns("__pycache__", "results", "figures", "runs")
            shutil.copytree(ROOT / part, source / part, ignore=left_out)
        else:
            source.mkdir(exist_ok=True)
            shutil.copyfile(ROOT / part, source / part)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path)]
    subprocess.run([*pip, str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    folder = environment / ("Scripts" if sys.platform == "win32" else "bin")
    subprocess.run([str(folder / "pip"), "install", "-q", str(wheel)], check=True)
    for python, place, cwd in (
        (folder / "python", environment, tmp_path),
        (sys.executable, source, source),
    ):
        run = [str(python), "-c", RELEASES, str(tmp_path / "out" / place.name), str(place)]
        done = subprocess.run(run, cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    of_wheel, of_clone = (contents(tmp_path / "out" / p.name) for p in (environment, source))
    assert len(of_wheel) > 150
    assert of_wheel == of_clone
