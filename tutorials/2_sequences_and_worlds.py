# %% [markdown]
# # 2 Sequences and worlds
#
# *Prose: 25 minutes; with the code: 40; with exercises: 2½ hours. Computing: 10 seconds. Before this:
# [lesson 1](1_two_cross_entropies.ipynb).*
#
# **At the end you will know**
#
# - how a sentence becomes a row of numbers, and where it ends;
# - how a world scores a sentence, and what log-probability, entropy and perplexity say;
# - why a model that remembers one word cannot represent four sentences, and what it writes instead;
# - that a low perplexity does not promise good samples, and that the most probable sentence is not a typical one.

# %% tags=["setup"]
import numpy as np

import minimixce as mm
from minimixce.lessons import (
    MAX_LEN,
    VALID,
    as_markdown,
    full_or_fast,
    optimal_table,
    sentence_probs,
    sequences,
    table,
)

# %% [markdown]
# ## A sentence is a row of tokens
#
# A model knows no words, only *[tokens](glossary.md#token)*: integers from 0 to $V-1$, of which there are $V$ in the
# vocabulary. Here each token stands for a word of the world from lesson 1. Token 0 is special. It is the
# *[boundary](glossary.md#boundary)*: it stands before every sentence and after it.

# %%
world = mm.worlds.agreement()
V = world.vocab_size
rows = world.rows(VALID, max_len=5)  # (4,6): room for five tokens after the first boundary

# %% [markdown]
# {{as_markdown(["token", *range(V)], [["word", "(boundary)", *world.words[1:]]])}}
#
# The four sentences of this world as rows:
#
# {{as_markdown(["sentence", *["token"] * rows.shape[1]], [[world.text(row), *row] for row in rows])}}

# %% [markdown]
# The boundary in front gives the model something to read before the first word. The boundary behind is a token like
# any other: the model has to predict *that the sentence ends here*, or it would never stop. After it, −1 fills the
# row up.
#
# A model reads a sentence from left to right and predicts at each place the next token. So one row asks for as many
# predictions as it has tokens after the first: read the inputs so far, predict the target.

# %%
inputs, targets = (array[1] for array in world.batch(rows))  # of the second sentence

# %% tags=["fold"]
places = np.flatnonzero(targets >= 0)
contexts = [" ".join(["(boundary)", *(world.words[token] for token in inputs[1 : i + 1])]) for i in places]
table(
    ["input", "so far", "target", "which is"],
    [[inputs[i], so_far, targets[i], world.words[targets[i]] or "(boundary)"] for i, so_far in zip(places, contexts)],
)

# %% [markdown]
# After the closing boundary the targets are −1: there is nothing to predict.

# %% [markdown]
# ## A world is an automaton
#
# Where do the probabilities $P$ come from? A world has *[states](glossary.md#state)*, and begins in state 0. In a
# state it draws the next token from a fixed distribution, and the token decides the state it goes to. A state is what
# the world remembers of the sentence so far; two beginnings with the same future can share one.

# %% tags=["fold"]
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


scored = [*VALID[2:], "cat here sleep"]
log_probs = [log_prob(row) for row in world.rows(scored, max_len=5)]

# %% [markdown]
# {{as_markdown(["sentence", "log P", "P"],
#     [[text, f"{value:.3f}", f"{np.exp(value):.2f}"] for text, value in zip(scored, log_probs)])}}

# %% tags=["check"]
assert np.allclose(log_probs, world.log_prob(world.rows(scored, max_len=5)))

# %% [markdown]
# The last one is impossible, and its log-probability is $-\infty$. Why logarithms at all? Because products of many
# small numbers leave the range of what a computer can hold, and sums do not:

# %%
probs = np.full(400, 0.1)  # of the tokens of a text

# %% [markdown]
# The product of these 400 numbers in float64 is {{np.prod(probs)}}; the log-probability is
# {{np.log(probs).sum():.1f}} nats.

# %% [markdown]
# ## The horizon
#
# Exact sums over "all sentences" need a finite number of them. A *[horizon](glossary.md#horizon-max_len)* $T$
# (`max_len`) makes it finite: after $T-1$ ordinary tokens, the boundary is put there by force, for $P$ and for $Q$
# alike. Being forced, it has probability one, adds nothing to a log-probability, and is no target. There are
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

# %% [markdown]
# At $T$ = {{MAX_LEN}} there are {{len(every)}} sequences. $P$ sums to {{p.sum():.6f}} over them, $Q$ to
# {{q.sum():.6f}}. {{(p > 0).sum()}} of them are possible under $P$.

# %% tags=["check"]
assert len(every) == mm.exact.num_sequences(V, MAX_LEN)
assert np.allclose([p.sum(), q.sum()], 1)

# %% [markdown]
# The horizon is part of what $P$ and $Q$ are. Move it, and a sentence that was ended by force has to end by itself, or
# goes on. Give the same sequences room for one token more, so that their last boundary has to be drawn:

# %%
with_room = np.c_[every, np.full(len(every), -1)]  # horizon T + 1
p_room = np.exp(world.log_prob(with_room)).sum()
q_room = np.exp(mm.exact.log_prob(uniform, with_room)).sum()

# %% [markdown]
# At $T$ = {{MAX_LEN + 1}} the same {{len(every)}} sequences hold {{p_room:.2f}} of $P$, which never writes more than
# three words, but only {{q_room:.2f}} of the uniform $Q$. The rest is on longer ones.

# %% tags=["check"]
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

# %% [markdown]
# {{as_markdown(["by", "H(P), nats per sentence"], [[name, f"{value:.4f}"] for name, value in ways.items()])}}
#
# Its exponential is {{np.exp(ways["list"]):.2f}}: about as undecided as a choice between that many equally likely
# sentences.

# %% tags=["check"]
assert np.isclose(ways["list"], ways["states"])
assert abs(ways["2000 samples"] - ways["list"]) < 0.05

# %% [markdown]
# The same idea for one token is *[perplexity](glossary.md#perplexity)*: the exponential of the mean surprise *per
# target*, when $P$ draws and a model $Q$ judges.
#
# $$
# \text{perplexity} = \exp\left(\frac{F}{\text{targets per sentence}}\right), \qquad F = -\sum_x P(x) \log Q(x).
# $$
#
# It is $F$, the forward cross-entropy, on another scale; so no $Q$ has a lower one than $P$ itself. (Measured on
# samples one can, by luck.) Take care what counts as a target. The same sentences have two perplexities here, because
# at one horizon more boundaries are forced than at the other:


# %%
def perplexity(Q, rows):
    """exp of the mean −log Q over targets. Q: a model, or a world in the role of one; rows drawn from P."""
    log_q = Q.log_prob(rows) if isinstance(Q, mm.worlds.World) else mm.exact.log_prob(Q, rows)
    return np.exp(-log_q.sum() / (rows[:, 1:-1] >= 0).sum())  # the last column is never a target


drawn = {T: world.visits(T).sum() for T in (MAX_LEN, MAX_LEN + 1)}  # tokens that are drawn in a sentence, on average
exactly = {T: np.exp(world.entropy(T) / count) for T, count in drawn.items()}

# %% [markdown]
# {{as_markdown(["horizon", "targets per sentence", "perplexity of P itself"],
#     [[T, f"{drawn[T]:.1f}", f"{exactly[T]:.3f}"] for T in drawn])}}

# %% tags=["check"]
for T in drawn:
    assert np.isclose(perplexity(world, world.sample(2000, T, seed=0)), exactly[T], rtol=0.03)

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
trained = mm.exact.measure(optimal_table("forward_ce"), world, MAX_LEN)["forward_ce"]
counted = mm.exact.measure(mle, world, MAX_LEN)["forward_ce"]

# %% [markdown]
# {{as_markdown(["after 'here'", *world.words[4:]],
#     [["C", *(f"{c:.2f}" for c in counts[here, 4:])], ["Q", *(f"{q:.2f}" for q in q_table[here, 4:])]])}}
#
# $F$ of the counted table is {{counted:.4f}} nats per sentence; of the table that lesson 1 trained by gradients,
# {{trained:.4f}}.

# %% tags=["check"]
assert counted <= trained < counted + 0.01

# %% [markdown]
# There is one row for "here", and it has to serve two states of the world, 2 and 4. Counting gives it their average.
# After "cat here" the world says "sleeps" and nothing else; the bigram says "sleep" almost half of the time.

# %%
found = mm.exact.measure(mle, world, MAX_LEN)
impossible = 1 - float(found["validity"])

# %% tags=["fold"]
sequences.draw_best_bigram(sentence_probs(world), sentence_probs(mle), impossible)

# %% tags=["check"]
assert np.isclose(impossible, 0.24)

# %% [markdown]
# This is the picture to remember. What the model lacks is not data but memory, and the result is that it
# *[over-generalises](glossary.md#over-generalisation)*: both pairs of neighbours in "cat here sleep" occur in the
# language, so the model has no reason to refuse the whole.
#
# ## Low perplexity, good samples?
#
# > **Predict.** Of all bigram tables, this one has the lowest perplexity on sentences of $P$. Can another table write
# > fewer impossible sentences? If it can, what is its perplexity?

# %%
careful = optimal_table("reverse_kl")
held_out = world.sample(2000, MAX_LEN, seed=1)
results = {}
for name, Q in {"MLE": mle, "least KL(Q‖P)": careful, "uniform": uniform}.items():
    results[name] = perplexity(Q, held_out), 1 - float(mm.exact.measure(Q, world, MAX_LEN)["validity"])

# %% [markdown]
# <details><summary>No: the lowest perplexity is the best table in every respect</summary>
#
# The table of the other answer has one that writes nothing impossible, and a far higher perplexity.
#
# </details>
# <details><summary>Yes, at a far higher perplexity</summary>
#
# Right. In the middle, the bigram that minimises KL(Q‖P), of lesson 1:
#
# {{as_markdown(["bigram", "perplexity", "writes something impossible"],
#     [[name, f"{a:.2f}", f"{b:.3f}"] for name, (a, b) in results.items()])}}
#
# The perplexity of $P$ itself is {{perplexity(world, held_out):.2f}}. The table that is best by perplexity is not the
# one that invents least. (That one drops one of $P$'s sentences, so its perplexity has no upper limit: what you see
# is how far training went.)
#
# </details>

# %% tags=["check"]
assert results["MLE"][0] < results["least KL(Q‖P)"][0]
assert results["MLE"][1] > 0.2 > 0.01 > results["least KL(Q‖P)"][1]

# %% [markdown]
# Perplexity looks at the model *where the data go*. Samples go where the *model* goes. To see how far the two can
# come apart, take a larger world and two ways to spoil it. `stories()` is still known exactly, but its sentences are
# varied. ("Impossible moves": the share of pairs of a state and a token that never occur.)

# %%
stories = mm.worlds.stories()

# %% [markdown]
# ```text
# {{stories.describe()}}
# ```

# %% [markdown]
# A world can play the role of a model, too: change its probabilities and call it $Q$. The first way is *noise*: at
# each token, with probability $\varepsilon$, say anything at all. (After an impossible word the state stays as it
# was, so the sentence goes on as if the word had not been said.) The second is a lower
# *[temperature](glossary.md#temperature-τ)* $\tau$: raise the probabilities to the power $1/\tau$ and normalise them,
# so that likely words become likelier and impossible ones stay impossible.

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

# %% tags=["fold"]
sequences.draw_validity(noise, temperature, measured(bigram), measured(stories))

# %%
(a, valid_a), (b, valid_b) = noise[0.05], temperature[0.5]

# %% [markdown]
# $P$ with noise $\varepsilon = 0.05$ has a perplexity of {{a:.2f}}, and {{100 * valid_a:.0f}} % of its sentences are
# possible. $P$ at temperature $\tau = 0.5$ has {{b:.2f}}, and {{100 * valid_b:.0f}} % are possible. The lower
# perplexity belongs to the one that writes nonsense.

# %% tags=["check"]
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
bound_here = 1 - np.exp(-float(found["forward_kl"]))

# %% [markdown]
# At $\varepsilon = 0.05$ the excess is {{excess:.3f}} nats per token, {{excess * targets_per_sentence:.2f}} per
# sentence. It allows up to {{100 * bound:.0f}} % of impossible sentences, and noise makes nearly full use of it:
# {{100 - 100 * valid_a:.0f}} % (what it leaves to the possible ones is nearly in the proportions of $P$). The MLE
# bigram on `agreement()` has a KL(P‖Q) of {{float(found["forward_kl"]):.2f}} nats; the bound is
# {{100 * bound_here:.0f}} %, and it writes {{100 * impossible:.0f}} %.

# %% tags=["check"]
assert 1 - valid_a < bound + 0.03
assert impossible < bound_here

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

# %%
mode, mode_log_p = most_probable(stories, HORIZON)
surprise = -stories.log_prob(text)
entropy = stories.entropy(HORIZON)
near = np.mean(surprise < -mode_log_p + 1)

# %% [markdown]
# <details><summary>Near the middle: it is the most probable sentence</summary>
#
# It is the *least surprising* one. Look under "at the left edge".
#
# </details>
# <details><summary>At the left edge</summary>
#
# Yes: nothing is less surprising. The mode is "{{mode}}", with probability {{np.exp(mode_log_p):.4f}} and a surprise
# of {{-mode_log_p:.2f}} nats. The mean surprise is the entropy, {{entropy:.2f}}, and only {{100 * near:.1f}} % of the
# sentences drawn come within one nat of the mode.
#
# </details>
# <details><summary>Outside: no sample reaches it</summary>
#
# Some do, {{100 * near:.1f}} % of them within one nat. Look under "at the left edge".
#
# </details>

# %% tags=["check"]
assert (surprise >= -mode_log_p - 1e-9).all()
assert 0 < near < 0.05

# %% tags=["fold"]
sequences.draw_typical(surprise, entropy, -mode_log_p, mode)

# %%
middle = np.argsort(np.abs(surprise - entropy))[:3]
like = np.abs(surprise - entropy) < 1  # of the sentences drawn, those within one nat of the entropy
number = np.mean(like * np.exp(surprise))  # each stands for 1/P(x) sentences: Σ_x P(x) · 1/P(x) counts them

# %% [markdown]
# Three sentences whose surprise is nearest to the entropy:
# {{"; ".join(f'"{stories.text(text[i])}"' for i in middle)}}. Each is about {{np.exp(entropy + mode_log_p):,.0f}}
# times less probable than the mode. But there are about {{number / 1e6:.1f}} million sentences within one nat of the
# entropy, and together they hold {{100 * like.mean():.0f}} % of $P$.

# %% tags=["check"]
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

# %% [markdown]
# A model that only ever writes "{{mode}}" has $R$ = {{-mode_log_p:.2f}} nats. $P$ itself, judged by $P$, has
# $R = H(P)$ = {{entropy:.2f}}.

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
# - Perplexity judges the model where the data go. All it says about what the model invents, and only if $H(P)$ is
#   known, is a bound per sentence, $1 - e^{-\mathrm{KL}(P \| Q)}$. It is loose as soon as a sentence costs a nat or
#   two too much.
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
listed = [" ".join(str(v) for v in row[1:] if v > 0) or "(none)" for row in mm.exact.sequences(3, 4)]

# %% [markdown] tags=["solution"]
# The package lists {{len(listed)}}: {{", ".join(listed)}}.

# %% tags=["check"]
assert len(listed) == mm.exact.num_sequences(3, 4) == 15


# %% [markdown] tags=["solution"]
# **Solution 2.** The bigram says "here" half of the time, after either noun. Then it says "sleeps" with the share of
# "cat here" among all "here", which is $p$, and "sleep" with $1-p$. It goes wrong after "cat" with
# $\frac{1}{2} p (1-p)$ and after "cats" with $\frac{1}{2} (1-p) p$. Together $p(1-p)$, which is greatest at
# $p = 1/2$: a quarter.


# %% tags=["solution"]
def share_impossible(p_cat):
    probs = world.probs.copy()
    probs[0, 1:3] = p_cat, 1 - p_cat
    other = mm.worlds.World(probs, world.next_state, world.words)
    c = mm.exact.bigram_counts(other, MAX_LEN)
    Q = mm.TableBigram(V)
    Q.params["logits"][:] = np.log(np.maximum(c / c.sum(axis=1, keepdims=True), 1e-30))
    return 1 - float(mm.exact.measure(Q, other, MAX_LEN)["validity"])


shares = {p_cat: share_impossible(p_cat) for p_cat in (0.5, 0.6, 0.9)}

# %% [markdown] tags=["solution"]
# {{as_markdown(["p", "impossible", "p(1−p)"],
#     [[p, f"{share:.4f}", f"{p * (1 - p):.4f}"] for p, share in shares.items()])}}

# %% tags=["check"]
assert all(np.isclose(share, p * (1 - p)) for p, share in shares.items())

# %% [markdown] tags=["solution"]
# **Solution 3.** It does: "here" together with the word before it says which verb must follow.

# %% tags=["solution"]
trigram = mm.worlds.ngram(world.sample(5000, 5, seed=2), 3, V)
validity = world.validity(trigram.sample(5000, 5, seed=3))

# %% [markdown] tags=["solution"]
# The validity of the trigram is {{validity:.4f}}.

# %% tags=["check"]
assert validity == 1

# %% [markdown] tags=["solution"]
# **Solution 4.** The mode is a hundred heads. You will never see it.

# %% tags=["solution"]
tosses = np.random.default_rng(0).random((100_000, 100)) < 0.6
heads = tosses.sum(axis=1)
between = np.mean((heads >= 50) & (heads <= 70))

# %% [markdown] tags=["solution"]
# The mode has probability {{0.6**100:.1e}}. Between 50 and 70 heads come in {{between:.3f}} of 100,000 series. The
# most heads in any of them: {{heads.max()}}.

# %% [markdown] tags=["solution"]
# **Solution 5.** No. Greedy decoding takes the best next token, not the best sentence, and is led to a long one, with
# about the surprise of a typical sentence.

# %% tags=["solution"]
state, row = 0, [0]
while len(row) == 1 or row[-1] != 0:
    row.append(int(stories.probs[state].argmax()))
    state = stories.next_state[state, row[-1]]
(greedy,) = stories.rows([stories.text(row)], HORIZON)

# %% [markdown] tags=["solution"]
# Greedy: "{{stories.text(greedy)}}", a surprise of {{-stories.log_prob(greedy[None])[0]:.2f}} nats. The mode:
# "{{mode}}", {{-mode_log_p:.2f}} nats.

# %% tags=["check"]
assert stories.text(greedy) != mode

# %% [markdown] tags=["solution"]
# **Solution 6.** At each token of the data $Q(x_t \mid x_{<t}) \ge (1-\varepsilon) P(x_t \mid x_{<t})$, so the mean
# surprise grows by at most $-\log(1-\varepsilon)$, and its exponential by a factor of at most $1/(1-\varepsilon)$.
# Each token is drawn from $P$ with probability $1-\varepsilon$, all $n$ of them with $(1-\varepsilon)^n$.

# %% [markdown] tags=["solution"]
# At $\varepsilon = 1/100$ and $n = 1000$ the perplexity grows by at most {{100 / 0.99 - 100:.1f}} %, and a whole text
# without a slip has probability {{0.99**1000:.1e}} (a little more, since noise sometimes says something sound).

# %% [markdown]
# Next: [3 One softmax by hand](3_one_softmax_by_hand.ipynb). The words are in the [glossary](glossary.md), the
# setting in [math §1](math.md#1-setting).
