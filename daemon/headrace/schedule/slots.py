"""
Slots: how many calls may do something at once, and who gets the next free one.

Upstream's slots bound the requests in flight there: one is taken after the budgets have granted a call what it wants, and
given back when its attempt is over. A worker's hands (hands.py) bound the tickets that it works on. Those who wait for a slot
stand in fair order (order.py), in which each call costs the same: what is scarce here are slots, and not tokens.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from headrace import observe
from headrace.clock import Clock
from headrace.crowd import Waiting
from headrace.errors import DeadlinePassed
from headrace.rank import Flow
from headrace.schedule.order import Order, Urgency
from headrace.schedule.standing import Rank

_SPAN_US = 1e6  # for one call; how long a slot is held nobody knows, and it is the same for all


@dataclass(frozen=True, slots=True)
class SlotStats:
    """How many slots there are, how many are taken, and how many calls wait for one."""

    slots: int
    in_use: int
    waiting: int


@dataclass(slots=True, eq=False)
class _Place:
    """A call that waits for a slot, until it is called."""

    flow: Flow
    urgency: Urgency
    latest: float
    called: asyncio.Future[None]
    costs: tuple[int, ...] = ()
    rank: Rank = (0, 0)
    charge: int = 0


class Slots:
    """
    Slots of one kind.

    Args:
        count: how many there are.
    """

    def __init__(self, count: int, clock: Clock) -> None:
        self._count = count
        self._clock = clock
        self._in_use = 0
        self._waiting: Order[_Place] = Order()

    def __repr__(self) -> str:
        return f"<Slots [{self._in_use} of {self._count}, {len(self._waiting)} waiting]>"

    def stats(self) -> SlotStats:
        """Return how it stands now."""
        return SlotStats(self._count, self._in_use, len(self._waiting))

    def measure(self) -> None:
        """Let the gauges of upstream's slots read from here."""
        observe.SLOTS.read = lambda: self._count
        observe.SLOTS_IN_USE.read = lambda: self._in_use
        observe.SLOTS_WAITING.read = lambda: len(self._waiting)

    def take_free(self) -> bool:
        """Take a slot if one is free, and return whether it is."""
        if self._in_use >= self._count:
            return False
        self._in_use += 1
        return True

    async def take(self, flow: Flow, urgency: Urgency, latest: float, counted: Waiting) -> None:
        """
        Take a slot, waiting for one if need be.

        Args:
            latest: the moment (Unix seconds) past which it is of no use. Raises `DeadlinePassed` then.
            counted: the call's place among all that wait; taken if it has to wait. Raises `QueueFull`.
        """
        if self.take_free():
            return
        counted.become("slot")
        counted.take()
        await self.stand(flow, urgency, latest)

    async def stand(self, flow: Flow, urgency: Urgency, latest: float) -> None:
        """Take a slot when all have gone who are before us; as `take` in all else."""
        place = _Place(flow, urgency, latest, asyncio.get_running_loop().create_future())
        self._waiting.rank(place, _SPAN_US)
        self._waiting.add(place)
        bound = self._clock.timeout(place.latest - self._clock.now())
        try:
            async with bound:
                await place.called
        except BaseException as error:
            self._leave(place)
            if isinstance(error, TimeoutError) and bound.expired():
                raise DeadlinePassed("the call's deadline passed before upstream could be asked") from error
            raise

    def _leave(self, place: _Place) -> None:
        if place.called.done() and not place.called.cancelled():
            self.give_back()  # it was called at the very moment at which it left
        elif self._waiting.remove(place):
            self._waiting.take_back(place)

    def give_back(self) -> None:
        """Give a slot back; the first in line has it at once."""
        while (place := self._waiting.first) is not None:
            self._waiting.remove(place)
            if not place.called.done():  # else it is cancelled, and about to leave
                self._waiting.serve(place)
                place.called.set_result(None)
                return
            self._waiting.take_back(place)
        self._in_use -= 1
