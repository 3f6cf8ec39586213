"""What is asked of usage: spans of whole buckets, filters and groups."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidCall
from headrace.usage import Granularity, Question
from headrace.usage.question import MOST_BUCKETS, MOST_ROWS, Sums, begin, buckets, end, kind_of
from headrace.usage.tally import AT, FIELDS, Who

NOON = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
KINDS = st.sampled_from([Granularity.MINUTE, Granularity.DAY, Granularity.MONTH])
MOMENTS = st.datetimes(datetime(2025, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))


def asked(**more):
    return Question(**{"since": NOON - timedelta(days=1), "until": NOON} | more)


def answer(question, cells):
    sums = Sums(question)
    for cell in cells:
        sums.add(*cell)
    return sums.rows()


def figures(**more):
    said = [0] * len(FIELDS)
    for name, figure in more.items():
        said[AT[name]] = figure
    return said


@given(KINDS, MOMENTS, st.timedeltas(timedelta(0), timedelta(days=700)))
def test_buckets_cover_the_span(kind, since, length):
    """Buckets follow on each other without a gap, and the first and the last have the ends of the span in them."""
    found = buckets(kind, since, since + length)
    assert all(end(kind, one) == other for one, other in itertools.pairwise(found))
    assert found[-1] <= since + length < end(kind, found[-1])
    assert found[0] == begin(kind, since) or len(found) == MOST_BUCKETS


def test_the_finest_that_reach_back():
    """Without a granularity minutes answer for the last two days, and days for all before."""
    assert kind_of(asked(), NOON) is Granularity.MINUTE
    assert kind_of(asked(since=NOON - timedelta(days=30)), NOON) is Granularity.DAY
    assert kind_of(asked(granularity=Granularity.MONTH), NOON) is Granularity.MONTH


def test_groups_and_filters():
    """Figures of the same group come to one row; labels are a group each, or by one name."""
    cells = [
        (NOON, Who("a", "red", "m-1", "batch", "env=prod,feature=x"), figures(output=1, cost=5)),
        (NOON, Who("b", "red", "m-1", "batch", "env=test"), figures(output=2)),
        (NOON, Who("b", "blue", "m-2", "standard"), figures(output=4, cost=7)),
    ]

    def rows(**question):
        return [(row.group, row.figures[AT["output"]]) for row in answer(asked(**question), cells)]

    assert rows() == [((), 7)]
    assert rows(group_by=("caller",)) == [(("b",), 6), (("a",), 1)]
    assert rows(group_by=("team", "model")) == [(("blue", "m-2"), 4), (("red", "m-1"), 3)]
    assert rows(group_by=("label.env",)) == [(("",), 4), (("prod",), 1), (("test",), 2)]
    assert rows(model="m-1", lane="b*") == [((), 3)]
    assert rows(label="*feature=x*") == [((), 1)]
    assert rows(caller="nobody") == []


def test_rows_by_time():
    """With a granularity each bucket has its own rows, the earliest first."""
    cells = [(NOON - timedelta(days=day), Who("a"), figures(output=day)) for day in range(3)]
    found = answer(asked(granularity=Granularity.DAY), cells)
    assert [(row.begins, row.figures[AT["output"]]) for row in found] == [
        (NOON - timedelta(days=day), day) for day in (2, 1, 0)
    ]


def test_too_many_rows():
    """An answer is of so many rows at most; more than that is said to be too much."""
    cells = [(NOON, Who(f"caller-{number}"), figures(output=1)) for number in range(MOST_ROWS + 1)]
    assert len(answer(asked(group_by=("caller",)), cells[1:])) == MOST_ROWS
    with pytest.raises(InvalidCall):
        answer(asked(group_by=("caller",)), cells)


@pytest.mark.parametrize("wrong", [{"group_by": ("colour",)}, {"since": NOON + timedelta(days=1)}])
def test_no_question(wrong):
    """What cannot be answered is said so."""
    with pytest.raises(InvalidCall):
        asked(**wrong).check()
