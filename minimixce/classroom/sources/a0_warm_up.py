# %% [markdown]
# # A0 Warm-up
#
# Three tasks, 10 points, about an hour. The [handout](README.md) says what each function must do
# and how it is checked. Read lesson 1 and the first half of lesson 3 first.

# %%
import numpy as np

# %% [markdown]
# ## 0.1 A numerical gradient


# %%
def numerical_gradient(f, x, h):
    """Central differences (f(x + h) − f(x − h)) / 2h in every coordinate of x -> like x.

    f(array like x) -> a number. x is left as it was.
    """
    ### BEGIN SOLUTION
    gradient = np.zeros_like(x)
    for k in np.ndindex(x.shape):
        up = x.copy()
        down = x.copy()
        up[k] += h
        down[k] -= h
        gradient[k] = (f(up) - f(down)) / (2 * h)
    return gradient
    ### END SOLUTION


# %% [markdown]
# ## 0.2 Softmax


# %%
def softmax(z):
    """Softmax over the last axis. z (…,V) -> (…,V), of z's dtype. Finite for logits of ±1000."""
    ### BEGIN SOLUTION
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
    ### END SOLUTION


# %% [markdown]
# ## 0.3 The cross-entropy


# %%
def cross_entropy_forward(logits, targets):
    """The mean of −log q over targets. logits (N,V), targets (N,), −1 ignored -> loss (0-d), cache.

    With no target at all the loss is 0.
    """
    ### BEGIN SOLUTION
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    is_target = targets >= 0
    row = np.arange(len(targets))
    column = np.where(is_target, targets, 0)
    count = max(int(is_target.sum()), 1)
    log_q = log_p[row, column]
    loss = -np.where(is_target, log_q, 0).sum() / count
    return loss, (log_p, is_target, row, column, count)
    ### END SOLUTION


def cross_entropy_backward(dy, cache):
    """dy, a number: the derivative of what follows in the loss -> (dlogits (N,V),)."""
    ### BEGIN SOLUTION
    log_p, is_target, row, column, count = cache
    dlogits = np.exp(log_p)
    dlogits[row, column] -= 1
    dlogits[~is_target] = 0
    dlogits = dlogits / count
    return ((dy * dlogits).astype(log_p.dtype),)
    ### END SOLUTION
