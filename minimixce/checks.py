"""Gradient checking: numerical derivatives against a backward function.

`gradcheck` takes any pair of functions in the form of layers.py; `check_everything` runs it on
every layer, every objective and whole models, which is what `minimixce gradcheck` prints.
"""

from dataclasses import dataclass

import numpy as np

from .backend import array_module, to_numpy


@dataclass(frozen=True)
class Row:
    """What was found for one input tensor."""

    name: str
    shape: tuple
    method: str  # "every coordinate", "3 directions" or what is wrong with the gradient's shape
    relative_error: float
    worst: tuple  # index of the coordinate that disagrees most
    analytic: float  # the backward's derivative there
    numeric: float  # the numerical one
    ok: bool


@dataclass(frozen=True, repr=False)
class Report:
    """A gradcheck's outcome: true if every gradient is right; print it for a table, one line a
    tensor.
    """

    rows: list
    tolerance: float = 1e-6

    @property
    def ok(self):
        """Whether every tensor's error is within the tolerance."""
        return all(row.ok for row in self.rows)

    @property
    def max_relative_error(self):
        """The largest relative error over all tensors."""
        return max(row.relative_error for row in self.rows)

    @property
    def worst(self):
        """The row of the tensor with the largest relative error."""
        return max(self.rows, key=lambda row: row.relative_error)

    def __bool__(self):
        return self.ok

    def __repr__(self):
        return str(self)

    def __str__(self):
        lines = [f"{'tensor':<26} {'shape':<14} {'checked by':<17} {'rel. error':>10}"]
        for r in self.rows:
            line = (
                f"{r.name:<26} {'×'.join(map(str, r.shape)) or 'scalar':<14} {r.method:<17}"
                f" {r.relative_error:>10.1e}"
            )
            if r.ok:
                lines.append(f"{line}  OK")
            elif not r.worst and r.shape:
                lines.append(f"{line}  WRONG")
            else:
                lines.append(
                    f"{line}  WRONG: at {list(r.worst)} backward says {r.analytic:.4g}, the numbers"
                    f" say {r.numeric:.4g}"
                )
        return "\n".join(lines)


def gradcheck(
    forward, backward, inputs, *, names=None, tolerance=1e-6, floor=1e-4, coordinates=64, seed=0
):
    """Compare backward with numerical derivatives of forward -> Report (.ok, .max_relative_error,
    .worst).

    forward(*inputs) -> (y, cache), y one array or a tuple of arrays; backward(dy, cache) -> a tuple
    with one gradient per input (or the one gradient itself), None for integer inputs, which are
    held fixed. Floating inputs must be float64.

    The derivative checked is that of Σ y·dy for one random dy: central differences of fourth order,
    at every coordinate of a tensor with at most `coordinates` elements, else along random
    directions (a wrong gradient is almost surely wrong along each), and then at coordinates too if
    they disagree, to name the worst. Per tensor the error is max|analytic − numeric| /
    max(max|analytic|, max|numeric|, floor); the floor lets gradients that are exactly zero pass.
    Raises TypeError or ValueError for inputs that cannot be checked, or a forward that changes its
    inputs or is not deterministic.
    """
    inputs = list(inputs)
    names = list(names) if names is not None else [f"input {i}" for i in range(len(inputs))]
    if len(names) != len(inputs):
        raise ValueError(f"names must have one name per input, got {len(names)} for {len(inputs)}")
    for name, x in zip(names, inputs):
        if not hasattr(x, "dtype"):
            raise TypeError(f"gradcheck needs arrays, but {name} is a {type(x).__name__}")
        if x.dtype.kind == "f" and x.dtype != np.float64:
            raise TypeError(
                f"gradcheck needs float64 (float32 rounds too coarsely), but {name} is {x.dtype}"
            )
    if not any(x.dtype.kind == "f" for x in inputs):
        raise ValueError("gradcheck needs at least one float64 input, got none")
    rng = np.random.default_rng(seed)
    originals = inputs
    inputs = [x.copy() for x in originals]

    returned = forward(*inputs)
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise ValueError("forward must return (y, cache)")
    returned, cache = returned
    y = [np.asarray(a) if np.isscalar(a) else a.copy() for a in _as_tuple(returned)]
    dy = [array_module(a).asarray(rng.standard_normal(a.shape)) for a in y]
    for name, x, original in zip(names, inputs, originals):
        if not _equal(x, original):
            raise ValueError(f"forward changes its {name} in place")
    again = _as_tuple(forward(*inputs)[0])
    if not all(_equal(a, b) for a, b in zip(y, again)):
        raise ValueError(
            "forward is not deterministic: two calls on the same inputs differ (seed its random"
            " numbers)"
        )
    copies = tuple(d.copy() for d in dy)  # backward may overwrite what it is given
    gradients = backward(copies if isinstance(returned, (tuple, list)) else copies[0], cache)
    gradients = _as_tuple(gradients)
    if len(gradients) != len(inputs):
        raise ValueError(
            f"backward must return one gradient per input, {len(inputs)} in all, got"
            f" {len(gradients)}"
        )
    gradients = [None if g is None else g.copy() for g in gradients]
    inputs = [x.copy() for x in originals]  # backward may have overwritten a cached input

    def slope(i, direction):
        """d/ds Σ dy·y(inputs[i] + s·direction) at s = 0; differences are taken element by element,
        before they cancel.
        """
        x, total = inputs[i], 0.0
        step = 3e-5
        for s, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
            inputs[i] = x + s * step * direction
            moved = _as_tuple(forward(*inputs)[0])
            total += weight * sum(float(((a - b) * d).sum()) for a, b, d in zip(moved, y, dy))
        inputs[i] = x
        return total / (12 * step)

    rows = []
    for i, (name, x, g) in enumerate(zip(names, inputs, gradients)):
        if x.dtype.kind != "f":
            continue
        rows.append(
            _check_tensor(
                name, x, g, lambda d, i=i: slope(i, d), rng, tolerance, floor, coordinates
            )
        )
    return Report(rows, tolerance)


def _check_tensor(name, x, g, slope, rng, tolerance, floor, coordinates):
    if g is None or g.shape != x.shape:
        got = "no gradient" if g is None else f"shape {g.shape}"
        return Row(
            name, x.shape, f"returned {got}", float("inf"), (), float("nan"), float("nan"), False
        )
    xp, g = array_module(x), to_numpy(g)

    def compare(directions):
        """Relative error over directions; for each: analytic, numeric, their difference."""
        analytic, numeric = [], []
        for d in directions:
            touched = d != 0  # a NaN elsewhere in g is not this direction's
            analytic.append((g[touched] * d[touched]).sum())
            numeric.append(slope(xp.asarray(d)))
        analytic, numeric = np.array(analytic), np.array(numeric)
        error = np.abs(analytic - numeric)
        error[~np.isfinite(error)] = np.inf
        size = max(np.abs(analytic).max(initial=0), np.abs(numeric).max(initial=0), floor)
        relative = error.max(initial=0) / size if np.isfinite(error).all() else np.inf
        return float(relative), analytic, numeric, error

    def signs(chosen):
        """A random direction of ±1 at the chosen coordinates."""
        direction = np.zeros(x.size)
        direction[chosen] = rng.choice([-1.0, 1.0], len(chosen))
        return direction.reshape(x.shape)

    relative, method, chosen = 0.0, "every coordinate", np.arange(x.size)
    if x.size > coordinates:
        method = "3 directions"
        relative, *_ = compare(signs(chosen) for _ in range(3))
        if relative <= tolerance:
            chosen = np.abs(g).argmax(keepdims=True).reshape(-1)
        # close in on the coordinate that is wrong: keep the half that disagrees more
        while len(chosen) > coordinates:
            chosen = max(np.array_split(chosen, 2), key=lambda half: compare([signs(half)])[3][0])
    per_coordinate, analytic, numeric, error = compare(np.abs(signs([k])) for k in chosen)
    relative = max(relative, per_coordinate)
    if not len(chosen):
        return Row(
            name, x.shape, method, relative, (), float("nan"), float("nan"), relative <= tolerance
        )
    k = int(error.argmax())
    worst = tuple(int(n) for n in np.unravel_index(chosen[k], x.shape))
    return Row(
        name,
        x.shape,
        method,
        relative,
        worst,
        float(analytic[k]),
        float(numeric[k]),
        relative <= tolerance,
    )


def _as_tuple(y):
    return tuple(y) if isinstance(y, (tuple, list)) else (y,)


def _equal(a, b):
    return bool(((a == b) | ((a != a) & (b != b))).all())  # NaN equals NaN here


def check_objective(objective, seed=0):
    """Gradient-check an objective, (logits, targets) -> (loss, dlogits), on random logits with an
    ignored target.
    """
    rng = np.random.default_rng(seed)
    logits, targets = 2 * rng.standard_normal((2, 4, 6)), rng.integers(0, 6, (2, 4))
    targets[0, 1] = -1
    return gradcheck(
        lambda z: objective(z, targets),
        lambda dy, dlogits: (dy * dlogits,),
        [logits],
        names=["logits"],
        seed=seed,
    )
