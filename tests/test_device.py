"""The package on a GPU, played by strict_device: the same numbers as NumPy's, no hidden copy, no
wait for the device.
"""

import inspect
import subprocess
import sys
import types

import numpy as np
import pytest
import strict_device as sd

import minimixce as mm
from minimixce import backend, objectives, text
from minimixce.experiments import selfcheck
from minimixce.optim import AdamW, clip_grads

CONFIG = {"vocab_size": 7, "block_size": 6, "n_layer": 2, "n_head": 2, "n_embd": 8}
OBJECTIVES = {
    "mle": {},
    "mixce": {"eta": 0.3},
    "mixce_surrogate": {"eta": 0.3},
    "tailr": {"gamma": 0.2},
    "emo": {"cost_embedding": "wte.weight"},
}


def gpt(xp, dtype="float64", dropout=0.0, scale=20.0):
    """A small GPT on the CPU or the strict device, with weights large enough that every part of it
    matters.
    """
    model = mm.GPT(mm.GPTConfig(**CONFIG, dropout=dropout, dtype=dtype), seed=1, device="cpu")
    model.params = {
        name: xp.asarray(p * scale if p.ndim > 1 else p) for name, p in model.params.items()
    }
    return model


def batch(xp, rows=3, time=5, soft=False, dtype="float64"):
    rng = np.random.default_rng(2)
    tokens = (
        rng.dirichlet(np.ones(7), (rows, time)).astype(dtype)
        if soft
        else rng.integers(0, 7, (rows, time))
    )
    targets = rng.integers(-1, 7, (rows, time))
    return xp.asarray(tokens), xp.asarray(targets)


def loss_of(model, logits, targets, name):
    options = {
        key: model.params[value] if isinstance(value, str) else value
        for key, value in OBJECTIVES[name].items()
    }
    return getattr(objectives, name)(logits, targets, **options)


def assert_same(on_device, on_cpu):
    """Of one dtype and shape, and equal except for the order in which embedding gradients are added
    up.
    """
    assert type(on_device) is sd.ndarray
    on_device = on_device.get()
    assert (on_device.dtype, on_device.shape) == (
        np.asarray(on_cpu).dtype,
        np.asarray(on_cpu).shape,
    )
    tolerance = (
        4 * np.finfo(on_device.dtype).eps * max(1, np.abs(on_cpu).max(initial=0))
        if on_device.dtype.kind == "f"
        else 0
    )
    np.testing.assert_allclose(on_device, on_cpu, rtol=0, atol=tolerance)


def assert_all_same(on_device, on_cpu):
    assert on_device.keys() == on_cpu.keys()
    for name, value in on_device.items():
        assert_same(value, on_cpu[name])


# ---- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("soft", [False, True], ids=["ids", "one-hots"])
def test_training_steps_equal_numpys_and_never_wait(name, dtype, soft):
    def train(xp):
        model, rng = gpt(xp, dtype, dropout=0.2), backend.rng(5, xp)
        tokens, targets = batch(xp, soft=soft, dtype=dtype)
        # 1e-8 would blow up the rounding noise of zero gradients
        optimizer = AdamW(model.params, lr=0.01, eps=1e-3)
        for _ in range(2):
            grads = None
            for part in (slice(0, 2), slice(2, 3)):  # gradients of two parts, accumulated
                logits, cache = model.forward(tokens[part], training=True, rng=rng)
                loss, dlogits = loss_of(model, logits, targets[part], name)
                grads = model.backward(dlogits, cache, grads)
            norm = clip_grads(grads, 0.5)
            optimizer.step(grads, lr=0.02)
        return model.params, grads, {"logits": logits, "loss": loss, "norm": norm}

    with sd.no_host_reads():
        on_device = train(sd)
    for got, expected in zip(on_device, train(np)):
        assert_all_same(got, expected)
    assert on_device[2]["loss"].shape == () == on_device[2]["norm"].shape


@pytest.mark.parametrize("name", OBJECTIVES)
def test_per_token_losses_and_normalizer_never_wait(name):
    def both(xp):
        model, (tokens, targets) = gpt(xp), batch(xp)
        logits, _ = model.forward(tokens)
        options = {
            key: model.params[value] if isinstance(value, str) else value
            for key, value in OBJECTIVES[name].items()
        }
        objective = getattr(objectives, name)
        return (
            *objective(logits, targets, **options, reduction="none"),
            *objective(logits, targets, **options, normalizer=40),
        )

    with sd.no_host_reads():
        on_device = both(sd)
    for got, expected in zip(on_device, both(np)):
        assert_same(got, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_past_shared_by_rows_equals_numpys_and_never_waits(dtype):
    def run(xp):
        model, (tokens, targets) = gpt(xp, dtype), batch(xp, rows=6, time=3)
        _, past, prefix_cache = model.extend_forward(tokens[:2, :2])
        logits, present, cache = model.extend_forward(tokens, past)
        _, dlogits = objectives.mixce(logits, targets)
        dpresent = [type(kv)(kv.k * 0.5, kv.v - 1) for kv in present]
        _, dpast, grads = model.extend_backward(dlogits, dpresent, cache)
        _, none, grads = model.extend_backward(
            xp.zeros((2, 2, 7), dtype=dtype), dpast, prefix_cache, grads
        )
        assert none is None
        return {
            **grads,
            "logits": logits,
            **{f"dpast {i}": x for i, x in enumerate(x for kv in dpast for x in kv)},
        }

    with sd.no_host_reads():
        on_device = run(sd)
    assert_all_same(on_device, run(np))


@pytest.mark.slow  # 6 s of every forward, backward and objective once more
def test_every_check_passes_on_the_device(monkeypatch):
    """Every layer and objective, and the whole model with dropout, through the numerical
    derivative.
    """
    monkeypatch.setattr(
        backend, "select_device", lambda device="auto": np if device == "cpu" else sd
    )
    before = sd.host_reads
    reports = dict(selfcheck.check_everything("cuda"))
    assert len(reports) >= 17
    assert sd.host_reads > before  # it was this device that computed
    assert not [title for title, report in reports.items() if not report.ok]


# ---- generation ----------------------------------------------------------------------------------

SAMPLING = [
    {},
    {"temperature": 0.7},
    {"temperature": 0},
    {"top_k": 3},
    {"top_k": 100},
    {"top_p": 0.8},
    {"temperature": 1.5, "top_k": 4, "top_p": 0.5},
]


@pytest.mark.parametrize("options", SAMPLING, ids=str)
def test_generation_equals_numpys_and_never_waits(options):
    prompts = np.random.default_rng(3).integers(0, 7, (4, 2))
    with sd.no_host_reads():
        # 11 > block_size
        on_device = gpt(sd, "float32").generate(sd.asarray(prompts), 9, **options, seed=4)
    assert_same(on_device, gpt(np, "float32").generate(prompts, 9, **options, seed=4))


def test_generation_with_stop_never_waits():
    prompts = np.random.default_rng(3).integers(0, 7, (4, 2))
    with sd.no_host_reads():
        on_device = gpt(sd).generate(sd.asarray(prompts), 9, stop=2, seed=4)
    on_cpu = gpt(np).generate(prompts, 9, stop=2, seed=4)
    assert (on_cpu[:, 2:-1] == 2).any()
    assert_same(on_device, on_cpu)


# ---- mixing is caught ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_xp", "data_xp"), [(sd, np), (np, sd)], ids=["NumPy to device", "device to NumPy"]
)
def test_mixing_devices_raises_type_error(model_xp, data_xp):
    model, (tokens, targets) = gpt(model_xp), batch(model_xp)
    foreign_tokens, foreign_targets = batch(data_xp)
    soft, _ = batch(data_xp, soft=True)
    logits, cache = model.forward(tokens)
    foreign_dlogits = data_xp.asarray(np.ones((3, 5, 7)))
    foreign_grads = {name: data_xp.asarray(np.ones(p.shape)) for name, p in model.params.items()}
    for mix in (
        lambda: model.forward(foreign_tokens),
        lambda: model.forward(soft),
        lambda: model.backward(foreign_dlogits, cache),
        lambda: AdamW(model.params, lr=0.1).step(foreign_grads),
        *(lambda name=name: loss_of(model, logits, foreign_targets, name) for name in OBJECTIVES),
        lambda: objectives.emo(logits, targets, foreign_dlogits[0].T),
        lambda: clip_grads({**foreign_grads, "wte.weight": model.params["wte.weight"]}, 1.0),
    ):
        with pytest.raises(TypeError):
            mix()


def test_a_generator_of_the_other_device_raises_type_error():
    tokens, _ = batch(sd)
    with pytest.raises(TypeError):
        gpt(sd, dropout=0.5).forward(tokens, training=True, rng=np.random.default_rng(0))
    with pytest.raises(TypeError):
        gpt(sd).generate(tokens, 1, seed=np.random.default_rng(0))


# ---- the strictness itself -----------------------------------------------------------------------


def test_strict_device_refuses_numpy():
    host, index = np.arange(6.0).reshape(2, 3), np.array([0, 1])
    device, device_index = sd.asarray(host), sd.asarray(index)
    for mix in (
        lambda: np.add(device, 1),
        lambda: np.exp(device),
        lambda: np.sum(device),
        lambda: np.where(device > 0, 1, 0),
        lambda: np.concatenate([device, device]),
        lambda: np.asarray(device),
        lambda: np.array([device, device]),
        lambda: device + host,
        lambda: host + device,
        lambda: device @ host.T,
        lambda: host.T @ device,
        lambda: device == host,
        lambda: host < device,
        lambda: device * np.array(2.0),  # an array, if of one number
        lambda: host.__iadd__(device),
        lambda: device.__iadd__(host),
        lambda: device[index],
        lambda: device[index, device_index],
        lambda: device[[0, 1]],
        lambda: device.__setitem__(0, host[0]),
        lambda: host[device_index],
        lambda: host.__setitem__(0, device[0]),
        lambda: sd.exp(host),
        lambda: sd.exp([1.0, 2.0]),
        lambda: sd.sum([1.0, 2.0]),
        lambda: sd.where(device > 0, host, 0),
        lambda: sd.concatenate([host, device]),
        lambda: sd.exp(device, out=host),
        lambda: sd.vdot(host, host),
        lambda: sd.linalg.inv(host[:, :2]),
        lambda: sd.add.at(device, index, 1),
        lambda: range(device_index[0]),  # CuPy's arrays have no __index__
        lambda: host[device_index[0]],
        lambda: sd.exp(device, where=device > 0),  # keywords that CuPy lacks
        lambda: device.sum(where=device > 0),
        lambda: sd.max(device, initial=0),
        lambda: sd.random.default_rng(0).random(2, out=host),
    ):
        with pytest.raises(TypeError):
            mix()
    np.testing.assert_array_equal(host, np.arange(6.0).reshape(2, 3))
    assert_same(device, host)
    for name in ("choice", "permutation", "shuffle", "normal"):
        assert not hasattr(sd.random.default_rng(0), name)
    for missing in ("piecewise", "random_sample", "isclose"):
        assert not hasattr(sd, missing)


def test_strict_device_follows_numpy():
    x = sd.asarray(np.arange(6, dtype="float32").reshape(2, 3))
    assert (x * 2.0).dtype == (2 - x).dtype == sd.where(x > 1, x, 0).dtype == np.float32
    assert (
        (x * np.float64(2)).dtype
        == (np.float64(2) * x).dtype
        == (x / sd.asarray(np.ones(3))).dtype
        == np.float64
    )
    for reduced in (
        x.sum(),
        x.max(),
        x[0, 1],
        sd.vdot(x, x),
        x.argmax(),
        x.all(),
        sd.random.default_rng(0).random(),
    ):
        assert type(reduced) is sd.ndarray
        assert reduced.shape == ()
    view = x[1]
    view += 1
    x.T[0, 0] = 9
    sd.add.at(x, sd.asarray(np.array([0, 0])), x[1])
    assert_same(x, np.array([[17, 11, 14], [4, 5, 6]], "float32"))
    source = np.zeros(2)
    uploaded = sd.asarray(source)
    source += 1
    assert_same(uploaded, np.zeros(2))
    assert sd.asarray(uploaded) is uploaded


@pytest.mark.parametrize(
    "read",
    [
        float,
        int,
        bool,
        complex,
        repr,
        str,
        list,
        lambda x: x.item(),
        lambda x: x.get(),
        lambda x: x.tolist(),
        lambda x: f"{x[0]:.1f}",
        lambda x: x[x > 0],
        lambda x: 1.0 in x,
        lambda x: np.float64(x[0]),
    ],
)
def test_strict_device_counts_host_reads(read):
    x = sd.asarray(np.array([1.0]))
    before = sd.host_reads
    read(x[0] if read in (float, int, complex) else x)
    assert sd.host_reads > before
    with pytest.raises(AssertionError, match="host reads"), sd.no_host_reads():
        read(x[0] if read in (float, int, complex) else x)


def test_strict_device_offers_only_what_cupy_has():
    cupy = pytest.importorskip("cupy")

    def keywords(function):
        try:
            return {*inspect.signature(function).parameters}
        except ValueError:  # compiled: its docstring starts with the signature
            return {
                *function.__doc__.partition("\n")[0]
                .translate(str.maketrans("(),=", "    "))
                .split()
            }

    ufuncs = dict.fromkeys(sd.UFUNCS.split(), "out dtype casting")
    for there, here in (
        (
            cupy,
            {
                **sd.FUNCTIONS,
                **ufuncs,
                "asarray": "dtype",
                "array": "dtype",
                "ascontiguousarray": "",
            },
        ),
        (cupy.ndarray, sd.METHODS),
        (cupy.random.Generator, sd.GENERATOR),
        (cupy.linalg, sd.LINALG),
    ):
        for name, allowed in here.items():
            assert {*allowed.split()} <= keywords(getattr(there, name)), name
    members = {*vars(sd.ndarray)} - {"_hidden", "__dict__", "__weakref__"}
    assert not members - {*dir(cupy.ndarray)}
    assert not [name for name in sd.CONSTANTS if not hasattr(cupy, name)]
    assert not [name for name in sd.WITH_AT if not hasattr(getattr(cupy, name), "at")]


# ---- backend -------------------------------------------------------------------------------------


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


def test_a_training_run_stays_on_the_device(tmp_path):
    """fit, with validation, accumulation, dropout and a folder, and resumed: as on the CPU."""
    tokens = np.tile(np.arange(7), 40)
    options = {
        "accumulate": 2,
        "eval_every": 10,
        "validation": text.consecutive_batches(tokens[:50], 8, 5),
        "lr": 1e-2,
    }

    def run(xp, folder, **more):
        model = gpt(xp, dropout=0.1)
        return (
            mm.fit(
                model,
                text.random_batches(tokens, 4, 5),
                folder=folder,
                progress=False,
                steps=20,
                **options,
                **more,
            ),
            model,
        )

    on_cpu, _ = run(np, tmp_path / "cpu")
    on_device, model = run(sd, tmp_path / "device")
    assert [m["validation_loss"] for m in on_device] == pytest.approx(
        [m["validation_loss"] for m in on_cpu], rel=1e-6
    )
    assert all(type(p) is sd.ndarray for p in model.params.values())
    assert run(sd, tmp_path / "device", resume=True)[0] == on_device


def test_steps_between_measurements_read_nothing_from_the_device():
    tokens, reads = np.tile(np.arange(7), 40), {}
    for steps in (20, 80):
        before = sd.host_reads
        mm.fit(
            gpt(sd), text.random_batches(tokens, 4, 5), steps=steps, eval_every=80, progress=False
        )
        reads[steps] = sd.host_reads - before
    # the one measurement at the end: all losses in one copy, the norm
    assert reads[80] == reads[20] <= 3
