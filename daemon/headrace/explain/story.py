"""
All that is known of one id: the calls that had it, the ticket if there was one, and each try on whichever host.

The id is a call's, ours or its caller's, or a ticket's. A ticket that has not ended has no call that is told yet, and tries
that are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.errors import CallNotFound, TicketNotFound
from headrace.explain.book import Book
from headrace.explain.told import Told
from headrace.retry.looks import Looks
from headrace.retry.ticket import ASKED, Ticket
from headrace.trail import MAX_ID, Trail, Try
from headrace.trails import Trails

_TICKET = "tkt_"


@dataclass(frozen=True, slots=True)
class Story:
    """
    What is known.

    Args:
        calls: that had the id, or the ticket; the first first.
        ticket: without its answer; None if there is none, or none any more.
        tries: of the ticket, of all hosts, in order.
    """

    id: str
    calls: Sequence[Told] = ()
    ticket: Ticket | None = None
    tries: Sequence[Try] = ()


class Stories:
    """Tells what is known of a call."""

    def __init__(self, book: Book, looks: Looks, trails: Trails) -> None:
        self._book = book
        self._looks = looks
        self._trails = trails

    def __repr__(self) -> str:
        return f"<Stories {self._book!r}>"

    async def of(self, id: str, owner: str = "") -> Story:
        """
        Return what is known of an id, as far as it is this owner's ("": everybody's).

        Raises `CallNotFound` if that is nothing, and `RedisAway`.
        """
        calls = [told for told in await self._book.find(id[:MAX_ID]) if owner in ("", told.caller)]
        name = id if id.startswith(_TICKET) else next((told.ticket for told in reversed(calls) if told.ticket), "")
        ticket = await self._ticket(name, owner)
        if not calls and ticket is None:
            raise CallNotFound(
                f"nothing is kept of {id[:80]!r}: no call had that id, or it went smoothly, or it is over a day old",
                metadata={"call": id[:80]},
            )
        trail = Trail()
        if name:
            await self._trails.learn(name, trail)
        return Story(id, calls, ticket, trail.tries)

    async def _ticket(self, name: str, owner: str) -> Ticket | None:
        if not name:
            return None
        try:
            ticket = await self._looks.read(name, ASKED)
        except TicketNotFound:
            return None
        return ticket if owner in ("", ticket.owner) else None
