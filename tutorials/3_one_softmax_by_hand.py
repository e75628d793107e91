# %% [markdown]
# # 3 One softmax by hand
#
# *Prose: 25 minutes; with the code: 45; with exercises: 2½ hours. Computing: 10 seconds. Before this: [lesson
# 1](1_two_cross_entropies.ipynb), and [lesson 0](0_a_derivative_by_trying.ipynb) or the chain rule; also that $e^s$ is
# its own derivative and $\log s$ has the derivative $1/s$. You need not have written a backward pass.*
#
# **At the end you will know**
#
# - why the gradient of $-\log q$ in the logits is *softmax minus one-hot*, and how to write it down yourself;
# - how a gradient check works, and what it says when a backward is wrong;
# - that MLE, MixCE and TaiLr are one gradient times three weights $w(q)$, and what each of them is after;
# - what a stop gradient changes and what it does not.

# %% tags=["setup"]
import numpy as np

import minimixce as mm
from minimixce.experiments.fixed_points import fixed_point, mixce_q, tailr_q
from minimixce.lessons import (
    MAX_LEN,
    SENTENCES,
    as_markdown,
    full_or_fast,
    sentence_probs,
    source,
    table,
    weights,
)

# %% [markdown]
# ## From three numbers to a loss
#
# A language model ends in a row of numbers, one for each token that could come next: the
# *[logits](glossary.md#logits)* $z$. They may be any numbers. *Softmax* makes probabilities of them: exponentiate, so
# that all are positive, then divide by the sum.
#
# $$q_v = \frac{e^{z_v}}{\sum_u e^{z_u}}$$
#
# Then the data say which token came. Call it $x$. The model's loss is $-\log q_x$: zero if it was sure of $x$,
# large if it was surprised. (Without an index $q$ is the whole row; only where a loss or a weight is a function of
# $q$, it is the probability of the token that came.)
#
# Let us take three tokens, and logits that are easy to exponentiate.

# %%
z = np.log([2.0, 1.0, 1.0])  # (V,) with V = 3
q = np.exp(z) / np.exp(z).sum()
x = 0  # the token that came

# %% [markdown]
# The exponentials are 2, 1 and 1, their sum is 4, so $q$ = ({{q[0]:.2f}}, {{q[1]:.2f}}, {{q[2]:.2f}}) and $-\log q_x$ =
# {{-np.log(q[x]):.3f}}.

# %% [markdown]
# ## Which way is down?
#
# To train is to move the logits so that the loss falls. For that we need to know, for each logit, how fast the loss
# grows when this logit grows: the derivative $\partial L / \partial z_v$. The three together are the *gradient*.
#
# The honest way to find a derivative is to try: add a little to one logit, take a little off, and see what the loss
# does.


# %%
def loss_of(z):
    """z (V,) -> −log q of token x"""
    return -np.log(np.exp(z[x]) / np.exp(z).sum())


h, tried = 1e-5, np.zeros(3)
for v in range(3):
    step = h * (np.arange(3) == v)  # h at place v, 0 elsewhere
    tried[v] = (loss_of(z + step) - loss_of(z - step)) / (2 * h)

# %% [markdown]
# Tried: ({{tried[0]:.4f}}, {{tried[1]:.4f}}, {{tried[2]:.4f}}). Compare with $q$ above before you read on.

# %% [markdown]
# Two of the numbers are the probabilities themselves. The first is a probability minus one. That is no accident.
#
# Take the logarithm of the softmax first; it turns the fraction into a difference:
#
# $$-\log q_x = -z_x + \log \sum_u e^{z_u}$$
#
# The first term depends on $z_x$ alone: its derivative in $z_v$ is $-1$ if $v = x$ and $0$ otherwise. The second
# depends on every logit. By the chain rule, the derivative of $\log S$ is one over $S$ times the derivative of $S$,
# and in $S = \sum_u e^{z_u}$ only one term contains $z_v$:
#
# $$\frac{\partial}{\partial z_v} \log \sum_u e^{z_u} = \frac{e^{z_v}}{\sum_u e^{z_u}} = q_v$$

# %% [markdown]
# Together, with $\mathrm{onehot}(x)$ for the row that is $1$ at place $x$ and $0$ elsewhere:
#
# $$\frac{\partial (-\log q_x)}{\partial z} = \mathrm{softmax}(z) - \mathrm{onehot}(x)$$
#
# Read it as forces. Descent goes against the gradient, so the token that came is pulled up by what it still lacks,
# $1 - q_x$, and every other token is pushed down by the probability it holds. The forces add up to zero: adding the
# same number to all logits would change nothing. And a model that is sure and right feels no force.

# %%
onehot = np.eye(3)[x]
derived = q - onehot

# %% tags=["fold"]
table(
    ["token", "q", "onehot", "softmax − onehot", "tried"],
    [[v, f"{q[v]:.2f}", f"{onehot[v]:.0f}", f"{derived[v]:.4f}", f"{tried[v]:.4f}"] for v in range(3)],
)

# %% tags=["check"]
assert np.allclose(derived, tried, atol=1e-8)
assert abs(derived.sum()) < 1e-12

# %% [markdown]
# ## A forward and its backward
#
# Everything in this package is a pair of functions. The *forward* computes a result and keeps what its backward will
# need, the *[cache](glossary.md#cache)*. The *backward* is told how fast the loss grows with the result, `dy`, and
# answers how fast it grows with each input. Here the result is the loss itself, so `dy` is a single number, 1 in
# training, and the answer is `dy` times what we derived.


# %%
def nll_forward(z):
    """z (V,) -> −log q of token x, and what backward needs"""
    # subtracting the maximum changes no probability, and nothing overflows
    e = np.exp(z - z.max())
    q = e / e.sum()
    return -np.log(q[x]), q


def nll_backward(dy, q):
    """dy, a number -> dz (V,), in a tuple with one entry for each input of the forward"""
    dz = dy * q
    dz[x] -= dy
    return (dz,)


# %% [markdown]
# `mm.gradcheck` does what we did by trying, with a finer formula, for inputs of any shape and at a random `dy`: it
# runs the forward with each input nudged both ways and compares the slopes with what the backward says. Its *relative
# error* is the difference of the two slopes over the larger one, at the coordinate where that is largest. From here
# on it is our referee.

# %%
report = mm.gradcheck(nll_forward, nll_backward, [z], names=["z"])
report

# %% tags=["check"]
assert report.ok

# %% [markdown]
# ## Break it, and see it fail
#
# A check that never fails is worth nothing. So let us make a mistake on purpose, one that is easily made: we forget
# to subtract the one-hot.
#
# > **Predict.** At which token will the check find the largest disagreement, and how many times `dy` is it?

# %%
report = mm.gradcheck(nll_forward, lambda dy, q: (dy * q,), [z], names=["z"])
wrong = report.worst

# %% [markdown]
# <details><summary>At all tokens alike</summary>
#
# Only one entry of the gradient has a one-hot to lose. Look under the other answer.
#
# </details>
# <details><summary>At the token that came, once `dy`</summary>
#
# Yes, at token {{wrong.worst[0]}}: only its entry misses something, `dy` itself. Backward and numbers differ by
# {{abs(wrong.analytic - wrong.numeric):.3f}} there, which is what the check drew for `dy`; the relative error is
# {{report.max_relative_error:.1f}} where {{report.tolerance:.0e}} is allowed. The check prints:
#
# ```text
# {{report}}
# ```
#
# </details>

# %% tags=["check"]
assert not report.ok
assert wrong.worst == (x,)

# %% [markdown]
# ## The softmax alone
#
# Later, in attention, a softmax stands in the middle of a model, and its backward gets a whole row `dprobs`: how
# fast the loss grows with each probability. Raising $z_j$ raises $q_j$ and, since all must sum to one, lowers the
# others. By how much, we know: $\log q_i$ has the derivative $1[i = j] - q_j$ in $z_j$, where $1[i = j]$ is $1$ if
# $i = j$, else $0$; and $q_i$ changes $q_i$ times as much as its logarithm:
#
# $$\frac{\partial q_i}{\partial z_j} = q_i \, (1[i = j] - q_j)$$
#
# Write $dq_i$ and $dz_j$ for the derivatives of the loss in $q_i$ and $z_j$. The chain rule adds up the ways from
# $z_j$ to the loss, one through each $q_i$:
#
# $$dz_j = \sum_i dq_i \, q_i \, (1[i = j] - q_j)$$
#
# Only $i = j$ has the $1$, so
#
# $$dz_j = q_j \, (dq_j - \sum_i q_i \, dq_i)$$
#
# Here are the package's own lines (`xp` is NumPy, or CuPy on a GPU; it follows the arrays):

# %%
source(mm.layers.softmax_forward, mm.layers.softmax_backward)

# %% [markdown]
# Our loss is $-\log$ of one entry of $q$, so its `dprobs` is $-1/q_x$ at $x$ and $0$ elsewhere. Put through
# `softmax_backward`, that must give softmax minus one-hot again. It does, and the two are one chain rule cut at
# different places.


# %%
def softmax(z):
    return mm.layers.softmax_forward(z)[0]


probs, cache = mm.layers.softmax_forward(z)
dprobs = np.zeros(3)
dprobs[x] = -1 / probs[x]
dz = mm.layers.softmax_backward(dprobs, cache)

# %% [markdown]
# Through the softmax: ({{dz[0]:.4f}}, {{dz[1]:.4f}}, {{dz[2]:.4f}}).

# %% tags=["check"]
assert np.allclose(dz, derived)

# %% [markdown]
# ## The context "here"
#
# Now to the world of lesson 1. A bigram model knows only the last word. After "here" it has one row of logits, but
# the truth depends on a word that it has forgotten: after "cat here" comes *sleeps*, after "cats here" comes
# *sleep*. What it sees of the data are the counts after "here".

# %%
world = mm.worlds.agreement()
here, sleeps, sleep = (world.words.index(word) for word in ("here", "sleeps", "sleep"))
# (V,V): how often v follows u in a sentence, in expectation
counts = mm.exact.bigram_counts(world, MAX_LEN)
p = counts[here] / counts[here].sum()  # (V,)

# %% [markdown]
# After "here" the data continue with *sleeps* ({{p[sleeps]:.2f}}) or *sleep* ({{p[sleep]:.2f}}), and nothing else.

# %% tags=["check"]
assert np.isclose(p[sleeps] + p[sleep], 1)

# %% [markdown]
# The expected gradient in this row is an average over what comes,
# $\sum_v p_v \, (\mathrm{softmax} - \mathrm{onehot}(v)) = q - p$. It vanishes when $q = p$: **maximum likelihood
# counts**. Let descent find that on its own.

# %%
z_here = np.zeros(len(p))  # the uniform start
for _ in range(full_or_fast(4000, 1500)):
    z_here = z_here - (softmax(z_here) - p)
q_here = softmax(z_here)

# %% [markdown]
# The row ends at *sleeps* {{q_here[sleeps]:.3f}}, *sleep* {{q_here[sleep]:.3f}}. So after "cat here" the model writes
# *sleep*, which is impossible there, with probability {{q_here[sleep]:.2f}}, and after "cats here" *sleeps* with
# {{q_here[sleeps]:.2f}}. No amount of data changes that.

# %% tags=["check"]
assert np.allclose(q_here, p, atol=0.01)

# %% [markdown]
# So the best bigram needs no descent at all: its logits are the logarithms of the counts.


# %%
def mle_table():
    """The best bigram by counting; a row that is never used stays uniform -> mm.TableBigram"""
    model, used = mm.TableBigram(world.vocab_size), counts.sum(axis=1) > 0
    model.params["logits"][used] = np.log(np.maximum(counts[used], 1e-30))
    return model


# %% [markdown]
# ## Other losses: a weight on the same gradient
#
# Suppose the loss of a token is not $-\log q$ but some other function $f(q)$ of the probability the token had. We
# know $\partial(-\log q)/\partial z$, and $-\log q$ has the derivative $-1/q$ in $q$; so
# $\partial q / \partial z = -q \, (\mathrm{softmax} - \mathrm{onehot})$, and by the chain rule
#
# $$\frac{\partial f(q)}{\partial z} = w(q) \, (\mathrm{softmax} - \mathrm{onehot})$$
#
# $$w(q) = -q \, f'(q)$$
#
# For one token the direction in the logits stays as long as the weight is positive (a negative weight would turn it
# round). Only the length changes, and it depends on nothing but $q$. (In a
# mean over tokens each has its own length, so the mean points elsewhere: another loss leads to another model.)

# %% [markdown]
# | objective | $f(q)$ | $w(q)$ |
# | --- | --- | --- |
# | `mle` | $-\log q$ | $1$ |
# | `mixce`, η (η = 1 is MLE) | $-\eta \log q - (1-\eta) \, q$ | $\eta + (1-\eta) \, q$ |
# | `tailr`, γ (γ = 0 is MLE) | $-\log(\gamma + (1-\gamma) \, q) / (1-\gamma)$ | $q / (\gamma + (1-\gamma) \, q)$ |
#
# Check one line with a pencil: for MixCE, $f'(q) = -\eta/q - (1-\eta)$, and times $-q$ that is
# $\eta + (1-\eta) \, q$. Where the second term of MixCE comes from is the subject of
# [lesson 6](6_the_approximation.ipynb); here it is one more function of $q$, and so is TaiLr (Ji et al., ICLR 2023).
# These are the package's own lines: the pass that all share, of which the end is what we derived, then what makes
# MixCE MixCE.

# %%
source(mm.objectives.token_objective, mm.objectives.OBJECTIVES["mixce"].f_and_w)

# %% tags=["fold"]
weights.draw_weights(
    {
        "MLE": lambda q: 1.0,
        "MixCE, η = 0.5": lambda q: 0.5 + 0.5 * q,
        "MixCE, η = 0.1": lambda q: 0.1 + 0.9 * q,
        "TaiLr, γ = 0.1": lambda q: q / (0.1 + 0.9 * q),
    }
)

# %% [markdown]
# Read the picture at its left edge, where the model finds the token absurd. MLE pulls with full force: whatever
# occurs in the data must get probability. MixCE never weighs it less than $\eta$. TaiLr lets go altogether. At the
# right edge, where the model agrees with the data, all weights are $1$.
#
# Let the referee decide whether all of this is right, on a batch with an ignored target (−1: nothing to
# predict there). An objective returns the loss and its gradient at once, so here the gradient is the cache.

# %%
rng = np.random.default_rng(0)
# (N,V), (N,)
logits, targets = rng.standard_normal((4, 5)), np.array([0, 3, -1, 2])


def check(objective, **options):
    def forward(z):
        return objective(z, targets, **options)

    def backward(dy, dlogits):
        return (dy * dlogits,)

    return mm.gradcheck(forward, backward, [logits])


checked = {
    "mle": check(mm.objectives.mle),
    "mixce, η = 0.5": check(mm.objectives.mixce, eta=0.5),
    "mixce, η = 0.1": check(mm.objectives.mixce, eta=0.1),
    "tailr, γ = 0.1": check(mm.objectives.tailr, gamma=0.1),
}

# %% tags=["fold"]
table(
    ["objective", "relative error", ""],
    [[n, f"{r.max_relative_error:.0e}", "OK" if r.ok else "WRONG"] for n, r in checked.items()],
)

# %% tags=["check"]
assert all(report.ok for report in checked.values())

# %% [markdown]
# ## A surrogate, and what its gradient stops at
#
# The authors of MixCE do not write it as above. Their code computes a weight and multiplies the usual loss by it:
#
# $$-(\eta + (1-\eta) \, \mathrm{sg}[q]) \, \log q$$
#
# where sg, *[stop gradient](glossary.md#stop-gradient-sg)* (`detach` in PyTorch), says: use the number, but
# differentiate as if it were a constant. With the weight held constant, the derivative is weight times (softmax −
# onehot), the gradient of MixCE. A loss written for its gradient alone is called a
# *[surrogate](glossary.md#surrogate)*. Its value is another: it is not $-\eta \log q - (1-\eta) \, q$.

# %%
one, eta = np.array([x]), 0.5
true_loss, true_gradient = mm.objectives.mixce(z[None], one, eta=eta)
surrogate_loss, surrogate_gradient = mm.objectives.mixce_surrogate(z[None], one, eta=eta)

# %% [markdown]
# At our three tokens MixCE's value is {{float(true_loss):.3f}}, the surrogate's {{float(surrogate_loss):.3f}}. Both
# gradients are ({{", ".join(f"{g:.3f}" for g in true_gradient[0])}}).

# %% tags=["check"]
assert np.allclose(true_gradient, surrogate_gradient)
assert abs(true_loss - surrogate_loss) > 0.1

# %% [markdown]
# > **Predict.** “A stop gradient changes nothing but the value.” Take the `sg` out of the surrogate. What changes:
# > the value, the gradient, or both?


# %%
def without_stop(z):
    """−(η + (1−η) q) log q, all of it differentiated -> loss, cache"""
    q = softmax(z)
    return -(eta + (1 - eta) * q[x]) * np.log(q[x]), q


def without_stop_backward(dy, q):
    w = eta + (1 - eta) * q[x] * (1 + np.log(q[x]))
    return (dy * w * (q - onehot),)


# %% [markdown]
# <details><summary>Only the value</summary>
#
# The value stays: it is {{without_stop(z)[0]:.3f}} with and without `sg`. Read the next answer.
#
# </details>
# <details><summary>Only the gradient</summary>
#
# Yes: the sentence has it backwards. The value is {{without_stop(z)[0]:.3f}} with and without `sg`. But at our three
# tokens the weight was {{eta + (1 - eta) * q[x]:.3f}}, and without `sg` it is
# {{eta + (1 - eta) * q[x] * (1 + np.log(q[x])):.3f}}.
#
# </details>
# <details><summary>Both</summary>
#
# A stop gradient does not touch the value, so that stays at {{without_stop(z)[0]:.3f}}. Read the answer before this
# one.
#
# </details>

# %% tags=["check"]
assert np.isclose(without_stop(z)[0], surrogate_loss)
assert mm.gradcheck(without_stop, without_stop_backward, [z]).ok

# %% [markdown]
# Without `sg` the product rule differentiates the weight as well, and the weight on (softmax − onehot) becomes
#
# $$\eta + (1-\eta) \, q \, (1 + \log q)$$
#
# Now a puzzle: a gradient check differentiates the whole value. So what must it say about the surrogate, whose
# backward is right *as intended*?
#
# > **Predict.** Which of these two checks passes: the surrogate's value as it stands, or the value with the weight
# > frozen at the logits where the gradient is taken?


# %%
def surrogate(z):
    loss, dlogits = mm.objectives.mixce_surrogate(z[None], one, eta=eta)
    return loss, dlogits[0]


frozen = eta + (1 - eta) * q[x]  # the weight at z, a number from now on


def surrogate_frozen(z):
    return frozen * nll_forward(z)[0], surrogate(z)[1]


whole = mm.gradcheck(surrogate, lambda dy, dz: (dy * dz,), [z], names=["whole value"])
held = mm.gradcheck(surrogate_frozen, lambda dy, dz: (dy * dz,), [z], names=["frozen weight"])

# %% [markdown]
# <details><summary>The value as it stands passes</summary>
#
# It fails, and must. The surrogate is a function of two things, $L(z; z_0)$: the weight is taken at $z_0$, the
# derivative in $z$ with $z_0$ held, at $z = z_0$. A check of the whole value moves both.
#
# ```text
# {{whole}}
# ```
#
# </details>
# <details><summary>The frozen weight passes</summary>
#
# Yes. And the whole value fails, and must: the surrogate is a function of two things, $L(z; z_0)$: the weight is
# taken at $z_0$, the derivative in $z$ with $z_0$ held, at $z = z_0$. A check of the whole value moves both.
#
# ```text
# {{held}}
# {{whole}}
# ```
#
# </details>

# %% tags=["check"]
assert held.ok
assert not whole.ok

# %% [markdown]
# ## If you forget it
#
# No error message will tell. The value is the one you expect, training runs, the loss falls. Look at the weight
# that you would be training with.


# %% tags=["fold"]
weights.draw_forgotten((0.5, 0.1, 0.01))

# %%
# where q (1 + log q) is least: its derivative 2 + log q is zero there
least = np.exp(-2.0)
limit = least / (1 + least)  # η + (1−η)(−e^−2) = 0

# %% [markdown]
# The weight is least at $q = e^{-2}$ = {{least:.3f}}, where it is $\eta - (1-\eta) \, e^{-2}$: negative for every η
# below {{limit:.3f}}.

# %% [markdown]
# > **Predict.** A model gives the right answer probability $e^{-2}$. We train it on that answer alone, over and
# > over, at $\eta = 0.01$. With the stop gradient it learns it. Without?


# %%
def learn(weight, q0, rate=0.5):
    """Train three logits on token 0, which starts at q0 -> its probability at the end"""
    z = np.log([q0, (1 - q0) / 2, (1 - q0) / 2])
    for _ in range(full_or_fast(3000, 1500)):
        q = softmax(z)
        z = z - rate * weight(q[0]) * (q - onehot)
    return q[0]


with_stop = learn(lambda q: 0.01 + 0.99 * q, least)
forgotten = learn(lambda q: 0.01 + 0.99 * q * (1 + np.log(q)), least)

# %% [markdown]
# <details><summary>It learns it, only more slowly</summary>
#
# The weight is negative there, so every step goes the wrong way. Read the other answer.
#
# </details>
# <details><summary>It unlearns it</summary>
#
# Yes: where the weight is negative, descent *lowers* the probability of the token that came.
# With the stop gradient $q$ rises from {{least:.3f}} to {{with_stop:.3f}}; without, it falls to
# {{forgotten:.4f}} and stays where the weight is zero.
#
# </details>

# %% tags=["check"]
assert with_stop > 0.95
assert forgotten < 0.01

# %% [markdown]
# ## One model, four values of η
#
# > **Predict.** One and the same model, the MLE bigram of `agreement()`, is evaluated with the MixCE loss at
# > $\eta = 1$, $0.5$, $0.1$ and $0$. Are the four values alike? Does a lower one mean a better model?

# %%
etas = (1, 0.5, 0.1, 0)
losses = [mm.exact.loss_and_grads(mle_table(), world, MAX_LEN, objective="mixce", eta=eta) for eta in etas]
values = [float(loss) for loss, _ in losses]

# %% [markdown]
# <details><summary>Alike: it is one model</summary>
#
# It is one model and four quantities: {{", ".join(f"{value:.2f} at η = {eta}" for eta, value in zip(etas, values))}}.
# The other answer says why.
#
# </details>
# <details><summary>Not alike, and the lower one means nothing</summary>
#
# Yes: {{", ".join(f"{value:.2f} at η = {eta}" for eta, value in zip(etas, values))}}. All are sums over a sentence,
# in expectation over the data. The loss is a weighted mean of $-\log q$, which is positive, and $-q$, which is
# negative. So with less η it is lower, whichever model it is. Another η is another quantity, as a length and a weight
# are: a curve of losses over η says nothing about models.
#
# </details>

# %% tags=["check"]
assert values == sorted(values, reverse=True)
assert values[-1] < 0 < values[0]

# %% [markdown]
# To compare models, choose one measure and apply it to all: a loss at *one* η, or better something that no
# objective optimises, such as the share of valid sentences. And never choose η by the training loss.

# %% [markdown]
# ## Fixed points: what each objective is after
#
# A row of logits stops moving when its expected gradient is zero, at the *[fixed point](glossary.md#fixed-point)*.
# With $p$ the data's probabilities in this context, and $w_v = w(q_v)$:
#
# $$\sum_v p_v w_v \, (q - \mathrm{onehot}(v)) = 0$$
#
# Its entry $v$ says $p_v \, w(q_v) = \lambda \, q_v$, where $\lambda = \sum_u p_u w_u$ is the same for all tokens.
# Solve for $q_v$. MLE: $w = 1$, so $q_v = p_v$ and $\lambda = 1$. MixCE, then TaiLr:
#
# $$q_v = \frac{\eta \, p_v}{\lambda - (1-\eta) \, p_v}$$
#
# $$q_v = \max\left(0, \frac{p_v/\lambda - \gamma}{1-\gamma}\right)$$
#
# One number is left to find, $\lambda$: the one for which $q$ sums to one. Both sums fall as $\lambda$ grows, so
# halving an interval finds it. (TaiLr's 0 is where the gradient vanishes because $q_v$ does.)

# %%
source(mixce_q, tailr_q, fixed_point)

# %%
p_five = np.array([0.50, 0.25, 0.15, 0.07, 0.03])  # what follows in some context
cases = {
    "MixCE, η = 0.5": ("mixce", 0.5),
    "MixCE, η = 0.1": ("mixce", 0.1),
    "TaiLr, γ = 0.1": ("tailr", 0.1),
}
ends = {"MLE": p_five}
for name, (objective, ratio) in cases.items():
    ends[name], _ = fixed_point(objective, p_five, ratio)  # q, λ

# %% tags=["fold"]
table(["fixed point", *(f"q({v + 1})" for v in range(5))], [[name, *(f"{a:.3f}" for a in q)] for name, q in ends.items()])

# %% [markdown]
# Does training really go there? Let descent judge, with the package's own weights and from uniform logits. (With
# `reduction="none"` an objective returns $f$ and $w$ of every target.)


# %%
def descend(objective, p, **ratio):
    """Gradient descent on one row of logits, in expectation over p (V,) -> softmax (V,)."""
    z, every_token = np.zeros(len(p)), np.arange(len(p))
    for _ in range(full_or_fast(4000, 1500)):
        # (V,V): row v is the case that token v comes
        logits = np.tile(z, (len(p), 1))
        _, w = objective(logits, every_token, reduction="none", **ratio)
        z = z - 2 * (p * w) @ (softmax(logits) - np.eye(len(p)))
    return softmax(z)


trained = {
    "MixCE, η = 0.1": descend(mm.objectives.mixce, p_five, eta=0.1),
    "TaiLr, γ = 0.1": descend(mm.objectives.tailr, p_five, gamma=0.1),
}

# %% tags=["fold"]
table(["by descent", *(f"q({v + 1})" for v in range(5))], [[name, *(f"{a:.3f}" for a in q)] for name, q in trained.items()])

# %% tags=["check"]
assert all(np.allclose(q_trained, ends[name], atol=0.01) for name, q_trained in trained.items())


# %% tags=["fold"]
def curve(objective, ratio):
    """Where a token of probability p ends, in the context of p_five -> a function of p"""
    lam = fixed_point(objective, p_five, ratio)[1]
    if objective == "tailr":
        return lambda p: tailr_q(p, lam, ratio)
    return lambda p: np.where(lam > (1 - ratio) * p, mixce_q(np.minimum(p, 0.999 * lam / (1 - ratio)), lam, ratio), np.nan)


cut = 0.1 * fixed_point("tailr", p_five, 0.1)[1]
weights.draw_fixed_points(p_five, {label: curve(*case) for label, case in cases.items()}, cut)


# %% [markdown]
# This is the picture to keep. **MLE** ends on the diagonal: it gives back the data. **MixCE** bends: here the
# likeliest token gains, and all others lose (where several tokens are about as likely, several gain). Near zero the
# curve is nearly a straight line through the origin, of slope $\eta/\lambda$: rare tokens are scaled by one factor, and
# none of them dies. **TaiLr** reaches zero at $p = \gamma\lambda$ and stays there: what is rarer is cut off.
#
# So MixCE and TaiLr do not end at $q = p$, even for a model that could represent $p$. They sharpen: what is likely
# gains and what is rare loses. Whether that buys valid sentences is a question to measure.

# %% [markdown]
# ## Back to "here"
#
# After "here" every sentence's fate hangs on one row, so let us see what sharpening does to it.


# %%
def with_row(q_here):
    """The best bigram, with another row "here" -> mm.TableBigram"""
    model = mle_table()
    model.params["logits"][here] = np.log(np.maximum(q_here, 1e-30))
    return model


ends_here = {"MLE": p}
for name, (objective, ratio) in cases.items():
    ends_here[name], _ = fixed_point(objective, p, ratio)
measured = [mm.exact.measure(with_row(q), world, MAX_LEN) for q in ends_here.values()]
valid = [float(found["validity"]) for found in measured]

# %% tags=["fold"]
table(
    ["row “here” trained by", "q(sleeps)", "q(sleep)", "Q(cat here sleep)", "share of valid sentences"],
    [
        [
            label,
            f"{q[sleeps]:.3f}",
            f"{q[sleep]:.3f}",
            f"{sentence_probs(with_row(q))[SENTENCES.index('cat here sleep')]:.3f}",
            f"{v:.3f}",
        ]
        for (label, q), v in zip(ends_here.items(), valid)
    ],
)

# %% [markdown]
# At $\eta = 0.5$ the row hardly moves, and the share of valid sentences goes from {{valid[0]:.3f}} to
# {{valid[1]:.3f}}. At $\eta = 0.1$ it is {{valid[2]:.3f}}: the row gives up "cats here sleep" for the sake of "cat
# here sleeps", and "cats here" still goes on to the wrong verb. As long as both nouns come before it, one row cannot
# mend what the model has forgotten. Lesson 6 lets all rows move, and asks where the power of the reverse
# cross-entropy of lesson 1 was lost.

# %% tags=["check"]
assert valid[0] < valid[1] < valid[0] + 0.02

# %% [markdown]
# ## Summary
#
# - The gradient of $-\log q$ in the logits is softmax − onehot: pull up what came, by what it lacks; push down the
#   rest, by what they hold.
# - A backward is checked by trying. A check earns trust by failing on a broken backward.
# - Every loss $f(q)$ of the token's probability has that gradient times $w(q) = -q f'(q)$: 1 for MLE,
#   $\eta + (1-\eta)q$ for MixCE, $q/(\gamma + (1-\gamma)q)$ for TaiLr.
# - A stop gradient leaves the value as it is and changes the gradient. Forgetting it in MixCE's surrogate gives a
#   weight that is negative at small η, without any error message.
# - Losses at different η are on different scales.
# - Fixed points: MLE on the diagonal, MixCE bends and keeps the tail, TaiLr cuts it.

# %% [markdown]
# ## Exercises
#
# 1. *Pencil.* With $q = (1/2, 1/4, 1/4)$, token 1 comes (the second). Write down the gradient of $-\log q$, and
#    that of MixCE at $\eta = 1/2$.
# 2. *Pencil and code.* The focal loss (Lin et al. 2017) can be written $f(q) = -(1-q)^2 \log q$. Derive its $w(q)$,
#    write the loss in the form of `mm.objectives` for logits (N,V), and let `mm.gradcheck` decide. At which end of
#    $q$ does it pull less than MLE?
# 3. *Code.* Somebody checks a softmax backward with `dprobs` all ones, and any number of wrong backwards pass. Find
#    one, and say why the check is blind.
# 4. *Think.* In the context “here” ($p = (3/5, 2/5)$), where does MixCE's fixed point go as η goes to 0? And if the
#    two were equally likely?
# 5. *Code.* Is the loss at the fixed point really least there? Evaluate $\sum_v p_v f(q_v)$ of MixCE at
#    $\eta = 0.1$ at its fixed point and at a thousand random $q$ near it.

# %% [markdown] tags=["solution"]
# **Solution 1.** Softmax minus one-hot: $(1/2, -3/4, 1/4)$. MixCE's weight is $1/2 + 1/2 \cdot 1/4 = 5/8$, so its
# gradient is $(5/16, -15/32, 5/32)$.

# %% tags=["solution"]
_, gradient = mm.objectives.mixce(z[None], np.array([1]), eta=0.5)

# %% [markdown] tags=["solution"]
# The package says ({{", ".join(f"{32 * g:.0f}/32" for g in gradient[0])}}).

# %% tags=["check"]
assert np.allclose(gradient[0], [10 / 32, -15 / 32, 5 / 32])

# %% [markdown] tags=["solution"]
# **Solution 2.** $f'(q) = 2(1-q)\log q - (1-q)^2/q$, so $w(q) = -q f'(q) = (1-q)^2 - 2 q (1-q) \log q$. Near $q = 1$
# it lets go; at small $q$ it pulls as hard as MLE or a little harder. MixCE is the opposite: it holds back where the
# model finds the token absurd.


# %% tags=["solution"]
def focal(logits, targets):
    """logits (N,V), targets (N,) -> loss, dlogits (N,V)"""
    q, n = softmax(logits), np.arange(len(targets))
    q_target = q[n, targets]
    w = (1 - q_target) ** 2 - 2 * q_target * (1 - q_target) * np.log(q_target)
    dlogits = w[:, None] * (q - np.eye(q.shape[1])[targets]) / len(targets)
    return -((1 - q_target) ** 2 * np.log(q_target)).mean(), dlogits


# %% tags=["solution"]
report = mm.gradcheck(
    lambda z: focal(z, np.array([0, 3, 1, 2])), lambda dy, dlogits: (dy * dlogits,), [logits], names=["logits"]
)
report

# %% tags=["check"]
assert report.ok

# %% [markdown] tags=["solution"]
# **Solution 3.** With `dprobs` all ones, what is differentiated is the sum of the probabilities, which is 1
# whatever the logits: the right answer is zero. A backward that returns zeros passes, as does any multiple of the
# right one. That is why `mm.gradcheck` draws `dy` at random.

# %% tags=["solution"]
right = mm.layers.softmax_backward(np.ones(3), cache)  # nothing but rounding: what a backward that returns zeros says, too
report = mm.gradcheck(mm.layers.softmax_forward, lambda dprobs, cache: (np.zeros(3),), [z], names=["z"])
report

# %% tags=["check"]
assert np.abs(right).max() < 1e-12
assert not report.ok

# %% [markdown] tags=["solution"]
# **Solution 4.** $\lambda$ must stay above $(1-\eta) \cdot 3/5$. As $\eta \to 0$,
# $q(\text{sleep}) = \eta p/(\lambda - (1-\eta)p)$ has a denominator that stays above $1/5$ or so, so it goes to 0,
# and *sleeps* takes all. If both are equally likely, symmetry keeps them at one half each for every η > 0: MixCE
# sharpens differences, it makes none.

# %% tags=["solution"]
p_two = {"unequal": np.array([0.6, 0.4]), "equal": np.array([0.5, 0.5])}
limits = {(name, eta): fixed_point("mixce", p, eta)[0] for name, p in p_two.items() for eta in (0.1, 0.01, 0.001)}
rows_of_limits = [[name, eta, f"{a:.3f}", f"{b:.3f}"] for (name, eta), (a, b) in limits.items()]

# %% [markdown] tags=["solution"]
# {{as_markdown(["p", "η", "q(sleeps)", "q(sleep)"], rows_of_limits)}}

# %% tags=["check"]
assert limits["unequal", 0.001][1] < 0.01
assert np.allclose(limits["equal", 0.001], 0.5)

# %% [markdown] tags=["solution"]
# **Solution 5.** It is, near it and everywhere: $-\eta \log q - (1-\eta) q$ is strictly convex in $q$ for η > 0, so
# over the probabilities the sum has one minimum.


# %% tags=["solution"]
def expected_mixce(q, eta=0.1):
    return (p_five * (-eta * np.log(q) - (1 - eta) * q)).sum(axis=-1)


best = ends["MixCE, η = 0.1"]
near = best * np.exp(0.1 * rng.standard_normal((1000, 5)))
near /= near.sum(axis=1, keepdims=True)

# %% [markdown] tags=["solution"]
# At the fixed point it is {{expected_mixce(best):.6f}}; the least of a thousand neighbours has
# {{expected_mixce(near).min():.6f}}.

# %% tags=["check"]
assert expected_mixce(near).min() > expected_mixce(best)

# %% [markdown]
# **Where to go next.** On the evening path, [lesson 6](6_the_approximation.ipynb): how the reverse cross-entropy
# became a weight, and what that cost. In order, [lesson 4](4_the_exact_reverse_gradient.ipynb): the reverse
# gradient itself, without approximation. All formulas of this lesson are in [math §6](math.md#6-token-objectives);
# to move the sliders yourself, the [explorer](explorer.py); to choose, [which objective](which_objective.md).
