"""A3, the reverse direction: tasks and points."""

from functools import cache
from pathlib import Path

import numpy as np

from . import a3_probes as probes
from .catalogue import functions_of, load_source
from .mistakes import read_mistakes
from .tasks import Assignment, Task, Words, quarters


@cache
def _source(variant=0):
    return (Path(__file__).parent / "sources" / "a3_reverse.py").read_text(encoding="utf-8")


@cache
def _reference():
    return functions_of(load_source(_source(), "reference"))


def _equals_the_list(functions, inputs):
    """A property: the gradient by costs to go is the one by listing."""
    found = functions.reverse_grad(inputs["Q"], inputs["cost"], inputs["T"])
    _, expected = _reference().exact_reverse_ce(inputs["logits"], inputs["cost"], inputs["T"])
    close = np.allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    return "" if close else "reverse_grad is not the gradient by listing"


def _list_tasks():
    return (
        Task(
            "3.1",
            "the probability of a sequence",
            ("log_prob",),
            {"value": 5, "degenerate": 2, "manners": 1},
            probes.log_prob_probes,
            probes.run_log_prob,
            lesson="2",
        ),
        Task(
            "3.2",
            "all sequences",
            ("enumerate_sequences",),
            {"value": 4, "degenerate": 2},
            probes.sequences_probes,
            probes.run_sequences,
            lesson="4",
        ),
        Task(
            "3.3",
            "the reverse cross-entropy by listing",
            ("exact_reverse_ce",),
            quarters(10) | {"T = 1": 2},
            probes.table_probes,
            probes.run_listing,
            ("dlogits",),
            probes.pair_listing,
            {"T = 1": probes.horizon_of_one_gives_zero},
            lesson="4",
            words=Words("dlogits", "R", "the derivative of your own R"),
            nonlinear=True,
            every_row=False,
        ),
    )


def _tree_tasks():
    return (
        Task(
            "3.4",
            "costs to go",
            ("cost_to_go",),
            {"value": 7, "extreme": 2, "degenerate": 1.5, "manners": 1.5},
            probes.table_probes,
            probes.run_to_go,
            lesson="4",
        ),
        Task(
            "3.5",
            "the gradient by costs to go",
            ("reverse_grad",),
            {"value": 6, "extreme": 2, "degenerate": 1.5, "list": 3, "manners": 1.5},
            probes.table_probes,
            probes.run_tree,
            ("dlogits",),
            properties={"list": _equals_the_list},
            lesson="4",
        ),
    )


def _model_tasks():
    return (
        Task(
            "3.6",
            "the gradient of any model",
            ("model_grad",),
            quarters(14),
            probes.model_probes,
            probes.run_model,
            ("dW",),
            probes.pair_model,
            lesson="4",
            words=Words("the gradient", "R", "the derivative of your own R"),
            nonlinear=True,
            every_row=False,
        ),
        Task(
            "3.7",
            "weights from samples",
            ("reinforce_weights", "rloo_weights"),
            {"REINFORCE": 2.5, "RLOO": 2.5, "REINFORCE unbiased": 2, "RLOO unbiased": 2}
            | {"manners": 1},
            probes.weights_probes,
            (probes.run_reinforce, probes.run_rloo),
            ("weights of REINFORCE", "weights of RLOO"),
            properties={
                "REINFORCE unbiased": probes.unbiased(_reference, "reinforce_weights"),
                "RLOO unbiased": probes.unbiased(_reference, "rloo_weights"),
            },
            parts={
                "REINFORCE": ("reference", ("weights of REINFORCE",)),
                "RLOO": ("reference", ("weights of RLOO",)),
            },
            lesson="5",
        ),
    )


def _bonus_task():
    return Task(
        "3.9",
        "bonus: Gumbel-softmax",
        ("gumbel_softmax_forward", "gumbel_softmax_backward"),
        {"soft": 1, "hard": 1, "consistent": 1.75, "reference": 1.75, "manners": 0.5},
        probes.gumbel_probes,
        (probes.run_soft, probes.run_hard),
        ("dlogits of the soft", "dlogits of the hard"),
        probes.pair_gumbel,
        parts={"soft": ("forward", ("soft",)), "hard": ("forward", ("hard",))},
        lesson="5",
        nonlinear=True,
    )


@cache
def assignment(variant: int = 0) -> Assignment:
    """A3, which has one variant -> Assignment."""
    return Assignment(
        "a3",
        "The reverse direction",
        "reverse.py",
        (*_list_tasks(), *_tree_tasks(), *_model_tasks(), _bonus_task()),
        read_mistakes("a3"),
        _source,
        hours="8–10",
        written={"3.8": 4},
    )
