"""
An answer that came whole and plain, read at once: most that are no streams do so, and the parser takes half the time of such a
call. Pure.

What is read here is beyond doubt: status 200 of HTTP/1.1, printable header lines, one length that is right to the byte or
chunks up to their end, and nothing else that frames it. Of whatever is otherwise nothing is said here, and the parser judges.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

_BEGINS = b"HTTP/1.1 200 "
_MOST_HEAD_BYTES = 8_190
_TEXT = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])  # of a line of a head
_is_name = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_LENGTH, _CODING, _CONNECTION = b"content-length", b"transfer-encoding", b"connection"
# What decides how an answer is framed, or what becomes of its connection.
_FRAMING = frozenset({
    _LENGTH, _CODING, _CONNECTION, b"proxy-connection", b"trailer", b"upgrade", b"sec-websocket-key1",
})  # fmt: skip
_LAST_CHUNK = b"0\r\n\r\n"
_is_size = re.compile(rb"[0-9A-Fa-f]{1,8}").fullmatch


class Head(NamedTuple):
    """The head of an answer: its status, and its headers as they came."""

    code: int
    raw_headers: tuple[tuple[bytes, bytes], ...]


class Body:
    """A body that is there; it is read as one that comes."""

    __slots__ = ("_left",)

    def __init__(self, whole: bytes) -> None:
        self._left = whole

    def __repr__(self) -> str:
        return f"<Body [{len(self._left)} bytes left]>"

    def at_eof(self) -> bool:
        """Whether all of it has been read."""
        return not self._left

    async def readany(self) -> bytes:
        """Return what there is to be read."""
        left, self._left = self._left, b""
        return left


def read_at_once(received: bytes) -> tuple[Head, Body] | None:
    """Return the answer that was received, if it is whole and plain; else None."""
    head_ends = received.find(b"\r\n\r\n", 0, _MOST_HEAD_BYTES) + 4
    if not received.startswith(_BEGINS) or head_ends < len(_BEGINS):
        return None
    head = received[:head_ends]
    lines = head.split(b"\r\n")
    if head.translate(None, _TEXT) != b"\r\n" * (len(lines) - 1):  # a line end by itself, or another sign that is no text
        return None
    headers: list[tuple[bytes, bytes]] = []
    framing: dict[bytes, bytes] = {}
    for line in lines[1:-2]:
        name, colon, value = line.partition(b":")
        meaning, value = _meaning(name), value.strip(b" \t")
        if not colon or meaning is None or meaning in framing:
            return None
        if meaning:
            framing[meaning] = value
        headers.append((name, value))
    body = _framed(received[head_ends:], framing)
    return None if body is None else (Head(200, tuple(headers)), Body(body))


@functools.lru_cache(256)
def _meaning(name: bytes) -> bytes | None:
    """Return how a header is called that frames an answer, b"" for another, None for what is no name; the same come always."""
    if not _is_name(name):
        return None
    return lower if (lower := name.lower()) in _FRAMING else b""


def _framed(rest: bytes, framing: dict[bytes, bytes]) -> bytes | None:
    """Return the body, if what came after the head is all of it and nothing else."""
    if framing.pop(_CONNECTION, b"keep-alive").lower() != b"keep-alive" or len(framing) != 1:
        return None
    if (length := framing.get(_LENGTH)) is not None:
        return rest if length.isdigit() and int(length) == len(rest) else None
    return _unchunked(rest) if framing.get(_CODING) == b"chunked" else None


def _unchunked(rest: bytes) -> bytes | None:
    if not rest.endswith(_LAST_CHUNK):
        return None
    chunks, at = [], 0
    while at < len(rest) - len(_LAST_CHUNK):
        line_ends = rest.find(b"\r\n", at)
        said = rest[at:line_ends]
        begins = line_ends + 2
        if not _is_size(said) or not (size := int(said, 16)) or rest[begins + size : begins + size + 2] != b"\r\n":
            return None
        chunks.append(rest[begins : begins + size])
        at = begins + size + 2
    return b"".join(chunks) if at == len(rest) - len(_LAST_CHUNK) else None
