"""
One connection to the HTTP port: aiohttp's, with our words where the bytes are no request.

aiohttp answers what it cannot read in plain text of HTTP/1.0, quotes it there and in its log, and once more for every piece
that still comes. Here the caller hears one error in the API's shape, nothing of what was sent is said again, and what still
comes is passed over for a moment, so that the error arrives before the connection is reset.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http_exceptions import BadStatusLine, HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from headrace import heads, observe
from headrace.edge import http_errors
from headrace.edge.exchange import new_id
from headrace.edge.hits import JSON
from headrace.edge.http2_hint import PREFACE, Hint
from headrace.edge.http_refusals import HTTP2, TOO_LONG, Refusals, Refused, refused

log = structlog.get_logger()

MAX_FIELD_BYTES = 65_536  # of the request line, and of one header
MAX_HEADERS = 1_000
# What was refused is still read for so long, so that its sender hears why; by the loop, as aiohttp times its connections.
LINGER_S = 2.0
_MAX_HEAD_BYTES = 262_144  # before anybody is known, so it must not cost much


class Listener(web.Server):
    """Makes the connections of one address."""

    def __init__(self, handler: Any, *, refusals: Refusals, **options: Any) -> None:
        limits: dict[str, Any] = {
            "max_line_size": MAX_FIELD_BYTES,
            "max_field_size": MAX_FIELD_BYTES,
            "max_headers": MAX_HEADERS,
        }
        heads.write_as_they_are()
        super().__init__(handler, **limits, **options)
        self.refusals = refusals

    def __call__(self) -> RequestHandler:
        """Return the protocol of a new connection."""
        return Connection(self, loop=self._loop, refusals=self.refusals, **self._kwargs)


class Connection(RequestHandler):
    """One connection."""

    __slots__ = ("_body", "_head_bytes", "_hint", "_is_refused", "_refusals")

    def __init__(self, manager: Listener, *, loop: asyncio.AbstractEventLoop, refusals: Refusals, **options: Any) -> None:
        super().__init__(manager, loop=loop, **options)
        self._refusals = refusals
        self._is_refused = False
        self._hint: Hint | None = None
        self._head_bytes = 0
        self._body = EMPTY_PAYLOAD  # of the request that came last

    def data_received(self, data: bytes) -> None:
        """Read on, unless what came was refused already."""
        if self._is_refused:
            return
        if self._hint is not None or (self._request_count == 0 and not self._head_bytes and _is_http2(data)):
            self._hint_at_port(data)
            return
        is_body = not self._body.is_eof()
        super().data_received(data)
        if self._messages:
            self._head_bytes = 0
            self._body = self._messages[-1][1]
            if (error := self._error_in(self._messages[-1][0])) is not None:
                self._is_refused = True  # else each piece that still comes would be one more error
                self._stop_body(error)
        elif self._current_request is None and not is_body:  # the handler of a request begins a little after its body does
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._refuse_head()

    # No request.

    def _error_in(self, message: Any) -> BaseException | None:
        # HTTP/0.9 has neither headers nor a status: nobody who speaks it means us.
        if getattr(message, "version", HttpVersion11) < HttpVersion10:
            error = BadStatusLine("", "HTTP/0.9")
            self._messages[-1] = (_ErrInfo(status=400, exc=error, message=""), EMPTY_PAYLOAD)
            return error
        return getattr(message, "exc", None)

    def _make_error_handler(self, err_info: Any) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            response = self._refusal(refused(err_info.exc))
            await response.prepare(request)
            await response.write_eof()
            await self._linger()
            return response

        return handle

    def _refusal(self, what: Refused) -> web.Response:
        self._is_refused = True
        self._refusals.note(what)
        response = _response(what.status, "invalid_request_error", what.text)
        response.force_close()
        return response

    async def _linger(self) -> None:
        # Until the caller closes, which cancels this, but not for long.
        if self.transport is not None:
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self._loop.call_later(LINGER_S, self.force_close)
            await self._loop.create_future()

    def _stop_body(self, error: BaseException) -> None:
        # A request whose body turns out to be none: its handler waits for more of it, and hears that nothing comes.
        if self._current_request is not None and not self._current_request.content.is_eof():
            self._refusals.note(refused(error))
            self._messages.pop()
            error = web.RequestPayloadError("the body is not as HTTP has it")
            # Later: a reader that the end of a chunk has just woken looks for an error only when it is woken again.
            self._loop.call_soon(self._current_request.content.set_exception, error)

    def _refuse_head(self) -> None:
        self._is_refused = True
        self._refusals.note(TOO_LONG)
        body = http_errors.error_body("invalid_request_error", TOO_LONG.text, new_id())
        head = f"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        self._say_last(head.encode() + b"\r\nconnection: close\r\n\r\n" + body)

    def _hint_at_port(self, data: bytes) -> None:
        if self._hint is None:
            self._hint = Hint(http_errors.error_body("invalid_request_error", HTTP2.text, new_id()))
            self._refusals.note(HTTP2)
            self._loop.call_later(LINGER_S, self.force_close)
        if self.transport is not None and (said := self._hint.hear(data)):
            self.transport.write(said)
        self._is_refused = self._hint.is_over

    def _say_last(self, said: bytes) -> None:
        if self.transport is not None:
            self.transport.write(said)
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self._loop.call_later(LINGER_S, self.force_close)

    # Faults of ours.

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Return the answer where a handler failed."""
        self.log_exception(exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun; another cannot be sent")
        response = _response(status, "api_error", "internal error")
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log a failure's kind. aiohttp's own words may quote what was sent."""
        error = kw.get("exc_info")
        if not isinstance(error, (HttpProcessingError, web.RequestPayloadError)):
            log.error(observe.CALL_FAILED, edge="http", kind=type(error).__name__)


def as_http11(message: Any) -> Any:
    """Return the head of a request; where there is none, since it could not be read, one to which HTTP/1.1 is answered."""
    return message if message.method != "UNKNOWN" else message._replace(version=HttpVersion11)


def _is_http2(data: bytes) -> bool:
    # Three bytes at least: less may become a POST, and nobody sends a preface in such small pieces.
    return data[:3] == PREFACE[:3] and (data.startswith(PREFACE[:14]) or PREFACE.startswith(data))


def _response(status: int, kind: str, text: str) -> web.Response:
    request_id = new_id()
    body = http_errors.error_body(kind, text, request_id)
    return web.Response(status=status, body=body, headers=[JSON, ("request-id", request_id), ("x-should-retry", "false")])
