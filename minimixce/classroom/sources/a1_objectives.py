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
    ### BEGIN SOLUTION
    shifted = z - z.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    ### END SOLUTION


# %% [markdown]
# ## 1.2 One pass for every objective


# %%
def token_loss(logits, targets, f_and_w, normalizer=None):
    """The mean of f over targets, and its gradient -> loss (0-d), dlogits like logits.

    logits (…,V); targets (…) integers, −1 ignored; f_and_w(log_q) -> f, w, all (N,), from the log
    probabilities of the targets. dlogits is w (softmax − onehot) / N, N the number of targets, or
    `normalizer`. With no target at all both are 0.
    """
    ### BEGIN SOLUTION
    z = logits.reshape(-1, logits.shape[-1])
    y = targets.reshape(-1)
    is_target = y >= 0
    row = np.arange(len(y))
    column = np.where(is_target, y, 0)
    log_p = log_softmax(z)
    log_q = log_p[row, column]
    f, w = f_and_w(log_q)
    n = max(int(is_target.sum()), 1) if normalizer is None else normalizer
    f = np.where(is_target, f, 0)
    w = np.where(is_target, w, 0)
    loss = f.sum() / n
    dlogits = np.exp(log_p)
    dlogits[row, column] -= 1
    dlogits = dlogits * (w / n)[:, None]
    return loss, dlogits.reshape(logits.shape)
    ### END SOLUTION


# %% [markdown]
# ## 1.3 Maximum likelihood


# %%
def mle():
    """-> f_and_w(log_q) -> f = −log q and its weight w = −q f′(q), both like log_q."""

    ### BEGIN SOLUTION
    def f_and_w(log_q):
        return -log_q, np.ones_like(log_q)

    return f_and_w
    ### END SOLUTION


# %% [markdown]
# ## 1.4 MixCE


# %%
def mixce(eta):
    """-> f_and_w(log_q) -> f = −η log q − (1−η) q and its weight, both like log_q."""

    ### BEGIN SOLUTION
    def f_and_w(log_q):
        q = np.exp(log_q)
        f = -eta * log_q - (1 - eta) * q
        w = eta + (1 - eta) * q
        return f, w

    return f_and_w
    ### END SOLUTION


# %% [markdown]
# ## 1.5 The surrogate, and what its gradient is the derivative of


# %%
def surrogate(eta):
    """-> f_and_w(log_q) -> f = −(η + (1−η) sg[q]) log q and its weight; sg[q] is held constant."""

    ### BEGIN SOLUTION
    def f_and_w(log_q):
        weight = eta + (1 - eta) * np.exp(log_q)
        return -weight * log_q, weight

    return f_and_w
    ### END SOLUTION


def frozen(z, z0, targets, eta):
    """The surrogate's value at logits z, with weights taken at z0: a mean over targets -> 0-d.

    z, z0 (…,V); targets (…) integers, −1 ignored.
    """
    ### BEGIN SOLUTION
    is_target = targets >= 0
    column = np.where(is_target, targets, 0)[..., None]
    log_q = np.take_along_axis(log_softmax(z), column, axis=-1)[..., 0]
    log_q0 = np.take_along_axis(log_softmax(z0), column, axis=-1)[..., 0]
    weight = eta + (1 - eta) * np.exp(log_q0)
    values = np.where(is_target, -weight * log_q, 0)
    return values.sum() / max(int(is_target.sum()), 1)
    ### END SOLUTION


# %% [markdown]
# ## 1.6 TaiLr


# %%
def tailr(gamma):
    """-> f_and_w(log_q) -> f = −log(γ + (1−γ) q) / (1−γ) and its weight, both like log_q.

    γ = 0 is MLE, also at log q = −800; γ = 1 is the limit f = 1 − q; accurate in between.
    """
    ### BEGIN SOLUTION
    log_gamma = math.log(gamma) if gamma > 0 else -math.inf

    def f_and_w(log_q):
        if gamma > 0.5:
            log_mix = np.log1p((1 - gamma) * np.expm1(log_q))
        else:
            log_mix = np.logaddexp(log_gamma, math.log1p(-gamma) + log_q)
        w = np.exp(log_q - log_mix)
        f = -log_mix / (1 - gamma) if gamma < 1 else -np.expm1(log_q)
        return f, w

    return f_and_w
    ### END SOLUTION


# %% [markdown]
# ## 1.7 An objective of your own


# %%
def power(a):
    """-> f_and_w(log_q) -> f = −q^a / a and its weight, both like log_q. 0 < a < 1."""

    ### BEGIN SOLUTION
    def f_and_w(log_q):
        w = np.exp(a * log_q)
        return -w / a, w

    return f_and_w
    ### END SOLUTION


def fixed_point(p, a):
    """Where a free q ends up under power(a), p (V,) being the truth -> q (V,), summing to one."""
    ### BEGIN SOLUTION
    with np.errstate(divide="ignore"):
        log_p = np.log(p)
    unnormalised = np.exp((log_p - log_p.max()) / (1 - a))
    return unnormalised / unnormalised.sum()
    ### END SOLUTION
