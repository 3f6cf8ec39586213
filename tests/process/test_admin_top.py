"""The interactive `headrace top`, driven by keys, over the socket of an installed daemon."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Static
from textual.widgets._footer import FooterKey

from fleet import simulated
from headrace.top import text
from headrace.top.app import Details, Top
from headrace.top.client import Client
from looking import House, admin_socket, house, shown

KEYS = {"b": "budgets", "c": "callers", "w": "line", "t": "tickets", "h": "hosts", "a": "calls", "u": "usage"}


@pytest.fixture
async def pair(valkey_url):
    async with simulated() as simulator, house(simulator.url, valkey_url) as made:
        yield made


@contextlib.asynccontextmanager
async def top(*addresses: str) -> AsyncIterator[Pilot[None]]:
    with Client(addresses) as client:
        async with Top(client).run_test(size=(80, 24)) as pilot:
            yield pilot


def said(pilot: Pilot[None], name: str) -> str:
    return str(pilot.app.query_one(name, Static).content)


def rows(pilot: Pilot[None]) -> list[list[str]]:
    table = pilot.app.query_one(DataTable)
    return [[str(cell) for cell in table.get_row_at(at)] for at in range(table.row_count)]


async def sees(pilot: Pilot[None], words: str, name: str = "#head") -> None:
    async def look() -> bool:
        await pilot.pause()
        return words in said(pilot, name)

    await shown(look)


async def test_keys(pair: House):
    """Each key shows its view, of all hosts; what comes later is seen without a key; enter opens a row, escape leaves it."""
    assert await pair.call(pair.two) == 200
    async with top(f"unix:{admin_socket(pair.one)}") as pilot:
        for key, view in KEYS.items():
            await pilot.press(key)
            await sees(pilot, text.TITLES[view])
            assert [str(column.label) for column in pilot.app.query_one(DataTable).columns.values()] == [
                name for name, _ in text.COLUMNS[view]
            ]
        await pilot.press("h")
        await sees(pilot, text.TITLES["hosts"])
        assert len(rows(pilot)) == 2
        await pilot.press("c")
        await sees(pilot, text.TITLES["callers"])
        assert await pair.call(pair.two, "late") == 200

        async def late() -> bool:
            await pilot.pause()
            return "late" in {row[0] for row in rows(pilot)}

        await shown(late)
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(pilot.app.screen, Details)
        assert '"name"' in str(pilot.app.screen.query_one(Static).content)
        await pilot.press("escape")
        await pilot.pause()
        assert not isinstance(pilot.app.screen, Details)


async def test_sorted(pair: House):
    """A key sorts the view by its next column, the footer shows it, and enter opens the row that is seen."""
    for caller in ("zoe", "ann", "max"):
        assert await pair.call(pair.one, caller) == 200
    async with top(f"unix:{admin_socket(pair.one)}") as pilot:
        await pilot.press("c")
        await sees(pilot, text.TITLES["callers"])
        await pilot.press("s")
        await sees(pilot, "by CALLER")
        names = [row[0] for row in rows(pilot)]
        assert names == sorted(names)
        assert {"ann", "max", "zoe"} <= set(names)
        assert "Sort" in {str(key.description) for key in pilot.app.query(FooterKey)}
        await pilot.press("enter")
        await pilot.pause()
        assert f'"name": "{names[0]}"' in str(pilot.app.screen.query_one(Static).content)


async def test_no_daemon():
    """Without a daemon it says so and goes on asking; `q` leaves."""
    async with top("127.0.0.1:1") as pilot:
        await sees(pilot, "no daemon answers", "#trouble")
        await pilot.press("q")
    assert pilot.app.return_code == 0
