"""Build the explorer, one HTML file that needs nothing else.

    python tutorials/explorer.py [folder]

The page is put together from the files in explorer/: page.html, style.css and the scripts. It has
five views, and ?view=simplex, tree, context, sentences or training in its address shows one alone,
for a lesson that embeds it. The page computes nearly all itself, in JavaScript. What it shows of
whole sentences is computed here, by the package: the table bigram at which each objective is least
on the agreement() world, on a grid of η or γ.
"""

import argparse
import functools
import itertools
import json
import math
from pathlib import Path

import numpy as np

import minimixce as mm
from minimixce.experiments.fixed_points import fixed_point
from minimixce.lessons import MAX_LEN, SENTENCES, VALID, sentence_probs

PAGE = "explorer.html"
PARTS = Path(__file__).with_name("explorer")
SCRIPTS = (  # in the order in which the page has them
    "drawing",
    "distributions",
    "simplex",
    "tree",
    "links",
    "context",
    "sentences",
    "training",
    "page",
)
# At η = 0 MixCE has no distribution left, only the likeliest token; nor has TaiLr at γ = 1.
ETAS = tuple(i / 100 for i in range(1, 101))
GAMMAS = tuple(i / 100 for i in range(100))
RATIOS = {  # of every objective over sentences; None where it has no ratio
    "mle": (None,),
    "mixce": ETAS,
    "tailr": GAMMAS,
    "two_kls": ETAS,
    "mixce_star": ETAS,
    "reverse_kl": (None,),
    "reverse_ce": (None,),
}
MEASURES = ("validity", "forward_kl", "reverse_kl", "entropy_q")
PRESETS = {  # distributions of the next of five tokens, to start from
    "the lessons’ example": (0.5, 0.25, 0.15, 0.07, 0.03),
    "two in the lead": (0.44, 0.4, 0.1, 0.04, 0.02),
    "nearly certain": (0.9, 0.04, 0.03, 0.02, 0.01),
    "a gentle slope": (0.3, 0.25, 0.2, 0.15, 0.1),
    "all equal": (0.2, 0.2, 0.2, 0.2, 0.2),
}
TREE = {  # the world of the prefix tree: tokens, P(next token | last token) from the start row on
    "tokens": (".", "a", "b"),
    "p": ((0.1, 0.6, 0.3), (0.3, 0.05, 0.65), (0.5, 0.4, 0.1)),
    "max_len": 4,
}


def build(folder: str | Path, home: str = "") -> Path:
    """Write explorer.html into `folder`, which is made if need be -> its path.

    `home`: the address of a page that it links back to, if any. Raises OSError where the folder
    cannot be made or written to.
    """
    page = (PARTS / "page.html").read_text(encoding="utf-8")
    for name, value in fillings(home).items():
        page = page.replace("{{" + name + "}}", value)
    path = Path(folder) / PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def fillings(home: str) -> dict[str, str]:
    """What stands in the page for each {{NAME}}."""
    scripts = [(PARTS / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    numbers = json.dumps(page_numbers(), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return {
        "HOME": f'<p><a href="{home}">Start here</a></p>\n  ' if home else "",
        "STYLE": (PARTS / "style.css").read_text(encoding="utf-8"),
        "SCRIPT": "\n".join(scripts),
        "NUMBERS": numbers,
    }


@functools.cache
def page_numbers():
    """Everything the page is given. Six significant digits; infinity, which JSON lacks, is null."""
    world = mm.worlds.agreement()
    anywhere = exact_measures(np.zeros((world.vocab_size,) * 2))
    optima = {}
    for name, ratios in RATIOS.items():
        optima[name] = [describe(optimum(name, ratio)) for ratio in ratios]
    return {
        "sentences": SENTENCES,
        "valid": len(VALID),
        "p": short(sentence_probs(world)),
        "entropy_p": short(anywhere["entropy_p"]),
        "log_p_floor": round(world.log_p_floor, 2),
        "ratios": {name: ratios for name, ratios in RATIOS.items() if ratios != (None,)},
        "optima": optima,
        "presets": PRESETS,
        "examples": examples(),
        "tree": TREE,
        "training": training_data(world),
    }


def training_data(world):
    """What a bigram trained in the page learns from: how often P goes from token to token.

    counts (V,V) are expected numbers per sentence; tokens_of are SENTENCES as tokens, without the
    boundary that the horizon forces.
    """
    rows = world.rows(SENTENCES[:-1], MAX_LEN)[:, 1:MAX_LEN]
    return {
        "counts": mm.exact.bigram_counts(world, MAX_LEN).tolist(),
        "tokens_of": [row[row >= 0].tolist() for row in rows],
        "vocabulary": list(world.words),
    }


def describe(logits):
    """A table Q (V,V) -> the probabilities of SENTENCES under it, then its MEASURES."""
    probs, found = sentence_probs(table_model(logits)), exact_measures(logits)
    if probs[-1] < 1e-12:  # the rest to one, "anything else", is rounding
        probs[-1] = 0.0
    return short([*probs, *(found[name] for name in MEASURES)])


def exact_measures(logits):
    """mm.exact.measure of a table (V,V) on the agreement() world -> {name: float}."""
    found = mm.exact.measure(table_model(logits), mm.worlds.agreement(), MAX_LEN)
    return {name: float(x) for name, x in found.items()}


def table_model(logits):
    model = mm.TableBigram(len(logits))
    model.params["logits"] = logits
    return model


def short(x):
    """Six significant digits; null for what is infinite.

    A probability of 0 counts as one of e^−1e300 in the package, so 1e99 is infinite.
    """
    if np.ndim(x):
        return [short(value) for value in x]
    return float(f"{x:.6g}") if abs(x) < 1e99 else None


def examples():
    """Fixed points of the presets by the package, for the page to compare its own with."""
    points = {
        "mixce": (mixce_point, (0.01, 0.1, 0.5, 1.0)),
        "tailr": (tailr_point, (0.0, 0.01, 0.1, 0.5, 0.99)),
    }
    return [
        {"objective": name, "ratio": ratio, "p": p, "q": point(p, ratio).tolist()}
        for p in PRESETS.values()
        for name, (point, ratios) in points.items()
        for ratio in ratios
    ]


# ---- the optimum of each objective -----------------------------------------------------------------


@functools.cache
def optimum(objective, ratio=None):
    """The table at which an exact objective is least on the agreement() world -> logits (V,V).

    It is least over all bigram tables. mle, mixce(η), tailr(γ): in expectation over P they are sums
    over the rows of the table, each convex in the row's q, so the fixed point of every row is its
    one minimum. Logits are −inf where q = 0. two_kls(η), mixce_star(η), reverse_kl: not convex;
    two_kls has two local minima at small η, and every one-hot table is stationary. So all tables of
    a fine grid are compared first (see grid), and the best is refined in all V² logits. reverse_ce:
    linear in Q(x), so it is least where all mass is on the likeliest sentences.
    """
    if objective in ("mle", "mixce", "tailr"):
        return row_by_row(objective, ratio)
    if objective == "reverse_ce":
        return likeliest_sentences(mm.worlds.agreement())
    q, values = grid()
    eta = 0.0 if ratio is None else ratio
    kind = "ce" if objective == "mixce_star" else "kl"
    mixed = eta * values[f"forward_{kind}"] + (1 - eta) * values[f"reverse_{kind}"]
    start = on_support(*q[np.argmin(mixed)])
    return fixed_policy(start) if objective == "reverse_kl" else descend(start, objective, eta)


def row_by_row(objective, ratio):
    """The table whose every row is the fixed point of P's next tokens there -> logits (V,V)."""
    counts = mm.exact.bigram_counts(mm.worlds.agreement(), MAX_LEN)
    p = counts / counts.sum(axis=1, keepdims=True)
    if objective == "tailr":
        q = np.array([tailr_point(row, ratio) for row in p])
    else:
        q = fixed_point("mixce", p, 1.0 if ratio is None else ratio)[0]
    with np.errstate(divide="ignore"):
        return np.log(q)


def mixce_point(p, eta):
    """The q (V,) at which MixCE is least for next-token p (V,), η > 0 (η = 1 is MLE)."""
    return fixed_point("mixce", p, eta)[0]


def tailr_point(p, gamma):
    """The same for TaiLr: q = max(0, (p/λ − γ) / (1−γ)), γ < 1 (γ = 0 is MLE).

    With k tokens left, the largest, Σ q = 1 gives λ = Σ p / (1−γ + kγ) over them; a token is left
    while its p > λγ.
    """
    p = np.asarray(p, dtype=float)
    order = np.sort(p)[::-1]
    lam = order.cumsum() / (1 - gamma + gamma * np.arange(1, len(p) + 1))
    lam = lam[order > lam * gamma][-1]
    q = np.maximum(0, (p / lam - gamma) / (1 - gamma))
    return q / q.sum()


def likeliest_sentences(world):
    """The table that shares all mass equally among the likeliest sequences.

    There are two, and every other split between them is as good.
    """
    rows = mm.exact.sequences(world.vocab_size, MAX_LEN)
    log_p = world.log_prob(rows)
    best = rows[np.isclose(log_p, log_p.max())]
    counts = np.zeros((world.vocab_size,) * 2)
    for row in best:
        for a, b in itertools.pairwise(row[row >= 0]):
            counts[a, b] += 1
    counts[counts.sum(axis=1) == 0] = 1  # rows that are never reached
    with np.errstate(divide="ignore"):
        return np.log(counts / counts.sum(axis=1, keepdims=True))


def on_support(cat, here_1, here_2, sleeps):
    """The table that uses only pairs of tokens that P has, of four free probabilities.

    They are Q(cat|start), Q(here|cat), Q(here|cats) and Q(sleeps|here). The other pairs get the
    floor itself: they occur in no sentence of P, and in what Q writes each costs that floor.
    """
    z = np.full((6, 6), mm.worlds.agreement().log_p_floor)
    rows = [(0, 1, 2, cat), (1, 3, 4, here_1), (2, 3, 5, here_2), (3, 4, 5, sleeps)]
    for row, token, other, q in rows:
        z[row, token] = math.log(q)
        z[row, other] = math.log1p(-q)
    z[4, 0] = z[5, 0] = 0.0
    return z


@functools.cache
def grid(points=21, widest=10.0):
    """Every table of on_support with log-odds on a grid.

    -> the four probabilities (n,4), and {name: (n,)}, the value of each objective.
    """
    world = mm.worlds.agreement()
    q = 1 / (1 + np.exp(-np.linspace(-widest, widest, points)))
    q = np.stack(np.meshgrid(q, q, q, q, indexing="ij"), axis=-1).reshape(-1, 4)
    cat, here_1, here_2, sleeps = q.T
    here_1_on = cat * here_1
    here_2_on = (1 - cat) * here_2
    probs = np.array(  # in the order of SENTENCES, the last left out
        [
            cat * (1 - here_1),
            (1 - cat) * (1 - here_2),
            here_1_on * sleeps,
            here_2_on * (1 - sleeps),
            here_1_on * (1 - sleeps),
            here_2_on * sleeps,
        ]
    )
    cost = np.array([cost_of(world, row) for row in world.rows(SENTENCES[:-1], MAX_LEN)])
    forward = -sentence_probs(world)[:-1] @ np.log(probs)
    reverse = cost @ probs
    entropy_p = exact_measures(np.zeros((6, 6)))["entropy_p"]
    entropy_q = -(probs * np.log(probs)).sum(axis=0)
    values = {"forward_ce": forward, "reverse_ce": reverse}
    return q, values | {"forward_kl": forward - entropy_p, "reverse_kl": reverse - entropy_q}


def cost_of(world, row):
    """−log P of one sentence, a row of world.rows, with the floor of impossible tokens."""
    tokens = row[1:MAX_LEN]
    states = [0]
    for token in tokens[:-1]:
        states.append(world.next_state[states[-1], token])
    steps = [world.probs[state, token] for state, token in zip(states, tokens) if token >= 0]
    return -sum(max(math.log(x) if x else -math.inf, world.log_p_floor) for x in steps)


def loss_and_grad(logits, objective, eta=0.5):
    world = mm.worlds.agreement()
    options = {"objective": objective, "eta": eta, "max_len": MAX_LEN}
    loss, grad = mm.exact.bigram_loss_and_grads(logits, world, **options)
    return float(loss), grad


def descend(z, objective, eta, tolerance=1e-10):
    """The minimum near z (V,V) by BFGS on the package's exact gradient, to this tolerance."""
    value, grad = loss_and_grad(z, objective, eta)
    identity = inverse = np.eye(z.size)
    for _ in range(1000):
        if np.abs(grad).max() < tolerance:
            return z
        direction = -(inverse @ grad.ravel()).reshape(z.shape)
        step = min(1.0, 4 / np.abs(direction).max())
        new, new_grad = loss_and_grad(z + step * direction, objective, eta)
        while new > value + 1e-4 * step * (direction * grad).sum() + 1e-14:
            step /= 2
            new, new_grad = loss_and_grad(z + step * direction, objective, eta)
        moved, bent = step * direction.ravel(), (new_grad - grad).ravel()
        if (along := moved @ bent) > 0:
            turn = identity - np.outer(moved, bent) / along
            inverse = turn @ inverse @ turn.T + np.outer(moved, moved) / along
        z, value, grad = z + step * direction, new, new_grad
    raise RuntimeError(f"{objective} at η = {eta} has not come to its minimum")


def fixed_policy(z, tolerance=1e-10):
    """The minimum of reverse_kl near z, exact also in probabilities as small as the floor's, 1e-30.

    There a gradient is as good as zero. What vanishes is the advantage, the gradient over (visits
    to the row × q), which is log q + the cost to go − its mean; taking it off the logits, half at a
    time, ends where q ∝ exp(−cost to go).
    """
    for _ in range(1000):
        q = np.exp(mm.logprob.log_softmax(z))
        ordinary = q.copy()
        ordinary[:, 0] = 0  # what goes on; a sequence makes at most MAX_LEN − 1 choices
        visits = sum(np.linalg.matrix_power(ordinary, t)[0] for t in range(MAX_LEN - 1))
        advantage = loss_and_grad(z, "reverse_kl")[1] / (visits[:, None] * q)
        if np.abs(advantage).max() < tolerance:
            return z
        z = z - advantage / 2
    raise RuntimeError("reverse_kl has not come to its minimum")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", nargs="?", default=".", help="where to write it (default: here)")
    try:
        print(build(parser.parse_args().folder))
    except OSError as error:
        parser.error(str(error))
