"""Looking at tickets: one as it is now, or has ended, and a page of an owner's."""

from __future__ import annotations

import asyncio

from headrace import keys, records
from headrace.aside import aloof
from headrace.clock import Clock
from headrace.errors import InvalidCall, RedisAway, RedisRefused
from headrace.link import Link
from headrace.retry.ticket import FULL, SUMMARY, State, Ticket, readable_ticket
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
        values = await records.or_nothing("ticket", ticket_id, self._link.do("HMGET", keys.ticket(ticket_id), *fields))
        heaviest = max(values or (), key=lambda value: len(value or b""), default=None)
        ticket = await aloof(heaviest or b"", readable_ticket, ticket_id, fields, values, self._seal)
        if ticket is None:
            raise not_found(ticket_id)
        return ticket

    async def ended(self, ticket_id: str) -> Ticket:
        """Read a ticket that has ended; Redis away is waited out, for its answer may have been paid for."""
        while True:
            try:
                return await self.read(ticket_id, FULL)
            except RedisRefused:
                raise
            except RedisAway:
                await self._clock.sleep(_READ_AGAIN_S)

    async def page(
        self, owner: str, *, page_size: int = 50, page_token: str = "", state: State | None = None
    ) -> tuple[list[Ticket], str]:
        """Return a page of an owner's tickets, newest first and without answers, and the token of the next page."""
        name = keys.tickets_of(owner)
        start = 0
        if page_token:
            rank = await self._link.do("ZREVRANK", name, page_token)
            if rank is None:
                raise InvalidCall("page_token is not one that ListTickets returned lately")
            start = rank + 1
        found = await self._link.do("ZREVRANGE", name, start, start + page_size - 1)
        ids = [ticket_id.decode(errors="replace") for ticket_id in found]
        asked = (self._link.do("HMGET", keys.ticket(ticket_id), *SUMMARY) for ticket_id in ids)
        rows = await asyncio.gather(*(records.or_nothing("ticket", each, row) for each, row in zip(ids, asked, strict=True)))
        tickets = [readable_ticket(ticket_id, SUMMARY, row, self._seal) for ticket_id, row in zip(ids, rows, strict=True)]
        page = [ticket for ticket in tickets if ticket and ticket.owner == owner and state in (None, ticket.state)]
        return page, ids[-1] if len(ids) == page_size else ""
