"""The official TypeScript SDK through the daemon: the same rows as for Python's, and every method that it has."""

from __future__ import annotations

import functools

import pytest

from comparison.inventory import CARRIED, COMPARED, METHODS, carry, roots
from comparison.pair import Compare, differences
from comparison.rows import ORDERED, Row
from comparison.typescript import Node, observe


@pytest.mark.parametrize(("prefix", "row"), COMPARED, ids=[f"{prefix}{row.name}" for prefix, row in COMPARED])
def test_same(compare: Compare, process: Node, prefix: str, row: Row) -> None:
    """What the SDK says, each answer as it came, and each call as upstream saw it."""
    seen = functools.partial(observe, process)
    direct, through = compare(seen, lambda sdk: row.work(roots(sdk)[prefix]), *row.orders, is_admin=row.is_admins)
    assert "error" not in direct["said"]
    assert direct["exchanged"]
    assert not differences(direct, through)


@pytest.mark.parametrize(("prefix", "resource"), CARRIED, ids=["".join(each) for each in CARRIED])
def test_carried(compare: Compare, process: Node, prefix: str, resource: str) -> None:
    """So does what the daemon knows nothing of."""
    seen, made_up = functools.partial(observe, process), CARRIED[prefix, resource]
    ordered = ("answers", {"path": "/v1/*", "json": ORDERED})
    is_admin = resource == "organization"
    direct, through = compare(seen, lambda sdk: carry(roots(sdk)[prefix], made_up), ordered, is_admin=is_admin)
    assert direct["said"].keys() == made_up.keys()
    assert not differences(direct, through)


# Methods that are in no row, and why.
ONLY_HERE = {
    "beta.environments.work.poller": "calls work.poll and its kin, and nothing else",
    "beta.environments.work.worker": "as work.poller",
    "beta.sessions.events.toolRunner": "calls events.list and events.send, and nothing else",
}


def test_whole(process: Node) -> None:
    """The SDK has no method that the tests above have not, but for those in the list."""
    in_python = {_plain(f"{prefix}{name}") for prefix, names in METHODS.items() for name in names}
    here = {_plain(name) for name in process.methods()}
    assert len(here) > 200
    assert here - in_python == {_plain(name) for name in ONLY_HERE}


def _plain(name: str) -> str:
    return name.replace("_", "").lower()
