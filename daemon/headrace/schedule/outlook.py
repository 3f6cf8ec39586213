"""
The outlook of a line: how long it takes until so much has flowed into its buckets, by what the ledger last said. Pure.

Two things are known. The levels of the buckets at some moment: from there on they rise at their rates. And what the front of
the line was told, which knows of the lines of other hosts: nobody behind the front goes before it. Permits come back when they
will, so they do not count. A window gives nothing more until it ends, and then there is another bucket.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Delay:
    """How long something takes, and which of the buckets makes it so long."""

    seconds: float = 0.0
    bucket: int = 0


@dataclass(slots=True)
class Outlook:
    """
    What is known of a line's buckets.

    Args:
        rates: what flows in, in tokens a minute, bucket by bucket; nothing (0) into permits and windows.
        ends: when a window's bucket ends (Unix seconds), infinite for all others; () if there are no windows.
    """

    rates: tuple[int, ...]
    ends: tuple[float, ...] = ()
    front_due: float = 0.0  # when the front may go; a moment that is past says nothing
    _front_bucket: int = 0
    levels_at: float = -math.inf
    _levels: tuple[float, ...] = ()

    def is_sure(self, bucket: int) -> bool:
        """Whether what the ledger says of the wait for it is more than a guess, as it is for permits."""
        return self.rates[bucket] > 0 or self._end(bucket) < math.inf

    def _end(self, bucket: int) -> float:
        return self.ends[bucket] if self.ends else math.inf

    def learn(self, levels: Sequence[int], now: float) -> None:
        """
        Take in the levels in whole tokens, bucket by bucket; () if they are not known.

        What is left over of a token is not told, and is taken for nearly one: nobody is to be refused for a part of a token
        that is there.
        """
        self._levels, self.levels_at = tuple(level + 1 for level in levels), now

    def refine(self, bucket: int, level: float) -> None:
        """Take in the exact level of a bucket; one that does not fit to what was learnt counts for nothing."""
        if bucket < len(self._levels) and self._levels[bucket] - 1 <= level <= self._levels[bucket]:
            self._levels = (*self._levels[:bucket], level, *self._levels[bucket + 1 :])

    def expect_front(self, due: float, bucket: int) -> None:
        """Take in when the front may go, and which bucket it waits for."""
        self.front_due, self._front_bucket = due, bucket

    def forget_front(self) -> None:
        """The front has left: what it was told was for its own costs."""
        self.front_due = 0.0

    def delay(self, needs: Sequence[int], now: float, *, is_first: bool = False) -> Delay:
        """
        Return how long it takes until *needs* tokens have flowed in, bucket by bucket, and the front is gone.

        Whoever *is_first* goes before the front, whose wait is none of its concern.
        """
        longest = Delay() if is_first else Delay(max(0.0, self.front_due - now), self._front_bucket)
        for bucket, (rate, need, level) in enumerate(zip(self.rates, needs, self._levels, strict=False)):
            if rate:
                seconds = (need - level) * 60 / rate - (now - self.levels_at)
            else:
                end = self._end(bucket)
                seconds = end - now if need > level and end < math.inf else 0.0
            if seconds > longest.seconds:
                longest = Delay(seconds, bucket)
        return longest

    def has_room(self, needs: Sequence[int], until: float) -> bool:
        """Whether so much is there in each window, or will be in the next one, by this moment (Unix seconds)."""
        known = zip(self.ends, needs, self._levels, strict=False)
        return all(need <= level or end <= until or end == math.inf for end, need, level in known)

    def spans(self, needs: Sequence[int]) -> list[float]:
        """Return how many seconds each bucket takes to give so much, if it starts from nothing."""
        return [need * 60 / rate if rate else 0.0 for rate, need in zip(self.rates, needs, strict=True)]

    def headstarts(self) -> list[float]:
        """
        Return, bucket by bucket, what turns a span into a moment: so much has flowed in at `span - headstart` (Unix seconds).

        Infinite for permits, and for a bucket whose level is not known.
        """
        known = zip(self.rates, self._levels, strict=False)
        starts = [level * 60 / rate - self.levels_at if rate else math.inf for rate, level in known]
        return starts + [math.inf] * (len(self.rates) - len(starts))
