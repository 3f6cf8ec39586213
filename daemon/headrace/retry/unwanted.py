"""What nobody waits for any more is given up: tickets of calls whose RPCs went away, unless somebody else wants the same."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Protocol

from headrace import keys
from headrace.background import Background
from headrace.clock import Clock
from headrace.errors import Abandoned, HeadraceError, RedisAway
from headrace.link import Link
from headrace.retry.waits import Waits

_AGAIN_S = 1.0


class Finish(Protocol):
    """`Tickets.finish`, as far as it is needed here."""

    async def __call__(self, ticket_id: str, *, error: HeadraceError | None, condition: str) -> bool:
        """End a ticket if the condition holds, and return whether it did."""


class Unwanted:
    """
    Gives tickets up.

    Args:
        want_s: how long a ticket is wanted after the last word of whoever waited for it.
    """

    def __init__(self, link: Link, clock: Clock, finish: Finish, waits: Waits, want_s: float) -> None:
        self._link = link
        self._clock = clock
        self._finish = finish
        self._waits = waits
        self._want_s = want_s
        self._background = Background("tickets", clock)

    def __repr__(self) -> str:
        return f"<Unwanted {self._background!r}>"

    async def has_company(self, ticket_id: str) -> bool:
        """Whether anybody waits for a ticket in another process; raises `RedisAway`."""
        inboxes = await self._link.do("ZRANGE", keys.audience(f"ticket:{ticket_id}"), 0, -1)
        return any(inbox.decode(errors="replace") != self._link.inbox for inbox in inboxes)

    async def abandon(self, ticket_id: str, condition: str) -> bool:
        """End a ticket that nobody waits for, on a condition of finish.lua; return whether it ended by this."""
        return await self._finish(ticket_id, error=Abandoned("nobody waits for the call any more"), condition=condition)

    async def abandon_alone(self, ticket_id: str, *, is_bound: bool) -> bool:
        """
        End a ticket in our hands unless somebody waits for it, in whatever process; return whether it ended.

        One that *is_bound* to its caller's own key can be made by nobody else, so it ends in any case.
        """
        with contextlib.suppress(RedisAway):
            is_sought = ticket_id in self._waits and not is_bound
            return not is_sought and await self.abandon(ticket_id, "" if is_bound else "alone")
        return False

    def cancel_soon(self, ticket_id: str, *, after: asyncio.Task[Any] | None = None, in_s: float = 0.0) -> None:
        """
        Cancel a ticket whose RPC went away, in so many seconds, unless somebody else waits for it by then.

        Redis away is waited out, for as long as it takes the ticket's want to lapse.
        """
        if ticket_id not in self._waits:
            self._background.start(self._cancel_alone(ticket_id, after, in_s), "cancel")

    async def _cancel_alone(self, ticket_id: str, after: asyncio.Task[Any] | None, in_s: float) -> None:
        if after is not None:
            await asyncio.wait([after])
        await self._clock.sleep(in_s)
        give_up = self._clock.span() + self._want_s
        while ticket_id not in self._waits and self._clock.span() < give_up:
            with contextlib.suppress(RedisAway):
                await self.abandon(ticket_id, "alone")
                return
            await self._clock.sleep(_AGAIN_S)
