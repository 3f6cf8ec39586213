"""What is laid over the configuration: kept in Redis, heard of everywhere, ended at one moment, held while Redis is away."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
import redis

from conftest import start_valkey, until
from headrace import keys
from headrace.budget.limits import Limit
from headrace.budgets import Overrides
from headrace.budgets.override import Figures
from headrace.clock import SystemClock
from headrace.errors import OverrideNotFound, RedisAway
from headrace.link import Link

ORG = Limit("org", requests_per_minute=60, concurrency=3)


class SkewedClock(SystemClock):
    """A machine's clock that is wrong by so many seconds."""

    def __init__(self, ahead_s: float) -> None:
        self._ahead_s = ahead_s

    def now(self) -> float:
        return time.time() + self._ahead_s


class Process:
    """The overrides of one process, as it goes by them."""

    def __init__(self, url: str, clock: SystemClock) -> None:
        self.changes: list[float] = []
        self.link = Link(url, timeout_s=0.3)
        self.overrides = Overrides(self.link, clock, lambda: self.changes.append(time.time()))

    @property
    def rate(self) -> int | None:
        [limit] = self.overrides.over([ORG])
        return limit.requests_per_minute


@contextlib.asynccontextmanager
async def process(url: str, *, ahead_s: float = 0.0, listens: bool = True):
    made = Process(url, SkewedClock(ahead_s))
    tasks = [asyncio.create_task(made.overrides.keep())]
    if listens:
        tasks.append(asyncio.create_task(made.link.listen()))
        await asyncio.wait_for(made.link.listening(), 30)
    await until(lambda: made.overrides.stats().is_loaded)
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await made.link.aclose()


async def raise_(one: Process, rate: int = 600, **more) -> None:
    await one.overrides.set_limit(ORG, Figures(requests_per_minute=rate), by="boss", **more)


async def test_heard(valkey_url):
    """What one sets goes for it when it is told so, for the others within a second, and for those who start later."""
    async with process(valkey_url) as one, process(valkey_url) as two:
        await raise_(one)
        assert one.rate == 600
        await until(lambda: two.rate == 600, within=1.0)
        await two.overrides.hold("bob", refuse=True, by="boss", reason="wild")
        await until(lambda: one.overrides.halts().keys() == {"bob"}, within=1.0)
        async with process(valkey_url) as late:
            assert late.rate == 600
            assert late.overrides.halts()["bob"].refuses
        await two.overrides.unset_limit("org", by="boss")
        await two.overrides.release("bob", by="boss")
        await until(lambda: one.rate == 60 and not one.overrides.halts(), within=1.0)
        assert repr(one.overrides) == "<Overrides [0 limits, 0 holds]>"


async def test_ends_at_one_moment(valkey_url):
    """It runs out everywhere at once, by Redis's clock, on hosts whose own clocks are minutes apart; then Redis forgets it."""
    async with process(valkey_url, ahead_s=300) as one, process(valkey_url, ahead_s=-300) as two:
        begun = time.time()
        await raise_(one, ttl_s=0.7)
        await until(lambda: two.rate == 600, within=0.5)
        await until(lambda: one.rate == two.rate == 60)
        ended = [process.changes[-1] - begun for process in (one, two)]
        assert ended == pytest.approx([0.7, 0.7], abs=0.3)
        await one.overrides.load()
        with redis.Redis.from_url(valkey_url) as client:
            assert not client.exists(keys.OVERRIDES)
        with pytest.raises(OverrideNotFound):
            await one.overrides.unset_limit("org", by="boss")


async def test_without_nudges(valkey_url):
    """Who hears no nudges looks now and then."""
    async with process(valkey_url) as one, process(valkey_url, listens=False) as deaf:
        await raise_(one)
        await until(lambda: deaf.rate == 600, within=8.0)


async def test_redis_away(tmp_path):
    """While Redis is away what was last read holds, to its end and no further; a change is refused. Back, all is read anew."""
    server, url = start_valkey(tmp_path, "--appendonly", "yes")
    async with process(url) as one:
        await raise_(one, ttl_s=1.5)
        await one.overrides.hold("bob", refuse=False, by="boss")
        server.kill()
        server.wait()
        with pytest.raises(RedisAway):
            await raise_(one, 5)
        assert one.rate == 600
        assert one.overrides.halts().keys() == {"bob"}
        await until(lambda: one.rate == 60, within=3.0)
        assert one.overrides.halts().keys() == {"bob"}
        server, url = start_valkey(tmp_path, "--appendonly", "yes")
        with redis.Redis.from_url(url) as client:
            client.hdel(keys.OVERRIDES, "caller:bob")
        await until(lambda: not one.overrides.halts())
    server.terminate()
    server.wait()


async def test_unreadable(valkey_url):
    """A record that nobody here can read is none, and keeps no other from being read; one that no longer fits is left out."""
    async with process(valkey_url) as one:
        await raise_(one)
        with redis.Redis.from_url(valkey_url) as client:
            client.hset(keys.OVERRIDES, mapping={"limit:x": b"0 {", "limit:y": b"\xff", "caller:z": b"0 7", "else:q": b"0 {}"})
        await one.overrides.load()
        assert one.rate == 600
        assert (one.overrides.overrides.keys(), one.overrides.holds) == ({"org"}, {})
        tight = Limit("org", requests_per_minute=10**9, burst_s=0.001)
        await one.overrides.set_limit(tight, Figures(requests_per_minute=10**8), by="boss")
        assert one.overrides.over([ORG])[0].requests_per_minute == 10**8
        assert one.overrides.over([Limit("org", requests_per_minute=60, burst_s=1000.0)])[0].requests_per_minute == 60
