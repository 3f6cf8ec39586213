"""
Is it worth another try, and when? Pure: time and chance come in as arguments.

Upstream's own word wins: a `retry-after` is never undercut. Without one the wait grows with full jitter. 429 and 529 are
bounded by the deadline alone, since they pass by themselves; other failures are also counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from headrace.errors import AttemptFailed, Failure, OutOfTime, UpstreamError

_MAX_DOUBLINGS = 30  # keeps 2**n a sane float in a storm of hours


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """
    When the next attempt is due.

    Args:
        max_attempts: of failures that count (neither 429 nor 529), the first included.
        backoff_low_s, backoff_high_s: the ceiling of the first wait, and of any.
    """

    max_attempts: int = 8
    backoff_low_s: float = 0.5
    backoff_high_s: float = 30.0

    def next_due(
        self, failure: AttemptFailed, *, attempt: int, broken: int, deadline: float, now: float, random: Callable[[], float]
    ) -> float:
        """
        Return when the next attempt is due (Unix seconds, before *deadline*), or raise upstream's own error.

        If it is only the deadline that is in the way, that is an `OutOfTime`, which says the same.

        Args:
            attempt: the number of the attempt that failed.
            broken: how many attempts failed so far in a way that counts, this one included.
            random: as `random.random`.
        """
        if failure.failure is Failure.FINAL or (failure.failure.counts and broken >= self.max_attempts):
            raise failure.error
        wait_s = self._wait_s(failure.retry_after_s or 0.0, attempt, deadline - now, random())
        due = now + wait_s
        if due >= deadline:
            raise _out_of_time(failure.error, wait_s)
        return due

    def _wait_s(self, retry_after_s: float, attempt: int, left_s: float, chance: float) -> float:
        if retry_after_s > 0:
            # Everybody was told the same moment, so spread a little after it, as far as the deadline allows.
            spread_s = min(self.backoff_low_s, retry_after_s / 4, max(0.0, (left_s - retry_after_s) / 2))
            return retry_after_s + chance * spread_s
        # Full jitter down to zero would let a storm hammer: half the lowest ceiling is the floor. And a wait takes at most
        # half of what is left to the deadline, so that a late call gets its last tries, closer and closer together.
        floor_s = self.backoff_low_s / 2
        ceiling_s = min(self.backoff_high_s, self.backoff_low_s * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS), left_s / 2)
        return floor_s + chance * max(0.0, ceiling_s - floor_s)


def _out_of_time(error: UpstreamError, wait_s: float) -> OutOfTime:
    return OutOfTime(
        error.message,
        status=error.status,
        type=error.type,
        body=error.body,
        headers=error.headers,
        retry_after_s=error.retry_after_s or wait_s,
        metadata=error.metadata,
    )
