"""Make the two forms of the concept test and their key: python tutorials/assignments/concept_test/make.py

Ten questions, one a misconception at a time. Every right answer and every wrong one is computed here; a wrong one is what a
student gets who holds the misconception that it is named after, which the key says. Form A goes before the course, form B after
it (or the other way round for one half of a class): same questions, other numbers.
"""

import random
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minimixce import layers, objectives
from minimixce.checks import gradcheck

HERE = Path(__file__).resolve().parent
RIGHT = "right"


class Item(NamedTuple):
    """A question: choices are {misconception, or RIGHT: what it answers}."""

    topic: str
    question: str
    choices: dict


def vector(values):
    """(0.50, −0.30, …), with a true minus sign."""
    return "(" + ", ".join(number(v) for v in values) + ")"


def number(value, digits=2):
    """A number with a true minus sign, and no minus before zero."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


# ---- the questions ----------------------------------------------------------------------------------------------------


def gradient_of_log_q(q, target):
    """−log q in the logits."""
    q = np.array(q)
    onehot = np.eye(len(q))[target]
    _, right = objectives.mle(np.log(q)[None], np.array([target]))
    choices = {
        RIGHT: right[0],
        "the sign: onehot − softmax": onehot - q,
        "only the target's logit matters": (q - 1) * onehot,
        "the gradient in the probabilities, −1/q": -onehot / q,
        "the softmax, without the onehot": q,
    }
    given = f"The softmax of three logits is {vector(q)}, and token {target + 1} came."
    question = f"{given} What is the gradient of −log q in the logits?"
    return Item("gradient of −log q", question, {k: vector(v) for k, v in choices.items()})


def masks_and_means(q, targets_there):
    """The mean over targets."""
    losses = -np.log(np.array(q))
    there = np.array(targets_there, bool)
    logits = np.stack([np.log(q), np.log1p(-np.array(q))], axis=1)
    right, _ = objectives.mle(logits, np.where(there, 0, -1))
    choices = {
        RIGHT: float(right),
        "ignored positions count in N": losses[there].sum() / len(q),
        "a sum, not a mean": losses[there].sum(),
        "ignored positions count in the loss": losses.mean(),
        "ignored positions count in the sum only": losses.sum() / there.sum(),
    }
    ignored = " and ".join(str(k + 1) for k in np.flatnonzero(~there))
    shown = ", ".join(number(x) for x in losses)
    question = f"−log q is {shown} at {len(q)} positions; position {ignored} has the target −1. What is the loss?"
    return Item("masks and means", question, {k: number(v, 3) for k, v in choices.items()})


def mixce_weight(eta, q):
    """MixCE's weight."""
    log_q = np.log(q)
    logits = np.array([[np.log(q), np.log1p(-q)]])
    _, weight = objectives.mixce(logits, np.array([0]), eta=eta, reduction="none")
    choices = {
        RIGHT: float(weight[0]),
        "η and 1−η swapped": (1 - eta) + eta * q,
        "the stop gradient forgotten": eta + (1 - eta) * q * (1 + log_q),
        "−f′(q) for −q f′(q)": eta / q + (1 - eta),
        "the forward part alone": eta,
    }
    question = f"A token has q = {q:g}. MixCE's gradient at η = {eta:g} is MLE's times which weight?"
    return Item("MixCE's weight", question, {k: number(v, 3) for k, v in choices.items()})


def _slope_at_p(quantity, p):
    """The largest slope at Q = P along the simplex: 0 where a quantity can be least."""
    step, worst = 1e-5, 0.0
    for direction in (np.array([1.0, -1, 0]), np.array([0.0, 1, -1])):
        worst = max(worst, abs(quantity(p, p + step * direction) - quantity(p, p - step * direction)) / (2 * step))
    return worst


_QUANTITIES = {
    "KL(P‖Q)": lambda p, q: (p * np.log(p / q)).sum(),
    "KL(Q‖P)": lambda p, q: (q * np.log(q / p)).sum(),
    "−E_P log Q": lambda p, q: -(p * np.log(q)).sum(),
    "−E_Q log P": lambda p, q: -(q * np.log(p)).sum(),
    "½ KL(P‖Q) + ½ KL(Q‖P)": lambda p, q: 0.5 * ((p - q) * np.log(p / q)).sum(),
    "½ (−E_P log Q) + ½ (−E_Q log P)": lambda p, q: -0.5 * (p * np.log(q) + q * np.log(p)).sum(),
}


def not_least_at_p(p, offered):
    """The quantity that P does not minimise."""
    p, choices = np.array(p), {}
    for name, misconception in offered.items():
        moves = _slope_at_p(_QUANTITIES[name], p) > 1e-3
        choices[RIGHT if moves else misconception] = name
    question = f"P = {vector(p)} and Q is free. Which of these is not least at Q = P?"
    return Item("what is least at Q = P", question, choices)


def fixed_point(p):
    """Where w = √q leads."""
    p = np.array(p)

    def normalised(values):
        return values / values.sum()

    choices = {
        RIGHT: normalised(p**2),
        "every objective ends at p": p,
        "q ∝ w(p): the exponent is a": normalised(p**0.5),
        "q ∝ p · w(p): one step, not the fixed point": normalised(p**1.5),
        "all mass on the likeliest": np.eye(len(p))[p.argmax()],
    }
    question = f"The truth is p = {vector(p)}, q is free, and each token has the weight w(q) = √q. Where does q end up?"
    return Item("fixed point of w = √q", question, {k: vector(v) for k, v in choices.items()})


def layer_norm_dx(x, dy):
    """dx for equal dy."""
    x, dy = np.array(x), np.full(len(x), dy)
    _, cache = layers.layer_norm_forward(x, np.ones_like(x), np.zeros_like(x), epsilon=0.0)
    right, *_ = layers.layer_norm_backward(dy, cache)
    normed, r = cache.normed, float(cache.rstd[..., 0])
    choices = {
        RIGHT: right,
        "the statistics are constants: dx = dy r": dy * r,
        "dx = dy, because the weight is 1": dy,
        "a sum over the row for the mean": r * (dy - dy.sum()),
        "the derivative of the normed row is the normed row": dy * normed,
    }
    shown = vector(x)
    question = f"Layer norm with weight 1 and bias 0 gets the row {shown}, and dy is {number(dy[0])} everywhere. What is dx?"
    return Item("layer norm's dx for equal dy", question, {k: vector(v) for k, v in choices.items()})


def keys_that_matter(T, query):
    """Which dk are not zero."""
    rng = np.random.default_rng(0)
    _, cache = layers.attention_forward(rng.standard_normal((1, T, 6)), 1)
    dy = np.zeros((1, T, 2))
    dy[0, query] = rng.standard_normal(2)
    dqkv, _ = layers.attention_backward(dy, cache)
    right = [j for j in range(T) if np.abs(dqkv[0, j, 2:4]).max() > 1e-12]
    choices = {
        RIGHT: right,
        "a query does not see itself": list(range(query)),
        "keys belong to queries: only its own": [query],
        "the mask upside down: what comes after": list(range(query, T)),
        "all keys, the mask is of the forward": list(range(T)),
    }
    said = {k: ", ".join(str(j + 1) for j in v) or "none" for k, v in choices.items()}
    question = (
        f"Causal attention over {T} positions. dy is zero except at position {query + 1}. For which positions is dk not zero?"
    )
    return Item("which dk are not zero", question, said)


def what_a_check_proves(layer):
    """A layer that is wrong in the same way forward and backward."""
    rng = np.random.default_rng(0)
    if layer == "norm":
        wrong = "a layer norm that divides the variance by C − 1, forward and backward alike"

        def forward(x):
            d = x - x.mean(-1, keepdims=True)
            r = 1 / np.sqrt((d * d).sum(-1, keepdims=True) / (x.shape[-1] - 1))
            return d * r, (d * r, r)

        def backward(dy, cache):
            n, r = cache
            along = (dy * n).sum(-1, keepdims=True) / (n.shape[-1] - 1)
            return (r * (dy - dy.mean(-1, keepdims=True) - n * along),)
    else:
        wrong = "a GELU with 0.4 for 0.044715, forward and backward alike"

        def forward(x):
            t = np.tanh(0.8 * (x + 0.4 * x**3))
            return x * (1 + t) / 2, (x, t)

        def backward(dy, cache):
            x, t = cache
            return (dy * ((1 + t) / 2 + x / 2 * (1 - t * t) * 0.8 * (1 + 1.2 * x * x)),)

    passes = gradcheck(forward, backward, [rng.standard_normal((2, 5))]).ok
    choices = {
        RIGHT if passes else "a check knows the right layer": "OK: the backward is the derivative of this forward",
        "a check knows the right layer" if passes else RIGHT: "WRONG: the layer is not the right one",
        "a check compares with the reference's gradient": "WRONG: the gradient differs from the right layer's",
        "a check is about training": "OK only if the loss falls",
        "a check cannot decide without a dataset": "nothing: the inputs are random",
    }
    return Item("what a passed check proves", f"A gradient check is run on {wrong}. What does it say?", choices)


def rloo_weight(costs):
    """A leave-one-out weight."""
    costs = np.array(costs, float)
    n = len(costs)
    right = costs[0] - (costs.sum() - costs[0]) / (n - 1)
    choices = {
        RIGHT: right,
        "the baseline includes the sample": costs[0] - costs.mean(),
        "no baseline": costs[0],
        "the baseline is added": costs[0] + costs[1:].mean(),
        "divided by the deviation": (costs[0] - costs.mean()) / costs.std(),
    }
    shown = ", ".join(number(c, 0) for c in costs)
    question = f"Samples of the model cost {shown}. RLOO weights the first one's ∇log Q, before it is divided by n, by what?"
    return Item("RLOO weights", question, {k: number(v) for k, v in choices.items()})


def reward_to_go(costs, token):
    """The cost from a token on."""
    costs = np.array(costs, float)
    choices = {
        RIGHT: costs[token:].sum(),
        "its own cost alone": costs[token],
        "the cost so far": costs[: token + 1].sum(),
        "without its own cost": costs[token + 1 :].sum(),
        "the whole cost": costs.sum(),
    }
    shown = ", ".join(number(c, 0) for c in costs)
    question = f"The tokens of a sample cost {shown}. With costs to go, by what is ∇log q of token {token + 1} weighted?"
    return Item("cost to go", question, {k: number(v, 0) for k, v in choices.items()})


def form(letter):
    """The ten items of form "A" or "B"."""
    a = letter == "A"
    third = "−E_Q log P" if a else "½ (−E_P log Q) + ½ (−E_Q log P)"
    offered = {
        "KL(P‖Q)": "a KL is not symmetric, so only one of them",
        "KL(Q‖P)": "reverse means mode-seeking, so not P",
        "−E_P log Q": "a cross-entropy is never least at P",
        "½ KL(P‖Q) + ½ KL(Q‖P)": "a mixture pulls away from P",
        third: "every divergence-like quantity is least at P",
    }
    return [
        gradient_of_log_q((0.5, 0.3, 0.2) if a else (0.1, 0.6, 0.3), 0 if a else 2),
        masks_and_means((0.5, 0.1, 0.25, 0.8) if a else (0.2, 0.7, 0.4, 0.05, 0.9), (1, 0, 1, 1) if a else (1, 1, 0, 1, 1)),
        mixce_weight(0.2, 0.5) if a else mixce_weight(0.1, 0.2),
        not_least_at_p((0.5, 0.3, 0.2) if a else (0.6, 0.3, 0.1), offered),
        fixed_point((0.8, 0.2)) if a else fixed_point((0.6, 0.4)),
        layer_norm_dx((1.0, 2.0, 4.0, 5.0), 0.5) if a else layer_norm_dx((0.0, 1.0, 5.0), -2.0),
        keys_that_matter(4, 2) if a else keys_that_matter(5, 1),
        what_a_check_proves("norm" if a else "gelu"),
        rloo_weight((6, 1, 2)) if a else rloo_weight((2, 5, 9, 4)),
        reward_to_go((2, 1, 5), 1) if a else reward_to_go((3, 4, 2, 5), 2),
    ]


# ---- the files --------------------------------------------------------------------------------------------------------


def ordered(item, letter, k):
    """The choices of a question in the order of the form -> [(letter, misconception, answer), …]."""
    choices = list(item.choices.items())
    random.Random(f"{letter}{k}").shuffle(choices)
    return [("abcde"[n], name, answer) for n, (name, answer) in enumerate(choices)]


def files():
    """{file name: text} of the two forms and the key."""
    made, key = {}, ["# Key of the concept test", "", "For instructors; in a public repository it is public.", ""]
    for letter in "AB":
        lines = [
            f"# Concept test, form {letter}",
            "",
            "Ten questions, 20 minutes, one answer each. A calculator is allowed.",
            "",
        ]
        key += [f"## Form {letter}", "", "| | topic | right | what the others show |", "| --- | --- | --- | --- |"]
        for k, item in enumerate(form(letter), 1):
            lines += [f"**{k}.** {item.question}", ""]
            choices = ordered(item, letter, k)
            lines += [f"- ({mark}) {answer}" for mark, _, answer in choices] + [""]
            right = next(mark for mark, name, _ in choices if name == RIGHT)
            others = "; ".join(f"{mark}: {name}" for mark, name, _ in choices if name != RIGHT)
            key.append(f"| {k} | {item.topic} | {right} | {others} |")
        key.append("")
        made[f"form_{letter.lower()}.md"] = "\n".join(lines).rstrip() + "\n"
    made["key.md"] = "\n".join(key).rstrip() + "\n"
    return made


if __name__ == "__main__":
    for name, text in files().items():
        (HERE / name).write_text(text, encoding="utf-8")
        print(HERE / name)
