"""The register of processes, the marks that put them out of service, and the audit of acts, on a real Valkey."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from conftest import until
from headrace import keys
from headrace.audit import Audit
from headrace.budget.hosts import Hosts
from headrace.clock import SystemClock
from headrace.errors import InvalidCall
from headrace.hosts import Drain, Drains, Fact, Register, State
from headrace.link import Link


class Process:
    """One process, as far as it says that it is there."""

    def __init__(self, url: str) -> None:
        clock = SystemClock()
        self.link = Link(url)
        self.changes = 0
        self.hosts = Hosts(self.link, clock)
        self.drains = Drains(self.link, clock, self._changed)
        self.register = Register(self.link, clock, self._here)

    def _changed(self) -> None:
        self.changes += 1
        self.register.wake()

    def _here(self, redis_ms: float | None) -> Fact:
        state = State.DRAINING if self.drains.here else State.SERVING
        return Fact(instance=self.link.instance, host="h", state=state, drain=self.drains.here, redis_ms=redis_ms, config="c")


@contextlib.asynccontextmanager
async def running(url: str) -> AsyncIterator[Process]:
    process = Process(url)
    parts = (process.link.listen, process.hosts.stay, process.drains.keep, process.register.keep)
    tasks = [asyncio.create_task(part()) for part in parts]
    await asyncio.wait_for(process.link.listening(), 30)
    try:
        yield process
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await process.link.do("PING")  # what they sent as they left has arrived
        await process.link.aclose()


async def facts_at(process: Process) -> dict[str, Fact]:
    return {fact.instance: fact for fact in await process.register.all()}


async def test_register(valkey_url: str) -> None:
    """Each process reads what all say, the round trip to Redis included; who leaves is gone, and who says nothing is named."""
    async with running(valkey_url) as one:
        async with running(valkey_url) as two:

            async def are_both() -> bool:
                return set(await facts_at(one)) == {one.link.instance, two.link.instance}

            await until(are_both)
            await two.register.say()
            found = (await facts_at(one))[two.link.instance]
            assert (found.state, found.config) == (State.SERVING, "c")
            assert found.redis_ms is not None
            assert await one.link.do("PTTL", keys.host(two.link.instance)) > 0
            await one.link.do("DEL", keys.host(two.link.instance))
            await one.link.do("SET", keys.host(two.link.instance), b"{", "PX", 15_000)
            assert (await facts_at(one))[two.link.instance].state is State.UNKNOWN
        assert set(await facts_at(one)) == {one.link.instance}
        assert await one.link.do("EXISTS", keys.host(two.link.instance)) == 0


async def test_drained_from_elsewhere(valkey_url: str) -> None:
    """A mark that another sets is heard at once, is in the register with who set it and why, and goes with its process."""
    async with running(valkey_url) as one:
        async with running(valkey_url) as two:
            await until(lambda: two.link.is_listening)
            mark = await one.drains.begin(two.link.instance, by="uid:0", reason="disk")
            await until(lambda: two.drains.here is not None, within=1.5)  # by the nudge, and not by the next look
            assert two.drains.here == Drain(mark.since, "uid:0", "disk")
            assert one.drains.here is None

            async def is_told() -> bool:
                return (await facts_at(one))[two.link.instance].drain == two.drains.here

            await until(is_told)
            assert 0 < await one.link.do("TTL", keys.drain(two.link.instance)) <= 86_400
            assert await one.drains.end(two.link.instance)
            await until(lambda: two.drains.here is None)
            assert not await one.drains.end(two.link.instance)
            assert two.changes == 2
            await one.drains.begin(two.link.instance, by="uid:0")
            await until(lambda: two.drains.here is not None)
        assert await one.link.do("EXISTS", keys.drain(two.link.instance)) == 0


async def test_mark_that_cannot_be_read(valkey_url: str) -> None:
    """It is a mark all the same, and its process says so."""
    async with running(valkey_url) as one:
        await one.link.do("SET", keys.drain(one.link.instance), b"{", "EX", 100)
        await one.drains.look()
        assert one.drains.here == Drain(0.0)


async def test_audit(valkey_url: str) -> None:
    """Acts are told latest first, page by page; what is planted among them is left out."""
    link = Link(valkey_url)
    audit = Audit(link)
    for number in range(5):
        await audit.note("limit.set", f"{number}", by="uid:0", reason="r", details="requests_per_minute=5")
    await link.do("XADD", keys.AUDIT, "*", "act", b"{")
    acts, token = await audit.page(3)
    assert [act.target for act in acts] == ["4", "3"]
    rest, end = await audit.page(10, token)
    assert [act.target for act in rest] == ["2", "1", "0"]
    assert (end, rest[0].by, rest[0].reason, rest[0].details) == ("", "uid:0", "r", "requests_per_minute=5")
    assert rest[0].at > 1.7e9
    with pytest.raises(InvalidCall, match="page_token"):
        await audit.page(3, "x")
    await link.aclose()
