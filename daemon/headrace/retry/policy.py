"""
Is it worth another try, and when? Pure: time and chance come in as arguments.

Upstream's own word wins: a `retry-after` is never undercut. Without one the wait grows with full jitter. 429 and 529 are
bounded by the deadline alone, since they pass by themselves; other failures are also counted.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from headrace.clock import Clock
from headrace.errors import AttemptFailed, OutOfTime, UpstreamError
from headrace.model import Errand

RETRY_BUDGET = "retry.budget"  # the limit that an error names where retries are at their share
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
        if failure.failure.is_final or (failure.failure.counts and broken >= self.max_attempts):
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


def jitter(random: Callable[[], float] = random.random) -> float:  # not a secret
    """Return a factor from 0.5 to 1.5, by which those who wait for the same do not all come at once."""
    return 0.5 + random()


class Tries:
    """
    The attempts of one call so far, and when the next is due.

    Args:
        made: attempts so far; `broken` of them failed in a way that counts.
        random: as `random.random`.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        clock: Clock,
        *,
        made: int = 0,
        broken: int = 0,
        random: Callable[[], float] = random.random,  # jitter, not a secret
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._random = random
        self.made = made
        self.broken = broken
        self._failure: AttemptFailed | None = None
        self._wait: OutOfTime | None = None
        self._not_before = 0.0

    def __repr__(self) -> str:
        return f"<Tries [{self.made} made, {self.broken} broken]>"

    @property
    def has_failed(self) -> bool:
        """Whether the next attempt, if there is one, has to wait for a due time."""
        return self._failure is not None or self._wait is not None

    def failed(self, failure: AttemptFailed) -> None:
        """Take in how the latest attempt failed."""
        self.broken += failure.failure.counts
        self._failure, self._wait = _bare(failure), None

    def must_wait(self, word: OutOfTime) -> None:
        """Take in that a caller had no time for the next attempt: whoever has, waits as long as upstream asked."""
        self._wait, self._not_before = word, self._clock.now() + (word.retry_after_s or 0.0)

    def last_word(self, due: float) -> OutOfTime:
        """Return upstream's word on the latest attempt, for a caller that cannot wait for the next, due at *due*."""
        if self._wait is not None:
            return self._wait.again()
        if self._failure is None:
            raise RuntimeError("no attempt has failed")
        return _out_of_time(self._failure.error, max(0.0, due - self._clock.now()))

    def due(self, errand: Errand) -> float:
        """Return when the next attempt is due (Unix seconds), or raise upstream's last word: see `RetryPolicy.next_due`."""
        if self._wait is not None:
            if self._not_before >= errand.begin_by:
                raise self._wait.again()
            return self._not_before
        if self._failure is None:
            return self._clock.now()
        return self._policy.next_due(
            self._failure,
            attempt=self.made,
            broken=self.broken,
            deadline=errand.begin_by,
            now=self._clock.now(),
            random=self._random,
        )


def _bare(failure: AttemptFailed) -> AttemptFailed:
    """Return a failure less the frames that it came through: they hold what was heard, which may be large, and it is kept."""
    at: BaseException | None = failure
    while at is not None and at.__traceback__ is not None:
        at.__traceback__ = None
        at = at.__cause__ or at.__context__
    return failure


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
