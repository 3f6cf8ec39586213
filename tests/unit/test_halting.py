"""Callers on hold, in the schedule: they wait, or are refused, at once or at last; and who waits is shown."""

from __future__ import annotations

import asyncio

import pytest

from conftest import until
from headrace.budget.limits import Limits
from headrace.errors import CallerOnHold
from headrace.schedule import Halt
from schedule_parts import ONE_A_SECOND, House


async def finished(*tasks: asyncio.Task[None]) -> list[BaseException | None]:
    return await asyncio.gather(*tasks, return_exceptions=True)


def held(house: House) -> int:
    return house.schedule.halting.stats().waiting["bob"]


async def test_waits():
    """A caller on hold waits, others go on, and once it is released its calls go in the order in which they came."""
    house = House()
    house.schedule.hold_callers({"bob": Halt()})
    tasks = [house.go(name, of="bob") for name in "abc"]
    house.go("x", of="ann")
    await house.advance(5)
    assert (house.went, held(house)) == (["x"], 3)
    assert house.schedule.stats().waiting == 3
    house.schedule.hold_callers({})
    await house.settle_down()
    assert house.went == ["x", *"abc"]
    assert await finished(*tasks) == [None] * 3
    assert repr(house.schedule.halting) == "<Halting [0 callers, 0 waiting]>"


async def test_refuses():
    """One that is refused is told why, and when it may come back if that is known; those who wait are refused, too."""
    house = House()
    house.schedule.hold_callers({"bob": Halt()})
    waiting = house.go(of="bob")
    await house.settle_down()
    house.schedule.hold_callers({"bob": Halt(refuses=True, reason="runs wild", ends=house.clock.now() + 60)})
    for error in await finished(waiting, house.go(of="bob")):
        assert isinstance(error, CallerOnHold)
        assert (str(error), error.retry_after_s) == ("caller bob is on hold: runs wild", 60)
    assert house.schedule.stats().waiting == 0


async def test_at_last():
    """Who waits longer than its deadline allows is told of the hold, in time, and not of a deadline."""
    house = House()
    house.schedule.hold_callers({"bob": Halt()})
    task = house.go(of="bob", within=10.0, slack_s=2.0)
    await house.advance(7.9)
    assert not task.done()
    await house.advance(0.2)
    [error] = await finished(task)
    assert isinstance(error, CallerOnHold)
    assert error.retry_after_s is None


async def test_out_of_line():
    """Calls that stand in line leave it when their caller is put on hold: others go at once, and nothing stays reserved."""
    house = House(ONE_A_SECOND)
    house.go("first", of="bob")
    tasks = [house.go(name, of="bob") for name in "abc"]
    await house.settle_down()
    house.schedule.hold_callers({"bob": Halt()})
    await house.settle_down()
    assert held(house) == 3
    assert all(not state.line for state in house.ledger._states.values())
    house.go("x", of="ann")
    await house.advance(1.1)
    assert house.went == ["first", "x"]
    house.schedule.hold_callers({})
    await house.advance(4)
    assert house.went == ["first", "x", *"abc"]
    assert await finished(*tasks) == [None] * 3


async def test_left():
    """Who leaves while its caller is on hold leaves nothing."""
    house = House()
    house.schedule.hold_callers({"bob": Halt()})
    task = house.go(of="bob")
    await house.settle_down()
    task.cancel()
    await finished(task)
    assert (held(house), house.schedule.stats().waiting) == (0, 0)


async def test_reload_keeps_holds():
    """A reload of the limits lets nobody go who is on hold."""
    house = House(ONE_A_SECOND)
    house.schedule.hold_callers({"bob": Halt()})
    house.go("a", of="bob")
    await house.settle_down()
    house.schedule.reload(Limits([]))
    await house.advance(2)
    assert (house.went, held(house)) == ([], 1)


async def test_many():
    """Thousands of calls of a caller that is released are woken a few at a time."""
    house = House()
    house.schedule.hold_callers({"bob": Halt()})
    for number in range(2000):
        house.go(f"{number}", of="bob")
    await house.settle_down()
    house.schedule.hold_callers({})
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(house.went) < 100
    await until(lambda: len(house.went) == 2000)
    assert house.went == [f"{number}" for number in range(2000)]


# Who waits, for those who look.


@pytest.mark.parametrize("most", [2, 100])
async def test_prospects(most):
    """Those who wait are told in the order in which they go, each with the moment at which it does."""
    house = House(ONE_A_SECOND)
    went: dict[str, float] = {}
    began = house.clock.now()
    house.go("first")
    calls = [house.go(f"{number}", of="ab"[number % 2]) for number in range(8)]
    await house.settle_down()
    [line] = house.schedule.lines()
    prospects = line.prospects(began, most)
    assert {flow.caller: count for flow, count in prospects.flows.items()} == {"a": 4, "b": 4}
    assert prospects.bucket == 0
    dues = [due - began for _, due in prospects.first if due is not None]
    assert len(dues) == min(most, 8)
    assert dues == pytest.approx(range(1, len(dues) + 1), abs=0.1)
    told = [place.flow.caller for place, _ in prospects.first]
    while len(house.went) < 9:
        await house.advance(0.25)
        for name in house.went:
            went.setdefault(name, house.clock.now() - began)
    assert ["ab"[int(name) % 2] for name in house.went[1:]][: len(told)] == told
    await finished(*calls)


async def test_reserved():
    """What runs is reserved until it is settled."""
    house = House(ONE_A_SECOND)
    house.go("a", hold_s=5)
    await house.settle_down()
    assert house.schedule.reserved.stats()["org:requests"].amount == 1
    await house.advance(6)
    assert not house.schedule.reserved.stats()
