"""
Tickets of all callers as rows: those that wait, by when they are due; those that run; dead letters; those that ended lately.

Each is found by the set in Redis that names it, so that little is walked through but what is shown. What is asked for by a
filter comes page by page: what has not ended, the next due first; all else the newest first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace import globs, keys, records
from headrace.admin.rows import TicketRow
from headrace.errors import InvalidCall
from headrace.explain import Reasons
from headrace.link import Link
from headrace.owner import name_in
from headrace.retry.listing import EVERYBODY, Listing, Wanted
from headrace.retry.pages import Place, ahead, behind, place, walk
from headrace.retry.ticket import State, Ticket

MOST_ROWS, PAGE = 200, 100
_MOST_ENDED = 40
LETTER = "LETTER"
LIVE = (State.QUEUED, State.RUNNING)
STATES = (*State, LETTER)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which tickets: globs for caller and model, a state, or "LETTER", "" for any; and which page, by its token."""

    caller: str = ""
    model: str = ""
    state: str = ""
    page: str = ""

    def check(self) -> None:
        """Raise `InvalidCall` for what cannot be."""
        globs.check(self.caller, "caller")
        globs.check(self.model, "model")
        place(self.page, "this page")
        if self.state and self.state not in STATES:
            raise InvalidCall(f"state: {self.state[:20]!r} is none of {', '.join(STATES)}", metadata={"field": "state"})

    @property
    def wanted(self) -> Wanted:
        """The same for whoever lists; a dead letter's own state is FAILED."""
        state = State.FAILED if self.state == LETTER else State(self.state) if self.state else None
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

    def __init__(self, link: Link, listing: Listing, reasons: Reasons) -> None:
        self._link = link
        self._listing = listing
        self._reasons = reasons

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

    async def rows(self, wanted: Filter, lines: Mapping[str, str]) -> tuple[list[TicketRow], str]:
        """
        Return the rows that are asked for, and the token of the next page of them, "" of none; raises `RedisAway`.

        *lines* is as `Reasons.of` has it.
        """
        tickets, token = await self._tickets(wanted)
        letters, why = await asyncio.gather(self._letters(tickets), self._reasons.of(tickets, lines))
        rows = [row_of(each, is_letter=each.id in letters, waits_for=why.get(each.id, "")) for each in tickets]
        return sorted(rows, key=_order)[:MOST_ROWS], token

    async def _tickets(self, wanted: Filter) -> tuple[list[Ticket], str]:
        if wanted == Filter():
            return await self._overview(), ""
        if wanted.state in LIVE:
            at = place(wanted.page, "this page") if wanted.page else Place(0)
            return await self._walk(wanted, at, lambda at, most: ahead(self._link, keys.TICKETS, at, most))
        if wanted.state == LETTER:
            at = place(wanted.page, "this page")
            return await self._walk(wanted, at, lambda at, most: behind(self._link, keys.LETTERS, at, most))
        return await self._listing.page(EVERYBODY, wanted.wanted, page_size=PAGE, page_token=wanted.page)

    async def _walk(
        self, wanted: Filter, at: Place, more: Callable[[Place, int], Awaitable[list[Place]]]
    ) -> tuple[list[Ticket], str]:
        async def read(found: Sequence[Place]) -> list[Ticket | None]:
            tickets = await self._listing.read([each.member.partition("|")[0] for each in found])
            return [each if each is not None and wanted.wanted.fits(each) else None for each in tickets]

        return await walk(at, PAGE, more, read)

    async def _overview(self) -> list[Ticket]:
        """Return what has not ended, what wants a person, and what ended last, as much of each as there is room for."""
        live, letters, ended = await asyncio.gather(
            self._of("ZRANGE", keys.TICKETS, 0, MOST_ROWS - 1),
            self._of("ZRANGE", keys.LETTERS, 0, MOST_ROWS - 1, "REV"),
            self._listing.page(EVERYBODY, page_size=_MOST_ENDED),
        )
        ids = [member.decode(errors="replace").partition("|")[0] for member in (*(live or ()), *(letters or ()))]
        found = [*await self._listing.read(ids), *ended[0]]
        return list({ticket.id: ticket for ticket in found if ticket is not None}.values())

    async def _letters(self, tickets: Sequence[Ticket]) -> set[str]:
        """Return the ids of those that are dead letters."""
        failed = [ticket for ticket in tickets if ticket.state is State.FAILED]
        if not failed:
            return set()
        since = await self._of("ZMSCORE", keys.LETTERS, *(f"{each.id}|{each.owner}" for each in failed)) or [None] * len(failed)
        return {each.id for each, at in zip(failed, since, strict=True) if at is not None}


def row_of(ticket: Ticket, *, is_letter: bool, waits_for: str = "") -> TicketRow:
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
        waits_for=waits_for,
    )


def _order(row: TicketRow) -> tuple[int, float]:
    # What runs, what waits by when it is due, what wants a person, and what is over.
    if row.state == State.RUNNING:
        return 0, row.created
    if row.state == State.QUEUED:
        return 1, row.due or 0.0
    return (2 if row.is_letter else 3), -(row.ended or row.created)
