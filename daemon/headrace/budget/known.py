"""
What callers are told of their budget: the levels that the ledger last named, as `anthropic-ratelimit-*` headers. Pure.

No question is asked for a header. A bucket of which nothing is known yet is not mentioned; of several limits on one kind, the
tightest is told. `limit` is the bucket's capacity, which is what `remaining` comes back to at `reset`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from headrace.budget.want import Want
from headrace.model import Headers

_NAMES = {
    "requests": "requests", "input_tokens": "input-tokens", "output_tokens": "output-tokens", "total_tokens": "tokens",
}  # fmt: skip
_BOUND = 8192
_TOLD_S = 0.1  # a hit costs less than spelling nine headers, so they are spelled anew this often and no more


class Known:
    """The last known levels."""

    def __init__(self) -> None:
        self._levels: dict[str, tuple[int, float]] = {}  # bucket id -> whole tokens left, and when
        self._told: dict[int, tuple[tuple[Want, ...], float, Headers]] = {}

    def __repr__(self) -> str:
        return f"<Known [{len(self._levels)} buckets]>"

    def learn(self, wants: Sequence[Want], levels: Sequence[int], now: float) -> None:
        """Take in what the ledger said is left, want by want."""
        if len(self._levels) > _BOUND:
            self._levels.clear()
        for want, level in zip(wants, levels, strict=False):
            self._levels[want.bucket_id] = level, now

    def left(self, want: Want, now: float) -> int | None:
        """Return how much is left in a bucket, by what was seen of it last; None if nothing was."""
        seen = self._levels.get(want.bucket_id)
        if seen is None:
            return None
        level, at = seen
        return min(want.capacity, level + int((now - at) * want.rate_per_minute / 60))

    def headers(self, wants: tuple[Want, ...], now: float) -> Headers:
        """Return the headers for a call that draws from these buckets, a tenth of a second old at most."""
        # By identity: equal calls share one tuple of buckets, and hashing it would cost as much as spelling.
        known, told_at, told = self._told.get(id(wants), ((), 0.0, ()))
        if known is not wants or not 0 <= now - told_at < _TOLD_S:
            told = self._headers(wants, now)
            if len(self._told) > _BOUND:
                self._told.clear()
            self._told[id(wants)] = wants, now, told
        return told

    def _headers(self, wants: tuple[Want, ...], now: float) -> Headers:
        tightest: dict[str, tuple[int, Want]] = {}
        for want in wants:
            if want.kind in _NAMES and not want.is_shadow and want.bucket_id in self._levels:
                left = self.left(want, now) or 0
                if want.kind not in tightest or left < tightest[want.kind][0]:
                    tightest[want.kind] = left, want
        return tuple(header for left, want in tightest.values() for header in _headers(want, left, now))


def _headers(want: Want, left: int, now: float) -> Headers:
    full_at = now + (want.capacity - left) * 60 / want.rate_per_minute
    name = f"anthropic-ratelimit-{_NAMES[want.kind]}"
    return (
        (f"{name}-limit", str(want.capacity)),
        (f"{name}-remaining", str(max(0, left))),
        (f"{name}-reset", datetime.fromtimestamp(full_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")),
    )
