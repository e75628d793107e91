"""Keys and values of a past, and how a past grows."""

from typing import Any, NamedTuple

from .backend import array_module


class KV(NamedTuple):
    """Keys and values of some positions: each (B,H,T,D)."""

    k: Any
    v: Any


class GrowingKV(KV):
    """A KV that is the beginning of longer arrays, its `room`, so that a next token need not copy
    all those before it.
    """

    room = None


class Room:
    """Keys and values with space behind the first `used` positions. Only the KV that ends there
    grows in place; whoever else extends the same past gets a copy, so a past can be extended twice.
    """

    def __init__(self, past, batch, capacity):
        xp, (rows, H, P, D) = array_module(past.k), past.k.shape
        self.k, self.v = (xp.empty((batch, H, capacity, D), past.k.dtype) for _ in range(2))
        self.k[:, :, :P], self.v[:, :, :P] = (xp.repeat(x, batch // rows, axis=0) for x in past)
        self.used = P


def extend_kv(past, k, v):
    """past (KV of rows or None) followed by k, v (B,H,T,D) -> KV (B,H,P+T,D); each past row stands
    before B/rows of k.
    """
    if past is None:
        return KV(k, v)
    (rows, _, P, _), (B, _, T, _) = past.k.shape, k.shape
    room = getattr(past, "room", None)
    if room is None or rows != B or room.used != P or P + T > room.k.shape[2]:
        room = Room(past, B, P + T if rows != B else 2 * (P + T))
    room.k[:, :, P : P + T], room.v[:, :, P : P + T] = k, v
    room.used = P + T
    present = GrowingKV(room.k[:, :, : P + T], room.v[:, :, : P + T])
    present.room = room
    return present


def positions(past):
    """The number of positions that a past holds; a model without layers keeps none."""
    return past[0].k.shape[2] if past else 0


def split_dkv(dpresent, attention):
    """The reverse of extend_kv: dpresent -> its part for past, summed over the rows that shared it,
    and for the own KV.
    """
    if dpresent is None:
        return None, None
    T = attention.k.shape[2]
    own = KV(*(d[:, :, -T:] for d in dpresent))
    if attention.past is None:
        return None, own
    rows = len(attention.past.k)
    old = (d[:, :, :-T].reshape(rows, -1, *d[:, :, :-T].shape[1:]).sum(axis=1) for d in dpresent)
    return KV(*old), own


def sum_kv(a, b):
    return a if b is None else KV(a.k + b.k, a.v + b.v)
