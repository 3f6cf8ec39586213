"""Who a caller is: by name without auth, by key with it."""

import asyncio

import pytest
from structlog.testing import capture_logs

from conftest import start_valkey, until
from headrace import keys
from headrace.budget.hosts import Hosts
from headrace.callers import Callers, KeyStore
from headrace.clock import HandClock
from headrace.errors import InvalidCall, RedisAway, UnknownCaller
from headrace.link import Link
from headrace.model import Caller, Lane, Role
from headrace.owner import is_name

CHECKOUT = Caller("checkout", Lane.INTERACTIVE, 2)


class Running:
    """Callers that keep themselves fresh while the block runs."""

    def __init__(self, link, *, required=True, clock=None):
        self.callers = Callers({"checkout": CHECKOUT}, required=required, link=link, clock=clock, refresh_s=60.0)

    async def __aenter__(self):
        self._task = asyncio.create_task(self.callers.keep_fresh())
        if self.callers.required:
            await until(lambda: self.callers._keys is not None)
        return self.callers

    async def __aexit__(self, *_):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def knows(callers, key, name="checkout"):
    try:
        return callers.identify(key, "").name == name
    except UnknownCaller:
        return False


async def test_without_auth(link):
    """A caller is who it says, else `default`; any key is ignored."""
    callers = Callers({"checkout": CHECKOUT}, required=False, link=link)

    assert callers.identify("hr_whatever", "checkout") == CHECKOUT
    assert callers.identify("", "other") == Caller("other")
    assert callers.identify("", "other") is callers.identify("", "other")
    assert callers.identify("sk-ant-1", "") == Caller("default")
    for name in ("a b", "x" * 65, "é", "a\n", "../x"):
        with pytest.raises(InvalidCall):
            callers.identify("", name)


async def test_roles(link):
    """A role comes with a key; where none is asked for, everybody has the default one, whatever name they give."""
    admin = Caller("ops", role=Role.ADMIN)
    callers = Callers({"ops": admin}, required=False, link=link)
    assert callers.identify("", "ops").role is Role.CALLER

    callers.reload({"ops": admin}, required=False, default_role=Role.ADMIN)
    assert {callers.identify("", name).role for name in ("ops", "other")} == {Role.ADMIN}

    key = await KeyStore(link).create("ops")
    other = await KeyStore(link).create("other")
    callers.reload({"ops": admin}, required=True, default_role=Role.ADMIN)
    await callers.load()
    assert callers.identify(key, "").role is Role.ADMIN
    assert callers.identify(other, "").role is Role.CALLER


@pytest.mark.parametrize(
    ("name", "fits"), [("a", True), ("A-b_c.9", True), ("x" * 64, True), ("", False), ("a/b", False), ("a\n", False)]
)
def test_names(name, fits):
    """Names are short and plain."""
    assert is_name(name) is fits


async def test_key(link):
    """A key says who asks, whatever name comes with it, from the nudge on and without a restart."""
    store = KeyStore(link)
    async with Running(link) as callers:
        key = await store.create("checkout")
        await until(lambda: knows(callers, key))

        assert callers.identify(key, "somebody-else") is CHECKOUT
        assert repr(callers) == "<Callers [1 configured, 1 keys, required]>"


async def test_wrong_keys(link):
    """No key, a foreign one, one with a wrong secret or id, one in another's clothes: all unknown, none shown."""
    store = KeyStore(link)
    async with Running(link) as callers:
        key = await store.create("checkout")
        other = await store.create("other")
        await until(lambda: knows(callers, key) and knows(callers, other, "other"))

        flipped = key[:-1] + ("0" if key[-1] != "0" else "1")
        crossed = key[:16] + other[16:]
        for wrong in (
            "",
            "sk-ant-1",
            flipped,
            crossed,
            key.upper(),
            key + "\n",
            key + "0",
            "hr_" + "é" * 12,
            "\udcff",
            "hr_" * 100_000,
        ):
            with pytest.raises(UnknownCaller) as refused:
                callers.identify(wrong, "checkout")
            assert not wrong or wrong not in refused.value.message
            assert callers.ours([wrong, key]) == key
        assert callers._remembered.cache_info().currsize <= 6  # nothing of what is too long to be a key


async def test_revoked_key(link):
    """A revoked key is refused from the nudge on, though it was used (and remembered) a moment ago."""
    store = KeyStore(link)
    async with Running(link) as callers:
        key, other = await store.create("checkout"), await store.create("checkout")
        await until(lambda: knows(callers, key) and knows(callers, other))

        assert await store.revoke(key.split("_")[1]) == 1
        await until(lambda: len(callers._keys) == 1)

        assert callers._remembered.cache_info().currsize == 0
        assert not knows(callers, key)
        assert knows(callers, other)


async def test_lost_nudge(link):
    """Keys that are gone without a word, counted or not, are found gone by looking now and then."""
    clock = HandClock()
    async with Running(link, clock=clock) as callers:
        key = await KeyStore(link).create("checkout")
        await until(lambda: knows(callers, key))
        await link.do("DEL", keys.KEYS)

        async with asyncio.timeout(10):
            while callers.stats().keys:
                await clock.advance(61)
                await asyncio.sleep(0.01)

        async def is_heard() -> bool:
            await clock.advance(1)
            return callers.trouble == ""

        await until(is_heard)
        assert not knows(callers, key)


async def test_gone_uncounted(link):
    """A key that somebody took out of Redis by hand is refused within a second, too, though no change was counted."""
    clock = HandClock()
    async with Running(link, clock=clock) as callers:
        store = KeyStore(link)
        key, other = await store.create("checkout"), await store.create("checkout")
        await until(lambda: knows(callers, key) and knows(callers, other))
        await link.do("HDEL", keys.KEYS, key.split("_")[1])

        async def is_gone() -> bool:
            await clock.advance(0.01)
            return not knows(callers, key)

        began = clock.now()
        await until(is_gone)
        assert clock.now() - began < 5.0
        assert knows(callers, other)


@pytest.mark.parametrize("is_counted", [True, False])
async def test_stale(link, is_counted):
    """Keys that could not be loaded for ten seconds are good no more, which is told once and seen; loaded anew, they are."""
    clock = HandClock()
    key = await KeyStore(link).create("checkout")
    async with Running(link, clock=clock) as callers:
        await until(lambda: knows(callers, key))
        assert callers.trouble == ""
        kept = await link.do("HGETALL", keys.KEYS)
        await link.do("DEL", keys.KEYS)
        await link.do("SET", keys.KEYS, "of another type")
        if is_counted:
            await link.do("INCR", keys.KEYS_VERSION)
        await clock.advance(9)
        assert knows(callers, key)
        with capture_logs() as logs:
            await clock.advance(2)
            for _ in range(3):
                with pytest.raises(RedisAway) as raised:
                    callers.identify(key, "")
                assert raised.value.retry_after_s == 1.0
            assert callers.trouble == "callers' keys cannot be loaded"
            await clock.advance(3)
        assert [each["event"] for each in logs if each["log_level"] == "error"] == ["keys.stale"]
        # Both leave together: a look in between would find that there are no keys.
        fields = [part for pair in kept.items() for part in pair]
        await asyncio.gather(link.do("DEL", keys.KEYS), link.do("HSET", keys.KEYS, *fields))

        async def is_back() -> bool:
            await clock.advance(1)
            return callers.trouble == ""

        await until(is_back)
        assert knows(callers, key)


async def test_named_otherwise(link):
    """A record under another's id, or of no name, is none; and by its id one goes that cannot be read."""
    store, callers = KeyStore(link), Callers({}, required=True, link=link)
    key = await store.create("checkout")
    (field, record), *_ = (await link.do("HGETALL", keys.KEYS)).items()
    await link.do("HSET", keys.KEYS, "0" * 12, record)
    await link.do("HSET", keys.KEYS, "1" * 12, record.replace(field, b"1" * 12).replace(b"checkout", b"../x y"))
    await link.do("HSET", keys.KEYS, "2" * 12, record.replace(field, b"2" * 12)[:-5])
    assert [each.id for each in await store.list()] == [field.decode()]
    assert await store.revoke(field.decode()) == 1
    assert await store.revoke("2" * 12) == 1
    await callers.load()
    with pytest.raises(UnknownCaller):
        callers.identify(key, "")


async def test_reload(link):
    """A new configuration counts at once: other lanes, and keys that were not asked for before."""
    key = await KeyStore(link).create("checkout")
    async with Running(link, required=False) as callers:
        assert callers.identify("", "other").lane is Lane.STANDARD
        with_lane = {"other": Caller("other", Lane.BATCH)}
        callers.reload(with_lane, required=False)
        assert callers.identify("", "other").lane is Lane.BATCH

        callers.reload(with_lane, required=True)
        with pytest.raises(RedisAway):
            callers.identify(key, "")
        await until(lambda: callers._keys is not None)
        assert callers.identify(key, "") == Caller("checkout")


async def test_redis_away(tmp_path_factory):
    """Before the first load a key cannot be judged; once loaded, known keys go on; a revocation meanwhile is heard of later."""
    directory = tmp_path_factory.mktemp("v")
    process, url = start_valkey(directory, "--appendonly", "yes")
    link = Link(url, timeout_s=0.5)
    listening = asyncio.create_task(link.listen())
    await asyncio.wait_for(link.listening(), 30)
    key = await KeyStore(link).create("checkout")
    callers = Callers({}, required=True, link=link, refresh_s=0.1)
    with pytest.raises(RedisAway):
        callers.identify(key, "")
    with pytest.raises(UnknownCaller):
        callers.identify("", "")

    fresh = asyncio.create_task(callers.keep_fresh())
    await until(lambda: callers._keys is not None)
    process.terminate()
    process.wait(10)
    await until(lambda: not link.is_up)
    assert knows(callers, key)

    process, _ = start_valkey(directory, "--appendonly", "yes")
    other = Link(url)
    assert await KeyStore(other).revoke("checkout") == 1
    await until(lambda: not knows(callers, key))

    for task in (fresh, listening):
        task.cancel()
    await asyncio.gather(fresh, listening, return_exceptions=True)
    await link.aclose()
    await other.aclose()
    process.terminate()
    process.wait(10)


async def test_hosts(valkey_url):
    """Instances count each other; one that leaves is gone at once, one that is silent lapses."""
    links, clock = [Link(valkey_url) for _ in range(3)], HandClock()
    hosts = [Hosts(link, clock, lapse_s=1.0) for link in links]
    for each in hosts:
        await each.beat()
    await hosts[0].beat()
    assert [each.known for each in hosts] == [3, 2, 3]

    staying = asyncio.create_task(hosts[2].stay())
    await until(lambda: repr(clock) == "<HandClock [1 asleep]>")
    assert repr(hosts[2]) == "<Hosts [3 known]>"
    staying.cancel()
    await asyncio.gather(staying, return_exceptions=True)

    async def sees(count):
        await hosts[0].beat()
        return hosts[0].known == count

    await until(lambda: sees(2), what="the third one's leave")
    await until(lambda: sees(1), what="the silent one's lapse")
    for link in links:
        await link.aclose()


async def test_hosts_without_redis(tmp_path_factory):
    """The count is kept while Redis is away, and does not shrink until everybody has had time to come back."""
    directory = tmp_path_factory.mktemp("v")
    process, url = start_valkey(directory)
    clock = HandClock()
    link, other = Link(url, timeout_s=0.5), Link(url)
    hosts = Hosts(link, clock)
    await Hosts(other, clock).beat()
    await other.aclose()
    await hosts.beat()
    assert hosts.known == 2

    process.terminate()
    process.wait(10)
    await hosts.beat()
    assert repr(hosts) == "<Hosts [2 known, Redis away]>"

    process, _ = start_valkey(directory)
    await hosts.beat()
    assert hosts.known == 2
    await clock.advance(15)
    await hosts.beat()
    assert hosts.known == 1

    await link.aclose()
    process.terminate()
    process.wait(10)
