"""What waits at the HTTP door is counted and bounded: bodies that are being read, packed or not."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json

import pytest

from conftest import until
from doors import BODY, open_door, say
from headrace.crowd import Crowd, Part

LARGE = json.dumps({**BODY, "messages": [{"role": "user", "content": "x" * 300_000}]}).encode()


def head(length: int | None, *headers: str) -> bytes:
    framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    lines = ["POST /v1/messages HTTP/1.1", "host: 127.0.0.1", "connection: close", framing, *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


@contextlib.asynccontextmanager
async def begun(door, raw: bytes):
    """Send the beginning of a request, and keep the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    with contextlib.closing(writer):
        writer.write(raw)
        yield reader, writer


def reading(one) -> Part:
    return one.parts.crowd.stats().by_kind["reading"]


def nobody(one) -> bool:
    return one.parts.crowd.stats() == Crowd().stats()


async def status_of(reader) -> int:
    return int((await asyncio.wait_for(reader.read(), 10)).split()[1])


async def test_counts_what_came(valkey_url, tmp_path):
    """Of a body that comes slowly that counts which has arrived; when all is here, none does."""
    async with open_door(valkey_url, tmp_path) as (door, _, one):
        async with begun(door, head(len(LARGE)) + LARGE[:100_000]) as (reader, writer):
            await until(lambda: reading(one) == Part(1, 100_000))
            writer.write(LARGE[100_000:])
            assert await status_of(reader) == 200
        await until(lambda: nobody(one))


async def test_hangs_up(valkey_url, tmp_path):
    """A caller that hangs up in the middle of its body takes with it what it had sent."""
    async with open_door(valkey_url, tmp_path) as (door, _, one):
        async with begun(door, head(len(LARGE)) + LARGE[:100_000]):
            await until(lambda: reading(one).bytes == 100_000)
        await until(lambda: nobody(one))


@pytest.mark.parametrize("form", ["whole", "chunked", "packed"])
async def test_too_many_bytes(valkey_url, tmp_path, form):
    """A body that is one too many is refused with 429 while it comes, however it comes; those before it go on."""
    async with open_door(valkey_url, tmp_path, SCHEDULE__MAX_WAITING_BYTES="500KB") as (door, server, one):
        async with begun(door, head(len(LARGE)) + LARGE[:290_000]) as (reader, writer):
            await until(lambda: reading(one).bytes == 290_000)
            if form == "whole":
                raw = head(len(LARGE)) + LARGE
            elif form == "chunked":
                raw = head(None) + b"%x\r\n%s\r\n0\r\n\r\n" % (len(LARGE), LARGE)
            else:
                packed = gzip.compress(LARGE)
                assert len(packed) < 65_536
                raw = head(len(packed), "content-encoding: gzip") + packed
            # A body that has come whole by the time we look waits for nothing; this one's end is yet to come.
            async with begun(door, raw[:-8]) as (other, _):
                came = await asyncio.wait_for(other.read(), 10)
            assert came.split()[1] == b"429"
            assert b"retry-after: 1" in came.lower()
            assert b"rate_limit_error" in came
            await until(lambda: reading(one) == Part(1, 290_000))
            writer.write(LARGE[290_000:])
            assert await status_of(reader) == 200
        assert server.calls == 1
        await until(lambda: nobody(one))


async def test_too_many_calls(valkey_url, tmp_path):
    """Bodies count as calls, too; one small enough for the server's own buffer passes all the same, and so does a hit."""
    async with open_door(valkey_url, tmp_path, SCHEDULE__MAX_WAITING="1") as (door, _, one):
        assert (await say(door))[0] == 200
        async with begun(door, head(len(LARGE)) + LARGE[:100]):
            await until(lambda: reading(one).calls == 1)
            async with begun(door, head(len(LARGE)) + LARGE[:100]) as (reader, _):
                assert await status_of(reader) == 429
            status, came = await say(door)
            assert status == 200
            assert b"x-headrace-source: cache" in came.lower()
            assert (await say(door, body={**BODY, "max_tokens": 6}))[0] == 200
        await until(lambda: nobody(one))


async def test_small_and_slow(valkey_url, tmp_path):
    """A small body that comes slowly holds no more than its connection does, and is not counted."""
    raw = json.dumps(BODY).encode()
    async with open_door(valkey_url, tmp_path) as (door, _, one), begun(door, head(len(raw)) + raw[:10]) as (reader, writer):
        assert (await say(door, body={**BODY, "max_tokens": 6}))[0] == 200  # by now the other's beginning has been read
        assert nobody(one)
        writer.write(raw[10:])
        assert await status_of(reader) == 200


async def test_too_large(valkey_url, tmp_path):
    """A body without a length that grows past what upstream takes is refused as such, and counts no longer."""
    async with open_door(valkey_url, tmp_path) as (door, _, one):
        async with begun(door, head(None)) as (reader, writer):
            chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"

            async def send() -> None:
                with contextlib.suppress(ConnectionError):
                    for _ in range(36):
                        writer.write(chunk)
                        await writer.drain()

            sending = asyncio.create_task(send())
            assert (await asyncio.wait_for(reader.read(4096), 20)).split()[1] == b"413"
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        await until(lambda: nobody(one))
