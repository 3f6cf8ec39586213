"""What is laid over limits, and how it is kept: pure."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.budget.bucket import UNITS
from headrace.budget.limits import Limit, validate
from headrace.budget.matching import share, shared_by
from headrace.budget.want import Form
from headrace.budgets import show
from headrace.budgets.board import Level, Loan, level, merge
from headrace.budgets.census import MOST_WAITING, Seen, View, Waits
from headrace.budgets.override import Figures, Held, Override, check, check_hold, decode, encode, ends, in_force, laid
from headrace.errors import InvalidCall
from headrace.v1 import budgets_service_pb2 as pb

ORG = Limit("org", requests_per_minute=60, spend_per_day=5.0, burst_s=30.0, shadow=True)
NOW = 1_800_000_000.0

counts = st.none() | st.integers(1, 10**6)
figures = st.builds(
    Figures, requests_per_minute=counts, input_tokens_per_minute=counts, output_tokens_per_minute=counts,
    total_tokens_per_minute=counts, concurrency=counts, spend_per_day=st.none() | st.floats(0.01, 10**6),
    spend_per_month=st.none() | st.floats(0.01, 10**6), burst_s=st.none() | st.floats(60, 3600),
)  # fmt: skip
moments = st.floats(0, 2 * NOW)
terms = {"since": moments, "until": st.none() | moments, "by": st.text(max_size=9), "reason": st.text(max_size=9)}
overrides = st.builds(Override, figures=figures, **terms)


@given(overrides, st.builds(Held, refuse=st.booleans(), **terms))
def test_kept(override: Override, held: Held) -> None:
    """What is written is read, and the script finds its end in front."""
    for record in (override, held):
        value = encode(record)
        assert decode(type(record), value) == record
        assert int(value.split()[0]) == round((record.until or 0) * 1e6)


@given(overrides)
def test_laid(override: Override) -> None:
    """The figures that are given are those of the limit, and all others stay."""
    under = replace(ORG, burst_s=60.0)
    limit = laid(under, override)
    given_ = override.figures.given()
    assert {name: getattr(limit, name) for name in given_} == given_
    assert replace(limit, **{name: getattr(under, name) for name in given_}) == under
    validate(limit)


@given(st.dictionaries(st.text(max_size=2), overrides), moments)
def test_in_force(records: dict[str, Override], now: float) -> None:
    """What has ended is not in force, whatever comes after."""
    now_in_force = in_force(records, now)
    assert all(record.until is None or record.until > now for record in now_in_force.values())
    assert in_force(now_in_force, now + 5) == in_force(records, now + 5)


def test_checks() -> None:
    """What makes no sense is refused with where it stands and what is right."""
    for wrong, said in (
        (Figures(), "set at least one of"),
        (Figures(requests_per_minute=0), "limit org: requests_per_minute 0: at least 1"),
        (Figures(burst_s=0.1), "use a burst of at least 1s"),
        (Figures(spend_per_day=-1.0), "more than 0"),
    ):
        with pytest.raises(InvalidCall, match=said):
            check(ORG, Override(figures=wrong, since=NOW, by="boss"))
    with pytest.raises(InvalidCall, match="200 at most"):
        check_hold("bob", Held(since=NOW, by="boss", reason="x" * 201))


def test_ends() -> None:
    """A span counts from now, a moment is itself, neither may be over, and without both there is no end."""
    assert ends(NOW) is None
    assert (ends(NOW, ttl_s=5.0), ends(NOW, at=NOW + 7)) == (NOW + 5, NOW + 7)
    for wrong in ({"ttl_s": 0.0}, {"ttl_s": -1.0}, {"at": NOW}, {"ttl_s": 1e12}):
        with pytest.raises(InvalidCall, match="use more than 0 s"):
            ends(NOW, **wrong)


@given(
    st.dictionaries(
        st.sampled_from(["caller", "model", "team", "label.env"]), st.from_regex(r"[A-Za-z0-9._-]{1,9}", fullmatch=True)
    )
)
def test_whose(facts: dict[str, str]) -> None:
    """A bucket's id tells whose it is."""
    assert shared_by(f"org:requests{share(tuple(facts), facts)}:from=2026-11-01T00:00Z") == facts


# The board.


def seen(form: Form = Form.RATE, **more) -> Seen:
    return Seen("org:requests", "org", "requests", form, 60 if form is Form.RATE else 0, 30, **more)


def test_levels() -> None:
    """A bucket that nobody took from is full; what flowed in since is in it; below nothing is debt."""
    now_us = round(NOW * 1e6)
    assert level(seen(), {}, now_us) == Level(30, 0, NOW)
    assert level(seen(), {b"level": b"%d" % (-2 * UNITS), b"at": b"%d" % now_us}, now_us) == Level(0, 2, NOW + 32)
    assert level(seen(), {b"level": b"%d" % (-2 * UNITS), b"at": b"%d" % (now_us - 5_000_000)}, now_us) == Level(3, 0, NOW + 27)
    assert level(seen(Form.PERMIT), 12, now_us) == Level(18)
    assert level(seen(Form.PERMIT), 33, now_us) == Level(0, 3)  # it was lowered
    assert level(seen(Form.WINDOW, ends_us=now_us + 9_000_000), {b"used": b"34"}, now_us) == Level(0, 4, NOW + 9)
    assert level(seen(Form.WINDOW, ends_us=now_us), {}, now_us) == Level(30, 0, NOW)
    lent = {b"headrace:inbox:d": b"20 %d 7" % (now_us + 1_000_000), b"headrace:inbox:e": b"3 %d 7" % now_us}
    assert level(seen(), lent, now_us) == Level(10, 0, NOW, (Loan("d", 20, NOW + 1),))


def waits(due: float | None, since: float = 0.0) -> Waits:
    return Waits("ann", "batch", 1, since, due, 9e9, "d")


@given(st.lists(st.lists(st.none() | st.floats(0, 1e9), max_size=80), max_size=5))
def test_merged(dues: list[list[float | None]]) -> None:
    """All who wait are counted, and the first of them are told, in the order in which they go."""
    views = [
        View(f"{n}", [seen(flows={"batch/ann": len(some)}, waiting=[waits(due) for due in some], reserved=n)])
        for n, some in enumerate(dues)
    ]  # fmt: skip
    merged = merge(views)
    assert len(merged) == bool(dues)
    for bucket in merged:
        assert bucket.flows.get("batch/ann", 0) == sum(map(len, dues))
        assert bucket.reserved == sum(range(len(dues)))
        told = [float("inf") if each.due is None else each.due for each in bucket.waiting]
        assert told == sorted(float("inf") if due is None else due for some in dues for due in some)[:MOST_WAITING]


# For people.


def test_lines() -> None:
    """What is laid over a limit, and who is on hold, are said in a line each; spans in their two largest units."""
    now = time.time()
    over = pb.LimitOverride(figures=pb.LimitFigures(requests_per_minute=6000), by="boss", reason="launch")
    over.expire_time.FromMicroseconds(round((now + 3600.4) * 1e6))
    limit = pb.Limit(name="org", configured=pb.LimitFigures(requests_per_minute=60, spend_per_day_nano_usd=2_500_000_000))
    limit.configured.burst.FromSeconds(90)
    limit.override.CopyFrom(over)
    assert show.limit_line(limit) == (
        "org: 6,000 requests/min for 1h, by boss: launch; configured: 60 requests/min, $2.50 a day, burst 1m 30s"
    )
    assert show.hold_line(pb.CallerHold(caller="bob", by="boss")) == (
        "bob is on hold, its calls wait, until it is taken back, by boss"
    )
    assert [show.span(seconds) for seconds in (0, -4, 59.6, 3661, 90_061)] == ["0s", "0s", "1m", "1h 1m", "1d 1h"]
    reply = pb.ListBudgetsResponse(limits=[limit], daemons=3, daemons_heard=2)
    assert [note[:10] for note in show.notes(reply)] == ["* org: 6,0", "1 of 3 dae"]


def test_as_json() -> None:
    """JSON has every field by its name, what is not there left out, enums by their names, and amounts as numbers."""
    bucket = pb.Budget(bucket="org:requests:caller=a", of={"caller": "a"}, capacity=2**52, waiting=[pb.WaitingCall(position=1)])
    limit = pb.Limit(name="org", source=pb.LIMIT_SOURCE_CONFIGURED, figures=pb.LimitFigures(concurrency=3), budgets=[bucket])
    said = json.loads(show.as_json(limit))
    assert (said["source"], said["figures"], said["shadow"]) == ("LIMIT_SOURCE_CONFIGURED", {"concurrency": 3}, False)
    assert "override" not in said
    [told] = said["budgets"]
    assert (told["of"], told["capacity"], told["debt"], told["borrowings"]) == ({"caller": "a"}, 2**52, 0, [])
    assert told["waiting"][0]["position"] == 1
    assert "expected_time" not in told["waiting"][0]
    assert show.rows([limit])[0][:3] == ("org", "caller=a", "")
    assert show.rows([pb.Limit(name="each", figures=limit.figures)])[0][:3] == ("each", "-", "3 at once")
