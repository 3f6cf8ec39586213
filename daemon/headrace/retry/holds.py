"""
What is in this process's hands: the tickets whose attempts it makes, and how to stop such an attempt.

A hold is lost when its ticket ends elsewhere (canceled, expired) or its lease went to another process; then whatever is being
done for it should stop at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.errors import Canceled


@dataclass(slots=True)
class Hold:
    """
    One ticket in this process's hands.

    Args:
        holder: "<inbox>|<token>", which Redis knows the hold by.
        idempotency: the Redis key of the ticket's idempotency key, if it has one.
        is_bound: it needs its caller's own key, which only this process has.
        task, stop: who does its work inside `Holds.doing`, and what stops that.
        waited_s: how long the ticket waited in the queue for this.
        ending: a finish that Redis has not heard yet.
        stopped_by: returns the limit that holds its call now, "" if none does; told is what those heard who seek it elsewhere.
        is_sought: somebody waits for it elsewhere.
        is_lost: Redis gave the ticket to others, or it had ended before we said how.
    """

    holder: str
    idempotency: str = ""
    is_bound: bool = False
    task: asyncio.Task[Any] | None = None
    stop: Callable[[], None] | None = None
    waited_s: float = 0.0
    ending: Sequence[Any] | None = None
    is_lost: bool = False
    stopped_by: Callable[[], str] = str
    told: str = ""
    is_sought: bool = False
    _heard: asyncio.Future[bool] | None = None
    _is_own: bool = False

    def end_by(self, ending: Sequence[Any], *, is_own: bool) -> None:
        """Keep what the ticket ends by until Redis has heard it: what came of our attempt, or else."""
        self.ending, self._is_own = ending, is_own
        self._heard = asyncio.get_running_loop().create_future()

    def ended(self, *, is_first: bool) -> None:
        """Redis has heard the end, and it was the first one, or not."""
        self.ending, self.is_lost = None, not (is_first and self._is_own)
        if self._heard is not None and not self._heard.done():
            self._heard.set_result(is_first)

    async def counts(self) -> bool:
        """Wait until Redis has heard how the ticket ended, if we said so; return whether what came of our attempt counts."""
        if self._heard is not None:
            await asyncio.shield(self._heard)
        return not self.is_lost

    def halt(self) -> None:
        """Stop the work, unless it is the work itself that says so."""
        if self.stop is not None and self.task is not asyncio.current_task():
            self.stop()


class Holds:
    """All tickets in this process's hands, by id."""

    def __init__(self, inbox: str) -> None:
        self._inbox = inbox
        self._by_id: dict[str, Hold] = {}
        self._asked: set[str] = set()
        self._emptied = asyncio.Event()

    async def empty(self) -> None:
        """Wait until there is none."""
        while self._by_id:
            self._emptied.clear()
            await self._emptied.wait()

    def __len__(self) -> int:
        return len(self._by_id)

    def new(self) -> Hold:
        """Return a hold to be `put` once Redis agreed to it."""
        return Hold(f"{self._inbox}|{os.urandom(8).hex()}")

    @contextlib.contextmanager
    def asking(self, hold: Hold) -> Iterator[None]:
        """Remember that Redis is asked for this hold: it may be noted there before we hear of it."""
        self._asked.add(hold.holder)
        try:
            yield
        finally:
            self._asked.discard(hold.holder)

    def holders(self) -> set[str]:
        """Return by which names Redis knows our holds, those included for which it is being asked."""
        return self._asked | {hold.holder for hold in self._by_id.values()}

    def put(self, ticket_id: str, hold: Hold) -> None:
        """Take a ticket in; the work of an older hold on it stops, since Redis gave it to this one."""
        older = self._by_id.get(ticket_id)
        self._by_id[ticket_id] = hold
        if older is not None:
            older.ended(is_first=False)
            older.halt()

    def get(self, ticket_id: str) -> Hold | None:
        return self._by_id.get(ticket_id)

    def expect(self, ticket_id: str) -> Hold:
        """Return the hold on a ticket; raises `Canceled` if it is not in our hands any more."""
        if hold := self._by_id.get(ticket_id):
            return hold
        raise Canceled("the ticket ended before its attempt began")

    def drop(self, ticket_id: str, hold: Hold) -> bool:
        """Let a ticket go, if it is this hold that has it; the work goes on. Return whether it was."""
        if self._by_id.get(ticket_id) is not hold:
            return False
        del self._by_id[ticket_id]
        if not self._by_id:
            self._emptied.set()
        return True

    def items(self) -> list[tuple[str, Hold]]:
        return list(self._by_id.items())

    def on_sought(self, payload: bytes) -> None:
        """Hear that somebody waits elsewhere for a ticket in our hands, by its id."""
        if (hold := self._by_id.get(payload.decode(errors="replace"))) is not None:
            hold.is_sought = True

    def with_news(self) -> list[tuple[str, Hold]]:
        """Return those that are sought elsewhere, and held by another limit than was told, or by none any more."""
        return [(ticket_id, hold) for ticket_id, hold in self.items() if hold.is_sought and hold.stopped_by() != hold.told]

    def lose(self, ticket_id: str, hold: Hold) -> None:
        """Stop the work for a ticket that is no longer ours, unless it is done and only Redis does not know."""
        if hold.ending is None and self.drop(ticket_id, hold):
            hold.is_lost = True
            hold.halt()

    def on_lost(self, payload: bytes) -> None:
        """Hear that Redis took a ticket from a holder of ours: "<holder> <ticket>"."""
        holder, _, ticket_id = payload.decode(errors="replace").partition(" ")
        hold = self._by_id.get(ticket_id)
        if hold is not None and hold.holder == holder:
            self.lose(ticket_id, hold)

    @contextlib.asynccontextmanager
    async def doing(self, ticket_id: str) -> AsyncIterator[None]:
        """Do the work of a ticket in our hands; raises `Canceled` at once when the hold is lost."""
        hold = self.expect(ticket_id)
        timeout = asyncio.timeout(None)
        try:
            async with timeout:
                hold.task, hold.stop = asyncio.current_task(), lambda: timeout.reschedule(0)
                yield
        except TimeoutError as error:
            if not timeout.expired():
                raise
            raise Canceled("the ticket ended while its attempt ran") from error
        finally:
            hold.stop = None
