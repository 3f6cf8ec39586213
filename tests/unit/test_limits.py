"""Which buckets a call draws from, and which limits cannot be kept."""

from __future__ import annotations

import re

import pytest

from headrace.budget.bucket import MAX_UNITS, UNITS
from headrace.budget.estimate import Estimate
from headrace.budget.limits import Limit, Limits, Match, validate
from headrace.model import Call, Caller, Lane


def call(model: str = "claude-x", caller: str = "ann", lane: Lane = Lane.STANDARD) -> Call:
    return Call(
        caller=Caller(caller), body=b"{}", model=model, max_tokens=100, stream=False, version="", betas=(), headers=(),
        lane=lane, fingerprint="f", scope=caller, arrival=0.0, deadline=60.0,
    )  # fmt: skip


NOW = 1_800_000_000.0
ESTIMATE = Estimate(input_tokens=50, output_tokens=40)


def test_kinds():
    """A limit owns one bucket of each kind that it bounds, and a call wants its estimate of each."""
    limit = Limit(
        "org", requests_per_minute=600, input_tokens_per_minute=6000, output_tokens_per_minute=3000, concurrency=5, burst_s=2.0
    )
    wants = Limits([limit]).wants(call(), ESTIMATE, NOW)
    assert [(want.bucket_id, want.rate_per_minute, want.capacity, want.cost) for want in wants] == [
        ("org:requests", 600, 20, 1),
        ("org:input_tokens", 6000, 200, 50),
        ("org:output_tokens", 3000, 100, 40),
        ("org:concurrency", 0, 5, 1),
    ]


def test_match():
    """All globs must match; any number of limits may hold for one call."""
    limits = Limits(
        [
            Limit("models", Match(model="claude-*"), requests_per_minute=60),
            Limit("anns", Match(caller="ann"), requests_per_minute=60),
            Limit("batch", Match(lane="batch"), requests_per_minute=60),
            Limit("both", Match(model="claude-*", caller="bob"), requests_per_minute=60),
        ]
    )
    assert [want.limit for want in limits.wants(call(), ESTIMATE, NOW)] == ["models", "anns"]
    assert [want.limit for want in limits.wants(call("gpt", "bob", Lane.BATCH), ESTIMATE, NOW)] == ["batch"]


def test_per():
    """Each distinct value has a bucket of its own; the order in `per` means nothing."""
    one = Limits([Limit("org", per=("model", "caller"), requests_per_minute=60)])
    two = Limits([Limit("org", per=("caller", "model"), requests_per_minute=60)])
    assert one.wants(call(), ESTIMATE, NOW) == two.wants(call(), ESTIMATE, NOW)
    ids = {one.wants(call(model, caller), ESTIMATE, NOW)[0].bucket_id for model in "ab" for caller in "cd"}
    assert len(ids) == 4
    assert "org:requests:caller=c:model=a" in ids


@pytest.mark.parametrize("model", ["ü" * 500, "a b", "x}{y", "", "\ud800", "~plain", "a:caller=b"])
def test_safe_ids(model):
    """Whatever a caller calls its model, the bucket's name is short and plain, and its own."""
    limits = Limits([Limit("org", per=("model",), requests_per_minute=60)])
    bucket_id = limits.wants(call(model), ESTIMATE, NOW)[0].bucket_id
    assert re.fullmatch(r"org:requests:model=~[0-9a-f]{24}", bucket_id)
    assert bucket_id != limits.wants(call(model + "x"), ESTIMATE, NOW)[0].bucket_id


def test_clamp():
    """An estimate over the capacity is cut to it; an input that is surely over it is not."""
    limits = Limits([Limit("org", input_tokens_per_minute=100, output_tokens_per_minute=10)])
    wants = limits.wants(call(), Estimate(input_tokens=500, output_tokens=90, input_floor=80), NOW)
    assert [want.cost for want in wants] == [100, 10]
    never, _ = limits.wants(call(), Estimate(input_tokens=500, output_tokens=90, input_floor=101), NOW)
    assert never.cost > never.capacity


def test_memo_is_bounded():
    """Models that callers make up do not fill the memory."""
    limits = Limits([Limit("org", requests_per_minute=60)])
    for number in range(10_000):
        limits.wants(call(f"m{number}"), ESTIMATE, NOW)
    assert len(limits._memo) <= 4096


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        (Limit("org"), "bounds nothing"),
        (Limit("a b", concurrency=1), "name 'a b'"),
        (Limit("org", per=("colour",), concurrency=1), "per 'colour': use any of caller, model, lane"),
        (Limit("org", concurrency=0), "concurrency 0: at least 1"),
        (Limit("org", requests_per_minute=0), "requests_per_minute 0: at least 1"),
        (Limit("org", requests_per_minute=60, burst_s=0.0), "burst 0s: more than 0"),
        (Limit("org", requests_per_minute=600, burst_s=0.05), "use a burst of at least 0.1s"),
        (Limit("org", input_tokens_per_minute=2_000_000, burst_s=86_400.0), "use a burst of at most 4503s"),
        (Limit("org", input_tokens_per_minute=10**12), "at most 9007199220"),
        (Limit("org", concurrency=1, on_redis_loss="maybe"), "use closed, open or share"),  # type: ignore[arg-type]
    ],
)
def test_unkeepable(limit, says):
    """What cannot be kept is refused with what would be right."""
    with pytest.raises(ValueError, match=re.escape(says)):
        validate(limit)


def test_advice_holds():
    """The bursts that refusals name are accepted."""
    validate(Limit("org", requests_per_minute=600, burst_s=0.1))
    validate(Limit("org", requests_per_minute=7, burst_s=8.572))
    validate(Limit("org", input_tokens_per_minute=2_000_000, burst_s=4503.0))
    assert 2_000_000 * 4503 // 60 * UNITS <= MAX_UNITS


def test_same_name():
    """Two limits with one name would share their buckets."""
    with pytest.raises(ValueError, match="two limits"):
        Limits([Limit("org", concurrency=1), Limit("org", requests_per_minute=1)])
