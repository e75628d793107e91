# %% [markdown]
# # 7 The transformer by hand
#
# *Two sittings. Prose: twice 30 minutes; with the code: twice 50; with exercises: 4 hours. Computing: 30 seconds.
# Before this: [lesson 3](3_one_softmax_by_hand.ipynb), [lesson 4](4_the_exact_reverse_gradient.ipynb), and how two
# matrices are multiplied. If you have never written a backward pass, [lesson 0](0_a_derivative_by_trying.ipynb), too.*
#
# **At the end you will know**
#
# - how to derive the [backward](glossary.md#backward) pass of any layer from one rule, and how to check it before you trust it;
# - the backward pass of every layer of GPT-2, attention included, line by line;
# - why a model's backward is its forward read in a mirror, and how to find the one layer that is wrong;
# - what the exact gradient of lesson 4 does when it flows through a transformer, which has the memory that $P$ asks for.

# %% tags=["setup"]
from unittest import mock

import numpy as np

import minimixce as mm
import one_file
from minimixce.lessons import (
    MAX_LEN,
    SENTENCES,
    VALID,
    as_markdown,
    full_or_fast,
    optimal_table,
    sentence_probs,
    source,
    table,
    transformer,
)

# %% [markdown]
# The bigram of the earlier lessons forgets the number of the noun across "here": it has one softmax for each last token,
# and nothing else. A transformer sees all earlier tokens. To train it you need the derivative of one number, the loss,
# with respect to each of its thousands of parameters.
#
# A transformer turns each [token](glossary.md#token) into a row of $C$ numbers, its *channels*. Layer after layer makes new
# rows of them, and the last layer makes of each row a score for every token that could come next, the
# [logits](glossary.md#logits). A batch of $B$ sequences of $T$ tokens has $N = B \cdot T$ rows. So what passes from layer to
# layer is an array of shape $(N, C)$.
#
# Everything below is plain NumPy. `one_file` is [one_file.py](one_file.py), the way from text to a trained model in one
# readable file; the package's own [layers.py](../minimixce/layers.py) computes the same, faster. A test holds the two
# equal.

# %% [markdown]
# ## First sitting: the layers
#
# One rule, and then one layer after the other: linear, layer norm, GELU, softmax, embedding. Each is derived, shown as
# code, and checked on the spot.
#
# ## What a backward pass has to find
#
# Let $L$ be the loss, one number. For any array `x` on the way to it, write `dx` for $\partial L/\partial x$: how fast
# $L$ grows with each element of `x`. So `dx` always has the shape of `x`. That is the first check of any backward pass,
# and it often leaves only one way to multiply the matrices at hand.
#
# A layer is a pair of functions. The **forward** makes `y` from `x` and keeps a [`cache`](glossary.md#cache), what its
# derivative will need. The **backward** is given `dy` and must find `dx`, and the derivatives of the layer's parameters
# too.
#
# You could find each derivative by numbers instead: move one parameter a little and run the forward again.

# %%
V = 6  # the tokens of the agreement() world: the boundary and five words
config = mm.GPTConfig(vocab_size=V, block_size=3, n_layer=1, n_head=2, n_embd=16, dtype="float64")
small = mm.GPT(config, seed=0)  # n_embd is C

# %% [markdown]
# Even the small transformer of this lesson has {{small.num_params:,}} parameters. By numbers, its gradient takes at least
# {{small.num_params + 1:,}} forward passes. By hand it takes one forward and one backward, and a backward costs about as
# much as two forwards: a linear layer has one matrix product forward and two backward.

# %% [markdown]
# Numbers are too slow to train with, but they are just what is needed to [check](glossary.md#gradient-check) a backward
# once. `mm.gradcheck` of lesson 3 does that. A layer's `y` is an array and no loss, so it makes a loss of it: it draws
# numbers `dy` at random, keeps them fixed, and takes $L = \sum_i dy_i\, y_i$. Then $\partial L/\partial y_i = dy_i$, as it
# should be. And nothing is lost: any loss, if `y` moves only a little, changes like such a sum, with its own `dy`.

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

# %% [markdown]
# > **Predict.** Let $a = x^2$, $b = 3x$ and $L = a\,b$. At $x = 2$ the road through $a$ and the road through $b$ each
# > have two slopes. What is `dx`?

# %%
x = 2
a = x**2
b = 3 * x
da_dx, db_dx = 2 * x, 3  # the first step of each road
dL_da, dL_db = b, a  # the second: in a·b the factor of a is b, and that of b is a

# %% [markdown]
# <details><summary>12</summary>
#
# That is the road through $b$ alone, {{db_dx}} · {{dL_db}}. Another leads through $a$. Read the last answer.
#
# </details>
# <details><summary>24</summary>
#
# That is the road through $a$ alone, {{da_dx}} · {{dL_da}}. Another leads through $b$. Read the last answer.
#
# </details>
# <details><summary>36</summary>
#
# Yes: {{da_dx}} · {{dL_da}} + {{db_dx}} · {{dL_db}} = {{da_dx * dL_da + db_dx * dL_db}}. Check: $L$ is $3x^3$, whose slope
# is $9x^2$, here {{9 * x**2}}.
#
# </details>

# %% tags=["check"]
assert (db_dx * dL_db, da_dx * dL_da, da_dx * dL_da + db_dx * dL_db) == (12, 24, 36)
assert 9 * x**2 == 36

# %% tags=["fold"]
transformer.draw_roads(da_dx, db_dx, dL_da, dL_db)

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
# The first two sums are matrix products, $dx = dy\, W^\top$ and $dW = x^\top dy$. To see which, remember that a product
# $(AB)_{rs} = \sum_k A_{rk} B_{ks}$ sums over the index in the middle. In $dx_{ni}$ it is $o$, the last index of `dy`, which
# must then be the first of the other: transpose `W`. And look at the shapes: if $N$, $I$ and $O$ are three different
# numbers, no other product of `dy` and `W`, transposed or not, has the shape of `x`.

# %%
source(one_file.linear, one_file.linear_backward)

# %%
rng = np.random.default_rng(0)
x, W, b = rng.standard_normal((5, 4)), rng.standard_normal((4, 3)), rng.standard_normal(3)
report = mm.gradcheck(one_file.linear, one_file.linear_backward, [x, W, b], names=["x", "W", "b"])
report

# %% tags=["check"]
assert report.ok

# %% [markdown]
# > **Predict.** All rows of a batch share one `b`. Now let the batch hold every row twice, each time with the same `dy`.
# > Is `db` twice as large, or the same?

# %%
dy = rng.standard_normal((5, 3))
_, _, db = one_file.linear_backward(dy, (x, W))
_, _, db_of_both = one_file.linear_backward(np.concatenate([dy, dy]), (np.concatenate([x, x]), W))

# %% [markdown]
# <details><summary>The same: it is one and the same b</summary>
#
# Just because it is the same `b`, it has more roads to the loss now. Read the other answer.
#
# </details>
# <details><summary>Twice as large</summary>
#
# Yes: {{db[0]:.2f}} becomes {{db_of_both[0]:.2f}} in the first place. Twice as many roads lead from `b` to the loss, and
# roads are added. If the loss is a mean over $N$ tokens, its $1/N$ is in `dy` already: the loss put it there.
#
# </details>

# %% tags=["check"]
assert np.allclose(db_of_both, 2 * db)

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
# 1. **Its own place.** $x_j$ appears in $n_j$, with slope $r$.
# 2. **The mean.** $\partial \mu / \partial x_j = 1/C$, and $\mu$ appears in every $n_i$ with slope $-r$: together $-r/C$.
# 3. **The scale** $r$, which appears in every $n_i$ too, with slope $x_i - \mu$.

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
# Both sums with $1/C$ are means over the row, as in the code.

# %%
source(one_file.layer_norm, one_file.layer_norm_backward)

# %%
x, weight, bias = rng.standard_normal((5, 8)), rng.standard_normal(8), rng.standard_normal(8)
report = mm.gradcheck(
    one_file.layer_norm,
    one_file.layer_norm_backward,
    [x, weight, bias],
    names=["x", "weight", "bias"],
)
report

# %% tags=["check"]
assert report.ok

# %% [markdown]
# The formula has a meaning. If you add the same number to all of a row, layer norm takes it away again: $y$ does not
# change. So the loss does not change either, and the elements of `dx` must sum to zero. If you stretch a row about its
# mean, each $x_j$ moves in proportion to $n_j$. Layer norm undoes that as well (except for $\epsilon$), so the sum of
# $dx_j\, n_j$ must be zero. The two subtracted terms see to just that: they remove what `dn` has of the constant row and of
# `n`.

# %%
y, cache = one_file.layer_norm(x, weight, bias)
dx, _, _ = one_file.layer_norm_backward(rng.standard_normal(y.shape), cache)
n = cache[0]
along_constant, along_n = np.abs(dx.sum(axis=1)), np.abs((dx * n).sum(axis=1))  # both (N,)

# %% [markdown]
# Beside a largest element of {{np.abs(dx).max():.1f}}, the sums of `dx` over a row are at most
# {{along_constant.max():.0e}}, and the sums of `dx · n` at most {{along_n.max():.0e}}: the first is rounding, the second is
# what $\epsilon$ leaves.

# %% tags=["check"]
assert np.allclose(along_constant, 0)
assert np.allclose(along_n, 0, atol=1e-3)

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

# %%
x = rng.standard_normal((5, 8))
report = mm.gradcheck(one_file.gelu, one_file.gelu_backward, [x], names=["x"])
report

# %% tags=["check"]
assert report.ok

# %% [markdown]
# ## Softmax
#
# Softmax makes probabilities of scores: $p_i = e^{x_i} / Z$ with $Z = \sum_k e^{x_k}$. Take the logarithm first, because
# it separates the two roads: $\log p_i = x_i - \log Z$. The first term contains $x_j$ only if $i = j$. For the second,
# $\partial \log Z / \partial x_j = e^{x_j} / Z = p_j$. And $p_i$ itself moves $p_i$ times as fast as its logarithm,
# whose slope is $1/p_i$. So, writing $1_{i=j}$ for 1 if $i = j$ and 0 otherwise,
#
# $$\frac{\partial \log p_i}{\partial x_j} = 1_{i=j} - p_j$$
#
# $$\frac{\partial p_i}{\partial x_j} = p_i \, (1_{i=j} - p_j)$$
#
# Sum over the roads, and take out $p_j$, which is in both terms:
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


report = mm.gradcheck(softmax, one_file.softmax_backward, [x], names=["x"])
report

# %% tags=["check"]
assert report.ok

# %% [markdown]
# Read the result once more: $dp_j$, less its mean under $p$, times $p_j$. You have met it twice.
#
# - With the loss $-\log p_v$, only $dp_v = -1/p_v$ is not zero, and the formula gives $p - \text{onehot}(v)$: lesson 3.
# - With a cost $c_v$ for each token and the expected cost $\sum_v p_v c_v$ as the loss, $dp = c$, and the formula gives
#   $p_v (c_v - \sum_u p_u c_u)$. Times the probability of the prefix, that is the gradient of lesson 4 at one prefix.
#   There the cost was that of the token and of all that comes after it, and the bracket, with its sign turned, was the
#   advantage.

# %%
p = one_file.softmax(np.array([0.5, -1.0, 2.0]))
dp = np.array([0, -1 / p[1], 0])  # the loss is −log p of token 1
dx = one_file.softmax_backward(dp, p)
onehot = np.array([0, 1, 0])

# %% [markdown]
# `softmax_backward` gives ({{", ".join(f"{g:.3f}" for g in dx)}}); $p - \text{onehot}$ is
# ({{", ".join(f"{g:.3f}" for g in p - onehot)}}).

# %% tags=["check"]
assert np.allclose(dx, p - onehot)

# %% [markdown]
# ## The embedding: a look-up
#
# The first layer looks up a row of a table for each token: `x = W[tokens]`, with `W` of shape $(V, C)$. That is the
# product of one-hot rows with $W$, so by the linear layer $dW = \text{onehot}^\top dx$. Row $v$ of `dW` is the sum of the `dx`
# of all places where token $v$ stood. The row of a token that occurs twice has roads from both places. The row of a token
# that does not occur has none: its derivative is zero.
#
# A second table has a row for each position of a sequence, first, second and so on, and this row is added to `x`, so that
# the model knows the order. Position $t$ occurs once in each sequence, so the derivative of its row is a sum over the $B$
# sequences.

# %% [markdown]
# > **Predict.** NumPy can write to looked-up rows too: `dW[tokens] += dx`. Is that the same sum?

# %%
tokens, dx = np.array([2, 0, 2]), np.ones((3, 1))  # token 2 occurs twice; C is 1 here
short = np.zeros((4, 1))
short[tokens] += dx
by_product = np.eye(4)[tokens].T @ dx  # (V,N) @ (N,C) -> (V,C)

# %% [markdown]
# <details><summary>Yes: it says "add"</summary>
#
# It adds, but not as often as it should. Read the other answer.
#
# </details>
# <details><summary>No</summary>
#
# Right. For tokens {{tokens}} and a `dx` of ones, `dW[tokens] += dx` gives {{short.ravel()}}, but the sum is
# {{by_product.ravel()}}. The short form reads every row, adds, and writes every row; of the two writes to row 2, the second
# covers the first. `np.add.at(dW, tokens, dx)` adds one after another, a *scatter-add*. The code below uses it.
#
# </details>

# %% tags=["check"]
added = np.zeros((4, 1))
np.add.at(added, tokens, dx)
assert np.array_equal(added, by_product)
assert not np.array_equal(short, by_product)

# %% [markdown]
# ## One table, used twice
#
# GPT-2's last matrix, which turns $C$ channels into a score for each of the $V$ tokens, is the embedding table again,
# transposed: the output is *[tied](glossary.md#tied)* to the input. So the table has two families of roads to the loss.
# One starts where a token was looked up, the other where logits were made. Its gradient has two parts, found at the two
# ends of the backward pass, and they are added. Here is the shortest model with a tied table `wte`: look up, and go
# straight to the logits.


# %%
def tied(wte):
    x = wte[tokens]  # (V,C) -> (N,C)
    logits, head = one_file.linear(x, wte.T, 0)  # (N,V); no bias
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
reports = {name: mm.gradcheck(tied, answer, [wte], names=["wte"]) for name, answer in answers.items()}

# %% tags=["fold"]
cells = [[name, f"{r.max_relative_error:.0e}", "" if r.ok else "wrong"] for name, r in reports.items()]
table(["dwte", "rel. error", ""], cells)

# %% tags=["check"]
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
# values. The lines at both ends only move numbers about: `reshape` gives each row the axes (3, H, D), and `transpose` brings
# what each head needs side by side, $T \times D$ matrices. The backward moves them back. In between are two matrix products
# and a softmax, which you know.

# %%
source(one_file.attention)

# %% [markdown]
# ## Attention, backward
#
# Go from the last line to the first. For one head, the output is $y_{id} = \sum_j p_{ij} v_{jd}$, and the score is
# $s_{ij} = \frac{1}{\sqrt{D}} \sum_d q_{id}\, k_{jd}$. Ask again: who appears where?
#
# - $p_{ij}$ appears in $y_{id}$ for every $d$, with slope $v_{jd}$: $\;dp_{ij} = \sum_d dy_{id}\, v_{jd}$, the product
#   $dy\, v^\top$.
# - $v_{jd}$ appears in $y_{id}$ for every $i$, with slope $p_{ij}$: $\;dv_{jd} = \sum_i p_{ij}\, dy_{id}$, the product
#   $p^\top dy$.
# - `softmax_backward` turns `dp` into `ds`, row by row.
# - $q_{id}$ appears in $s_{ij}$ for every $j$, with slope $k_{jd} / \sqrt{D}$:
#   $\;dq_{id} = \frac{1}{\sqrt{D}} \sum_j ds_{ij}\, k_{jd}$, the product $ds\, k / \sqrt{D}$.
# - $k_{jd}$ appears in $s_{ij}$ for every $i$, with slope $q_{id} / \sqrt{D}$:
#   $\;dk_{jd} = \frac{1}{\sqrt{D}} \sum_i ds_{ij}\, q_{id}$, the product $ds^\top q / \sqrt{D}$.

# %% [markdown]
# The mask needs no line of its own. Where a score was masked, $p_{ij} = 0$, and softmax's backward has $p_{ij}$ as a
# factor, so $ds_{ij} = 0$. In `dv` the factor $p_{ij}$ is 0 too.

# %%
source(one_file.attention_backward)

# %% [markdown]
# The last line undoes the forward's `transpose`. Each axis goes back to where it came from:

# %%
forth = (2, 0, 3, 1, 4)  # (B,T,3,H,D) -> (3,B,H,T,D): new axis 0 is the old axis 2, and so on
back = np.argsort(forth)  # at place k: where the old axis k went

# %% [markdown]
# That is ({{", ".join(map(str, back))}}), as the line says.

# %% tags=["check"]
assert back.tolist() == [1, 3, 0, 2, 4]

# %%
B, T, n_head = 2, 4, 2
qkv = rng.standard_normal((B * T, 3 * 8))  # queries, keys and values of 8 channels side by side
report = mm.gradcheck(
    lambda qkv: one_file.attention(qkv, B, T, n_head),
    lambda dy, cache: one_file.attention_backward(dy, cache, B, T, n_head),
    [qkv],
    names=["qkv"],
)
report

# %% tags=["check"]
assert report.ok

# %% [markdown]
# gradcheck moved every element of `qkv` by itself. In a tensor with thousands of them it moves all at once, in a few random
# directions, and where these disagree it looks for the element. Now look at one head, forward and backward: four positions,
# a random `dy`.


# %%
def one_head(T=4, D=8):
    """p and ds of a head with random queries, keys, values and dy: row i asks, column j answers"""
    rng = np.random.default_rng(3)
    _, (_, _, v, p) = one_file.attention(rng.standard_normal((T, 3 * D)), 1, T, 1)
    p, v = p[0, 0], v[0, 0]  # of the only sequence and head: (T,T) and (T,D)
    return p, one_file.softmax_backward(rng.standard_normal((T, D)) @ v.T, p)


p, ds = one_head()

# %% tags=["fold"]
transformer.draw_head(p, ds)

# %% tags=["check"]
assert np.allclose(p.sum(axis=1), 1)
assert np.allclose(ds.sum(axis=1), 0)
assert np.allclose(np.triu(ds, 1), 0)

# %% [markdown]
# White is masked. Each row of `p` sums to one for any scores, so each row of `ds` sums to zero: what one key gains
# the others must lose. (Green is positive, violet negative.) The first row of `ds` is zero, because position 0 has only
# itself to look at.
#
# > **Predict.** The mask forbids position $i$ to look at later positions. In the backward pass, can the loss at a later
# > position change the gradient at an earlier one? And the other way round?

# %%
dy = np.zeros((T, 8))  # of one sequence
dy[2] = 1  # a loss that looks at the output of position 2 alone
_, cache = one_file.attention(qkv[:T], 1, T, n_head)
reached = np.abs(one_file.attention_backward(dy, cache, 1, T, n_head)).sum(axis=1) > 0  # (T,)

# %% [markdown]
# <details><summary>Neither: the mask forbids it</summary>
#
# The mask forbids roads from later positions to earlier outputs. Roads the other way exist. Read the next answer.
#
# </details>
# <details><summary>A later loss changes earlier gradients, but not the other way round</summary>
#
# Yes. A loss at position 2 reaches positions {{", ".join(map(str, np.flatnonzero(reached)))}} of 0 to {{T - 1}}. Forward,
# position 2 reads from 0, 1 and 2; backward, its derivative goes to where it had read, from later to earlier. A forbidden
# road carries nothing in either direction. This is how a wrong verb after "cat here" can tell "cat" that its number
# matters.
#
# </details>
# <details><summary>An earlier loss changes later gradients, but not the other way round</summary>
#
# That is the direction of the forward pass, and the backward runs against it. Read the answer before this one.
#
# </details>

# %% tags=["check"]
assert reached.tolist() == [True, True, True, False]

# %% [markdown]
# ## The residual stream
#
# A block does not replace its input: it adds to it, `x = x + f(x)`, and this `x` is the
# *[residual stream](glossary.md#residual-stream)*. From $x$ there are then two roads, one straight on with slope 1 and one
# through $f$:
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
# Here is one block drawn twice. Up on the left in orange goes what the model $Q$ computes. At the top of the model it meets
# the data: with maximum likelihood the derivative at the logits is $q - \text{onehot}$, and on average over what $P$ writes
# there, $Q$ less $P$. What comes down on the right is drawn in blue, because it is all that the parameters ever hear of
# $P$. Each rung is a cache: what a layer on the left kept for its backward on the right. The `x` on a rung is the input of
# that layer.

# %% tags=["fold"]
transformer.draw_block()

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
    """Gradcheck of the whole model with this backward, one line a tensor."""

    def model_backward(dloss, kept):  # the loss is one number, and so is its dy
        params, dlogits, cache = kept
        return tuple(backward(params, dloss * dlogits, cache, n_head).values())

    values, coordinates = list(params.values()), full_or_fast(64, 8)
    return mm.gradcheck(model_forward, model_backward, values, names=names, coordinates=coordinates)


report = check_model(one_file.backward)
report

# %% tags=["check"]
assert report.ok

# %% [markdown]
# ## Break one layer
#
# Now we play the student who made a mistake. In `gelu_backward` the factor 3 before $k x^2$ is easily forgotten. We
# forget it in one block only, block 1 of the blocks 0, 1 and 2. The file stays as it is: `mock.patch.object`
# makes the name `gelu_backward` mean another function while `one_file.backward` runs, one that is wrong for one cache and
# right for all others.


# %%
def gelu_backward_without_the_3(dy, cache):
    x, t = cache
    du_dx = np.sqrt(2 / np.pi) * (1 + 0.044715 * x * x)
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du_dx)


# %%
def broken_backward(place, right, wrong):
    """one_file.backward, but it calls `wrong` instead of `right` for the cache called `place`"""

    def backward(params, dlogits, cache, n_head):
        def either(dy, layer_cache, *sizes):  # sizes: attention's B, T and n_head
            return (wrong if layer_cache is cache[place] else right)(dy, layer_cache, *sizes)

        with mock.patch.object(one_file, right.__name__, either):  # until this backward is done
            return one_file.backward(params, dlogits, cache, n_head)

    return backward


# %% [markdown]
# > **Predict.** Which of the tensors in the list above get a wrong gradient?

# %%
place = "h.1.mlp.gelu"
broken = check_model(broken_backward(place, one_file.gelu_backward, gelu_backward_without_the_3))
wrong = [row.name for row in broken.rows if not row.ok]
right_error = max(row.relative_error for row in broken.rows if row.ok)

# %% [markdown]
# <details><summary>Those of that GELU</summary>
#
# GELU has no parameters. Who uses its `dx`? Read the last answer.
#
# </details>
# <details><summary>Those of block 1</summary>
#
# Some of them, and not only of them. Read the last answer.
#
# </details>
# <details><summary>All between that GELU and the output</summary>
#
# Forward they come later; backward they come first, before the mistake is made. Read the last answer.
#
# </details>
# <details><summary>All between that GELU and the input</summary>
#
# Yes, {{len(wrong)}} of {{len(names)}}. The largest relative error is {{broken.max_relative_error:.2f}}, and among the right
# tensors {{right_error:.0e}}.
#
# </details>

# %% tags=["check"]
assert wrong == names[: names.index("h.1.mlp.c_fc.bias") + 1]

# %% tags=["fold"]
transformer.draw_errors(
    {row.name: row.relative_error for row in broken.rows},
    len(wrong),
    broken.tolerance,
    "gelu_backward\nof block 1 is wrong",
)

# %% [markdown]
# (Each layer has two bars, its bias above its weight.) The pattern names the culprit. The backward goes from the loss to
# the input, and each function hands its `dx` on. So a wrong `dx` spoils all that is made of it later: every tensor
# **upstream**, nearer the input, where the forward comes from. No tensor downstream has ever seen it. Hence the rule:
#
# **From the output, go down to the first wrong tensor. Either its own line is wrong, its `dW` or `db`. Or the `dy` that
# came there was: then look at what the backward did between the last right tensor and this one.**
#
# - Here `mlp.c_proj.weight` above the line is right, `mlp.c_fc.bias` below it is wrong, and between them is `gelu`.
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
_, kept = model_forward(*params.values())
right_grads = one_file.backward(*kept, n_head)
wrong_backward = broken_backward(place, one_file.gelu_backward, gelu_backward_without_the_3)
wrong_grads = wrong_backward(*kept, n_head)
a, b = (np.concatenate([g.ravel() for g in grads.values()]) for grads in (right_grads, wrong_grads))
cosine = a @ b / np.sqrt(a @ a * (b @ b))

# %% [markdown]
# The wrong gradient and the right one point almost the same way: the cosine of the angle between them is
# 1 − {{1 - cosine:.0e}}. A small step against the wrong one lowers the loss almost as much as a step of the same length
# against the right one. So a falling loss does not show that a gradient is right. A gradcheck does, layer by layer.

# %% tags=["check"]
assert 0.9 < cosine < 1 - 1e-6

# %% [markdown]
# ## Lesson 4's gradient flows through it
#
# Lesson 4 found the exact gradient of the reverse cross-entropy in the logits. With the weight
# $w(x) = \partial L / \partial \log Q(x)$ of each sequence, the derivative at the logits before $x_t$ is
#
# $$\frac{\partial L}{\partial z_t} = w(x)\, (\text{onehot}(x_t) - \operatorname{softmax}(z_t))$$
#
# (Lesson 3 had softmax minus one-hot: that is the gradient of $-\log q$, this of $\log q$.) For
# $R = -\sum_x Q(x) \log P(x)$ the weight is $w(x) = -Q(x) \log P(x)$, because the derivative of $Q$ in $\log Q$ is $Q$.
# Nothing in this asks what made the logits. It was a table then; now it is a transformer. Give the derivative to its
# backward as `dlogits`, and every parameter gets its exact gradient: no sampling, no estimator. Here it is, with one row of
# the batch for each sequence that the model can write. (The sum over $x$ needs no line: parameters are shared by all rows,
# so the backward adds up what comes from each.)

# %%
world = mm.worlds.agreement()
rows = mm.exact.sequences(V, MAX_LEN)  # all n sequences of at most 3 words
inputs, nexts = world.batch(rows)  # (n,3): what the model reads and what comes; −1 after the end
logits, cache = small.forward(inputs)  # (n,3,V)
log_q = mm.exact.log_prob(small, rows)  # (n,)
log_p = world.log_prob(rows, floored=True)  # (n,)
w = -np.exp(log_q) * log_p
onehot, written = np.eye(V)[nexts], nexts >= 0  # the one-hot of −1 is wrong, but multiplied by 0
dlogits = w[:, None, None] * (onehot - one_file.softmax(logits)) * written[:, :, None]
grads = small.backward(dlogits, cache)

loss, exact_grads = mm.exact.loss_and_grads(small, world, MAX_LEN, objective="reverse_ce")
gap = max(np.abs(grads[name] - exact_grads[name]).max() for name in grads)

# %% [markdown]
# {{len(rows)}} sequences, $R$ = {{-np.exp(log_q) @ log_p:.3f}}. `mm.exact.loss_and_grads`, which computes shared prefixes
# once, says {{loss:.3f}}, and no gradient differs by more than {{gap:.0e}}.

# %% tags=["check"]
assert gap < 1e-9 * max(np.abs(g).max() for g in grads.values())

# %% [markdown]
# The untrained model writes tokens at random, and each impossible one costs as much as the [floor](glossary.md#floor) of
# $\log P$ says; hence the large value. Is the gradient right? Move one parameter, and compute the whole sum over all
# sequences again. Here we do it for the largest element of three tensors, and for the two KLs of the next section as well.


# %%
def loss_at(model, objective, name, place, change):
    model.params[name][place] += change
    loss, _ = mm.exact.loss_and_grads(model, world, MAX_LEN, objective=objective)
    model.params[name][place] -= change
    return float(loss)


def both_ways(objective, name, step=1e-5):
    """The largest element of a tensor's gradient -> its index, by hand, by numbers"""
    _, grads = mm.exact.loss_and_grads(small, world, MAX_LEN, objective=objective)
    place = np.unravel_index(np.abs(grads[name]).argmax(), grads[name].shape)
    more = loss_at(small, objective, name, place, step)
    less = loss_at(small, objective, name, place, -step)
    return place, grads[name][place], (more - less) / (2 * step)


tensors = ("wte.weight", "h.0.attn.c_attn.weight", "h.0.ln_2.weight")
compared = {(o, name): both_ways(o, name) for o in ("reverse_ce", "two_kls") for name in tensors}

# %% tags=["fold"]
cells = [
    [f"`{objective}`", f"{name} {[int(i) for i in place]}", f"{by_hand:.6f}", f"{by_numbers:.6f}"]
    for (objective, name), (place, by_hand, by_numbers) in compared.items()
]
table(["objective", "parameter", "by hand", "by numbers"], cells)

# %% tags=["check"]
assert all(np.isclose(by_hand, by_numbers, rtol=1e-4) for _, by_hand, by_numbers in compared.values())

# %% [markdown]
# ## What memory changes
#
# Now train. The best bigram by maximum likelihood puts nearly a quarter of its probability on impossible sentences, with
# infinitely many data: no bigram can be $P$. A transformer can come very near to it. It is trained with the exact gradients
# of two objectives: the forward cross-entropy $F$ (maximum likelihood), and the two [KLs](glossary.md#kl-divergence),
# $\frac{1}{2} \text{KL}(P \| Q) + \frac{1}{2} \text{KL}(Q \| P)$.


# %%
def train(objective, start=None, steps=300, lr=0.01, seed=0):
    """A GPT trained with an objective's exact gradient -> it, and its sentence_probs every ten steps

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
bigram = mm.TableBigram(V)
counts = mm.exact.bigram_counts(world, MAX_LEN) + 1e-9  # maximum likelihood of a table is counting
bigram.params["logits"][:] = np.log(counts / counts.sum(axis=1, keepdims=True))
mle, mle_way = train("forward_ce")
two_kls, two_kls_way = train("two_kls")
models = {
    "Q: bigram, MLE": bigram,
    "Q: transformer, MLE": mle,
    "Q: transformer, two KLs": two_kls,
}


# %% tags=["fold"]
def compared_exactly(models):
    keys = ("validity", "forward_kl", "reverse_kl", "reverse_ce", "entropy_q")
    measured = {label: mm.exact.measure(model, world, MAX_LEN) for label, model in models.items()}
    cells = [[label, *(f"{float(found[key]):.3f}" for key in keys)] for label, found in measured.items()]
    return as_markdown(["model", "validity", "KL(P‖Q)", "KL(Q‖P)", "$R$", "H(Q)"], cells)


transformer.draw_sentences({label: sentence_probs(model) for label, model in {"P": world, **models}.items()})

# %% [markdown]
# {{compared_exactly(models)}}
#
# ([Validity](glossary.md#validity) is the probability of writing a possible sentence; the others are in nats.)

# %% tags=["check"]
assert sentence_probs(bigram)[: len(VALID)].sum() < 0.77
assert all(np.allclose(sentence_probs(model), sentence_probs(world), atol=0.05) for model in (mle, two_kls))

# %% [markdown]
# For a model that can represent $P$, $F$, both KLs and any mixture of these have the same minimum, $Q = P$. In lesson 2 the
# fault lay not in maximum likelihood alone, but in maximum likelihood together with a $Q$ that forgets. But the same minimum
# is not the same way.


# %%
groups = {"cat …": [0, 2], "cats …": [1, 3]}  # places in VALID
ways = {
    objective: {group: way[:, places].sum(axis=1) for group, places in groups.items()}
    for objective, way in {"MLE": mle_way, "two KLs": two_kls_way}.items()
}

# %% tags=["fold"]
goal = {group: sentence_probs(world)[places].sum() for group, places in groups.items()}
transformer.draw_ways(ways, goal, every=10)

# %% tags=["check"]
assert ways["MLE"]["cat …"].max() < 0.7
assert ways["two KLs"]["cat …"].max() > 0.8
assert [VALID[i].startswith("cat ") for places in groups.values() for i in places] == [True, True, False, False]

# %% [markdown]
# (Dashed blue is $P$.) Maximum likelihood goes straight there. Under the two KLs impossible sentences are so dear that the
# model first takes shelter in a few that are possible, and comes back for the others later. Whether it comes back for all
# of them depends on its first parameters and on the learning rate: exercise 6.
#
# Where does the memory sit? After "here" the last token is the same for one cat and for several. Only attention can
# fetch the noun.


# %%
_, cache = mle.forward(np.array([[0, 1, 3]]))  # the boundary, "cat", "here"
probs = cache.hidden.blocks[0].attention.probs[0]  # (H,keys,queries): the package keeps keys first
probs = probs.swapaxes(1, 2)  # (H,queries,keys)
at_cat = probs[:, 2, 1]  # from "here" at "cat", (H,)

# %% tags=["fold"]
transformer.draw_looks(probs, ["(start)", "cat", "here"])

# %%
sleeps = world.words.index("sleeps")


def of_sleeps(model):
    """The probability of "sleeps" next, after "cat here" and after "cats here" -> (2,)"""
    logits, _ = model.forward(np.array([[0, 1, 3], [0, 2, 3]]))
    return one_file.softmax(logits[:, -1])[:, sleeps]


by_bigram, by_transformer = of_sleeps(bigram), of_sleeps(mle)

# %% [markdown]
# From "here", the heads look at "cat" with {{at_cat[0]:.2f}} and {{at_cat[1]:.2f}}. The probability of "sleeps" next, after
# "cat here" and after "cats here": bigram {{by_bigram[0]:.2f}} and {{by_bigram[1]:.2f}}, transformer
# {{by_transformer[0]:.2f}} and {{by_transformer[1]:.2f}}.

# %% tags=["check"]
assert at_cat.max() > 0.8
assert np.isclose(*by_bigram)
assert by_transformer[0] - by_transformer[1] > 0.8

# %% [markdown]
# > **Predict.** Now $R$ alone, $-E_Q \log P$. The model can come very near to $P$. We start once from the untrained model,
# > and once from the one that maximum likelihood has brought to $P$. From which of the two does training end at $P$?

# %%
from_scratch, _ = train("reverse_ce", steps=full_or_fast(300, 120))
from_mle, _ = train("reverse_ce", start=mle, steps=full_or_fast(300, 120))
q = np.exp(mm.exact.log_prob(from_scratch, rows))  # (n,)
cat = rows[:, 1] == 1  # the sequences that begin with "cat"
cost_of_cat = -(q[cat] / q[cat].sum()) @ log_p[cat]  # −E_Q log P of these
best = int(sentence_probs(from_mle).argmax())

# %% [markdown]
# <details><summary>From both</summary>
#
# From neither. Read the last answer.
#
# </details>
# <details><summary>Only from the one that is there already</summary>
#
# It does not stay. Read the last answer.
#
# </details>
# <details><summary>From neither</summary>
#
# Right. *Untrained*, $R$ is {{loss:.0f}} nats, the price of {{loss / -world.log_p_floor:.1f}} impossible tokens. The empty
# sentence is impossible too, but it costs only one: the quickest way to pay less is to stop at once. It gets {{q[0]:.3f}},
# at {{-world.log_p_floor:.2f}} nats. There it stays: a sentence that begins with "cat" would cost {{cost_of_cat:.2f}} on
# average, continued as this model would continue it.
#
# *From* $P$, it leaves $P$: "{{SENTENCES[best]}}" gets {{sentence_probs(from_mle)[best]:.3f}}, and $R$ nears its least value,
# −log {{sentence_probs(world)[best]:.1f}} = {{-np.log(sentence_probs(world)[best]):.3f}}.
#
# {{compared_exactly({"MLE": mle, "R alone": from_scratch, "MLE, then R": from_mle})}}
#
# </details>

# %% tags=["check"]
assert q[0] > 0.9
assert cost_of_cat > -world.log_p_floor
assert sentence_probs(from_mle)[[0, 2]].sum() > 0.9  # "cat sleeps" and "cat here sleeps" tie under P

# %% [markdown]
# Neither the model nor the gradient is to blame: the gradient is exact, and this is what $R$ asks for. $R$ is linear in $Q$, so
# it is least with all mass on one of the likeliest sentences. $P$ is its minimum only together with the entropy,
# $\text{KL}(Q \| P) = R - H(Q)$. $F$ beside $R$ keeps every possible sentence alive, but the minimum of that mixture is not $P$
# either: [lesson 1](1_two_cross_entropies.ipynb).

# %% [markdown]
# ## Summary
#
# - **One rule.** From each input follow every road to the loss: multiply slopes along a road, add the roads.
# - **Shapes.** `dx` has the shape of `x`. What rows share (a weight, a bias, the row of a position or a token) gets a
#   sum over these rows.
# - **Layers.** Linear has two products. Layer norm removes the two parts it could not have passed on. Softmax gives each
#   place its own less the mean. The embedding adds where the forward looked up. Attention is products and a softmax.
# - **Models.** The backward is the forward in a mirror: copy and add change places, and each cache is a rung.
# - **Checks.** Check every layer by itself, then the model by tensor. A wrong `dx` makes what is upstream wrong; look for
#   the mistake at the wrong tensor nearest the output, or just above it.
# - **Objectives.** The backward does not care where `dlogits` came from. With a model that has memory, $F$ and the two KLs
#   have the same minimum, $P$, but not the same way to it. $R$ alone has another minimum, however good the model.

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
# 5. *(Code.)* Make GELUs and layer norms of your choice wrong, one at a time, a column for each, and mark which tensors go
#    wrong. What shape do you expect? Which tensors are wrong in every column?
# 6. *(Code and think.)* Train with the two KLs and `lr=0.03`, from seeds 0, 1 and 2. Where do they end? For the bigram it
#    mattered a lot whether one minimised $F$ or the two KLs. When does it matter for a transformer?


# %%
right_linear, right_attention = one_file.linear_backward, one_file.attention_backward


def layer_norm_forgets_the_mean(dy, cache):
    n, r, weight = cache
    dn = dy * weight
    dx = r * (dn - n * (dn * n).mean(axis=-1, keepdims=True))
    return dx, (dy * n).sum(axis=0), dy.sum(axis=0)


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

# %% tags=["fold"]
cells = [[r.name, f"{r.relative_error:.0e}", "" if r.ok else "wrong"] for r in mystery.rows[::-1]]
table(["tensor", "rel. error", ""], cells)

# %% [markdown] tags=["solution"]
# **Solution 1.** With $k_j + c$ in place of $k_j$, the score $s_{ij}$ grows by $q_i \cdot c / \sqrt{D}$, which is the
# same for all $j$. Softmax over $j$ does not see it. The output, and so the loss, do not depend on $c$. The keys' part of
# the bias is such a $c$: its gradient is zero. (The queries' bias adds $c \cdot k_j / \sqrt{D}$, which differs from key to
# key.) In formulas: the key bias gets $\sum_j dk_j$, that is $\frac{1}{\sqrt{D}} \sum_i q_i \sum_j ds_{ij}$, and each row of
# `ds` sums to zero.

# %% tags=["solution"]
dbias = np.abs(right_grads["h.1.attn.c_attn.bias"].reshape(3, -1)).max(axis=1)

# %% [markdown] tags=["solution"]
# The largest gradients of the biases: queries {{dbias[0]:.0e}}, keys {{dbias[1]:.0e}}, values {{dbias[2]:.0e}}.

# %% tags=["check"]
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
x, weight = rng.standard_normal((5, 8)), rng.standard_normal(8)
report = mm.gradcheck(rms_norm, rms_norm_backward, [x, weight], names=["x", "weight"])
report

# %% tags=["check"]
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


a, b = rng.standard_normal((2, 5, 8))
report = mm.gradcheck(swiglu, swiglu_backward, [a, b], names=["a", "b"])
report

# %% tags=["check"]
assert report.ok

# %% [markdown] tags=["solution"]
# **Solution 4.** Go down the table to the first wrong tensor, `attn.c_attn.weight` of block 1. Much below it is wrong too,
# so some `dx` is wrong: a `db` alone is ruled out. A wrong `dx` of `ln_2` would show in `attn.c_proj` of its block, that of
# GELU in `mlp.c_fc`, and both are right in block 1; in block 0 neither could reach block 1. So it is attention in block
# 1, which hands its `dx` to `c_attn`.
#
# But `c_attn.bias` is right, and so is `ln_1.bias`. If the `dy` of `c_attn` is wrong, how can its sum over the rows,
# `db`, be right? Because the error is in the keys, and by solution 1 each head's $dk_j$ sum to zero over $j$, with the
# wrong factor as without. `ln_1.bias` gets the sum over the rows of $dy\, W^\top$, which is the same $db$ times $W^\top$.

# %% tags=["solution"]
broken = broken_backward("h.1.attn", right, wrong)(*kept, n_head)["h.1.attn.c_attn.weight"]
error = np.abs(broken - right_grads["h.1.attn.c_attn.weight"]).reshape(8, 3, -1).max(axis=(0, 2))

# %% [markdown] tags=["solution"]
# The function is `{{wrong.__name__}}`. The gradient of `c_attn.weight` even says which line it is: in the columns of the
# queries, keys and values the largest errors are {{error[0]:.0e}}, {{error[1]:.0e}} and {{error[2]:.0e}}.

# %% tags=["check"]
upstream = names[: names.index("h.1.attn.c_attn.weight") + 1]
assert {row.name for row in mystery.rows if not row.ok} == {*upstream} - {"h.1.ln_1.bias"}
assert error[1] > 1e-6 > max(error[0], error[2])

# %% [markdown] tags=["solution"]
# **Solution 5.** A staircase. The nearer the input the mistake, the fewer tensors are wrong. `wte.weight` and `wpe.weight`
# are always among them: the look-ups at the very beginning are upstream of everything. The tensors of the broken layer
# norm itself stay right, because only its `dx` is wrong.

# %% tags=["solution"]
norm, gelu = suspects[0][1:], suspects[3][1:]  # each the right function and the wrong one
breaks = {
    "h.0.ln_1": norm,
    "h.0.mlp.gelu": gelu,
    "h.1.ln_1": norm,
    "h.1.ln_2": norm,
    "h.2.mlp.gelu": gelu,
    "ln_f": norm,
}


def wrong_tensors(place, right, wrong):
    """{tensor: whether its gradient is wrong} if this one layer is"""
    found = broken_backward(place, right, wrong)(*kept, n_head)
    allowed = {name: 1e-6 * np.abs(g).max() for name, g in right_grads.items()}
    return {name: np.abs(found[name] - right_grads[name]).max() > allowed[name] for name in names}


columns = {place: wrong_tensors(place, *pair) for place, pair in breaks.items()}
weights = [name for name in names[::-1] if name.endswith("weight")]
marks = {name: "  ".join("#" if c[name] else "." for c in columns.values()) for name in weights}
grid = "\n".join(f"{name:<24}{row}" for name, row in marks.items())

# %% [markdown] tags=["solution"]
# The weights, from the output down to the input; `#` is wrong. The columns, from left to right:
# {{", ".join(f"`{place}`" for place in breaks)}}.
#
# ```text
# {{grid}}
# ```

# %% tags=["check"]
counts_of_wrong = [sum(column.values()) for column in columns.values()]
assert all(all([*column.values()][:n]) for column, n in zip(columns.values(), counts_of_wrong))
assert (np.diff(counts_of_wrong) > 0).all()

# %% [markdown] tags=["solution"]
# **Solution 6.** Look at what each run gives to "cats here sleep", and how much its heads look from "here" at the noun.

# %% tags=["solution"]
seeds = range(full_or_fast(3, 1))
ends = {f"transformer, lr=0.03, seed {seed}": train("two_kls", lr=0.03, seed=seed)[0] for seed in seeds}
ends["transformer, lr=0.01, seed 0"] = two_kls


def at_noun(model):
    """How much the head that looks more looks from "here" at the noun"""
    _, cache = model.forward(np.array([[0, 1, 3], [0, 2, 3]]))  # "cat here", "cats here"
    return cache.hidden.blocks[0].attention.probs[:, :, 1, 2].max()


def kl_to(model):
    return float(mm.exact.measure(model, world, MAX_LEN)["forward_kl"])


bigram_two_kls = optimal_table("two_kls", steps=1000)
looked = {label: f"{at_noun(model):.3f}" for label, model in ends.items()}
ends_and_bigram = ends | {"bigram, two KLs": bigram_two_kls}
cells = [
    [label, f"{sentence_probs(model)[3]:.3f}", f"{kl_to(model):.3f}", looked.get(label, "")]
    for label, model in ends_and_bigram.items()
]
lost_it = sum(kl_to(model) > 1 for model in ends.values())
of_bigram = float(mm.exact.measure(bigram_two_kls, world, MAX_LEN)["validity"])

# %% [markdown] tags=["solution"]
# {{as_markdown(["two KLs", "Q(cats here sleep)", "KL(P‖Q)", "looks at the noun"], cells)}}
#
# Of {{len(ends) - 1}} runs with `lr=0.03`, {{lost_it}} end where the bigram ends under the two KLs. They give up "cats here
# sleep" for the sake of validity ({{of_bigram:.3f}} for the bigram).

# %% tags=["check"]
assert all((kl_to(model) > 1) == (at_noun(model) < 0.5) for model in ends.values())
assert kl_to(two_kls) < 1

# %% [markdown] tags=["solution"]
# A run that ends there has all the memory it needs and does not use it. Its heads look elsewhere with probabilities so near
# 0 and 1 that softmax's slopes are next to nothing, and so hardly any gradient tells them to look at the noun.
#
# In general, objectives with the same minimum $Q = P$ matter when the model does not reach it: because it cannot represent
# $P$, because data are few, or because training ends elsewhere. So a comparison of objectives says as much about what stopped
# the model as about the objectives, and one run of each says little.

# %% [markdown]
# Next: [lesson 8](8_experiments_read_sceptically.ipynb), in which all this is trained, and the results are doubted. To
# read the code itself, start with [one_file.py](one_file.py).
