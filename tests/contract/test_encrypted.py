"""With a key, what is kept is encrypted on disk and in Redis, and found again with any of the keys."""

from __future__ import annotations

import pytest

from cache_samples import entry, keep, key, opened_disk
from headrace import keys
from headrace.cache.redis import Redis
from headrace.cipher import Cipher
from headrace.clock import SystemClock
from headrace.link import Link
from headrace.owner import Owner
from headrace.retry.ticket import State
from headrace.retry.tickets import Tickets
from headrace.seal import UNSEALED, Mac
from ticket_parts import ANSWER, Alarms, a_call

OLD, NEW = b"old key, of 32 bytes or so, here", b"new key, of 32 bytes or so, here"
BEFORE, AFTER, OTHER = Cipher([OLD]), Cipher([NEW, OLD]), Cipher([NEW])
SMALL, BIG = b'{"type":"SAIDMARK"}', b'{"type":"SAIDMARK"}'.ljust(50_000)


def said_on(directory) -> bool:
    return any(b"SAIDMARK" in path.read_bytes() for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("payload", [SMALL, BIG], ids=["row", "file"])
async def test_disk(tmp_path, payload):
    """Rows and files say nothing; another key's entries are misses, and no trouble; without a key they are as they were."""
    async with opened_disk(tmp_path / "c", 10**7, seal=BEFORE) as disk:
        await keep(disk, one := entry(1, payload), entry(2, payload))
    assert not said_on(tmp_path / "c")
    async with opened_disk(tmp_path / "c", 10**7, seal=AFTER) as disk:
        assert await disk.get(key(1)) == one
    async with opened_disk(tmp_path / "c", 10**7, seal=OTHER) as disk:
        assert await disk.get(key(2)) is None
        assert disk.tally.errors == 0
    for seal in (UNSEALED, Mac(OLD)):
        async with opened_disk(tmp_path / f"{seal!r}", 10**7, seal=seal) as disk:
            await keep(disk, one)
        assert said_on(tmp_path / f"{seal!r}")


async def test_moved_on_disk(tmp_path):
    """What was moved to another call's place is a miss."""
    async with opened_disk(tmp_path / "c", seal=BEFORE) as disk:
        await keep(disk, entry(1, SMALL), entry(2, SMALL))
        await disk.flush()
        await disk._on(disk._writer, lambda: disk._cache._sql("UPDATE Cache SET key = ? WHERE key = ?", (key(3), key(1))))
        disk._filter.add(key(3))
        assert await disk.get(key(3)) is None


async def test_redis(link):
    """Entries say nothing, and are there under either key."""
    before, after, other = (Redis(link, SystemClock(), 10**6, seal) for seal in (BEFORE, AFTER, OTHER))
    await keep(before, one := entry(1, SMALL))
    assert b"SAIDMARK" not in await link.do("GET", keys.cache_entry(key(1)))
    assert await after.get(key(1)) == one
    assert await other.get(key(1)) is None


async def test_tickets(link, valkey_url):
    """Prompt and answer are in no field of a ticket, which is made and read under either key."""
    another = Link(valkey_url)
    before, after = (Tickets(at, SystemClock(), Alarms(), seal=seal) for at, seal in ((another, BEFORE), (link, AFTER)))
    ticket = (await before.submit(a_call())).ticket
    started = await after.start(ticket, 1)
    assert started.call.body == a_call().body
    await after.finish(ticket, answer=ANSWER)
    held = await link.do("HGETALL", keys.ticket(ticket))
    said = b"".join(held.values() if isinstance(held, dict) else held)
    assert a_call().body not in said
    assert ANSWER.payload not in said
    got = await after.get(ticket, Owner("checkout"))
    assert (got.state, got.answer) == (State.SUCCEEDED, ANSWER)
    await another.aclose()
