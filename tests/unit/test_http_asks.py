"""Headers that are taken apart have a bound: whatever stands in them, that takes a moment."""

from __future__ import annotations

import tracemalloc

import pytest
from multidict import CIMultiDict

from headrace import endpoints
from headrace.edge.http_asks import cache_control, labels
from headrace.errors import InvalidCall
from headrace.model import Caller


@pytest.mark.parametrize("value", ["a," * 30_000, "max-age=" + "1" * 60_000, '"' * 60_000])
def test_long_lists(value: str) -> None:
    """A list of sixty thousand characters is refused, in one header or in several."""
    with pytest.raises(InvalidCall, match="more than 8,192 characters"):
        cache_control(CIMultiDict({"cache-control": value}))
    with pytest.raises(InvalidCall, match="more than 8,192 characters"):
        labels(CIMultiDict([("x-headrace-labels", value[:3_000])] * 4), Caller("ann", labels=("a",)))
    assert cache_control(CIMultiDict({"cache-control": "no-store, " + "x" * 8_000})).no_store


def test_long_paths() -> None:
    """Paths of sixty thousand characters are looked up, and not remembered."""
    tracemalloc.start()
    for number in range(500):
        assert endpoints.find("POST", f"/v1/{number}{'x' * 60_000}").name == "other"
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1_000_000
