"""
The line in front of one set of buckets, within this process: who asks the ledger, who waits until it is called. Pure.

While nobody is held up, calls ask the ledger as they come, many at once. Once one has been told to wait, those behind it stand
here, where waiting costs nothing but memory, and only the front goes on asking. A grant says what is left in the buckets,
and so many of the next as will fit are called at once; so a line drains by the batch, not by one call a round trip.

The order is by arrival, and a call that comes back (its attempt failed and it was parked) has its old arrival and place.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from headrace.budget.want import Form, Want
from headrace.crowd import Waiting
from headrace.model import Errand
from headrace.schedule.outlook import Delay, Outlook
from headrace.schedule.standing import Rank, Ranks, plus

# Each who waits at the ledger is looked at by every later one; more than so many at once would make it slow.
MAX_ASKING = 64


class Outdated(Exception):
    """The limits were changed while a place waited under the old ones: it is to be taken anew."""


@dataclass(slots=True, eq=False)
class Place:
    """
    A call's place in line.

    Args:
        call: whose place it is; what it wants is worked out anew when the limits change.
        rank: what it is ordered by: its arrival, and a number that tells equal arrivals apart.
        entered: when it began to wait.
        latest: the moment past which a grant is of no use to it.
        buckets: what its wants were made of, to see whether they still hold after a reload.
        ends: the moment at which the first of its windows ends, and its wants with it.
        counted: its place among all that wait, taken once it has to.
        called: done when it is its turn to ask; failed when it is refused. None while it need not wait.
    """

    call: Errand
    rank: Rank
    entered: float
    latest: float
    hold_id: str
    waiter: str
    buckets: tuple[Want, ...]
    wants: tuple[Want, ...]
    counted: Waiting
    called: asyncio.Future[None] | None = None
    alarm: asyncio.Future[None] | None = None
    is_nudged: bool = False
    is_outdated: bool = False
    has_asked: bool = False
    costs: tuple[int, ...] = ()
    ends: float = math.inf

    def __post_init__(self) -> None:
        self.costs = tuple(want.cost for want in self.wants)
        self.ends = min((want.ends_us / 1e6 for want in self.wants if want.form is Form.WINDOW), default=math.inf)

    def nudge(self) -> None:
        """Wake it from its nap; if it is just asking, it will not nap afterwards."""
        self.is_nudged = True
        if self.alarm is not None and not self.alarm.done():
            self.alarm.set_result(None)

    def refuse(self, error: Exception) -> bool:
        """Let it leave the line with this error, if it stands there without asking; return whether it did."""
        if self.called is None or self.called.done():
            return False
        self.called.set_exception(error)
        self.called.exception()  # if it was cancelled at this very moment, nobody looks
        return True

    def outdate(self) -> None:
        """Let it take its place anew: at once if it stands or naps, else as soon as the ledger has answered."""
        self.is_outdated = True
        self.refuse(Outdated())
        self.nudge()


@dataclass(frozen=True, slots=True)
class LineStats:
    """How many ask the ledger, and how many stand and wait until they are called."""

    asking: int
    waiting: int


class Line:
    """
    All calls of this process that want the same buckets, at the same rates, and have not been granted them.

    Args:
        rates, ends: of the buckets, as in outlook.py.
    """

    def __init__(self, rates: tuple[int, ...], ends: tuple[float, ...] = ()) -> None:
        self.asking: set[Place] = set()
        self.scanned = 0.0
        self.sorting: asyncio.Task[None] | None = None  # the refusing of those who will not be granted in time
        self._blocked: set[Place] = set()  # those who ask and have been told to wait
        self._standing: Ranks[Place] = Ranks(len(rates))
        self._outlook = Outlook(rates, ends)
        self._asked = [0] * len(rates)  # what those who ask want, bucket by bucket
        self._stood = [0] * len(rates)  # what those who stand want
        self._newest: Rank = (float("-inf"), 0)
        self._front: Place | None = None  # who was told when the front may go

    def __repr__(self) -> str:
        return f"<Line [{len(self.asking)} asking, {self.waiting} waiting]>"

    def stats(self) -> LineStats:
        """Return who is here."""
        return LineStats(len(self.asking), len(self._standing))

    @property
    def waiting(self) -> int:
        """How many stand here without asking."""
        return len(self._standing)

    @property
    def is_empty(self) -> bool:
        return not self.asking and not self.waiting

    def standing(self) -> list[Place]:
        """Return those who stand here without asking, in order."""
        return list(self._standing)

    def places(self) -> Iterator[Place]:
        """Yield all who are here."""
        yield from self.asking
        yield from self._standing

    # Coming and going.

    def join(self, place: Place) -> bool:
        """Take a place; return whether it may ask at once, or is to wait until it is called."""
        if self._may_ask(place):
            self._let_ask(place)
            return True
        self._standing.add(place)
        self._stood = plus(self._stood, place.costs)
        self._newest = max(self._newest, place.rank)
        return False

    def _may_ask(self, place: Place) -> bool:
        if self.waiting or self._blocked:
            return all(place.rank < other.rank for other in self.asking)
        return len(self.asking) < MAX_ASKING

    def _let_ask(self, place: Place) -> None:
        self.asking.add(place)
        self._asked = plus(self._asked, place.costs)

    def leave(self, place: Place) -> None:
        """Give up a place, whatever its state."""
        self._blocked.discard(place)
        if place in self.asking:
            self.asking.discard(place)
            self._asked = _less(self._asked, place)
        elif self._standing.remove(place):
            self._stood = _less(self._stood, place)
        if place is self._front:
            # It was told when its own costs would be there; who comes now may want less.
            self._front = None
            self._outlook.forget_front()

    def call(self, levels: Sequence[int] | None) -> None:
        """Call the next: one if nobody asks, and as many as fit into *levels*, which a grant has just left."""
        while (place := self._standing.first) is not None:
            if self.asking and (len(self.asking) >= MAX_ASKING or levels is None or not self._fits(place, levels)):
                return
            self._standing.remove(place)
            self._stood = _less(self._stood, place)
            self._let_ask(place)
            if place.called is not None and not place.called.done():
                place.called.set_result(None)

    def _fits(self, place: Place, levels: Sequence[int]) -> bool:
        return all(level >= used + cost for level, used, cost in zip(levels, self._asked, place.costs, strict=False))

    # How long it will take.

    def learn(self, levels: tuple[int, ...], now: float) -> None:
        """Take in what the ledger says is left in the buckets."""
        self._outlook.learn(levels, now)

    def block(self, place: Place, seconds: float, bucket: int, now: float) -> None:
        """
        Take in that a place that asked must wait so long for this bucket.

        For tokens the ledger's word is exact: it tells to a part of a token how much is there, unless calls of other hosts
        stand before the place. For a permit it is a guess.
        """
        self._blocked.add(place)
        rate = self._outlook.rates[bucket]
        ahead = [other.costs[bucket] for other in self.asking if other.rank < place.rank]
        if rate:
            self._outlook.refine(bucket, sum(ahead) + place.costs[bucket] - seconds * rate / 60)
        if not ahead:
            self._front = place
            self._outlook.expect_front(now + seconds if self._outlook.is_sure(bucket) else now, bucket)

    @property
    def heard_at(self) -> float:
        """When the ledger last said what is left in the buckets."""
        return self._outlook.levels_at

    def delay(self, place: Place, now: float) -> Delay:
        """Return how long a place that has joined will wait, by what is known here, and for which bucket."""
        if place.rank >= self._newest and place not in self.asking:
            return self._outlook.delay(plus(self._asked, self._stood), now)
        needs = plus(self._standing.before(place.rank), place.costs)
        for other in self.asking:
            if other.rank < place.rank:
                needs = plus(needs, other.costs)
        is_first = self._front is not None and place.rank < self._front.rank
        return self._outlook.delay(needs, now, is_first=is_first)

    def hopeless(self, now: float) -> Iterator[list[tuple[Place, Delay]]]:
        """
        Yield, a few hundred at a time, those who stand and will be granted past their latest moment, each with its delay.

        All by what is known now, though others may come and go while this goes on.
        """
        return self._standing.late(self._asked, replace(self._outlook), now)


def _less(needs: Sequence[int], place: Place) -> list[int]:
    return [need - cost for need, cost in zip(needs, place.costs, strict=True)]
