# %% [markdown]
# # 2 Sequences and worlds
#
# *Reading: 25 minutes. Computing: 10 seconds on a laptop. Before this: [lesson 1](1_two_cross_entropies.ipynb).*
#
# **At the end you will know**
#
# - how a sentence becomes a row of numbers, and where it ends;
# - how a world scores a sentence, and what log-probability, entropy and perplexity say;
# - why a model that remembers one word cannot represent four sentences, and what it writes instead;
# - that a low perplexity does not promise good samples, and that the most probable sentence is not a typical one.

# %%
import numpy as np

import minimixce as mm
from minimixce.lessons import (
    MAX_LEN,
    P_COLOR,
    Q_COLOR,
    VALID,
    figure,
    full_or_fast,
    optimal_table,
    oranges,
    say,
    sentence_bars,
    sentence_probs,
    show,
    table,
)

# %% [markdown]
# ## A sentence is a row of tokens
#
# A model knows no words, only *tokens*: integers from 0 to $V-1$, of which there are $V$ in the vocabulary. Here each
# token stands for a word of the world from lesson 1. Token 0 is special. It is the *boundary*: it stands before every
# sentence and after it.

# %%
world = mm.worlds.agreement()
V = world.vocab_size
table(["token", *range(V)], [["word", "(boundary)", *world.words[1:]]])
rows = world.rows(VALID, max_len=5)  # (4,6): room for five tokens after the first boundary
for row in rows:
    print(row, " ", world.text(row))

# %% [markdown]
# The boundary in front gives the model something to read before the first word. The boundary behind is a token like
# any other: the model has to predict *that the sentence ends here*, or it would never stop. After it, −1 fills the
# row up.
#
# A model reads a sentence from left to right and predicts at each place the next token. So one row asks for as many
# predictions as it has tokens after the first: read the inputs so far, predict the target.

# %%
inputs, targets = (array[1] for array in world.batch(rows))  # of the second sentence
print("inputs ", inputs, "\ntargets", targets, "  (−1: nothing to predict)")
for i in np.flatnonzero(targets >= 0):
    context = " ".join(["(boundary)", *(world.words[token] for token in inputs[1 : i + 1])])
    print(f"  after '{context}' comes {world.words[targets[i]] or '(boundary)'}")

# %% [markdown]
# ## A world is an automaton
#
# Where do the probabilities $P$ come from? A world has *states*, and begins in state 0. In a state it draws the next
# token from a fixed distribution, and the token decides the state it goes to. A state is what the world remembers of
# the sentence so far; two beginnings with the same future can share one.

# %%
moves = []
for state, token in zip(*np.nonzero(world.probs)):
    word = world.words[token] or "(boundary)"
    moves.append([state, word, world.probs[state, token], world.next_state[state, token]])
table(["in state", "next token", "with probability", "then in state"], moves)

# %% [markdown]
# States 2 and 4 are the interesting ones. In both the last word was "here"; in state 2 the noun was "cat", in state 4
# it was "cats". *The world remembers the number across "here".*
#
# ## The probability of a sentence
#
# Write $x_1, \dots, x_n$ for the tokens after the first boundary, the last of them the closing boundary, and $x_{<t}$
# for all that comes before $x_t$. The probability of the sentence is the product of the probabilities of its tokens,
# each given what came before. Its logarithm is a sum:
#
# $$
# P(x) = \prod_{t=1}^{n} P(x_t \mid x_{<t}), \qquad \log P(x) = \sum_{t=1}^{n} \log P(x_t \mid x_{<t}).
# $$
#
# To score a sentence, walk through the automaton along it:

# %%


def log_prob(row):
    """row (6,) -> log P(x)"""
    state, total = 0, 0.0
    for token in row[1:]:
        if token >= 0:  # not the filling
            p = world.probs[state, token]
            total += np.log(p) if p > 0 else -np.inf
            state = world.next_state[state, token]
    return total


for text in (*VALID[2:], "cat here sleep"):
    (row,) = world.rows([text], max_len=5)
    say(f'log P("{text}") = {log_prob(row):.3f}, so P = {np.exp(log_prob(row)):.2f}')
    assert np.allclose(log_prob(row), world.log_prob(row[None]))

# %% [markdown]
# The last one is impossible, and its log-probability is $-\infty$. Why logarithms at all? Because products of many
# small numbers leave the range of what a computer can hold, and sums do not:

# %%
say(
    f"400 tokens of probability 0.1 each: the product in float64 is {np.prod(np.full(400, 0.1))}, the log-probability "
    f"{400 * np.log(0.1):.1f} nats."
)

# %% [markdown]
# ## The horizon
#
# Exact sums over "all sentences" need a finite number of them. A *horizon* $T$ (`max_len`) makes it finite: after
# $T-1$ ordinary tokens, the boundary is put there by force, for $P$ and for $Q$ alike. Being forced, it has
# probability one, adds nothing to a log-probability, and is no target. There are
#
# $$
# (V-1)^0 + (V-1)^1 + \dots + (V-1)^{T-1}
# $$
#
# sequences: choose the length, then each of its tokens. Here is every one of them, and the sum of their
# probabilities, for the world and for a model that finds all tokens equally likely.

# %%
every = mm.exact.sequences(V, MAX_LEN)  # (n,5), shortest first
uniform = mm.TableBigram(V)  # all logits are zero
p, q = np.exp(world.log_prob(every)), np.exp(mm.exact.log_prob(uniform, every))
say(
    f"At T = {MAX_LEN} there are {len(every)} sequences. P sums to {p.sum():.6f} over them, Q to {q.sum():.6f}. "
    f"{(p > 0).sum()} of them are possible under P."
)
assert len(every) == mm.exact.num_sequences(V, MAX_LEN)
assert np.allclose([p.sum(), q.sum()], 1)

# %% [markdown]
# The horizon is part of what $P$ and $Q$ are. Move it, and a sentence that was ended by force has to end by itself, or
# goes on. Give the same sequences room for one token more, so that their last boundary has to be drawn:

# %%
with_room = np.c_[every, np.full(len(every), -1)]  # horizon T + 1
p_room, q_room = np.exp(world.log_prob(with_room)).sum(), np.exp(mm.exact.log_prob(uniform, with_room)).sum()
say(
    f"At T = {MAX_LEN + 1} the same {len(every)} sequences hold {p_room:.2f} of P, which never writes more than three words, "
    f"but only {q_room:.2f} of the uniform Q. The rest is on longer ones."
)
assert np.isclose(p_room, 1)
assert q_room < 0.6

# %% [markdown]
# ## Entropy and perplexity
#
# The *entropy* $H(P) = -\sum_x P(x) \log P(x)$ is the mean surprise of a sentence, to a judge who knows $P$. There
# are three ways to it: list everything; average over samples; or add up, over the states, how often a state is
# visited times the entropy of its next token.

# %%
samples = world.sample(2000, MAX_LEN, seed=0)
ways = {
    "list": -(p[p > 0] * np.log(p[p > 0])).sum(),
    "2000 samples": -world.log_prob(samples).mean(),
    "states": world.entropy(MAX_LEN),
}
table(["by", "H(P), nats per sentence"], [[name, f"{value:.4f}"] for name, value in ways.items()])
say(f"exp(H) = {np.exp(ways['list']):.2f}: about as undecided as a choice between that many equally likely sentences.")
assert np.isclose(ways["list"], ways["states"])
assert abs(ways["2000 samples"] - ways["list"]) < 0.05

# %% [markdown]
# The same idea for one token is *perplexity*: the exponential of the mean surprise *per target*, when $P$ draws and a
# model $Q$ judges.
#
# $$
# \text{perplexity} = \exp\left(\frac{F}{\text{targets per sentence}}\right), \qquad F = -\sum_x P(x) \log Q(x).
# $$
#
# It is $F$, the forward cross-entropy, on another scale; so no $Q$ has a lower one than $P$ itself. (Measured on samples
# one can, by luck.) Take care what counts as a target. The same sentences have two perplexities here, because at one
# horizon more boundaries are forced than at the other:


# %%
def perplexity(Q, rows):
    """exp of the mean −log Q over targets. Q: a model, or a world in the role of one; rows drawn from P."""
    log_q = Q.log_prob(rows) if isinstance(Q, mm.worlds.World) else mm.exact.log_prob(Q, rows)
    return np.exp(-log_q.sum() / (rows[:, 1:-1] >= 0).sum())  # the last column is never a target


for max_len in (MAX_LEN, MAX_LEN + 1):
    count = world.visits(max_len).sum()  # of all states together: the tokens that are drawn in a sentence
    exact = np.exp(world.entropy(max_len) / count)
    say(f"Horizon {max_len}: {count:.1f} targets per sentence, perplexity of P itself {exact:.3f}.")
    assert np.isclose(perplexity(world, world.sample(2000, max_len, seed=0)), exact, rtol=0.03)

# %% [markdown]
# Perplexities compare only where the same targets are counted. The same goes for vocabularies: per character, per
# word and per GPT-2 token are three different scales.
#
# ## A model that cannot represent the world
#
# A *bigram* $Q$ is a table with $V$ rows of $V$ probabilities, $Q(v \mid s)$: the next token $v$ depends on the last
# token $s$ alone. For such a table the forward cross-entropy depends on $P$ only through $C(s, v)$, the expected
# number of times that $v$ follows $s$ in a sentence:
#
# $$
# F = -\sum_{s, v} C(s, v) \log Q(v \mid s).
# $$
#
# Each row is a small cross-entropy of its own, and lesson 1 said where it is least: where $Q(\cdot \mid s)$ is
# proportional to $C(s, \cdot)$. *For a bigram, maximum likelihood is counting.*

# %%
counts = mm.exact.bigram_counts(world, MAX_LEN)  # (V,V), per sentence, as from endless data
q_table = counts / counts.sum(axis=1, keepdims=True)
mle = mm.TableBigram(V)
mle.params["logits"][:] = np.log(np.maximum(q_table, 1e-30))

here = world.words.index("here")
rows_of_table = [["C", *(f"{c:.2f}" for c in counts[here, 4:])], ["Q", *(f"{q:.2f}" for q in q_table[here, 4:])]]
table(["after 'here'", *world.words[4:]], rows_of_table)
trained = mm.exact.measure(optimal_table("forward_ce"), world, MAX_LEN)["forward_ce"]
counted = mm.exact.measure(mle, world, MAX_LEN)["forward_ce"]
say(f"F of the counted table: {counted:.4f}; of the table that lesson 1 trained by gradients: {trained:.4f} nats per sentence.")
assert counted <= trained < counted + 0.01

# %% [markdown]
# There is one row for "here", and it has to serve two states of the world, 2 and 4. Counting gives it their average.
# After "cat here" the world says "sleeps" and nothing else; the bigram says "sleep" almost half of the time.

# %%
found = mm.exact.measure(mle, world, MAX_LEN)
impossible = 1 - float(found["validity"])


def picture():
    fig = figure(7.5, 3.6)
    ax = fig.subplots()
    q = sentence_probs(mle)
    sentence_bars(ax, {"P": sentence_probs(world), "Q, the best bigram by maximum likelihood": q})
    ax.annotate(f"{100 * impossible:.0f} % of what Q writes", (4.7, q[4] + 0.02), ha="center", fontsize=9, color=Q_COLOR)
    return fig


show(
    picture(),
    "Bars of all likely sentences, P beside the MLE bigram: Q agrees with P on the sentences without 'here' and moves "
    "nearly a quarter of its probability from the two possible sentences with 'here' to the two impossible ones.",
)
assert np.isclose(impossible, 0.24)

# %% [markdown]
# This is the picture to remember. What the model lacks is not data but memory, and the result is that it
# *over-generalises*: both pairs of neighbours in "cat here sleep" occur in the language, so the model has no reason
# to refuse the whole.
#
# ## Low perplexity, good samples?
#
# > **Predict.** Of all bigram tables, this one has the lowest perplexity on sentences of $P$. Can another table write
# > fewer impossible sentences? If it can, what is its perplexity?

# %% tags=["reveal"]
careful = optimal_table("reverse_kl")
held_out = world.sample(2000, MAX_LEN, seed=1)
results = {}
for name, Q in {"MLE": mle, "least KL(Q‖P)": careful, "uniform": uniform}.items():
    results[name] = perplexity(Q, held_out), 1 - float(mm.exact.measure(Q, world, MAX_LEN)["validity"])
say("It can, and its perplexity is far higher. In the middle, the bigram that minimises KL(Q‖P), of lesson 1:")
table(
    ["bigram", "perplexity", "writes something impossible"],
    [[name, f"{a:.2f}", f"{b:.3f}"] for name, (a, b) in results.items()],
)
say(
    f"The perplexity of P itself is {perplexity(world, held_out):.2f}. The table that is best by perplexity is not the one "
    "that invents least. (That one drops one of P's sentences, so its perplexity has no upper limit: what you see is how far "
    "training went.)"
)
assert results["MLE"][0] < results["least KL(Q‖P)"][0]
assert results["MLE"][1] > 0.2 > 0.01 > results["least KL(Q‖P)"][1]

# %% [markdown]
# Perplexity looks at the model *where the data go*. Samples go where the *model* goes. To see how far the two can
# come apart, take a larger world and two ways to spoil it. `stories()` is still known exactly, but its sentences are
# varied. ("Impossible moves": the share of pairs of a state and a token that never occur.)

# %%
stories = mm.worlds.stories()
print(stories.describe())

# %% [markdown]
# A world can play the role of a model, too: change its probabilities and call it $Q$. The first way is *noise*: at
# each token, with probability $\varepsilon$, say anything at all. (After an impossible word the state stays as it
# was, so the sentence goes on as if the word had not been said.) The second is a lower *temperature* $\tau$: raise
# the probabilities to the power $1/\tau$ and normalise them, so that likely words become likelier and impossible ones
# stay impossible.

# %%
HORIZON = 40  # no sentence of stories() that you are likely to see is longer
text = stories.sample(full_or_fast(10_000, 2000), HORIZON, seed=0)  # held-out sentences


def noisy(eps):
    return mm.worlds.World((1 - eps) * stories.probs + eps / stories.vocab_size, stories.next_state, stories.words)


def cooled(tau):
    powers = stories.probs ** (1 / tau)
    return mm.worlds.World(powers / powers.sum(axis=1, keepdims=True), stories.next_state, stories.words)


def measured(Q):
    """Perplexity on held-out sentences, and the share of Q's own sentences that are possible."""
    return perplexity(Q, text), stories.validity(Q.sample(full_or_fast(4000, 1000), HORIZON, seed=1))


c = mm.exact.bigram_counts(stories, HORIZON)
bigram = mm.worlds.markov(c / c.sum(axis=1, keepdims=True), stories.words)  # counting, as above
noise = {eps: measured(noisy(eps)) for eps in (0, 0.01, 0.02, 0.05, 0.1, 0.2)}
temperature = {tau: measured(cooled(tau)) for tau in (1, 0.7, 0.5, 0.4, 0.3, 0.25)}


# %%
def plane():
    fig = figure(7.5, 3.9)
    ax = fig.subplots()
    dark, light = oranges(2)
    for name, points, color, shift in (("ε", noise, dark, (7, 4)), ("τ", temperature, light, (0, -14))):
        ax.plot(*zip(*points.values()), "o-", color=color, label={"ε": "P with noise ε", "τ": "P at temperature τ"}[name])
        for value, xy in list(points.items())[2:]:
            ax.annotate(f"{name} = {value}", xy, shift, textcoords="offset points", fontsize=8, color="0.3")
    ax.plot(*measured(bigram), "s", color=Q_COLOR, markersize=8, label="the best bigram")
    ax.plot(*measured(stories), "*", color=P_COLOR, markersize=16, label="P itself", zorder=5)
    ax.set(
        xscale="log",
        xlabel="perplexity on held-out sentences (logarithmic)",
        ylabel="possible under P",
        ylim=(0, 1.06),
        xlim=(4.7, 10.7),
    )
    ax.set_xticks([5, 6, 7, 8, 9, 10], [5, 6, 7, 8, 9, 10])
    ax.minorticks_off()
    ax.legend(fontsize=8, loc="center right", markerscale=0.7)
    return fig


show(
    plane(),
    "Validity against perplexity on stories(): noise drops validity steeply at almost the same perplexity, a low temperature "
    "keeps everything possible while perplexity grows, and the best bigram has both high perplexity and low validity.",
)

(a, valid_a), (b, valid_b) = noise[0.05], temperature[0.5]
say(
    f"P with noise ε = 0.05: perplexity {a:.2f}, and {100 * valid_a:.0f} % of its sentences are possible. P at temperature "
    f"τ = 0.5: perplexity {b:.2f}, and {100 * valid_b:.0f} % are possible. The lower perplexity belongs to the one that "
    "writes nonsense."
)
assert a < b
assert valid_a < 0.8
assert valid_b == 1

# %% [markdown]
# Both curves begin at $P$, where perplexity is lowest and all is possible. From there, one falls almost straight down
# and the other runs to the right. A little noise costs little at each token of the data: every possible token keeps
# nearly all its probability. But a sentence is sound only if *all* of its tokens are, and the slips of the model add
# up. A lower temperature makes no slips and pays in perplexity for the variety that it loses.
#
# How much can a model invent, then, at a given $F$? If a share $m$ of its probability is on impossible sentences,
# only $1-m$ is left for the possible ones. The best it can do with that is to deal it out in the proportions of $P$:
# $Q(x) = (1-m) P(x)$, which costs $-\log(1-m)$ nats more than $P$ itself. So
#
# $$
# F - H(P) = \mathrm{KL}(P \| Q) \ge -\log(1-m), \qquad m \le 1 - e^{-\mathrm{KL}(P \| Q)}.
# $$
#
# These are nats *per sentence*. Perplexity divides them by the number of targets, and that is how a large share of
# nonsense hides behind a small number.

# %%
targets_per_sentence = (text[:, 1:-1] >= 0).sum() / len(text)
excess = np.log(a / perplexity(stories, text))  # nats per token
bound = 1 - np.exp(-excess * targets_per_sentence)
say(
    f"At ε = 0.05 the excess is {excess:.3f} nats per token, {excess * targets_per_sentence:.2f} per sentence. It allows "
    f"up to {100 * bound:.0f} % of impossible sentences, and noise makes nearly full use of it: {100 - 100 * valid_a:.0f} % "
    "(what it leaves to the possible ones is nearly in the proportions of P). "
    f"The MLE bigram on agreement() has a KL(P‖Q) of {float(found['forward_kl']):.2f} nats; the bound is "
    f"{100 - 100 * np.exp(-float(found['forward_kl'])):.0f} %, and it writes {100 * impossible:.0f} %."
)
assert 1 - valid_a < bound + 0.03
assert impossible < 1 - np.exp(-float(found["forward_kl"]))

# %% [markdown]
# ## The mode and typical text
#
# If some sentences are more probable than others, is the most probable one, the *mode*, the best example of the
# language? A short recursion finds it: the best way to finish from a state is the best over its next tokens of the
# token and the best way to finish from there.


# %%
def most_probable(world, max_len):
    """The sequence of greatest probability -> its words, its log-probability."""
    log_p, is_end = world.tables(np).log_p, np.arange(world.vocab_size) == 0
    best = np.full(world.num_states, -np.inf)  # the greatest log-probability of finishing from a state
    for _ in range(max_len):
        through = log_p + np.where(is_end, 0.0, best[world.next_state])  # (S,V): by this token next
        best = through.max(axis=1)
    state, words = 0, []
    while (token := through[state].argmax()) != 0:
        words.append(world.words[token])
        state = world.next_state[state, token]
    return " ".join(words), best[0]


# %% [markdown]
# > **Predict.** Draw thousands of sentences from `stories()` and make a histogram of their surprise, $-\log P(x)$.
# > Where in it does the mode of `stories()` lie: near the middle, at the edge, outside?

# %% tags=["reveal"]
mode, mode_log_p = most_probable(stories, HORIZON)
surprise = -stories.log_prob(text)
entropy = stories.entropy(HORIZON)
near = np.mean(surprise < -mode_log_p + 1)
say(
    f'At the left edge: nothing is less surprising. The mode is "{mode}", with probability {np.exp(mode_log_p):.4f} and a '
    f"surprise of {-mode_log_p:.2f} nats. The mean surprise is the entropy, {entropy:.2f}, and only {100 * near:.1f} % of the "
    "sentences drawn come within one nat of the mode."
)
assert (surprise >= -mode_log_p - 1e-9).all()
assert near < 0.05


# %%
def typical():
    fig = figure(7.5, 3.4)
    ax = fig.subplots()
    ax.hist(surprise, bins=np.arange(5, 41), color=P_COLOR, alpha=0.8, weights=np.full(len(surprise), 1 / len(surprise)))
    for x, style, label in ((entropy, "--", "entropy H(P)"), (-mode_log_p, "-", f'the mode:\n"{mode}"')):
        ax.axvline(x, color="0.2", linestyle=style, linewidth=1.8)
        ax.annotate(
            label, (x, 0.97), (5, 0), xycoords=("data", "axes fraction"), textcoords="offset points", va="top", fontsize=9
        )
    ax.set(xlabel="surprise of a sentence, −log P(x), nats", ylabel="share of sentences")
    ax.set_ylim(top=1.3 * ax.get_ylim()[1])
    return fig


show(
    typical(),
    "Histogram of the surprise of sentences of stories(): they spread around the entropy, and the mode, a three-word "
    "sentence, lies at the far left edge.",
)

# %%
middle = np.argsort(np.abs(surprise - entropy))[:3]
quoted = "; ".join(f'"{stories.text(text[i])}"' for i in middle)
like = np.abs(surprise - entropy) < 1  # of the sentences drawn, those within one nat of the entropy
number = np.mean(like * np.exp(surprise))  # each stands for 1/P(x) sentences: Σ_x P(x) · 1/P(x) counts them
say(
    f"Three sentences whose surprise is nearest to the entropy: {quoted}. Each is about {np.exp(entropy + mode_log_p):,.0f} "
    f"times less probable than the mode. But there are about {number / 1e6:.1f} million sentences within one nat of the "
    f"entropy, and together they hold {100 * like.mean():.0f} % of P."
)
assert number > 100_000
assert like.mean() > 5 * near

# %% [markdown]
# What you meet is what there is *much of*: probability times number. There is one mode, and there are very many
# sentences like these. The surprise of a sentence is a sum over its tokens, some more surprising and some less. The
# longer the text, the more these even out, and the nearer its surprise *per token* comes to the mean. Text with about
# that surprise is called *typical*. (These sentences are short, so the histogram is still wide; exercise 4 has a
# hundred tokens.)
#
# Two consequences. To search for the most probable text, as beam search does, is not to look for text like the data.
# And the corner at which the reverse cross-entropy $R$ was least in lesson 1 is this sentence: a model that never
# writes anything else has the least $R$ of all.

# %%
say(
    f'A model that only ever writes "{mode}" has R = {-mode_log_p:.2f} nats. '
    f"P itself, judged by P, has R = H(P) = {entropy:.2f}."
)

# %% [markdown]
# ## Summary
#
# - A sentence is a row of tokens between two boundaries; predicting the second boundary is how a model stops.
# - A world is an automaton. The probability of a sentence is a product along a walk, and one works with its
#   logarithm.
# - A horizon makes the space finite by forcing the boundary; the forced token costs nothing and is no target.
# - Entropy is the mean surprise of a sentence; perplexity is the exponential of the mean surprise per target. Both
#   depend on what is counted.
# - A bigram has one row for "here" where the world has two states. Maximum likelihood fills it with the average, and
#   a quarter of what it writes, nearly, is impossible.
# - Perplexity judges the model where the data go. All it says about what the model invents is a bound per sentence,
#   $1 - e^{-\mathrm{KL}(P \| Q)}$, and that is loose as soon as a sentence costs a nat or two too much.
# - The mode is one sentence, and far from typical. What you meet is what there is much of.

# %% [markdown]
# ## Exercises
#
# 1. *Pencil.* How many sequences are there for $V = 3$ and $T = 4$? Write them all down, with tokens 1 and 2.
# 2. *Pencil, then code.* Let the first noun be "cat" with probability $p$. Show that the MLE bigram writes something
#    impossible with probability $p(1-p)$, and test it at three values of $p$ (copy `world.probs`, change row 0, make
#    a `World`). At which $p$ does most go wrong?
# 3. *Code.* Would remembering two tokens do? `mm.worlds.ngram(rows, 3, V)` counts a model of that kind from rows such
#    as `world.sample` gives. What is its validity on `agreement()`?
# 4. *Code.* Toss a coin that shows heads with probability $0.6$ a hundred times. Which sequence is the mode? How
#    probable is it, and how probable is it to see between 50 and 70 heads?
# 5. *Code.* Decode `stories()` greedily: in each state take the likeliest token. Do you get the mode?
# 6. *Pencil.* Show that noise $\varepsilon$ raises the perplexity of $P$ by a factor of at most $1/(1-\varepsilon)$,
#    and that a sentence of $n$ tokens still has every token sound with probability at least $(1-\varepsilon)^n$. What
#    do the two become for a text of a thousand tokens at $\varepsilon = 1/100$?

# %% [markdown] tags=["solution"]
# **Solution 1.** Lengths of zero to three ordinary tokens: $1 + 2 + 4 + 8 = 15$.

# %% tags=["solution"]
print(mm.exact.num_sequences(3, 4), [" ".join(str(v) for v in row[1:] if v > 0) for row in mm.exact.sequences(3, 4)])

# %% [markdown] tags=["solution"]
# **Solution 2.** The bigram says "here" half of the time, whatever the noun. Then it says "sleeps" with the share of
# "cat here" among all "here", which is $p$, and "sleep" with $1-p$. It goes wrong after "cat" with
# $\frac{1}{2} p (1-p)$ and after "cats" with $\frac{1}{2} (1-p) p$. Together $p(1-p)$, which is greatest at
# $p = 1/2$: a quarter.

# %% tags=["solution"]
for p_cat in (0.5, 0.6, 0.9):
    probs = world.probs.copy()
    probs[0, 1:3] = p_cat, 1 - p_cat
    other = mm.worlds.World(probs, world.next_state, world.words)
    c = mm.exact.bigram_counts(other, MAX_LEN)
    Q = mm.TableBigram(V)
    Q.params["logits"][:] = np.log(np.maximum(c / c.sum(axis=1, keepdims=True), 1e-30))
    wrong = 1 - float(mm.exact.measure(Q, other, MAX_LEN)["validity"])
    say(f"p = {p_cat}: {wrong:.4f}; p(1−p) = {p_cat * (1 - p_cat):.4f}")
    assert np.isclose(wrong, p_cat * (1 - p_cat))

# %% [markdown] tags=["solution"]
# **Solution 3.** It does: "here" together with the word before it says which verb must follow.

# %% tags=["solution"]
trigram = mm.worlds.ngram(world.sample(5000, 5, seed=2), 3, V)
say(f"validity of the trigram: {world.validity(trigram.sample(5000, 5, seed=3)):.4f}")
assert world.validity(trigram.sample(5000, 5, seed=3)) == 1

# %% [markdown] tags=["solution"]
# **Solution 4.** The mode is a hundred heads. Nobody will ever see it.

# %% tags=["solution"]
tosses = np.random.default_rng(0).random((100_000, 100)) < 0.6
heads = tosses.sum(axis=1)
between = np.mean((heads >= 50) & (heads <= 70))
say(
    f"P(the mode) = {0.6**100:.1e}. Between 50 and 70 heads: {between:.3f} of 100,000 series. The most heads in any of them: "
    f"{heads.max()}."
)

# %% [markdown] tags=["solution"]
# **Solution 5.** No. Greedy decoding takes the best next token, not the best sentence, and is led to a long one, with
# about the surprise of a typical sentence.

# %% tags=["solution"]
state, row = 0, [0]
while len(row) == 1 or row[-1] != 0:
    row.append(int(stories.probs[state].argmax()))
    state = stories.next_state[state, row[-1]]
(greedy,) = stories.rows([stories.text(row)], HORIZON)
say(
    f'Greedy: "{stories.text(greedy)}", a surprise of {-stories.log_prob(greedy[None])[0]:.2f} nats. '
    f'The mode: "{mode}", {-mode_log_p:.2f} nats.'
)

# %% [markdown] tags=["solution"]
# **Solution 6.** At each token of the data $Q(x_t \mid x_{<t}) \ge (1-\varepsilon) P(x_t \mid x_{<t})$, so the mean
# surprise grows by at most $-\log(1-\varepsilon)$, and its exponential by a factor of at most $1/(1-\varepsilon)$.
# Each token is drawn from $P$ with probability $1-\varepsilon$, all $n$ of them with $(1-\varepsilon)^n$.

# %% tags=["solution"]
say(
    f"ε = 1/100, n = 1000: perplexity grows by at most {100 / 0.99 - 100:.1f} %, and a whole text without a slip has "
    f"probability {0.99**1000:.1e} (a little more, since noise sometimes says something sound)."
)

# %% [markdown]
# Next: [3 One softmax by hand](3_one_softmax_by_hand.ipynb). The words are in the [glossary](glossary.md), the
# setting in [math §1](math.md#1-setting).
