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
    # YOUR CODE HERE
    raise NotImplementedError()


def linear_backward(dy, cache):
    """dy (…,O) -> dx (…,I), dW (I,O), db (O,)."""
    # YOUR CODE HERE
    raise NotImplementedError()


# %% [markdown]
# ## 2.2 Embeddings


# %%
def embedding_forward(ids, W):
    """y = the rows of W that ids name. ids (B,T) integers, W (V,C) -> y (B,T,C), cache."""
    # YOUR CODE HERE
    raise NotImplementedError()


def embedding_backward(dy, cache):
    """dy (B,T,C) -> (dW (V,C),). A row that no id names has gradient exactly 0."""
    # YOUR CODE HERE
    raise NotImplementedError()


def position_forward(x, W):
    """Row t of W is added at position t. x (B,T,C), W (block_size,C) -> y (B,T,C), cache."""
    # YOUR CODE HERE
    raise NotImplementedError()


def position_backward(dy, cache):
    """dy (B,T,C) -> dx (B,T,C), dW (block_size,C)."""
    # YOUR CODE HERE
    raise NotImplementedError()


# %% [markdown]
# ## 2.3 GELU
#
# In the form with tanh: $y = \frac{1}{2} x (1 + \tanh(\sqrt{2/\pi} (x + 0.044715 x^3)))$.


# %%
def activation_forward(x):
    """x of any shape -> y like x, cache. Finite at ±50."""
    # YOUR CODE HERE
    raise NotImplementedError()


def activation_backward(dy, cache):
    """dy like x -> (dx,)."""
    # YOUR CODE HERE
    raise NotImplementedError()


# %% [markdown]
# ## 2.4 Softmax


# %%
def softmax_forward(x, axis):
    """Softmax over one axis. x of any shape -> y like x, cache. Finite at ±1000."""
    # YOUR CODE HERE
    raise NotImplementedError()


def softmax_backward(dy, cache):
    """dy like x -> (dx,)."""
    # YOUR CODE HERE
    raise NotImplementedError()


# %% [markdown]
# ## 2.5 Layer norm
#
# Every row of x to mean 0 and variance 1 (the mean of squares, plus ε = `EPSILON` under the root),
# then times `weight` plus `bias`.


# %%
def norm_forward(x, weight, bias):
    """x (…,C), weight (C,), bias (C,) -> y (…,C), cache."""
    # YOUR CODE HERE
    raise NotImplementedError()


def norm_backward(dy, cache):
    """dy (…,C) -> dx (…,C), dweight (C,), dbias (C,)."""
    # YOUR CODE HERE
    raise NotImplementedError()


# %% [markdown]
# ## 2.6 Who sees whom: causal
#
# Query i sees the keys j ≤ i.


# %%
def visible(T):
    """-> (T,T) bool, True where query i (row) may see key j (column)."""
    # YOUR CODE HERE
    raise NotImplementedError()


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
    # YOUR CODE HERE
    raise NotImplementedError()


def attention_backward(dy, cache):
    """dy (B,T,C) -> (dqkv (B,T,3C),)."""
    # YOUR CODE HERE
    raise NotImplementedError()


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
    # YOUR CODE HERE
    raise NotImplementedError()


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

    # YOUR CODE HERE
    raise NotImplementedError()


def block_backward(dy, cache):
    """dy (B,T,C) -> dx (B,T,C), grads {name: like the parameter}."""
    # YOUR CODE HERE
    raise NotImplementedError()
