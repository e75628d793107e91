"""Everything that a GPU has to show, checked and measured by one command: python benchmarks/gpu.py

Gradient checks on the device; the same numbers there as on the CPU, of training, exact sums,
estimators, generation and files; no hidden waits; memory; every kernel against its plain form;
training steps, up to GPT-2 124M with 8 rows of 1,024 tokens, beside PyTorch. A second part runs
with CUPY_TF32=1, float32 products in tensor cores. One line a check: PASS, FAIL, FIGURE or SKIP.
The status is 1 if any has failed. All of it goes to gpu.json as well.

--device cpu or strict (a GPU played on the CPU) and --quick run the logic of the checks, not the
GPU's.
"""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

# which modules list checks, and what is run again with products in tensor cores
PARTS = ("gpu_parity", "gpu_runs", "gpu_kernels", "gpu_speed")
TF32_GROUPS = {"precision", "step", "generation"}


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, cpu or strict")
    parser.add_argument("--quick", action="store_true", help="small shapes only, a minute in all")
    parser.add_argument("--only", default="", help="groups of checks, as parity,exact")
    parser.add_argument("--out", default="gpu.json")
    parser.add_argument("--tf32", action="store_true", help="with CUPY_TF32=1, and that part alone")
    return parser.parse_args()


def describe_machine(bench):
    """A dict of names and versions."""
    import numpy

    from minimixce import backend

    found = {
        "device": backend.device_name(bench.xp),
        "Python": platform.python_version(),
        "NumPy": numpy.__version__,
        "CUPY_TF32": os.environ.get("CUPY_TF32", "0"),
        "PyTorch": bench.torch.__version__ if bench.torch else "not for this device",
    }
    if bench.is_gpu:
        runtime = bench.xp.cuda.runtime
        free, total = runtime.memGetInfo()
        found["CuPy"] = bench.xp.__version__
        found["CUDA"] = runtime.runtimeGetVersion()
        found["driver"] = runtime.driverGetVersion()
        found["memory"] = f"{free >> 30} of {total >> 30} GiB free"
        found["NCCL"] = backend.nccl(bench.xp) is not None
    return found


def with_tf32(options):
    """The checks of TF32_GROUPS in a process that has CUPY_TF32=1, which CuPy reads once."""
    wanted = TF32_GROUPS & set(options.only.split(",")) if options.only else TF32_GROUPS
    if not wanted:
        return []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "tf32.json"
        command = [sys.executable, __file__, "--device", options.device, "--tf32"]
        command += [
            "--only",
            ",".join(sorted(wanted)),
            "--out",
            str(out),
            *["--quick"] * options.quick,
        ]
        done = subprocess.run(command, env=os.environ | {"CUPY_TF32": "1"})
        if not out.exists():
            state = f"ended with status {done.returncode}"
            return [{"check": "tf32", "state": "FAIL", "found": state, "seconds": 0}]
        return json.loads(out.read_text(encoding="utf-8"))["checks"]


def main():
    options = arguments()
    if options.tf32:
        os.environ["CUPY_TF32"] = "1"  # before CuPy is imported
    import gpu_harness

    try:
        bench = gpu_harness.open_bench(options.device, options.quick)
    except ValueError as error:
        print(f"FAIL   {error}")
        return 1
    for part in PARTS:
        importlib.import_module(part)
    groups = {group for group in options.only.split(",") if group}
    if unknown := groups - gpu_harness.groups_of_checks():
        allowed = ", ".join(sorted(gpu_harness.groups_of_checks()))
        print(f"FAIL   --only takes {allowed}, got {', '.join(sorted(unknown))}")
        return 1
    machine = describe_machine(bench)
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    results = gpu_harness.run_checks(bench, groups, "tf32 " if options.tf32 else "")
    results += [] if options.tf32 else with_tf32(options)
    gpu_harness.write_results(options.out, machine, results)
    if not options.tf32:
        failed = [result["check"] for result in results if result["state"] == "FAIL"]
        print(f"{len(results)} checks, {len(failed)} failed{': ' if failed else ''}", end="")
        print("; ".join(failed))
    return int(any(result["state"] == "FAIL" for result in results))


if __name__ == "__main__":
    sys.exit(main())
