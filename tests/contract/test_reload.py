"""Reload up and down under saturation, over both ledgers, by the machine's clock."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace

import pytest

from conftest import BY_THE_CLOCK, until
from headrace.budget.borrowing import Borrowing
from headrace.budget.estimate import Estimator
from headrace.budget.limits import Limit, Limits
from headrace.budget.memory import MemoryLedger
from headrace.budget.quanta import Terms
from headrace.budget.redis import RedisLedger
from headrace.clock import SystemClock
from headrace.errors import BudgetExhausted
from headrace.model import Usage
from headrace.schedule import Schedule
from headrace.tuning.tuner import Tuner
from pressing import call

SLOW = Limit("org", requests_per_minute=300, burst_s=1.0)
FAST = replace(SLOW, requests_per_minute=12_000)


class Crowd:
    """Callers of one schedule; each goes once, and is remembered with the moment at which it went."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.went: list[float] = []
        self.number = 0
        self.tasks: list[asyncio.Task[None]] = []

    def come(self, count: int, *, within: float) -> list[asyncio.Task[None]]:
        came = []
        for _ in range(count):
            self.number += 1
            came.append(asyncio.create_task(self._go(self.number, within)))
        self.tasks += came
        return came

    async def _go(self, number: int, within: float) -> None:
        async with self.schedule.turn(call(number, within=within), f"h{number}") as turn:
            turn.sent()
            self.went.append(time.monotonic())
            await turn.settle(Usage(1, 1))

    def reload(self, *limits: Limit) -> None:
        self.schedule.reload(Limits(limits))


@pytest.fixture(params=["redis", "memory", "borrowing"])
async def crowd(request, link):
    keeping = []
    if request.param == "borrowing":
        tuner = Tuner(link, SystemClock())
        ledger = Borrowing(RedisLedger(link), link, terms=Terms(0.1, 0.0), is_open=tuner.gates.is_open)
        keeping.append(asyncio.create_task(ledger.keep()))
        made = Crowd(Schedule(Limits([SLOW]), ledger, Estimator(), link, SystemClock(), tuner=tuner))
    elif request.param == "redis":
        made = Crowd(Schedule(Limits([SLOW]), RedisLedger(link), Estimator(), link, SystemClock()))
    else:
        ledger = MemoryLedger(lambda: time.time_ns() // 1000, nudge=lambda waiter: made.schedule.nudge(waiter))
        made = Crowd(Schedule(Limits([SLOW]), ledger, Estimator(), link, SystemClock()))
    yield made
    for task in made.tasks + keeping:
        task.cancel()
    await asyncio.gather(*made.tasks, *keeping, return_exceptions=True)
    assert repr(made.schedule) == "<Schedule [0 waiting, 0 asking, 0 permits]>"


async def saturated(crowd: Crowd, limit: Limit, count: int) -> None:
    crowd.reload(limit)
    crowd.come(count, within=300)
    waiting = crowd.schedule.stats
    await until(lambda: waiting().waiting > 20 and crowd.went)


async def test_up(crowd):
    """Raised forty times over while sixty wait, nobody hears of the old rate: all go, and so do a hundred who come then."""
    await saturated(crowd, SLOW, 60)
    crowd.reload(FAST)
    crowd.come(100, within=10)  # at the old rate they would be told to come back in half a minute
    await asyncio.wait_for(asyncio.gather(*crowd.tasks), 30)
    assert len(crowd.went) == 160


@BY_THE_CLOCK
async def test_down(crowd):
    """Lowered, the new rate is kept from then on, and who comes is told when it would be its turn by it."""
    await saturated(crowd, FAST, 600)
    lowered = time.monotonic()
    crowd.reload(SLOW)
    before = len(crowd.went)
    await until(lambda: len(crowd.went) > before + 8)
    with pytest.raises(BudgetExhausted) as refused:
        await crowd.come(1, within=0.05)[0]  # the first of its caller, who has more time for the others
    assert refused.value.metadata == {"limit": "org", "kind": "requests"}
    assert 0 < refused.value.retry_after_s < 1
    after = [moment - lowered for moment in crowd.went[before:]]
    # Those whose grant was on its way, as many as may ask at once; then a bucket's capacity; then the rate.
    assert all(index <= 64 + 5 + 5 * moment + 1 for index, moment in enumerate(after))
    crowd.reload()
    with contextlib.suppress(BudgetExhausted):
        await asyncio.wait_for(asyncio.gather(*crowd.tasks), 30)


async def test_up_and_down(crowd):
    """Turned up and down again and again, nobody is refused and each goes once; then nobody waits."""
    await saturated(crowd, SLOW, 80)
    for limit in (FAST, SLOW, replace(SLOW, name="other"), FAST, SLOW, replace(FAST, burst_s=0.1)):
        crowd.reload(limit)
        crowd.come(5, within=300)
        await asyncio.sleep(0.05)
    await asyncio.wait_for(asyncio.gather(*crowd.tasks), 30)
    assert len(crowd.went) == crowd.number
