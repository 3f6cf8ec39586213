"""What anybody can do to the HTTP port, who has no key."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import zlib
from collections.abc import Mapping

import brotli
import zstandard
from tests.hostile.target import Attack, Target, at, by_many

_HOST = b"host: localhost\r\n"
_LINES = (
    b"GET /healthz", b"GET /readyz", b"GET /metrics", b"GET /nothing", b"POST /healthz", b"OPTIONS /v1/messages",
    b"POST /v1/messages", b"POST /v1/chat/completions", b"POST /v1/files", b"POST /v1/messages/batches", b"GET /v1/models",
)  # fmt: skip
_ZEROS = bytes(1 << 28)


def _bombs() -> dict[bytes, bytes]:
    return {
        b"br": brotli.compress(_ZEROS, quality=5),
        b"zstd": zstandard.compress(_ZEROS),
        b"gzip": gzip.compress(_ZEROS[: 1 << 26], 6),
        b"deflate": zlib.compress(_ZEROS[: 1 << 26], 6),
    }


async def packed(target: Target) -> None:
    """Bodies of a few kilobytes that are packed gigabytes, at every path."""
    requests = [
        line + b" HTTP/1.1\r\n" + _HOST + b"content-encoding: %s\r\ncontent-length: %d\r\n\r\n" % (name, len(bomb)) + bomb
        for name, bomb in _bombs().items()
        for line in _LINES
    ]
    turns = itertools.cycle(requests)
    await by_many(target, 12, lambda _: target.say(next(turns)))


async def unfinished_heads(target: Target) -> None:
    """Heads that never end: a byte now and then, or as much as is taken."""

    async def once(number: int) -> None:
        async with target.connected() as (reader, writer):
            writer.write(b"POST /v1/messages HTTP/1.1\r\n" + _HOST + b"x-a: ")
            while not reader.at_eof() and not writer.is_closing():
                writer.write(b"a" if number % 2 else b"a" * 4000)
                await writer.drain()
                await asyncio.sleep(0.5 if number % 2 else 0.02)

    await by_many(target, 600, once)


async def silent_bodies(target: Target) -> None:
    """Bodies that are announced and never come, with a key and without."""

    async def once(number: int) -> None:
        key = b"x-api-key: " + target.key.encode() + b"\r\n" if number % 2 else b""
        async with target.connected() as (reader, writer):
            writer.write(b"POST /v1/messages HTTP/1.1\r\n" + _HOST + key + b"content-length: 30000000\r\n\r\n{")
            await reader.read(4096)

    await by_many(target, 600, once)


async def many_requests(target: Target) -> None:
    """Requests without a pause, and without a key."""
    request = b"POST /v1/messages HTTP/1.1\r\n" + _HOST + b"x-api-key: wrong\r\ncontent-length: 2\r\n\r\n{}"

    async def once(_: int) -> None:
        async with target.connected() as (reader, writer):
            while True:
                writer.write(request * 20)
                await writer.drain()
                if not await reader.read(1 << 16):
                    return
                target.tally["requests"] += 20

    await by_many(target, 8, once)


def _connections(count: int) -> Attack:
    async def flood(target: Target) -> None:
        async def once(number: int) -> None:
            host, port = at(target.grpc if number % 2 else target.http)
            reader, writer = await asyncio.open_connection(host, port)
            target.tally["connections"] += 1
            try:
                await reader.read()
            finally:
                writer.transport.abort()
            await asyncio.sleep(0.2)

        await by_many(target, count, once)

    return flood


ATTACKS: Mapping[str, Attack] = {
    "packed": packed,
    "unfinished-heads": unfinished_heads,
    "silent-bodies": silent_bodies,
    "keyless": many_requests,
    "connections-below": _connections(2 * 1500),
    "connections-above": _connections(2 * 4000),
}
