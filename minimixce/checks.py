"""Gradient checking: is a backward the derivative of its forward?

`gradcheck` takes any pair of functions in the form of layers.py and compares what backward returns
with numerical derivatives of forward. Its verdict on each input is OK, WRONG or CANNOT TELL, and
only OK is true: where the numbers do not decide, it says so.

The numerical derivatives (slopes.py) come with an estimate of their own error, and a gradient is
called WRONG only where it differs from them by more than that. No check from outside is a proof: a
function that oscillates within a thousandth of x can deceive this one, too.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .backend import array_module, to_numpy
from .slopes import (
    CANNOT_TELL,
    DIRECTIONS,
    MAX_BLOCKS,
    OK,
    WRONG,
    Tensor,
    along_directions,
    badness,
    lines_of,
    natural_slope,
    negligible_error,
    noise_of,
    outputs,
    quick_slope,
    size_at,
    size_of,
    suspects,
    unit,
    worst_coordinate,
)
from .storage.shapes import Array, Loss
from .storage.validate import check_count, check_number

# Apart from the numbers that a caller draws with the same seed: if dy were x itself, layers that
# normalise would have a gradient of zero, which many wrong ones have, too.
_STREAM = 0x6D697863


@dataclass(frozen=True)
class Row:
    """What was found for one input tensor, by name and shape.

    method: "every coordinate", "8 directions" or what is wrong with the gradient's form;
    relative_error: the largest found; worst: the index of the coordinate that disagrees most, with
    the derivative there that backward says (analytic) and the numerical one (numeric); verdict:
    "OK", "WRONG" or "CANNOT TELL"; reason: in words, unless OK; gradient, numeric_gradient: both
    whole, where they were found.
    """

    name: str
    shape: tuple[int, ...]
    method: str  # "every coordinate", "8 directions" or what is wrong with the gradient's form
    relative_error: float
    worst: tuple[int, ...]  # index of the coordinate that disagrees most
    analytic: float  # the backward's derivative there
    numeric: float  # the numerical one
    verdict: str  # "OK", "WRONG" or "CANNOT TELL"
    reason: str = ""  # in words, unless OK
    gradient: Any = field(default=None, repr=False, compare=False)  # the backward's, whole
    numeric_gradient: Any = field(default=None, repr=False, compare=False)  # where each was tried

    @property
    def ok(self) -> bool:
        """Whether the verdict is OK."""
        return self.verdict == OK

    def as_dict(self) -> dict[str, Any]:
        """What can be written as JSON: everything except the arrays -> dict."""
        fields = {name: value for name, value in vars(self).items() if "gradient" not in name}
        return fields | {"ok": self.ok}


@dataclass(frozen=True, repr=False)
class Report:
    """A gradcheck's outcome: true if every gradient is OK; prints as a table, a line a tensor."""

    rows: list[Row]
    tolerance: float = 1e-6

    @property
    def ok(self) -> bool:
        """Whether every tensor's verdict is OK."""
        return all(row.ok for row in self.rows)

    @property
    def max_relative_error(self) -> float:
        """The largest relative error over all tensors."""
        return max(row.relative_error for row in self.rows)

    @property
    def worst(self) -> Row:
        """The row that matters most: the largest error among the WRONG, else among the others."""
        order = {OK: 0, CANNOT_TELL: 1, WRONG: 2}
        return max(self.rows, key=lambda row: (order[row.verdict], row.relative_error))

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        lines = [f"{'tensor':<26} {'shape':<14} {'checked by':<17} {'rel. error':>10}"]
        for r in self.rows:
            line = f"{r.name:<26} {_shape(r):<14} {r.method:<17} {r.relative_error:>10.1e}"
            lines.append(f"{line}  {r.verdict}" + (f": {r.reason}" if r.reason else ""))
        return "\n".join(lines)

    def to_markdown(self) -> str:
        """The same table in Markdown, to paste into an issue or a report."""
        lines = ["| tensor | shape | checked by | rel. error | verdict |", "|---|---|---|---:|---|"]
        for r in self.rows:
            verdict = r.verdict + (f": {r.reason}" if r.reason else "")
            cells = (r.name, _shape(r), r.method, f"{r.relative_error:.1e}", verdict)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        return "\n".join(lines)


def _shape(row: Row) -> str:
    return "×".join(map(str, row.shape)) or "scalar"


def gradcheck(
    forward: Callable[..., tuple[Any, Any]],
    backward: Callable[[Any, Any], Any],
    inputs: Sequence[Array],
    *,
    names: Sequence[str] | None = None,
    tolerance: float = 1e-6,
    coordinates: int = 4096,
    nondegenerate: bool = False,
    seed: int = 0,
) -> Report:
    """Compare backward with numerical derivatives of forward -> Report (.ok, .worst, .rows).

    forward(*inputs) -> (y, cache), y one array or a tuple of arrays; backward(dy, cache) -> a tuple
    with one gradient per input (or the one gradient itself), None for integer inputs, which are
    held fixed. Floating inputs must be float64 arrays. names: one for each input.

    The derivative checked is that of Σ y·dy for one random dy: at every coordinate of a tensor with
    at most `coordinates` elements, else along random directions and, where those disagree, at
    coordinates that are closed in on. A coordinate's error is |analytic − numeric| over
    max(|analytic|, |numeric|, noise of y over the step / tolerance) and must be at most
    `tolerance`. Three verdicts, of which only OK is `.ok`:

    OK            agrees, or both are zero as nearly as float64 can show
    WRONG         differs by more than the numerical derivative is estimated to be off
    CANNOT TELL   y is too noisy, or x sits on a corner, where left and right slopes differ

    WRONG, too: a gradient of another shape, complex or not finite; one that is not linear in dy;
    one that another run of forward and backward does not repeat; with nondegenerate=True, an input
    that y does not depend on, so that a constant forward with a zero backward does not pass.

    Raises TypeError or ValueError for what cannot be checked: other inputs, a forward that is not
    deterministic or returns integers or complex numbers, a forward or backward that changes an
    input in place (its own cache and dy a backward may overwrite), options out of range. seed: of
    the random dy and directions.

    >>> report = mm.gradcheck(mm.layers.gelu_forward, mm.layers.gelu_backward, [np.ones(3)])
    >>> report.ok, report.worst.method
    (True, 'every coordinate')
    """
    originals, names = _check_arguments(inputs, names, tolerance, coordinates)
    rng = np.random.default_rng([_STREAM, check_count("seed", seed, 0)])
    y, dy, gradients, complaints = _run(forward, backward, originals, names, rng)
    rows = []
    for i, (name, x, g) in enumerate(zip(names, originals, gradients)):
        if x.dtype.kind != "f":
            continue
        lines = lines_of(forward, originals, i, y, dy)
        row = _misshapen(name, x, g, lines, coordinates)
        if row is None:
            row = _check_tensor(name, x, to_numpy(g), lines, rng, tolerance, coordinates)
            if nondegenerate and row.ok and not _depends(lines, x, rng):
                row = _wrong(row, "y does not depend on it")
            if complaints[i]:
                row = _wrong(row, complaints[i])
        rows.append(row)
    return Report(rows, tolerance)


def check_objective(objective: Loss, seed: int = 0) -> Report:
    """gradcheck of an objective, (logits, targets) -> (loss, dlogits) -> Report.

    On random logits (2,4,6), drawn from `seed`, with an ignored target.
    """
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((2, 4, 6))
    targets = rng.integers(0, 6, (2, 4))
    targets[0, 1] = -1

    def forward(logits):
        return objective(logits, targets)

    def backward(dy, dlogits):
        return (dy * dlogits,)

    return gradcheck(forward, backward, [logits], names=["logits"], seed=seed)


# ---- running the pair, and its manners -----------------------------------------------------------


def _check_arguments(inputs, names, tolerance, coordinates):
    inputs = list(inputs)
    names = list(names) if names is not None else [f"input {i}" for i in range(len(inputs))]
    if len(names) != len(inputs):
        raise ValueError(f"names must have one name per input, got {len(names)} for {len(inputs)}")
    check_number("tolerance", tolerance)
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be above 0 and below 1, got {tolerance}")
    check_count("coordinates", coordinates)
    for name, x in zip(names, inputs):
        if not hasattr(x, "dtype"):
            raise TypeError(f"gradcheck needs arrays, but {name} is a {type(x).__name__}")
        if x.dtype.kind not in "fiub":
            raise TypeError(f"gradcheck needs real numbers, but {name} is {x.dtype}")
        if x.dtype.kind == "f" and x.dtype != np.float64:
            raise TypeError(
                f"gradcheck needs float64 (float32 rounds too coarsely), but {name} is {x.dtype}"
            )
    if not any(x.dtype.kind == "f" for x in inputs):
        raise ValueError("gradcheck needs at least one float64 input, got none")
    return inputs, names


def _run(forward, backward, originals, names, rng):
    """-> y, dy (lists of arrays), the gradients, and for each of them what is wrong or ""."""
    y, _, _ = _call_forward(forward, originals, names)
    again, _, _ = _call_forward(forward, originals, names)
    if not all(_equal(a, b) for a, b in zip(y, again)):
        raise ValueError(
            "forward is not deterministic: two calls on the same inputs differ (seed its random "
            "numbers)"
        )

    def gradients_of(dy):
        return _call_backward(forward, backward, originals, names, dy)

    dy = [array_module(a).asarray(rng.standard_normal(a.shape)) for a in y]
    other = [array_module(a).asarray(rng.standard_normal(a.shape)) for a in y]
    first, repeated = gradients_of(dy), gradients_of(dy)
    of_other = gradients_of(other)
    # asarray: NumPy makes numbers of what arrays without axes are added to
    sums = [array_module(a).asarray(a + b) for a, b in zip(dy, other)]
    differences = [array_module(a).asarray(a - b) for a, b in zip(dy, other)]
    of_sum, of_difference = gradients_of(sums), gradients_of(differences)
    rounding = [1e-13 * natural_slope(y, dy, x) for x in originals]
    runs = zip(first, repeated, of_other, of_sum, of_difference)
    complaints = [_complaint(*g, allowed) for g, allowed in zip(runs, rounding)]
    return y, dy, first, complaints


def _call_forward(forward, originals, names):
    """-> y as a list of arrays, the cache, and whether y was a tuple. Inputs are copies."""
    inputs = [x.copy() for x in originals]
    returned = forward(*inputs)
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise ValueError("forward must return (y, cache)")
    _check_unchanged("forward", inputs, originals, names)
    y = outputs(returned[0])
    for a in y:
        if a.dtype.kind != "f":
            raise TypeError(f"forward must return real floating-point numbers, got {a.dtype}")
    return y, (returned[1], inputs), isinstance(returned[0], (tuple, list))


def _call_backward(forward, backward, originals, names, dy):
    """A fresh forward, then backward on copies of dy -> its gradients, copied."""
    _, (cache, inputs), is_tuple = _call_forward(forward, originals, names)
    copies = tuple(d.copy() for d in dy)  # backward may overwrite what it is given
    gradients = _as_tuple(backward(copies if is_tuple else copies[0], cache))
    _check_unchanged("backward", inputs, originals, names)
    if len(gradients) != len(originals):
        raise ValueError(
            f"backward must return one gradient per input, {len(originals)} in all, got "
            f"{len(gradients)}"
        )
    for name, g in zip(names, gradients):
        if g is not None and not np.isscalar(g) and not hasattr(g, "dtype"):
            raise TypeError(f"backward must return arrays, but {name} got a {type(g).__name__}")
    return [None if g is None else np.asarray(g) if np.isscalar(g) else g.copy() for g in gradients]


def _check_unchanged(what, inputs, originals, names):
    for name, x, original in zip(names, inputs, originals):
        if not _equal(x, original):
            raise ValueError(f"{what} changes its {name} in place")


def _complaint(g, repeated, of_other, of_sum, of_difference, rounding):
    """What is wrong with the gradients of dy, of dy again, of another dy, and of the sum and the
    difference of both, or "". rounding: what a gradient that is exactly zero may come out as."""
    found = [g, repeated, of_other, of_sum, of_difference]
    if any(a is None for a in found) or len({(a.shape, a.dtype.kind) for a in found}) > 1:
        return ""
    g, repeated, of_other, of_sum, of_difference = (to_numpy(a) for a in found)
    if g.dtype.kind != "f" or not all(np.isfinite(to_numpy(a)).all() for a in found):
        return ""
    if not np.array_equal(g, repeated):
        return "a second run of forward and backward returns another gradient"
    if (np.abs(g) > rounding).any() and np.array_equal(g, of_other):
        return "does not depend on dy"
    size = np.abs(g) + np.abs(of_other)
    allowed = 1e-9 * size + 1e-12 * size.max(initial=0) + rounding
    for combined, expected in ((of_sum, g + of_other), (of_difference, g - of_other)):
        if (np.abs(combined - expected) > allowed).any():
            return "is not linear in dy"
    return ""


def _misshapen(name, x, g, lines, coordinates):
    """The row of a gradient that cannot be compared with its input, or None."""
    reason, nan = "", math.nan
    if g is None:
        got = "no gradient"
    elif g.shape != x.shape:
        got, reason = f"shape {g.shape}", f"{name} has shape {x.shape}"
    elif g.dtype.kind != "f":
        got = f"{g.dtype}"
    else:
        return None
    numeric = None if x.size > coordinates else _quick_gradient(lines, x)
    g = None if g is None else to_numpy(g)
    method = f"returned {got}"
    return Row(name, x.shape, method, math.inf, (), nan, nan, WRONG, reason, g, numeric)


def _quick_gradient(lines, x):
    """The numerical derivative at every coordinate, from one step length each."""
    t = Tensor(None, lines, to_numpy(x), size_of(x), 0.0, 0.0, 0.0)
    slopes = [quick_slope(lines, unit(t, k), size_at(t, k), 0.0).value for k in range(x.size)]
    return np.array(slopes, float).reshape(x.shape)


def _as_tuple(y):
    return tuple(y) if isinstance(y, (tuple, list)) else (y,)


def _equal(a, b):
    if a.shape != b.shape:
        return False
    return bool(((a == b) | ((a != a) & (b != b))).all())  # NaN equals NaN here


# ---- verdicts ------------------------------------------------------------------------------------


def _check_tensor(name, x, g, lines, rng, tolerance, coordinates):
    """The Row of an input x whose gradient should be g (NumPy, of x's shape)."""
    host = to_numpy(x)
    if x.size == 0:
        return Row(name, x.shape, "every coordinate", 0.0, (), math.nan, math.nan, OK)
    rms = size_of(host)
    spread = np.where(host == 0, rms, np.abs(host))
    noise = noise_of(lines, spread * rng.standard_normal(x.shape))
    negligible = negligible_error(g, lines, x, tolerance)
    tensor = Tensor(g, lines, host, rms, noise, tolerance, negligible)
    chosen, method, found = np.arange(x.size), "every coordinate", []
    if x.size > coordinates:
        blocks = min(MAX_BLOCKS, math.ceil(x.size / coordinates))
        method = f"{blocks * DIRECTIONS} directions"
        found = along_directions(tensor, blocks, rng)
        chosen = suspects(tensor, found, rng)
    at, of_coordinates, tried = worst_coordinate(tensor, chosen)
    worst = max([*found, of_coordinates], key=badness)
    shown = of_coordinates if of_coordinates.verdict == worst.verdict else worst
    index = tuple(int(n) for n in np.unravel_index(at, x.shape)) if shown is of_coordinates else ()
    reason = f"at {list(index)} {shown.reason}" if index and shown.reason else shown.reason
    error = max(f.relative_error for f in (worst, shown))
    numeric = tried.reshape(x.shape) if len(tried) == x.size else None
    found = (index, shown.analytic, shown.numeric, shown.verdict, reason, g, numeric)
    return Row(name, x.shape, method, error, *found)


def _depends(lines, x, rng):
    """Whether y changes at all when x does."""
    for _ in range(3):
        direction = rng.standard_normal(x.shape)
        moved = lines.move(direction, 0.1 * size_of(x))
        if any(not _equal(a, b) for a, b in zip(moved, lines.y)):
            return True
    return False


def _wrong(row, reason):
    """The row, WRONG for one more reason."""
    if row.verdict == WRONG:
        return replace(row, reason=f"{row.reason}; {reason}")
    return replace(row, verdict=WRONG, reason=reason, relative_error=math.inf)
