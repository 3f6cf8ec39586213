"""Who starts a ticket looks first: what has ended stays ended, and what others run, or went on with meanwhile, stays theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from conftest import until
from gate import gated
from headrace import keys
from headrace.errors import Canceled, DeadlinePassed
from headrace.retry import tickets
from headrace.retry.ticket import State
from ticket_parts import ANSWER, ERROR, Process, a_call, is_now

ENDS = {
    State.SUCCEEDED: {"answer": ANSWER},
    State.FAILED: {"error": ERROR},
    State.CANCELED: {"error": Canceled("bye")},
    State.EXPIRED: {"error": DeadlinePassed("late")},
}


async def parked(process: Process, *, key: str = "", made: int = 1) -> str:
    """Return a ticket that awaits the attempt after so many."""
    call = a_call(idempotency_key=key)
    if not key:
        return await process.tickets.park(call, attempts=made, broken=0, due=call.arrival)
    ticket_id = (await process.tickets.claim(call)).ticket
    await process.tickets.park(a_call(ticket=ticket_id), attempts=made, broken=0, due=call.arrival)
    return ticket_id


@pytest.mark.parametrize("state", ENDS)
@pytest.mark.parametrize("key", ["", "k"])
async def test_ended(here: Process, state: State, key: str) -> None:
    """A ticket that ended while it awaited an attempt is not begun again by the alarm of that attempt, nor of any other."""
    ticket_id = await parked(here, key=key)
    assert await here.tickets.finish(ticket_id, **ENDS[state])
    before = await here.link.do("HGETALL", keys.ticket(ticket_id))
    for attempt in (1, 2, 3):
        assert await here.tickets.start(ticket_id, attempt) is None
    assert await here.link.do("HGETALL", keys.ticket(ticket_id)) == before
    for index in (keys.TICKETS, keys.DUE, keys.HELD):
        assert await here.link.do("ZCARD", index) == 0
    assert repr(here.tickets) == "<Tickets [0 held, 0 waited for]>"


async def test_in_other_hands(processes) -> None:
    """A ticket that another process runs is not taken from it, be it by the alarm of the attempt after this one."""
    one, two = await processes(), await processes()
    claimed = (await one.tickets.claim(a_call(idempotency_key="k"))).ticket
    started = await parked(one)
    await one.tickets.start(started, 2)
    for ticket_id, running in ((claimed, 1), (started, 2)):
        for attempt in (running, running + 1):
            assert await two.tickets.start(ticket_id, attempt) is None
        assert await one.tickets.finish(ticket_id, by=one.tickets.hold(ticket_id), answer=ANSWER)
        assert await one.state(ticket_id) is State.SUCCEEDED


async def _let_lapse(process: Process, ticket_id: str) -> None:
    await process.link.do("HSET", keys.ticket(ticket_id), "lease_us", 0)
    await process.link.do("ZADD", keys.TICKETS, 0, ticket_id)
    await process.sweeper.sweep()


async def canceled(process: Process, ticket_id: str) -> None:
    await process.tickets.finish(ticket_id, error=Canceled("bye"))


async def queued_again(process: Process, ticket_id: str) -> None:
    await _let_lapse(process, ticket_id)


async def run_by_others(process: Process, ticket_id: str) -> None:
    await _let_lapse(process, ticket_id)
    assert await process.tickets.start(ticket_id, 2)


async def failed(process: Process, ticket_id: str) -> None:
    """It is a dead letter, and so still has its call."""
    await _let_lapse(process, ticket_id)
    await process.tickets.start(ticket_id, 2)
    await process.tickets.finish(ticket_id, error=ERROR)


@pytest.mark.parametrize("meanwhile", [canceled, queued_again, run_by_others, failed])
async def test_went_on_meanwhile(
    here: Process, valkey_url: str, tmp_path, meanwhile: Callable[[Process, str], Awaitable[None]]
) -> None:
    """Who hears late that it may begin finds out that others went on with the ticket: it makes no attempt, and ends nothing."""
    ticket_id = (await here.tickets.submit(a_call())).ticket
    async with gated(valkey_url, tmp_path) as (url, gate):
        late = Process(url)
        await late.link.do("SCRIPT", "LOAD", tickets._START.text)
        gate.is_open = False
        starting = asyncio.create_task(late.tickets.start(ticket_id, 1))
        await until(lambda: is_now(here, ticket_id, State.RUNNING))
        await meanwhile(here, ticket_id)
        state = await here.state(ticket_id)
        gate.open()
        assert await starting is None
        assert repr(late.tickets) == "<Tickets [0 held, 0 waited for]>"
        assert await here.state(ticket_id) is state
        await late.aclose()
