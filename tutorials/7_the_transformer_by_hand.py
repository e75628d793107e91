# %% [markdown]
# # 7 The transformer by hand
#
# *Reading: two sittings of 30 minutes. Computing: 15 seconds on a laptop. Before this:
# [lesson 3](3_one_softmax_by_hand.ipynb), [lesson 4](4_the_exact_reverse_gradient.ipynb), and how two matrices are
# multiplied.*
#
# **At the end you will know**
#
# - how to derive the backward pass of any layer from one rule, and how to check it before you trust it;
# - the backward pass of every layer of GPT-2, attention included, line by line;
# - why a model's backward is its forward read in a mirror, and how to find the one layer that is wrong;
# - what the exact gradient of lesson 4 does when it flows through a transformer, which can represent P.

# %%
import types

import numpy as np

import minimixce as mm
import one_file
from lesson import (
    MAX_LEN,
    P_COLOR,
    Q_COLOR,
    SENTENCES,
    VALID,
    few,
    figure,
    optimal_table,
    say,
    sentence_bars,
    sentence_probs,
    show,
    source,
    table,
)

# %% [markdown]
# The bigram of the earlier lessons forgets the number of the noun across "here": it has one softmax for each last token,
# and nothing else. A transformer sees all earlier tokens. To train it you need the derivative of one number, the loss,
# with respect to each of its thousands of parameters.
#
# Everything below is plain NumPy. `one_file` is [one_file.py](one_file.py), the whole of this package in one readable
# file; the package's own [layers.py](../minimixce/layers.py) computes the same, faster. A test holds the two equal.

# %% [markdown]
# ## First sitting: the layers
#
# One rule, and then one layer after the other: linear, layer norm, GELU, softmax, embedding. Each is derived, shown as it
# stands in the code, and checked on the spot.
#
# ## What a backward pass has to find
#
# Let $L$ be the loss, one number. For any array `x` on the way to it, write `dx` for $\partial L/\partial x$: how fast
# $L$ grows with each element of `x`. So `dx` always has the shape of `x`. That is the first check of any backward pass,
# and it often leaves only one way to multiply the matrices at hand.
#
# A layer is a pair of functions. The **forward** makes `y` from `x` and keeps a `cache`, whatever its derivative will
# need. The **backward** is given `dy` and must find `dx`, and the derivative of the layer's parameters too.
#
# You could find each derivative by numbers instead: move one parameter a little and run the forward again.

# %%
C, H, V = 16, 2, 6
small = mm.GPT(mm.GPTConfig(vocab_size=V, block_size=3, n_layer=1, n_head=H, n_embd=C, dtype="float64"), seed=0)
say(f"""Even the small transformer of this lesson has {small.num_params:,} parameters. By numbers, its gradient takes at least
{small.num_params + 1:,} forward passes. By hand it takes one forward and one backward, and a backward costs about as much as
two forwards: a linear layer has one matrix product forward and two backward.""")

# %% [markdown]
# Numbers are too slow to train with, but they are just what is needed to check a backward once. `mm.gradcheck` of lesson
# 3 does that. For a layer whose `y` is an array, it takes fixed random numbers `dy` and the loss $L = \sum_i dy_i\, y_i$.
# Then $\partial L/\partial y_i = dy_i$, as it should be. And nothing is lost: near any point, every loss changes with `y`
# like such a sum.

# %% [markdown]
# ## Follow every road to the loss
#
# All of backpropagation is one rule, the chain rule. **From $x_j$, follow every road to the loss. Along a road multiply
# the slopes, and add up the roads:**
#
# $$dx_j = \sum_i dy_i \, \frac{\partial y_i}{\partial x_j}$$
#
# The sum runs over every $y_i$ in which $x_j$ appears. The factor $dy_i$ already holds all roads from $y_i$ onwards, so a
# layer need not know what comes after it.
#
# > **Predict.** Let $a = x^2$, $b = 3x$ and $L = a\,b$. At $x = 2$ the road through $a$ and the road through $b$ each
# > have two slopes. What is `dx`?


# %% tags=["reveal"]
def roads(x):
    """The roads from x to L = a b, with a = x² and b = 3x, and the slope of each step."""
    fig = figure(6.5, 2.4)
    ax = fig.subplots()
    places = {"x": (0, 0), "a = x²": (1.5, 0.8), "b = 3x": (1.5, -0.8), "L = a b": (3, 0)}
    slopes = [("x", "a = x²", 2 * x), ("x", "b = 3x", 3), ("a = x²", "L = a b", 3 * x), ("b = 3x", "L = a b", x**2)]
    for start, end, slope in slopes:
        (x0, y0), (x1, y1) = places[start], places[end]
        ax.annotate("", (x1, y1), (x0, y0), arrowprops={"arrowstyle": "-|>", "shrinkA": 22, "shrinkB": 30, "color": "0.4"})
        ax.text((x0 + x1) / 2, (y0 + y1) / 2 + (0.2 if y0 + y1 > 0 else -0.2), f"slope {slope}", ha="center", va="center")
    for name, place in places.items():
        ax.text(*place, name, ha="center", va="center", bbox={"boxstyle": "round", "fc": "white", "ec": "0.3"})
    ax.set(xlim=(-0.6, 3.6), ylim=(-1.15, 1.15))
    ax.axis("off")
    return fig


x = 2
say(f"""dx = {2 * x} · {3 * x} + 3 · {x**2} = {2 * x * 3 * x + 3 * x**2}. Check: L is 3x³, whose slope is 9x² = {9 * x**2}.
Whoever follows only one road gets {2 * x * 3 * x} or {3 * x**2}.""")
assert 2 * x * 3 * x + 3 * x**2 == 9 * x**2
show(roads(x), "A diagram with two roads from x to L, one through a and one through b, and the slope on each step.")

# %% [markdown]
# ## The linear layer
#
# $y = xW + b$. Each of the $N$ rows of `x` (one for each token of a batch) is treated alike. One output, written out:
#
# $$y_{no} = \sum_i x_{ni} W_{io} + b_o$$
#
# Now ask of each input in which outputs it appears, and with which slope.
#
# - $x_{ni}$ appears in every output $o$ of its own row, with slope $W_{io}$: $\;dx_{ni} = \sum_o dy_{no} W_{io}$.
# - $W_{io}$ appears in output $o$ of every row, with slope $x_{ni}$: $\;dW_{io} = \sum_n x_{ni}\, dy_{no}$.
# - $b_o$ appears in output $o$ of every row, with slope 1: $\;db_o = \sum_n dy_{no}$.
#
# The first two sums are matrix products, $dx = dy\, W^T$ and $dW = x^T dy$. To see which, look for the index that is
# summed: it must stand in the middle. And look at the shapes: no other order of the two would fit.

# %%
source(one_file.linear, one_file.linear_backward)

# %%
rng = np.random.default_rng(0)
x, W, b = rng.standard_normal((5, 4)), rng.standard_normal((4, 3)), rng.standard_normal(3)
report = mm.gradcheck(one_file.linear, one_file.linear_backward, [x, W, b], names=["x", "W", "b"])
print(report)
assert report.ok

# %% [markdown]
# > **Predict.** All rows of a batch share one `b`. If the batch is twice as large, with the same rows again, is `db` for
# > the same `dy` twice as large or the same?

# %% tags=["reveal"]
dy = rng.standard_normal((5, 3))
_, _, db = one_file.linear_backward(dy, (x, W))
_, _, db_twice = one_file.linear_backward(np.concatenate([dy, dy]), (np.concatenate([x, x]), W))
say(f"""Twice as large: {db[0]:.2f} becomes {db_twice[0]:.2f} in the first place. A layer adds up roads and never takes a mean.
If the loss is a mean over N tokens, the 1/N is in `dy` already: the loss put it there.""")
assert np.allclose(db_twice, 2 * db)

# %% [markdown]
# ## Layer norm
#
# Layer norm shifts each row to mean 0 and scales it to variance 1; then each channel gets its own scale and shift. With
# $C$ channels, mean $\mu$ and variance $v$ of a row, and a small $\epsilon$ against division by zero:
#
# $$r = (v + \epsilon)^{-1/2}, \qquad n_i = (x_i - \mu)\, r, \qquad y_i = n_i\, \text{weight}_i + \text{bias}_i$$
#
# The last step is easy: `dweight` and `dbias` are sums over the rows, as for `b` above, and
# $dn_i = dy_i\, \text{weight}_i$. What remains is to get from `dn` to `dx` within one row. From $x_j$ there are three
# roads to the $n_i$:
#
# 1. **Its own place.** $x_j$ stands in $n_j$, with slope $r$.
# 2. **The mean.** $\partial \mu / \partial x_j = 1/C$, and $\mu$ stands in every $n_i$ with slope $-r$: together $-r/C$.
# 3. **The scale** $r$, which stands in every $n_i$ too.

# %% [markdown]
# The third road, step by step. The variance is $v = \frac{1}{C} \sum_i (x_i - \mu)^2$. Moving $x_j$ also moves $\mu$, but
# that part is zero, because the $x_i - \mu$ sum to zero. So
#
# $$\frac{\partial v}{\partial x_j} = \frac{2}{C}(x_j - \mu), \qquad
# \frac{\partial r}{\partial v} = -\frac{1}{2} (v + \epsilon)^{-3/2} = -\frac{1}{2} r^3$$
#
# $$\frac{\partial r}{\partial x_j} = -\frac{1}{C} r^3 (x_j - \mu) = -\frac{1}{C} r^2 n_j, \qquad
# (x_i - \mu) \frac{\partial r}{\partial x_j} = -\frac{1}{C} r\, n_i n_j$$
#
# Add the three roads and sum over $i$, as the rule says:
#
# $$dx_j = r \left( dn_j - \frac{1}{C} \sum_i dn_i - n_j \, \frac{1}{C} \sum_i dn_i n_i \right)$$

# %%
source(one_file.layer_norm, one_file.layer_norm_backward)

# %%
x, weight, bias = rng.standard_normal((5, 8)), rng.standard_normal(8), rng.standard_normal(8)
report = mm.gradcheck(one_file.layer_norm, one_file.layer_norm_backward, [x, weight, bias], names=["x", "weight", "bias"])
print(report)
assert report.ok

# %% [markdown]
# The formula has a meaning. If you add a constant to a row, layer norm takes it away again: $y$ does not change, so `dx`
# must have no part along the constant direction. If you stretch a row about its mean, layer norm undoes that as well (but
# for $\epsilon$), so `dx` must have no part along `n`. The two subtracted terms remove just these two parts.

# %%
y, cache = one_file.layer_norm(x, weight, bias)
dx, _, _ = one_file.layer_norm_backward(rng.standard_normal(y.shape), cache)
n = cache[0]
say(f"""Beside a largest element of {np.abs(dx).max():.1f}, the sums of `dx` over a row are at most
{np.abs(dx.sum(axis=1)).max():.0e}, and the sums of `dx · n` at most {np.abs((dx * n).sum(axis=1)).max():.0e}: the first is
rounding, the second is what ε leaves.""")
assert np.allclose(dx.sum(axis=1), 0)
assert np.allclose((dx * n).sum(axis=1), 0, atol=1e-3)

# %% [markdown]
# ## GELU
#
# GELU acts on each number by itself, so there is one place in $y$ for each place in $x$. It is a soft switch:
#
# $$y = \frac{1}{2} x (1 + t), \qquad t = \tanh u, \qquad u = s\,(x + k x^3)$$
#
# with two constants $s = \sqrt{2/\pi}$ and $k = 0.044715$. There are still two roads from $x$: the factor $x$ in front,
# and the $x$ inside $u$. The slope of $\tanh$ is $1 - t^2$, and $\partial u / \partial x = s\,(1 + 3 k x^2)$. Together:
#
# $$\frac{\partial y}{\partial x} = \frac{1}{2}(1 + t) + \frac{1}{2} x (1 - t^2)\, s\, (1 + 3 k x^2)$$

# %%
source(one_file.gelu_backward)
report = mm.gradcheck(one_file.gelu, one_file.gelu_backward, [rng.standard_normal((5, 8))], names=["x"])
print(report)
assert report.ok

# %% [markdown]
# ## Softmax
#
# Softmax makes probabilities of scores: $p_i = e^{x_i} / Z$ with $Z = \sum_k e^{x_k}$. Take the logarithm first, because
# it separates the two roads: $\log p_i = x_i - \log Z$. The first term contains $x_j$ only if $i = j$. For the second,
# $\partial \log Z / \partial x_j = e^{x_j} / Z = p_j$. So, writing $1_{i=j}$ for 1 if $i = j$ and 0 otherwise,
#
# $$\frac{\partial \log p_i}{\partial x_j} = 1_{i=j} - p_j, \qquad
# \frac{\partial p_i}{\partial x_j} = p_i \, (1_{i=j} - p_j)$$
#
# Sum over the roads:
#
# $$dx_j = \sum_i dp_i\, p_i\, (1_{i=j} - p_j) = p_j \left( dp_j - \sum_i p_i\, dp_i \right)$$

# %%
source(one_file.softmax_backward)


# %%
def softmax(x):
    p = one_file.softmax(x)
    return p, p  # all that the backward needs is the result itself


report = mm.gradcheck(softmax, one_file.softmax_backward, [rng.standard_normal((5, 8))], names=["x"])
print(report)
assert report.ok

# %% [markdown]
# Read the result once more: $dp_j$, less its mean under $p$, times $p_j$. You have met it twice.
#
# - With the loss $-\log p_v$, only $dp_v = -1/p_v$ is not zero, and the formula gives $p - \text{onehot}(v)$: lesson 3.
# - With a cost $c_v$ for each token and the expected cost $\sum_v p_v c_v$ as the loss, $dp = c$, and the formula gives
#   $p_v (c_v - \text{the mean of } c)$: the exact gradient of lesson 4, whose bracket is the advantage.

# %%
p = one_file.softmax(np.array([0.5, -1.0, 2.0]))
dp = np.array([0, -1 / p[1], 0])  # the loss is −log p of token 1
say(f"softmax_backward gives {one_file.softmax_backward(dp, p).round(3)}, and p − onehot is {(p - [0, 1, 0]).round(3)}.")
assert np.allclose(one_file.softmax_backward(dp, p), p - [0, 1, 0])

# %% [markdown]
# ## The embedding: a look-up forward, a scatter-add backward
#
# The first layer looks up a row of a table for each token: `x = W[tokens]`. That is the product of one-hot rows with $W$,
# so $dW = \text{onehot}^T dx$. Row $v$ of `dW` is the sum of the `dx` of all places where token $v$ stood. A token that
# stands in two places has two roads. A token that does not occur has none, and its row is zero. The table of positions,
# which is added next, is simpler still: row $t$ is used once in each sequence, so its gradient is a sum over the batch.
#
# > **Predict.** NumPy can write to looked-up rows too: `dW[tokens] += dx`. Is that the same sum?

# %% tags=["reveal"]
tokens, dx = np.array([2, 0, 2]), np.ones((3, 1))  # token 2 occurs twice
wrong, right = np.zeros((4, 1)), np.zeros((4, 1))
wrong[tokens] += dx
np.add.at(right, tokens, dx)
say(f"""No. For tokens {tokens} and a `dx` of ones, `dW[tokens] += dx` gives {wrong.ravel()}, but the sum is {right.ravel()}.
The short form reads every row, adds, and writes every row; of the two writes to row 2, the second covers the first.
`np.add.at` adds one after another.""")
assert np.array_equal(right, np.eye(4)[tokens].T @ dx)
assert not np.array_equal(wrong, right)

# %% [markdown]
# ## One table, used twice
#
# GPT-2's last matrix, which turns $C$ channels into a score for each of the $V$ tokens, is the embedding table again,
# transposed: the output is *tied* to the input. So the table has two families of roads to the loss. One starts where a
# token was looked up, the other where logits were made. Its gradient has two parts, found at the two ends of the backward
# pass, and they are added. Here is the shortest model with a tied table: look up, and go straight to the logits.


# %%
def tied(table):
    x = table[tokens]  # (3,C)
    logits, head = one_file.linear(x, table.T, 0)  # (3,V)
    return logits, (table, head)


def tied_backward(dlogits, cache, parts=("input", "output")):
    table, head = cache
    dx, dtable_transposed, _ = one_file.linear_backward(dlogits, head)
    dtable = np.zeros_like(table)
    if "input" in parts:
        np.add.at(dtable, tokens, dx)
    return dtable + dtable_transposed.T if "output" in parts else dtable


# %%
wte = rng.standard_normal((4, 5))
for parts in (["input", "output"], ["input"], ["output"]):
    report = mm.gradcheck(
        tied, lambda dy, cache, parts=parts: tied_backward(dy, cache, parts), [wte], names=[" + ".join(parts)]
    )
    print(report.rows[0].name, "OK" if report.ok else "WRONG", f"{report.max_relative_error:.0e}")
    assert report.ok == (len(parts) == 2)

# %% [markdown]
# Each part alone is wrong; only the sum passes. This is the first sitting's rule at its plainest: *every* road.
#
# You now have every layer but attention. A good place for a break.

# %% [markdown]
# ## Second sitting: the model
#
# Three things are left: the one layer in which rows meet, the way layers are joined into a model, and what comes through
# a whole model when lesson 4's gradient is put in at its top.

# %% [markdown]
# ## Attention: rows that look at one another
#
# So far every token's row went its own way. Attention is the one layer in which rows meet. From its row, each position
# $i$ makes three vectors of $D$ numbers: a query $q_i$ (what it looks for), a key $k_i$ (what it can be found by) and a
# value $v_i$ (what it hands over). Then
#
# $$s_{ij} = \frac{1}{\sqrt{D}}\, q_i \cdot k_j, \qquad p_{ij} = \operatorname{softmax}_j (s_{ij}), \qquad
# y_i = \sum_{j \le i} p_{ij}\, v_j$$
#
# - **Causal mask.** Position $i$ may look at $j \le i$ only. The scores of $j > i$ become $-\infty$, so their $p$ is 0.
# - **Heads.** The $C$ channels are split into $H$ heads of $D = C/H$. Each head does all this by itself, side by side.
# - **The root.** A dot product of $D$ random terms has a spread of about $\sqrt{D}$. Dividing by it keeps the softmax
#   from starting out nearly one-hot, where its slopes $p_i (1_{i=j} - p_j)$ are all nearly 0.

# %%
source(one_file.attention)

# %% [markdown]
# The reshape and transpose at both ends only move numbers about, to put heads beside one another. Their backward moves
# them back. In between stand two matrix products and a softmax, which you know.

# %% [markdown]
# ## Attention, backward
#
# Go from the last line to the first. For one head, the output is $y_{id} = \sum_j p_{ij} v_{jd}$. Ask again: who appears
# where?
#
# - $p_{ij}$ appears in $y_{id}$ for every $d$, with slope $v_{jd}$: $\;dp_{ij} = \sum_d dy_{id}\, v_{jd}$, the product
#   $dy\, v^T$.
# - $v_{jd}$ appears in $y_{id}$ for every $i$, with slope $p_{ij}$: $\;dv_{jd} = \sum_i p_{ij}\, dy_{id}$, the product
#   $p^T dy$.
# - `softmax_backward` turns `dp` into `ds`, row by row.
# - $q_i$ appears in the scores of row $i$: $\;dq_i = \frac{1}{\sqrt{D}} \sum_j ds_{ij}\, k_j$.
# - $k_j$ appears in the scores of column $j$: $\;dk_j = \frac{1}{\sqrt{D}} \sum_i ds_{ij}\, q_i$.

# %% [markdown]
# The mask needs no line of its own. Where a score was masked, $p_{ij} = 0$, and softmax's backward has $p_{ij}$ as a
# factor, so $ds_{ij} = 0$: a forbidden road carries nothing in either direction.

# %%
source(one_file.attention_backward)

# %%
B, T, n_head = 2, 4, 2
qkv = rng.standard_normal((B * T, 3 * 8))  # queries, keys and values of 8 channels side by side
report = mm.gradcheck(
    lambda qkv: one_file.attention(qkv, B, T, n_head),
    lambda dy, cache: one_file.attention_backward(dy, cache, B, T, n_head),
    [qkv],
    names=["qkv"],
)
print(report)
assert report.ok


# %%
def one_head(T=5, D=8):
    """One head forward and backward, as three matrices of which row i asks and column j answers."""
    rng, allowed = np.random.default_rng(3), np.tri(T, dtype=bool)
    _, (q, k, v, p) = one_file.attention(rng.standard_normal((T, 3 * D)), 1, T, 1)
    p, scores = p[0, 0], (q @ k.mT / np.sqrt(D))[0, 0]
    dscores = one_file.softmax_backward(rng.standard_normal((T, D)) @ v[0, 0].T, p)
    fig = figure(7.5, 2.9)
    panels = [("forward: scores s", scores, "PRGn", 4), ("forward: probabilities p", p, "Oranges", 1.4)]
    panels += [("backward: ds", dscores, "PRGn", 1.1)]
    for ax, (title, values, colors, limit) in zip(fig.subplots(1, 3), panels):
        least = 0 if colors == "Oranges" else -limit
        ax.imshow(np.where(allowed, values, np.nan), cmap=colors, vmin=least, vmax=limit)
        for i, j in zip(*np.nonzero(allowed)):
            ax.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=7)
        ax.set(title=title, xlabel="key position j", ylabel="query position i", xticks=range(T), yticks=range(T))
    return fig, p, dscores


fig, p, dscores = one_head()
show(
    fig,
    "Three lower triangular matrices of one attention head: masked scores, probabilities, and the derivative of the scores.",
)
assert np.allclose(p.sum(axis=1), 1)
assert np.allclose(dscores.sum(axis=1), 0)
assert np.allclose(np.triu(dscores, 1), 0)

# %% [markdown]
# Each row of `p` sums to one, so each row of `ds` sums to zero: what one key gains another must lose. The first row of
# `ds` is zero, because position 0 has only itself to look at.
#
# > **Predict.** The mask forbids position $i$ to look at later positions. In the backward pass, can the loss at a later
# > position change the gradient at an earlier one? And the other way round?

# %% tags=["reveal"]
dy = np.zeros((T, 8))
dy[2] = 1  # a loss that looks at the output of position 2 alone
_, cache = one_file.attention(qkv[:T], 1, T, n_head)
reached = np.abs(one_file.attention_backward(dy, cache, 1, T, n_head)).sum(axis=1) > 0
say(f"""Yes, and no. A loss at position 2 reaches positions {np.flatnonzero(reached).tolist()} of 0 to {T - 1}. Forward,
position 2 reads from 0, 1 and 2; backward, its derivative goes to where it had read, from later to earlier. This is how a
wrong verb can tell "cat", two places before, that its number matters.""")
assert reached.tolist() == [True, True, True, False]

# %% [markdown]
# ## The residual stream
#
# A block does not replace its input: it adds to it, `x = x + f(x)`. From $x$ there are then two roads, one straight on
# with slope 1 and one through $f$:
#
# $$dx = dy + f_{\text{backward}}(dy)$$
#
# So in a backward pass, an addition in the forward becomes a copy (both branches receive `dy`), and a copy in the forward
# becomes an addition. The straight road runs through all blocks from the loss to the embedding and multiplies by nothing.
# However many blocks there are, part of the derivative arrives undiminished. This is one reason why deep transformers can
# be trained at all.

# %% [markdown]
# ## The block and its mirror
#
# Now the whole model. Read the lines of `forward` downwards, then those of `backward` upwards.

# %%
source(one_file.forward, one_file.backward)

# %% [markdown]
# They are the same lines: every `y, cache[name] = layer(…)` has its `dy, … = layer_backward(dy, cache[name])`, in the
# opposite order. What the forward wrote into the cache, the backward reads from it, and nothing else passes between the
# two. Here is one block drawn twice.
#
# Up on the left in orange goes what the model Q computes. At its top it meets the data: with maximum likelihood the
# derivative at the logits is $q - \text{onehot}$, on average over the data Q less P. What comes down on the right is
# drawn in blue, because it is all that the model ever hears of P. Each rung is a cache.

# %%
LAYERS = [  # of one block from its input to its output: forward, backward, parameters, what the cache holds
    ("copy", "+", "", ""),
    ("layer_norm", "layer_norm_backward", "ln_1", "n, r, weight"),
    ("linear", "linear_backward", "attn.c_attn", "x, W"),
    ("attention", "attention_backward", "", "q, k, v, p"),
    ("linear", "linear_backward", "attn.c_proj", "x, W"),
    ("+", "copy", "", ""),
    ("copy", "+", "", ""),
    ("layer_norm", "layer_norm_backward", "ln_2", "n, r, weight"),
    ("linear", "linear_backward", "mlp.c_fc", "x, W"),
    ("gelu", "gelu_backward", "", "x, t"),
    ("linear", "linear_backward", "mlp.c_proj", "x, W"),
    ("+", "copy", "", ""),
]


# %%
def draw_roads(ax, side, color, up):
    """One of the two columns: its boxes, the road through them, and the straight road around each half."""
    arrow = {"arrowstyle": "-|>", "color": color, "lw": 1.8, "shrinkA": 0, "shrinkB": 0}
    outwards, top = np.sign(side), len(LAYERS)
    for y in range(-1, top):
        ax.annotate("", (side, y + (0.72 if up else 0.28)), (side, y + (0.28 if up else 0.72)), arrowprops=arrow)
    for start, end in ((0, 5), (6, 11)) if up else ((5, 0), (11, 6)):
        out = side + 2.15 * outwards
        ax.plot([side, out, out], [start, start, end], color=color, lw=1.8, zorder=0)
        ax.annotate("", (side + 0.24 * outwards, end), (out, end), arrowprops=arrow, zorder=0)
    for y, (forward, backward, *_) in enumerate(LAYERS):
        text = forward if up else backward
        shape = {"boxstyle": "circle,pad=0.2" if text == "+" else "round,pad=0.3", "fc": "white", "ec": color, "lw": 1.5}
        ax.text(side, y, text, ha="center", va="center", fontsize=9, bbox=shape, zorder=3)
    for y in (-1, top):
        ax.text(side, y, "x (B,T,C)" if up else "dx (B,T,C)", ha="center", va="center", fontsize=9)
    ax.text(side, top + 0.7, "forward, upwards" if up else "backward, downwards", ha="center", color=color, fontsize=11)


def draw_parameters(ax, side, color, up):
    """What enters each layer from outside, its parameters, or what leaves it, their gradients."""
    outwards, prefix = np.sign(side), "" if up else "d"
    for y, (forward, _, params, _) in enumerate(LAYERS):
        if params:
            kinds = ("weight", "bias") if forward == "layer_norm" else ("W", "b")
            label = f"{params}\n{prefix}{kinds[0]}, {prefix}{kinds[1]}"
            place = side + (1.45 if up else 1.6) * outwards
            ax.text(place, y, label, ha="center", va="center", fontsize=7.5, color="0.25", linespacing=1.3)
            start, end = (0.98, 0.06 * len(forward) + 0.06) if up else (0.92, 1.1)
            arrow = {"arrowstyle": "-|>", "color": color, "lw": 1, "shrinkA": 0, "shrinkB": 0}
            ax.annotate("", (side + end * outwards, y), (side + start * outwards, y), arrowprops=arrow)


# %%
def mirrored_block():
    """One block drawn twice: its forward going up, its backward coming down, its caches as rungs."""
    fig = figure(7.5, 8)
    ax = fig.subplots()
    for draw in (draw_roads, draw_parameters):
        draw(ax, -1.9, Q_COLOR, up=True)
        draw(ax, 1.9, P_COLOR, up=False)
    for y, (forward, backward, _, cache) in enumerate(LAYERS):
        if cache:
            ends = (1.9 - 0.055 * len(backward) - 0.12, y), (-1.9 + 0.055 * len(forward) + 0.12, y)
            ax.annotate("", *ends, arrowprops={"arrowstyle": "-|>", "color": "0.55", "shrinkA": 0, "shrinkB": 0}, zorder=1)
            ax.text(-0.25, y, cache, ha="center", va="center", fontsize=9, bbox={"fc": "white", "ec": "none", "pad": 2})
    ax.text(-0.25, len(LAYERS) + 0.7, "cache", ha="center", color="0.4", fontsize=11)
    ax.set(xlim=(-4.25, 4.25), ylim=(-1.3, len(LAYERS) + 1.1))
    ax.axis("off")
    return fig


show(
    mirrored_block(),
    "One transformer block drawn twice, its forward layers going up on the left, its backward functions coming down on the "
    "right, joined by the caches like the rungs of a ladder.",
)

# %% [markdown]
# Three things to see. **Opposites:** where the forward copies, the backward adds; where it adds, the backward copies.
# **Rungs:** each backward function reads the cache of its own forward and of no other. **Exits:** each layer's parameters
# get their gradient at the layer, from the `dy` that arrives there. The same `dy`, turned into `dx`, then goes on
# downwards.
#
# ## The whole model, tensor by tensor
#
# If every layer is right and joined in the right order, the model is right. Whether it is joined in the right order is
# one more thing to check. Take three blocks, parameters far from zero so that no term of a gradient can hide, and the
# mean of $-\log q$ as the loss.

# %%
T, n_head = 4, 2
rng = np.random.default_rng(0)
tokens, targets = rng.integers(0, V, (2, T)), rng.integers(0, V, (2, T))
params = one_file.init(vocab_size=V, block_size=T, n_layer=3, n_head=n_head, n_embd=8, seed=0)
params = {name: 0.5 * rng.standard_normal(value.shape) for name, value in params.items()}
names = list(params)


def model_forward(*values):
    params = dict(zip(names, values))
    logits, cache = one_file.forward(params, tokens, n_head)
    loss, dlogits = one_file.mixce(logits, targets, eta=1.0)  # η = 1 is maximum likelihood
    return loss, (params, dlogits, cache)


# %%
def check_model(backward):
    """Gradcheck of a whole model with this backward, one line a tensor."""

    def model_backward(dloss, kept):
        params, dlogits, cache = kept
        return tuple(backward(params, dloss * dlogits, cache, n_head).values())

    values, coordinates = list(params.values()), few(64, 8)
    return mm.gradcheck(model_forward, model_backward, values, names=names, coordinates=coordinates)


report = check_model(one_file.backward)
print(report)
assert report.ok

# %% [markdown]
# ## Break one layer
#
# Now we play the student who made a mistake. In `gelu_backward` the factor 3 before $k x^2$ is easily forgotten. We
# forget it in one block only, block 1 of the blocks 0, 1 and 2, and leave the files alone: `one_file.backward` runs with
# the same code but other names around it.


# %%
def gelu_backward_without_the_3(dy, cache):
    x, t = cache
    du_dx = np.sqrt(2 / np.pi) * (1 + 0.044715 * x * x)
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du_dx)


# %%
def broken_backward(place, right, wrong):
    """one_file.backward, but for the one cache called `place` it calls `wrong` where its code says `right`."""

    def backward(params, dlogits, cache, n_head):
        def substitute(dy, layer_cache, *sizes):
            return (wrong if layer_cache is cache[place] else right)(dy, layer_cache, *sizes)

        names_around_it = {**vars(one_file), right.__name__: substitute}
        same_code = types.FunctionType(one_file.backward.__code__, names_around_it)
        return same_code(params, dlogits, cache, n_head)

    return backward


# %%
def tensors_by_error(report, broken_after):
    """A bar for the error of each tensor, input at the bottom; red is wrong. The dashed line is where the mistake is."""
    fig = figure(7.5, 7.4)
    ax = fig.subplots()
    errors = [max(row.relative_error, 1e-13) for row in report.rows]
    ax.barh(range(len(errors)), errors, left=1e-13, color=["0.6" if row.ok else "crimson" for row in report.rows])
    labels = ax.set_yticks(range(len(errors)), [row.name for row in report.rows], fontsize=7) and ax.get_yticklabels()
    for label, row in zip(labels, report.rows):
        label.set_color("0.2" if row.ok else "crimson")
    line = names.index(broken_after) + 0.5
    ax.axhline(line, color="black", ls="--", lw=1)
    ax.text(2e-6, line + 0.25, "gelu_backward of block 1 is wrong", fontsize=8)
    ax.axvline(report.tolerance, color="0.3", lw=0.8)
    ax.text(report.tolerance * 1.3, len(errors) - 1.2, "allowed up to here", fontsize=8, color="0.3")
    ax.set(xscale="log", xlim=(1e-13, 5), ylim=(-0.7, len(errors) - 0.3), xlabel="relative error of the gradient")
    arrow = {"arrowstyle": "-|>", "color": P_COLOR, "lw": 1.8}
    ax.annotate(
        "the backward\ncomes from above", (0.05, 24.5), (0.05, 34), ha="center", color=P_COLOR, fontsize=8, arrowprops=arrow
    )
    return fig


# %% [markdown]
# > **Predict.** The model has 40 parameter tensors. Which of them get a wrong gradient: those of `gelu`, those of block
# > 1, all between block 1 and the output, or all between block 1 and the input?

# %% tags=["reveal"]
place = "h.1.mlp.gelu"
broken = check_model(broken_backward(place, one_file.gelu_backward, gelu_backward_without_the_3))
wrong = [row.name for row in broken.rows if not row.ok]
right_error = max(row.relative_error for row in broken.rows if row.ok)
say(f"""All between block 1 and the input: {len(wrong)} of {len(names)}. GELU has no parameters of its own. The largest
relative error is {broken.max_relative_error:.2f}, and among the right tensors {right_error:.0e}.""")
show(tensors_by_error(broken, "h.1.mlp.c_fc.bias"), "Bars of relative errors: every tensor below the broken layer is red.")
assert wrong == names[: names.index("h.1.mlp.c_fc.bias") + 1]

# %% [markdown]
# The pattern names the culprit. Gradients flow from the loss to the input. Each backward function hands its `dx` on
# downwards, so a wrong `dx` spoils everything it is passed to: every tensor **upstream**, nearer the input. Nothing
# downstream has ever seen it. Hence the rule:
#
# **Look for the wrong tensor that is nearest the output. The mistake sits between it and the next tensor that is right.**
#
# - Here the tensor above the line, `mlp.c_proj.weight`, is right and `mlp.c_fc.bias` below it is wrong. Between them
#   stands `gelu`.
# - If a single tensor is wrong and all upstream of it are right, then the `dx` of its layer is right and its `dW` or `db`
#   is not.
# - `wte.weight` is at both ends. Its output part is right here, but it is added to an input part that is not.
#
# The rule is about numbers, not about names: a tensor upstream stays right if the error happens to cancel in the sum that
# makes its gradient. Exercise 4 contains such a case.
#
# A mistake like this one is easy to live with and never notice.

# %%
kept = model_forward(*params.values())[1]
right_grads = one_file.backward(*kept, n_head)
wrong_grads = broken_backward(place, one_file.gelu_backward, gelu_backward_without_the_3)(*kept, n_head)
a, b = (np.concatenate([g.ravel() for g in grads.values()]) for grads in (right_grads, wrong_grads))
cosine = a @ b / np.sqrt(a @ a * (b @ b))
say(f"""The wrong gradient and the right one point almost the same way: the cosine between them is 1 − {1 - cosine:.0e}.
A small step against the wrong one lowers the loss almost as fast. So a falling loss is no proof of a right
gradient. The proof is a gradcheck, at the place where it was made.""")
assert 0.9 < cosine < 1 - 1e-6

# %% [markdown]
# ## Lesson 4's gradient flows through it
#
# Lesson 4 found the exact gradient of the reverse cross-entropy in the logits. With the weight
# $w(x) = \partial L / \partial \log Q(x)$ of each sequence, the derivative at the logits before $x_t$ is
#
# $$\frac{\partial L}{\partial z_t} = w(x)\, (\text{onehot}(x_t) - \operatorname{softmax}(z_t))$$
#
# and for $R = -E_Q \log P$ the weight is $w(x) = -Q(x) \log P(x)$. Nothing in this asks what made the logits. It was a
# table then; now it is a transformer. Give the derivative to its backward as `dlogits`, and every parameter gets its
# exact gradient: no sampling, no estimator. Here it is for the list of all sequences of the `agreement()` world.

# %%
world = mm.worlds.agreement()
rows = mm.exact.sequences(V, MAX_LEN)  # every sequence of at most 3 words and the boundary
inputs, nexts = world.batch(rows)  # (n,3) each; −1 where the sentence has ended
logits, cache = small.forward(inputs)  # (n,3,V)
log_q, log_p = mm.exact.log_prob(small, rows), world.log_prob(rows, floored=True)  # (n,)
w = -np.exp(log_q) * log_p
onehot = np.eye(V)[nexts]
dlogits = w[:, None, None] * (onehot - one_file.softmax(logits)) * (nexts >= 0)[:, :, None]
grads = small.backward(dlogits, cache)

loss, exact_grads = mm.exact.loss_and_grads(small, world, MAX_LEN, objective="reverse_ce")
gap = max(np.abs(grads[name] - exact_grads[name]).max() for name in grads)
say(f"""{len(rows)} sequences, R = {-np.exp(log_q) @ log_p:.3f}. `mm.exact.loss_and_grads`, which computes shared prefixes
once, says {loss:.3f}, and no gradient differs by more than {gap:.0e}.""")
assert gap < 1e-9 * max(np.abs(g).max() for g in grads.values())

# %% [markdown]
# The untrained model writes words at random, and each impossible one costs as much as the floor of $\log P$ says; hence
# the large value. Is the gradient right? Move one parameter at a time, and compute the whole sum over all sequences
# again.


# %%
def loss_at(model, objective, name, place, change):
    model.params[name][place] += change
    loss, _ = mm.exact.loss_and_grads(model, world, MAX_LEN, objective=objective)
    model.params[name][place] -= change
    return float(loss)


cells, step = [], 1e-5
for objective in ("reverse_ce", "two_kls"):
    _, grads = mm.exact.loss_and_grads(small, world, MAX_LEN, objective=objective)
    for name in ("wte.weight", "h.0.attn.c_attn.weight", "h.0.ln_2.weight"):
        place = np.unravel_index(np.abs(grads[name]).argmax(), grads[name].shape)
        numeric = (loss_at(small, objective, name, place, step) - loss_at(small, objective, name, place, -step)) / (2 * step)
        cells.append([f"`{objective}`", f"{name} {[int(i) for i in place]}", f"{grads[name][place]:.6f}", f"{numeric:.6f}"])
        assert np.isclose(grads[name][place], numeric, rtol=1e-4)
table(["objective", "parameter", "by hand", "by numbers"], cells)

# %% [markdown]
# ## What memory changes
#
# Now train. The best bigram by maximum likelihood puts a quarter of its probability on impossible sentences, with
# infinitely many data: it cannot represent P. The transformer can. It is trained with exact gradients of three
# objectives: the forward cross-entropy F (maximum likelihood), the two KLs with η = ½, and the reverse cross-entropy R
# alone.


# %%
STEPS = few(300, 120)


def train(objective, start=None, steps=STEPS, lr=0.01):
    """A small GPT trained with the exact gradient of an objective, from its first parameters or those of `start`."""
    model = mm.GPT(small.config, seed=0)
    if start is not None:
        model.params = {name: value.copy() for name, value in start.params.items()}
    optimizer = mm.AdamW(model.params, lr=lr, weight_decay=0.0)
    for step in range(steps):
        _, grads = mm.exact.loss_and_grads(model, world, MAX_LEN, objective=objective, eta=0.5)
        optimizer.step(grads, lr=mm.optim.warmup_cosine(step, lr, 0, steps, 1e-4))
    return model


# %%
bigram = mm.TableBigram(V)
counts = mm.exact.bigram_counts(world, MAX_LEN) + 1e-9  # maximum likelihood of a table is counting
bigram.params["logits"][:] = np.log(counts / counts.sum(axis=1, keepdims=True))
mle, two_kls = train("forward_ce"), train("two_kls")

# %%
fig = figure(7.5, 3.6)
bars = {"P": world, "Q: bigram, MLE": bigram, "Q: transformer, MLE": mle, "Q: transformer, two KLs": two_kls}
sentence_bars(fig.subplots(), {label: sentence_probs(model) for label, model in bars.items()})
show(fig, "Probabilities of the sentences: the bigram spends a quarter on impossible ones, both transformers lie on P.")
validity = {label: sentence_probs(model)[: len(VALID)].sum() for label, model in bars.items()}
say(f"""Validity, the probability of writing a possible sentence: bigram {validity["Q: bigram, MLE"]:.3f}, transformer
{validity["Q: transformer, MLE"]:.3f} by maximum likelihood and {validity["Q: transformer, two KLs"]:.3f} by the two KLs.""")
assert validity["Q: bigram, MLE"] < 0.77
assert min(validity["Q: transformer, MLE"], validity["Q: transformer, two KLs"]) > 0.9
assert mm.exact.measure(mle, world, MAX_LEN)["forward_kl"] < 0.05
assert mm.exact.measure(two_kls, world, MAX_LEN)["forward_kl"] < few(0.05, 5)  # too few steps in fast mode

# %% [markdown]
# For a model that can represent P, F, both KLs and any mixture of them have the same minimum, $Q = P$. What differs
# between objectives is how a model that falls short shares out its errors, and what happens on the way. In lesson 2 the
# fault lay not in maximum likelihood alone, but in maximum likelihood together with a Q that forgets.
#
# Where does the memory sit? After "here" the last token is the same, whoever sleeps. Only attention can fetch the noun.


# %%
def looks(model):
    """What each head of the trained model looks at from each position of "cat here"."""
    _, cache = model.forward(np.array([[0, 1, 3]]))  # the boundary, "cat", "here"
    probs = cache.blocks[0].attention.probs[0]  # (H,keys,queries)
    fig = figure(6, 2.9)
    words = ["(start)", "cat", "here"]
    for head, (ax, p) in enumerate(zip(fig.subplots(1, len(probs)), probs)):
        ax.imshow(np.where(np.tri(3, dtype=bool), p.T, np.nan), cmap="Oranges", vmin=0, vmax=1.4)
        for i, j in zip(*np.nonzero(np.tri(3))):
            ax.text(j, i, f"{p[j, i]:.2f}", ha="center", va="center", fontsize=9)
        ax.set(title=f"head {head}", xlabel="looks at", ylabel="position of" if head == 0 else "")
        ax.set_xticks(range(3), words)
        ax.set_yticks(range(3), words)
    return fig, probs[:, 1, 2]


fig, at_cat = looks(mle)
show(fig, "Attention probabilities of the two heads for the words of cat here; one head looks from here at cat.")

# %%
sleeps = []
for model in (bigram, mle):
    logits, _ = model.forward(np.array([[0, 1, 3], [0, 2, 3]]))  # "cat here", "cats here"
    sleeps.append(one_file.softmax(logits[:, -1])[:, world.words.index("sleeps")])
say(f"""From "here", the heads look at "cat" with {at_cat[0]:.2f} and {at_cat[1]:.2f}. The probability of "sleeps" next,
after "cat here" and after "cats here": bigram {sleeps[0][0]:.2f} and {sleeps[0][1]:.2f}, transformer {sleeps[1][0]:.2f} and
{sleeps[1][1]:.2f}.""")
assert np.isclose(*sleeps[0])
assert sleeps[1][0] - sleeps[1][1] > 0.8

# %% [markdown]
# > **Predict.** Now R alone, $-E_Q \log P$. The model can represent P. Does it find it? Try from the untrained model and
# > from the one that maximum likelihood has brought to P.

# %% tags=["reveal"]
from_scratch, from_mle = train("reverse_ce"), train("reverse_ce", start=mle)
cells = []
for label, model in [
    *list(bars.items())[1:],
    ("Q: transformer, R alone", from_scratch),
    ("Q: transformer, MLE then R", from_mle),
]:
    found = mm.exact.measure(model, world, MAX_LEN)
    cells.append([label[3:], *(f"{float(found[key]):.3f}" for key in ("validity", "forward_kl", "reverse_ce", "entropy_q"))])
table(["model", "validity", "KL(P‖Q)", "R", "H(Q)"], cells)

# %% tags=["reveal"]
q = np.exp(mm.exact.log_prob(from_scratch, rows))
cat = rows[:, 1] == 1
cost_of_cat = -(q[cat] / q[cat].sum()) @ world.log_prob(rows[cat], floored=True)
best = int(sentence_probs(from_mle).argmax())
say(f"""No, in neither case. From the start, with all words equally bad, the quickest way to pay less is to stop at once. The
empty sentence, which is impossible, gets {q[0]:.3f}, at a cost of {-world.log_p_floor:.2f} nats. There it stays: a sentence
that begins with "cat" would cost {cost_of_cat:.2f} on average, continued as this model would continue it. And from P, it leaves
P: "{SENTENCES[best]}" gets {sentence_probs(from_mle)[best]:.3f}, and R nears its least value,
−log {sentence_probs(world)[best]:.1f} = {-np.log(sentence_probs(world)[best]):.3f}.""")
assert q[0] > 0.9
assert cost_of_cat > -world.log_p_floor
assert sentence_probs(from_mle)[[0, 2]].sum() > 0.9  # "cat sleeps" and "cat here sleeps" are equally likely under P

# %% [markdown]
# Neither the model nor the gradient is to blame: the gradient is exact, and this is what R asks for. R is linear in Q, so
# all mass on one of the likeliest sentences is a minimum. To be drawn to P, a model needs the entropy term that makes a
# KL of R ($\text{KL}(Q \| P) = R - H(Q)$), or enough of F beside it.

# %% [markdown]
# ## Summary
#
# - **One rule.** From each input follow every road to the loss: multiply slopes along a road, add the roads.
# - **Shapes.** `dx` has the shape of `x`. Whatever is shared by rows (weights, biases, positions, tokens) sums over the
#   rows.
# - **Layers.** Linear has two products, layer norm removes the two parts it could not have passed on, softmax gives the
#   advantage, embedding adds where the forward looked up, and attention is products and a softmax in the opposite order.
# - **Models.** The backward is the forward in a mirror: copy and add change places, and each cache is a rung.
# - **Checks.** Check every layer by itself, then the model by tensor. A wrong `dx` turns everything upstream red; the
#   mistake is beside the wrong tensor nearest the output.
# - **Objectives.** The backward does not care where `dlogits` came from. With memory, maximum likelihood reaches P as
#   well as the two KLs do; R alone does not, however good the model.

# %% [markdown]
# ## Exercises
#
# 1. *(Pencil.)* Add one and the same vector to every key of a head. Show that attention's output does not change. What
#    is, then, the gradient of the part of `attn.c_attn.bias` that belongs to the keys? Check it on the model above.
# 2. *(Pencil and code.)* Newer models use RMS norm: $y_i = x_i\, r\, \text{weight}_i$ with
#    $r = (\frac{1}{C} \sum_k x_k^2 + \epsilon)^{-1/2}$. It does not subtract the mean. Derive its backward and check it.
# 3. *(Pencil and code.)* They also replace GELU by SwiGLU, a layer of two inputs: $y = a\, \sigma(a)\, b$, elementwise,
#    where $\sigma(a) = 1 / (1 + e^{-a})$ has the slope $\sigma(a)(1 - \sigma(a))$. Derive and check `da` and `db`.
# 4. *(Think.)* Below, one of four functions is wrong, somewhere in the model. The table shows the tensors from the output
#    to the input. Which function is it, and in which block?
# 5. *(Code.)* Make GELUs and layer norms of your choice wrong, one at a time, and draw which tensors turn red. What shape
#    do you expect? Which tensor is red in every column?
# 6. *(Think.)* For the bigram it mattered a lot whether one minimised F or two KLs; for the transformer it did not. What
#    does that say about comparing objectives on a model and a data set of your own?


# %%
def layer_norm_forgets_the_mean(dy, cache):
    n, r, weight = cache
    dn = dy * weight
    return r * (dn - n * (dn * n).mean(axis=-1, keepdims=True)), (dy * n).sum(axis=0), dy.sum(axis=0)


def attention_forgets_the_root(dy, cache, B, T, n_head):
    dqkv = one_file.attention_backward(dy, cache, B, T, n_head).reshape(B * T, 3, -1)
    dqkv[:, 1] *= np.sqrt(cache[0].shape[-1])  # for the keys only
    return dqkv.reshape(B * T, -1)


def linear_takes_a_mean(dy, cache):
    dx, dW, db = one_file.linear_backward(dy, cache)
    return dx, dW, db / len(dy)


# %%
suspects = [
    ("h.{}.ln_2", one_file.layer_norm_backward, layer_norm_forgets_the_mean),
    ("h.{}.attn", one_file.attention_backward, attention_forgets_the_root),
    ("h.{}.mlp.c_fc", one_file.linear_backward, linear_takes_a_mean),
    ("h.{}.mlp.gelu", one_file.gelu_backward, gelu_backward_without_the_3),
]
secret = np.random.default_rng(1)
where, right, wrong = suspects[secret.integers(4)]
mystery = check_model(broken_backward(where.format(secret.integers(3)), right, wrong))
table(["tensor", "rel. error", ""], [[r.name, f"{r.relative_error:.0e}", "" if r.ok else "wrong"] for r in mystery.rows[::-1]])

# %% [markdown] tags=["solution"]
# **Solution 1.** With $k_j + c$ in place of $k_j$, the score $s_{ij}$ grows by $q_i \cdot c / \sqrt{D}$, which is the
# same for all $j$. Softmax over $j$ does not see it. The output, and so the loss, do not depend on $c$: the gradient is
# zero. (The queries' bias adds $c \cdot k_j / \sqrt{D}$, which differs from key to key.) In formulas: the key bias gets
# $\sum_j dk_j$, that is $\frac{1}{\sqrt{D}} \sum_i q_i \sum_j ds_{ij}$, and each row of `ds` sums to zero.

# %% tags=["solution"]
dbias = np.abs(right_grads["h.1.attn.c_attn.bias"].reshape(3, -1)).max(axis=1)
say(f"Largest gradient of the biases: queries {dbias[0]:.0e}, keys {dbias[1]:.0e}, values {dbias[2]:.0e}.")
assert dbias[1] < 1e-12 < dbias[0]

# %% [markdown] tags=["solution"]
# **Solution 2.** Write $n_i = x_i r$, so $dn_i = dy_i\, \text{weight}_i$. Two roads lead from $x_j$: its own place, with
# slope $r$, and $r$ itself. Since
# $\partial r / \partial x_j = -\frac{1}{2} r^3 \cdot \frac{2}{C} x_j = -\frac{1}{C} r^2 n_j$, the second road to $n_i$
# has the slope $x_i \cdot (-\frac{1}{C} r^2 n_j) = -\frac{1}{C} r\, n_i n_j$. Hence
#
# $$dx_j = r \left( dn_j - n_j \, \frac{1}{C} \sum_i dn_i n_i \right)$$
#
# It is layer norm's formula without the term of the mean.


# %% tags=["solution"]
def rms_norm(x, weight):
    r = 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-5)
    n = x * r
    return n * weight, (n, r, weight)


def rms_norm_backward(dy, cache):
    n, r, weight = cache
    dn = dy * weight
    return r * (dn - n * (dn * n).mean(axis=-1, keepdims=True)), (dy * n).sum(axis=0)


rng = np.random.default_rng(1)
report = mm.gradcheck(rms_norm, rms_norm_backward, [rng.standard_normal((5, 8)), rng.standard_normal(8)], names=["x", "weight"])
print(report)
assert report.ok

# %% [markdown] tags=["solution"]
# **Solution 3.** $b$ appears once, with slope $a\, \sigma(a)$. For $a$ there are two roads, the factor $a$ and the one
# inside $\sigma$: the slope is $b\, (\sigma(a) + a\, \sigma(a) (1 - \sigma(a)))$.


# %% tags=["solution"]
def swiglu(a, b):
    gate = 1 / (1 + np.exp(-a))
    return a * gate * b, (a, b, gate)


def swiglu_backward(dy, cache):
    a, b, gate = cache
    return dy * b * (gate + a * gate * (1 - gate)), dy * a * gate


report = mm.gradcheck(swiglu, swiglu_backward, [rng.standard_normal((5, 8)), rng.standard_normal((5, 8))], names=["a", "b"])
print(report)
assert report.ok

# %% [markdown] tags=["solution"]
# **Solution 4.** Go down the table to the first wrong tensor, `attn.c_attn.weight` of block 1. All above it is right, so
# the mistake is not nearer the output. Much below it is wrong too, so some `dx` is; a linear layer with a wrong `db`
# alone, or a layer norm above, are ruled out. The suspect is attention, which hands its `dx` to `c_attn`.
#
# But `c_attn.bias` is right, and so is `ln_1.bias`. If the `dy` of `c_attn` is wrong, how can its sum over the rows,
# `db`, be right? Because the error is in the keys, and by solution 1 each head's $dk_j$ sum to zero over $j$, with the
# wrong factor as without. `ln_1.bias` also looks at a sum over rows only.

# %% tags=["solution"]
wrong_names = [row.name for row in mystery.rows if not row.ok]
found = broken_backward("h.1.attn", right, wrong)(*model_forward(*params.values())[1], n_head)["h.1.attn.c_attn.weight"]
error = np.abs(found - right_grads["h.1.attn.c_attn.weight"]).reshape(8, 3, -1).max(axis=(0, 2))
say(f"""The function is `{wrong.__name__}`. The gradient of `c_attn.weight` even says which line it is: in the columns
of the queries, keys and values the largest errors are {error[0]:.0e}, {error[1]:.0e} and {error[2]:.0e}.""")
upstream = names[: names.index("h.1.attn.c_attn.weight") + 1]
assert set(wrong_names) == {*upstream} - {"h.1.ln_1.bias"}
assert error[1] > 1e-6 > max(error[0], error[2])

# %% [markdown] tags=["solution"]
# **Solution 5.** A staircase. The nearer the input the mistake, the fewer tensors are red. `wte.weight` is always among
# them: the look-up at the very beginning is upstream of everything. The tensors of the broken layer norm itself stay
# right, because only its `dx` is wrong.


# %% tags=["solution"]
def staircase():
    breaks = [
        (f"h.{i}.{layer}", *pair)
        for i in (0, 1, 2)
        for layer, pair in (("ln_1", suspects[0][1:]), ("ln_2", suspects[0][1:]), ("mlp.gelu", suspects[3][1:]))
    ]
    breaks.append(("ln_f", *suspects[0][1:]))
    columns = []
    for place, right, wrong in breaks:
        found = broken_backward(place, right, wrong)(*model_forward(*params.values())[1], n_head)
        columns.append([np.abs(found[n] - right_grads[n]).max() > 1e-6 * np.abs(right_grads[n]).max() for n in names])
    fig = figure(6.5, 6)
    ax = fig.subplots()
    ax.pcolormesh(np.array(columns).T, cmap="Reds", vmin=0, vmax=1.4, edgecolor="white", linewidth=0.5)
    ax.set_yticks(np.arange(len(names)) + 0.5, names, fontsize=6)
    ax.set_xticks(np.arange(len(breaks)) + 0.5, [place for place, *_ in breaks], rotation=40, ha="right", fontsize=8)
    ax.set(xlabel="layer whose dx is wrong", ylabel="tensors, from the input (bottom) to the output")
    return fig, np.array(columns)


fig, red = staircase()
show(fig, "A staircase: for each broken layer, from the input to the output, all tensors upstream of it are red.")
assert all(column[: column.sum()].all() for column in red)
assert (np.diff(red.sum(axis=1)) > 0).all()

# %% [markdown] tags=["solution"]
# **Solution 6.** Objectives with the same minimum $Q = P$ differ only if the model cannot reach it: because it cannot
# represent P, because data are few, or because training stops early. So a comparison says as much about what stopped the
# model as about the objectives. In the bigram it is the family: two KLs buy validity by giving up sentences, as the table
# shows. With more memory the trade is gone.

# %% tags=["solution"]
cells = []
for label, model in {
    "bigram, MLE": bigram,
    "bigram, two KLs": optimal_table("two_kls", steps=1000),
    "transformer, MLE": mle,
}.items():
    found = mm.exact.measure(model, world, MAX_LEN)
    cells.append([label, *(f"{float(found[key]):.3f}" for key in ("validity", "forward_kl", "reverse_kl"))])
table(["model", "validity", "KL(P‖Q)", "KL(Q‖P)"], cells)

# %% [markdown]
# Next: [lesson 8](8_experiments_read_sceptically.ipynb), in which all this is trained, and the results are doubted. To
# read the code itself, start with [one_file.py](one_file.py).
