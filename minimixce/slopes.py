"""Numerical derivatives that know how far off they may be, and what they decide.

A numerical derivative is off by two things. Truncation: a step h that is too long sees the
function's curvature. Noise: y is rounded, and the rounding is divided by h when h is too short. So
each derivative comes with an estimate of its own error, from steps of several lengths and from the
measured noise of y; and where the slopes on the two sides differ, it says so.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .backend import array_module, to_numpy
from .storage.shapes import Array

_FIRST_STEP = 1e-3  # relative to x: the step that is tried first, and suffices for smooth functions
_STEPS = [10.0**-k for k in range(1, 10)]  # those that are tried where it does not
_NOISE_STEP = 1e-7  # relative to x: so short that what is left of y's third differences is noise
_NOISE_MARGIN = 8  # by which noise measured at a few points is taken to be larger elsewhere
_X_ROUNDING = 1e-15  # how far x ± h is from where it should be, relative to x; a few eps
# From a step length to a fifth of it, a kink's error falls to a quarter of the difference of the
# two slopes, or less, and that of curvature to a hundredth: this share is no less than both.
_TRUNCATION_SHARE = 1 / 4
_VISIBLE_GAP = 40  # times the noise: what must lie between two sides before they count as different


class Slope(NamedTuple):
    """A numerical derivative, what it may be off by, and the slopes on the two sides."""

    value: float
    error: float
    left: float
    right: float
    corner: bool  # the sides differ, however short the step


class Lines(NamedTuple):
    """What derivatives of L = Σ y·dy in one input are made of."""

    move: Callable[[Array, float], list[Array]]  # (direction, s) -> y at x + s·direction
    y: list[Array]
    dy: list[Array]


def lines_of(
    forward: Callable[..., tuple[Any, Any]],
    originals: Sequence[Array],
    i: int,
    y: list[Array],
    dy: list[Array],
) -> Lines:
    """The Lines of input number i; y is what forward returns at the originals, dy like y."""
    inputs = [x.copy() for x in originals]

    def move(direction, s):
        xp = array_module(originals[i])
        inputs[i] = xp.asarray(originals[i] + s * xp.asarray(direction))
        try:
            with np.errstate(all="ignore"):
                return outputs(forward(*inputs)[0])
        except (ArithmeticError, ValueError):  # a long step may leave a logarithm's domain
            return [array_module(a).full_like(a, math.nan) for a in y]

    return Lines(move, y, dy)


def outputs(y: Any) -> list[Array]:
    """What a forward returns as y -> a list of arrays of its own."""
    y = y if isinstance(y, (tuple, list)) else (y,)
    return [np.asarray(a) if np.isscalar(a) else a.copy() for a in y]


def _change(lines: Lines, a: list[Array], b: list[Array]) -> float:
    """Σ (a − b)·dy; the difference is taken element by element, before large sums could cancel."""
    return sum(float(((u - v) * d).sum()) for u, v, d in zip(a, b, lines.dy))


class _Try(NamedTuple):
    """Differences of one step length h."""

    h: float
    second: float  # central, off by O(h²)
    fourth: float  # central, off by O(h⁴)
    left: float
    right: float


def _try(lines: Lines, direction: Array, h: float) -> _Try:
    up, down = lines.move(direction, h), lines.move(direction, -h)
    up2, down2 = lines.move(direction, 2 * h), lines.move(direction, -2 * h)
    near, far = _change(lines, up, down), _change(lines, up2, down2)
    right = (4 * _change(lines, up, lines.y) - _change(lines, up2, lines.y)) / (2 * h)
    left = -(4 * _change(lines, down, lines.y) - _change(lines, down2, lines.y)) / (2 * h)
    return _Try(h, near / (2 * h), (8 * near - far) / (12 * h), left, right)


def noise_of(lines: Lines, direction: Array) -> float:
    """What rounding makes of L: third differences of y at tiny steps along `direction`.

    At least the rounding of y itself. lines: the Lines of the input that is moved.
    """
    points = [lines.move(direction, k * _NOISE_STEP) for k in range(8)]
    total = 0.0
    for k, (y, dy) in enumerate(zip(lines.y, lines.dy)):
        values = [to_numpy(p[k]).astype(float) for p in points]
        third = np.diff(np.array(values), n=3, axis=0) / math.sqrt(20)
        measured = np.sqrt(np.square(third).mean(axis=0))
        rounding = np.finfo(y.dtype).eps * np.abs(to_numpy(y))
        both = np.maximum(np.where(np.isfinite(measured), measured, 0), rounding)
        total += float(np.square(both * to_numpy(dy)).sum())
    return _NOISE_MARGIN * math.sqrt(total)


def quick_slope(lines: Lines, direction: Array, size: float, noise: float) -> Slope:
    """The slope along `direction` from one step length -> Slope.

    lines: the Lines of the input; size: of x, which steps are relative to; noise: of L, by
    noise_of.
    """
    t = _try(lines, direction, _FIRST_STEP * size)
    error = abs(t.fourth - t.second) + 2 * noise / t.h
    return Slope(t.fourth, error if math.isfinite(error) else math.inf, t.left, t.right, False)


def careful_slope(lines: Lines, direction: Array, sizes: set[float], noise: float) -> Slope:
    """The slope along `direction` from steps of many lengths: the one whose error is least.

    Steps are relative to each of `sizes`: that of the whole x and, where one coordinate moves, its
    own.

    A step is too long where the next longer one finds something else, or where a shorter one does
    by more than its own rounding: between them lies a kink, or much curvature. The shortest is not
    believed, since nothing shorter confirms it. lines and noise: as for quick_slope.
    """
    steps = sorted({h * size for h in _STEPS for size in sizes}, reverse=True)
    tries = [t for t in (_try(lines, direction, h) for h in steps) if _is_finite(t)]
    of_x = _X_ROUNDING * min(sizes)
    rounding = [(2 * noise + abs(t.fourth) * of_x) / t.h for t in tries]
    best = Slope(math.nan, math.inf, math.nan, math.nan, False)
    for k, t in enumerate(tries[:-1]):
        longer = [u for u in tries[:k] if u.h > 5 * t.h]  # two of one length agree in their error
        if not longer:
            continue
        truncation = abs(t.fourth - longer[-1].fourth) * _TRUNCATION_SHARE
        for shorter, allowed in zip(tries[k + 1 :], rounding[k + 1 :]):
            gap = abs(t.fourth - shorter.fourth)
            if gap > allowed:  # the shorter may still be off by as much
                truncation = max(truncation, 2 * gap)
        error = truncation + rounding[k]
        if error < best.error:
            best = Slope(t.fourth, error, t.left, t.right, False)
    return best._replace(**_corner(tries, noise))


def _corner(tries: list[_Try], noise: float) -> dict[str, Any]:
    """Whether the sides still differ at the shortest steps that noise lets see -> fields of Slope.

    The gap of a smooth function shrinks with h², that of a corner stays.
    """
    seen = [t for t in tries if abs(t.right - t.left) > _VISIBLE_GAP * noise / t.h]
    if len(seen) < 3:
        return {"corner": False}
    gaps = [abs(t.right - t.left) for t in seen[-3:]]
    corner = 0.5 < gaps[2] / gaps[1] < 2 and 0.5 < gaps[1] / gaps[0] < 2
    return {"corner": corner, "left": seen[-1].left, "right": seen[-1].right}


def _is_finite(t: _Try) -> bool:
    return all(map(math.isfinite, t))


# ---- verdicts ------------------------------------------------------------------------------------

OK, WRONG, CANNOT_TELL = "OK", "WRONG", "CANNOT TELL"


class Found(NamedTuple):
    """A derivative by both ways, and what is to be said of it."""

    analytic: float
    numeric: float
    relative_error: float
    verdict: str
    reason: str


def judge(analytic: float, slope: Slope, tolerance: float, negligible: float) -> Found:
    """What a derivative by both ways amounts to -> Found.

    negligible: the largest uncertainty of the numerical one that still counts as OK. analytic: the
    backward's derivative; slope: the numerical one, with its error; tolerance: gradcheck's.
    """
    if not math.isfinite(analytic):
        return Found(analytic, slope.value, math.inf, WRONG, f"backward says {analytic}")
    if not math.isfinite(slope.value):
        return Found(analytic, slope.value, math.inf, CANNOT_TELL, "forward is not finite near x")
    difference, size = abs(analytic - slope.value), max(abs(analytic), abs(slope.value))
    error = difference / size if size else 0.0
    if error <= tolerance:
        return Found(analytic, slope.value, error, OK, "")
    if slope.corner:
        low, high = sorted((slope.left, slope.right))
        slack = tolerance * size + slope.error
        if low - slack <= analytic <= high + slack:
            reason = (
                f"a corner: slopes {slope.left:.4g} on the left, {slope.right:.4g} on the right"
            )
            return Found(analytic, slope.value, error, CANNOT_TELL, reason)
    elif difference <= slope.error + tolerance * size:
        if slope.error <= negligible:
            error = difference / max(size, slope.error / tolerance)
            return Found(analytic, slope.value, error, OK, "")
        reason = (
            f"noise: the numbers say {slope.value:.4g} ± {slope.error:.1g}, backward {analytic:.4g}"
        )
        return Found(analytic, slope.value, error, CANNOT_TELL, reason)
    reason = f"backward says {analytic:.4g}, the numbers say {slope.value:.4g}"
    return Found(analytic, slope.value, error, WRONG, reason)


def size_of(x: Array) -> float:
    """The root mean square of x, or 1 where that is 0."""
    return math.sqrt(float(np.square(to_numpy(x)).sum()) / max(x.size, 1)) or 1.0


def natural_slope(y: list[Array], dy: list[Array], x: Array) -> float:
    """How much L = Σ y·dy would change with x if y changed as much as it is when x does."""
    return sum(float(np.abs(to_numpy(a * d)).sum()) for a, d in zip(y, dy)) / size_of(x)


def negligible_error(g: Array, lines: Lines, x: Array, tolerance: float) -> float:
    """The largest uncertainty of a single coordinate that still counts as OK.

    A thousandth of the tolerance, relative to the largest gradient of the tensor; or relative to
    the natural slope, as long as that is within the tolerance of the largest gradient, or the
    gradient is zero. g: the backward's gradient of the input x, whose Lines are `lines`.
    """
    largest, natural = np.abs(g).max(initial=0), natural_slope(lines.y, lines.dy, x)
    if not np.isfinite(largest):
        return 0.0
    of_natural = 1e-3 * tolerance * natural
    if largest <= 1e-14 * natural:
        return of_natural
    return max(1e-3 * tolerance * largest, min(of_natural, tolerance * largest))


class Tensor(NamedTuple):
    """What the verdict on one input is made from."""

    g: Any
    lines: Lines
    x: Any
    rms: float  # of x
    noise: float
    tolerance: float
    negligible: float


def badness(found: Found) -> tuple[int, float]:
    """What `found` is sorted by: WRONG before CANNOT TELL before OK, then the larger error."""
    order = {OK: 0, CANNOT_TELL: 1, WRONG: 2}
    return order[found.verdict], found.relative_error


def along(t: Tensor, direction: Array, size: float | None = None) -> Found:
    """The derivative along a direction: one step length first, many where that does not decide.

    t: the Tensor; size: of x along the direction, by default the whole tensor's.
    """
    size = t.rms if size is None else size
    touched = direction != 0  # a NaN elsewhere in g is not this direction's
    analytic = float((t.g[touched] * direction[touched]).sum())
    quick = quick_slope(t.lines, direction, size, t.noise)
    found = judge(analytic, quick, t.tolerance, t.negligible)
    if found.verdict == OK:
        return found
    careful = careful_slope(t.lines, direction, {size}, t.noise)
    found = judge(analytic, careful, t.tolerance, t.negligible)
    if careful.corner and found.verdict == WRONG:
        # Several corners may add up to slopes beyond those on the two sides.
        return found._replace(verdict=CANNOT_TELL, reason="corners along a random direction")
    return found


# ---- one tensor ----------------------------------------------------------------------------------

DIRECTIONS = 4  # for each block of a tensor with too many coordinates to try each
MAX_BLOCKS = 16
_CLOSE = 64  # coordinates that are tried one by one, once an error is closed in on


def along_directions(t: Tensor, blocks: Any, rng: Any) -> list[Found]:
    """What random directions find, up to the first that is wrong.

    The coordinates are dealt out at random into blocks, and a direction moves those of one block:
    beside fewer others, the error of a single coordinate shows more. t: the Tensor; blocks: how
    many; rng: a NumPy generator.
    """
    found = []
    for block in np.array_split(rng.permutation(t.x.size), blocks):
        for _ in range(DIRECTIONS):
            found.append(along(t, _random_direction(t, block, rng)))
            if found[-1].verdict == WRONG:
                return found
    return found


def _random_direction(t, chosen, rng):
    """Normal numbers at the chosen coordinates, 0 elsewhere."""
    direction = np.zeros(t.x.size)
    direction[chosen] = rng.standard_normal(len(chosen))
    return direction.reshape(t.x.shape)


def unit(t: Tensor, k: int) -> Array:
    """The direction of coordinate number k of the Tensor t: zeros and a one, of its shape."""
    direction = np.zeros(t.x.size)
    direction[k] = 1.0
    return direction.reshape(t.x.shape)


def worst_coordinate(t: Tensor, chosen: Any) -> Any:
    """-> number and Found of the chosen coordinate that is worst, all numerical derivatives.

    All are tried with one step length, and those that do not agree then more carefully, the worst
    first, until one is wrong beyond doubt. t: the Tensor; chosen: numbers of coordinates.
    """
    quick = {}
    for k in chosen:
        slope = quick_slope(t.lines, unit(t, k), size_at(t, k), t.noise)
        quick[k] = judge(float(t.g.reshape(-1)[k]), slope, t.tolerance, t.negligible)
    settled = {k: f for k, f in quick.items() if f.verdict == OK}
    for k in sorted(quick.keys() - settled.keys(), key=lambda k: -quick[k].relative_error):
        sizes = {t.rms, abs(float(t.x.reshape(-1)[k])) or t.rms}
        slope = careful_slope(t.lines, unit(t, k), sizes, t.noise)
        settled[k] = judge(float(t.g.reshape(-1)[k]), slope, t.tolerance, t.negligible)
        if settled[k].verdict == WRONG:
            break
    worst = max(settled, key=lambda k: badness(settled[k]))
    tried = quick | settled
    return int(worst), settled[worst], np.array([tried[k].numeric for k in sorted(tried)])


def size_at(t: Tensor, k: int) -> float:
    """What steps along coordinate number k of the Tensor t are relative to."""
    return max(abs(t.x.reshape(-1)[k]), t.rms)


def suspects(t: Tensor, found: Any, rng: Any) -> Array:
    """Coordinates of a large tensor to try one by one.

    Where directions disagree, those that are closed in on by halves; else that with the largest
    gradient. t: the Tensor; found: what along_directions found; rng: a NumPy generator.
    """
    largest = np.abs(t.g).argmax(keepdims=True).reshape(-1)
    if all(f.verdict == OK for f in found):
        return largest
    chosen = np.arange(t.x.size)
    while len(chosen) > _CLOSE:
        halves = np.array_split(chosen, 2)
        chosen = max(halves, key=lambda half: _disagreement(t, half, rng))
    return np.union1d(chosen, largest)


def _disagreement(t, chosen, rng):
    direction = _random_direction(t, chosen, rng)
    touched = direction != 0
    analytic = float((t.g[touched] * direction[touched]).sum())
    numeric = quick_slope(t.lines, direction, t.rms, t.noise).value
    difference = abs(analytic - numeric)
    return difference if math.isfinite(difference) else math.inf
