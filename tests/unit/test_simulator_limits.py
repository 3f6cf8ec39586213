"""The simulator's buckets: exact, all or nothing, and honest about the wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.simulator.limits import Bucket, Limits
from headrace.simulator.options import Options
from headrace.simulator.refusals import Refused

SECOND = 1_000_000_000


class Hand:
    """A nanosecond clock that stands still."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns


def limits(hand: Hand, **options: float) -> Limits:
    return Limits(Options(**options), hand)


def refusal(limits: Limits, input_tokens: int = 1) -> Refused:
    with pytest.raises(Refused) as caught:
        limits.enter("claude-a", input_tokens)
    return caught.value


@given(rate=st.integers(1, 10**7), cost=st.integers(1, 1000), spent=st.integers(0, 2000), later=st.integers(0, 10**12))
def test_wait_is_exact(rate: int, cost: int, spent: int, later: int) -> None:
    """Waiting as long as it says is enough, and a nanosecond less is not."""
    bucket = Bucket(rate, 60, 0)
    bucket.take(spent, 0)
    wait_ns = bucket.wait_ns(min(cost, bucket.capacity), later)
    assert bucket.wait_ns(min(cost, bucket.capacity), later + wait_ns) == 0
    if wait_ns:
        again = Bucket(rate, 60, 0)
        again.take(spent, 0)
        assert again.wait_ns(min(cost, bucket.capacity), later + wait_ns - 1) > 0


@given(st.lists(st.integers(0, SECOND // 3), min_size=1, max_size=200))
def test_never_over_capacity_plus_rate(steps: list[int]) -> None:
    """However often a bucket is asked, it grants no more than capacity plus rate times length."""
    bucket, now, granted = Bucket(600, 1, 0), 0, 0
    for step in steps:
        now += step
        while not bucket.wait_ns(1, now):
            bucket.take(1, now)
            granted += 1
    assert (granted - 10) * 60 * SECOND <= 600 * now
    assert granted >= 10


def test_requests() -> None:
    """The burst goes through, the next is refused, and its retry-after is enough."""
    hand = Hand()
    some = limits(hand, requests_per_minute=60, burst_s=2)
    some.enter("claude-a", 1)
    some.enter("claude-a", 1)
    refused = refusal(some)
    assert (refused.status, refused.outcome, refused.headers) == (429, "limited", {"retry-after": "1"})
    assert "60 requests per minute" in refused.message
    hand.ns += SECOND - 1
    refusal(some)
    hand.ns += 1
    some.enter("claude-a", 1)


def test_retry_after_is_rounded_up() -> None:
    """A wait of a second and a half is told as two: retry-after may be too long, never too short."""
    some = limits(Hand(), requests_per_minute=40, burst_s=1)
    some.enter("claude-a", 1)
    assert refusal(some).headers == {"retry-after": "2"}


def test_models_apart() -> None:
    """One model's load does not touch another's limit."""
    some = limits(Hand(), requests_per_minute=1)
    some.enter("claude-a", 1)
    some.enter("claude-b", 1)
    refusal(some)


def test_all_or_none() -> None:
    """A call refused by one bucket takes nothing from the others."""
    hand = Hand()
    some = limits(hand, requests_per_minute=60, input_tokens_per_minute=600)
    refused = refusal(some, input_tokens=601)
    assert "600 input tokens per minute" in refused.message
    assert some.headers("claude-a")["anthropic-ratelimit-requests-remaining"] == "60"


def test_output_debt() -> None:
    """Output is charged as it comes, into debt, and the debt delays the next call."""
    hand = Hand()
    some = limits(hand, output_tokens_per_minute=60, burst_s=10)
    some.enter("claude-a", 1)
    some.produced("claude-a", 30)
    assert refusal(some).headers == {"retry-after": "21"}
    hand.ns += 21 * SECOND
    some.enter("claude-a", 1)


def test_concurrency() -> None:
    """A place in the air is free again once its call has left."""
    some = limits(Hand(), concurrency=1)
    some.enter("claude-a", 1)
    assert "concurrent connections" in refusal(some).message
    some.leave("claude-a")
    some.enter("claude-a", 1)
    assert repr(some) == "<Limits [1 classes, 1 calls]>"


def test_headers() -> None:
    """Tokens are told in thousands, `tokens` is their sum, and what is not limited is not told."""
    hand = Hand()
    some = limits(hand, input_tokens_per_minute=10_000, output_tokens_per_minute=4_000)
    some.enter("claude-a", 1_600)
    said = some.headers("claude-a")
    left = {name.removeprefix("anthropic-ratelimit-"): value for name, value in said.items() if not name.endswith("-reset")}
    assert left == {
        "input-tokens-limit": "10000",
        "input-tokens-remaining": "8000",
        "output-tokens-limit": "4000",
        "output-tokens-remaining": "4000",
        "tokens-limit": "14000",
        "tokens-remaining": "12000",
    }
    assert said["anthropic-ratelimit-tokens-reset"].endswith("Z")
    assert limits(hand).headers("claude-a") == {}


def test_reset() -> None:
    """A reset fills the buckets."""
    some = limits(Hand(), requests_per_minute=1)
    some.enter("claude-a", 1)
    some.reset()
    some.enter("claude-a", 1)
