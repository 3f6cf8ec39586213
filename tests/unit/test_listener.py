"""The listening connection: how long it may be deaf, and that nobody takes that for a loss of Redis."""

import asyncio
import contextlib

import pytest
import redis
from structlog.testing import capture_logs

from conftest import until
from gate import gated
from headrace.link import Link


@contextlib.asynccontextmanager
async def heard(url, **options):
    """A link that listens, and how often it was told of a connection."""
    link, connections = Link(url, **options), []

    async def note():
        connections.append(1)

    link.on_connect(note)
    listening = asyncio.create_task(link.listen())
    try:
        await asyncio.wait_for(link.listening(), 10)
        await until(lambda: connections)
        yield link, connections
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await link.aclose()


async def test_black_hole(valkey_url, tmp_path):
    """A connection that was cut off without a word is noticed; commands go on, Redis is not away; then nudges arrive again."""
    async with (
        gated(valkey_url, tmp_path) as (door, gate),
        heard(valkey_url, timeout_s=0.5, quiet_s=0.2) as (link, connections),
    ):
        link._listener._url = door
        with redis.Redis.from_url(valkey_url) as client:
            client.client_kill_filter(_type="pubsub")
        await until(lambda: len(connections) == 2)
        await until(lambda: link.is_listening)
        gate.is_open = False
        with capture_logs() as logs:
            await until(lambda: not link.is_listening)
            assert await link.do("PING") == b"PONG"
            assert (link.is_up, link.trouble) == (True, "")
            gate.is_open = True
            await until(lambda: len(connections) == 3)
        assert [line["event"] for line in logs] == ["listener.lost", "listener.back"]
        got = []
        link.on("topic", got.append)
        await link.tell_all("topic", "word")
        await until(lambda: got == [b"word"])


async def test_quiet(valkey_url):
    """Silence alone, for however long, ends no connection."""
    async with heard(valkey_url, timeout_s=5.0, quiet_s=0.02) as (link, connections):
        await asyncio.sleep(0.3)
        assert (link.is_listening, len(connections)) == (True, 1)
        assert repr(link._listener) == "<Listener [listening, 1 connections]>"


async def test_killed(valkey_url):
    """A listening connection that is killed is made anew, and whoever waits for nudges is told that some may be lost."""
    async with heard(valkey_url) as (link, connections):
        with redis.Redis.from_url(valkey_url) as client:
            client.client_kill_filter(_type="pubsub")
        await until(lambda: len(connections) == 2)
        assert link.is_up


@pytest.mark.parametrize("nudge", [b"topic \xff", b"\xff\xfe word", b"", b"unknown word"])
async def test_unreadable(valkey_url, nudge):
    """A nudge that nobody can read is lost, and nothing else."""
    async with heard(valkey_url) as (link, connections):
        got = []
        link.on("topic", lambda payload: got.append(payload.decode()))
        with redis.Redis.from_url(valkey_url) as client:
            client.publish("headrace:all", nudge)
            client.publish("headrace:all", "topic word")
        await until(lambda: got == ["word"])
        assert len(connections) == 1
