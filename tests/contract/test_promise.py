"""The promise of the limits, with schedules that share a real Redis."""

from __future__ import annotations

import asyncio
import time

import pytest
import redis

import audit
from conftest import until
from headrace import keys
from headrace.budget.estimate import Estimator
from headrace.budget.limits import Limit, Limits
from headrace.budget.redis import RedisLedger
from headrace.clock import SystemClock
from headrace.errors import RedisAway
from headrace.link import Link
from headrace.model import Usage
from headrace.schedule import Schedule
from pressing import BURST_S, REQUESTS, TOKENS, call, press
from windows import used_share, worst_window


@pytest.mark.slow
async def test_two_links(link, valkey_url):
    """Two that press on one limit for eight seconds pass it in no window, and leave next to nothing of it."""
    other = Link(valkey_url)
    listening = asyncio.create_task(other.listen())
    await other.listening()
    turns = await asyncio.gather(press(link, 8.0, 40), press(other, 8.0, 40))
    requests, tokens = audit.read(valkey_url, "requests"), audit.read(valkey_url, "input_tokens")
    worst = worst_window(requests.net, rate_per_minute=REQUESTS, capacity=int(REQUESTS * BURST_S / 60))
    used = used_share(
        requests.until_last_grant,
        rate_per_minute=REQUESTS,
        capacity=int(REQUESTS * BURST_S / 60),
        seconds=requests.seconds,
    )
    print(f"turns {turns}, worst window {worst}, used {used:.4f}")
    assert not requests.unsound() + tokens.unsound()
    assert worst.is_kept
    assert worst_window(tokens.net, rate_per_minute=TOKENS, capacity=int(TOKENS * BURST_S / 60)).is_kept
    assert used >= 0.98
    assert min(turns) > sum(turns) / 4  # both got their part
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await other.aclose()


def schedule(link: Link, *limits: Limit) -> Schedule:
    return Schedule(Limits(limits), RedisLedger(link), Estimator(), link, SystemClock())


@pytest.mark.parametrize("steps", range(0, 40, 3))
async def test_cancelled_anywhere(link, valkey_url, steps):
    """Cancelled wherever it stands, on the wire too, a call leaves Redis as it was."""
    turns = schedule(link, Limit("org", requests_per_minute=1, burst_s=300.0, concurrency=2))

    async def go() -> None:
        async with turns.turn(call(1), f"h{steps}"):
            await asyncio.sleep(60)

    going = asyncio.create_task(go())
    for _ in range(steps):
        await asyncio.sleep(0)
    going.cancel()
    await asyncio.gather(going, return_exceptions=True)
    with redis.Redis.from_url(valkey_url) as client:

        def is_clean() -> bool:
            level = client.hget(keys.bucket("org:requests"), "level")
            return (level is None or int(level) == 5 * 60_000_000) and not client.exists(keys.permits("org:concurrency"))

        await until(is_clean, within=2)
    assert repr(turns) == "<Schedule [0 waiting, 0 asking, 0 permits]>"


async def test_nudged_across(link, valkey_url):
    """A permit that one process gives back wakes the one that waits in another, long before it would look by itself."""
    other = Link(valkey_url)
    limit = Limit("org", concurrency=1)
    here, there = schedule(link, limit), schedule(other, limit)
    async with there.turn(call(1), "a") as turn:
        waiting = asyncio.create_task(take(here))
        await until(lambda: repr(here).startswith("<Schedule [1 waiting"))
        await asyncio.sleep(0.1)
        turn.sent()
        freed = time.monotonic()
        await turn.settle(Usage(1, 1))
    assert await waiting - freed < 0.3
    await other.aclose()


async def take(turns: Schedule) -> float:
    async with turns.turn(call(2), "b"):
        return time.monotonic()


async def test_settles_when_redis_is_back(link, monkeypatch):
    """A settlement that finds Redis away does not hold up the answer, and arrives later."""
    turns = schedule(link, Limit("org", concurrency=1))
    monkeypatch.setattr("headrace.budget.redis._TRY_EVERY_S", 0.01)
    run, is_away = link.run, False

    def lossy(script, names, args):
        if not is_away:
            return run(script, names, args)
        lost = asyncio.get_running_loop().create_future()
        lost.set_exception(RedisAway("gone"))
        return lost

    monkeypatch.setattr(link, "run", lossy)
    async with turns.turn(call(1), "a") as turn:
        turn.sent()
        is_away = True
        await asyncio.wait_for(turn.settle(Usage(1, 1)), 0.3)
    is_away = False
    async with asyncio.timeout(2), turns.turn(call(2), "b"):
        pass
