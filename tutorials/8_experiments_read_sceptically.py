# %% [markdown]
# # 8 Experiments, read sceptically
#
# *Reading: 25 minutes. Computing: a minute on a laptop. Before this: lessons [2](2_sequences_and_worlds.ipynb) and
# [6](6_the_approximation.ipynb).*
#
# **At the end you will know**
#
# - four questions to ask of any table that compares objectives;
# - which differences in the MixCE paper's synthetic table are about the objectives, and which are about how the models were
#   trained;
# - what MixCE does to sentences when the truth is known, and what remains of it beside a control that costs nothing.

# %%
import csv
import json
import math

import numpy as np

from minimixce.experiments import matrices
from minimixce.experiments.fixed_points import fixed_point
from minimixce.experiments.synthetic.data import counts_of, data_of
from minimixce.experiments.synthetic.grid import run
from minimixce.experiments.synthetic.job import Job
from minimixce.experiments.synthetic.paper import fit_paper
from minimixce.lessons import P_COLOR, figure, full_or_fast, lesson_folder, oranges, say, show, table

# %% [markdown]
# ## Four questions
#
# Somebody shows you a table in which method A beats method B. Before you believe it, ask:
#
# 1. **What was each one allowed to use?** A method that sees the true distribution $P$ is no rival of one that sees samples.
# 2. **What does a trivial method reach?** If counting beats both, the table compares two ways to be worse than counting.
# 3. **Where does the objective itself lead?** A trained model ends somewhere else than at its objective's optimum. The distance
#    between the two belongs to the training.
# 4. **How large is the noise?** Take the difference of A and B seed by seed, both on the same data, then its mean and its
#    standard error. Such *paired* differences are free of what the seeds do to both.
#
# The rest of this lesson asks them, first of the paper's own synthetic experiment, then of two experiments of ours.
#
# ## The paper's table
#
# The paper (Zhang et al. 2023, section 4) draws a random bigram world with half of its transitions impossible, samples
# training sequences from it, trains a small neural bigram, and measures **avg. JS**: for each last token the
# Jensen–Shannon divergence between the true and the learned next-token distribution, averaged ([math
# §8](math.md#8-measures)). Zero is perfect. Its table has the mean of five seeds at each objective's best η.
#
# MLE and MixCE see the training sequences only through their bigram counts, so both have an answer without any
# training. For MLE it is the table of relative frequencies. For MixCE it is the fixed point that you met in [lesson
# 3](3_one_softmax_by_hand.ipynb), computed from those frequencies. We put three numbers side by side for every η (η = 1
# is MLE), with the paper's five seeds: counting, the objective's own optimum, and the network trained by the paper's
# protocol (Adam, dropout, weight decay, early stopping), rebuilt in this package.

# %%
V, ZEROS = 20, 0.5
SEEDS, ETAS = full_or_fast((7, 42, 777, 4222, 99999), (7, 42)), full_or_fast((1.0, 0.99, 0.9, 0.5), (1.0, 0.9))


def three_answers(seed, eta):
    """avg. JS of counting, of MixCE's optimum given the counts, and of the trained network."""
    data = data_of("", V, ZEROS, seed)
    counts = counts_of(data.train, V)
    frequencies = counts / counts.sum(axis=1, keepdims=True)
    job = Job("", V, ZEROS, seed, "mixce", eta, protocol="paper", model="neural")
    _, trained, _ = run(job)
    answers = frequencies, fixed_point("mixce", frequencies, eta)[0], trained
    return [matrices.average_js(data.world.probs, q) for q in answers]


# %%
found = np.array([[three_answers(seed, eta) for seed in SEEDS] for eta in ETAS])  # (η, seed, answer)


def mean_and_error(values):
    """Mean over seeds, and its standard error."""
    return np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))


table(
    ["η (η = 1 is MLE)", "counting", "MixCE's optimum", "trained network"],
    [
        [f"{eta:g}", *("{:.2e} ± {:.0e}".format(*mean_and_error(found[i, :, k])) for k in range(3))]
        for i, eta in enumerate(ETAS)
    ],
)

# %%
RESULTS = lesson_folder() / "results"
with open(RESULTS / "synthetic_reference.csv", newline="") as file:
    reference = next(csv.DictReader(file))  # its first row: MLE, seed 7
counting, optimum, trained = found.mean(axis=1).T
assert trained[0] > 5 * counting[0]  # the network is far from what its own objective asks for
say(f"""
The trained MLE network ends **{trained[0] / counting[0]:.0f} times** as far from the truth as counting does, though
counting *is* MLE. This is the protocol, no slip of ours: on seed {SEEDS[0]} it ends at {found[0, 0, 2]:.1e}, and the
authors' code, run unchanged on the same world, at {float(reference["avg_js"]):.1e}.

The optimum of MixCE at η = {ETAS[-2]:g} lies {optimum[-2] / counting[0]:.2g} times as far as counting, at
η = {ETAS[-1]:g} {optimum[-1] / counting[0]:.2g} times: MixCE sharpens, and a sharpened table is not $P$. In a world that
the model can represent, and with samples enough to count, there is nothing for MixCE to repair.
""")

# %% [markdown]
# > **Predict.** What keeps the trained network so far from counting? Dropout and weight decay, which pull it away on
# > purpose? Or that training is over after 50 epochs at most, and earlier where the development loss has not fallen five
# > times in a row?


# %% tags=["reveal"]
def mle_network(seed, **changes):
    """avg. JS of the MLE network by the paper's protocol, but for some changes."""
    job = Job("", V, ZEROS, seed, "mle", 1.0, protocol="paper", model="neural")
    data = data_of("", V, ZEROS, seed)
    learned, *_ = fit_paper(job, data, **changes)
    return matrices.average_js(data.world.probs, learned)


bare = np.mean([mle_network(seed, dropout=0.0, l2=0.0) for seed in SEEDS]) / counting[0]
epochs = full_or_fast(200, 80)
longer = np.mean([mle_network(seed, epochs=epochs, patience=epochs) for seed in SEEDS]) / counting[0]
assert longer < 0.9 * bare < trained[0] / counting[0]
say(f"""
**Mostly the end of training.** Without dropout and decay the network is still {bare:.0f} times as far from $P$ as counting.
With both, but after {epochs} epochs, it is {longer:.0f} times as far. It was on its way. An explanation is a claim like any
other: before you write "the dropout did it", take the dropout out.
""")

# %% [markdown]
# ## One seed is a result?
#
# > **Predict.** Take the trained networks at the two largest η, the same data for both. Does the smaller of the two η
# > win for every seed, for none, or for some? And what would you have reported, had you run only the first seed?

# %% tags=["reveal"]
CHANCE = {2: 12.71, 3: 4.30, 5: 2.78}  # seeds: standard errors that chance alone exceeds once in twenty (Student's t)
gains = found[0, :, 2] - found[1, :, 2]  # > 0: the second η is nearer to P
wins, (gain, error), n = int((gains > 0).sum()), mean_and_error(gains), len(SEEDS)
say(f"""
**For {wins} of {n}.** The first seed alone would have said that η = {ETAS[1]:g} {"wins" if gains[0] > 0 else "loses"}. Seed by
seed the differences are {", ".join(f"{g:+.0e}" for g in gains)}; their mean is {gain:+.1e} ± {error:.0e}, which is
{abs(gain) / error:.1f} standard errors. With {n} seeds chance alone goes beyond {CHANCE[n]} standard errors once in twenty
times, not beyond 2 as with many seeds.

And the pairs share their data and their random numbers. Without that the noise would be far larger: from seed to seed the
same method moves by {found[0, :, 2].std(ddof=1):.0e} (standard deviation).
""")

# %%
fig = figure(7.5, 3.4)
axes = fig.subplots(1, 2, sharey=True)
for ax, k, title in zip(axes, (1, 2), ("the objective's own optimum", "the trained network")):
    for s, seed in enumerate(SEEDS):
        ax.plot(range(len(ETAS)), found[:, s, k], "o-", color=oranges(len(SEEDS))[s], markersize=4, label=f"seed {seed}")
    ax.axhline(counting[0], color=P_COLOR, linestyle="--", linewidth=1.2)
    ax.text(len(ETAS) - 1, counting[0] * 0.93, "counting, mean", color=P_COLOR, fontsize=8, ha="right", va="top")
    ax.set(yscale="log", title=title, xlabel="η (η = 1 is MLE)")
    ax.set_xticks(range(len(ETAS)), [f"{eta:g}" for eta in ETAS])
axes[0].set_ylabel("avg. JS")
axes[1].legend(fontsize=8)
show(fig, "avg. JS against η, one line a seed: the optimum starts at the level of counting, the trained network far above it")

# %% [markdown]
# What about the other objectives of the paper's table? MixCE\*, the two KLs and JS ask for $P(x)$ itself, in every
# gradient. That is the first question. The [results page](synthetic_results.md) has them all, with exact gradients, and
# says what each was allowed to use.

# %% [markdown]
# ## A world whose truth is known
#
# The bigram world was too easy: the model could represent it. `stories()` is harder. Its sentences have agreement and
# memory over many words, and a GPT with few channels gets some of it wrong, whatever the objective. Whether a sampled
# sentence is **possible**, $P(x) > 0$, can be looked up: part of what a reader would judge, judged exactly.


# %%
def load(name):
    """What `python tutorials/longer_run.py NAME` stored; JSON has no infinity, so an infinite perplexity is null there."""
    data = json.loads((RESULTS / f"longer_run_{name}.json").read_text(encoding="utf-8"))
    for row in data["rows"]:
        row["perplexity"] = math.inf if row["perplexity"] is None else row["perplexity"]
    return data


stories = load("stories")
settings = stories["settings"]
say(f"""
Training takes longer than a lesson should, so these numbers are stored. `{stories["command"]}` made them: GPTs of
{settings["model"]["n_layer"]} layer and {settings["model"]["n_embd"]} channels, {settings["fit"]["steps"]:,} steps on
{settings["sentences"]["train"]:,} sentences, {len(settings["seeds"])} seeds for each of
η = {", ".join(f"{eta:g}" for eta in settings["etas"])}, and {settings["sentences"]["sampled"]:,} sentences sampled from each
model in each way. Bars and ± are standard errors over seeds.
""")


# %%
def of(data, decoding, **equal):
    """The rows of one way to decode; with everything that varies in `equal`, one for each seed, in order."""
    return [r for r in data["rows"] if r["decoding"] == decoding and all(r[k] == v for k, v in equal.items())]


def mean(rows, measure):
    return np.mean([r[measure] for r in rows])


def paired(data, eta, measure):
    """MixCE less MLE at the temperature of the same entropy, seed by seed -> mean, standard error, is it beyond chance."""
    pairs = zip(of(data, "as trained", eta=eta), of(data, f"entropy of η = {eta:g}"), strict=True)
    values = [mixce[measure] - control[measure] for mixce, control in pairs]
    difference, error = mean_and_error(values)
    return difference, error, abs(difference) > CHANCE[len(values)] * error


def differences(data, columns):
    """A table of paired differences, starred where they are beyond chance; columns {heading: measure}."""
    rows = []
    for eta in data["settings"]["etas"][1:]:
        found = (paired(data, eta, measure) for measure in columns.values())
        rows.append([f"η = {eta:g}", *(f"{d:+.3f} ± {e:.3f}" + (" *" if far else "") for d, e, far in found)])
    table(["MixCE less its control", *columns], rows)


# %% [markdown]
# A trained model can be decoded in many ways. A temperature below one makes what it writes more plausible, after
# training and for nothing. So does top-p, which keeps the likeliest tokens that together hold probability p. The fair
# question is therefore not whether MixCE writes more possible sentences than MLE. It is whether it does so better than
# **MLE at the temperature that gives it the same entropy**. That is the control.
#
# Entropy is here the mean of $H(Q(\cdot \mid h))$ over the prefixes $h$ of held-out sentences: how undecided the model is
# where $P$ would have brought it, not where its own sentences go. So we look at the samples as well: how many
# **different** sentences there are, as a share of all, and which share of the possible ones is **new**, not among the
# training sentences.
#
# > **Predict.** A smaller η makes more of the sampled sentences possible. So does a lower temperature of the MLE model.
# > Where both have the same entropy, which of the two writes more possible sentences?

# %% tags=["reveal"]
etas, seeds = settings["etas"][1:], len(settings["seeds"])
starred = [eta for eta in etas if paired(stories, eta, "validity")[2]]
assert all(paired(stories, eta, "validity")[0] < 0 for eta in etas)
assert 0.5 in starred
say(f"""
**The temperature**, in the mean at every η. A star marks what is further from zero than the {CHANCE[seeds]} standard errors
that chance seldom exceeds with {seeds} seeds. For the share of possible sentences it stands at η =
{", ".join(f"{eta:g}" for eta in starred)}. In a table of {4 * len(etas)} entries chance sets about one.
""")
SENTENCE_MEASURES = {"possible": "validity", "different": "different", "new": "new", "perplexity": "perplexity"}
differences(stories, SENTENCE_MEASURES)

# %% [markdown]
# Here are the levels, of means over seeds. What $P$ itself writes stands in the last row.


# %%
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
mle, half, cool = of(stories, "as trained", eta=1.0), of(stories, "as trained", eta=0.5), of(stories, "entropy of η = 0.5")
wrong, wrong_half, wrong_cool = (1 - mean(rows, "validity") for rows in (mle, half, cool))
shorter, error, _ = paired(stories, 0.5, "length")
say(f"""
MLE writes impossible sentences {wrong:.1%} of the time, MixCE at η = 0.5 {wrong_half:.1%}, and MLE at the matching
temperature {wrong_cool:.1%}. So at η = 0.5 the token approximation repairs {(wrong - wrong_half) / wrong:.0%} of what MLE gets
wrong, and the temperature {(wrong - wrong_cool) / wrong:.0%}, at a lower perplexity. Nor are the temperature's sentences
easier ones: MixCE's are shorter, by {-shorter:.2f} ± {error:.2f} tokens, and short ones are the easier to get right.
[Lesson 6](6_the_approximation.ipynb) says why MixCE repairs so little: it weights the tokens of the data, and is never shown
what the model would write.
""")

# %%
odd = sorted(r["validity"] for r in of(stories, "as trained", eta=0.03))
assert odd[0] < odd[1] - 0.3  # one seed is unlike the others
mixce, control = of(stories, "as trained", eta=0.01), of(stories, "entropy of η = 0.01")
assert mean(mixce, "perplexity") < mean(control, "perplexity")
assert paired(stories, 0.1, "perplexity")[0] > 0
say(f"""
Two things that the means hide. At η = 0.03 one seed writes {odd[0]:.0%} possible sentences, the other four {odd[1]:.0%} to
{odd[-1]:.0%}. That is where the large error comes from, and a mean of five would have passed as an effect of η. Look at the
seeds before you average them.

And one thing a temperature does not do. At η = 0.01 MixCE's perplexity is {mean(mixce, "perplexity"):.0f}, its control's
{mean(control, "perplexity"):.0f}: MixCE keeps the tail that so low a temperature kills, as its fixed point says. What it keeps
there includes the impossible: {1 - mean(mixce, "validity"):.0%} of its sentences against {1 - mean(control, "validity"):.1%}.
At η = 0.1 and above it is the other way: there MixCE pays more perplexity than its control, not less.
""")

# %% [markdown]
# The whole picture, without the two smallest η, which lie far to the right on the left side. A temperature near one
# hardly changes perplexity, so its curve there goes straight up. Every top-p of the list gives some held-out token
# probability zero. One is enough to make perplexity infinite, so top-p is drawn on the right alone. The star is $P$.


# %%
def curves(data):
    """{label: groups of rows} along three ways to be more careful, each from plain MLE on."""
    etas, plain = data["settings"]["etas"], of(data, "as trained", eta=1.0)
    cooler = [of(data, f"entropy of η = {eta:g}") for eta in etas[1:]]
    cooler += [of(data, "temperature", temperature=t) for t in {r["temperature"] for r in of(data, "temperature")}]
    nuclei = [of(data, "top-p", top_p=p) for p in {r["top_p"] for r in of(data, "top-p")}]
    return {
        "MixCE, η as written": [of(data, "as trained", eta=eta) for eta in etas],
        "MLE, temperature": [plain, *sorted(cooler, key=lambda rows: -mean(rows, "temperature"))],
        "MLE, top-p": [plain, *sorted(nuclei, key=lambda rows: -rows[0]["top_p"])],
    }


# %%
def panel(ax, data, x, y, most):
    for (way, groups), color, style in zip(curves(data).items(), oranges(3), ("o-", "s--", "^:")):
        groups = [rows for rows in groups if mean(rows, x) < most]  # what is infinite is left out
        if len(groups) < 2:
            continue
        (xs, x_errors), (ys, y_errors) = (zip(*(mean_and_error([r[m] for r in rows]) for rows in groups)) for m in (x, y))
        ax.errorbar(xs, ys, xerr=x_errors, yerr=y_errors, fmt=style, color=color, capsize=2, markersize=5, label=way)
        for rows, at, up in zip(groups[1:], xs[1:], ys[1:]):
            if "η" in way:
                ax.annotate(f"{rows[0]['eta']:g}", (at, up), (6, -11), textcoords="offset points", fontsize=8)
    p = data["p"]
    if x in p:
        ax.plot(p[x], p[y], "*", color=P_COLOR, markersize=14, label="P itself")
    else:
        ax.axhline(p[y], color=P_COLOR, linewidth=1, label="held-out text")
    ax.margins(x=0.08)


def plane(data, y, label, most=math.inf):
    """The measure y against perplexity, up to `most`, and against entropy."""
    fig = figure(9, 4.2)
    left, right = fig.subplots(1, 2, sharey=True)
    panel(left, data, "perplexity", y, most)
    panel(right, data, "entropy", y, math.inf)
    left.set(xlabel="perplexity of held-out text", ylabel=label)
    right.set_xlabel("entropy of Q(·|h) there, nats")
    left.legend(*right.get_legend_handles_labels(), fontsize=8, loc="lower right")
    return fig


show(
    plane(stories, "validity", "share of sentences that are possible", most=7),
    "Validity against perplexity and against entropy: MixCE over η, MLE over temperature and over top-p, P as a star",
)

# %% [markdown]
# Is that because the model is so small? Here is one with more layers and channels.

# %%
large = load("stories_large")
better = 1 - mean(of(large, "as trained", eta=1.0), "validity")
assert better < wrong / 2
assert all(paired(large, eta, "validity")[0] < 0 for eta in large["settings"]["etas"][1:])
say(f"""
With {large["settings"]["model"]["n_layer"]} layers of {large["settings"]["model"]["n_embd"]} channels MLE writes impossible
sentences {better:.1%} of the time instead of {wrong:.1%}, so there is less to repair. The order is the same
({len(large["settings"]["seeds"])} seeds):
""")
differences(large, SENTENCE_MEASURES)

# %% [markdown]
# ## Text
#
# On real text $P$ is unknown and nothing says whether a sentence is possible. What can be checked is whether a word is
# one: **word validity** is the share of sampled words that occur in the training text. Held-out text has new words, so
# not even it reaches one. Diversity is the share of different n-grams, and repetition the share of text inside phrases that
# stand three times in a row ([math §8](math.md#8-measures)). The text is the documentation inside Python, by character.

# %%
docs = load("docs")
settings = docs["settings"]
say(f"""
`{docs["command"]}`: {settings["model"]["n_layer"]} layers, {settings["model"]["n_embd"]} channels,
{settings["fit"]["steps"]:,} steps, {len(settings["seeds"])} seeds; {settings["texts"]["sampled"]} samples of
{settings["texts"]["tokens"]} characters from each model in each way.
""")
text_measures = {"word validity": "word_validity", "diversity": "diversity", "repetition": "repetition"}
levels(docs, fits | {heading: (measure, 3) for heading, measure in text_measures.items()})
show(
    plane(docs, "word_validity", "share of words that occur in training"),
    "Word validity against perplexity and against entropy on Python's documentation, that of held-out text as a line",
)

# %%
differences(docs, text_measures | {"perplexity": "perplexity"})
(half, half_error, far), (tenth, tenth_error, _) = paired(docs, 0.5, "word_validity"), paired(docs, 0.1, "word_validity")
cost, cost_error, dear = paired(docs, 0.1, "perplexity")
assert half > 0 > tenth
assert dear
assert not far
say(f"""
At η = 0.5 MixCE has more valid words than its control, by {half:.1%} of all, which is {half / half_error:.1f} standard errors.
With {len(settings["seeds"])} seeds that is less than it sounds: chance goes beyond {CHANCE[len(settings["seeds"])]} once in
twenty times, and {len(settings["etas"]) - 1} η were looked at. It is worth more seeds, and no finding. The
[Compare objectives](comparing.md) has the same comparison from another run: there next to nothing is left of it.

At η = 0.1 MixCE has fewer, by {-tenth:.1%} ({-tenth / tenth_error:.1f} standard errors, no finding either), and pays
{cost:.2f} ± {cost_error:.2f} more perplexity, which is one.
""")

# %% [markdown]
# ## Summary
#
# - Ask of a table: what was each allowed to use, what does a trivial method reach, where does the objective itself
#   lead, how large is the noise.
# - In the paper's synthetic world, counting is maximum likelihood, and nearer to the truth than every network trained here.
#   The networks stop long before their optimum, and differences among η near one are small beside that.
# - MixCE sharpens. So does a temperature, which costs no training. Compare the two at the same entropy.
# - On `stories()`, where validity is exact, a temperature was better than MixCE at every η, at most of them beyond
#   chance. On Python's documentation no difference in valid words stands out of the noise of three seeds.
# - MixCE keeps a tail that a temperature kills, but here only at the smallest η. From a tenth up its control had no
#   higher a perplexity.
# - These are small models trained from scratch, and one control. The paper fine-tuned GPT-2, chose η by MAUVE on development
#   data, compared plain samples and tuned top-p, and asked people. Nothing here confirms or refutes what it found there.
# - One seed is a draw. Few seeds need more than two standard errors.
#
# ## Exercises
#
# 1. For which pairs of neighbouring η in the first table is the paired difference of the *optima*, not of the trained
#    networks, beyond what `CHANCE` allows?
# 2. How many seeds would you need before a difference of a tenth of the trained network's avg. JS stands two standard
#    errors out of the noise, if seeds are not paired?
# 3. Why is the perplexity of top-p infinite, and when would it be finite? Is it a fair price to compare?
# 4. `different` falls as η does. Find the η whose samples are as varied as those of MLE at $\tau = 0.7$ on `stories()`, by
#    interpolation, and compare their validity.
# 5. Design the experiment that would change your mind about the summary: which world, model, objective, control, how
#    many seeds?

# %% [markdown] tags=["solution"]
# **Solution 1.** Pair the same seed's optima, divide the mean difference by its standard error, and compare with
# `CHANCE`. Far from one every seed says the same; between the two largest η the optima do not differ that much.

# %% tags=["solution"]
for i in range(len(ETAS) - 1):
    change, error = mean_and_error(found[i + 1, :, 1] - found[i, :, 1])
    print(f"η = {ETAS[i + 1]:g} less {ETAS[i]:g}: {change:+.1e} ± {error:.0e}, {change / error:+.1f} standard errors,", end=" ")
    print("beyond" if abs(change) > CHANCE[len(SEEDS)] * error else "within", CHANCE[len(SEEDS)])

# %% [markdown] tags=["solution"]
# **Solution 2.** With standard deviation s for each method, the difference of two means over n seeds has standard error
# s √(2/n). Set twice that to the difference you want to see.

# %% tags=["solution"]
level, s = found[0, :, 2].mean(), found[0, :, 2].std(ddof=1)
print(f"s = {s:.1e}, wanted: {level / 10:.1e}; n = {math.ceil(2 * (2 * s / (level / 10)) ** 2)} seeds each")

# %% [markdown] tags=["solution"]
# **Solution 3.** Outside the nucleus top-p gives probability zero, and one such held-out token makes the mean of −log q
# infinite. It is finite where nothing that was cut off occurs in the held-out sentences, for a p so near one that no list here
# has it. An infinite perplexity says that something possible was cut off, not how much. The share of held-out tokens
# outside the nucleus says how much, and can be compared.

# %% tags=["solution"]
for rows in curves(stories)["MLE, top-p"][1:]:
    print(f"p = {rows[0]['top_p']:g}: {mean(rows, 'outside'):.4f} of the held-out tokens can never be written")

# %% [markdown] tags=["solution"]
# **Solution 4.** Interpolate along η's curve at the temperature's variety. `np.interp` wants it to rise, so the curve is
# turned round: the smallest η first.

# %% tags=["solution"]
target = of(stories, "temperature", temperature=0.7)
groups = curves(stories)["MixCE, η as written"][::-1]
variety, validity, eta = (np.array([mean(rows, m) for rows in groups]) for m in ("different", "validity", "eta"))
assert (np.diff(variety) > 0).all()
wanted = mean(target, "different")
print(f"different {wanted:.3f}: MLE at τ = 0.7 writes {mean(target, 'validity'):.1%} possible sentences,")
print(f"MixCE at η = {np.interp(wanted, variety, eta):.2f} {np.interp(wanted, variety, validity):.1%}")

# %% [markdown] tags=["solution"]
# **Solution 5.** For instance: a world with noise, where some training sentences are wrong (draw them from another
# world), since MixCE weights down what the model finds absurd and a temperature is applied too late to unlearn it; the
# measure is the share of wrong sentences in samples at equal entropy; controls are MLE at the matching temperature, and
# MLE without the noise; enough seeds for Solution 2, and η chosen on other seeds than those you report.
# [longer_run.py](longer_run.py) is a place to start: `run_stories` draws the training sentences, and may draw some of
# them elsewhere.

# %% [markdown]
# Next: [which objective, which η](which_objective.md), or a loss of your own
# ([a loss of your own](using.md#a-loss-of-your-own)), tested on `stories()` before you spend a GPU on it.
