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
    # YOUR CODE HERE
    raise NotImplementedError()


# %% [markdown]
# ## 0.2 Softmax


# %%
def softmax(z):
    """Softmax over the last axis. z (…,V) -> (…,V), of z's dtype. Finite for logits of ±1000."""
    # YOUR CODE HERE
    raise NotImplementedError()


# %% [markdown]
# ## 0.3 The cross-entropy


# %%
def cross_entropy_forward(logits, targets):
    """The mean of −log q over targets. logits (N,V), targets (N,), −1 ignored -> loss (0-d), cache.

    With no target at all the loss is 0.
    """
    # YOUR CODE HERE
    raise NotImplementedError()


def cross_entropy_backward(dy, cache):
    """dy, a number: the derivative of what follows in the loss -> (dlogits (N,V),)."""
    # YOUR CODE HERE
    raise NotImplementedError()
