"""The one file that knows NumPy from CuPy: devices by name, arrays to their module, generators."""

import subprocess
import sys
import types

import numpy as np
import pytest
import strict_device as sd

import minimixce as mm
from minimixce import backend

CONFIG = {"vocab_size": 7, "block_size": 6, "n_layer": 2, "n_head": 2, "n_embd": 8}


def cupy_with(devices, used=None):
    """What backend sees of CuPy on a machine with so many GPUs."""
    cuda = types.SimpleNamespace(
        is_available=lambda: devices > 0,
        runtime=types.SimpleNamespace(getDeviceCount=lambda: devices),
        Device=lambda n: types.SimpleNamespace(use=lambda: used.append(n)),
    )
    return types.SimpleNamespace(cuda=cuda, ones=np.ones)


def no_cupy():
    raise ImportError("No module named 'cupy'")


def test_select_device_without_cupy(monkeypatch):
    monkeypatch.setattr(backend, "_cupy", no_cupy)
    assert (
        backend.select_device("cpu")
        is backend.select_device("auto")
        is backend.select_device()
        is np
    )
    for device in ("cuda", "cuda:0"):
        with pytest.raises(
            ValueError, match=rf"{device}' is not available: CuPy does not import .*pip install"
        ):
            backend.select_device(device)
    with pytest.raises(ValueError, match="CuPy does not import"):
        mm.GPT(mm.GPTConfig(**CONFIG), device="cuda")


def test_select_device_without_a_gpu(monkeypatch):
    monkeypatch.setattr(backend, "_cupy", lambda: cupy_with(devices=0))
    assert backend.select_device("cpu") is backend.select_device("auto") is np
    with pytest.raises(
        ValueError,
        match="'cuda' is not available: CuPy is installed, but finds no CUDA driver or GPU",
    ):
        backend.select_device("cuda")


def test_select_device_with_gpus(monkeypatch):
    used = []
    cupy = cupy_with(2, used)
    monkeypatch.setattr(backend, "_cupy", lambda: cupy)
    assert backend.select_device("cpu") is np
    assert backend.select_device("auto") is backend.select_device("cuda") is cupy
    assert used == []
    assert backend.select_device("cuda:1") is cupy
    assert used == [1]
    with pytest.raises(
        ValueError, match="'cuda:2' is not available: CUDA devices here are cuda:0 to cuda:1"
    ):
        backend.select_device("cuda:2")
    assert used == [1]


def test_a_gpu_that_cannot_compute_is_not_chosen(monkeypatch):
    cupy = cupy_with(1)
    cupy.ones = lambda *args, **options: 1 / 0
    monkeypatch.setattr(backend, "_cupy", lambda: cupy)
    assert backend.select_device("auto") is np
    with pytest.raises(ValueError, match="cannot compute on it"):
        backend.select_device("cuda")


def test_select_device_with_the_real_cupy_of_this_machine():
    cupy = pytest.importorskip("cupy")
    if cupy.cuda.is_available():
        assert backend.select_device("auto") is backend.select_device("cuda") is cupy
    else:
        assert backend.select_device("auto") is np
        with pytest.raises(ValueError, match="CuPy is installed, but finds no"):
            backend.select_device("cuda:0")


@pytest.mark.parametrize(
    "device",
    ["gpu", "cuda:x", "cuda:", "cuda:-1", "cuda:1\n", "CPU", "", 3, None, np, ["cpu"]],
    ids=repr,
)
def test_select_device_rejects_other_names(device):
    with pytest.raises(ValueError, match='device must be "auto", "cpu", "cuda" or "cuda:N"'):
        backend.select_device(device)


def test_array_module(monkeypatch):
    assert backend.array_module(np.zeros(2)) is np
    assert backend.array_module(sd.asarray(np.zeros(2))) is sd
    framework = types.ModuleType("framework")
    framework.Tensor = type(
        "Tensor", (), {"__module__": "framework._C", "shape": (), "dtype": "float32"}
    )
    monkeypatch.setitem(sys.modules, "framework", framework)
    for x in ([1.0], (), 1.0, 3, None, "a", framework.Tensor(), object()):
        with pytest.raises(
            TypeError, match=f"expected a NumPy or CuPy array, got {type(x).__name__}"
        ):
            backend.array_module(x)


def test_to_numpy():
    x = np.arange(3.0)
    assert backend.to_numpy(x) is x
    assert backend.to_numpy(x[0]) == 0
    before = sd.host_reads
    assert type(backend.to_numpy(sd.asarray(x))) is np.ndarray
    assert sd.host_reads == before + 1


@pytest.mark.parametrize("seed", [-1, 1.5, True, "a", None, [1], np.array([1, 2])], ids=repr)
def test_rng_rejects_what_is_not_a_seed(seed):
    with pytest.raises(
        ValueError, match="seed must be a non-negative integer or a random generator"
    ):
        backend.rng(seed, np)


def test_rng_draws_by_the_seed_on_its_device_and_passes_generators_through():
    for seed in (0, 7, np.int32(7)):
        np.testing.assert_array_equal(
            backend.rng(seed, np).random(3), np.random.default_rng(int(seed)).random(3)
        )
    for generator in (np.random.default_rng(0), sd.random.default_rng(0)):
        assert backend.rng(generator, np) is generator
    assert type(backend.rng(0, sd).random(3)) is sd.ndarray


def test_importing_the_package_imports_no_other_framework():
    script = (
        "import sys, minimixce; print(sorted({'cupy', 'cupyx', 'torch', 'matplotlib', 'autograd'} &"
        " sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
