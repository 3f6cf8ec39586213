"""Watching a ticket, from any process: each change, the end, and nothing of another's."""

from __future__ import annotations

import asyncio
import time

import pytest

from conftest import until
from headrace import keys
from headrace.errors import TicketLost, TicketNotFound
from headrace.owner import Owner
from headrace.retry.ticket import State, Ticket
from ticket_parts import ANSWER, QUICK, Process, a_call

MINE = Owner("checkout")


class Watcher:
    """Remembers what it is told."""

    def __init__(self, process: Process, ticket_id: str) -> None:
        self.told: list[Ticket] = []
        self.task = asyncio.create_task(self._watch(process, ticket_id))

    async def _watch(self, process: Process, ticket_id: str) -> None:
        async for ticket in process.tickets.watching.changes(ticket_id, MINE):
            self.told.append(ticket)

    async def has(self, state: State, attempts: int) -> Ticket:
        await until(lambda: any((t.state, t.attempts) == (state, attempts) for t in self.told), within=3.0)
        return self.told[-1]


async def test_changes(here, processes):
    """Another process hears of each attempt, of the next one's time, and of the end with its answer, before it looks again."""
    there = await processes()
    ticket_id = (await here.tickets.submit(a_call())).ticket
    watcher = Watcher(there, ticket_id)
    await watcher.has(State.QUEUED, 0)
    call = (await here.tickets.start(ticket_id, 1)).call
    await watcher.has(State.RUNNING, 1)
    due = time.time() + 30
    await here.tickets.park(call, attempts=1, broken=1, due=due)
    assert (await watcher.has(State.QUEUED, 1)).due == due
    await here.tickets.start(ticket_id, 2)
    await watcher.has(State.RUNNING, 2)
    await here.tickets.finish(ticket_id, answer=ANSWER)
    await asyncio.wait_for(watcher.task, 3)
    assert (watcher.told[-1].state, watcher.told[-1].answer) == (State.SUCCEEDED, ANSWER)
    assert [ticket.answer for ticket in watcher.told[:-1]] == [None] * 4


async def test_rescued(quick, processes):
    """It is told, too, when the process that ran it died, and it is queued for its next attempt."""
    there = await processes(QUICK)
    ticket_id = (await quick.tickets.submit(a_call())).ticket
    watcher = Watcher(there, ticket_id)
    await quick.tickets.start(ticket_id, 1)
    await watcher.has(State.RUNNING, 1)
    await quick.die()
    await there.swept(lambda: watcher.told[-1].state is State.QUEUED)
    watcher.task.cancel()


async def test_ended(here):
    """One that has ended is told once."""
    ticket_id = (await here.tickets.submit(a_call())).ticket
    await here.tickets.finish(ticket_id, answer=ANSWER)
    told = [ticket async for ticket in here.tickets.watching.changes(ticket_id, MINE)]
    assert [(ticket.state, ticket.answer) for ticket in told] == [(State.SUCCEEDED, ANSWER)]


async def test_not_ones_own(here):
    """Another's is not there, and is not kept wanted by who asks for it."""
    ticket_id = await here.tickets.park(a_call(), attempts=1, broken=0, due=time.time() + 60)
    wanted = await here.link.do("HGET", keys.ticket(ticket_id), "wanted_us")
    with pytest.raises(TicketNotFound):
        await anext(here.tickets.watching.changes(ticket_id, Owner("other")))
    assert await here.link.do("HGET", keys.ticket(ticket_id), "wanted_us") == wanted


async def test_kept_wanted(quick):
    """A parked call lives as long as somebody watches it."""
    ticket_id = await quick.tickets.park(a_call(), attempts=1, broken=0, due=time.time() + 60)
    before = int(await quick.link.do("HGET", keys.ticket(ticket_id), "wanted_us"))
    await anext(quick.tickets.watching.changes(ticket_id, MINE))
    assert int(await quick.link.do("HGET", keys.ticket(ticket_id), "wanted_us")) > before


async def test_nothing_stays(here):
    """Who watches leaves nothing behind that does not go by itself."""
    ticket_id = (await here.tickets.submit(a_call())).ticket
    await anext(here.tickets.watching.changes(ticket_id, MINE))
    assert 0 < await here.link.do("TTL", keys.watchers(ticket_id)) <= 30


async def test_planted(here):
    """What others leave where watchers are noted stops no ticket."""
    ticket_id = (await here.tickets.submit(a_call())).ticket
    await here.link.do("SET", keys.watchers(ticket_id), "rubbish")
    assert await here.tickets.start(ticket_id, 1)
    assert await here.tickets.finish(ticket_id, answer=ANSWER)


async def test_lost(here):
    """One that was told and is there no more is lost, and not one that there never was: whoever watches may ask again."""
    ticket_id = (await here.tickets.submit(a_call())).ticket
    watcher = Watcher(here, ticket_id)
    await watcher.has(State.QUEUED, 0)
    await here.link.do("DEL", keys.ticket(ticket_id))
    here.tickets.watching._on_moved(ticket_id.encode())
    with pytest.raises(TicketLost):
        await asyncio.wait_for(watcher.task, 3)
