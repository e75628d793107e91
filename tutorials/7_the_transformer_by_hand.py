# %% [markdown]
# # 7 The transformer by hand
#
# *Reading: two sittings of 35 minutes. Computing: 20 seconds on a laptop. Before this:
# [lesson 3](3_one_softmax_by_hand.ipynb), [lesson 4](4_the_exact_reverse_gradient.ipynb), and how two matrices are
# multiplied.*
#
# **At the end you will know**
#
# - how to derive the backward pass of any layer from one rule, and how to check it before you trust it;
# - the backward pass of every layer of GPT-2, attention included, line by line;
# - why a model's backward is its forward read in a mirror, and how to find the one layer that is wrong;
# - what the exact gradient of lesson 4 does when it flows through a transformer, which has the memory that P asks for.

# %%
from itertools import pairwise
from unittest import mock

import numpy as np

import minimixce as mm
import one_file
from minimixce.lessons import (
    MAX_LEN,
    P_COLOR,
    Q_COLOR,
    SENTENCES,
    VALID,
    figure,
    full_or_fast,
    optimal_table,
    oranges,
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
# A transformer turns each token into a row of $C$ numbers, its *channels*. Layer after layer makes new rows of them, and
# the last layer makes of each row a score for every token that could come next, the logits. A batch of $B$ sequences of
# $T$ tokens has $N = B \cdot T$ rows. So what passes from layer to layer is an array of shape $(N, C)$.
#
# Everything below is plain NumPy. `one_file` is [one_file.py](one_file.py), the way from text to a trained model in one
# readable file; the package's own [layers.py](../minimixce/layers.py) computes the same, faster. A test holds the two
# equal.

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
# need. The **backward** is given `dy` and must find `dx`, and the derivatives of the layer's parameters too.
#
# You could find each derivative by numbers instead: move one parameter a little and run the forward again.

# %%
V = 6  # the tokens of the agreement() world: the boundary and five words
config = mm.GPTConfig(vocab_size=V, block_size=3, n_layer=1, n_head=2, n_embd=16, dtype="float64")  # n_embd is C
small = mm.GPT(config, seed=0)
say(f"""Even the small transformer of this lesson has {small.num_params:,} parameters. By numbers, its gradient takes at least
{small.num_params + 1:,} forward passes. By hand it takes one forward and one backward, and a backward costs about as much as
two forwards: a linear layer has one matrix product forward and two backward.""")

# %% [markdown]
# Numbers are too slow to train with, but they are just what is needed to check a backward once. `mm.gradcheck` of lesson
# 3 does that. A layer's `y` is an array and no loss, so it makes a loss of it: it draws numbers `dy` at random, keeps them
# fixed, and takes $L = \sum_i dy_i\, y_i$. Then $\partial L/\partial y_i = dy_i$, as it should be. And nothing is lost: any
# loss, if `y` moves only a little, changes like such a sum.

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


# %%
def box(ax, x, y, text, color="0.3", **style):
    """A text in a box, at (x, y)."""
    frame = {"boxstyle": "round,pad=0.3", "fc": "white", "ec": color, "lw": 1.5} | style
    return ax.text(x, y, text, ha="center", va="center", fontsize=9, bbox=frame)


def arrow(ax, start, end, color="0.3", lw=1.5):
    """An arrow from the edge of one box to the edge of another."""
    style = {"arrowstyle": "-|>", "color": color, "lw": lw, "shrinkA": 2, "shrinkB": 2}
    edges = {"patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch()}
    ax.annotate("", end.get_position(), start.get_position(), arrowprops=style | edges, zorder=4)


# %%
def roads(slopes):
    """The two roads from x to L = a b; slopes {(start, end): the slope of this step}."""
    fig = figure(5.5, 2.2)
    ax = fig.subplots()
    places = {"x": (0, 0), "a = x²": (1.5, 0.8), "b = 3x": (1.5, -0.8), "L = a b": (3, 0)}
    boxes = {name: box(ax, *place, name) for name, place in places.items()}
    for (start, end), slope in slopes.items():
        arrow(ax, boxes[start], boxes[end])
        x, y = np.mean([places[start], places[end]], axis=0)
        ax.text(x, y + 0.25 * np.sign(y), f"slope {slope}", ha="center", va="center", fontsize=9)
    ax.set(xlim=(-0.4, 3.5), ylim=(-1.1, 1.1))
    ax.axis("off")
    return fig


# %% [markdown]
# > **Predict.** Let $a = x^2$, $b = 3x$ and $L = a\,b$. At $x = 2$ the road through $a$ and the road through $b$ each
# > have two slopes. What is `dx`?

# %% tags=["reveal"]
x = 2
a, b = x**2, 3 * x  # the slope of L = a b in a is b, and its slope in b is a
da_dx, db_dx = 2 * x, 3
say(f"""dx = {da_dx} · {b} + {db_dx} · {a} = {da_dx * b + db_dx * a}. Check: L is 3x³, whose slope is 9x² = {9 * x**2}.
Whoever follows only one road gets {da_dx * b} or {db_dx * a}.""")
assert da_dx * b + db_dx * a == 9 * x**2
slopes = {("x", "a = x²"): da_dx, ("x", "b = 3x"): db_dx, ("a = x²", "L = a b"): b, ("b = 3x", "L = a b"): a}
show(roads(slopes), "A diagram with two roads from x to L, one through a and one through b, and the slope on each step.")

# %% [markdown]
# ## The linear layer
#
# $y = xW + b$. Let `x` have $N$ rows of $I$ numbers, and `y` as many rows of $O$ numbers. Then `W` has the shape $(I, O)$
# and `b` has $O$ numbers. Every row is treated alike. One output, written out:
#
# $$y_{no} = \sum_i x_{ni} W_{io} + b_o$$
#
# Now ask of each input in which outputs it appears, and with which slope.
#
# - $x_{ni}$ appears in every output $o$ of its own row, with slope $W_{io}$: $\;dx_{ni} = \sum_o dy_{no} W_{io}$.
# - $W_{io}$ appears in output $o$ of every row, with slope $x_{ni}$: $\;dW_{io} = \sum_n x_{ni}\, dy_{no}$.
# - $b_o$ appears in output $o$ of every row, with slope 1: $\;db_o = \sum_n dy_{no}$.
#
# The first two sums are matrix products, $dx = dy\, W^T$ and $dW = x^T dy$. To see which, remember that a product
# $(AB)_{rs} = \sum_k A_{rk} B_{ks}$ sums over the index in the middle. In $dx_{ni}$ it is $o$, the last index of `dy`, which
# must then be the first of the other: transpose `W`. And look at the shapes: if $N$, $I$ and $O$ are three different
# numbers, no other product of `dy` and `W`, transposed or not, has the shape of `x`.

# %%
source(one_file.linear, one_file.linear_backward)

# %%
rng = np.random.default_rng(0)
x, W, b = rng.standard_normal((5, 4)), rng.standard_normal((4, 3)), rng.standard_normal(3)
report = mm.gradcheck(one_file.linear, one_file.linear_backward, [x, W, b], names=["x", "W", "b"])
print(report)
assert report.ok

# %% [markdown]
# > **Predict.** All rows of a batch share one `b`. Now let the batch hold every row twice, each time with the same `dy`.
# > Is `db` twice as large, or the same?

# %% tags=["reveal"]
dy = rng.standard_normal((5, 3))
_, _, db = one_file.linear_backward(dy, (x, W))
_, _, db_twice = one_file.linear_backward(np.concatenate([dy, dy]), (np.concatenate([x, x]), W))
say(f"""Twice as large: {db[0]:.2f} becomes {db_twice[0]:.2f} in the first place. Twice as many roads lead from b to the loss,
and roads are added. If the loss is a mean over N tokens, its 1/N is in `dy` already: the loss put it there.""")
assert np.allclose(db_twice, 2 * db)

# %% [markdown]
# ## Layer norm
#
# Layer norm shifts each row to mean 0 and scales it to variance 1; then each channel gets its own scale and shift. With
# $C$ channels, mean $\mu$ and variance $v$ of a row, and a small $\epsilon$ against division by zero:
#
# $$r = (v + \epsilon)^{-1/2}, \qquad n_i = (x_i - \mu)\, r$$
#
# $$y_i = n_i\, \text{weight}_i + \text{bias}_i$$
#
# (From here on `n` is the row so normalised, as in the code, and no longer the number of a row.) The last step is easy.
# All rows share `weight` and `bias`, so their derivatives are sums over the rows, `dweight` of $dy_i\, n_i$ and `dbias` of
# $dy_i$; and $dn_i = dy_i\, \text{weight}_i$. What remains is to get from `dn` to `dx` within one row. From $x_j$ there are
# three roads to the $n_i$:
#
# 1. **Its own place.** $x_j$ stands in $n_j$, with slope $r$.
# 2. **The mean.** $\partial \mu / \partial x_j = 1/C$, and $\mu$ stands in every $n_i$ with slope $-r$: together $-r/C$.
# 3. **The scale** $r$, which stands in every $n_i$ too, with slope $x_i - \mu$.

# %% [markdown]
# The third road, step by step. The variance is $v = \frac{1}{C} \sum_i (x_i - \mu)^2$. Moving $x_j$ also moves the $\mu$ in
# every term, but that part is $-\frac{2}{C} \cdot \frac{1}{C} \sum_i (x_i - \mu) = 0$. So, with
# $r^3 = (v + \epsilon)^{-3/2}$ and $(x_i - \mu)\, r = n_i$,
#
# $$\frac{\partial v}{\partial x_j} = \frac{2}{C}(x_j - \mu), \qquad \frac{\partial r}{\partial v} = -\frac{1}{2} r^3$$
#
# $$\frac{\partial r}{\partial x_j} = -\frac{1}{C} r^3 (x_j - \mu) = -\frac{1}{C} r^2 n_j$$
#
# $$(x_i - \mu) \frac{\partial r}{\partial x_j} = -\frac{1}{C} r\, n_i n_j$$
#
# Add the three roads and sum over $i$, as the rule says:
#
# $$dx_j = r \left( dn_j - \frac{1}{C} \sum_i dn_i - n_j \, \frac{1}{C} \sum_i dn_i n_i \right)$$
#
# Both sums with $1/C$ are means over the row. That is how they stand in the code.

# %%
source(one_file.layer_norm, one_file.layer_norm_backward)

# %%
x, weight, bias = rng.standard_normal((5, 8)), rng.standard_normal(8), rng.standard_normal(8)
report = mm.gradcheck(one_file.layer_norm, one_file.layer_norm_backward, [x, weight, bias], names=["x", "weight", "bias"])
print(report)
assert report.ok

# %% [markdown]
# The formula has a meaning. If you add the same number to all of a row, layer norm takes it away again: $y$ does not
# change. So the loss does not change either, and the elements of `dx` must sum to zero. If you stretch a row about its
# mean, each $x_j$ moves in proportion to $n_j$. Layer norm undoes that as well (but for $\epsilon$), so the sum of
# $dx_j\, n_j$ must be zero. The two subtracted terms see to just that: they remove what `dn` has of the constant row and of
# `n`.

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
# GELU acts on each number by itself, so each place of $x$ has one place in $y$. It is a soft switch, near $0$ for $x$ far
# below zero and near $x$ for $x$ far above:
#
# $$y = \frac{1}{2} x (1 + t), \qquad t = \tanh(u)$$
#
# $$u = s\,(x + k x^3)$$
#
# with two constants $s = \sqrt{2/\pi}$ and $k = 0.044715$. There are still two roads from $x$: the factor $x$ in front,
# and the $x$ inside $u$. The slope of $\tanh$ is $1 - t^2$, and $\partial u / \partial x = s\,(1 + 3 k x^2)$. The two roads
# together:
#
# $$\frac{\partial y}{\partial x} = \frac{1}{2}(1 + t) + \frac{1}{2} x (1 - t^2)\, s\, (1 + 3 k x^2)$$

# %%
source(one_file.gelu, one_file.gelu_backward)
report = mm.gradcheck(one_file.gelu, one_file.gelu_backward, [rng.standard_normal((5, 8))], names=["x"])
print(report)
assert report.ok

# %% [markdown]
# ## Softmax
#
# Softmax makes probabilities of scores: $p_i = e^{x_i} / Z$ with $Z = \sum_k e^{x_k}$. Take the logarithm first, because
# it separates the two roads: $\log p_i = x_i - \log Z$. The first term contains $x_j$ only if $i = j$. For the second,
# $\partial \log Z / \partial x_j = e^{x_j} / Z = p_j$. And $p_i$ itself moves $p_i$ times as fast as its logarithm. So,
# writing $1_{i=j}$ for 1 if $i = j$ and 0 otherwise,
#
# $$\frac{\partial \log p_i}{\partial x_j} = 1_{i=j} - p_j$$
#
# $$\frac{\partial p_i}{\partial x_j} = p_i \, (1_{i=j} - p_j)$$
#
# Sum over the roads, and take out $p_j$, which stands in both terms:
#
# $$dx_j = \sum_i dp_i\, p_i\, (1_{i=j} - p_j)$$
#
# $$dx_j = p_j \left( dp_j - \sum_i p_i\, dp_i \right)$$

# %%
source(one_file.softmax, one_file.softmax_backward)


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
#   $p_v (c_v - \sum_u p_u c_u)$. That is the gradient of lesson 4 at one prefix, but for the probability of the prefix.
#   There the cost was that of the token and of all that comes after it, and the bracket, with its sign turned, was the
#   advantage.

# %%
p = one_file.softmax(np.array([0.5, -1.0, 2.0]))
dp = np.array([0, -1 / p[1], 0])  # the loss is −log p of token 1
say(f"softmax_backward gives {one_file.softmax_backward(dp, p).round(3)}, and p − onehot is {(p - [0, 1, 0]).round(3)}.")
assert np.allclose(one_file.softmax_backward(dp, p), p - [0, 1, 0])

# %% [markdown]
# ## The embedding: a look-up forward, a scatter-add backward
#
# The first layer looks up a row of a table for each token: `x = W[tokens]`, with `W` of shape $(V, C)$. That is the
# product of one-hot rows with $W$, so by the linear layer $dW = \text{onehot}^T dx$. Row $v$ of `dW` is the sum of the `dx`
# of all places where token $v$ stood. The row of a token that stands in two places has two roads from there. The row of a
# token that does not occur has none: its derivative is zero.
#
# A second table has a row for each position of a sequence, first, second and so on, and this row is added to `x`, so that
# the model knows the order. Position $t$ occurs once in each sequence, so the derivative of its row is a sum over the $B$
# sequences.

# %%
tokens, dx = np.array([2, 0, 2]), np.ones((3, 1))  # token 2 occurs twice; C is 1 here

# %% [markdown]
# > **Predict.** NumPy can write to looked-up rows too: `dW[tokens] += dx`. Is that the same sum?

# %% tags=["reveal"]
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
# pass, and they are added. Here is the shortest model with a tied table `wte`: look up, and go straight to the logits.


# %%
def tied(wte):
    x = wte[tokens]  # (V,C) -> (N,C)
    logits, head = one_file.linear(x, wte.T, 0)  # (N,V)
    return logits, (wte, head)


def tied_backward(dlogits, cache):
    """-> the two parts of dwte, that of the input and that of the output, both (V,C)"""
    wte, head = cache
    dx, dwte_transposed, _ = one_file.linear_backward(dlogits, head)
    from_input = np.zeros_like(wte)
    np.add.at(from_input, tokens, dx)
    return from_input, dwte_transposed.T


# %%
wte = rng.standard_normal((4, 5))
answers = {
    "the sum": lambda dy, cache: sum(tied_backward(dy, cache)),
    "input only": lambda dy, cache: tied_backward(dy, cache)[0],
    "output only": lambda dy, cache: tied_backward(dy, cache)[1],
}
reports = {name: mm.gradcheck(tied, backward, [wte], names=["wte"]) for name, backward in answers.items()}
table(
    ["dwte", "rel. error", ""],
    [[name, f"{report.max_relative_error:.0e}", "" if report.ok else "wrong"] for name, report in reports.items()],
)
assert [report.ok for report in reports.values()] == [True, False, False]

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
# So far every token's row went its own way. Attention is the one layer in which rows meet, those of the same sequence.
# First a linear layer makes three vectors from each position's row: a *query* (what the position looks for), a *key* (what
# it can be found by) and a *value* (what it hands over). With $q_i$, $k_i$ and $v_i$ for those of position $i$, each of $D$
# numbers, attention then computes
#
# $$s_{ij} = \frac{1}{\sqrt{D}}\, q_i \cdot k_j, \qquad p_{ij} = \operatorname{softmax}_j (s_{ij})$$
#
# $$y_i = \sum_{j \le i} p_{ij}\, v_j$$
#
# Row $i$ of the *scores* $s$ says how well each key $j$ fits the query $i$. Softmax makes probabilities of each row, and
# $y_i$ is the mean of the values under them.

# %% [markdown]
# - **Causal mask.** Position $i$ may look at $j \le i$ only. The scores of $j > i$ become $-\infty$, so their $p$ is 0.
# - **Heads.** All this is done $H$ times side by side. The $C$ channels of the queries are cut into $H$ *heads* of
#   $D = C/H$, those of keys and values as well, and each head sees only its own.
# - **The root.** The dot product of two vectors of $D$ independent random numbers, of mean 0 and size about 1, has a size
#   of about $\sqrt{D}$. Dividing by it keeps the softmax from starting out nearly one-hot, where all its slopes are nearly 0.
#
# The input of the function is `qkv`, of shape $(N, 3C)$: in each row the queries of all heads, then the keys, then the
# values. The reshape and transpose at both ends only move numbers about, until each head has its own matrices. Their
# backward moves them back. In between stand two matrix products and a softmax, which you know.

# %%
source(one_file.attention)

# %% [markdown]
# ## Attention, backward
#
# Go from the last line to the first. For one head, the output is $y_{id} = \sum_j p_{ij} v_{jd}$, and the score is
# $s_{ij} = \frac{1}{\sqrt{D}} \sum_d q_{id}\, k_{jd}$. Ask again: who appears where?
#
# - $p_{ij}$ appears in $y_{id}$ for every $d$, with slope $v_{jd}$: $\;dp_{ij} = \sum_d dy_{id}\, v_{jd}$, the product
#   $dy\, v^T$.
# - $v_{jd}$ appears in $y_{id}$ for every $i$, with slope $p_{ij}$: $\;dv_{jd} = \sum_i p_{ij}\, dy_{id}$, the product
#   $p^T dy$.
# - `softmax_backward` turns `dp` into `ds`, row by row.
# - $q_{id}$ appears in $s_{ij}$ for every $j$, with slope $k_{jd} / \sqrt{D}$:
#   $\;dq_{id} = \frac{1}{\sqrt{D}} \sum_j ds_{ij}\, k_{jd}$, the product $ds\, k / \sqrt{D}$.
# - $k_{jd}$ appears in $s_{ij}$ for every $i$, with slope $q_{id} / \sqrt{D}$:
#   $\;dk_{jd} = \frac{1}{\sqrt{D}} \sum_i ds_{ij}\, q_{id}$, the product $ds^T q / \sqrt{D}$.

# %% [markdown]
# The mask needs no line of its own. Where a score was masked, $p_{ij} = 0$, and softmax's backward has $p_{ij}$ as a
# factor, so $ds_{ij} = 0$. In `dv` the factor $p_{ij}$ is 0 too. A forbidden road carries nothing in either direction.

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

# %% [markdown]
# gradcheck moved every element of `qkv` by itself. In a tensor with thousands of them it moves all at once, in a few random
# directions, and where these disagree it looks for the element. Now look at one head, forward and backward: four positions,
# a random `dy`.


# %%
def one_head(T=4, D=8):
    """p and ds of one head with random queries, keys, values and dy: row i asks, column j answers."""
    rng = np.random.default_rng(3)
    _, (_, _, v, p) = one_file.attention(rng.standard_normal((T, 3 * D)), 1, T, 1)
    p, v = p[0, 0], v[0, 0]  # of the only sequence and head: (T,T) and (T,D)
    return p, one_file.softmax_backward(rng.standard_normal((T, D)) @ v.T, p)


def draw_head(p, ds):
    fig = figure(5.6, 3)
    panels = ("forward: p", p, "Oranges", 0, 1.4), ("backward: ds", ds, "PRGn", -1.1, 1.1)
    for ax, (title, values, colors, low, high) in zip(fig.subplots(1, 2), panels):
        allowed = np.tri(len(p), dtype=bool)
        ax.imshow(np.where(allowed, values, np.nan), cmap=colors, vmin=low, vmax=high)
        for i, j in zip(*np.nonzero(allowed)):
            ax.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=10)
        ax.set(title=title, xlabel="key position j", ylabel="query position i", xticks=range(len(p)), yticks=range(len(p)))
    return fig


# %%
p, ds = one_head()
show(draw_head(p, ds), "Two lower triangular matrices of an attention head: probabilities, and the derivative of the scores.")
assert np.allclose(p.sum(axis=1), 1)
assert np.allclose(ds.sum(axis=1), 0)
assert np.allclose(np.triu(ds, 1), 0)

# %% [markdown]
# White is masked. Each row of `p` sums to one, whatever the scores, so each row of `ds` sums to zero: what one key gains
# the others must lose. (Green is positive, violet negative.) The first row of `ds` is zero, because position 0 has only
# itself to look at.
#
# > **Predict.** The mask forbids position $i$ to look at later positions. In the backward pass, can the loss at a later
# > position change the gradient at an earlier one? And the other way round?

# %% tags=["reveal"]
dy = np.zeros((T, 8))  # of one sequence
dy[2] = 1  # a loss that looks at the output of position 2 alone
_, cache = one_file.attention(qkv[:T], 1, T, n_head)
reached = np.abs(one_file.attention_backward(dy, cache, 1, T, n_head)).sum(axis=1) > 0
say(f"""Yes, and no. A loss at position 2 reaches positions {np.flatnonzero(reached).tolist()} of 0 to {T - 1}. Forward,
position 2 reads from 0, 1 and 2; backward, its derivative goes to where it had read, from later to earlier. This is how a
wrong verb after "cat here" can tell "cat" that its number matters.""")
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
# (one `x` used twice) becomes an addition. The straight road runs through all blocks, from the last one's output to the
# embedding, and every slope on it is 1. However many blocks there are, this part of the derivative arrives undiminished.
# He et al. (arXiv 1603.05027) saw in it a reason why very deep networks can be trained.

# %% [markdown]
# ## The block and its mirror
#
# Now the whole model. `wte` and `wpe` are the tables of tokens and positions. Then come blocks, numbered from 0, and each
# has two halves, both with a straight road around them.
#
# - **Attention.** Layer norm `ln_1`; the linear layer `c_attn` makes queries, keys and values, $C$ to $3C$; attention;
#   `c_proj` mixes what the heads have gathered, $C$ to $C$.
# - **MLP.** Layer norm `ln_2`; `c_fc` widens each row, $C$ to $4C$; GELU; another `c_proj` narrows it, $4C$ to $C$.
#
# A last layer norm `ln_f` and the transposed `wte` make the logits. So `h.1.mlp.c_fc.weight` is the `W` of `c_fc` in the MLP
# of block 1. Read the lines of `forward` downwards, then those of `backward` upwards.

# %%
source(one_file.forward, one_file.backward)

# %% [markdown]
# They match: every `y, cache[name] = layer(…)` has its `dy = keep(name, *layer_backward(dy, cache[name]))`, in the opposite
# order. (`keep` files a layer's own two gradients and hands on the third, which travels further.) What the forward wrote
# into the cache, the backward reads from it. Beside the caches only `dlogits` comes in, at the top.
# (Of `params` the backward uses the shapes alone.)
#
# One place misleads. `dx = dx + dy` looks like the mirror of `x = x + y` and is not. The mirror of `x = x + y` is that `dx`
# is used twice: it goes into `c_proj`, and it is kept. And `dx = dx + dy` is the mirror of the place where `x` is used
# twice: it goes into layer norm, and it is kept. Neither needs a cache, because the slopes are 1.

# %% [markdown]
# Here is one block drawn twice. Up on the left in orange goes what the model Q computes. At the top of the model it meets
# the data: with maximum likelihood the derivative at the logits is $q - \text{onehot}$, and on average over what P writes
# there, Q less P. What comes down on the right is drawn in blue, because it is all that the parameters ever hear of P. Each
# rung is a cache: what a layer on the left kept for its backward on the right. The `x` on a rung is the input of that
# layer.

# %%
LAYERS = [  # of one block from its input to its output: layer, name and parameters, what its cache holds
    ("copy", "", ""),
    ("layer_norm", "ln_1\n{}weight\n{}bias", "n, r, weight"),
    ("linear", "attn.c_attn\n{}W, {}b", "x, W"),
    ("attention", "", "q, k, v, p"),
    ("linear", "attn.c_proj\n{}W, {}b", "x, W"),
    ("+", "", ""),
    ("copy", "", ""),
    ("layer_norm", "ln_2\n{}weight\n{}bias", "n, r, weight"),
    ("linear", "mlp.c_fc\n{}W, {}b", "x, W"),
    ("gelu", "", "x, t"),
    ("linear", "mlp.c_proj\n{}W, {}b", "x, W"),
    ("+", "", ""),
]
OPPOSITE = {"copy": "+", "+": "copy"}  # every other layer has a function of its own


# %%
def column(ax, side, color, up):
    """One of the two columns: the road through its boxes, and the straight road around each half -> the boxes"""
    layers = [layer if up else OPPOSITE.get(layer, f"{layer}\n_backward") for layer, *_ in LAYERS]
    shapes = {"+": {"boxstyle": "circle,pad=0.2"}}
    boxes = [box(ax, side, y, layer, color, **shapes.get(layer, {})) for y, layer in enumerate(layers)]
    ends = [box(ax, side, y, "x (N,C)" if up else "dx (N,C)", "white") for y in (-1, len(LAYERS))]
    for low, high in pairwise([ends[0], *boxes, ends[1]]):
        arrow(ax, *((low, high) if up else (high, low)), color)
    for start, end in ((0, 5), (6, 11)) if up else ((5, 0), (11, 6)):
        out = 2.2 * side  # straight roads run on the outside
        ax.plot([side, out, out], [start, start, end], color=color, lw=1.5, zorder=0)
        arrow(ax, ax.text(out, end, "", bbox={"pad": 0}), boxes[end], color)
    return boxes


# %%
def mirrored_block():
    """One block drawn twice: its forward going up, its backward coming down, its caches as rungs."""
    fig = figure(5.6, 8.2)
    ax = fig.subplots()
    left, right = column(ax, -1, Q_COLOR, up=True), column(ax, 1, P_COLOR, up=False)
    for y, (_, params, cache) in enumerate(LAYERS):
        if cache:
            arrow(ax, left[y], right[y], "0.55", lw=1)
            ax.text(0, y, cache, ha="center", va="center", fontsize=9, bbox={"fc": "white", "ec": "none", "pad": 2}, zorder=5)
        if params:
            arrow(ax, box(ax, -1.75, y, params.format("", ""), "none"), left[y], Q_COLOR, lw=1)
            arrow(ax, right[y], box(ax, 1.75, y, params.format("d", "d"), "none"), P_COLOR, lw=1)
    for x, title, color in ((-1, "forward, up", Q_COLOR), (0, "cache", "0.4"), (1, "backward, down", P_COLOR)):
        ax.text(x, len(LAYERS) + 0.7, title, ha="center", color=color, fontsize=11)
    ax.set(xlim=(-2.3, 2.3), ylim=(-1.4, len(LAYERS) + 1.1))
    ax.axis("off")
    return fig


# %%
show(
    mirrored_block(),
    "One transformer block drawn twice, its forward layers going up on the left, its backward functions coming down on the "
    "right, joined by the caches like the rungs of a ladder.",
)

# %% [markdown]
# Three things to see. **Opposites:** where the forward copies, the backward adds; where it adds, the backward copies.
# **Rungs:** each backward function reads the cache of its own forward and of no other. **Exits:** where parameters came in
# on the left, their gradients go out on the right, made of the `dy` that arrives there and of the rung. The same `dy`,
# turned into `dx`, then goes on downwards.
#
# ## The whole model, tensor by tensor
#
# If every layer is right and joined in the right order, the model is right. Whether it is joined in the right order is
# one more thing to check. Take three blocks, parameters far from zero so that no term of a gradient can hide, and the
# mean of $-\log q$ over all targets as the loss. Its derivative at the logits is softmax minus one-hot, divided by $N$.

# %%
B, T, n_head = 2, 4, 2
rng = np.random.default_rng(0)
tokens, targets = rng.integers(0, V, (B, T)), rng.integers(0, V, (B, T))
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

    values = list(params.values())
    return mm.gradcheck(model_forward, model_backward, values, names=names, coordinates=full_or_fast(64, 8))


report = check_model(one_file.backward)
print(report)
assert report.ok

# %% [markdown]
# ## Break one layer
#
# Now we play the student who made a mistake. In `gelu_backward` the factor 3 before $k x^2$ is easily forgotten. We
# forget it in one block only, block 1 of the blocks 0, 1 and 2. The file stays as it is: while `one_file.backward` runs, the
# name `gelu_backward` stands for another function, which is wrong for one cache and right for all others.


# %%
def gelu_backward_without_the_3(dy, cache):
    x, t = cache
    du_dx = np.sqrt(2 / np.pi) * (1 + 0.044715 * x * x)
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du_dx)


# %%
def broken_backward(place, right, wrong):
    """one_file.backward, but for the one cache called `place` it calls `wrong` where its code says `right`."""

    def backward(params, dlogits, cache, n_head):
        def either(dy, layer_cache, *sizes):
            return (wrong if layer_cache is cache[place] else right)(dy, layer_cache, *sizes)

        with mock.patch.object(one_file, right.__name__, either):  # until this backward is done
            return one_file.backward(params, dlogits, cache, n_head)

    return backward


# %%
def name_layers(ax):
    """Name each layer once on the y axis, in the middle of its tensors: its weight, and its bias one higher."""
    layers = {}
    for k, name in enumerate(names):
        layers.setdefault(name.rpartition(".")[0], []).append(k)
    ax.set_yticks([np.mean(places) for places in layers.values()], layers, fontsize=9)


# %%
def tensors_by_error(report, broken):
    """A bar for the error of each tensor, input at the bottom; red is wrong. `broken`: the tensors below the mistake."""
    fig = figure(5.6, 7.4)
    ax = fig.subplots()
    errors = [max(row.relative_error, 1e-13) for row in report.rows]
    ax.barh(range(len(errors)), errors, left=1e-13, color=["0.6" if row.ok else "crimson" for row in report.rows])
    name_layers(ax)
    ax.axhline(broken - 0.5, color="black", ls="--", lw=1)
    ax.text(2e-6, broken, "gelu_backward\nof block 1 is wrong", fontsize=9)
    ax.axvline(report.tolerance, color="0.3", lw=0.8)
    ax.text(2e-6, len(errors) - 1.2, "allowed up to here", fontsize=9, color="0.3", va="center")
    style = {"arrowstyle": "-|>", "color": P_COLOR, "lw": 1.8}
    ax.annotate("the backward\ncomes from above", (0.02, 28), (0.02, 36), ha="center", color=P_COLOR, arrowprops=style)
    ax.set(xscale="log", xlim=(1e-13, 5), ylim=(-0.7, len(errors) - 0.3), xlabel="relative error of the gradient")
    return fig


# %% [markdown]
# > **Predict.** Which of the tensors in the list above get a wrong gradient: those of `gelu`, those of block 1, all
# > between that GELU and the output, or all between that GELU and the input?

# %% tags=["reveal"]
place = "h.1.mlp.gelu"
broken = check_model(broken_backward(place, one_file.gelu_backward, gelu_backward_without_the_3))
wrong = [row.name for row in broken.rows if not row.ok]
right_error = max(row.relative_error for row in broken.rows if row.ok)
say(f"""All between that GELU and the input: {len(wrong)} of {len(names)}. GELU has no parameters of its own. The largest
relative error is {broken.max_relative_error:.2f}, and among the right tensors {right_error:.0e}.""")
show(tensors_by_error(broken, len(wrong)), "Bars of relative errors: every tensor below the broken layer is red.")
assert wrong == names[: names.index("h.1.mlp.c_fc.bias") + 1]

# %% [markdown]
# (Each layer has two bars, its bias above its weight.) The pattern names the culprit. The backward goes from the loss to
# the input, and each function hands its `dx` on. So a wrong `dx` spoils whatever is made of it later: every tensor
# **upstream**, nearer the input, where the forward comes from. No tensor downstream has ever seen it. Hence the rule:
#
# **From the output, go down to the first wrong tensor. Either its own line is wrong, its `dW` or `db`. Or the `dy` that
# came there was: then look at what the backward did between the last right tensor and this one.**
#
# - Here `mlp.c_proj.weight` above the line is right, `mlp.c_fc.bias` below it is wrong, and between them stands `gelu`.
# - To decide between the two cases look further down. If all upstream is right, the `dx` of this layer is right, so its
#   `dy` was: its `dW` or `db` is wrong.
# - `wte.weight` is at both ends. Its output part is right here, but it is added to an input part that is not.
#
# The rule is about numbers, not about names: a tensor upstream stays right if the error cancels in the sum that makes its
# gradient. Exercise 4 contains such a case. And mind the word: some texts call the `dy` that arrives at a layer its
# *upstream gradient*. They look along the backward, we along the forward.

# %% [markdown]
# A mistake like this one is easy to live with and never notice.

# %%
kept = model_forward(*params.values())[1]
right_grads = one_file.backward(*kept, n_head)
wrong_grads = broken_backward(place, one_file.gelu_backward, gelu_backward_without_the_3)(*kept, n_head)
a, b = (np.concatenate([g.ravel() for g in grads.values()]) for grads in (right_grads, wrong_grads))
cosine = a @ b / np.sqrt(a @ a * (b @ b))
say(f"""The wrong gradient and the right one point almost the same way: the cosine between them is 1 − {1 - cosine:.0e}. A
small step against the wrong one lowers the loss almost as much as a step of the same length against the right one. So a
falling loss does not show that a gradient is right. A gradcheck does, layer by layer.""")
assert 0.9 < cosine < 1 - 1e-6

# %% [markdown]
# ## Lesson 4's gradient flows through it
#
# Lesson 4 found the exact gradient of the reverse cross-entropy in the logits. With the weight
# $w(x) = \partial L / \partial \log Q(x)$ of each sequence, the derivative at the logits before $x_t$ is
#
# $$\frac{\partial L}{\partial z_t} = w(x)\, (\text{onehot}(x_t) - \operatorname{softmax}(z_t))$$
#
# (Lesson 3 had softmax minus one-hot: that is the gradient of $-\log q$, this of $\log q$.) For $R = -E_Q \log P$ the
# weight is $w(x) = -Q(x) \log P(x)$. Nothing in this asks what made the logits. It was a table then; now it is a
# transformer. Give the derivative to its backward as `dlogits`, and every parameter gets its exact gradient: no sampling, no
# estimator. Here it is, with one row of the batch for each sequence that the model can write.

# %%
world = mm.worlds.agreement()
rows = mm.exact.sequences(V, MAX_LEN)  # all n sequences of at most 3 words
inputs, nexts = world.batch(rows)  # (n,3) what the model reads, and what it should write: −1 after the end
logits, cache = small.forward(inputs)  # (n,3,V)
log_q, log_p = mm.exact.log_prob(small, rows), world.log_prob(rows, floored=True)  # (n,)
w = -np.exp(log_q) * log_p
onehot, written = np.eye(V)[nexts], nexts >= 0  # the one-hot of −1 is wrong, but multiplied by 0
dlogits = w[:, None, None] * (onehot - one_file.softmax(logits)) * written[:, :, None]
grads = small.backward(dlogits, cache)

loss, exact_grads = mm.exact.loss_and_grads(small, world, MAX_LEN, objective="reverse_ce")
gap = max(np.abs(grads[name] - exact_grads[name]).max() for name in grads)
say(f"""{len(rows)} sequences, R = {-np.exp(log_q) @ log_p:.3f}. `mm.exact.loss_and_grads`, which computes shared prefixes
once, says {loss:.3f}, and no gradient differs by more than {gap:.0e}.""")
assert gap < 1e-9 * max(np.abs(g).max() for g in grads.values())

# %% [markdown]
# The untrained model writes tokens at random, and each impossible one costs as much as the floor of $\log P$ says; hence
# the large value. Is the gradient right? Move one parameter, and compute the whole sum over all sequences again. Here we
# do it for the largest element of three tensors, and for the two KLs as well.


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
# Now train. The best bigram by maximum likelihood puts nearly a quarter of its probability on impossible sentences, with
# infinitely many data: no bigram can be P. A transformer can come very near to it. It is trained with the exact gradients
# of two objectives: the forward cross-entropy F (maximum likelihood), and the two KLs with η = ½.


# %%
def train(objective, start=None, steps=300, lr=0.01, seed=0):
    """A GPT trained with the exact gradient of an objective -> the model, and its sentence_probs every ten steps.

    It starts from random parameters, or from those of the model `start`.
    """
    model, way = mm.GPT(config, seed=seed), []
    if start is not None:
        model.params = {name: value.copy() for name, value in start.params.items()}
    optimizer = mm.AdamW(model.params, lr=lr, weight_decay=0.0)
    for step in range(steps):
        _, grads = mm.exact.loss_and_grads(model, world, MAX_LEN, objective=objective, eta=0.5)
        optimizer.step(grads, lr=mm.optim.warmup_cosine(step, lr, 0, steps, 1e-4))
        if step % 10 == 9:
            way.append(sentence_probs(model))
    return model, np.array(way)


# %%
def compare(models):
    """A table of exact measures: validity is the probability of writing a possible sentence, the others are in nats."""
    keys, cells = ("validity", "forward_kl", "reverse_kl", "reverse_ce", "entropy_q"), []
    for label, model in models.items():
        found = mm.exact.measure(model, world, MAX_LEN)
        cells.append([label, *(f"{float(found[key]):.3f}" for key in keys)])
    table(["model", "validity", "KL(P‖Q)", "KL(Q‖P)", "R", "H(Q)"], cells)


# %%
bigram = mm.TableBigram(V)
counts = mm.exact.bigram_counts(world, MAX_LEN) + 1e-9  # maximum likelihood of a table is counting
bigram.params["logits"][:] = np.log(counts / counts.sum(axis=1, keepdims=True))
mle, mle_way = train("forward_ce")
two_kls, two_kls_way = train("two_kls")
models = {"Q: bigram, MLE": bigram, "Q: transformer, MLE": mle, "Q: transformer, two KLs": two_kls}

# %%
fig = figure(7.5, 3.6)
sentence_bars(fig.subplots(), {label: sentence_probs(model) for label, model in {"P": world, **models}.items()})
show(fig, "Probabilities of the sentences: the bigram spends nearly a quarter on impossible ones, the transformers lie on P.")
compare(models)
assert sentence_probs(bigram)[: len(VALID)].sum() < 0.77
for model in (mle, two_kls):
    assert np.allclose(sentence_probs(model), sentence_probs(world), atol=0.05)

# %% [markdown]
# For a model that can represent P, F, both KLs and any mixture of these have the same minimum, $Q = P$. In lesson 2 the
# fault lay not in maximum likelihood alone, but in maximum likelihood together with a Q that forgets. But the same minimum
# is not the same way.


# %%
def ways(ways_by_objective):
    """How much Q gives to the possible sentences that begin with "cat" and with "cats", while it is trained."""
    fig = figure(5.8, 2.7)
    of_cat = np.array([sentence.startswith("cat ") for sentence in VALID])
    for ax, (objective, way) in zip(fig.subplots(1, 2, sharey=True), ways_by_objective.items()):
        valid, of_p = way[:, : len(VALID)], sentence_probs(world)[: len(VALID)]
        for label, chosen, color in zip(("cat …", "cats …"), (of_cat, ~of_cat), oranges(2)):
            ax.axhline(of_p[chosen].sum(), color=P_COLOR, ls="--", lw=1)
            ax.plot(10 * np.arange(1, len(way) + 1), valid[:, chosen].sum(axis=1), color=color, lw=2, label=label)
        ax.set(title=objective, xlabel="steps", ylim=(0, 1))
    fig.axes[0].set_ylabel("probability")
    fig.axes[0].legend(fontsize=9)
    return fig


show(
    ways({"MLE": mle_way, "two KLs": two_kls_way}),
    "Probability of the possible sentences with cat and with cats over the steps: MLE goes straight to P, shown dashed, the "
    "two KLs first give nearly all to cat.",
)
assert mle_way[:, [0, 2]].sum(axis=1).max() < 0.7
assert two_kls_way[:, [0, 2]].sum(axis=1).max() > 0.8

# %% [markdown]
# (Dashed blue is P.) Maximum likelihood goes straight there. Under the two KLs impossible sentences are so dear that the
# model first takes shelter in a few that are possible, and comes back for the others later. Whether it comes back for all
# of them depends on its first parameters and on the learning rate: exercise 6.
#
# Where does the memory sit? After "here" the last token is the same, whoever sleeps. Only attention can fetch the noun.


# %%
def looks(model):
    """What each head of the trained model looks at from each position of "cat here"."""
    _, cache = model.forward(np.array([[0, 1, 3]]))  # the boundary, "cat", "here"
    probs = cache.blocks[0].attention.probs[0].swapaxes(1, 2)  # (H,queries,keys): the package keeps keys first
    fig = figure(5.6, 2.8)
    words = ["(start)", "cat", "here"]
    for head, (ax, p) in enumerate(zip(fig.subplots(1, len(probs)), probs)):
        ax.imshow(np.where(np.tri(3, dtype=bool), p, np.nan), cmap="Oranges", vmin=0, vmax=1.4)
        for i, j in zip(*np.nonzero(np.tri(3))):
            ax.text(j, i, f"{p[i, j]:.2f}", ha="center", va="center", fontsize=10)
        ax.set(title=f"head {head}", xlabel="looks at", ylabel="from" if head == 0 else "")
        ax.set_xticks(range(3), words)
        ax.set_yticks(range(3), words if head == 0 else [])
    return fig, probs[:, 2, 1]


fig, at_cat = looks(mle)
show(fig, "Attention probabilities of the two heads for the words of cat here; one head looks from here at cat.")
assert at_cat.max() > 0.8

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
# > **Predict.** Now R alone, $-E_Q \log P$. The model can come very near to P. Does it? Try from the untrained model, and
# > from the one that maximum likelihood has brought to P.

# %% tags=["reveal"]
from_scratch, _ = train("reverse_ce", steps=full_or_fast(300, 120))
from_mle, _ = train("reverse_ce", start=mle, steps=full_or_fast(300, 120))
q, cat = np.exp(mm.exact.log_prob(from_scratch, rows)), rows[:, 1] == 1  # of all sequences; those that begin with "cat"
cost_of_cat = -(q[cat] / q[cat].sum()) @ log_p[cat]
best = int(sentence_probs(from_mle).argmax())
say(f"""No, in neither case. Untrained, R is {loss:.0f} nats, the price of {loss / -world.log_p_floor:.1f} impossible tokens.
The empty sentence is impossible too, but it costs only one: the quickest way to pay less is to stop at once. It gets
{q[0]:.3f}, at {-world.log_p_floor:.2f} nats. There it stays: a sentence that begins with "cat" would cost {cost_of_cat:.2f} on
average, continued as this model would continue it. And from P, it leaves P: "{SENTENCES[best]}" gets
{sentence_probs(from_mle)[best]:.3f}, and R nears its least value,
−log {sentence_probs(world)[best]:.1f} = {-np.log(sentence_probs(world)[best]):.3f}.""")
compare({"MLE": mle, "R alone": from_scratch, "MLE, then R": from_mle})
assert q[0] > 0.9
assert cost_of_cat > -world.log_p_floor
assert sentence_probs(from_mle)[[0, 2]].sum() > 0.9  # "cat sleeps" and "cat here sleeps" are equally likely under P

# %% [markdown]
# Neither the model nor the gradient is to blame: the gradient is exact, and this is what R asks for. R is linear in Q, so
# it is least with all mass on one of the likeliest sentences. P is its minimum only together with the entropy,
# $\text{KL}(Q \| P) = R - H(Q)$. F beside R keeps every possible sentence alive, but the minimum of that mixture is not P
# either: [lesson 1](1_two_cross_entropies.ipynb).

# %% [markdown]
# ## Summary
#
# - **One rule.** From each input follow every road to the loss: multiply slopes along a road, add the roads.
# - **Shapes.** `dx` has the shape of `x`. Whatever rows share (a weight, a bias, the row of a position or a token) gets a
#   sum over these rows.
# - **Layers.** Linear has two products. Layer norm removes the two parts it could not have passed on. Softmax gives each
#   place its own less the mean. The embedding adds where the forward looked up. Attention is products and a softmax.
# - **Models.** The backward is the forward in a mirror: copy and add change places, and each cache is a rung.
# - **Checks.** Check every layer by itself, then the model by tensor. A wrong `dx` turns what is upstream red; look for the
#   mistake at the wrong tensor nearest the output, or just above it.
# - **Objectives.** The backward does not care where `dlogits` came from. With a model that has memory, F and the two KLs
#   have the same minimum, P, but not the same way to it. R alone has another minimum, however good the model.

# %% [markdown]
# ## Exercises
#
# 1. *(Pencil.)* Add one and the same vector to every key of a head. Show that attention's output does not change. What
#    is, then, the gradient of the part of `attn.c_attn.bias` that belongs to the keys? Check it on the model above.
# 2. *(Pencil and code.)* RMS norm (arXiv 1910.07467) does not subtract the mean: $y_i = x_i\, r\, \text{weight}_i$ with
#    $r = (\frac{1}{C} \sum_k x_k^2 + \epsilon)^{-1/2}$. Derive its backward and check it.
# 3. *(Pencil and code.)* SwiGLU (arXiv 2002.05202), in the place of GELU, has two inputs: $y = a\, \sigma(a)\, b$,
#    elementwise, where $\sigma(a) = 1 / (1 + e^{-a})$ has the slope $\sigma(a)(1 - \sigma(a))$. Derive and check `da` and
#    `db`.
# 4. *(Think.)* Below, one of four functions is wrong in one of the three blocks. The table shows the tensors from the
#    output to the input. Which function is it, and in which block?
# 5. *(Code.)* Make GELUs and layer norms of your choice wrong, one at a time, and draw which tensors turn red. What shape
#    do you expect? Which tensors are red in every column?
# 6. *(Code and think.)* Train with the two KLs and `lr=0.03`, from seeds 0, 1 and 2. Where do they end? For the bigram it
#    mattered a lot whether one minimised F or the two KLs. When does it matter for a transformer?


# %%
right_linear, right_attention = one_file.linear_backward, one_file.attention_backward  # kept, as we replace these names


def layer_norm_forgets_the_mean(dy, cache):
    n, r, weight = cache
    dn = dy * weight
    return r * (dn - n * (dn * n).mean(axis=-1, keepdims=True)), (dy * n).sum(axis=0), dy.sum(axis=0)


def attention_forgets_the_root(dy, cache, B, T, n_head):
    dqkv = right_attention(dy, cache, B, T, n_head).reshape(B * T, 3, -1)
    dqkv[:, 1] *= np.sqrt(cache[0].shape[-1])  # the keys' 1/√D is undone
    return dqkv.reshape(B * T, -1)


def linear_takes_a_mean(dy, cache):
    dx, dW, db = right_linear(dy, cache)
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
# same for all $j$. Softmax over $j$ does not see it. The output, and so the loss, do not depend on $c$. The keys' part of
# the bias is such a $c$: its gradient is zero. (The queries' bias adds $c \cdot k_j / \sqrt{D}$, which differs from key to
# key.) In formulas: the key bias gets $\sum_j dk_j$, that is $\frac{1}{\sqrt{D}} \sum_i q_i \sum_j ds_{ij}$, and each row of
# `ds` sums to zero.

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
# **Solution 4.** Go down the table to the first wrong tensor, `attn.c_attn.weight` of block 1. Much below it is wrong too,
# so some `dx` is wrong: a `db` alone is ruled out. A wrong `dx` of `ln_2` would show in `attn.c_proj` of its block, that of
# GELU in `mlp.c_fc`, and both are right in block 1; in block 0 neither could reach block 1. So it is attention in block
# 1, which hands its `dx` to `c_attn`.
#
# But `c_attn.bias` is right, and so is `ln_1.bias`. If the `dy` of `c_attn` is wrong, how can its sum over the rows,
# `db`, be right? Because the error is in the keys, and by solution 1 each head's $dk_j$ sum to zero over $j$, with the
# wrong factor as without. `ln_1.bias` gets the sum over the rows of $dy\, W^T$, which is the same $db$ times $W^T$.

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
# **Solution 5.** A staircase. The nearer the input the mistake, the fewer tensors are red. `wte.weight` and `wpe.weight`
# are always among them: the look-ups at the very beginning are upstream of everything. The tensors of the broken layer
# norm itself stay right, because only its `dx` is wrong.

# %% tags=["solution"]
norm, gelu = suspects[0][1:], suspects[3][1:]  # each the right function and the wrong one
breaks = {f"h.{i}.{layer}": pair for i in range(3) for layer, pair in (("ln_1", norm), ("ln_2", norm), ("mlp.gelu", gelu))}
breaks["ln_f"] = norm
red = {}
for place, (right, wrong) in breaks.items():
    found = broken_backward(place, right, wrong)(*kept, n_head)
    red[place] = [np.abs(found[n] - right_grads[n]).max() > 1e-6 * np.abs(right_grads[n]).max() for n in names]
assert all(all(column[: sum(column)]) for column in red.values())
assert (np.diff([sum(column) for column in red.values()]) > 0).all()


# %% tags=["solution"]
def staircase():
    fig = figure(5.6, 5.6)
    ax = fig.subplots()
    ax.imshow(np.array(list(red.values())).T, cmap="Reds", vmin=0, vmax=1.4, origin="lower", aspect="auto")
    name_layers(ax)
    ax.set_xticks(range(len(red)), red, rotation=40, ha="right", fontsize=9)
    ax.set(xlabel="layer whose dx is wrong", ylabel="layers, from the input (bottom) to the output")
    return fig


show(staircase(), "A staircase: for each broken layer, from the input to the output, all tensors upstream of it are red.")

# %% [markdown] tags=["solution"]
# **Solution 6.** Look at what each run gives to "cats here sleep", and how much its heads look from "here" at the noun.

# %% tags=["solution"]
ends = {f"transformer, lr=0.03, seed {seed}": train("two_kls", lr=0.03, seed=seed)[0] for seed in range(full_or_fast(3, 1))}
ends["transformer, lr=0.01, seed 0"] = two_kls
cells, at_bigram = [], 0
for label, model in ends.items():
    _, cache = model.forward(np.array([[0, 1, 3], [0, 2, 3]]))  # "cat here", "cats here"
    at_noun = cache.blocks[0].attention.probs[:, :, 1, 2].max()  # of both heads, the one that looks more
    probs, forward_kl = sentence_probs(model), mm.exact.measure(model, world, MAX_LEN)["forward_kl"]
    cells.append([label, f"{probs[3]:.3f}", f"{forward_kl:.3f}", f"{at_noun:.3f}"])
    assert (forward_kl > 1) == (at_noun < 0.5)
    at_bigram += forward_kl > 1

# %% tags=["solution"]
bigram_two_kls = optimal_table("two_kls", steps=1000)
measured = mm.exact.measure(bigram_two_kls, world, MAX_LEN)
cells.append(["bigram, two KLs", f"{sentence_probs(bigram_two_kls)[3]:.3f}", f"{measured['forward_kl']:.3f}", ""])
table(["two KLs", "Q(cats here sleep)", "KL(P‖Q)", "heads at the noun"], cells)
say(f"""Runs with lr=0.03 that end where the bigram ends under the two KLs: {at_bigram} of {len(ends) - 1}. They give up "cats
here sleep" for the sake of validity ({measured["validity"]:.3f} for the bigram).""")

# %% [markdown] tags=["solution"]
# A run that ends there has all the memory it needs and does not use it. Its heads look elsewhere with probabilities so near
# 0 and 1 that softmax's slopes are next to nothing, and so hardly any gradient tells them to look at the noun.
#
# In general, objectives with the same minimum $Q = P$ matter when the model does not reach it: because it cannot represent
# P, because data are few, or because training ends elsewhere. So a comparison of objectives says as much about what stopped
# the model as about the objectives, and one run of each says little.

# %% [markdown]
# Next: [lesson 8](8_experiments_read_sceptically.ipynb), in which all this is trained, and the results are doubted. To
# read the code itself, start with [one_file.py](one_file.py).
