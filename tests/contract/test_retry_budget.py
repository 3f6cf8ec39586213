"""The retry budget on a real Valkey: a share of what all processes sent, in any window; first attempts ask nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from conftest import until
from headrace import keys
from headrace.clock import SystemClock
from headrace.errors import BudgetExhausted
from headrace.link import Link
from headrace.retry.budget import Bounds, RetryBudget
from ticket_parts import a_call

BOUNDS = Bounds(share=0.2, window_s=60.0, least=3)


@pytest.fixture
async def link_two(valkey_url: str) -> AsyncIterator[Link]:
    link = Link(valkey_url)
    yield link
    await link.aclose()


def budget(link: Link, bounds: Bounds = BOUNDS, firsts: int = 0) -> RetryBudget:
    made = RetryBudget(link, SystemClock(), bounds)
    for _ in range(firsts):
        made.sent(1)
    return made


async def granted(made: RetryBudget, wanted: int) -> int:
    """Return how many of so many retries may go at once."""
    tasks = [asyncio.create_task(made.permit(a_call(), 2)) for _ in range(wanted)]
    await until(lambda: made.stats().waiting + sum(task.done() for task in tasks) == wanted)
    await asyncio.sleep(0.1)
    count = sum(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await made.close()
    return count


async def test_share(link: Link) -> None:
    """Retries are a share of first attempts; of the next firsts more may go, and no retry makes room for another."""
    assert await granted(budget(link, firsts=100), 50) == 20
    assert await granted(budget(link), 50) == 0
    assert await granted(budget(link, firsts=10), 50) == 2


async def test_least(link: Link) -> None:
    """A quiet service has a few all the same."""
    assert await granted(budget(link), 10) == 3
    assert await granted(budget(link, firsts=14), 10) == 0


async def test_all_processes(link: Link, link_two: Link) -> None:
    """What one process sent makes room in another, and what one took is gone for all."""
    one = budget(link, firsts=100)
    await one._say(0)  # as `keep` does every few seconds
    assert await granted(budget(link_two), 50) == 20
    assert await granted(one, 50) == 0


async def test_any_window(link: Link) -> None:
    """In no window are there more; when the past goes, its retries go, and its firsts."""
    bounds = Bounds(share=0.5, window_s=1.2, bins=12, least=2)
    made = budget(link, bounds)
    went: list[float] = []

    async def retry() -> None:
        await made.permit(a_call(), 2)
        went.append(time.monotonic())

    tasks = [asyncio.create_task(retry()) for _ in range(8)]
    await asyncio.wait_for(asyncio.gather(*tasks), 20)
    for first, third in zip(went, went[2:], strict=False):
        assert third - first > bounds.window_s - bounds.window_s / bounds.bins - 0.05
    await made.close()


async def test_first_asks_nobody(link: Link) -> None:
    """A first attempt waits for nothing, and says nothing to Redis."""
    made = budget(link)
    before = link.stats().round_trips
    for number in range(1000):
        await made.permit(a_call(), 1)
        made.sent(1 + number % 2)
    assert link.stats().round_trips == before
    assert made._firsts == 500
    await made.close()


async def test_order(link: Link) -> None:
    """Who came first goes first; who gives up takes nothing from the others."""
    bounds = Bounds(share=0.0, window_s=0.6, bins=6, least=1)
    made, went = budget(link, bounds), []

    async def retry(name: int) -> None:
        await made.permit(a_call(), 2)
        went.append(name)

    tasks = []
    for name in range(4):
        tasks.append(asyncio.create_task(retry(name)))
        await asyncio.sleep(0)
    await until(lambda: went == [0])
    tasks[1].cancel()
    await until(lambda: len(went) == 3, within=20)
    assert went == [0, 2, 3]
    await made.close()


async def test_no_time(link: Link) -> None:
    """Who has no time to wait for it is told so when its time is up."""
    made = budget(link, Bounds(least=0))
    began = time.monotonic()
    with pytest.raises(BudgetExhausted) as refused:
        await made.permit(a_call(deadline=time.time() + 0.3), 2)
    assert 0.25 < time.monotonic() - began < 5
    assert refused.value.metadata == {"limit": "retry.budget"}
    assert made.stats().waiting == 0
    await made.close()


async def test_redis_away() -> None:
    """With Redis away each process goes by what it sent itself."""
    gone = Link("unix:///nowhere/valkey.sock")
    assert await granted(budget(gone, firsts=100), 50) == BOUNDS.least
    await gone.aclose()


async def test_rubbish(link: Link) -> None:
    """What others leave there counts for nothing, and goes; what is there goes by itself."""
    await link.do("HSET", keys.RETRIES, "c1", "x", "rubbish", "5", "r99999999999999", "1000", "c-1", "7")
    assert await granted(budget(link), 10) == 3
    fields = await link.do("HGETALL", keys.RETRIES)
    assert [bytes(name)[:1] for name in fields] == [b"r"]
    assert 0 < await link.do("PTTL", keys.RETRIES) <= 66_000
