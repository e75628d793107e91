# %% [markdown]
# # 6 The approximation
#
# *Prose: 25 minutes; with the code: 45; with exercises: 2 hours. Computing: 20 seconds. Before this:
# [lesson 1](1_two_cross_entropies.ipynb) and [lesson 3](3_one_softmax_by_hand.ipynb).*
#
# **At the end you will know**
#
# - by which steps the reverse cross-entropy, which cannot be computed on text, became MixCE, which can;
# - which of the steps are exact, which change the objective, and what each one costs, by several measures, on a world
#   where the truth is known;
# - what a bound from below guarantees;
# - what MixCE keeps that a temperature or TaiLr throws away.

# %% tags=["setup"]
from types import SimpleNamespace

import numpy as np

import minimixce as mm
from minimixce.experiments.fixed_points import fixed_point
from minimixce.lessons import (
    MAX_LEN,
    SENTENCES,
    as_markdown,
    full_or_fast,
    links,
    optimal_table,
    sentence_probs,
    source,
    table,
)

# %% [markdown]
# ## What we would like to have
#
# In lesson 1 a bigram $Q$ learned the world `agreement()`. Maximum likelihood, which minimises the forward
# cross-entropy $F = E_{x \sim P}[-\log Q(x)]$ (the mean, $E$, over what $P$ draws), left it writing impossible
# sentences. In the reverse cross-entropy
#
# $$R = E_{x \sim Q}[-\log P(x)]$$
#
# such sentences are dear. The paper's ideal, MixCE*, mixes the two, $\eta F + (1-\eta) R$ (`mixce_star`; η = 1 is
# MLE), and the model all but stops writing them.

# %%
world = mm.worlds.agreement()


def measures(model):
    found = mm.exact.measure(model, world, MAX_LEN)
    return SimpleNamespace(**{name: float(value) for name, value in found.items()})


mle = optimal_table("forward_ce")
ideal = optimal_table("mixce_star", eta=0.5)

# %% [markdown]
# With MLE a share of {{measures(mle).validity:.3f}} of what the model writes is valid; with the mixture at
# $\eta = 0.5$ it is {{measures(ideal).validity:.3f}}.

# %% tags=["check"]
assert measures(mle).validity < 0.77
assert measures(ideal).validity > 0.98


# %% [markdown]
# But $R$ asks for $\log P(x)$ of sentences that the model made up, and on text it is not known. There are only
# samples of $P$. The authors of MixCE (Zhang et al., ACL 2023) replace $R$, step by step, by something that samples
# suffice for:
#
# | link | the quantity to make small | what was done |
# | --- | --- | --- |
# | 0 | $E_{x \sim Q}[-\log P(x)]$ | nothing: this is $R$ |
# | 1 | $-\log E_{x \sim Q}[P(x)]$ | mean and logarithm exchanged (Jensen) |
# | 2 | $-E_{x \sim Q}[P(x)]$ | the logarithm left out |
# | 3 | $-E_{x \sim P}[Q(x)]$ | $P$ and $Q$ exchanged |
# | 4 | $-E_{x \sim P}[\sum_t q_t]$ | a product over tokens replaced by a sum, $q_t = Q(x_t \mid x_{<t})$ |
#
# ($x_t$ is token $t$ of the sentence, $x_{<t}$ are those before it.) Then MixCE is $\eta F$ plus $(1-\eta)$ times link
# 4. We walk through the chain one link at a time, and then measure.

# %% [markdown]
# ## Link 1: the mean inside the logarithm
#
# The logarithm is concave: the logarithm of a mean is at least the mean of the logarithms. So
#
# $$-\log E_{x \sim Q}[P(x)] \le E_{x \sim Q}[-\log P(x)]$$
#
# (*[Jensen's inequality](glossary.md#jensens-inequality)*.) The new quantity is a *lower* bound of $R$, and $R$ is to
# be made small.
#
# > **Predict.** You push the lower bound down. Must $R$ go down? Compare two models: one writes the four sentences of
# > $P$ equally often, the other writes "cat sleeps" nine times in ten and the impossible "cat here sleep" once.


# %%
def bound_and_R(probs, sentences):
    """probs: Q of some sentences, all there is -> link 1, link 0 (P floored inside R, as in lesson 1)"""
    rows = world.rows(sentences, MAX_LEN)
    bound = -np.log(probs @ np.exp(world.log_prob(rows)))
    R = -probs @ world.log_prob(rows, floored=True)
    return bound, R


# the four valid sentences, equally often
honest = bound_and_R(np.full(4, 0.25), SENTENCES[:4])
careless = bound_and_R(np.array([0.9, 0.1]), ("cat sleeps", "cat here sleep"))

# %% [markdown]
# <details><summary>Yes: what is below a sinking quantity sinks too</summary>
#
# It is the other way round: the bound lies *below* $R$. The first model has the bound {{honest[0]:.2f}} and $R$ =
# {{honest[1]:.2f}} nats. The second has a lower bound, {{careless[0]:.2f}}, and $R$ = {{careless[1]:.2f}}.
#
# </details>
# <details><summary>No: the bound can sink alone</summary>
#
# Right. The first model has the bound {{honest[0]:.2f}} and $R$ = {{honest[1]:.2f}} nats. The second has a *lower*
# bound, {{careless[0]:.2f}}, and $R$ = {{careless[1]:.2f}}. By the bound it is the better one.
#
# </details>

# %% tags=["check"]
assert careless[0] < honest[0]
assert careless[1] > 4 * honest[1]

# %% [markdown]
# An upper bound would be a lid: press it down, and what is below goes down too. A lower bound can sink alone. So link
# 1 guarantees nothing; whether it helps must be seen. Here is what it has become blind to, for models that write
# "cat sleeps" and the impossible "cat here sleep":


# %% tags=["fold"]
s = np.linspace(0, 0.995, 200)
bounds, Rs = np.array([bound_and_R(np.array([1 - a, a]), ("cat sleeps", "cat here sleep")) for a in s]).T
links.draw_bound(s, Rs, bounds)

# %% [markdown]
# $R$ averages *surprise*: one impossible sentence in a hundred already shows in the mean, at the price that the floor
# of lesson 1 sets. Link 1 averages *probability*: an impossible sentence merely adds nothing. In $R$ an error has a
# price; in link 1 it is an opportunity missed.

# %% [markdown]
# ## Link 2: without the logarithm
#
# $-\log y$ falls when $y$ grows. So what minimises $-\log E_Q P$ maximises $E_Q P$, and the logarithm can go.
# Alone, that is exact: same minimum, and the same direction of the gradient everywhere. Only its length differs
# ($\nabla$ is the gradient in all parameters of $Q$, $E_Q P$ is short for $E_{x \sim Q}[P(x)]$):
#
# $$\nabla(-\log E_Q P) = \frac{\nabla(-E_Q P)}{E_Q P}$$
#
# Keep an eye on that denominator. It is harmless as long as the quantity stands alone. In a mixture with $F$ it
# decides who is heard.

# %% [markdown]
# ## Link 3: exchange P and Q
#
# $$E_{x \sim Q}[P(x)] = \sum_x P(x) \, Q(x) = E_{x \sim P}[Q(x)]$$
#
# This is the step that does the work, and it is exact. On the left one samples the model and asks the truth. On the
# right one samples the *data* and asks the *model*. That can be done on text. The package calls $-\sum_x P(x) Q(x)$
# the `overlap`. Let us look at the sum from both ends.

# %%
# every sentence there is, (n, MAX_LEN+1)
everything = mm.exact.sequences(world.vocab_size, MAX_LEN)
P, Q = np.exp(world.log_prob(everything)), np.exp(mm.exact.log_prob(mle, everything))
drawn_from_P = world.sample(20_000, MAX_LEN, seed=0)
drawn_from_Q = mm.estimators.sample(mle, 20_000, MAX_LEN, seed=0)
by_P = np.exp(mm.exact.log_prob(mle, drawn_from_P)).mean()
by_Q = np.exp(world.log_prob(drawn_from_Q)).mean()

# %% [markdown]
# | | $\sum_x P(x) \, Q(x)$ |
# | --- | ---: |
# | summed over all {{len(everything)}} sentences | {{P @ Q:.4f}} |
# | the package's `overlap`, its sign turned | {{-measures(mle).overlap:.4f}} |
# | mean of $Q(x)$ over samples of the data | {{by_P:.4f}} |
# | mean of $P(x)$ over the model's own samples | {{by_Q:.4f}} |

# %% tags=["check"]
assert np.isclose(P @ Q, -measures(mle).overlap)
assert abs(by_P - by_Q) < 0.01

# %% [markdown]
# ## A weight that vanishes
#
# What is the gradient of link 3? The derivative of $Q$ is $Q$ times that of its logarithm, so
#
# $$\nabla E_{x \sim P}[Q(x)] = E_{x \sim P}[Q(x) \, \nabla \log Q(x)]$$
#
# Maximum likelihood again, on the same data, but each sentence weighted by its own probability under the model. And
# here is the trouble: $Q(x)$ is a product, one factor for each token. On sentences of ten words, let alone on
# pages, it is nearly nothing. See it on the larger world of lesson 1, `stories()`, with the bigram of its counts.

# %%
stories, longest = mm.worlds.stories(), 24
counts = mm.exact.bigram_counts(stories, longest)
story_model = mm.TableBigram(stories.vocab_size)
story_model.params["logits"] = np.log(np.maximum(counts, 1e-12))
story_rows = stories.sample(full_or_fast(3000, 800), longest, seed=1)
inputs, targets = stories.batch(story_rows)
logits, _ = story_model.forward(inputs)
# (n, longest−1); 1 where ignored
q_t = np.exp(-mm.objectives.mle(logits, targets, reduction="none")[0])
lengths = (targets >= 0).sum(axis=1)
Q_x = q_t.prod(axis=1)  # the weight of a sentence in link 3
# the mean weight of its tokens in link 4
mean_q = np.where(targets >= 0, q_t, 0).sum(axis=1) / lengths
# the fewest sentences that hold half of all the weight
largest_first = np.sort(Q_x)[::-1].cumsum()
half = int(np.searchsorted(largest_first, Q_x.sum() / 2)) + 1

# %% [markdown]
# Of {{len(Q_x)}} sentences of the data, the {{half}} with the largest $Q(x)$ hold half of all the weight:
# {{half / len(Q_x):.1%}}. The median sentence has $Q(x)$ = {{np.median(Q_x):.0e}}; its tokens have a mean probability
# of {{np.median(mean_q):.2f}}.

# %% tags=["check"]
assert half < 0.1 * len(Q_x)
assert np.median(Q_x) < 1e-5

# %% tags=["fold"]
links.draw_weights(lengths, Q_x, mean_q)

# %% [markdown]
# A gradient estimated from such weights is the gradient of a few short, common sentences.

# %% [markdown]
# ## Link 4: token by token
#
# The authors therefore weight each *token* by its own probability: instead of $\sum_t Q(x) \, \nabla \log q_t$ they
# take
#
# $$\sum_t q_t \, \nabla \log q_t = \nabla \sum_t q_t$$
#
# That changes the objective: a product of factors has become their sum. (The sum is never smaller than the product,
# so this is a bound again, and again from the wrong side.) Weights no longer vanish with length. What is lost is that
# a sentence counts as a whole: link 3 weights the "sleep" in "cats here sleep" by how probable the model finds "cats
# here sleep"; link 4 only by how probable it finds "sleep" at its place.
#
# Mixed with the forward cross-entropy this is the [MixCE](glossary.md#mixce) of lesson 3, weight
# $\eta + (1-\eta) q_t$ on MLE's gradient:
#
# $$L = -E_{x \sim P} \sum_t \left[ \eta \log q_t + (1-\eta) \, q_t \right]$$
#
# (The weight $q_t$ is no importance weight. The samples come from $P$ and stay there.
# [Lesson 5](5_when_you_can_only_sample.ipynb).)

# %% [markdown]
# ## Each link's own optimum
#
# Links 2 and 3 are the same number, so there are four quantities. Each has an exact gradient in the table's logits;
# all but link 1 are objectives of the package.


# %%
def exact(name, eta=0.5):
    options = {"objective": name, "eta": eta, "max_len": MAX_LEN}
    return lambda logits: mm.exact.bigram_loss_and_grads(logits, world, **options)


def jensen(logits):
    """−log E_Q P -> value, gradient"""
    overlap, gradient = exact("overlap")(logits)  # −E_Q P and its gradient
    return -np.log(-overlap), gradient / -overlap


forward = exact("forward_ce")
chain = {
    "link 0: R": exact("reverse_ce"),
    "link 1: −log E_Q P": jensen,
    "links 2, 3: −E_P Q": exact("overlap"),
    "link 4: −E_P Σ q": exact("mixce", eta=0.0),
}


# %%
def minimise(link, eta):
    """η F + (1−η) link brought down from the uniform start, with its exact gradient -> mm.TableBigram"""
    model, steps = mm.TableBigram(world.vocab_size), full_or_fast(1000, 300)
    optimizer = mm.AdamW(model.params, lr=0.1, weight_decay=0.0)
    for step in range(steps):
        logits = model.params["logits"]
        gradient = eta * forward(logits)[1] + (1 - eta) * link(logits)[1]
        optimizer.step({"logits": gradient}, lr=mm.optim.warmup_cosine(step, 0.1, 0, steps, 1e-4))
    return model


alone = {name: minimise(link, 0.0) for name, link in chain.items()}

# %% tags=["fold"]
rows = [[name, f"{measures(m).validity:.3f}", *(f"{a:.2f}" for a in sentence_probs(m)[:4])] for name, m in alone.items()]
table(["alone", "valid", *SENTENCES[:4]], rows)

# %% tags=["check"]
least_R = -np.log(sentence_probs(world).max())  # the surprise of the likeliest sentence
assert all(abs(measures(m).reverse_ce - least_R) < 0.2 for m in alone.values())

# %% [markdown]
# Alone, no link loses anything here: every one ends at nothing but "cat sleeps" and "cat here sleeps", the two
# likeliest sentences, and at the least value that $R$ can have. (The two tie; how descent shares the mass between
# them means nothing.) All of it is valid, and all of it is collapse: at most half of the language is left. What keeps
# the other half alive is the forward cross-entropy. So the links must be judged in the mixture, as they are used.
#
# > **Predict.** With MLE three sentences in four are valid, with link 0 and $F$, half and half, almost every one.
# > Where do the other links end, and which step costs most?

# %%
mixed = {name: minimise(link, 0.5) for name, link in chain.items()}
names, validity = list(chain), [measures(m).validity for m in mixed.values()]
lost = -np.diff(validity)
ends_mixed = [
    [name, f"{r.validity:.3f}", f"{r.forward_kl:.3f}", f"{r.reverse_ce:.2f}"]
    for name, r in [("nothing: MLE", measures(mle)), *((name, measures(m)) for name, m in mixed.items())]
]

# %% [markdown]
# <details><summary>The exchange of P and Q costs most</summary>
#
# It costs nothing: links 2 and 3 are the same number. Look again under "Jensen".
#
# </details>
# <details><summary>The step to tokens costs most</summary>
#
# By this measure it costs least. Look under "Jensen".
#
# </details>
# <details><summary>Jensen costs most</summary>
#
# By this measure, yes. From link to link the share of valid sentences goes
# {{" → ".join(f"{v:.3f}" for v in validity)}}. The steps lose {{", ".join(f"{a:.3f}" for a in lost)}}. MLE has
# {{measures(mle).validity:.3f}}: after the last link hardly anything is left of what $R$ had repaired.
#
# {{as_markdown(["$F$ mixed with", "valid", "KL(P‖Q)", "$R$"], ends_mixed)}}
#
# </details>

# %% tags=["check"]
assert validity[0] > 0.98
assert lost.argmax() == 0
assert lost[2] < lost[1]
assert 0.76 < validity[-1] < 0.79

# %% [markdown]
# ## The same by direction
#
# A second way to judge a link: does its gradient point where $\nabla R$ points? The *cosine* of the angle between
# two gradients is $1$ if they agree and $0$ if they have nothing in common. It depends on the model at which the
# gradients are taken, so we take four: the uniform start, random tables, the MLE optimum, and the ideal.


# %%
def cosine(a, b):
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


rng = np.random.default_rng(0)
places = {
    "uniform start": [np.zeros((6, 6))],
    "random tables": list(rng.standard_normal((full_or_fast(50, 10), 6, 6))),
    "MLE optimum": [mle.params["logits"]],
    "optimum with R, η = 0.5": [ideal.params["logits"]],
}
to_R = chain[names[0]]
cosines = {
    place: [np.mean([cosine(link(z)[1], to_R(z)[1]) for z in tables]) for link in chain.values()]
    for place, tables in places.items()
}

# %% tags=["fold"]
table(["cosine to ∇R", *names], [[place, *(f"{c:.2f}" for c in row)] for place, row in cosines.items()])

# %% tags=["fold"]
ends_of = [{name: sentence_probs(model) for name, model in found.items()} for found in (alone, mixed)]
links.draw_links(cosines, sentence_probs(world), *ends_of)

# %% [markdown]
# This is the picture to keep. (Its middle draws the table of the links alone.) Read the top from left to right.
#
# *At the uniform start* all links after $R$ point the same way. They point where MLE points: every sentence of this
# world has three tokens to predict (after three words the end is forced), so $Q(x)$ and $q_t$ are constants there,
# and a constant weight changes no direction. *At random tables*, too, Jensen turns the gradient away and the later
# steps hardly matter, and likewise *at the optimum with $R$*. *At the MLE optimum*, where $\nabla F = 0$ and only
# the second term pulls, Jensen keeps most of the direction and the step to tokens loses most of it.
#
# The bottom tells the end of the story: the bars of Q get lighter and the impossible sentences come back.

# %% tags=["check"]
flat = np.zeros((6, 6))
assert np.isclose(cosine(chain[names[3]](flat)[1], forward(flat)[1]), 1)  # at the start, token MixCE points where MLE does

# %% [markdown]
# ## Which link costs most? It depends on the measure
#
# By validity at $\eta = 0.5$ it is Jensen, by direction it is Jensen or the step to tokens. The first of these
# numbers mixes up two things. In $R$ an impossible token costs more than a whole sentence of ordinary ones; in link 1
# it merely earns nothing; and link 2 is softer again by the factor $E_Q P$. These two steps turn the second term
# down, the step to tokens turns it up again a little, and at the same η the louder term wins, which now is $F$. But
# η need not be kept. A smaller η makes the second term louder.

# %%
lengths_at_mle = {name: np.linalg.norm(link(mle.params["logits"])[1]) for name, link in chain.items()}

# %% [markdown]
# At the MLE optimum the gradients have these lengths:
# {{", ".join(f"{n:.3f} for {name}" for name, n in lengths_at_mle.items())}}.

# %% [markdown]
# So let us fix not η but a price: how far may $Q$ move away from $P$ in $\mathrm{KL}(P \| Q)$, and how valid does it
# become for that? Each link traces a curve as η runs from 1 towards 0. As a control we add what costs nothing to
# train: the MLE model, sampled at lower temperatures.


# %%
def at_temperature(tau):
    model = mm.TableBigram(world.vocab_size)
    model.params["logits"] = mle.params["logits"] / tau
    return model


etas = full_or_fast(
    (0.99, 0.98, 0.96, 0.94, 0.9, 0.8, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01),
    (0.98, 0.9, 0.5, 0.2, 0.05, 0.01),
)
curves = {}
for name, link in chain.items():
    curves[name] = [measures(mle), *(measures(minimise(link, eta)) for eta in etas)]
tempered = [measures(at_temperature(tau)) for tau in np.arange(1.0, 0.09, -0.05)]


def validity_at(name, price):
    """Share of valid sentences where a curve passes KL(P‖Q) = price, interpolated"""
    points = sorted((np.log(r.forward_kl), r.validity) for r in curves[name])
    return float(np.interp(np.log(price), *zip(*points)))


# %% tags=["fold"]
links.draw_prices(curves, tempered, ring=1 + etas.index(0.5))  # after MLE

# %% [markdown]
# Now every measure beside every step:

# %% tags=["fold"]
by_step = (
    {"valid sentences at η = 0.5": validity}
    | {f"cosine to ∇R, {place}": row for place, row in cosines.items()}
    | {f"valid sentences at KL(P‖Q) = {price}": [validity_at(name, price) for name in names] for price in (0.4, 0.6, 1.2)}
)
costs = {measure: np.round(-np.diff(values), 3) + 0.0 for measure, values in by_step.items()}
table(
    ["what each step loses", "Jensen", "no logarithm", "tokens"],
    [[name, *(f"{c:.3f}" for c in row)] for name, row in costs.items()],
)

# %% tags=["check"]
jensen_cost, logarithm_cost, token_cost = np.array(list(costs.values())).T
assert (jensen_cost > 0.005).all()
assert np.abs(logarithm_cost[1:]).max() < 0.01  # nothing, but at fixed η
assert (jensen_cost > token_cost)[[0, 1, 2, 4]].all()
assert (token_cost > jensen_cost)[[3, 5, 6]].all()
assert abs(token_cost - jensen_cost)[7] < 0.01

# %% [markdown]
# Three things to read off, from the curves and from the table.
#
# - Links 1 to 3 lie on *one* curve: leaving out the logarithm costs nothing but a change of η. What looked like a
#   loss at $\eta = 0.5$ was a volume knob.
# - At equal price both Jensen and tokens cost something that no η buys back. At a low price, near the MLE model, the
#   step to tokens costs more; at a higher one they cost about the same. The rest of the loss at $\eta = 0.5$ is
#   volume: the rings, all at $\eta = 0.5$, slide down towards MLE.
# - Token MixCE lies on the curve of the temperature. For a table the token loss falls apart into rows, and each row
#   ends at lesson 3's fixed point for its own $p$. On this world no row has more than two outcomes, at three to two
#   or one to one, and two numbers can be sharpened in one way only. Longer rows are another matter: see the tail,
#   below.
#
# This is one small world and one family of models; [lesson 8](8_experiments_read_sceptically.ipynb) asks the same
# of `stories` and of text. On this one, at $\eta = 0.5$, the token approximation repairs little of what lesson 1
# showed.

# %% [markdown]
# The first and the third can be had exactly. Where $\eta \nabla F + (1-\eta) \nabla(-\log E_Q P)$ vanishes, so does
# $\eta \, E_Q P \, \nabla F + (1-\eta) \nabla(-E_Q P)$: link 1 at η is link 2 at a smaller η, with $E_Q P$ taken at
# the optimum. And the temperature of token MixCE follows from the row "here" alone.

# %%
reached = -measures(mixed[names[1]]).overlap  # E_Q P at link 1's optimum, η = 0.5
smaller = 0.5 * reached / (0.5 * reached + 0.5)
twin = minimise(chain[names[2]], smaller)

here, sleeps, sleep = (world.words.index(word) for word in ("here", "sleeps", "sleep"))
p_here = mm.exact.bigram_counts(world, MAX_LEN)[here, [sleeps, sleep]]
p_here = p_here / p_here.sum()
q_here = fixed_point("mixce", p_here, 0.5)[0]
# dividing logits by τ divides their difference
tau = np.log(p_here[0] / p_here[1]) / np.log(q_here[0] / q_here[1])

# %% [markdown]
# Link 2 at η = {{smaller:.3f}} ends with {{measures(twin).validity:.3f}} valid; link 1 at $\eta = 0.5$ with
# {{measures(mixed[names[1]]).validity:.3f}}. Lesson 3's fixed point for ({{p_here[0]:.1f}}, {{p_here[1]:.1f}}) at
# $\eta = 0.5$ is ({{q_here[0]:.3f}}, {{q_here[1]:.3f}}), which is temperature {{tau:.2f}}. MLE at this temperature ends
# with {{measures(at_temperature(tau)).validity:.3f}} valid; token MixCE with {{validity[3]:.3f}}.

# %% tags=["check"]
assert np.allclose(sentence_probs(twin), sentence_probs(mixed[names[1]]), atol=0.01)
assert np.allclose(sentence_probs(at_temperature(tau)), sentence_probs(mixed[names[3]]), atol=0.01)

# %% [markdown]
# ## Does MixCE sample from the model?
#
# > **Predict.** MixCE was made from a reverse cross-entropy, an expectation over what the model writes. How often does
# > its training call `model.generate`? And training on $R$ itself by RLOO, which estimates the gradient from what the
# > model writes ([lesson 5](5_when_you_can_only_sample.ipynb))?


# %%
def calls_of_generate(objective=None, step=None, steps=20):
    """Train a small GPT and count how often it is asked to write something."""
    sizes = {"block_size": MAX_LEN - 1, "n_layer": 1, "n_head": 1, "n_embd": 8}
    model = mm.GPT(mm.GPTConfig(world.vocab_size, **sizes), seed=0)
    generate, calls = model.generate, []

    def counted(*args, **options):
        calls.append(1)
        return generate(*args, **options)

    model.generate = counted
    batches = [world.batch(world.sample(16, MAX_LEN, seed=number)) for number in range(steps)]
    mm.fit(model, batches, objective, step=step, progress=False)
    return len(calls)


def on_R(model, batch):
    return mm.estimators.rloo(model, world, mm.estimators.sample(model, 16, MAX_LEN, seed=0))


mixce_calls, rloo_calls = calls_of_generate(mm.objectives.mixce), calls_of_generate(step=on_R)

# %% [markdown]
# <details><summary>MixCE: once a step, as RLOO does</summary>
#
# MixCE calls it {{mixce_calls}} times in twenty steps, RLOO {{rloo_calls}} times. Read the other answer.
#
# </details>
# <details><summary>MixCE: never</summary>
#
# Right: {{mixce_calls}} calls in twenty steps of MixCE, {{rloo_calls}} in twenty of RLOO. Link 3 exchanged the roles.
# MixCE sees the data and nothing else: one forward and one backward pass a step, like MLE.
#
# </details>

# %% tags=["check"]
assert mixce_calls == 0
assert rloo_calls == 20

# %% [markdown]
# That is its great advantage, and its limit: it is never shown what the model would write. An impossible sentence
# that the model loves occurs in no batch. It can lose probability only because other tokens gain some.

# %% [markdown]
# ## What remains: three weights
#
# After link 4 all that is left of the reverse cross-entropy is a weight on MLE's gradient, $w(q)$ of lesson 3:
#
# | | $w(q)$ | at $q \to 0$ | at $q = 1$ |
# | --- | --- | --- | --- |
# | MLE | $1$ | $1$ | $1$ |
# | MixCE, η (η = 1 is MLE) | $\eta + (1-\eta) \, q$ | $\eta$ | $1$ |
# | TaiLr, γ (γ = 0 is MLE) | $q / (\gamma + (1-\gamma) \, q)$ | $0$ | $1$ |
#
# TaiLr (Ji et al., ICLR 2023) came to a weight of this kind from another distance, the total variation. At the
# start of training, $q \approx 1/V$ everywhere, all three are MLE times a constant. They part company as the model
# learns. And what they do to the tail, the many rare tokens, is not the same.


# %%
def entropy(q):
    return -(q[q > 0] * np.log(q[q > 0])).sum()


def as_sharp_as(target, family):
    """Of q = family(a), sharper as a goes from 0 to 1, the one with the entropy of target (V,) -> q (V,), a"""
    low, high = 0.0, 1.0
    for _ in range(60):
        a = (low + high) / 2
        low, high = (low, a) if entropy(family(a)) < entropy(target) else (a, high)
    return family(a), a


def sharpened(p, eta):
    """MixCE's end for p (V,), and a temperature's and TaiLr's of the same entropy -> {label: q (V,)}"""
    mixce = fixed_point("mixce", p, eta)[0]
    cold, a = as_sharp_as(mixce, lambda a: mm.layers.softmax_forward(np.log(p) / (1 - a))[0])
    tailr, gamma = as_sharp_as(mixce, lambda gamma: fixed_point("tailr", p, gamma)[0])
    return {f"MixCE, η = {eta}": mixce, f"temperature {1 - a:.2f}": cold, f"TaiLr, γ = {gamma:.2g}": tailr}


# %% [markdown]
# MixCE, a temperature and TaiLr all sharpen. To compare *how*, give all three the same entropy. First the context of
# lesson 3, with five tokens:

# %%
p = np.array([0.50, 0.25, 0.15, 0.07, 0.03])
ends = sharpened(p, 0.1)
kept = [q[4] / p[4] for q in ends.values()]

# %% tags=["fold"]
rows = [
    [name, *(f"{a:.4f}" for a in q), f"{q[4] / q[3]:.2f}" if q[3] else "none left"]
    for name, q in ({"the data, p": p} | ends).items()
]
table(["", *(f"q({v + 1})" for v in range(5)), "q(5) / q(4)"], rows)

# %% [markdown]
# The rarest token keeps {{kept[0]:.3f}} of its probability under MixCE, {{kept[1]:.3f}} at the temperature, and
# {{kept[2]:.3f}} under TaiLr.

# %% tags=["check"]
assert kept[0] > 10 * kept[1] > kept[2] == 0

# %%
zipf = 1 / np.arange(1, 1001)
# a thousand tokens, rare as words are: the k-th has a share of 1/k
zipf /= zipf.sum()
long_ends = sharpened(zipf, 0.1)
long_mixce, long_cold, long_tailr = long_ends.values()

# %% tags=["fold"]
links.draw_tails(zipf, long_ends)

# %% [markdown]
# On logarithmic axes a factor is a shift. MixCE scales every small $p$ by nearly $\eta/\lambda$: its tail runs
# *parallel* to the data's, lower down. A temperature raises $p$ to a power, $1/\tau$: its tail is *steeper*, and a
# token loses the more the rarer it is. TaiLr cuts off what lies below a threshold. MixCE takes from the rare what it
# gives to the likeliest, one token or several, but it takes nearly the same share from each. Whether that is what you
# want is another matter: rare tokens are the names and numbers, and also the errors.

# %%
tail = slice(500, None)  # the rarer half of the thousand


def slope(q):
    return np.polyfit(np.log(zipf[tail]), np.log(q[tail]), 1)[0]


# %% [markdown]
# On logarithmic axes the rarer half has the slope 1 in the data, {{slope(long_mixce):.2f}} under MixCE,
# {{slope(long_cold):.2f}} at the temperature. TaiLr keeps {{(long_tailr > 0).sum()}} of {{len(zipf)}} tokens.

# %% tags=["check"]
assert slope(long_mixce) < 1.02
assert slope(long_cold) > 1.2

# %% [markdown]
# ## Appendix: EMO
#
# Not every objective is a weight on the same gradient. EMO (Ren et al., ICLR 2024, arXiv 2310.04691) asks not only
# *whether* the model was wrong but *how far*: putting mass on a token that means nearly the same is cheaper than on
# one that does not. With unit vectors $e_v$ for the tokens, held fixed, the cost of moving all of $Q$'s mass to the
# token that came is
#
# $$d = \sum_v q(v) \, (1 - e_v \cdot e_x)$$
#
# and the loss is half $-\log q$, half $d$, the latter scaled by a stopped ratio to the former's size:
# $\frac{1}{2} (-\log q + \mathrm{sg}[-\log q / d] \, d)$. Its value therefore *is* MLE's, whatever the vectors.
# Only its gradient differs, so its value says nothing of what it does.

# %%
source(mm.objectives.emo)

# %%
# (V,C): tokens 0 and 1 mean nearly the same, 2 does not
embedding = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0]])
logits, target = np.zeros((1, 3)), np.array([0])
mle_loss, mle_gradient = mm.objectives.mle(logits, target)
emo_loss, emo_gradient = mm.objectives.emo(logits, target, embedding)

# %% [markdown]
# Three equal logits, token 0 came. The values are {{float(mle_loss):.4f}} and {{float(emo_loss):.4f}}. MLE's gradient
# ({{", ".join(f"{g:.2f}" for g in mle_gradient[0])}}) pushes both wrong tokens alike; EMO's
# ({{", ".join(f"{g:.2f}" for g in emo_gradient[0])}}) pushes the unrelated one harder and leaves the related one almost
# alone.

# %% tags=["check"]
assert np.isclose(mle_loss, emo_loss)
assert emo_gradient[0, 2] > mle_gradient[0, 2] > emo_gradient[0, 1]

# %% [markdown]
# ## Summary
#
# - MixCE comes from the reverse cross-entropy by Jensen (a bound, from the wrong side), leaving out a logarithm
#   (exact alone; a change of η in a mixture), exchanging $P$ and $Q$ (exact), and weighting tokens instead of
#   sentences (another objective, and a bound from the wrong side again).
# - A lower bound of what you minimise guarantees nothing.
# - Alone, every link collapses on the likeliest sentences. In the mixture the links differ.
# - Which step costs most depends on the measure. On `agreement()` it is Jensen by validity at $\eta = 0.5$ and by
#   direction at three places out of four; it is the step to tokens by direction at the MLE optimum, and by validity
#   at a low price in $\mathrm{KL}(P \| Q)$; at a higher price the two are about equal.
# - On `agreement()` token MixCE does what a temperature does.
# - MixCE never samples from the model. It needs nothing that MLE does not need, and it never sees what the model
#   would write.
# - MixCE scales the tail, a temperature steepens it, TaiLr cuts it below a threshold.

# %% [markdown]
# ## Exercises
#
# 1. *Pencil.* Two sentences, $P = (3/4, 1/4)$, $Q = (1/2, 1/2)$. Compute $R$, link 1 and link 2. Check that link 1
#    is below $R$. For which $Q$ are they equal?
# 2. *Code.* Alone, links 3 and 4 end at the likeliest sentences of `agreement()`. Make a world where link 4 does not:
#    the likeliest *first word* must not begin the likeliest *sentence* (`mm.worlds.markov(transitions)`, row 0 the
#    start, column 0 the end; then `optimal_table("overlap", world=…, max_len=3)`). Where does each of them end?
# 3. *Code.* `world.with_floor(…)` changes the price of an impossible token; `optimal_table(…, world=…)` takes such
#    a world. Minimise $\eta F + (1-\eta) R$ at $\eta = 0.5$ for floors of −69, −20, −5 and −1 nats. At which does
#    $R$ lose its advantage over link 1?
# 4. *Think.* On text of a thousand tokens, what is the gradient of link 3 in a batch of sixteen? What would a
#    program do that computes $Q(x)$ in float32?
# 5. *Pencil.* At $q = 1/V$ MixCE's gradient is MLE's times a constant. Which constant, and why does AdamW hide it?

# %% [markdown] tags=["solution"]
# **Solution 1.** $R = -\frac{1}{2} \log \frac{3}{4} - \frac{1}{2} \log \frac{1}{4}$; $E_Q P = \frac{1}{2}$, so link
# 1 is $\log 2$ and link 2 is $-\frac{1}{2}$. Jensen is an equality where $P(x)$ is the same for all $x$ that $Q$
# writes: here, for $Q$ on one sentence alone.

# %% tags=["solution"]
two_P, two_Q = np.array([0.75, 0.25]), np.array([0.5, 0.5])
R, link_1, link_2 = -two_Q @ np.log(two_P), -np.log(two_Q @ two_P), -two_Q @ two_P

# %% [markdown] tags=["solution"]
# $R$ = {{R:.3f}}, link 1 = {{link_1:.3f}}, link 2 = {{link_2:.3f}}.

# %% tags=["check"]
assert link_1 < R

# %% [markdown] tags=["solution"]
# **Solution 2.** Let "a" begin three sentences and "b" one that is likelier than each of them, though "a" is the
# likelier first word. Link 3 looks at whole sentences and ends at "b x"; link 4 looks at one token at a time and
# begins with "a".

# %% tags=["solution"]
greedy_world = mm.worlds.markov(
    np.array([[0, 0.6, 0.4, 0, 0, 0], [0, 0, 0, 1 / 3, 1 / 3, 1 / 3], [0, 0, 0, 1, 0, 0], *[[1, 0, 0, 0, 0, 0]] * 3]),
    words=["", "a", "b", "x", "y", "z"],
)


def first_word(objective, eta):
    model = optimal_table(objective, eta=eta, world=greedy_world, max_len=3)
    return mm.layers.softmax_forward(model.params["logits"][0])[0]


link_3, link_4 = first_word("overlap", 0.5), first_word("mixce", 0.0)

# %% [markdown] tags=["solution"]
# Link 3 begins with "b" with probability {{link_3[2]:.2f}}, link 4 with "a" with probability {{link_4[1]:.2f}}.

# %% tags=["check"]
assert link_3[2] > 0.9
assert link_4[1] > 0.9

# %% [markdown] tags=["solution"]
# **Solution 3.** It keeps it for long. Even at −5 nats, the price of a word that comes once in $e^5$ times, naming a
# price at all is worth more than link 1's silence. Only where an impossible token is as cheap as a common one, at −1,
# does $R$ fall behind.

# %% tags=["solution"]
repaired = {
    floor: measures(optimal_table("mixce_star", world=world.with_floor(floor))).validity for floor in (-69.0, -20.0, -5.0, -1.0)
}

# %% [markdown] tags=["solution"]
# The shares of valid sentences:
# {{", ".join(f"{share:.3f} at {floor:.0f}" for floor, share in repaired.items())}} nats.
# Link 1 has {{validity[1]:.3f}} at the same η.

# %% tags=["check"]
assert repaired[-69.0] > repaired[-20.0] > repaired[-5.0] > repaired[-1.0]
assert repaired[-5.0] > validity[1] > repaired[-1.0]

# %% [markdown] tags=["solution"]
# **Solution 4.** It is the gradient of the one sentence with the largest $Q(x)$, if of any: the weights of sixteen
# texts differ by factors of many powers of ten. At two nats a token $Q(x) = e^{-2000}$, which is zero in float32,
# and in float64 too: the gradient is exactly nothing.

# %% tags=["solution"]
least = float(np.finfo(np.float32).smallest_subnormal)

# %% [markdown] tags=["solution"]
# In float64 $e^{-2000}$ is {{np.exp(-2000.0)}}. The least positive float32 is about $e^x$ with $x$ =
# {{np.log(least):.0f}}.

# %% tags=["check"]
assert np.exp(-2000.0) == 0

# %% [markdown] tags=["solution"]
# **Solution 5.** $\eta + (1-\eta)/V$. AdamW divides each coordinate's step by the recent size of its gradient, so a
# constant factor cancels. Plain gradient descent would be slower by that factor.

# %% tags=["solution"]
logits, targets = np.zeros((4, 5)), np.array([0, 1, 2, 2])
ratio = mm.objectives.mixce(logits, targets, eta=0.1)[1] / mm.objectives.mle(logits, targets)[1]

# %% [markdown] tags=["solution"]
# With $V = 5$ and $\eta = 0.1$ every entry of the package's gradient is {{ratio.mean():.3f}} of MLE's; the formula says
# {{0.1 + 0.9 / 5:.3f}}.

# %% tags=["check"]
assert np.allclose(ratio, 0.1 + 0.9 / 5)

# %% [markdown]
# **Where to go next.** This is the end of the evening path. [Which objective](which_objective.md) says what follows
# for practice; the [explorer](explorer.py) lets you turn η by hand. In order,
# [lesson 7](7_the_transformer_by_hand.ipynb) puts a transformer in the place of the table, and
# [lesson 8](8_experiments_read_sceptically.ipynb) asks whether what happened here happens on text. The formulas of
# the chain are in [math §5](math.md#5-the-approximation), the glossary of the words [here](glossary.md).
