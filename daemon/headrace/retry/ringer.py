"""
Rings for tickets whose time has come: each is in a sorted set of ours by its time, and in no job of the queue.

The set is written by the scripts that move tickets, so a ticket that waits is always in it. RQ is the alarm clock alone: one
job for all tickets of one second, which wakes some worker; that takes what is due, and what will be in a moment, in one step.
What is due at once rings in the process where it was queued; and every sweep looks, so a lost alarm costs half a second.

Taken tickets are at hand until they are started. A process that dies with some at hand, or has no hand free for them, holds up
none of them: after a few seconds they are told to whoever asks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from headrace import keys
from headrace.background import Background
from headrace.clock import Clock
from headrace.errors import RedisAway
from headrace.link import Link, Script

_TAKE = Script(__package__, "take.lua")
_HAND_ON = Script(__package__, "hand_on.lua")

_AHEAD_S = 3.0  # what is due so soon is taken already
_EARLY_S = 1.5  # so long before the first of its second an alarm rings
# With a sweep and a start, what a dead process had at hand is made within 4 s of its death, or of its time.
_HOLD_S = 2.0
_BATCH = 100
_REMEMBERED = 1024  # seconds for which an alarm is set
_ALARM = "due-"

Run = Callable[[str, int], Awaitable[None]]


class Clockwork(Protocol):
    """What wakes some worker at a moment, over restarts, too: `rq.Queue`."""

    async def schedule(self, ticket_id: str, attempt: int, due: float) -> None:
        """Have a runner run with this name and number, not before *due*; durable when it returns. Raises `RedisAway`."""


@dataclass(frozen=True, slots=True)
class RingerStats:
    """How many tickets are at hand, and how many may be."""

    at_hand: int
    most: int


class Ringer:
    """
    Runs attempts when they are due. Run `keep` as a task, in a process that works.

    Args:
        run: makes an attempt of a ticket, or finds that it is not awaited; returns when it is in hand.
        most: tickets at hand.
    """

    def __init__(self, link: Link, clock: Clock, clockwork: Clockwork, run: Run, *, most: int) -> None:
        self._link = link
        self._clock = clock
        self._clockwork = clockwork
        self._run = run
        self._most = most
        self._at_hand: dict[tuple[str, int], float] = {}  # by id and attempt, and when it is due
        self._alarms: OrderedDict[int, None] = OrderedDict()
        self._background = Background("ringer", clock)
        self._woken = asyncio.Event()
        self._is_leaving = False
        self.is_resting: Callable[[], bool] = bool
        """Whether what is due is left to others, though this process stays."""

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Ringer [{stats.at_hand} of {stats.most} at hand]>"

    def stats(self) -> RingerStats:
        """Return its state now."""
        return RingerStats(len(self._at_hand), self._most)

    # Setting alarms.

    async def schedule(self, ticket_id: str, attempt: int, due: float) -> None:
        """Have it rung for a ticket that waits for its attempt, at *due* (Unix seconds). Raises `RedisAway`."""
        if due - self._clock.now() < _AHEAD_S:
            self.wake()
            return
        second = int(due - _EARLY_S)
        if second not in self._alarms:
            await self._clockwork.schedule(f"{_ALARM}{second}", 1, float(second))
            self._alarms[second] = None
            if len(self._alarms) > _REMEMBERED:
                self._alarms.popitem(last=False)

    # Ringing.

    async def ring(self, name: str, number: int) -> None:
        """Do what a job of the queue says: look what is due; or run the attempt that it names, one of an earlier version."""
        if name.startswith(_ALARM):
            self.wake()
        else:
            await self._run(name, number)

    def wake(self) -> None:
        """Look what is due."""
        self._woken.set()

    async def keep(self) -> None:
        """Take what is due, whenever something may be, until cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            with contextlib.suppress(RedisAway):  # the next sweep wakes us again
                while await self._take():
                    pass

    async def _take(self) -> bool:
        """Take a batch of what is due; return whether there may be more, and room for it."""
        wanted = min(_BATCH, self._most - len(self._at_hand))
        if wanted <= 0 or self._is_leaving or self.is_resting():
            return False
        # What is due so soon is found, so the hold begins after that: else it would be told anew at once.
        args = [keys.ticket(""), wanted, round(_AHEAD_S * 1e6), round((_AHEAD_S + _HOLD_S) * 1e6)]
        taken = await self._link.run(_TAKE, [keys.DUE], args)
        for name, attempt, left_us in zip(taken[::3], taken[1::3], taken[2::3], strict=True):
            which = name.decode(errors="replace"), int(attempt)
            if which not in self._at_hand:
                self._at_hand[which] = self._clock.span() + int(left_us) / 1e6
                self._background.start(self._attempt(*which), "attempt")
        return len(taken) == 3 * wanted

    async def _attempt(self, ticket_id: str, attempt: int) -> None:
        is_full = False
        try:
            # A sleep may end a hair early.
            while (left_s := self._at_hand[ticket_id, attempt] - self._clock.span()) > 0:
                await self._clock.sleep(left_s)
            with contextlib.suppress(RedisAway):  # it is told again
                await self._run(ticket_id, attempt)
        finally:
            is_full = len(self._at_hand) >= self._most
            del self._at_hand[ticket_id, attempt]
            if is_full:
                self.wake()

    # Leaving.

    async def stop(self) -> None:
        """Let go of what is at hand and not started, so that others come to it at once."""
        self._is_leaving = True
        waiting = dict(self._at_hand)
        await self._background.close()
        now = self._clock.span()
        for (ticket_id, attempt), due in waiting.items():
            if due <= now:
                self._link.run(_HAND_ON, [keys.DUE, keys.ticket(ticket_id)], [ticket_id, attempt])
