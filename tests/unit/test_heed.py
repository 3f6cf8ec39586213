"""What a head says of upstream's limits, and what a bucket may hold by it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.budget.want import Form, Want
from headrace.tuning.heed import Reading, Word, ceiling, distance, heed, rounding

REQUESTS = Want("org:requests", "org", "requests", Form.RATE, 600, 600, 1, is_upstreams=True)
TOKENS = Want("org:input_tokens", "org", "input_tokens", Form.RATE, 60_000, 60_000, 1, is_upstreams=True)


def head(**named: str) -> list[tuple[bytes, bytes]]:
    return [(f"Anthropic-RateLimit-{name.replace('_', '-')}".encode(), value.encode()) for name, value in named.items()]


def test_reads_what_is_there():
    """Limit and remaining of each kind, whatever the spelling of the names; the reset is of no use."""
    word = heed(200, head(requests_limit="50", requests_remaining="49", requests_reset="2026-01-01T00:00:00Z"), 7.0, 7.0)
    assert word == Word(7.0, {"requests": Reading(50, 49)})
    assert word


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"requests_limit": "50"},
        {"requests_limit": "0", "requests_remaining": "0"},
        {"requests_limit": "-5", "requests_remaining": "1"},
        {"requests_limit": "many", "requests_remaining": "1"},
        {"requests_limit": "9" * 40, "requests_remaining": "1"},
        {"unified_limit": "5", "unified_remaining": "5"},
        {"limit": "5", "remaining": "5"},
    ],
)
def test_nothing_said(said):
    """What is not whole, makes no sense or is of another limit says nothing."""
    assert not heed(200, head(**said), 0.0, 0.0)


def test_priority_is_another_capacity():
    """Priority Tier and fast mode have limits of their own, which no bucket of ours stands for."""
    names = ("anthropic-priority-input-tokens", "anthropic-fast-input-tokens")
    raw = [(f"{name}-{what}".encode(), b"9") for name in names for what in ("limit", "remaining")]
    assert not heed(200, raw, 0.0, 0.0)


def test_tokens_of_both_kinds():
    """`tokens` is the most restrictive of the token limits: it counts only where no other is named."""
    both = head(tokens_limit="9", tokens_remaining="8", output_tokens_limit="5", output_tokens_remaining="4")
    assert heed(200, both, 0.0, 0.0).readings == {"output_tokens": Reading(5, 4)}
    assert heed(200, head(tokens_limit="9", tokens_remaining="8"), 0.0, 0.0).readings == {"total_tokens": Reading(9, 8)}


def test_refusals_tell_how_short():
    """A refusal's wait tells how deep the debt is that upstream calls 0; its seconds are rounded up."""
    raw = [*head(input_tokens_limit="60000", input_tokens_remaining="0"), (b"retry-after", b"5")]
    assert heed(429, raw, 0.0, 0.0).short_s == 4.0
    assert heed(200, raw, 0.0, 0.0).short_s == 0.0
    assert ceiling(TOKENS, heed(429, raw, 0.0, 0.0), 0.0) == 500 - distance(TOKENS) - 4000
    assert ceiling(REQUESTS, heed(429, raw, 0.0, 0.0), 0.0) is None


@given(st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=20))), st.integers(100, 599))
def test_any_head(raw, status):
    """Whatever comes, it is read or says nothing."""
    raw = [(b"anthropic-ratelimit-" + name, value) for name, value in raw] + raw
    heed(status, raw, 0.0, 0.0)


@given(st.integers(1, 10**6), st.integers(1, 120), st.integers(0, 10**6), st.sampled_from(["requests", "input_tokens"]))
def test_ceiling(rate, burst_s, remaining, kind):
    """A fresh word is never undercut by more than the distance, nor passed by more than the rounding."""
    want = Want("b", "l", kind, Form.RATE, rate, max(1, rate * burst_s // 60), 1)
    most = ceiling(want, Word(10.0, {kind: Reading(rate, remaining)}), 10.5)
    assert min(want.capacity, remaining - distance(want)) <= most <= min(want.capacity, remaining + rounding(kind))
    assert distance(want) <= want.capacity / 10


def test_old_word():
    """A word that is older than a second lets in what has come since."""
    word = Word(100.0, {"requests": Reading(600, 50)})
    assert ceiling(REQUESTS, word, 131.0) == ceiling(REQUESTS, word, 101.0) + 300
