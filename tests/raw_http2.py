"""A client of HTTP/2 that says frames as a test wants them, acknowledges what it has to, and keeps to windows if it likes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
INITIAL_WINDOW_SIZE = 4  # a setting
_WINDOW = 65_535


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def literal(name: bytes, value: bytes) -> bytes:
    """One header, as it is: RFC 7541, 6.2.2."""
    return b"\0" + _text(name) + _text(value)


def _text(raw: bytes) -> bytes:
    if len(raw) < 127:
        return bytes((len(raw),)) + raw
    size, left = bytearray((127,)), len(raw) - 127
    while left > 127:
        size.append(left & 127 | 128)
        left >>= 7
    return bytes((*size, left)) + raw


def head(path: str, *more: tuple[str, str]) -> bytes:
    """The headers of a call to a method, such as "/headrace.v1.ApiService/Call"."""
    said = ((":path", path), (":authority", "x"), ("content-type", "application/grpc"), ("te", "trailers"), *more)
    return b"\x83\x86" + b"".join(literal(name.encode(), value.encode()) for name, value in said)


def message(raw: bytes, *, is_compressed: bool = False) -> bytes:
    """A message as gRPC has it on its stream."""
    return struct.pack(">BI", is_compressed, len(raw)) + raw


class Raw:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._windows: defaultdict[int, int] = defaultdict(lambda: self._initial)
        self._initial = _WINDOW
        self._windows[0] = _WINDOW
        self._moved = asyncio.Event()
        self.heard: list[tuple[int, int, int, bytes]] = []  # kind, flags, stream, payload
        self.sent = 0  # bytes of uploads
        self.closed = asyncio.Event()

    def say(self, *frames: bytes) -> None:
        self._writer.write(b"".join(frames))

    async def send(self, frames: bytes) -> None:
        """Say something as fast as it is taken; nothing, once the connection is closed."""
        with contextlib.suppress(OSError):
            self._writer.write(frames)
            await self._writer.drain()
        await asyncio.sleep(0)

    async def send_all(self, frames: Iterable[bytes]) -> None:
        """Say one after the other, until the connection is closed."""
        for said in frames:
            if self.closed.is_set():
                return
            await self.send(said)

    async def flood(self, frames: bytes) -> None:
        """Say the same without end, until the connection is closed."""
        await self.send_all(itertools.repeat(frames))

    async def upload(self, stream: int, data: bytes) -> None:
        """Send data as the windows allow; for ever, if they do not."""
        at = 0
        with contextlib.suppress(OSError):
            while at < len(data) and not self.closed.is_set():
                size = min(len(data) - at, 16_384, self._windows[0], self._windows[stream])
                if size <= 0:
                    self._moved.clear()
                    await self._moved.wait()
                    continue
                self._windows[0] -= size
                self._windows[stream] -= size
                self._writer.write(frame(DATA, 0, stream, data[at : at + size]))
                await self._writer.drain()
                at += size
                self.sent += size

    @property
    def is_sent_away(self) -> bool:
        """Whether the other side has said that it hears nothing more."""
        return any(kind == GOAWAY for kind, *_ in self.heard)

    def of(self, stream: int) -> bytes:
        """Return all headers and data of a stream so far."""
        return b"".join(payload for kind, _, of, payload in self.heard if of == stream and kind in (HEADERS, DATA))

    async def listen(self) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                start = await self._reader.readexactly(9)
                size, kind, flags = int.from_bytes(start[:3], "big"), start[3], start[4]
                stream = int.from_bytes(start[5:], "big") & 0x7FFFFFFF
                self._take(kind, flags, stream, await self._reader.readexactly(size))
        self.closed.set()
        self._moved.set()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self.heard.append((kind, flags, stream, payload))
        if kind == WINDOW_UPDATE:
            self._windows[stream] += int.from_bytes(payload, "big")
        elif kind == PING and not flags & ACK:
            self.say(frame(PING, ACK, payload=payload))
        elif kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                name, value = struct.unpack_from(">HI", payload, at)
                if name == INITIAL_WINDOW_SIZE:
                    for known in [*self._windows.keys() - {0}]:
                        self._windows[known] += value - self._initial
                    self._initial = value
            self.say(frame(SETTINGS, ACK))
        self._moved.set()


@contextlib.asynccontextmanager
async def connect(port: int, *, window: int | None = None) -> AsyncIterator[Raw]:
    """Connect and say hello; with a *window* that is what the other side may send on a stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    raw = Raw(reader, writer)
    settings = b"" if window is None else struct.pack(">HI", INITIAL_WINDOW_SIZE, window)
    raw.say(PREFACE, frame(SETTINGS, payload=settings))
    listening = asyncio.create_task(raw.listen())
    try:
        yield raw
    finally:
        listening.cancel()
        writer.transport.abort()
