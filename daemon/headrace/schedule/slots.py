"""
Slots: how many calls may do something at once, and who gets the next free one.

Upstream's slots bound the requests in flight there: one is taken after the budgets have granted a call what it wants, and
given back when its attempt is over. A worker's hands (hands.py) bound the tickets that it works on. Those who wait for a slot
stand in fair order (order.py), in which each call costs the same: what is scarce here are slots, and not tokens.

The order is about who waits; what somebody has already, and may have for long, is bounded by shares (share.py). Of upstream's
slots a caller is lent all but a few, so that others find one at once. Calls that are only carried have a part of the slots, and
never more, whether or not others wait at the moment: how long a download lasts its caller decides, and not upstream.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from headrace import observe
from headrace.clock import Clock
from headrace.crowd import Waiting
from headrace.errors import DeadlinePassed
from headrace.rank import NOBODY, Flow
from headrace.schedule.order import Order, Urgency
from headrace.schedule.standing import Rank
from headrace.share import Share
from headrace.trail import SLOTS

SPARE = 32  # of upstream's slots one in so many is not lent: an answer is there in seconds, and gives its slot back
_SPAN_US = 1e6  # for one call; how long a slot is held nobody knows, and it is the same for all


@dataclass(frozen=True, slots=True)
class SlotStats:
    """How many slots there are, how many are taken (by carried calls, too), and how many calls wait for one."""

    slots: int
    in_use: int
    waiting: int
    carried: int = 0


@dataclass(slots=True, eq=False)
class _Place:
    """A call that waits for a slot, until it is called."""

    flow: Flow
    urgency: Urgency
    latest: float
    called: asyncio.Future[None]
    holder: Flow
    is_carried: bool
    costs: tuple[int, ...] = ()
    rank: Rank = (0, 0)
    charge: int = 0


class Slots:
    """
    Slots of one kind.

    Args:
        count: how many there are.
        spare: how many of them are not lent to who has its share (share.py).
        carried: how many of them calls may have that are only carried; by default all.
    """

    def __init__(self, count: int, clock: Clock, *, spare: int = 0, carried: int | None = None) -> None:
        self._clock = clock
        self._taken = Share(count, spare)
        self._carried = Share(count if carried is None else max(1, carried))
        self._waiting: Order[_Place] = Order()

    def __repr__(self) -> str:
        stats = self.stats()
        carried = f", {stats.carried} carried" if stats.carried else ""
        return f"<Slots [{stats.in_use} of {stats.slots}{carried}, {stats.waiting} waiting]>"

    def stats(self) -> SlotStats:
        """Return how it stands now."""
        return SlotStats(self._taken.most, self._taken.taken, len(self._waiting), self._carried.taken)

    def measure(self) -> None:
        """Let the gauges of upstream's slots read from here."""
        observe.SLOTS.read = lambda: self._taken.most
        observe.SLOTS_IN_USE.read = lambda: self._taken.taken
        observe.SLOTS_CARRIED.read = lambda: self._carried.taken
        observe.SLOTS_WAITING.read = lambda: len(self._waiting)

    def take_free(self, holder: Flow = NOBODY, *, is_carried: bool = False) -> bool:
        """Take a slot for *holder* if there is one, and return whether there is."""
        if not self._has_room(holder, is_carried):
            return False
        self._take(holder, is_carried)
        return True

    def _has_room(self, holder: Flow, is_carried: bool) -> bool:
        weight = holder.share * holder.weight
        return self._taken.has_room(holder.caller, 1, weight) and (
            not is_carried or self._carried.has_room(holder.caller, 1, weight)
        )

    def _take(self, holder: Flow, is_carried: bool) -> None:
        weight = holder.share * holder.weight
        self._taken.take(holder.caller, 1, weight)
        if is_carried:
            self._carried.take(holder.caller, 1, weight)

    async def take(self, flow: Flow, urgency: Urgency, latest: float, counted: Waiting, *, is_carried: bool = False) -> None:
        """
        Take a slot, waiting for one if need be.

        Args:
            latest: the moment (Unix seconds) past which it is of no use. Raises `DeadlinePassed` then.
            counted: the call's place among all that wait; taken if it has to wait. Raises `QueueFull`.
        """
        if self.take_free(flow, is_carried=is_carried):
            return
        counted.become("slot")
        counted.take()
        counted.held_by(SLOTS, self._clock.now())
        await self.stand(flow, urgency, latest, holder=flow, is_carried=is_carried)

    async def stand(
        self, flow: Flow, urgency: Urgency, latest: float, *, holder: Flow = NOBODY, is_carried: bool = False
    ) -> None:
        """Take a slot when all have gone who are before us and may have one; as `take` in all else."""
        if is_carried:  # those that wait for each other must not hold up those that need not
            flow = replace(flow, caller=f"{flow.caller}/carried")
        place = _Place(flow, urgency, latest, asyncio.get_running_loop().create_future(), holder, is_carried)
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
            self.give_back(place.holder, is_carried=place.is_carried)  # it was called at the very moment at which it left
        elif self._waiting.remove(place):
            self._waiting.take_back(place)

    def give_back(self, holder: Flow = NOBODY, *, is_carried: bool = False) -> None:
        """Give a slot of *holder*'s back; the first in line who may have one has it at once."""
        self._taken.give_back(holder.caller)
        if is_carried:
            self._carried.give_back(holder.caller)
        while len(self._waiting) and (place := self._waiting.first_of(self._may_go)) is not None:
            self._waiting.remove(place)
            if place.called.done():  # it is cancelled, and about to leave
                self._waiting.take_back(place)
                continue
            self._waiting.serve(place)
            self._take(place.holder, place.is_carried)
            place.called.set_result(None)

    def _may_go(self, place: _Place) -> bool:
        return self._has_room(place.holder, place.is_carried)
