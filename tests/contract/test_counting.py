"""A count is shared by the processes that make a flight's attempts, and nobody asks where that cannot be known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from headrace import observe
from headrace.budget.limits import Limits
from headrace.budget.memory import MemoryLedger
from headrace.clock import SystemClock
from headrace.crowd import Crowd
from headrace.link import Link
from headrace.model import Answer, Call, Form
from headrace.schedule.counting import Counting
from headrace.schedule.slots import Slots
from scripted import CALL


class Process:
    """One process that counts."""

    def __init__(self, link: Link) -> None:
        self.asked = 0
        self.crowd = Crowd(max_calls=1)
        self.slots = Slots(1, SystemClock())
        self.counting = Counting(self._ask, link, MemoryLedger(lambda: 0), self.slots, SystemClock())

    async def _ask(self, call: Call) -> Answer:
        self.asked += 1
        return Answer(Form.JSON, b'{"input_tokens":7}', 0.0)

    async def count(self, call: Call) -> int | None:
        tokens = await self.counting.count(call, Limits(), self.crowd.waiting("turn", caller="x"))
        assert self.slots.stats().in_use == 0
        return tokens


def counting_call(fingerprint: str) -> Call:
    return replace(CALL, body=b'{"model":"m","messages":[]}', fingerprint=fingerprint, deadline=SystemClock().now() + 60)


async def test_two_processes(link: Link, valkey_url: str):
    """What one has counted, another knows; what one asked and never heard, another does not ask."""
    other = Link(valkey_url)
    here, there = Process(link), Process(other)
    assert [await here.count(counting_call("f")), await there.count(counting_call("f"))] == [7, 7]
    await link.do("SET", "headrace:counted:g", "")
    assert await there.count(counting_call("g")) is None
    assert (here.asked, there.asked) == (1, 0)
    assert 590 < await link.do("TTL", "headrace:counted:f") <= 600
    await other.aclose()


async def test_redis_away(tmp_path: Path):
    """Without Redis nobody asks, and the call goes on."""
    link, before = Link(f"unix://{tmp_path}/nobody.sock"), observe.COUNTS.value("away")
    process = Process(link)
    assert await process.count(counting_call("f")) is None
    assert (process.asked, observe.COUNTS.value("away") - before) == (0, 1)
    await link.aclose()


async def test_busy(link: Link):
    """Where too much waits already, or no slot is free, nobody waits for a count."""
    process, before = Process(link), observe.COUNTS.value("busy")
    with process.crowd.waiting("turn", caller="y"):
        assert await process.count(counting_call("h")) is None
    assert process.slots.take_free()
    assert await process.counting.count(counting_call("h"), Limits(), process.crowd.waiting("turn", caller="x")) is None
    assert (process.asked, observe.COUNTS.value("busy") - before) == (0, 2)
