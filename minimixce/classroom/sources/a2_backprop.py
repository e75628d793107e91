# %% [markdown]
# # A2 Backprop by hand
#
# Eight tasks and a bonus, 100 + 10 points, ten to twelve hours. The [handout](README.md) says what
# each pair must do and how it is checked. Read lesson 3 first, lesson 7 on the way.
#
# Every layer is a pair, `name_forward(…) -> (y, cache)` and `name_backward(dy, cache) -> tuple`:
# one gradient for each floating-point input, in the order of the inputs.

# %%
import math

import numpy as np

EPSILON = 1e-5  # of the norm
N_HEAD = 3  # of tiny_model and the block

# %% [markdown]
# ## 2.1 Linear


# %%
def linear_forward(x, W, b):
    """y = x W + b. x (…,I), W (I,O), b (O,) -> y (…,O), cache. x has two axes or more."""
    ### BEGIN SOLUTION
    y = x @ W + b
    return y, (x, W)
    ### END SOLUTION


def linear_backward(dy, cache):
    """dy (…,O) -> dx (…,I), dW (I,O), db (O,)."""
    ### BEGIN SOLUTION
    x, W = cache
    x_rows = x.reshape(-1, x.shape[-1])
    dy_rows = dy.reshape(-1, dy.shape[-1])
    dx = dy @ W.T
    dW = x_rows.T @ dy_rows
    db = dy_rows.sum(axis=0)
    return dx, dW, db
    ### END SOLUTION


# %% [markdown]
# ## 2.2 Embeddings


# %%
def embedding_forward(ids, W):
    """y = the rows of W that ids name. ids (B,T) integers, W (V,C) -> y (B,T,C), cache."""
    ### BEGIN SOLUTION
    y = W[ids]
    return y, (ids, W)
    ### END SOLUTION


def embedding_backward(dy, cache):
    """dy (B,T,C) -> (dW (V,C),). A row that no id names has gradient exactly 0."""
    ### BEGIN SOLUTION
    ids, W = cache
    dW = np.zeros_like(W)
    np.add.at(dW, ids, dy)
    return (dW,)
    ### END SOLUTION


def position_forward(x, W):
    """Row t of W is added at position t. x (B,T,C), W (block_size,C) -> y (B,T,C), cache."""
    ### BEGIN SOLUTION
    T = x.shape[1]
    y = x + W[:T]
    return y, W
    ### END SOLUTION


def position_backward(dy, cache):
    """dy (B,T,C) -> dx (B,T,C), dW (block_size,C)."""
    ### BEGIN SOLUTION
    W = cache
    T = dy.shape[1]
    dW = np.zeros_like(W)
    dW[:T] = dy.sum(axis=0)
    return dy.copy(), dW
    ### END SOLUTION


# %% [markdown]
# ## 2.3 GELU
#
# In the form with tanh: $y = \frac{1}{2} x (1 + \tanh(\sqrt{2/\pi} (x + 0.044715 x^3)))$.


# %%
def activation_forward(x):
    """x of any shape -> y like x, cache. Finite at ±50."""
    ### BEGIN SOLUTION
    k = math.sqrt(2 / math.pi)
    t = np.tanh(k * (x + 0.044715 * x**3))
    y = 0.5 * x * (1 + t)
    return y, (x, t)
    ### END SOLUTION


def activation_backward(dy, cache):
    """dy like x -> (dx,)."""
    ### BEGIN SOLUTION
    x, t = cache
    k = math.sqrt(2 / math.pi)
    inner = k * (1 + 3 * 0.044715 * x**2)
    slope = 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * inner
    return (dy * slope,)
    ### END SOLUTION


# %% [markdown]
# ## 2.4 Softmax


# %%
def softmax_forward(x, axis):
    """Softmax over one axis. x of any shape -> y like x, cache. Finite at ±1000."""
    ### BEGIN SOLUTION
    shifted = x - x.max(axis=axis, keepdims=True)
    e = np.exp(shifted)
    y = e / e.sum(axis=axis, keepdims=True)
    return y, (y, axis)
    ### END SOLUTION


def softmax_backward(dy, cache):
    """dy like x -> (dx,)."""
    ### BEGIN SOLUTION
    y, axis = cache
    total = (y * dy).sum(axis=axis, keepdims=True)
    dx = y * (dy - total)
    return (dx,)
    ### END SOLUTION


# %% [markdown]
# ## 2.5 Layer norm
#
# Every row of x to mean 0 and variance 1 (the mean of squares, plus ε = `EPSILON` under the root),
# then times `weight` plus `bias`.


# %%
def norm_forward(x, weight, bias):
    """x (…,C), weight (C,), bias (C,) -> y (…,C), cache."""
    ### BEGIN SOLUTION
    centred = x - x.mean(axis=-1, keepdims=True)
    square = np.square(centred).mean(axis=-1, keepdims=True)
    r = 1 / np.sqrt(square + EPSILON)
    normed = centred * r
    y = normed * weight + bias
    return y, (normed, r, weight)
    ### END SOLUTION


def norm_backward(dy, cache):
    """dy (…,C) -> dx (…,C), dweight (C,), dbias (C,)."""
    ### BEGIN SOLUTION
    normed, r, weight = cache
    rows = tuple(range(dy.ndim - 1))
    dweight = (dy * normed).sum(axis=rows)
    dbias = dy.sum(axis=rows)
    dn = dy * weight
    mean = dn.mean(axis=-1, keepdims=True)
    along = (dn * normed).mean(axis=-1, keepdims=True)
    dx = r * (dn - mean - normed * along)
    return dx, dweight, dbias
    ### END SOLUTION


# %% [markdown]
# ## 2.6 Who sees whom: causal
#
# Query i sees the keys j ≤ i.


# %%
def visible(T):
    """-> (T,T) bool, True where query i (row) may see key j (column)."""
    ### BEGIN SOLUTION
    i = np.arange(T)[:, None]
    j = np.arange(T)[None, :]
    return j <= i
    ### END SOLUTION


# %% [markdown]
# ## 2.6 Attention
#
# In each head $y_i = \sum_j p_{ij} v_j$ with $p_i = \mathrm{softmax}_j(q_i \cdot k_j / \sqrt{D})$
# over the keys that query i may see, D being the width of a head.


# %%
def attention_forward(qkv, n_head, mask):
    """qkv (B,T,3C): queries, keys, values side by side, each with its heads side by side; mask
    (T,T) bool, True where a query (row) may see a key (column) -> y (B,T,C), cache.
    """
    ### BEGIN SOLUTION
    B, T, _ = qkv.shape
    q, k, v = qkv.reshape(B, T, 3, n_head, -1).transpose(2, 0, 3, 1, 4)
    D = q.shape[-1]
    scale = 1 / math.sqrt(D)
    scores = q @ k.swapaxes(-1, -2) * scale
    seen = np.where(mask, scores, -math.inf)
    e = np.exp(seen - seen.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    heads = p @ v
    y = heads.transpose(0, 2, 1, 3).reshape(B, T, -1)
    return y, (q, k, v, p, scale)
    ### END SOLUTION


def attention_backward(dy, cache):
    """dy (B,T,C) -> (dqkv (B,T,3C),)."""
    ### BEGIN SOLUTION
    q, k, v, p, scale = cache
    B, H, T, D = q.shape
    dheads = dy.reshape(B, T, H, D).transpose(0, 2, 1, 3)
    dv = p.swapaxes(-1, -2) @ dheads
    dp = dheads @ v.swapaxes(-1, -2)
    dscores = p * (dp - (p * dp).sum(axis=-1, keepdims=True))
    dq = dscores @ k * scale
    dk = dscores.swapaxes(-1, -2) @ q * scale
    parts = np.stack([dq, dk, dv])
    dqkv = parts.transpose(1, 3, 0, 2, 4).reshape(B, T, -1)
    return (dqkv,)
    ### END SOLUTION


# %% [markdown]
# ## 2.7 A tiny model
#
# Embedding, a linear layer to qkv, attention, norm, the unembedding tied to the embedding, and the
# mean of −log q over the targets. `params` has `wte` (V,C), `W` (C,3C), `b` (3C,), `norm_weight`
# (C,) and, where the norm has one, `norm_bias` (C,). Attention has `N_HEAD` heads and the mask
# `visible(T)`.


# %%
def tiny_model(params, ids, targets):
    """ids (B,T), targets (B,T) with −1 ignored -> loss (0-d), grads {name: like the parameter}."""
    ### BEGIN SOLUTION
    wte = params["wte"]
    norm_names = [name for name in ("norm_weight", "norm_bias") if name in params]
    x, from_ids = embedding_forward(ids, wte)
    qkv, from_x = linear_forward(x, params["W"], params["b"])
    a, from_qkv = attention_forward(qkv, N_HEAD, visible(ids.shape[1]))
    n, from_a = norm_forward(a, *(params[name] for name in norm_names))
    logits = n @ wte.T

    is_target = targets >= 0
    column = np.where(is_target, targets, 0)[..., None]
    probs, _ = softmax_forward(logits, -1)
    log_q = np.log(np.take_along_axis(probs, column, axis=-1))[..., 0]
    count = max(int(is_target.sum()), 1)
    loss = -np.where(is_target, log_q, 0).sum() / count

    onehot = column == np.arange(len(wte))
    dlogits = np.where(is_target[..., None], probs - onehot, 0) / count
    dn = dlogits @ wte
    dwte_out = np.einsum("btv,btc->vc", dlogits, n)
    da, *dnorm = norm_backward(dn, from_a)
    (dqkv,) = attention_backward(da, from_qkv)
    dx, dW, db = linear_backward(dqkv, from_x)
    (dwte_in,) = embedding_backward(dx, from_ids)
    dwte = dwte_in + dwte_out
    return loss, {"wte": dwte, "W": dW, "b": db} | dict(zip(norm_names, dnorm))
    ### END SOLUTION


# %% [markdown]
# ## 2.9 Bonus: a block
#
# $h = x + \mathrm{attention}(\mathrm{norm}_1(x))$, $y = h + \mathrm{mlp}(\mathrm{norm}_2(h))$.
# `params` has, for each linear layer in `qkv`, `out`, `up`, `down`, a pair `name_W` and `name_b`,
# and for each norm in `norm1`, `norm2` a `name_weight` and, where the norm has one, a `name_bias`.
# The mlp is up, the activation, down; attention's result goes through `out`.


# %%
def block_forward(x, params):
    """x (B,T,C) -> y (B,T,C), cache."""

    ### BEGIN SOLUTION
    def norm(name, x):
        names = [n for n in (f"{name}_weight", f"{name}_bias") if n in params]
        return norm_forward(x, *(params[n] for n in names))

    def linear(name, x):
        return linear_forward(x, params[f"{name}_W"], params[f"{name}_b"])

    n1, c1 = norm("norm1", x)
    qkv, c2 = linear("qkv", n1)
    a, c3 = attention_forward(qkv, N_HEAD, visible(x.shape[1]))
    o, c4 = linear("out", a)
    h = x + o
    n2, c5 = norm("norm2", h)
    u, c6 = linear("up", n2)
    g, c7 = activation_forward(u)
    d, c8 = linear("down", g)
    y = h + d
    return y, (c1, c2, c3, c4, c5, c6, c7, c8)
    ### END SOLUTION


def block_backward(dy, cache):
    """dy (B,T,C) -> dx (B,T,C), grads {name: like the parameter}."""
    ### BEGIN SOLUTION
    c1, c2, c3, c4, c5, c6, c7, c8 = cache
    grads = {}
    dg, grads["down_W"], grads["down_b"] = linear_backward(dy, c8)
    (du,) = activation_backward(dg, c7)
    dn2, grads["up_W"], grads["up_b"] = linear_backward(du, c6)
    dh_mlp, *of_norm2 = norm_backward(dn2, c5)
    dh = dy + dh_mlp
    da, grads["out_W"], grads["out_b"] = linear_backward(dh, c4)
    (dqkv,) = attention_backward(da, c3)
    dn1, grads["qkv_W"], grads["qkv_b"] = linear_backward(dqkv, c2)
    dx_attention, *of_norm1 = norm_backward(dn1, c1)
    dx = dh + dx_attention
    grads.update(zip(("norm1_weight", "norm1_bias"), of_norm1))
    grads.update(zip(("norm2_weight", "norm2_bias"), of_norm2))
    return dx, grads
    ### END SOLUTION
