"""
The heads of HTTP messages as bytes: a header's value travels as it came, in both directions.

Inside the daemon a value is text: its bytes read as UTF-8, and what is no UTF-8 kept as surrogate escapes, as aiohttp's server
reads it. `value_text` and `value_bytes` are the two ways across. aiohttp's own writer drops such escapes and refuses control
characters; `HeadWriter` writes the very bytes, and refuses only what would end a line or the text: CR, LF and NUL.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from aiohttp import http_writer, web_protocol
from multidict import CIMultiDict

from headrace.trail import ID_HEADER

SERVER = "headrace"
"""What answers say in `server`; aiohttp would tell strangers its version and Python's, by which to look up holes."""

_LONGEST_ID = 200
_BREAKING = frozenset("\r\n\0")


def value_text(raw: bytes) -> str:
    """Return a header's value as text; no byte is lost."""
    return raw.decode("utf-8", "surrogateescape")


def value_bytes(text: str) -> bytes:
    """Return the bytes of a header's value. Half a character that came from no byte becomes a question mark."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def readable(text: str) -> str:
    """Return a value for where texts must be Unicode: bytes that are no UTF-8 are read as Latin-1, HTTP's old alphabet."""
    if text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text):
        return text
    return value_bytes(text).decode("latin-1")


def identifier(text: str) -> str:
    """Return what an id says in a header, as logs and texts may have it: bounded, and without blanks and control characters."""
    if text.replace("_", "").isalnum() and text.isascii():
        return text[:_LONGEST_ID]
    return "".join([each for each in readable(text[:_LONGEST_ID]) if each.isprintable() and each != " "])


def is_sendable(value: str) -> bool:
    """Whether a header can have this value: all but CR, LF and NUL, with which a caller could write headers of its own."""
    return value.isprintable() or _BREAKING.isdisjoint(value)


class HeadWriter(http_writer.StreamWriter):
    """Writes heads as they are. `more` is what this connection's messages say besides, such as which pages may read them."""

    more: Mapping[str, str] = {}
    call_id = ""  # of the call that is answered

    async def write_headers(self, status_line: str, headers: CIMultiDict[str]) -> None:
        """Write a head; raises ValueError if a name or value would end its line."""
        for name, value in self.more.items():
            headers.add(name, value)
        headers["Server"] = SERVER
        if self.call_id and ID_HEADER not in headers:
            headers.add(ID_HEADER, self.call_id)
        if "".join(headers.values()).isascii():  # as nearly all are: aiohttp's writer, which is in C
            with contextlib.suppress(ValueError):
                await super().write_headers(status_line, headers)
                return
        if not all(is_sendable(name) and is_sendable(value) for name, value in headers.items()):
            raise ValueError("a header would end its line")
        lines = [status_line.encode(), *(name.encode() + b": " + value_bytes(value) for name, value in headers.items())]
        self._headers_written = False
        self._headers_buf = b"\r\n".join([*lines, b"", b""])


def write_as_they_are() -> None:
    """
    Let aiohttp's servers write their heads with `HeadWriter`: in this whole process, from the next message on.

    aiohttp has no seam for its writer, and looks the class up by this name for every message. So whoever opens an HTTP server
    says this first. Once or many times is the same.
    """
    web_protocol.StreamWriter = HeadWriter  # type: ignore[attr-defined]  # no seam for it
