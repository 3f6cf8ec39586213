"""
Waiting for tickets to end: who waits in this process, and how it learns of an end.

A nudge wakes us at a ticket's end; should that be lost, the next look finds it. Each look also says that somebody waits: by
that, a ticket that goes with its RPC is kept wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from headrace import keys, observe, records
from headrace.clock import Clock, until_set
from headrace.errors import RedisAway, TicketLost, TicketNotFound
from headrace.link import Link, Script
from headrace.nudges import Nudges
from headrace.retry.policy import jitter
from headrace.retry.ticket import State, Timing

log = structlog.get_logger()

_LOST_S = 60.0  # by then whoever waits has looked

_LOOK = Script(__package__, "look.lua")


Heed = Callable[[str], None]


def heedless(held: str) -> None:
    """Do nothing about what holds a call elsewhere."""


class Waits:
    """All waits for tickets in this process, by ticket."""

    def __init__(self, link: Link, clock: Clock, timing: Timing) -> None:
        self._link = link
        self._clock = clock
        self._timing = timing
        self._nudges = Nudges()
        link.on_connect(self._nudges.nudge_all)
        self._lost_at = 0.0

    def __repr__(self) -> str:
        return f"<Waits [{len(self)} waited for]>"

    def __len__(self) -> int:
        return len(self._nudges)

    def __contains__(self, ticket_id: str) -> bool:
        return ticket_id in self._nudges

    def nudge(self, ticket_id: str) -> None:
        """Let whoever waits for a ticket look again now."""
        self._nudges.nudge(ticket_id)

    async def ended(self, ticket_id: str, heed: Heed = heedless) -> None:
        """
        Wait until a ticket has ended; raises `TicketNotFound`. Redis away is waited out.

        Args:
            heed: is told which limit holds its call elsewhere, "" if none does; at each look.
        """
        with self._nudges.of(ticket_id) as nudged:
            await self._ended(ticket_id, nudged, heed)

    async def _ended(self, ticket_id: str, nudged: asyncio.Event, heed: Heed) -> None:
        while True:
            nudged.clear()
            with contextlib.suppress(RedisAway):
                state, held = await self._look(ticket_id)
                if state.is_terminal:
                    return
                heed(held)
            # A little different each time: thousands that wait must not all look at once.
            await until_set(nudged, self._clock, self._timing.want_s / 6 * jitter())

    def lost(self, missing: TicketNotFound) -> TicketLost:
        """
        Return what to tell who waits for a ticket that was there, and is *missing* now.

        The log says once that Redis has lost data: all that waited will find it out one by one, over the next seconds.
        """
        now = self._clock.now()
        if now - self._lost_at > _LOST_S:
            log.error(observe.REDIS_LOST_DATA)
        self._lost_at = now
        return TicketLost("Redis lost the ticket: ask again", retry_after_s=1.0, metadata=missing.metadata)

    async def look(self, ticket_id: str) -> bool:
        """Say that somebody waits for a ticket, and return whether it has ended; raises `TicketNotFound` and `RedisAway`."""
        state, _ = await self._look(ticket_id)
        return state.is_terminal

    async def _look(self, ticket_id: str) -> tuple[State, str]:
        want_us = round(self._timing.want_s * 1e6)
        names = [keys.ticket(ticket_id), keys.audience(f"ticket:{ticket_id}")]
        said = await self._link.run(_LOOK, names, [self._link.inbox, want_us, want_us, ticket_id])
        state, held = (each.decode(errors="replace") for each in said)
        if not state:
            raise not_found(ticket_id)
        if state not in set(State):
            records.unreadable("ticket", ticket_id)
            raise not_found(ticket_id)
        return State(state), held


def not_found(ticket_id: str) -> TicketNotFound:
    """Return the refusal of who asks for a ticket that is not there, or is not its own."""
    return TicketNotFound("there is no such ticket", metadata={"ticket": ticket_id})
