"""
The arithmetic of one bucket, of a rate or of a window: exact integers, no clock of its own. reserve.lua and settle.lua do the
same sums.

A rate's unit is 1/60,000,000 of a token, because a rate in tokens a minute is then a whole number of units a microsecond: a
bucket that is looked at thousands of times a second loses nothing to rounding. Lua counts in doubles, which are exact up to
2^53 units; that is 150 million tokens, and a larger capacity is refused at start.

What is promised. Let a window be any span of time on the ledger's clock. Then

    reserved in it - given back in it <= capacity + rate x length

because the level is at most the capacity when the window opens, only inflow and what is given back raise it, and a grant
needs the whole cost to be there. What settling adds beyond the estimate (debt) only lowers the level. Two cases follow:

- Requests are given back only when surely nothing was sent, so no window has more attempts *sent* than that, but for the
  requests that came back in the window unsent.
- A window's bucket gives no more than the capacity while it is there: nothing flows in, and what comes back was taken from it.
- Tokens given back count from the moment at which they come back, not from that of their reservation. So an estimate that was
  too high by x may let a window's use pass the bound by x, if the bucket filled up between grant and settlement; the sum
  above holds all the same. An estimate that was too low leaves debt, and debt is paid before the next grant.

Others may use the same limit upstream, and do not ask us. Upstream's word (tuning/heed.py) says how much there is at most,
and lowers the level. What has to be lowered again and again is what others use: a running mean of it flows out by itself, but
for a tenth, so that each word finds a little too much as long as they go on, and the mean decays when they stop. The first
quarter of a bucket that is lowered is nobody's use: so much the distance that is kept from upstream's level, and the rounding
of its words, may come to, once for each time that the bucket was full. Nor is what the words of the first seconds lower: it is
what calls of ours use that were sent before the bucket was there. A full bucket knows of no others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

UNITS = 60_000_000
MAX_UNITS = 2**53
PAST_END_US = 86_400_000_000  # so long past its end a window's bucket is remembered

MEAN_US = 3_000_000  # the span of the running mean of what others use
FIRST_US = 3_000_000  # for so long after its first word a bucket finds no use of others
_LONGEST_US = 20_000_000  # a longer silence counts as this, which keeps all products below 2^53
_UNCOUNTED = 4  # the first part of the capacity that is lowered: a quarter


@dataclass(slots=True)
class Bucket:
    """
    A bucket that fills at `rate` units a microsecond (tokens a minute) up to `capacity` units.

    `level` may be below zero: debt. `at_us` is the moment for which it holds. `foreign` is what others use, in units a
    microsecond, as of `heard_us`; of what was lowered, `kept` was not counted as theirs. The first word came at `first_us`.
    """

    rate: int
    capacity: int
    level: int
    at_us: int
    foreign: float = 0.0
    kept: int = 0
    heard_us: int | None = None
    first_us: int | None = None

    @property
    def inflow(self) -> int:
        """What flows in for us, in units a microsecond: the rate less nine tenths of what others use, and never nothing."""
        return self.rate - math.floor(min(self.foreign, self.rate) * 9 / 10)

    def flow(self, now_us: int) -> None:
        """Let in what has come by now. A clock that went back refunds nothing, neither now nor when it catches up."""
        if now_us > self.at_us:
            self.level = min(self.capacity, self.level + self.inflow * (now_us - self.at_us))
            self.at_us = now_us
        if self.is_full:
            self.foreign, self.kept, self.heard_us, self.first_us = 0.0, 0, None, None

    def wait_us(self, units: int, now_us: int) -> int:
        """Return how long until so many units are there, exactly long enough if others use no less than they did."""
        short = units - self.level
        return 0 if short <= 0 else -(-short // self.inflow) + max(0, self.at_us - now_us)

    def hear(self, most: int) -> None:
        """Take in that upstream has so many units left at most. Call `flow` before."""
        lowered = max(0, self.level - most)
        self.first_us = self.at_us if self.first_us is None else self.first_us
        first = self.at_us - self.first_us < FIRST_US
        uncounted = lowered if first else min(lowered, max(0, self.capacity // _UNCOUNTED - self.kept))
        span_us = 0 if self.heard_us is None else min(self.at_us - self.heard_us, _LONGEST_US)
        counted = min(lowered - uncounted, self.rate * (MEAN_US + span_us))
        # Where upstream has much more than we, too much flowed out, and the mean is to decay at once.
        near = max(0.0, 1 - _UNCOUNTED * max(0, most - self.level) / self.capacity)
        flowed_out = near * ((self.rate - self.inflow) * span_us)
        # In doubles, as Lua counts: whole numbers would lose the little by which a mean decays.
        self.foreign = min(self.rate, (self.foreign * MEAN_US + flowed_out + counted) / (MEAN_US + span_us))
        self.kept += 0 if first else uncounted
        self.heard_us = self.at_us
        self.level -= lowered

    def take(self, units: int) -> None:
        """Take units; the caller has seen that they are there, or leaves debt knowingly."""
        self.level -= units

    def give_back(self, units: int) -> None:
        """Give units back (below zero: take more, as debt)."""
        self.level = min(self.capacity, self.level + units)

    @property
    def is_full(self) -> bool:
        """A full bucket need not be remembered."""
        return self.level >= self.capacity


@dataclass(slots=True)
class Window:
    """The bucket of one calendar window: `capacity` in all, until it ends. It keeps what is used: the capacity may change."""

    capacity: int
    ends_us: int
    used: int = 0

    @property
    def level(self) -> int:
        """What is left; below zero: debt, which ends with the window."""
        return self.capacity - self.used

    def flow(self, now_us: int) -> None:
        """Nothing flows in."""

    def wait_us(self, units: int, now_us: int) -> int:
        """Return how long until the window ends, and another bucket is full; 0 if so many units are there."""
        return max(1, self.ends_us - now_us) if units > self.level else 0

    def take(self, units: int) -> None:
        """Take units; the caller has seen that they are there, or leaves debt knowingly."""
        self.used += units

    def give_back(self, units: int) -> None:
        """Give units back (below zero: take more, as debt)."""
        self.used = max(0, self.used - units)

    @property
    def is_full(self) -> bool:
        """A full bucket need not be remembered."""
        return self.used == 0
