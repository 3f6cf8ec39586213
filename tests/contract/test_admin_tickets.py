"""Tickets on the live page: what each waits for, dead letters, and pages that a filter goes through to the end."""

from __future__ import annotations

import time

import pytest

from headrace import keys
from headrace.admin import tickets as page
from headrace.admin.tickets import Filter, TicketRows
from headrace.budget.want import Form
from headrace.budgets.census import Seen, Waits
from headrace.errors import InvalidCall
from headrace.explain.reasons import Reasons, in_lines
from headrace.model import Caller
from headrace.owner import Owner
from headrace.retry.ticket import State
from headrace.trail import Try
from headrace.trails import Trails
from ticket_parts import ERROR, Process, a_call


class Nobody:
    """A census that must not be asked."""

    async def take(self):
        raise AssertionError("it is known who waits")


def rows_of(process: Process, held: dict[str, object] | None = None) -> TicketRows:
    trails = Trails(process.link)
    reasons = Reasons(process.tickets._clock, trails, Nobody(), lambda: held or {})  # type: ignore[arg-type]
    return TicketRows(process.link, process.tickets.listing, reasons)


async def parked(process: Process, name: str, *, in_s: float = 60.0) -> str:
    return await process.tickets.park(a_call(caller=Caller(name)), attempts=1, broken=0, due=time.time() + in_s)


async def test_why(here: Process) -> None:
    """A queued one says what its last attempt came to, or that it is due; one that runs which limit, or hold, keeps it."""
    waits, due, held, line = [await parked(here, name, in_s=s) for name, s in (("a", 60), ("b", -1), ("c", 60), ("d", 60))]
    Trails(here.link).tell(waits, (Try(1, 529, "overloaded", time.time(), 0.1),))
    for each in (held, line):
        assert await here.tickets.start(each, 2) is not None
    lines = in_lines(
        [Seen("org:requests", "org", "requests", Form.RATE, 60, 60, waiting=[waits_of("d", line), waits_of("d", "")])]
    )
    rows, token = await rows_of(here, {"c": 1}).rows(Filter(), lines)
    assert token == ""
    assert {row.id: row.waits_for for row in rows} == {waits: "overloaded (529)", due: "worker", held: "hold", line: "org"}


def waits_of(name: str, ticket: str) -> Waits:
    return Waits(name, "batch", 1, 0.0, None, 99.0, "one", ticket)


@pytest.mark.parametrize("state", ["QUEUED", "LETTER", ""])
async def test_pages(here: Process, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    """However many there are, a filter finds the one that is meant, and its pages have each once."""
    monkeypatch.setattr(page, "PAGE", 4)
    monkeypatch.setattr(page, "MOST_ROWS", 8)
    made = {await submitted(here, f"c{number % 2}", is_letter=state == "LETTER") for number in range(11)}
    rare = await submitted(here, "rare", is_letter=state == "LETTER")
    listed = rows_of(here)
    assert len((await listed.rows(Filter(), {}))[0]) <= 8
    [row], token = await listed.rows(Filter(caller="rar*", state=state), {})
    assert (row.id, token) == (rare, "")
    seen: list[str] = []
    token = ""
    while True:
        rows, token = await listed.rows(Filter(caller="c*", state=state, page=token), {})
        seen += [row.id for row in rows]
        assert all(row.is_letter == (state == "LETTER") for row in rows)
        if not token:
            break
    assert len(seen) == len(made)
    assert set(seen) == made


async def submitted(process: Process, name: str, *, is_letter: bool) -> str:
    ticket = (await process.tickets.submit(a_call(caller=Caller(name)))).ticket  # type: ignore[union-attr]
    if is_letter:
        await process.tickets.finish(ticket, error=ERROR)
        assert (await process.tickets.get(ticket, Owner(name))).state is State.FAILED
    return ticket


async def test_no_page(here: Process) -> None:
    """What is no page's token is refused; a set of another's type in its place is no crash."""
    with pytest.raises(InvalidCall):
        Filter(page="x").check()
    await here.link.do("SET", keys.trail("tkt_1"), "x")
    assert await Trails(here.link).latest({"tkt_1": 1}) == {}
