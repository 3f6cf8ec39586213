"""Which buckets a call draws from, and which limits cannot be kept."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from headrace.budget.bucket import MAX_UNITS, UNITS
from headrace.budget.costs import Costs
from headrace.budget.estimate import Estimate
from headrace.budget.limits import Limit, Limits, Match, validate
from headrace.budget.want import NANO_USD, Form
from headrace.model import Call, Caller, Lane, Usage


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


def test_spend():
    """Spend has a bucket a day and a month, in nano-USD, and its id says when the window began."""
    limit = Limit("org", spend_per_day=2.5, spend_per_month=40.0, zone="Europe/Berlin")
    wants = Limits([limit], costs=Costs(dollar_a_token)).wants(call(), ESTIMATE, NOW)  # 2027-01-15, 9 in the morning there
    assert [(want.bucket_id, want.form, want.capacity, want.ends_us) for want in wants] == [
        ("org:spend_per_day:from=2027-01-14T23:00Z", Form.WINDOW, 2_500_000_000, moment(2027, 1, 15, 23)),
        ("org:spend_per_month:from=2026-12-31T23:00Z", Form.WINDOW, 40_000_000_000, moment(2027, 1, 31, 23)),
    ]
    assert [want.cost for want in wants] == [2_500_000_000, 40_000_000_000]  # $90, cut to the capacity


def test_next_window():
    """When a window ends, the same call draws from the next one; until then equal calls have one and the same tuple."""
    limits = Limits([Limit("org", spend_per_day=1.0), Limit("slow", per=("model",), requests_per_minute=60)])
    ends = moment(2027, 1, 16, 0) / 1e6
    today = limits.buckets(call(), NOW)
    assert limits.buckets(call(), ends - 0.001) is today
    tomorrow = limits.buckets(call(), ends)
    assert (today[0].ends_us, tomorrow[0].ends_us) == (ends * 1e6, (ends + 86_400) * 1e6)
    assert tomorrow[0].bucket_id == "org:spend_per_day:from=2027-01-16T00:00Z"
    assert tomorrow[1] == today[1]
    assert limits.buckets(call(), ends + 1) is tomorrow


def test_total():
    """Total tokens are input and output together, and input that is surely too much is not cut."""
    limits = Limits([Limit("org", total_tokens_per_minute=80)])
    assert [want.cost for want in limits.wants(call(), Estimate(30, 40), NOW)] == [70]
    assert [want.cost for want in limits.wants(call(), Estimate(50, 40), NOW)] == [80]
    assert [want.cost for want in limits.wants(call(), Estimate(200, 40, input_floor=81), NOW)] == [81]


def test_used():
    """What was used is told bucket by bucket: cache reads by each limit's weight, spend by the price."""
    limits = Limits(
        [
            Limit("free", input_tokens_per_minute=6000, output_tokens_per_minute=6000, requests_per_minute=60),
            Limit("tenth", input_tokens_per_minute=6000, total_tokens_per_minute=6000, cache_read_weight=0.1),
            Limit("paid", spend_per_day=1000.0),
        ],
        costs=Costs(dollar_a_token),
    )
    wants = limits.buckets(call(), NOW)
    usage = Usage(100, 7, cache_creation_input_tokens=20, cache_read_input_tokens=995)
    used = limits.used(wants, "claude-x", usage, ESTIMATE)
    assert {bucket_id.partition(":from")[0]: amount for bucket_id, amount in used.items()} == {
        "free:input_tokens": 120, "free:output_tokens": 7, "tenth:input_tokens": 220, "tenth:total_tokens": 227,
        "paid:spend_per_day": 127_000_000_000,
    }  # fmt: skip
    assert limits.used(wants, "claude-x", Usage(known=False), ESTIMATE) == {}


def test_used_in_part():
    """
    A stream that goes on, or broke off, has told its input: that is settled. Of its output the estimate stays, as far as the
    bucket had it, unless there is more already.
    """

    def used(usage: Usage, bound: int = 600) -> list[int]:
        limits = Limits([
            Limit("org", input_tokens_per_minute=600, output_tokens_per_minute=bound, total_tokens_per_minute=bound)
        ])  # fmt: skip
        return list(limits.used(limits.buckets(call(), NOW), "m", usage, ESTIMATE).values())

    assert used(Usage(9, 1, known=False)) == [9, 40, 49]
    assert used(Usage(9, 1, known=False), bound=30) == [9, 30, 30]
    assert used(Usage(9, 44, known=False), bound=30) == [9, 44, 53]
    assert used(Usage(0, 1, known=False)) == []


def test_ceiling():
    """With a ceiling a call reserves all that it could use, cut to the capacity, whatever such calls used before."""
    limits = Limits(
        [
            Limit("sure", input_tokens_per_minute=900, output_tokens_per_minute=900, estimate="ceiling"),
            Limit("spent", spend_per_day=500.0, estimate="ceiling"),
            Limit("likely", input_tokens_per_minute=900),
        ],
        costs=Costs(dollar_a_token),
    )
    wants = limits.wants(call(), Estimate(5, 6, most_input_tokens=300, most_output_tokens=1000), NOW)
    assert [want.cost for want in wants] == [300, 900, 500_000_000_000, 5]


def test_reads_are_expected():
    """A limit that counts cache reads reserves for them what such calls had of them."""
    limits = Limits([Limit("org", input_tokens_per_minute=6000, cache_read_weight=0.5)])
    assert [want.cost for want in limits.wants(call(), Estimate(50, 40, read_tokens=301), NOW)] == [201]


def test_who():
    """A limit can be for a team, a workspace, a model's class or a label, and have a bucket for each of them."""
    team = Caller("ann", team="search", workspace="wrk_1")
    limits = Limits(
        [
            Limit("team", Match(team="search"), ("team", "workspace"), requests_per_minute=60),
            Limit("class", Match(model_class="opus-*"), ("class",), requests_per_minute=60),
            Limit("label", Match(labels=(("env", "prod"),)), ("label.feature", "endpoint"), requests_per_minute=60),
            Limit("other", Match(workspace="wrk_2"), requests_per_minute=60),
        ]
    )
    one = replace(call("claude-opus-4-1", caller=""), caller=team, labels=(("env", "prod"), ("feature", "summary")))
    assert [want.bucket_id for want in limits.buckets(one, NOW)] == [
        "team:requests:team=search:workspace=wrk_1",
        "class:requests:class=opus-4",
        "label:requests:endpoint=messages:label.feature=summary",
    ]
    assert limits.buckets(call(), NOW) == ()


def test_not_metered():
    """What uses no model's tokens draws only on requests and concurrency."""
    limits = Limits([Limit("all", Match(endpoint="*"), requests_per_minute=60, spend_per_day=1.0, total_tokens_per_minute=60)])
    assert [want.kind for want in limits.buckets(replace(call(), endpoint="batches"), NOW)] == ["requests"]


def dollar_a_token(model: str, usage: Usage) -> int:
    return NANO_USD * (usage.metered_input_tokens + usage.output_tokens)


def moment(*when: int) -> int:
    return int(datetime(*when, tzinfo=UTC).timestamp()) * 1_000_000


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
        (
            Limit("org", per=("colour",), concurrency=1),
            "per 'colour': use any of caller, model, class, team, workspace",
        ),
        (Limit("org", concurrency=0), "concurrency 0: at least 1"),
        (Limit("org", requests_per_minute=0), "requests_per_minute 0: at least 1"),
        (Limit("org", requests_per_minute=60, burst_s=0.0), "burst 0s: more than 0"),
        (Limit("org", requests_per_minute=600, burst_s=0.05), "use a burst of at least 0.1s"),
        (Limit("org", input_tokens_per_minute=2_000_000, burst_s=86_400.0), "use a burst of at most 4503s"),
        (Limit("org", input_tokens_per_minute=10**12), "at most 9007199220"),
        (Limit("org", concurrency=1, on_redis_loss="maybe"), "use closed, open or share"),  # type: ignore[arg-type]
        (Limit("org", concurrency=1, estimate="wild"), "estimate 'wild': use learned, counted or ceiling"),  # type: ignore[arg-type]
        (Limit("org", concurrency=1, cache_read_weight=1.5), "cache_read_weight 1.5: from 0 to 1"),
        (Limit("org", spend_per_day=0.0), "spend_per_day 0: more than 0 and at most 9007199 USD"),
        (Limit("org", spend_per_month=1e8), "spend_per_month 1e+08: more than 0"),
        (Limit("org", spend_per_day=1.0, zone="Mars/Olympus"), "zone 'Mars/Olympus': use a name of the tz database"),
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
