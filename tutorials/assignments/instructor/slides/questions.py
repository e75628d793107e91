"""The questions at the end of each sitting: topics of the concept test, other numbers than in its forms.

A slide asks for one by `@question mixce_weight(0.3, 0.4)`, a call of a function of concept_test/make.py or of this file. Every
answer, right or wrong, is computed; the notes name the misconception that each wrong one meets.
"""

import ast
import importlib.util
import random
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minimixce.checks import gradcheck

_MAKE = Path(__file__).resolve().parents[2] / "concept_test" / "make.py"


def concept_test():
    """The module that makes the concept test."""
    specification = importlib.util.spec_from_file_location("concept_test_make", _MAKE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


make = concept_test()


class Question(NamedTuple):
    """A question as it is shown: choices are [(letter, misconception or make.RIGHT, answer)] in order."""

    topic: str
    text: str
    choices: list

    @property
    def right(self):
        """The letter of the right answer."""
        return next(letter for letter, name, _ in self.choices if name == make.RIGHT)


def question(call):
    """What `@question CALL` stands for -> Question. Raises ValueError for what is no call of a known function."""
    try:
        node = ast.parse(call, mode="eval").body
        maker = _MAKERS[node.func.id]
        arguments = [ast.literal_eval(argument) for argument in node.args]
    except (SyntaxError, AttributeError, KeyError, ValueError) as error:
        raise ValueError(f"@question must be followed by a call of {', '.join(_MAKERS)}, got {call!r}") from error
    item = maker(*arguments)
    choices = list(item.choices.items())
    random.Random(call).shuffle(choices)
    return Question(item.topic, item.question, [("abcde"[k], *choice) for k, choice in enumerate(choices)])


def _least(p, third):
    """What is not least at Q = P; third: the quantity that moves."""
    offered = {
        "KL(P‖Q)": "a KL is not symmetric, so only one of them",
        "KL(Q‖P)": "reverse means mode-seeking, so not P",
        "−E_P log Q": "a cross-entropy is never least at P",
        "½ KL(P‖Q) + ½ KL(Q‖P)": "a mixture pulls away from P",
        third: "every divergence-like quantity is least at P",
    }
    return make.not_least_at_p(p, offered)


def _windowed_keys(T, query, window):
    """Which dk are not zero, where a query sees itself and the window − 1 keys before it: by the dk of one head."""
    i, j = np.arange(T)[:, None], np.arange(T)
    mask = (j <= i) & (j > i - window)
    q, k, v, dy = np.random.default_rng(0).standard_normal((4, T, 2))
    dy *= (np.arange(T) == query)[:, None]
    e = np.where(mask, np.exp(q @ k.T), 0)
    p = e / e.sum(1, keepdims=True)
    dp = dy @ v.T
    dk = (p * (dp - (p * dp).sum(1, keepdims=True))).T @ q
    right = [int(n) for n in np.flatnonzero(np.abs(dk).max(1) > 1e-12)]
    choices = {
        make.RIGHT: right,
        "the window does not count for gradients: all before": list(range(query + 1)),
        "keys belong to queries: only its own": [query],
        "the mask upside down: what comes after": list(range(query, min(T, query + window))),
        "a query does not see itself": [n for n in right if n != query],
    }
    said = {name: ", ".join(str(n + 1) for n in answer) for name, answer in choices.items()}
    seen = f"each query sees itself and the {window - 1} keys before it"
    text = (
        f"Attention over {T} positions; {seen}. dy is zero except at position {query + 1}. For which positions is dk not zero?"
    )
    return make.Item("which dk are not zero", text, said)


def _check_of_a_doubled_bias():
    """What a passed check proves: a linear layer that adds its bias twice, forward and backward alike."""

    def forward(x, W, b):
        return x @ W + 2 * b, (x, W)

    def backward(dy, cache):
        x, W = cache
        return dy @ W.T, x.T @ dy, 2 * dy.sum(0)

    rng = np.random.default_rng(0)
    passes = gradcheck(forward, backward, [rng.standard_normal(shape) for shape in ((5, 4), (4, 3), (3,))]).ok
    if not passes:
        raise ValueError("the check should pass: the backward is the derivative of this forward")
    choices = {
        make.RIGHT: "OK: the backward is the derivative of this forward",
        "a check knows the right layer": "WRONG: the layer is not x W + b",
        "a check compares with the reference's gradient": "WRONG: db is twice what it should be",
        "a check is about training": "OK only if the loss falls",
        "a check cannot decide without a dataset": "nothing: the inputs are random",
    }
    layer = "A linear layer computes x W + 2b by mistake, and its backward returns twice the sum of dy as db."
    text = f"{layer} What does a gradient check say?"
    return make.Item("what a passed check proves", text, choices)


_MAKERS = {
    "gradient_of_log_q": make.gradient_of_log_q,
    "masks_and_means": make.masks_and_means,
    "mixce_weight": make.mixce_weight,
    "least": _least,
    "fixed_point": make.fixed_point,
    "layer_norm_dx": make.layer_norm_dx,
    "keys_that_matter": make.keys_that_matter,
    "windowed_keys": _windowed_keys,
    "check_of_a_doubled_bias": _check_of_a_doubled_bias,
    "rloo_weight": make.rloo_weight,
    "reward_to_go": make.reward_to_go,
}
