"""
What calls draw from that are equal in all that limits know of: their buckets, and what follows from these alone. Pure.

It is worked out once and remembered (limits.py), since each call asks for it several times.
"""

from __future__ import annotations

import math

from headrace.budget.costs import USES
from headrace.budget.want import Want

Wants = tuple[Want, ...]

_OF_INPUT = ("input_tokens", "total_tokens", "spend")


class Draw:
    """
    What a call draws from.

    Args:
        buckets: all of them, each with the cost that is the same for all calls.

    `enforced` and `shadows` are the two parts of them; `has_ceilings` says whether an estimate must say what a call surely does
    not pass, `asks_count` whether any limit that is enforced goes by upstream's count of its input, `room` how much the
    smallest bucket of input holds (of money nobody knows what input fits: 0).
    """

    __slots__ = ("asks_count", "buckets", "enforced", "has_ceilings", "room", "shadows")

    def __init__(self, buckets: Wants) -> None:
        self.buckets = buckets
        self.enforced, self.shadows = parted(buckets)
        self.has_ceilings = any(want.is_ceiling for want in buckets)
        self.asks_count = any(
            want.is_counted and want.kind in USES and want.kind != "output_tokens" for want in self.enforced
        )  # limits in the shadow hold up nobody
        bounds = [0.0 if want.kind == "spend" else want.capacity for want in buckets if want.kind in _OF_INPUT]
        self.room = min(bounds, default=math.inf)

    def __repr__(self) -> str:
        return f"<Draw [{len(self.enforced)} buckets, {len(self.shadows)} in the shadow]>"


def parted(wants: Wants) -> tuple[Wants, Wants]:
    """Return what is enforced, and what is only in the shadow."""
    shadows = tuple(want for want in wants if want.is_shadow)
    return (tuple(want for want in wants if not want.is_shadow), shadows) if shadows else (wants, ())
