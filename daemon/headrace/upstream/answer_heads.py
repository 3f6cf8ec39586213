"""
Heads of answers that HTTP lets a reader accept, and the parser does not: the same length said twice (RFC 9110, 8.6).

The copy is taken out before the parser sees it. Two lengths that differ stay, and are refused: nobody can say which one holds.

The parser bounds each header, and nobody their sum; so a head that is not whole by so many bytes is refused here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from headrace.upstream.answer_whole import read_at_once

_END = re.compile(rb"\r?\n\r?\n")
_MAX_HEAD_BYTES = 1 << 17  # of which all that travels with an answer is kept
_LENGTH = re.compile(rb"\ncontent-length:([0-9, \t]+)\r?(?=\n)", re.IGNORECASE)


def tolerant(connector: aiohttp.TCPConnector) -> aiohttp.TCPConnector:
    """Let the connector's connections read such heads. aiohttp has no seam for its protocol but this attribute."""
    connector._factory = functools.partial(_Answers, loop=connector._loop)  # type: ignore[assignment]  # it makes another class
    return connector


def without_copies(head: bytes) -> bytes:
    """Return the head of an answer with its length said once, if all that it says of it is the same."""
    said = [part.strip() for value in _LENGTH.findall(head) for part in value.split(b",")]
    if len(said) < 2 or len(set(said)) > 1 or not said[0]:
        return head
    first = _LENGTH.search(head)
    assert first is not None  # noqa: S101  # for the type checker: two were found above
    rest: bytes = _LENGTH.sub(b"", head[first.end() :])
    before: bytes = head[: first.start()] + b"\nContent-Length: " + said[0] + b"\r"
    return before + rest


class _Answers(ResponseHandler):
    """A connection to upstream."""

    _pending: bytearray | None = None  # the head that has begun; None while a body comes
    _options: Mapping[str, Any] = MappingProxyType({})  # of the parser of the answer that is awaited

    def set_response_params(self, **options: Any) -> None:
        self._pending, self._options = bytearray(), options
        self._parser, self.read_timeout = None, options.get("read_timeout")
        if self._tail:  # nobody had asked for it
            self._parse(b"")

    def resume_writing(self) -> None:
        super().resume_writing()
        self.start_timeout()  # while it took in what we say it was not silent

    def data_received(self, data: bytes) -> None:
        held = self._pending
        if held is None or not data:
            super().data_received(data)
            return
        if not held and not self._options.get("skip_payload") and (whole := read_at_once(data)) is not None:
            self._pending = None
            self._drop_timeout()
            self.feed_data(whole)  # type: ignore[arg-type]  # as much of a head and of a body as `Response` reads
            return
        seen = max(0, len(held) - 3)
        held += data
        end = _END.search(held, seen)
        if end is None and len(held) < _MAX_HEAD_BYTES and held[:5] == b"HTTP/"[: len(held)]:
            return  # a head that is not whole yet
        self._pending = None
        cut = 0 if end is None else end.end()
        if max(cut, 0 if end else len(held)) > _MAX_HEAD_BYTES:
            self._refuse()
        elif end is not None and held[9:10] == b"1":  # an interim answer; another head follows
            self._pending = bytearray()
            self._parse(bytes(held[:cut]))
            self.data_received(bytes(held[cut:]))
        else:
            self._parse(without_copies(bytes(held[:cut])) + bytes(held[cut:]))

    def _refuse(self) -> None:
        if self.transport is not None:
            self.transport.close()
        error = LineTooLong(b"the head of an answer", _MAX_HEAD_BYTES)
        self.set_exception(HttpProcessingError(code=error.code, message=error.message), error)

    def _parse(self, data: bytes) -> None:
        # Its parser is made when it is needed: most answers come whole, and need none.
        if self._parser is None:
            super().set_response_params(**self._options)
        if data:
            super().data_received(data)

    def eof_received(self) -> None:
        self._let_go()
        super().eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._let_go()
        super().connection_lost(exc)

    def _let_go(self) -> None:
        # Half a head is the parser's to judge, too.
        held, self._pending = self._pending, None
        if held:
            self._parse(bytes(held))
