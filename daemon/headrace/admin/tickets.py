"""
Tickets of all callers as rows: those that wait, by when they are due; those that run; dead letters; those that ended lately.

Each is found by the set in Redis that names it, so that nothing is walked through but what is shown.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from headrace import globs, keys, records
from headrace.admin.rows import TicketRow
from headrace.errors import InvalidCall
from headrace.link import Link
from headrace.owner import name_in
from headrace.retry.listing import EVERYBODY, Listing, Wanted
from headrace.retry.ticket import State, Ticket

MOST_ROWS = 200
_MOST_READ = 400
_MOST_ENDED = 40
LETTER = "LETTER"
STATES = (*State, LETTER)


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

    def fits(self, ticket: Ticket, *, is_letter: bool) -> bool:
        """Whether a ticket is among them."""
        return self._wanted.fits(ticket) and (self.state != LETTER or is_letter)

    @property
    def _wanted(self) -> Wanted:
        state = State(self.state) if self.state not in ("", LETTER) else None
        return Wanted(state=state, caller=self.caller or "*", model=self.model or "*")


@dataclass(frozen=True, slots=True)
class Counts:
    """How many there are, and when the next attempt is due."""

    queued: int
    running: int
    letters: int
    next_due: float | None


class TicketRows:
    """Reads tickets."""

    def __init__(self, link: Link, listing: Listing) -> None:
        self._link = link
        self._listing = listing

    def __repr__(self) -> str:
        return "<TicketRows>"

    async def counts(self) -> Counts:
        """Return how many there are; raises `RedisAway`."""
        live, running, letters, first = await asyncio.gather(
            self._of("ZCARD", keys.TICKETS),
            self._of("ZCARD", keys.HELD),
            self._of("ZCARD", keys.LETTERS),
            self._of("ZRANGE", keys.DUE, 0, 0, "WITHSCORES"),
        )
        due = float(first[0][1]) / 1e6 if first else None
        return Counts(max(0, (live or 0) - (running or 0)), int(running or 0), int(letters or 0), due)

    async def _of(self, command: str, key: str, *arguments: object) -> Any:
        return await records.or_nothing("ticket", key, self._link.do(command, key, *arguments))

    async def rows(self, wanted: Filter) -> list[TicketRow]:
        """Return the rows that are asked for; raises `RedisAway`."""
        live, letters, ended = await asyncio.gather(
            self._of("ZRANGE", keys.TICKETS, 0, _MOST_READ - 1),
            self._of("ZRANGE", keys.LETTERS, 0, _MOST_READ - 1, "REV"),
            self._listing.page(EVERYBODY, page_size=_MOST_ENDED),
        )
        ids = [member.decode(errors="replace") for member in live or ()]
        dead = dict.fromkeys(member.decode(errors="replace").partition("|")[0] for member in letters or ())
        found = {ticket.id: ticket for ticket in await self._listing.read([*ids, *dead]) if ticket is not None}
        for ticket in ended[0]:
            found.setdefault(ticket.id, ticket)
        fitting = [ticket for ticket in found.values() if wanted.fits(ticket, is_letter=ticket.id in dead)]
        rows = [row_of(ticket, is_letter=ticket.id in dead) for ticket in fitting]
        return sorted(rows, key=_order)[:MOST_ROWS]


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
