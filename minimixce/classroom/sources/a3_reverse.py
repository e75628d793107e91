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
    ### BEGIN SOLUTION
    total = np.zeros(len(rows), log_q.dtype)
    for t in range(rows.shape[1] - 2):
        now, then = rows[:, t], rows[:, t + 1]
        total += np.where(then >= 0, log_q[now, then], 0)
    return total
    ### END SOLUTION


# %% [markdown]
# ## 3.2 All sequences


# %%
def enumerate_sequences(V, T):
    """Every sequence of at most T−1 ordinary tokens -> rows (count,T+1) integers, in any order."""
    ### BEGIN SOLUTION
    rows = []
    for length in range(T):
        for tokens in itertools.product(range(1, V), repeat=length):
            padding = (-1,) * (T - 1 - length)
            rows.append((0, *tokens, 0, *padding))
    return np.array(rows)
    ### END SOLUTION


# %% [markdown]
# ## 3.3 The reverse cross-entropy by listing


# %%
def exact_reverse_ce(logits, cost, T):
    """R = Σ Q(x) C(x) over all sequences, and its gradient -> R (0-d), dlogits (V,V).

    logits (V,V), Q their softmax over each row; cost (V,V); C(x) the cost of all tokens of x.
    """
    ### BEGIN SOLUTION
    log_q = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    Q = np.exp(log_q)
    rows = enumerate_sequences(len(logits), T)
    probability = np.exp(log_prob(log_q, rows))
    total = -log_prob(-cost, rows)
    R = (probability * total).sum()
    weight = probability * total
    dlogits = np.zeros_like(logits)
    for t in range(rows.shape[1] - 2):
        now, then = rows[:, t], rows[:, t + 1]
        is_target = then >= 0
        np.add.at(dlogits, (now[is_target], then[is_target]), weight[is_target])
        np.add.at(dlogits, now[is_target], -weight[is_target][:, None] * Q[now[is_target]])
    return R, dlogits
    ### END SOLUTION


# %% [markdown]
# ## 3.4 Costs to go


# %%
def cost_to_go(Q, cost, T):
    """What is still to be paid on average -> U (T+1,V), U[t,s] after t tokens, the last being s.

    Q, cost (V,V). After the boundary, and from t = T−1 on, nothing is to be paid. U[0,0] is R.
    """
    ### BEGIN SOLUTION
    U = np.zeros((T + 1, len(Q)), Q.dtype)
    for t in reversed(range(T - 1)):
        then = U[t + 1]
        U[t] = (Q * (cost + then)).sum(axis=1)
        if t > 0:
            U[t, 0] = 0
    return U
    ### END SOLUTION


# %% [markdown]
# ## 3.5 The gradient by costs to go


# %%
def reverse_grad(Q, cost, T):
    """The gradient of R in the logits of Q, by the costs to go -> dlogits (V,V)."""
    ### BEGIN SOLUTION
    U = cost_to_go(Q, cost, T)
    dlogits = np.zeros_like(Q)
    reach = np.zeros(len(Q), Q.dtype)
    reach[0] = 1
    for t in range(T - 1):
        advantage = cost + U[t + 1] - U[t][:, None]
        dlogits += reach[:, None] * Q * advantage
        reach = reach @ Q
        reach[0] = 0
    return dlogits
    ### END SOLUTION


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
    ### BEGIN SOLUTION
    rows = enumerate_sequences(world.vocab_size, T)
    inputs, targets = world.batch(rows)
    is_target = targets >= 0
    column = np.where(is_target, targets, 0)[..., None]
    logits = logits_of(inputs)
    log_q_next = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    log_q = np.take_along_axis(log_q_next, column, axis=-1)[..., 0]
    probability = np.exp(np.where(is_target, log_q, 0).sum(axis=1))
    total = world.token_costs(rows).sum(axis=1)
    R = (probability * total).sum()
    weight = np.where(is_target, (probability * total)[:, None], 0)
    onehot = column == np.arange(world.vocab_size)
    dlogits = weight[..., None] * (onehot - np.exp(log_q_next))
    return R, pull_back(dlogits)
    ### END SOLUTION


# %% [markdown]
# ## 3.7 Weights from samples


# %%
def reinforce_weights(costs):
    """What log q of each sampled token is weighted by, with the cost to go -> like costs.

    costs (n,L): of each token of n samples of Q, 0 where there is none. The estimate of the
    gradient is Σ weight · ∇log q over all tokens of all samples, so the weights include 1/n.
    """
    ### BEGIN SOLUTION
    n = len(costs)
    to_go = costs[:, ::-1].cumsum(axis=1)[:, ::-1]
    return to_go / n
    ### END SOLUTION


def rloo_weights(costs):
    """The same with the cost of the whole sample minus the mean of the others -> like costs.

    At least two samples. Every token of a sample has the same weight.
    """
    ### BEGIN SOLUTION
    n = len(costs)
    total = costs.sum(axis=1)
    baseline = (total.sum() - total) / (n - 1)
    weight = (total - baseline) / n
    return np.repeat(weight[:, None], costs.shape[1], axis=1)
    ### END SOLUTION


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
    ### BEGIN SOLUTION
    u = draw()
    g = -np.log(-np.log(u))
    z = (logits + g) / tau
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    soft = e / e.sum(axis=-1, keepdims=True)
    onehot = z.argmax(axis=-1)[:, None] == np.arange(z.shape[-1])
    y = onehot.astype(soft.dtype) if hard else soft
    return y, (soft, tau)
    ### END SOLUTION


def gumbel_softmax_backward(dy, cache):
    """dy (n,V) -> (dlogits (n,V),), through the soft sample, also where y is hard."""
    ### BEGIN SOLUTION
    soft, tau = cache
    total = (soft * dy).sum(axis=-1, keepdims=True)
    dlogits = soft * (dy - total) / tau
    return (dlogits,)
    ### END SOLUTION
