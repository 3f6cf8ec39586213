"""Canceling a ticket, from any process: it does not start, or its attempt stops, unless somebody else wants it."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from conftest import until
from headrace import keys
from headrace.errors import Canceled
from headrace.owner import Owner
from headrace.retry.ticket import State
from ticket_parts import ANSWER, ERROR, a_call


async def test_cancel(here):
    """A canceled ticket does not start; canceling again, or what has ended, changes nothing."""
    ticket_id = (await here.tickets.submit(a_call())).ticket
    assert (await here.tickets.cancel(ticket_id, Owner("checkout"))).state is State.CANCELED
    assert await here.tickets.start(ticket_id, 1) is None
    assert not await here.tickets.finish(ticket_id, answer=ANSWER)
    assert (await here.tickets.cancel(ticket_id, Owner("checkout"))).state is State.CANCELED


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_cancel_stops_the_attempt(processes, where):
    """Canceling a running ticket stops its attempt, in this process or another, at once; an answer of it does not count."""
    runner = await processes()
    canceler = runner if where == "here" else await processes()
    ticket_id = (await runner.tickets.submit(a_call())).ticket
    await runner.tickets.start(ticket_id, 1)
    hold = runner.tickets.hold(ticket_id)

    async def attempt() -> None:
        async with runner.tickets.held(ticket_id):
            await asyncio.sleep(60)

    task = asyncio.create_task(attempt())
    await asyncio.sleep(0)
    await canceler.tickets.cancel(ticket_id, Owner("checkout"))
    with pytest.raises(Canceled):
        await asyncio.wait_for(task, 1)
    assert not await runner.tickets.finish(ticket_id, by=hold, answer=ANSWER)
    assert not await hold.counts()
    assert repr(runner.tickets) == "<Tickets [0 held, 0 waited for]>"


async def test_finish_inside_held(here):
    """The attempt itself may end its ticket inside `held` and go on."""
    ticket_id = (await here.tickets.submit(a_call())).ticket
    await here.tickets.start(ticket_id, 1)
    async with here.tickets.held(ticket_id):
        assert await here.tickets.finish(ticket_id, answer=ANSWER)
        await asyncio.sleep(0.05)
    assert await here.state(ticket_id) is State.SUCCEEDED


async def test_cancel_soon_spares_others(processes):
    """An RPC that goes cancels its ticket only if no other process waits for it."""
    one, two = await processes(), await processes()
    ticket_id = await one.tickets.park(a_call(), attempts=1, broken=0, due=time.time() + 30)
    wait = asyncio.create_task(two.tickets.wait(ticket_id))
    await until(lambda: one.link.do("EXISTS", keys.audience(f"ticket:{ticket_id}")))
    one.tickets.unwanted.cancel_soon(ticket_id)
    await until(lambda: not one.tickets.unwanted._background)
    assert await one.state(ticket_id) is State.QUEUED

    wait.cancel()
    await asyncio.gather(wait, return_exceptions=True)
    two.tickets.unwanted.cancel_soon(ticket_id)

    async def canceled():
        return await one.state(ticket_id) is State.CANCELED

    await until(canceled)


async def test_cancel_races_the_end(processes):
    """Two hundred cancels meet the ends of their attempts: one terminal state each, and whoever canceled is told that one."""
    here, there = await processes(), await processes()
    seen, chance = set(), random.Random(10)

    async def race(number: int) -> None:
        ticket_id = (await here.tickets.submit(a_call())).ticket
        await here.tickets.start(ticket_id, 1)
        hold = here.tickets.hold(ticket_id)
        end = {"answer": ANSWER} if number % 2 else {"error": ERROR}

        async def finish() -> bool:
            await asyncio.sleep(chance.uniform(0, 0.02))  # a cancel looks first
            return await here.tickets.finish(ticket_id, by=hold, **end)

        is_first, told = await asyncio.gather(finish(), there.tickets.cancel(ticket_id, Owner("checkout")))
        ended = await here.tickets.wait(ticket_id)
        assert told.state is ended.state
        assert is_first is (ended.state is not State.CANCELED)
        assert (ended.answer is not None) == (ended.state is State.SUCCEEDED)
        assert (await there.tickets.cancel(ticket_id, Owner("checkout"))).state is ended.state
        seen.add(ended.state)

    for first in range(0, 200, 20):
        await asyncio.gather(*map(race, range(first, first + 20)))
    assert len(seen) == 3
