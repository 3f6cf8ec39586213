"""
What falls through is found here: attempts whose process died, alarms that never rang, calls that nobody wants any more.

Every daemon and every worker sweeps; of several, one gets each ticket. The queue's own recovery may take minutes, so nothing
here waits for it: an attempt made twice is impossible, an alarm rung twice is harmless.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import structlog

from headrace import keys, observe, records
from headrace.clock import Clock
from headrace.errors import HeadraceError, RedisAway, RedisRefused, UpstreamError
from headrace.link import Link, Script
from headrace.retry.making import us
from headrace.retry.ticket import Alarms
from headrace.retry.tickets import Tickets

log = structlog.get_logger()

_RESCUE = Script(__package__, "rescue.lua", after=("held.lua", "moved.lua"))
_LAPSE = Script(__package__, "lapse.lua")
_BATCH = 200
_MOST_CRASHES = 3  # a call whose attempts kill their process is a dead letter then
_MISSED_S = 0.75  # who is killed is missed about a second later
_SILENT_S = 1.5  # who took or renewed a ticket so lately is not dead, though it was not heard yet: it may just have started


class Sweeper:
    """
    Looks after tickets that should have moved. Run `run` as a task.

    Args:
        every_s: how often to sweep.
        again_s: when to look again at what is overdue (the workers are busy).
        grace_s: how long after a deadline to leave a running ticket to its holder.
    """

    def __init__(
        self,
        link: Link,
        clock: Clock,
        tickets: Tickets,
        alarms: Alarms,
        *,
        every_s: float = 0.5,
        again_s: float = 10.0,
        grace_s: float = 5.0,
    ) -> None:
        self._link = link
        self._clock = clock
        self._tickets = tickets
        self._alarms = alarms
        self._args = [_MOST_CRASHES, round(again_s * 1e6), round(grace_s * 1e6)]
        self._every_s = every_s
        self.rescued = 0

    def __repr__(self) -> str:
        return f"<Sweeper [{self.rescued} rescued]>"

    async def run(self) -> None:
        """Sweep until cancelled. Redis away is waited out."""
        while True:
            try:
                self._alarms.wake()  # first, whatever there is to be looked after
                while await self.sweep() == _BATCH:
                    pass
            except RedisAway:
                log.debug(observe.REDIS_LOST)
            await self._clock.sleep(self._every_s)

    async def sweep(self) -> int:
        """Look after the tickets whose time has come; return how many were looked at."""
        await self._let_lapse()
        # By Redis' clock in the script; by ours here, with a little more, only to find candidates.
        now_us = round((self._clock.now() + 1) * 1e6)
        found: list[bytes] = await self._link.do("ZRANGEBYSCORE", keys.TICKETS, "-inf", now_us, "LIMIT", 0, _BATCH)
        ids = [name.decode() for name in found if name.isascii()]
        for name in found:
            if not name.isascii():
                await self._drop(name)
        moves = await asyncio.gather(*(self._rescued(ticket_id) for ticket_id in ids))
        for ticket_id, (what, *alarm) in zip(ids, moves, strict=True):
            if what in (b"overdue", b"lapsed"):
                await self._ring(ticket_id, alarm[0], alarm[1])
            elif what != b"none":
                await self._end(ticket_id, what.decode())
        return len(found) - [what for what, *_ in moves].count(b"none")

    async def _rescued(self, ticket_id: str) -> list[Any]:
        """Return what is to be done for a ticket; one that is none is looked after no more, lest it hold up the others."""
        try:
            what, *alarm = await self._rescue(ticket_id)
            return [what, int(alarm[0]), float(alarm[1])] if alarm else [what]
        except (RedisRefused, ValueError) as error:
            if isinstance(error, RedisRefused) and not records.is_misfit(error):
                raise
            await self._drop(ticket_id)
            return [b"none"]

    async def _drop(self, ticket_id: str | bytes) -> None:
        records.unreadable("ticket", ticket_id)
        await self._link.do("ZREM", keys.TICKETS, ticket_id)

    def _rescue(self, ticket_id: str) -> asyncio.Future[list[Any]]:
        names = [keys.ticket(ticket_id), keys.TICKETS, keys.HELD, keys.PULSE, keys.watchers(ticket_id), keys.DUE]
        return self._link.run(_RESCUE, names, [ticket_id, *self._args])

    async def _let_lapse(self) -> None:
        """Let the leases of dead processes end. Where somebody else's value is in the way, they end by themselves."""
        spans = us(self._tickets.timing.lease_s), round(_SILENT_S * 1e6)
        args = [keys.ticket(""), *spans, _BATCH, keys.missed(""), round(_MISSED_S * 1e6)]
        with contextlib.suppress(RedisRefused):
            await self._link.run(_LAPSE, [keys.HELD, keys.TICKETS, keys.HEARD, keys.PULSE], args)

    async def _ring(self, ticket_id: str, attempt: int, due: float) -> None:
        await self._alarms.schedule(ticket_id, attempt, due)
        self.rescued += 1
        log.warning(observe.TICKET_RESCUED, ticket=ticket_id, attempt=attempt)

    async def _end(self, ticket_id: str, why: str) -> None:
        if why in ("bound", "crashed"):
            await self._tickets.finish(ticket_id, error=_lost(why), condition="lapsed")
        else:
            await self._tickets.end(ticket_id, why)


def _lost(why: str) -> HeadraceError:
    if why == "bound":
        return UpstreamError("the daemon that made this call stopped, and nobody else has its caller's own key", status=502)
    return UpstreamError("the daemons that made this call's attempts stopped, too often to try again", status=502)
