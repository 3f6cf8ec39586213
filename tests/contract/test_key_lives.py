"""How a key lives: it ends at its time, another takes its place, its last use is seen, and a pepper keys its digest."""

from __future__ import annotations

import asyncio
import json

import pytest
from structlog.testing import capture_logs

from conftest import until
from headrace import keys
from headrace.callers import Callers, KeyStore
from headrace.clock import HandClock
from headrace.errors import RedisAway, UnknownCaller
from headrace.keystore import Hashing
from headrace.link import Link
from headrace.model import Caller, Role

PEPPER, NEWER = b"p" * 32, b"q" * 32


async def known_to(link, **options):
    callers = Callers({"a": Caller("a", weight=3)}, required=True, link=link, **options)
    await callers.load()
    return callers


async def test_expiry(link):
    """An expired key is refused from its moment on, with nothing loaded then, and says why; a revoked one does not."""
    clock = HandClock()
    store = KeyStore(link, clock)
    key, lasting = await store.create("a", lasts_s=90.0), await store.create("a")
    callers = await known_to(link, clock=clock)
    await clock.advance(89.9)
    await callers.load()
    assert callers.identify(key, "").name == "a"

    await clock.advance(0.1)

    with pytest.raises(UnknownCaller, match="expired"):
        callers.identify(key, "")
    assert callers.identify(lasting, "").name == "a"
    assert callers.ours([key, lasting]) == lasting
    assert callers.ours([key, "sk-ant-1"]) == key


async def test_role(link):
    """A key's role stands in the place of the configured one; one that only a newer version knows gives the least."""
    store = KeyStore(link)
    plain, admin, newer = [await store.create("a", role=role) for role in ("", "admin", "emperor")]
    callers = await known_to(link)
    assert [callers.identify(key, "").role for key in (plain, admin, newer)] == [Role.CALLER, Role.ADMIN, Role.CALLER]
    assert {callers.identify(key, "").weight for key in (plain, admin, newer)} == {3}


async def test_rotation(link):
    """Both keys are good while they overlap, then the new one alone; it has the old one's caller, role and length of life."""
    clock = HandClock()
    store = KeyStore(link, clock)
    old = await store.create("a", lasts_s=1000.0, role="observer")
    await clock.advance(100)

    new = await store.rotate(old.split("_")[1], overlap_s=50.0)

    callers = await known_to(link, clock=clock)
    assert {callers.identify(key, "").role for key in (old, new)} == {Role.OBSERVER}
    ends = {key.prefix: key.expires for key in await store.list()}
    assert ends == {old[:15]: clock.now() + 50, new[:15]: clock.now() + 1000}
    await clock.advance(50)
    await callers.load()
    assert callers.identify(new, "").name == "a"
    with pytest.raises(UnknownCaller):
        callers.identify(old, "")
    assert await store.rotate(old.split("_")[1], overlap_s=50.0) is None
    assert await store.rotate("000000000000", overlap_s=50.0) is None


async def test_rotation_never_lengthens(link):
    """A key that ends before the overlap does ends when it was to."""
    clock = HandClock()
    store = KeyStore(link, clock)
    old = await store.create("a", lasts_s=10.0)
    assert await store.rotate(old.split("_")[1], overlap_s=86_400.0, lasts_s=86_400.0)
    assert sorted(key.expires - clock.now() for key in await store.list()) == [10.0, 86_400.0]


async def test_revoked_while_rotated(link, valkey_url):
    """A revocation in the middle of a rotation is not undone by it, and no second key comes of it."""
    store = KeyStore(link)
    key_id = (await store.create("a")).split("_")[1]
    other = KeyStore(Meddled(link, KeyStore(link), key_id))
    assert await other.rotate(key_id, overlap_s=60.0) is None
    assert await store.list() == []


class Meddled:
    """A link over which a key is revoked right after it was read."""

    def __init__(self, link, store, key_id):
        self._link, self._store, self._key_id = link, store, key_id

    def __getattr__(self, name):
        return getattr(self._link, name)

    async def do(self, *command):
        said = await self._link.do(*command)
        if command[0] == "HGET":
            await self._store.revoke(self._key_id)
        return said


async def test_last_use(link):
    """The last use of a key is seen, is written at most once a minute, and does not bring back a key that is gone."""
    clock = HandClock()
    store = KeyStore(link, clock)
    key, gone = await store.create("a"), await store.create("a")
    callers = await known_to(link, clock=clock)
    fresh = asyncio.create_task(callers.keep_fresh())
    assert [each.used for each in await store.list()] == [None, None]

    async def used():
        return {each.id: each.used for each in await store.list()}

    callers.identify(key, "")
    callers.identify(gone, "")
    while set((await used()).values()) == {None}:
        await clock.advance(1)
    first = await used()
    assert set(first) == {key.split("_")[1], gone.split("_")[1]}
    told = clock.now()

    await store.revoke(gone.split("_")[1])
    callers.identify(key, "")
    while clock.now() < told + 50:
        await clock.advance(1)
        assert set((await used()).items()) < set(first.items())
    while (await used())[key.split("_")[1]] == first[key.split("_")[1]]:
        await clock.advance(1)
    assert clock.now() >= told + 59
    assert await link.do("HLEN", keys.KEYS_USED) == 1
    fresh.cancel()
    await asyncio.gather(fresh, return_exceptions=True)


async def test_pepper(link):
    """With a pepper the digest is keyed, and old keys stay good; without the right one a key is refused, and that is said."""
    plain = await KeyStore(link).create("a")
    keyed = await KeyStore(link, hashing=Hashing([PEPPER])).create("a")
    newer = await KeyStore(link, hashing=Hashing([NEWER, PEPPER])).create("a")
    assert len({key.hashed for key in await KeyStore(link).list()}) == 3

    callers = Callers({}, required=True, link=link)

    async def good(*peppers):
        callers.reload({}, required=True, hashing=Hashing(peppers))
        await callers.load()
        return [is_known(callers, key) for key in (plain, keyed, newer)]

    with capture_logs() as logs:
        assert await good() == [True, False, False]
        assert await good() == [True, False, False]
    assert [line["event"] for line in logs] == ["key.pepper_unknown"] * 2
    assert await good(PEPPER) == [True, True, False]
    assert await good(NEWER) == [True, False, True]
    assert await good(NEWER, PEPPER) == [True, True, True]


def is_known(callers, key):
    try:
        return callers.identify(key, "").name == "a"
    except (UnknownCaller, RedisAway):
        return False


async def test_old_record(link):
    """A record of before there were peppers, expiry and roles is as good as ever."""
    key = await KeyStore(link).create("a")
    key_id = key.split("_")[1]
    record = await link.do("HGET", keys.KEYS, key_id)
    assert set(json.loads(record)) == {"id", "name", "prefix", "created", "digest"}
    assert is_known(await known_to(link), key)


async def test_lost_nudges(link, valkey_url):
    """A revocation is known within a second where no nudge arrives at all."""
    deaf = Link(valkey_url)  # nobody runs its listener
    store = KeyStore(link)
    key = await store.create("a")
    callers = Callers({}, required=True, link=deaf)
    fresh = asyncio.create_task(callers.keep_fresh())
    loop = asyncio.get_running_loop()
    slowest = 0.0
    for _ in range(3):
        await until(lambda: is_known(callers, key))  # noqa: B023  # within this turn
        begun = loop.time()
        await store.revoke(key.split("_")[1])
        await until(lambda: not is_known(callers, key))  # noqa: B023
        slowest = max(slowest, loop.time() - begun)
        key = await store.create("a")
    print(f"slowest {slowest:.2f} s")
    assert slowest < 1.0
    fresh.cancel()
    await asyncio.gather(fresh, return_exceptions=True)
    await deaf.aclose()
