"""`headrace top` as text: within 80 columns, whatever names there are, and nothing that a terminal would obey."""

from __future__ import annotations

import pytest

from headrace.admin.words import count, money, short, span
from headrace.top import text
from page_rows import SUMMARY, rows_of, shown

LONG = "a-caller-with-a-very-long-name\x1b[2J\x07" * 3


@pytest.mark.parametrize("view", text.VIEWS)
@pytest.mark.parametrize("name", ["reports", LONG])
def test_fits(view, name):
    """Every line has 80 characters at most, a column for each cell, and no control character."""
    made = shown(view)
    made.rows = rows_of(name)[view]
    columns = text.COLUMNS[view]
    assert sum(width for _, width in columns) + len(columns) - 1 <= text.WIDTH
    assert all(len(row) == len(columns) for row in text.rows(made))
    for line in [text.head(SUMMARY), *text.lines(made)]:
        assert len(line) <= text.WIDTH, line
        assert line.isprintable()


@pytest.mark.parametrize("view", text.VIEWS)
def test_nothing_there(view):
    """A view without a row says so."""
    made = shown(view)
    made.rows = []
    assert text.lines(made)[-1] == "  (none)"


def test_words():
    """Figures as people read them."""
    assert [span(each) for each in (0.012, 4.0, 14, 90, 3700, 90_000, None)] == [
        "12 ms",
        "4.0 s",
        "14 s",
        "1 min 30 s",
        "1 h 1 min",
        "1 d 1 h",
        "",
    ]
    assert [short(each) for each in (0.012, 4.0, 14, 90, 3700, 90_000, 1e8, None)] == [
        "12ms",
        "4s",
        "14s",
        "1m30s",
        "1h01m",
        "1d01h",
        "1157d",
        "-",
    ]
    assert [count(each) for each in (0, 9, 812, 9_999, 310_000, 2_400_000, 0.25)] == [
        "0",
        "9",
        "812",
        "9,999",
        "310k",
        "2.4M",
        "0.2",
    ]
    assert [money(each) for each in (0, 1_200_000_000, 12_000_000)] == ["$0.00", "$1.20", "$0.0120"]
