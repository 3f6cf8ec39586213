"""
What every tier of the cache counts.

A tier never fails: what cannot be read is a miss, what cannot be written is not kept, and either is counted. A hit is a
look-up that found a fresh answer. One that is past its time may be served when upstream is in trouble, but it spared nobody a
call.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace import observe


@dataclass(frozen=True, slots=True)
class TierStats:
    """
    What a tier holds now, and what this process has done with it since it started.

    Args:
        on: False where the tier is switched off, or gave up.
        hits, misses: look-ups, each counted once, by whether they found a fresh answer.
        drops: entries that went before their time, or were never written, for want of room.
    """

    tier: str
    on: bool
    entries: int
    bytes: int
    bound: int
    hits: int
    misses: int
    stores: int
    drops: int
    errors: int


def own_stats(tier: str, entries: int, bytes: int) -> TierStats:
    """Return what one scope has in a tier; what the tier did, it did for all, and its bound is all's."""
    return TierStats(tier, True, entries, bytes, 0, 0, 0, 0, 0, 0)


class Tally:
    """
    A tier's counts: as plain figures for its stats, and as metrics.

    The tier itself counts what it stores and drops. Look-ups are counted by the cache, which knows who asks and whether the
    entry was of use. Those in memory are in no metric: on the way of a hit even a counter would show.
    """

    def __init__(self, tier: str, *, shows_looks: bool = True) -> None:
        self.tier = tier
        self._shows_looks = shows_looks
        self.hits = self.misses = self.stores = self.drops = self.errors = 0

    def looked(self, is_fresh: bool) -> None:
        """Count a look-up, once a call and tier."""
        self.hits += is_fresh
        self.misses += not is_fresh
        if self._shows_looks:
            observe.CACHE_EVENTS.inc(self.tier, "hit" if is_fresh else "miss")

    def stored(self, count: int = 1) -> None:
        self.stores += count
        observe.CACHE_EVENTS.inc(self.tier, "store", by=count)

    def dropped(self, count: int = 1) -> None:
        if count:
            self.drops += count
            observe.CACHE_EVENTS.inc(self.tier, "drop", by=count)

    def failed(self) -> None:
        self.errors += 1
        observe.CACHE_EVENTS.inc(self.tier, "error")

    def stats(self, *, on: bool, entries: int, bytes: int, bound: int) -> TierStats:
        figures = (self.hits, self.misses, self.stores, self.drops, self.errors)
        return TierStats(self.tier, on, entries, bytes, bound, *figures)
