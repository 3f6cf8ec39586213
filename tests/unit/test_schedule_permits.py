"""Permits in the schedule: they come back, are renewed, and are counted again after a process stood still."""

from __future__ import annotations

import asyncio

import pytest

from headrace.budget.ledger import Granted
from headrace.errors import BudgetExhausted
from headrace.rank import NOBODY
from schedule_parts import ONE_AT_A_TIME, House

pytestmark = pytest.mark.usefixtures("tasks")


async def test_permit():
    """A permit that comes back lets the next one go at once."""
    house = House(ONE_AT_A_TIME)
    house.go("a", hold_s=7.5)
    house.go("b", hold_s=1)
    await house.settle_down()
    assert repr(house.schedule) == "<Schedule [1 waiting, 1 asking, 1 permits]>"
    await house.advance(7.45)
    assert house.went == ["a"]
    await house.advance(0.06)
    await house.settle_down()
    assert house.went == ["a", "b"]


async def test_permit_deadline():
    """One that waits for a permit is refused when its deadline comes."""
    house = House(ONE_AT_A_TIME)
    house.go("a", hold_s=100)
    waiting = house.go("b", within=3.5)
    await house.settle_down()
    await house.advance(3.4)
    assert not waiting.done()
    await house.advance(0.2)
    await house.settle_down()
    with pytest.raises(BudgetExhausted):
        await waiting


async def test_stands_until_its_time_is_over():
    """Who stands behind others is told when its own time to begin is over, whoever of its line asks just then."""
    house = House(ONE_AT_A_TIME)
    house.go("holds", hold_s=100)
    await house.settle_down()
    house.go("patient", within=50)  # it asks the ledger every second, on the second
    await house.settle_down()
    waiting = [house.go("hasty", within=3.2), house.go("next", within=3.3), house.go("last", within=3.4)]
    await house.advance(3.1)
    assert not any(each.done() for each in waiting)
    for each, name in zip(waiting, ("hasty", "next", "last"), strict=True):
        await house.advance(0.15)
        assert each.done(), name
        with pytest.raises(BudgetExhausted) as refused:
            await each
        assert refused.value.metadata == {"limit": "org", "kind": "concurrency"}


async def test_earliest_deadline_first_though_another_asks():
    """When the most urgent of a flow goes, the next of it by deadline does, and not one that asked before it came."""
    house = House(ONE_AT_A_TIME)
    house.go("holds", hold_s=5)
    await house.settle_down()
    house.go("patient", within=50)
    await house.settle_down()
    for name, within in (("second", 12.0), ("third", 13.0), ("first", 11.0)):
        house.go(name, within=within, hold_s=1)
        await house.settle_down()
    await house.advance(9)
    assert house.went == ["holds", "first", "second", "third", "patient"]


async def test_long_call():
    """The permit of a long call is renewed, so nobody else gets it."""
    house = House(ONE_AT_A_TIME)
    house.go("a", hold_s=200)
    waiting = house.go("b", within=300)
    await house.settle_down()
    await house.advance(190)
    assert house.went == ["a"]
    await house.advance(15)
    await house.settle_down()
    assert house.went == ["a", "b"]
    await waiting


async def test_stopped_before_it_was_sent():
    """A process that stood still for longer than a lease sends nothing on what it was granted before: it is granted anew."""
    house = House(ONE_AT_A_TIME)
    going = house.go("a")
    await asyncio.sleep(0)
    house.clock._now += 6  # nobody sees it pass: we were stopped while the ledger's answer was on its way
    await house.settle_down()
    await going
    assert house.went == ["a"]
    assert house.ledger.asked == 2
    assert house.schedule._permits.stats().stops == 1


async def test_stopped_while_it_ran():
    """What was at upstream while we stood still is counted again when we wake, whoever has the permit by then."""
    house = House(ONE_AT_A_TIME)
    house.go("a", hold_s=20)
    await house.settle_down()
    want = house.schedule._limits.buckets(house.call(), house.clock.now())[0]
    house.clock._now += 6
    for state in house.ledger._states.values():
        state.permits.clear()  # it has lapsed
    assert isinstance(await house.ledger.reserve("other", (want,), waiter="i|1", flow=NOBODY), Granted)
    await house.advance(1)
    assert house.ledger.level(want) == -1
    assert house.went == ["a"]
