"""Borrowing from a real Redis: what it spares, what it gives back, and what becomes of a loan when somebody is gone."""

from __future__ import annotations

import asyncio
import time

import pytest
import redis
from msgspec.structs import replace

from borrowing_parts import BUDGET, PERMITS, REQUESTS, TOKENS, host, level
from conftest import until
from headrace import keys
from headrace.budget import borrowing as borrowing_module
from headrace.budget import pulse, quanta
from headrace.budget.gate import Told, Verdict
from headrace.budget.ledger import Granted, Said, Wait
from headrace.budget.quanta import Terms
from headrace.budget.redis import RedisLedger
from headrace.budget.want import Form, Want
from headrace.errors import RedisAway
from headrace.rank import Flow


async def test_without_a_round_trip(valkey_url):
    """What is held is granted and settled without a word to Redis; the next exchange tells it all."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS, BUDGET)
        sent = one.link.stats().round_trips
        for number in range(5):
            assert isinstance(await one.ask(f"h{number}", TOKENS, BUDGET), Granted)
            await one.ledger.settle(f"h{number}", (TOKENS, BUDGET), {TOKENS.bucket_id: 7, BUDGET.bucket_id: 12})
        assert one.link.stats().round_trips == sent
        await one.exchange()
        assert one.link.stats().round_trips == sent + 1
        await one.ledger.close()
        assert sum(level(valkey_url, TOKENS)) == pytest.approx(1000 - 200 - 35, abs=1)
        assert level(valkey_url, BUDGET) == (1000 - 200 - 60, 0)
        assert one.ledger.held() == {}


async def test_at_once(valkey_url):
    """What is held is granted at once, all of it or nothing, and never to who stands in a line of Redis's."""
    async with host(valkey_url, terms=Terms(0.2, 0.0)) as one:
        assert one.ledger.take("early", (TOKENS, BUDGET)) is None
        await one.borrow(TOKENS, BUDGET)
        held, gate = one.ledger.held(), Want("gate:m", "upstream", "overload", Form.GATE, 0, 1, 1, "open")
        assert one.ledger.take("dear", (TOKENS, BUDGET.at(held[BUDGET.bucket_id] + 1))) is None
        assert one.ledger.take("gated", (TOKENS, BUDGET, gate)) is None
        assert one.ledger.held() == held
        one.stands_open = {gate.bucket_id}
        assert one.ledger.take("a", (TOKENS, BUDGET, gate)) == (790, 790, 1)
        assert one.ledger.held() == {bucket_id: tokens - 10 for bucket_id, tokens in held.items()}
        assert isinstance(await one.ask("late", TOKENS.at(995)), Wait)
        assert one.ledger.take("late", (TOKENS,)) is None
        await one.ledger.release("a", (TOKENS, BUDGET, gate))


async def test_all_or_nothing(valkey_url):
    """A call that fits into one quantum and not into another is granted by Redis as a whole, and the quantum stays whole."""
    async with host(valkey_url, terms=Terms(0.2, 0.0)) as one:
        await one.borrow(TOKENS, BUDGET)
        held = one.ledger.held()
        dear = replace(BUDGET, cost=held[BUDGET.bucket_id] + 1)
        assert isinstance(await one.ask("a", TOKENS, dear), Granted)
        assert one.ledger.held() == held
        await one.ledger.release("a", (TOKENS, dear))
        assert one.ledger.stats().running == 0


async def test_permits_go_one_by_one(valkey_url):
    """A call that wants a permit asks Redis for all it wants."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS)
        sent = one.link.stats().round_trips
        assert isinstance(await one.ask("a", TOKENS, PERMITS), Granted)
        assert one.link.stats().round_trips == sent + 1


async def test_recalled(valkey_url):
    """Whoever must wait has everything brought home at once, is nudged, and is granted what had been lent."""
    async with host(valkey_url) as one, host(valkey_url, keeps=True, terms=Terms(0.4, 10.0)) as other:
        nudged = []
        one.link.on("permit", lambda waiter: nudged.append(waiter.decode()))
        for number in range(40):
            await other.ask(f"o{number}", TOKENS)
        await until(other.ledger.held, within=2)
        began = time.monotonic()
        waiting = await one.ask("all", replace(TOKENS, cost=600))
        assert isinstance(waiting, Wait)
        assert waiting.seconds < 1  # what is lent is counted in: nobody is refused for it
        await until(lambda: nudged, within=2)
        assert time.monotonic() - began < 0.3
        assert isinstance(await one.ask("all", replace(TOKENS, cost=600)), Granted)
        assert other.ledger.held() == {}


async def test_nothing_is_lent_while_somebody_waits(valkey_url):
    """While there is a line nothing is borrowed, and who had to ask Redis once goes on asking there."""
    async with host(valkey_url) as one, host(valkey_url) as other:
        assert isinstance(await one.ask("a", replace(TOKENS, cost=995)), Granted)
        assert isinstance(await one.ask("b", TOKENS), Wait)
        await other.ask("c", replace(TOKENS, cost=1))
        await other.exchange()
        assert other.ledger.held() == {}
        await one.ledger.release("a", (replace(TOKENS, cost=995),))
        await one.exchange()
        assert isinstance(await one.ask("b", TOKENS), Granted)


async def test_waiters_stay_in_their_line(valkey_url):
    """Who waits at Redis is not granted from a quantum meanwhile: its place in line would stay behind and hold up others."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS)
        dear = replace(TOKENS, cost=900)
        assert isinstance(await one.ask("a", dear), Wait)
        one.ledger._quanta[TOKENS.bucket_id].hear(950, 1.0, 0, one.ledger._monotonic())
        assert isinstance(await one.ask("a", dear), Wait)
        await one.ledger.release("a", (dear,), waiter=f"{one.link.inbox}|a")
        with redis.Redis.from_url(valkey_url) as client:
            assert not client.exists(keys.line(TOKENS.bucket_id))


async def test_what_stands_open(valkey_url):
    """A want that is not lent and stands open is not asked for; once it does not, all that want it ask Redis."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS)
        one.stands_open.add(PERMITS.bucket_id)
        sent = one.link.stats().round_trips
        granted = await one.ask("a", PERMITS, TOKENS)
        assert isinstance(granted, Granted)
        assert len(granted.levels) == 2
        await one.ledger.settle("a", (PERMITS, TOKENS), {TOKENS.bucket_id: 5})
        assert one.link.stats().round_trips == sent
        assert set(one.ledger._quanta) == {TOKENS.bucket_id}
        one.stands_open.clear()
        assert isinstance(await one.ask("b", PERMITS, TOKENS), Granted)
        assert one.link.stats().round_trips == sent + 1


async def test_gate(valkey_url):
    """A gate that nobody has heard to be there costs nothing; who passed it so and meets an overload shuts it for all."""
    gate = Want("gate:opus-4", "upstream", "overload", Form.GATE, 0, 1, 1, "open")
    async with host(valkey_url) as one, host(valkey_url) as other:
        await one.borrow(TOKENS)
        one.stands_open.add(gate.bucket_id)
        assert isinstance(await one.ask("a", TOKENS, gate), Granted)
        assert one.ledger.stats().running == 1
        said = Said(verdict=Verdict.OVERLOADED, told=Told(chance=1000, in_the_air=1, first_us=500_000, longest_us=500_000))
        await one.ledger.settle("a", (TOKENS, gate), {TOKENS.bucket_id: 0}, said)
        waits = await other.ask("b", TOKENS, gate)
        assert isinstance(waits, Wait)
        assert waits.bucket_id == gate.bucket_id


async def test_dead(valkey_url, monkeypatch):
    """What a dead borrower held is lost: it flows in again at the bucket's own pace, and is nobody's before."""
    monkeypatch.setattr(borrowing_module, "LOAN_S", 0.1)
    monkeypatch.setattr(quanta, "MARGIN_S", 0.02)
    async with host(valkey_url) as one, host(valkey_url) as other:
        await one.borrow(TOKENS)
        before, lent = level(valkey_url, TOKENS)
        assert lent > 0
        await asyncio.sleep(0.11)
        assert isinstance(await other.ask("a", TOKENS), Granted)
        assert level(valkey_url, TOKENS) == (before - 10, 0)
        assert isinstance(await other.ask("b", replace(TOKENS, cost=before - 9)), Wait)


async def test_dead_waiter(valkey_url, monkeypatch):
    """Who waited and is dead keeps a bucket from being lent for a lease, and no longer: the exchange itself lets it go."""
    monkeypatch.setattr(pulse, "LEASE_US", 100_000)
    monkeypatch.setattr(pulse, "GAP_US", 90_000)
    async with host(valkey_url) as one:

        async def is_lent(exchanges):
            for _ in range(exchanges):
                await one.ledger.renew({})
                await one.ledger.reserve(f"{time.monotonic_ns()}", (TOKENS,), waiter="", flow=Flow("a"))
                await one.exchange()
                await asyncio.sleep(0.02)
            return bool(one.ledger.held())

        await one.ask("first", TOKENS)
        dear = replace(TOKENS, cost=1000)
        assert isinstance(await RedisLedger(one.link).reserve("d", (dear,), waiter="gone|1", flow=Flow("gone")), Wait)
        assert not await is_lent(3)
        assert await is_lent(25)


async def test_no_room_while_it_ran(valkey_url, monkeypatch):
    """What had no room in the bucket beside a loan does not flow in after all once the loan has ended."""
    monkeypatch.setattr(borrowing_module, "LOAN_S", 0.1)
    monkeypatch.setattr(quanta, "MARGIN_S", 0.02)
    fast = replace(TOKENS, rate_per_minute=6_000_000)
    async with host(valkey_url) as one, host(valkey_url) as other:
        await one.borrow(fast)
        _, lent = level(valkey_url, fast)
        await asyncio.sleep(0.11)
        assert (await other.ask("a", fast)).levels == (1000 - lent - 10,)


async def test_stopped_and_woken(valkey_url):
    """A borrower that stood still finds its loan over: it asks Redis, and sends home what nobody counts on any more."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS)
        one.slept += 2.0
        sent = one.link.stats().round_trips
        assert isinstance(await one.ask("a", TOKENS), Granted)
        assert one.link.stats().round_trips == sent + 1


async def test_debt(valkey_url):
    """A bucket in debt lends nothing, and what is lent of it comes home as soon as the borrower hears of it."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS)
        await one.ask("a", TOKENS)
        await one.ledger.settle("a", (TOKENS,), {TOKENS.bucket_id: 5000})
        await one.exchange()
        await one.exchange()
        assert one.ledger.held() == {}
        assert level(valkey_url, TOKENS)[0] == pytest.approx(1000 - 200 - 5000, abs=1)


async def test_upstreams_word(valkey_url):
    """What upstream said to a call that was granted here lowers the bucket with the next exchange, and raises none."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS)
        await one.ask("a", TOKENS)
        await one.ask("b", TOKENS)
        await one.ledger.settle("a", (TOKENS,), {TOKENS.bucket_id: 10}, Said({TOKENS.bucket_id: 500}))
        await one.ledger.settle("b", (TOKENS,), {TOKENS.bucket_id: 10}, Said({TOKENS.bucket_id: 700}))
        await one.exchange()
        left, lent = level(valkey_url, TOKENS)
        assert (left + lent, lent > 0) == (500, True)
        await one.ask("c", TOKENS)
        await one.ledger.settle("c", (TOKENS,), {TOKENS.bucket_id: 10}, Said({TOKENS.bucket_id: 990}))
        await one.exchange()
        assert sum(level(valkey_url, TOKENS)) == pytest.approx(490, abs=1)


async def test_upstreams_word_takes_loans_home(valkey_url):
    """When upstream has less than is lent, all of it comes home, and nothing is lent until there is more."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS)
        await one.ask("a", TOKENS)
        await one.ledger.settle("a", (TOKENS,), {TOKENS.bucket_id: 10}, Said({TOKENS.bucket_id: 50}))
        await one.exchange()
        await one.exchange()
        assert one.ledger.held() == {}
        assert level(valkey_url, TOKENS) == (pytest.approx(50, abs=1), 0)
        assert isinstance(await one.ask("b", replace(TOKENS, cost=60)), Wait)


async def test_upstreams_word_is_said_once(valkey_url):
    """An exchange that is said again says nothing of what upstream said: that was so when it was said first."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS)
        await one.ask("a", TOKENS)
        await one.ledger.settle("a", (TOKENS,), {TOKENS.bucket_id: 10}, Said({TOKENS.bucket_id: 50}))
        one.trouble = "unsent"
        with pytest.raises(RedisAway):
            await one.exchange()
        one.trouble = ""
        await one.exchange()
        assert sum(level(valkey_url, TOKENS)) == pytest.approx(1000 - 210, abs=1)


@pytest.mark.parametrize("trouble", ["lost", "unsent"])
async def test_said_again(valkey_url, trouble):
    """An exchange whose answer is lost, done or not, is said again and counts once; what settles meanwhile follows it."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS)
        await one.ask("a", TOKENS)
        await one.ask("b", TOKENS)
        await one.ledger.settle("a", (TOKENS,), {TOKENS.bucket_id: 4})
        one.trouble = trouble
        for _ in range(3):
            with pytest.raises(RedisAway):
                await one.exchange()
        await one.ledger.settle("b", (TOKENS,), {TOKENS.bucket_id: 30})
        one.trouble = ""
        await one.exchange()
        await one.ledger.close()
        assert sum(level(valkey_url, TOKENS)) == pytest.approx(1000 - 200 - 34, abs=1)


async def test_given_up(valkey_url, monkeypatch):
    """What could not be said for a minute is given up, once; what follows is said all the same."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS)
        await one.ask("a", TOKENS)
        one.trouble = "unsent"
        with pytest.raises(RedisAway):
            await one.exchange()
        one.slept += 61
        with pytest.raises(RedisAway):
            await one.exchange()
        one.trouble = ""
        await one.ledger.settle("a", (TOKENS,), {TOKENS.bucket_id: 110})
        await one.ledger.close()
        assert level(valkey_url, TOKENS) == (pytest.approx(1000 - 200 - 110, abs=1), 0)


async def test_other_figures(valkey_url):
    """When a limit has changed, what was borrowed under the old one goes home, and calls ask Redis until it has."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS)
        other = replace(TOKENS, capacity=500)
        assert isinstance(await one.ask("a", other), Granted)
        assert one.ledger.held()  # not yet home
        await one.exchange()
        assert one.ledger.held() == {}
        assert level(valkey_url, TOKENS)[1] == 0
        await one.exchange()
        await one.borrow(other)


async def test_closed(valkey_url):
    """At the end all is home, and nothing is borrowed any more."""
    async with host(valkey_url, keeps=True) as one:
        await one.borrow(TOKENS)
        await one.ask("a", TOKENS)
        await one.ledger.close()
        assert level(valkey_url, TOKENS) == (pytest.approx(1000 - 210, abs=1), 0)
        assert isinstance(await one.ask("b", TOKENS), Granted)
        assert repr(one.ledger).startswith("<Borrowing [0 buckets, 1 calls, ")


async def test_redis_forgets(valkey_url):
    """A Redis that has lost everything lends anew, and what was held of what it lost is not granted on top."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS)
        with redis.Redis.from_url(valkey_url) as client:
            client.flushall()
        await one.ask("a", TOKENS)
        await one.exchange()
        left, lent = level(valkey_url, TOKENS)
        assert left + lent <= 1000
        assert one.ledger.held().get(TOKENS.bucket_id, 0) <= lent


async def test_nothing_left_behind(valkey_url):
    """What an exchange leaves in Redis is on its way out."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS, REQUESTS)
        await one.ledger.close()
        with redis.Redis.from_url(valkey_url) as client:
            assert all(client.pttl(key) > 0 for key in client.scan_iter())
