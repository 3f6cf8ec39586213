"""
A whole answer's response over HTTP, as bytes.

What aiohttp does for each response (collecting headers, completing them, spelling them) costs as much as all the rest of a hit.
So the lines that are the same each time the entry answers are spelled once, and kept with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time

from headrace.edge.hits import Hit, constant_headers, payload, varying_headers
from headrace.heads import SERVER
from headrace.trail import ID_HEADER

Pairs = Iterable[tuple[str, str]]

_ID = f"{ID_HEADER}: ".encode()


class Ready(web.StreamResponse):
    """A response that is complete, head and body, and leaves the connection open."""

    def __init__(self, said: bytes) -> None:
        super().__init__()
        self._said = said
        self._to: AbstractStreamWriter | None = None

    @property
    def keep_alive(self) -> bool:
        """Whether the connection stays open."""
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Take the writer of the request's connection."""
        self._to = request.writer
        return self._to

    async def write_eof(self, data: bytes = b"") -> None:
        """Send it."""
        if self._to is not None:
            await self._to.write_eof(self._said)


def response(request: web.BaseRequest, hit: Hit, budget: Pairs) -> web.StreamResponse:
    """Return the response to a hit; *budget* are the headers that show its caller's."""
    head, body = _kept(hit)
    own = [*varying_headers(hit), *budget]
    if _is_plain(request):
        name = request.writer.call_id.encode()  # type: ignore[attr-defined]  # it is our `HeadWriter`, and says it by itself else
        return Ready(b"%b%b%b%b\r\nDate: %b\r\n\r\n%b" % (head, _lines(own), _ID, name, rfc822_formatted_time().encode(), body))
    return web.Response(body=body, headers=[*constant_headers(hit), *own])


def whole(request: web.BaseRequest, body: bytes, headers: Sequence[tuple[str, str]]) -> web.StreamResponse:
    """Return the response of an answer that has just come whole."""
    if _is_plain(request):
        lines = _lines([*headers, _id(request), *_ends(body), ("Date", rfc822_formatted_time())])
        return Ready(b"HTTP/1.1 200 OK\r\n%b\r\n%b" % (lines, body))
    return web.Response(body=body, headers=headers)


def _id(request: web.BaseRequest) -> tuple[str, str]:
    return ID_HEADER, request.writer.call_id  # type: ignore[attr-defined]  # it is our `HeadWriter`


def _is_plain(request: web.BaseRequest) -> bool:
    return request.version == HttpVersion11 and request.keep_alive and not getattr(request.writer, "more", None)


def _ends(body: bytes) -> Pairs:
    return ("Content-Length", str(len(body))), ("Server", SERVER)


def _kept(hit: Hit) -> tuple[bytes, bytes]:
    # The lines of the head that stay the same, and the body.
    renditions = hit.entry.renditions
    rendition = "http.events" if hit.seen.stream else "http.json"
    kept: tuple[bytes, bytes] | None = renditions.get(rendition)
    if kept is None:
        body = payload(hit)
        constant = [*constant_headers(hit), *_ends(body)]
        kept = renditions[rendition] = (b"HTTP/1.1 200 OK\r\n" + _lines(constant), body)
    return kept


def _lines(headers: Pairs) -> bytes:
    said = "".join([f"{name}: {value}\r\n" for name, value in headers])
    return said.encode("utf-8", "surrogateescape")
