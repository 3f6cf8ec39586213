"""Lists of tickets: one owner's or everybody's, newest first, page by page, by whatever is asked of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from headrace import keys, records
from headrace.clock import Clock
from headrace.insist import insist
from headrace.link import Link
from headrace.owner import name_in
from headrace.retry.pages import Place, behind, place, walk
from headrace.retry.ticket import SUMMARY, State, Ticket, readable_ticket
from headrace.seal import UNSEALED, Seal

EVERYBODY = "*"


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    Which tickets.

    Args:
        state, lane: None and "" for any.
        model, caller: globs, the caller's of its name.
        since, until: when they were made (Unix seconds), from this moment on and before that one.
    """

    state: State | None = None
    model: str = "*"
    caller: str = "*"
    lane: str = ""
    since: float = 0.0
    until: float | None = None

    def fits(self, ticket: Ticket) -> bool:
        """Whether a ticket is among them, its time apart."""
        is_state = self.state in (None, ticket.state)
        is_lane, is_callers = self.lane in ("", ticket.lane), fnmatchcase(name_in(ticket.owner), self.caller)
        return is_state and is_lane and is_callers and fnmatchcase(ticket.model, self.model)


class Listing:
    """Lists tickets, as all processes know them."""

    def __init__(self, link: Link, clock: Clock, seal: Seal = UNSEALED) -> None:
        self._link = link
        self._clock = clock
        self._seal = seal

    def __repr__(self) -> str:
        return "<Listing>"

    async def page(
        self, owner: str, wanted: Wanted | None = None, *, page_size: int = 50, page_token: str = ""
    ) -> tuple[list[Ticket], str]:
        """
        Return a page of an owner's tickets (`Owner.text`; "*": everybody's), without answers, and the token of the next page.

        Raises `InvalidCall` for a token that is none, and `RedisAway`.
        """
        wanted = wanted or Wanted()
        at = place(page_token, "ListTickets")
        if wanted.until is not None:
            at = min(at, Place(round(wanted.until * 1e6)))
        return await insist(self._clock, lambda: self._page(owner, wanted, at, page_size))

    async def _page(self, owner: str, wanted: Wanted, at: Place, page_size: int) -> tuple[list[Ticket], str]:
        names = [keys.tickets_of(each) for each in await self._owners(owner, wanted.caller)]

        def is_asked_for(ticket: Ticket) -> bool:
            return owner in (EVERYBODY, ticket.owner) and wanted.fits(ticket)

        async def read(found: Sequence[Place]) -> list[Ticket | None]:
            tickets = await self.read([each.member for each in found])
            return [ticket if ticket is not None and is_asked_for(ticket) else None for ticket in tickets]

        return await walk(at, page_size, lambda at, most: self._behind(names, at, most, round(wanted.since * 1e6)), read)

    async def _owners(self, owner: str, caller: str) -> Sequence[str]:
        if owner != EVERYBODY:
            return [owner]
        asked = self._link.do("ZRANGE", keys.OWNERS, 0, -1)
        known = [each.decode(errors="replace") for each in await records.or_nothing("ticket", keys.OWNERS, asked) or []]
        return [each for each in known if fnmatchcase(name_in(each), caller)]

    async def _behind(self, names: Sequence[str], at: Place, most: int, least: int) -> list[Place]:
        parts = await asyncio.gather(*(behind(self._link, name, at, most, least=least) for name in names))
        return sorted((each for part in parts for each in part), reverse=True)[:most]

    async def read(self, ids: Sequence[str]) -> list[Ticket | None]:
        """Return these tickets, without answers; None in place of one that is gone. Raises `RedisAway`."""
        asked = (self._link.do("HMGET", keys.ticket(ticket_id), *SUMMARY) for ticket_id in ids)
        rows = await asyncio.gather(*(records.or_nothing("ticket", each, row) for each, row in zip(ids, asked, strict=True)))
        return [readable_ticket(ticket_id, SUMMARY, row, self._seal) for ticket_id, row in zip(ids, rows, strict=True)]
