"""
Neighbours of what is in http_floods.py, callers.py and odd_upstream.py: other ways to be slow, to be large, or to say nothing.

Each of them is a kind that somebody thought of when the first of the kind was mended.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping

from tests.hostile.callers import bodies, head, said
from tests.hostile.others import body
from tests.hostile.target import Attack, Target, by_many

_SIZE = 31_000_000
_LONG_LINE = b"y" * 60_000


# Framing, with a key: bodies of chunks.


def _chunked(target: Target, path: str = "/v1/messages") -> bytes:
    return head(target, f"POST {path}", "transfer-encoding: chunked")


def _endless(count: int, *pieces: bytes, end: bytes = b"") -> Attack:
    """Bodies in chunks, each begun with the first piece and gone on with by the second, as fast as it is taken."""

    async def flood(target: Target) -> None:
        async def once(_: int) -> None:
            async with target.connected() as (reader, writer):
                writer.write(_chunked(target) + pieces[0])
                for _ in range(2000):
                    writer.write(pieces[1])
                    await writer.drain()
                    target.tally["MB"] += len(pieces[1]) // 1_000_000
                    if reader.at_eof():
                        return
                writer.write(end)
                await reader.read(4096)

        await by_many(target, count, once)

    return flood


# Requests that nobody waits for the answers of.


def _pipelined(lines: Callable[[Target], bytes], count: int = 50) -> Attack:
    """The same again and again over one connection, whose answers nobody reads."""

    async def flood(target: Target) -> None:
        request = lines(target) * 100

        async def once(_: int) -> None:
            async with target.connected(is_deaf=True) as (_, writer):
                while True:
                    writer.write(request)
                    await writer.drain()
                    target.tally["requests"] += 100

        await by_many(target, count, once)

    return flood


def _get(path: str) -> Callable[[Target], bytes]:
    return lambda target: head(target, f"GET {path}")


def _hit(target: Target) -> bytes:
    asked = body("pipelined")
    return head(target, "POST /v1/messages", f"content-length: {len(asked)}") + asked


def _once(count: int, lines: Callable[[Target, int], bytes], *, leaves: bool = False) -> Attack:
    """One request each; what comes is read where it is somebody's, or its end is waited for."""

    async def flood(target: Target) -> None:
        numbers = itertools.count()

        async def once(_: int) -> None:
            async with target.connected() as (reader, writer):
                writer.write(lines(target, next(numbers)))
                if leaves:
                    writer.write_eof()
                async with asyncio.timeout(5):
                    came = await reader.read(4096)
                target.tally["answers " + came[9:12].decode(errors="replace")] += 1
                if not leaves:
                    await asyncio.sleep(1)

        await by_many(target, count, once)

    return flood


def _upgrade(target: Target, number: int) -> bytes:
    path = ("/v1/messages", "/admin", "/metrics", "/healthz")[number % 4]
    if number % 2:
        return head(
            target, f"GET {path}", "connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQAAP__"
        )
    more = (
        "connection: Upgrade",
        "upgrade: websocket",
        "sec-websocket-version: 13",
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    return head(target, f"GET {path}", *more) + b"\x82\x7e\xff\xff" + bytes(60_000)


def _expects(target: Target, number: int) -> bytes:
    return head(target, "POST /v1/messages", "expect: 100-continue", f"content-length: {(2, 30_000_000)[number % 2]}")


def _smuggled(target: Target, number: int) -> bytes:
    lengths = (("content-length: 0", "transfer-encoding: chunked"), ("transfer-encoding: chunked", "content-length: 0"))[
        number % 2
    ]
    return head(target, "POST /v1/messages", *lengths) + b'5\r\n{"a":\r\n' * 100


def _heads(target: Target, number: int) -> bytes:
    return head(target, "POST /v1/messages", *(f"x-{line}: y" for line in range(20_000)))


def _half_closed(target: Target, number: int) -> bytes:
    asked = body(f"half closed {number} answer in 100 tokens", 200, ',"stream":true' if number % 2 else "")
    return head(target, "POST /v1/messages", f"content-length: {len(asked)}") + asked


async def blank_lines(target: Target) -> None:
    """Connections that send a blank line a second, and never a request."""

    async def once(number: int) -> None:
        async with target.connected() as (reader, writer):
            if number % 2:
                writer.write(head(target, "GET /v1/nothing"))
            while not reader.at_eof() and not writer.is_closing():
                writer.write(b"\r\n")
                await writer.drain()
                await asyncio.sleep(1.0)

    await by_many(target, 600, once)


def _unread(count: int, lines: Callable[[Target, int], bytes]) -> Attack:
    """Answers of some size that nobody reads."""

    async def flood(target: Target) -> None:
        async def once(number: int) -> None:
            async with target.connected(is_deaf=True) as (_, writer):
                writer.write(lines(target, number))
                await asyncio.sleep(3600)

        await by_many(target, count, once)

    return flood


def _whole(target: Target, number: int) -> bytes:
    asked = body(f"whole {number % 40} answer in 8000 tokens", 8000)
    return head(target, "POST /v1/messages", f"content-length: {len(asked)}") + asked


def _page(target: Target, number: int) -> bytes:
    return head(target, "GET " + ("/metrics", "/v1/models", "/admin/events", "/admin")[number % 4])


def _trickle(target: Target, number: int) -> bytes:
    asked = body(f"trickle {number} answer in 8000 tokens", 8000, ',"stream":true')
    return head(target, "POST /v1/messages", f"content-length: {len(asked)}") + asked


async def trickled(target: Target) -> None:
    """Streams that are read at some kilobytes a second."""

    async def once(number: int) -> None:
        async with target.connected(is_deaf=True) as (reader, writer):
            writer.write(_trickle(target, number))
            while await reader.read(2048):  # noqa: ASYNC110  # it is as slow as that
                await asyncio.sleep(0.5)

    await by_many(target, 400, once)


async def read(target: Target) -> None:
    """Streams that are read as they come."""

    async def once(number: int) -> None:
        async with target.connected() as (reader, writer):
            writer.write(_trickle(target, number))
            while came := await reader.read(1 << 16):
                target.tally["bytes"] += len(came)

    await by_many(target, 400, once)


# Bodies.


def _of(count: int, make: Callable[[], bytes]) -> Attack:
    async def flood(target: Target) -> None:
        await bodies(target, count, make())

    return flood


def _member(*values: bytes) -> bytes:
    return said()[:-1] + b"".join(values) + b"}"


def _escapes() -> bytes:
    text = b"\\u0041" * (_SIZE // 6)
    return said(messages=[{"role": "user", "content": "@"}]).replace(b"@", text)


def _images() -> bytes:
    image = (
        b'{"type":"image","source":{"type":"base64","media_type":"image/png","data":"' + b"iVBORw0K" * (_SIZE // 160) + b'"}}'
    )
    return said(messages=[{"role": "user", "content": "@"}]).replace(b'"@"', b"[" + b",".join([image] * 20) + b"]")


BODIES: Mapping[str, Callable[[], bytes]] = {
    "escapes": _escapes,
    "empty-objects": lambda: _member(b',"x":[', b"{}," * 10_000_000, b"{}]"),
    "one-key-again": lambda: _member(b',"x":{', b'"k":1,' * 4_000_000, b'"k":1}'),
    "long-numbers": lambda: _member(b',"x":[', (b"9" * 100_000 + b",") * (_SIZE // 100_001), b"1]"),
    "long-exponents": lambda: _member(b',"x":[', (b"1e" + b"9" * 100_000 + b",") * (_SIZE // 100_003), b"1]"),
    "long-key": lambda: _member(b',"', b"k" * 30_000_000, b'":1'),
    "nulls": lambda: _member(b',"x":[', b"[null],null," * (_SIZE // 12), b"null]"),
    "images": _images,
}

ATTACKS: Mapping[str, Attack] = {
    "tiny-chunks": _endless(20, b"", b"1\r\nx\r\n" * 10_000),
    "chunk-extensions": _endless(20, b"", b"1;" + _LONG_LINE + b"\r\nx\r\n"),
    "endless-extension": _endless(20, b"1;", _LONG_LINE),
    "endless-trailers": _endless(20, b"2\r\n{}\r\n0\r\n", b"x-a: y\r\n" * 5_000),
    "pipelined-hits": _pipelined(_hit),
    "pipelined-health": _pipelined(_get("/healthz")),
    "pipelined-metrics": _pipelined(_get("/metrics")),
    "pipelined-models": _pipelined(_get("/v1/models")),
    "upgrades": _once(200, _upgrade),
    "expects": _once(600, _expects),
    "smuggled": _once(200, _smuggled),
    "thousands-of-headers": _once(50, _heads),
    "half-closed": _once(200, _half_closed, leaves=True),
    "blank-lines": blank_lines,
    "unread-whole": _unread(400, _whole),
    "unread-pages": _unread(400, _page),
    "trickled": trickled,
    "read": read,
    **{name: _of(6, make) for name, make in BODIES.items()},
}
