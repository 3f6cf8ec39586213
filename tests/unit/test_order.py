"""The order of those who wait in one process: fair between flows, by deadline within one, as with a plain list."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.budget.want import Form, Want
from headrace.errors import BudgetExhausted
from headrace.model import Lane
from headrace.rank import Flow
from headrace.schedule.line import Line
from headrace.schedule.order import Order
from headrace.schedule.place import Place as AskingPlace
from schedule_parts import ONE_A_SECOND, House

pytestmark = pytest.mark.usefixtures("tasks")


@dataclass(eq=False)
class Place:
    flow: Flow
    urgency: tuple[float, float, int]
    latest: float = 0.0
    costs: tuple[int, ...] = (1,)
    rank: tuple[int, int] = (0, 0)
    charge: int = 0


FLOWS = [Flow("a"), Flow("b", weight=3), Flow("c", "low", 100_000)]
steps = st.lists(st.tuples(st.sampled_from(["come", "leave", "go"]), st.integers(0, 2), st.integers(0, 20)), max_size=60)


@given(steps)
def test_as_a_plain_list(steps):
    """The next is always of the flow with the lowest rank, and of that flow the most urgent; each rank is had by one."""
    order: Order[Place] = Order(1)
    here: list[Place] = []
    for number, (step, flow, deadline) in enumerate(steps):
        if step == "come":
            place = Place(FLOWS[flow], (float(deadline), 0.0, number))
            order.rank(place, 1000.0)
            order.add(place)
            here.append(place)
        elif here:
            first = order.first if step == "go" else here[deadline % len(here)]
            if step == "go":
                lowest = min(here, key=lambda place: place.rank)
                assert first is min((p for p in here if p.flow == lowest.flow), key=lambda place: place.urgency)
                order.serve(first)
            else:
                order.take_back(first)
            assert order.remove(first)
            assert not order.remove(first)
            here.remove(first)
        assert len(order) == len(here)
        assert [place.rank for place in order] == sorted(place.rank for place in here)
        for place in here:
            same = [other for other in here if other.flow == place.flow]
            ranks = sorted(other.rank for other in same)
            at = sorted(same, key=lambda other: other.urgency).index(place)
            assert order.rank_of(place) == ranks[at]
            assert order.before(ranks[at], place) == [sum(p.rank < ranks[at] for p in here if p is not place)]


async def test_by_weight():
    """Callers go by weight, however many calls each has."""
    house = House(ONE_A_SECOND)
    for _ in range(24):
        house.go("a", of="ann", weight=3, within=300.0)
    for _ in range(12):
        house.go("b", of="bob", within=300.0)
    await house.advance(24)
    assert house.went[-16:].count("a") == pytest.approx(12, abs=1)


async def test_lanes():
    """A call of the interactive lane passes all that a caller has waiting in another, who is not held up for good."""
    house = House(ONE_A_SECOND)
    for _ in range(50):
        house.go("night", of="night", lane=Lane.BATCH, within=500.0)
    await house.advance(3)
    day = house.go("day", of="day", lane=Lane.INTERACTIVE, within=5.0)
    await house.advance(2.1)
    await day
    before = len(house.went)
    await house.advance(5)
    assert house.went[before:].count("night") >= 4


async def test_free_flow():
    """Beside a lane that is held up calls of another ask as they come, until one of them is told to wait."""
    line, flood, free = Line((60,)), Flow("n", "batch", 50_000), Flow("d", "interactive", 800_000)
    first, *others = [_asking(flow, number) for number, flow in enumerate([flood, free, free, flood, free])]
    assert line.join(first)
    line.block(first, 1.0, 0, 0.0, (9,))  # nine are left, and for others
    assert [line.join(place) for place in others[:3]] == [True, True, False]
    line.leave(others[0], is_granted=True)
    line.call((8,))
    assert not others[2].called.done()  # the eight are not for this one
    line.block(others[1], 1.0, 0, 0.0, (0,))
    assert not line.join(others[3])


def _asking(flow: Flow, number: int) -> AskingPlace:
    want = Want("b", "org", "requests", Form.RATE, 60, 10, 1)
    called = asyncio.get_running_loop().create_future()
    return AskingPlace(None, flow, (9.0, 0.0, number), 0.0, 9.0, str(number), f"i|{number}", (want,), (want,), None, called)


async def test_deadline_first():
    """Of one caller's calls the earliest deadline goes first, in the ledger's line, too; and others keep their places."""
    house = House(ONE_A_SECOND)
    for name in "abcd":
        house.go(name, within=30.0)
        await house.settle_down()
    house.go("soon", within=2.5)
    await house.settle_down()
    await house.advance(5.1)
    assert house.went == ["a", "soon", "b", "c", "d"]


async def test_hopeless_takes_no_place():
    """One that is more urgent than it can be served takes nobody's place, and one that leaves hands its own down."""
    house = House(ONE_A_SECOND)
    for name in "abcd":
        house.go(name, within=4.5)
    await house.settle_down()
    with pytest.raises(BudgetExhausted):
        await house.go("late", within=0.5)
    leaving = house.go("leaving", within=4.0)
    await house.settle_down()
    leaving.cancel()
    await house.advance(4.4)
    assert house.went == ["a", "b", "c", "d"]
    assert all(not state.line for state in house.ledger._states.values())


async def test_many_flows():
    """More callers than may ask at once: each goes in its turn."""
    house = House(ONE_A_SECOND)
    for number in range(100):
        house.go(str(number), of=f"c{number}", within=500.0)
    await house.settle_down()
    house.go("twice", of="c0", within=500.0)
    await house.advance(101.5)
    assert sorted(house.went) == sorted([*map(str, range(100)), "twice"])
    assert repr(house.schedule) == "<Schedule [0 waiting, 0 asking, 0 permits]>"
