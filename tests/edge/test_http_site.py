"""Who never shakes hands does not hold a connection, and counts as one."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import web

from conftest import until
from headrace.certificates import Certificates
from headrace.clock import SystemClock
from headrace.edge.connections import Connections
from headrace.edge.http_listener import Listener
from headrace.edge.http_refusals import Refusals
from headrace.edge.http_site import Site
from pki import Authority

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs a test on either loop: each shakes hands in a way of its own."""
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner.run


@contextlib.asynccontextmanager
async def port(tmp_path: Path, counted: Connections, *, handshake_s: float) -> AsyncIterator[tuple[int, ssl.SSLContext]]:
    authority = Authority(tmp_path)
    server = authority.server()
    certificates = Certificates(str(server.certificate), str(server.key), "", SystemClock())
    refusals = Refusals(SystemClock())

    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="here")

    listener = Listener(answer, refusals=refusals, connections=counted)
    runner = web.ServerRunner(listener)
    await runner.setup()
    site = Site(
        runner, "127.0.0.1", 0, certificates.context, handshake_s=handshake_s, connections=counted, refusals=refusals
    )  # fmt: skip
    await site.start()
    try:
        yield runner.addresses[0][1], ssl.create_default_context(cafile=str(authority.certificate))
    finally:
        await runner.cleanup()
        listener.rest()


def test_no_handshake(run: Run, tmp_path: Path) -> None:
    """A connection over which nothing comes, or half of a hello, is cut off by the server, and counts until then."""
    run(_no_handshake(tmp_path))


async def _no_handshake(tmp_path: Path) -> None:
    counted = Connections(10, 10, now=asyncio.get_running_loop().time)
    async with port(tmp_path, counted, handshake_s=0.2) as (at, _):
        for said in (b"", b"\x16\x03\x01\x02\x00\x01\x00"):
            reader, writer = await asyncio.open_connection("127.0.0.1", at)
            writer.write(said)
            async with asyncio.timeout(5):
                assert await reader.read(100) == b""
            writer.close()
        await until(lambda: counted.stats().open == 0)


def test_handshakes_count(run: Run, tmp_path: Path) -> None:
    """Who only connects counts, and gives way to who shakes hands and asks; that one counts once, and leaves nothing behind."""
    run(_handshakes_count(tmp_path))


async def _handshakes_count(tmp_path: Path) -> None:
    counted = Connections(4, 4, now=asyncio.get_running_loop().time)
    async with port(tmp_path, counted, handshake_s=60.0) as (at, trusts):
        silent = [await asyncio.open_connection("127.0.0.1", at) for _ in range(4)]
        await until(lambda: counted.stats().open == 4)
        reader, writer = await asyncio.open_connection("127.0.0.1", at, ssl=trusts, server_hostname="localhost")
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"here")
        writer.close()
        # One of them: as they came in the same millisecond, any.
        async with asyncio.timeout(5):
            await until(lambda: sum(each.at_eof() for each, _ in silent) == 1)
        await until(lambda: counted.stats().open == 3)
        assert counted.stats().gave_way == 1
        for _, each in silent:
            each.close()
            with contextlib.suppress(OSError):
                await each.wait_closed()
        await until(lambda: counted.stats().open == 0)
