"""Answers as students write them: right ones in other ways, and wrong ones that no catalogue has.

Each is a piece of text that is put behind the reference solution, so that its functions replace
those of the same name.
"""

import pytest

from minimixce.classroom.assignments import assignment
from minimixce.classroom.local import Submission, judge_submission

# ---- right, in other ways ------------------------------------------------------------------------

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
    "attention a head at a time": (
        "a2",
        "2.6",
        """
def attention_forward(qkv, n_head, mask):
    q, k, v = np.split(qkv, 3, axis=-1)
    D = q.shape[-1] // n_head
    y, kept = np.zeros_like(q), []
    for b in range(len(q)):
        for h in range(n_head):
            s = slice(h * D, (h + 1) * D)
            scores = q[b, :, s] @ k[b, :, s].T / math.sqrt(D)
            scores[~mask] = -np.inf
            p = np.exp(scores - scores.max(1)[:, None])
            p /= p.sum(1)[:, None]
            y[b, :, s] = p @ v[b, :, s]
            kept.append((b, s, p))
    return y, (q, k, v, D, kept)


def attention_backward(dy, cache):
    q, k, v, D, kept = cache
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for b, s, p in kept:
        dv[b, :, s] = p.T @ dy[b, :, s]
        dp = dy[b, :, s] @ v[b, :, s].T
        ds = (dp - (dp * p).sum(1)[:, None]) * p / math.sqrt(D)
        dq[b, :, s] = ds @ k[b, :, s]
        dk[b, :, s] = ds.T @ q[b, :, s]
    return (np.concatenate([dq, dk, dv], axis=-1),)
""",
    ),
    "attention by einsum": (
        "a2",
        "2.6",
        """
def attention_forward(qkv, n_head, mask):
    B, T, C3 = qkv.shape
    x = qkv.reshape(B, T, 3, n_head, C3 // 3 // n_head)
    q, k, v = x[:, :, 0], x[:, :, 1], x[:, :, 2]
    scale = q.shape[-1] ** -0.5
    s = np.einsum("bihd,bjhd->bhij", q, k) * scale + np.where(mask, 0, -np.inf).astype(qkv.dtype)
    p = np.exp(s - s.max(-1, keepdims=True))
    p = p / p.sum(-1, keepdims=True)
    return np.einsum("bhij,bjhd->bihd", p, v).reshape(B, T, -1), (q, k, v, p, scale)


def attention_backward(dy, cache):
    q, k, v, p, scale = cache
    dy = dy.reshape(q.shape)
    dp = np.einsum("bihd,bjhd->bhij", dy, v)
    ds = p * (dp - np.einsum("bhij,bhij->bhi", p, dp)[..., None]) * scale
    d = [np.einsum("bhij,bjhd->bihd", ds, k), np.einsum("bhij,bihd->bjhd", ds, q),
         np.einsum("bhij,bihd->bjhd", p, dy)]
    return (np.stack(d, axis=2).reshape(*dy.shape[:2], -1),)
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


@pytest.mark.parametrize("title", RIGHT)
def test_a_right_solution_has_all_points(title):
    name, number, text = RIGHT[title]
    found = judge_submission(name, _answer(name, text), [number])
    assert found.points == found.total, found.text()


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
}


@pytest.mark.slow
@pytest.mark.parametrize("title", INVENTED)
def test_a_mistake_that_no_catalogue_has_is_not_named(title):
    name, number, old, new = INVENTED[title]
    text = assignment(name).source(0)
    assert text.count(old) == 1
    found = judge_submission(name, Submission(text.replace(old, new)), [number]).judged[0]
    assert not found.passed
    assert found.finding.codes == ()
    assert found.finding.where


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


@pytest.mark.parametrize("title", KNOWN)
def test_a_known_mistake_by_another_hand_is_named(title):
    name, number, code, text = KNOWN[title]
    found = judge_submission(name, _answer(name, text), [number]).judged[0]
    assert found.finding.codes == ((code,),), found.text()


def _answer(name, text):
    """The reference with functions replaced; _tailr is what was tailr."""
    return Submission(assignment(name).source(0) + "\n_tailr = globals().get('tailr')\n" + text)
