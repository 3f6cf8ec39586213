"""
Watching a ticket: told as it is, and again at each change, until it ends.

Whoever changes a ticket tells the processes where it is watched. A word that is lost costs time: each of them looks again after
a few seconds anyhow, and says by that that it goes on watching.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from headrace import keys
from headrace.clock import Clock, until_set
from headrace.errors import TicketNotFound
from headrace.insist import insist
from headrace.link import Link
from headrace.nudges import Nudges
from headrace.owner import Owner
from headrace.retry.looks import Looks
from headrace.retry.policy import jitter
from headrace.retry.ticket import SUMMARY, Ticket
from headrace.retry.waits import Waits, not_found

_AGAIN_S = 5.0
_KEPT_MS = 30_000  # a process is told of changes so long after its last look


class Watching:
    """All who watch tickets in this process."""

    def __init__(self, link: Link, clock: Clock, looks: Looks, waits: Waits) -> None:
        self._link = link
        self._clock = clock
        self._looks = looks
        self._waits = waits
        self._nudges = Nudges()
        link.on("moved", self._on_moved)

    def __repr__(self) -> str:
        return f"<Watching [{len(self._nudges)} watched]>"

    async def changes(self, ticket_id: str, owner: Owner) -> AsyncGenerator[Ticket, None]:
        """
        Yield an owner's ticket now and at each change, in the end with its answer; changes close together come as one.

        Raises `TicketNotFound`, `TicketLost` of one that was told and is there no more, and `RedisAway` when Redis has been
        away for some seconds.
        """
        told = None
        with self._nudges.of(ticket_id) as nudged:
            while True:
                nudged.clear()
                try:
                    ticket = await insist(self._clock, lambda: self._look(ticket_id, owner))
                except TicketNotFound as error:
                    raise self._waits.lost(error) if told is not None else error from None
                if ticket != told:
                    told = ticket
                    yield ticket if not ticket.state.is_terminal else await self._looks.whole(ticket_id)
                if ticket.state.is_terminal:
                    return
                await until_set(nudged, self._clock, _AGAIN_S * jitter())

    async def _look(self, ticket_id: str, owner: Owner) -> Ticket:
        # Heard of first, then read: no change falls between the two. One that is watched is wanted, too.
        name = keys.watchers(ticket_id)
        told = [self._link.do("SADD", name, self._link.inbox), self._link.do("PEXPIRE", name, _KEPT_MS)]
        ticket = await self._looks.read(ticket_id, SUMMARY)
        await asyncio.gather(*told)
        if ticket.owner != owner.text:
            raise not_found(ticket_id)
        if not ticket.state.is_terminal:
            await self._waits.look(ticket_id)
        return ticket

    def _on_moved(self, payload: bytes) -> None:
        self._nudges.nudge(payload.decode(errors="replace"))
