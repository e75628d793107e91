"""The gradient checks can fail: each line of a backward that is broken here, one at a time, is
noticed.

A function's source is taken, one snippet replaced, and the broken function put in the place of the
right one, wherever it is used; then the check of that layer, of the whole model or of that
objective must say that it is not ok.
"""

import inspect
import sys
import textwrap

import numpy as np
import pytest
from helpers import check_pieces, random_gpt

import minimixce as mm
from minimixce import (
    backend,
    exact,
    exact_list,
    exact_tables,
    exact_tree,
    gpt,
    kv,
    layers,
    model,
    objectives,
    worlds,
)
from minimixce.bigram import Bigram, TableBigram
from minimixce.experiments import selfcheck
from minimixce.gpt import GPT
from minimixce.kv import KV


def normal(*shape):
    return np.random.default_rng(shape).standard_normal(shape)


# ---- the checks: shapes are square where they may be, so that a wrong transpose is no error of sha


def check(forward, backward, *inputs):
    return mm.gradcheck(forward, backward, inputs)


def check_attention(past_rows=None, dropout=0.0):
    def forward(qkv, *past):
        past = KV(*past) if past else None
        y, cache = layers.attention_forward(qkv, 2, past, dropout, backend.rng(0, np))
        return (y, cache.k, cache.v), cache

    def backward(dy, cache):
        dqkv, dpast = layers.attention_backward(dy[0], cache, KV(*dy[1:]))
        return dqkv, *((dpast or (None, None)) if past_rows else ())

    past = [normal(past_rows, 2, 3, 3), 2 * normal(past_rows, 2, 3, 3)] if past_rows else []
    return check(forward, backward, normal(4, 3, 18), *past)


def check_objective(title):
    targets = np.array([[0, 3, -1], [2, 2, 1]])
    objective = dict(selfcheck.objective_checks(normal(2, 3, 4), targets, normal(4, 5)))[title]
    return check(objective, lambda dy, dlogits: (dy * dlogits,), normal(2, 3, 4))


def check_gpt(n_layer=1, dropout=0.0):
    names = [
        "wte.weight",
        "wpe.weight",
        "h.0.ln_1.bias",
        "h.0.attn.c_attn.bias",
        f"h.{n_layer - 1}.mlp.c_fc.bias",
    ]
    model = random_gpt(n_layer=n_layer, n_embd=4, dropout=dropout)
    return check_pieces(model, rows=2, shared_by=2, names=names, coordinates=12)


def check_bigram():
    config = mm.BigramConfig(4, n_embd=4, n_hidden=4, dropout=0.3, dtype="float64")
    return check_pieces(
        selfcheck.random_params(Bigram(config, device="cpu"), np.random.default_rng(1)), rows=2
    )


def random_table(size):
    return selfcheck.random_params(TableBigram(size, device="cpu"), np.random.default_rng(1))


def check_exact(find, model, names=None):
    """The gradient of an exact value, find(model, world) -> loss, grads: it must be the derivative
    of that value.
    """
    names = list(model.params if names is None else names)
    probs = np.random.default_rng(0).dirichlet(np.ones(3), 4)
    world = worlds.World(probs, [[0, 1, 2], [3, 2, 1], [0, 3, 2], [1, 2, 3]])
    fixed = dict(model.params)

    def forward(*values):
        model.params = fixed | dict(zip(names, values))
        return find(model, world)

    def backward(dy, grads):
        return tuple(dy * grads[name] for name in names)

    return mm.gradcheck(forward, backward, [fixed[name] for name in names], coordinates=9)


def check_table(objective, max_len):
    """bigram_loss_and_grads, with memory in the world where there is a horizon."""

    def find(model, world):
        world = (
            world if max_len else worlds.markov([[0.2, 0.5, 0.3], [0.4, 0.5, 0.1], [0.3, 0.7, 0]])
        )
        options = {"objective": objective, "eta": 0.3, "max_len": max_len}
        loss, dlogits = exact.bigram_loss_and_grads(model.params["logits"], world, **options)
        return loss, {"logits": dlogits}

    return check_exact(find, random_table(3))


def check_sums(objective, method, model=None):
    """Of a table, unless a model is given: what is handed to the model is the same for each."""

    def find(model, world):
        return exact.loss_and_grads(model, world, 4, objective=objective, eta=0.3, method=method)

    if model is None:
        return check_exact(find, random_table(3))
    return check_exact(find, model, ["wte.weight", "h.0.attn.c_attn.weight"])


def small_gpt():
    return random_gpt(vocab_size=3, block_size=3, n_layer=1, n_head=1, n_embd=3)


def check_costs_to_go(objective):
    def find(model, world):
        return exact.policy_gradient(model, world, 4, objective=objective)

    return check_exact(find, random_table(3))


IDS = np.array([[0, 1, 1], [3, 1, 0]])
EXACT = objectives.exact_names()
OF_A_GPT = ("mixce_star", "tree"), ("mixce", "tree"), ("mixce", "list")  # sequences, and tokens
MLE, MIXCE, SURROGATE = "mle", "mixce, η = 0.3 (η = 1 is MLE)", "mixce_surrogate, frozen weight"
TAILR, EMO = "tailr, γ = 0.3 (γ = 0 is MLE)", "emo, frozen ratio"
CHECKS = {
    "linear": lambda: check(
        layers.linear_forward, layers.linear_backward, normal(2, 3, 4), normal(4, 4), normal(4)
    ),
    "ids": lambda: check(layers.embedding_forward, layers.embedding_backward, IDS, normal(4, 4)),
    "one-hots": lambda: check(
        layers.embedding_forward, layers.embedding_backward, normal(2, 3, 4), normal(4, 4)
    ),
    "position": lambda: check(
        lambda x, weight: layers.position_forward(x, weight, 1),
        layers.position_backward,
        normal(2, 3, 4),
        normal(5, 4),
    ),
    "unembedding": lambda: check(
        layers.unembedding_forward, layers.unembedding_backward, normal(2, 3, 4), normal(4, 4)
    ),
    "layer norm": lambda: check(
        layers.layer_norm_forward,
        layers.layer_norm_backward,
        normal(2, 3, 4),
        normal(4),
        2 * normal(4),
    ),
    "gelu": lambda: check(layers.gelu_forward, layers.gelu_backward, normal(2, 3)),
    "relu": lambda: check(layers.relu_forward, layers.relu_backward, normal(4, 4)),
    "softmax": lambda: check(
        lambda x: layers.softmax_forward(x, -2), layers.softmax_backward, normal(2, 3, 3)
    ),
    "dropout": lambda: check(
        lambda x: layers.dropout_forward(x, 0.3, backend.rng(0, np)),
        layers.dropout_backward,
        normal(5, 5),
    ),
    "attention": check_attention,
    "attention after a past": lambda: check_attention(past_rows=4),
    "attention after a shared past": lambda: check_attention(past_rows=2),
    "attention with dropout": lambda: check_attention(dropout=0.4),
    "GPT in pieces": check_gpt,
    "GPT of two layers in pieces": lambda: check_gpt(n_layer=2),
    "GPT with dropout": lambda: check_gpt(dropout=0.3),
    "bigram in pieces": check_bigram,
    "table in pieces": lambda: check_pieces(random_table(4)),
    **{
        title: lambda title=title: check_objective(title)
        for title in (MLE, MIXCE, SURROGATE, TAILR, EMO)
    },
    **{f"{o} by {m}": lambda o=o, m=m: check_sums(o, m) for o in EXACT for m in ("tree", "list")},
    **{f"{o} by {m} of a GPT": lambda o=o, m=m: check_sums(o, m, small_gpt()) for o, m in OF_A_GPT},
    "reverse_ce by costs to go": lambda: check_costs_to_go("reverse_ce"),
    "reverse_kl by costs to go": lambda: check_costs_to_go("reverse_kl"),
    **{
        f"{o} of a table, T = {T}": lambda o=o, T=T: check_table(o, T)
        for o in EXACT
        if o != "js"
        for T in (4, None)
    },
}


@pytest.mark.parametrize("name", CHECKS)
def test_what_is_right_passes(name):
    report = CHECKS[name]()
    assert report.ok, f"\n{report}"


# ---- the mutations -------------------------------------------------------------------------------

PASS = "pass"
MASKED = "w = xp.where(is_target, w, 0) * scale"  # of token_objective
OVERWRITE = "(lambda d: (d.__setitem__(x.reshape(-1), _rows(dy)), d)[1])(xp.zeros_like(weight))"
# the check that must fail, the function, the snippet that occurs once in it, its replacement
MUTATIONS = [
    ("linear", layers.linear_backward, "_rows(dy) @ weight.T", "_rows(dy) @ weight"),
    ("linear", layers.linear_backward, "_rows(x).T @ _rows(dy)", "_rows(dy).T @ _rows(x)"),
    ("linear", layers.linear_backward, "_rows(x).T @ _rows(dy)", "_rows(x).T @ _rows(x)"),
    ("linear", layers.linear_backward, "_rows(dy).sum(axis=0)", "_rows(dy).mean(axis=0)"),
    (
        "ids",
        layers.embedding_backward,
        "add_rows(xp.zeros_like(weight), x.reshape(-1), _rows(dy))",
        OVERWRITE,
    ),
    ("one-hots", layers.embedding_backward, "_rows(dy) @ weight.T", "_rows(dy) @ weight"),
    ("one-hots", layers.embedding_backward, "_rows(x).T @ _rows(dy)", "_rows(dy).T @ _rows(x)"),
    ("position", layers.position_backward, "dy.sum(axis=0)", "dy[0]"),
    (
        "position",
        layers.position_backward,
        "dweight[start : start + dy.shape[1]]",
        "dweight[: dy.shape[1]]",
    ),
    (
        "unembedding",
        layers.unembedding_backward,
        "_rows(dlogits).T @ _rows(x)",
        "_rows(x).T @ _rows(dlogits)",
    ),
    (
        "unembedding",
        layers.unembedding_backward,
        "_rows(dlogits) @ weight",
        "_rows(dlogits) @ weight.T",
    ),
    ("layer norm", layers.layer_norm_backward, "dnormed - _mean(dnormed)", "dnormed.copy()"),
    ("layer norm", layers.layer_norm_backward, "dx -= normed * along_normed", PASS),
    ("layer norm", layers.layer_norm_backward, "dx *= rstd", PASS),
    ("layer norm", layers.layer_norm_backward, "dy * weight", "dy * 1"),
    ("layer norm", layers.layer_norm_backward, "dy * normed", "dy"),
    ("gelu", layers.gelu_backward, "dx *= 1 - gate", PASS),
    ("gelu", layers.gelu_backward, "dx += 1", PASS),
    ("gelu", layers.gelu_backward, "6 * _GELU_CUBIC", "_GELU_CUBIC"),
    ("gelu", layers.gelu_backward, "dx += 2 * _GELU_SCALE", "dx += _GELU_SCALE"),
    # a relative error of 1e-5 is enough
    ("gelu", layers.gelu_backward, "dx *= gate", "dx *= 1.00001 * gate"),
    ("relu", layers.relu_backward, "(cache.y > 0)", "(cache.y >= 0)"),
    ("relu", layers.relu_backward, "(cache.y > 0)", "cache.y"),
    ("relu", layers.relu_backward, "dy * (cache.y > 0)", "0 * dy"),
    (
        "softmax",
        layers.softmax_backward,
        "(probs * dprobs).sum(axis=axis",
        "(probs * dprobs).sum(axis=-1",
    ),
    (
        "softmax",
        layers.softmax_backward,
        "dprobs - (probs * dprobs).sum(axis=axis, keepdims=True)",
        "dprobs.copy()",
    ),
    ("softmax", layers.softmax_backward, "probs * dprobs", "dprobs"),
    ("dropout", layers.dropout_backward, "dy * cache.scale", "dy * (cache.scale > 0)"),
    ("dropout", layers.dropout_backward, "dy * cache.scale", "dy"),
    ("attention", layers.attention_backward, "dq /= math.sqrt(D)", PASS),
    ("attention", layers.attention_backward, "dk /= math.sqrt(D)", PASS),
    ("attention", layers.attention_backward, "dk = dk + dkv.k", PASS),
    ("attention", layers.attention_backward, "dv = dv + dkv.v", PASS),
    ("attention", layers.attention_backward, "[dq, dk, dv]", "[dk, dq, dv]"),
    (
        "attention",
        layers.attention_backward,
        "dk = dscores[:, :, -T:] @ q",
        "dk = _transpose(dscores[:, :, -T:]) @ q",
    ),
    (
        "attention",
        layers.attention_backward,
        "dv = probs[:, :, -T:] @ dy",
        "dv = _transpose(probs[:, :, -T:]) @ dy",
    ),
    (
        "attention with dropout",
        layers.attention_backward,
        "dropout_backward(dprobs, dropped)",
        "dprobs",
    ),
    ("attention after a past", layers.attention_backward, "dq += dq_past", PASS),
    ("attention after a past", layers.attention_backward, "dpast = KV(", "KV("),
    ("attention after a past", layers.attention_backward, "dpast_k / math.sqrt(D)", "dpast_k"),
    ("attention after a past", kv.past_values_backward, "dv = _transpose(", "dv = -_transpose("),
    (
        "attention after a past",
        kv.past_values_backward,
        "_fold(dy, rows) @ _transpose(past.v)",
        "_fold(dy, rows) @ _transpose(past.k)",
    ),
    (
        "attention after a past",
        kv.past_scores_backward,
        "_transpose(dscores) @ _fold(q, rows)",
        "0 * past.k",
    ),
    ("attention after a past", kv.past_scores_backward, "dscores @ past.k", "dscores @ past.v"),
    # Which rows share a past: interleaved instead of consecutive.
    (
        "attention after a shared past",
        kv._unfold,
        "swapaxes(1, 2).reshape(batch",
        "transpose(2, 0, 1, 3, 4).reshape(batch",
    ),
    ("GPT in pieces", layers.attention_backward, "dk = dk + dkv.k", PASS),
    ("GPT in pieces", gpt.block_backward, "dx = dx + dy", "dx = dy"),
    ("GPT in pieces", gpt.block_backward, "return dx + dy, dpast", "return dy, dpast"),
    ("GPT in pieces", gpt.block_backward, "return dx + dy, dpast", "return dx, dpast"),
    ("GPT in pieces", gpt.block_backward, "cache.attention, dkv)", "cache.attention)"),
    (
        "GPT in pieces",
        GPT.hidden_backward,
        'embedding_backward(dx, cache.embedding)\n    add_grad(grads, "wte.weight", dweight)',
        'embedding_backward(dx, cache.embedding)\n    grads["wte.weight"] = dweight',
    ),
    (
        "GPT in pieces",
        GPT.extend_backward,
        (
            'unembedding_backward(dlogits, cache.unembedding)\n    add_grad(grads, "wte.weight",'
            " dweight)"
        ),
        "unembedding_backward(dlogits, cache.unembedding)",
    ),
    (
        "GPT in pieces",
        GPT.hidden_backward,
        "add_kv(dpast_of_attention, dpast_of_present)",
        "dpast_of_attention",
    ),
    (
        "GPT in pieces",
        GPT.hidden_backward,
        "add_kv(dpast_of_attention, ",
        "add_kv(dpast_of_present or dpast_of_attention, ",
    ),
    ("GPT of two layers in pieces", GPT.hidden_backward, "dpast.insert(0, ", "dpast.append("),
    (
        "GPT in pieces",
        model.add_grad,
        "if name in grads:\n        grads[name] += value",
        "if False:\n        pass",
    ),
    ("GPT in pieces", model.add_grad, "    grads[name] += value\n    else", "    pass\n    else"),
    ("GPT in pieces", kv.extend_kv_backward, ".sum(axis=1)", ".mean(axis=1)"),
    (
        "GPT in pieces",
        kv.extend_kv_backward,
        "dkv = KV(*(d[:, :, -T:] for d in dpresent))",
        "dkv = None",
    ),
    ("GPT with dropout", GPT.hidden_backward, "dx = dropout_backward(dx, cache.dropout)", PASS),
    ("GPT with dropout", gpt.block_backward, "dropout_backward(dx, cache.mlp_dropout)", "dx"),
    ("bigram in pieces", Bigram.extend_backward, "dx = dropout_backward(dx, dropped)", PASS),
    ("bigram in pieces", Bigram.extend_backward, "dx = relu_backward(dx, relu)", PASS),
    (
        "bigram in pieces",
        Bigram.extend_backward,
        "linear_backward(dlogits, output)",
        "linear_backward(dlogits, hidden)",
    ),
    (
        "bigram in pieces",
        Bigram.extend_backward,
        "linear_backward(dx, hidden)",
        "linear_backward(dx, output)",
    ),
    (
        "bigram in pieces",
        Bigram.extend_backward,
        "return dinput, None",
        "return dx, None",
    ),
    (
        "bigram in pieces",
        Bigram.extend_backward,
        'add_grad(grads, "hidden.bias", dbias)',
        'grads["hidden.bias"] = dbias',
    ),
    (
        "bigram in pieces",
        Bigram.extend_backward,
        'add_grad(grads, "embedding.weight", dweight)',
        'grads["embedding.weight"] = dweight',
    ),
    (
        "bigram in pieces",
        model.add_grad,
        "    grads[name] += value\n    else",
        "    pass\n    else",
    ),
    (
        "table in pieces",
        TableBigram.extend_backward,
        "dx, dweight = embedding_backward(dlogits, embedding)",
        "dx, dweight = dlogits, embedding_backward(dlogits, embedding)[1]",
    ),
    (
        "table in pieces",
        TableBigram.extend_backward,
        'add_grad(grads, "logits", dweight)',
        'grads["logits"] = dweight',
    ),
    (
        "table in pieces",
        layers.embedding_backward,
        "_rows(x).T @ _rows(dy)",
        "_rows(dy).T @ _rows(x)",
    ),
    ("table in pieces", layers.embedding_backward, "_rows(dy) @ weight.T", "_rows(dy) @ weight"),
    (MLE, objectives.token_objective, MASKED, "w = xp.where(is_target, w, 0)"),  # 1/N
    (MLE, objectives.token_objective, "dlogits[row, y] -= w", PASS),
    (MIXCE, objectives.token_objective, MASKED, "w = scale"),
    (TAILR, objectives.token_objective, MASKED, "w = scale"),
    (MIXCE, objectives._mixce, ", eta + (1 - eta) * q", ", (1 - eta) * q"),
    (MIXCE, objectives._mixce, ", eta + (1 - eta) * q", ", eta + q"),
    # no stop of the gradient
    (MIXCE, objectives._mixce, ", eta + (1 - eta) * q", ", eta + (1 - eta) * q * (1 + log_q)"),
    (
        SURROGATE,
        objectives._mixce_surrogate,
        "w = eta + (1 - eta) * xp.exp(log_q)",
        "w = (1 - eta) * xp.exp(log_q)",
    ),
    (TAILR, objectives._tailr, "-log_mix / (1 - gamma)", "-log_mix"),
    # q / (γ + q)
    (TAILR, objectives._tailr, "log_q - log_mix", "log_q - xp.logaddexp(log_gamma, log_q)"),
    (EMO, objectives.emo, "ratio[:, None] * further", "ratio[:, None] * cost"),
    (EMO, objectives.emo, "0.5 * _scale", "_scale"),
    (EMO, objectives.emo, "dlogits[row, y] -= 1", PASS),
    (
        "reverse_ce by tree",
        exact_tree.by_sequence_weights,
        "return dlogits, prefix_weight, values",
        "return dlogits, 0 * prefix_weight, values",
    ),
    (
        "reverse_ce by tree",
        exact_tree.by_sequence_weights,
        "child_weight - prefix_weight[:, None] * xp.exp(log_q_next)",
        "child_weight",
    ),
    (
        "mixce by tree of a GPT",
        exact_tree._Walk.visit,
        "(dlogits, dpresent, cache",
        "(dlogits, None, cache",
    ),
    ("mixce by tree", exact._expected_over_p, "-p * w", "-p"),
    ("tailr by list", exact._expected_over_p, "-p * w", "-p * f"),
    ("js by tree", objectives._js, "under_p, under_q", "under_p, under_p"),
    ("reverse_kl by list", objectives._reverse_kl, "return cost, cost", "return cost, -cost"),
    (
        "reverse_ce by list",
        exact_list._sum_over_rows,
        "dlogits[n, t, targets] += weights",
        PASS,
    ),
    (
        "reverse_ce by list",
        exact_list._sum_over_rows,
        "-weights[:, :, None] * xp.exp(log_q_next)",
        "0 * log_q_next",
    ),
    ("reverse_ce by costs to go", exact_tree.by_cost_to_go, "to_go - cost[:, None]", "to_go"),
    (
        "reverse_ce by costs to go",
        exact_tree.by_cost_to_go,
        "xp.exp(prefix.log_q[:, None] + log_q_next)",
        "xp.exp(log_q_next)",
    ),
    (
        "forward_ce of a table, T = 4",
        exact_tables._forward_part,
        "weights.sum(axis=1, keepdims=True) * xp",
        "xp",
    ),
    ("mixce of a table, T = None", exact_tables._forward_part, "counts * w", "counts"),
    (
        "reverse_kl of a table, T = 4",
        exact_tables._with_horizon,
        "cost_of_each(costs[-1]) - U[:, None]",
        "cost_of_each(costs[-1])",
    ),
    ("overlap of a table, T = 4", exact_tables._with_horizon, "None] * q * m)", "None] * q)"),
    ("reverse_ce of a table, T = 4", exact_tables._with_horizon, "next_U[:, 0] = end", PASS),
    ("reverse_ce of a table, T = 4", exact_tables._with_horizon, "costs.pop()", "costs.pop(0)"),
    ("reverse_kl of a table, T = None", exact_tables._without_horizon, "- U[:, None]", ""),
    ("reverse_ce of a table, T = None", exact_tables._without_horizon, "visits[:, None] * q", "q"),
    ("overlap of a table, T = None", exact_tables._without_horizon, "c + m * next", "c + next"),
    ("overlap of a table, T = None", exact_tables._without_horizon, "next_U[0] = end", PASS),
]


def mutate(monkeypatch, function, snippet, replacement):
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(snippet) == 1, (
        f"{snippet!r} occurs {source.count(snippet)} times in {function.__name__}"
    )
    namespace = dict(vars(sys.modules[function.__module__]))
    exec(source.replace(snippet, replacement), namespace)
    broken = namespace[function.__name__]
    for holder in (*package_modules(), GPT, Bigram, TableBigram, exact_tree._Walk):
        if getattr(holder, function.__name__, None) is function:
            monkeypatch.setattr(holder, function.__name__, broken)
    for name, row in objectives.OBJECTIVES.items():
        fields = {key: broken for key, value in row._asdict().items() if value is function}
        monkeypatch.setitem(objectives.OBJECTIVES, name, row._replace(**fields))


def package_modules():
    return [module for name, module in sys.modules.items() if name.startswith("minimixce.")]


@pytest.mark.parametrize(
    ("name", "function", "snippet", "replacement"),
    MUTATIONS,
    ids=[f"{m[1].__name__}: {m[3].split(chr(10))[-1].strip()}" for m in MUTATIONS],
)
def test_what_is_broken_fails(monkeypatch, name, function, snippet, replacement):
    mutate(monkeypatch, function, snippet, replacement)
    report = CHECKS[name]()
    assert not report.ok
    assert report.max_relative_error > 1e-6
    assert "WRONG" in str(report)


def test_check_everything_names_the_broken_layer_and_its_tensor(monkeypatch):
    mutate(monkeypatch, layers.position_backward, "dy.sum(axis=0)", "dy[0]")
    reports = dict(selfcheck.check_everything())
    broken = {
        title: [row.name for row in report.rows if not row.ok]
        for title, report in reports.items()
        if not report.ok
    }
    assert broken == {"position": ["weight"], "the whole model, MixCE loss": ["wpe.weight"]}
    for report in (reports[title] for title in broken):
        wrong = [line.split()[0] for line in str(report).splitlines() if "WRONG" in line]
        assert wrong == [report.worst.name]
