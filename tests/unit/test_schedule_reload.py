"""Reload under saturation: who waits goes by the new limits at once, in the old order; and a refusal names what blocks."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from headrace import observe
from headrace.budget.limits import Limit, Limits, Match
from headrace.budget.measure import at_most
from headrace.budget.memory import MemoryLedger
from headrace.errors import BudgetExhausted
from headrace.rank import Flow
from schedule_parts import ONE_A_SECOND, ONE_AT_A_TIME, House

TEN_A_SECOND = replace(ONE_A_SECOND, requests_per_minute=600)

pytestmark = pytest.mark.usefixtures("tasks")


async def crowded(*limits: Limit, names: str = "abcdefghij", within: float = 60.0, **more) -> House:
    """Return a house in which one call has taken what there was and the others wait."""
    house = House(*limits)
    house.go("first", **more)
    await house.settle_down()
    house.crowd = [house.go(name, within=within) for name in names]
    await house.settle_down()
    assert house.went == ["first"]
    return house


def is_clean(house: House) -> bool:
    return all(not state.line for state in house.ledger._states.values())


async def test_raised():
    """With a higher rate, those who wait go ten times as fast, in order; and nobody who comes is told of the old one.

    Who comes has less time than the others of its flow, and so goes first.
    """
    house = await crowded(ONE_A_SECOND, within=11.0)
    house.schedule.reload(Limits([TEN_A_SECOND]))
    await house.settle_down()
    late = house.go("late", within=1.5)
    await house.advance(1.2)
    assert house.went == ["first", "late", *"abcdefghij"]
    await late
    assert is_clean(house)


async def test_lowered():
    """With a lower rate, who cannot go in time is refused at once and told so by the new rate; the others go on in order."""
    house = House(TEN_A_SECOND)
    crowd = [house.go(f"c{number}", within=5.0) for number in range(30)]
    await house.settle_down()
    assert len(house.went) == 10
    house.schedule.reload(Limits([ONE_A_SECOND]))
    await house.advance(1.5)
    refused = [call for call in crowd if call.done() and call.exception()]
    assert len(refused) >= 14
    assert all(isinstance(call.exception(), BudgetExhausted) for call in refused)
    with pytest.raises(BudgetExhausted) as newcomer:
        await house.go("late", within=0.3)
    assert newcomer.value.retry_after_s > 0.3
    await house.advance(5)
    assert house.went == [f"c{number}" for number in range(len(house.went))]
    assert len(house.went) + len(refused) == 30


async def test_up_and_down():
    """Up and down and up again: nobody is refused who would have gone, and each goes once, in order."""
    house = await crowded(ONE_A_SECOND, names="a" * 40, within=120.0)
    for limit in (TEN_A_SECOND, ONE_A_SECOND, replace(ONE_A_SECOND, requests_per_minute=120), TEN_A_SECOND) * 3:
        house.schedule.reload(Limits([limit]))
        await house.advance(0.55)
    await house.advance(5)
    assert not [call for call in house.crowd if not call.done() or call.exception()]
    assert len(house.went) == 41
    assert repr(house.schedule) == "<Schedule [0 waiting, 0 asking, 0 permits]>"
    assert is_clean(house)


async def test_removed():
    """When the limit is gone, so is the wait."""
    house = await crowded(ONE_A_SECOND)
    house.schedule.reload(Limits())
    await house.settle_down()
    assert house.went == ["first", *"abcdefghij"]
    await asyncio.gather(*house.crowd)
    assert is_clean(house)


async def test_added():
    """A limit that is new holds for those who wait already, too."""
    house = await crowded(ONE_A_SECOND)
    house.schedule.reload(Limits([TEN_A_SECOND, Limit("new", requests_per_minute=60, burst_s=3.0)]))
    await house.advance(0.9)
    assert house.went == ["first", *"abc"]
    await house.advance(2)
    assert house.went == ["first", *"abcde"]


async def test_renamed():
    """A limit of another name has buckets of its own; those who wait leave the old ones."""
    house = await crowded(ONE_A_SECOND)
    house.schedule.reload(Limits([replace(ONE_A_SECOND, name="other")]))
    await house.settle_down()
    assert house.went == ["first", "a"]
    assert not house.ledger._states["org:requests"].line
    await house.advance(1.1)
    assert house.went == ["first", "a", "b"]


async def test_larger_burst():
    """The capacity counts, too: a bucket that may hold more fills up beyond the old mark."""
    house = House(replace(ONE_A_SECOND, requests_per_minute=60, input_tokens_per_minute=600, burst_s=1.0))
    await house.go("first")
    waiting = house.go("second")
    await house.settle_down()
    house.schedule.reload(Limits([replace(ONE_A_SECOND, input_tokens_per_minute=6000, burst_s=1.0)]))
    await house.advance(1.1)
    await waiting


async def test_more_permits():
    """With more permits, as many more go at once."""
    house = await crowded(ONE_AT_A_TIME, hold_s=30)
    house.schedule.reload(Limits([replace(ONE_AT_A_TIME, concurrency=3)]))
    await house.settle_down()
    assert house.went[:3] == ["first", "a", "b"]


async def test_fewer_permits():
    """With fewer permits, nobody goes until enough have come back."""
    house = House(replace(ONE_AT_A_TIME, concurrency=3))
    for number in range(3):
        house.go(f"c{number}", hold_s=10 + number)
    waiting = house.go("late")
    await house.settle_down()
    house.schedule.reload(Limits([ONE_AT_A_TIME]))
    await house.advance(11.5)
    assert house.went == ["c0", "c1", "c2"]
    await house.advance(1)
    await waiting


async def test_other_policy():
    """What is to happen while the ledger is away may change while calls wait for it."""
    house = House(ONE_A_SECOND, hosts=1)
    house.ledger.is_away = True
    waiting = house.go("a")
    await house.advance(0.5)
    house.schedule.reload(Limits([replace(ONE_A_SECOND, on_redis_loss="open")]))
    await house.advance(0.6)
    await waiting


async def test_unchanged():
    """Whom a reload does not concern is left alone."""
    house = await crowded(ONE_A_SECOND)
    asked = house.ledger.asked
    house.schedule.reload(Limits([ONE_A_SECOND, replace(ONE_AT_A_TIME, name="other", match=Match(model="another"))]))
    await house.settle_down()
    assert house.ledger.asked == asked
    assert [call.done() for call in house.crowd] == [False] * 10


@pytest.mark.parametrize("steps", range(12))
async def test_cancelled_in_reload(steps):
    """Who leaves at any moment of a reload leaves nothing behind."""
    house = await crowded(ONE_A_SECOND)
    house.schedule.reload(Limits([TEN_A_SECOND]))
    for _ in range(steps):
        await asyncio.sleep(0)
    for call in house.crowd:
        call.cancel()
    await asyncio.gather(*house.crowd, return_exceptions=True)
    await house.settle_down()
    assert repr(house.schedule) == "<Schedule [0 waiting, 0 asking, 0 permits]>"
    assert is_clean(house)
    assert house.schedule.crowd.stats().calls == 0


# What a refusal says.


@pytest.mark.parametrize("steps", range(8))
async def test_front_leaves(steps):
    """A front that was told to wait long leaves; what it was told frightens away nobody who comes in the next moment."""
    house = House(Limit("org", input_tokens_per_minute=600, burst_s=60.0))
    house.go("all", hold_s=1000, body=b"x" * 1800)
    await house.settle_down()
    front = house.go("front", body=b"x" * 1600)
    await house.settle_down()
    patient = [house.go("patient", within=1000) for _ in range(2)]
    await house.settle_down()
    front.cancel()
    for _ in range(steps):
        await asyncio.sleep(0)
    small = house.go("small", within=6.0)
    await house.advance(1)
    await asyncio.gather(*patient, small)


async def test_older_passes_front():
    """A call that comes back, older than the front and wanting less, is not told what the front was told."""
    house = House(Limit("org", input_tokens_per_minute=600, burst_s=60.0))
    before = house.clock.now() - 10
    house.go("all", hold_s=1000, body=b"x" * 1800)
    await house.settle_down()
    house.go("front", within=1000, body=b"x" * 1600)
    await house.settle_down()
    old = house.go("old", arrival=before, within=6.0)
    await house.advance(0.5)
    await old


TOKENS_BLOCK = Limit("tight", requests_per_minute=6000, input_tokens_per_minute=60, burst_s=60.0)
THEN_REQUESTS = Limit("wide", requests_per_minute=600)


async def blocked() -> House:
    """Return a house whose input tokens are used up, behind a front that waits for them."""
    house = House(TOKENS_BLOCK, THEN_REQUESTS)
    house.go("all", hold_s=1000, body=b"x" * 300)
    await house.settle_down()
    house.go("front", within=600, body=b"x" * 100)
    await house.settle_down()
    return house


async def test_blames_what_blocks():
    """Refused on coming, a call hears of the bucket that has no room, not of the first in the list."""
    house = await blocked()
    with pytest.raises(BudgetExhausted) as refused:
        await house.go("late", within=3.0, body=b"x" * 100)
    assert refused.value.metadata == {"limit": "tight", "kind": "input_tokens"}
    assert refused.value.retry_after_s > 3


async def test_blames_later():
    """So does one that is refused while it stands, when it turns out that others used more than was thought."""
    house = await blocked()
    waiting = house.go("waits", within=100.0, body=b"x" * 100)
    await house.settle_down()
    assert not waiting.done()
    wants = house.schedule._limits.wants(house.call(), house.schedule._estimator.estimate(house.call()), house.clock.now())
    await house.ledger.settle("elsewhere", wants, {want.bucket_id: 500 for want in wants if want.kind == "input_tokens"})
    await house.advance(2.5)
    assert waiting.exception().metadata == {"limit": "tight", "kind": "input_tokens"}


async def test_blames_front():
    """So does the front itself."""
    house = House(THEN_REQUESTS, TOKENS_BLOCK)
    house.go("all", hold_s=1000, body=b"x" * 300)
    await house.settle_down()
    with pytest.raises(BudgetExhausted) as refused:
        await house.go("late", within=3.0, body=b"x" * 100)
    assert refused.value.metadata == {"limit": "tight", "kind": "input_tokens"}


async def test_blames_rate_beside_permits():
    """Where permits block as well, whose return nobody knows, a rate that is known to be too slow is named, and at once."""
    house = House(Limit("org", requests_per_minute=30, burst_s=2.0, concurrency=1))
    house.go("first", hold_s=100)
    await house.settle_down()
    with pytest.raises(BudgetExhausted) as refused:
        await house.go("late", within=1.5)
    assert refused.value.metadata == {"limit": "org", "kind": "requests"}
    assert refused.value.retry_after_s == pytest.approx(2.0, abs=0.01)


async def test_part_of_a_token():
    """Nobody is refused for the part of a token that is there: the front is, and who comes behind it, on time."""
    house = House(Limit("slow", requests_per_minute=1, burst_s=60.0))
    await house.go("first")
    await house.advance(54)
    second, third = house.go("second", within=10), house.go("third", within=70)
    await house.advance(6.5)
    await second
    await house.advance(60)
    await third


async def test_equal_refusals():
    """Of a thousand equal calls that come one after the other and cannot go in time, the ledger hears of the first."""
    house = House(Limit("slow", requests_per_minute=1, burst_s=60.0))
    await house.go("first")
    asked = house.ledger.asked
    for _ in range(1000):
        with pytest.raises(BudgetExhausted) as refused:
            await house.go("late", within=10)
        assert refused.value.retry_after_s == pytest.approx(60.0)
    assert house.ledger.asked == asked + 1
    assert is_clean(house)


async def test_given_back_meanwhile():
    """What comes back in this process is there for the next call at once, whatever the last one was told."""
    house = House(Limit("slow", requests_per_minute=1, burst_s=60.0))
    turn = house.schedule.turn(house.call(), "h")
    await turn.__aenter__()
    with pytest.raises(BudgetExhausted):
        await house.go("late", within=10)
    await turn.__aexit__(None, None, None)  # not sent, so all of it comes back
    await house.go("next", within=10)


async def test_given_back_elsewhere():
    """What comes back on another host is there a moment later."""
    house = House(Limit("slow", requests_per_minute=1, burst_s=60.0))
    wants = house.schedule._limits.buckets(house.call(), house.clock.now())
    await MemoryLedger.reserve(house.ledger, "elsewhere", wants, waiter="", flow=Flow("x"))
    with pytest.raises(BudgetExhausted):
        await house.go("late", within=10)
    house.ledger.release("elsewhere", wants)
    await house.advance(0.1)
    await house.go("next", within=10)


async def test_blames_permits():
    """Where it was permits that did not come back, they are named."""
    house = House(Limit("org", requests_per_minute=6000, concurrency=1))
    house.go("first", hold_s=100)
    await house.settle_down()
    waiting = house.go("late", within=2.0)
    await house.advance(2.1)
    assert waiting.exception().metadata == {"limit": "org", "kind": "concurrency"}


# What is counted.


async def test_cancelled_counts():
    """Who leaves while it waits is counted as cancelled; who is refused, or whose deadline comes, as refused."""
    house = await crowded(ONE_AT_A_TIME, names="a", hold_s=100)
    before = observe.RESERVATIONS.value("cancelled"), observe.RESERVATIONS.value("refused")
    house.crowd[0].cancel()
    await house.settle_down()
    assert (observe.RESERVATIONS.value("cancelled"), observe.RESERVATIONS.value("refused")) == (before[0] + 1, before[1])
    late = house.go("late", within=1.0)
    await house.advance(1.1)
    assert late.exception()
    assert (observe.RESERVATIONS.value("cancelled"), observe.RESERVATIONS.value("refused")) == (before[0] + 1, before[1] + 1)


async def test_ceilings_come():
    """Who waited under a limit that was learnt reserves the most that it can use once the limit says so."""
    learned = Limit("org", input_tokens_per_minute=60_000, requests_per_minute=60, burst_s=1.0)
    house = await crowded(learned, names="a")
    house.schedule.reload(Limits([replace(learned, estimate="ceiling")]))
    await house.settle_down()
    [place] = house.schedule._asking.places()
    costs = {want.kind: want.cost for want in place.wants}
    assert costs["input_tokens"] == at_most(b"{}")
