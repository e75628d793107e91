"""The package on a GPU, played by strict_device: the same numbers as NumPy's, no hidden copy, no
wait for the device.
"""

import numpy as np
import pytest
import strict_device as sd

import minimixce as mm
from minimixce import backend, objectives, text
from minimixce.experiments import jobs, selfcheck
from minimixce.model import likeliest
from minimixce.optim import AdamW, clip_grads
from minimixce.storage import memory

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


@pytest.mark.parametrize("options", [{"top_k": np.int64(3)}, {"stop": np.int32(2)}], ids=str)
def test_options_may_be_numpys_integers(options):
    """CuPy's partition takes none."""
    prompts, plain = sd.asarray(np.array([[1, 2]])), {name: int(x) for name, x in options.items()}
    on_device = gpt(sd).generate(prompts, np.int64(9), **options, seed=4)
    assert_same(on_device, gpt(sd).generate(prompts, 9, **plain, seed=4).get())
    values = sd.asarray(np.array([[0.1, 0.4, 0.2, 0.3]]))
    assert likeliest(values, np.int64(2)).get().tolist() == [[False, True, False, True]]


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


# ---- what a device does not look at -----------------------------------------------------------


def test_ids_on_a_device_wrap_around_unless_they_are_checked():
    model, outside = gpt(sd), sd.asarray(np.array([[7, -1]]))
    (wrapped, _), (same, _) = (model.forward(x) for x in (outside, sd.asarray(np.array([[0, 6]]))))
    assert_same(wrapped, same.get())
    with pytest.raises(ValueError, match=r"^prompts must be in 0 … 6, got -1 … 7$"):
        backend.check_ids("prompts", outside, 7)
    with pytest.raises(ValueError, match=r"^targets must be in 0 … 6, or −1, got -1 … 7$"):
        backend.check_ids("targets", outside, 7, ignored=True)
    backend.check_ids("targets", outside, 8, ignored=True)
    backend.check_ids("ids", outside[:, :0], 8)
    with pytest.raises(ValueError, match=r"token ids must be in 0 … 6, got -1 … 7"):
        gpt(np).forward(outside.get())


def test_memory_is_that_of_the_device(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 10 << 30)
    monkeypatch.setattr(sd, "MEMORY", [3 << 30, 80 << 30])
    assert backend.free_memory(np) is None
    assert backend.free_memory(sd) == 4 << 30  # with what the pool holds
    for xp, most in ((np, 10 << 30), (sd, 4 << 30)):
        memory.check(most, "this", "make it smaller", xp)
        with pytest.raises(MemoryError, match=r"^this needs more than"):
            memory.check(most + 1, "this", "make it smaller", xp)
    with pytest.raises(
        MemoryError,
        match=r"there is 4,096 MiB free on cuda:0 \(a GPU played on the CPU\); make it smaller",
    ):
        memory.check(5 << 30, "this", "make it smaller", sd)


def test_training_is_refused_that_the_device_cannot_hold(monkeypatch):
    config = mm.GPTConfig(50257, 1024, 12, 12, 768)
    monkeypatch.setattr(memory, "available", lambda: 2 << 30)
    with pytest.raises(MemoryError, match=r"training this model needs more than .* free on cuda:0"):
        jobs.check_memory(config, 8, 1, sd)
    with pytest.raises(MemoryError, match=r"training this model needs more than .* 2,048 MiB; "):
        jobs.check_memory(config, 8, 1, np)
    jobs.check_memory(mm.GPTConfig(65, 64, 2, 4, 128), 12, 1, sd)
    # what training one step of it took, measured, must not be refused
    monkeypatch.setattr(memory, "available", lambda: 437 << 20)
    jobs.check_memory(mm.GPTConfig(65, 256, 6, 6, 384), 8, 1, np)
    monkeypatch.setattr(memory, "available", lambda: 1 << 20)
    with pytest.raises(MemoryError, match="making this model's weights needs more than"):
        jobs.check_memory(config, 8, 1, sd)


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
