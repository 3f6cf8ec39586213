"""
The arithmetic of a gate: how a model class comes back after upstream was overloaded. Pure; reserve.lua and settle.lua do the
same.

There is no gate while all is well. An overload makes one: nobody passes for a while, then one call alone, the probe. Once that
is answered (a stream: once it begins; and whoever has heard no no for a while has been taken), a window opens: so many calls at
a time as the window is wide. It grows by one for each answer up to half of what was in the air when it was cut, and to a few at
least, since an overload that meets one call alone says nothing of their number; from there on by one for each time that it was
filled: slowly to where it went wrong before, and beyond. The next overload halves it. One more, before there is an answer, and
nobody passes again for a while, twice as long for each that found no answer in between: so an upstream that has no room for
every fifth call is not taken for one that has room for none. A gate that has held nobody up for ten seconds is gone.

What was granted before the cut says nothing of what is after it: when hundreds of calls fail together, that is one overload.

A spend limit shuts the gate, too, until it is known to be over: nobody waits for that, all are refused. One call a minute
asks whether somebody has raised it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import msgspec

LEASE_US = 60_000_000  # a call that takes longer no longer counts as in the air
FORGET_US = 60_000_000  # a gate at which nothing happens is gone after this
OPEN_US = 10_000_000
FIRST_PAUSE_US = 500_000
LONGEST_PAUSE_US = 30_000_000
ASK_EVERY_US = 60_000_000  # whether a spend limit is over
LEVEL = 1_000_000  # of a gate that is not there
ONE = 1000  # windows are counted in thousandths
LEAST_AIM = 8 * ONE
_MOST_STRIKES = 8


class Verdict(IntEnum):
    """What an attempt says of its model class; the value is what a settlement gives back of a gate."""

    WELL = 1
    UNKNOWN = 0
    OVERLOADED = -1
    SPENT = -2


class Change(IntEnum):
    """What a settlement has made of a gate; the value is how settle.lua says it."""

    NONE = 0
    SHUT = 1
    OPENED = 2
    SPENT = 3
    GONE = 4
    STILL_SHUT = 5
    NARROWED = 6


NOTHING = "-"  # of a bucket of which upstream said nothing


class Told(msgspec.Struct, frozen=True, gc=False):
    """
    What a settlement says beside its verdict.

    Args:
        chance: a factor for the pause, in thousandths, drawn by whoever settles: daemons must not come back in step.
        in_the_air: calls of this class at upstream now, as far as the daemon that settles can tell.
        least_us: how long the pause is at least, or how long a spend limit will hold.
        age_us: how long ago the attempt was granted; it was not later, but may have been a moment earlier.
        first_us, longest_us: the first pause, and the longest.
    """

    chance: int = ONE
    in_the_air: int = 1
    least_us: int = 0
    age_us: int = 0
    first_us: int = FIRST_PAUSE_US
    longest_us: int = LONGEST_PAUSE_US


NOTHING_TOLD = Told()


@dataclass(slots=True)
class Gate:
    """
    A gate; all moments in microseconds of the ledger's clock.

    Args:
        until_us: nobody passes before it.
        window, aim: how many may pass at a time, and up to where it grows fast; in thousandths.
        cut_us: when it was cut last; tight_us: when it last held somebody up.
        strikes: overloads with no answer in between.
        holds: who has passed, by when it no longer counts.
        spent_us: until when a spend limit holds; 0: none does. ask_us: when the next call may ask whether it is over.
    """

    until_us: int = 0
    window: int = ONE
    aim: int = ONE
    cut_us: int = 0
    tight_us: int = 0
    strikes: int = 0
    holds: dict[str, int] = field(default_factory=dict)
    spent_us: int = 0
    ask_us: int = 0
    forget_us: int = 0

    def flow(self, now_us: int) -> None:
        """Forget who has been away for too long, and a spend limit that is over."""
        self.holds = {hold_id: until_us for hold_id, until_us in self.holds.items() if until_us > now_us}
        if self.spent_us <= now_us:
            self.spent_us = 0

    def is_spent(self, now_us: int) -> bool:
        """Whether a spend limit holds, and this is not the call that asks whether it is over."""
        return self.spent_us > now_us and self.ask_us > now_us

    def level(self, now_us: int) -> int:
        """Return how many may pass now."""
        if self.spent_us > now_us:
            return 0 if self.is_spent(now_us) else 1
        return 0 if self.until_us > now_us else self.window // ONE - len(self.holds)

    def pause_us(self, now_us: int) -> int:
        """Return how long the pause still is; 0 if there is none."""
        return max(0, self.until_us - now_us)

    def hold_up(self, now_us: int) -> None:
        """Somebody does not fit."""
        self.tight_us = now_us
        self._keep(now_us)

    def take(self, hold_id: str, now_us: int) -> None:
        """Let a call pass."""
        self.holds[hold_id] = now_us + LEASE_US
        if self.spent_us:
            self.ask_us = now_us + ASK_EVERY_US
        self._keep(now_us)

    def settle(self, verdict: int, told: Told, now_us: int) -> Change:
        """Take in what an attempt says; on `GONE` forget the gate."""
        if now_us - told.age_us < self.cut_us or verdict == Verdict.UNKNOWN:
            return Change.NONE
        if verdict == Verdict.WELL:
            return self._well(now_us)
        self.cut_us = now_us
        change = self._spend(told, now_us) if verdict == Verdict.SPENT else self._cut(told, now_us)
        self._keep(now_us)
        return change

    def _well(self, now_us: int) -> Change:
        change = Change.OPENED if self.strikes > 1 or self.spent_us else Change.NONE
        self.strikes = self.spent_us = 0
        if now_us - self.tight_us > OPEN_US:
            return Change.GONE
        self.window = min(LEVEL, self.window + (ONE if self.window < self.aim else max(1, ONE * ONE // self.window)))
        self._keep(now_us)
        return change

    def _cut(self, told: Told, now_us: int) -> Change:
        self.tight_us = now_us
        self.strikes += 1
        if self.strikes == 1:
            self.aim = max(LEAST_AIM, self.window // 2)
            self.window = max(ONE, self.window // 2)
            self.until_us = now_us + told.least_us
            return Change.NARROWED
        pause_us = min(told.longest_us, told.first_us << min(self.strikes - 2, _MOST_STRIKES)) * told.chance // ONE
        self.window = ONE
        self.until_us = now_us + max(told.least_us, pause_us)
        return Change.SHUT if self.strikes == 2 else Change.STILL_SHUT

    def _spend(self, told: Told, now_us: int) -> Change:
        self.spent_us, self.ask_us = now_us + told.least_us, now_us + ASK_EVERY_US
        return Change.SPENT

    def _keep(self, now_us: int) -> None:
        self.forget_us = max(now_us, self.until_us, self.spent_us) + FORGET_US


def made(told: Told) -> Gate:
    """Return the gate that the first overload makes, to be shut at once; its window has been what was in the air."""
    window = max(1, told.in_the_air) * ONE
    return Gate(window=window, aim=max(LEAST_AIM, window // 2), strikes=1)
