"""The link to Redis, against a real one."""

import asyncio

import pytest

from conftest import start_valkey, until
from headrace.errors import RedisAway
from headrace.link import Link, Script


class Echo(Script):
    def __init__(self):
        self.name = "echo.lua"
        self.text = "return ARGV[1]"
        import hashlib

        self.sha = hashlib.sha1(self.text.encode()).hexdigest()


async def test_one_turn_one_round_trip(link):
    """Commands of one turn of the loop leave together and are answered in order."""
    before = link.round_trips

    replies = await asyncio.gather(link.do("SET", "a", "1"), link.do("INCR", "a"), link.do("GET", "a"))

    assert replies == [b"OK", 2, b"2"]
    assert link.round_trips == before + 1


async def test_forgotten_script(link):
    """A script that Redis has never heard of is told, and then known."""
    assert await link.run(Echo(), [], ["x"]) == b"x"
    await link.do("SCRIPT", "FLUSH")
    assert await asyncio.gather(link.run(Echo(), [], ["y"]), link.run(Echo(), [], ["z"])) == [b"y", b"z"]


async def test_one_error_is_one_callers(link):
    """A command that Redis refuses fails alone."""
    await link.do("SET", "a", "text")

    wrong, right = await asyncio.gather(link.do("INCR", "a"), link.do("GET", "a"), return_exceptions=True)

    assert "not an integer" in str(wrong)
    assert right == b"text"


async def test_cancelled_caller(link):
    """A caller who is cancelled leaves the others' commands undisturbed."""
    leaves = link.do("SET", "a", "1")
    stays = link.do("GET", "a")
    leaves.cancel()

    assert await stays == b"1"


async def test_nudges(link):
    """A nudge reaches its topic's handler, by inbox and by broadcast."""
    got = []
    link.on("topic", got.append)

    await link.do("PUBLISH", link.inbox, "topic one")
    await link.tell_all("topic", "two")

    await until(lambda: got == [b"one", b"two"])


async def test_redis_goes_and_comes_back(tmp_path):
    """Away is a RedisAway, soon; back is noticed by both the link and its listener."""
    process, url = start_valkey(tmp_path)
    link = Link(url, timeout_s=0.5)
    connected = []

    async def note():
        connected.append(1)

    link.on_connect(note)
    listening = asyncio.create_task(link.listen())
    await until(lambda: connected)

    process.terminate()
    process.wait(10)
    with pytest.raises(RedisAway):
        await link.do("PING")
    assert not link.is_up

    process, _ = start_valkey(tmp_path)
    await until(lambda: len(connected) == 2)
    assert await link.do("PING") == b"PONG"
    await until(lambda: repr(link) == "<Link [up, 0 to send, 0 in the air]>")

    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await link.aclose()
    process.terminate()
    process.wait(10)


async def test_all_idle_ones_died(link):
    """That every idle connection died is no loss of Redis: a fresh one is tried."""
    for _ in range(3):
        await asyncio.gather(*(link.do("PING") for _ in range(1000)))  # batches enough for several connections
    assert len(link._idle) > 1
    for connection in link._idle:
        connection._writer.transport.abort()

    assert await link.do("PING") == b"PONG"
    assert link.is_up


async def test_refuses_writes(link):
    """A Redis that is full is as good as away, for those who would write."""
    await link.do("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(RedisAway):
            await link.do("SET", "a", "1")
        assert await link.do("GET", "a") is None
    finally:
        await link.do("CONFIG", "SET", "maxmemory", "0")


async def test_closed(valkey_url):
    """After its end a link sends nothing, and says so."""
    link = Link(valkey_url)
    await link.do("PING")
    await link.aclose()
    with pytest.raises(RedisAway):
        await link.do("PING")
    assert not link._flushes
