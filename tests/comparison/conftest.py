"""One pair for the whole folder, and how a row is done on both its sides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from comparison.pair import Compare, Pair, pair
from comparison.typescript import Node, node


@pytest.fixture(scope="session")
def both() -> Iterator[Pair]:
    """Two simulators, one of them behind a daemon."""
    with pair() as running:
        yield running


@pytest.fixture(scope="session")
def process() -> Iterator[Node]:
    """The TypeScript SDKs."""
    with node() as running:
        yield running


@pytest.fixture
def compare(both: Pair, request: pytest.FixtureRequest) -> Compare:
    """Do the same on both sides, from the same beginning, and return what was seen of each by a function that observes."""
    # A caller for each test: nothing is kept for it yet.
    caller = "".join(letter if letter.isalnum() else "-" for letter in request.node.nodeid)[-64:].lstrip("-")

    def compare(observe: Any, work: Callable[[Any], Any], *orders: tuple[str, Any], **how: Any) -> list[dict[str, Any]]:
        both.order("reset")
        for what, value in orders:
            both.order(what, value)
        return [observe(side, work, caller, **how) for side in both]

    return compare
