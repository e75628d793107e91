# %% [markdown]
# # A1 Objectives
#
# Eight tasks, 50 points, about five hours. The [handout](README.md) says what each function must do
# and how it is checked. Read lessons 1 and 3 first, lesson 6 on the way.

# %%
import math

import numpy as np

# %% [markdown]
# ## 1.1 log-softmax


# %%
def log_softmax(z):
    """z (…,V) -> log softmax over the last axis, (…,V), of z's dtype.

    Finite for logits of ±1000. Adding a constant to a row changes nothing.
    """
    # YOUR CODE HERE
    raise NotImplementedError()


# %% [markdown]
# ## 1.2 One pass for every objective


# %%
def token_loss(logits, targets, f_and_w, normalizer=None):
    """The mean of f over targets, and its gradient -> loss (0-d), dlogits like logits.

    logits (…,V); targets (…) integers, −1 ignored; f_and_w(log_q) -> f, w, all (N,), from the log
    probabilities of the targets. dlogits is w (softmax − onehot) / N, N the number of targets, or
    `normalizer`. With no target at all both are 0.
    """
    # YOUR CODE HERE
    raise NotImplementedError()


# %% [markdown]
# ## 1.3 Maximum likelihood


# %%
def mle():
    """-> f_and_w(log_q) -> f = −log q and its weight w = −q f′(q), both like log_q."""

    # YOUR CODE HERE
    raise NotImplementedError()


# %% [markdown]
# ## 1.4 MixCE


# %%
def mixce(eta):
    """-> f_and_w(log_q) -> f = −η log q − (1−η) q and its weight, both like log_q."""

    # YOUR CODE HERE
    raise NotImplementedError()


# %% [markdown]
# ## 1.5 The surrogate, and what its gradient is the derivative of


# %%
def surrogate(eta):
    """-> f_and_w(log_q) -> f = −(η + (1−η) sg[q]) log q and its weight; sg[q] is held constant."""

    # YOUR CODE HERE
    raise NotImplementedError()


def frozen(z, z0, targets, eta):
    """The surrogate's value at logits z, with weights taken at z0: a mean over targets -> 0-d.

    z, z0 (…,V); targets (…) integers, −1 ignored.
    """
    # YOUR CODE HERE
    raise NotImplementedError()


# %% [markdown]
# ## 1.6 TaiLr


# %%
def tailr(gamma):
    """-> f_and_w(log_q) -> f = −log(γ + (1−γ) q) / (1−γ) and its weight, both like log_q.

    γ = 0 is MLE, also at log q = −800; γ = 1 is the limit f = 1 − q; accurate in between.
    """
    # YOUR CODE HERE
    raise NotImplementedError()


# %% [markdown]
# ## 1.7 An objective of your own


# %%
def power(a):
    """-> f_and_w(log_q) -> f = −q^a / a and its weight, both like log_q. 0 < a < 1."""

    # YOUR CODE HERE
    raise NotImplementedError()


def fixed_point(p, a):
    """Where a free q ends up under power(a), p (V,) being the truth -> q (V,), summing to one."""
    # YOUR CODE HERE
    raise NotImplementedError()
