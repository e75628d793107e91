# %% [markdown]
# # 8 Experiments, read sceptically
#
# *Reading: 25 minutes. Computing: 40 seconds on a laptop. Before this: lessons [2](2_sequences_and_worlds.ipynb) and
# [6](6_the_approximation.ipynb).*
#
# **At the end you will know**
#
# - four questions to ask of any table that compares objectives;
# - which differences in the MixCE paper's synthetic table are about the objectives, and which are about how the models were
#   trained;
# - what MixCE does to sentences when the truth is known, and what remains of it beside a control that costs nothing.

# %%
import json
import math
from pathlib import Path

import numpy as np

import lesson
from lesson import P_COLOR, few, figure, oranges, say, show, table
from minimixce import metrics, synthetic

# %% [markdown]
# ## Four questions
#
# Somebody shows you a table in which method A beats method B. Before you believe it, ask:
#
# 1. **What was each one allowed to use?** A method that sees the true distribution $P$ is no rival of one that sees samples.
# 2. **What does a trivial method reach?** If counting beats both, the table compares two ways to be worse than counting.
# 3. **Where does the objective itself lead?** A trained model ends somewhere else than at its objective's optimum. The distance
#    between the two belongs to the optimiser.
# 4. **How large is the noise?** Over seeds, and paired: the same data for A and for B.
#
# The rest of this lesson asks them, first of the paper's own synthetic experiment, then of two experiments of ours.
#
# ## The paper's table
#
# The paper (Zhang et al. 2023, section 4) draws a random bigram world with half of its transitions impossible, samples
# training sequences from it, trains a small neural bigram, and measures **avg. JS**: for each last token the
# Jensen–Shannon divergence between the true and the learned next-token distribution, averaged ([math
# §8](math.md#8-measures)). Zero is perfect.
#
# MLE and MixCE see the training sequences only through their bigram counts, so both have an answer without any
# training. For MLE it is the table of relative frequencies. For MixCE it is the fixed point that you met in [lesson
# 3](3_one_softmax_by_hand.ipynb), computed from those frequencies. We put three numbers side by side for every η (η = 1
# is MLE): counting, the objective's own optimum, and the network trained by the paper's protocol (Adam, dropout, weight
# decay, early stopping), rebuilt in this package.

# %%
V, ZEROS = 20, 0.5
SEEDS, ETAS = few((7, 42, 777, 4222, 99999), (7, 42)), few((1.0, 0.99, 0.9, 0.5), (1.0, 0.9))


def three_answers(seed, eta):
    """avg. JS of counting, of MixCE's optimum given the counts, and of the trained network."""
    data = synthetic.data_of("", V, ZEROS, seed)
    counts = synthetic.counts_of(data.train, V)
    frequencies = counts / counts.sum(axis=1, keepdims=True)
    job = synthetic.Job("", V, ZEROS, seed, "mixce", eta, protocol="paper", model="neural")
    _, trained, _ = synthetic.run(job)
    answers = frequencies, synthetic.fixed_point(frequencies, eta), trained
    return [metrics.average_js(data.world.probs, q) for q in answers]


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
counting, optimum, trained = found.mean(axis=1).T
assert trained[0] > 5 * counting[0]  # the network is far from what its own objective asks for
say(f"""
The trained MLE network ends **{trained[0] / counting[0]:.0f} times** as far from the truth as counting does, though
counting *is* MLE.
Dropout, weight decay and early stopping put it there. The authors' code, run unchanged on seed 7, ends at 7.8e-4, so this is no
slip of ours.

The optimum of MixCE at η = {ETAS[-2]:g} lies {optimum[-2] / counting[0]:.2g} times as far as counting, at η = {ETAS[-1]:g}
{optimum[-1] / counting[0]:.2g} times: MixCE sharpens, and a sharpened table is not $P$. In a world that the model can
represent and with samples
enough to count, there is nothing for MixCE to repair.
""")

# %% [markdown]
# ## One seed is a result?
#
# > **Predict.** Take the trained networks at the two largest η, the same data for both. Does the smaller of the two η
# > win for every seed, for none, or for some? And what would you have reported, had you run only the first seed?

# %% tags=["reveal"]
first, second = ETAS[0], ETAS[1]
gains = found[0, :, 2] - found[1, :, 2]  # > 0: the second η is nearer to P
wins, noise = int((gains > 0).sum()), found[0, :, 2].std(ddof=1)
answer = "None" if wins == 0 else "Every one" if wins == len(SEEDS) else f"{wins} of {len(SEEDS)}"
say(f"""
**{answer}** of the seeds. The paired differences are {", ".join(f"{g:+.0e}" for g in gains)}. From seed to seed the
same method moves by
{noise:.0e} (standard deviation), and counting alone sits at {counting[0]:.0e}. A table that gives η = {second:g} and η
= {first:g}
three digits each, from one seed, compares the seed.
""")

# %%
fig = figure(7.5, 3.4)
axes = fig.subplots(1, 2, sharey=True)
for ax, k, title in zip(axes, (1, 2), ("the objective's own optimum", "the trained network")):
    for s, seed in enumerate(SEEDS):
        ax.plot(range(len(ETAS)), found[:, s, k], "o-", color=oranges(len(SEEDS))[s], markersize=4, label=f"seed {seed}")
    ax.axhline(counting[0], color=P_COLOR, linestyle="--", linewidth=1.2)
    ax.text(len(ETAS) - 1, counting[0] * 0.93, "counting", color=P_COLOR, fontsize=8, ha="right", va="top")
    ax.set(yscale="log", title=title, xlabel="η (η = 1 is MLE)")
    ax.set_xticks(range(len(ETAS)), [f"{eta:g}" for eta in ETAS])
axes[0].set_ylabel("avg. JS")
axes[1].legend(fontsize=8)
show(fig, "avg. JS against η, one line a seed: the optimum starts at the level of counting, the trained network far above it")

# %% [markdown]
# What about the objectives that do better than counting in the paper's table? MixCE\*, the two KLs and JS use $P$
# itself, in every gradient. That is the first question. The [results page](synthetic_results.md) has them all, with
# exact gradients, and says what each was allowed to use.

# %% [markdown]
# ## A world whose truth is known
#
# The bigram world was too easy: the model could represent it. `stories()` is harder. Its sentences have agreement and
# memory over many words, so a small GPT cannot represent $P$ and has to choose what to get wrong. Whether a sampled
# sentence is possible can be looked up: what a reader would judge, judged exactly.


# %%
def load(name):
    """What `python tutorials/longer_run.py NAME` stored; JSON has no infinity, so an infinite perplexity is null there."""
    path = Path(lesson.__file__).parent / "results" / f"longer_run_{name}.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    for row in data["rows"]:
        row["perplexity"] = math.inf if row["perplexity"] is None else row["perplexity"]
    return data


def of(data, decoding, **equal):
    """The rows of one way to decode; with everything that varies in `equal`, one for each seed."""
    return [r for r in data["rows"] if r["decoding"] == decoding and all(r[k] == v for k, v in equal.items())]


def shown(rows, name, digits=3):
    """Mean ± standard error over seeds, as text."""
    values = [r[name] for r in rows]
    return "∞" if math.inf in values else "{:.{d}f} ± {:.{d}f}".format(*mean_and_error(values), d=digits)


stories = load("stories")
settings = stories["settings"]
say(f"""
Training takes longer than a lesson should, so these numbers are stored. `{stories["command"]}` made them: GPTs of
{settings["model"]["n_layer"]} layer and {settings["model"]["n_embd"]} channels, {settings["fit"]["steps"]:,} steps on
{settings["sentences"]["train"]:,} sentences, {len(settings["seeds"])} seeds for each of
η = {", ".join(f"{eta:g}" for eta in settings["etas"])}, and {settings["sentences"]["sampled"]:,} sentences sampled from
each model in
each way. Bars and ± are standard errors over seeds.
""")

# %% [markdown]
# A trained model can be decoded in many ways. A temperature below one makes what it writes more plausible, after
# training and for nothing. So does top-p, which keeps the likeliest tokens that together hold probability p. The fair
# question is therefore not whether MixCE writes more possible sentences than MLE. It is whether it does so better than
# **MLE at the temperature that gives it the same entropy**. That is the control.
#
# > **Predict.** A smaller η makes more of the sampled sentences possible. So does a lower temperature of the MLE model.
# > Where both give held-out sentences the same perplexity, which of the two writes more possible sentences?


# %% tags=["reveal"]
def means(groups, *names):
    """Means over seeds of measures, one array for each, over groups of rows."""
    return [np.array([np.mean([r[name] for r in rows]) for rows in groups]) for name in names]


def mle_by_temperature(data):
    """Groups of rows of MLE at every temperature it was decoded at."""
    matched = [of(data, f"entropy of η = {eta:g}") for eta in data["settings"]["etas"][1:]]
    values = sorted({r["temperature"] for r in of(data, "temperature")})
    return [*(of(data, "temperature", temperature=t) for t in values), *matched]


def at_equal_perplexity(data, measure):
    """[(η, MixCE's measure, MLE's at the low temperature that has the same perplexity)], interpolated."""
    low = [rows for rows in mle_by_temperature(data) if rows[0]["temperature"] < 0.9]
    x, y = means(low, "perplexity", measure)
    order = np.argsort(x)
    mixce = [of(data, "as trained", eta=eta) for eta in data["settings"]["etas"][1:]]
    return [
        (rows[0]["eta"], own, np.interp(perplexity, x[order], y[order]))
        for rows, perplexity, own in zip(mixce, *means(mixce, "perplexity", measure))
    ]


pairs = at_equal_perplexity(stories, "validity")
say("The **temperature**, at every η, and not by a little. Possible sentences at equal perplexity:")
table(["η", "MixCE", "MLE at a temperature"], [[f"{eta:g}", f"{own:.1%}", f"{mle:.1%}"] for eta, own, mle in pairs])
assert all(mle > own for _, own, mle in pairs)

# %% [markdown]
# Here is the whole picture. On the left the price is perplexity. A top-p below one gives some held-out token
# probability zero sooner or later, so its perplexity is infinite and most of its points cannot be drawn there. On the
# right the price is entropy, which every way of decoding has. The star is $P$.

# %%
WAYS = {  # label: what varies, line style, where its numbers stand
    "MixCE, η": ("eta", "o-", (4, -11)),
    "MLE, temperature τ": ("temperature", "s--", (-5, 5)),
    "MLE, top-p": ("top_p", "^:", (7, 0)),
}


def points_of(data, way):
    """Groups of rows along one way to be more careful, from plain MLE on."""
    name = WAYS[way][0]
    if name == "eta":
        return [of(data, "as trained", eta=eta) for eta in data["settings"]["etas"]]
    groups = mle_by_temperature(data)
    if name == "top_p":
        groups = [of(data, "top-p", top_p=p) for p in {r["top_p"] for r in of(data, "top-p")}]
    return [of(data, "as trained", eta=1.0), *sorted(groups, key=lambda rows: -np.mean([r[name] for r in rows]))]


def draw(ax, data, x, y):
    for (way, (name, style, offset)), color in zip(WAYS.items(), oranges(3)):
        groups = points_of(data, way)
        there = [rows for rows in groups if all(math.isfinite(r[x]) for r in rows)]
        (xs, x_errors), (ys, y_errors) = (zip(*(mean_and_error([r[m] for r in rows]) for rows in there)) for m in (x, y))
        ax.errorbar(xs, ys, xerr=x_errors, yerr=y_errors, fmt=style, color=color, capsize=2, markersize=5, label=way)
        if endless := [rows for rows in groups if rows not in there]:  # at the right edge
            at = means(endless, y)[0]
            ax.plot([0.97] * len(at), at, style[0], color=color, markersize=5, transform=ax.get_yaxis_transform())
            ax.text(0.94, at.max(), "top-p:\n∞", ha="right", va="top", fontsize=8, transform=ax.get_yaxis_transform())
        for at, up, rows in list(zip(xs, ys, there))[1:]:
            value = np.mean([r[name] for r in rows])
            if name == "temperature" and value > 0.48:
                continue  # a number at every point would be too many
            side = {"ha": "right" if offset[0] < 0 else "left", "textcoords": "offset points", "fontsize": 7}
            ax.annotate(f"{value:.2g}", (at, up), offset, color="0.25", **side)


def plane(data, y, label):
    """The measure y against both prices; P a star, or, where it is not known, what its samples say."""
    fig, p = figure(9, 4.4), data["p"]
    axes = fig.subplots(1, 2, sharey=True)
    for ax, x, title in zip(
        axes, ("perplexity", "entropy"), ("perplexity of held-out text", "entropy of Q(·|h), nats per token")
    ):
        draw(ax, data, x, y)
        ax.set_xlabel(title)
        if x in p:
            ax.plot(p[x], p[y], "*", color=P_COLOR, markersize=14, label="P itself")
        else:
            ax.axhline(p[y], color=P_COLOR, linewidth=1)
    finite = [r["perplexity"] for r in data["rows"] if math.isfinite(r["perplexity"])] + [p.get("perplexity", math.inf)]
    if "perplexity" not in p:
        axes[0].plot(min(finite[:-1]), p[y], "*", color=P_COLOR, markersize=14, label="held-out text, at most so perplexing")
    axes[0].set(ylabel=label, xscale="log")
    axes[0].set_xticks(ticks := [3, 4, 5, 7, 10, 20, 40], ticks)
    axes[0].set_xlim(0.8 * min(finite), 1.3 * max(x for x in finite if math.isfinite(x)))
    axes[0].minorticks_off()
    axes[0].legend(fontsize=8, loc="lower right", bbox_to_anchor=(0.93, 0))
    return fig


show(
    plane(stories, "validity", "share of sentences that are possible"),
    "Validity against perplexity and against entropy: MixCE over η, MLE over temperature and over top-p, P as a star",
)


# %%
def control(data, measures):
    """Each η beside MLE at the temperature of the same entropy."""
    rows = [["MLE (η = 1)", *(shown(of(data, "as trained", eta=1.0), m, d) for m, d in measures.items())]]
    for eta in data["settings"]["etas"][1:]:
        rows.append([f"MixCE, η = {eta:g}", *(shown(of(data, "as trained", eta=eta), m, d) for m, d in measures.items())])
        matched = of(data, f"entropy of η = {eta:g}")
        temperature = np.mean([r["temperature"] for r in matched])
        rows.append([f"MLE, τ = {temperature:.2f}", *(shown(matched, m, d) for m, d in measures.items())])
    return rows


table(
    ["", "perplexity", "entropy", "possible", "different", "of the possible, new"],
    control(stories, {"perplexity": 2, "entropy": 3, "validity": 3, "different": 3, "new": 3}),
)

# %%
mle, half, cool = of(stories, "as trained", eta=1.0), of(stories, "as trained", eta=0.5), of(stories, "entropy of η = 0.5")
wrong, wrong_half, wrong_cool = 1 - means([mle, half, cool], "validity")[0]
say(f"""
Read downwards in pairs. MLE writes impossible sentences {wrong:.1%} of the time, MixCE at η = 0.5 {wrong_half:.1%}, and MLE at
the matching temperature {wrong_cool:.1%}. So at η = 0.5 the token approximation repairs {(wrong - wrong_half) / wrong:.0%} of
what MLE gets wrong, and the temperature {(wrong - wrong_cool) / wrong:.0%}, at a lower perplexity.
[Lesson 6](6_the_approximation.ipynb) says why it is so little: the weight of a token is its own probability, and the token that
makes a sentence impossible may be probable where it stands.
""")
tail, cold = of(stories, "as trained", eta=0.01), of(stories, "entropy of η = 0.01")
assert means([tail], "perplexity")[0] < means([cold], "perplexity")[0]
say(f"""
One thing a temperature does not do. At η = 0.01 MixCE has perplexity {shown(tail, "perplexity", 1)}, MLE at the same entropy
{shown(cold, "perplexity", 1)}. MixCE keeps the tail that a temperature kills, as its fixed point says. What is kept
there includes the
impossible: validity is {shown(tail, "validity", 2)} against {shown(cold, "validity", 2)}.
""")

# %% [markdown]
# The reference here is not perplexity either. A model that is large enough hardly writes impossible sentences at all,
# so that there is little to repair.

# %%
large = load("stories_large")
table(
    ["2 layers, 64 channels", "perplexity", "entropy", "possible", "different", "of the possible, new"],
    control(large, {"perplexity": 2, "entropy": 3, "validity": 4, "different": 3, "new": 3}),
)

# %% [markdown]
# ## Text
#
# On real text $P$ is unknown and nothing says whether a sentence is possible. What can be checked is whether a word is
# one: **word validity** is the share of sampled words that occur in the training text. The text is the documentation
# inside Python, by character.

# %%
docs = load("docs")
settings = docs["settings"]
say(f"""
`{docs["command"]}`: {settings["model"]["n_layer"]} layers, {settings["model"]["n_embd"]} channels,
{settings["fit"]["steps"]:,} steps,
{len(settings["seeds"])} seeds; {settings["texts"]["sampled"]} samples of {settings["texts"]["tokens"]} characters from
each model in each way.
""")
show(
    plane(docs, "word_validity", "share of words that occur in training"),
    "Word validity against perplexity and against entropy on Python's documentation, held-out text as a star",
)
table(
    ["", "perplexity", "entropy", "word validity", "diversity", "repetition"],
    control(docs, {"perplexity": 2, "entropy": 3, "word_validity": 3, "diversity": 3, "repetition": 3}),
)


# %%
def paired(eta, measure):
    """MixCE less MLE at the temperature of the same entropy, seed by seed -> mean and standard error."""
    return mean_and_error(
        [a[measure] - b[measure] for a, b in zip(of(docs, "as trained", eta=eta), of(docs, f"entropy of η = {eta:g}"))]
    )


table(
    ["MixCE less its control, paired", "word validity", "perplexity"],
    [
        [f"η = {eta:g}", *("{:+.3f} ± {:.3f}".format(*paired(eta, measure)) for measure in ("word_validity", "perplexity"))]
        for eta in docs["settings"]["etas"][1:]
    ],
)

# %%
(half, half_error), (tenth, tenth_error) = paired(0.5, "word_validity"), paired(0.1, "word_validity")
cost, cost_error = paired(0.1, "perplexity")
assert half > 0 > tenth
assert cost > 3 * cost_error
say(f"""
At η = 0.5 MixCE has {half:.1%} more valid words than its control, {half / half_error:.1f} standard errors. With three
seeds that is less
than it sounds: two degrees of freedom ask for 4.3 before one chance in twenty is excluded, and three η were looked at.
It is worth more
seeds, and no finding. At η = 0.1 MixCE has {-tenth:.1%} fewer ({-tenth / tenth_error:.1f} standard errors), and pays
{cost:.2f} ± {cost_error:.2f}
more perplexity.
""")

# %% [markdown]
# ## Summary
#
# - Ask of a table: what was each allowed to use, what does a trivial method reach, where does the objective itself
#   lead, how large is the noise.
# - In the paper's synthetic world, counting is maximum likelihood, and beats every trained network. Differences among η
#   near one are smaller than what dropout, decay and early stopping do to all of them.
# - MixCE sharpens. So does a temperature, which costs no training. Compare the two at the same entropy.
# - On `stories()`, where validity is exact, a temperature was better than MixCE at every η. On Python's documentation
#   MixCE was a little ahead at η of one half, by less than three seeds can decide, and behind at a tenth. What only
#   MixCE does is to keep the tail that a temperature kills.
# - The paper's own finding is for GPT-2 fine-tuned on large corpora, judged by MAUVE and by people. These experiments
#   neither confirm nor refute it.
# - One seed is a draw.
#
# ## Exercises
#
# 1. For which pairs of neighbouring η in the first table is the paired difference of the *optima*, not of the trained
#    networks, more than two standard errors from zero?
# 2. How many seeds would you need before a difference of a tenth of the trained network's avg. JS stands two standard
#    errors out of the noise, if seeds are not paired?
# 3. Why is the perplexity of top-p infinite, and why is it finite for a p very near one? Is it a fair price to compare?
# 4. `different` falls as η does. Find the η whose samples are as varied as those of MLE at τ = 0.7 on `stories()`, by
#    interpolation, and compare their validity.
# 5. Design the experiment that would change your mind about the summary: which world, model, objective, control, how
#    many seeds?

# %% [markdown] tags=["solution"]
# **Solution 1.** Pair the same seed's optima, and divide the mean difference by its standard error.

# %% tags=["solution"]
for i in range(len(ETAS) - 1):
    mean, error = mean_and_error(found[i + 1, :, 1] - found[i, :, 1])
    print(f"η = {ETAS[i + 1]:g} against {ETAS[i]:g}: {mean:+.1e} ± {error:.0e}, {mean / error:+.1f} standard errors")

# %% [markdown] tags=["solution"]
# **Solution 2.** With standard deviation s for each method, the difference of two means over n seeds has standard error
# s √(2/n). Set twice that to the difference you want to see.

# %% tags=["solution"]
level, s = found[0, :, 2].mean(), found[0, :, 2].std(ddof=1)
print(f"s = {s:.1e}, wanted: {level / 10:.1e}; n = {math.ceil(2 * (2 * s / (level / 10)) ** 2)} seeds each")

# %% [markdown] tags=["solution"]
# **Solution 3.** Outside the nucleus top-p gives probability zero, and one such held-out token makes the mean of −log q
# infinite. With p near enough to one, what is cut off never occurs in the held-out sentences: it was impossible. So an
# infinite perplexity says that something possible was cut off, not how much. The share of held-out tokens outside the
# nucleus says how much.

# %% tags=["solution"]
for rows in points_of(stories, "MLE, top-p")[1:]:
    print(f"p = {rows[0]['top_p']:g}: {shown(rows, 'outside', 4)} of the held-out tokens can never be written")

# %% [markdown] tags=["solution"]
# **Solution 4.** Interpolate η's curve at the temperature's variety.

# %% tags=["solution"]
target = of(stories, "temperature", temperature=0.7)
groups = points_of(stories, "MixCE, η")
variety, validity = means(groups, "different", "validity")
order = np.argsort(variety)
wanted = np.mean([r["different"] for r in target])
print(
    f"variety {wanted:.3f}: validity {np.mean([r['validity'] for r in target]):.3f} at τ = 0.7, "
    f"{np.interp(wanted, variety[order], validity[order]):.3f} for MixCE"
)

# %% [markdown] tags=["solution"]
# **Solution 5.** For instance: a world with noise, where some training sentences are wrong (draw them from another
# world), since MixCE weights down what the model finds absurd and a temperature is applied too late to unlearn it; the
# measure is the share of wrong sentences in samples at equal entropy; controls are MLE at the matching temperature, and
# MLE without the noise; enough seeds for Solution 2. `minimixce compare --world FILE.json` runs it: a world is a JSON
# file that `World.save` writes.

# %% [markdown]
# Next: [which objective, which η](which_objective.md), or a loss of your own
# ([README](../README.md#a-loss-of-your-own)), tested on `stories()` before you spend a GPU on it.
