"""Waiting for a turn: in order, within deadlines, and whatever was taken is given back."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc

import pytest

from conftest import until
from headrace.budget.estimate import Estimator
from headrace.budget.limits import Limit, Limits
from headrace.crowd import Crowd
from headrace.errors import AttemptFailed, BudgetExhausted, DeadlinePassed, Failure, QueueFull, UpstreamError
from headrace.model import Usage
from headrace.schedule.line import MOST_OF_FLOW
from schedule_parts import ONE_A_SECOND, ONE_AT_A_TIME, House, levels

pytestmark = pytest.mark.usefixtures("tasks")


async def test_no_limits():
    """Without limits nothing is asked and nothing waited for."""
    house = House()
    await house.go("ann")
    assert house.went == ["ann"]
    assert house.ledger.asked == 0
    assert repr(house.schedule) == "<Schedule [0 waiting, 0 asking, 0 permits]>"


async def test_in_order():
    """Who comes first goes first, and each exactly when its token has flowed in."""
    house = House(ONE_A_SECOND)
    for name in "abc":
        house.go(name)
    await house.settle_down()
    assert house.went == ["a"]
    assert repr(house.schedule) == "<Schedule [2 waiting, 2 asking, 0 permits]>"
    await house.advance(0.999)
    await house.settle_down()
    assert house.went == ["a"]
    await house.advance(0.002)
    await house.settle_down()
    assert house.went == ["a", "b"]
    await house.advance(1.0)
    await house.settle_down()
    assert house.went == ["a", "b", "c"]
    assert repr(house.schedule) == "<Schedule [0 waiting, 0 asking, 0 permits]>"


async def test_at_once():
    """What the ledger has at hand is had without asking, unless somebody waits for it here: then the order holds."""
    house, taken = House(ONE_A_SECOND), []
    house.ledger.take = lambda hold_id, wants: taken.append(hold_id) or ((0,) if len(taken) < 3 else None)
    await house.go("a")
    await house.go("b")
    assert (house.went, house.ledger.asked) == (["a", "b"], 0)
    for name in "cde":
        house.go(name)
        await house.settle_down()
    assert house.went == ["a", "b", "c"]
    assert taken == ["h1", "h2", "h3", "h4"]  # d was held up, so e stands behind it
    await house.advance(2.1)
    assert house.went == ["a", "b", "c", "d", "e"]


async def test_only_the_front_asks():
    """Those behind the front do not trouble the ledger."""
    house = House(ONE_A_SECOND)
    house.go("a")
    await house.settle_down()
    house.go("b")
    await house.settle_down()
    asked = house.ledger.asked
    for number in range(20):
        house.go(f"c{number}")
    await house.settle_down()
    assert house.ledger.asked == asked
    assert repr(house.schedule) == "<Schedule [21 waiting, 1 asking, 0 permits]>"


async def test_many_at_once():
    """A crowd that comes at once does not all ask at once."""
    house = House(ONE_AT_A_TIME)
    for number in range(500):
        house.go(f"c{number}", hold_s=1)
    await house.settle_down()
    assert house.ledger.asked == MOST_OF_FLOW


async def test_batch():
    """What has flowed in meanwhile is used at once: as many are called as fit."""
    house = House(Limit("org", requests_per_minute=6000, burst_s=1.0))
    for number in range(150):
        house.go(f"c{number}")
    await house.settle_down()
    await house.settle_down()
    assert len(house.went) == 100
    await house.advance(0.0101)
    await house.advance(0.5)
    for _ in range(5):
        await house.settle_down()
    assert len(house.went) == 150


async def test_batch_of_permits():
    """Permits that come back together are all asked for at once, and not only after one of them was granted."""
    house = House(Limit("org", concurrency=5))
    for number in range(5):
        house.go(f"a{number}", hold_s=1)
    await house.settle_down()
    for number in range(20):
        house.go(f"b{number}", hold_s=1, within=600)
        await house.settle_down()
    assert house.schedule.stats().asking == 1
    line = house.schedule.lines()[0]
    for number in range(1, 4):
        house.schedule._asking.freed(next(line.places()).wants)
        assert house.schedule.stats().asking == number


async def test_comes_back():
    """A call that comes back after a failed attempt has its old place."""
    house = House(ONE_A_SECOND)
    before = house.clock.now()
    await house.advance(5)
    for name in "abc":
        house.go(name)
    await house.settle_down()
    house.go("old", arrival=before)
    await house.settle_down()
    await house.advance(1.001)
    await house.settle_down()
    assert house.went == ["a", "old"]


async def test_too_late_at_entry():
    """A call behind more urgent ones that cannot make its deadline is refused at once, with the time that would work."""
    house = House(ONE_A_SECOND)
    for _ in range(5):
        house.go("early", within=4.2)
    await house.settle_down()
    late = house.go("late", within=4.5)
    await house.settle_down()
    assert late.done()
    with pytest.raises(BudgetExhausted) as refused:
        await late
    assert refused.value.retry_after_s == pytest.approx(5.0, abs=0.01)
    assert refused.value.metadata == {"limit": "org", "kind": "requests"}


async def test_too_late_at_front():
    """So is one that finds nobody waiting but too little in the bucket; and it leaves nothing behind."""
    house = House(ONE_A_SECOND)
    await house.go("a")
    with pytest.raises(BudgetExhausted) as refused:
        await house.go("b", within=0.5)
    assert refused.value.retry_after_s == pytest.approx(1.0, abs=0.01)
    await house.advance(1.0)
    await house.go("c")


async def test_estimates_worsen():
    """Those in line are refused when it turns out that their deadline will come first, not when it comes."""
    house = House(Limit("org", input_tokens_per_minute=6000, burst_s=10.0))
    house.go("a", hold_s=100, body=b"x" * 3000)
    await house.settle_down()
    house.go("b", body=b"x" * 3000)
    last = house.go("c", within=20.0)
    await house.settle_down()
    assert not last.done()
    wants = house.schedule._limits.wants(house.call(), Estimator().estimate(house.call()), house.clock.now())
    await house.ledger.settle("elsewhere", wants, {"org:input_tokens": 5000})
    await house.advance(1.1)
    await house.advance(1.1)
    await house.settle_down()
    with pytest.raises(BudgetExhausted) as refused:
        await last
    assert refused.value.retry_after_s > 20


async def test_never():
    """An input that is surely over the capacity is refused for good, without asking."""
    house = House(Limit("org", input_tokens_per_minute=100))
    with pytest.raises(BudgetExhausted) as refused:
        await house.go(body=b"word " * 3_200)
    assert refused.value.retry_after_s is None
    assert house.ledger.asked == 0


async def test_queue_full():
    """Beyond max_waiting calls are refused at once, those that need not wait excepted."""
    house = House(ONE_A_SECOND, crowd=Crowd(max_calls=1))
    house.go("a")
    house.go("b")
    await house.settle_down()
    with pytest.raises(QueueFull):
        await house.go("c")
    await house.advance(1.001)
    await house.settle_down()
    assert house.went == ["a", "b"]


async def test_queue_full_of_bytes():
    """The bytes of those who wait are bounded, too."""
    house = House(ONE_A_SECOND, crowd=Crowd(max_bytes=1000))
    house.go("a")
    await house.settle_down()
    house.go("b", body=b"x" * 900)
    await house.settle_down()
    with pytest.raises(QueueFull):
        await house.go("c", body=b"x" * 200)
    assert "2 waiting" not in repr(house.schedule)


@pytest.mark.parametrize(
    ("failure", "sent", "left"),
    [
        (Failure.RATE_LIMITED, True, (59, 60)),
        (Failure.OVERLOADED, True, (59, 60)),
        (Failure.FINAL, True, (59, 60)),
        (Failure.BROKEN, True, (59, 10)),
        (Failure.BROKEN, False, (60, 60)),
    ],
)
async def test_fail(failure, sent, left):
    """A failed attempt keeps its request if it was sent, and its tokens only where their use is unknown."""
    house = House(Limit("org", requests_per_minute=60, output_tokens_per_minute=60))
    async with house.schedule.turn(house.call(), "h") as turn:
        turn.sent()
        await turn.fail(AttemptFailed(failure, UpstreamError("no", status=500), sent=sent))
    assert await levels(house) == left


@pytest.mark.parametrize(("sent", "left"), [(True, (59, 10)), (False, (60, 60))])
async def test_left_unsettled(sent, left):
    """A turn that is left without a word keeps what may have been used, and gives back what surely was not."""
    house = House(Limit("org", requests_per_minute=60, output_tokens_per_minute=60))

    async def break_off() -> None:
        async with house.schedule.turn(house.call(), "h") as turn:
            if sent:
                turn.sent()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await break_off()
    assert await levels(house) == left


async def test_unknown_use():
    """An answer that never said what it used keeps what was reserved."""
    house = House(Limit("org", output_tokens_per_minute=60))
    async with house.schedule.turn(house.call(), "h") as turn:
        turn.sent()
        await turn.settle(Usage(known=False))
    assert await levels(house) == (10,)


async def test_granted_too_late():
    """A grant that comes after the deadline is given back."""
    house = House(ONE_A_SECOND)
    house.keeping.cancel()  # each of its beats would give the ledger the time to answer
    call = house.call(within=1.0)
    asking = asyncio.ensure_future(house.schedule.turn(call, "h").__aenter__())
    await asyncio.sleep(0)
    await house.clock.advance(2)  # while the ledger's answer is on its way
    with pytest.raises(DeadlinePassed):
        await asking
    assert await levels(house) == (1,)


LIMITS = Limit("org", requests_per_minute=60, burst_s=1.0, concurrency=1)


@pytest.mark.parametrize("steps", range(14))
@pytest.mark.parametrize("is_blocked", [False, True])
async def test_cancelled_anywhere(steps, is_blocked):
    """Cancelled after any number of steps, a call leaves everything as it was: tokens, permits, lines, counts."""
    house = House(LIMITS)
    if is_blocked:
        house.go("first", hold_s=1.5)
        await house.settle_down()
    second = house.go("second", hold_s=60)
    third = house.go("third", hold_s=0)
    for _ in range(steps):
        await asyncio.sleep(0)
    was_sent = "second" in house.went
    second.cancel()
    await house.settle_down()
    assert second.cancelled()
    await house.advance(2 if is_blocked else 0)
    await house.settle_down()
    if not was_sent:
        assert "third" in house.went
    await house.advance(3)
    await third
    await house.settle_down()
    assert repr(house.schedule) == "<Schedule [0 waiting, 0 asking, 0 permits]>"
    assert await levels(house) == (1,)
    assert all(not state.line and not state.permits for state in house.ledger._states.values())


@pytest.mark.parametrize("victim", range(4))
async def test_cancelled_in_line(victim):
    """Whoever leaves the line, front or not, the others go on in order."""
    house = House(ONE_A_SECOND)
    names = ["a", "b", "c", "d"]
    await house.go("first")
    waiting = []
    for name in names:
        waiting.append(house.go(name))
        await house.settle_down()
    waiting[victim].cancel()
    for _ in range(5):
        await house.advance(1.001)
        await house.settle_down()
    assert house.went == ["first", *(name for name in names if name != names[victim])]


async def test_headers():
    """Headers tell the caller's own budget, as far as it is known."""
    house = House(
        Limit("org", requests_per_minute=600, output_tokens_per_minute=6000),
        Limit("mine", per=("caller",), requests_per_minute=60),
    )
    assert house.schedule.budget_headers(house.call()) == ()
    await house.go()
    await house.advance(0.5)
    assert dict(house.schedule.budget_headers(house.call())) == {
        "anthropic-ratelimit-requests-limit": "60",
        "anthropic-ratelimit-requests-remaining": "59",
        "anthropic-ratelimit-requests-reset": "2027-01-15T08:00:01Z",
        "anthropic-ratelimit-output-tokens-limit": "6000",
        "anthropic-ratelimit-output-tokens-remaining": "6000",
        "anthropic-ratelimit-output-tokens-reset": "2027-01-15T08:00:00Z",
    }


async def test_reload():
    """New limits hold for calls that come after them."""
    house = House(ONE_A_SECOND)
    await house.go()
    house.schedule.reload(Limits())
    await house.go()
    assert house.ledger.asked == 1


async def test_ten_thousand():
    """Ten thousand that wait cost little memory, ask nothing, and leave in no time."""
    house = House(ONE_AT_A_TIME)
    house.go("first", hold_s=10_000)
    house.go("second")
    await house.settle_down()
    gc.collect()
    tracemalloc.start()
    crowd = [house.go("c", within=5000) for _ in range(9_998)]
    started = time.process_time()
    await house.settle_down()
    spent_s = time.process_time() - started
    gc.collect()
    each = tracemalloc.get_traced_memory()[0] / len(crowd)
    tracemalloc.stop()
    assert "9999 waiting, 1 asking" in repr(house.schedule)
    assert each < 12 * 1024
    assert spent_s < 10
    started = time.process_time()
    for call in crowd:
        call.cancel()
    await house.settle_down()
    assert time.process_time() - started < 2
    await until(lambda: "[1 waiting, 1 asking" in repr(house.schedule), within=1)
    print(f"{each / 1024:.1f} KiB each, {spent_s * 1e6 / len(crowd):.0f} us each under tracemalloc")
