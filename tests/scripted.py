"""A scripted upstream for tests: it says on real sockets exactly what a test wants, and hangs up or falls silent on demand."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest

from headrace import forms
from headrace.errors import AttemptFailed
from headrace.model import Call, Caller, Event, Lane
from headrace.upstream import Upstream

MESSAGE = (
    b'{"id":"msg_1","type":"message","role":"assistant","model":"c","content":[{"type":"text","text":"Hi"}],'
    b'"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":3,"output_tokens":7}}'
)
EVENTS = [event.raw for event in forms.events_of_message(forms.parse(MESSAGE))]
OVERLOADED = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'

CALL = Call(
    caller=Caller("tests"),
    body=b'{"model":"c"}',
    model="c",
    max_tokens=1,
    stream=False,
    version="2026-10-21",
    betas=("a-1", "b-2"),
    headers=(("anthropic-dangerous", "yes"), ("Host", "elsewhere"), ("x-api-key", "stolen")),
    lane=Lane.STANDARD,
    fingerprint="f",
    scope="tests",
    arrival=0.0,
    deadline=4e9,
)
STREAM = replace(CALL, stream=True)

Talk = Callable[["Line"], Awaitable[None]]


@dataclass
class Line:
    """One connection at the server's end."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int
    head: bytes = b""
    body: bytes = b""

    async def hear(self) -> None:
        self.head = await self.reader.readuntil(b"\r\n\r\n")
        named = self.headers
        if named.get("transfer-encoding") == "chunked":
            self.body = b"".join([chunk async for chunk in self._chunks()])
        else:
            self.body = await self.reader.readexactly(int(named.get("content-length", "0")))

    async def _chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self.reader.readline(), 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readline()

    @property
    def headers(self) -> dict[str, str]:
        """Each header's value; of one that came several times all of them, with commas."""
        named: dict[str, str] = {}
        for line in self.head.decode(errors="surrogateescape").split("\r\n")[1:-2]:
            name, _, value = line.partition(":")
            before = named.get(name.lower())
            named[name.lower()] = value.strip() if before is None else f"{before}, {value.strip()}"
        return named

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, status: int, body: bytes, *headers: str) -> None:
        head = "\r\n".join([f"HTTP/1.1 {status} So", f"content-length: {len(body)}", "request-id: req_1", *headers])
        await self.say(head.encode() + b"\r\n\r\n" + body)

    async def begin_stream(self) -> None:
        await self.say(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nrequest-id: req_1\r\ntransfer-encoding: chunked\r\n\r\n"
        )

    async def chunk(self, data: bytes) -> None:
        await self.say(b"%x\r\n%b\r\n" % (len(data), data))

    def reset(self) -> None:
        self.writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.writer.transport.abort()


@dataclass
class Server:
    """Says to every call what `talk` says."""

    talk: Talk
    url: str = ""
    lines: list[Line] = field(default_factory=list)
    calls: int = 0
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(reader, writer, len(self.lines))
        self.lines.append(line)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                await line.hear()
                self.calls += 1
                await self.talk(line)
        self.hung_up.set()
        writer.close()


@contextlib.asynccontextmanager
async def serving(talk: Talk) -> AsyncIterator[Server]:
    server = Server(talk)
    listener = await asyncio.start_server(server.connected, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        for line in server.lines:
            line.writer.transport.abort()
        await asyncio.wait_for(listener.wait_closed(), 5)


@contextlib.asynccontextmanager
async def asking(talk: Talk, **options: float) -> AsyncIterator[tuple[Upstream, Server]]:
    async with serving(talk) as server:
        upstream = Upstream(server.url, lambda: "own-key", **options)  # type: ignore[arg-type]
        yield upstream, server
        assert upstream.in_the_air == 0
        await upstream.aclose()


async def everything(upstream: Upstream, call: Call = STREAM) -> list[Event]:
    async with upstream.stream(call) as events:
        return [event async for event in events]


async def failed_stream(upstream: Upstream) -> tuple[list[bytes], AttemptFailed]:
    """Return the raw events that came, and the failure that came then."""
    came: list[bytes] = []

    async def follow() -> None:
        async with upstream.stream(STREAM) as events:
            async for event in events:
                came.append(event.raw)

    return came, await failure_of(follow())


async def failure_of(asked: Awaitable[object]) -> AttemptFailed:
    with pytest.raises(AttemptFailed) as caught:
        await asyncio.wait_for(asked, 10)
    return caught.value


async def say_message(line: Line) -> None:
    await line.answer(200, MESSAGE)


async def hang(line: Line) -> None:
    """Say nothing, until the caller hangs up."""
    await line.reader.read()


async def say_events(line: Line) -> None:
    await line.begin_stream()
    for raw in EVENTS:
        await line.chunk(raw)
    await asyncio.sleep(0.01)  # the end of the body comes a little after the last event, as on a real network
    await line.say(b"0\r\n\r\n")
