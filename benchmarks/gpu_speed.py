"""How fast is a GPU, and what does it hold: products, training steps beside PyTorch, generation,
exact trees, memory.
"""

import functools
import math
import time
from collections import defaultdict

import numpy as np

import minimixce as mm
from gpu_harness import Skip, below, check, far, random_gpt, seconds_of
from minimixce import backend, exact, exact_tree, gpt, layers, objectives, worlds
from minimixce.fast import generation, kernels
from minimixce.training import evaluation, steps

GPT2 = (12, 12, 768, 1024, 8, 50257)  # layers, heads, channels, T, batch, V
SHAPES = {
    "1/2/16": (1, 2, 16, 16, 2, 23),
    "2/4/128, the command's": (2, 4, 128, 64, 12, 65),
    "4/4/128": (4, 4, 128, 64, 12, 65),
    "4/4/256": (4, 4, 256, 128, 16, 512),
    "6/6/384": (6, 6, 384, 256, 8, 65),
    "12/12/768, GPT-2 124M": GPT2,
}


def shapes(bench):
    """All on a GPU, except the smallest, which is for --quick."""
    if not bench.is_gpu:
        return ["1/2/16"]
    return list(SHAPES)[1:3] if bench.quick else list(SHAPES)[1:]


# ---- is the precision kept where products are in tensor cores? -----------------------------------


@check("precision: layer norm's mean is no TF32 product")
def precise_mean(bench):
    """TF32 keeps 10 bits: 1/768 is off by 2.4e-4, and a row far from 0 loses its deviations."""
    rng = np.random.default_rng(0)
    x = 10 + rng.standard_normal((64, 768))
    weight, bias = rng.standard_normal(768), rng.standard_normal(768)
    y, cache = layers.layer_norm_forward(x, weight, bias)
    dy = rng.standard_normal(y.shape)
    expected = [y, *layers.layer_norm_backward(dy, cache)]
    x, weight, bias, dy = (bench.xp.asarray(a.astype("float32")) for a in (x, weight, bias, dy))
    y, cache = gpt.layer_norm_forward(x, weight, bias)
    found = [y, *gpt.layer_norm_backward(dy, cache)]
    return below(max(far(a, b) for a, b in zip(found, expected)), 2e-5, "worst")


@check("precision: logits and gradients of a GPT, float32")
def precise_model(bench):
    """Figures: exact float32 products leave about 1e-6, TF32 about 1e-3."""
    rng = np.random.default_rng(1)
    tokens, targets = rng.integers(0, 65, (4, 64)), rng.integers(0, 65, (4, 64))

    def step(xp, dtype):
        model = random_gpt(xp, V=65, T=64, H=4, C=128, dtype=dtype, scale=1.0)
        logits, cache = model.forward(xp.asarray(tokens))
        loss, dlogits = objectives.mixce(logits.copy(), xp.asarray(targets))
        grads = model.backward(dlogits, cache)
        return {"logits": logits, "loss": loss, "gradient": grads["h.0.attn.c_attn.weight"]}

    found, expected = step(bench.xp, "float32"), step(np, "float64")
    return {name: far(found[name], expected[name]) for name in expected}


@check("precision: the next token's logits, float32")
def precise_token(bench):
    def logits(xp, dtype):
        model = random_gpt(xp, V=65, T=64, H=4, C=128, dtype=dtype, scale=1.0)
        _, past, _ = model.extend_forward(xp.asarray(np.arange(20)[None]))
        return generation.token_forward(
            xp.asarray(np.array([3])), model.params, model.config, past
        )[0]

    return {"logits": far(logits(bench.xp, "float32"), logits(np, "float64"))}


# ---- pieces --------------------------------------------------------------------------------------


@check("step: products alone, CuPy's and the kernels'")
def products(bench):
    N, C, heads, T = (8192, 768, 96, 1024) if bench.is_gpu else (64, 16, 2, 8)
    draw = backend.rng(0, bench.xp).random
    a, b = draw((N, 4 * C), dtype="float32"), draw((4 * C, C), dtype="float32")
    q, p = draw((heads, T, 64), dtype="float32"), draw((heads, T, T), dtype="float32")
    found = {}
    for what, left, right, work in (
        ("2-D", a, b, 8 * N * C * C),
        ("batched", p, q, 128 * heads * T * T),
    ):
        calls = {"CuPy": lambda left=left, right=right: left @ right}
        if bench.is_gpu:
            calls["matmul"] = lambda left=left, right=right: kernels.matmul(left, right)
        for whose, call in calls.items():
            found[f"{whose} {what} TFLOP/s"] = work / seconds_of(bench, call) / 1e12
    return found


@check("step: bandwidth and launches")
def bandwidth(bench):
    xp, shape = bench.xp, (96, 1024, 1024) if bench.is_gpu else (2, 8, 8)
    x, small = xp.zeros(shape, dtype="float32"), xp.zeros(16, dtype="float32")
    calls = {
        "copy": (lambda: x.copy(), 2),
        "in place": (lambda: x.__imul__(2.0), 2),
        "copy of transposed": (lambda: xp.ascontiguousarray(x.swapaxes(1, 2)), 2),
        "sum, last axis": (lambda: x.sum(axis=-1), 1),
        "sum, second last": (lambda: x.sum(axis=-2), 1),
    }
    found = {
        f"{name} TB/s": passes * x.nbytes / seconds_of(bench, call) / 1e12
        for name, (call, passes) in calls.items()
    }
    bench.wait()
    started = time.perf_counter()
    for _ in range(1000):
        small *= 1.0
    found["µs of Python a call"] = 1e3 * (time.perf_counter() - started)
    bench.wait()
    return found


# ---- a training step -----------------------------------------------------------------------------


def training_step(bench, name):
    if name not in shapes(bench):
        raise Skip("not at this size")
    bench.free()
    found = our_step(bench, SHAPES[name])
    bench.free()
    return found | beside_torch(bench, SHAPES[name], found["ms"])


def our_step(bench, shape):
    """Figures of one step of this package; what it made is gone at the end."""
    _, _, _, T, B, V = shape
    run, started = _step_of(bench, shape), time.perf_counter()
    loss = float(run())
    found = {"first_s": time.perf_counter() - started}
    uniform = 0.5 * math.log(V) - 0.5 / V
    if abs(loss - uniform) > 0.1:
        raise AssertionError(f"the first loss is {loss:.3f}, that of a uniform model {uniform:.3f}")
    found["ms"] = 1e3 * seconds_of(bench, run)
    found["python_ms"] = 1e3 * _enqueued(bench, run)
    found["tokens/s"] = round(1e3 * B * T / found["ms"])
    if bench.is_gpu:
        found["GiB"] = bench.xp.get_default_memory_pool().total_bytes() / 2**30
    return found | (launches(bench, run) if bench.is_gpu and bench.torch else {})


def _step_of(bench, shape):
    n_layer, n_head, C, T, B, V = shape
    model = mm.GPT(mm.GPTConfig(V, T, n_layer, n_head, C), device=bench.model_device)
    adamw = mm.AdamW(model.params, 1e-3)
    step = steps.GroupedObjective(functools.partial(objectives.mixce, eta=0.5))
    tokens = np.random.default_rng(0).integers(0, V, (B, T + 1)).astype(np.int32)

    def run():
        loss, grads = step(model, [(tokens[:, :-1], tokens[:, 1:])], 0)
        mm.optim.clip_grads(grads, 1.0)
        adamw.step(grads)
        return loss

    return run


def _enqueued(bench, run):
    """Seconds until Python has told the device all of it."""
    bench.wait()
    started = time.perf_counter()
    run()
    taken = time.perf_counter() - started
    bench.wait()
    return taken


def launches(bench, run, most=6):
    """How many kernels a call launches, how long they run, and the longest: PyTorch's profiler sees
    all of the process.
    """
    profiler, torch = bench.torch.profiler, bench.torch
    with profiler.profile(activities=[profiler.ProfilerActivity.CUDA]) as profile:
        run()
        bench.wait()
        torch.cuda.synchronize()
    kernels_of = defaultdict(lambda: [0, 0.0])
    for event in profile.events():
        microseconds = getattr(event, "device_time_total", 0)
        if microseconds > 0:
            kernels_of[event.name[:32]][0] += 1
            kernels_of[event.name[:32]][1] += microseconds / 1e3
    order = sorted(kernels_of.items(), key=lambda kernel: -kernel[1][1])
    longest = [f"{name} ×{count} {ms:.2f} ms" for name, (count, ms) in order[:most]]
    return {
        "launches": sum(count for count, _ in kernels_of.values()),
        "busy_ms": sum(ms for _, ms in kernels_of.values()),
        "longest": "; ".join(longest),
    }


def beside_torch(bench, shape, ms):
    """The same step of the same GPT in PyTorch: exact float32, TF32, bfloat16."""
    if not bench.torch:
        return {"PyTorch": "not for this device"}
    found = {}
    for mode in ("float32", "TF32", "bfloat16") if bench.is_gpu else ("float32",):
        theirs, gib = _torch_step(bench, shape, mode)
        found |= {f"torch {mode} ms": theirs, f"ratio to {mode}": ms / theirs}
        if bench.is_gpu:
            found[f"torch {mode} GiB"] = gib
    return found


def _torch_step(bench, shape, mode):
    from torch_gpt import TorchGPT, mixce, optimizer

    torch, place = bench.torch, bench.device
    n_layer, n_head, C, T, B, V = shape
    torch.backends.cuda.matmul.allow_tf32 = mode != "float32"
    torch.manual_seed(0)
    tokens = torch.randint(0, V, (B, T + 1)).to(place)
    model = TorchGPT(V, T, n_layer, n_head, C).to(place)
    adamw = optimizer(model, 1e-3)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def run():
        adamw.zero_grad()
        with torch.autocast(place.partition(":")[0], torch.bfloat16, enabled=mode == "bfloat16"):
            loss = mixce(model(inputs), targets, 0.5)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        if bench.is_gpu:
            torch.cuda.synchronize()

    if bench.is_gpu:
        torch.cuda.reset_peak_memory_stats()
    ms = 1e3 * seconds_of(bench, run)
    return ms, torch.cuda.max_memory_allocated() / 2**30 if bench.is_gpu else 0.0


for _name in SHAPES:
    check(f"step: training {_name}", 400)(functools.partial(training_step, name=_name))


# ---- the rest ------------------------------------------------------------------------------------


@check("memory: validation of GPT-2 124M", 300)
def memory_of_validation(bench):
    n_layer, n_head, C, T, _, V = GPT2 if bench.is_gpu and not bench.quick else SHAPES["1/2/16"]
    model = mm.GPT(mm.GPTConfig(V, T, n_layer, n_head, C), device=bench.model_device)
    found = {"parameters": model.num_params}
    for rows in (8, 32):
        bench.free()
        x = np.zeros((rows, T), np.int32)
        evaluation.evaluate(model, [(x, x)] * 2, functools.partial(objectives.mixce, eta=0.5))
        if bench.is_gpu:
            pool = bench.xp.get_default_memory_pool().total_bytes()
            found[f"GiB of the pool, {rows} rows"] = pool / 2**30
    free = backend.free_memory(bench.xp)
    return found if free is None else found | {"GiB free": free / 2**30}


@check("generation: tokens per second", 300)
def generation_speed(bench):
    name = "12/12/768, GPT-2 124M" if bench.is_gpu and not bench.quick else "1/2/16"
    n_layer, n_head, C, T, _, V = SHAPES[name]
    model = mm.GPT(mm.GPTConfig(V, T, n_layer, n_head, C), device=bench.model_device)
    count, found = 128 if bench.is_gpu else 8, {}
    for rows in (1, 16):
        prompt = bench.xp.ones((rows, 1), dtype=int)
        taken = seconds_of(bench, lambda prompt=prompt: model.generate(prompt, count), 3, 1)
        found[f"ms a token, {rows} rows"] = 1e3 * taken / count
        found[f"tokens/s, {rows} rows"] = round(rows * count / taken)
    return found


@check("tree: exact sums, by rows at once", 400)
def tree_speed(bench):
    """V = 6, max_len = 8, 97,656 prefixes on a GPU; the rows that a model is handed at once."""
    max_len = 8 if bench.is_gpu and not bench.quick else 4
    model = mm.GPT(mm.GPTConfig(6, 8, 2, 4, 64), device=bench.model_device)
    world, options = worlds.random_markov(6, 0.5, 0), {"objective": "two_kls", "progress": False}
    call = functools.partial(exact.loss_and_grads, model, world, max_len, **options)
    found, before = {}, exact_tree.rows_at_once
    try:
        for rows in (2048, before(bench.xp)):
            exact_tree.rows_at_once = lambda xp, rows=rows: rows
            found[f"ms, {rows} rows"] = 1e3 * seconds_of(bench, call, 3, 1)
    finally:
        exact_tree.rows_at_once = before
    return found
