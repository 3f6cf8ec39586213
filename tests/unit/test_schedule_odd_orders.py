"""
Those who stand are called, overdue, outdated, refused and given up in any order, and often in one moment.

Whatever comes first, each is told by the moment past which no attempt is begun. Whoever left stands in no line here any more;
what may be left of it in a line of the ledger, where a word and its answer cross, ends with its lease.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from headrace.budget.limits import Limit, Limits
from headrace.errors import BudgetExhausted, CallerOnHold, RedisAway
from headrace.schedule.halting import Halt
from headrace.schedule.line import MAX_ASKING
from schedule_parts import ONE_A_SECOND, ONE_AT_A_TIME, House

MOMENTS_S = (0.5, 1.0, 1.5, 2.0, 3.0)  # few, so that what they bring meets in one of them
STEP_S = 0.25
SOON_S = 0.3  # what a question to a Redis that is away may take past the moment
LIMITS = ((ONE_AT_A_TIME,), (Limit("org", concurrency=2),), (replace(ONE_A_SECOND, name="rate"), ONE_AT_A_TIME))

pytestmark = pytest.mark.usefixtures("tasks")


class Crowd:
    """Calls that come and go, and when each was told."""

    def __init__(self, dice: random.Random) -> None:
        self.dice, self.house = dice, House(*dice.choice(LIMITS))
        self.tasks: list[asyncio.Task[None]] = []
        self.late: list[str] = []

    def comes(self) -> None:
        dice, clock = self.dice, self.house.clock
        within, slack_s, hold_s = dice.choice(MOMENTS_S), dice.choice((0.0, 0.5)), dice.choice(MOMENTS_S)
        latest, name = clock.now() + within, f"c{len(self.tasks)}"
        arrival = dice.choice((None, clock.now() - 1.0))
        task = self.house.go(
            name, of=dice.choice("ab"), within=within + slack_s, slack_s=slack_s, hold_s=hold_s, arrival=arrival
        )
        self.tasks.append(task)

        def told(_: object) -> None:
            if name not in self.house.went and clock.now() > latest + SOON_S:
                self.late.append(f"{name}, {clock.now() - latest:.2f} s")

        task.add_done_callback(told)

    def leaves(self) -> None:
        if self.tasks:
            self.dice.choice(self.tasks).cancel()

    def is_outdated(self) -> None:
        self.house.schedule.reload(Limits(self.dice.choice(LIMITS)))

    def is_halted(self) -> None:
        self.house.schedule.hold_callers(self.dice.choice(({}, {"b": Halt()}, {"b": Halt(refuses=True)})))

    def is_away(self) -> None:
        self.house.ledger.is_away = not self.house.ledger.is_away

    async def time_passes(self) -> None:
        """In steps, with a few turns of the loop in each, since it stands still for nobody."""
        for _ in range(round(self.dice.choice(MOMENTS_S) / STEP_S)):
            await turns(4)
            await self.house.clock.advance(STEP_S)

    async def anything(self) -> None:
        """Let something befall them, and the loop turn a few times, or not at all."""
        befalls = (self.comes,) * 6 + (self.leaves, self.leaves, self.is_outdated, self.is_halted, self.is_away)
        if self.dice.random() < 0.3:
            await self.time_passes()
        else:
            self.dice.choice(befalls)()
        await turns(self.dice.choice((0, 0, 1, 2, 5, 20)))


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def play(seed: int) -> None:
    crowd = Crowd(random.Random(seed))
    house = crowd.house
    for _ in range(60):
        await crowd.anything()
    house.ledger.is_away = False
    house.schedule.hold_callers({})
    await house.advance(20)
    assert all(task.done() for task in crowd.tasks), seed
    assert not crowd.late, seed
    faults = [task.exception() for task in crowd.tasks if not task.cancelled() and task.exception()]
    assert {type(fault) for fault in faults} <= {BudgetExhausted, CallerOnHold, RedisAway}, (seed, faults)
    stats = house.schedule.stats()
    assert (stats.waiting, stats.asking, stats.permits, stats.slots.in_use) == (0, 0, 0, 0), seed
    assert house.schedule.crowd.stats().calls == 0, seed
    assert not house.schedule._asking._lines, seed
    assert not house.schedule._asking._overdue, seed
    assert not house.schedule._asking._by_waiter, seed
    left = [place for state in house.ledger._states.values() for place in state.line.values()]
    assert all(place.until_us < house.clock.now() * 1e6 for place in left), (seed, left)
    assert house.schedule._background.stats().failures == 0, seed
    house.keeping.cancel()


async def test_any_order(long):
    """Sixty things befall them, and then nothing more."""
    for seed in range(1500 if long else 60):
        await play(seed)


async def test_fault_meets_nobody_else(monkeypatch):
    """A fault of ours while one is refused keeps nobody else from being told in time."""
    house = House(ONE_AT_A_TIME)
    house.go("holds", hold_s=100)
    await house.settle_down()
    for number in range(MAX_ASKING):
        house.go("patient", of=f"of {number}", within=50)
    await house.settle_down()
    waiting = [house.go("hasty", within=within) for within in (2.2, 2.2, 3.3)]
    await house.settle_down()
    too_late, faults = house.schedule._asking._too_late, [ZeroDivisionError()]

    def crash_once(*args):
        if faults:
            raise faults.pop()
        return too_late(*args)

    monkeypatch.setattr(house.schedule._asking, "_too_late", crash_once)
    await house.advance(2.3)
    assert waiting[1].done()
    await house.advance(1.1)
    assert waiting[2].done()
