"""Looking at tickets: one as it is now, or has ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from headrace import keys, records
from headrace.aside import aloof
from headrace.clock import Clock
from headrace.errors import RedisAway, RedisRefused
from headrace.link import Link
from headrace.retry.ticket import FULL, Ticket, readable_ticket
from headrace.retry.waits import not_found
from headrace.seal import UNSEALED, Seal

_READ_AGAIN_S = 0.5


class Looks:
    """Reads tickets."""

    def __init__(self, link: Link, clock: Clock, seal: Seal = UNSEALED) -> None:
        self._seal = seal
        self._link = link
        self._clock = clock

    async def read(self, ticket_id: str, fields: tuple[str, ...]) -> Ticket:
        """Return these fields of a ticket as it is now; raises `TicketNotFound`."""
        return await self._read(ticket_id, fields, self._link.do)

    async def whole(self, ticket_id: str) -> Ticket:
        """Return a ticket as it is now, its answer with it; raises `TicketNotFound`. No failover takes back how it ended."""
        return await self._read(ticket_id, FULL, self._link.read_surely)

    async def _read(self, ticket_id: str, fields: tuple[str, ...], ask: Callable[..., Awaitable[Any]]) -> Ticket:
        values = await records.or_nothing("ticket", ticket_id, ask("HMGET", keys.ticket(ticket_id), *fields))
        heaviest = max(values or (), key=lambda value: len(value or b""), default=None)
        ticket = await aloof(heaviest or b"", readable_ticket, ticket_id, fields, values, self._seal)
        if ticket is None:
            raise not_found(ticket_id)
        return ticket

    async def ended(self, ticket_id: str) -> Ticket:
        """Read a ticket that is said to have ended; Redis away is waited out, for its answer may have been paid for."""
        while True:
            try:
                return await self.whole(ticket_id)
            except RedisRefused:
                raise
            except RedisAway:
                await self._clock.sleep(_READ_AGAIN_S)
