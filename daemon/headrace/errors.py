"""
What can go wrong, sorted by what the caller can do about it.

One tree. Each error has a `reason` (a constant that machines compare), a message for people, `metadata` with everything
dynamic that the message says, and `retry_after_s` where waiting helps. The edges translate: `edge/status.py` for gRPC,
`edge/http_errors.py` for HTTP; nobody else knows a status code of ours.

`Refusal` is our own word to one caller (its budget, its deadline, our drain) and is never shared with other callers of
the same flight. `UpstreamError` is what upstream said, and is shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Self

from headrace.trail import Trail


class HeadraceError(Exception):
    """Anything we say no with. `reason` is UPPER_SNAKE_CASE and stable."""

    reason = "INTERNAL"
    is_told = False  # an outcome was made of it already
    trail: Trail | None = None  # of the call that it ended

    def __init__(self, message: str, *, retry_after_s: float | None = None, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.metadata = dict(metadata or {})

    def again(self) -> Self:
        """
        Return an error that says the same, to be raised for one more caller.

        Each caller gets an object of its own: one that is raised many times grows a traceback by every frame it passes, and
        keeps all those frames, with the bodies in them, alive.
        """
        copy = self.__class__.__new__(self.__class__, *self.args)
        copy.__dict__.update(self.__dict__)
        copy.is_told, copy.trail = False, None
        return copy


class Refusal(HeadraceError):
    """Our own no to one caller; a follower of the same flight is not bound by it."""


class InvalidCall(Refusal):
    """The call itself is wrong: bad JSON, a missing field, a bad header."""

    reason = "INVALID_CALL"


class TooLarge(Refusal):
    """The body is over the endpoint's size limit."""

    reason = "TOO_LARGE"


class TooSlow(Refusal):
    """The caller sends its body, or takes in the answer, at less than the least pace (`upstream.carried_pace`)."""

    reason = "TOO_SLOW"


class UnknownCaller(Refusal):
    """No key, or a key that is not (or no longer) ours."""

    reason = "UNKNOWN_CALLER"


class NotAllowed(Refusal):
    """A known caller asks for what it may not have."""

    reason = "NOT_ALLOWED"


class BudgetExhausted(Refusal):
    """
    The call does not fit the caller's budget before its deadline; `retry_after_s` says when it would.

    Without `retry_after_s` it never fits: its input alone is over the capacity of a bucket.
    """

    reason = "BUDGET_EXHAUSTED"


class UpstreamOverloaded(BudgetExhausted):
    """Upstream has said that the call's model class is overloaded, and it may not be asked before the call's deadline."""

    reason = "UPSTREAM_OVERLOADED"


class CallerOnHold(Refusal):
    """
    An admin has put the caller on hold; `retry_after_s` says how long at most, if that is known.

    `is_at_once` says that its calls are refused as they come, and not since they have waited too long.
    """

    reason = "CALLER_ON_HOLD"
    is_at_once = False


class QueueFull(Refusal):
    """Too many calls or bytes wait already (`schedule.max_waiting`, `max_waiting_bytes`)."""

    reason = "QUEUE_FULL"


class DeadlinePassed(Refusal):
    """The call's deadline passed, or the next attempt would start after it."""

    reason = "DEADLINE_PASSED"


class Draining(Refusal):
    """The daemon is leaving and takes no new calls."""

    reason = "DRAINING"


class RedisAway(Refusal):
    """Redis cannot be reached, and the call needs it."""

    reason = "REDIS_AWAY"


class RedisRefused(RedisAway):
    """
    Redis is there and will not do what the call needs, until somebody changes it: an ACL, a Cluster, a foreign value.

    What is done without Redis is done without such a one; but there is nothing to wait for.
    """

    reason = "REDIS_REFUSED"


class NotCached(Refusal):
    """only-if-cached was asked, and there is no fresh entry."""

    reason = "NOT_CACHED"


class IdempotencyConflict(Refusal):
    """The idempotency key was used for another call in the last 24 hours."""

    reason = "IDEMPOTENCY_CONFLICT"


class TicketNotFound(Refusal):
    """No such ticket for this caller."""

    reason = "TICKET_NOT_FOUND"


class TicketLost(TicketNotFound):
    """A ticket that was there and is not any more: Redis has lost data. Whoever asks again begins anew."""

    reason = "TICKET_LOST"


class ResourceNotFound(Refusal):
    """What the call names at upstream is not there for this caller: another made it, or nobody did through us."""

    reason = "RESOURCE_NOT_FOUND"


class LimitNotFound(Refusal):
    """No limit of this name is configured; the message names those that are."""

    reason = "LIMIT_NOT_FOUND"


class OverrideNotFound(Refusal):
    """Nothing is laid over the limit, or the caller is not on hold."""

    reason = "OVERRIDE_NOT_FOUND"


class HostNotFound(Refusal):
    """No process of this name shares the Redis; the message names those that do."""

    reason = "HOST_NOT_FOUND"


class CallNotFound(Refusal):
    """Nothing is kept of a call or ticket of this id: there was none, it went smoothly, or it is over a day old."""

    reason = "CALL_NOT_FOUND"


class Canceled(Refusal):
    """The ticket was canceled by its caller."""

    reason = "CANCELED"


class Abandoned(Canceled):
    """The ticket was canceled since nobody waited for it any more. Whoever comes after that is not bound by it."""


class UpstreamError(HeadraceError):
    """
    Upstream's final word, or our word for its silence. Shared by all callers of a flight.

    `status` is upstream's HTTP status (or 502/504 where it gave none), `body` its exact bytes, `headers` those worth
    passing on. `type` is Anthropic's error type. `is_untried` says that a repeat by the caller may help: we could make none,
    since the body had gone by already.
    """

    reason = "UPSTREAM_ERROR"

    def __init__(
        self,
        message: str,
        *,
        status: int,
        type: str = "api_error",
        body: bytes = b"",
        headers: tuple[tuple[str, str], ...] = (),
        retry_after_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s, metadata=metadata)
        self.status = status
        self.type = type
        self.body = body
        self.headers = headers
        self.is_untried = False


class ConfigError(Exception):
    """The configuration is wrong; the message names the key, the value and what would be right. CLI prints it, exit 2."""


class StartupError(Exception):
    """The daemon cannot start here: an occupied address, a read-only directory. CLI prints it, exit 1."""


class Failure(StrEnum):
    """Why an attempt failed, as far as retries and budgets care."""

    RATE_LIMITED = "rate_limited"  # 429 that waiting clears: tokens go back, any number of tries
    OVERLOADED = "overloaded"  # 529, or overloaded_error inside a stream: the same
    BROKEN = "broken"  # 408, 5xx, api_error inside a stream, a broken or silent connection: use unknown
    UNREADABLE = "unreadable"  # 200, whole, and not to be read here: a repeat would be paid for again; use unknown
    FINAL = "final"  # any other 4xx, spend limits: no repeat can help; no tokens were used

    @property
    def counts(self) -> bool:
        """Whether `retry.max_attempts` counts it; the others are bounded by the deadline alone."""
        return self is Failure.BROKEN

    @property
    def is_final(self) -> bool:
        """Whether no repeat can help."""
        return self in (Failure.FINAL, Failure.UNREADABLE)

    @property
    def has_used(self) -> bool:
        """Whether tokens may have been used, nobody knows how many."""
        return self in (Failure.BROKEN, Failure.UNREADABLE)


class AttemptFailed(HeadraceError):
    """
    One upstream try failed. Internal: retry policy turns it into a wait, or into `error`.

    Args:
        failure: why.
        error: what the caller is told when there is no further attempt.
        sent: False only if surely nothing reached upstream.
    """

    reason = "ATTEMPT_FAILED"

    def __init__(self, failure: Failure, error: UpstreamError, *, sent: bool = True) -> None:
        super().__init__(error.message, retry_after_s=error.retry_after_s, metadata=error.metadata)
        self.failure = failure
        self.error = error
        self.sent = sent


class OutOfTime(UpstreamError):
    """
    Upstream's word on the last attempt that a caller had time for; `retry_after_s` is how long the next would have to wait.

    Whoever shares the flight and has longer than that is not bound by it.
    """


class BrokenStream(UpstreamError):
    """
    Upstream broke off after its first content.

    A retry would be seen by whoever has had some of it, so for them it is final; whoever has had nothing asks again.
    """

    reason = "BROKEN_STREAM"
