"""The cache as a whole: near before far, and purges that reach every tier of every host."""

import asyncio
import contextlib
import time

import pytest

from cache_samples import entry, key
from conftest import start_valkey, until
from headrace import keys
from headrace.cache import purges
from headrace.cache.purges import Purges
from headrace.cache.selector import Selector
from headrace.cache.tiered import Cache
from headrace.clock import HandClock, SystemClock
from headrace.errors import RedisAway
from headrace.link import Link


class Host:
    """A host of its own: a link that listens when told to, and a cache with all three tiers."""

    def __init__(self, url, directory, clock=None):
        self.clock = clock or SystemClock()
        self.directory = directory
        self.link = Link(url, timeout_s=0.5)
        self.cache = self.make()
        self.listener = None

    def make(self, **changed):
        sizes = {"memory": 10**6, "disk": 10**7, "redis": 10**6, "max_entry": 10**5, **changed}
        return Cache(self.link, self.clock, directory=self.directory, **sizes)

    async def listen(self):
        self.listener = asyncio.create_task(self.link.listen())
        await asyncio.wait_for(self.link.listening(), 30)

    async def close(self):
        if self.listener:
            self.listener.cancel()
            await asyncio.gather(self.listener, return_exceptions=True)
        await self.cache.close()
        await self.link.aclose()


@pytest.fixture
async def host(valkey_url, tmp_path):
    """Make a host by its name; the same name is the same directory."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(name, *, listens=True, url=valkey_url, clock=None):
            made = Host(url, tmp_path / name, clock)
            stack.push_async_callback(made.close)
            if listens:
                await made.listen()
            await made.cache.start()
            return made

        yield make


def glance(cache, name, max_age_s=None):
    """What is in memory, and fresh."""
    return cache.glance(key(name), time.time(), max_age_s)


async def has(cache, name):
    """Say which tiers have it: m, d, r."""
    found = "m" if glance(cache, name) else ""
    await cache._disk.flush()
    found += "d" if await cache._disk.get(key(name)) else ""
    return found + ("r" if await cache._shared.get(key(name)) else "")


async def test_everywhere(host):
    """A new answer goes to all tiers, and is back from each of them."""
    one = await host("a")
    assert await one.cache.put(kept := entry(1)) == ""
    assert await has(one.cache, 1) == "mdr"

    assert glance(one.cache, 1) is kept
    assert await one.cache.near(key(1)) is kept
    assert await one.cache.near(key(2)) is None


async def test_near(host):
    """After a restart an answer comes from the disk, and then from memory."""
    await (await host("a")).cache.put(kept := entry(1))
    again = await host("b")
    assert await again.cache.near(key(1)) is None

    again.cache._disk.write_soon(kept, kept.encode())
    assert glance(again.cache, 1) is None
    assert await again.cache.near(key(1)) == kept
    assert glance(again.cache, 1) == kept


async def test_take_in(host):
    """What was read from Redis is kept nearby; what is broken is not."""
    one = await host("a")
    raw = entry(1).encode()

    assert one.cache.take_in(raw[:-1]) is None
    assert one.cache.take_in(raw).fingerprint == key(1)
    assert await has(one.cache, 1) == "md"


async def test_far(host):
    """For stale-if-error the freshest answer of any tier is found, be it stale."""
    one, other = await host("a"), await host("b")
    await one.cache.put(entry(1, b"old", ttl_s=-50, stale_s=100))
    assert (await other.cache.far(key(1))).answer.payload == b"old"

    await other.cache.put(entry(1, b"new", ttl_s=-10, stale_s=100))
    assert (await one.cache.near(key(1))).answer.payload == b"old"
    assert (await one.cache.far(key(1))).answer.payload == b"new"
    assert (await one.cache.near(key(1))).answer.payload == b"new"
    assert await one.cache.far(key(2)) is None


async def test_past_keeping(host):
    """What is past even stale-if-error is a miss."""
    one = await host("a")
    await one.cache.put(entry(1, ttl_s=-50, stale_s=50.05))
    assert one.cache._memory.get(key(1))

    async def gone():
        return await one.cache.far(key(1)) is None

    await until(gone, what="the entry lapsed")


async def test_no_keep(host):
    """An answer that is too large, or comes to a cache that is off, is not kept, and it is said why."""
    one = await host("a")
    assert await one.cache.put(entry(1, b"x" * 100_001)) == "too-large"
    assert await has(one.cache, 1) == ""

    off = one.make(enabled=False)
    assert await off.put(entry(2)) == "cache-off"
    assert glance(off, 2) is await off.near(key(2)) is await off.far(key(2)) is None
    assert [tier.on for tier in await off.stats()] == [False]
    assert not one.directory.joinpath("off").exists()


@pytest.mark.parametrize("off", ["memory", "disk", "redis"])
async def test_tier_off(host, off):
    """Each tier can be left out, and the others go on."""
    cache = (await host("a", listens=False)).make(**{off: 0})
    if cache._disk:
        await cache._disk.open()

    assert await cache.put(entry(1)) == ""

    on = {tier.tier: tier.entries for tier in await cache.stats() if tier.on}
    assert off not in on
    assert len(on) == 2
    assert await cache.far(key(1))
    if cache._disk:
        await cache._disk.close()


async def test_stats(host):
    """Each tier says what it holds."""
    one = await host("a")
    await one.cache.put(entry(1))
    await one.cache._disk.flush()

    assert [(tier.tier, tier.entries, tier.stores) for tier in await one.cache.stats()] == [
        ("memory", 1, 1),
        ("disk", 1, 1),
        ("redis", 1, 1),
    ]


async def test_purge_reaches_all(host):
    """A purge on one host empties every tier of every host, of what it means only."""
    one, other = await host("a"), await host("b")
    for kept in (entry(1, model="a"), entry(2, model="b")):
        await one.cache.put(kept)
        other.cache.take_in(kept.encode())
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
    away.cache.take_in(entry(1).encode())

    await one.cache.purge(Selector(fingerprint=key(1)))
    assert await has(away.cache, 1) == "md"

    await away.listen()

    async def gone():
        return await has(away.cache, 1) == ""

    await until(gone)


async def test_purge_while_down(host, tmp_path):
    """A host that was down hears of a purge when it starts, before its disk is asked."""
    one, down = await host("a"), await host("b")
    down.cache.take_in(entry(1).encode())
    down.cache.take_in(entry(2).encode())
    await down.close()
    await one.cache.purge(Selector(fingerprint=key(1)))

    back = await host("b")

    assert await back.cache.near(key(1)) is None
    assert await back.cache.near(key(2))


async def test_purges_forgotten(host, monkeypatch):
    """One that was down for more purges than are remembered drops all it has."""
    one, down = await host("a"), await host("b")
    down.cache.take_in(entry(1).encode())
    await down.close()
    for name in range(3):
        await one.cache.purge(Selector(fingerprint=key(name + 5)))
    await one.link.do("XTRIM", keys.CACHE_PURGES, "MAXLEN", 1)

    back = await host("b")

    assert await back.cache.near(key(1)) is None


async def test_nothing_forgotten(host):
    """A young stream is not mistaken for one that has forgotten."""
    first = await host("a")
    first.cache.take_in(entry(1).encode())
    await first.close()
    await (await host("b")).cache.purge(Selector(fingerprint=key(9)))

    assert await (await host("a")).cache.near(key(1))


async def test_started_without_redis(valkey_url, tmp_path):
    """Without Redis at the start the disk is not trusted, since purges may have passed; it is once we have caught up."""
    before = Host(valkey_url, tmp_path / "a")
    await before.cache.start()
    before.cache.take_in(entry(1).encode())
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
    assert host.cache.take_in(before.encode()) is None
    await host.close()


async def test_on_its_way(host):
    """An entry that was on its way from afar when a purge passed is not let in; an answer said after it is."""
    one, other = await host("a"), await host("b")
    under_way = entry(1)

    await one.cache.purge(Selector(scope="me"))

    async def heard():
        return other.cache.take_in(under_way.encode()) is None

    await until(heard)
    assert one.cache.take_in(under_way.encode()) is None
    assert await one.cache.put(under_way) == "purged"
    assert await one.cache.put(entry(1)) == ""
    assert other.cache.take_in(entry(2, scope="you").encode())


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
    assert one.cache.take_in(entry(1, asked=before).encode()) is None
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
    other.cache.take_in(entry(1).encode())
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


# What is counted.


async def counts(cache):
    return {stats.tier: (stats.hits, stats.misses) for stats in await cache.stats()}


async def test_counted_once(host):
    """A look-up counts once in each tier that was asked: as a hit where it found a fresh answer."""
    one = await host("a")

    async def look(name, max_age_s=None):
        return glance(one.cache, name, max_age_s) or await one.cache.near(key(name), max_age_s)

    assert await look(1) is None
    assert await counts(one.cache) == {"memory": (0, 1), "disk": (0, 1), "redis": (0, 0)}
    await one.cache.put(entry(1))
    assert await look(1)
    assert await counts(one.cache) == {"memory": (1, 1), "disk": (0, 1), "redis": (0, 0)}


@pytest.mark.parametrize(("ttl_s", "max_age_s"), [(-10, None), (60, 5)], ids=["stale", "too old"])
async def test_old_is_a_miss(host, ttl_s, max_age_s):
    """An answer that is past its time, or too old for the call, is a miss, in every tier."""
    one, other = await host("a"), await host("b")
    old = entry(1, created=time.time() - 20, ttl_s=20 + ttl_s)
    await one.cache.put(old)
    assert glance(one.cache, 1, max_age_s) is None
    assert await one.cache.near(key(1), max_age_s) == old
    await one.cache._disk.flush()
    one.cache._memory.drop(key(1))
    assert await one.cache.near(key(1), max_age_s) == old
    assert await counts(one.cache) == {"memory": (0, 2), "disk": (0, 1), "redis": (0, 0)}

    assert await other.cache.far(key(1), max_age_s) == old
    assert await counts(other.cache) == {"memory": (0, 1), "disk": (0, 1), "redis": (0, 1)}


async def test_second_look(host):
    """Looking for a stale answer, since upstream is in trouble, is no look-up of its own."""
    one = await host("a")
    await one.cache.near(key(1))
    before = await counts(one.cache)
    await one.cache.lapsed(key(1))
    assert await counts(one.cache) == before


async def test_told_by_scripts(host):
    """What a script found in Redis, or did not, counts there."""
    one = await host("a")
    one.cache.take_in(entry(1).encode())
    assert one.cache.take_in(None) is None
    assert (await counts(one.cache))["redis"] == (1, 1)


@pytest.mark.parametrize("version", [b"HRe1", b"HRe9"])
async def test_other_version(host, version):
    """An entry that another version wrote is a miss and no error, on disk and in Redis, and makes room for a new one."""
    one = await host("a")
    foreign = version + entry(1).encode()[4:]
    one.cache._disk.write_soon(entry(1), foreign)
    await one.cache._disk.flush()
    await one.link.do("SET", keys.cache_entry(key(1)), foreign)

    assert await one.cache.far(key(1)) is None
    assert one.cache.take_in(foreign) is None
    assert [stats.errors for stats in await one.cache.stats()] == [0, 0, 0]
    await one.cache.put(entry(1))
    assert await has(one.cache, 1) == "mdr"


async def test_lost_nudge(host):
    """A nudge that is lost costs time, not the purge: hosts also look by themselves."""
    clock = HandClock(time.time())
    one, other = await host("a"), await host("b", listens=False, clock=clock)
    other.cache.take_in(entry(1).encode())
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
    other.cache.take_in(entry(1).encode())
    await link.do("XADD", keys.CACHE_PURGES, "*", *fields)
    await link.tell_all("purge")
    await until(lambda: glance(other.cache, 1) is None)

    await until(lambda: "0 recent" not in repr(other.cache._purges))
    other.cache.take_in(entry(2).encode())
    await one.cache.purge(Selector(scope="me"))
    await until(lambda: glance(other.cache, 2) is None)


async def test_another_stream(host, link):
    """A Redis whose purges begin anew, with lower ids, is no reason to wait for the old ones' to come back."""
    await link.do("XADD", keys.CACHE_PURGES, "9999999999999-0", "purge", b'{"selector":{"model":"none"},"at":0}')
    one, other = await host("a"), await host("b")
    await until(lambda: "seen 9999999999999-0" in repr(other.cache._purges))
    await link.do("DEL", keys.CACHE_PURGES)
    other.cache.take_in(entry(1).encode())

    await one.cache.purge(Selector(all=True))

    await until(lambda: glance(other.cache, 1) is None)
