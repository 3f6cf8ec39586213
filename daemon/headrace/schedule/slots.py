"""
Upstream's slots: how many requests may be in flight at upstream at once, and who gets the next free one.

A slot is taken after the budgets have granted a call what it wants, and given back when its attempt is over. Those who wait for
one stand by rank, which is arrival: a call that was parked and comes back passes those that came after it.
"""

from __future__ import annotations

import asyncio
import bisect
from dataclasses import dataclass

from headrace import observe
from headrace.clock import Clock
from headrace.crowd import Waiting
from headrace.errors import DeadlinePassed
from headrace.schedule.standing import Rank


@dataclass(frozen=True, slots=True)
class SlotStats:
    """How many slots there are, how many are taken, and how many calls wait for one."""

    slots: int
    in_use: int
    waiting: int


class Slots:
    """
    Upstream's slots.

    Args:
        count: how many there are (`upstream.max_in_flight`).
    """

    def __init__(self, count: int, clock: Clock) -> None:
        self._count = count
        self._clock = clock
        self._in_use = 0
        self._waiting: list[tuple[Rank, asyncio.Future[None]]] = []  # by rank, of which there are no two equal

    def __repr__(self) -> str:
        return f"<Slots [{self._in_use} of {self._count}, {len(self._waiting)} waiting]>"

    def stats(self) -> SlotStats:
        """Return how it stands now."""
        return SlotStats(self._count, self._in_use, len(self._waiting))

    def measure(self) -> None:
        """Let the gauges of the slots read from here."""
        observe.SLOTS.read = lambda: self._count
        observe.SLOTS_IN_USE.read = lambda: self._in_use
        observe.SLOTS_WAITING.read = lambda: len(self._waiting)

    async def take(self, rank: Rank, latest: float, counted: Waiting) -> None:
        """
        Take a slot, waiting for one if need be.

        Args:
            latest: the moment (Unix seconds) past which it is of no use. Raises `DeadlinePassed` then.
            counted: the call's place among all that wait; taken if it has to wait. Raises `QueueFull`.
        """
        if self._in_use < self._count:
            self._in_use += 1
            return
        counted.become("slot")
        counted.take()
        await self._stand(rank, latest)

    async def _stand(self, rank: Rank, latest: float) -> None:
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        bisect.insort(self._waiting, (rank, called))
        bound = self._clock.timeout(latest - self._clock.now())
        try:
            async with bound:
                await called
        except BaseException as error:
            self._leave(rank, called)
            if isinstance(error, TimeoutError) and bound.expired():
                raise DeadlinePassed("the call's deadline passed before upstream could be asked") from error
            raise

    def _leave(self, rank: Rank, called: asyncio.Future[None]) -> None:
        if called.done() and not called.cancelled():
            self.give_back()  # it was called at the very moment at which it left
            return
        at = bisect.bisect_left(self._waiting, (rank,))
        if at < len(self._waiting) and self._waiting[at][1] is called:
            del self._waiting[at]

    def give_back(self) -> None:
        """Give a slot back; the first in line has it at once."""
        while self._waiting:
            _, called = self._waiting.pop(0)
            if not called.done():  # else it is cancelled, and about to leave
                called.set_result(None)
                return
        self._in_use -= 1
