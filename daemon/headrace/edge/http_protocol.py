"""
One connection to the HTTP port: aiohttp's, with our words where the bytes are no request.

aiohttp answers what it cannot read in plain text of HTTP/1.0, quotes it there and in its log, and once more for every piece
that still comes. Here the caller hears one error in the API's shape, nothing of what was sent is said again, and what still
comes is passed over for a moment, so that the error arrives before the connection is reset.

A connection costs something before anybody knows whose it is. So there are only so many (`connections.py`), nothing is unpacked
here, and once a second each is looked at: a head that does not end, a body that does not go on, an answer that nobody takes
(`http_times.py`) end it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import BadStatusLine, HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from headrace import observe
from headrace.edge import http_errors
from headrace.edge.asked import new_id
from headrace.edge.connections import Connections, Idle
from headrace.edge.hits import JSON
from headrace.edge.http2_hint import Hint, is_http2
from headrace.edge.http_bodies import Stalled
from headrace.edge.http_refusals import (
    BODY_STALLED,
    FULL,
    HEAD_LATE,
    HTTP2,
    PADDED,
    TOO_LONG,
    UNREAD,
    Refusals,
    Refused,
    refused,
)
from headrace.edge.http_slices import SLICE_BYTES, Slices
from headrace.edge.http_times import Pace, Taking, Times
from headrace.trail import ID_HEADER
from headrace.trail import new_id as new_call_id

log = structlog.get_logger()

# What was refused is still read for so long, so that its sender hears why; by the loop, as aiohttp times its connections.
LINGER_S = 2.0
_LINGER_BYTES = 4_000_000  # and so much of it at most,
_HEARD_OUT_BYTES = 1_000_000_000  # or so much of a caller who is known: most clients listen only once they have sent it all
_MAX_HEAD_BYTES = 262_144  # before anybody is known, so it must not cost much
_MAX_PADDING_BYTES = 262_144  # of a body that are not of it: sizes of chunks, and what may stand beside them
_MAX_PADDING = 16  # times the body: what chunks of a byte each have around them, twice over
_LIGHT_BYTES = 512  # of a body in chunks: parsed at once
_give_parser = RequestHandler.data_received


class Manager(web.Server):
    """Who makes connections, and what they have in common: see `http_listener.py`."""

    refusals: Refusals
    counted: Connections
    times: Times
    slices: Slices


class Connection(RequestHandler):
    """One connection."""

    __slots__ = (
        "_body", "_body_pace", "_counted", "_goes_on", "_head_bytes", "_head_since", "_hint", "_is_chunked", "_is_refused",
        "_most_over", "_passed_over", "_refusals", "_slices", "_times", "_unparsed", "_watched", "_wire_bytes",
        "handshake", "peer", "taking", "writer",
    )  # fmt: skip

    def __init__(self, manager: Manager, *, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(manager, loop=loop, **options)
        self._refusals, self._counted, self._times = manager.refusals, manager.counted, manager.times
        self._slices = manager.slices
        self._unparsed = memoryview(b"")
        self._is_chunked = self._goes_on = False
        self._is_refused = False
        self._hint: Hint | None = None
        self._head_bytes = 0
        self._head_since = 0.0  # by the loop; 0: there is no head that has begun
        self._body = EMPTY_PAYLOAD  # of the request that came last
        self._wire_bytes = 0  # of that body, all that stands around it included
        self._passed_over = 0  # of a body that nobody wants any more
        self._most_over = _LINGER_BYTES
        self._body_pace, self.taking = Pace(), Taking()
        self.writer: AbstractStreamWriter | None = None  # of the answer that came last, for whoever makes requests to set
        self._watched: AbstractStreamWriter | None = None
        self.handshake: Idle | None = None  # what counted in its place until it spoke TLS
        self.peer = ""

    async def start(self) -> None:
        """Serve, until the connection ends; what ends it leaves no frames behind that know each other."""
        transport: Any = self.transport
        try:
            await super().start()
        except asyncio.CancelledError as error:
            transport.abort()  # a caller who takes nothing of what was said already would keep it open for ever
            raise error.with_traceback(None)  # noqa: B904  # as flight/flights.py has it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, if there is room."""
        self.peer = peer_of(transport.get_extra_info("peername"))
        self._head_since = self._loop.time()
        super().connection_made(transport)
        if self.handshake is not None:
            self._counted.leave(self.handshake)
        if not self._counted.enter(self):
            self._refusals.note(FULL)
            self._is_refused = True
            transport.write(_last_word("503 Service Unavailable", "overloaded_error", FULL, b"retry-after: 1\r\n"))  # type: ignore[attr-defined]  # one of TCP or TLS: it can be written to
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        self._counted.leave(self)
        self._end_intake()
        super().connection_lost(exc)
        self._body, self.writer, self._watched = EMPTY_PAYLOAD, None, None  # they know us, too

    def data_received(self, data: bytes) -> None:
        """Read on, unless what came was refused already."""
        if self._is_refused:
            self._pass_over(len(data))
            return
        if self._hint is not None or (self._request_count == 0 and not self._head_bytes and is_http2(data)):
            self._hint_at_port(data)
            return
        may_be_heavy = len(data) > SLICE_BYTES if self._body.is_eof() else self._is_chunked
        if self._unparsed or (may_be_heavy and self._is_heavy(data)):
            self._parse_later(data)
        else:
            self._parse(data)

    def _is_heavy(self, data: bytes) -> bool:  # it may be a body in chunks, as far as it takes no parser to tell
        return len(data) > _LIGHT_BYTES if self._is_chunked else b"chunked" in data.lower()

    def _parse_later(self, data: bytes) -> None:
        if data:
            self._unparsed = memoryview(bytes(self._unparsed) + data)
            self._pause_transport_reading()
        else:
            self._parse(b"")  # the parser may go on with what it has
        self._slices.add(self)

    def parse_slice(self) -> bool:
        """Give the parser the next slice, and return whether more is ready for it."""
        if self.transport is None or self._is_refused or self._force_close:
            self._unparsed = memoryview(b"")
            return False
        if self._reading_paused or self._buffer_paused:
            return False  # it is resumed by a word from there
        size = SLICE_BYTES if self._is_chunked or self._body.is_eof() else len(self._unparsed)
        piece, self._unparsed = self._unparsed[:size], self._unparsed[size:]
        self._parse(bytes(piece))
        if not self._unparsed and not self._reading_paused:
            self._resume_transport_reading()
        return bool(self._unparsed)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on; of a body in chunks in the next turn: aiohttp asks for that with each chunk, and the parser is called."""
        if not (resume_parser and self._is_chunked):
            super().resume_reading(resume_parser)
        elif not self._goes_on:
            self._goes_on = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._goes_on = False
        if self.transport is not None:
            super().resume_reading()

    def _resume_transport_reading(self) -> None:
        if not self._unparsed:
            super()._resume_transport_reading()

    def _parse(self, data: bytes) -> None:
        is_body = not self._body.is_eof()
        _give_parser(self, data)
        if self._messages:
            self._note_message()
        elif is_body:
            self._note_body(len(data))
        elif data and self._current_request is None:  # the handler of a request begins a little after its body does
            self._note_head(len(data))

    def _note_message(self) -> None:
        message: Any
        message, body = self._messages[-1]
        self._head_since = 0.0
        if self._head_bytes:
            self._end_intake()
        if (error := self._error_in(message)) is not None:
            self._is_refused = True  # else each piece that still comes would be one more error
            self._stop_body(error)
            return
        self._body, self._wire_bytes, self._passed_over = body, 0, 0
        self._is_chunked = message.chunked

    def _note_body(self, size: int) -> None:
        self._wire_bytes += size
        if self._wire_bytes - _MAX_PADDING * self._body.total_bytes > _MAX_PADDING_BYTES:
            self._refuse_body(PADDED, web.RequestPayloadError("more stands around the body than in it"))
        if not self._request_in_progress:  # its request has had its answer, or is about to begin
            self._pass_over(size)

    def _note_head(self, size: int) -> None:
        if not self._head_bytes:
            self._head_since = self._head_since or self._loop.time()
        self._head_bytes += size
        has_room = self._counted.take_in(size)
        if self._head_bytes > _MAX_HEAD_BYTES:
            self._refuse_head(TOO_LONG, "431 Request Header Fields Too Large")
        elif not has_room:
            self._refuse_head(FULL, "503 Service Unavailable")

    def _pass_over(self, size: int) -> None:
        # What nobody wants any more is read for a moment, but not much of it.
        self._passed_over += size
        if self._passed_over > self._most_over:
            self.force_close()

    def hear_out(self) -> None:
        """Let a caller who is known send what it will of a refused body, as long as `LINGER_S` lasts, so that it hears why."""
        self._most_over = _HEARD_OUT_BYTES

    def _end_intake(self) -> None:
        self._counted.take_in(-self._head_bytes)
        self._head_bytes = 0

    # Progress.

    def look(self, now: float) -> None:
        """End what does not move; called every so often."""
        self.taking.stuck_bytes = 0
        if self.transport is None:
            return
        if self._is_unread(now):
            self.end_unread()
        elif self._head_since and now - self._head_since >= self._times.head_s and not self._is_refused:
            self._end_head()
        elif self._is_stalled(now):
            self._refuse_body(BODY_STALLED, Stalled("the body fell silent"))

    def end_unread(self) -> None:
        """End it: nobody takes the answer."""
        self._refusals.note(UNREAD)
        if self.transport is not None:
            self.transport.abort()

    def _is_unread(self, now: float) -> bool:
        assert self.transport is not None  # noqa: S101
        if not (waiting := self.transport.get_write_buffer_size()):
            self.taking.rest()
            return False
        if self.writer is None or self.writer is not self._watched:
            self._watched = self.writer
            self.taking.rest()
        gone_by = (self.writer.output_size if self.writer is not None else 0) - waiting
        self.taking.see(gone_by, waiting)
        return self.taking.is_too_slow(now, gone_by, self._times.write_s)

    def _is_stalled(self, now: float) -> bool:
        if self._body.is_eof() or self._current_request is None or self._reading_paused or self._body.exception() is not None:
            self._body_pace.rest()  # it is not the caller whom we wait for
            return False
        return self._body_pace.is_too_slow(now, self._body.total_bytes, self._times.body_s)

    def _end_head(self) -> None:
        if self._head_bytes:
            self._refuse_head(HEAD_LATE, "408 Request Timeout")
        else:  # not a word: nobody listens
            self._head_since = 0.0
            self.force_close()

    def idle_since(self) -> float | None:
        """Return since when no request runs and none has begun to come, on the loop's clock; None if one does."""
        if self._waiter is None or self._head_bytes or self._messages or self._hint is not None:
            return None
        return self._head_since or self._next_keepalive_close_time - self._keepalive_timeout

    def give_way(self) -> None:
        """Close: another needs the room."""
        self._is_refused = True
        if self.transport is not None:
            self.transport.abort()

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
            self._messages.pop()
            self._refuse_body(refused(error), web.RequestPayloadError("the body is not as HTTP has it"))

    def _refuse_body(self, what: Refused, error: BaseException) -> None:
        self._is_refused = True
        self._refusals.note(what)
        # Later: a reader that the end of a chunk has just woken looks for an error only when it is woken again.
        self._loop.call_soon(self._body.set_exception, error)

    def _refuse_head(self, what: Refused, status: str) -> None:
        self._is_refused = True
        self._refusals.note(what)
        self._say_last(_last_word(status, "invalid_request_error", what))

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


def peer_of(name: Any) -> str:
    """Return the address in a socket's name of its peer; all that come over a unix socket are one."""
    return str(name[0]) if isinstance(name, tuple) else "unix"


def _last_word(status: str, kind: str, what: Refused, more: bytes = b"") -> bytes:
    body = http_errors.error_body(kind, what.text, new_id())
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
    head += f"{ID_HEADER}: {new_call_id()}\r\n"
    return head.encode() + more + b"\r\n" + body


def _response(status: int, kind: str, text: str) -> web.Response:
    request_id = new_id()
    body = http_errors.error_body(kind, text, request_id)
    return web.Response(status=status, body=body, headers=[JSON, ("request-id", request_id), ("x-should-retry", "false")])
