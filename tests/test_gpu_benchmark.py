"""benchmarks/gpu.py, what a GPU has to show, as far as it runs without one."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_kernels import libraries, on_cpu  # noqa: F401  fixtures

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))
import gpu_harness  # noqa: E402
import gpu_kernels  # noqa: E402

BENCH = gpu_harness.Bench("cpu", np, quick=True)


def passes(bench):
    return None


def says(bench):
    return "words"


def measures(bench):
    return {"ms": 1.25, "rows": 3}


def skips(bench):
    raise gpu_harness.Skip("needs a GPU")


def fails(bench):
    gpu_harness.claim(2 > 3, "two is less than three")


def breaks(bench):
    return 1 / 0


def hangs(bench):
    time.sleep(10)


def test_a_check_passes_fails_measures_or_is_skipped(monkeypatch, capsys):
    monkeypatch.setattr(gpu_harness, "CHECKS", [])
    for function in (passes, says, measures, skips, fails, breaks, hangs):
        gpu_harness.check(f"group: {function.__name__}", 1)(function)
    gpu_harness.check("other: passes")(passes)
    monkeypatch.setattr(time, "sleep", lambda seconds: gpu_harness.signal.raise_signal(14))
    found = gpu_harness.run_checks(BENCH, {"group"}, "part ")
    assert [result["state"] for result in found] == "PASS PASS FIGURE SKIP FAIL FAIL FAIL".split()
    assert found[-1]["found"] == "TimeoutError: took more than 1 s"
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 7
    assert printed[1].split()[:4] == ["PASS", "part", "group:", "says"]
    assert "ms 1.25, rows 3" in printed[2]
    assert "AssertionError: two is less than three" in printed[4]
    assert gpu_harness.groups_of_checks() == {"group", "other"}


def test_distances_and_limits():
    far = gpu_harness.far
    assert far([1.0, 2.2], [1.0, 2.0]) == pytest.approx(0.1)
    assert far([np.inf, 1.0], [np.inf, 1.0]) == 0
    assert far([np.nan, 1.0], [0.0, 1.0]) == np.inf
    with pytest.raises(AssertionError, match="shapes"):
        far([1.0], [[1.0]])
    assert gpu_harness.worst_below({"a": 1e-9, "b": 2e-9}, 1e-8).startswith(
        "worst of 2 (b) 2.0e-09"
    )
    for value in (1e-7, np.nan):
        with pytest.raises(AssertionError, match="is above"):
            gpu_harness.below(value, 1e-8, "error")


@pytest.mark.slow
@pytest.mark.parametrize("name", gpu_kernels.CASES)
def test_kernels_are_called_as_they_are_to_be(name, on_cpu, monkeypatch):  # noqa: F811
    """The kernels' own text runs on the CPU, with the arguments that the benchmark gives them."""
    monkeypatch.setattr(
        gpu_kernels.Draw, "fast", lambda self, home, name, plain: getattr(home, name)
    )
    gpu_kernels.is_right(BENCH, gpu_kernels.CASES[name])


@pytest.mark.slow
def test_a_wrong_kernel_is_found(monkeypatch):
    def wrong(self, home, name, plain):
        return lambda *args: plain(*args) * 1.001

    monkeypatch.setattr(gpu_kernels.Draw, "fast", wrong)
    with pytest.raises(AssertionError, match=r"float64 1.00e-03 is above 1e-11"):
        gpu_kernels.is_right(BENCH, gpu_kernels.CASES["sums of columns"])


def command(*words):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "gpu.py", *words], capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("device", ["strict", "cpu"])
def test_the_whole_command_runs_without_a_gpu(device, tmp_path):
    out = tmp_path / "gpu.json"
    status, printed, errors = command("--device", device, "--quick", "--out", str(out))
    assert status == 0, printed + errors
    checks = json.loads(out.read_text(encoding="utf-8"))["checks"]
    states = [result["state"] for result in checks]
    assert states.count("PASS") >= 40
    assert states.count("FIGURE") >= 20
    assert "FAIL" not in states
    assert len(printed.splitlines()) == len(checks) + 3  # the machine, twice, and the count
    assert {name for name in ("tf32 step", "tf32 precision")} < {
        gpu_harness.group_of(result["check"]) for result in checks
    }


@pytest.mark.slow
def test_what_is_not_there_fails():
    for words, sentence in (
        (("--device", "cuda:99"), "FAIL   device 'cuda:99' is not available"),
        (("--device", "gpu"), "FAIL   device must be"),
        (("--device", "cpu", "--only", "steps"), "FAIL   --only takes claims, commands, "),
    ):
        status, printed, _ = command(*words)
        assert status == 1
        assert printed.startswith(sentence)
