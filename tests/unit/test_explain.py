"""Which calls are kept for who asks why, what is said of them, and how long one would wait."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from headrace.budget.want import Form, Want
from headrace.budgets.board import Level, Loan
from headrace.budgets.census import Seen, Waits
from headrace.explain.forecast import part
from headrace.explain.timeline import phases
from headrace.explain.told import decode, encode, is_worth, told_of
from headrace.outcome import Outcome
from headrace.trail import Try

SMOOTH = Outcome("http", "messages", "ann", "standard", "m", source="upstream", took_s=2.0, id="hr_1")
REFUSED_ONCE = Try(1, 529, "overloaded", 101.0, 0.5, 1.0, "org", "req_1", "one-7")
ANSWERED = Try(2, 200, "answered", 105.0, 2.0, 0.5, "slots", "req_2", "two-8")


@pytest.mark.parametrize(
    ("changes", "is_kept"),
    [
        ({}, False),
        ({"took_s": 30.0}, True),
        ({"reason": "BUDGET_EXHAUSTED"}, True),
        ({"ticket": "tkt_1"}, True),
        ({"tries": (ANSWERED,)}, False),
        ({"tries": (REFUSED_ONCE, ANSWERED)}, True),
        ({"waits": (("org", 0.05),)}, False),
        ({"waits": (("org", 0.05), ("slots", 0.06))}, True),
        ({"reason": "UNKNOWN_CALLER", "id": ""}, False),
    ],
)
def test_worth(changes: dict, is_kept: bool) -> None:
    """Slow, failed, waited, tried again or with a ticket: all else went smoothly."""
    assert is_worth(msgspec.structs.replace(SMOOTH, **changes), 30.0) is is_kept


def test_told() -> None:
    """What is kept comes back as it was, and a model that is none is not told."""
    outcome = msgspec.structs.replace(SMOOTH, tries=(REFUSED_ONCE, ANSWERED), model="what is\nthis", waits=(("org", 1.0),))
    told = told_of(outcome, "one-7-00ff")
    assert decode(encode(told)) == told
    assert told.model == "?"
    assert (told.attempts, told.host) == (2, "one-7-00ff")


@pytest.mark.parametrize("wrong", [{"began": 1e300}, {"took_s": -1.0}, {"waits": (("org", 1e12),)}, {"attempts": -1}])
def test_wrong(wrong: dict) -> None:
    """What no call can have come to is no record."""
    with pytest.raises(ValueError, match="none"):
        decode(encode(msgspec.structs.replace(told_of(SMOOTH, "a"), **wrong)))


def test_phases() -> None:
    """A call that was parked between two hosts: its waits, tries, the time in the queue, and what was left, without a gap."""
    said = phases((REFUSED_ONCE, ANSWERED), began=100.0, took_s=7.5)
    assert [(each.what, each.about) for each in said] == [
        ("wait", "org"), ("attempt", "overloaded"), ("parked", ""), ("wait", "slots"), ("attempt", "answered"), ("rest", ""),
    ]  # fmt: skip
    ends = 0.0
    for each in said:
        assert each.after_s == pytest.approx(ends)
        ends = each.after_s + each.took_s
    assert ends == pytest.approx(7.5)
    assert [each.made.host for each in said if each.made] == ["one-7", "two-8"]


def test_phases_without_tries() -> None:
    """A call that was refused after it had waited."""
    said = phases((), began=100.0, took_s=2.0, waits=[("org", 1.5)])
    assert [(each.what, each.about, each.took_s) for each in said] == [("wait", "org", 1.5), ("rest", "", 0.5)]


# Forecasts.

RATE = Want("org:requests", "org", "requests", Form.RATE, 60, 60, 1)


def seen(**flows: int) -> Seen:
    waiting = [Waits("ann", "batch", 2, 0.0, None, 99.0, "one")]
    return Seen("org:requests", "org", "requests", Form.RATE, 60, 60, flows={n.replace("_", "/"): c for n, c in flows.items()},
                waiting=waiting)  # fmt: skip


def test_goes_at_once() -> None:
    """What is there is there, whoever has borrowed it: nobody waits, so it is granted without a question."""
    lent = Level(0, loans=(Loan("one", 5, 99.0),))
    found = part(RATE, lent, None, "standard/ann", 0.0)
    assert (found.wait_s, found.longest_s, found.waiting) == (0.0, 0.0, 0)


def test_waits_behind() -> None:
    """Behind all of its own flow, and one of each other; at the longest behind all. Each of those wants two."""
    found = part(RATE, Level(0), seen(batch_ann=10, batch_bob=20), "batch/bob", 0.0)
    assert found.waiting == 30
    assert found.wait_s == 1 + 2 * (20 + 1)
    assert found.longest_s == 1 + 2 * 30


def test_debt_is_waited_for() -> None:
    """Debt flows back first."""
    assert part(RATE, Level(0, debt=9), None, "batch/ann", 0.0).wait_s == 10


def test_never() -> None:
    """What is larger than its bucket never goes."""
    found = part(RATE.at(61), Level(60), None, "batch/ann", 0.0)
    assert found.never
    assert found.wait_s is None


def test_other_forms() -> None:
    """A window gives nothing until it ends; when permits come back nobody knows."""
    window = msgspec.structs.replace(RATE, form=Form.WINDOW, rate_per_minute=0, ends_us=50_000_000)
    assert part(window, Level(0), None, "batch/ann", 20.0).wait_s == 30.0
    permits = msgspec.structs.replace(RATE, form=Form.PERMIT, rate_per_minute=0)
    assert part(permits, Level(0), None, "batch/ann", 20.0).wait_s is None
    assert part(permits, Level(1), None, "batch/ann", 20.0).wait_s == 0.0
    assert replace(part(permits, Level(1), None, "batch/ann", 20.0), waiting=3).waiting == 3
