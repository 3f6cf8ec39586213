"""
An upstream that means harm where a prompt begins with "odd", and answers like the API everywhere else:

    python -m tests.hostile.odd_upstream

It says where it listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
from collections.abc import Callable, Iterator

import brotli

from scripted import EVENTS, MESSAGE, Line

_GOOD = json.loads(MESSAGE)
_FOREVER = 2000  # pieces of 64 KB


def _but(**changes: object) -> bytes:
    return json.dumps(_GOOD | changes).encode()


def _answer(payload: bytes, *headers: bytes, status: int = 200) -> list[bytes]:
    head = [b"HTTP/1.1 %d So" % status, b"content-length: %d" % len(payload), b"content-type: application/json", *headers]
    return [b"\r\n".join(head) + b"\r\n\r\n" + payload]


def _chunks(pieces: Iterator[bytes], *headers: bytes) -> Iterator[bytes]:
    kind = headers or (b"content-type: text/event-stream",)
    yield b"\r\n".join((b"HTTP/1.1 200 OK", b"transfer-encoding: chunked", *kind)) + b"\r\n\r\n"
    for piece in pieces:
        yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def _error(status: int, *headers: bytes, **said: object) -> list[bytes]:
    return _answer(json.dumps({"type": "error", "error": said}).encode(), *headers, status=status)


_BR, _GZIP = brotli.compress(bytes(1 << 29), quality=5), gzip.compress(bytes(1 << 26))
_ENDLESS_TEXT = b'event: x\ndata: {"type":"' + b"x" * 65_000
ODD: tuple[Callable[[], Iterator[bytes] | list[bytes]], ...] = (
    lambda: _answer(_BR, b"content-encoding: br"),
    lambda: _answer(_GZIP, b"content-encoding: gzip"),
    lambda: _answer(MESSAGE, b"content-encoding: x-unheard-of"),
    lambda: _answer(MESSAGE, *(b"x-%d: %b" % (number, b"y" * 200) for number in range(2000))),
    lambda: _answer(MESSAGE, b"x-a: " + b"y" * 10_000_000),
    lambda: _answer(MESSAGE, b"request-id: \x01\x02\xff"),
    lambda: _answer(_but(content=[5])),
    lambda: _answer(_but(usage={"input_tokens": 10**400, "output_tokens": -1})),
    lambda: _answer(b"[" * 10_000_000),
    lambda: _answer(b"{}" + b" " * 10_000_000),
    lambda: _error(429, b"retry-after: 1e300", type="rate_limit_error", message="x"),
    lambda: _error(529, b"retry-after: \xff", type="x" * 20_000, message="y" * 1_000_000),
    lambda: _error(400, type=5, message=[1]),
    lambda: _chunks(itertools.repeat(b"x" * 65_536, _FOREVER)),
    lambda: _chunks(itertools.repeat(_ENDLESS_TEXT, _FOREVER)),
    lambda: _chunks(itertools.chain(EVENTS[:2], itertools.repeat(b'event: ping\ndata: {"type":"ping"}\n\n' * 1000, _FOREVER))),
    lambda: _chunks(itertools.repeat(b" " * 65_536, _FOREVER), b"content-type: application/json"),
    lambda: [b"HTTP/1.1 200 OK\r\nx-a: " + b"y" * 65_536, *[b"y" * 65_536] * _FOREVER],
)


async def main() -> None:
    turns = itertools.cycle(ODD)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(reader, writer, 0)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                await line.hear()
                if b'"odd ' not in line.body:
                    await line.answer(200, MESSAGE, "content-type: application/json")
                    continue
                for piece in next(turns)():
                    await line.say(piece)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=1 << 20)
    print(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
