"""When the next attempt is due, or why there is none."""

from __future__ import annotations

import gc
import math
import weakref
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.clock import HandClock
from headrace.errors import AttemptFailed, Failure, OutOfTime, UpstreamError
from headrace.retry.policy import RetryPolicy, Tries
from scripted import CALL

NOW = 1_800_000_000.0
POLICY = RetryPolicy(max_attempts=8, backoff_low_s=0.5, backoff_high_s=30.0)
WAITABLE = (Failure.RATE_LIMITED, Failure.OVERLOADED)

chances = st.floats(0, 1, exclude_max=True)


def failed(failure: Failure, retry_after_s: float | None = None) -> AttemptFailed:
    return AttemptFailed(failure, UpstreamError("no", status=529, retry_after_s=retry_after_s))


def due(failure: AttemptFailed, *, attempt: int = 1, broken: int = 0, left_s: float = 600.0, chance: float = 0.5) -> float:
    return POLICY.next_due(failure, attempt=attempt, broken=broken, deadline=NOW + left_s, now=NOW, random=lambda: chance)


@given(
    failure=st.sampled_from([*WAITABLE, Failure.BROKEN]),
    retry_after_s=st.none() | st.floats(0, 1e6),
    attempt=st.integers(1, 10_000),
    left_s=st.floats(-10, 1e6),
    chance=chances,
)
def test_bounds(failure, retry_after_s, attempt, left_s, chance):
    """Whatever comes: never before retry-after, never at or after the deadline, and no hammering; else upstream's error."""
    failure = failed(failure, retry_after_s)
    when = error = None
    try:
        when = due(failure, attempt=attempt, broken=1, left_s=left_s, chance=chance)
    except UpstreamError as raised:
        error = raised
    if when is None:
        assert isinstance(error, OutOfTime)
        assert (str(error), error.status) == (str(failure.error), failure.error.status)
        assert left_s <= max(0.25, retry_after_s or 0) + 1e-6
    else:
        assert NOW + (retry_after_s or 0.25) <= when < NOW + left_s
        assert when - NOW <= max(30.0, (retry_after_s or 0) + 0.5) + 1e-6


@given(chance=chances, attempt=st.integers(1, 12))
def test_jitter(chance, attempt):
    """Without a retry-after the wait is spread evenly from the floor up to a ceiling that doubles."""
    ceiling_s = min(30.0, 0.5 * 2 ** (attempt - 1))
    when = due(failed(Failure.OVERLOADED), attempt=attempt, chance=chance)
    assert when - NOW == pytest.approx(0.25 + chance * (ceiling_s - 0.25), abs=1e-5)


@pytest.mark.parametrize("failure", WAITABLE)
def test_waitable_without_count(failure):
    """429 and 529 are bounded by the deadline alone."""
    assert due(failed(failure), attempt=100_000, broken=0) > NOW


def test_broken_is_counted():
    """Of failures that count, the last allowed one is final; 429s between them do not count."""
    assert due(failed(Failure.BROKEN), attempt=50, broken=7) > NOW
    failure = failed(Failure.BROKEN)
    with pytest.raises(UpstreamError) as raised:
        due(failure, attempt=8, broken=8)
    assert raised.value is failure.error
    assert due(failed(Failure.RATE_LIMITED), attempt=9, broken=8) > NOW


def test_final():
    """What no repeat can help is not repeated, retry-after or not."""
    with pytest.raises(UpstreamError):
        due(failed(Failure.FINAL, 0.001))


def test_retry_after_beyond_deadline():
    """A retry-after past the deadline is refused at once, with upstream's own error and its retry-after."""
    with pytest.raises(UpstreamError) as raised:
        due(failed(Failure.RATE_LIMITED, 60.0), left_s=60.0)
    assert raised.value.retry_after_s == 60.0
    assert due(failed(Failure.RATE_LIMITED, 60.0), left_s=60.1) < NOW + 60.1


def test_last_tries():
    """A call with little time left gets a few more tries, each after at most half of what is left."""
    left_s, tries = 20.0, 0
    while True:
        try:
            wait_s = due(failed(Failure.OVERLOADED), attempt=10, left_s=left_s, chance=0.999) - NOW
        except UpstreamError:
            break
        assert wait_s <= max(0.25, left_s / 2)
        left_s, tries = left_s - wait_s, tries + 1
    assert 5 <= tries <= 10


def test_spread():
    """Those who were told the same moment come a little after it, not all at once."""
    waits = [due(failed(Failure.RATE_LIMITED, 10.0), chance=c / 10) - NOW for c in range(10)]
    assert len(set(waits)) == 10
    assert min(waits) == 10.0
    assert math.isclose(max(waits), 10.45, abs_tol=1e-6)


# The attempts of one call.


def tries(**options):
    clock = HandClock(1000.0)
    return Tries(RetryPolicy(3, 1.0, 30.0), clock, random=lambda: 0.0, **options), clock


def errand(begin_by):
    return replace(CALL, deadline=begin_by + 2, slack_s=2.0)


def test_planned_for_the_least():
    """No attempt is due past the moment at which its caller may give up: upstream's last word is said instead."""
    attempts, _ = tries(made=1)
    attempts.failed(failed(Failure.OVERLOADED))
    assert attempts.due(errand(1001.0)) == 1000.5
    with pytest.raises(OutOfTime):
        attempts.due(errand(1000.4))


def test_time_passes_on():
    """What one caller had no time for, another waits for, as long as upstream asked; it too only if it has the time."""
    attempts, clock = tries(made=1)
    attempts.must_wait(OutOfTime("busy", status=529, retry_after_s=5.0))
    with pytest.raises(OutOfTime) as one:
        attempts.due(errand(1004.0))
    with pytest.raises(OutOfTime) as two:
        attempts.due(errand(1004.0))
    assert one.value is not two.value
    assert attempts.due(errand(1006.0)) == clock.now() + 5.0


def test_counted():
    """Only failures that count are counted, and so many as the policy says are made."""
    attempts, _ = tries(made=1)
    for _ in range(5):
        attempts.failed(failed(Failure.RATE_LIMITED))
    for _ in range(3):
        attempts.failed(failed(Failure.BROKEN))
    assert repr(attempts) == "<Tries [1 made, 3 broken]>"
    with pytest.raises(UpstreamError):
        attempts.due(errand(1e9))


class Heard:
    """What a frame holds that an error comes through."""


def raised(error: Exception, cause: Exception | None, seen: list[weakref.ref[Heard]]) -> None:
    said = Heard()
    seen.append(weakref.ref(said))
    raise error from cause


def test_kept_without_frames():
    """What was heard before an attempt failed is gone at once, though the failure and its cause are kept until the next."""
    tries, seen = Tries(POLICY, HandClock()), []
    gc.disable()  # it would find them, some day
    try:
        try:
            raised(ValueError(), None, seen)
        except ValueError as cause:
            try:
                raised(failed(Failure.BROKEN), cause, seen)
            except AttemptFailed as failure:
                tries.failed(failure)
        assert [heard() for heard in seen] == [None, None]
    finally:
        gc.enable()
