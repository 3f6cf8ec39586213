"""
That what is in our hands stays there, and that nothing else is thought to be: leases are renewed, and compared.

Redis notes what each process holds (held.lua). A command that we gave up while Redis stood still may be done when it goes on,
for nobody: then Redis has a ticket in our hands of which nothing here knows. It is given back, its attempt not made. And a
ticket that Redis has in other hands is lost to us, at the latest when we come to ourselves after standing still.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from headrace import keys
from headrace.clock import Clock, until_set
from headrace.errors import RedisAway, RedisRefused
from headrace.link import Link, Script
from headrace.retry.holds import Hold, Holds

_RENEW = Script(__package__, "renew.lua")

_COMPARE_S = 1.0
_TELL_S = 0.5
_STOOD_STILL_S = 1.0  # later than that, a look may be that of a process which others took for dead

Release = Callable[[str, str], Awaitable[None]]


class Renewals:
    """
    Keeps what this process holds. Run `keep` as a task.

    Args:
        lease_s: how long a ticket runs without a word.
        release: gives a ticket back that Redis has in our hands by mistake, by its id and holder; it may raise `RedisAway`.
    """

    def __init__(self, link: Link, clock: Clock, held: Holds, lease_s: float, release: Release) -> None:
        self._link = link
        self._clock = clock
        self._held = held
        self._lease_us = round(lease_s * 1e6)
        self._every_s = lease_s / 3
        self._release = release
        self._strays: set[bytes] = set()
        self._is_back = asyncio.Event()
        # As one text of bytes, since the end of a range is above all that can follow.
        self._from, self._to = f"[{link.inbox}|".encode(), f"({link.inbox}|".encode() + b"\xff"
        link.on_return(self._is_back.set)

    def __repr__(self) -> str:
        return f"<Renewals [{len(self._strays)} strays]>"

    async def keep(self) -> None:
        """Renew the leases of all tickets in our hands, compare, and tell what holds them, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_leases())
            group.create_task(self._tell())

    async def _keep_leases(self) -> None:
        renewed = looked = self._clock.span()
        while True:
            await self._nap(min(_COMPARE_S, self._every_s))
            now = self._clock.span()
            is_due = self._is_back.is_set() or now - renewed >= self._every_s or now - looked >= _COMPARE_S + _STOOD_STILL_S
            looked = now
            self._is_back.clear()
            with contextlib.suppress(RedisAway):
                if await self._compare(is_due=is_due) or is_due:
                    await self.renew()
                    renewed = now

    async def _nap(self, seconds: float) -> None:
        await until_set(self._is_back, self._clock, seconds)

    async def renew(self) -> None:
        """Renew all leases now; what is in other hands stops here."""
        await asyncio.gather(*(self._renew(ticket_id, hold) for ticket_id, hold in self._held.items()))

    async def _renew(self, ticket_id: str, hold: Hold) -> None:
        names = [keys.ticket(ticket_id), keys.audience(f"ticket:{ticket_id}")]
        hold.told = hold.stopped_by() if hold.is_sought else ""
        if not await self._link.run(_RENEW, names, [hold.holder, self._lease_us, hold.told, ticket_id]):
            self._held.lose(ticket_id, hold)

    async def _tell(self) -> None:
        """Tell those who wait elsewhere which limits hold the calls of tickets in our hands, as they change."""
        while True:
            await self._clock.sleep(min(_TELL_S, self._every_s))
            news = (self._renew(ticket_id, hold) for ticket_id, hold in self._held.with_news())
            await asyncio.gather(*news, return_exceptions=True)

    async def _compare(self, *, is_due: bool) -> bool:
        """Release what is only noted as ours; return whether anything that we hold is not noted any more."""
        try:
            noted = int(await self._link.do("ZLEXCOUNT", keys.HELD, self._from, self._to))
            if noted > len(self._held) or is_due:
                await self._release_strays(await self._link.do("ZRANGEBYLEX", keys.HELD, self._from, self._to))
        except RedisRefused:  # somebody else's value is in its place: leases lapse without it
            return False
        return noted < len(self._held)

    async def _release_strays(self, noted: list[bytes]) -> None:
        # Only at the second look: what is being taken now is noted before we hear of it.
        ours = self._held.holders()
        strays = {each for each in noted if each.partition(b" ")[0].decode(errors="replace") not in ours}
        released, self._strays = strays & self._strays, strays - self._strays
        for each in released:
            holder, _, ticket_id = each.decode(errors="replace").partition(" ")
            await self._release(ticket_id, holder)
