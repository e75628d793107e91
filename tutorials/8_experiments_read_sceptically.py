# %% [markdown]
# # 8 Experiments, read sceptically
#
# *Prose: 25 minutes; with the code: 40; with exercises: 2 hours. Computing: a minute. Before this:
# [lesson 2](2_sequences_and_worlds.ipynb) and [lesson 6](6_the_approximation.ipynb).*
#
# **At the end you will know**
#
# - four questions to ask of any table that compares objectives;
# - which differences in the MixCE paper's synthetic table are about the objectives, and which are about how the models
#   were trained;
# - how many seeds it takes to see a difference;
# - what MixCE does to sentences when the truth is known, and what remains of it beside a control that costs nothing.

# %% tags=["setup"]
import csv
import functools
import json
import math
import statistics

import numpy as np

from minimixce.experiments import matrices
from minimixce.experiments.fixed_points import fixed_point
from minimixce.experiments.synthetic.data import counts_of, data_of
from minimixce.experiments.synthetic.job import Job
from minimixce.experiments.synthetic.paper import fit_paper
from minimixce.lessons import as_markdown, comparisons, full_or_fast, lesson_folder, table

# %% [markdown]
# ## Four questions
#
# Somebody shows you a table in which method A beats method B. Before you believe it, ask:
#
# 1. **What was each one allowed to use?** A method that sees the true distribution $P$ is no rival of one that sees
#    samples.
# 2. **What does a trivial method reach?** If counting beats both, the table compares two ways to be worse than counting.
# 3. **Where does the objective itself lead?** A trained model ends somewhere else than at its objective's optimum. The
#    distance between the two belongs to the training.
# 4. **How large is the noise?** A *seed* fixes what is random in a run: the data drawn, the start, the order. Take the
#    difference of A and B seed by seed, both on the same data, then the mean of these differences and its *standard
#    error*: their standard deviation over the square root of how many they are. Such *paired* differences are free of
#    what the seeds do to both.
#
# The rest of this lesson asks them, first of the paper's own synthetic experiment, then of two experiments of ours.

# %% [markdown]
# ## The paper's table
#
# The paper (Zhang et al. 2023, section 4) draws a random bigram world with half of its transitions impossible, samples
# training sequences from it, trains a small neural bigram, and measures **avg. JS**: for each token
# the Jensen–Shannon divergence (the mean KL of two distributions to their average) between the true and the learned
# distribution of the next one, then the mean over tokens ([math §8](math.md#8-measures)). Zero is perfect. The
# paper's table has the mean of five seeds at each objective's best η.
#
# MLE and MixCE see the training sequences only through their bigram counts, so both have an answer without any
# training. For MLE it is the table of relative frequencies. For MixCE it is the
# [fixed point](glossary.md#fixed-point) that you met in [lesson 3](3_one_softmax_by_hand.ipynb), computed from those
# frequencies. We put three numbers side by side for every η (η = 1 is MLE), with the paper's five seeds: counting, the
# objective's own optimum, and the network trained by the paper's protocol, rebuilt in this package. The protocol: the
# optimizer Adam, dropout (random units are switched off at each step), weight decay (weights are pulled towards zero),
# and early stopping, that is, an end as soon as the loss on other sequences, the development data, stops falling.

# %%
V, ZEROS = 20, 0.5  # words of the world; its share of impossible transitions
SEEDS = full_or_fast((7, 42, 777, 4222, 99999), (7, 42))
ETAS = full_or_fast((1.0, 0.99, 0.9, 0.5), (1.0, 0.9))


def network(seed, eta, **changes):
    """avg. JS of the network trained by the paper's protocol, with changes to it."""
    job = Job("", V, ZEROS, seed, "mixce", eta, protocol="paper", model="neural")  # "": no corpus
    data = data_of("", V, ZEROS, seed)  # the random world of this seed, and samples of it
    learned, *_ = fit_paper(job, data, **changes)
    return matrices.average_js(data.world.probs, learned)


def three_answers(seed, eta):
    """avg. JS of counting, of MixCE's optimum given the counts, and of the trained network."""
    data = data_of("", V, ZEROS, seed)
    counts = counts_of(data.train, V)
    frequencies = counts / counts.sum(axis=1, keepdims=True)
    optimum, _ = fixed_point("mixce", frequencies, eta)
    without_training = (matrices.average_js(data.world.probs, q) for q in (frequencies, optimum))
    return [*without_training, network(seed, eta)]


# (η, seed, answer)
answers = np.array([[three_answers(seed, eta) for seed in SEEDS] for eta in ETAS])


def mean_and_error(values):
    """Mean over seeds, and its standard error."""
    return np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))


# %% tags=["fold"]
table(
    ["η (η = 1 is MLE)", "counting", "MixCE's optimum", "trained network"],
    [
        [f"{eta:g}", *("{:.2e} ± {:.0e}".format(*mean_and_error(answers[i, :, k])) for k in range(3))]
        for i, eta in enumerate(ETAS)
    ],
)

# %% tags=["fold"]
RESULTS = lesson_folder() / "results"
with open(RESULTS / "synthetic_reference.csv", newline="") as file:
    reference = next(csv.DictReader(file))  # its first row: MLE, seed 7, by the authors' code
counting, optimum, trained = answers.mean(axis=1).T

# %% [markdown]
# The trained MLE network ends **{{trained[0] / counting[0]:.0f}} times** as far from the truth as counting does, though
# counting *is* MLE. This is the protocol, no slip of ours: on seed {{SEEDS[0]}} our network ends at {{answers[0, 0, 2]:.1e}},
# and that of the authors' code, run unchanged on the same world, at {{float(reference["avg_js"]):.1e}}.
#
# The optimum of MixCE at η = {{ETAS[-2]:g}} lies {{optimum[-2] / counting[0]:.2g}} times as far as counting, at
# η = {{ETAS[-1]:g}} {{optimum[-1] / counting[0]:.2g}} times: MixCE sharpens, and a sharpened table is not $P$. In a world that
# the model can represent, and with samples enough to count, there is nothing for MixCE to repair.

# %% tags=["check"]
assert trained[0] > 5 * counting[0]  # the network is far from what its own objective asks for
assert optimum[-1] > optimum[0]

# %% [markdown]
# > **Predict.** What keeps the trained network so far from counting? Dropout and weight decay, which pull it away on
# > purpose? Or that training is over after 50 epochs at most, and earlier where the development loss has not fallen
# > five times in a row?

# %%
LONG = full_or_fast(200, 80)  # epochs; η = 1 below is MLE
bare = np.mean([network(seed, 1.0, dropout=0.0, l2=0.0) for seed in SEEDS]) / counting[0]
longer = np.mean([network(seed, 1.0, epochs=LONG, patience=LONG) for seed in SEEDS]) / counting[0]

# %% [markdown]
# <details><summary>Dropout and weight decay</summary>
#
# Less than you may think: without them the network is still {{bare:.0f}} times as far from $P$ as counting. Look under the
# other answer.
#
# </details>
# <details><summary>The end of training</summary>
#
# Mostly. Without dropout and decay the network is still {{bare:.0f}} times as far from $P$ as counting. With both, but
# after {{LONG}} epochs, it is {{longer:.0f}} times as far. It was on its way.
#
# </details>
#
# An explanation is a claim like any other: before you write "the dropout did it", take the dropout out.

# %% tags=["check"]
assert longer < 0.9 * bare < trained[0] / counting[0]

# %% [markdown]
# ## Is one seed a result?
#
# > **Predict.** Take the trained networks at the two largest η, the same data for both. For how many seeds does the
# > smaller of the two η win? And what would you have reported, had you run only the first seed?

# %%
gains = answers[0, :, 2] - answers[1, :, 2]  # > 0: the second η is nearer to P
wins = int((gains > 0).sum())
gain, error = mean_and_error(gains)

# %% [markdown]
# <details><summary>For every seed, or for none</summary>
#
# For {{wins}} of {{len(SEEDS)}}. Read on under the other answer.
#
# </details>
# <details><summary>For some</summary>
#
# For {{wins}} of {{len(SEEDS)}}. The first seed alone would have said that η = {{ETAS[1]:g}}
# {{"wins" if gains[0] > 0 else "loses"}}. Seed by seed the differences are {{", ".join(f"{g:+.0e}" for g in gains)}}.
#
# </details>
#
# Their mean is {{gain:+.1e}} ± {{error:.0e}}, which is {{abs(gain) / error:.1f}} standard errors. And the pairs share their
# data and their random numbers. Without that the noise would be far larger: from seed to seed the same method moves by
# {{answers[0, :, 2].std(ddof=1):.0e}} (standard deviation).

# %% tags=["check"]
if len(SEEDS) == 5:
    assert 0 < wins < 5
    assert abs(gain) < error
    assert gains.std(ddof=1) < answers[0, :, 2].std(ddof=1) / 10

# %% tags=["fold"]
comparisons.draw_seeds(ETAS, answers[0, :, 0], answers[:, :, 1], answers[:, :, 2])

# %% [markdown]
# How many standard errors from zero does chance alone get, once in twenty times? Let there be no difference at all and do
# the experiment many times. (The seeds' differences are taken to be normally distributed.)


# %%
@functools.cache
def experiments(n, effect=0.0):
    """Many experiments of n seeds each, whose true mean is `effect` standard deviations of a seed
    -> how many standard errors the mean of each experiment is from zero."""
    drawn = effect + np.random.default_rng(0).standard_normal((200_000, n))
    return drawn.mean(axis=1) / (drawn.std(axis=1, ddof=1) / math.sqrt(n))


@functools.cache
def chance(n):
    """The number of standard errors that chance alone exceeds once in twenty experiments."""
    return np.quantile(np.abs(experiments(n)), 0.95)


# %% [markdown]
# {{as_markdown(["seeds", *(str(n) for n in (2, 3, 5, 10, 30))],
#     [["standard errors", *(f"{chance(n):.1f}" for n in (2, 3, 5, 10, 30))]])}}
#
# The rule "two standard errors" is for many seeds. With few, the standard error itself is a guess from a few numbers,
# often too small. (This is Student's $t$ distribution, of which tables are printed.)

# %% tags=["check"]
assert [round(float(chance(n)), 1) for n in (3, 5, 10)] == [4.3, 2.8, 2.3]

# %% [markdown]
# What about the other objectives of the paper's table? MixCE\*, the two KLs and JS ask for $P(x)$ itself, in every
# gradient. By the first question they are no rivals of MLE and MixCE. The [results page](synthetic_results.md) has them
# all, with exact gradients, and says what each was allowed to use.

# %% [markdown]
# ## A world whose truth is known
#
# The bigram world was too easy: the model could represent it. `stories()` is harder. Its sentences have agreement and
# memory over many words, and a GPT with few channels gets some of it wrong, whatever the objective. Whether a sampled
# sentence is **possible**, $P(x) > 0$, can be looked up: part of what a reader would judge, judged exactly.


# %% tags=["fold"]
def load(name):
    """What `python tutorials/longer_run.py NAME` stored: where perplexity is infinite, null."""
    data = json.loads((RESULTS / f"longer_run_{name}.json").read_text(encoding="utf-8"))
    for row in data["rows"]:
        row["perplexity"] = math.inf if row["perplexity"] is None else row["perplexity"]
    return data


stories = load("stories")
settings, etas = stories["settings"], stories["settings"]["etas"]
n_seeds = len(settings["seeds"])

# %% [markdown]
# Training takes longer than a lesson should, so these numbers are stored. `{{stories["command"]}}` made them: GPTs of
# {{settings["model"]["n_layer"]}} layer and {{settings["model"]["n_embd"]}} channels,
# {{settings["fit"]["steps"]:,}} steps on {{settings["sentences"]["train"]:,}} sentences, {{n_seeds}} seeds for each of
# η = {{", ".join(f"{eta:g}" for eta in etas)}}, and {{settings["sentences"]["sampled"]:,}} sentences sampled from each model in
# each way. Bars and ± are standard errors over seeds.

# %% [markdown]
# A trained model can be decoded in many ways. A [temperature](glossary.md#temperature-τ) below one makes what it writes
# more plausible, after training and for nothing. So does top-p, which keeps the likeliest tokens that together hold
# probability $p$. The fair question is therefore not whether MixCE writes more possible sentences than MLE. It is
# whether it does so better than **MLE at the temperature that gives it the same entropy**. That is the *control*.
#
# [Entropy](glossary.md#entropy) is here the mean of $H(Q(\cdot \mid h))$ over the prefixes $h$ of held-out sentences:
# how undecided the model is where $P$ would have brought it, not where its own sentences go. So we look at the samples
# as well: how many **different** sentences there are, as a share of all, and which share of the possible ones is
# **new**, not among the training sentences.


# %%
def of(data, decoding, **equal):
    """The stored runs of one way to decode, where `equal` holds; one for each seed, in order."""
    rows = [row for row in data["rows"] if row["decoding"] == decoding]
    return [row for row in rows if all(row[key] == value for key, value in equal.items())]


def mean(rows, measure):
    return np.mean([row[measure] for row in rows])


def paired(data, eta, measure):
    """MixCE minus its control, seed by seed -> mean, standard error, whether beyond chance."""
    pairs = zip(of(data, "as trained", eta=eta), of(data, f"entropy of η = {eta:g}"), strict=True)
    values = [mixce[measure] - control[measure] for mixce, control in pairs]
    difference, error = mean_and_error(values)
    return difference, error, abs(difference) > chance(len(values)) * error


# %% [markdown]
# > **Predict.** A smaller η makes more of the sampled sentences possible. So does a lower temperature of the MLE model.
# > Where both have the same entropy, which of the two writes more possible sentences?

# %% tags=["fold"]
SENTENCE_MEASURES = {"possible": "validity", "different": "different", "new": "new", "perplexity": "perplexity"}


def differences(data, columns):
    """A table of paired differences, starred where they are beyond chance; columns {heading: measure}."""
    rows = []
    for eta in data["settings"]["etas"][1:]:
        found = (paired(data, eta, measure) for measure in columns.values())
        rows.append([f"η = {eta:g}", *(f"{d:+.3f} ± {e:.3f}" + (" *" if far else "") for d, e, far in found)])
    return as_markdown(["MixCE minus its control", *columns], rows)


beyond = [f"{eta:g}" for eta in etas[1:] if paired(stories, eta, "validity")[2]]
entries = len(SENTENCE_MEASURES) * len(etas[1:])

# %% [markdown]
# <details><summary>MixCE: it was trained for it</summary>
#
# The temperature does, in the mean at every η. The table is under the other answer.
#
# </details>
# <details><summary>About the same</summary>
#
# The temperature does, in the mean at every η. The table is under the other answer.
#
# </details>
# <details><summary>The temperature</summary>
#
# Yes, in the mean at every η. A star marks what is further from zero than {{chance(n_seeds):.1f}} standard errors, which
# chance seldom exceeds with {{n_seeds}} seeds. For the share of possible sentences it stands at η = {{", ".join(beyond)}}.
# (In a table of {{entries}} entries chance alone sets about {{entries / 20:.0f}}.)
#
# {{differences(stories, SENTENCE_MEASURES)}}
#
# </details>

# %% tags=["check"]
assert all(paired(stories, eta, "validity")[0] < 0 for eta in etas[1:])
assert "0.5" in beyond
assert len(beyond) >= 4

# %% [markdown]
# Here are the levels, means over seeds. What $P$ itself writes stands in the last row.


# %% tags=["fold"]
def levels(data, columns):
    """A table of means: MLE, each η beside its control, and P where it is known; columns {heading: (measure, digits)}."""
    groups = {"MLE (η = 1)": of(data, "as trained", eta=1.0)}
    for eta in data["settings"]["etas"][1:]:
        matched = of(data, f"entropy of η = {eta:g}")
        groups[f"MixCE, η = {eta:g}"] = of(data, "as trained", eta=eta)
        groups[f"MLE, τ = {mean(matched, 'temperature'):.2f}"] = matched
    rows = [[label, *(f"{mean(rows, m):.{d}f}" for m, d in columns.values())] for label, rows in groups.items()]
    last = [f"{data['p'][m]:.{d}f}" if m in data["p"] else "" for m, d in columns.values()]
    table(["", *columns], [*rows, ["P itself" if "entropy" in data["p"] else "held-out text", *last]])


fits = {"perplexity": ("perplexity", 2), "entropy": ("entropy", 3)}
levels(stories, fits | {"possible": ("validity", 3), "different": ("different", 3), "of the possible, new": ("new", 3)})

# %%
mle = of(stories, "as trained", eta=1.0)
half, half_control = of(stories, "as trained", eta=0.5), of(stories, "entropy of η = 0.5")
wrong, wrong_half, wrong_control = (1 - mean(r, "validity") for r in (mle, half, half_control))
longer_by, length_error, _ = paired(stories, 0.5, "length")
least_perplexity = stories["p"]["perplexity"]  # of P itself

# %% [markdown]
# MLE writes impossible sentences {{wrong:.1%}} of the time, MixCE at $\eta = 0.5$ {{wrong_half:.1%}}, and MLE at the matching
# temperature {{wrong_control:.1%}}. So at $\eta = 0.5$ MixCE repairs {{(wrong - wrong_half) / wrong:.0%}} of
# what MLE gets wrong, and the temperature {{(wrong - wrong_control) / wrong:.0%}}, at a lower perplexity. Nor are the
# temperature's sentences easier ones: MixCE's are shorter, by {{-longer_by:.2f}} ± {{length_error:.2f}} tokens, and short
# ones are the easier to get right. [Lesson 6](6_the_approximation.ipynb) says why MixCE repairs so little: it weights
# the tokens of the data, and is never shown what the model would write.

# %% tags=["check"]
assert wrong > wrong_half > wrong_control
assert longer_by < -5 * length_error
assert mean(half_control, "perplexity") < mean(half, "perplexity")

# %% [markdown]
# How far is a [perplexity](glossary.md#perplexity) from the best? Its logarithm is the mean surprise of a token, and
# that has two parts,
#
# $$\frac{E_{x \sim P}[-\log Q(x)]}{\text{tokens}} = \frac{H(P)}{\text{tokens}} +
# \frac{\mathrm{KL}(P \Vert Q)}{\text{tokens}}.$$
#
# The first is the same for every model, and here we know it: the perplexity of $P$ itself is
# {{least_perplexity:.2f}}. So MLE is {{np.log(mean(mle, "perplexity") / least_perplexity):.3f}} nats a token from $P$. On
# text $H(P)$ is unknown. There the logarithm of a perplexity is an upper bound of $H(P)$ per token and no more: of two
# models it says which is nearer to $P$ in KL divergence, but of none how near.

# %%
odd = sorted(row["validity"] for row in of(stories, "as trained", eta=0.03))
least, least_control = of(stories, "as trained", eta=0.01), of(stories, "entropy of η = 0.01")

# %% [markdown]
# Two things more. The means hide one: at $\eta = 0.03$ one seed writes {{odd[0]:.0%}} possible sentences, the other four
# {{odd[1]:.0%}} to {{odd[-1]:.0%}}. That is where the large error comes from, and a mean of five would have passed as an effect
# of η. Look at the seeds before you average them.
#
# The other is something that a temperature does not do. At $\eta = 0.01$ MixCE's perplexity is
# {{mean(least, "perplexity"):.0f}}, its control's {{mean(least_control, "perplexity"):.0f}}: MixCE keeps the tail that so low a
# temperature kills, as it did in lesson 6. What it keeps there includes the impossible:
# {{1 - mean(least, "validity"):.0%}} of its sentences against {{1 - mean(least_control, "validity"):.1%}}. At $\eta = 0.1$ and
# above it is the other way: there MixCE pays more perplexity than its control, not less.

# %% tags=["check"]
assert odd[0] < odd[1] - 0.3  # one seed is unlike the others
assert mean(least, "perplexity") < mean(least_control, "perplexity")
assert all((paired(stories, eta, "perplexity")[0] > 0) == (eta >= 0.1) for eta in etas[1:])

# %% [markdown]
# The whole picture, the upper half of it without the two smallest η, which lie far to the right. A temperature near one
# hardly changes perplexity, so its curve there goes straight up. Every top-p of the list gives some held-out token
# probability zero. One is enough to make perplexity infinite, so top-p is drawn below alone. The star is $P$.


# %% tags=["fold"]
def curves(data):
    """{way: groups of runs} along three ways to be more careful, each from plain MLE on."""
    etas, plain = data["settings"]["etas"], of(data, "as trained", eta=1.0)
    cooler = [of(data, f"entropy of η = {eta:g}") for eta in etas[1:]]
    cooler += [of(data, "temperature", temperature=t) for t in {r["temperature"] for r in of(data, "temperature")}]
    nuclei = [of(data, "top-p", top_p=p) for p in {r["top_p"] for r in of(data, "top-p")}]
    return {
        "MixCE, η as written": [of(data, "as trained", eta=eta) for eta in etas],
        "MLE, temperature": [plain, *sorted(cooler, key=lambda rows: -mean(rows, "temperature"))],
        "MLE, top-p": [plain, *sorted(nuclei, key=lambda rows: -rows[0]["top_p"])],
    }


def draw_careful(data, measure, label, alt, most=math.inf):
    drawn = ("perplexity", "entropy", measure)
    ways = {
        way: [np.array([[row[m] for row in rows] for rows in groups]) for m in drawn] for way, groups in curves(data).items()
    }
    p = [data["p"].get(m) for m in drawn]
    comparisons.draw_careful(ways, data["settings"]["etas"], p, label, alt, most)


draw_careful(
    stories,
    "validity",
    "share of sentences that are possible",
    "At every perplexity and every entropy MLE at a lower temperature writes more possible sentences than MixCE.",
    most=7,
)

# %% [markdown]
# Is that because the model is so small? Here is one with more layers and channels.

# %% tags=["fold"]
large = load("stories_large")
wrong_large = 1 - mean(of(large, "as trained", eta=1.0), "validity")

# %% [markdown]
# With {{large["settings"]["model"]["n_layer"]}} layers of {{large["settings"]["model"]["n_embd"]}} channels MLE writes
# impossible sentences {{wrong_large:.1%}} of the time instead of {{wrong:.1%}}, so there is less to repair. The order is the
# same ({{len(large["settings"]["seeds"])}} seeds):
#
# {{differences(large, SENTENCE_MEASURES)}}

# %% tags=["check"]
assert wrong_large < wrong / 2
assert all(paired(large, eta, "validity")[0] < 0 for eta in large["settings"]["etas"][1:])

# %% [markdown]
# ## Text
#
# On real text $P$ is unknown and nothing says whether a sentence is possible. What can be checked is whether a word is
# one: [**word validity**](glossary.md#word-validity) is the share of sampled words that occur in the training text.
# Held-out text has new words, so not even it reaches one. [Diversity](glossary.md#diversity) is the share of different
# n-grams (n tokens in a row), and [repetition](glossary.md#repetition) the share of text inside phrases that stand
# three times in a row ([math §8](math.md#8-measures)). The text is the documentation inside Python, by character.

# %% tags=["fold"]
docs = load("docs")
docs_settings = docs["settings"]
docs_seeds, docs_etas = len(docs_settings["seeds"]), docs_settings["etas"][1:]

# %% [markdown]
# `{{docs["command"]}}`: {{docs_settings["model"]["n_layer"]}} layers, {{docs_settings["model"]["n_embd"]}} channels,
# {{docs_settings["fit"]["steps"]:,}} steps, {{docs_seeds}} seeds; {{docs_settings["texts"]["sampled"]}} samples of
# {{docs_settings["texts"]["tokens"]}} characters from each model in each way.

# %% tags=["fold"]
text_measures = {"word validity": "word_validity", "diversity": "diversity", "repetition": "repetition"}
levels(docs, fits | {heading: (measure, 3) for heading, measure in text_measures.items()})
draw_careful(
    docs,
    "word_validity",
    "share of words that occur in training",
    "On Python's documentation MixCE, temperature and top-p lie on nearly the same curve of word validity against entropy.",
)

# %%
more, more_error, _ = paired(docs, 0.5, "word_validity")  # MixCE minus its control, share of words

# %% [markdown]
# > **Predict.** At $\eta = 0.5$ MixCE has more valid words than its control, by {{more:.1%}} of all, which is
# > {{more / more_error:.1f}} standard errors. There are {{docs_seeds}} seeds. Is that a finding?


# %%
def power(n, effect):
    """How often n seeds go beyond chance, if the true mean is `effect` standard deviations."""
    return np.mean(np.abs(experiments(n, effect)) > chance(n))


def seeds_needed(effect, goal=0.8):
    return next(n for n in range(2, 100) if power(n, effect) >= goal)


effect = more / (more_error * math.sqrt(docs_seeds))  # in standard deviations of one seed

# %% [markdown]
# <details><summary>Yes: it is more than two standard errors</summary>
#
# It is less than it sounds. With {{docs_seeds}} seeds chance goes beyond {{chance(docs_seeds):.1f}} once in twenty times, and
# {{len(docs_etas)}} η were looked at. Read the other answer, too.
#
# </details>
# <details><summary>No, but it is worth more seeds</summary>
#
# Right, and how many can be said. Suppose that the true difference is what we saw, and scatters as it did. Then
# {{docs_seeds}} seeds go beyond chance with probability {{power(docs_seeds, effect):.2f}}: the *power* of the experiment.
# Whoever runs it tosses a coin. For a power of four in five it takes {{seeds_needed(effect)}} seeds. And that is hopeful:
# the largest of several differences is the luckiest, too. If the truth is half of it, it takes {{seeds_needed(effect / 2)}}.
# [Compare objectives](comparing.md) has the same comparison from another run: there next to nothing is left of it.
#
# </details>

# %% tags=["check"]
assert 2 < more / more_error < chance(docs_seeds)
assert abs(power(docs_seeds, effect) - 0.5) < 0.15
assert docs_seeds < seeds_needed(effect) < seeds_needed(effect / 2)

# %%
tenth, tenth_error, _ = paired(docs, 0.1, "word_validity")
cost, cost_error, cost_far = paired(docs, 0.1, "perplexity")

# %% [markdown]
# {{differences(docs, text_measures | {"perplexity": "perplexity"})}}
#
# At $\eta = 0.1$ MixCE has fewer valid words, by {{-tenth:.1%}} ({{-tenth / tenth_error:.1f}} standard errors, no finding
# either), and pays {{cost:.2f}} ± {{cost_error:.2f}} more perplexity, which is one. Nor is an entry without a star a finding
# of *no* difference: so few seeds see only the large ones.

# %% tags=["check"]
assert tenth < 0
assert -tenth < chance(docs_seeds) * tenth_error
assert cost_far
assert not any(paired(docs, eta, "word_validity")[2] for eta in docs_etas)

# %% tags=["check"]
assert counting[0] < min(answers[:, :, 2].min(), longer * counting[0])
assert abs(trained[1] - trained[0]) < 0.25 * (trained[0] - counting[0])
assert all(paired(docs, eta, "perplexity")[0] > 0 for eta in docs_etas)

# %% [markdown]
# ## Summary
#
# - Ask of a table: what was each allowed to use, what does a trivial method reach, where does the objective itself
#   lead, how large is the noise.
# - In the paper's synthetic world, counting is maximum likelihood, and nearer to the truth than every network trained
#   here. The networks stop long before their optimum, and differences among η near one are small beside that.
# - MixCE sharpens. So does a temperature, which costs no training. Compare the two at the same entropy.
# - On `stories()`, where validity is exact, a temperature was better than MixCE at every η, at most of them beyond
#   chance. On Python's documentation no difference in valid words stands out of the noise of three seeds.
# - MixCE keeps a tail that a temperature kills, but here only at the two smallest η. From a tenth up its control had the
#   lower perplexity.
# - These are small models trained from scratch, and one control. The paper fine-tuned GPT-2, chose η by MAUVE (a
#   divergence between human and model texts) on development data, compared plain samples and tuned top-p, and asked
#   people. Nothing here confirms or refutes what it found there.
# - One seed is a draw. Few seeds need more than two standard errors. And a true difference that is just as large as
#   that is found about every other time only: compute the power before you run.
#
# ## Exercises
#
# 1. *Code.* For which pairs of neighbouring η in the first table is the paired difference of the *optima*, not of the
#    trained networks, beyond what `chance` allows?
# 2. *Code.* A method is nearer to $P$ than the trained network by a tenth of the network's avg. JS. How many seeds does
#    it take to see that, if seeds are not paired: with a power of ½, with one of four in five? And if they are paired?
# 3. *Think, then code.* Why is the perplexity of top-p infinite, and when would it be finite? Is it a fair price to
#    compare?
# 4. *Code.* `different` falls as η does. Find the η whose samples are as varied as those of MLE at $\tau = 0.7$ on
#    `stories()`, by interpolation, and compare their validity.
# 5. *Think.* Design the experiment that would change your mind about the summary: which world, model, objective,
#    control, how many seeds?

# %% [markdown] tags=["solution"]
# **Solution 1.** Pair the same seed's optima, divide the mean difference by its standard error, and compare with
# `chance`. Far from one every seed says the same; between the two largest η the optima do not differ that much.

# %% tags=["solution"]
changes = [mean_and_error(answers[i + 1, :, 1] - answers[i, :, 1]) for i in range(len(ETAS) - 1)]

# %% [markdown] tags=["solution"]
# {{as_markdown(["η", "change of avg. JS", "standard errors", f"beyond {chance(len(SEEDS)):.1f}"],
#     [[f"{b:g} minus {a:g}", f"{d:+.1e} ± {e:.0e}", f"{d / e:+.1f}", "yes" if abs(d / e) > chance(len(SEEDS)) else "no"]
#      for a, b, (d, e) in zip(ETAS, ETAS[1:], changes)])}}

# %% [markdown] tags=["solution"]
# **Solution 2.** With many seeds chance stays within $z_{0.975} = 1.96$ standard errors nineteen times in twenty. A true
# difference of just that size is seen every other time: the error of the mean is as often up as down. For a power of
# four in five it must be larger by $z_{0.8} = 0.84$ standard errors. The difference of two unpaired runs has standard
# deviation $\sqrt{2} \, s$ if each has $s$. So a true difference $d$ is $d / (\sqrt{2} \, s)$ of them, and over $n$ seeds
# $\sqrt{n} \, d / (\sqrt{2} \, s)$ standard errors.

# %% tags=["solution"]
z = statistics.NormalDist().inv_cdf  # the normal distribution's quantiles
networks = answers[0, :, 2]
wanted = networks.mean() / 10
unpaired, of_pairs = (wanted / s for s in (math.sqrt(2) * networks.std(ddof=1), gains.std(ddof=1)))
seeds_for = {goal: math.ceil(((z(0.975) + z(goal)) / unpaired) ** 2) for goal in (0.5, 0.8)}

# %% [markdown] tags=["solution"]
# Unpaired, {{seeds_for[0.5]}} seeds each for a power of ½ and {{seeds_for[0.8]}} for four in five; simulated:
# {{power(seeds_for[0.5], unpaired):.2f}} and {{power(seeds_for[0.8], unpaired):.2f}}, a little less, since `chance` is a little
# above $1.96$. (The standard deviation comes from {{len(SEEDS)}} seeds and is itself only roughly known.)
#
# Paired, if the method moves with the network as the second η did, the difference is {{of_pairs:.0f}} standard deviations,
# and two seeds have a power of {{power(2, of_pairs):.2f}}.

# %% tags=["check"]
if len(SEEDS) == 5:
    assert abs(power(seeds_for[0.5], unpaired) - 0.5) < 0.03
    assert abs(power(seeds_for[0.8], unpaired) - 0.8) < 0.03
    assert seeds_for[0.8] > 1.9 * seeds_for[0.5]
    assert power(2, of_pairs) > 0.8

# %% [markdown] tags=["solution"]
# **Solution 3.** Outside the nucleus top-p gives probability zero, and one such held-out token makes the mean of −log q
# infinite. It is finite where nothing that was cut off occurs in the held-out sentences, for a $p$ so near one that no
# list here has it. An infinite perplexity says that something possible was cut off, not how much. The share of held-out
# tokens outside the nucleus says how much, and can be compared.

# %% tags=["solution"]
cut = {rows[0]["top_p"]: mean(rows, "outside") for rows in curves(stories)["MLE, top-p"][1:]}

# %% [markdown] tags=["solution"]
# {{as_markdown(["top-p", *(f"{p:g}" for p in cut)],
#     [["share of held-out tokens that can never be written", *(f"{share:.4f}" for share in cut.values())]])}}

# %% tags=["check"]
assert all(share > 0 for share in cut.values())

# %% [markdown] tags=["solution"]
# **Solution 4.** Interpolate along η's curve at the temperature's variety. `np.interp` wants it to rise, so the curve is
# turned round: the smallest η first.

# %% tags=["solution"]
target = of(stories, "temperature", temperature=0.7)
groups = [of(stories, "as trained", eta=eta) for eta in sorted(etas)]
variety, possible = (np.array([mean(rows, m) for rows in groups]) for m in ("different", "validity"))
as_varied = mean(target, "different")
eta_there, possible_there = (np.interp(as_varied, variety, y) for y in (sorted(etas), possible))

# %% [markdown] tags=["solution"]
# MLE at $\tau = 0.7$: a share of {{as_varied:.3f}} different, {{mean(target, "validity"):.1%}} possible. As varied is MixCE at
# η = {{eta_there:.2f}}, with {{possible_there:.1%}} possible.

# %% tags=["check"]
assert (np.diff(variety) > 0).all()
assert possible_there < mean(target, "validity")

# %% [markdown] tags=["solution"]
# **Solution 5.** For instance: a world with noise, where some training sentences are wrong (draw them from another
# world), since MixCE weights down what the model finds absurd and a temperature is applied too late to unlearn it (for
# bigram tables [it was tried](claims.md): by impossible moves the temperature is ahead); the measure is the
# share of wrong sentences in samples at equal entropy; controls are MLE at the matching temperature, and MLE without
# the noise; enough seeds for the power you want, as in Solution 2, and η chosen on other seeds than those
# you report. [longer_run.py](longer_run.py) is a place to start: `run_stories` draws the training sentences, and may
# draw some of them elsewhere.

# %% [markdown]
# Next: [lesson 9](9_fine_tuning_read_sceptically.ipynb), in which a trained model is fine-tuned and its texts are measured; or
# [which objective, which η](which_objective.md), or a loss of your own
# ([a loss of your own](using.md#a-loss-of-your-own)), tested on `stories()` before you spend a GPU on it.
