"""
How long a caller will wait, as far as its request tells.

The official SDKs say it in `x-stainless-timeout`, in seconds. Python's says the number it was given ("4.0"). Those in
TypeScript and Go round it down to whole seconds ("4" is anything from 4 up to 5): attempts are planned for the least that may
be meant, and a 504 is said at the most. Node's fetch, whoever uses it, gives up on an answer whose head does not come within
300 seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from headrace.deadline import Wait
from headrace.errors import InvalidCall

_MAX_DIGITS = 12
_STAINLESS = ("x-stainless-timeout", "x-stainless-read-timeout")  # the latter is OpenAI's, in Python
_HEAD_S = 290.0  # under the 300 after which Node's fetch gives up, and proxies and agents do no later
# How requests of Node's own fetch name themselves: "node", "undici", "node-fetch/1.0 (...)", "ai-sdk/... runtime/node.js/20".
_NODES = re.compile(r"(^|[\s/(])(node(\.js|-fetch)?|undici)(/|\s|;|\)|$)", re.IGNORECASE)


def read_wait(headers: Mapping[str, str], within_s: float | None = None, *, is_http: bool = False) -> Wait:
    """
    Return how long a caller will wait; raises `InvalidCall` for a time that makes no sense.

    Args:
        within_s: what is left of the RPC's deadline, if there is one.
        is_http: it waits for the head of an HTTP answer, and not for an RPC.
    """
    spans = [span for span in (within_s, _stated_s(headers)) if span is not None]
    implied = [said for name in _STAINLESS if (said := _stainless_s(headers.get(name, "")))]
    return Wait(
        stated_s=min(spans, default=None),
        implied_s=min((most for most, _ in implied), default=None),
        surely_s=min((least for _, least in implied), default=None),
        gives_up_s=_HEAD_S if is_http and _waits_for_heads(headers) else None,
        unsaid_s=_HEAD_S if is_http else None,
    )


def has_own_clock(headers: Mapping[str, str]) -> bool:
    """Whether the caller's library gives up by itself when the time is over, as the official SDKs do."""
    return "x-headrace-timeout-ms" not in headers and any(name in headers for name in _STAINLESS)


def _stated_s(headers: Mapping[str, str]) -> float | None:
    given = headers.get("x-headrace-timeout-ms")
    if given is None:
        return None
    if not given.isdecimal() or not given.isascii() or len(given) > _MAX_DIGITS:
        raise InvalidCall(f"x-headrace-timeout-ms: must be a whole number of milliseconds, not {given[:32]!r}")
    return int(given) / 1000


def _stainless_s(given: str) -> tuple[float, float] | None:
    """Return the most and the least that an SDK may mean; other values than seconds ("NOT_GIVEN") say nothing."""
    if not given.isascii() or not given.replace(".", "", 1).isdecimal() or len(given) > _MAX_DIGITS:
        return None
    least_s = float(given)
    return (least_s, least_s) if "." in given else (least_s + 1, least_s)


def _waits_for_heads(headers: Mapping[str, str]) -> bool:
    return headers.get("x-stainless-lang", "").lower() == "js" or bool(_NODES.search(headers.get("user-agent", "")))
