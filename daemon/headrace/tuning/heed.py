"""
What the head of an answer says of upstream's limits: read, and turned into what our own buckets may hold at most. Pure.

Upstream names three figures for each kind of limit, all of them of one model class: the limit (a minute), what remains, and
when it will be full again; with the first two the last tells how much upstream's bucket holds. `tokens` is, as upstream
documents it, the most restrictive of the token limits, so it counts only where neither input nor output is named.
`anthropic-priority-*`, `anthropic-fast-*` and `anthropic-ratelimit-unified-*` are of other capacity than a bucket of ours
stands for, and are not read.

What remains is a bound from above, never a reason to grant more, and it is an old one: by the time it is here, calls of ours
are on their way that it does not know. So our level is kept a little below it. That distance costs a moment's inflow, once:
from then on both levels move side by side, and what others take shows as the distance growing less. For the same reason it
does no harm that tokens come rounded: an error that is bounded can lower a level only once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime

from headrace.budget.want import Form, Kind, Want
from headrace.upstream.failures import retry_after
from headrace.values import quick

_WAITS = (b"retry-after", b"retry-after-ms", b"date")
_KINDS: dict[str, Kind] = {
    "requests": "requests",
    "input-tokens": "input_tokens",
    "output-tokens": "output_tokens",
    "tokens": "total_tokens",
}
_NAMES = {
    f"anthropic-ratelimit-{kind}-{what}".encode(): (kind, what) for kind in _KINDS for what in ("limit", "remaining", "reset")
}
_MOST = 2**53 // 60_000_000  # tokens that our buckets can hold; more is no limit to us
_FRESH_S = 1.0
_MINUTE_S = 60


@dataclass(frozen=True, slots=True)
class Reading:
    """What upstream says of one kind: how much a minute, how much is left, and for how many seconds its bucket holds inflow."""

    per_minute: int
    remaining: int
    burst_s: int = _MINUTE_S


@quick(frozen=True, slots=True)
class Word:
    """
    What one head says.

    Args:
        at: when its call was sent (Unix seconds); it holds for that moment or a later one.
        short_s: upstream refused the call, and says that it takes at least so long until what is short has flowed in.
    """

    at: float
    readings: dict[Kind, Reading] = field(default_factory=dict)
    short_s: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.readings)


def heed(status: int, raw_headers: Iterable[tuple[bytes, bytes]], sent_at: float, now: float) -> Word:
    """Return what a head says; a word without readings if it says nothing of limits, or nothing that makes sense."""
    figures: dict[str, dict[str, int]] = {}
    resets: dict[str, str] = {}
    waits: list[tuple[str, str]] = []
    for raw_name, value in raw_headers:
        name = raw_name.lower()
        if name in _NAMES:
            kind, what = _NAMES[name]
            if what == "reset":
                resets[kind] = value.decode("latin-1")
            elif value.isdigit() and len(value) < 16:
                figures.setdefault(kind, {})[what] = int(value)
        elif name in _WAITS:
            waits.append((name.decode(), value.decode("latin-1")))
    if not figures:
        return Word(sent_at, short_s=_short_s(status, waits))
    upstream_now = _moment_of_http(dict(waits).get("date", "")) or now
    return Word(sent_at, _readings(figures, resets, upstream_now), _short_s(status, waits))


def _short_s(status: int, waits: list[tuple[str, str]]) -> float:
    # Waits come in whole seconds, rounded up.
    return max(0.0, (retry_after(tuple(waits)) or 0.0) - 1.0) if status == 429 else 0.0


def _readings(figures: dict[str, dict[str, int]], resets: dict[str, str], upstream_now: float) -> dict[Kind, Reading]:
    readings = {
        _KINDS[kind]: Reading(said["limit"], said["remaining"], _burst_s(said, resets.get(kind, ""), upstream_now))
        for kind, said in figures.items()
        if 0 < said.get("limit", 0) <= _MOST and "remaining" in said
    }
    if readings.keys() & {"input_tokens", "output_tokens"}:
        readings.pop("total_tokens", None)
    return readings


def _burst_s(said: dict[str, int], reset: str, upstream_now: float) -> int:
    """Return for how long inflow fits into upstream's bucket, rounded up; both moments come in whole seconds."""
    full_at = _moment(reset)
    if full_at is None:
        return _MINUTE_S
    held_s = math.ceil(60 * said["remaining"] / said["limit"] + max(0.0, full_at - upstream_now)) + 1
    return min(held_s, _MINUTE_S)


# Moments come in whole seconds, so the same ones come again and again.


@functools.lru_cache(256)
def _moment(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None


@functools.lru_cache(16)
def _moment_of_http(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def rounding(kind: Kind) -> int:
    """Return by how much more may be left than upstream says: requests are whole ones, tokens the nearest thousand."""
    return 1 if kind == "requests" else 500


def distance(want: Want) -> int:
    """
    Return how far a bucket's level is kept below upstream's: what flows in in 1.2 s (which answers may take to tell us of what
    others took), and the rounding; at most a tenth of the bucket, since a level that is never near it helps nobody.
    """
    return min(want.capacity // 10, want.rate_per_minute // 50 + rounding(want.kind))


def ceiling(want: Want, word: Word, now: float) -> int | None:
    """
    Return how much a bucket may hold at most by now, in tokens; None if the word says nothing of it.

    A word that is older than a second lets in what has come since; that is more than there is, if calls of ours went since.
    """
    reading = word.readings.get(want.kind)
    if reading is None or want.form is not Form.RATE:
        return None
    since_s = max(0.0, now - word.at - _FRESH_S)
    # What upstream calls 0 may be far below it: of a debt only the wait tells.
    short_s = word.short_s if reading.remaining == 0 else 0.0
    flowed = int((since_s - short_s) * want.rate_per_minute / 60)
    return min(want.capacity, reading.remaining + rounding(want.kind) - distance(want) + flowed)
