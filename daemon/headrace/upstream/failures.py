"""
What upstream's errors mean for retries and budgets: one table.

The status decides; then what is more exact overrules it. A spend limit comes as a 429 that no wait within a call's life can
clear; an overload may come as any 5xx, or as an event in the middle of a stream; `x-should-retry: false` is upstream's own
word. A body that cannot be read only costs the details: whatever comes, `classify` returns an `AttemptFailed`.
"""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

from headrace import forms
from headrace.errors import AttemptFailed, Failure, UpstreamError

# status -> why the attempt failed, and Anthropic's name for it where the body gives none
_TABLE: dict[int, tuple[Failure, str]] = {
    400: (Failure.FINAL, "invalid_request_error"),
    401: (Failure.FINAL, "authentication_error"),
    402: (Failure.FINAL, "billing_error"),
    403: (Failure.FINAL, "permission_error"),
    404: (Failure.FINAL, "not_found_error"),
    408: (Failure.BROKEN, "timeout_error"),
    409: (Failure.FINAL, "conflict_error"),
    413: (Failure.FINAL, "request_too_large"),
    422: (Failure.FINAL, "invalid_request_error"),
    429: (Failure.RATE_LIMITED, "rate_limit_error"),
    504: (Failure.BROKEN, "timeout_error"),
    529: (Failure.OVERLOADED, "overloaded_error"),
}

# The status that an error would have had, had it not come inside a stream.
_STATUS = {kind: status for status, (_, kind) in reversed(_TABLE.items())} | {"api_error": 500, "timeout_error": 504}

# error.details.error_code of 429s that last until the month is over: enforced_..., contract_...
_SPEND_LIMIT = "spend_limit_reached"

_PASSED_ON = frozenset({"request-id", "retry-after", "retry-after-ms", "content-type", "x-should-retry"})
_LONGEST_MESSAGE = 1000  # characters; it travels in gRPC trailers, which have 8 KB


def classify(
    status: int, headers: Mapping[str, str], body: bytes, *, passed_on: tuple[tuple[str, str], ...] | None = None
) -> AttemptFailed:
    """Return what an answer other than 200 means, with upstream's exact word, and the headers *passed_on*, for the caller."""
    named = {name.lower(): value for name, value in headers.items()}
    said = _read(body)
    # In Anthropic's shape the code is one of the details; chats have it beside the type, as OpenAI does.
    kind, code = _text(said.get("type")), _text(_object(said.get("details")).get("error_code")) or _text(said.get("code"))
    failure, usual_kind = _row(status)
    error = UpstreamError(
        _text(said.get("message"))[:_LONGEST_MESSAGE] or f"upstream answered {status}",
        # A status that is no error (a redirect, say) would mislead the caller.
        status=status if status >= 400 else 502,
        type=kind or usual_kind,
        body=body,
        headers=_worth_passing(named) if passed_on is None else passed_on,
        retry_after_s=retry_after(named),
        metadata=_known(status=str(status), type=kind or usual_kind, error_code=code, request_id=named.get("request-id", "")),
    )
    return AttemptFailed(_overruled(failure, status, kind, code, named), error)


def classify_event(event_data: bytes, headers: Mapping[str, str]) -> AttemptFailed:
    """Return what an error with status 200 means, whether a whole body or an event: the same as if it had come as a status."""
    status = _status(_read(event_data))
    return classify(status, {**headers, "content-type": "application/json"}, event_data)


def _status(said: Mapping[str, Any]) -> int:
    # By its type; else by a status that the error itself names, as other dialects have it; else nobody knows better than 500.
    if status := _STATUS.get(_text(said.get("type"))):
        return status
    code = said.get("code")
    if isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600:
        return code
    return 429 if code == "rate_limit_exceeded" else 500


def broken(message: str, *, sent: bool = True, request_id: str = "") -> AttemptFailed:
    """Return the failure of a connection, or of an answer that makes no sense: nobody knows what was used."""
    return AttemptFailed(Failure.BROKEN, _ours(message, 502, "api_error", request_id), sent=sent)


def unreadable(message: str, *, sent: bool = True, request_id: str = "") -> AttemptFailed:
    """Return the failure of an answer that is there but cannot be read: again it would be the same, and paid for anew."""
    return AttemptFailed(Failure.UNREADABLE, _ours(message, 502, "api_error", request_id), sent=sent)


def silent(message: str, *, sent: bool = True, request_id: str = "") -> AttemptFailed:
    """Return the failure of an upstream that says nothing any more."""
    return AttemptFailed(Failure.BROKEN, _ours(message, 504, "timeout_error", request_id), sent=sent)


def _ours(message: str, status: int, kind: str, request_id: str) -> UpstreamError:
    headers = (("request-id", request_id),) if request_id else ()
    return UpstreamError(message, status=status, type=kind, headers=headers, metadata=_known(type=kind, request_id=request_id))


def _row(status: int) -> tuple[Failure, str]:
    if row := _TABLE.get(status):
        return row
    if 300 <= status < 500:
        return Failure.FINAL, "invalid_request_error" if status >= 400 else "api_error"
    return Failure.BROKEN, "api_error"


def _overruled(failure: Failure, status: int, kind: str, code: str, headers: Mapping[str, str]) -> Failure:
    if headers.get("x-should-retry", "").strip().lower() == "false":
        return Failure.FINAL
    if status == 429 and (code.endswith(_SPEND_LIMIT) or kind == "billing_error"):
        return Failure.FINAL
    if status >= 500 and kind == "overloaded_error":
        return Failure.OVERLOADED
    return failure


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how long upstream asks us to wait (s), read as the official SDKs read it; None if it does not say."""
    for value, unit_s in ((headers.get("retry-after-ms"), 0.001), (headers.get("retry-after"), 1.0)):
        seconds = _number(value) * unit_s
        if 0 < seconds < math.inf:
            return seconds
    seconds = _until(headers.get("retry-after"), headers.get("date"))
    return seconds if seconds > 0 else None


def _number(value: str | None) -> float:
    try:
        return float(value or 0)
    except ValueError:
        return 0.0


def _until(moment: str | None, upstream_now: str | None) -> float:
    # By upstream's own clock where it tells it: ours may differ.
    due = _date(moment)
    if due is None:
        return 0.0
    now = _date(upstream_now)
    return due - (time.time() if now is None else now)


def _date(value: str | None) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(value or "").timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _read(body: bytes) -> Mapping[str, Any]:
    try:
        error = _object(forms.parse(body)).get("error")
    except ValueError:
        return {}
    return {"message": error} if isinstance(error, str) else _object(error)


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    # It may quote half a character of what the caller sent, which nobody could write down.
    return value.encode(errors="replace").decode() if isinstance(value, str) else ""


def _known(**facts: str) -> dict[str, str]:
    return {name: fact for name, fact in facts.items() if fact}


def _worth_passing(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    pairs: Iterable[tuple[str, str]] = headers.items()
    return tuple((name, value) for name, value in pairs if name in _PASSED_ON or name.startswith("anthropic-"))
