"""Who is cancelled while it asks Redis for something leaves its ticket to others, whenever Redis's word comes."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from conftest import until
from gate import gated
from headrace import keys
from headrace.errors import Abandoned
from headrace.owner import Owner
from headrace.retry import making, tickets
from headrace.retry.ticket import Claimed, Same, State
from ticket_parts import ANSWER, Process, a_call, is_now


@pytest.mark.parametrize("ticks", range(8))
async def test_claimed_again_as_the_first_leaves(here, ticks):
    """Who comes with a key just as its first caller leaves is answered, whichever of the two is first at Redis."""
    call = a_call(idempotency_key="k")
    claiming = asyncio.create_task(here.tickets.claim(call))
    for _ in range(ticks):
        await asyncio.sleep(0)
    claiming.cancel()
    again = await here.tickets.claim(call)
    with contextlib.suppress(asyncio.CancelledError):
        await claiming
    if isinstance(again, Same):
        with pytest.raises(Abandoned):
            raise (await here.tickets.wait(again.ticket)).error
        again = await here.tickets.claim(call)
    assert isinstance(again, Claimed)
    assert await here.state(again.ticket) is State.RUNNING
    assert await here.tickets.finish(again.ticket, answer=ANSWER)


@contextlib.asynccontextmanager
async def slow_replies(url, directory):
    """A process whose Redis hears at once, and whose replies may be held back by a gate."""
    async with gated(url, directory) as (gated_url, gate):
        process = Process(gated_url)
        for script in (tickets._START, tickets._PARK, making._CREATE):
            await process.link.do("SCRIPT", "LOAD", script.text)
        yield process, gate
        gate.open()
        await process.aclose()


async def _cancel(task: asyncio.Task[object]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("reply", ["start", "read"])
async def test_cancelled_while_it_starts(here, valkey_url, tmp_path, reply):
    """Who is cancelled while it takes a ticket in hand gives it back at once, whenever Redis's word comes: it was not made."""
    ticket_id = (await here.tickets.submit(a_call())).ticket
    async with slow_replies(valkey_url, tmp_path) as (other, gate):
        gate.is_open = False
        starting = asyncio.create_task(other.tickets.start(ticket_id, 1))
        await until(lambda: is_now(here, ticket_id, State.RUNNING))
        if reply == "read":
            await gate.let_reply()  # the script's was heard
            await asyncio.wait_for(_said_something(gate), 10)
        await _cancel(starting)
        gate.open()
        await until(lambda: other.alarms.set, what="an alarm")
        assert [alarm[1] for alarm in other.alarms.set] == [1]
        ticket = await here.tickets.get(ticket_id, Owner("checkout"))
        assert (ticket.state, ticket.attempts, ticket.broken) == (State.QUEUED, 0, 0)
        assert repr(other.tickets) == "<Tickets [0 held, 0 waited for]>"
        assert await here.tickets.start(ticket_id, 1)


async def test_cancelled_where_it_does_not_start(here, valkey_url, tmp_path):
    """Who is cancelled while it asks for a ticket that another has leaves it there."""
    ticket_id = (await here.tickets.submit(a_call())).ticket
    await here.tickets.start(ticket_id, 1)
    async with slow_replies(valkey_url, tmp_path) as (other, gate):
        gate.is_open = False
        starting = asyncio.create_task(other.tickets.start(ticket_id, 1))
        await asyncio.wait_for(_said_something(gate), 10)
        await _cancel(starting)
        gate.open()
        await until(lambda: not other.tickets.unwanted._background)
        assert await here.state(ticket_id) is State.RUNNING
        assert repr(here.tickets) == "<Tickets [1 held, 0 waited for]>"


async def _said_something(gate) -> None:
    gate.said.put_nowait(await gate.said.get())


@pytest.mark.parametrize("credential", ["", "bearer:secret"])
async def test_cancelled_while_it_claims(here, valkey_url, tmp_path, credential):
    """Who is cancelled while it claims a key that others wait for gives the ticket back, or ends what only it can do."""
    call = a_call(idempotency_key="k", credential=credential)
    async with slow_replies(valkey_url, tmp_path) as (other, gate):
        gate.is_open = False
        claiming = asyncio.create_task(other.tickets.claim(call))
        await until(lambda: here.link.do("EXISTS", keys.idempotency(call.owner.text, "k")))
        same = await here.tickets.claim(call)
        waiting = asyncio.create_task(here.tickets.wait(same.ticket))
        await until(lambda: here.link.do("EXISTS", keys.audience(f"ticket:{same.ticket}")))
        await _cancel(claiming)
        gate.open()
        if credential:
            assert isinstance((await asyncio.wait_for(waiting, 5)).error, Abandoned)
        else:
            await until(lambda: other.alarms.set, what="an alarm")
            assert other.alarms.set[0][:2] == (same.ticket, 1)
            assert await here.state(same.ticket) is State.QUEUED
            await here.tickets.start(same.ticket, 1)
            await here.tickets.finish(same.ticket, answer=ANSWER)
            assert (await asyncio.wait_for(waiting, 5)).answer == ANSWER
        assert repr(other.tickets) == "<Tickets [0 held, 0 waited for]>"


async def test_cancelled_while_it_parks(here, valkey_url, tmp_path):
    """Who is cancelled while it puts a ticket back into the queue has done so, its alarm set for the time that it named."""
    ticket_id = (await here.tickets.submit(a_call())).ticket
    async with slow_replies(valkey_url, tmp_path) as (other, gate):
        ticket = await other.tickets.start(ticket_id, 1)
        gate.is_open = False
        parking = asyncio.create_task(other.tickets.park(ticket.call, attempts=1, broken=0, due=9.0))
        await until(lambda: is_now(here, ticket_id, State.QUEUED))
        await _cancel(parking)
        gate.open()
        await until(lambda: other.alarms.set, what="an alarm")
        assert other.alarms.set == [(ticket_id, 2, 9.0)]
        assert repr(other.tickets) == "<Tickets [0 held, 0 waited for]>"


async def test_cancelled_while_it_ends(here, valkey_url, tmp_path):
    """Who is cancelled while it says how a ticket ended has it said all the same: no hold is left that nobody works for."""
    ticket_id, warm = [(await here.tickets.submit(a_call())).ticket for _ in range(2)]
    await here.tickets.finish(warm, answer=ANSWER)  # Redis knows the script by now
    async with slow_replies(valkey_url, tmp_path) as (other, gate):
        await other.start()
        await other.tickets.start(ticket_id, 1)
        gate.is_open = False
        ending = asyncio.create_task(other.tickets.finish(ticket_id, by=other.tickets.hold(ticket_id), answer=ANSWER))
        await until(lambda: is_now(here, ticket_id, State.SUCCEEDED))
        await _cancel(ending)
        gate.open()
        await until(lambda: not other.tickets.stats().held)
