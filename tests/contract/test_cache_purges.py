"""Purges reach every tier of every host, those that were away too, and no answer outlives one on its way."""

import asyncio
import time

import pytest

from cache_hosts import Host, glance, has, hosts
from cache_samples import entry, key
from conftest import start_valkey, until
from headrace import keys
from headrace.cache import purges
from headrace.cache.purges import Purges
from headrace.cache.selector import Selector
from headrace.clock import HandClock, SystemClock
from headrace.errors import RedisAway


@pytest.fixture
async def host(valkey_url, tmp_path):
    async with hosts(valkey_url, tmp_path) as make:
        yield make


async def test_purge_reaches_all(host):
    """A purge on one host empties every tier of every host, of what it means only."""
    one, other = await host("a"), await host("b")
    for kept in (entry(1, model="a"), entry(2, model="b")):
        await one.cache.put(kept)
        other.cache.take_in(kept.fingerprint, kept.encode())
    assert await has(other.cache, 1) == "mdr"

    assert await one.cache.purge(Selector(model="a")) == 1

    assert await has(one.cache, 1) == ""

    async def gone():
        return await has(other.cache, 1) == ""

    await until(gone)
    assert await has(one.cache, 2) == await has(other.cache, 2) == "mdr"


async def test_purge_heard_later(host):
    """A host that was away hears of a purge when its link comes up."""
    one, away = await host("a"), await host("b", listens=False)
    await one.cache.put(entry(1))
    away.cache.take_in(entry(1).fingerprint, entry(1).encode())

    await one.cache.purge(Selector(fingerprint=key(1)))
    assert await has(away.cache, 1) == "md"

    await away.listen()

    async def gone():
        return await has(away.cache, 1) == ""

    await until(gone)


async def test_purge_while_down(host, tmp_path):
    """A host that was down hears of a purge when it starts, before its disk is asked."""
    one, down = await host("a"), await host("b")
    down.cache.take_in(entry(1).fingerprint, entry(1).encode())
    down.cache.take_in(entry(2).fingerprint, entry(2).encode())
    await down.close()
    await one.cache.purge(Selector(fingerprint=key(1)))

    back = await host("b")

    assert await back.cache.near(key(1)) is None
    assert await back.cache.near(key(2))


async def test_purges_forgotten(host, monkeypatch):
    """One that was down for more purges than are remembered drops all it has."""
    one, down = await host("a"), await host("b")
    down.cache.take_in(entry(1).fingerprint, entry(1).encode())
    await down.close()
    for name in range(3):
        await one.cache.purge(Selector(fingerprint=key(name + 5)))
    await one.link.do("XTRIM", keys.CACHE_PURGES, "MAXLEN", 1)

    back = await host("b")

    assert await back.cache.near(key(1)) is None


async def test_nothing_forgotten(host):
    """A young stream is not mistaken for one that has forgotten."""
    first = await host("a")
    first.cache.take_in(entry(1).fingerprint, entry(1).encode())
    await first.close()
    await (await host("b")).cache.purge(Selector(fingerprint=key(9)))

    assert await (await host("a")).cache.near(key(1))


async def test_started_without_redis(valkey_url, tmp_path):
    """Without Redis at the start the disk is not trusted, since purges may have passed; it is once we have caught up."""
    before = Host(valkey_url, tmp_path / "a")
    await before.cache.start()
    before.cache.take_in(entry(1).fingerprint, entry(1).encode())
    await before.close()

    (tmp_path / "v").mkdir()
    host = Host(f"unix://{tmp_path / 'v' / 'valkey.sock'}", tmp_path / "a")
    await host.cache.start()
    assert await host.cache.near(key(1)) is None
    assert await host.cache.put(entry(2)) == ""
    assert glance(host.cache, 2)
    assert "behind" in repr(host.cache)

    process, _ = start_valkey(tmp_path / "v")
    try:
        await host.listen()

        async def trusted():
            return await host.cache.near(key(1))

        await until(trusted)
    finally:
        await host.close()
        process.terminate()
        process.wait(10)


async def test_purge_without_redis(tmp_path):
    """A purge that cannot be passed on is done here, and says that it was only half done."""
    host = Host(f"unix://{tmp_path / 'nobody.sock'}", tmp_path / "a")
    await host.cache.start()
    await host.cache.put(before := entry(1))

    with pytest.raises(RedisAway):
        await host.cache.purge(Selector(all=True))

    assert glance(host.cache, 1) is None
    assert host.cache.take_in(before.fingerprint, before.encode()) is None
    await host.close()


async def test_on_its_way(host):
    """An entry that was on its way from afar when a purge passed is not let in; an answer said after it is."""
    one, other = await host("a"), await host("b")
    under_way = entry(1)

    await one.cache.purge(Selector(scope="me"))

    async def heard():
        return other.cache.take_in(under_way.fingerprint, under_way.encode()) is None

    await until(heard)
    assert one.cache.take_in(under_way.fingerprint, under_way.encode()) is None
    assert await one.cache.put(under_way) == "purged"
    assert await one.cache.put(entry(1)) == ""
    assert other.cache.take_in(entry(2, scope="you").fingerprint, entry(2, scope="you").encode())


async def test_not_heard_yet(host):
    """An answer that a host puts into Redis before it has heard of a purge does not outlive the purge, there or anywhere."""
    one, unaware = await host("a"), await host("b", listens=False)
    under_way = entry(1)
    await one.cache.purge(Selector(scope="me"))

    await unaware.cache.put(under_way)

    for at in (one, unaware):
        assert await has(at.cache, 1) == ""


async def test_asked_since(host):
    """One that was asked for after the purge, by a host that has not heard of it, is kept everywhere."""
    one, unaware = await host("a"), await host("b", listens=False)
    await one.cache.purge(Selector(scope="me"))

    assert await unaware.cache.put(entry(1)) == ""
    await unaware.cache._purges.catch_up()

    assert await has(unaware.cache, 1) == "mdr"


async def test_other_purge(host):
    """A purge that means other answers costs a host that has not heard of it nothing."""
    one, unaware = await host("a"), await host("b", listens=False)
    under_way = entry(1)
    await one.cache.purge(Selector(model="another"))

    await unaware.cache.put(under_way)

    assert await has(unaware.cache, 1) == "mdr"


async def test_asked_before(host):
    """An answer that upstream was asked for before a purge, and gave after it, is not kept."""
    one = await host("a")
    before = time.time()
    await one.cache.purge(Selector(all=True))

    assert await one.cache.put(entry(1, asked=before)) == "purged"
    assert one.cache.take_in(entry(1, asked=before).fingerprint, entry(1, asked=before).encode()) is None
    assert await has(one.cache, 1) == ""
    assert await one.cache.put(entry(1)) == ""
    assert await has(one.cache, 1) == "mdr"


async def test_put_while_searched(host, monkeypatch):
    """What comes while Redis is searched is refused there, however far the search has come."""
    one, unaware = await host("a"), await host("b", listens=False)
    under_way, search = entry(1), one.cache._shared.purge

    async def searched(selectors):
        count = await search(selectors)
        await unaware.cache.put(under_way)
        return count

    monkeypatch.setattr(one.cache._shared, "purge", searched)
    await one.cache.purge(Selector(all=True))

    assert await has(unaware.cache, 1) == ""


async def test_own_purge_once(host):
    """What is kept after a purge stays, though the host hears of its own purge later."""
    one = await host("a")
    await one.cache.purge(Selector(all=True))
    await one.cache.put(entry(1))
    await one.link.tell_all(purges.TOPIC)
    await one.cache._purges.catch_up()

    assert await has(one.cache, 1) == "mdr"


async def test_read_while_lost(host, monkeypatch):
    """What is read from disk while everything is dropped, since purges were missed, is not let in any more."""
    one, other = await host("a"), await host("b", listens=False)
    other.cache.take_in(entry(1).fingerprint, entry(1).encode())
    await other.cache._disk.flush()
    other.cache._memory.drop(key(1))
    read, found, go = other.cache._disk.get, asyncio.Event(), asyncio.Event()

    async def slowly(fingerprint):
        entry = await read(fingerprint)
        found.set()
        await go.wait()
        return entry

    monkeypatch.setattr(other.cache._disk, "get", slowly)
    looking = asyncio.create_task(other.cache.near(key(1)))
    await found.wait()
    for name in range(3):
        await one.cache.purge(Selector(fingerprint=key(name + 5)))
    await one.link.do("XTRIM", keys.CACHE_PURGES, "MAXLEN", 1)
    await other.cache._purges.catch_up()
    go.set()

    assert await looking is None
    assert glance(other.cache, 1) is None


async def test_lost_nudge(host):
    """A nudge that is lost costs time, not the purge: hosts also look by themselves."""
    clock = HandClock(time.time())
    one, other = await host("a"), await host("b", listens=False, clock=clock)
    other.cache.take_in(entry(1).fingerprint, entry(1).encode())
    await one.cache.purge(Selector(all=True))
    assert glance(other.cache, 1)

    await clock.advance(30)

    await until(lambda: glance(other.cache, 1) is None)


async def test_remembers_bounded(link):
    """However many purges pass, few are remembered, and those for ten minutes; older answers are then nobody's to keep."""

    class Clock(SystemClock):
        moment = 1000.0

        def now(self):
            return self.moment

    async def nothing(*_):
        return ""

    clock = Clock()
    seen = Purges(link, clock, apply=nothing, read_seen=nothing, write_seen=nothing)
    old = entry(1, created=900.0)
    for _ in range(1000):
        seen.remember(Selector(model="claude-x"))
    assert repr(seen) == "<Purges [behind, seen none, 256 recent]>"
    assert seen.forbids(old)

    assert not seen.forbids(entry(1, created=1000.1))
    assert seen.forbids_new(old)

    clock.moment += 601
    assert not seen.forbids(old)
    assert "0 recent" in repr(seen)
    assert seen.forbids_new(old)
    assert not seen.forbids_new(entry(1, created=1000.1))


@pytest.mark.parametrize("fields", [("purge", b"\xff"), ("purge", b'{"selector":7,"at":0}'), ("purge", b"{}"), ("later", b"x")])
async def test_unreadable_purge(host, link, fields):
    """A purge that cannot be read, as a newer version may write it, means everything; the next one is heard of as ever."""
    one, other = await host("a"), await host("b")
    other.cache.take_in(entry(1).fingerprint, entry(1).encode())
    await link.do("XADD", keys.CACHE_PURGES, "*", *fields)
    await link.tell_all("purge")
    await until(lambda: glance(other.cache, 1) is None)

    await until(lambda: "0 recent" not in repr(other.cache._purges))
    other.cache.take_in(entry(2).fingerprint, entry(2).encode())
    await one.cache.purge(Selector(scope="me"))
    await until(lambda: glance(other.cache, 2) is None)


async def test_another_stream(host, link):
    """A Redis whose purges begin anew, with lower ids, is no reason to wait for the old ones' to come back."""
    await link.do("XADD", keys.CACHE_PURGES, "9999999999999-0", "purge", b'{"selector":{"model":"none"},"at":0}')
    one, other = await host("a"), await host("b")
    await until(lambda: "seen 9999999999999-0" in repr(other.cache._purges))
    await link.do("DEL", keys.CACHE_PURGES)
    other.cache.take_in(entry(1).fingerprint, entry(1).encode())

    await one.cache.purge(Selector(all=True))

    await until(lambda: glance(other.cache, 1) is None)
