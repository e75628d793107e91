# %% [markdown]
# # 5 When you can only sample
#
# *Reading: 30 minutes. Computing: 30 seconds on a laptop. Before this:
# [lesson 4](4_the_exact_reverse_gradient.ipynb); mean and variance of a random number.*
#
# **At the end you will know**
#
# - two ways to differentiate an average over something that is drawn, and why tokens allow only one of them;
# - REINFORCE, reward to go and RLOO, each written in one line and derived from lesson 4;
# - what Gumbel-softmax and importance weights do instead, and what they miss;
# - how to compare such estimators: by their error at the number of samples you can pay, not by bias alone;
# - what becomes of three estimates of KL, k1, k2 and k3, when they are differentiated, as in RLHF (reinforcement
#   learning from human feedback).

# %%
import numpy as np

import minimixce as mm
from minimixce import estimators
from minimixce.lessons import P_COLOR, Q_COLOR, figure, full_or_fast, oranges, say, show, source, table

# %% [markdown]
# ## Begin with one number
#
# Let $x = \mu + \epsilon$ with $\epsilon$ standard normal, and let $J(\mu) = \mathbb{E}[f(x)]$. How does $J$ change
# with $\mu$, if all you can do is draw? There are two roads.
#
# **Pathwise.** Keep the noise $\epsilon$ and move $\mu$: every draw moves along. So differentiate $f$ at each draw,
#
# $$
# \frac{dJ}{d\mu} = \mathbb{E}[ f'(\mu + \epsilon) ] .
# $$
#
# **Score function.** Keep the draw $x$ and ask how its *probability density* $p_\mu(x)$ changes. Since
# $p' = p (\log p)'$,
#
# $$
# \frac{dJ}{d\mu} = \int f(x) \frac{d p_\mu(x)}{d\mu} dx = \mathbb{E}\left[ f(x) \frac{d \log p_\mu(x)}{d\mu} \right] =
# \mathbb{E}[ f(x) (x - \mu) ] .
# $$
#
# The derivative of $\log p_\mu(x)$ in $\mu$ is called the *score*; here it is $x - \mu$. The first road looks at the
# slope of $f$, the second only at its value. Take $f(x) = x^2$ at $\mu = 1$, where $J = \mu^2 + 1$ and the exact
# derivative is $2\mu = 2$.

# %%
mu, epsilon = 1.0, np.random.default_rng(0).standard_normal(100_000)
x = mu + epsilon
roads = {"pathwise": 2 * x, "score function": x**2 * (x - mu), "score function, f + 10": (x**2 + 10) * (x - mu)}
table(
    ("estimate from one draw", "mean", "standard deviation", "draws for an error of 1 %"),
    [(name, f"{d.mean():.2f}", f"{d.std():.1f}", f"{d.var() / 0.02**2:,.0f}") for name, d in roads.items()],
)
for d in roads.values():
    assert abs(d.mean() - 2) < 5 * d.std() / np.sqrt(len(d))


# %%
def draw_roads(n=16):
    fig = figure(7.5, 2.9)
    bins = np.linspace(-12, 16, 113)
    for ax, (name, d) in zip(fig.subplots(1, 3, sharey=True), roads.items()):
        ax.hist(d.reshape(-1, n).mean(axis=1), bins, color=Q_COLOR, histtype="stepfilled")
        ax.axvline(2, color="black", linewidth=1.2)
        ax.set(title=name, xlabel=f"estimate from {n} draws", yticks=[])
    return fig


show(
    draw_roads(),
    "Three unbiased estimates around the exact derivative: pathwise narrow, score function wide, wider for f + 10",
)

# %% [markdown]
# All three are *unbiased*: their mean is the derivative (the black line). They differ in variance. Adding a constant to
# $f$, which moves no derivative, makes the score function much worse: it multiplies a noise of mean zero, $x - \mu$,
# by a larger number. In lesson 4 such a constant changed nothing, because there nothing was noise.
#
# > **Predict.** Now let $f$ be a step, 1 where $x > 0$ and 0 elsewhere. $J(\mu)$ is the probability of $x > 0$, a
# > smooth curve. Which of the two roads still leads to its derivative?

# %% tags=["reveal"]
exact = np.exp(-(mu**2) / 2) / np.sqrt(2 * np.pi)  # the normal density at the step
step = (x > 0).astype(float)
slope_of_the_step = np.zeros_like(x)  # wherever it has one
score = step * (x - mu)
assert abs(score.mean() - exact) < 5 * score.std() / np.sqrt(len(x))
say(f"""Only the score function: {score.mean():.3f}, exactly {exact:.3f}. The pathwise estimate is
{slope_of_the_step.mean():.0f} in every draw, with no variance at all and entirely wrong. All that matters is that a draw
may *cross* the step, and a slope does not show that.""")

# %% [markdown]
# ## A token is a step
#
# Drawing a token is such a step. It can be written like the Gaussian, with noise kept apart: if $\epsilon$ is *Gumbel
# noise*, $-\log(-\log u)$ of a uniform $u$ for each token, the token $\mathrm{argmax}(\mathrm{logits} + \epsilon)$ has
# exactly the probabilities $\mathrm{softmax}(\mathrm{logits})$. Move the logits a little and, for nearly all noise,
# the token does not change at all. That leaves two roads: take the score function and fight its variance (REINFORCE
# and what follows), or soften the step and accept an error (Gumbel-softmax).
#
# Back to `agreement()`, to the table of lesson 4 and to $\mathrm{KL}(Q\|P)$. There we can list all sequences, so we know
# the exact gradient $g$, and can even compute mean and variance of an estimator without drawing.

# %%
world, T = mm.worlds.agreement(), 4
V = world.vocab_size
counts = mm.exact.bigram_counts(world, T)
z = np.log(0.94 * counts / counts.sum(axis=1, keepdims=True) + 0.06 / V)  # (V,V) logits, as in lesson 4
model = mm.TableBigram(V)
model.params["logits"][:] = z
KL, grads = mm.exact.loss_and_grads(model, world, T, objective="reverse_kl")
g = grads["logits"]  # (V,V), the exact gradient

# %% [markdown]
# ## REINFORCE
#
# Write $\nabla$ for the gradient in all parameters. Lesson 4's list says
# $\nabla L = \sum_x Q(x) C(x) \nabla \log Q(x)$, where $C(x) = \log Q(x) - \log P(x)$ is the cost of a whole sequence.
# (The moving of $\log Q$ inside $C$ averages to zero.) That is an average over $Q$. Draw $x_1, \dots, x_n$ from $Q$
# and take the mean:
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
    """rows (n,T+1) of samples, a (n,T−1) or (n,1) a number for each of their tokens -> the formula above, (V,V)"""
    inputs, targets = world.batch(rows)
    q = np.exp(mm.logprob.log_softmax(model.params["logits"]))
    a, dz = np.broadcast_to(a, targets.shape), np.zeros((V, V))
    for i, t in zip(*np.nonzero(targets >= 0)):
        last, token = inputs[i, t], targets[i, t]
        dz[last] += a[i, t] * (np.eye(V)[token] - q[last])
    return dz / len(rows)


def costs(rows):
    """c_t = log q_t − log p_t of each token, 0 after the end -> (n,T−1)"""
    inputs, targets = world.batch(rows)
    log_q = mm.logprob.log_softmax(model.params["logits"])
    return np.where(targets >= 0, log_q[inputs, targets] - world.token_log_probs(rows, floored=True), 0)


def to_go(c):
    """c (n,T−1) -> the sums from each t to the end, (n,T−1)"""
    return c[:, ::-1].cumsum(axis=1)[:, ::-1]


# %% [markdown]
# ## Reward to go, and a baseline
#
# In lesson 4 the bracket at a prefix was $c + U(hv) - U(h)$: *costs from here on*, compared with *what is usual
# here*. REINFORCE has neither. Give it one or the other.
#
# **Reward to go.** What was paid before a token does not depend on it. Given the tokens before, $\nabla \log q_t$
# has mean zero, so the product of the two has mean zero. Leave it out: $a_t = \sum_{s \ge t} c_s$, where $c_s$ is the
# cost of token $s$. The mean stays, and the variance, as a rule, falls.
#
# **Baseline.** Subtract from each cost a number $b$ that does not depend on the sample: the mean stays, since
# $\mathbb{E}[b \nabla \log Q] = 0$, and with $b$ near the mean cost the variance, as a rule, falls. RLOO, *REINFORCE
# leave-one-out* (Kool et al., 2019), takes for each sample the mean of *the others*. Its own cost must not enter: a
# baseline that moves with the sample would bias the gradient.

# %%
rows = estimators.sample(model, 16, T, seed=0)
c = costs(rows)
C = c.sum(axis=1, keepdims=True)  # (n,1)
a = {
    "reinforce": C,
    "reward_to_go": to_go(c),
    "rloo": C - (C.sum() - C) / (len(C) - 1),
}
for name, numbers in a.items():
    _, grads = getattr(estimators, name)(model, world, rows, objective="reverse_kl")
    assert np.allclose(weighted(rows, numbers), grads["logits"])

# %% [markdown]
# The package's own lines, for any model. `s.backward(weights)` is the formula with $a$, in the logits, and from
# there the model's backward. (The lines about js serve another divergence.)

# %%
source(estimators.reinforce, estimators.reward_to_go, estimators.rloo)

# %% [markdown]
# ## Mean and variance, without statistics
#
# An estimate from one sample $x$ is a function of it, $\hat{g}(x)$. In a small world we can go through all of them: the
# mean is $\sum_x Q(x) \hat{g}(x)$, the variance $\sum_x Q(x) \|\hat{g}(x)\|^2 - \|\mathbb{E} \hat{g}\|^2$. For RLOO with
# $n = 2$, all pairs.

# %%
every = mm.exact.sequences(V, T)  # (156,T+1)
P, Q, c = np.exp(world.log_prob(every)), np.exp(mm.exact.log_prob(model, every)), costs(every)
valid, C = P > 0, c.sum(axis=1)


def each_alone(a):
    """a (156,T−1) or (156,1) -> the estimate from each sequence alone, (156,36)"""
    return np.array([weighted(every[i : i + 1], a[i : i + 1]).ravel() for i in range(len(every))])


def moments(each, weights):
    """each (m,36) estimates, weights (m,) their probabilities -> bias/‖g‖, variance/‖g‖²"""
    mean = weights @ each
    variance = weights @ (each**2).sum(axis=1) - mean @ mean
    return np.linalg.norm(mean - g.ravel()) / np.linalg.norm(g), variance / (g**2).sum()


# %%
score = each_alone(np.ones((len(every), 1)))  # ∇log Q(x)
first, second = np.divmod(np.arange(len(every) ** 2), len(every))  # all pairs
pairs = 0.5 * (C[first] - C[second])[:, None] * (score[first] - score[second])
found = {
    "reinforce": moments(C[:, None] * score, Q),
    "reward_to_go": moments(each_alone(to_go(c)), Q),
    "rloo, n = 2": moments(pairs, Q[first] * Q[second]),
    "baseline = mean cost": moments((C - KL)[:, None] * score, Q),
}

# %%
table(
    ("estimator", "bias / ‖g‖", "variance of one estimate / ‖g‖²", "samples for an error of 10 %"),
    [
        (name, f"{bias:.0e}", f"{variance:.1f}", f"{(2 if 'n = 2' in name else 1) * variance / 0.1**2:,.0f}")
        for name, (bias, variance) in found.items()
    ],
)
assert max(bias for bias, _ in found.values()) < 1e-12
assert found["baseline = mean cost"][1] < found["reward_to_go"][1] < found["reinforce"][1]
needed = found["baseline = mean cost"][1]
low, high, bad = C[valid].min(), C[valid].max(), C[~valid].min()
say(f"""No bias, to the last digit. But one sample's variance is dozens of times the squared length of what it
estimates: even with the mean cost as baseline, which is what RLOO tends to with many samples, {needed:.0f} samples
have an error as large as the gradient itself, and an error of 1 % takes {needed / 0.01**2:,.0f}. The reason is in
the costs: of possible sequences from {low:.1f} to {high:.1f} nats, of impossible ones {bad:.0f} and more. (An RLOO
baseline from one other sample is itself noise; with more it gets better.)""")
assert bad > 50
assert max(abs(low), abs(high)) < 5

# %% [markdown]
# ## Gumbel-softmax
#
# The other road. Keep the hard choice $\mathrm{argmax}(\mathrm{logits} + \epsilon)$ on the way forward, and on the way
# back pretend that it had been $\mathrm{softmax}((\mathrm{logits} + \epsilon) / \tau)$, which has a slope. This is called
# *straight-through*; $\tau$ is a temperature, and for $\tau \to 0$ the softmax becomes the choice. First for a
# single token with a cost $c_v$ for each $v$: the pretended choice costs $\sum_v \mathrm{soft}_v c_v$, so the
# gradient is lesson 3's softmax backward, divided by $\tau$.

# %%
source(mm.layers.softmax_backward)

logits, cost = np.log([0.6, 0.3, 0.1]), np.array([1.0, 2.0, 30.0])
q = np.exp(logits)
exact_one = q * (cost - q @ cost)  # lesson 4's, with one token to draw
noise = np.random.default_rng(0).gumbel(size=(full_or_fast(100_000, 20_000), 3))
chosen = np.eye(3)[(logits + noise).argmax(axis=1)]
assert np.allclose(chosen.mean(axis=0), q, atol=0.01)  # argmax of logits + noise does sample softmax(logits)
single = {"score function, mean baseline": ((chosen @ cost) - q @ cost)[:, None] * (chosen - q)}
for tau in (2.0, 1.0, 0.5, 0.1):
    soft = mm.layers.softmax_forward((logits + noise) / tau)
    single[f"Gumbel-softmax, τ = {tau:g}"] = mm.layers.softmax_backward(np.tile(cost, (len(noise), 1)), soft[1]) / tau
scale = np.linalg.norm(exact_one)

# %%
one_token = {
    name: (np.linalg.norm(d.mean(axis=0) - exact_one) / scale, np.sqrt(d.var(axis=0).sum()) / scale)
    for name, d in single.items()
}
table(
    ("one token, one draw; over ‖g‖", "bias", "sampling error of the bias", "standard deviation"),
    [(name, f"{bias:.3f}", f"{sd / np.sqrt(len(noise)):.3f}", f"{sd:.2f}") for name, (bias, sd) in one_token.items()],
)
assert one_token["Gumbel-softmax, τ = 2"][0] > one_token["Gumbel-softmax, τ = 0.5"][0]
assert one_token["Gumbel-softmax, τ = 2"][1] < one_token["Gumbel-softmax, τ = 0.1"][1]

# %% [markdown]
# High $\tau$: little variance, much bias. Low $\tau$: the reverse. For one token the bias dies with $\tau$.
#
# For sequences it need not. Derivatives do flow back from later tokens to earlier ones, through the next input of the
# model, but only as slopes at the token that was chosen: a linear guess at what *another* token would have led to. And
# the *world* moves to another state with each token, too; through its state nothing flows back, here as in the MixCE
# paper's code. So part of lesson 4's $U(hv)$ is missing, whatever $\tau$, and what remains leans towards the
# token-level gradient. `estimators.gumbel` does all this for any model.

# %%
token_level = Q @ each_alone(c)  # lesson 4's, with the model's prefixes


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


lines, batches = [], [estimators.gumbel_noise(full_or_fast(20_000, 2_000), T, V, seed) for seed in range(5)]
for tau in (1.0, 0.5, 0.25):
    each = [estimators.gumbel(model, world, noise, objective="reverse_kl", tau=tau)[1]["logits"].ravel() for noise in batches]
    mean, error = np.mean(each, axis=0), np.sqrt(np.var(each, axis=0, ddof=1).sum() / len(each)) / np.linalg.norm(g)
    bias = np.linalg.norm(mean - g.ravel()) / np.linalg.norm(g)
    lines.append((tau, bias, error, cosine(mean, g.ravel()), cosine(mean, token_level)))
    assert bias > 0.5
    assert lines[-1][-1] > lines[-1][-2]
table(
    ("τ, whole sequences", "bias / ‖g‖", "its sampling error", "cosine to g", "cosine to the token-level gradient"),
    [(f"{tau:g}", *(f"{number:.2f}" for number in numbers)) for tau, *numbers in lines],
)

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
by_weights = np.array(
    [estimators.importance(model, world, x[None], objective="reverse_kl")[1]["logits"].ravel() for x in every[valid]]
)
importance_bias, importance_variance = moments(by_weights, P[valid])
say(f"""The bias is {importance_bias:.2f} of the length of the gradient, the variance {importance_variance:.1e} of its
square: the estimate is very sure, and nearly zero. Samples of P cannot show what P never does.""")
assert importance_bias > 0.9

# %% [markdown]
# > **Predict.** MixCE trains on samples of $P$ and multiplies the gradient of each token by $q_t$ (at $\eta = 0$;
# > in [lesson 6](6_the_approximation.ipynb) you will see why). Samples of $P$, weights that contain $Q$: is that
# > importance weighting? Test your answer on a $Q$ that equals $P$. What should importance weights be there, and
# > what is $q_t$?

# %% tags=["reveal"]
p = np.array([0.5, 0.25, 0.15, 0.07, 0.03])
q = p.copy()  # the model is already right
token = np.arange(1, 6)
weights = {"P": p, "importance weight Q/P": q / p, "MixCE's weight q": q}
table(("token", *token), [(name, *(f"{number:.2f}" for number in numbers)) for name, numbers in weights.items()])
other_q = p[::-1]  # and a Q that is not P
by_ratio, by_mixce = (p @ (w * token) / (p @ w) for w in (other_q / p, other_q))  # the mean token number over P, weighted
assert np.isclose(by_ratio, other_q @ token)
assert abs(by_mixce - other_q @ token) > 0.5
say(f"""No. At Q = P importance weights are all 1, because there is nothing to exchange; MixCE's are not, and have
nothing of P in them. And where Q is not P, importance weights turn an average over P into the average over Q. Take
the probabilities in reverse order as Q, and the mean token number, {p @ token:.2f} under P and {other_q @ token:.2f}
under Q. Weighted by Q/P, P's tokens give {by_ratio:.2f}. Weighted by MixCE's q they give {by_mixce:.2f}, which is
neither. The samples stay samples of P; the weights change what is minimised.""")

# %% [markdown]
# ## Clouds around the exact gradient
#
# Now a model with a memory: a small transformer, before training. Its gradient has thousands of coordinates, so look
# at the estimates in two directions: *along* the exact gradient, and *across* it, the way in which the token-level
# gradient leaves it (found with samples of its own). Units are the length of the exact gradient: a perfect estimate
# sits at (1, 0), a gradient of zero at (0, 0).

# %%
gpt = mm.GPT(mm.GPTConfig(V, block_size=T - 1, n_layer=2, n_head=2, n_embd=32), seed=0, device="cpu")


def flat(grads):
    return np.concatenate([grad.reshape(-1) for grad in grads.values()]).astype(float)


def estimates(n, seed):
    """One estimate each from n samples -> {name: (D,)}"""
    rows, noise = estimators.sample(gpt, n, T, seed), estimators.gumbel_noise(n, T, V, seed)
    of = {"objective": "reverse_kl"}
    found = {
        "REINFORCE": estimators.reinforce(gpt, world, rows, **of),
        "reward to go": estimators.reward_to_go(gpt, world, rows, **of),
        "RLOO": estimators.rloo(gpt, world, rows, **of),
        "importance weights": estimators.importance(gpt, world, world.sample(n, T, seed), **of),
        "Gumbel-softmax, τ = 1": estimators.gumbel(gpt, world, noise, tau=1.0, **of),
        "Gumbel-softmax, τ = 0.1": estimators.gumbel(gpt, world, noise, tau=0.1, **of),
        "k2 per token": estimators.k2(gpt, world, rows, per="token"),
        "k3": estimators.k3(gpt, world, rows),
    }  # k2 and k3: below
    return {name: flat(grads) for name, (_, grads) in found.items()}


# %%
g_gpt = flat(mm.exact.loss_and_grads(gpt, world, T, objective="reverse_kl")[1])
length = np.linalg.norm(g_gpt)
along = g_gpt / length
across = flat(estimators.k2(gpt, world, estimators.sample(gpt, full_or_fast(20_000, 2_000), T, seed=10**6), per="token")[1])
across -= (across @ along) * along
across /= np.linalg.norm(across)
clouds = {}
for seed in range(full_or_fast(200, 10)):
    for name, estimate in estimates(16, seed).items():
        clouds.setdefault(name, []).append((estimate @ along / length, estimate @ across / length))
clouds = {name: np.array(points) for name, points in clouds.items()}


# %%
def draw_clouds():
    fig = figure(7.5, 4.6)
    axes = fig.subplots(2, 4, sharex=True, sharey=True)
    for ax, (name, points) in zip(axes.flat, clouds.items()):
        ax.axhline(0, color="0.85", linewidth=0.8, zorder=0)
        color = P_COLOR if name == "importance weights" else Q_COLOR  # whose samples they are
        ax.plot(*points.T, ".", color=color, alpha=0.4, markersize=5, markeredgewidth=0)
        ax.plot(1, 0, "+", color="black", markersize=13, markeredgewidth=2, label="exact gradient")
        ax.plot(*points.mean(axis=0), "o", color="none", markeredgecolor="black", markersize=8, label="mean of the estimates")
        ax.set_title(name, fontsize=9)
        ax.set(xlim=(-1.6, 3.6), ylim=(-2, 2))
    fig.supxlabel("along the exact gradient, in its lengths", fontsize=9)
    fig.supylabel("across", fontsize=9)
    handles = ax.get_legend_handles_labels()
    fig.legend(*handles, loc="outside upper center", ncols=2, fontsize=8)
    return fig


show(
    draw_clouds(),
    "Eight clouds of estimates: unbiased ones wide around the exact gradient, Gumbel-softmax small and beside it",
)

# %% [markdown]
# Every dot is an estimate from 16 samples. In the upper row REINFORCE, reward to go and RLOO have their rings on the
# cross (unbiased) and clouds of very different size. (The widest dots lie outside the frame.) Importance weights make
# a cloud so small that it fits into the ring, at zero. Below, Gumbel-softmax at $\tau = 1$ is small and beside the cross.
# The last two come later.
#
# > **Predict.** You can afford 16 samples a step. Which of the eight would you take? Is an unbiased one better than
# > a biased one?

# %% tags=["reveal"]
study = estimators.study(gpt, world, T, objective="reverse_kl", sizes=(4, 16, 64), repeats=full_or_fast(100, 10), seed=0)
at_16 = {row["estimator"]: row for row in study if row["n"] == 16}
table(
    ("n = 16", "mean squared error", "variance", "squared bias"),
    [
        (
            name,
            f"{row['mse']:.3g} ± {row['mse_se']:.1g}",
            f"{row['variance']:.2g}",
            f"{row['bias2']:.2g} ± {row['bias2_se']:.1g}",
        )
        for name, row in at_16.items()
    ],
)
unbiased = ("reinforce", "reward_to_go", "rloo", "k2")
best = min(at_16, key=lambda name: at_16[name]["mse"])
assert best == "gumbel τ=1"
assert all(at_16[name]["mse"] > at_16[best]["mse"] for name in unbiased)
say(f"""Not always. For one step it counts how far from the exact gradient you land, and the mean squared distance is
variance plus squared bias. At n = 16 the least is that of **{best}**, {at_16[best]["mse"]:.2f} of the gradient's squared
length, though its bias is {at_16[best]["bias"]:.2f} of the length. RLOO, the best of the unbiased, has
{at_16["rloo"]["mse"]:.2f}, and REINFORCE {at_16["reinforce"]["mse"]:.1f}: further off than a gradient of zero, whose
error is 1.""")


# %%
def draw_study(names=("reinforce", "reward_to_go", "rloo", "gumbel τ=1", "gumbel τ=0.1", "importance")):
    fig = figure(7.5, 3.6)
    ax = fig.subplots()
    colors = [*oranges(3), "#7a3e9d", "#b58ad0", P_COLOR]  # samples of Q by score, by a soft choice, samples of P
    for name, color in zip(names, colors):
        own = [row for row in study if row["estimator"] == name]
        style = "o-" if name in unbiased else "s--"
        y, bars = [row["mse"] for row in own], [row["mse_se"] for row in own]
        ax.errorbar([row["n"] for row in own], y, bars, fmt=style, color=color, capsize=2, label=name)
    ax.axhline(1, color="0.6", linewidth=0.8, zorder=0, label="a gradient of zero")
    ax.set(xscale="log", yscale="log", xlabel="samples n", ylabel="mean squared error / ‖g‖²")
    ax.set_xticks([4, 16, 64], ["4", "16", "64"])
    ax.minorticks_off()
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


show(
    draw_study(),
    "Error against samples: unbiased estimators fall about as 1/n, Gumbel-softmax flattens at its bias, and RLOO crosses it",
)

# %%
at_64 = {row["estimator"]: row for row in study if row["n"] == 64}
crossing = 16 * at_16["rloo"]["variance"] / at_64["gumbel τ=1"]["bias2"]
assert at_64["rloo"]["mse"] < at_64["gumbel τ=1"]["mse"]
say(f"""Solid lines are unbiased and fall about as 1/n for ever. Dashed ones level out at their squared bias. So the
answer depends on n: RLOO overtakes Gumbel-softmax near n = {crossing:.0f} (where its variance, extended from 16,
equals the other's squared bias), and at 64 it has {at_64["rloo"]["mse"]:.2f} against
{at_64["gumbel τ=1"]["mse"]:.2f}. And it depends on what is done with the steps. An optimizer averages over them,
which removes noise and keeps bias; and its learning rate mends an error of length, but not of direction
(exercise 5).""")

# %% [markdown]
# This is one model, before training. Later, impossible sentences become rare. A rare event with a large cost is bad for
# sampling: most batches do not see it, and those that do are thrown far off. Take tables that hardly ever say "here"
# after a noun, blended with less and less of the uniform distribution: better and better models. How many samples
# does RLOO need? (With the mean cost as baseline, computed exactly, as above.)

# %%
counted = counts / counts.sum(axis=1, keepdims=True)
counted[1:3, 3] *= 0.02  # hardly ever "here" after a noun
counted /= counted.sum(axis=1, keepdims=True)


def samples_needed(error):
    """for the model as it is -> P-impossible share of Q, KL(Q‖P), samples for that error relative to its gradient"""
    Q, C = np.exp(mm.exact.log_prob(model, every)), costs(every).sum(axis=1)
    each = (C - Q @ C)[:, None] * each_alone(np.ones((len(every), 1)))
    exact = Q @ each
    variance = (Q @ (each**2).sum(axis=1) - exact @ exact) / (exact @ exact)
    return Q[~valid].sum(), Q @ C, variance / error**2


lines = []
for share in (0.5, 0.1, 0.01, 0.001):
    model.params["logits"][:] = np.log((1 - share) * counted + share / V)
    lines.append((f"{share:g}", *samples_needed(0.01)))
model.params["logits"][:] = z
table(
    ("share of uniform in Q", "impossible under P", "KL(Q‖P), nats", "samples for an error of 1 %"),
    [(share, f"{bad:.1%}", f"{kl:.2f}", f"{needed:,.0f}") for share, bad, kl, needed in lines],
)
assert lines[-1][-1] > lines[0][-1]

# %% [markdown]
# The better these models get, the more samples it takes to see how they are still wrong. The exact gradient costs the
# same throughout.
#
# ## k1, k2 and k3
#
# > **The same algebra in RLHF.** A language model $Q$ is trained on a reward, and a penalty $\mathrm{KL}(Q\|P)$
# > keeps it near a reference model $P$, whose $\log P$ is known. The penalty is estimated from samples of $Q$. With
# > $r = P(x)/Q(x)$ three estimates of its *value* are in use: $k_1 = -\log r$ and $k_3 = r - 1 - \log r$, both with
# > mean $\mathrm{KL}(Q\|P)$, and $k_2 = (\log r)^2 / 2$, whose mean is another number. A popular practice is then
# > to treat the estimate as a *loss* and differentiate it, the samples held fixed.
# >
# > That leaves out how the samples come about, lesson 4's question again. As losses, per sequence, $a_t$ is 1 for
# > $k_1$ (mean gradient zero), $\log Q - \log P$ for $k_2$ (REINFORCE, in the mean exactly
# > $\nabla \mathrm{KL}(Q\|P)$), and $1 - r$ for $k_3$ (in the mean exactly $\nabla \mathrm{KL}(P\|Q)$, the *other*
# > divergence). Summed token by token, $k_2$ and $k_3$ miss what a token does to later ones. Tang and Munos (2025,
# > arXiv 2506.09477) found both mistakes, the differentiated estimate and the forgotten sequence, in papers and in
# > open-source code. What works is this lesson's way: $k_1$ of the sequence, or of the tokens to come, not as a loss
# > but as a cost in $a_t$. See [math §7](math.md#7-estimators).

# %%
other = mm.exact.loss_and_grads(model, world, T, objective="forward_kl")[1]["logits"].ravel()  # ∇KL(P‖Q)


def mean_of(estimator, **options):
    """of value (a number) and gradient (V·V,), over all sequences"""
    found = [estimator(model, world, x[None], **options) for x in every]
    return Q @ [float(value) for value, _ in found], Q @ np.array([grads["logits"].ravel() for _, grads in found])


means = {
    "k1": mean_of(estimators.k1),
    "k2": mean_of(estimators.k2),
    "k3": mean_of(estimators.k3),
    "k2 per token": mean_of(estimators.k2, per="token"),
    "k3 per token": mean_of(estimators.k3, per="token"),
}


def off(mean, target):
    return np.linalg.norm(mean - target) / np.linalg.norm(target)


# %%
table(
    ("as a loss", "mean value, nats", "length of the mean gradient", "off ∇KL(Q‖P)", "off ∇KL(P‖Q)"),
    [
        (name, f"{value:.2f}", f"{np.linalg.norm(m):.3f}", f"{off(m, g.ravel()):.2f}", f"{off(m, other):.2f}")
        for name, (value, m) in means.items()
    ],
)
say(f"""Means over all sequences, so no sampling error; distances (“off”) over the length of the target. KL(Q‖P) is
{float(KL):.2f} nats; ∇KL(Q‖P) has length {np.linalg.norm(g):.3f}, ∇KL(P‖Q) {np.linalg.norm(other):.3f}.""")
assert np.allclose([means["k1"][0], means["k3"][0]], KL)
assert np.allclose(means["k1"][1], 0)
assert np.allclose(means["k2"][1], g.ravel())
assert np.allclose(means["k3"][1], other)
assert np.allclose(means["k2 per token"][1], token_level)

# %% [markdown]
# The means of $k_1$ and $k_3$ as *values* are right, and their gradients are not: an unbiased value does not make
# an unbiased gradient. And the mean of $k_2$ per token is exactly the token-level gradient of lesson 4. Look at the
# clouds again: `k2 per token` sits beside the cross, and `k3` near zero, because $\nabla \mathrm{KL}(P\|Q)$, which
# knows no floor, is so much shorter.
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
# - Mean squared error is variance plus squared bias. As they come, a biased estimator had the least with 16 samples;
#   with many an unbiased one has.
# - k1, k2, k3: that an estimate has the right mean says nothing about the mean of its derivative.
#
# ## Exercises
#
# 1. *Pencil.* Show that $\mathbb{E}_Q[b \nabla \log Q] = 0$ for a constant $b$, and that with a baseline that
#    *includes* the sample's own cost (the mean over all $n$), the estimator's mean is $(n-1)/n$ of the gradient.
# 2. *Code.* Which constant $b$ makes the variance of REINFORCE least on `agreement()`? Is it the mean cost?
# 3. *Code.* Combine reward to go and RLOO: at each position, subtract the mean of the other samples' costs from
#    there on. Is it unbiased? Is its variance, estimated from repeated draws of 16, lower than RLOO's?
# 4. *Pencil.* Show that $k_3$ per sequence, as a loss, has the mean gradient $\nabla \mathrm{KL}(P\|Q)$, even if
#    $P$ has zeros.
# 5. *Pencil, then code.* An unbiased estimator has the variance $v$, over $\|g\|^2$. By which number $\lambda$ should
#    you multiply it, so that its mean squared error is least, and how large is it then? Compare RLOO and Gumbel-softmax
#    at $n = 16$, each at its best $\lambda$.
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
assert np.allclose(leave_in, g.ravel() / 2)

# %% [markdown] tags=["solution"]
# **Solution 2.** The variance is $\mathbb{E}[(C - b)^2 s^2]$ up to a constant, with $s = \|\nabla \log Q(x)\|$. It
# is a parabola in $b$, least at $b = \mathbb{E}[C s^2] / \mathbb{E}[s^2]$: a mean cost, but with long gradients
# counted more.

# %% tags=["solution"]
s2 = (score**2).sum(axis=1)
best_b = Q @ (C * s2) / (Q @ s2)
variances = {b: moments((C - b)[:, None] * score, Q)[1] for b in (0.0, float(KL), best_b)}
say(
    "Variance over ‖g‖² with baseline "
    + ", ".join(f"{b:.1f} nats: {variance:.1f}" for b, variance in variances.items())
    + ". The last is the best; the mean cost, the second, comes close."
)
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


draws = [estimators.sample(model, 16, T, seed) for seed in range(full_or_fast(400, 50))]
tried = {
    "both": np.array([both(rows).ravel() for rows in draws]),
    "RLOO": np.array([estimators.rloo(model, world, rows, objective="reverse_kl")[1]["logits"].ravel() for rows in draws]),
}
lines = []
for name, each in tried.items():
    squares = ((each - each.mean(axis=0)) ** 2).sum(axis=1) / (g**2).sum()
    variance, error = squares.mean(), squares.std() / np.sqrt(len(each))
    away = off(each.mean(axis=0), g.ravel())
    lines.append((name, f"{variance:.2f} ± {error:.2f}", f"{away:.2f}", f"{np.sqrt(variance / len(each)):.2f}"))
table(("n = 16", "variance / ‖g‖²", "distance of the mean from g / ‖g‖", "to expect from noise alone"), lines)

# %% [markdown] tags=["solution"]
# **Solution 4.** $\mathbb{E}_Q[(1 - P/Q) \nabla \log Q] = \sum_x (Q - P) \nabla \log Q$. The first half is zero as
# in solution 1, and $-\sum_x P \nabla \log Q = \nabla F = \nabla \mathrm{KL}(P\|Q)$. Where $P = 0$ the second half
# has nothing to add: an impossible sample gets $a_t = 1$, however high its price. Impossible sentences lose only what
# the possible ones gain.

# %% [markdown] tags=["solution"]
# **Solution 5.** Variance plus squared bias is $\lambda^2 v + (1 - \lambda)^2$, least at $\lambda = 1/(1+v)$, where it is
# $v/(1+v)$. For any estimator it is
# $\mathbb{E}\|\lambda \hat{g} - g\|^2 = \lambda^2 \mathbb{E}\|\hat{g}\|^2 - 2 \lambda \mathbb{E}[\hat{g} \cdot g] + \|g\|^2$.
# With lengths in units of $\|g\|$ and $s = \mathbb{E}[\hat{g} \cdot g]$, where the ring stands along the gradient, the
# least is $1 - s^2 / \mathbb{E}\|\hat{g}\|^2$.

# %% tags=["solution"]
v, gumbel = at_16["rloo"]["variance"], at_16["gumbel τ=1"]
s = clouds["Gumbel-softmax, τ = 1"][:, 0].mean()
square = gumbel["mse"] + 2 * s - 1  # E‖ĝ‖²
spread = at_16["rloo"]["variance_se"] / (1 + v) ** 2, gumbel["mse_se"]
say(f"""RLOO at λ = {1 / (1 + v):.2f}: {v / (1 + v):.2f} ± {spread[0]:.2f} instead of {at_16["rloo"]["mse"]:.2f}. Gumbel-softmax
at λ = {s / square:.2f}: {1 - s**2 / square:.2f} ± {spread[1]:.2f}. With its length free, RLOO is level with Gumbel-softmax or
ahead already at 16 samples. (And λ below 1 makes it biased: a biased estimator, and the better one.)""")
assert v / (1 + v) < gumbel["mse"] + 0.05

# %% [markdown]
# Next: [lesson 6, the approximation](6_the_approximation.ipynb): from the reverse cross-entropy to a loss that
# needs neither $P$ nor samples of $Q$.
