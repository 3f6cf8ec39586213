"""The store of callers' keys: what it promises, against a real Valkey."""

import pytest
from structlog.testing import capture_logs

from conftest import until
from headrace import keys, records
from headrace.callers import Callers, KeyStore
from headrace.clock import HandClock
from headrace.errors import InvalidCall, RedisAway
from headrace.link import Link


async def test_create_and_list(link):
    """The plaintext is told once; the list has all but the secret, by name and age; Redis never sees the key."""
    clock = HandClock(1000.0)
    store = KeyStore(link, clock)
    later = await store.create("b")
    await clock.advance(5)
    latest, first = await store.create("b"), await store.create("a")

    listed = await store.list()

    assert [(key.name, key.prefix, key.created) for key in listed] == [
        ("a", first[:15], 1005.0),
        ("b", later[:15], 1000.0),
        ("b", latest[:15], 1005.0),
    ]
    assert len({later, latest, first}) == 3
    assert all(key.prefix == f"hr_{key.id}" for key in listed)
    kept = b"".join(await link.do("HVALS", keys.KEYS))
    for key in (later, latest, first):
        assert key.split("_")[2] not in repr(listed)
        assert key.split("_")[2].encode() not in kept


async def test_revoke(link):
    """By id one goes, by name all of that name, unknown ones do no harm."""
    store = KeyStore(link)
    first = await store.create("a")
    await store.create("a")
    await store.create("a")
    await store.create("b")

    assert await store.revoke(first.split("_")[1]) == 1
    assert await store.revoke("a") == 2
    assert await store.revoke("a") == 0
    assert [key.name for key in await store.list()] == ["b"]


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "a:b", "a\n"])
async def test_bad_name(link, name):
    """A name that no caller can have gets no key."""
    with pytest.raises(InvalidCall):
        await KeyStore(link).create(name)
    assert await link.do("EXISTS", keys.KEYS) == 0


async def test_nudges(link):
    """Both creating and revoking tell every daemon."""
    heard = []
    link.on("keys", heard.append)
    store = KeyStore(link)

    await store.create("a")
    await store.revoke("a")

    await until(lambda: len(heard) == 2)


async def test_away(tmp_path):
    """Without Redis no key is made or listed."""
    link = Link(f"unix://{tmp_path}/nothing.sock", timeout_s=0.5)
    store = KeyStore(link)
    with pytest.raises(RedisAway):
        await store.create("a")
    with pytest.raises(RedisAway):
        await store.list()
    await link.aclose()


@pytest.mark.parametrize(
    "record", [b"garbage", b"\xff", b"{}", b'{"id":"x","name":"n","prefix":"p","created":1,"digest":"no hex"}']
)
async def test_unreadable_record(link, record):
    """A record that cannot be read, as a newer version may write it, locks out its own key alone; it is told once."""
    records.forget()
    store = KeyStore(link)
    good = await store.create("a")
    await link.do("HSET", keys.KEYS, "000000000000", record)
    callers = Callers({}, required=True, link=link)
    with capture_logs() as logs:
        for _ in range(3):
            await callers.load()
    assert callers.identify(good, "").name == "a"
    assert "a" in [each.name for each in await store.list()]
    assert len([line for line in logs if line["event"] == "key.unreadable"]) == 1
