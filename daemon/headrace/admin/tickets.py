"""
Tickets of all callers as rows: those that wait, by when they are due; those that run; dead letters; those that ended lately.

Each is found by the set in Redis that names it, so that nothing is walked through but what is shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from headrace import globs, keys
from headrace.admin.rows import TicketRow
from headrace.errors import InvalidCall
from headrace.link import Link
from headrace.owner import name_in
from headrace.records import or_nothing
from headrace.retry.listing import EVERYBODY, Listing
from headrace.retry.ticket import SUMMARY, State, Ticket, readable_ticket
from headrace.seal import Seal

MOST_ROWS = 200
_MOST_READ = 400
_MOST_ENDED = 40
STATES = (*State, "LETTER")


@dataclass(frozen=True, slots=True)
class Filter:
    """Which tickets: globs for caller and model, and a state, or "LETTER"; "" for any."""

    caller: str = "*"
    model: str = "*"
    state: str = ""

    def check(self) -> None:
        """Raise `InvalidCall` for what cannot be."""
        globs.check(self.caller, "caller")
        globs.check(self.model, "model")
        if self.state and self.state not in STATES:
            raise InvalidCall(f"state: {self.state[:20]!r} is none of {', '.join(STATES)}", metadata={"field": "state"})

    def fits(self, row: TicketRow) -> bool:
        """Whether a row is among them."""
        is_state = self.state in ("", row.state) or (self.state == "LETTER" and row.is_letter)
        return is_state and fnmatchcase(row.caller, self.caller or "*") and fnmatchcase(row.model, self.model or "*")


@dataclass(frozen=True, slots=True)
class Counts:
    """How many there are, and when the next attempt is due."""

    queued: int
    running: int
    letters: int
    next_due: float | None


class TicketRows:
    """Reads tickets."""

    def __init__(self, link: Link, listing: Listing, seal: Seal) -> None:
        self._link = link
        self._listing = listing
        self._seal = seal

    def __repr__(self) -> str:
        return "<TicketRows>"

    async def counts(self) -> Counts:
        """Return how many there are; raises `RedisAway`."""
        do = self._link.do
        live, running, letters, first = await asyncio.gather(
            do("ZCARD", keys.TICKETS),
            do("ZCARD", keys.HELD),
            do("ZCARD", keys.LETTERS),
            do("ZRANGE", keys.DUE, 0, 0, "WITHSCORES"),
        )
        return Counts(max(0, live - running), int(running), int(letters), float(first[0][1]) / 1e6 if first else None)

    async def rows(self, wanted: Filter) -> list[TicketRow]:
        """Return the rows that are asked for; raises `RedisAway`."""
        live, letters, ended = await asyncio.gather(
            self._link.do("ZRANGE", keys.TICKETS, 0, _MOST_READ - 1),
            self._link.do("ZRANGE", keys.LETTERS, 0, _MOST_READ - 1, "REV"),
            self._listing.page(EVERYBODY, page_size=_MOST_ENDED),
        )
        ids = [member.decode(errors="replace") for member in live]
        dead = [member.decode(errors="replace").partition("|")[0] for member in letters]
        found = {ticket.id: ticket for ticket in await self._read([*ids, *dead]) if ticket is not None}
        for ticket in ended[0]:
            found.setdefault(ticket.id, ticket)
        rows = [row_of(ticket, is_letter=ticket.id in dead) for ticket in found.values()]
        return sorted(filter(wanted.fits, rows), key=_order)[:MOST_ROWS]

    async def _read(self, ids: Sequence[str]) -> list[Ticket | None]:
        asked = [or_nothing("ticket", each, self._link.do("HMGET", keys.ticket(each), *SUMMARY)) for each in ids]
        values = await asyncio.gather(*asked)
        return [readable_ticket(each, SUMMARY, value, self._seal) for each, value in zip(ids, values, strict=True)]


def row_of(ticket: Ticket, *, is_letter: bool) -> TicketRow:
    """Return a ticket as a row."""
    return TicketRow(
        id=ticket.id,
        caller=name_in(ticket.owner),
        model=ticket.model,
        lane=ticket.lane,
        state=str(ticket.state),
        attempts=ticket.attempts,
        created=ticket.created,
        deadline=ticket.deadline,
        due=ticket.due if ticket.state is State.QUEUED else None,
        ended=ticket.ended or None,
        is_letter=is_letter,
        error=ticket.error.reason if ticket.error is not None else "",
    )


def _order(row: TicketRow) -> tuple[int, float]:
    # What runs, what waits by when it is due, what wants a person, and what is over.
    if row.state == State.RUNNING:
        return 0, row.created
    if row.state == State.QUEUED:
        return 1, row.due or 0.0
    return (2 if row.is_letter else 3), -(row.ended or row.created)
