"""What comes to the HTTP port without a key, or without an end, costs next to nothing and does not stay."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conftest import until
from doors import http_door, open_door
from flow_parts import daemon
from headrace import observe, unpacking
from headrace.edge.http_server import HttpServer
from headrace.edge.http_times import Times
from scripted import say_message, serving

HOST = b"host: localhost\r\n"
SOON = Times(head_s=1.5, body_s=1.5, write_s=1.5, idle_s=3600)
BOMB = gzip.compress(bytes(1 << 20))
PACKED = b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(BOMB) + BOMB
KEYLESS = {
    "healthz": (200, b"GET /healthz HTTP/1.1\r\n"),
    "metrics": (200, b"GET /metrics HTTP/1.1\r\n"),
    "no such path": (404, b"GET /nothing HTTP/1.1\r\n"),
    "no such method": (405, b"POST /healthz HTTP/1.1\r\n"),
    "preflight": (403, b"OPTIONS /v1/messages HTTP/1.1\r\n"),
    "no key": (401, b"POST /v1/messages HTTP/1.1\r\n"),
    "no key, carried": (401, b"POST /v1/files HTTP/1.1\r\n"),
    "no key, too large": (401, b"POST /v1/messages HTTP/1.1\r\nx-padding: y\r\n"),
}


@contextlib.asynccontextmanager
async def timed(valkey_url: str, path: Path, talk=say_message, **bounds: int) -> AsyncIterator[HttpServer]:
    async with (
        serving(talk) as server,
        daemon(valkey_url, server.url, path) as one,
        http_door(one, times=SOON, **bounds) as door,
    ):
        yield door


@contextlib.asynccontextmanager
async def connected(door: HttpServer, sent: bytes = b"") -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    with contextlib.closing(writer):
        writer.write(sent)
        yield reader, writer


async def said(reader: asyncio.StreamReader) -> bytes:
    """Return all that comes until the other side closes, or resets."""
    came = b""
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(65_536):
                came += chunk
    return came


@pytest.fixture
def unpackers(monkeypatch: pytest.MonkeyPatch) -> list[unpacking.Unpacker]:
    """All that is made to unpack anything."""
    made: list[unpacking.Unpacker] = []
    make = unpacking.unpacker
    monkeypatch.setattr(unpacking, "unpacker", lambda encoding: made.append(make(encoding)) or made[-1])
    return made


@pytest.mark.parametrize(("status", "line"), KEYLESS.values(), ids=KEYLESS.keys())
async def test_nothing_is_unpacked(valkey_url: str, tmp_path: Path, unpackers, status: int, line: bytes) -> None:
    """A packed body is not unpacked for anybody who is not known, whatever the answer."""
    async with open_door(valkey_url, tmp_path, AUTH__REQUIRED="true") as (door, server, _):
        async with connected(door, line + HOST + b"connection: close\r\n" + PACKED) as (reader, _):
            assert (await said(reader)).split()[1] == b"%d" % status
        assert (unpackers, server.calls) == ([], 0)


async def test_bounded(valkey_url: str, tmp_path: Path, unpackers) -> None:
    """For a caller that is known no more of it is unpacked than upstream takes."""
    bomb = gzip.compress(bytes(200_000_000), 1)
    async with open_door(valkey_url, tmp_path) as (door, server, one):
        head = b"POST /v1/messages HTTP/1.1\r\n" + HOST + b"content-encoding: gzip\r\nconnection: close\r\n"
        async with connected(door, head + b"content-length: %d\r\n\r\n" % len(bomb) + bomb) as (reader, _):
            assert (await said(reader)).split()[1] == b"413"
        assert (len(unpackers), server.calls, one.parts.crowd.stats().bytes) == (1, 0, 0)


async def test_refused_body(valkey_url: str, tmp_path: Path) -> None:
    """A body that nobody wants is passed over for a moment, but not much of it."""

    def pour(port: int) -> tuple[int, bytes]:
        taken = 0
        with socket.create_connection(("127.0.0.1", port), timeout=10) as wire:
            wire.sendall(b"GET /healthz HTTP/1.1\r\n" + HOST + b"content-length: 100000000\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                while taken < 50_000_000:
                    taken += wire.send(bytes(1 << 16))
            return taken, wire.recv(4096)

    async with timed(valkey_url, tmp_path) as door:
        taken, came = await asyncio.to_thread(pour, door.port)
    assert taken < 20_000_000  # what lay in the buffers between us among it
    assert came.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("sent", [b"", b"GET /healthz", b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-a: b"])
async def test_head(valkey_url: str, tmp_path: Path, sent: bytes) -> None:
    """A head that does not end is closed in time, however it goes on; who began one is told."""
    async with timed(valkey_url, tmp_path) as door, connected(door, sent) as (reader, writer):

        async def drip() -> None:
            while sent:
                await asyncio.sleep(0.2)
                writer.write(b"/")

        dripping = asyncio.create_task(drip())
        came = await said(reader)
        dripping.cancel()
        assert came.startswith(b"HTTP/1.1 408") if sent else came == b""
        await until(lambda: door.stats().connections.open == 0)
        assert door.stats().connections.intake_bytes == 0


@pytest.mark.parametrize("target", [b"/v1/messages", b"/v1/files"])
async def test_body(valkey_url: str, tmp_path: Path, target: bytes) -> None:
    """A body of a byte now and then ends its call; one that goes on slowly does not."""
    head = b"POST " + target + b" HTTP/1.1\r\n" + HOST + b"content-length: 9000000\r\n\r\n"
    async with timed(valkey_url, tmp_path) as door, connected(door, head) as (reader, writer):
        for _ in range(12):
            writer.write(bytes(10_000))
            await asyncio.sleep(0.25)
        asking = asyncio.create_task(said(reader))
        while not asking.done():
            writer.write(b"x")
            await asyncio.sleep(0.2)
        assert (await asking).startswith(b"HTTP/1.1 400")
        assert b"fell silent" in await asking


async def test_answer(valkey_url: str, tmp_path: Path) -> None:
    """An answer that nobody takes is given up."""

    async def talk(line) -> None:
        await line.say(b"HTTP/1.1 200 OK\r\ncontent-type: x/y\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            await line.chunk(bytes(1 << 20))

    async with timed(valkey_url, tmp_path, talk) as door:
        deaf = socket.create_connection(("127.0.0.1", door.port))
        with contextlib.closing(deaf):
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.sendall(b"GET /v1/files/x/content HTTP/1.1\r\n" + HOST + b"\r\n")
            await until(lambda: door.stats().refused.counts.get("unread") == 1, within=20)
            await until(lambda: door.stats().connections.open == 0)


async def test_padding(valkey_url: str, tmp_path: Path) -> None:
    """What stands around the chunks of a body has a bound."""
    head = b"POST /v1/messages HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\n1;"
    async with timed(valkey_url, tmp_path) as door, connected(door, head + b"x" * 600_000) as (reader, _):
        assert (await said(reader)).startswith(b"HTTP/1.1 400")
        assert door.stats().refused.counts == {"padded": 1}


async def test_full(valkey_url: str, tmp_path: Path) -> None:
    """Idle connections give way to one that asks; where all are busy, the newcomer hears that it is full."""
    refused = observe.REFUSED.value("http", "connections")
    async with timed(valkey_url, tmp_path, most=8) as door, contextlib.AsyncExitStack() as stack:
        for _ in range(8):
            await stack.enter_async_context(connected(door))
        async with connected(door, b"GET /healthz HTTP/1.1\r\n" + HOST + b"connection: close\r\n\r\n") as (reader, _):
            assert (await said(reader)).startswith(b"HTTP/1.1 200")
        await until(lambda: door.stats().connections.open < 8)
        begun = b"POST /v1/messages HTTP/1.1\r\n" + HOST + b"content-length: 9\r\n\r\n"
        for _ in range(8):
            await stack.enter_async_context(connected(door, begun))
            await asyncio.sleep(0.03)  # between two searches for idle ones
        await until(lambda: door._listener.requests_count >= 9)
        async with connected(door) as (reader, _):
            came = await said(reader)
        assert came.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in came
        assert observe.REFUSED.value("http", "connections") == refused + 1


async def test_pages_once_a_second(valkey_url: str, tmp_path: Path) -> None:
    """However often /metrics is asked for, it is made once a second."""
    made = []
    async with serving(say_message) as server, daemon(valkey_url, server.url, tmp_path) as one, http_door(one) as door:
        page = door._routes["/metrics"]["GET"].__self__._pages[-1][1]
        page._make = lambda: (made.append(1), (200, b"page"))[1]
        for _ in range(5):
            async with connected(door, b"GET /metrics HTTP/1.1\r\n" + HOST + b"connection: close\r\n\r\n") as (reader, _):
                assert (await said(reader)).endswith(b"page")
        assert len(made) <= 2
