"""Lists of tickets: filters, everybody's, and pages that stay right while tickets come, end and go."""

from __future__ import annotations

import asyncio
import time

import pytest

from headrace import keys
from headrace.errors import Canceled, InvalidCall
from headrace.model import Caller
from headrace.retry.listing import Wanted
from headrace.retry.ticket import State
from ticket_parts import ANSWER, ERROR, Process, a_call


async def submitted(process: Process, name: str = "checkout", **changes) -> str:
    return (await process.tickets.submit(a_call(caller=Caller(name), **changes))).ticket


async def ids(process: Process, owner: str = "checkout", wanted: Wanted | None = None, **options) -> list[str]:
    return [ticket.id for ticket in (await process.tickets.listing.page(owner, wanted, **options))[0]]


async def test_filters(here):
    """By state, model, lane and time."""
    slow = await submitted(here, model="claude-opus-4", lane="batch")
    at = time.time()
    quick = await submitted(here, model="claude-haiku-4", lane="interactive")
    await here.tickets.finish(quick, answer=ANSWER)
    assert await ids(here, wanted=Wanted(state=State.QUEUED)) == [slow]
    assert await ids(here, wanted=Wanted(model="claude-h*")) == [quick]
    assert await ids(here, wanted=Wanted(lane="batch")) == [slow]
    assert await ids(here, wanted=Wanted(since=at)) == [quick]
    assert await ids(here, wanted=Wanted(until=at)) == [slow]
    assert await ids(here, wanted=Wanted(since=at, until=at)) == []


async def test_everybody(here):
    """With "*" those of all owners are merged, newest first, page by page."""
    made = [await submitted(here, f"c{n % 3}") for n in range(8)]
    seen, token = [], ""
    while True:
        page, token = await here.tickets.listing.page("*", page_size=3, page_token=token)
        seen += [ticket.id for ticket in page]
        if not token:
            break
    assert seen == made[::-1]
    assert await ids(here, "c1") == [made[7], made[4], made[1]]
    assert {ticket.owner for ticket in (await here.tickets.listing.page("*"))[0]} == {"c0", "c1", "c2"}


async def test_changes_between_pages(here):
    """What is made, ends and goes between two pages neither doubles nor hides anything."""
    made = [await submitted(here) for _ in range(6)]
    first, token = await here.tickets.listing.page("checkout", page_size=2)
    gone = first[-1].id  # the very one at which the page ended
    await here.link.do("DEL", keys.ticket(gone))
    await here.link.do("ZREM", keys.tickets_of("checkout"), gone)
    await here.tickets.finish(made[2], answer=ANSWER)
    late = await submitted(here)
    rest, token = await here.tickets.listing.page("checkout", page_size=10, page_token=token)
    assert [ticket.id for ticket in rest] == made[3::-1]
    assert late not in [ticket.id for ticket in rest]
    assert token == ""


async def test_made_together(here):
    """Tickets of one moment are told one by one, too."""
    name, made = keys.tickets_of("checkout"), sorted([await submitted(here) for _ in range(7)])
    for ticket_id in made:
        await here.link.do("ZADD", name, 1_000_000, ticket_id)
    seen, token = [], ""
    while True:
        page, token = await here.tickets.listing.page("checkout", page_size=2, page_token=token)
        seen += [ticket.id for ticket in page]
        if not token:
            break
    assert seen == made[::-1]


@pytest.mark.parametrize("token", ["x", "1", "-", "1-", "99999999999999999999-a", "-1-a", "\u0661-a", "1.5-a"])
async def test_no_token(here, token):
    """What is no page's token is refused."""
    with pytest.raises(InvalidCall):
        await here.tickets.listing.page("checkout", page_token=token)


async def test_gone_between_looks(here):
    """What goes while a page is put together takes no other along: a page looks once."""
    made = [await submitted(here) for _ in range(6)]
    _, token = await here.tickets.listing.page("checkout", page_size=2)
    do, looks = here.link.do, []

    def watched(*words):
        if words[0] == "ZRANGE":
            looks.append(words)
            if len(looks) == 2:  # just before a second look those go that the first has seen
                here.link._enqueue(("ZREM", keys.tickets_of("checkout"), made[4], made[3]))
        return do(*words)

    here.link.do = watched
    seen = []
    while token:
        page, token = await here.tickets.listing.page("checkout", page_size=2, page_token=token)
        seen += [ticket.id for ticket in page]
    assert [each for each in seen if each in made[:3]] == made[2::-1]


async def test_while_all_changes(processes):
    """Pages under filters, while others make, cancel and drop: none twice, and none left out that fitted all the time."""
    here, there = await processes(), await processes()
    stay = [await submitted(here, model="claude-haiku-4", lane="batch") for _ in range(40)]
    go = [await submitted(here, model="claude-haiku-4", lane="batch") for _ in range(40)]

    async def change() -> None:
        for ticket_id in go[::2]:
            await there.tickets.finish(ticket_id, error=ERROR)
            await there.letters.drop(ticket_id)
        for ticket_id in go[1::2]:
            await there.tickets.finish(ticket_id, error=Canceled("c"))
            await submitted(there, model="claude-haiku-4", lane="batch")

    wanted = Wanted(state=State.QUEUED, model="claude-h*", lane="batch", until=time.time() + 60)
    changing = asyncio.create_task(change())
    rounds = 0
    while not changing.done() or not rounds:
        seen, token = [], ""
        while True:
            page, token = await here.tickets.listing.page("checkout", wanted, page_size=3, page_token=token)
            seen += [ticket.id for ticket in page]
            if not token:
                break
        assert len(seen) == len(set(seen))
        assert set(stay) <= set(seen)
        rounds += 1
    await changing
