"""The cache as a whole: near before far, each tier by itself, and what is counted."""

import time

import pytest

from cache_hosts import glance, has, hosts
from cache_samples import entry, key
from conftest import until
from headrace import keys


@pytest.fixture
async def host(valkey_url, tmp_path):
    async with hosts(valkey_url, tmp_path) as make:
        yield make


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

    assert one.cache.take_in(key(1), raw[:-1]) is None
    assert one.cache.take_in(key(1), raw).fingerprint == key(1)
    assert await has(one.cache, 1) == "md"


async def test_far(host):
    """For stale-if-error the freshest answer of any tier is found, be it stale."""
    one, other = await host("a"), await host("b")
    await one.cache.put(entry(1, b'{"a":"old"}', ttl_s=-50, stale_s=100))
    assert (await other.cache.far(key(1))).answer.payload == b'{"a":"old"}'

    await other.cache.put(entry(1, b'{"a":"new"}', ttl_s=-10, stale_s=100))
    assert (await one.cache.near(key(1))).answer.payload == b'{"a":"old"}'
    assert (await one.cache.far(key(1))).answer.payload == b'{"a":"new"}'
    assert (await one.cache.near(key(1))).answer.payload == b'{"a":"new"}'
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
    one.cache.take_in(key(1), entry(1).encode())
    assert one.cache.take_in(key(1), None) is None
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
    assert one.cache.take_in(key(1), foreign) is None
    assert [stats.errors for stats in await one.cache.stats()] == [0, 0, 0]
    await one.cache.put(entry(1))
    assert await has(one.cache, 1) == "mdr"
