"""
Errors as the Anthropic API would say them: one table, and the only place that knows HTTP statuses of our own.

Upstream's final errors keep their status and body. `x-should-retry: false` tells the official SDKs not to try again by
themselves, where a repeat is pointless or where we have tried already.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from headrace import errors
from headrace.errors import HeadraceError, UpstreamError
from headrace.model import Headers
from headrace.trail import TICKET_HEADER, TIMING_HEADER, timing


@dataclass(frozen=True, slots=True)
class Row:
    """What an error is in HTTP: status, Anthropic's type, and whether a repeat can help."""

    status: int
    type: str
    repeat_helps: bool


_TABLE: dict[type[HeadraceError], Row] = {
    errors.InvalidCall: Row(400, "invalid_request_error", False),
    errors.TooLarge: Row(413, "request_too_large", False),
    errors.TooSlow: Row(408, "timeout_error", False),
    errors.UnknownCaller: Row(401, "authentication_error", False),
    errors.NotAllowed: Row(403, "permission_error", False),
    errors.BudgetExhausted: Row(429, "rate_limit_error", True),
    errors.UpstreamOverloaded: Row(529, "overloaded_error", True),
    errors.CallerOnHold: Row(429, "rate_limit_error", True),
    errors.QueueFull: Row(429, "rate_limit_error", True),
    errors.DeadlinePassed: Row(504, "timeout_error", False),
    errors.Draining: Row(503, "api_error", True),
    errors.RedisAway: Row(503, "api_error", True),
    errors.RedisRefused: Row(503, "api_error", False),
    errors.NotCached: Row(504, "timeout_error", False),
    errors.IdempotencyConflict: Row(409, "conflict_error", False),
    errors.TicketNotFound: Row(404, "not_found_error", False),
    errors.TicketLost: Row(503, "api_error", True),
    errors.ResourceNotFound: Row(404, "not_found_error", False),
    errors.LimitNotFound: Row(404, "not_found_error", False),
    errors.OverrideNotFound: Row(404, "not_found_error", False),
    errors.HostNotFound: Row(404, "not_found_error", False),
    errors.CallNotFound: Row(404, "not_found_error", False),
    errors.Canceled: Row(409, "conflict_error", False),
    errors.Abandoned: Row(409, "conflict_error", False),
}
_OURS = Row(500, "api_error", False)
_REPEATED = frozenset({408, 429, *range(500, 600)})  # upstream's statuses after which the daemon itself asks again
# The official SDKs sleep for as long as `retry-after` says, be it days, and nobody can wake them. Whoever would have to wait
# longer than this is told so, and is told not to repeat: its own program is to decide.
_LONGEST_NAP_S = 60.0
_LONGEST_S = 366 * 86_400.0  # of a wait that is told


@dataclass(frozen=True, slots=True)
class Said:
    """An error ready to send."""

    status: int
    body: bytes
    headers: Headers


def say(error: Exception, request_id: str) -> Said:
    """Return status, body and headers for any error; what is not ours to explain says nothing of itself."""
    if isinstance(error, UpstreamError):
        return _upstream(error, request_id)
    row = _TABLE.get(type(error), _OURS) if isinstance(error, HeadraceError) else _OURS
    message = error.message if isinstance(error, HeadraceError) and row is not _OURS else "internal error"
    headers = [("request-id", request_id), ("content-type", "application/json"), *_befell(error)]
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        headers.append(("retry-after", _seconds(retry_after_s)))
    if not row.repeat_helps or (row.status == 429 and retry_after_s is None) or _is_long(retry_after_s):
        headers.append(("x-should-retry", "false"))
    elif row.status == 503:
        headers.append(("x-should-retry", "true"))
    return Said(row.status, error_body(row.type, message, request_id), tuple(headers))


def _upstream(error: UpstreamError, request_id: str) -> Said:
    passed = {name: value for name, value in error.headers if name not in ("x-should-retry", "content-length")}
    advice = dict(error.headers).get("x-should-retry", "")
    passed.setdefault("request-id", request_id)
    if error.retry_after_s is not None:
        passed.setdefault("retry-after", _seconds(error.retry_after_s))
    if not error.body:
        passed["content-type"] = "application/json"
    passed.setdefault("content-type", "application/json")
    if _is_long(error.retry_after_s):
        passed["x-should-retry"] = "false"
    elif not error.is_untried:
        # Whatever a repeat could do has been done, unless upstream asks for one where we make none.
        passed["x-should-retry"] = "true" if advice == "true" and error.status not in _REPEATED else "false"
    body = error.body or error_body(error.type, error.message, passed["request-id"])
    return Said(error.status, body, (*passed.items(), *_befell(error)))


def _befell(error: Exception) -> Headers:
    """Return what the call went through before it failed: how often upstream was asked, what took how long, its ticket."""
    trail = error.trail if isinstance(error, HeadraceError) else None
    if trail is None:
        return ()
    said = timing(trail)
    attempts = ("x-headrace-attempts", str(max((made.number for made in trail.tries), default=0)))
    ticket = ((TICKET_HEADER, trail.ticket),) if trail.ticket else ()
    return (attempts, *ticket, (TIMING_HEADER, said)) if said else (attempts, *ticket)


def _is_long(wait_s: float | None) -> bool:
    return wait_s is not None and wait_s > _LONGEST_NAP_S


def error_body(type: str, message: str, request_id: str) -> bytes:
    """Return an error in the shape of the API's."""
    said = {"type": "error", "error": {"type": _clean(type), "message": _clean(message)}, "request_id": _clean(request_id)}
    return msgspec.json.encode(said)


def error_event(error: Exception, request_id: str) -> bytes:
    """Return an error as the event that ends a stream which has begun."""
    said = say(error, request_id)
    body = said.body if said.body.lstrip().startswith(b"{") else error_body("api_error", "upstream broke off", request_id)
    return b"event: error\ndata: " + body.replace(b"\r", b"").replace(b"\n", b"") + b"\n\n"


def _seconds(retry_after_s: float) -> str:
    # Whole seconds, rounded up: a client must not come back too early.
    return str(max(1, -int(-max(0.0, min(retry_after_s, _LONGEST_S)) // 1)))


def _clean(text: str) -> str:
    # It may quote half a character, or bytes that are none.
    return text.encode(errors="replace").decode()
