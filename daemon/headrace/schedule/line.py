"""
The line in front of one set of buckets, within this process: who asks the ledger, who waits until it is called. Pure.

While nobody is held up, calls ask the ledger as they come, many at once. Once one has been told to wait, those behind it stand
here, where waiting costs nothing but memory, and only the front goes on asking. A grant says what is left in the buckets,
and so many of the next as will fit are called at once; so a line drains by the batch, not by one call a round trip.

The order is by arrival, and a call that comes back (its attempt failed and it was parked) has its old arrival and place.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from headrace.budget.limits import Want
from headrace.crowd import Waiting

# Each who waits at the ledger is looked at by every later one; more than so many at once would make it slow.
MAX_ASKING = 64


@dataclass(slots=True, eq=False)
class Place:
    """
    A call's place in line.

    Args:
        order: arrival, and a number that tells equal arrivals apart.
        entered: when it came into this line.
        counted: its place among all that wait, taken once it has to.
        called: done when it is its turn to ask; failed when it is refused. None while it need not wait.
    """

    order: tuple[float, int]
    entered: float
    deadline: float
    hold_id: str
    waiter: str
    wants: tuple[Want, ...]
    counted: Waiting
    called: asyncio.Future[None] | None = None
    alarm: asyncio.Future[None] | None = None
    is_nudged: bool = False
    has_asked: bool = False

    def nudge(self) -> None:
        """Wake it from its nap; if it is just asking, it will not nap afterwards."""
        self.is_nudged = True
        if self.alarm is not None and not self.alarm.done():
            self.alarm.set_result(None)

    def refuse(self, error: Exception) -> None:
        """Let it leave the line with this error."""
        if self.called is not None and not self.called.done():
            self.called.set_exception(error)
            self.called.exception()  # if it was cancelled at this very moment, nobody looks


@dataclass(slots=True, eq=False)
class Line:
    """All calls of this process that want the same buckets and have not been granted them."""

    wants: tuple[Want, ...]  # the buckets; the costs here mean nothing
    asking: set[Place] = field(default_factory=set)
    blocked: set[Place] = field(default_factory=set)  # those who ask and have been told to wait
    scanned: float = 0.0
    _waiting: list[tuple[tuple[float, int], Place]] = field(default_factory=list)  # a heap, with those who left still in it
    _left: set[Place] = field(default_factory=set)
    _totals: list[int] = field(default_factory=list)  # what all in line want, want by want
    _newest: tuple[float, int] = (float("-inf"), 0)
    _levels: tuple[int, ...] = ()
    _levels_at: float = 0.0
    _front_due: float = 0.0

    def __post_init__(self) -> None:
        self._totals = [0] * len(self.wants)

    def __repr__(self) -> str:
        return f"<Line [{len(self.asking)} asking, {self.waiting} waiting]>"

    @property
    def waiting(self) -> int:
        """How many stand here without asking."""
        return len(self._waiting) - len(self._left)

    @property
    def is_empty(self) -> bool:
        return not self.asking and not self.waiting

    def join(self, place: Place) -> bool:
        """Take a place; return whether it may ask at once, or is to wait until it is called."""
        self._count(place, 1)
        if self._may_ask(place):
            self.asking.add(place)
            return True
        heapq.heappush(self._waiting, (place.order, place))
        self._newest = max(self._newest, place.order)
        return False

    def _may_ask(self, place: Place) -> bool:
        if self.waiting or self.blocked:
            return all(place.order < other.order for other in self.asking)
        return len(self.asking) < MAX_ASKING

    def leave(self, place: Place) -> None:
        """Give up a place, whatever its state."""
        self._count(place, -1)
        self.blocked.discard(place)
        if place in self.asking:
            self.asking.discard(place)
            return
        self._left.add(place)
        if len(self._left) > 64 + self.waiting:
            self._waiting = [entry for entry in self._waiting if entry[1] not in self._left]
            self._left.clear()
            heapq.heapify(self._waiting)

    def call(self, levels: Sequence[int] | None) -> None:
        """Call the next: one if nobody asks, and as many as fit into *levels*, which a grant has just left."""
        while (place := self._front()) is not None:
            if self.asking and (len(self.asking) >= MAX_ASKING or levels is None or not self._fits(place, levels)):
                return
            heapq.heappop(self._waiting)
            self.asking.add(place)
            if place.called is not None and not place.called.done():
                place.called.set_result(None)

    def _front(self) -> Place | None:
        while self._waiting and self._waiting[0][1] in self._left:
            self._left.discard(heapq.heappop(self._waiting)[1])
        return self._waiting[0][1] if self._waiting else None

    def _fits(self, place: Place, levels: Sequence[int]) -> bool:
        taken = [sum(other.wants[i].cost for other in self.asking) for i in range(len(levels))]
        return all(level >= used + want.cost for level, used, want in zip(levels, taken, place.wants, strict=False))

    def _count(self, place: Place, sign: int) -> None:
        for i, want in enumerate(place.wants):
            self._totals[i] += sign * want.cost

    # How long it will take. Permits come back when they will, so only rate buckets count.

    def note(self, place: Place, levels: tuple[int, ...], due: float, now: float) -> None:
        """Take in what the ledger told a place that must wait: to come back at *due*."""
        self.blocked.add(place)
        self._levels, self._levels_at = levels, now
        if all(place.order <= other.order for other in self.asking):
            self._front_due = due

    def wait_s(self, place: Place, now: float) -> float:
        """Return how long a place that has joined will wait, by what is known here."""
        if place.order >= self._newest:
            return self._flow_s(self._totals, now)
        needs = [want.cost for want in place.wants]
        for other in self._places():
            if other.order < place.order:
                needs = _plus(needs, other)
        return self._flow_s(needs, now)

    def hopeless(self, now: float) -> list[tuple[Place, float]]:
        """Return those who will not be granted before their deadline, each with how long it would take."""
        needs = [0] * len(self.wants)
        for place in self.asking:
            needs = _plus(needs, place)
        found = []
        for _, place in sorted((entry for entry in self._waiting if entry[1] not in self._left), key=lambda entry: entry[0]):
            with_it = _plus(needs, place)
            wait_s = self._flow_s(with_it, now)
            if now + wait_s > place.deadline:
                found.append((place, wait_s))
            else:
                needs = with_it
        return found

    def standing(self) -> list[Place]:
        """Return those who stand here without asking."""
        return [place for _, place in self._waiting if place not in self._left]

    def _places(self) -> Iterator[Place]:
        yield from self.asking
        yield from self.standing()

    def _flow_s(self, needs: Sequence[int], now: float) -> float:
        # How long until so much has flowed in: no less than the front was told, for it knows of the lines of other hosts.
        wait_s = max(0.0, self._front_due - now)
        for want, need, level in zip(self.wants, needs, self._levels, strict=False):
            if want.rate_per_minute:
                wait_s = max(wait_s, (need - level) * 60 / want.rate_per_minute - (now - self._levels_at))
        return wait_s


def _plus(needs: Sequence[int], place: Place) -> list[int]:
    return [need + want.cost for need, want in zip(needs, place.wants, strict=True)]
