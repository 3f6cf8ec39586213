"""
What is refused before it is a request: everything that the HTTP parser cannot read, and what does not come to an end.

Its own words quote what was sent, which may be a key or a prompt, so none of them is passed on. Only the kind is: to the caller
as an error of the API's shape, to the log as one line, at most one in fifteen seconds for each kind, and to the metrics.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import structlog
from aiohttp import HttpVersion11, http_exceptions

from headrace import observe
from headrace.clock import Clock

log = structlog.get_logger()

# Whoever sends nonsense without end, without a key, must not fill the log: all kinds make less than a hundred lines a minute.
_QUIET_S = 15.0


@dataclass(frozen=True, slots=True)
class Refused:
    """Why something is no request: its kind for the log, and the words and the status for the caller."""

    kind: str
    text: str
    status: int = 400


TOO_LONG = Refused("too_long", "the request line or a header is longer than 64 KiB, or all of them than 256 KiB", 431)
HTTP2 = Refused("http2", "wrong port: this one speaks HTTP/1.1; gRPC has ports of its own")
HEAD_LATE = Refused(
    "head_late", "the head of the request took too long: all of it must be here within listen.head_timeout", 408
)
BODY_STALLED = Refused("body_stalled", "the body fell silent: it must go on within listen.body_timeout")
UNREAD = Refused("unread", "nobody took the answer within listen.write_timeout")
PADDED = Refused("padded", "more stands around the body's chunks than in them")
FULL = Refused("connections", "too many connections: this port has no room for another at present", 503)
_TOO_MANY = Refused("too_many_headers", "the request has too many headers", 431)
_TLS = Refused("tls", "this port speaks HTTP without TLS: ask http://, not https://")
_NO_HOST = Refused("no_host", "the request has no Host header, which HTTP/1.1 asks for")
_CHUNK = Refused("bad_chunk", "the body is not in chunks as HTTP has them")
_HEADER = Refused("bad_header", "a header is not as HTTP has it: its name, its value or its end")
_LINE = Refused("bad_request_line", "the first line is no request line of HTTP/1.1")
_OTHER = Refused("bad_message", "the request is not as HTTP/1.1 has it")

# By the beginning of the parser's words, which are constants; what it quotes comes after them.
_BY_WORDS = (
    ("Too many headers", _TOO_MANY),
    ("Missing 'Host'", _NO_HOST),
    ("Received HTTPS", _TLS),
    ("Invalid character in chunk", _CHUNK),
    ("Missing expected LF after chunk", _CHUNK),
    ("Missing expected CR after chunk", _CHUNK),
    ("Expected LF after chunk", _CHUNK),
    ("Chunk", _CHUNK),
    ("Invalid header", _HEADER),
    ("Invalid HTTP header", _HEADER),
    ("Missing expected", _HEADER),
    ("Invalid character in Content-Length", _HEADER),
    ("Content-Length", _HEADER),
    ("Transfer-Encoding", _HEADER),
    ("Duplicate", _HEADER),
)
_BY_CLASS = (
    (http_exceptions.LineTooLong, TOO_LONG),
    (http_exceptions.InvalidHeader, _HEADER),
    (http_exceptions.BadStatusLine, _LINE),
    (http_exceptions.InvalidURLError, _LINE),
    (http_exceptions.TransferEncodingError, _CHUNK),
)


def refused(error: BaseException) -> Refused:
    """Return what the parser's error means, without a word of what was sent."""
    words = getattr(error, "message", "") if isinstance(error, http_exceptions.HttpProcessingError) else ""
    for beginning, meaning in _BY_WORDS:
        if words.startswith(beginning):
            return meaning
    return next((meaning for kind, meaning in _BY_CLASS if isinstance(error, kind)), _OTHER)


@dataclass(frozen=True, slots=True)
class RefusalStats:
    """How many were refused, by kind."""

    counts: dict[str, int] = field(default_factory=dict)


class Refusals:
    """Counts refusals and logs them, sparingly."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counts: dict[str, int] = {}
        self._told: dict[str, tuple[float, int]] = {}  # by kind: when it was logged last, and the count then

    def __repr__(self) -> str:
        return f"<Refusals {self.stats().counts}>"

    def stats(self) -> RefusalStats:
        """Return what was refused so far."""
        return RefusalStats(dict(self._counts))

    def note(self, what: Refused) -> None:
        """Take note of one that was refused."""
        observe.ERRORS.inc("http", "UNREADABLE")
        observe.REFUSED.inc("http", what.kind)
        count = self._counts[what.kind] = self._counts.get(what.kind, 0) + 1
        now = self._clock.now()
        told_at, told_count = self._told.get(what.kind, (-_QUIET_S, 0))
        if not 0 <= now - told_at < _QUIET_S:
            self._told[what.kind] = now, count
            log.warning(observe.REQUEST_REFUSED, edge="http", kind=what.kind, count=count - told_count)


def as_http11(message: Any) -> Any:
    """Return the head of a request; where there is none, since it could not be read, one to which HTTP/1.1 is answered."""
    return message if message.method != "UNKNOWN" else message._replace(version=HttpVersion11)
