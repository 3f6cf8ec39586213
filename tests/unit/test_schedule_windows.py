"""Spend by the day while Redis is away: what each word for that means, and what is owed when it is back."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from headrace.budget.costs import Costs
from headrace.budget.limits import Limit
from headrace.budget.want import NANO_USD
from headrace.errors import HeadraceError, RedisAway
from headrace.model import Usage
from schedule_parts import MORNING, House, levels

TEN_A_DAY = Limit("org", spend_per_day=10.0)
MIDNIGHT = MORNING + 16 * 3_600.0


def a_dollar(model: str, usage: Usage) -> int:
    return NANO_USD


def tenths(model: str, usage: Usage) -> int:
    return usage.output_tokens * NANO_USD // 10


def house(on_redis_loss: str, price=a_dollar, hosts: int = 2, now: float = MORNING) -> House:
    return House(replace(TEN_A_DAY, on_redis_loss=on_redis_loss), hosts=hosts, costs=Costs(price), now=now)


async def spend(house: House, calls: int) -> int:
    """Let so many calls go at once; return how many went, and let the others be refused."""
    before = len(house.went)
    tasks = [house.go(within=5.0) for _ in range(calls)]
    await house.settle_down()
    went = len(house.went) - before
    await house.advance(5.5)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, HeadraceError) for outcome in outcomes if outcome is not None)
    assert len(house.went) - before == went
    return went


async def dollars_left(house: House) -> float:
    [level] = await levels(house)
    return level / NANO_USD


async def test_closed():
    """With `closed`, nothing is spent: a call waits for Redis, and is refused."""
    one = house("closed")
    await one.go()
    one.ledger.is_away = True
    going = one.go()
    await one.advance(6)
    with pytest.raises(RedisAway):
        await going
    one.ledger.is_away = False
    await one.go()
    assert await dollars_left(one) == 8


async def test_open():
    """With `open`, calls pass and nothing counts them, however little is left."""
    one = house("open")
    assert await spend(one, 12) == 10
    one.ledger.is_away = True
    assert await spend(one, 12) == 12
    one.ledger.is_away = False
    assert await dollars_left(one) == 0
    assert await spend(one, 1) == 0


async def test_share():
    """With `share`, a host spends its part of what was left when last seen, and no more before the window ends; all is owed."""
    one = house("share")
    assert await spend(one, 4) == 4
    one.ledger.is_away = True
    assert await spend(one, 8) == 3, "of $10, $6 were left for two"
    await one.advance(60)
    assert await spend(one, 2) == 0, "nothing flows into a window"
    one.ledger.is_away = False
    assert await spend(one, 1) == 1
    assert await dollars_left(one) == 10 - 4 - 3 - 1


async def test_share_of_nothing():
    """What was spent before Redis went cannot be spent again."""
    one = house("share", hosts=1)
    assert await spend(one, 12) == 10
    one.ledger.is_away = True
    assert await spend(one, 3) == 0


async def test_share_once_more():
    """The next outage goes on from what the one before has left."""
    one = house("share", hosts=1)
    assert await spend(one, 4) == 4
    for asked, spent in ((5, 5), (4, 1), (3, 0)):
        one.ledger.is_away = True
        assert await spend(one, asked) == spent
        one.ledger.is_away = False
        await one.advance(0.5)
    assert await dollars_left(one) == 0


async def test_truth_is_owed():
    """What calls turn out to cost beyond their estimates is owed, too, as far as below nothing."""
    one = house("share", tenths, hosts=1)
    await one.go()  # 10 tokens: a dollar
    assert await dollars_left(one) == 9
    one.ledger.is_away = True
    async with one.schedule.turn(one.call(), "dear") as turn:
        turn.sent()
        await turn.settle(Usage(10, 120))
    one.ledger.is_away = False
    await one.advance(0.5)
    assert await spend(one, 1) == 0
    assert await dollars_left(one) == 9 - 12


async def test_next_window():
    """A window that begins while Redis is away has all of our part, and what the old one lacks is not its debt."""
    one = house("share", now=MIDNIGHT - 60)
    assert await spend(one, 9) == 9
    one.ledger.is_away = True
    assert await spend(one, 2) == 0, "half of the last dollar is too little"
    await one.advance(60)
    assert await spend(one, 8) == 5
    one.ledger.is_away = False
    assert await spend(one, 1) == 1
    assert await dollars_left(one) == 10 - 5 - 1
