"""The experiments that which_objective.md rests on, each against a control that costs no training.

    OMP_NUM_THREADS=1 python tutorials/evidence.py     # a minute; writes results/evidence.json

- noise: bigram tables for sentences in which one word in ten was replaced by a random one;
- rare: what is left of rare tokens at the end of training;
- early_stopping: the forward cross-entropy F after few steps, for several η;
- several_raised: in which share of random contexts MixCE raises more than one token;
- new_token: how long a trained softmax needs for a token that it finds improbable.

A table sees the data through its bigram counts alone, so the end of its training is computed: the
fixed point for the counted frequencies. A control is the table of maximum likelihood, at the
temperature or cut to the top-p that gives it the same entropy. claims.md says which sentence rests
on which number.
"""

import argparse
import functools
import json
import math
import platform
from pathlib import Path

import numpy as np

import minimixce as mm
from minimixce import exact
from minimixce.experiments.fixed_points import fixed_point
from minimixce.model import nucleus

OUT = Path(__file__).parent / "results" / "evidence.json"
WORLDS = {  # the horizon, and how many sentences are counted
    "agreement": {"max_len": 4, "sentences": 1000},
    "stories": {"max_len": 40, "sentences": 5000},
}
SETTINGS = {
    "noise": {
        "replaced": 0.1,
        "seeds": 10,
        "objectives": [("mixce", r) for r in (0.9, 0.5, 0.1, 0.01)]
        + [("tailr", r) for r in (0.001, 0.01, 0.1)],
    },
    "rare": {"below": 0.01, "objectives": [("mixce", r) for r in (0.9, 0.5, 0.1)]
             + [("tailr", r) for r in (0.001, 0.01, 0.1)]},
    "early_stopping": {
        "etas": (1.0, 0.5, 0.3, 0.1), "steps": (10, 20, 40, 80, 160, 640), "seeds": 5,
        "sentences": 64, "lr": 0.05,
    },
    "several_raised": {"tokens": (5, 50), "etas": (0.9, 0.5, 0.1), "contexts": 20_000},
    "new_token": {
        "objectives": [("mle", None), ("mixce", 0.5), ("mixce", 0.1), ("mixce", 0.01),
                       ("tailr", 0.01), ("tailr", 0.1)],
        "p": 0.4, "start": (1e-2, 1e-4), "most": 20_000, "lr": {"descent": 1.0, "adamw": 0.05},
    },
}  # fmt: skip


def label(objective, ratio):
    """("mixce", 0.5) -> "mixce 0.5"."""
    return objective if ratio is None else f"{objective} {ratio:g}"


def mean_and_error(values):
    """Mean and standard error of one number a seed, both to seven digits -> dict."""
    mean, error = np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))
    return {"mean": rounded(mean), "se": rounded(error), "seeds": len(values)}


def rounded(value):
    """To seven digits, which machines agree on."""
    return float(f"{value:.7g}")


# ---- tables --------------------------------------------------------------------------------------


def noisy_rows(world, max_len, sentences, replaced, rng):
    """Sampled rows (n, max_len+1), each word replaced with a chance by any word at random."""
    rows = world.sample(sentences, max_len, rng)
    hit = (rows > 0) & (rng.random(rows.shape) < replaced)
    return np.where(hit, rng.integers(1, world.vocab_size, rows.shape), rows)


def count(rows, vocab_size):
    """Bigram counts (V,V) of rows; forced boundaries do not count."""
    before, after = rows[:, :-2], rows[:, 1:-1]
    counts = np.zeros((vocab_size, vocab_size))
    np.add.at(counts, (before[after >= 0], after[after >= 0]), 1)
    return counts


def frequencies(counts):
    """Counts (V,V) -> rows that sum to one; a row without counts is uniform."""
    totals = counts.sum(axis=1, keepdims=True)
    return np.where(totals > 0, counts / np.maximum(totals, 1e-300), 1 / len(counts))


def entropy(table, contexts):
    """Mean entropy of the rows of a table (V,V) over contexts (V,) of the data, nats."""
    log = np.log(table, out=np.zeros_like(table), where=table > 0)
    return float(-contexts @ (table * log).sum(axis=1))


def cooled(table, tau):
    """The table (V,V) at temperature τ."""
    log = np.log(table, out=np.full_like(table, -np.inf), where=table > 0) / tau
    powers = np.exp(log - log.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def cut(table, top_p):
    """The table (V,V) with each row cut to its nucleus."""
    kept = np.where(nucleus(table, top_p), table, 0)
    return kept / kept.sum(axis=1, keepdims=True)


CONTROLS = {"temperature": cooled, "top-p": cut}


def matched(control, table, target, contexts):
    """The table (V,V) decoded with the least temperature or top-p that has the entropy of target."""
    wanted = entropy(target, contexts)
    low, high = 0.01, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        too_sure = entropy(control(table, middle), contexts) < wanted
        low, high = (middle, high) if too_sure else (low, middle)
    return control(table, high)


def validity(table, world, max_len):
    """The share of possible sentences that a table (V,V) writes, exactly.

    mass[s, a] is the probability of the possible prefixes that end in the word a, the world being
    in state s.
    """
    state, word = np.nonzero(world.probs)
    ends, goes_on = word == 0, word > 0
    mass = np.zeros((world.num_states, world.vocab_size))
    mass[0, 0], ended = 1.0, 0.0
    for _ in range(max_len - 1):
        moved = (mass @ table)[state, word]
        ended += moved[ends].sum()
        mass = np.zeros_like(mass)
        to = world.next_state[state, word]
        np.add.at(mass, (to[goes_on], word[goes_on]), moved[goes_on])
    return float(ended + mass.sum())


def measure(table, world, max_len):
    """What a table (V,V) does to a clean world -> dict of numbers.

    impossible: the share of moves that no sentence of the world has, in contexts of the world;
    F: the forward cross-entropy, nats per sentence.
    """
    counts = exact.bigram_counts(world, max_len)
    contexts, seen = counts.sum(axis=1) / counts.sum(), counts > 0
    with np.errstate(divide="ignore"):
        forward = -(counts[seen] * np.log(table[seen])).sum()
    return {
        "impossible": float(contexts @ np.where(seen, 0, table).sum(axis=1)),
        "validity": validity(table, world, max_len),
        "entropy": entropy(table, contexts),
        "F": float(forward),
    }


# ---- experiments ---------------------------------------------------------------------------------


def noise(settings, name):
    """Tables of noisy sentences of a world, of each objective and its controls -> dict."""
    world, max_len = getattr(mm.worlds, name)(), WORLDS[name]["max_len"]
    sentences, seeds = WORLDS[name]["sentences"], range(settings["seeds"])
    clean = exact.bigram_counts(world, max_len)
    contexts, found = clean.sum(axis=1) / clean.sum(), {}
    for seed in seeds:
        rng = np.random.default_rng([0, seed])
        rows = noisy_rows(world, max_len, sentences, settings["replaced"], rng)
        p = frequencies(count(rows, world.vocab_size))
        found.setdefault(("mle", "as trained"), []).append(measure(p, world, max_len))
        for objective, ratio in settings["objectives"]:
            q, _ = fixed_point(objective, p, ratio)
            tables = {"as trained": q}
            tables |= {way: matched(f, p, q, contexts) for way, f in CONTROLS.items()}
            for way, table in tables.items():
                key = label(objective, ratio), way
                found.setdefault(key, []).append(measure(table, world, max_len))
    return summary(found)


def summary(found):
    """{(objective, way): a dict of measures for each seed} -> means, and paired differences."""
    results = {}
    for (objective, way), rows in found.items():
        here = results.setdefault(objective, {})
        here[way] = _means(rows)
        if way in CONTROLS:
            trained = found[objective, "as trained"]
            less = [{m: a[m] - b[m] for m in a} for a, b in zip(trained, rows)]
            here[f"less {way}"] = _means(less)
    return results


def _means(rows):
    """A dict of measures for each seed -> mean and error of those that are finite for all."""
    columns = {m: [row[m] for row in rows] for m in rows[0]}
    return {m: mean_and_error(c) for m, c in columns.items() if np.isfinite(c).all()}


def rare(settings):
    """Which share of the mass of rare pairs is left at the end of training on stories(), and which
    share of its tokens can no longer be written.
    """
    world, max_len = mm.worlds.stories(), WORLDS["stories"]["max_len"]
    counts = exact.bigram_counts(world, max_len)
    p, contexts = frequencies(counts), counts.sum(axis=1) / counts.sum()
    is_rare, results = (p > 0) & (p < settings["below"]), {}

    def left(q):
        weights = contexts[:, None] * is_rare
        kept, lost = (weights * q).sum() / (weights * p).sum(), counts[q == 0].sum() / counts.sum()
        return {"kept": rounded(kept), "lost": rounded(lost)}

    for objective, ratio in settings["objectives"]:
        q, _ = fixed_point(objective, p, ratio)
        results[label(objective, ratio)] = {
            "as trained": left(q),
            "temperature": left(matched(cooled, p, q, contexts)),
        }
    return results


def early_stopping(settings):
    """F of tables after some steps on batches of stories(), from the uniform start -> dict."""
    world, max_len = mm.worlds.stories(), WORLDS["stories"]["max_len"]
    f_of = functools.partial(exact.bigram_loss_and_grads, world=world, max_len=max_len, objective="forward_ce")
    results = {}
    for eta in settings["etas"]:
        found = {steps: [] for steps in settings["steps"]}
        for seed in range(settings["seeds"]):
            model = mm.TableBigram(world.vocab_size)
            optimizer = mm.AdamW(model.params, lr=settings["lr"], weight_decay=0.0)
            for step in range(1, max(found) + 1):
                rows = world.sample(settings["sentences"], max_len, np.random.default_rng([1, seed, step]))
                inputs, targets = world.batch(rows)
                logits, cache = model.forward(inputs)
                _, dlogits = mm.objectives.mixce(logits, targets, eta=eta)
                optimizer.step(model.backward(dlogits, cache))
                if step in found:
                    found[step].append(float(f_of(model.params["logits"])[0]))
        results[f"{eta:g}"] = {str(steps): mean_and_error(v) for steps, v in found.items()}
    return results


def several_raised(settings):
    """The share of contexts p ~ Dirichlet(1, …, 1) in which MixCE's q is above p at two tokens or
    more -> {tokens: {η: share}}.
    """
    results = {}
    for tokens in settings["tokens"]:
        p = np.random.default_rng([2, tokens]).dirichlet(np.ones(tokens), settings["contexts"])
        results[str(tokens)] = {
            f"{eta:g}": float(((fixed_point("mixce", p, eta)[0] > p).sum(axis=1) > 1).mean()) for eta in settings["etas"]
        }
    return results


def new_token(settings):
    """Steps until a token, of probability p in the data and of a small one at the start, has half
    the probability that it will have in the end; None where `most` steps do not suffice.
    """
    data = np.array([1 - settings["p"], settings["p"]])
    results = {}
    for objective, ratio in settings["objectives"]:
        end = fixed_point(objective, data, ratio)[0][1]
        here = results[label(objective, ratio)] = {"end": rounded(end)}
        for way in settings["lr"]:
            here[way] = {
                f"{start:g}": _steps_to(objective, ratio, data, start, end / 2, way, settings) for start in settings["start"]
            }
    return results


def _steps_to(objective, ratio, data, start, wanted, way, settings):
    f_and_w = mm.objectives.OBJECTIVES[objective].f_and_w
    params = {"z": np.log(np.array([1 - start, start]))}
    optimizer = mm.AdamW(params, lr=settings["lr"]["adamw"], weight_decay=0.0)
    for step in range(settings["most"]):
        log_q = mm.logprob.log_softmax(params["z"])
        q = np.exp(log_q)
        if q[1] >= wanted:
            return step
        _, w = f_and_w(log_q, ratio, np)
        gradient = (data @ w) * q - data * w
        if way == "adamw":
            optimizer.step({"z": gradient})
        else:
            params["z"] = params["z"] - settings["lr"]["descent"] * gradient
    return None


def experiments(settings=SETTINGS):
    """Everything -> dict, as JSON has it."""
    found = {"noise": {name: noise(settings["noise"], name) for name in WORLDS}}
    for one in (rare, early_stopping, several_raised, new_token):
        found[one.__name__] = one(settings[one.__name__])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", default=OUT, type=Path, help="file of the results")
    args = parser.parse_args()
    about = {
        "command": "python tutorials/evidence.py",
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "minimixce": mm.__version__,
        },
        "worlds": WORLDS,
        "settings": SETTINGS,
    }
    text = json.dumps(about | experiments(), ensure_ascii=False, indent=1)
    args.out.write_text(text + "\n", encoding="utf-8")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
