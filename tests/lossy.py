"""
Daemons that borrow over a wire that loses things, and what their calls hold. The ledgers are the real ones.

All say one word at a time, so that the books (books.py) hear the words in the order in which Redis does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from books import Books
from headrace.budget.borrowing import Borrowing
from headrace.budget.quanta import Terms
from headrace.budget.redis import RedisLedger
from headrace.budget.want import Want
from headrace.clock import HandClock
from headrace.errors import RedisAway
from headrace.link import Link, Script
from turned import turned


class Wire:
    """What is said at this moment, by anybody."""

    def __init__(self, url: str, books: Books, now: Callable[[], float]) -> None:
        self.url, self.books, self.now = url, books, now
        self.talks: set[asyncio.Future[Any]] = set()
        self.lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Wire [{len(self.talks)} talks]>"

    async def quiet(self) -> None:
        """Wait until nobody has anything more to say."""
        for _ in range(5):
            await asyncio.sleep(0)
        while self.talks:
            await asyncio.wait(list(self.talks))
            await asyncio.sleep(0)


class Daemon:
    """A process that borrows. What its link says next may be lost on the way (unsent), or the answer to it (lost)."""

    def __init__(self, wire: Wire, number: int) -> None:
        self.name = f"d{number}"
        self.link = Link(wire.url)
        self.link.inbox = f"headrace:inbox:{self.name}"  # the same in each run of an example
        self.clock = HandClock(wire.now())
        self.trouble = ""
        self._wire = wire
        # Between the ledger and Redis, where answers are lost.
        self._run, self.link.run = self.link.run, self.run  # type: ignore[method-assign]
        self.shared = RedisLedger(self.link, clock=self.clock)
        self.ledger = Borrowing(
            self.shared,
            self.link,
            is_open=lambda want: False,
            terms=Terms(0.4, 0.0),
            clock=self.clock,
            monotonic=wire.now,
        )

    def __repr__(self) -> str:
        return self.name

    def run(self, script: Script, names: Sequence[str], args: Sequence[Any]) -> asyncio.Future[Any]:
        trouble, self.trouble = self.trouble, ""
        talk = asyncio.ensure_future(self._talk(trouble, script, names, args))
        self._wire.talks.add(talk)
        talk.add_done_callback(self._wire.talks.discard)
        return talk

    async def _talk(self, trouble, script, names, args):
        if trouble == "unsent":
            raise RedisAway("gone")
        async with self._wire.lock:
            reply = await self._run(turned(script), names, args)
            unsaid = {bucket_id: quantum.spent for bucket_id, quantum in self.ledger._quanta.items()}
            self._wire.books.hear(script.name, names, args, reply, unsaid)
        if trouble == "lost":
            raise RedisAway("gone")
        return reply

    def given_back(self, bucket_id: str) -> int:
        """Return what it has given back of its loans, and what it has yet to tell (tokens)."""
        ledger, unsaid = self.ledger, self.ledger._unsaid
        back = self._wire.books.told[self.link.inbox, bucket_id]
        if bucket_id in ledger._quanta:
            back += ledger._quanta[bucket_id].back
        if unsaid and (self.link.inbox, unsaid.args[1]) not in self._wire.books.done:
            said = zip(unsaid.quanta, unsaid.words, strict=True)
            back += sum(word.back for quantum, word in said if quantum.want.bucket_id == bucket_id)
        return back


@dataclass
class Held:
    """
    One call: of which daemon, under which hold, and what it wants.

    Args:
        is_here: its daemon has granted it by itself.
        left_us: when it left, by Redis's clock.
    """

    by: Daemon
    hold: str
    wants: tuple[Want, ...]
    is_here: bool = False
    left_us: int = 0

    @property
    def waiter(self) -> str:
        return f"{self.by.link.inbox}|{self.hold}"
