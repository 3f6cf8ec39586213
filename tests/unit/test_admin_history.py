"""What processes remember for who looks: bounded, merged, and as long as it is said to be."""

from __future__ import annotations

import pytest

from headrace.admin.bins import BIN_S, BINS, LIMITED, MOST_BUCKETS, REFUSED, Bins, History, Mark
from headrace.admin.calls import phases
from headrace.admin.recent import WAIT_BOUNDS, Recent, quantile
from headrace.clock import HandClock
from headrace.outcome import Outcome
from headrace.trail import Try

NOW = 1_800_000_000.0


def test_bins():
    """A bin keeps the most that was used in it; there are a quarter of an hour of them, and not more."""
    bins = Bins()
    for second in range(0, 2 * BINS * BIN_S, BIN_S):
        bins.sample(NOW + second, {"org": second % 100})
        bins.sample(NOW + second + 1, {"org": 7})
    kept = bins.since(0)
    assert len(kept) == BINS
    assert kept[-1].used == {"org": max(7, (2 * BINS - 1) * BIN_S % 100)}
    assert [each.number for each in bins.since(kept[-2].number)] == [kept[-2].number, kept[-1].number]


def test_bounded():
    """However many buckets and callers there are, a bin has room for so many."""
    bins = Bins()
    bins.sample(NOW, {f"b{number}": 1 for number in range(5000)})
    for number in range(5000):
        bins.mark(NOW, REFUSED, limit="org", caller=f"c{number}")
    [kept] = bins.since(0)
    assert len(kept.used) == MOST_BUCKETS
    assert len(kept.marks) <= 201
    assert sum(mark.count for mark in kept.marks) == 5000


def test_merged():
    """Of what processes think of a bucket the least is right; marks add up; the latest word of a process counts once."""
    one, two, history = Bins(), Bins(), History()
    one.sample(NOW, {"org": 40, "own": 5})
    two.sample(NOW, {"org": 70})
    one.mark(NOW, REFUSED, limit="org", caller="ann")
    for _ in range(2):
        two.mark(NOW, REFUSED, limit="org", caller="ann")
        two.mark(NOW, LIMITED, caller="bob", model_class="sonnet")
        history.learn("two", two.since(0))
    history.learn("one", one.since(0))
    *before, last = history.window(NOW)
    assert len(before) == BINS - 1
    assert set(before) == {None}
    assert last is not None
    assert last.used == {"org": 70, "own": 5}
    assert set(last.marks) == {Mark(REFUSED, "org", "ann", "", 3), Mark(LIMITED, "", "bob", "sonnet", 2)}
    history.forget(NOW + BINS * BIN_S)
    assert history.window(NOW) == [None] * BINS


def outcome(took_s: float = 1.0, **more) -> Outcome:
    said = {"attempts": 1, "waited_s": took_s / 2, "took_s": took_s, "began": NOW, "source": "upstream"} | more
    return Outcome("http", "messages", "ann", "standard", "claude-sonnet-4-5", **said)


def test_remembered():
    """Calls are remembered, the odd ones longer than those that went well; waits by caller, for five minutes."""
    clock = HandClock(NOW)
    recent = Recent(clock, None, lambda model: "sonnet")  # type: ignore[arg-type]  # nobody asks for levels here
    recent.heed(outcome(40.0, id="slow", request_id="req_1", ticket="tkt_1"))
    for number in range(1000):
        recent.heed(outcome(0.1, id=f"{number}"))
    assert recent.stats().calls == 201
    for name in ("slow", "req_1", "tkt_1"):
        assert [each.id for each in recent.named(name)] == ["slow"]
    assert sum(recent.waits()["ann"]) == 1001
    recent.heed(outcome(reason="BUDGET_EXHAUSTED", limit="org", source=""))
    assert recent.bins.since(0)[0].marks == [Mark(REFUSED, "org", "ann", "sonnet", 1)]


async def test_forgotten():
    """What is older than five minutes no longer counts."""
    clock = HandClock(NOW)
    recent = Recent(clock, None, lambda model: "sonnet")  # type: ignore[arg-type]
    recent.heed(outcome())
    await clock.advance(299)
    assert recent.waits()
    await clock.advance(10)
    assert recent.waits() == {}


def test_quantile():
    """A quantile lies between the bounds of the bin in which it is, whatever the counts."""
    assert quantile([0] * (len(WAIT_BOUNDS) + 1), 0.95) is None
    counts = [0] * (len(WAIT_BOUNDS) + 1)
    counts[10], counts[14] = 90, 10
    assert WAIT_BOUNDS[13] < (quantile(counts, 0.95) or 0) <= WAIT_BOUNDS[14]
    assert WAIT_BOUNDS[9] < (quantile(counts, 0.5) or 0) <= WAIT_BOUNDS[10]
    counts[-1] = 10_000
    assert (quantile(counts, 0.95) or 0) >= WAIT_BOUNDS[-1]


@pytest.mark.parametrize(
    ("tries", "took_s", "parts"),
    [
        ([], 5.0, [("other", 0.0, 5.0)]),
        (
            [Try(1, 200, "answered", NOW + 3, 1.0, waited_s=3.0, held_by="org")],
            4.0,
            [("wait", 0.0, 3.0), ("attempt", 3.0, 1.0)],
        ),
        (
            [
                Try(1, 529, "overloaded", NOW + 1, 0.5, waited_s=1.0, held_by="org"),
                Try(2, 200, "answered", NOW + 10, 2.0, waited_s=0.5),
            ],
            12.5,
            [
                ("wait", 0.0, 1.0),
                ("failed", 1.0, 0.5),
                ("parked", 1.5, 8.0),
                ("wait", 9.5, 0.5),
                ("attempt", 10.0, 2.0),
                ("other", 12.0, 0.5),
            ],
        ),
    ],
)
def test_phases(tries, took_s, parts):
    """A call's phases follow each other and fill its time."""
    made = list(phases(NOW, took_s, tries))
    assert [(each.kind, each.start, each.took) for each in made] == parts
    assert sum(each.took for each in made) == pytest.approx(took_s)
