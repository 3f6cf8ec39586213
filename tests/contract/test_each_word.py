"""
What is said to Redis beside a call's own way, lost before and after it is done, doubled, and done late for nobody.

The way of calls is walked in tests/chaos/paths.py. Here are renewals, what looks after the dead, and what is done to letters.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.chaos.nth import TROUBLES, NthWire, Trouble, nth_wired

from conftest import until
from headrace import keys
from headrace.clock import SystemClock
from headrace.errors import RedisAway, TicketNotFound
from headrace.insist import insist
from headrace.link import Link
from headrace.retry import letters, making, renewals, sweeper
from headrace.retry.ticket import State
from ticket_parts import ANSWER, ERROR, Process, a_call

every_trouble = pytest.mark.parametrize("trouble", TROUBLES)


@pytest.fixture
async def wired(valkey_url: str, tmp_path_factory) -> AsyncIterator[tuple[Process, NthWire]]:
    """A process whose words to Redis go over a wire."""
    at = Path(tmp_path_factory.mktemp("w")) / "w"
    async with nth_wired(Path(valkey_url.removeprefix("unix://")), at) as wire:
        process = await Process(f"unix://{at}").start()
        for script in (making._REQUEUE, letters._DROP, letters._ERASE, renewals._RENEW, sweeper._LAPSE, sweeper._RESCUE):
            await process.link.do("SCRIPT", "LOAD", script.text)  # else all that is lost is the word that it is not known
        try:
            yield process, wire
        finally:
            await process.aclose()


@contextlib.asynccontextmanager
async def troubled(wire: NthWire, kind: str, command: str) -> AsyncIterator[None]:
    """Let one command meet trouble in the block, and wait until nothing more comes of it."""
    trouble = Trouble(kind, command)
    with wire.armed(trouble):
        yield
        assert trouble.times, f"{command} was not said: {wire.seen}"
        await asyncio.wait_for(trouble.is_over.wait(), 10)


async def ends_once(process: Process, ticket_id: str, attempt: int = 1) -> None:
    """The ticket is worked, ends, and ends no other way."""
    assert await process.tickets.start(ticket_id, attempt)
    assert await process.tickets.finish(ticket_id, answer=ANSWER)
    assert not await process.tickets.finish(ticket_id, error=ERROR)
    assert await process.state(ticket_id) is State.SUCCEEDED
    assert await process.link.do("ZCARD", keys.TICKETS) == 0
    assert await process.link.do("ZCARD", keys.HELD) == 0
    assert await process.link.do("ZCARD", keys.DUE) == 0
    assert await process.link.do("ZCARD", keys.live_tickets_of("checkout")) == 0
    assert int(await process.link.do("HGET", keys.LIVE_BYTES, "sum") or 0) == 0


async def a_letter(process: Process) -> str:
    ticket_id = (await process.tickets.submit(a_call())).ticket
    await process.tickets.start(ticket_id, 1)
    await process.tickets.finish(ticket_id, error=ERROR)
    return ticket_id


@every_trouble
async def test_requeue(wired, here: Process, trouble: str) -> None:
    """A letter is a ticket again, once, and who asked for it hears so."""
    far, wire = wired
    ticket_id = await a_letter(here)
    async with troubled(wire, trouble, "requeue"):
        assert (await far.letters.requeue(ticket_id)).state is State.QUEUED
    assert await here.link.do("ZCARD", keys.LETTERS) == 0
    assert await here.link.do("ZCARD", keys.live_tickets_of("checkout")) == 1
    await ends_once(here, ticket_id)


@every_trouble
async def test_requeued_ticket_is_no_letter(wired, here: Process, trouble: str) -> None:
    """A letter that somebody else has made a ticket of is not found, whatever becomes of the words."""
    far, wire = wired
    ticket_id = await a_letter(here)
    letter = await here.letters.get(ticket_id)
    await here.letters.requeue(ticket_id)
    async with troubled(wire, trouble, "requeue"):
        with pytest.raises(TicketNotFound):
            await insist(SystemClock(), lambda: far.tickets.requeue(letter.ticket, replace(letter.ticket.call, deadline=1.5)))
    await ends_once(here, ticket_id)


@every_trouble
async def test_drop(wired, here: Process, trouble: str) -> None:
    """A letter is gone, and who asked for that hears no complaint."""
    far, wire = wired
    ticket_id = await a_letter(here)
    async with troubled(wire, trouble, "drop"):
        await far.letters.drop(ticket_id)
    with pytest.raises(TicketNotFound):
        await here.letters.get(ticket_id)
    assert await here.link.do("EXISTS", keys.ticket(ticket_id)) == 0


@every_trouble
async def test_erase(wired, here: Process, trouble: str) -> None:
    """A ticket that has ended is gone for good, and who had it erased hears that it is."""
    far, wire = wired
    ticket_id = await a_letter(here)
    async with troubled(wire, trouble, "erase"):
        await far.letters.erase(ticket_id)
    with pytest.raises(TicketNotFound):
        await here.letters.get(ticket_id)
    assert await here.letters.count() == 0


@every_trouble
async def test_renew(wired, here: Process, trouble: str) -> None:
    """What runs stays in its holder's hands; the other process finds nothing to look after."""
    far, wire = wired
    ticket_id = (await far.tickets.submit(a_call())).ticket
    assert await far.tickets.start(ticket_id, 1)
    async with troubled(wire, trouble, "renew"):
        with contextlib.suppress(RedisAway):
            await far.tickets._renewals.renew()
    await here.sweeper.sweep()
    assert await here.tickets.start(ticket_id, 1) is None, "it is in other hands"
    assert await far.tickets.finish(ticket_id, answer=ANSWER)
    assert await here.state(ticket_id) is State.SUCCEEDED


async def is_thought_dead(dying: Process, ticket_id: str, link: Link) -> None:
    """Let a process fall silent, as long ago as it takes to be thought dead, with a ticket in its hands."""
    await dying.die()
    now_us = round(time.time() * 1e6)
    await link.do("SET", keys.PULSE, f"1 {now_us + 600_000_000}")
    await link.do("SET", keys.missed(dying.link.inbox), "1")
    await link.do("HSET", keys.ticket(ticket_id), "lease_us", now_us)  # it was renewed a lease ago


@every_trouble
@pytest.mark.parametrize("command", ["lapse", "rescue"])
async def test_looked_after(wired, processes, command: str, trouble: str) -> None:
    """What a dead process held is queued again for the next attempt, and ends once, whatever becomes of the words."""
    far, wire = wired
    dying, here = await processes(), await processes()
    ticket_id = (await dying.tickets.submit(a_call())).ticket
    assert await dying.tickets.start(ticket_id, 1)
    await is_thought_dead(dying, ticket_id, here.link)

    async def is_queued() -> bool:
        with contextlib.suppress(RedisAway):
            await far.sweeper.sweep()
        return await here.state(ticket_id) is State.QUEUED

    async with troubled(wire, trouble, command):
        await until(is_queued)
    await ends_once(here, ticket_id, attempt=2)
