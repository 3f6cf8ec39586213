"""
A worker's hands: how many tickets one process works on at once, and whose ticket comes next.

Tickets come with their alarms, which ring in the order of their times; but which of them is taken in hand is decided in the
order in which everything waits (order.py), or a flood of one caller's retries would stand before everybody else's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from headrace.clock import Clock
from headrace.errors import DeadlinePassed
from headrace.model import Call
from headrace.schedule.slots import Slots
from headrace.schedule.turns import Schedule


class Hands:
    """
    The hands of one process.

    Args:
        count: how many there are (`retry.max_running`).
    """

    def __init__(self, count: int, schedule: Schedule, clock: Clock) -> None:
        self._schedule = schedule
        self._slots = Slots(count, clock)

    def __repr__(self) -> str:
        stats = self._slots.stats()
        return f"<Hands [{stats.in_use} of {stats.slots}, {stats.waiting} waiting]>"

    @property
    def waiting(self) -> int:
        """How many wait for a hand."""
        return self._slots.stats().waiting

    async def take(self, read: Callable[[], Awaitable[Call | None]]) -> bool:
        """
        Take a hand, waiting for one if need be; return whether there is one, and so something to do.

        Args:
            read: says for which call, if that decides anything; None if there is none.
        """
        if self._slots.take_free():
            return True
        call = await read()
        if call is None:
            return False
        try:
            await self._slots.stand(self._schedule.flow(call), self._schedule.urgency(call), call.begin_by)
        except DeadlinePassed:  # the sweeper ends it
            return False
        return True

    def give_back(self) -> None:
        """Give a hand back; whoever is first in line has it at once."""
        self._slots.give_back()
