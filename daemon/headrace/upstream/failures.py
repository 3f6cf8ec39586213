"""
What upstream's errors mean for retries and budgets: one table.

The status decides; then what is more exact overrules it. A spend limit comes as a 429 that no wait within a call's life can
clear; an overload may come as any 5xx, or as an event in the middle of a stream; `x-should-retry: false` is upstream's own
word. A body that cannot be read only costs the details: whatever comes, `classify` returns an `AttemptFailed`.
"""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Mapping
from typing import Any

from headrace import forms
from headrace.errors import AttemptFailed, Failure, UpstreamError
from headrace.heads import identifier
from headrace.model import Headers

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
_WAITS = {"retry-after-ms": 0.001, "retry-after": 1.0}  # the unit of each, in seconds
_LONGEST_MESSAGE = 1000  # characters; it travels in gRPC trailers, which have 8 KB
_LONGEST_WAIT_S = 366 * 86_400.0  # more is no time that anybody waits
_is_name = re.compile(r"[A-Za-z0-9_.:-]{1,64}").fullmatch  # the types and codes of errors; what is none is not said again


def classify(
    status: int, headers: Mapping[str, str] | Headers, body: bytes, *, passed_on: Headers | None = None
) -> AttemptFailed:
    """Return what an answer other than 200 means, with upstream's exact word, and the headers *passed_on*, for the caller."""
    pairs = _pairs(headers)
    named = dict(pairs)
    wait_s = retry_after(pairs)
    said = _read(body)
    # In Anthropic's shape the code is one of the details; chats have it beside the type, as OpenAI does.
    kind, code = _name(said.get("type")), _name(_object(said.get("details")).get("error_code")) or _name(said.get("code"))
    failure, usual_kind = _row(status)
    error = UpstreamError(
        _text(said.get("message"))[:_LONGEST_MESSAGE].strip() or f"upstream answered {status}",
        # A status that is no error (a redirect, say) would mislead the caller.
        status=status if status >= 400 else 502,
        type=kind or usual_kind,
        body=body,
        headers=_one_wait(_worth_passing(pairs) if passed_on is None else passed_on, wait_s),
        retry_after_s=wait_s,
        metadata=_known(
            status=str(status), type=kind or usual_kind, error_code=code, request_id=identifier(named.get("request-id", ""))
        ),
    )
    return AttemptFailed(_overruled(failure, status, kind, code, named), error)


def is_spend_limit(failed: AttemptFailed) -> bool:
    """Whether upstream says that no more may be spent; no wait within a call's life clears that."""
    error = failed.error
    return failed.failure is Failure.FINAL and _is_spend_limit(error.status, error.type, error.metadata.get("error_code", ""))


def _is_spend_limit(status: int, kind: str, code: str) -> bool:
    return status == 429 and (code.endswith(_SPEND_LIMIT) or kind == "billing_error")


def classify_event(event_data: bytes, headers: Mapping[str, str] | Headers) -> AttemptFailed:
    """Return what an error with status 200 means, whether a whole body or an event: the same as if it had come as a status."""
    status = _status(_read(event_data))
    said = (*(pair for pair in _pairs(headers) if pair[0] != "content-type"), ("content-type", "application/json"))
    return classify(status, said, event_data)


def _status(said: Mapping[str, Any]) -> int:
    # By its type; else by a status that the error itself names, as other dialects have it; else nobody knows better than 500.
    if status := _STATUS.get(_name(said.get("type"))):
        return status
    code = said.get("code")
    if isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600:
        return code
    return 429 if code == "rate_limit_exceeded" else 500


def broken(message: str, *, sent: bool = True, request_id: str = "") -> AttemptFailed:
    """Return the failure of a connection, or of an answer that makes no sense: nobody knows what was used."""
    return AttemptFailed(Failure.BROKEN, _ours(message, 502, "api_error", request_id), sent=sent)


def barred(message: str) -> AttemptFailed:
    """Return the failure of a way to upstream that is barred, and stays so. Surely nothing was sent."""
    return AttemptFailed(Failure.FINAL, _ours(message, 502, "api_error", ""), sent=False)


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
    if _is_spend_limit(status, kind, code):
        return Failure.FINAL
    if status >= 500 and kind == "overloaded_error":
        return Failure.OVERLOADED
    return failure


def retry_after(headers: Mapping[str, str] | Headers) -> float | None:
    """
    Return how long upstream asks us to wait (s), in each spelling that the official SDKs read; None if it does not say.

    Where it says so several times, as upstream and what stands before it may, the longest counts: no wait is undercut.
    """
    pairs = _pairs(headers)
    now = dict(pairs).get("date")
    return max((wait for name, value in pairs if (wait := _wait(name, value, now))), default=None)


def _wait(name: str, value: str, upstream_now: str | None) -> float:
    if name not in _WAITS:
        return 0.0
    unit_s = _WAITS[name]
    seconds = max((_number(part) * unit_s for part in value.split(",")), default=0.0)
    if not 0 < seconds < math.inf:
        seconds = _until(value, upstream_now) if name == "retry-after" else 0.0
    return min(max(0.0, seconds), _LONGEST_WAIT_S)


def _one_wait(pairs: Headers, wait_s: float | None) -> Headers:
    # SDKs obey one of several, and it need not be the longest. What is no time is not said.
    now = dict(pairs).get("date")
    kept, has_said = [], False
    for name, value in pairs:
        asked_s = _wait(name, value, now)
        if name in _WAITS and (not asked_s or has_said or asked_s != wait_s):
            continue
        has_said |= bool(asked_s)
        kept.append((name, value if asked_s < _LONGEST_WAIT_S else str(int(asked_s / _WAITS[name]))))
    return tuple(kept)


def _pairs(headers: Mapping[str, str] | Headers) -> Headers:
    """Return all headers, each as often as it came, with lower-case names."""
    items = headers.items() if isinstance(headers, Mapping) else headers
    return tuple((name.lower(), value) for name, value in items)


def _number(value: str) -> float:
    try:
        return min(float(value or 0), _LONGEST_WAIT_S * 1000) if value.strip().isdecimal() else float(value or 0)
    except ValueError:
        return 0.0


def _until(moment: str, upstream_now: str | None) -> float:
    # By upstream's own clock where it tells it: ours may differ, and is the machine's, as dates in headers are everybody's.
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


def _name(value: Any) -> str:
    return value if isinstance(value, str) and _is_name(value) else ""


def _text(value: Any) -> str:
    # It may quote half a character of what the caller sent, which nobody could write down.
    return value.encode(errors="replace").decode() if isinstance(value, str) else ""


def _known(**facts: str) -> dict[str, str]:
    return {name: fact for name, fact in facts.items() if fact}


def _worth_passing(pairs: Headers) -> Headers:
    return tuple((name, value) for name, value in pairs if name in _PASSED_ON or name.startswith("anthropic-"))
