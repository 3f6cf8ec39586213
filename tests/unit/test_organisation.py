"""What upstream's own list says that the organisation has: no configured limit is held above it, and none is raised."""

from __future__ import annotations

import pytest

from headrace.budget.limits import Limit, Limits, Match
from headrace.budget.organisation import Lowered, Organisation, Own
from headrace.classes import class_of
from headrace.model import Call, Caller, Lane
from headrace.tuning.account import own_of

NOW = 1_800_000_000.0
HAS = Organisation(
    {
        "opus-4": Own({"requests": 50, "input_tokens": 30_000}, ("claude-opus-4-1", "claude-opus-4-5")),
        "claude-haiku-4-5": Own({"requests": 200}, ("claude-haiku-4-5",)),
    },
    NOW,
)


def call(model: str) -> Call:
    return Call(
        caller=Caller("ann"), body=b"{}", model=model, max_tokens=100, stream=False, version="", betas=(), headers=(),
        lane=Lane.STANDARD, fingerprint="f", scope="ann", arrival=0.0, deadline=60.0,
    )  # fmt: skip


def rates(limit: Limit, model: str) -> list[tuple[int, int]]:
    """Return the rate and the capacity of each of a limit's buckets for calls of a model."""
    found = Limits([limit], organisation=HAS).buckets(call(model), NOW)
    return [(want.rate_per_minute, want.capacity) for want in found]


@pytest.mark.parametrize(
    ("limit", "model", "expected"),
    [
        (Limit("l", Match(model="claude-opus-*"), requests_per_minute=900), "claude-opus-4-5", 50),
        (Limit("l", Match(model_class="opus-4"), requests_per_minute=900), "claude-opus-4-5", 50),
        (Limit("l", Match(model="claude-opus-*"), requests_per_minute=40), "claude-opus-4-5", 40),  # never raised
        (Limit("l", per=("class",), requests_per_minute=100), "claude-opus-4-1", 50),
        (Limit("l", per=("model",), requests_per_minute=100), "claude-haiku-4-5", 100),
        (Limit("l", requests_per_minute=900), "claude-opus-4-5", 250),  # all classes together
        (Limit("l", per=("model",), requests_per_minute=900), "claude-new", 900),  # not in the list
        (Limit("l", input_tokens_per_minute=90_000), "claude-opus-4-5", 90_000),  # of one class nobody knows
        (Limit("l", per=("model", "caller"), requests_per_minute=900), "claude-opus-4-5", 900),  # a caller's own
        (Limit("l", Match(model="claude-opus-*"), requests_per_minute=900, shadow=True), "claude-opus-4-5", 900),
    ],
)
def test_held(limit, model, expected):
    """A bucket that stands for all that the organisation has is no larger than that."""
    assert rates(limit, model) == [(expected, expected)]


def test_small_burst():
    """However little flows in during its burst, a bucket that is lowered holds one."""
    assert rates(Limit("l", Match(model="claude-opus-*"), requests_per_minute=6000, burst_s=1), "claude-opus-4-5") == [(50, 1)]


def test_lowered():
    """What is said to people names each class whose limit is more than there is."""
    each, all_, modest = (
        Limit("each", per=("model",), requests_per_minute=100), Limit("all", requests_per_minute=300),
        Limit("modest", requests_per_minute=20),
    )  # fmt: skip
    assert list(HAS.lowered([each, all_, modest])) == [
        Lowered("each", "requests", "opus-4", 100, 50), Lowered("all", "requests", "", 300, 250),
    ]  # fmt: skip
    limits = Limits([each], organisation=HAS)
    assert limits.lowered_since(each, "requests", {"model": "claude-opus-4-1"}) == NOW
    assert limits.lowered_since(each, "requests", {"model": "claude-haiku-4-5"}) is None


def test_list_is_read():
    """Both shapes of upstream's list give the rates by class, with the models that it names; what is of no models does not."""
    limit = {"type": "requests_per_minute", "value": 50}
    found = own_of(
        [
            {"group": {"type": "model_group"}, "models": ["claude-opus-4-1", "claude-opus-4-5"], "limits": [limit]},
            {"group_type": "model_group", "models": ["claude-haiku-4-5"], "limits": [limit]},
            {"group": {"type": "batch"}, "models": None, "limits": [limit]},
        ],
        class_of,
    )
    assert found == {
        "opus-4": Own({"requests": 50}, ("claude-opus-4-1", "claude-opus-4-5")),
        "claude-haiku-4-5": Own({"requests": 50}, ("claude-haiku-4-5",)),
    }
