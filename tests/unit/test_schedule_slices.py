"""
Ten thousand wait, and whatever befalls them all at once holds up the loop only for a moment at a time.

Measured in the process's own time, so that a busy machine decides nothing; and without the collector, which has a test of its
own here: what waited leaves it nothing to find.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from headrace.background import Background
from headrace.budget.limits import Limit, Limits
from headrace.crowd import Crowd
from headrace.errors import BudgetExhausted
from headrace.schedule.moving import MovingStats
from headrace.schedule.slices import Slices
from schedule_parts import ONE_AT_A_TIME, House

MANY = 10_000
MOST_S = 0.02
SLOW = Limit("org", requests_per_minute=60, input_tokens_per_minute=1_000_000, output_tokens_per_minute=1_000_000, burst_s=2.0)


class Steps:
    """How long the longest turn of the loop took, in seconds of the process; a task of its own looks once a turn."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.task = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        while True:
            began = time.process_time()
            await asyncio.sleep(0)
            self.longest_s = max(self.longest_s, time.process_time() - began)


async def until(is_so: Callable[[], bool]) -> None:
    """Turn the loop until it is so; fail in the end."""
    for _ in range(20_000):
        if is_so():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to be")


def is_at_rest(house: House) -> bool:
    return not len(house.schedule._background)


@pytest.fixture(autouse=True)
async def tasks() -> AsyncIterator[None]:
    """Nothing may go on in the background when a test ends; and the collector comes at no other time."""
    gc.collect()
    gc.disable()
    yield
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    gc.enable()


async def crowded(*limits: Limit, within: float = 1e6, many: int = MANY, **options) -> House:
    """Return a house in which that many stand in line, having come a few at a time."""
    house = House(*(limits or (SLOW,)), crowd=Crowd(max_calls=2 * MANY), **options)
    house.go("first", hold_s=1e5)
    house.go("second")
    await house.settle_down()
    house.crowd = []
    for number in range(many):
        house.crowd.append(call := house.go("c", within=within))
        call.add_done_callback(lambda call: call.cancelled() or call.exception())  # looked at
        if number % 20 == 0:
            await asyncio.sleep(0)
    await house.settle_down()
    return house


async def test_slices():
    """A work pauses after so many woken and after so much time, and one comes after the other; a fault ends only its own."""
    background = Background("test")
    slices, said = Slices(background), []

    def work(name: str, woken: int, busy_s: float):
        for step in range(32):
            until = time.perf_counter() + busy_s
            while time.perf_counter() < until:
                pass
            said.append(f"{name}{step}")
            yield woken

    def faulty():
        yield 0
        raise ValueError

    slices.start(work("a", 1, 0.0), "a")
    await asyncio.sleep(0)
    assert said[-1] == "a15"
    slices.start(faulty(), "faulty")
    slices.start(work("b", 0, 0.0003), "b")
    await until(lambda: not len(background))
    assert said == [f"{name}{step}" for name in "ab" for step in range(32)]
    assert background.stats().failures == 1
    assert slices.stats().slices > 6


async def test_reload():
    """All take their places anew."""
    house = await crowded()
    steps = Steps()
    for limit in (SLOW, replace(SLOW, requests_per_minute=61), replace(SLOW, name="other")):
        house.schedule.reload(Limits([limit]))
        await until(lambda: is_at_rest(house))
        await house.settle_down()
    assert house.schedule.stats().waiting == MANY - 2  # of the new bucket two could go
    assert steps.longest_s < MOST_S


async def test_newcomers():
    """Who comes while others are still taking their places anew stands behind all of them; who leaves then is forgotten."""
    house = await crowded(many=200)
    house.schedule.reload(Limits([replace(SLOW, requests_per_minute=600)]))
    await asyncio.sleep(0)
    late, leaving = (house.go("late", within=1e6) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    await until(lambda: is_at_rest(house))
    await house.advance(25)
    await late
    assert house.went == ["first", "second", *["c"] * 200, "late"]
    assert house.schedule._moving.stats() == MovingStats(0, 0)
    assert house.schedule.crowd.stats().calls == 0


async def test_no_circles():
    """Whoever takes a place anew leaves nothing of the old one that only the collector would find."""
    house = await crowded(many=500)
    gc.collect()
    house.schedule.reload(Limits([replace(SLOW, requests_per_minute=61)]))
    await until(lambda: is_at_rest(house))
    await house.settle_down()
    assert gc.collect() < 100


async def test_hopeless():
    """All are looked at; and when others have used up what there was, nearly all are refused."""
    house = await crowded(within=MANY * 2.0)
    steps = Steps()
    await house.advance(2)
    line = next(iter(house.schedule._asking._lines.values()))
    line.learn((-1_000_000, 0, 0), house.clock.now())
    house.clock._now += 1.5
    house.schedule._asking._look_over(line, house.clock.now())
    await until(lambda: is_at_rest(house))
    await house.settle_down()
    assert house.schedule.stats().waiting < 100
    assert steps.longest_s < MOST_S


async def test_overdue():
    """The time of all who wait for a permit is over in one moment."""
    house = await crowded(ONE_AT_A_TIME, within=600.0)
    steps = Steps()
    house.clock._now += 601
    for due, _, woken in list(house.clock._sleepers):
        if due <= house.clock.now() and not woken.done():
            woken.set_result(None)
    await until(lambda: all(call.done() for call in house.crowd))
    assert {type(call.exception()) for call in house.crowd} == {BudgetExhausted}
    assert steps.longest_s < MOST_S


async def test_stranded():
    """All are refused, since Redis is away and has been for as long as anybody has patience."""
    house = await crowded()
    house.ledger.is_away = True
    steps = Steps()
    await house.advance(8)
    await until(lambda: house.schedule.stats().waiting == 0)
    assert all(call.exception() for call in house.crowd if not call.cancelled())
    assert steps.longest_s < MOST_S


async def test_coming_and_leaving():
    """Each join, return and leaving costs about the same among ten thousand as among a thousand."""

    async def cost_s(house: House) -> float:
        began = time.process_time()
        for back in (0.0, house.clock.now() - 1.0):
            calls = [house.go("x", within=1e6, arrival=back or None) for _ in range(200)]
            await house.settle_down()
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        return (time.process_time() - began) / 400

    few, many = [min([await cost_s(house) for _ in range(3)]) for house in (await crowded(many=1_000), await crowded())]
    print(f"a thousand: {few * 1e6:.0f} us, ten thousand: {many * 1e6:.0f} us")
    assert many < 3 * few + 20e-6
