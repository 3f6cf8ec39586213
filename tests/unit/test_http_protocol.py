"""A connection that hears a request in pieces, in whatever moments they come."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from aiohttp import web

from conftest import until
from headrace.edge import http_protocol
from headrace.edge.connections import Connections
from headrace.edge.http_listener import Listener

PIECE = b"x" * 65_536
PIECES = 9


class Wire(asyncio.Transport):
    """Takes down what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.said = bytearray()

    def write(self, data: Any) -> None:
        self.said += data

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


class Refusals:
    def note(self, what: object) -> None:
        raise AssertionError(what)


def listener(handle: Any) -> Listener:
    connections = Connections(10, 10, now=time.monotonic)
    return Listener(handle, refusals=Refusals(), connections=connections)  # type: ignore[arg-type]


@pytest.mark.parametrize("turns", range(4))
async def test_body_before_its_handler(turns: int) -> None:
    """Whatever turn of the loop the body comes in, it is no head, though nobody may have begun to read it."""

    async def handle(request: web.BaseRequest) -> web.Response:
        return web.Response(text=f"{len(await request.read())} bytes")

    connection, wire = listener(handle)(), Wire()
    connection.connection_made(wire)
    connection.data_received(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (PIECES * len(PIECE)))
    for _ in range(turns):
        await asyncio.sleep(0)
    for _ in range(PIECES):
        connection.data_received(PIECE)
    await until(lambda: b" bytes" in wire.said)
    assert wire.said.startswith(b"HTTP/1.1 200")
    assert wire.said.endswith(b"%d bytes" % (PIECES * len(PIECE)))
    connection.connection_lost(None)


async def test_tiny_chunks_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads a body in tiny chunks calls the parser for none of them: it has nothing more to say."""
    parsed: list[int] = []

    def give(connection: Any, data: bytes, _give: Any = http_protocol._give_parser) -> None:
        parsed.append(len(data))
        _give(connection, data)

    async def handle(request: web.BaseRequest) -> web.Response:
        return web.Response(text=f"{len(await request.read())} bytes")

    monkeypatch.setattr(http_protocol, "_give_parser", give)
    connection, wire = listener(handle)(), Wire()
    connection.connection_made(wire)
    connection.data_received(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    await asyncio.sleep(0.01)
    connection.data_received(b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n")
    await until(lambda: b" bytes" in wire.said)
    assert wire.said.endswith(b"20000 bytes")
    assert len(parsed) < 200  # it was 20,000
    connection.connection_lost(None)
