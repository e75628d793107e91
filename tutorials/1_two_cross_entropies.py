# %% [markdown]
# # 1 Two cross-entropies
#
# *Prose: 20 minutes; with the code: 35; with exercises: 2 hours. Computing: 10 seconds. Before this: gradients and the
# softmax, from [lesson 0](0_a_derivative_by_trying.ipynb) or elsewhere.*
#
# **At the end you will know**
#
# - why a perfectly trained language model can write nonsense, and which quantity notices;
# - what the forward and the reverse cross-entropy and the two KL divergences are, where each is least, and which of
#   them pull in the same direction;
# - what "mode-seeking" means, and when it is not true;
# - which mixture MixCE minimises, and why it cannot be computed on text as it stands.
#
# This is the first lesson of the short path 1 → 3 → 6, and of the long one through all ten.

# %% tags=["setup"]
import numpy as np

import minimixce as mm
from minimixce.lessons import INVALID, MAX_LEN, VALID, as_markdown, optimal_table, sentence_probs, simplex, table

# %% [markdown]
# ## Eight sentences by a well-trained model
#
# Here is a language with four sentences. A noun, "cat" or "cats"; perhaps "here"; then the verb, which agrees with
# the noun. Because somebody wrote this language down, every probability in it is known. Such a known distribution is
# called a *[world](glossary.md#world)*, and its probabilities are called $P$.

# %%
world = mm.worlds.agreement()

# %% tags=["fold"]
table(["sentence", "P(sentence)"], [[text, f"{p:.2f}"] for text, p in zip(VALID, sentence_probs(world))])

# %% [markdown]
# Now a model of this language, whose probabilities are called $Q$. It is the simplest there is, a *bigram*: a table
# with one row for each word, which holds the probabilities of the next word. It is trained by *[maximum
# likelihood](glossary.md#maximum-likelihood-mle)* (MLE): among all such tables, the one that makes sentences drawn
# from $P$ as probable as can be. `optimal_table` does this with the exact expectation over $P$, so it is as if the
# training data were endless.
#
# Eight sentences that this model writes (`MAX_LEN` is the greatest length, a sentence's end included):

# %%
# the name of the objective: soon you will know why
model = optimal_table("forward_ce")
# a seed at which the eight look like the average
rows = mm.estimators.sample(model, 8, MAX_LEN, seed=7)
possible = world.log_prob(rows) > -np.inf
impossible = 1 - float(mm.exact.measure(model, world, MAX_LEN)["validity"])

# %% tags=["fold"]
table(["the model wrote", "can P write it?"], [[world.text(r), "yes" if ok else "✗ never"] for r, ok in zip(rows, possible)])

# %% [markdown]
# Marked: {{8 - possible.sum()}} of 8. Eight are few, but this world is small enough to add up every sentence there
# is: the model writes something impossible with probability {{impossible:.2f}}.

# %% tags=["check"]
assert 0.23 < impossible < 0.25

# %% [markdown]
# Nothing went wrong in training. The table looks only at the last word, and after "here" it has forgotten whether
# there was one cat or several. So it gives the verb its average there:

# %%
after = np.exp(model.params["logits"][world.words.index("here")])
after /= after.sum()  # the softmax of one row

# %% [markdown]
# Whichever noun came before "here", $Q(\text{sleeps} \mid \text{here})$, the probability of "sleeps" next after "here",
# is {{after[world.words.index("sleeps")]:.2f}}
# and $Q(\text{sleep} \mid \text{here})$ is {{after[world.words.index("sleep")]:.2f}}.

# %% [markdown]
# More data would not help, nor more steps. This is the best bigram *in the sense of maximum likelihood*, and that is
# the point: a model that cannot represent $P$ has to err somewhere, and the objective decides where. Maximum
# likelihood would rather invent two sentences that do not exist than be surprised by one that does. Large models of
# text can represent far more, but not everything, and the same choice is made for them.
#
# ## Who draws, and who judges
#
# Seeing $x$ with probability $p$ costs a *surprise* of $-\log p$ (natural logarithm; the unit is the
# *[nat](glossary.md#nats)*). A sure thing costs nothing, an impossible one infinitely much. Take the mean surprise
# when one distribution draws $x$ and another one judges it:
#
# $$ F = -\sum_x P(x) \log Q(x) \quad \text{the forward cross-entropy: the data draw, the model judges} $$
#
# $$ R = -\sum_x Q(x) \log P(x) \quad \text{the reverse cross-entropy: the model draws, the data judge} $$
#
# (Such a mean, weighted with probabilities, is an *expectation*; other pages write $F = E_{x \sim P}[-\log Q(x)]$.)
# Minimising $F$ is maximum likelihood. It asks: *does the model find likely what people write?* $R$ asks what a
# reader asks: *would people write what the model writes?* The marked sentences above fail the second question. The
# first is never put to them.

# %% [markdown]
# If the same distribution draws and judges, the mean surprise is its *[entropy](glossary.md#entropy)*,
# $H(P) = -\sum_x P(x) \log P(x)$. A *[KL divergence](glossary.md#kl-divergence)* is what a judge loses by not being
# the one who draws:
#
# $$
# \mathrm{KL}(P \| Q) = F - H(P), \qquad \mathrm{KL}(Q \| P) = R - H(Q).
# $$
#
# Both are zero if $Q = P$ and positive otherwise. To see all four, three outcomes A, B, C are enough. Think of each
# as a whole sentence; how sentences are made of words is the subject of [lesson 2](2_sequences_and_worlds.ipynb).

# %%
P = np.array([0.6, 0.3, 0.1])


def quantities(Q, P=P):
    """Q, (3,) or any number of rows (…,3) -> the four, in nats."""
    # so that 0 · log 0 is 0
    log_p, log_q = (np.log(np.maximum(x, 1e-30)) for x in (P, Q))
    F, R = -(P * log_q).sum(-1), -(Q * log_p).sum(-1)
    entropy_p, entropy_q = -(P * log_p).sum(-1), -(Q * log_q).sum(-1)
    return {"F": F, "R": R, "KL(P‖Q)": F - entropy_p, "KL(Q‖P)": R - entropy_q}


examples = {
    "P itself": P,
    "uniform": np.ones(3) / 3,
    "nearly all on A": np.array([0.98, 0.01, 0.01]),
}

# %% tags=["fold"]
values = [[name, *(f"{value:.3f}" for value in quantities(Q).values())] for name, Q in examples.items()]
table(["Q", *quantities(P)], values)

# %% [markdown]
# Look down the columns. $F$ and both divergences are least at $Q = P$. $R$ is not.
#
# ## Where each is least
#
# > **Predict.** Let $Q$ be any distribution over A, B, C. At which $Q$ is each of the four least? For three of them
# > the table suggests the answer. Where is $R$ least, and how low does it get?

# %%
n = 100
# every Q in steps of 1/100
grid = np.array([(a, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a)]) / n
best = {name: grid[values.argmin()] for name, values in quantities(grid).items()}

# %% [markdown]
# <details><summary>R too is least at P, and is then the entropy of P</summary>
#
# It goes lower: at P it is {{quantities(P)["R"]:.3f}}, and putting everything on A makes it {{-np.log(P[0]):.3f}}.
# Look under the other answer.
#
# </details>
# <details><summary>R is least where everything is on A, the likeliest outcome</summary>
#
# Yes; the other three are least at $Q = P$:
#
# {{as_markdown(["", "least value", "at Q ="], [[name, f"{quantities(Q)[name]:.3f}", Q] for name, Q in best.items()])}}
#
# The least $R$ is the surprise of A alone, {{-np.log(P[0]):.3f}} nats, below the entropy of $P$,
# {{quantities(P)["F"]:.3f}}.
#
# </details>

# %% tags=["check"]
assert all(np.allclose(best[name], P) for name in ("F", "KL(P‖Q)", "KL(Q‖P)"))
assert np.allclose(best["R"], [1, 0, 0])


# %% [markdown]
# Why a corner? The judge is fixed, so each outcome has a fixed price, $-\log P(x)$, and $R$ is the mean price of what
# $Q$ draws: *linear* in $Q$. A mean of prices is least when only the cheapest is bought. $R$ never asks $Q$ for
# variety.
#
# $F$ is another matter, because there the judge is $Q$ itself. Favouring A makes B and C dearer, and without bound:
# $-\log Q(x)$ goes to infinity as $Q(x)$ goes to zero. $F$ and both divergences are strictly convex in $Q$: bowls,
# each with one lowest point.
#
# ## The picture to remember
#
# A distribution over three outcomes is a point of a triangle: at a corner all probability is on one outcome, in the
# middle it is spread evenly. Along a grey line the quantity does not change; from one line to the next it changes by
# the same amount. The blue dot is $P$, the ring is the minimum, and the
# path is gradient descent on the logits of $Q$, from the same start each time, a square.


# %%
def slope(f, z, step=1e-5):
    """df/dz of a function of logits z (3,), by trying: central differences."""
    return np.array([(f(z + step * unit) - f(z - step * unit)) / (2 * step) for unit in np.eye(3)])


def softmax(z):
    weights = np.exp(z - z.max())
    return weights / weights.sum()


def descend(f, start, steps=400, rate=0.5):
    """Gradient descent on the logits of Q -> the path of Q, (steps+1,3)."""
    z = np.log(np.array(start))
    path = [softmax(z)]
    for _ in range(steps):
        z = z - rate * slope(f, z)
        path.append(softmax(z))
    return np.array(path)


# %% tags=["fold"]
titles = {"F": "F", "R": "R", "KL(P‖Q)": "KL(P‖Q): F less H(P)", "KL(Q‖P)": "KL(Q‖P)"}
paths = {name: descend(lambda z, name=name: quantities(softmax(z))[name], [0.1, 0.3, 0.6]) for name in titles}
panels = [(title, quantities(grid)[name], paths[name], best[name]) for name, title in titles.items()]
simplex.draw_descents(grid, P, panels)

# %% [markdown]
# The contours of $R$ are parallel straight lines: a plane has no lowest point inside the triangle, so the minimum is
# a corner, and the path runs past $P$ into it. The other three are bowls with their lowest point at $P$. (The paths
# do not cross the contours at right angles, because the steps are taken in the logits, and such a step moves likely
# outcomes more than unlikely ones.)
#
# ## Which of them pull the same way?
#
# Training follows slopes, not values. "Cross-entropy and KL have the same gradient" is something one often hears.
#
# > **Predict.** There are two cross-entropies and two divergences. Which pairs have the same gradient with respect to
# > $Q$: $F$ and $\mathrm{KL}(P \| Q)$? $R$ and $\mathrm{KL}(Q \| P)$? Both?

# %%
z = np.log([0.2, 0.2, 0.6])  # the logits of some Q
slopes = {name: slope(lambda z, name=name: quantities(softmax(z))[name], z) for name in quantities(P)}

# %% [markdown]
# <details><summary>Both pairs have</summary>
#
# One pair does not. Compare the four rows under the other answer.
#
# </details>
# <details><summary>F and KL(P‖Q) have, the other two have not</summary>
#
# Yes. The slopes in the three logits, at this $Q$:
#
# {{as_markdown(["", "A", "B", "C"], [[name, *(f"{s:+.3f}" for s in values)] for name, values in slopes.items()])}}
#
# </details>
# <details><summary>Neither pair has</summary>
#
# One pair has. Compare the four rows under the answer before this one.
#
# </details>

# %% tags=["check"]
assert np.allclose(slopes["F"], slopes["KL(P‖Q)"], atol=1e-8)
assert not np.allclose(slopes["R"], slopes["KL(Q‖P)"], atol=0.01)

# %% [markdown]
# The reason is in the definitions. $F$ and $\mathrm{KL}(P \| Q)$ differ by $H(P)$, which does not contain $Q$: a
# constant has no slope. That is why the entropy of English is not needed to train a model on it. $R$ and
# $\mathrm{KL}(Q \| P)$ differ by $H(Q)$, which is the model's own and moves with it. Leaving $H(Q)$ out is leaving
# out the only term that asks for variety.
#
# In the picture: the contours of the left two panels are the same lines, those of the right two are not.
#
# ## What "mode-seeking" means
#
# It is often said that $\mathrm{KL}(P \| Q)$ is *mode-covering* and $\mathrm{KL}(Q \| P)$ is *mode-seeking*: that a
# model which minimises the second goes for the mode, the most probable outcome, and drops the rest.
#
# > **Predict.** Go back to the picture, bottom right. Does the minimum of $\mathrm{KL}(Q \| P)$ lie at the mode A?
# > What would have to change for the sentence to be true?

# %% [markdown]
# <details><summary>It lies at A</summary>
#
# That is $R$, top right. The ring of $\mathrm{KL}(Q \| P)$ is at $Q$ = {{best["KL(Q‖P)"]}}, which is $P$.
#
# </details>
# <details><summary>It lies at P</summary>
#
# Yes, at $Q$ = {{best["KL(Q‖P)"]}}, like the minimum of $\mathrm{KL}(P \| Q)$. As long as $Q$ is free, the two
# divergences have the same minimum, and nothing is dropped. They part when $Q$ is restricted, so that it cannot be
# $P$.
#
# </details>

# %% [markdown]
# A restricted $Q$ is what this lesson began with: a bigram cannot be $P$. Here is the best bigram by each of the two
# divergences (the first is the MLE model once more, for the gradients of $F$ and $\mathrm{KL}(P \| Q)$ are the same).
#
# One matter must be settled before. $R$ and $\mathrm{KL}(Q \| P)$ are infinite as soon as $Q$ gives any probability
# to what is impossible, and an infinite number tells no two models apart. So inside them, here as in the authors'
# code, an impossible word counts as if it had probability $10^{-30}$. This is the *[floor](glossary.md#floor)*. The
# price of such a word, $-\log 10^{-30}$, is high but finite.

# %%
best_bigram = {"KL(P‖Q)": optimal_table("forward_kl"), "KL(Q‖P)": optimal_table("reverse_kl")}
found = {name: mm.exact.measure(Q, world, MAX_LEN) for name, Q in best_bigram.items()}
covering, seeking = (sentence_probs(Q) for Q in best_bigram.values())
dropped = [f'"{text}"' for text, q in zip(VALID, seeking) if q < 0.01]

# %% tags=["fold"]
table(
    ["bigram that minimises", "KL(P‖Q)", "KL(Q‖P)", "writes something impossible"],
    [[name, f"{f['forward_kl']:.3f}", f"{f['reverse_kl']:.3f}", f"{1 - f['validity']:.3f}"] for name, f in found.items()],
)

# %% [markdown]
# The price of an impossible word is {{-world.log_p_floor:.2f}} nats. The first model writes
# {{found["KL(P‖Q)"]["impossible_tokens"]:.2f}} of them per sentence, and their product is what makes its
# $\mathrm{KL}(Q \| P)$ so large.

# %% tags=["fold"]
simplex.draw_two_bigrams(sentence_probs(world), {"least KL(P‖Q)": covering, "least KL(Q‖P)": seeking})

# %% [markdown]
# The first covers all four sentences and pays with {{covering[4:6].sum():.2f}} on {{" and ".join(INVALID)}}. The
# second writes nothing impossible and pays by never writing {{" or ".join(dropped)}}. (Its $\mathrm{KL}(P \| Q)$ in
# the table has no upper limit: the longer the training, the less is left on what it drops.)

# %% tags=["check"]
assert covering[:4].min() > 0.05  # covers all that is possible …
assert seeking[4:].sum() < 0.01  # … against: nothing impossible
assert dropped

# %% [markdown]
# This is the difference, and "mode-seeking" is not quite the word for it. The second model does not sit on the mode.
# It keeps whatever it can keep without inventing, in the proportions of $P$, and gives up the rest:
#
# - $\mathrm{KL}(P \| Q)$ is expensive where $P$ is large and $Q$ small. It forbids *omission*, and tolerates
#   invention.
# - $\mathrm{KL}(Q \| P)$ is expensive where $Q$ is large and $P$ small. It forbids *invention*, and tolerates
#   omission.
#
# If $Q$ can be $P$, there is no need for either, and both end at $P$.
#
# ## Mixing the two
#
# Neither omission nor invention is what you want of a language model. The MixCE paper (Zhang et al., ACL 2023,
# arXiv 2305.16958) mixes the two cross-entropies, with a ratio $\eta$ (eta) from 0 to 1 (η = 1 is MLE):
#
# $$\text{MixCE}^{*} = \eta \, F + (1-\eta) \, R$$
#
# This is its ideal objective. The star says that it needs $P$. It is called `mixce_star` in the code.

# %%
etas = [1.0, 0.9, 0.5]
mixed = {f"η = {eta}": optimal_table("mixce_star", eta) for eta in etas}

# %% tags=["fold"]
of_mixed = {name: mm.exact.measure(Q, world, MAX_LEN) for name, Q in mixed.items()}
table(
    ["bigram that minimises η F + (1−η) R", "F", "R", "writes something impossible"],
    [[name, f"{f['forward_ce']:.2f}", f"{f['reverse_ce']:.2f}", f"{1 - f['validity']:.3f}"] for name, f in of_mixed.items()],
)


# %%
def mixture(eta):
    def value(z):
        q = quantities(softmax(z))
        return eta * q["F"] + (1 - eta) * q["R"]

    return value


minima = [P]
for eta in np.arange(0.95, 0.01, -0.05):  # each from the one before
    minima.append(descend(mixture(eta), minima[-1], steps=100, rate=1)[-1])
minima = np.array([*minima, [1, 0, 0]])  # the last is η = 0

# %% tags=["fold"]
half = 0.5 * quantities(grid)["F"] + 0.5 * quantities(grid)["R"]
bars = {"P": sentence_probs(world)} | {name: sentence_probs(Q) for name, Q in mixed.items()}
simplex.draw_mixture(grid, half, minima, P, bars)

# %% [markdown]
# Below is what a smaller $\eta$ buys: the bigram writes less that is impossible. With the floor's price inside
# $R$, even a tenth of it counts for much. Above, with the contours of the mixture at $\eta = 1/2$, is what it
# costs: even where $Q$ is free to be $P$, the minimum is not $P$. It leaves $P$ as soon as $\eta < 1$ and ends in the
# corner. The mixture of the two *divergences* does not do this. The difference between the two mixtures is, by the
# definitions above, a term that rewards a small entropy of $Q$, and a constant:
#
# $$
# \eta F + (1-\eta) R = \eta \, \mathrm{KL}(P \| Q) + (1-\eta) \, \mathrm{KL}(Q \| P) + (1-\eta) \, H(Q) + \eta \, H(P).
# $$

# %%
values, eta = quantities(grid), 0.5
of_divergences = grid[(eta * values["KL(P‖Q)"] + (1 - eta) * values["KL(Q‖P)"]).argmin()]
of_cross_entropies = grid[(eta * values["F"] + (1 - eta) * values["R"]).argmin()]

# %% [markdown]
# At $\eta$ = {{eta}}, with $P$ = {{P}}, the mixture of cross-entropies is least at $Q$ = {{of_cross_entropies}}, that
# of the divergences at $Q$ = {{of_divergences}}.

# %% tags=["check"]
assert np.allclose(of_divergences, P)
assert of_cross_entropies[0] > P[0] + 0.05

# %% [markdown]
# ## What cannot be done on text
#
# For $F$ you need sentences of $P$, and that is what a corpus is: average $-\log Q(x)$ over it. For $R$ you need to
# *judge* sentences by $P$, and new ones at that, those which the model has just invented. Look at which calls the two
# lines make.

# %%
data = world.sample(2000, MAX_LEN, seed=0)
written = mm.estimators.sample(model, 2000, MAX_LEN, seed=0)
# asks the model about the data: possible anywhere
F = -mm.exact.log_prob(model, data).mean()
# asks P about what the model wrote: possible in a world
R = -world.log_prob(written, floored=True).mean()
exact = mm.exact.measure(model, world, MAX_LEN)

# %% [markdown]
# | | F | R |
# | --- | ---: | ---: |
# | from 2000 samples | {{F:.2f}} | {{R:.2f}} |
# | summed over every sentence | {{exact["forward_ce"]:.2f}} | {{exact["reverse_ce"]:.2f}} |

# %% tags=["check"]
assert abs(F - exact["forward_ce"]) < 0.1
assert abs(R - exact["reverse_ce"]) < 3

# %% [markdown]
# For English the call `world.log_prob` cannot be made. Could one count instead, and take for $P(x)$ how often the
# corpus contains $x$? In a world with four sentences, yes. Try it in a slightly larger one, `stories()`:

# %%
stories = mm.worlds.stories()
corpus = {stories.text(row) for row in stories.sample(10_000, 40, seed=0)}
fresh = [stories.text(row) for row in stories.sample(1000, 40, seed=1)]
unseen = np.mean([text not in corpus for text in fresh])

# %% [markdown]
# This world knows {{len(stories.words) - 1}} words. A fresh sentence: "{{fresh[0]}}". Of 1000 such sentences, every one
# possible under $P$, {{unseen:.0%}} do not occur among 10,000 others. Counting would call them impossible.

# %% tags=["check"]
assert unseen > 0.5

# %% [markdown]
# So $R$ has to be replaced by something that needs samples of $P$ and nothing more. That is what the paper does, and
# it arrives at a loss as short as maximum likelihood's. With $q$ the model's probability of a
# [token](glossary.md#token), here a word, of the data:
#
# $$
# \text{MixCE loss} = -\eta \log q - (1-\eta) \, q.
# $$
#
# [Lesson 3](3_one_softmax_by_hand.ipynb) shows what this loss does at one softmax. [Lesson
# 6](6_the_approximation.ipynb) follows the steps that lead from $R$ to it, and measures what is lost on the way,
# which is a good deal.
#
# ## Summary
#
# - The forward cross-entropy $F$ lets the data draw and the model judge; minimising it is maximum likelihood. The
#   reverse cross-entropy $R$ lets the model draw and the data judge.
# - Take away the entropy of the one that draws, and each becomes a KL divergence.
# - $F$, $\mathrm{KL}(P \| Q)$ and $\mathrm{KL}(Q \| P)$ are bowls in $Q$ with their minimum at $P$. $R$ is a plane;
#   its minimum is all mass on the likeliest outcome.
# - $F$ and $\mathrm{KL}(P \| Q)$ have the same gradient, because $H(P)$ does not depend on $Q$. $R$ and
#   $\mathrm{KL}(Q \| P)$ do not.
# - Free to be $P$, a model ends at $P$ by either divergence. Restricted, it invents by $\mathrm{KL}(P \| Q)$ and
#   omits by $\mathrm{KL}(Q \| P)$.
# - MixCE* is $\eta F + (1-\eta) R$. It trades inventions for omissions, it is not least at $P$, and it needs $P$.

# %% [markdown]
# ## Exercises
#
# 1. *Pencil.* $P = (1/2, 1/4, 1/4)$ and $Q = (1/2, 1/2, 0)$. Work out $F$, $R$, $H(P)$, $H(Q)$ and both divergences,
#    in multiples of $\log 2$.
# 2. *Pencil.* Let $P$ be uniform over three outcomes. Where is $R$ least? Where is $\mathrm{KL}(Q \| P)$? What does
#    the second panel of the picture become?
# 3. *Code.* Let $P$ live on the positions 0 … 20, half of it a bell around 5, half a bell around 15, both with a
#    standard deviation of $3/2$. Let $Q$ be a single bell with any centre and width. Find the best $Q$ by each
#    divergence. Then move the hills to 9 and 11. Is $\mathrm{KL}(Q \| P)$ "mode-seeking" still?
# 4. *Think, then code.* "We lowered our model's reverse cross-entropy, so its distribution is closer to the data's."
#    Take $Q = P$, on three outcomes. What change of its logits lowers $R$, and what does it do to both divergences?
# 5. *Code.* `world.with_floor(-10)` is the same world with a cheaper impossible word. What is $R$ of the MLE bigram
#    there, and what in $R$ has not changed?

# %% [markdown] tags=["solution"]
# **Solution 1.** $F = -\frac{1}{2}\log\frac{1}{2} - \frac{1}{4}\log\frac{1}{2} - \frac{1}{4}\log 0 = \infty$: $Q$
# calls impossible what happens. $R = \frac{1}{2}\log 2 + \frac{1}{2} \cdot 2 \log 2 = \frac{3}{2} \log 2$.
# $H(P) = \frac{1}{2} \log 2 + 2 \cdot \frac{1}{4} \cdot 2 \log 2 = \frac{3}{2} \log 2$ and $H(Q) = \log 2$. So
# $\mathrm{KL}(P \| Q) = \infty$ and $\mathrm{KL}(Q \| P) = \frac{1}{2} \log 2$. One omission is all it takes; the
# other divergence hardly minds.

# %% tags=["solution"]
found = quantities(np.array([0.5, 0.5, 0.0]), P=np.array([0.5, 0.25, 0.25]))

# %% [markdown] tags=["solution"]
# In units of $\log 2$: {{", ".join(f"{name} {value / np.log(2):.2f}" for name, value in found.items())}}. Where the
# answer is ∞ stands a large number: the code reads 0 as $10^{-30}$.

# %% [markdown] tags=["solution"]
# **Solution 2.** Every outcome has the same price, $\log 3$, so $R = \log 3$ at every $Q$: the plane is level, has no
# contours, and every $Q$ is a minimum. $\mathrm{KL}(Q \| P) = \log 3 - H(Q)$ is least where the entropy is greatest,
# at the uniform distribution, so $P$.

# %% tags=["solution"]
uniform = quantities(grid, P=np.ones(3) / 3)["R"]

# %% [markdown] tags=["solution"]
# $R$ lies between {{uniform.min():.6f}} and {{uniform.max():.6f}}; $\log 3$ is {{np.log(3):.6f}}.

# %% tags=["check"]
assert np.ptp(uniform) < 1e-12

# %% [markdown] tags=["solution"]
# **Solution 3.** Write a bell as a softmax, and try every centre and width.

# %% tags=["solution"]
positions = np.arange(21)


def bell(centre, width):
    return softmax(-((positions - centre) ** 2) / (2 * width**2))


bells = [(c, w) for c in np.arange(0, 20.5, 0.5) for w in np.arange(1, 10, 0.25)]
candidates = np.array([bell(c, w) for c, w in bells])


def best_bell(hills, name):
    two_hills = 0.5 * bell(hills[0], 1.5) + 0.5 * bell(hills[1], 1.5)
    return bells[quantities(candidates, P=two_hills)[name].argmin()]


apart, together = ({name: best_bell(hills, name) for name in ("KL(P‖Q)", "KL(Q‖P)")} for hills in ((5, 15), (9, 11)))

# %% [markdown] tags=["solution"]
# | centre and width of the best bell | hills at 5 and 15 | hills at 9 and 11 |
# | --- | --- | --- |
# | KL(P‖Q) | {{"{:g} ± {:g}".format(*apart["KL(P‖Q)"])}} | {{"{:g} ± {:g}".format(*together["KL(P‖Q)"])}} |
# | KL(Q‖P) | {{"{:g} ± {:g}".format(*apart["KL(Q‖P)"])}} | {{"{:g} ± {:g}".format(*together["KL(Q‖P)"])}} |

# %% tags=["check"]
assert apart["KL(Q‖P)"][0] != 10
assert together["KL(Q‖P)"][0] == 10

# %% [markdown] tags=["solution"]
# With the hills apart, $\mathrm{KL}(P \| Q)$ covers both and the empty valley with them, and $\mathrm{KL}(Q \| P)$
# takes one hill. (The other one would be as good: it has two minima.) With the hills together, a single bell is
# nearly $P$, and both divergences choose nearly the same one, in the middle. How much $\mathrm{KL}(Q \| P)$ drops
# depends on what $Q$ is able to be.

# %% [markdown] tags=["solution"]
# **Solution 4.** Lower the temperature: divide all logits by a $\tau < 1$. The model then prefers even more what it
# already preferred. $R$ falls below its value at $P$, and both divergences rise from zero. A lower $R$ alone is no
# evidence of being closer: its minimum is a model that repeats one sentence.

# %% tags=["solution"]
cooled = {tau: quantities(softmax(np.log(P) / tau)) for tau in (1.0, 0.7, 0.4)}


# %% [markdown] tags=["solution"]
# {{as_markdown(["τ", *cooled[1.0]], [[tau, *(f"{value:.3f}" for value in found.values())] for tau, found in cooled.items()])}}

# %% [markdown] tags=["solution"]
# **Solution 5.** $R$ is a finite part, the price of all the possible words, plus the price of an impossible word times
# their expected number. Only the latter price has changed. It is a choice, not a fact about $P$: report both parts.


# %% tags=["solution"]
def parts(floored):
    found = mm.exact.measure(model, floored, MAX_LEN)
    price, count = -floored.log_p_floor, found["impossible_tokens"]
    return f"{found['reverse_ce']:.2f} = {found['reverse_ce_finite']:.2f} + {price:.2f} × {count:.3f}"


# %% [markdown] tags=["solution"]
# At the usual floor $R$ is {{parts(world)}}; at a floor of −10 it is {{parts(world.with_floor(-10))}}.

# %% [markdown]
# Next: [2 Sequences and worlds](2_sequences_and_worlds.ipynb), or, on the short path, [3 One softmax by
# hand](3_one_softmax_by_hand.ipynb). The words are in the [glossary](glossary.md), every formula in [math
# §2](math.md#2-the-quantities).
