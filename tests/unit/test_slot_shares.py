"""Upstream's slots by shares: one caller's long calls leave others some, and what is only carried has a part of them."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.clock import HandClock
from headrace.crowd import Crowd
from headrace.model import Caller, Errand, Lane, Usage
from headrace.rank import Flow
from headrace.schedule.slots import SPARE, Slots
from schedule_parts import House

pytestmark = pytest.mark.usefixtures("tasks")


class Depot(House):
    """A house through which things are carried, too."""

    def carry(self, name: str, *, of: str = "x", hold_s: float = 0.0) -> asyncio.Task[None]:
        now = self.clock.now()
        errand = Errand(
            caller=Caller(of), lane=Lane.STANDARD, method="GET", path="/v1/files/f", endpoint="files", arrival=now,
            deadline=now + 600,
        )  # fmt: skip
        self.number += 1
        return asyncio.ensure_future(self._carry(name, errand, f"c{self.number}", hold_s))

    async def _carry(self, name: str, errand: Errand, hold_id: str, hold_s: float) -> None:
        async with self.schedule.turn(errand, hold_id) as turn:
            turn.sent()
            self.went.append(name)
            await self.clock.sleep(hold_s)
            await turn.settle(Usage())


async def test_long_calls_leave_some():
    """However many long calls one caller has, another's go at once; a caller that is alone has nearly all."""
    house = Depot(max_in_flight=64)
    for _ in range(70):
        house.go("flood", of="flood", hold_s=30.0)
    await house.settle_down()
    assert repr(house.schedule.slots) == "<Slots [62 of 64, 8 waiting]>"
    for _ in range(5):
        house.go("other", of="other", hold_s=0.5)
    await house.advance(2)
    assert house.went.count("other") == 5
    await house.advance(60)
    assert house.went.count("flood") == 70
    assert repr(house.schedule.slots) == "<Slots [0 of 64, 0 waiting]>"


async def test_carried_have_a_part():
    """Of what is only carried no more goes at once than its part, and kept calls find the rest, whoever came first."""
    house = Depot(max_in_flight=8)
    for _ in range(6):
        house.carry("carried", hold_s=10.0)
    await house.settle_down()
    assert repr(house.schedule.slots) == "<Slots [4 of 8, 4 carried, 2 waiting]>"
    for _ in range(4):
        house.go("kept", hold_s=2.0)
    house.go("later")
    await house.advance(3)
    assert house.went == [*["carried"] * 4, *["kept"] * 4, "later"]  # it passed two that may not go yet
    await house.advance(20)
    assert house.went.count("carried") == 6
    assert repr(house.schedule.slots) == "<Slots [0 of 8, 0 waiting]>"


async def test_carried_of_two():
    """One caller's downloads leave some to another's."""
    house = Depot(max_in_flight=80)
    for _ in range(60):
        house.carry("flood", of="flood", hold_s=100.0)
    await house.settle_down()
    assert house.went.count("flood") == 36  # of forty
    for _ in range(3):
        house.carry("other", of="other", hold_s=100.0)
    await house.settle_down()
    assert house.went.count("other") == 3


async def test_of_one_slot():
    """Where there is one slot, what is carried has it as well."""
    house = Depot(max_in_flight=1)
    house.carry("carried", hold_s=1.0)
    house.go("kept")
    await house.advance(2)
    assert house.went == ["carried", "kept"]


_STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 2)), max_size=80)


@given(st.integers(1, 70), _STEPS)
def test_any_order(count, steps):
    """In whatever order slots are taken, waited for, left and given back: no bound is passed, and nobody waits for nothing."""

    async def go() -> None:
        slots = Slots(count, HandClock(), spare=count // SPARE, carried=count // 2)
        held: list[tuple[Flow, bool]] = []
        waiting: list[tuple[asyncio.Task[None], Flow, bool]] = []
        crowd, number = Crowd(), 0
        for caller, is_carried, what in steps:
            flow = Flow(caller)
            if what == 0 and held:
                holder, was_carried = held.pop(number % len(held))
                slots.give_back(holder, is_carried=was_carried)
            elif what == 1 and waiting:
                waiting.pop(number % len(waiting))[0].cancel()
            else:
                number += 1
                taking = slots.take(flow, (1e10, number, number), 1e10, crowd.waiting("slot"), is_carried=is_carried)
                waiting.append((asyncio.ensure_future(taking), flow, is_carried))
            for _ in range(4):
                await asyncio.sleep(0)
            held += [(flow, is_carried) for task, flow, is_carried in waiting if task.done()]
            waiting = [one for one in waiting if not one[0].done()]
            stats = slots.stats()
            assert stats.in_use == len(held) <= count
            assert stats.carried == sum(was for _, was in held) <= max(1, count // 2)
            assert stats.waiting == len(waiting)
            assert not any(slots._has_room(flow, is_carried) for _, flow, is_carried in waiting)
        for task, _, _ in waiting:
            task.cancel()
        await asyncio.gather(*(task for task, _, _ in waiting), return_exceptions=True)
        for holder, was_carried in held:
            slots.give_back(holder, is_carried=was_carried)
        assert repr(slots) == f"<Slots [0 of {count}, 0 waiting]>"

    asyncio.run(go())
