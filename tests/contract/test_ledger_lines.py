"""The lines before the buckets of every ledger: who is next, by rank and by weight, who is told so, and who leaves."""

from __future__ import annotations

import itertools

import pytest
import redis
from msgspec.structs import replace

from conftest import until
from headrace.budget.ledger import Granted, Wait
from headrace.budget.redis import RedisLedger
from headrace.rank import Flow
from ledger_parts import PERMITS, REQUESTS, SLOW, TOKENS, beaten


async def test_fifo(kit):
    """Nobody overtakes: a later comer that would fit waits for the costs of those before it, too."""
    await kit.ask("a", replace(TOKENS, cost=1500, rate_per_minute=600))
    want = replace(TOKENS, rate_per_minute=600)
    first = await kit.ask("b", replace(want, cost=1000))
    second = await kit.ask("c", want)
    assert first.seconds == pytest.approx(50.0, abs=0.1)
    assert second.seconds == pytest.approx(60.0, abs=0.1)
    await kit.ledger.release("b", (replace(want, cost=1000),), waiter=kit.waiter("b"))
    assert isinstance(await kit.ask("c", want), Granted)


async def test_room_for_all(kit):
    """Who stands behind others need not wait until they have asked, where there is room for all; they lose nothing by it."""
    want = replace(PERMITS, capacity=3)
    for name in "abc":
        await kit.ask(name, want)
    for name in "def":
        assert isinstance(await kit.ask(name, want), Wait)
    await kit.ledger.settle("a", (want,), {})
    await kit.ledger.settle("b", (want,), {})
    assert isinstance(await kit.ask("f", want), Wait)
    assert (await kit.ask("e", want)).levels == (1,)
    assert isinstance(await kit.ask("f", want), Wait)
    assert (await kit.ask("d", want)).levels == (0,)


async def test_overtaken_keeps_its_rank(kit):
    """Who is overtaken where there is room for all pays nothing for it: its flow's next call stands where it would have."""
    want = replace(PERMITS, capacity=5)
    slow, light, third = Flow("slow", weight=10), Flow("light"), Flow("third", weight=10)
    for name in "abcde":
        await kit.ask(name, want)
    for name, flow in (("s1", slow), ("l1", light), ("l2", light), ("t1", third), ("t2", third)):
        assert isinstance(await kit.ask(name, want, flow=flow), Wait)
    for name in "abcde":
        await kit.ledger.settle(name, (want,), {})
    for name, flow in (("l2", light), ("s1", slow), ("l1", light), ("t1", third)):
        assert isinstance(await kit.ask(name, want, flow=flow), Granted)
    assert isinstance(await kit.ask("s2", want, flow=slow), Granted)
    assert isinstance(await kit.ask("t2", want, flow=third), Wait)


async def test_quiet_flow(kit):
    """The order is by rank: a flow that has asked for little passes those of one that has asked for more."""
    want = replace(TOKENS, rate_per_minute=600, cost=1000)
    await kit.ask("a", replace(want, cost=2000))
    for name, seconds in (("b", 100), ("c", 200), ("d", 300)):
        assert (await kit.ask(name, want, flow=Flow("flood"))).seconds == pytest.approx(seconds, abs=0.1)
    assert (await kit.ask("q", want, flow=Flow("quiet"))).seconds == pytest.approx(200, abs=0.1)
    assert (await kit.ask("c", want, flow=Flow("flood"))).seconds == pytest.approx(300, abs=0.1)


async def served(kit, flows, *, calls):
    """Let flows press on permits, each with two calls in line; return how many of *calls* each is granted, by name."""
    want, shares, numbers = replace(PERMITS, capacity=1), dict.fromkeys(flows, 0), itertools.count()
    await kit.ask("at", want)
    names = {f"{flow.caller}{next(numbers)}": flow for flow in flows for _ in range(2)}
    for name, flow in names.items():
        await kit.ask(name, want, flow=flow)
    held = "at"
    for _ in range(calls):
        await kit.ledger.settle(held, (want,), {})
        for name, flow in list(names.items()):
            if isinstance(await kit.ask(name, want, flow=flow), Granted):
                held = name
                shares[flow] += 1
                del names[name]
                names[new := f"{flow.caller}{next(numbers)}"] = flow
                await kit.ask(new, want, flow=flow)
    return {flow.caller: count for flow, count in shares.items()}


async def test_weights(kit):
    """Flows that wait all the time are granted by their weights."""
    shares = await served(kit, [Flow("a", weight=3), Flow("b"), Flow("c")], calls=50)
    assert shares["a"] == pytest.approx(30, abs=1)
    assert shares["b"] == pytest.approx(10, abs=1)


async def test_lanes(kit):
    """A lane has its share, however many callers are in another."""
    flows = [Flow("a", "interactive", 800_000), *(Flow(name, "batch", 200_000) for name in "bcd")]
    shares = await served(kit, flows, calls=120)
    assert shares["a"] == pytest.approx(96, abs=4)  # those who came first had nobody to share with yet
    assert shares["b"] == pytest.approx(8, abs=2)


async def test_charged_for_use(kit):
    """Who leaves takes its charge back, and what was used in the end corrects it: the flow goes on as though it had known."""
    want = replace(TOKENS, rate_per_minute=600, cost=1000)
    await kit.ask("a", replace(want, cost=2000))
    await kit.ask("b", want, flow=Flow("x"))
    await kit.ask("c", want, flow=Flow("x"))
    await kit.ask("d", want, flow=Flow("y"))
    await kit.ask("e", want, flow=Flow("y"))
    await kit.ledger.release("c", (want,), waiter=kit.waiter("c"))
    assert (await kit.ask("c2", want, flow=Flow("x"))).seconds == pytest.approx(300, abs=0.1)
    await kit.ledger.settle("a", (replace(want, cost=2000),), {TOKENS.bucket_id: 0})
    assert isinstance(await kit.ask("b", want, flow=Flow("x")), Granted)
    await kit.ledger.settle("b", (want,), {TOKENS.bucket_id: 0})
    await kit.ledger.release("c2", (want,), waiter=kit.waiter("c2"))
    assert isinstance(await kit.ask("d", want, flow=Flow("y")), Granted)
    assert isinstance(await kit.ask("f", replace(want, cost=1500), flow=Flow("x")), Wait)
    assert (await kit.ask("e", want, flow=Flow("y"))).seconds == pytest.approx(150, abs=0.2)


async def test_together(kit):
    """One who waits in two lines, of which one has been contended for long, is not held up for ever in the other."""
    first, second = replace(PERMITS, capacity=1), replace(PERMITS, bucket_id="second", capacity=1)
    await kit.ask("at", first)
    await kit.ask("at2", second)
    for number in range(40):  # the first line's clock runs ahead
        await kit.ask(f"b{number}", first, flow=Flow("b", weight=1))
        await kit.ask(f"o{number}", first, flow=Flow("o", weight=50))
        await kit.ledger.release("at", (first,)) if not number else None
        for name in (f"b{number}", f"o{number}"):
            await kit.ask(name, first, flow=Flow(name[0], weight=1 if name[0] == "b" else 50))
            await kit.ledger.release(name, (first,), waiter=kit.waiter(name))
    await kit.ask("held", first)
    await kit.ask("x0", second, flow=Flow("x"))
    await kit.ask("both", first, second, flow=Flow("b"))
    for number in range(1, 4):
        await kit.ask(f"x{number}", second, flow=Flow("x"))
    await kit.ledger.release("held", (first,))
    await kit.ledger.release("at2", (second,))
    assert isinstance(await kit.ask("x0", second, flow=Flow("x")), Granted)
    await kit.ledger.release("x0", (second,))
    assert isinstance(await kit.ask("both", first, second, flow=Flow("b")), Granted)


async def test_no_line(link, valkey_url):
    """While nobody waits, nothing is kept of who had how much."""
    ledger = RedisLedger(link)
    for number in range(3):
        await ledger.reserve(f"h{number}", (REQUESTS, TOKENS), waiter=f"i|{number}", flow=Flow("a"))
    await ledger.settle("h1", (REQUESTS, TOKENS), {TOKENS.bucket_id: 7})
    with redis.Redis.from_url(valkey_url) as client:
        assert not [key for key in client.scan_iter() if b":fair:" in key or b":flows:" in key]


async def test_only_on_what_blocks_both(kit):
    """One who waits for tokens does not hold up one who needs only permits, nor the other way round."""
    await kit.ask("a", SLOW)
    assert isinstance(await kit.ask("b", SLOW, PERMITS), Wait)
    assert isinstance(await kit.ask("c", PERMITS), Granted)
    assert isinstance(await kit.ask("d", PERMITS), Granted)
    assert isinstance(await kit.ask("e", TOKENS, PERMITS), Wait)
    assert isinstance(await kit.ask("f", TOKENS), Granted)


async def test_places_lapse(kit, short_lease):
    """Who stops asking no longer holds up the others."""
    await beaten(kit, 0.12)
    await kit.ask("a", replace(TOKENS, cost=1500, rate_per_minute=600))
    await kit.ask("b", replace(TOKENS, cost=1000, rate_per_minute=600))
    assert isinstance(await kit.ask("c", replace(TOKENS, rate_per_minute=600)), Wait)
    await beaten(kit, 0.12)
    assert isinstance(await kit.ask("c", replace(TOKENS, rate_per_minute=600)), Granted)


async def test_nobody_listens(link):
    """When it is the turn of one whose process is gone, all places of that process are free at once."""
    ledger, nudged = RedisLedger(link), []
    link.on("permit", nudged.append)
    await ledger.reserve("a", (PERMITS,), waiter="i|1", flow=Flow("a"))
    await ledger.reserve("b", (PERMITS,), waiter="i|2", flow=Flow("a"))
    for number in (3, 4):
        assert isinstance(await ledger.reserve(f"dead{number}", (PERMITS,), waiter=f"gone|{number}", flow=Flow("b")), Wait)
    assert isinstance(await ledger.reserve("c", (PERMITS,), waiter=f"{link.inbox}|5", flow=Flow("a")), Wait)
    await ledger.release("a", (PERMITS,))
    await until(lambda: nudged == [f"{link.inbox}|5".encode()])
    assert isinstance(await ledger.reserve("d", (PERMITS,), waiter="i|6", flow=Flow("a")), Wait)
    assert isinstance(await ledger.reserve("c", (PERMITS,), waiter=f"{link.inbox}|5", flow=Flow("a")), Granted)


async def test_nudge_unanswered(kit, short_lease):
    """Who is nudged and does not ask no longer holds up the others."""
    await beaten(kit, 0.2)
    await kit.ask("a", PERMITS)
    await kit.ask("b", PERMITS)
    await kit.ask("stopped", PERMITS)
    await kit.ask("c", PERMITS)
    await kit.ledger.release("a", (PERMITS,))
    assert isinstance(await kit.ask("c", PERMITS), Wait)
    await beaten(kit, 0.12, "b")
    assert isinstance(await kit.ask("c", PERMITS), Granted)


async def test_nudge(kit):
    """What comes back is made known to the first in line, and to nobody else."""
    await kit.ask("a", PERMITS)
    await kit.ask("b", PERMITS)
    await kit.ask("c", PERMITS)
    await kit.ask("d", PERMITS)
    await kit.ledger.settle("a", (PERMITS,), {})
    await until(lambda: kit.nudged, within=2)
    assert kit.nudged == [kit.waiter("c")]
    assert isinstance(await kit.ask("d", PERMITS), Wait)
    assert isinstance(await kit.ask("c", PERMITS), Granted)


async def test_nudge_for_tokens(kit):
    """Tokens given back wake the first in line once it fits, not before."""
    want = replace(SLOW, cost=60)
    await kit.ask("a", want)
    await kit.ask("b", replace(SLOW, cost=30))
    await kit.ask("c", want)
    await kit.ledger.release("b", (replace(SLOW, cost=30),))
    await kit.ledger.settle("a", (want,), {SLOW.bucket_id: 20})
    await until(lambda: kit.nudged, within=2)
    assert kit.nudged == [kit.waiter("c")]


async def test_leave(kit):
    """Leaving frees the place, and lets the next one know."""
    await kit.ask("a", replace(SLOW, cost=60))
    await kit.ask("b", replace(SLOW, cost=60))
    await kit.ask("c", replace(SLOW, cost=20))
    await kit.ledger.release("b", (replace(SLOW, cost=60),), waiter=kit.waiter("b"))
    await until(lambda: kit.nudged, within=2)
    assert kit.nudged == [kit.waiter("c")]
