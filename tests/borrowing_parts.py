"""What tests of borrowing share: a process that borrows and can be in trouble, and what is then in a bucket in Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis

from headrace import keys
from headrace.budget import quanta
from headrace.budget.borrowing import Borrowing
from headrace.budget.bucket import UNITS
from headrace.budget.quanta import Terms
from headrace.budget.redis import RedisLedger
from headrace.budget.want import Form, Want
from headrace.errors import RedisAway
from headrace.link import Link
from headrace.rank import Flow

REQUESTS = Want("org:requests", "org", "requests", Form.RATE, 60_000, 1000, 1)
TOKENS = Want("org:input_tokens", "org", "input_tokens", Form.RATE, 60, 1000, 10)  # one a second: what is there is there
BUDGET = Want("org:spend", "org", "spend", Form.WINDOW, 0, 1000, 10, ends_us=4_000_000_000_000_000)
PERMITS = Want("org:concurrency", "org", "concurrency", Form.PERMIT, 0, 1000, 1)


class Host:
    """A process that borrows: its link can lose answers, and its clock can go on without it."""

    def __init__(self, url: str, terms: Terms | None = None, audit: str = "") -> None:
        self.stands_open: set[str] = set()
        self.link = Link(url)
        self.slept = 0.0
        self.trouble = ""
        self.exchanges = 0
        self.tried: dict[int, tuple[list[str], str]] = {}  # exchanges by number: names, and moves for the audit
        # Between the ledger and Redis, where answers are lost.
        self._run, self.link.run = self.link.run, self.run  # type: ignore[method-assign]
        self.ledger = Borrowing(
            RedisLedger(self.link, audit=audit),
            self.link,
            terms=terms or Terms(0.4, 0.0),
            monotonic=lambda: time.monotonic() + self.slept,
            audit=audit,
            is_open=lambda want: want.bucket_id in self.stands_open,
        )

    def run(self, script, names, args):
        if script.name == "exchange.lua":
            self.exchanges += 1
            self.tried[args[1]] = names, args[3]
            if self.trouble:
                return asyncio.ensure_future(self._lose(script, names, args))
        return self._run(script, names, args)

    async def _lose(self, script, names, args):
        if self.trouble == "lost":
            await self._run(script, names, args)
        raise RedisAway("gone")

    async def ask(self, hold, *wants):
        return await self.ledger.reserve(hold, wants, waiter=f"{self.link.inbox}|{hold}", flow=Flow(hold))

    async def exchange(self) -> None:
        """Exchange, and let a tick pass before."""
        self.slept += quanta.TICK_S
        await self.ledger.exchange()

    async def borrow(self, *wants, calls=20) -> None:
        """Have demand, so that something of these buckets is held."""
        for number in range(calls):
            await self.ask(f"{self.link.instance}-{number}", *wants)
        await self.exchange()
        assert set(self.ledger.held()) == {want.bucket_id for want in wants}


@asynccontextmanager
async def host(url: str, *, keeps: bool = False, **options) -> AsyncIterator[Host]:
    made = Host(url, **options)
    tasks = [asyncio.create_task(work()) for work in ([made.link.listen, made.ledger.keep] if keeps else [made.link.listen])]
    try:
        await made.link.listening()
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await made.link.aclose()


def level(url: str, want: Want) -> tuple[int, int]:
    """Return the whole tokens in a bucket in Redis as it is written, and those that are lent."""
    with redis.Redis.from_url(url) as client:
        stored = client.hgetall(keys.bucket(want.bucket_id))
    lent = int(stored.get(b"lent", 0))
    if want.form is Form.WINDOW:
        return want.capacity - int(stored[b"used"]), lent
    return int(stored[b"level"]) // UNITS, lent
