"""What tests on a real Valkey share: each ledger in turn, leases that end soon, and processes with tickets."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable

import pytest

from headrace.budget import ledger as rules
from headrace.budget import pulse
from headrace.budget.borrowing import Borrowing
from headrace.budget.ledger import Ledger
from headrace.budget.memory import MemoryLedger
from headrace.budget.quanta import Terms
from headrace.budget.redis import RedisLedger
from ledger_parts import Kit, now_us
from ticket_parts import QUICK, Process


@pytest.fixture(params=["redis", "memory", "borrowing"])
async def kit(request, link) -> AsyncIterator[Kit]:
    if request.param == "memory":
        nudged: list[str] = []
        yield Kit(MemoryLedger(now_us, nudge=nudged.append), "inbox", nudged)
        return
    ledger: Ledger = RedisLedger(link)
    if request.param == "borrowing":
        ledger = Borrowing(ledger, link, is_open=lambda want: False, terms=Terms(0.2, 0.0), monotonic=ticking())
    kit = Kit(ledger, link.inbox, [])
    link.on("permit", lambda waiter: kit.nudged.append(waiter.decode()))
    if not isinstance(ledger, Borrowing):
        yield kit
        return
    keeping = asyncio.create_task(ledger.keep())
    yield kit
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


def ticking() -> Callable[[], float]:
    """Return a clock that is a little ahead at each look: so each exchange is a tick after the last."""
    ahead = itertools.count()
    return lambda: time.monotonic() + next(ahead) * 0.01


@pytest.fixture
def short_lease(monkeypatch):
    monkeypatch.setattr(pulse, "LEASE_US", 100_000)
    monkeypatch.setattr(pulse, "GAP_US", 90_000)
    monkeypatch.setattr(rules, "ANSWER_US", 40_000)


@pytest.fixture
async def processes(valkey_url):
    """A maker of processes on one Redis."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(*args, **options) -> Process:
            process = await Process(valkey_url, *args, **options).start()
            stack.push_async_callback(process.aclose)
            return process

        yield make


@pytest.fixture
async def here(processes):
    return await processes()


@pytest.fixture
async def quick(processes):
    return await processes(QUICK)
