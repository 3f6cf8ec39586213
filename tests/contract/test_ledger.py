"""One suite for every ledger: what a bucket gives and takes back, once each, whatever comes twice, late or not at all."""

from __future__ import annotations

import asyncio

import pytest
import redis
from msgspec.structs import replace

from conftest import until
from headrace import keys, observe
from headrace.budget import ledger as rules
from headrace.budget import redis as redis_ledger
from headrace.budget.borrowing import Borrowing
from headrace.budget.bucket import UNITS
from headrace.budget.ledger import Granted, HoldClosed, Never, Wait
from headrace.budget.redis import RedisLedger
from headrace.errors import RedisAway
from headrace.rank import Flow
from ledger_parts import PERMITS, REQUESTS, SLOW, TOKENS, now_us


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
