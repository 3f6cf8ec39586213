"""
Whatever a call waits for in this process, it goes on or is told by the moment past which no attempt is begun.

Its caller gives up soon after that moment, and would never hear it. The same of calls on hold is in test_halting.py, of calls
that wait for a slot in test_slots.py, and through the whole flow in tests/edge/test_times_to_begin_flow.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from headrace.budget.limits import Limit, Limits
from headrace.errors import BudgetExhausted, DeadlinePassed
from headrace.model import Caller, Errand, Lane, Usage
from headrace.schedule.hands import Hands
from headrace.schedule.line import MAX_ASKING
from headrace.tuning.tuner import Tuner
from schedule_parts import ONE_A_SECOND, ONE_AT_A_TIME, House

LATEST_S, SLACK_S = 0.6, 5.0
TIMES = {"within": LATEST_S + SLACK_S, "slack_s": SLACK_S}

pytestmark = pytest.mark.usefixtures("tasks")


async def told_in_time(house: House, waiting: asyncio.Task[None]) -> None:
    """Fail unless it waits until its moment comes, and is told then."""
    await house.settle_down()
    await house.clock.advance(LATEST_S - 0.05)
    assert not waiting.done()
    await house.clock.advance(0.1)
    await house.settle_down()
    assert waiting.done()


def many_ask(house: House) -> None:
    for number in range(MAX_ASKING):
        house.go("patient", of=f"of {number}", within=50)


def nobody_asks(house: House) -> None:
    pass


@pytest.mark.parametrize("others", [many_ask, nobody_asks])
async def test_line(others: Callable[[House], None]):
    """In line behind as many as may ask at once, and asking itself."""
    house = House(ONE_AT_A_TIME)
    house.go("holds", hold_s=100)
    await house.settle_down()
    others(house)
    await house.settle_down()
    waiting = house.go("hasty", **TIMES)
    await told_in_time(house, waiting)
    assert isinstance(waiting.exception(), BudgetExhausted)


async def test_slot_of_what_is_carried():
    """For one of upstream's slots, with a call that is only carried."""
    house = House(max_in_flight=2, carried=1)
    now = house.clock.now()

    async def carry(name: str) -> None:
        errand = Errand(
            caller=Caller("x"), lane=Lane.STANDARD, method="GET", path="/v1/files/f", endpoint="files", arrival=now,
            deadline=now + LATEST_S + SLACK_S, slack_s=SLACK_S,
        )  # fmt: skip
        async with house.schedule.turn(errand, name) as turn:
            turn.sent()
            await house.clock.sleep(100)
            await turn.settle(Usage())

    house.crowd = [asyncio.ensure_future(carry("first"))]
    await house.settle_down()
    waiting = asyncio.ensure_future(carry("second"))
    await told_in_time(house, waiting)
    assert isinstance(waiting.exception(), DeadlinePassed)


async def test_hand():
    """For a worker's hand: there is nothing for it to do any more."""
    house = House()
    hands, call = Hands(1, house.schedule, house.clock), house.call(**TIMES)

    async def read():
        return call

    assert await hands.take(read) is not None
    waiting = asyncio.ensure_future(hands.take(read))
    await told_in_time(house, waiting)
    assert waiting.result() is None
    assert hands.waiting == 0


async def test_first_head():
    """For the head of the first answer of its class: it goes without."""
    house = House()
    link = SimpleNamespace(inbox="inbox", on=lambda topic, handler: None, do=lambda *command: None)
    house.schedule.tuner = Tuner(link, house.clock, learns=True)
    house.go("first", hold_s=100)
    await house.settle_down()
    await told_in_time(house, house.go("hasty", **TIMES))
    assert house.went == ["first", "hasty"]


async def test_count():
    """For upstream's count of its input: it goes without, when half of its time is over."""

    async def ask(call):
        await asyncio.get_running_loop().create_future()

    async def claimed(*command):
        return None

    house = House(Limit("org", input_tokens_per_minute=60_000, estimate="counted"), ask=ask)
    house.schedule._counting._link = SimpleNamespace(do=claimed)
    body = b'{"model":"m","max_tokens":100,"messages":[{"role":"user","content":"hello"}]}'
    waiting = house.go("hasty", body=body, **TIMES)
    await house.settle_down()
    assert house.schedule._counting.stats().asking == 1
    await house.clock.advance(LATEST_S / 2 + 0.05)
    await house.settle_down()
    assert waiting.done()
    assert house.went == ["hasty"]


async def test_standing_back():
    """For those who were there before a reload, and are still taking their places anew."""
    house = House(ONE_A_SECOND)
    house.go("first")
    await house.settle_down()
    house.crowd = [house.go("c", within=1e6) for _ in range(3000)]
    await house.settle_down()
    house.schedule.reload(Limits([ONE_AT_A_TIME]))
    house.go("holds", hold_s=100, arrival=house.clock.now() - 100)
    waiting = house.go("hasty", **TIMES)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert house.schedule._moving.stats().newcomers == 2
    await house.clock.advance(LATEST_S + 0.01)
    await house.settle_down()
    assert waiting.done()
    assert house.schedule._moving.is_on  # it takes hundreds of turns of the loop
