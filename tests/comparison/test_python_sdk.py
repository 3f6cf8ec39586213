"""The official Python SDK through the daemon: it sees, and upstream is asked, what would be without the daemon."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from comparison.asking import observe
from comparison.pair import Pair, differences, pair
from comparison.python_rows import LEFT_OUT, ORDERED, ROWS, Row, asked_anyhow, resources, roots

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, about models and parameters

PREFIXES = ("", "beta.")
with anthropic.Anthropic(api_key="unused") as _client:
    METHODS = {prefix: tuple(resources(root)) for prefix, root in roots(_client).items()}
BY_ROW = {row.method for row in ROWS}
COMPARED = [(prefix, row) for prefix in PREFIXES for row in ROWS if row.method in METHODS[prefix]]
UNKNOWN = [
    (prefix, method) for prefix in PREFIXES for method in METHODS[prefix] if method not in BY_ROW and method not in LEFT_OUT
]


@pytest.fixture(scope="module")
def both() -> Iterator[Pair]:
    with pair() as running:
        yield running


def seen(both: Pair, row: Row, prefix: str) -> list[dict[str, Any]]:
    """Do a row on both sides, from the same beginning, and return what was seen."""
    both.order("reset")
    for what, value in row.orders:
        both.order(what, value)
    caller = "".join(letter if letter.isalnum() else "-" for letter in f"{prefix}{row.name}")[:64]
    return [observe(side, lambda sdk: row.work(roots(sdk)[prefix]), caller, is_admin=row.is_admins) for side in both]


@pytest.mark.parametrize(("prefix", "row"), COMPARED, ids=[f"{prefix}{row.name}" for prefix, row in COMPARED])
def test_same(both: Pair, prefix: str, row: Row) -> None:
    """What the SDK says, each answer as it came, and each call as upstream saw it."""
    direct, through = seen(both, row, prefix)
    assert "error" not in direct["said"]
    assert direct["exchanged"]
    assert not differences(direct, through)


@pytest.mark.parametrize(("prefix", "method"), UNKNOWN, ids=["".join(each) for each in UNKNOWN])
def test_carried(both: Pair, prefix: str, method: str) -> None:
    """So does what the daemon knows nothing of."""
    orders = (("answers", {"path": "/v1/*", "json": ORDERED}),)
    direct, through = seen(both, Row(method, lambda root: asked_anyhow(root, method), orders), prefix)
    assert direct["reached"][0]["status"] == 200
    assert not differences(direct, through)


def test_whole() -> None:
    """Every public method of the SDK's resources is compared, or is in the list of those that are not, with its reason."""
    everything = set().union(*METHODS.values())
    assert len(everything) > 200
    assert everything >= BY_ROW | set(LEFT_OUT)
    assert {method for _, method in UNKNOWN} | BY_ROW | set(LEFT_OUT) == everything
    of_ours = ("messages.", "models.", "files.")
    assert not [method for _, method in UNKNOWN if method.startswith(of_ours)]
