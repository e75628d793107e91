"""Answers as students write them: right ones in other ways, and wrong ones that no catalogue has.

Each is a piece of text that is put behind the reference solution, so that its functions replace
those of the same name. An answer is tried in every variant whose own functions of these names are
those of the variant it was written for; the variants other than that one are slow tests.
"""

import ast
import functools

import numpy as np
import pytest

from minimixce.classroom.assignments import NAMES, assignment
from minimixce.classroom.catalogue import load_source, source_of
from minimixce.classroom.local import Submission
from minimixce.classroom.results import judge_submission

# ---- right, in other ways ------------------------------------------------------------------------

IN_HEADS = """
def attention_forward(qkv, n_head, mask):
    q, k, v = np.split(qkv, 3, axis=-1)
    D = q.shape[-1] // n_head
    y, kept = np.zeros_like(q), []
    for b in range(len(q)):
        for h in range(n_head):
            s = slice(h * D, (h + 1) * D)
            raw = q[b, :, s] @ k[b, :, s].T
            scores = SCORES
            scores[~mask] = -np.inf
            p = np.exp(scores - scores.max(1)[:, None])
            p /= p.sum(1)[:, None]
            y[b, :, s] = p @ v[b, :, s]
            kept.append((b, s, p, raw))
    return y, (q, k, v, D, kept)


def attention_backward(dy, cache):
    q, k, v, D, kept = cache
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for b, s, p, raw in kept:
        dv[b, :, s] = p.T @ dy[b, :, s]
        dp = dy[b, :, s] @ v[b, :, s].T
        ds = (dp - (dp * p).sum(1)[:, None]) * p * SLOPE
        dq[b, :, s] = ds @ k[b, :, s]
        dk[b, :, s] = ds.T @ q[b, :, s]
    return (np.concatenate([dq, dk, dv], axis=-1),)
"""
BY_EINSUM = """
def attention_forward(qkv, n_head, mask):
    B, T, C3 = qkv.shape
    x = qkv.reshape(B, T, 3, n_head, C3 // 3 // n_head)
    q, k, v = x[:, :, 0], x[:, :, 1], x[:, :, 2]
    D = q.shape[-1]
    raw = np.einsum("bihd,bjhd->bhij", q, k)
    s = SCORES + np.where(mask, 0, -np.inf).astype(qkv.dtype)
    p = np.exp(s - s.max(-1, keepdims=True))
    p = p / p.sum(-1, keepdims=True)
    return np.einsum("bhij,bjhd->bihd", p, v).reshape(B, T, -1), (q, k, v, p, raw)


def attention_backward(dy, cache):
    q, k, v, p, raw = cache
    D = q.shape[-1]
    dy = dy.reshape(q.shape)
    dp = np.einsum("bihd,bjhd->bhij", dy, v)
    ds = p * (dp - np.einsum("bhij,bhij->bhi", p, dp)[..., None]) * SLOPE
    d = [np.einsum("bhij,bjhd->bihd", ds, k), np.einsum("bhij,bihd->bjhd", ds, q),
         np.einsum("bhij,bihd->bjhd", p, dy)]
    return (np.stack(d, axis=2).reshape(*dy.shape[:2], -1),)
"""


def attention(text, scores, slope):
    """An attention with these scores of `raw`, q·k, and their slope."""
    return text.replace("SCORES", scores).replace("SLOPE", slope)


OVER_ROOT = ("raw / math.sqrt(D)", "D**-0.5")
OVER_WIDTH = ("raw / D", "(1 / D)")
CAPPED = (
    "CAP * np.tanh(raw / (CAP * math.sqrt(D)))",
    "D**-0.5 / np.cosh(raw / (CAP * math.sqrt(D))) ** 2",
)
RIGHT = {
    "log-softmax in loops": (
        "a1",
        "1.1",
        """
def log_softmax(z):
    out = np.empty_like(z)
    for index in np.ndindex(z.shape[:-1]):
        row = z[index]
        m = max(row)
        out[index] = row - m - math.log(sum(math.exp(v - m) for v in row))
    return out
""",
    ),
    "log-softmax by logaddexp": (
        "a1",
        "1.1",
        """
def log_softmax(z):
    return z - np.logaddexp.reduce(z, axis=-1, keepdims=True)
""",
    ),
    "log-softmax in float32": (
        "a1",
        "1.1",
        """
def log_softmax(z):
    low = z.astype(np.float32)
    low = low - low.max(-1, keepdims=True)
    return (low - np.log(np.exp(low).sum(-1, keepdims=True))).astype(z.dtype)
""",
    ),
    "log-softmax in Fortran order": (
        "a1",
        "1.1",
        """
def log_softmax(z):
    z = np.asfortranarray(z)
    m = z.max(-1, keepdims=True)
    return np.asfortranarray(z - m - np.log(np.exp(z - m).sum(-1, keepdims=True)))
""",
    ),
    "the pass with one-hots and einsum": (
        "a1",
        "1.2",
        """
def token_loss(logits, targets, f_and_w, normalizer=None):
    V = logits.shape[-1]
    log_p = log_softmax(logits)
    onehot = (targets[..., None] == np.arange(V)).astype(logits.dtype)
    f, w = f_and_w(np.einsum("...v,...v->...", log_p, onehot))
    there = onehot.sum(-1)
    n = normalizer if normalizer is not None else max(int(there.sum()), 1)
    d = np.einsum("...,...v->...v", w * there, np.exp(log_p) - onehot) / n
    return (f * there).sum() / n, d
""",
    ),
    "the pass in loops": (
        "a1",
        "1.2",
        """
def token_loss(logits, targets, f_and_w, normalizer=None):
    d, total, count = np.zeros_like(logits), 0.0, 0
    for i in np.ndindex(targets.shape):
        if targets[i] < 0:
            continue
        log_p = log_softmax(logits[i])
        f, w = f_and_w(log_p[targets[i]:targets[i] + 1])
        total += float(f[0])
        d[i] = float(w[0]) * np.exp(log_p)
        d[i][targets[i]] -= w[0]
        count += 1
    n = normalizer or max(count, 1)
    return total / n, d / n
""",
    ),
    "the pass over the targets alone": (
        "a1",
        "1.2",
        """
def token_loss(logits, targets, f_and_w, normalizer=None):
    there = targets != -1
    z, y = logits[there], targets[there]
    n = float(normalizer or max(len(y), 1))
    rows = np.arange(len(y))
    log_p = log_softmax(z) if len(y) else z
    f, w = f_and_w(log_p[rows, y])
    p = np.exp(log_p)
    p[rows, y] -= 1
    d = np.zeros_like(logits)
    d[there] = p * w[:, None] / n
    return f.sum() / n, d
""",
    ),
    "MixCE through powers of e": (
        "a1",
        "1.4",
        """
def mixce(eta):
    return lambda l: (-(eta * l + (1 - eta) * math.e ** l), eta * math.e ** l / math.e ** l
                      if False else 1 - (1 - eta) * -np.expm1(l))
""",
    ),
    "MixCE in float32": (
        "a1",
        "1.4",
        """
def mixce(eta):
    def f_and_w(log_q):
        low = log_q.astype(np.float32)
        q = np.exp(low)
        f, w = -eta * low - (1 - eta) * q, eta + (1 - eta) * q
        return f.astype(log_q.dtype), w.astype(log_q.dtype)
    return f_and_w
""",
    ),
    "TaiLr by log1p everywhere that it is exact": (
        "a1",
        "1.6",
        """
def tailr(gamma):
    def f_and_w(log_q):
        if gamma == 0:
            return -log_q, np.ones_like(log_q)
        if gamma == 1:
            return 1 - np.exp(log_q), np.exp(log_q)
        q = np.exp(log_q)
        small = np.log(gamma) + np.log1p((1 - gamma) / gamma * q)
        large = np.log1p(-(1 - gamma) * (1 - q))
        mix = large if gamma > 0.2 else small
        return -mix / (1 - gamma), 1 / (gamma / q + 1 - gamma)
    return f_and_w
""",
    ),
    "power with **": (
        "a1",
        "1.7",
        """
def power(a):
    return lambda log_q: (-np.exp(log_q) ** a / a, np.exp(log_q) ** a)


def fixed_point(p, a):
    q = [v ** (1 / (1 - a)) for v in p]
    return np.array(q) / sum(q)
""",
    ),
    "frozen by masks and means": (
        "a1",
        "1.5",
        """
def frozen(z, z0, targets, eta):
    b, t = np.nonzero(targets >= 0)
    y = targets[b, t]
    q0 = np.exp(log_softmax(z0))[b, t, y]
    return -np.mean((eta + (1 - eta) * q0) * log_softmax(z)[b, t, y])
""",
    ),
    "listing with one model call a sequence": (
        "a3",
        "3.3",
        """
def exact_reverse_ce(logits, cost, T):
    Q = np.exp(logits) / np.exp(logits).sum(1)[:, None]
    R, d = 0.0, np.zeros_like(logits)

    def go(last, left, p, paid, path):
        nonlocal R, d
        if left == 0:
            finish(p, paid, path)
            return
        for v in range(len(Q)):
            step = (last, v)
            if v == 0:
                finish(p * Q[step], paid + cost[step], path + [step])
            else:
                go(v, left - 1, p * Q[step], paid + cost[step], path + [step])

    def finish(p, paid, path):
        nonlocal R
        R += p * paid
        for s, v in path:
            d[s] -= p * paid * Q[s]
            d[s, v] += p * paid

    go(0, T - 1, 1.0, 0.0, [])
    return R, d
""",
    ),
    "costs to go by recursion": (
        "a3",
        "3.4",
        """
def cost_to_go(Q, cost, T):
    def u(t, s):
        if t >= T - 1 or (t > 0 and s == 0):
            return 0.0
        return sum(Q[s, v] * (cost[s, v] + u(t + 1, v)) for v in range(len(Q)))
    return np.array([[u(t, s) for s in range(len(Q))] for t in range(T + 1)], dtype=Q.dtype)
""",
    ),
    "linear by einsum": (
        "a2",
        "2.1",
        """
def linear_forward(x, W, b):
    return np.einsum("...i,io->...o", x, W) + b, (x, W)


def linear_backward(dy, cache):
    x, W = cache
    letters = "abc"[:x.ndim - 1]
    return (np.einsum("...o,io->...i", dy, W), np.einsum(f"{letters}i,{letters}o->io", x, dy),
            np.einsum(f"{letters}o->o", dy))
""",
    ),
    "linear in float32 and Fortran order": (
        "a2",
        "2.1",
        """
def linear_forward(x, W, b):
    low = [np.asfortranarray(a.astype(np.float32)) for a in (x, W, b)]
    return np.asfortranarray((low[0] @ low[1] + low[2]).astype(x.dtype)), (x.dtype, *low)


def linear_backward(dy, cache):
    dtype, x, W, b = cache
    dy = dy.astype(np.float32)
    n = x.shape[-1]
    dW = sum(np.outer(r, d) for r, d in zip(x.reshape(-1, n), dy.reshape(-1, dy.shape[-1])))
    db = dy.reshape(-1, dy.shape[-1]).sum(0)
    return (dy @ W.T).astype(dtype), dW.astype(dtype), db.astype(dtype)
""",
    ),
    "embedding by one-hots": (
        "a2",
        "2.2",
        """
def embedding_forward(ids, W):
    onehot = np.eye(len(W), dtype=W.dtype)[ids]
    return onehot @ W, onehot


def embedding_backward(dy, onehot):
    return (np.tensordot(onehot, dy, axes=[[0, 1], [0, 1]]),)


def position_backward(dy, W):
    dW = np.zeros_like(W)
    for b in range(len(dy)):
        for t in range(dy.shape[1]):
            dW[t] += dy[b, t]
    return dy + 0, dW
""",
    ),
    "softmax by its Jacobian": (
        "a2",
        "2.4",
        """
def softmax_backward(dy, cache):
    y, axis = cache
    y, dy = np.moveaxis(y, axis, -1), np.moveaxis(dy, axis, -1)
    jacobian = y[..., :, None] * (np.eye(y.shape[-1], dtype=y.dtype) - y[..., None, :])
    return (np.moveaxis(np.einsum("...ij,...i->...j", jacobian, dy), -1, axis),)
""",
    ),
    "layer norm in steps": (
        "a2",
        "2.5",
        """
def norm_forward(x, weight, bias):
    C = x.shape[-1]
    mu = x.sum(-1, keepdims=True) / C
    d = x - mu
    var = (d * d).sum(-1, keepdims=True) / C
    std = np.sqrt(var + EPSILON)
    return weight * (d / std) + bias, (d, std, weight)


def norm_backward(dy, cache):
    d, std, weight = cache
    C = d.shape[-1]
    lead = tuple(range(d.ndim - 1))
    dnormed = dy * weight
    dd = dnormed / std
    dstd = -(dnormed * d).sum(-1, keepdims=True) / std**2
    dvar = dstd / (2 * std)
    dd = dd + 2 * d * dvar / C
    dx = dd - dd.sum(-1, keepdims=True) / C
    return dx, (dy * d / std).sum(lead), dy.sum(lead)
""",
    ),
    "attention a head at a time": ("a2", "2.6", attention(IN_HEADS, *OVER_ROOT)),
    "attention by einsum": ("a2", "2.6", attention(BY_EINSUM, *OVER_ROOT)),
    "capped attention a head at a time": ("a2:4", "2.6", attention(IN_HEADS, *CAPPED)),
    "capped attention by einsum": ("a2:4", "2.6", attention(BY_EINSUM, *CAPPED)),
    "attention over D a head at a time": ("a2:5", "2.6", attention(IN_HEADS, *OVER_WIDTH)),
    "attention over D by einsum": ("a2:5", "2.6", attention(BY_EINSUM, *OVER_WIDTH)),
    "SiLU by tanh": (
        "a2:1",
        "2.3",
        """
def activation_forward(x):
    s = 0.5 * (1 + np.tanh(x / 2))
    return x * s, (x, s)


def activation_backward(dy, cache):
    x, s = cache
    y = x * s
    return (dy * (y + s * (1 - y)),)
""",
    ),
    "squared ReLU by where": (
        "a2:2",
        "2.3",
        """
def activation_forward(x):
    return np.where(x > 0, x * x, 0 * x), x


def activation_backward(dy, x):
    return (dy * (x + np.abs(x)),)
""",
    ),
    "softplus by log1p": (
        "a2:3",
        "2.3",
        """
def activation_forward(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))), x


def activation_backward(dy, x):
    return (dy * (1 + np.tanh(x / 2)) / 2,)
""",
    ),
    "RMS norm in steps, by einsum": (
        "a2:1",
        "2.5",
        """
def norm_forward(x, weight):
    rms = np.sqrt(np.einsum("...c,...c->...", x, x)[..., None] / x.shape[-1] + EPSILON)
    return x / rms * weight, (x, rms, weight)


def norm_backward(dy, cache):
    x, rms, weight = cache
    dn = dy * weight
    drms = -(dn * x).sum(-1, keepdims=True) / rms**2
    dx = dn / rms + drms * x / (rms * x.shape[-1])
    return dx, (dy * x / rms).reshape(-1, len(weight)).sum(0)
""",
    ),
    "centred L2 norm by a matrix that centres": (
        "a2:2",
        "2.5",
        """
def norm_forward(x, weight, bias):
    C = x.shape[-1]
    centre = np.eye(C, dtype=x.dtype) - 1 / C
    d = x @ centre
    length = np.sqrt((d**2).sum(-1, keepdims=True) + EPSILON)
    return d / length * weight + bias, (d, length, weight, centre)


def norm_backward(dy, cache):
    d, length, weight, centre = cache
    lead = tuple(range(d.ndim - 1))
    dn = dy * weight
    dd = dn / length - d * (dn * d).sum(-1, keepdims=True) / length**3
    return dd @ centre, (dy * d / length).sum(lead), dy.sum(lead)
""",
    ),
    "layer norm around 0, a row at a time": (
        "a2:3",
        "2.5",
        """
def norm_forward(x, weight, bias):
    y, kept = np.empty_like(x), {}
    for row in np.ndindex(x.shape[:-1]):
        std = math.sqrt(float(x[row].var()) + EPSILON)
        n = (x[row] - x[row].mean()) / std
        y[row] = n + n * weight + bias
        kept[row] = (n, std)
    return y, (kept, weight)


def norm_backward(dy, cache):
    kept, weight = cache
    C = len(weight)
    dx, dweight, dbias = np.empty_like(dy), np.zeros_like(weight), np.zeros_like(weight)
    for row, (n, std) in kept.items():
        dn = dy[row] + dy[row] * weight
        dx[row] = (C * dn - dn.sum() - n * (n @ dn)) / (C * std)
        dweight += dy[row] * n
        dbias += dy[row]
    return dx, dweight, dbias
""",
    ),
    "a gradient by a flat view": (
        "a0",
        "0.1",
        """
def numerical_gradient(f, x, h):
    g = []
    for k in range(x.size):
        step = np.zeros(x.size, x.dtype)
        step[k] = h
        step = step.reshape(x.shape)
        g.append((f(x + step) - f(x - step)) / (2 * h))
    return np.array(g, x.dtype).reshape(x.shape)
""",
    ),
    "softmax in loops": (
        "a0",
        "0.2",
        """
def softmax(z):
    out = np.empty_like(z)
    for i in np.ndindex(z.shape[:-1]):
        e = [float(np.exp(v - max(z[i]))) for v in z[i]]
        out[i] = np.array(e) / sum(e)
    return out
""",
    ),
    "the cross-entropy with one-hots and einsum": (
        "a0",
        "0.3",
        """
def cross_entropy_forward(logits, targets):
    onehot = (targets[:, None] == np.arange(logits.shape[1])).astype(logits.dtype)
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    n = max(1, int(onehot.sum()))
    return -np.einsum("nv,nv->", onehot, log_p) / n, (onehot, log_p, n)


def cross_entropy_backward(dy, cache):
    onehot, log_p, n = cache
    d = onehot.sum(1, keepdims=True) * np.exp(log_p) - onehot
    return (d * float(dy) / n,)
""",
    ),
    "log Q by a product of rows": (
        "a3",
        "3.1",
        """
def log_prob(log_q, rows):
    found = []
    for row in rows:
        path = [int(v) for v in row[:-1] if v >= 0]
        found.append(sum(log_q[a, b] for a, b in zip(path, path[1:])))
    return np.array(found, log_q.dtype)
""",
    ),
    "sequences by growing": (
        "a3",
        "3.2",
        """
def enumerate_sequences(V, T):
    rows, prefixes = [], [[0]]
    for t in range(T):
        rows += [p + [0] + [-1] * (T - 1 - t) for p in prefixes]
        prefixes = [p + [v] for p in prefixes for v in range(1, V)]
    return np.array(rows[::-1])
""",
    ),
    "the tree by paths of states": (
        "a3",
        "3.5",
        """
def reverse_grad(Q, cost, T):
    U, d = cost_to_go(Q, cost, T), np.zeros_like(Q)

    def visit(t, s, p):
        if t >= T - 1 or (t and not s):
            return
        for v in range(len(Q)):
            d[s, v] += p * Q[s, v] * (cost[s, v] + U[t + 1, v] - U[t, s])
            visit(t + 1, v, p * Q[s, v])

    visit(0, 0, 1.0)
    return d
""",
    ),
    "any model, a sequence at a time": (
        "a3",
        "3.6",
        """
def model_grad(logits_of, pull_back, world, T):
    rows = enumerate_sequences(world.vocab_size, T)
    inputs, targets = world.batch(rows)
    z = logits_of(inputs)
    z = z - z.max(-1, keepdims=True)
    q = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    costs, R, d = world.token_costs(rows).sum(1), 0.0, np.zeros_like(q)
    for i, drawn in enumerate(targets):
        p = 1.0
        for t, v in enumerate(drawn):
            p *= q[i, t, v] if v >= 0 else 1
        R += p * costs[i]
        for t, v in enumerate(drawn):
            if v >= 0:
                d[i, t] -= p * costs[i] * q[i, t]
                d[i, t, v] += p * costs[i]
    return R, pull_back(d)
""",
    ),
    "weights in loops": (
        "a3",
        "3.7",
        """
def reinforce_weights(costs):
    out = np.zeros_like(costs)
    for i, t in np.ndindex(costs.shape):
        out[i, t] = costs[i, t:].sum() / len(costs)
    return out


def rloo_weights(costs):
    n, out = len(costs), np.zeros_like(costs)
    for i in range(n):
        out[i] = (costs[i].sum() - np.delete(costs, i, axis=0).sum(axis=1).mean()) / n
    return out
""",
    ),
    "Gumbel-softmax by its Jacobian, a row at a time": (
        "a3",
        "3.9",
        """
def gumbel_softmax_forward(logits, draw, tau, hard):
    noise = draw()
    z = logits - np.log(np.log(1 / noise))
    low = (z - z.max(1)[:, None]) / tau
    p = np.exp(low - np.log(np.exp(low).sum(1))[:, None])
    y = np.eye(z.shape[1], dtype=z.dtype)[p.argmax(1)] if hard else p
    return y, {"p": p, "tau": tau}


def gumbel_softmax_backward(dy, cache):
    p = cache["p"]
    rows = [(np.diag(r) - np.outer(r, r)) @ d for r, d in zip(p, dy)]
    return (np.array(rows) / cache["tau"],)
""",
    ),
    "GELU with other constants": (
        "a2",
        "2.3",
        """
def activation_forward(x):
    u = math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x)
    return x * (0.5 + 0.5 * np.tanh(u)), (x, u)


def activation_backward(dy, cache):
    x, u = cache
    t = np.tanh(u)
    du = math.sqrt(2 / math.pi) * (1 + 0.134145 * x * x)
    return (dy * (0.5 + 0.5 * t + x * (0.5 - 0.5 * t * t) * du),)
""",
    ),
}


@functools.cache
def own_source(name, variant, functions):
    """What a variant's reference has of these functions, as text."""
    return source_of(assignment(name, variant).source(variant), functions)


def defined_in(text):
    """Names of the functions that a text defines."""
    return tuple(node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef))


def split(name):
    """ "a2:4" -> "a2", 4."""
    name, _, variant = name.partition(":")
    return name, int(variant or 0)


def in_all_variants(answers):
    """{title: (name, number, …, text)} -> parameters (title, variant)."""
    cases = []
    for title, (name, *_, text) in answers.items():
        name, base = split(name)
        functions = defined_in(text)
        for k in range(assignment(name).variants):
            if own_source(name, k, functions) == own_source(name, base, functions):
                marks = [] if k == base else [pytest.mark.slow]
                cases.append(pytest.param(title, k, marks=marks))
    return cases


@pytest.mark.parametrize(("title", "variant"), in_all_variants(RIGHT))
def test_a_right_solution_has_all_points(title, variant):
    name, number, text = RIGHT[title]
    name, _ = split(name)
    found = judge_submission(name, _answer(name, text, variant), [number], variant)
    assert found.points == found.total, found.text()


def each(value, change):
    """Arrays, also in tuples, lists and dicts, changed; functions that return what is changed."""
    if isinstance(value, (np.ndarray, np.floating)):
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)(each(v, change) for v in value)
    if isinstance(value, dict):
        return {k: each(v, change) for k, v in value.items()}
    return changed(value, change) if hasattr(value, "__code__") else value


def changed(function, change):
    """A function that works on changed arrays and returns changed ones."""

    def wrapped(*arguments):
        return each(function(*each(arguments, change)), change)

    return wrapped


def through_float32(array):
    return array.astype(np.float32).astype(array.dtype) if array.dtype.kind == "f" else array


def in_fortran_order(array):
    return np.asfortranarray(array) if array.ndim >= 2 else array


def backwards_in_memory(array):
    return np.flip(np.flip(array).copy()) if array.ndim else array


WAYS = (through_float32, in_fortran_order, backwards_in_memory)
EVERYWHERE = [
    pytest.param(name, k, number, marks=[pytest.mark.slow] if k else [])
    for name in NAMES
    for k in range(assignment(name).variants)
    for number in (task.number for task in assignment(name, k).tasks)
]


@pytest.mark.parametrize(("name", "variant", "number"), EVERYWHERE)
def test_float32_and_every_layout_of_memory_have_all_points(name, variant, number):
    whole = assignment(name, variant)
    names = load_source(whole.source(variant), "reference")
    for way in WAYS:
        own = {f: changed(names[f], way) for f in whole.task(number).functions}
        found = judge_submission(name, Submission(names=names | own), [number], variant)
        assert found.points == found.total, (way.__name__, found.text())


@pytest.mark.parametrize("name", NAMES)
def test_there_are_twenty_right_answers_in_every_variant_and_ten_of_a0(name):
    by_hand = [(split(RIGHT[c.values[0]][0])[0], c.values[1]) for c in in_all_variants(RIGHT)]
    for k in range(assignment(name).variants):
        recast = len(WAYS) * len(assignment(name, k).tasks)
        assert by_hand.count((name, k)) + recast >= (20 if name != "a0" else 10)


# ---- wrong, and in no catalogue ------------------------------------------------------------------

INVENTED = {
    "a1 logits halved": ("a1", "1.1", "z - z.max(axis=-1", "z / 2 - z.max(axis=-1"),
    "a1 a constant": ("a1", "1.1", "return shifted -", "return 0.01 + shifted -"),
    "a1 smoothed onehot": ("a1", "1.2", "column] -= 1", "column] -= 0.9"),
    "a1 root of N": ("a1", "1.2", "(w / n)[:, None]", "(w / np.sqrt(n))[:, None]"),
    "a1 clipped": ("a1", "1.2", "(w / n)[:, None]", "np.minimum(w, 0.5)[:, None] / n"),
    "a1 squares": ("a1", "1.4", "w = eta + (1 - eta) * q\n", "w = eta**2 + (1 - eta) ** 2 * q\n"),
    "a1 geometric": ("a1", "1.4", "w = eta + (1 - eta) * q\n", "w = q ** (1 - eta)\n"),
    "a1 half": ("a1", "1.6", "(1 - gamma) * np.expm1", "(1 - gamma) / 2 * np.expm1"),
    "a1 root": ("a1", "1.6", "w = np.exp(log_q - log_mix)", "w = np.exp((log_q - log_mix) / 2)"),
    "a1 a + 1": ("a1", "1.7", "w = np.exp(a * log_q)", "w = np.exp((a + 1) * log_q)"),
    "a2 bias of the first row": ("a2", "2.1", "dy_rows.sum(axis=0)", "dy_rows[0].copy()"),
    "a2 clipped rows": (
        "a2",
        "2.2",
        "np.add.at(dW, ids, dy)",
        "np.add.at(dW, ids, dy.clip(-1, 1))",
    ),
    "a2 0.0447 in the backward": ("a2", "2.3", "3 * 0.044715", "3 * 0.0447"),
    "a2 half the sum": ("a2", "2.4", "dx = y * (dy - total)", "dx = y * (dy - total / 2)"),
    "a2 epsilon 1e-6": ("a2", "2.5", "square + EPSILON", "square + 1e-6"),
    "a2 r squared": ("a2", "2.5", "dx = r * (dn", "dx = r * r * (dn"),
    "a2 temperature": ("a2", "2.6", "scale = 1 / math.sqrt(D)", "scale = 0.9 / math.sqrt(D)"),
    "a2 values scaled": (
        "a2",
        "2.6",
        "dv = p.swapaxes(-1, -2) @ dheads",
        "dv = p.swapaxes(-1, -2) @ dheads * scale",
    ),
    "a2 -1e2 for -inf": (
        "a2",
        "2.6",
        "np.where(mask, scores, -math.inf)",
        "np.where(mask, scores, -5)",
    ),
    "a2 two parts apart": ("a2", "2.7", "dwte_in + dwte_out", "dwte_in - dwte_out"),
    "a0 steps of 2h": ("a0", "0.1", "/ (2 * h)", "/ (4 * h)"),
    "a0 half a onehot": ("a0", "0.3", "dlogits[row, column] -= 1", "dlogits[row, column] -= 0.5"),
    "a3 squares of costs": (
        "a3",
        "3.3",
        "total = -log_prob(-cost, rows)",
        "total = log_prob(cost**2, rows)",
    ),
    "a3 discounted": ("a3", "3.4", "(cost + then)", "(cost + 0.9 * then)"),
    "a3 advantage halved": (
        "a3",
        "3.5",
        "advantage = cost + U[t + 1]",
        "advantage = cost / 2 + U[t + 1]",
    ),
    "a3 a baseline of the median": (
        "a3",
        "3.7",
        "(total.sum() - total) / (n - 1)",
        "np.median(total)",
    ),
    "a2 half a residual": ("a2", "2.9", "dh = dy + dh_mlp", "dh = dy / 2 + dh_mlp"),
    "a2 SiLU, σ for its slope": ("a2:1", "2.3", "slope = s + x * s * (1 - s)", "slope = s**2"),
    "a2 a cubed ReLU": ("a2:2", "2.3", "y = positive**2", "y = positive**3"),
    "a2 a softplus to base 2": (
        "a2:3",
        "2.3",
        "y = np.logaddexp(0, x)",
        "y = np.logaddexp2(0, x)",
    ),
    "a2 half of what comes through the size": (
        "a2:1",
        "2.5",
        "dn - normed * along",
        "dn - normed * along / 2",
    ),
    "a2 a length without its root": (
        "a2:2",
        "2.5",
        "r = 1 / np.sqrt(square + EPSILON)",
        "r = 1 / (square + EPSILON)",
    ),
    "a2 a weight around 2": (
        "a2:3",
        "2.5",
        "y = normed * (1 + weight)",
        "y = normed * (2 + weight)",
    ),
    "a2 a slope squared": ("a2:4", "2.6", "dscores *= 1 - t**2", "dscores *= (1 - t**2) ** 2"),
    "a2 another cap": ("a2:4", "2.6", "scores = CAP * t", "scores = (CAP + 0.5) * t"),
    "a2 over D + 1": ("a2:5", "2.6", "scale = 1 / D", "scale = 1 / (D + 1)"),
    "a2 scores over D, and once more": ("a2:5", "2.6", "dq = dscores @ k", "dq = dscores / D @ k"),
    "a3 a logistic for the Gumbel": (
        "a3",
        "3.9",
        "g = -np.log(-np.log(u))",
        "g = np.log(u / (1 - u))",
    ),
    "a3 a root of τ": ("a3", "3.9", "z = (logits + g) / tau", "z = (logits + g) / tau**0.5"),
    "a3 half of the sum": ("a3", "3.9", "soft * (dy - total)", "soft * (dy - total / 2)"),
}
QUICK = ("a1 squares", "a1 root", "a2 half the sum")


def invented():
    """Parameters (title, variant): every variant whose reference has the line that is changed."""
    cases = []
    for title, (name, number, old, _) in INVENTED.items():
        name, base = split(name)
        for k in range(base, assignment(name).variants):
            own = own_source(name, k, assignment(name, k).task(number).functions)
            if k == base or (base == 0 and own.count(old) == 1):
                quick = title in QUICK and k == base
                cases.append(pytest.param(title, k, marks=[] if quick else [pytest.mark.slow]))
    return cases


@pytest.mark.parametrize(("title", "variant"), invented())
def test_a_mistake_that_no_catalogue_has_is_not_named(title, variant):
    name, number, old, new = INVENTED[title]
    name, _ = split(name)
    text = assignment(name, variant).source(variant)
    own = own_source(name, variant, assignment(name, variant).task(number).functions)
    assert own.count(old) == 1
    wrong = Submission(text + "\n\n" + own.replace(old, new))
    found = judge_submission(name, wrong, [number], variant).judged[0]
    assert not found.passed
    assert found.finding.codes == ()
    assert found.finding.where


def test_twenty_mistakes_are_invented_for_a2_in_every_variant_and_for_all_together():
    assert len(INVENTED) >= 20
    for k in range(assignment("a2").variants):
        cases = [c for c in invented() if c.values[1] == k and c.values[0].startswith("a2")]
        assert len(cases) >= 8


# ---- wrong, in the catalogue, written by other hands ---------------------------------------------

KNOWN = {
    "sum instead of mean": (
        "a1",
        "1.2",
        "sum-for-mean",
        """
def token_loss(logits, targets, f_and_w, normalizer=None):
    there = targets != -1
    y = np.maximum(targets, 0)[..., None]
    log_p = log_softmax(logits)
    f, w = f_and_w(np.take_along_axis(log_p, y, -1)[..., 0])
    d = np.exp(log_p)
    np.put_along_axis(d, y, np.take_along_axis(d, y, -1) - 1, -1)
    n = normalizer or 1
    return np.sum(f[there]) / n, d * (w * there)[..., None] / n
""",
    ),
    "the mean over all positions": (
        "a1",
        "1.2",
        "masks-counted",
        """
def token_loss(logits, targets, f_and_w, normalizer=None):
    d, total = np.zeros_like(logits), 0
    for i in np.ndindex(targets.shape):
        if targets[i] == -1:
            continue
        log_p = log_softmax(logits[i])
        f, w = f_and_w(log_p[targets[i]])
        total += f
        d[i] = w * (np.exp(log_p) - (np.arange(len(log_p)) == targets[i]))
    n = normalizer or targets.size
    return total / n, d / n
""",
    ),
    "the surrogate, differentiated": (
        "a1",
        "1.4",
        "stop-gradient-forgotten",
        """
def mixce(eta):
    def f_and_w(log_q):
        value = -(eta + (1 - eta) * np.exp(log_q)) * log_q
        slope = -eta - (1 - eta) * (np.exp(log_q) * log_q + np.exp(log_q))
        return value, -slope
    return f_and_w
""",
    ),
    "TaiLr with the clamp of the authors": (
        "a1",
        "1.6",
        "lower-clamp",
        """
def tailr(gamma):
    right = _tailr(gamma)
    def f_and_w(log_q):
        f, w = right(log_q)
        return f, np.clip(w, 0.2, None)
    return f_and_w
""",
    ),
    "softmax over the wrong axis": (
        "a1",
        "1.1",
        "softmax-axis",
        """
def log_softmax(z):
    z = z - z.max(axis=0)
    return z - np.log(np.sum(np.exp(z), 0))
""",
    ),
    "layer norm's shortest wrong backward": (
        "a2",
        "2.5",
        "statistics-constant",
        """
def norm_backward(dy, cache):
    normed, r, weight = cache
    n, d = normed.reshape(-1, len(weight)), dy.reshape(-1, len(weight))
    return dy * weight * r, np.einsum("nc,nc->c", n, d), np.einsum("nc->c", d)
""",
    ),
    "k1 in the place of the gradient": (
        "a3",
        "3.6",
        "model-zero",
        """
def model_grad(logits_of, pull_back, world, T):
    right = exact_reverse_ce
    rows = enumerate_sequences(world.vocab_size, T)
    inputs, targets = world.batch(rows)
    z = logits_of(inputs)
    z = z - z.max(-1, keepdims=True)
    lq = z - np.log(np.exp(z).sum(-1, keepdims=True))
    p = np.ones(len(rows))
    for i, row in enumerate(targets):
        p[i] = np.exp(sum(lq[i, t, v] for t, v in enumerate(row) if v >= 0))
    return p @ world.token_costs(rows).sum(1), pull_back(np.zeros_like(z))
""",
    ),
    "embedding with fancy indexing": (
        "a2",
        "2.2",
        "repeats-overwrite",
        """
def embedding_backward(dy, cache):
    ids, W = cache
    dW = np.zeros_like(W)
    for b in range(len(ids)):
        for t in range(ids.shape[1]):
            dW[ids[b, t]] = dy[b, t]
    return (dW,)
""",
    ),
    "Gumbel noise redrawn, by another formula": (
        "a3",
        "3.9",
        "noise-redrawn",
        """
def _soft(logits, u, tau):
    w = np.exp(logits / tau - (logits / tau).max(1)[:, None]) * np.log(1 / u) ** (-1 / tau)
    return w / w.sum(1)[:, None]


def gumbel_softmax_forward(logits, draw, tau, hard):
    p = _soft(logits, draw(), tau)
    y = (p == p.max(1)[:, None]).astype(p.dtype) if hard else p
    return y, (logits, draw, tau)


def gumbel_softmax_backward(dy, cache):
    logits, draw, tau = cache
    p = _soft(logits, draw(), tau)
    return (p * (dy - np.einsum("nv,nv->n", p, dy)[:, None]) / tau,)
""",
    ),
    "a cap without its slope, by einsum": (
        "a2:4",
        "2.6",
        "cap-derivative",
        attention(BY_EINSUM, CAPPED[0], "D**-0.5"),
    ),
    "a cap over masked scores, a head at a time": (
        "a2:4",
        "2.6",
        "cap-after-mask",
        attention(IN_HEADS.replace("scores[~mask] = -np.inf", "scores[~mask] = -CAP"), *CAPPED)
        .replace("D**-0.5 / np.cosh", "MASK * D**-0.5 / np.cosh")
        .replace("MASK", "np.tri(len(raw)) * (1 - np.tri(len(raw), k=-3))"),
    ),
    "attention in loops, scores masked by multiplication": (
        "a2",
        "2.6",
        "masked-scores-zero",
        """
_right_backward = attention_backward


def attention_forward(qkv, n_head, mask):
    B, T, C3 = qkv.shape
    q, k, v = np.moveaxis(qkv.reshape(B, T, 3, n_head, -1), (2, 3), (0, 2))
    s = np.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(q.shape[-1]) * mask.astype(qkv.dtype)
    p = softmax_forward(s, -1)[0]
    y = np.einsum("bhij,bhjd->bihd", p, v).reshape(B, T, -1)
    return y, (q, k, v, p, 1 / math.sqrt(q.shape[-1]))
""",
    ),
}


@pytest.mark.parametrize(("title", "variant"), in_all_variants(KNOWN))
def test_a_known_mistake_by_another_hand_is_named(title, variant):
    name, number, code, text = KNOWN[title]
    name, _ = split(name)
    found = judge_submission(name, _answer(name, text, variant), [number], variant).judged[0]
    assert found.finding.codes == ((code,),), found.text()


def _answer(name, text, variant=0):
    """The reference with functions replaced; _tailr is what was tailr."""
    own = assignment(name, variant).source(variant)
    return Submission(own + "\n_tailr = globals().get('tailr')\n" + text)
