"""
How tickets end: by one script, the first end counts. What a ticket in our hands ended by is said until Redis has heard it.

Such an end may be the only copy of an answer that was paid for, and nobody can know that it counts before it is recorded:
another may have been first. So whoever hands out an answer to all who come with a key asks first (`Hold.counts`), and ends are
said before anything else when Redis is back, and when this process leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from typing import Any

import structlog

from headrace import keys, observe
from headrace.aside import aloof
from headrace.clock import Clock
from headrace.errors import HeadraceError, RedisAway
from headrace.insist import insist
from headrace.link import Link, Script
from headrace.model import Answer, Source
from headrace.retry.holds import Hold, Holds
from headrace.retry.ticket import Keep, encode_end
from headrace.seal import Seal

log = structlog.get_logger()

_FINISH = Script(__package__, "finish.lua", after=("books.lua", "held.lua", "moved.lua"), is_sure=True)

_AGAIN_S = 0.25


class Ends:
    """Ends tickets."""

    def __init__(self, link: Link, clock: Clock, held: Holds, keep: Keep, seal: Seal) -> None:
        self._link = link
        self._clock = clock
        self._held = held
        self._keep_ms, self._letters = round(1e3 * keep.results_s), (round(1e3 * keep.letters_s), keep.letters)
        self._seal = seal
        self._unheard = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Ends [{len(self._unsaid())} unheard]>"

    async def finish(
        self,
        ticket_id: str,
        *,
        answer: Answer | None = None,
        error: HeadraceError | None = None,
        source: Source = Source.UPSTREAM,
        attempts: int = -1,
        condition: str = "",
        by: Hold | None = None,
        waited_s: float = 0.0,
    ) -> bool:
        """
        End a ticket, by an answer or by an error, and tell who waits. The first end wins; return whether it was this one.

        What a ticket in our hands ended by is not lost when Redis is away: it is said again until Redis hears it. Until then
        this returns True; whether it counts, `Hold.counts` knows.

        Args:
            by: the hold of the attempt that says so. It counts only while it is the one that holds the ticket: who stood still
                and was succeeded must not end what its successor works on, by whatever came of its attempt.
            waited_s: how long its attempt waited for its turn.
        """
        said = await aloof(answer.payload if answer else b"", encode_end, ticket_id, self._seal, answer, error, source)
        holder, now = by.holder if by is not None else "", repr(self._clock.now())
        args = [ticket_id, os.urandom(8).hex(), *said, attempts, self._keep_ms, condition, self._link.inbox, now, holder]
        args += [*self._letters, keys.live_tickets_of(""), keys.live_bytes_of("")]
        args.append(round(1e6 * (waited_s + by.waited_s if by is not None else 0.0)))
        # An end on a condition may come to nothing, so it is not what a ticket in our hands ends by.
        hold = None if condition else self._held.get(ticket_id)
        if by is not None and hold is not by:
            return False  # it is not in these hands any more, and so is the right to say how it ends
        if hold is None or (hold.ending is not None and by is None):
            idempotency = await self._link.do("HGET", keys.ticket(ticket_id), "idempotency")
            return await self._say(ticket_id, (idempotency or b"").decode(), args, None)
        hold.end_by(args, is_own=by is not None)
        try:
            return await self._say(ticket_id, hold.idempotency, args, hold)
        except RedisAway:
            log.warning(observe.TICKET_DELAYED, ticket=ticket_id, state=said[0])
            return True
        finally:
            if hold.ending is not None:  # whoever said so may be gone, and Redis may not have heard it
                self._unheard.set()

    async def _say(self, ticket_id: str, idempotency: str, args: Sequence[Any], hold: Hold | None) -> bool:
        ticket = keys.ticket(ticket_id)
        names = [ticket, keys.TICKETS, keys.audience(f"ticket:{ticket_id}"), idempotency or ticket, keys.HELD]
        names += [keys.watchers(ticket_id), keys.LETTERS, keys.DUE, keys.LIVE_BYTES]
        won = bool(await self._link.run(_FINISH, names, args))
        is_news = hold is None or hold.ending is not None
        if hold is not None:
            hold.ended(is_first=won)
        # Now that it has ended, whoever holds it works for nothing; one that was not first to end it may hold it no more.
        loser = self._held.get(ticket_id) if won else hold
        if loser is not None and self._held.drop(ticket_id, loser):
            if loser is not hold:
                loser.ended(is_first=False)
            loser.halt()
        if won and is_news:
            observe.TICKETS.inc(args[2])
            log.info(observe.TICKET_ENDED, ticket=ticket_id, state=args[2])
        return won

    # What Redis has not heard.

    def _unsaid(self) -> list[tuple[str, Hold]]:
        return [(ticket_id, hold) for ticket_id, hold in self._held.items() if hold.ending is not None]

    async def say_again(self) -> None:
        """Say what Redis has not heard yet; raises `RedisAway` if it does not hear it now either."""
        unsaid = self._unsaid()
        for some in (unsaid[:1], unsaid[1:]):  # one first: an answer may be large, and Redis still away
            said = [self._say(each, hold.idempotency, hold.ending, hold) for each, hold in some if hold.ending is not None]
            await asyncio.gather(*said)

    async def keep(self) -> None:
        """Say ends until Redis has heard them, until cancelled. Run it as a task."""
        while True:
            if not self._unsaid():
                await self._unheard.wait()
            self._unheard.clear()
            with contextlib.suppress(RedisAway):
                await self.say_again()
            if self._unsaid():
                self._unheard.set()
                await self._clock.sleep(_AGAIN_S)

    async def settle(self) -> None:
        """Say what Redis has not heard yet, for a few seconds, since this process leaves. Raises `RedisAway`."""
        if self._unsaid():
            await insist(self._clock, self.say_again)
