"""Upstream's slots: bounded, in order of arrival, and whoever leaves while it waits for one has used nothing."""

from __future__ import annotations

import asyncio

import pytest

from headrace import observe
from headrace.budget.limits import Limit
from headrace.crowd import Crowd
from headrace.errors import AttemptFailed, DeadlinePassed, Failure, QueueFull, UpstreamError
from headrace.model import Usage
from schedule_parts import House, levels

BUDGET = Limit("org", requests_per_minute=60, output_tokens_per_minute=6000)
FULL = (60, 6000)

pytestmark = pytest.mark.usefixtures("tasks")


async def busy(*limits: Limit, slots: int = 1, hold_s: float = 10.0, **options) -> House:
    """Return a house in which all slots are taken for so long."""
    house = House(*limits, max_in_flight=slots, **options)
    for number in range(slots):
        house.go(f"at{number}", hold_s=hold_s)
    await house.settle_down()
    assert house.schedule.stats().slots.in_use == slots
    return house


@pytest.mark.parametrize("limits", [(), (BUDGET,)])
async def test_bounded(limits):
    """No more than so many go at once, limited or not; each that ends lets the next go at once."""
    house = await busy(*limits, slots=2, hold_s=5.0)
    for name in "abc":
        house.go(name, hold_s=1.0)
    await house.advance(4.5)
    assert house.went == ["at0", "at1"]
    assert repr(house.schedule.slots) == "<Slots [2 of 2, 3 waiting]>"
    await house.advance(0.6)
    assert house.went == ["at0", "at1", "a", "b"]
    await house.advance(3)
    assert house.went == ["at0", "at1", "a", "b", "c"]
    assert repr(house.schedule.slots) == "<Slots [0 of 2, 0 waiting]>"


@pytest.mark.parametrize("limits", [(), (BUDGET,)])
async def test_older_first(limits):
    """A call that was parked and comes back passes those that came after it."""
    house = await busy(*limits)
    before = house.clock.now() - 30
    for name in "ab":
        house.go(name, hold_s=1.0)
        await house.settle_down()
    house.go("old", hold_s=1.0, arrival=before)
    house.go("oldest", hold_s=1.0, arrival=before - 1)
    await house.advance(16)
    assert house.went == ["at0", "oldest", "old", "a", "b"]


async def test_leaves_unsent():
    """Who leaves while it waits for a slot gets its tokens back, and its request."""
    house = await busy(BUDGET)
    at_work = await levels(house)
    waiting = house.go("a")
    await house.settle_down()
    assert await levels(house) < at_work
    waiting.cancel()
    await house.settle_down()
    assert await levels(house) == at_work
    assert repr(house.schedule.slots) == "<Slots [1 of 1, 0 waiting]>"
    assert house.schedule.crowd.stats().calls == 0


async def test_leaves_permits():
    """And its permits."""
    house = await busy(Limit("org", concurrency=5))
    waiting = house.go("a")
    await house.settle_down()
    assert house.schedule.stats().permits == 2
    waiting.cancel()
    await house.settle_down()
    assert house.schedule.stats().permits == 1


@pytest.mark.parametrize("slack_s", [0.0, 2.0])
async def test_too_late(slack_s):
    """Who has no slot by the moment past which no attempt is begun is refused then, and has used nothing."""
    house = await busy(BUDGET)
    at_work = await levels(house)
    waiting = house.go("a", within=3.0 + slack_s, slack_s=slack_s)
    await house.advance(2.9)
    assert not waiting.done()
    await house.advance(0.2)
    assert isinstance(waiting.exception(), DeadlinePassed)
    assert (await levels(house))[0] >= at_work[0]
    assert house.went == ["at0"]


async def test_crowd():
    """Who waits for a slot counts among all that wait, and is refused where there are too many; whoever waited before stays."""
    house = await busy(BUDGET, crowd=Crowd(max_calls=1))
    at_work = await levels(house)
    first = house.go("a")
    await house.settle_down()
    assert house.schedule.crowd.stats().by_kind["slot"].calls == 1
    second = house.go("b")
    await house.settle_down()
    assert isinstance(second.exception(), QueueFull)
    assert (await levels(house))[0] == at_work[0] - 1
    await house.advance(10.1)
    await first


async def test_turn_then_slot():
    """A call that has waited for its turn is not refused for waiting on, for a slot."""
    house = await busy(Limit("org", requests_per_minute=60, burst_s=1.0), crowd=Crowd(max_calls=1))
    waiting = house.go("a")
    await house.settle_down()
    assert house.schedule.crowd.stats().by_kind["turn"].calls == 1
    await house.advance(2)
    assert house.schedule.crowd.stats().by_kind["slot"].calls == 1
    await house.advance(9)
    await waiting
    assert house.schedule.crowd.stats().calls == 0


@pytest.mark.parametrize("steps", range(12))
@pytest.mark.parametrize("limits", [(), (BUDGET,)])
async def test_cancelled_anywhere(steps, limits):
    """Cancelled after any number of steps around the moment at which it gets its slot, a call leaves none taken."""
    house = await busy(*limits, hold_s=1.0)
    second = house.go("second", hold_s=60)
    third = house.go("third")
    await house.settle_down()
    await house.clock.advance(1.0)
    for _ in range(steps):
        await asyncio.sleep(0)
    second.cancel()
    await house.advance(1)
    await third
    assert repr(house.schedule.slots) == "<Slots [0 of 1, 0 waiting]>"
    assert house.schedule.crowd.stats().calls == 0


async def test_all_leave_at_once():
    """When the one at work and those who wait leave in the same moment, no slot is lost."""
    house = House(max_in_flight=1)
    for _ in range(20):
        tasks = [house.go(name, hold_s=5) for name in "abcd"]
        await house.settle_down()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert repr(house.schedule.slots) == "<Slots [0 of 1, 0 waiting]>"


@pytest.mark.parametrize("end", ["settle", "fail", "error"])
async def test_given_back(end):
    """A slot is free once the attempt is over, however it ends, and once only."""
    house = House(BUDGET, max_in_flight=1)
    try:
        async with house.schedule.turn(house.call(), "h") as turn:
            turn.sent()
            if end == "settle":
                await turn.settle(Usage(1, 1))
            elif end == "fail":
                await turn.fail(AttemptFailed(Failure.OVERLOADED, UpstreamError("", status=529)))
            else:
                raise ZeroDivisionError
            assert house.schedule.stats().slots.in_use == 0
    except ZeroDivisionError:
        pass
    assert repr(house.schedule.slots) == "<Slots [0 of 1, 0 waiting]>"


async def test_waited():
    """A turn tells how long it was waited for, budget and slot together."""
    house = await busy(Limit("org", requests_per_minute=60, burst_s=1.0))
    turn = house.schedule.turn(house.call(), "h")
    entering = asyncio.ensure_future(turn.__aenter__())
    await house.advance(10.5)
    await entering
    assert turn.waited_s == pytest.approx(10.0, abs=0.3)
    await turn.__aexit__(None, None, None)


async def test_gauges():
    """The gauges tell the slots, those in use, and who waits for one."""
    house = await busy(slots=2)
    house.go("a")
    await house.settle_down()
    house.schedule.slots.measure()
    assert (observe.SLOTS.read(), observe.SLOTS_IN_USE.read(), observe.SLOTS_WAITING.read()) == (2, 2, 1)


async def test_ten_thousand_slots():
    """Ten thousand that wait for a slot and leave again leave nothing in the line."""
    house = await busy(hold_s=10_000, crowd=Crowd(12_000))
    crowd = [house.go("c", within=5000) for _ in range(9_999)]
    await house.settle_down()
    assert house.schedule.stats().slots.waiting == 9_999
    for call in crowd:
        call.cancel()
    await asyncio.gather(*crowd, return_exceptions=True)
    assert repr(house.schedule.slots) == "<Slots [1 of 1, 0 waiting]>"
