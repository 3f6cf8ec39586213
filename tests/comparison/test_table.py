"""The tables of docs/endpoints.md are what is there: each cell is performed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from comparison import table
from comparison.cells import ENDPOINTS, NO, Cells, Endpoint
from comparison.pair import Pair
from comparison.typescript import Node

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, about models

HOLD = "run `python -m tests.comparison.table`, and look at what has changed"


@pytest.fixture(scope="module")
def cells(both: Pair, process: Node) -> Iterator[Cells]:
    made = Cells(both, process)
    yield made
    made.close()


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=["-".join(endpoint.title) for endpoint in ENDPOINTS])
def test_cells(cells: Cells, endpoint: Endpoint) -> None:
    """A row says what is seen when its calls are made, and that all of them do what they should."""
    seen = cells.fill(endpoint)
    assert NO not in seen.values(), cells.why
    row = table.cells([(endpoint, seen)]).splitlines()[-1]
    assert row in table.written(table.PAGE.read_text(), table.CELLS).splitlines(), HOLD


def test_rows() -> None:
    """The table has a row for each endpoint, and no other."""
    rows = table.written(table.PAGE.read_text(), table.CELLS).splitlines()[2:]
    assert [row.split("|")[2].strip() for row in rows] == [f"`{each.method} {each.path}`" for each in ENDPOINTS], HOLD


def test_policy() -> None:
    """The other table is the daemon's own."""
    assert table.written(table.PAGE.read_text(), table.POLICY) == table.policy(), HOLD
