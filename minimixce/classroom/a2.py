"""A2, backprop by hand: tasks, points and variants."""

from functools import cache

from .a2_probes import (
    activation_probes,
    attention_probes,
    block_probes,
    embedding_probes,
    heads_are_alone,
    linear_probes,
    masked_positions_do_not_matter,
    model_probes,
    norm_probes,
    ones_give_zero,
    pair_attention,
    pair_block,
    pair_embedding,
    pair_model,
    pair_position,
    params_of,
    run_attention,
    run_block,
    run_embedding,
    run_model,
    run_position,
    run_visible,
    softmax_probes,
)
from .a2_source import VARIANTS, has_bias, source
from .mistakes import read_mistakes
from .tasks import Assignment, Task, Words, by_tensor, layer, quarters


def _norm_task(variant):
    parameters = ("dweight", "dbias") if has_bias(variant) else ("dweight",)
    names = ("x", "weight", "bias")[: 1 + len(parameters)]
    points = {"forward": 4, "dx consistent": 5, "dx": 4, "parameters consistent": 3}
    return Task(
        "2.5",
        VARIANTS[variant][1][4:].lower(),
        ("norm_forward", "norm_backward"),
        points | {"parameters": 2.5, "manners": 1.5},
        norm_probes(has_bias(variant)),
        **layer("norm", names, ("dx", *parameters)),
        parts={
            "dx consistent": ("consistent", ("dx",)),
            "dx": ("reference", ("dx",)),
            "parameters consistent": ("consistent", parameters),
            "parameters": ("reference", parameters),
        },
        lesson="7",
        nonlinear=True,
    )


def _attention_task(variant):
    return Task(
        "2.6",
        f"attention{VARIANTS[variant][3].removeprefix('2.6 Attention')}",
        ("visible", "attention_forward", "attention_backward"),
        {"forward": 4, "visible": 1, "masked": 2, "manners": 1, "dv": 4}
        | {"consistent": 4.5, "dq and dk": 3.5, "heads": 4},
        attention_probes(variant),
        (run_attention, run_visible),
        ("dq", "dk", "dv"),
        pair_attention,
        {"masked": masked_positions_do_not_matter, "heads": heads_are_alone},
        {"dv": ("reference", ("dv",)), "dq and dk": ("reference", ("dq", "dk"))}
        | {"forward": ("forward", ("y",)), "visible": ("forward", ("visible",))},
        lesson="7",
        nonlinear=True,
        apart=("visible",),
    )


def _whole_tasks(variant):
    """The tiny model and the block."""
    names = [f"d{name}" for name in params_of(model_probes(variant)(0)[0].inputs)]
    in_block = [f"d{name}" for name in params_of(block_probes(variant)(0)[0].inputs)]
    model = Task(
        "2.7",
        "a tiny model",
        ("tiny_model",),
        quarters(12),
        model_probes(variant),
        run_model,
        tuple(names),
        pair_model,
        words=Words("the gradient", "the loss", "the derivative of your own loss"),
        lesson="7",
        nonlinear=True,
        every_row=False,
    )
    block = Task(
        "2.9",
        "bonus: a block",
        ("block_forward", "block_backward"),
        quarters(10),
        block_probes(variant),
        run_block,
        ("dx", *in_block),
        pair_block,
        lesson="7",
        nonlinear=True,
    )
    return model, block


@cache
def assignment(variant: int = 0) -> Assignment:
    """A2 in one of its six variants -> Assignment."""
    linear = Task(
        "2.1",
        "linear",
        ("linear_forward", "linear_backward"),
        probes=linear_probes,
        **by_tensor(8, ("dx", "dW", "db")),
        **layer("linear", ("x", "W", "b"), ("dx", "dW", "db")),
        lesson="7",
    )
    given = ("dW", "dx", "dW of the positions")
    embedding = Task(
        "2.2",
        "embeddings",
        ("embedding_forward", "embedding_backward", "position_forward", "position_backward"),
        probes=embedding_probes,
        run=(run_embedding, run_position),
        gradients=given,
        pair=(pair_embedding, pair_position),
        **by_tensor(8, given, ("y", "y with positions")),
        lesson="7",
        every_row=False,
    )
    activation = Task(
        "2.3",
        VARIANTS[variant][0][4:],
        ("activation_forward", "activation_backward"),
        quarters(8),
        activation_probes,
        **layer("activation", ("x",), ("dx",)),
        lesson="7",
        nonlinear=True,
    )
    softmax = Task(
        "2.4",
        "softmax",
        ("softmax_forward", "softmax_backward"),
        quarters(7) | {"ones": 1},
        softmax_probes,
        **layer("softmax", ("x", "axis"), ("dx",), constants=("axis",)),
        properties={"ones": ones_give_zero},
        lesson="7",
        nonlinear=True,
    )
    layers = (linear, embedding, activation, softmax, _norm_task(variant), _attention_task(variant))
    return Assignment(
        "a2",
        "Backprop by hand",
        "backprop.py",
        (*layers, *_whole_tasks(variant)),
        read_mistakes("a2"),
        source,
        variants=len(VARIANTS),
        hours="10–12",
        written={"2.8": 12},
    )
