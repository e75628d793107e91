"""Keys and values of a past: how attention reads them, and how a past grows.

A past is what attention keeps of positions that have been computed: a KV a layer. One row of a past
may serve G consecutive rows of a batch, as a prefix does its children: B = rows · G. The G rows are
then *folded*, that is, their queries stand side by side, (B,H,T,X) -> (rows,H,G·T,X), so that one
product serves them all, and in the backward pass sums their derivatives.

Shapes: B batch, H heads, T new positions, P past ones, D channels of a head.
"""

from typing import NamedTuple

from .backend import array_module
from .storage.shapes import Array, Float


class KV(NamedTuple):
    """Keys and values of some positions: each (B,H,T,D)."""

    k: Float[Array, "B H T D"]
    v: Float[Array, "B H T D"]


# ---- attention to a past -------------------------------------------------------------------------


def _transpose(x: Array) -> Array:
    return x.swapaxes(-1, -2)


def _fold(x: Float[Array, "B H T X"], rows: int) -> Float[Array, "{rows} H GT X"]:
    """(rows·G,H,T,X) -> (rows,H,G·T,X)."""
    B, H, T, X = x.shape
    return x.reshape(rows, B // rows, H, T, X).swapaxes(1, 2).reshape(rows, H, -1, X)


def _unfold(x: Float[Array, "R H GT X"], batch: int) -> Float[Array, "{batch} H T X"]:
    """The reverse: (rows,H,G·T,X) -> (batch,H,T,X), batch = rows·G."""
    rows, H, _, X = x.shape
    return x.reshape(rows, H, batch // rows, -1, X).swapaxes(1, 2).reshape(batch, H, -1, X)


def past_scores_forward(q: Float[Array, "B H T D"], past: KV) -> Float[Array, "B H P T"]:
    """Scores of the past keys: q (B,H,T,D), past of P positions -> scores (B,H,P,T) = k qᵀ."""
    rows = len(past.k)
    scores = _fold(q, rows) @ _transpose(past.k)  # (rows,H,G·T,P)
    return _transpose(_unfold(scores, len(q)))


def past_scores_backward(
    dscores: Float[Array, "B H P T"], q: Float[Array, "B H T D"], past: KV
) -> tuple[Float[Array, "B H T D"], Float[Array, "R H P D"]]:
    """dscores (B,H,P,T) -> dq (B,H,T,D), dk (rows,H,P,D), a sum over the rows that share a past.

    q (B,H,T,D) and past are those of past_scores_forward.
    """
    rows = len(past.k)
    dscores = _fold(_transpose(dscores), rows)
    dq = _unfold(dscores @ past.k, len(q))
    dk = _transpose(dscores) @ _fold(q, rows)
    return dq, dk


def past_values_forward(probs: Float[Array, "B H P T"], past: KV) -> Float[Array, "B H T D"]:
    """What the past values add to y: probs (B,H,P,T) -> (B,H,T,D) = pᵀ v."""
    rows = len(past.v)
    return _unfold(_fold(_transpose(probs), rows) @ past.v, len(probs))


def past_values_backward(
    dy: Float[Array, "B H T D"], probs: Float[Array, "B H P T"], past: KV
) -> tuple[Float[Array, "B H P T"], Float[Array, "R H P D"]]:
    """dy (B,H,T,D) -> dprobs (B,H,P,T), dv (rows,H,P,D), summed over the rows that share a past.

    probs (B,H,P,T) and past are those of past_values_forward.
    """
    rows = len(past.v)
    dv = _transpose(_fold(_transpose(probs), rows)) @ _fold(dy, rows)
    dprobs = _unfold(_fold(dy, rows) @ _transpose(past.v), len(probs))
    return _transpose(dprobs), dv


# ---- a past that grows ---------------------------------------------------------------------------


class GrowingKV(KV):
    """A KV that is the beginning of longer arrays, its `room`: a next token copies nothing."""

    room: "Room | None" = None


class Room:
    """Keys and values with space behind the first `used` positions.

    Only the KV that ends there grows in place; extending another one copies, so that the same past
    can be extended twice. Room(past, batch, capacity) begins with a copy of `past` for `batch`
    rows, in arrays of `capacity` positions.
    """

    def __init__(self, past: KV, batch: int, capacity: int) -> None:
        xp = array_module(past.k)
        rows, H, P, D = past.k.shape
        self.k = xp.empty((batch, H, capacity, D), past.k.dtype)
        self.v = xp.empty((batch, H, capacity, D), past.k.dtype)
        for room, old in ((self.k, past.k), (self.v, past.v)):
            served = room.reshape(rows, -1, H, capacity, D)  # a row of past, the rows it serves
            served[:, :, :, :P] = old[:, None]
        self.used = P


def extend_kv(past: KV | None, k: Float[Array, "B H T D"], v: Float[Array, "B H T D"]) -> KV:
    """past (KV of rows, or None) followed by k, v (B,H,T,D) -> KV (B,H,P+T,D).

    Each row of past comes before the G = B/rows rows of k and v that it serves.
    """
    if past is None:
        return KV(k, v)
    rows, _, P, _ = past.k.shape
    B, _, T, _ = k.shape
    end = P + T
    room = getattr(past, "room", None)
    if room is None or rows != B or room.used != P or end > room.k.shape[2]:
        room = Room(past, B, end if rows != B else 2 * end)
    room.k[:, :, P:end] = k
    room.v[:, :, P:end] = v
    room.used = end
    present = GrowingKV(room.k[:, :, :end], room.v[:, :, :end])
    present.room = room
    return present


def extend_kv_backward(dpresent: KV | None, past: KV | None, T: int) -> tuple[KV | None, KV | None]:
    """dpresent (KV (B,H,P+T,D), or None for zero) -> dpast (KV of past's shape), dkv (B,H,T,D).

    A row of past that served G rows gets the sum of theirs. dpast is None without a past, and both
    are None where dpresent is.
    """
    if dpresent is None:
        return None, None
    dkv = KV(*(d[:, :, -T:] for d in dpresent))
    if past is None:
        return None, dkv
    rows = len(past.k)
    old = (d[:, :, :-T] for d in dpresent)
    return KV(*(d.reshape(rows, -1, *d.shape[1:]).sum(axis=1) for d in old)), dkv


def add_kv(a: KV | None, b: KV | None) -> KV | None:
    """a + b, where None is zero."""
    if a is None or b is None:
        return a if b is None else b
    return KV(a.k + b.k, a.v + b.v)


def num_positions(past: list[KV] | None) -> int:
    """How many positions a past (a list with one KV a layer, or None) holds."""
    return past[0].k.shape[2] if past else 0
