"""The official Python SDK through the daemon: it sees, and upstream is asked, what would be without the daemon."""

from __future__ import annotations

import pytest

from comparison.conftest import Compare
from comparison.inventory import CARRIED, COMPARED, METHODS, carry, roots
from comparison.pair import differences
from comparison.python import observe
from comparison.rows import LEFT_OUT, ORDERED, ROWS, Row

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, about models and parameters


@pytest.mark.parametrize(("prefix", "row"), COMPARED, ids=[f"{prefix}{row.name}" for prefix, row in COMPARED])
def test_same(compare: Compare, prefix: str, row: Row) -> None:
    """What the SDK says, each answer as it came, and each call as upstream saw it."""
    direct, through = compare(observe, lambda sdk: row.work(roots(sdk)[prefix]), *row.orders, is_admin=row.is_admins)
    assert "error" not in direct["said"]
    assert direct["exchanged"]
    assert not differences(direct, through)


@pytest.mark.parametrize(("prefix", "resource"), CARRIED, ids=["".join(each) for each in CARRIED])
def test_carried(compare: Compare, prefix: str, resource: str) -> None:
    """So does what the daemon knows nothing of."""
    made_up = CARRIED[prefix, resource]
    ordered = ("answers", {"path": "/v1/*", "json": ORDERED})
    is_admin = resource == "organization"
    direct, through = compare(observe, lambda sdk: carry(roots(sdk)[prefix], made_up), ordered, is_admin=is_admin)
    assert direct["said"].keys() == made_up.keys()
    assert not differences(direct, through)


def test_whole() -> None:
    """Every public method of the SDK's resources is compared, or is in the list of those that are not, with its reason."""
    everything = {name for names in METHODS.values() for name in names}
    by_row, carried = {row.method for row in ROWS}, {name for names in CARRIED.values() for name in names}
    assert len(everything) > 200
    assert by_row | carried | set(LEFT_OUT) == everything
    assert not [name for name in carried if name.startswith(("messages.", "models.", "files."))]
