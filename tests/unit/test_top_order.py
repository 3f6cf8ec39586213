"""The order of `headrace top`: every column that can be sorted by is there, and in each row."""

from __future__ import annotations

import msgspec
import pytest

from headrace.top import order, text
from page_rows import rows_of


@pytest.mark.parametrize("view", text.VIEWS)
def test_round(view):
    """The key goes through columns of the view, and comes back to the rows as they came."""
    rows = rows_of("a")[view]
    seen, column = [], order.after(view, "")
    while column:
        assert sorted(map(repr, order.ordered(view, column, rows))) == sorted(map(repr, rows))
        seen.append(column)
        column = order.after(view, column)
    assert set(seen) <= {name for name, _ in text.COLUMNS[view]}
    assert len(seen) == len(set(seen)) >= 4


def test_ordered():
    """Figures by the greatest, names by the alphabet, and what has nothing there last."""
    [row] = rows_of("a")["hosts"]
    rows = [msgspec.structs.replace(row, host=name, redis_ms=ms) for name, ms in (("b", None), ("c", 1.0), ("a", 7.0))]
    assert [each.host for each in order.ordered("hosts", "REDIS", rows)] == ["a", "c", "b"]
    assert [each.host for each in order.ordered("hosts", "HOST", rows)] == ["a", "b", "c"]
    assert [each.host for each in order.ordered("hosts", "", rows)] == ["b", "c", "a"]


def test_by_what_is_shown():
    """Hits count shared answers, as they are shown; a call that nothing held comes last."""
    [row] = rows_of("a")["usage"]
    rows = [
        msgspec.structs.replace(row, caller=name, hits=hits, shared=shared) for name, hits, shared in (("a", 5, 0), ("b", 1, 9))
    ]
    assert [each.caller for each in order.ordered("usage", "HITS", rows)] == ["b", "a"]
    [call, *_] = rows_of("a")["calls"]
    calls = [msgspec.structs.replace(call, limit=limit) for limit in ("", "z", "a")]
    assert [each.limit for each in order.ordered("calls", "HELD BY", calls)] == ["a", "z", ""]
