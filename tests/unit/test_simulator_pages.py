"""Lists in pages: walking them either way finds everything once, in order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.simulator.pages import by_cursor, by_id
from headrace.simulator.refusals import Refused


def items(count: int) -> list[dict[str, Any]]:
    return [{"id": f"thing_{number}"} for number in range(count)]


@given(st.integers(0, 30), st.integers(1, 12))
def test_forwards(count: int, limit: int) -> None:
    """Following last_id while there is more finds everything."""
    everything, seen, query = items(count), [], {"limit": str(limit)}
    while True:
        page = by_id(everything, query)
        seen += page["data"]
        assert len(page["data"]) <= limit
        if not page["has_more"]:
            break
        query["after_id"] = page["last_id"]
    assert seen == everything


@given(st.integers(1, 30), st.integers(1, 12))
def test_backwards(count: int, limit: int) -> None:
    """Following first_id back from the last finds all before it."""
    everything = items(count)
    seen: list[dict[str, Any]] = []
    query = {"limit": str(limit), "before_id": everything[-1]["id"]}
    while True:
        page = by_id(everything, query)
        seen = page["data"] + seen
        if not page["has_more"]:
            break
        query["before_id"] = page["first_id"]
    assert seen == everything[:-1]


@given(st.integers(0, 30), st.integers(1, 12))
def test_cursor(count: int, limit: int) -> None:
    """Following next_page until it is null finds everything; the cursor tells nothing."""
    everything, seen, query = items(count), [], {"limit": str(limit)}
    while True:
        page = by_cursor(everything, query)
        seen += page["data"]
        if page["next_page"] is None:
            break
        assert page["next_page"].startswith("page_")
        query["page"] = page["next_page"]
    assert seen == everything


def test_empty() -> None:
    """An empty list has no first and no last."""
    assert by_id([], {}) == {"data": [], "has_more": False, "first_id": None, "last_id": None}
    assert by_cursor([], {}, default=None) == {"data": [], "next_page": None}


@pytest.mark.parametrize(
    "query",
    [{"limit": "0"}, {"limit": "1001"}, {"limit": "x"}, {"after_id": "other"}, {"after_id": "thing_1", "before_id": "thing_2"}],
)
def test_refused(query: dict[str, str]) -> None:
    """A page that cannot be is refused, and not another one given."""
    with pytest.raises(Refused) as caught:
        by_id(items(5), query)
    assert caught.value.status == 400


@pytest.mark.parametrize("cursor", ["page_b3RoZXI", "page_\x00", "x"])
def test_refused_cursor(cursor: str) -> None:
    """So is a cursor that is none of ours."""
    with pytest.raises(Refused):
        by_cursor(items(5), {"page": cursor})
