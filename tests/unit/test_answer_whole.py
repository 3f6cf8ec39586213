"""What is read at once the parser would read the same way, and what is in any doubt is left to the parser."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from aiohttp.http_parser import HttpResponseParser
from hypothesis import given
from hypothesis import strategies as st

from headrace.upstream.answer_whole import read_at_once

OK = b"HTTP/1.1 200 OK"
BODY = b'{"type":"message"}'
SIZE = b"content-length: %d" % len(BODY)
CHUNKED = b"transfer-encoding: chunked"
CHUNKS = b"7\r\n" + BODY[:7] + b"\r\n%x\r\n" % len(BODY[7:]) + BODY[7:] + b"\r\n0\r\n\r\n"


def said(*lines: bytes, status: bytes = OK, body: bytes = BODY, end: bytes = b"\r\n") -> bytes:
    return end.join([status, *lines, b"", b""]) + body


def at_once(received: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes] | None:
    found = read_at_once(received)
    if found is None:
        return None
    head, body = found
    return head.code, list(head.raw_headers), body._left


def parsed(received: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """As aiohttp's parser reads it; raises what it raises, and `EOFError` for what is not whole, or more than that."""

    async def read() -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        protocol: Any = aiohttp.client_proto.ResponseHandler(asyncio.get_running_loop())
        protocol._parser = parser = HttpResponseParser(
            protocol, asyncio.get_running_loop(), 65_536, read_until_eof=True, auto_decompress=False
        )
        messages, _, tail = parser.feed_data(received)
        if len(messages) != 1 or tail or not messages[0][1].is_eof() or messages[0][0].should_close:
            raise EOFError
        head, payload = messages[0]
        return head.code, list(head.raw_headers), await payload.read()

    return asyncio.run(read())


READ = {
    "by its length": said(SIZE, b"request-id: req_1"),
    "in chunks": said(CHUNKED, body=CHUNKS),
    "kept alive": said(b"Connection: Keep-Alive", b"Keep-Alive: timeout=5", SIZE),
    "no reason": said(SIZE, status=b"HTTP/1.1 200 "),
    "values": said(b"x:", b"y:\t z \t", b"a: caf\xe9: b", b"x: again", SIZE),
    "empty": said(b"content-length: 0", body=b""),
    "nothing in chunks": said(CHUNKED, body=b"0\r\n\r\n"),
    "a chunk's end in a chunk": said(CHUNKED, body=b"8\r\n\r\n0\r\n\r\n!\r\n0\r\n\r\n"),
}
LEFT = {
    "another status": said(SIZE, status=b"HTTP/1.1 201 Created"),
    "a redirect": said(SIZE, status=b"HTTP/1.1 304 Not Modified"),
    "another version": said(SIZE, status=b"HTTP/1.0 200 OK"),
    "not all of it": said(SIZE, body=BODY[:-1]),
    "more than it": said(SIZE, body=BODY + b"x"),
    "two lengths": said(SIZE, SIZE),
    "length and chunks": said(SIZE, CHUNKED, body=CHUNKS),
    "a signed length": said(b"content-length: +%d" % len(BODY)),
    "a list of lengths": said(b"content-length: %d, %d" % (len(BODY), len(BODY))),
    "no length": said(),
    "closes": said(SIZE, b"connection: close"),
    "upgrades": said(SIZE, b"upgrade: websocket"),
    "another coding": said(b"transfer-encoding: gzip, chunked", body=CHUNKS),
    "a trailer": said(CHUNKED, body=CHUNKS[:-2] + b"x: y\r\n\r\n"),
    "a chunk's extension": said(CHUNKED, body=CHUNKS.replace(b"7\r\n", b"7;x=y\r\n", 1)),
    "a chunk too long": said(CHUNKED, body=b"6\r\n" + BODY[:7] + b"\r\n0\r\n\r\n"),
    "a chunk too short": said(CHUNKED, body=b"8\r\n" + BODY[:7] + b"\r\n0\r\n\r\n"),
    "chunks without end": said(CHUNKED, body=CHUNKS[:-5]),
    "no size": said(CHUNKED, body=b"zz\r\n0\r\n\r\n"),
    "two ends": said(CHUNKED, body=b"0\r\n\r\n0\r\n\r\n"),
    "bare line ends": said(SIZE, end=b"\n"),
    "a line folded": said(SIZE, b"x: y", b" z"),
    "a blank before the colon": said(SIZE, b"x : y"),
    "no name": said(SIZE, b": y"),
    "no colon": said(SIZE, b"x"),
    "a bare return": said(SIZE, b"x: y\rz"),
    "a NUL": said(SIZE, b"x: \0"),
    "a long head": said(SIZE, b"x: " + b"y" * 9_000),
    "no head": b"SSH-2.0-OpenSSH\r\n",
}


@pytest.mark.parametrize("received", READ.values(), ids=READ.keys())
def test_read(received: bytes) -> None:
    """What is whole and plain is read at once, as the parser reads it."""
    assert at_once(received) == parsed(received)


@pytest.mark.parametrize("received", LEFT.values(), ids=LEFT.keys())
def test_left(received: bytes) -> None:
    """What is in any doubt is left to the parser."""
    assert at_once(received) is None


LINES = st.sampled_from([
    SIZE, CHUNKED, b"Content-Length: 0", b"content-length: 18 ", b"connection: keep-alive", b"connection: close", b"x: y",
    b"x-y:\tz", b"x : y", b" x: y", b"", b"x", b"x: y\rz", b"x: \x7f", b"transfer-encoding: chunked ", b"te: x",
    b"Transfer-Encoding: CHUNKED",
    b"transfer-encoding: identity", b"content-length: 0x12", b"content-length: 18\t", b"proxy-connection: close",
])  # fmt: skip
BODIES = st.sampled_from([BODY, CHUNKS, b"", b"0\r\n\r\n", BODY + b"\r\n", b"12\r\n" + BODY + b"\r\n0\r\n\r\n"])


@given(st.lists(LINES, max_size=5), BODIES, st.sampled_from([OK, b"HTTP/1.1 200 ", b"HTTP/1.1 204 OK", b"HTTP/1.0 200 OK"]))
def test_never_otherwise_than_the_parser(lines: list[bytes], body: bytes, status: bytes) -> None:
    """Whatever is said: it is left to the parser, or read as the parser reads it."""
    received = said(*lines, status=status, body=body)
    found = at_once(received)
    assert found is None or found == parsed(received)
