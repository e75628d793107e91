# %% [markdown]
# # 5 When you can only sample
#
# *Prose: 30 minutes; with the code: 55; with exercises: 2½ hours. Computing: 20 seconds. Before this:
# [lesson 4](4_the_exact_reverse_gradient.ipynb); mean and variance of a random number.*
#
# **At the end you will know**
#
# - two ways to differentiate an average over something that is drawn, and why tokens allow only one of them;
# - [REINFORCE](glossary.md#reinforce), [reward to go](glossary.md#reward-to-go) and [RLOO](glossary.md#rloo), each
#   written in one line and derived from lesson 4;
# - what [Gumbel-softmax](glossary.md#gumbel-softmax) and importance weights do instead, and what they miss;
# - how to compare such estimators: by their error at the number of samples you can pay, with the length of the step
#   that suits each of them.

# %% tags=["setup"]
import numpy as np

import minimixce as mm
from minimixce import estimators
from minimixce.lessons import as_markdown, full_or_fast, sampling, source, table

# %% [markdown]
# ## Begin with one number
#
# Let $x = \mu + \epsilon$ with $\epsilon$ standard normal, and let $J(\mu) = \mathbb{E}[f(x)]$. How does $J$ change
# with $\mu$, if all you can do is draw? There are two ways to ask.
#
# **Pathwise.** Keep the noise $\epsilon$ and move $\mu$: every draw moves along. So differentiate $f$ at each draw,
#
# $$
# \frac{dJ}{d\mu} = \mathbb{E}[ f'(\mu + \epsilon) ] .
# $$
#
# **[Score function](glossary.md#score-function).** Keep the draw $x$ and ask how its *probability density* $p_\mu(x)$
# changes. Since $p' = p (\log p)'$,
#
# $$
# \frac{dJ}{d\mu} = \int f(x) \frac{d p_\mu(x)}{d\mu} dx = \mathbb{E}\left[ f(x) \frac{d \log p_\mu(x)}{d\mu} \right] =
# \mathbb{E}[ f(x) (x - \mu) ] .
# $$
#
# The derivative of $\log p_\mu(x)$ in $\mu$ is called the *score*; here it is $x - \mu$. The first way looks at the
# slope of $f$, the second only at its value. Take $f(x) = x^2$ at $\mu = 1$, where $J = \mu^2 + 1$ and the exact
# derivative is $2\mu = 2$. As a third, add 10 to $f$, which moves no derivative.

# %%
mu, epsilon = 1.0, np.random.default_rng(0).standard_normal(100_000)
x = mu + epsilon
ways = {
    "pathwise": 2 * x,
    "score function": x**2 * (x - mu),
    "score function, f + 10": (x**2 + 10) * (x - mu),
}

# %% tags=["fold"]
table(
    ("from one draw", "mean", "standard deviation", "draws for an error of 1 %"),
    [(name, f"{d.mean():.2f}", f"{d.std():.1f}", f"{d.var() / 0.02**2:,.0f}") for name, d in ways.items()],
)

# %% tags=["fold"]
sampling.draw_ways(ways, exact=2 * mu)

# %% tags=["check"]
for d in ways.values():
    assert abs(d.mean() - 2) < 5 * d.std() / np.sqrt(len(d))

# %% [markdown]
# All three are *unbiased*: their mean is the derivative (the black line). They differ in variance. The mean of $n$ draws
# has the variance of one draw over $n$; the last column says how many it takes until its standard deviation is a
# hundredth of the derivative. The constant in $f$ makes the score function much worse: it multiplies a noise of mean
# zero, $x - \mu$, by a larger number. In lesson 4 such a constant changed nothing, because there nothing was noise.
#
# > **Predict.** Now let $f$ be a step, 1 where $x > 0$ and 0 elsewhere. $J(\mu)$ is the probability of $x > 0$, a
# > smooth curve. Which of the two ways still leads to its derivative?


# %%
def step(x):
    return (x > 0).astype(float)


h = 1e-9
along_each_path = (step(x + h) - step(x - h)) / (2 * h)  # the slope of f at each draw, by trying
by_the_score = step(x) * (x - mu)
exact_slope = np.exp(-(mu**2) / 2) / np.sqrt(2 * np.pi)  # the normal density at the step

# %% [markdown]
# <details><summary>Both: each of them was exact for every f</summary>
#
# Not the pathwise one: it is {{along_each_path.mean():.0f}} in every draw, and the derivative is {{exact_slope:.3f}}.
# It was exact for an $f$ that grows by its slope alone. A step has the slope 0 wherever it has one, and grows by its jump.
#
# </details>
# <details><summary>Only the pathwise: the score function knows nothing of the step</summary>
#
# The other way round. The score function finds {{by_the_score.mean():.3f}}, exactly it is {{exact_slope:.3f}}: it only
# asks how probable the draws on each side become. The pathwise estimate is {{along_each_path.mean():.0f}} in every draw.
#
# </details>
# <details><summary>Only the score function</summary>
#
# Right: {{by_the_score.mean():.3f}}, exactly {{exact_slope:.3f}}. The pathwise estimate is
# {{along_each_path.mean():.0f}} in every draw, with no variance at all, and entirely wrong. All that matters is that a
# draw may *cross* the step, and a slope does not show that.
#
# </details>

# %% tags=["check"]
assert not along_each_path.any()
assert abs(by_the_score.mean() - exact_slope) < 5 * by_the_score.std() / np.sqrt(len(x))

# %% [markdown]
# ## A token is a step
#
# Drawing a token is such a step. It can be written like the Gaussian, with noise kept apart: if $\epsilon$ is *Gumbel
# noise*, $-\log(-\log u)$ of a uniform $u$ for each token, the token $\mathrm{argmax}(\mathrm{logits} + \epsilon)$ has
# exactly the probabilities $\mathrm{softmax}(\mathrm{logits})$. Move the logits a little and, for nearly all noise,
# the token does not change at all. So the plain pathwise derivative is zero, and something must be paid: take the score
# function and fight its variance (REINFORCE and what follows); or soften the step and accept an error (Gumbel-softmax);
# or draw from something else, which does not move, and reweight (importance weights).
#
# Back to `agreement()`, to the table of lesson 4 and to $\mathrm{KL}(Q\|P)$. There we can list all sequences, so we know
# the exact gradient $g$, and can even compute mean and variance of an estimator without drawing.

# %%
world, T = mm.worlds.agreement(), 4
V = world.vocab_size
counts = mm.exact.bigram_counts(world, T)
# (V,V) logits, as in lesson 4: the counts blended with a little of the uniform distribution
z = np.log(0.94 * counts / counts.sum(axis=1, keepdims=True) + 0.06 / V)
model = mm.TableBigram(V)
model.params["logits"][:] = z
KL, grads = mm.exact.loss_and_grads(model, world, T, objective="reverse_kl")
g = grads["logits"]  # (V,V), the exact gradient

# %% [markdown]
# ## REINFORCE
#
# Write $\nabla$ for the gradient in all parameters. Lesson 4's list says
# $\nabla L = \sum_x Q(x) C(x) \nabla \log Q(x)$, where $C(x) = \log Q(x) - \log P(x)$ is the cost of a whole sequence.
# (That $\log Q$ inside $C$ moves, too, averages to zero, as in lesson 4.) The sum is an average over $Q$. Draw
# $x_1, \dots, x_n$ from $Q$ and take the mean:
#
# $$
# \hat{g} = \frac{1}{n} \sum_i C(x_i) \nabla \log Q(x_i) .
# $$
#
# This is REINFORCE (Williams, 1992), the score function for sequences. Every token of a sample is pushed down by the
# cost of the whole. Its relatives have the same form, with another number $a_{i,t}$ for token $t$ of sample $i$:
#
# $$
# \hat{g} = \frac{1}{n} \sum_i \sum_t a_{i,t} (\mathrm{onehot}(x_{i,t}) - \mathrm{softmax}) .
# $$


# %%
def weighted(rows, a):
    """rows (n,T+1) of samples, a (n,T−1) or (n,1), a number for each token -> ĝ, (V,V)"""
    inputs, targets = world.batch(rows)  # the token before, and the token drawn; −1 after the end
    q = np.exp(mm.logprob.log_softmax(model.params["logits"]))
    a, dz = np.broadcast_to(a, targets.shape), np.zeros((V, V))
    for i, t in zip(*np.nonzero(targets >= 0)):
        last, token = inputs[i, t], targets[i, t]
        dz[last] += a[i, t] * (np.eye(V)[token] - q[last])
    return dz / len(rows)


def costs(rows):
    """c_t = log q_t − log p_t of each token, 0 after the end -> (n,T−1)"""
    inputs, targets = world.batch(rows)
    log_q = mm.logprob.log_softmax(model.params["logits"])[inputs, targets]
    return np.where(targets >= 0, log_q - world.token_log_probs(rows, floored=True), 0)


# %% [markdown]
# ## Reward to go, and a baseline
#
# In lesson 4 the bracket at a prefix, with its sign turned the [advantage](glossary.md#advantage), was
# $c + U(hv) - U(h)$: *costs from here on*, compared with *what is usual here*. REINFORCE has neither. Give it one or the
# other.
#
# **Reward to go.** (The reward is the negative cost.) What was paid before a token does not depend on it. Given the
# tokens before, $\nabla \log q_t$ has mean zero, so the product of the two has mean zero. Leave it out:
# $a_t = \sum_{s \ge t} c_s$, where $c_s$ is the cost of token $s$. The mean stays, and the variance, as a rule, falls.
#
# **[Baseline](glossary.md#baseline).** Subtract from each cost a number $b$ that does not depend on the sample: the mean
# stays, since $\mathbb{E}[b \nabla \log Q] = 0$, and with $b$ near the mean cost the variance, as a rule, falls. RLOO,
# *REINFORCE leave-one-out* (Kool et al., 2019), takes for each sample the mean of *the others*. Its own cost must not
# enter: a baseline that moves with the sample would bias the gradient.


# %%
def to_go(c):
    """c (n,T−1) -> the sums from each t to the end, (n,T−1)"""
    return c[:, ::-1].cumsum(axis=1)[:, ::-1]


rows = estimators.sample(model, 16, T, seed=0)
c = costs(rows)
C = c.sum(axis=1, keepdims=True)  # (n,1)
a = {
    "reinforce": C,
    "reward_to_go": to_go(c),
    "rloo": C - (C.sum() - C) / (len(C) - 1),
}

# %% tags=["check"]
for name, numbers in a.items():
    _, grads = getattr(estimators, name)(model, world, rows, objective="reverse_kl")
    assert np.allclose(weighted(rows, numbers), grads["logits"])

# %% [markdown]
# The package's own lines find the same gradients, for any model. `score`, which here means to rate, runs the model
# forward on the samples and collects what their tokens cost; `pull_back(model, s, a)` is the formula above: $a$
# times onehot − softmax is the derivative in the logits of each token, and the rest is the model's own backward.
# (The lines about js serve another divergence.)

# %%
source(estimators.reinforce, estimators.reward_to_go, estimators.rloo)

# %% [markdown]
# ## Mean and variance, without statistics
#
# An estimate from one sample $x$ is a function of it, $\hat{g}(x)$. In a small world we can go through all of them: the
# mean is $\sum_x Q(x) \hat{g}(x)$, the variance, all coordinates together,
# $\sum_x Q(x) \|\hat{g}(x)\|^2 - \|\mathbb{E} \hat{g}\|^2$. For RLOO with $n = 2$, all pairs.

# %%
every = mm.exact.sequences(V, T)  # (156,T+1)
P, Q = np.exp(world.log_prob(every)), np.exp(mm.exact.log_prob(model, every))
c = costs(every)
valid, C = P > 0, c.sum(axis=1)


def each_alone(a):
    """a (156,T−1) or (156,1) -> the estimate from each sequence alone, (156,36)"""
    return np.array([weighted(every[i : i + 1], a[i : i + 1]).ravel() for i in range(len(every))])


def moments(each, probs):
    """each (m,36) estimates, probs (m,) their probabilities -> bias/‖g‖, variance/‖g‖²"""
    mean = probs @ each
    variance = probs @ (each**2).sum(axis=1) - mean @ mean
    return np.linalg.norm(mean - g.ravel()) / np.linalg.norm(g), variance / (g**2).sum()


# %%
score = each_alone(np.ones((len(every), 1)))  # ∇log Q(x)
first, second = np.divmod(np.arange(len(every) ** 2), len(every))  # all pairs
pairs = 0.5 * (C[first] - C[second])[:, None] * (score[first] - score[second])
found = {
    "REINFORCE": moments(C[:, None] * score, Q),
    "reward to go": moments(each_alone(to_go(c)), Q),
    "RLOO, n = 2": moments(pairs, Q[first] * Q[second]),
    "baseline = mean cost": moments((C - KL)[:, None] * score, Q),
}
dearest, cheapest_bad = abs(C[valid]).max(), C[~valid].min()

# %% tags=["fold"]
table(
    ("estimator", "bias / ‖g‖", "variance of one estimate / ‖g‖²", "samples for an error of 10 %"),
    [
        (
            name,
            f"{bias:.0e}" if bias > 1e-12 else "rounding",
            f"{variance:.1f}",
            f"{(2 if 'n = 2' in name else 1) * variance / 0.1**2:,.0f}",
        )
        for name, (bias, variance) in found.items()
    ],
)
needed = found["baseline = mean cost"][1]

# %% [markdown]
# No bias, to the last digit. But one sample's variance is dozens of times the squared length of what it estimates: even
# with the mean cost as baseline, which is what RLOO tends to with many samples, the mean of {{needed:.0f}} samples has an
# error as large as the gradient itself, and for an error of a hundredth it takes {{needed / 0.01**2:,.0f}}. The reason
# is in the costs: sequences that $P$ can produce cost between {{C[valid].min():.1f}} and {{C[valid].max():.1f}} nats, the
# impossible ones {{cheapest_bad:.0f}} and more. (An RLOO baseline from one other sample is itself noise; with more it gets
# better.)

# %% tags=["check"]
assert max(bias for bias, _ in found.values()) < 1e-12
assert needed < found["reward to go"][1] < found["REINFORCE"][1]
assert 24 < needed < found["REINFORCE"][1] < 60
assert cheapest_bad > 50 > 5 > dearest

# %% [markdown]
# ## Gumbel-softmax
#
# Now soften the step. Keep the hard choice $\mathrm{argmax}(\mathrm{logits} + \epsilon)$ on the way forward, and on the
# way back pretend that it had been $\mathrm{softmax}((\mathrm{logits} + \epsilon) / \tau)$, which has a slope. This is
# called *straight-through*; $\tau$ is a temperature, and for $\tau \to 0$ the softmax becomes the choice. First for a
# single token with a cost $c_v$ for each $v$: the pretended choice costs $\sum_v \mathrm{soft}_v c_v$, so the
# gradient is lesson 3's softmax backward, divided by $\tau$.

# %%
source(mm.layers.softmax_backward)

# %%
logits, cost = np.log([0.6, 0.3, 0.1]), np.array([1.0, 2.0, 30.0])
q = np.exp(logits)
exact_one = q * (cost - q @ cost)  # lesson 4's, with one token to draw
noise = np.random.default_rng(0).gumbel(size=(full_or_fast(100_000, 20_000), 3))
chosen = np.eye(3)[(logits + noise).argmax(axis=1)]  # one-hot, samples of softmax(logits)


def by_soft_choice(tau):
    """-> the gradient in the logits from each draw alone, (n,3)"""
    _, cache = mm.layers.softmax_forward((logits + noise) / tau)
    slope = np.tile(cost, (len(noise), 1))  # of soft @ cost, in soft
    return mm.layers.softmax_backward(slope, cache) / tau


single = {"score function, mean baseline": ((chosen @ cost) - q @ cost)[:, None] * (chosen - q)}
single |= {f"Gumbel-softmax, τ = {tau:g}": by_soft_choice(tau) for tau in (2.0, 1.0, 0.5, 0.1)}

# %% tags=["fold"]
scale = np.linalg.norm(exact_one)
one_token = {
    name: (np.linalg.norm(d.mean(axis=0) - exact_one) / scale, np.sqrt(d.var(axis=0).sum()) / scale)
    for name, d in single.items()
}
table(
    ("one token, one draw; over ‖g‖", "bias", "sampling error of the bias", "standard deviation"),
    [(name, f"{bias:.3f}", f"{sd / np.sqrt(len(noise)):.3f}", f"{sd:.2f}") for name, (bias, sd) in one_token.items()],
)

# %% tags=["check"]
assert np.allclose(chosen.mean(axis=0), q, atol=0.01)  # argmax of logits + noise does sample softmax(logits)
assert one_token["Gumbel-softmax, τ = 2"][0] > one_token["Gumbel-softmax, τ = 0.5"][0]
assert one_token["Gumbel-softmax, τ = 2"][1] < one_token["Gumbel-softmax, τ = 0.1"][1]

# %% [markdown]
# High $\tau$: little variance, much bias. Low $\tau$: the reverse. For one token the bias dies with $\tau$.
#
# For sequences it need not. Derivatives do flow back from later tokens to earlier ones, through the next input of the
# model, but only as slopes at the token that was chosen: a linear guess at what *another* token would have led to. And
# the *world* moves to another state with each token, too; through its state nothing flows back, here as in the MixCE
# paper's code. So part of lesson 4's $U(hv)$ is missing, whatever $\tau$, and what remains leans towards the
# token-level gradient, in which each token pays for itself alone. `estimators.gumbel` does all this for any model.

# %%
token_level = Q @ each_alone(c)  # lesson 4's, with the model's prefixes
batches = [estimators.gumbel_noise(full_or_fast(20_000, 2_000), T, V, seed) for seed in range(5)]


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def of_sequences(tau):
    """-> the gradient from each of the batches of noise, (5,36)"""
    found = []
    for noise in batches:
        _, grads = estimators.gumbel(model, world, noise, objective="reverse_kl", tau=tau)
        found.append(grads["logits"].ravel())
    return np.array(found)


by_tau = {tau: of_sequences(tau) for tau in (1.0, 0.5, 0.25)}

# %% tags=["fold"]
lines = []
for tau, each in by_tau.items():
    mean, error = each.mean(axis=0), np.sqrt(each.var(axis=0, ddof=1).sum() / len(each))
    numbers = np.linalg.norm(mean - g.ravel()) / np.linalg.norm(g), error / np.linalg.norm(g)
    lines.append((tau, *numbers, cosine(mean, g.ravel()), cosine(mean, token_level)))
table(
    ("τ, whole sequences", "bias / ‖g‖", "its sampling error", "cosine to g", "to the token-level gradient"),
    [(f"{tau:g}", *(f"{number:.2f}" for number in numbers)) for tau, *numbers in lines],
)

# %% tags=["check"]
for _, bias, _, to_g, to_token_level in lines:
    assert bias > 0.5
    assert to_token_level > to_g

# %% [markdown]
# ## Importance weights
#
# What if you do not want to sample from $Q$ at all, because you already have data, samples of $P$? A sum over $x$
# weighted by $Q$ is a sum weighted by $P$ if each term is multiplied by $Q(x) / P(x)$:
#
# $$
# \sum_x Q(x) C(x) \nabla \log Q(x) = \mathbb{E}_{x \sim P} \left[ \frac{Q(x)}{P(x)} C(x) \nabla \log Q(x) \right] .
# $$
#
# It holds if $P(x) > 0$ wherever $Q(x) > 0$. Here it does not, and the terms that are lost, where $P(x) = 0$, are
# just those that the reverse divergence is about.

# %%
by_weights = (Q[valid] / P[valid] * C[valid])[:, None] * score[valid]
importance_bias, importance_variance = moments(by_weights, P[valid])

# %% [markdown]
# The bias is {{importance_bias:.2f}} of the length of the gradient, the variance {{importance_variance:.1e}} of its
# square: the estimate is very sure, and nearly zero. Samples of $P$ cannot show what $P$ never does.

# %% tags=["check"]
of_the_package = [estimators.importance(model, world, x[None], objective="reverse_kl")[1]["logits"] for x in every[valid]]
assert np.allclose(by_weights, np.array(of_the_package).reshape(len(by_weights), -1))
assert importance_bias > 0.9
assert importance_variance < 0.01

# %% [markdown]
# > **Predict.** MixCE trains on samples of $P$ and multiplies the gradient of each token by $q_t$ (at $\eta = 0$;
# > in [lesson 6](6_the_approximation.ipynb) you will see why). Samples of $P$, weights that contain $Q$: is that
# > importance weighting? Test your answer on a $Q$ that equals $P$. What should importance weights be there, and
# > what is $q_t$?

# %%
p = np.array([0.5, 0.25, 0.15, 0.07, 0.03])
token = np.arange(1, 6)
other_q = p[::-1]  # a Q that is not P


def mean_token(w):
    """The mean token number over P, each token weighted by w (5,)"""
    return p @ (w * token) / (p @ w)


by_ratio, by_mixce = mean_token(other_q / p), mean_token(other_q)

# %% tags=["fold"]
at_equal = [
    [name, *(f"{a:.2f}" for a in numbers)]
    for name, numbers in {"P, and Q": p, "importance weight Q/P": p / p, "MixCE's weight q": p}.items()
]

# %% [markdown]
# <details><summary>Yes: samples of P, weighted by Q</summary>
#
# Then the weights would have to be 1 where $Q = P$, because there is nothing to exchange. MixCE's are not, and have
# nothing of $P$ in them:
#
# {{as_markdown(["token", *token], at_equal)}}
#
# </details>
# <details><summary>No: the weights are others</summary>
#
# Right. At $Q = P$ importance weights are all 1; MixCE's are $q$ itself. And where $Q$ is not $P$, importance weights
# turn an average over $P$ into the average over $Q$. Take $P$'s probabilities in reverse order as $Q$: the mean token
# number is {{p @ token:.2f}} under $P$ and {{other_q @ token:.2f}} under $Q$. Weighted by $Q/P$, $P$'s tokens give
# {{by_ratio:.2f}}. Weighted by MixCE's $q$ they give {{by_mixce:.2f}}, which is neither. The samples stay samples of
# $P$; the weights change what is minimised.
#
# </details>

# %% tags=["check"]
assert np.isclose(by_ratio, other_q @ token)
assert abs(by_mixce - other_q @ token) > 0.5
assert abs(by_mixce - p @ token) > 0.5

# %% [markdown]
# ## Clouds around the exact gradient
#
# Now a model with a memory: a small transformer, before training. Its gradient has thousands of coordinates, so look
# at the estimates in two directions: *along* the exact gradient, and *across* it, the way in which the token-level
# gradient leaves it. Units are the length of the exact gradient: a perfect estimate sits at (1, 0), a gradient of zero
# at (0, 0).

# %%
config = mm.GPTConfig(V, block_size=T - 1, n_layer=2, n_head=2, n_embd=32)
gpt = mm.GPT(config, seed=0, device="cpu")


def flat(grads):
    """{name: array} -> all coordinates in one row, (D,)"""
    return np.concatenate([grad.reshape(-1) for grad in grads.values()])


def estimates(n, seed):
    """One estimate each from n samples -> {name: grads}"""
    rows, noise = estimators.sample(gpt, n, T, seed), estimators.gumbel_noise(n, T, V, seed)
    of = {"objective": "reverse_kl"}
    found = {
        "REINFORCE": estimators.reinforce(gpt, world, rows, **of),
        "reward to go": estimators.reward_to_go(gpt, world, rows, **of),
        "RLOO": estimators.rloo(gpt, world, rows, **of),
        "importance weights": estimators.importance(gpt, world, world.sample(n, T, seed), **of),
        "Gumbel-softmax, τ = 1": estimators.gumbel(gpt, world, noise, tau=1.0, **of),
        "Gumbel-softmax, τ = 0.1": estimators.gumbel(gpt, world, noise, tau=0.1, **of),
    }
    return {name: grads for name, (_, grads) in found.items()}


exact_gradient = flat(mm.exact.loss_and_grads(gpt, world, T, objective="reverse_kl")[1])
length = np.linalg.norm(exact_gradient)
target = exact_gradient / length  # (D,), the exact gradient in its own lengths


def repeated(n, times):
    """-> {name: (times,D)}, estimates from n samples each, in lengths of the exact gradient"""
    each = [estimates(n, seed=1000 * n + r) for r in range(times)]
    return {name: np.array([flat(found[name]) for found in each]) / length for name in each[0]}


at_16 = repeated(16, times=full_or_fast(200, 10))

# %%
# the token-level gradient, exactly: all sequences, each token with its own cost, weighted by Q
# (times their number, because pull_back takes a mean)
Q_gpt = np.exp(mm.exact.log_prob(gpt, every))
scored = estimators.score(gpt, world, every, "reverse_kl")
across = flat(estimators.pull_back(gpt, scored, scored.cost * Q_gpt[:, None] * len(every)))
across -= (across @ target) * target
across /= np.linalg.norm(across)
clouds = {name: np.stack([each @ target, each @ across], axis=1) for name, each in at_16.items()}

# %% tags=["fold"]
sampling.draw_clouds(clouds)

# %% [markdown]
# Every dot is an estimate from 16 samples. REINFORCE, reward to go and RLOO have their rings on the cross (unbiased) and
# clouds of very different size. (The widest dots lie outside the frame.) Importance weights make a cloud so small that
# it fits into the ring, at zero. Gumbel-softmax is beside the cross, at $\tau = 1$ with a small cloud.
#
# > **Predict.** You can afford 16 samples a step. Which of the six would you take?


# %%
def error(each, multiplier=1.0):
    """each (R,D) estimates -> mean of ‖multiplier · ĝ − g‖², its standard error; ‖g‖ = 1"""
    squares = ((multiplier * each - target) ** 2).sum(axis=1)
    return squares.mean(), squares.std() / np.sqrt(len(each))


def variance(each):
    return ((each - each.mean(axis=0)) ** 2).sum() / (len(each) - 1)


as_it_comes = {name: error(each)[0] for name, each in at_16.items()}

# %% [markdown]
# <details><summary>RLOO: an unbiased one, and of these the one with the least variance</summary>
#
# Not by the first measure that comes to mind: how far from the exact gradient does one step land? The mean squared
# distance is {{as_it_comes["RLOO"]:.2f}} of the gradient's squared length for RLOO, hardly better than a gradient of zero,
# whose error is 1. For Gumbel-softmax at $\tau = 1$ it is {{as_it_comes["Gumbel-softmax, τ = 1"]:.2f}}. But read on: this
# is not the last word.
#
# </details>
# <details><summary>Gumbel-softmax at τ = 1: the ring is off, but the cloud is small</summary>
#
# Taken as they come, yes. The mean squared distance from the exact gradient is
# {{as_it_comes["Gumbel-softmax, τ = 1"]:.2f}} of its squared length, for RLOO {{as_it_comes["RLOO"]:.2f}}: a biased
# estimate that is nearer than an unbiased one. But read on: this is not the last word.
#
# </details>
# <details><summary>Importance weights: the smallest cloud of all</summary>
#
# Small, and at zero: the error is {{as_it_comes["importance weights"]:.2f}} of the gradient's squared length, that of
# no gradient at all.
#
# </details>

# %% [markdown]
# ## An error, and the length of a step
#
# This mean squared distance, the *mean squared error*, is variance plus squared bias. (The errors in the tables above are
# its square root.) So much for a step which takes the estimate as it comes. But no step has to: a learning rate $\lambda$
# multiplies it, and learning rates are chosen. The mean squared error of $\lambda \hat{g}$ is a parabola in $\lambda$,
#
# $$
# \mathbb{E}\|\lambda \hat{g} - g\|^2 = \lambda^2 \, \mathbb{E}\|\hat{g}\|^2 - 2 \lambda \, \mathbb{E}[\hat{g} \cdot g] +
# \|g\|^2 , \quad \text{least at} \quad \lambda = \frac{\mathbb{E}[\hat{g} \cdot g]}{\mathbb{E}\|\hat{g}\|^2} .
# $$


# %%
def best_multiplier(each):
    return (each @ target).mean() / (each**2).sum(axis=1).mean()


def compared(each):
    """-> variance, squared bias, error as it comes, best multiplier, error with it"""
    raw, best = error(each), best_multiplier(each)
    return variance(each), raw[0] - variance(each), raw, best, error(each, best)


found = {16: {name: compared(each) for name, each in at_16.items()}}

# %% tags=["fold"]
table(
    ("n = 16", "variance", "bias²", "squared error as it comes", "best multiplier", "squared error with it"),
    [
        (
            name,
            f"{v:.2g}",
            f"{round(b2, 2) + 0.0:.2f}",
            "{:.2f} ± {:.2f}".format(*raw),
            f"{best:.2f}",
            "{:.2f} ± {:.2f}".format(*scaled),
        )
        for name, (v, b2, raw, best, scaled) in found[16].items()
    ],
)
raw = {name: row[2][0] for name, row in found[16].items()}
scaled = {name: row[4][0] for name, row in found[16].items()}
soft = "Gumbel-softmax, τ = 1"

# %% [markdown]
# As they come, Gumbel-softmax at $\tau = 1$ has the least error, {{raw[soft]:.2f}}, and the unbiased REINFORCE
# ({{raw["REINFORCE"]:.1f}}) and reward to go ({{raw["reward to go"]:.1f}}) are further off than a gradient of zero, whose
# error is 1. But that only says that such steps are too long for their noise. At its best multiplier no estimate is worse
# than none (the multiplier 0 would be allowed): REINFORCE has {{scaled["REINFORCE"]:.2f}}, reward to go
# {{scaled["reward to go"]:.2f}}. RLOO, at {{found[16]["RLOO"][3]:.2f}} of its length, has {{scaled["RLOO"]:.2f}}, and
# Gumbel-softmax, which hardly gains, {{scaled[soft]:.2f}}: RLOO is now level, or a little ahead. Nearly all that is
# left of Gumbel-softmax's error is one of *direction*, and that no multiplier mends. (A multiplier below 1 makes RLOO biased: a
# biased estimator, and the better one. Importance weights would need {{found[16]["importance weights"][3]:.0f}} times
# their length, and point almost at a right angle even then.)

# %% tags=["check"]
assert min(raw, key=raw.get) == soft
assert min(raw["REINFORCE"], raw["reward to go"]) > 1
assert max(scaled.values()) < 1
assert abs(scaled["RLOO"] - scaled[soft]) < 0.1
assert scaled["importance weights"] > 0.98

# %%
sizes = (4, 16, 64)
for n in (4, 64):
    more = repeated(n, times=full_or_fast(100, 10))
    found[n] = {name: compared(each) for name, each in more.items()}
raw_at = {name: [found[n][name][2] for n in sizes] for name in at_16}
scaled_at = {name: [found[n][name][4] for n in sizes] for name in at_16}

# %% tags=["fold"]
v = found[16]["RLOO"][0]  # falls as 1/n; so where does RLOO's error pass Gumbel-softmax's?
crossing = 16 * v / found[64][soft][1]  # v · 16/n = bias²
crossing_scaled = 16 * v * (1 - scaled[soft]) / scaled[soft]  # with u = v · 16/n: u/(1 + u) = the other's
sampling.draw_errors(sizes, raw_at, scaled_at)

# %% [markdown]
# Solid lines are unbiased, and as they come they fall about as $1/n$ for ever. Gumbel-softmax levels out at its squared
# bias. So the answer depends on $n$: with 4 samples Gumbel-softmax at $\tau = 1$ is ahead of RLOO in both pictures
# ({{raw_at[soft][0][0]:.2f}} against {{raw_at["RLOO"][0][0]:.1f}} above, {{scaled_at[soft][0][0]:.2f}} against
# {{scaled_at["RLOO"][0][0]:.2f}} below), with 64 it is behind in both ({{raw_at[soft][2][0]:.2f}} against
# {{raw_at["RLOO"][2][0]:.2f}}, {{scaled_at[soft][2][0]:.2f}} against {{scaled_at["RLOO"][2][0]:.2f}}). As they come, they
# cross near {{crossing:.0f}} samples, at their best multipliers near {{crossing_scaled:.0f}}. And what is done with the
# steps matters, too: an optimizer averages over them, which removes noise and keeps bias (exercise 5).
# (`estimators.study` measures the errors above for any model.)

# %% tags=["check"]
for errors in (raw_at, scaled_at):
    assert errors[soft][0][0] < errors["RLOO"][0][0]
    assert errors[soft][2][0] > errors["RLOO"][2][0]
assert 6 < crossing_scaled < 16 < crossing < 64, (crossing_scaled, crossing)

# %% [markdown]
# This is one model, before training. Later, impossible sentences become rare. A rare event with a large cost is bad for
# sampling: most batches do not see it, and those that do are thrown far off. Take tables that hardly ever say "here"
# after a noun, blended with less and less of the uniform distribution: better and better models. How many samples
# does RLOO need? (With the mean cost as baseline, computed exactly, as above.)

# %%
counted = counts / counts.sum(axis=1, keepdims=True)
counted[1:3, 3] *= 0.02  # hardly ever "here" after a noun
counted /= counted.sum(axis=1, keepdims=True)


def samples_needed(accuracy):
    """For the model as it is -> impossible share of Q, KL(Q‖P), samples for that relative error"""
    Q, C = np.exp(mm.exact.log_prob(model, every)), costs(every).sum(axis=1)
    each = (C - Q @ C)[:, None] * each_alone(np.ones((len(every), 1)))
    exact = Q @ each
    variance = (Q @ (each**2).sum(axis=1) - exact @ exact) / (exact @ exact)
    return Q[~valid].sum(), Q @ C, variance / accuracy**2


better = {}
for share in (0.5, 0.1, 0.01, 0.001):
    model.params["logits"][:] = np.log((1 - share) * counted + share / V)
    better[share] = samples_needed(0.01)
model.params["logits"][:] = z

# %% tags=["fold"]
table(
    ("share of uniform in Q", "impossible under P", "KL(Q‖P), nats", "samples for an error of 1 %"),
    [(f"{share:g}", f"{bad:.1%}", f"{kl:.2f}", f"{needed:,.0f}") for share, (bad, kl, needed) in better.items()],
)

# %% tags=["check"]
samples = [needed for _, _, needed in better.values()]
assert samples == sorted(samples)

# %% [markdown]
# The better these models get, the more samples it takes to see how they are still wrong. The exact gradient costs the
# same throughout.
#
# > **The same in RLHF.** Where a language model is trained on human feedback, a penalty $\mathrm{KL}(Q\|P)$ keeps it near
# > a reference model $P$. Three estimates of this penalty are in use, k1, k2 and k3. As *values* two of them are
# > unbiased; differentiated as losses, these two have the wrong gradient. [Estimating a KL divergence](estimating_kl.md)
# > works that out with the tools of this lesson.
#
# ## Summary
#
# - Pathwise gradients follow each draw, score-function gradients reweight draws. For tokens, which are steps, pathwise
#   sees nothing.
# - REINFORCE: lesson 4's list, sampled. Reward to go drops what was paid before; RLOO subtracts what the others
#   paid. All are unbiased.
# - Gumbel-softmax differentiates a soft choice: at large $\tau$ little variance, and a bias that in sequences did not
#   die with $\tau$.
# - Importance weights on samples of $P$ cannot see what $P$ never does. MixCE's $q_t$ is not an importance weight.
# - That an estimate has the right mean says nothing about the mean of its derivative ([k1 to k3](estimating_kl.md)).
# - Mean squared error is variance plus squared bias, and it depends on the length of the step. Taken as they come, a
#   biased estimator had the least with 16 samples; each with its best multiplier, it was level with RLOO; with many
#   samples an unbiased one has the least either way.
#
# ## Exercises
#
# 1. *Pencil.* Show that $\mathbb{E}_Q[b \nabla \log Q] = 0$ for a constant $b$, and that with a baseline that
#    *includes* the sample's own cost (the mean over all $n$), the estimator's mean is $(n-1)/n$ of the gradient.
# 2. *Code.* Which constant $b$ makes the variance of REINFORCE least on `agreement()`? Is it the mean cost?
# 3. *Code.* Combine reward to go and RLOO: at each position, subtract the mean of the other samples' costs from
#    there on. Is it unbiased? Is its variance, estimated from repeated draws of 16, lower than RLOO's?
# 4. *Pencil, then code.* Show that reward to go stays unbiased if one subtracts, at each position, any number $b(h)$
#    that depends on the tokens before. With $b(h) = U(h)$, lesson 4's cost to go, what is the mean of $a_t$ given $h$
#    and the token? How much of the variance is left on `agreement()`?
# 5. *Pencil, then code.* An optimizer averages over steps. Suppose that over $m$ steps of 16 samples the model hardly
#    moves. What is the error of the mean of $m$ estimates, as it comes and at its best multiplier? From which $m$ on is
#    RLOO ahead of Gumbel-softmax at $\tau = 1$?
#
# ## Solutions

# %% [markdown] tags=["solution"]
# **Solution 1.** $\mathbb{E}_Q[\nabla \log Q] = \sum_x Q \nabla Q / Q = \nabla \sum_x Q = \nabla 1 = 0$. With the
# mean over all $n$ as baseline, sample $i$ has the weight $(1 - 1/n) C(x_i)$, less the costs of the others over
# $n$. The others are independent of $x_i$ and contribute zero; what is left is
# $(1 - 1/n) \mathbb{E}[C \nabla \log Q]$.

# %% tags=["solution"]
half = C[:, None] / 2 - C / 2  # (156,156): C(x) less the mean of C(x) and C(y), for every pair
leave_in = np.einsum("x,y,xy,xd->d", Q, Q, half, score)  # n = 2, the gradient of one of the two
ratio = leave_in @ g.ravel() / (g**2).sum()

# %% [markdown] tags=["solution"]
# With $n = 2$, summed over all pairs, the mean is {{ratio:.3f}} of the gradient.

# %% tags=["check"]
assert np.allclose(leave_in, g.ravel() / 2)

# %% [markdown] tags=["solution"]
# **Solution 2.** The variance is $\mathbb{E}[(C - b)^2 s^2]$ up to a constant, with $s = \|\nabla \log Q(x)\|$. It
# is a parabola in $b$, least at $b = \mathbb{E}[C s^2] / \mathbb{E}[s^2]$: a mean cost, but with long gradients
# counted more.

# %% tags=["solution"]
s2 = (score**2).sum(axis=1)
best_b = Q @ (C * s2) / (Q @ s2)
variances = {b: moments((C - b)[:, None] * score, Q)[1] for b in (0.0, float(KL), best_b)}

# %% [markdown] tags=["solution"]
# The variance over $\|g\|^2$ is {{", ".join(f"{v:.1f} with a baseline of {b:.1f} nats" for b, v in variances.items())}}.
# The last is the best; the mean cost, the second, comes close.

# %% tags=["check"]
assert min(variances, key=variances.get) == best_b

# %% [markdown] tags=["solution"]
# **Solution 3.** Unbiased for the same two reasons: what was paid before is left out, and the others are
# independent. A sample that has ended pays 0 from there on, and counts as such. It is nearer to lesson 4's bracket,
# but the mean of the others is $U$ averaged over *all* prefixes of that length, where the bracket has the $U$ of
# this one. In this world the two variances differ by little, if at all.


# %% tags=["solution"]
def both(rows):
    a = to_go(costs(rows))
    return weighted(rows, a - (a.sum(axis=0) - a) / (len(rows) - 1))


def rloo(rows):
    a = costs(rows).sum(axis=1, keepdims=True)
    return weighted(rows, a - (a.sum() - a) / (len(rows) - 1))


draws = [estimators.sample(model, 16, T, seed) for seed in range(full_or_fast(400, 50))]
lines = []
for name, estimator in {"both": both, "RLOO": rloo}.items():
    each = np.array([estimator(rows).ravel() for rows in draws])
    squares = ((each - each.mean(axis=0)) ** 2).sum(axis=1) / (g**2).sum()
    away = np.linalg.norm(each.mean(axis=0) - g.ravel()) / np.linalg.norm(g)
    by_chance = np.sqrt(squares.mean() / len(each))
    spread = squares.std() / np.sqrt(len(each))
    lines.append((name, f"{squares.mean():.2f} ± {spread:.2f}", f"{away:.2f}", f"{by_chance:.2f}"))

# %% [markdown] tags=["solution"]
# {{as_markdown(["n = 16", "variance / ‖g‖²", "the mean's distance from g / ‖g‖", "to expect by chance"], lines)}}

# %% [markdown] tags=["solution"]
# **Solution 4.** Given $h$, $b(h)$ is a constant, and $\mathbb{E}[\nabla \log q_t] = 0$ given $h$, as in solution 1; so
# the product has mean zero. With $b = U$ the mean of $a_t$, given $h$ and the token $v$, is the token's own cost, plus
# what is paid after it on average, minus $U(h)$: lesson 4's bracket $c(v|h) + U(hv) - U(h)$. So each token's weight is
# its advantage, with the sign turned, plus noise from later tokens. Here that helps little: what makes the variance is
# not that one does not know what is usual, but that the dear sequences are drawn rarely.

# %% tags=["solution"]
U, a = np.zeros_like(c), to_go(c)
for t in range(T - 1):
    prefixes = [tuple(row[: t + 1]) for row in every]
    for h in set(prefixes):
        through = np.array([prefix == h for prefix in prefixes])
        U[through, t] = Q[through] @ a[through, t] / Q[through].sum()
with_U = moments(each_alone(a - U), Q)

# %% [markdown] tags=["solution"]
# The bias is {{with_U[0]:.6f}}; the variance over $\|g\|^2$ is {{with_U[1]:.1f}}. Without baseline it was
# {{moments(each_alone(a), Q)[1]:.1f}}, with the mean cost as baseline of whole sequences {{variances[float(KL)]:.1f}}.

# %% tags=["check"]
assert np.isclose(U[0, 0], KL)
assert with_U[0] < 1e-12
assert 0.8 * variances[float(KL)] < with_U[1] < variances[float(KL)]

# %% [markdown] tags=["solution"]
# **Solution 5.** The variance is divided by $m$, the bias stays. As it comes the error is $v/m + b^2$. For the best
# multiplier, $\mathbb{E}[\hat{g} \cdot g] = s$ does not change and $\mathbb{E}\|\hat{g}\|^2$ becomes
# $v/m + \|\mathbb{E}\hat{g}\|^2$; the least error is $1 - s^2 / \mathbb{E}\|\hat{g}\|^2$ in squared lengths of $g$. Without
# bias $s = 1$, and it is $(v/m) / (1 + v/m)$.


# %% tags=["solution"]
def averaged(name, m):
    """-> error of the mean of m estimates as it comes, and at its best multiplier"""
    v, b2, *_ = found[16][name]
    s = (at_16[name] @ target).mean()
    square_of_mean = b2 + 2 * s - 1  # ‖Eĝ‖², from b² = ‖Eĝ − g‖²
    return v / m + b2, 1 - s**2 / (v / m + square_of_mean)


ms = (1, 2, 4, 16, 64)
by_m = {m: [*averaged("RLOO", m), *averaged(soft, m)] for m in ms}
lines = [[m, *(f"{e:.2f}" for e in numbers)] for m, numbers in by_m.items()]

# %% [markdown] tags=["solution"]
# {{as_markdown(["m", "RLOO as it comes", "at its best", "Gumbel-softmax as it comes", "at its best"], lines)}}
#
# As they come, RLOO is ahead from two steps on; at their best multipliers it is level with Gumbel-softmax or a little
# ahead in a single step, and far ahead from two on. Averaging does next to nothing for Gumbel-softmax, because noise was
# never its trouble. (At large $m$ the numbers of RLOO hold what bias chance has left in {{len(at_16["RLOO"])}} repeats.)

# %% tags=["check"]
assert by_m[1][0] > by_m[1][2]
assert all(numbers[0] < numbers[2] and numbers[1] < numbers[3] for m, numbers in by_m.items() if m > 1)

# %% [markdown]
# Next: [lesson 6, the approximation](6_the_approximation.ipynb): from the reverse cross-entropy to a loss that
# needs neither $P$ nor samples of $Q$.
