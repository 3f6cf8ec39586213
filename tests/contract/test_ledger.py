"""One suite for both ledgers, and the scripts held against their twin in memory, case by case."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from conftest import until
from headrace import keys, observe
from headrace.budget import ledger as rules
from headrace.budget import pulse
from headrace.budget import redis as redis_ledger
from headrace.budget.borrowing import Borrowing
from headrace.budget.bucket import FIRST_US, UNITS, Bucket, Window
from headrace.budget.gate import Told, Verdict
from headrace.budget.ledger import Granted, HoldClosed, Ledger, Never, Said, Spent, Wait
from headrace.budget.memory import MemoryLedger
from headrace.budget.quanta import Terms
from headrace.budget.redis import RedisLedger
from headrace.budget.want import Form, Want
from headrace.errors import RedisAway
from headrace.link import Link
from headrace.rank import Flow
from windows import used_share, worst_window

REQUESTS = Want("org:requests", "org", "requests", Form.RATE, 600, 20, 1)
TOKENS = Want("org:input_tokens", "org", "input_tokens", Form.RATE, 60_000, 2000, 100)
PERMITS = Want("org:concurrency", "org", "concurrency", Form.PERMIT, 0, 2, 1)
SLOW = Want("slow:input_tokens", "slow", "input_tokens", Form.RATE, 1, 100, 100)  # grants once, then nothing for 100 minutes

# A day's or a month's budget; it ends in 2096, or has ended.
BUDGET = Want("org:spend@1", "org", "spend", Form.WINDOW, 0, 1000, 400, ends_us=4_000_000_000_000_000)
ENDED = replace(BUDGET, bucket_id="org:spend@0", ends_us=1_000_000)


@dataclass
class Kit:
    ledger: Ledger
    inbox: str
    nudged: list[str]

    async def ask(self, hold_id, *wants, waiter="", flow=None):
        flow = flow or Flow(hold_id)
        outcome = await self.ledger.reserve(hold_id, wants, waiter=self.waiter(waiter or hold_id), flow=flow)
        if isinstance(self.ledger, Borrowing):  # as eagerly as can be: so the next call finds that something was borrowed
            await self.ledger.exchange()
        return outcome

    def waiter(self, name):
        return f"{self.inbox}|{name}"


def now_us() -> int:
    return time.time_ns() // 1000


@pytest.fixture(params=["redis", "memory", "borrowing"])
async def kit(request, link) -> AsyncIterator[Kit]:
    if request.param == "memory":
        nudged: list[str] = []
        yield Kit(MemoryLedger(now_us, nudge=nudged.append), "inbox", nudged)
        return
    ledger: Ledger = RedisLedger(link)
    if request.param == "borrowing":
        ledger = Borrowing(ledger, link, terms=Terms(0.2, 0.0), monotonic=ticking())
    kit = Kit(ledger, link.inbox, [])
    link.on("permit", lambda waiter: kit.nudged.append(waiter.decode()))
    if not isinstance(ledger, Borrowing):
        yield kit
        return
    keeping = asyncio.create_task(ledger.keep())
    yield kit
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


def ticking() -> Callable[[], float]:
    """Return a clock that is a little ahead at each look: so each exchange is a tick after the last."""
    ahead = itertools.count()
    return lambda: time.monotonic() + next(ahead) * 0.01


async def test_all_or_nothing(kit):
    """A grant takes from all buckets; a wait takes from none, and names the bucket that takes longest."""
    granted = await kit.ask("a", REQUESTS, TOKENS, PERMITS)
    assert isinstance(granted, Granted)
    assert granted.levels == (19, 1900, 1)
    assert await kit.ask("b", SLOW) != await kit.ask("c", SLOW)
    waiting = await kit.ask("d", REQUESTS, SLOW, waiter="c")
    assert isinstance(waiting, Wait)
    assert waiting.bucket_id == SLOW.bucket_id
    assert (await kit.ask("e", REQUESTS)).levels == (18,)


async def test_wait_is_exact(kit):
    """The wait is exactly long enough."""
    want = replace(REQUESTS, cost=20)
    first = await kit.ask("a", want)
    waiting = await kit.ask("b", replace(REQUESTS, cost=2))
    assert waiting.seconds == pytest.approx(0.2 - (waiting.at_us - first.at_us) / 1e6, abs=2e-6)
    await asyncio.sleep(waiting.seconds + 0.002)
    assert isinstance(await kit.ask("b", replace(REQUESTS, cost=2)), Granted)


async def test_never(kit):
    """A cost over the capacity is refused for good, and takes nothing."""
    assert await kit.ask("a", REQUESTS, replace(TOKENS, cost=2001)) == Never(TOKENS.bucket_id)
    assert (await kit.ask("b", REQUESTS)).levels == (19,)


async def test_sent_twice(kit):
    """A reserve that arrives twice takes once and says the same."""
    first = await kit.ask("a", REQUESTS, PERMITS)
    assert await kit.ask("a", REQUESTS, PERMITS) == first
    assert (await kit.ask("b", REQUESTS, PERMITS)).levels == (18, 0)


async def test_settle(kit):
    """Settling replaces the estimate by the truth and returns the permit; twice is once."""
    await kit.ask("a", REQUESTS, TOKENS, PERMITS)
    for _ in range(2):
        await kit.ledger.settle("a", (REQUESTS, TOKENS, PERMITS), {TOKENS.bucket_id: 30, "other": 7})
    full_again_us = 100_000  # a request flows in every 0.1 s
    granted = await kit.ask("b", replace(TOKENS, cost=0), replace(REQUESTS, cost=0), PERMITS)
    assert 1970 <= granted.levels[0] <= 1970 + full_again_us // 1000
    assert granted.levels[1:] == (19, 1)


async def test_amend(kit):
    """Of a stream that goes on what is known is settled, more or less; the rest stays, its permit too, until it ends."""
    wants = (REQUESTS, TOKENS, PERMITS)
    await kit.ledger.settle("z", (), {})  # so that Redis knows the script: else it is told it first, and the rest overtakes
    await kit.ask("a", *wants)
    assert kit.ledger.amend("a", 1, wants, {TOKENS.bucket_id: 30})
    look = (replace(TOKENS, cost=0), replace(REQUESTS, cost=0), PERMITS)
    tokens, requests, permits = (await kit.ask("b", *look)).levels
    assert (tokens, requests, permits) == (pytest.approx(1970, abs=30), 19, 0)
    wants = (REQUESTS, TOKENS.at(30), PERMITS)
    assert kit.ledger.amend("a", 2, wants, {TOKENS.bucket_id: 500})
    wants = (REQUESTS, TOKENS.at(500), PERMITS)
    await kit.ledger.settle("a", wants, {TOKENS.bucket_id: 600})
    assert (await kit.ask("c", *look)).levels == (pytest.approx(1400, abs=100), pytest.approx(19, abs=1), 0)


async def test_amend_of_nothing(link):
    """What Redis knows no grant of gets nothing back by it; sent twice, an amendment is made once, even after the end."""
    ledger = RedisLedger(link)
    slow = replace(SLOW, capacity=100)
    await ledger.reserve("a", (slow.at(60),), waiter="", flow=Flow("a"))
    ledger.amend("lost", 1, (slow.at(60),), {slow.bucket_id: 10})
    ledger.amend("a", 1, (slow.at(60),), {slow.bucket_id: 50})
    await ledger.settle("a", (slow.at(50),), {})
    ledger.amend("a", 1, (slow.at(60),), {slow.bucket_id: 50})
    assert (await ledger.reserve("b", (slow.at(0),), waiter="", flow=Flow("a"))).levels == (50,)


async def test_debt(kit):
    """Use beyond the estimate leaves debt, and it is waited for."""
    if isinstance(kit.ledger, Borrowing):
        pytest.skip("what was lent before is granted all the same, see test_borrowing.py")
    await kit.ask("a", TOKENS)
    await kit.ledger.settle("a", (TOKENS,), {TOKENS.bucket_id: 4100})
    waiting = await kit.ask("b", TOKENS)
    assert waiting.seconds == pytest.approx(2.2, abs=0.1)
    assert -2100 <= waiting.levels[0] <= -2000


async def test_debt_is_kept(kit, valkey_url):
    """A bucket in debt is remembered until it would be full again."""
    if not isinstance(kit.ledger, RedisLedger):
        pytest.skip("memory forgets only full buckets, and of a loan more is remembered")
    await kit.ask("a", TOKENS)
    await kit.ledger.settle("a", (TOKENS,), {TOKENS.bucket_id: 62_000})
    with redis.Redis.from_url(valkey_url) as client:
        assert client.pttl(keys.bucket(TOKENS.bucket_id)) == pytest.approx(63_000, abs=300)


async def test_release(kit):
    """Releasing gives everything back, once."""
    await kit.ask("a", replace(REQUESTS, cost=10), PERMITS)
    await kit.ask("b", replace(REQUESTS, cost=10), PERMITS)
    for _ in range(2):
        await kit.ledger.release("a", (replace(REQUESTS, cost=10), PERMITS))
    assert (await kit.ask("c", replace(REQUESTS, cost=9), PERMITS)).levels == (1, 0)


async def test_late_reserve(kit):
    """A reserve that arrives after its release (overtaken on the wire) takes nothing."""
    await kit.ledger.release("a", (REQUESTS, PERMITS), waiter=kit.waiter("a"))
    with pytest.raises(HoldClosed):
        await kit.ask("a", REQUESTS, PERMITS)
    assert (await kit.ask("b", REQUESTS, PERMITS)).levels == (19, 1)


async def test_lapsed_hold(kit, monkeypatch):
    """Settling a hold that is no longer known gives nothing back to a rate bucket, but frees the permit and keeps the debt."""
    monkeypatch.setattr(rules, "HOLD_US", 1000)
    want = replace(REQUESTS, rate_per_minute=1)
    await kit.ask("a", want, PERMITS)
    await kit.ask("b", replace(TOKENS, rate_per_minute=1))
    await asyncio.sleep(0.01)
    await kit.ledger.release("a", (want, PERMITS))
    await kit.ledger.settle("b", (replace(TOKENS, rate_per_minute=1),), {TOKENS.bucket_id: 150})
    assert (await kit.ask("c", want, PERMITS, replace(TOKENS, rate_per_minute=1))).levels == (18, 1, 1750)


async def test_window(kit):
    """A window gives its capacity and not a token more until it ends; what comes back is there again, and debt stays."""
    assert (await kit.ask("a", BUDGET)).levels == (600,)
    assert (await kit.ask("b", BUDGET)).levels == (200,)
    waiting = await kit.ask("c", BUDGET)
    assert (waiting.bucket_id, waiting.levels) == (BUDGET.bucket_id, (200,))
    assert waiting.seconds == pytest.approx((BUDGET.ends_us - waiting.at_us) / 1e6, abs=1e-6)
    await kit.ledger.settle("a", (BUDGET,), {BUDGET.bucket_id: 100})
    await until(lambda: kit.nudged, within=2)
    assert (await kit.ask("c", BUDGET)).levels == (100,)
    await kit.ledger.settle("c", (BUDGET,), {BUDGET.bucket_id: 700})
    assert (await kit.ask("d", BUDGET)).levels == (-200,)


async def test_window_is_changed(kit):
    """A window knows what is used, so another capacity holds at once, up and down."""
    await kit.ask("a", BUDGET)
    assert (await kit.ask("b", replace(BUDGET, capacity=2000))).levels == (1200,)
    assert (await kit.ask("c", replace(BUDGET, capacity=500))).levels == (-300,)


async def test_window_has_ended(kit):
    """Past its end a window gives what is left of it, for hosts whose clocks are behind, and nothing anew."""
    granted = [await kit.ask(name, ENDED) for name in "ab"]
    assert [grant.levels for grant in granted] == [(600,), (200,)]
    assert (await kit.ask("c", ENDED)).seconds == pytest.approx(rules.BEHIND_US / 1e6)


async def test_window_is_all_or_nothing(kit):
    """A window that has no room keeps the other buckets whole, and they it."""
    await kit.ask("a", replace(BUDGET, cost=900))
    assert isinstance(await kit.ask("b", REQUESTS, BUDGET), Wait)
    assert (await kit.ask("c", REQUESTS)).levels == (19,)
    await kit.ledger.release("b", (REQUESTS, BUDGET), waiter=kit.waiter("b"))
    await kit.ask("d", SLOW)
    assert isinstance(await kit.ask("e", SLOW, replace(BUDGET, cost=100)), Wait)
    assert (await kit.ask("f", replace(BUDGET, cost=100))).levels == (0,)


async def beaten(kit, seconds, *alive):
    """Let so much time pass, in which a process beats, and renews what these hold."""
    for _ in range(round(seconds / 0.04)):
        await asyncio.sleep(0.04)
        await kit.ledger.renew(dict.fromkeys(alive, (PERMITS,)))


@pytest.fixture
def short_lease(monkeypatch):
    monkeypatch.setattr(pulse, "LEASE_US", 100_000)
    monkeypatch.setattr(pulse, "GAP_US", 90_000)
    monkeypatch.setattr(rules, "ANSWER_US", 40_000)


async def test_permits_lapse(kit, short_lease):
    """The permit of a holder that died comes back with its lease, and whoever waits is told when; a renewed one stays."""
    await beaten(kit, 0.2)
    await kit.ask("a", PERMITS)
    await kit.ask("b", PERMITS)
    assert (await kit.ask("c", PERMITS)).seconds == pytest.approx(0.1, abs=0.03)
    await beaten(kit, 0.16, "b")
    assert (await kit.ask("c", PERMITS)).levels == (0,)
    assert isinstance(await kit.ask("d", PERMITS), Wait)


async def test_asked_again_too_late(kit, short_lease):
    """Whose answer was lost, and whose permit lapsed before it could ask again, waits for another; what else it had is back."""
    await beaten(kit, 0.2)
    await kit.ask("lost", SLOW, PERMITS)
    await kit.ask("b", PERMITS)
    await beaten(kit, 0.16, "b")
    assert (await kit.ask("c", PERMITS)).levels == (0,)
    assert isinstance(await kit.ask("lost", SLOW, PERMITS), Wait)
    assert (await kit.ask("d", SLOW)).levels == (0,)
    await kit.ledger.release("d", (SLOW,))
    await kit.ledger.release("c", (PERMITS,))
    assert isinstance(await kit.ask("lost", SLOW, PERMITS), Granted)
    await kit.ledger.release("lost", (SLOW, PERMITS))
    assert (await kit.ask("e", SLOW, PERMITS)).levels == (0, 0)


async def test_asking_again_renews(kit, short_lease):
    """Whose answer was lost and who asks again in time has its permit for another lease."""
    await beaten(kit, 0.2)
    await kit.ask("lost", PERMITS)
    await kit.ask("b", PERMITS)
    await beaten(kit, 0.08, "b")
    assert isinstance(await kit.ask("lost", PERMITS), Granted)
    await beaten(kit, 0.08, "b")
    assert isinstance(await kit.ask("c", PERMITS), Wait)


async def test_lapse_needs_a_pulse(kit, short_lease):
    """Where nobody was heard for a while it was the ledger that was away: nothing lapses until those who live could renew."""
    await beaten(kit, 0.2)
    await kit.ask("a", PERMITS)
    await kit.ask("b", PERMITS)
    await asyncio.sleep(0.2)
    assert isinstance(await kit.ask("c", PERMITS), Wait)
    await kit.ledger.renew({})
    assert isinstance(await kit.ask("c", PERMITS), Wait)
    await beaten(kit, 0.08, "b")
    assert isinstance(await kit.ask("c", PERMITS), Wait)
    await beaten(kit, 0.08, "b")
    assert (await kit.ask("c", PERMITS)).levels == (0,)


async def test_renew_takes_anew(kit):
    """A permit that was lost while its holder stood still is counted again, above the capacity; so the next one is kept out."""
    await kit.ask("a", PERMITS)
    await kit.ask("b", PERMITS)
    await kit.ledger.renew({"lost": (PERMITS,)})
    assert (await kit.ask("c", PERMITS)).levels == (-1,)
    await kit.ledger.release("a", (PERMITS,))
    assert (await kit.ask("c", PERMITS)).levels == (0,)
    await kit.ledger.settle("lost", (PERMITS,), {})
    assert isinstance(await kit.ask("c", PERMITS), Granted)


async def test_renew_many(link, valkey_url):
    """However many a process holds, one command renews them."""
    many = {f"h{number}": (PERMITS,) for number in range(2500)}
    await RedisLedger(link).renew(many)
    with redis.Redis.from_url(valkey_url) as client:
        assert client.zcard(keys.permits(PERMITS.bucket_id)) == 2500


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


async def test_nothing_left_behind(link, valkey_url):
    """When all is settled, what is left in Redis is on its way out."""
    ledger = RedisLedger(link)
    for number in range(3):
        await ledger.reserve(f"h{number}", (REQUESTS, PERMITS), waiter=f"i|{number}", flow=Flow("a"))
    for number in range(3):
        await ledger.release(f"h{number}", (REQUESTS, PERMITS), waiter=f"i|{number}")
    with redis.Redis.from_url(valkey_url) as client:
        left = {key.decode(): client.pttl(key) for key in client.scan_iter()}
    assert all(0 < pttl <= 61_000 for pttl in left.values()), left
    assert not any(":line:" in key or ":waits:" in key or ":permits:" in key for key in left)


async def test_clock_back(link, valkey_url):
    """When Redis's clock has gone back, a bucket keeps its later moment: the same span does not flow in twice."""
    ledger, bucket = RedisLedger(link), keys.bucket(REQUESTS.bucket_id)
    later_us = now_us() + 5_000_000
    with redis.Redis.from_url(valkey_url) as client:
        client.hset(bucket, mapping={"level": 10 * UNITS, "at": later_us})
        assert (await ledger.reserve("a", (REQUESTS,), waiter="i|1", flow=Flow("a"))).levels == (9,)
        assert client.hmget(bucket, "level", "at") == [b"%d" % (9 * UNITS), b"%d" % later_us]
        await ledger.release("a", (REQUESTS,))
        assert client.hmget(bucket, "level", "at") == [b"%d" % (10 * UNITS), b"%d" % later_us]
    waiting = await ledger.reserve("b", (replace(REQUESTS, cost=20),), waiter="i|2", flow=Flow("a"))
    assert waiting.seconds == pytest.approx(6, abs=0.2)


async def test_scripts_forgotten(link, valkey_url):
    """A Redis that has forgotten the scripts is told them again."""
    ledger = RedisLedger(link)
    await ledger.reserve("a", (REQUESTS,), waiter="i|1", flow=Flow("a"))
    with redis.Redis.from_url(valkey_url) as client:
        client.script_flush()
    assert isinstance(await ledger.reserve("b", (REQUESTS,), waiter="i|2", flow=Flow("a")), Granted)


# The scripts against their twin. Redis's clock cannot be set, so the twin's is: to the time of each reply.

GATE = Want("gate:m", "upstream", "overload", Form.GATE, 0, 1, 1)
BUCKETS = (
    replace(REQUESTS, rate_per_minute=60_000, capacity=5),
    replace(TOKENS, rate_per_minute=3_000_000, capacity=500),
    replace(PERMITS, capacity=2),
    replace(BUDGET, capacity=1500),
    GATE,
)
SAID = st.builds(
    lambda tokens, verdict, told: (tokens, Verdict(verdict), Told(*told)),
    st.none() | st.integers(-50, 500),
    st.integers(-2, 1),
    st.tuples(st.integers(1, 1500), st.integers(1, 5), st.integers(1, 4000), st.integers(0, 3000)),
)
FLOWS = (Flow("a", "high", 800_000, 3), Flow("b", "high", 800_000), Flow("a", "low", 200_000), Flow("c", "low", 200_000, 7))
CASES = st.lists(
    st.one_of(
        st.tuples(
            st.just("reserve"),
            st.integers(0, 11),
            st.sets(st.integers(0, 4), min_size=1),
            st.integers(1, 500),
        ),
        st.tuples(st.just("settle"), st.integers(0, 11), st.integers(0, 900), SAID),
        st.tuples(st.just("release"), st.integers(0, 11)),
        st.tuples(st.just("amend"), st.integers(0, 11), st.integers(0, 900)),
        st.tuples(st.just("sleep"), st.integers(1, 4)),
        st.tuples(st.just("age")),
    ),
    min_size=5,
    max_size=40,
)


class Replay:
    """Does each step in Redis, then the same in memory at the same time, and compares."""

    def __init__(self, link: Link, prefix: str) -> None:
        self.link = link
        self.prefix = prefix
        self.at_us = 0
        self.changes: list[int] = []
        self.twin = MemoryLedger(lambda: self.at_us, on_change=lambda bucket_id, change: self.changes.append(change))
        self.redis = RedisLedger(link)
        self.wants: dict[int, tuple[Want, ...]] = {}
        self.open: set[int] = set()
        self.amended = 0
        self.moves: list[tuple[int, int]] = []

    async def reserve(self, hold, picked, tokens):
        wants = self.wants.setdefault(hold, tuple(self._want(i, tokens) for i in sorted(picked)))
        asked = {"waiter": f"i|{hold}", "flow": FLOWS[hold % len(FLOWS)]}
        try:
            outcome = await self.redis.reserve(f"{self.prefix}{hold}", wants, **asked)
        except HoldClosed:
            with pytest.raises(HoldClosed):
                await self.twin.reserve(f"{self.prefix}{hold}", wants, **asked)
            return
        if isinstance(outcome, Spent):
            told = await self.twin.reserve(f"{self.prefix}{hold}", wants, **asked)
            assert isinstance(told, Spent)
            return
        if hold not in self.open and not isinstance(outcome, Never):
            self.at_us = max(self.at_us, outcome.at_us)
        assert await self.twin.reserve(f"{self.prefix}{hold}", wants, **asked) == outcome
        if isinstance(outcome, Granted) and hold not in self.open:
            self.open.add(hold)
            self.moves += [(outcome.at_us, want.cost) for want in wants if want.kind == "requests"]

    def _want(self, i, tokens):
        want = BUCKETS[i]
        cost = tokens if i in (1, 3) else want.cost
        return replace(want, bucket_id=f"{self.prefix}:{want.bucket_id}", cost=cost)

    async def amend(self, hold, actual):
        """Amend what is granted and open; it costs so much from then on."""
        if hold not in self.open:
            return
        wants, hold_id = self.wants[hold], f"{self.prefix}{hold}"
        used = {want.bucket_id: actual for want in wants if want.kind == "input_tokens" or want.form is Form.WINDOW}
        self.amended += 1
        for _ in range(2):  # sent twice, done once
            sent = self._spy()
            assert self.redis.amend(hold_id, self.amended, wants, used)
            what, at_us, _ = await sent()
            if what == 1:
                self.at_us = max(self.at_us, int(at_us))
                self.twin.amend(hold_id, self.amended, wants, used)
        self.wants[hold] = tuple(want.at(used.get(want.bucket_id, want.cost)) for want in wants)

    async def close(self, hold, actual, said=None):
        wants = self.wants.get(hold)
        if wants is None:
            return
        hold_id = f"{self.prefix}{hold}"
        used = {want.bucket_id: actual for want in wants if want.kind == "input_tokens" or want.form is Form.WINDOW}
        said = self._said(wants, *said) if said else None
        sent = self._spy()
        if actual is None:
            await self.redis.release(hold_id, wants, waiter=f"i|{hold}")
        else:
            await self.redis.settle(hold_id, wants, used, said)
        what, at_us, change = await sent()
        self.open.discard(hold)
        self.at_us = max(self.at_us, int(at_us))
        if what == 1 and actual is None:
            self.moves += [(self.at_us, -want.cost) for want in wants if want.kind == "requests"]
        if actual is None:
            await self.twin.release(hold_id, wants, waiter=f"i|{hold}")
        else:
            await self.twin.settle(hold_id, wants, used, said)
        assert self.changes == ([change] if change else [])
        self.changes.clear()

    async def age(self):
        """Let the first word on each bucket be long ago."""
        for bucket_id, state in self.twin._states.items():
            if isinstance(state.bucket, Bucket) and state.bucket.first_us is not None:
                state.bucket.first_us -= FIRST_US
                if await self.link.do("HEXISTS", keys.bucket(bucket_id), "first"):
                    await self.link.do("HINCRBY", keys.bucket(bucket_id), "first", -FIRST_US)

    def _said(self, wants, tokens, verdict, told):
        most = {want.bucket_id: tokens for want in wants if want.form is Form.RATE and tokens is not None}
        return Said(most, verdict, told)

    async def compare_levels(self):
        """Compare what is in the buckets to the unit."""
        for bucket_id, state in self.twin._states.items():
            if isinstance(state.bucket, Window):
                used = await self.link.do("HGET", keys.bucket(bucket_id), "used")
                assert int(used or 0) == state.bucket.used
            elif state.bucket is not None:
                figures = await self.link.do(
                    "HMGET", keys.bucket(bucket_id), "level", "at", "foreign", "kept", "heard", "first"
                )
                level, at_us, foreign, uncounted, heard_us, first_us = figures
                if level is not None:
                    kept = dataclasses.replace(state.bucket, level=int(level), at_us=int(at_us), foreign=float(foreign or 0))
                    kept.kept, kept.heard_us = int(uncounted or 0), heard_us and int(heard_us)
                    kept.first_us = first_us and int(first_us)
                    kept.flow(self.at_us)
                    state.bucket.flow(self.at_us)
                    assert kept == state.bucket

    async def compare_fairness(self):
        """Compare the clocks of the lines, and how far ahead of them each flow is."""
        for bucket_id, state in self.twin._states.items():
            if state.fair is None:
                continue
            name = keys.line(bucket_id)
            sums = dict(await self.link.do("HGETALL", name.replace(":line:", ":fair:")))
            flows = await self.link.do("ZRANGE", name.replace(":line:", ":flows:"), 0, -1, "WITHSCORES")
            finishes = {flow.decode(): int(finish) for flow, finish in flows}
            assert int(sums.pop(b"clock")) == state.fair.clock
            assert finishes == state.fair.finishes
            weights = {f"{lane}/{share}".encode(): weight for (lane, share), weight in state.fair._weights.items()}
            assert {lane: int(weight) for lane, weight in sums.items()} == weights

    def _spy(self) -> Callable:
        """Catch the reply of the next script."""
        caught = []
        run = self.link.run

        def spying(*args):
            caught.append(run(*args))
            return caught[0]

        self.link.run = spying

        async def reply():
            del self.link.run
            return await caught[0]

        return reply


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(cases=CASES)
def test_twin(valkey_url, cases):
    """Whatever is reserved, settled and released in whatever order, the scripts and the reference say the same."""

    async def play():
        link = Link(valkey_url)
        replay = Replay(link, f"t{time.monotonic_ns()}")
        with redis.Redis.from_url(valkey_url) as client, client.pubsub() as ear:
            ear.subscribe("i")  # where nobody listens, nobody waits
            ear.get_message(timeout=5)
            for step, *rest in cases:
                if step == "reserve":
                    await replay.reserve(*rest)
                elif step == "age":
                    await replay.age()
                elif step == "amend":
                    await replay.amend(*rest)
                elif step == "sleep":
                    await asyncio.sleep(rest[0] / 1000)
                else:
                    await replay.close(*rest) if step == "settle" else await replay.close(*rest, None)
        await replay.compare_levels()
        await replay.compare_fairness()
        await link.aclose()
        if replay.moves:
            assert worst_window(replay.moves, rate_per_minute=60_000, capacity=5).is_kept

    asyncio.run(play())


async def test_audit(link, valkey_url):
    """What a rate bucket grants and what comes back is told to the audit stream, at Redis's time; waits and permits are not."""
    ledger = RedisLedger(link, audit="audit")
    wants = (replace(REQUESTS, cost=12), PERMITS)
    granted = await ledger.reserve("a", wants, waiter="i|1", flow=Flow("a"))
    await ledger.reserve("b", wants, waiter="i|2", flow=Flow("a"))
    assert told(valkey_url) == [(granted.at_us, "a", b"cost", 12)]

    await ledger.release("b", wants, waiter="i|2")  # was not granted, so nothing comes back
    for _ in range(2):
        _, closed_us, _ = await ledger.release("a", wants)
    assert told(valkey_url)[1:] == [(pytest.approx(int(closed_us), abs=1e6), "a", b"back", 12)]


async def test_audit_settled(link, valkey_url):
    """So is what is settled: what is left of an estimate, or what it fell short by, but not what was just right."""
    ledger = RedisLedger(link, audit="audit")
    for hold, used in (("less", 2), ("more", 5), ("right", 3)):
        await ledger.reserve(hold, (replace(REQUESTS, cost=3),), waiter="i|1", flow=Flow("a"))
        await ledger.settle(hold, (replace(REQUESTS, cost=3),), {REQUESTS.bucket_id: used})
    assert [what[1:] for what in told(valkey_url) if what[2] == b"back"] == [("less", b"back", 1), ("more", b"back", -2)]


def told(url):
    """Return what is in the audit stream: time (us), hold, what happened, and how much."""
    with redis.Redis.from_url(url) as client:
        entries = [entry for _, entry in client.xrange("audit")]
    assert {entry.pop(b"bucket") for entry in entries} == {keys.bucket(REQUESTS.bucket_id).encode()}
    return [
        (int(entry[b"at_us"]), entry[b"hold"].decode(), what, int(entry[what]))
        for entry in entries for what in entry if what in (b"cost", b"back")
    ]  # fmt: skip


async def test_promise_under_load(link, valkey_url):
    """Two hundred that ask without a pause get no more than the promise, and nearly all of it."""
    ledger = RedisLedger(link, audit="audit")
    want = replace(REQUESTS, rate_per_minute=6000, capacity=50)
    stop = time.monotonic() + 1.5

    async def press(name):
        for number in range(10**6):
            outcome = None
            while not isinstance(outcome, Granted):
                if time.monotonic() > stop:
                    return
                outcome = await ledger.reserve(f"{name}.{number}", (want,), waiter=f"i|{name}", flow=Flow("a"))
                await asyncio.sleep(0.02 if outcome is None else getattr(outcome, "seconds", 0))

    await asyncio.gather(*(press(name) for name in range(30)))
    with redis.Redis.from_url(valkey_url) as client:
        grants = [(int(entry[b"at_us"]), int(entry[b"cost"])) for _, entry in client.xrange("audit")]
    assert worst_window(grants, rate_per_minute=6000, capacity=50).is_kept
    assert used_share(grants, rate_per_minute=6000, capacity=50, seconds=1.5) > 0.9


async def test_settled_late(link, monkeypatch):
    """A settlement that Redis did not take is sent again, and that work is seen while it goes on; a fault of it is counted."""
    monkeypatch.setattr(redis_ledger, "_TRY_EVERY_S", 0.01)
    ledger = RedisLedger(link)
    await ledger.reserve("a", (REQUESTS,), waiter="i|1", flow=Flow("a"))
    await link.do("REPLICAOF", "127.0.0.1", "1")
    try:
        with pytest.raises(RedisAway):
            await ledger.settle("a", (REQUESTS,), {})
        assert repr(ledger) == "<RedisLedger [1 closing]>"
    finally:
        await link.do("REPLICAOF", "NO", "ONE")
    await until(lambda: repr(ledger) == "<RedisLedger [0 closing]>")

    before = observe.BACKGROUND_FAILURES.value("ledger.settle")
    monkeypatch.setattr(redis_ledger, "_SETTLE", None)
    ledger._see_closed(failed(RedisAway("away")), [], [], ())
    await until(lambda: observe.BACKGROUND_FAILURES.value("ledger.settle") == before + 1)


def failed(error):
    future = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future
