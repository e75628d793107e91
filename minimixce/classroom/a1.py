"""A1, the objectives: how each task is probed and what its points are for."""

from functools import cache
from pathlib import Path

import numpy as np

from .compare import FLOAT32, TOLERANCE, is_float32
from .grader.arguments import made
from .mistakes import read_mistakes
from .returns import function_of, now_calls, two_of
from .signatures import Probe
from .tasks import Assignment, Task, Words, quarters, rng_of

_OF_A_WEIGHT = Words("w", "f", "−df/d log q of your own f")
POWERS = (1 / 2, 1 / 3, 2 / 3)  # a of task 1.7, by variant


# ---- 1.1, 1.2 ------------------------------------------------------------------------------------


def _logits_probes(seed):
    rng = rng_of(seed, 11)
    extreme = np.array([[1000.0, 0.0, -1000.0], [-1000.0, -1001.0, -999.0], [0.0, -40.0, 3.0]])
    return [
        Probe("ordinary", {"z": 2 * rng.standard_normal((2, 5, 7))}),
        Probe("extreme", {"z": extreme}, "with logits of ±1000"),
        Probe("degenerate", {"z": rng.standard_normal((1, 1, 1))}, "with a vocabulary of one"),
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
    ordinary = {"logits": logits, "targets": targets, "normalizer": 12}
    extreme = {"logits": far, "targets": np.array([1, 0, -1]), "normalizer": 5}
    return [
        Probe("ordinary", ordinary),
        Probe("extreme", extreme, "with logits of ±1000"),
        Probe("degenerate", _degenerate_pass(rng, np.array([[-1]])), "with no target at all"),
        Probe("degenerate", _degenerate_pass(rng, np.array([2])), "with a single target"),
    ]


def _degenerate_pass(rng, targets):
    logits = rng.standard_normal((*targets.shape, 4))
    return {"logits": logits, "targets": targets, "normalizer": 3}


def _pass(functions, *given):
    return two_of("token_loss", functions.token_loss(*given), "(loss, dlogits)")


def _run_pass(functions, inputs):
    given = inputs["logits"], inputs["targets"], _example_f_and_w
    yield from zip(("loss", "dlogits"), _pass(functions, *given))
    names = "loss with a normalizer", "dlogits with a normalizer"
    yield from zip(names, _pass(functions, *given, inputs["normalizer"]))


def _pair_pass(functions, inputs):
    def forward(logits):
        return _pass(functions, logits, inputs["targets"], _example_f_and_w)

    return forward, _times, {"logits": inputs["logits"]}


def _times(dy, dlogits):
    return (dy * dlogits,)


def _adds_up(functions, inputs):
    """Two halves of a batch with the whole batch's count give the whole batch's results."""
    logits, targets = inputs["logits"], inputs["targets"]
    loss, dlogits = _pass(functions, logits, targets, _example_f_and_w)
    n = int((targets >= 0).sum())
    first, dfirst = _pass(functions, logits[:1], targets[:1], _example_f_and_w, n)
    second, dsecond = _pass(functions, logits[1:], targets[1:], _example_f_and_w, n)
    together = np.concatenate([dfirst, dsecond])
    tolerance = FLOAT32 if is_float32([together]) else TOLERANCE
    if not np.allclose(first + second, loss, rtol=tolerance, atol=tolerance):
        return "the losses of two halves with `normalizer` do not add up to the whole's"
    if not np.allclose(together, dlogits, rtol=tolerance, atol=tolerance):
        return "the gradients of two halves with `normalizer` are not the whole's"
    return ""


# ---- 1.3 to 1.7: f and w -------------------------------------------------------------------------

_LOG_QS = np.log(np.array([0.135, 0.02, 0.6, 0.93, 0.31, 0.2, 0.005, 0.07, 0.45]))


def _f_and_w(functions, name, *argument):
    """The f_and_w that a student's function returns for an argument, as a function -> f, w."""
    made = function_of(name, getattr(functions, name)(*argument), "f_and_w(log_q) -> f, w")

    def f_and_w(log_q):
        now_calls(functions, f"f_and_w of {name}")
        return two_of(f"f_and_w of {name}", made(log_q), "(f, w)")

    return f_and_w


def _objective(name, argument):
    """run and pair of a task `name(argument) -> f_and_w`; argument: its name, or None."""

    def make(functions, inputs):
        return _f_and_w(functions, name, *([] if argument is None else [inputs[argument]]))

    def run(functions, inputs):
        yield from zip(("f", "w"), make(functions, inputs)(inputs["log_q"]))

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
        extreme = [Probe("extreme", {"log_q": far} | n, _far_about(n)) for n in named]
        one = [Probe("degenerate", {"log_q": log_q[:1].copy()} | named[0], "with a single q")]
        return ordinary + extreme + one

    return probes


def _far_about(argument):
    """ "with eta = 0.5 and log q from −800 to 0"."""
    named = [f"{name} = {value}" for name, value in argument.items()]
    return "with " + " and ".join([*named, "log q from −800 to 0"])


def _limit(name, at, like, weight):
    """A property: name(at) has the weight like(log_q), which is called `weight`."""

    def check(functions, inputs):
        log_q = inputs["log_q"]
        _, w = _f_and_w(functions, name, at)(log_q)
        tolerance = FLOAT32 if is_float32([w]) else 1e-12
        if np.allclose(w, like(log_q), rtol=tolerance, atol=tolerance):
            return ""
        return f"{name}({at:g}) must have weight {weight}"

    return check


def _one(log_q):
    return np.ones_like(log_q)


def _run_surrogate(functions, inputs):
    yield from zip(("f", "w"), _f_and_w(functions, "surrogate", inputs["eta"])(inputs["log_q"]))


def _run_frozen(functions, inputs):
    given = inputs["z"], inputs["z0"], inputs["targets"], inputs["eta"]
    yield "frozen", functions.frozen(*given)


def _surrogate_probes(seed):
    rng = rng_of(seed, 15)

    def inputs(shape, targets, eta, log_q):
        z, z0 = rng.standard_normal(shape), rng.standard_normal(shape)
        return {"z": z, "z0": z0, "targets": targets, "eta": eta, "log_q": log_q}

    targets, one = np.array([[3, -1, 0, 6, 2], [1, 5, -1, -1, 4]]), np.array([[2]])
    far = np.array([-800.0, -30.0, -1e-9])
    return [
        Probe("ordinary", inputs((2, 5, 7), targets, 0.05, _LOG_QS.copy())),
        Probe("extreme", inputs((2, 5, 7), targets, 1.0, far), _far_about({"eta": 1.0})),
        Probe("degenerate", inputs((1, 1, 4), one, 0.3, _LOG_QS[:1].copy()), "with a single token"),
    ]


def _plain_derivative(functions, inputs):
    """The derivative of the surrogate's value is not its gradient."""
    log_q = _LOG_QS[:5].copy()
    f_and_w = _f_and_w(functions, "surrogate", inputs["eta"])
    f, w = f_and_w(log_q)
    step = _step(f)
    plain = (f_and_w(log_q + step)[0] - f_and_w(log_q - step)[0]) / (2 * step)
    if np.allclose(-plain, w, rtol=1e-3, atol=1e-3):
        return "w is −df/d log q of your f, so nothing in f is held constant"
    return ""


def _step(value):
    return 1e-3 if is_float32([np.asarray(value)]) else 1e-5


def _frozen_derivative(functions, inputs):
    """The derivative of frozen in z, at z0, is the surrogate's gradient."""
    z0, targets, eta = inputs["z0"].astype(float), inputs["targets"], inputs["eta"]
    step = _step(functions.frozen(z0, z0, targets, eta))
    direction = np.sin(np.arange(z0.size)).reshape(z0.shape)
    up = functions.frozen(z0 + step * direction, z0, targets, eta)
    down = functions.frozen(z0 - step * direction, z0, targets, eta)
    numeric = (float(up) - float(down)) / (2 * step)
    _, dlogits = _reference().token_loss(z0, targets, _reference().surrogate(eta))
    if abs(numeric - (dlogits * direction).sum()) > 1e-3 * np.abs(dlogits * direction).sum():
        return "frozen's derivative in z, at z0, is not the surrogate's gradient"
    return ""


def _run_power(functions, inputs):
    yield from zip(("f", "w"), _f_and_w(functions, "power", inputs["a"])(inputs["log_q"]))


def _run_fixed_point(functions, inputs):
    yield "fixed point", functions.fixed_point(inputs["p"], inputs["a"])


def _power_probes(a):
    def probes(seed):
        rng = rng_of(seed, 17)
        p = rng.dirichlet(np.ones(6))
        far = {"a": a, "log_q": np.array([-800.0, -30.0, -1e-9]), "p": np.array([0.5, 0, 0.3, 0.2])}
        one = {"a": a, "log_q": _LOG_QS[:1].copy(), "p": np.ones(1)}
        return [
            Probe("ordinary", {"a": a, "log_q": _LOG_QS.copy(), "p": p}),
            Probe("extreme", far, "with log q from −800 to 0 and a 0 in p"),
            Probe("degenerate", one, "with a single q"),
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


def assignment(variant: int = 0) -> Assignment:
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
            {"loss": 1.5, "consistent": 3, "reference": 2, "loss with a normalizer": 0.75}
            | {"dlogits with a normalizer": 0.75, "halves": 1, "manners": 1},
            _pass_probes,
            _run_pass,
            ("dlogits", "dlogits with a normalizer"),
            _pair_pass,
            {"halves": _adds_up},
            {
                "loss": ("forward", ("loss",)),
                "consistent": ("consistent", ("dlogits",)),
                "reference": ("reference", ("dlogits",)),
                "loss with a normalizer": ("forward", ("loss with a normalizer",)),
                "dlogits with a normalizer": ("reference", ("dlogits with a normalizer",)),
            },
            nonlinear=True,
            words=Words("dlogits", "the loss", "the derivative of your own loss"),
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
            words=_OF_A_WEIGHT,
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
            {"η = 1": _limit("mixce", 1, _one, "1")},
            lesson="6",
            words=_OF_A_WEIGHT,
            nonlinear=True,
        ),
        Task(
            "1.5",
            "the surrogate",
            ("surrogate", "frozen"),
            {"f": 0.5, "w": 1, "plain value": 0.5, "frozen": 1, "derivative of frozen": 1.5}
            | {"manners": 0.5},
            _surrogate_probes,
            (_run_surrogate, _run_frozen),
            ("w",),
            properties={
                "plain value": _plain_derivative,
                "derivative of frozen": _frozen_derivative,
            },
            parts={name: ("value", (name,)) for name in ("f", "w", "frozen")},
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
            {"γ = 1": _limit("tailr", 1, np.exp, "q")},
            lesson="math §6",
            words=_OF_A_WEIGHT,
            nonlinear=True,
        ),
        Task(
            "1.7",
            "an objective of your own",
            ("power", "fixed_point"),
            {"f": 0.75, "fixed point": 1, "consistent": 2.5, "reference": 2, "manners": 0.75},
            _power_probes(POWERS[variant % 3]),
            (_run_power, _run_fixed_point),
            ("w",),
            _power_pair,
            parts={name: ("forward", (name,)) for name in ("f", "fixed point")},
            lesson="math §6",
            nonlinear=True,
            apart=("fixed point",),
            words=_OF_A_WEIGHT,
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
