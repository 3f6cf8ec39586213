"""
A worker's hands: how many tickets one process works on at once, and whose ticket comes next.

Tickets come with their alarms, which ring in the order of their times; but which of them is taken in hand is decided in the
order in which everything waits (order.py), or a flood of one caller's retries would stand before everybody else's.
And a caller whose tickets are in hand while they wait for its own budget is not lent the last of the hands (share.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from headrace.clock import Clock
from headrace.errors import DeadlinePassed
from headrace.model import Call
from headrace.rank import NOBODY, Flow
from headrace.schedule.slots import Slots
from headrace.schedule.turns import Schedule

_SPARE = 10  # one hand in so many is not lent


class Hands:
    """
    The hands of one process.

    Args:
        count: how many there are (`retry.max_running`).
    """

    def __init__(self, count: int, schedule: Schedule, clock: Clock) -> None:
        self._schedule = schedule
        self._slots = Slots(count, clock, spare=count // _SPARE)

    def __repr__(self) -> str:
        stats = self._slots.stats()
        return f"<Hands [{stats.in_use} of {stats.slots}, {stats.waiting} waiting]>"

    @property
    def waiting(self) -> int:
        """How many wait for a hand."""
        return self._slots.stats().waiting

    async def take(self, read: Callable[[], Awaitable[Call | None]]) -> Flow | None:
        """
        Take a hand, waiting for one if need be; return whose it is, for `give_back`, or None if there is nothing to do.

        Args:
            read: says for which call, if that decides anything; None if there is none.
        """
        stats = self._slots.stats()
        if 2 * stats.in_use < stats.slots and self._slots.take_free():
            return NOBODY  # as long as there are plenty, whose they are is not looked up
        call = await read()
        if call is None:
            return None
        flow = self._schedule.flow(call)
        try:
            if not self._slots.take_free(flow):
                await self._slots.stand(flow, self._schedule.urgency(call), call.begin_by, holder=flow)
        except DeadlinePassed:  # the sweeper ends it
            return None
        return flow

    def give_back(self, hand: Flow) -> None:
        """Give a hand back; whoever is first in line has it at once."""
        self._slots.give_back(hand)
