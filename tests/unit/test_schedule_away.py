"""Redis away, in the schedule: calls wait for it, pass, or spend their host's share, and what was spent is owed afterwards."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from headrace.budget.limits import Limit
from headrace.errors import RedisAway
from schedule_parts import ONE_A_SECOND, House, levels

pytestmark = pytest.mark.usefixtures("tasks")


async def test_redis_back_in_time():
    """A call waits for Redis, and goes on when it is back."""
    house = House(ONE_A_SECOND)
    house.ledger.is_away = True
    going = house.go("a")
    await house.advance(4)
    assert not going.done()
    house.ledger.is_away = False
    await house.advance(0.6)
    await going


async def test_redis_away():
    """Redis away for five seconds: the call is refused; and with it those behind it, who need not try one by one."""
    house = House(ONE_A_SECOND)
    house.go("a")
    await house.settle_down()
    crowd = [house.go("b", within=1000)]
    await house.settle_down()
    crowd += [house.go("b", within=1000) for _ in range(99)]
    await house.settle_down()
    house.ledger.is_away = True
    await house.advance(4)
    assert not any(call.done() for call in crowd)
    await house.advance(3)
    await house.settle_down()
    outcomes = await asyncio.gather(*crowd, return_exceptions=True)
    assert all(isinstance(outcome, RedisAway) for outcome in outcomes)
    assert house.ledger.asked < 40
    assert repr(house.schedule) == "<Schedule [0 waiting, 0 asking, 0 permits]>"


async def test_redis_away_deadline():
    """Nobody waits for Redis beyond its deadline."""
    house = House(ONE_A_SECOND)
    house.ledger.is_away = True
    going = house.go("a", within=1.0)
    await house.advance(1.1)
    await house.settle_down()
    with pytest.raises(RedisAway):
        await going


async def test_open():
    """With `open`, calls pass while Redis is away, and Redis hears nothing of them."""
    house = House(replace(ONE_A_SECOND, on_redis_loss="open"), hosts=2)
    house.ledger.is_away = True
    for _ in range(5):
        await house.go()
    assert len(house.went) == 5
    house.ledger.is_away = False
    assert await levels(house) == (1,)


async def test_share():
    """With `share`, each host spends its part."""
    house = House(Limit("org", requests_per_minute=60, burst_s=10.0, on_redis_loss="share"), hosts=2)
    house.ledger.is_away = True
    for _ in range(8):
        house.go()
    await house.settle_down()
    assert len(house.went) == 5
    await house.advance(2.01)
    await house.settle_down()
    assert len(house.went) == 6


async def test_share_of_what_is_left():
    """With `share`, a host begins with its part of the level last seen; what it spent is debt when Redis is back."""
    house = House(Limit("org", requests_per_minute=60, burst_s=10.0, on_redis_loss="share"), hosts=2)
    for _ in range(4):
        await house.go()
    house.ledger.is_away = True
    for _ in range(8):
        house.go(within=5.0)
    await house.settle_down()
    assert len(house.went) == 4 + 3, "of 10, 6 were left for two"
    await house.advance(2.01)
    assert len(house.went) == 4 + 4, "half of what flows in"
    house.ledger.is_away = False
    await house.advance(0.5)
    assert (await levels(house))[0] <= 6 + 2 - 4
    await house.advance(60)


async def test_idle_share_owes_nothing():
    """What was spent during an outage and has flowed in again by its end is no debt."""
    house = House(Limit("org", requests_per_minute=60, burst_s=10.0, on_redis_loss="share"), hosts=1)
    await house.go()
    house.ledger.is_away = True
    for _ in range(9):
        await house.go()
    await house.advance(15)
    house.ledger.is_away = False
    await house.advance(1)
    assert await levels(house) == (10,)


async def test_closed_wins():
    """A call under several limits obeys the strictest."""
    house = House(replace(ONE_A_SECOND, on_redis_loss="open"), Limit("other", concurrency=5), hosts=2)
    house.ledger.is_away = True
    going = house.go()
    await house.advance(6)
    await house.settle_down()
    with pytest.raises(RedisAway):
        await going


async def test_lost_in_the_middle():
    """A call granted without Redis settles without it, though Redis is back."""
    house = House(Limit("org", concurrency=2, on_redis_loss="share"), hosts=1)
    house.ledger.is_away = True
    going = house.go(hold_s=5)
    await house.settle_down()
    house.ledger.is_away = False
    await house.advance(6)
    await going
    assert repr(house.schedule._ledger).startswith("<LossPolicy [0 held without Redis]")
