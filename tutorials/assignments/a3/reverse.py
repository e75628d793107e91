# %% [markdown]
# # A3 The reverse direction
#
# Eight tasks and a bonus, 80 + 6 points, eight to ten hours. The [handout](README.md) says what
# each function must do and how it is checked. Read lesson 4 first, lesson 5 for 3.7 and the bonus.
#
# Token 0 is the boundary: it starts every sequence and ends it. A row of `rows` (n,T+1) is the
# boundary, ordinary tokens, the boundary, then −1. After T−1 ordinary tokens the boundary is
# forced: it costs nothing, adds nothing to log Q, and is no target. Q is a bigram table (V,V): row
# the last token, column the next one. `cost` (V,V) is −log P of the same, floored.

# %%
import itertools

import numpy as np

# %% [markdown]
# ## 3.1 The probability of a sequence


# %%
def log_prob(log_q, rows):
    """log Q of each sequence. log_q (V,V), rows (n,T+1) -> (n,), of log_q's dtype."""
    # YOUR CODE HERE
    raise NotImplementedError()


# %% [markdown]
# ## 3.2 All sequences


# %%
def enumerate_sequences(V, T):
    """Every sequence of at most T−1 ordinary tokens -> rows (count,T+1) integers, in any order."""
    # YOUR CODE HERE
    raise NotImplementedError()


# %% [markdown]
# ## 3.3 The reverse cross-entropy by listing


# %%
def exact_reverse_ce(logits, cost, T):
    """R = Σ Q(x) C(x) over all sequences, and its gradient -> R (0-d), dlogits (V,V).

    logits (V,V), Q their softmax over each row; cost (V,V); C(x) the cost of all tokens of x.
    """
    # YOUR CODE HERE
    raise NotImplementedError()


# %% [markdown]
# ## 3.4 Costs to go


# %%
def cost_to_go(Q, cost, T):
    """What is still to be paid on average -> U (T+1,V), U[t,s] after t tokens, the last being s.

    Q, cost (V,V). After the boundary, and from t = T−1 on, nothing is to be paid. U[0,0] is R.
    """
    # YOUR CODE HERE
    raise NotImplementedError()


# %% [markdown]
# ## 3.5 The gradient by costs to go


# %%
def reverse_grad(Q, cost, T):
    """The gradient of R in the logits of Q, by the costs to go -> dlogits (V,V)."""
    # YOUR CODE HERE
    raise NotImplementedError()


# %% [markdown]
# ## 3.6 The gradient of any model


# %%
def model_grad(logits_of, pull_back, world, T):
    """R and its gradient in a model's parameters, by listing -> R (0-d), grads.

    logits_of(inputs): inputs (n,T−1) -> logits (n,T−1,V); pull_back(dlogits) -> grads, for the
    inputs that logits_of was last called with. world: vocab_size; batch(rows) -> inputs, targets
    (n,T−1), −1 where nothing is drawn; token_costs(rows) -> −log P of each target, (n,T−1), 0
    where there is none.
    """
    # YOUR CODE HERE
    raise NotImplementedError()


# %% [markdown]
# ## 3.7 Weights from samples


# %%
def reinforce_weights(costs):
    """What log q of each sampled token is weighted by, with the cost to go -> like costs.

    costs (n,L): of each token of n samples of Q, 0 where there is none. The estimate of the
    gradient is Σ weight · ∇log q over all tokens of all samples, so the weights include 1/n.
    """
    # YOUR CODE HERE
    raise NotImplementedError()


def rloo_weights(costs):
    """The same with the cost of the whole sample minus the mean of the others -> like costs.

    At least two samples. Every token of a sample has the same weight.
    """
    # YOUR CODE HERE
    raise NotImplementedError()


# %% [markdown]
# ## 3.9 Bonus: Gumbel-softmax
#
# With $g_v = -\log(-\log u_v)$, u uniform in (0, 1), the token with the largest $z_v + g_v$ is a
# sample of softmax(z). That choice has no derivative, so the backward takes the one of
# $\mathrm{softmax}((z + g) / \tau)$ with the same noise g: straight through.


# %%
def gumbel_softmax_forward(logits, draw, tau, hard):
    """One sample a row -> y (n,V), cache. logits (n,V); tau > 0.

    draw() -> (n,V) uniform numbers in (0, 1), others at every call. y is the soft sample,
    softmax((logits + g) / tau), or where `hard` is true the one-hot of its largest entry. Finite
    for logits of ±1000.
    """
    # YOUR CODE HERE
    raise NotImplementedError()


def gumbel_softmax_backward(dy, cache):
    """dy (n,V) -> (dlogits (n,V),), through the soft sample, also where y is hard."""
    # YOUR CODE HERE
    raise NotImplementedError()
