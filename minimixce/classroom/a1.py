"""A1, the objectives: how each task is probed and what its points are for."""

from functools import cache
from pathlib import Path

import numpy as np

from .compare import FLOAT32, TOLERANCE, is_float32
from .grader.arguments import made
from .mistakes import read_mistakes
from .tasks import Assignment, Probe, Task, quarters, rng_of

POWERS = (1 / 2, 1 / 3, 2 / 3)  # a of task 1.7, by variant


# ---- 1.1, 1.2 ------------------------------------------------------------------------------------


def _logits_probes(seed):
    rng = rng_of(seed, 11)
    extreme = np.array([[1000.0, 0.0, -1000.0], [-1000.0, -1001.0, -999.0], [0.0, -40.0, 3.0]])
    return [
        Probe("ordinary", {"z": 2 * rng.standard_normal((2, 5, 7))}),
        Probe("extreme", {"z": extreme}),
        Probe("degenerate", {"z": rng.standard_normal((1, 1, 1))}),
    ]


def _shift_invariant(functions, inputs):
    z = inputs["z"]
    shifted = functions.log_softmax(z + 3)
    tolerance = FLOAT32 if is_float32([shifted]) else 1e-12
    if np.allclose(shifted, functions.log_softmax(z), rtol=tolerance, atol=tolerance):
        return ""
    return "adding 3 to every logit changes the result"


_example_f_and_w = made("example_f_and_w")


def _pass_probes(seed):
    rng = rng_of(seed, 12)
    targets = rng.permutation(np.arange(10).reshape(2, 5) % 7)
    targets[0, 1] = -1
    targets[1, 3:] = -1
    logits = 2 * rng.standard_normal((2, 5, 7))
    far = np.array([[60.0, 0.0, -3.0], [2.0, -900.0, 1000.0], [0.0, 0.5, 0.1]])
    return [
        Probe("ordinary", {"logits": logits, "targets": targets, "normalizer": 12}),
        Probe("extreme", {"logits": far, "targets": np.array([1, 0, -1]), "normalizer": 5}),
        Probe("degenerate", _degenerate_pass(rng, np.array([[-1]]))),
        Probe("degenerate", _degenerate_pass(rng, np.array([2]))),
    ]


def _degenerate_pass(rng, targets):
    logits = rng.standard_normal((*targets.shape, 4))
    return {"logits": logits, "targets": targets, "normalizer": 3}


def _run_pass(functions, inputs):
    logits, targets = inputs["logits"], inputs["targets"]
    loss, dlogits = functions.token_loss(logits, targets, _example_f_and_w)
    part, dpart = functions.token_loss(logits, targets, _example_f_and_w, inputs["normalizer"])
    return {"loss": loss, "dlogits": dlogits, "loss of a part": part, "dlogits of a part": dpart}


def _pair_pass(functions, inputs):
    def forward(logits):
        return functions.token_loss(logits, inputs["targets"], _example_f_and_w)

    return forward, _times, {"logits": inputs["logits"]}


def _times(dy, dlogits):
    return (dy * dlogits,)


def _adds_up(functions, inputs):
    """Two halves of a batch with the whole batch's count give the whole batch's results."""
    logits, targets = inputs["logits"], inputs["targets"]
    loss, dlogits = functions.token_loss(logits, targets, _example_f_and_w)
    n = int((targets >= 0).sum())
    first, dfirst = functions.token_loss(logits[:1], targets[:1], _example_f_and_w, n)
    second, dsecond = functions.token_loss(logits[1:], targets[1:], _example_f_and_w, n)
    together = np.concatenate([dfirst, dsecond])
    tolerance = FLOAT32 if is_float32([together]) else TOLERANCE
    if not np.allclose(first + second, loss, rtol=tolerance, atol=tolerance):
        return "the losses of two halves with `normalizer` do not add up to the whole's"
    if not np.allclose(together, dlogits, rtol=tolerance, atol=tolerance):
        return "the gradients of two halves with `normalizer` are not the whole's"
    return ""


# ---- 1.3 to 1.7: f and w -------------------------------------------------------------------------

_LOG_QS = np.log(np.array([0.135, 0.02, 0.6, 0.93, 0.31, 0.2, 0.005, 0.07, 0.45]))


def _objective(name, argument):
    """run and pair of a task `name(argument) -> f_and_w`; argument: its name, or None."""

    def make(functions, inputs):
        function = getattr(functions, name)
        return function() if argument is None else function(inputs[argument])

    def run(functions, inputs):
        f, w = make(functions, inputs)(inputs["log_q"])
        return {"f": f, "w": w}

    def pair(functions, inputs):
        f_and_w = make(functions, inputs)
        return f_and_w, lambda dy, w: (-dy * w,), {"log_q": inputs["log_q"]}

    return run, pair


def _ratio_probes(name, values, key):
    """Probes of an objective: the first of `values` twice, then the others on far smaller q."""

    def probes(seed):
        rng = rng_of(seed, key)
        log_q = _LOG_QS + 0.01 * rng.standard_normal(len(_LOG_QS)) * (_LOG_QS < -2.5)
        far = np.array([-800.0, -700.0, -30.0, -3.0, -1e-9, -1.3])
        named = [{name: value} if name else {} for value in values]
        ordinary = [Probe("ordinary", {"log_q": log_q} | named[0])]
        extreme = [Probe("extreme", {"log_q": far} | n) for n in named]
        one = [Probe("degenerate", {"log_q": log_q[:1].copy()} | named[0])]
        return ordinary + extreme + one

    return probes


def _limit(name, at, like):
    """A property: name(at) has the gradient of like(functions), or of a weight (log_q) -> w."""

    def check(functions, inputs):
        log_q = inputs["log_q"]
        _, w = getattr(functions, name)(at)(log_q)
        tolerance = FLOAT32 if is_float32([w]) else 1e-12
        if np.allclose(w, like(log_q), rtol=tolerance, atol=tolerance):
            return ""
        return f"{name}({at:g}) has not the weight it should have in the limit"

    return check


def _one(log_q):
    return np.ones_like(log_q)


def _run_surrogate(functions, inputs):
    f, w = functions.surrogate(inputs["eta"])(inputs["log_q"])
    value = functions.frozen(inputs["z"], inputs["z0"], inputs["targets"], inputs["eta"])
    return {"f": f, "w": w, "frozen": value}


def _surrogate_probes(seed):
    rng = rng_of(seed, 15)

    def inputs(shape, targets, eta, log_q):
        z, z0 = rng.standard_normal(shape), rng.standard_normal(shape)
        return {"z": z, "z0": z0, "targets": targets, "eta": eta, "log_q": log_q}

    targets = np.array([[3, -1, 0, 6, 2], [1, 5, -1, -1, 4]])
    return [
        Probe("ordinary", inputs((2, 5, 7), targets, 0.05, _LOG_QS.copy())),
        Probe("extreme", inputs((2, 5, 7), targets, 1.0, np.array([-700.0, -30.0, -1e-9]))),
        Probe("degenerate", inputs((1, 1, 4), np.array([[2]]), 0.3, _LOG_QS[:1].copy())),
    ]


def _frozen_derivative(functions, inputs):
    """frozen's derivative in z at z0 is the surrogate's gradient; the plain value's is not."""
    z0, targets, eta = inputs["z0"].astype(float), inputs["targets"], inputs["eta"]
    log_q = _LOG_QS[:5].copy()
    f_and_w = functions.surrogate(eta)
    step = 1e-3 if is_float32([f_and_w(log_q)[0]]) else 1e-5
    plain = (f_and_w(log_q + step)[0] - f_and_w(log_q - step)[0]) / (2 * step)
    if np.allclose(-plain, f_and_w(log_q)[1], rtol=1e-3, atol=1e-3):
        return "w is the derivative of the plain value: then no gradient is stopped"
    direction = np.sin(np.arange(z0.size)).reshape(z0.shape)
    up = functions.frozen(z0 + step * direction, z0, targets, eta)
    down = functions.frozen(z0 - step * direction, z0, targets, eta)
    numeric = (float(up) - float(down)) / (2 * step)
    _, dlogits = _reference().token_loss(z0, targets, _reference().surrogate(eta))
    if abs(numeric - (dlogits * direction).sum()) > 1e-3 * np.abs(dlogits * direction).sum():
        return "frozen's derivative in z, at z0, is not the surrogate's gradient"
    return ""


def _run_power(functions, inputs):
    f, w = functions.power(inputs["a"])(inputs["log_q"])
    return {"f": f, "w": w, "fixed point": functions.fixed_point(inputs["p"], inputs["a"])}


def _power_probes(a):
    def probes(seed):
        rng = rng_of(seed, 17)
        p = rng.dirichlet(np.ones(6))
        far = np.array([-700.0, -30.0, -1e-9])
        zeros = np.array([0.5, 0.0, 0.3, 0.2])
        return [
            Probe("ordinary", {"a": a, "log_q": _LOG_QS.copy(), "p": p}),
            Probe("extreme", {"a": a, "log_q": far, "p": zeros}),
            Probe("degenerate", {"a": a, "log_q": _LOG_QS[:1].copy(), "p": np.ones(1)}),
        ]

    return probes


# ---- the table -----------------------------------------------------------------------------------


@cache
def _source():
    return (Path(__file__).parent / "sources" / "a1_objectives.py").read_text(encoding="utf-8")


@cache
def _reference():
    from .catalogue import functions_of, load_source

    return functions_of(load_source(_source(), "reference"))


def assignment(variant=0):
    """A1, with the a of its variant in task 1.7 -> Assignment."""
    _mle, _mle_pair = _objective("mle", None)
    _mixce, _mixce_pair = _objective("mixce", "eta")
    _tailr, _tailr_pair = _objective("tailr", "gamma")
    _power_pair = _objective("power", "a")[1]
    tasks = (
        Task(
            "1.1",
            "log-softmax",
            ("log_softmax",),
            {"value": 1.5, "extreme": 1.25, "shift": 0.75, "manners": 0.5},
            _logits_probes,
            lambda s, i: {"log softmax": s.log_softmax(i["z"])},
            properties={"shift": _shift_invariant},
        ),
        Task(
            "1.2",
            "one pass for every objective",
            ("token_loss",),
            quarters(9) | {"halves": 1},
            _pass_probes,
            _run_pass,
            ("dlogits", "dlogits of a part"),
            _pair_pass,
            {"halves": _adds_up},
            nonlinear=True,
        ),
        Task(
            "1.3",
            "maximum likelihood",
            ("mle",),
            quarters(3),
            _ratio_probes(None, (None,), 13),
            _mle,
            ("w",),
            _mle_pair,
            lesson="3",
        ),
        Task(
            "1.4",
            "MixCE",
            ("mixce",),
            quarters(7) | {"η = 1": 1},
            _ratio_probes("eta", (0.05, 0, 0.5, 1), 14),
            _mixce,
            ("w",),
            _mixce_pair,
            {"η = 1": _limit("mixce", 1, _one)},
            lesson="6",
            nonlinear=True,
        ),
        Task(
            "1.5",
            "the surrogate",
            ("surrogate", "frozen"),
            {"value": 2.5, "frozen": 2, "manners": 0.5},
            _surrogate_probes,
            _run_surrogate,
            ("w",),
            properties={"frozen": _frozen_derivative},
            lesson="6",
        ),
        Task(
            "1.6",
            "TaiLr",
            ("tailr",),
            quarters(7) | {"γ = 1": 1},
            _ratio_probes("gamma", (0.3, 0, 0.7, 1 - 1e-12, 1), 16),
            _tailr,
            ("w",),
            _tailr_pair,
            {"γ = 1": _limit("tailr", 1, np.exp)},
            lesson="math §6",
            nonlinear=True,
        ),
        Task(
            "1.7",
            "an objective of your own",
            ("power", "fixed_point"),
            quarters(7),
            _power_probes(POWERS[variant % 3]),
            _run_power,
            ("w",),
            _power_pair,
            lesson="math §6",
            nonlinear=True,
        ),
    )
    return Assignment(
        "a1",
        "Objectives",
        "objectives.py",
        tasks,
        read_mistakes("a1"),
        lambda variant: _source(),
        variants=3,
        hours="5",
        written={"1.8": 5},
    )
