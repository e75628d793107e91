"""Is a GPU right? Gradient checks there, and the same numbers as on the CPU."""

import functools
import math

import numpy as np

import minimixce as mm
from gpu_harness import (
    Skip,
    below,
    check,
    claim,
    far,
    far_by_name,
    host,
    random_gpt,
    worst_below,
)
from minimixce import automaton, backend, estimators, exact, objectives, text, worlds
from minimixce.experiments import selfcheck
from minimixce.kv import KV

V, T = 23, 16


@check("gradcheck: every layer, objective and model", 300)
def gradient_checks(bench):
    reports = dict(selfcheck.check_everything(bench.model_device))
    wrong = [title for title, report in reports.items() if not report.ok]
    claim(not wrong and len(reports) >= 17, f"{len(reports)} reports, wrong: {wrong}")
    worst = max(report.max_relative_error for report in reports.values())
    return f"{len(reports)} reports, worst relative error {worst:.1e}"


# ---- training ------------------------------------------------------------------------------------

TOKEN_OBJECTIVES = [
    ("mle", {}),
    ("mixce", {"eta": 0.3}),
    ("mixce_surrogate", {"eta": 0.3}),
    *(("tailr", {"gamma": gamma}) for gamma in (0.0, 0.2, 0.9, 1.0)),
    ("emo", {}),
]


def one_step(bench, dtype, limit):
    errors = {}
    rng = np.random.default_rng(1)
    tokens, targets = rng.integers(0, V, (5, T)), rng.integers(-1, V, (5, T))
    for name, options in TOKEN_OBJECTIVES:
        arguments = (name, options, tokens, targets, dtype)
        found, expected = (_step(xp, *arguments) for xp in (bench.xp, np))
        errors[f"{name} {options}"] = far_by_name(found, expected)
    return worst_below(errors, limit)


def _step(xp, name, options, tokens, targets, dtype):
    model, objective = random_gpt(xp, dtype=dtype), getattr(objectives, name)
    if name == "emo":
        options = {"cost_embedding": model.params["wte.weight"]}
    logits, cache = model.forward(xp.asarray(tokens))
    loss, dlogits = objective(logits, xp.asarray(targets), **options)
    f, w = objective(logits, xp.asarray(targets), **options, reduction="none")
    grads = model.backward(dlogits, cache)
    return {"logits": logits, "loss": loss, "losses": f, "weights": w, **grads}


def thirty_steps(bench, dtype, limit):
    found, expected = (_losses_of_fit(xp, dtype) for xp in (bench.xp, np))
    return below(far(found, expected), limit, "losses and norms")


def _losses_of_fit(xp, dtype):
    tokens = np.tile(np.random.default_rng(0).integers(0, V, 60), 20)
    found = mm.fit(
        random_gpt(xp, dtype=dtype, scale=3.0),
        text.random_batches(tokens, 4, T),
        steps=30,
        accumulate=2,
        eval_every=5,
        validation=text.consecutive_batches(tokens[:200], 8, T),
        lr=3e-3,
        warmup=5,
        progress=False,
    )
    names = ("loss", "validation_loss", "mean_q", "grad_norm")
    return [[measured[name] for name in names] for measured in found]


for _dtype, _one, _thirty in (("float64", 1e-10, 1e-7), ("float32", 2e-4, 5e-3)):
    check(f"parity: one step, every objective, {_dtype}")(
        functools.partial(one_step, dtype=_dtype, limit=_one)
    )
    check(f"parity: 30 steps, accumulated, {_dtype}")(
        functools.partial(thirty_steps, dtype=_dtype, limit=_thirty)
    )


@check("parity: attention in blocks, 130 positions")
def long_attention(bench):
    """Long enough for the faster forms of attention, with a last block that is not full."""
    rng = np.random.default_rng(8)
    tokens, targets = rng.integers(0, V, (8, 130)), rng.integers(-1, V, (8, 130))

    def step(xp):
        model = random_gpt(xp, T=130, H=4)
        logits, cache = model.forward(xp.asarray(tokens))
        loss, dlogits = objectives.mixce(logits, xp.asarray(targets))
        return {"loss": loss, **model.backward(dlogits, cache)}

    return below(far_by_name(step(bench.xp), step(np)), 1e-10, "worst")


@check("parity: soft one-hots after a shared past")
def shared_past(bench):
    rng = np.random.default_rng(2)
    soft, ids = rng.dirichlet(np.ones(V), (4, 5)), rng.integers(0, V, (2, 3))

    def run(xp):
        model = random_gpt(xp)
        first, past, of_first = model.extend_forward(xp.asarray(ids))
        logits, present, cache = model.extend_forward(xp.asarray(soft), past)
        result = {"logits": logits.copy()}
        dpresent = [KV(kv.k * 0.5, kv.v - 1) for kv in present]
        result["dx"], dpast, grads = model.extend_backward(logits * 0.1, dpresent, cache)
        _, _, grads = model.extend_backward(first * 0.1, dpast, of_first, grads)
        return result | grads

    return below(far_by_name(run(bench.xp), run(np)), 1e-10, "worst")


@check("parity: float32 loss over 50,257 tokens")
def large_vocabulary(bench):
    rng, large = np.random.default_rng(3), 50257
    logits = (4 * rng.standard_normal((64, large))).astype("float32")
    targets = rng.integers(-1, large, 64)
    exactly = objectives.mixce(logits.astype("float64"), targets, eta=0.3)

    def error(xp):
        found = objectives.mixce(xp.asarray(logits), xp.asarray(targets), eta=0.3)
        return max(far(a, b) for a, b in zip(found, exactly))

    words = below(error(bench.xp), 1e-5, "against float64")
    return f"{words}; NumPy's own {error(np):.1e}"


@check("parity: embedding gradient of ids that recur")
def repeated_ids(bench):
    rng = np.random.default_rng(4)
    index, rows = rng.integers(0, 3, 20000), rng.standard_normal((20000, 64)).astype("float32")
    expected = np.stack([rows[index == k].astype("float64").sum(axis=0) for k in range(3)])
    target = bench.xp.zeros((3, 64), dtype="float32")
    found = backend.add_rows(target, bench.xp.asarray(index), bench.xp.asarray(rows))
    return below(far(found, expected), 1e-4, "worst")


# ---- exact sums and estimators -------------------------------------------------------------------


@check("exact: tree and list, all objectives", 240)
def tree_and_list(bench):
    world, errors = worlds.random_markov(5, 0.5, 0), {}
    for name in objectives.exact_names():
        options = {"objective": name, "progress": False}
        loss, grads = exact.loss_and_grads(random_gpt(np, V=5, T=6), world, 5, **options)
        for method in ("tree", "list"):
            model = random_gpt(bench.xp, V=5, T=6)
            found, found_grads = exact.loss_and_grads(model, world, 5, method=method, **options)
            errors[f"{name} {method}"] = max(far(found, loss), far_by_name(found_grads, grads))
    return worst_below(errors, 1e-9)


@check("exact: measures, policy gradient, world scores")
def measures(bench):
    errors = {}
    for world, max_len in ((worlds.agreement(), 5), (worlds.stories(), 3)):
        found, expected = (_measures(xp, world, max_len) for xp in (bench.xp, np))
        errors[world.name] = far_by_name(found, expected)
    return worst_below(errors, 1e-9)


def _measures(xp, world, max_len):
    size = world.vocab_size
    measured = exact.measure(random_gpt(xp, V=size, T=6), world, max_len, progress=False)
    model = random_gpt(xp, V=size, T=6)
    cost, grads = exact.policy_gradient(model, world, max_len, progress=False)
    rows = xp.asarray(world.sample(50, max_len, 0))
    scores = {f"floored {f}": world.token_log_probs(rows, f) for f in (True, False)}
    return {**measured, "cost": cost, **grads, **scores}


@check("exact: tables, with and without a horizon")
def tables(bench):
    errors, rng = {}, np.random.default_rng(5)
    for world in (worlds.random_markov(12, 0.5, 1), worlds.agreement()):
        z = rng.standard_normal((world.vocab_size,) * 2)
        for name in objectives.exact_names():
            for horizon in (None, 1, 9):
                if name == "js" or (horizon is None and not world.is_markov):
                    continue
                options = {"objective": name, "max_len": horizon}
                (a, da), (b, db) = (
                    exact.bigram_loss_and_grads(xp.asarray(z), world, **options)
                    for xp in (bench.xp, np)
                )
                errors[f"{world.name} {name} {horizon}"] = max(far(a, b), far(da, db, 1e-8))
    return worst_below(errors, 1e-9)


@check("exact: a table that never ends gives NaN")
def endless_table(bench):
    if bench.xp is np:
        raise Skip("NumPy raises here")
    z = np.zeros((4, 4))
    z[1:, 0] = -800.0
    world = worlds.random_markov(4, 0.0, 0)
    loss, _ = exact.bigram_loss_and_grads(bench.xp.asarray(z), world, objective="reverse_ce")
    claim(math.isnan(float(loss)), f"loss {float(loss)}")


@check("estimators: of the same rows and noise")
def same_rows(bench):
    world, errors = worlds.random_markov(5, 0.3, 2), {}
    rows_of_q = host(estimators.sample(random_gpt(np, V=5, T=6), 64, 6, 0)).astype(int)
    rows_of_p, noise = world.sample(64, 6, 0), estimators.gumbel_noise(32, 6, 5, 0)
    reverse_kl = {"objective": "reverse_kl"}
    runs = [(name, rows_of_q, reverse_kl) for name in ("reinforce", "reward_to_go", "rloo", "k1")]
    runs += [(k, rows_of_q, {"per": per}) for k in ("k2", "k3") for per in ("sequence", "token")]
    runs += [("rloo", rows_of_q, {"objective": "js"}), ("importance", rows_of_p, {})]
    runs += [
        ("gumbel", noise, {"objective": name, "tau": 0.7})
        for name in ("reverse_ce", "reverse_kl", "js")
    ]
    for name, drawn, options in runs:
        (a, da), (b, db) = (
            getattr(estimators, name)(random_gpt(xp, V=5, T=6), world, xp.asarray(drawn), **options)
            for xp in (bench.xp, np)
        )
        errors[f"{name} {options}"] = max(far(a, b), far_by_name(da, db))
    return worst_below(errors, 1e-9)


@check("estimators: rows drawn here are fair")
def fair_rows(bench):
    world, model = worlds.random_markov(4, 0.0, 3), random_gpt(bench.xp, V=4, T=5, scale=4.0)
    count = 20000 if bench.is_gpu else 2000
    rows = estimators.sample(model, count, 4, 7)
    automaton.batch(host(rows).astype(int), 4)  # refuses rows that are laid out otherwise
    log_q = host(exact.log_prob(model, rows))
    entropy = float(exact.measure(model, world, 4, progress=False)["entropy_q"])
    z = (-log_q.mean() - entropy) / (log_q.std() / math.sqrt(count))
    return below(abs(z), 4.5, f"entropy of {count:,} rows, |z|")


@check("random: uniform numbers, dropout, Gumbel noise")
def random_numbers(bench):
    xp, shape = bench.xp, (1000, 1000)
    a, b, c = (backend.rng(seed, xp).random(shape, dtype="float32") for seed in (11, 11, 12))
    claim(a.dtype == np.float32, f"dtype {a.dtype}")
    a, b, c = map(host, (a, b, c))
    claim(np.array_equal(a, b), "the same seed draws other numbers")
    claim(0 <= a.min() and a.max() < 1, f"range {a.min()} … {a.max()}")
    claim(abs(a.mean() - 0.5) < 2e-3, f"mean {a.mean()}")
    claim(abs(np.corrcoef(a.ravel(), c.ravel())[0, 1]) < 5e-3, "neighbouring seeds correlate")
    noise = host(estimators.gumbel_noise(100, 101, 100, 0, xp))
    claim(np.isfinite(noise).all(), "Gumbel noise is not finite")
    claim(abs(noise.mean() - 0.5772) < 5e-3, f"mean of Gumbel noise {noise.mean()}")
    ones = xp.ones(shape, dtype="float32")
    kept, _ = mm.layers.dropout_forward(ones, 0.3, backend.rng(1, xp))
    return below(abs(float(host(kept).mean()) - 1), 5e-3, "mean after dropout − 1,")
