"""Limits of other forms than rates and permits, in the schedule: windows, shadows, and what breaks off."""

from __future__ import annotations

import asyncio

import pytest

from headrace import observe
from headrace.budget.costs import Costs
from headrace.budget.limits import Limit, Limits
from headrace.budget.memory import MemoryLedger
from headrace.errors import AttemptFailed, BudgetExhausted, Failure, UpstreamError
from headrace.model import Usage
from headrace.rank import NOBODY
from schedule_parts import House

DAY_S = 86_400.0


async def house_of(*limits: Limit, **options) -> House:
    """Return a house in which a token costs a dollar."""
    house = House(**options)
    house.keeping.cancel()  # whole days pass here, at two beats a second
    house.schedule.reload(Limits(limits, costs=Costs(lambda model, usage: (usage.input_tokens + usage.output_tokens) * 10**9)))
    await house.settle_down()
    return house


async def left(house: House) -> list[int]:
    """Return what is left in each bucket, in dollars for spend."""
    wants = list(house.schedule._limits.buckets(house.call(), house.clock.now()))
    house.number += 1
    outcome = await MemoryLedger.reserve(house.ledger, f"look{house.number}", wants, waiter="", flow=NOBODY)
    house.ledger.release(f"look{house.number}", wants)
    return [
        (level + want.cost) // 10**9 if want.kind == "spend" else level + want.cost
        for level, want in zip(outcome.levels, wants, strict=True)
    ]


async def at_noon(house: House) -> None:
    """Let it be noon."""
    await house.settle_down()
    now = house.clock.now()
    await house.clock.advance(DAY_S * (now // DAY_S) + 1.5 * DAY_S - now)


async def spend(house: House, dollars: int, *, within: float = 60.0) -> None:
    async with house.schedule.turn(house.call(max_tokens=1, within=within, model="other"), f"s{house.number}") as turn:
        house.number += 1
        turn.sent()
        await turn.settle(Usage(dollars, 0))


async def test_window_is_used_up():
    """Who would have to wait for tomorrow longer than it can is refused at once, and told when that is."""
    house = await house_of(Limit("day", spend_per_day=100.0))
    await at_noon(house)
    await spend(house, 100)
    assert (await left(house)) == [0]
    with pytest.raises(BudgetExhausted) as refused:
        await spend(house, 1)
    assert refused.value.metadata == {"limit": "day", "kind": "spend"}
    assert refused.value.retry_after_s == pytest.approx(DAY_S / 2, abs=1)


async def test_window_opens_again():
    """Who can wait for it goes when the next window begins, in order, and from that window."""
    house = await house_of(Limit("day", spend_per_day=100.0))
    await at_noon(house)
    await spend(house, 100)
    await house.clock.advance(DAY_S / 2 - 600)
    for name in "abc":
        house.go(name, within=DAY_S, max_tokens=1)
    await house.settle_down()
    await house.clock.advance(598)
    await house.settle_down()
    assert house.went == []
    await house.advance(3)
    for _ in range(20):
        await house.settle_down()
    assert house.went == ["a", "b", "c"]
    assert (await left(house)) == [100 - 3 * 20]


async def test_window_that_is_raised():
    """A budget that is raised under those who wait lets them go."""
    house = await house_of(Limit("day", spend_per_day=100.0))
    await at_noon(house)
    await spend(house, 100)
    house.go("a", within=DAY_S, max_tokens=1)
    await house.settle_down()
    house.schedule.reload(Limits([Limit("day", spend_per_day=200.0)], costs=house.schedule._limits._costs))
    await house.advance(1)
    assert house.went == ["a"]


async def test_late_settlement():
    """What is settled after midnight counts for the day on which it was reserved."""
    house = await house_of(Limit("day", spend_per_day=100.0))
    await at_noon(house)
    house.go("a", hold_s=DAY_S, max_tokens=1, within=DAY_S)
    await house.settle_down()
    await house.clock.advance(DAY_S)
    for _ in range(5):
        await house.settle_down()
    assert house.went == ["a"]
    assert (await left(house)) == [100]


SHADOW = Limit("new", requests_per_minute=60, burst_s=1.0, concurrency=1, shadow=True)


def decided(decision: str) -> int:
    return observe.SHADOW.value("new", decision)


async def test_shadow_holds_up_nobody():
    """A limit in the shadow counts whom it would have let wait, and lets all go; who goes by other limits goes as before."""
    before = decided("granted"), decided("held")
    house = await house_of(SHADOW)
    for name in "abc":
        house.go(name, hold_s=2.0)
    await house.settle_down()
    assert house.went == ["a", "b", "c"]
    assert (decided("granted") - before[0], decided("held") - before[1]) == (1, 2)
    assert repr(house.schedule) == "<Schedule [0 waiting, 0 asking, 1 permits]>"
    await house.advance(3.0)
    house.go("d")
    await house.settle_down()
    assert decided("granted") - before[0] == 2
    assert repr(house.schedule) == "<Schedule [0 waiting, 0 asking, 0 permits]>"
    assert repr(house.schedule._shadows) == "<Shadows [0 open]>"


async def test_shadow_is_not_told():
    """Its levels are nobody's budget, and what it could never grant goes all the same."""
    before = decided("refused")
    house = await house_of(Limit("new", input_tokens_per_minute=1, shadow=True), Limit("org", requests_per_minute=600))
    house.go("a", body=b"a b " * 100)
    await house.settle_down()
    assert house.went == ["a"]
    assert decided("refused") - before == 1
    names = {name for name, _ in house.schedule.budget_headers(house.call())}
    assert names == {f"anthropic-ratelimit-requests-{what}" for what in ("limit", "remaining", "reset")}


async def test_shadow_without_redis():
    """While the ledger is away, its decisions are unknown, and hold up nobody."""
    before = decided("unknown")
    house = await house_of(SHADOW)
    house.ledger.is_away = True
    house.go("a")
    await house.settle_down()
    assert house.went == ["a"]
    assert decided("unknown") - before == 1


async def test_shadow_settles():
    """What a call used is settled in the shadow too, and what was never sent comes back."""
    house = await house_of(Limit("new", output_tokens_per_minute=600, shadow=True))
    async with house.schedule.turn(house.call(), "h1") as turn:
        turn.sent()
        await house.settle_down()
        assert (await left(house)) == [550]
        await turn.settle(Usage(10, 10))
    assert (await left(house)) == [590]
    async with house.schedule.turn(house.call(), "h2"):
        await house.settle_down()
    assert (await left(house)) == [590]


TOKENS = Limit("org", input_tokens_per_minute=600, output_tokens_per_minute=600, total_tokens_per_minute=600)


@pytest.mark.parametrize(
    ("told", "levels"),
    [
        (Usage(known=False), [599, 550, 549]),  # nothing: the estimates stay
        (Usage(40, 1, known=False), [560, 550, 510]),  # the input
        (Usage(40, 7), [560, 593, 553]),  # all
    ],
)
@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_broke_off(told, levels, is_cancelled):
    """Of a stream that breaks off, or whose caller leaves, what upstream has said is settled, and the rest stays reserved."""
    house = await house_of(TOKENS)
    going = asyncio.ensure_future(break_off(house, told, is_cancelled))
    await house.settle_down()
    going.cancel()
    await asyncio.gather(going, return_exceptions=True)
    assert (await left(house)) == levels


async def break_off(house: House, told: Usage, is_cancelled: bool) -> None:
    async with house.schedule.turn(house.call(), "h1") as turn:
        turn.sent(lambda: told)
        if is_cancelled:
            await asyncio.sleep(60)
        await turn.fail(AttemptFailed(Failure.BROKEN, UpstreamError("broke off", status=200)))


async def test_refused_upstream():
    """An attempt that upstream turned away has used nothing, unless upstream has said that it did."""
    house = await house_of(TOKENS)
    for told in (Usage(known=False), Usage(40, 1, known=False)):
        async with house.schedule.turn(house.call(), f"h{told.input_tokens}") as turn:
            turn.sent(lambda told=told: told)
            await turn.fail(AttemptFailed(Failure.RATE_LIMITED, UpstreamError("no", status=429)))
    assert (await left(house)) == [560, 550, 510]


async def test_estimates_are_counted():
    """What was reserved, and by how much that was wrong, is in the metrics."""

    def counted() -> list[int]:
        return [observe.ESTIMATED.value("org", "output_tokens", part) for part in ("reserved", "closed", "under", "over")]

    house, before = await house_of(TOKENS), counted()
    for number, used in enumerate((70, 45, 50)):
        async with house.schedule.turn(house.call(), f"h{number}") as turn:
            turn.sent()
            assert counted()[0] - counted()[1] == before[0] - before[1] + turn._hold.wants[1].cost
            await turn.settle(Usage(1, used))
    reserved, closed, under, over = (after - earlier for after, earlier in zip(counted(), before, strict=True))
    assert reserved == closed == 50 + 70 + 70
    assert (under, over) == (20, 25 + 20)
