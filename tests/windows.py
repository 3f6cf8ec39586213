"""
The promise, checked: no window of any length reserves more than `capacity + rate x length`.

Every pair of grants spans a window. Instead of looking at all pairs, one pass keeps the most that any earlier start leaves:
with S the sum up to a grant, the excess of the window from i to j is (S after j - rate x t_j) - (S before i - rate x t_i).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

UNITS = 60_000_000  # of a token, so that tokens a minute times microseconds is exact


@dataclass(frozen=True)
class Worst:
    """
    The fullest window: by how many tokens it passes the bound (below zero: what was left), and from when to when (us).

    Args:
        over: how many windows pass the bound, of those that are the fullest of all that end with some grant.
    """

    excess_tokens: float
    from_us: int
    to_us: int
    over: int = 0

    @property
    def is_kept(self) -> bool:
        return self.excess_tokens <= 0


def worst_window(grants: Iterable[tuple[int, int]], *, rate_per_minute: int, capacity: int) -> Worst:
    """Return the worst of all windows over *grants*: pairs of time (us) and tokens; tokens below zero were given back."""
    reserved = over = 0
    start, from_us = None, 0
    worst: Worst | None = None
    worst_units = None
    for at_us, tokens in sorted(grants, key=lambda grant: grant[0]):
        before = reserved * UNITS - rate_per_minute * at_us
        if start is None or before < start:
            start, from_us = before, at_us
        reserved += tokens
        units = reserved * UNITS - rate_per_minute * at_us - start - capacity * UNITS
        over += units > 0
        if worst_units is None or units > worst_units:
            worst_units, worst = units, Worst(units / UNITS, from_us, at_us)
    assert worst is not None, "no grants at all"
    return replace(worst, over=over)


def used_share(grants: Iterable[tuple[int, int]], *, rate_per_minute: int, capacity: int, seconds: float) -> float:
    """Return what share of what the bucket could give in so many seconds was reserved."""
    return sum(tokens for _, tokens in grants) / (capacity + rate_per_minute * seconds / 60)
