"""
Dead letters: tickets that stood for themselves and failed for good, kept for a person.

One is made where a ticket ends (finish.lua), so there is none without its ticket. It is looked at, made a ticket again, with
all its attempts before it, or dropped. What was asked goes to its owner alone, whoever else may handle it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from headrace import keys, records
from headrace.clock import Clock
from headrace.errors import InvalidCall, TicketNotFound
from headrace.insist import insist
from headrace.link import Link, Script
from headrace.model import Call
from headrace.retry.pages import Place, behind, place, walk
from headrace.retry.ticket import ASKED, RUN, SUMMARY, Ticket
from headrace.retry.tickets import Tickets
from headrace.retry.waits import not_found

_DROP = Script(__package__, "drop.lua")
_ERASE = Script(__package__, "erase.lua")
_COUNT = Script(__package__, "letters.lua")
_MOST_TRIMMED = 1000  # at a look, of those whose time is over

_LONGEST_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter: its ticket, with its call as far as that was read, and when it failed (Unix seconds)."""

    ticket: Ticket
    failed: float


class Letters:
    """All dead letters. An *owner* is `Owner.text`; whoever may see them only through one sees no others."""

    def __init__(self, link: Link, clock: Clock, tickets: Tickets) -> None:
        self._link = link
        self._clock = clock
        self._tickets = tickets

    def __repr__(self) -> str:
        return "<Letters>"

    async def page(
        self, owner: str = "", *, model: str = "*", page_size: int = 50, page_token: str = ""
    ) -> tuple[list[Letter], str]:
        """
        Return a page of an owner's letters ("": everybody's), the latest failure first, and the token of the next page.

        Raises `InvalidCall` for a token that is none, and `RedisAway`.
        """
        at = place(page_token, "ListLetters")
        return await insist(self._clock, lambda: self._page(owner, model, at, page_size))

    async def _page(self, owner: str, model: str, at: Place, page_size: int) -> tuple[list[Letter], str]:
        async def read(found: Sequence[Place]) -> list[Letter | None]:
            return await asyncio.gather(*(self._read(each, owner, model) for each in found))

        return await walk(at, page_size, lambda at, most: behind(self._link, keys.LETTERS, at, most), read)

    async def _read(self, at: Place, owner: str, model: str) -> Letter | None:
        ticket_id, _, whose = at.member.partition("|")
        if owner not in ("", whose):
            return None
        try:
            ticket = await self._tickets.looks.read(ticket_id, ASKED)
        except TicketNotFound:
            return None  # it has just gone
        is_asked_for = ticket.owner == whose and fnmatchcase(ticket.model, model)
        return Letter(ticket, at.score / 1e6) if is_asked_for else None

    async def count(self) -> int:
        """Return how many there are; raises `RedisAway`."""
        return await count_letters(self._link)

    async def get(self, ticket_id: str, owner: str = "") -> Letter:
        """Return a letter with its call; raises `TicketNotFound` for what is none, or not the owner's, and `RedisAway`."""
        return await insist(self._clock, lambda: self._get(ticket_id, owner))

    async def _get(self, ticket_id: str, owner: str) -> Letter:
        ticket = await self._tickets.looks.read(ticket_id, RUN)
        failed = await self._link.do("ZSCORE", keys.LETTERS, f"{ticket_id}|{ticket.owner}")
        if failed is None or owner not in ("", ticket.owner):
            raise not_found(ticket_id)
        return Letter(ticket, float(failed) / 1e6)

    async def requeue(self, ticket_id: str, owner: str = "", *, lasts_s: float | None = None) -> Ticket:
        """
        Make a ticket of a letter again, due at once, and return it; *lasts_s* is its time from now, else as long as at first.

        Raises as `get` does, `InvalidCall` if its call cannot be made again, and `QueueFull` as `Tickets.submit` does.
        """
        ticket = (await self.get(ticket_id, owner)).ticket
        if ticket.call is None or ticket.is_bound:
            raise InvalidCall("the call cannot be made again: it needs its caller's own key, which is not kept")
        call = _anew(ticket.call, self._clock.now(), min(lasts_s or ticket.deadline - ticket.created, _LONGEST_S))
        await insist(self._clock, lambda: self._tickets.requeue(ticket, call))
        return await self._tickets.looks.read(ticket_id, ASKED)

    async def drop(self, ticket_id: str, owner: str = "") -> None:
        """Take a letter away for good, its ticket with it; raises as `get` does."""
        ticket = (await self.get(ticket_id, owner)).ticket
        names = [keys.ticket(ticket_id), keys.LETTERS, keys.tickets_of(ticket.owner)]
        await self._take_away(_DROP, names, ticket)

    async def erase(self, ticket_id: str) -> None:
        """
        Take anybody's ticket that has ended away for good, a dead letter or not; its idempotency key goes with it.

        Raises `TicketNotFound`, `InvalidCall` for one that has not ended, and `RedisAway`.
        """
        ticket = await insist(self._clock, lambda: self._tickets.looks.read(ticket_id, SUMMARY))
        if not ticket.state.is_terminal:
            said = f"ticket {ticket_id} is {ticket.state}: only one that has ended can be dropped; cancel it first"
            raise InvalidCall(said, metadata={"field": "id"})
        names = [
            keys.ticket(ticket_id), keys.LETTERS, keys.tickets_of(ticket.owner), ticket.idempotency or keys.ticket(ticket_id),
            keys.trail(ticket_id),
        ]  # fmt: skip
        await self._take_away(_ERASE, names, ticket)

    async def _take_away(self, script: Script, names: list[str], ticket: Ticket) -> None:
        is_gone = await insist(self._clock, lambda: self._link.run(script, names, [ticket.id, ticket.owner]))
        # Said twice, since the reply was lost, it finds nothing: the ticket is gone, as was asked, unless it is one again.
        if not is_gone and await insist(self._clock, lambda: self._link.do("EXISTS", keys.ticket(ticket.id))):
            raise not_found(ticket.id)


def _anew(call: Call, now: float, lasts_s: float) -> Call:
    ends = None if call.ends is None else now + lasts_s
    return replace(call, arrival=now, deadline=now + lasts_s, ends=ends)


async def count_letters(link: Link) -> int:
    """Return how many dead letters there are, of all callers; raises `RedisAway`."""
    asked = link.run(_COUNT, (keys.LETTERS,), (keys.ticket(""), _MOST_TRIMMED))
    return int(await records.or_nothing("ticket", keys.LETTERS, asked) or 0)
