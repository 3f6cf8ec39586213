"""
Deadlines: what a caller says of its time, as moments; and a moment as a block of code, in which what is not done is given up.

A time that a caller *states* (a gRPC deadline, `x-headrace-timeout-ms`) bounds the whole of its call. One that is *implied* (an
SDK's header, the configuration's word) bounds the time until there is something to say.
"""

from __future__ import annotations

from types import TracebackType

from headrace.clock import Clock
from headrace.errors import BudgetExhausted, DeadlinePassed, Refusal
from headrace.trail import Trail
from headrace.values import quick

_LONGEST_S = 86_400.0  # a deadline later than this is as good as this
_AGAIN_S = 1.0  # nobody knows when a call that runs gives its permit back
_MARGIN_S = 0.5  # a failed attempt and its answer take so long, or an eighth of the time, if that is less


@quick(frozen=True, slots=True)
class Moments:
    """What `model.Errand` says of time: until when, how much earlier the caller may give up, and when all must be over."""

    deadline: float
    slack_s: float = 0.0
    ends: float | None = None


@quick(frozen=True, slots=True)
class Wait:
    """
    How long a caller will wait, in seconds from its arrival; None where nobody said.

    Args:
        stated_s: for the whole of its call.
        implied_s: until its library gives up; *surely_s* is the least that the library may mean by what it says.
        gives_up_s: until its library gives up on an answer of which it has not seen the head, whatever was said.
        unsaid_s: at most so long, where neither the caller nor the configuration says anything.
    """

    stated_s: float | None = None
    implied_s: float | None = None
    surely_s: float | None = None
    gives_up_s: float | None = None
    unsaid_s: float | None = None

    def moments(self, now: float, *, usual_s: float, configured_s: float | None = None, is_stream: bool) -> Moments:
        """
        Return the moments that follow.

        Args:
            usual_s: how long such calls are waited for where nobody says anything.
            configured_s: what the configuration says of this caller's library.
            is_stream: the head of a stream goes out early, so those who wait for a head do not bound it.
        """
        most = [span for span in (self.stated_s, self.implied_s) if span is not None]
        least = [span for span in (self.stated_s, self.surely_s) if span is not None]
        if not most and configured_s is not None:
            most = least = [configured_s]
        is_named = bool(most)
        if not is_stream:
            unsaid_s = None if is_named else self.unsaid_s
            heads = [span for span in (self.gives_up_s, unsaid_s) if span is not None]
            most, least = [*most, *heads], [*least, *heads]
        if not most:
            return Moments(now + min(usual_s, _LONGEST_S))
        until_s, surely_s = min(*most, _LONGEST_S), min(*least, _LONGEST_S)
        if not is_named and until_s > usual_s:
            return Moments(now + usual_s)
        slack_s = until_s - surely_s + margin_s(surely_s)
        ends = now + min(self.stated_s, _LONGEST_S) if self.stated_s is not None else None
        return Moments(now + until_s, min(slack_s, until_s), ends)


def margin_s(span_s: float) -> float:
    """Return by how many seconds sooner than a caller who waits *span_s* gives up there is to be an answer, or a no."""
    return min(_MARGIN_S, span_s / 8)


class Bound:
    """
    The moment by which a block must be done. It can be moved while the block runs. On the way of every call, so a class.

    Of a call that a limit has held until then, as its *trail* tells, that limit is named.
    """

    __slots__ = ("_clock", "_timeout", "_trail", "is_moved")

    def __init__(self, deadline: float, clock: Clock, trail: Trail | None = None) -> None:
        self._timeout = clock.timeout(deadline - clock.now())
        self._trail = trail
        self._clock = clock
        self.is_moved = False

    async def __aenter__(self) -> Bound:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            await self._timeout.__aexit__(kind, error, tb)
        except TimeoutError as rung:
            raise self._passed() from rung
        if isinstance(error, TimeoutError) and self._timeout.expired():  # a bound inside rang at the same moment
            raise self._passed() from error

    def _passed(self) -> Refusal:
        if not self.is_moved and self._trail is not None and (limit := self._trail.stopped_by):
            return no_room(limit)
        what = "its answer was whole" if self.is_moved else "there was an answer"
        return DeadlinePassed(f"the call's deadline passed before {what}")

    def move(self, deadline: float | None) -> None:
        """Let the block take until another moment (Unix seconds), or as long as it does (None)."""
        if not self._timeout.expired():
            self.is_moved = True
            self._clock.reset(self._timeout, None if deadline is None else deadline - self._clock.now())


def no_room(limit: str) -> BudgetExhausted:
    """Return what is said of a call that a limit has held for as long as its caller had."""
    said = f"limit {limit} had no room for this call before its deadline"
    return BudgetExhausted(said, retry_after_s=_AGAIN_S, metadata={"limit": limit})


def until(deadline: float, clock: Clock, trail: Trail | None = None) -> Bound:
    """
    Return a context that runs its block until *deadline* (Unix seconds), then cancels it and raises `DeadlinePassed`.

    With the *trail* of a call it is `BudgetExhausted` where that call came no further than a limit.
    """
    return Bound(deadline, clock, trail)
