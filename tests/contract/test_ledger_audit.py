"""What the ledger grants and what comes back is told to the audit stream, and adds up to the promise."""

from __future__ import annotations

import asyncio
import time

import pytest
import redis
from msgspec.structs import replace

from headrace import keys
from headrace.budget.ledger import Granted
from headrace.budget.redis import RedisLedger
from headrace.rank import Flow
from ledger_parts import PERMITS, REQUESTS
from windows import used_share, worst_window


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
