"""Is a GPU right, continued: generation, run folders, what is refused, hidden waits, commands."""

import functools
import importlib.util
import math
import os
import subprocess
import sys
import tempfile
import threading

import numpy as np

import minimixce as mm
from gpu_harness import (
    TESTS,
    Skip,
    below,
    check,
    claim,
    counted_reads,
    far,
    far_by_name,
    host,
    random_gpt,
)
from minimixce import backend, exact, objectives, text, training, worlds

V = 23
TOKENS = np.tile(np.arange(V), 30)


def ids(x):
    """Token ids as NumPy's integers."""
    return host(x).astype(int)


# ---- the claims about CuPy -----------------------------------------------------------------------


@check("claims: strict_device does what CuPy does", 300)
def claims_about_cupy(bench):
    """The tests of the fake device; where there is a GPU they put the same claims to CuPy."""
    if importlib.util.find_spec("pytest") is None:
        raise Skip("needs pytest")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, str(TESTS / "test_strict_device.py")], capture_output=True, text=True
    )
    last = (done.stdout.strip() or done.stderr.strip()).splitlines()[-1:]
    claim(done.returncode == 0, " ".join(last) or f"status {done.returncode}")
    return last[0]


# ---- generation ----------------------------------------------------------------------------------


@check("generate: greedy as on the CPU, past the window")
def greedy(bench):
    prompt = np.random.default_rng(6).integers(0, V, (3, 4))
    found, expected = (
        ids(random_gpt(xp).generate(xp.asarray(prompt), 40, temperature=0)) for xp in (bench.xp, np)
    )
    differing = int((found != expected).sum())
    claim(differing == 0, f"{differing} of {found.size} differ")
    return f"{found.size} tokens"


SAMPLING = (
    {},
    {"top_k": 5},
    {"top_p": 0.7},
    {"temperature": 1.7, "top_k": 9, "top_p": 0.6},
    {"top_k": np.int64(5)},
)


def fair(bench, options):
    """χ² of many first tokens against the probabilities that NumPy finds for them."""
    count, model = 50000 if bench.is_gpu else 5000, random_gpt(bench.xp, scale=4.0)
    prompts = bench.xp.zeros((count, 1), dtype=int)
    drawn = ids(model.generate(prompts, 1, seed=3, **options))[:, 1]
    p = _probabilities(random_gpt(np, scale=4.0), options)
    counts = np.bincount(drawn, minlength=V)
    claim(len(counts) == V and counts[p == 0].sum() == 0, "an impossible token was drawn")
    expected = count * p[p > 0]
    chi2 = float(((counts[p > 0] - expected) ** 2 / expected).sum())
    degrees = max(1, len(expected) - 1)
    return below((chi2 - degrees) / math.sqrt(2 * degrees), 5, f"χ² of {degrees}, z")


def _probabilities(model, options):
    z = model.forward(np.zeros((1, 1), int))[0][0, -1] / options.get("temperature", 1.0)
    if "top_k" in options:
        z[z < np.sort(z)[-int(options["top_k"])]] = -np.inf
    p = np.exp(z - z.max())
    p /= p.sum()
    if "top_p" in options:
        order = np.argsort(-p)
        p[order[np.cumsum(p[order]) - p[order] >= options["top_p"]]] = 0
        p /= p.sum()
    return p


for _options in SAMPLING:
    check(f"generate: fair with {_options}")(functools.partial(fair, options=_options))


@check("generate: stop, 50,257 tokens")
def stop(bench):
    model = random_gpt(bench.xp, V=50257, T=8, L=1, dtype="float32")
    rows = 256 if bench.is_gpu else 4
    prompts = bench.xp.zeros((rows, 1), dtype=int)
    found = ids(model.generate(prompts, 12, stop=3, seed=1, top_p=0.9))
    claim(found.min() >= 0 and found.max() < 50257, f"ids {found.min()} … {found.max()}")
    claim((found[np.cumsum(found == 3, axis=1) > 0] == 3).all(), "tokens follow the stop")
    return f"{found.shape}"


# ---- runs ----------------------------------------------------------------------------------------


@check("files: a run resumed, and opened on the CPU")
def resumed_run(bench):
    batches, xp = text.random_batches(TOKENS, 4, 16), bench.xp
    options = {"eval_every": 5, "progress": False, "lr": 1e-2, "steps": 20}

    def model():
        return random_gpt(xp, dropout=0.1, scale=3.0)

    with tempfile.TemporaryDirectory() as folder:
        whole = mm.fit(model(), batches, **options)
        mm.fit(model(), [batches[k] for k in range(10)], folder=folder, **options)  # stopped
        last = model()
        resumed = mm.fit(last, batches, folder=folder, resume=True, **options)
        on_cpu = mm.GPT.load(folder, "cpu")
    x = TOKENS[None, :16]
    losses = far([m["loss"] for m in resumed], [m["loss"] for m in whole])
    logits = far(last.forward(xp.asarray(x))[0], on_cpu.forward(x)[0])
    return f"{below(losses, 1e-6, 'losses')}; {below(logits, 1e-9, 'logits')}"


@check("files: does a run repeat bit for bit?")
def repeated_run(bench):
    runs = []
    for _ in range(2):
        model = random_gpt(bench.xp, dtype="float32", scale=3.0)
        mm.fit(model, text.random_batches(TOKENS, 16, 16), steps=20, progress=False)
        runs.append({name: host(p) for name, p in model.params.items()})
    equal = sum(np.array_equal(runs[0][name], p) for name, p in runs[1].items())
    return {"tensors": len(runs[0]), "equal": equal, "worst": far_by_name(*runs)}


@check("refused: what a device must refuse")
def refusals(bench):
    xp = bench.xp
    if xp is np:
        raise Skip("needs a device")
    model, batches = random_gpt(xp, dtype="float32"), text.random_batches(TOKENS, 4, 16)
    on_host, here = np.zeros((1, 4), int), xp.zeros((1, 4), dtype=int)
    logits, cache = model.forward(here)
    outside = [(np.full((1, 4), V), on_host)]
    calls = {
        "shards": lambda: mm.fit(model, batches, steps=1, shards=2, progress=False),
        "ids out of range, in fit": lambda: mm.fit(model, outside, progress=False),
        "ids out of range, asked": lambda: backend.check_ids("ids", xp.asarray(outside[0][0]), V),
        "NumPy's ids": lambda: model.forward(on_host),
        "NumPy's targets": lambda: objectives.mle(logits, on_host),
        "NumPy's dlogits": lambda: model.backward(host(logits).astype("float32"), cache),
        "asarray of NumPy": lambda: np.asarray(logits),
        "NumPy's generator": lambda: model.generate(here, 1, seed=np.random.default_rng(0)),
    }
    for what, call in calls.items():
        try:
            call()
        except (ValueError, TypeError):
            continue
        raise AssertionError(f"{what}: not refused")
    return f"{len(calls)} refusals"


@check("refused: ids out of range wrap around unasked")
def wrapped_ids(bench):
    if bench.xp is np:
        raise Skip("needs a device")
    model = random_gpt(bench.xp)
    outside, same = (host(model.forward(bench.xp.asarray([[k]]))[0]) for k in (V, 0))
    claim(np.array_equal(outside, same), "backend.check_ids says that id V is read as id 0")


# ---- waits, threads, commands --------------------------------------------------------------------


@check("waits: steps, generation, exact tree, evaluation")
def waits(bench):
    xp, batches = bench.xp, text.random_batches(TOKENS, 4, 16)
    model = random_gpt(xp, dtype="float32", dropout=0.1)
    mm.fit(model, batches, steps=2, progress=False)
    counts = {}
    for steps in (10, 60):
        with counted_reads(bench) as reads:
            mm.fit(model, batches, steps=steps, eval_every=60, progress=False)
        counts[steps] = sum(reads.values())
    claim(counts[10] == counts[60], f"reads grow with the number of steps: {counts}")
    with counted_reads(bench) as generated:
        model.generate(xp.zeros((2, 1), dtype=int), 30, top_k=5, top_p=0.9, stop=1)
    with counted_reads(bench) as of_tree:
        world = worlds.random_markov(5, 0.5, 0)
        exact.loss_and_grads(random_gpt(xp, V=5, T=6), world, 5, progress=False)
    claim(not generated and not of_tree, f"{dict(generated)} {dict(of_tree)}")
    with counted_reads(bench) as evaluated:
        training.evaluation.evaluate(model, [batches[0]])
    return f"0 a step, {counts[60]} a measurement, {sum(evaluated.values())} a batch evaluated"


@check("threads: a second GPU is current in one thread only")
def other_thread(bench):
    if not bench.is_gpu or bench.xp.cuda.runtime.getDeviceCount() < 2:
        raise Skip("needs two GPUs")
    last, found = bench.xp.cuda.runtime.getDeviceCount() - 1, []
    try:
        backend.select_device(f"cuda:{last}")
        thread = threading.Thread(target=lambda: found.append(backend.current_device(bench.xp)))
        thread.start()
        thread.join()
    finally:
        backend.select_device("cuda:0")
    claim(found == [(bench.xp.__name__, 0)], f"the thread works on {found}")


@check("commands: gradcheck, train, resume, sample, eval", 400)
def commands(bench):
    if bench.device == "strict":
        raise Skip("a process of its own knows no strict device")
    with tempfile.TemporaryDirectory() as folder:
        calls = _command_lines(f"{folder}/run", f"{folder}/world", bench)
        for words in calls:
            command = [sys.executable, "-m", "minimixce", *words, "--device", bench.device]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
            claim(done.returncode == 0, f"{words[0]}: {done.stderr[-300:]}")
    return f"{len(calls)} commands"


def _command_lines(run, of_world, bench):
    steps = "60" if bench.is_gpu else "4"
    small = f"--steps {steps} --eval-every {steps} --n-embd 64 --eval-tokens 2000 --quiet".split()
    world = f"--world agreement --objective two_kls --steps {steps} --n-embd 32 --quiet".split()
    return [
        ["gradcheck"],
        ["train", "--out", run, *small],
        ["train", "--out", run, "--resume", "--quiet"],
        ["train", "--out", of_world, *world],
        ["sample", run, "--tokens", "30"],
        ["eval", run, "--samples", "4", "--tokens", "60", "--eval-tokens", "2000"],
    ]
