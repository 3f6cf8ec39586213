"""Redis behind Sentinels: it is found, another primary is found, and what is acknowledged is there afterwards."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from tests.chaos.rows import ROWS
from tests.chaos.run import LONG, SHORT_PLAN, run

from headrace.clock import SystemClock
from headrace.errors import RedisAway
from headrace.link import Link, Script
from headrace.retry.making import Making
from headrace.retry.ticket import Claimed, Same, State, Timing
from headrace.retry.tickets import Tickets
from sentinels import Group
from ticket_parts import ANSWER, Alarms, a_call

SURE = Script("headrace.budget", "hosts.lua", is_sure=True)


@pytest.mark.slow
async def test_fails_over(long: bool) -> None:
    """Planned, and by kill -9, under load of whole daemons: every call is answered, once."""
    measured = await run("sentinel", ROWS["sentinel"], LONG if long else SHORT_PLAN, random.Random(1))
    said = "\n".join(measured.notes)
    broken = {name: measured.figures[name] for name in ("lost", "twice", "spliced", "hung") if measured.figures[name]}
    assert not broken, said
    assert measured.figures["answered"] == measured.figures["asked"] > 50, said


async def test_waits_for_replicas(tmp_path) -> None:
    """What is to be sure is acknowledged when a replica has it; without one it is not, and goes on when there is one again."""
    with await asyncio.to_thread(Group, tmp_path) as group:
        link = Link(group.url, replicas=2)
        try:
            ask = lambda: link.run(SURE, ["headrace:hosts"], ["me", 1_000_000])  # noqa: E731
            await ask()
            with group.without_a_replica(), pytest.raises(RedisAway, match="1 of 2 replicas"):
                await ask()
            await _insisted(ask)
        finally:
            await link.aclose()


def _create(link: Link, ticket_id: str) -> object:
    call = a_call(idempotency_key="key")
    return Making(link, SystemClock(), Timing(), 10, 10**6).create(ticket_id, call, State.QUEUED, due=call.arrival)


async def test_said_again_is_sure(tmp_path) -> None:
    """
    What is there already is acknowledged when replicas have it, too: a ticket that another's key stands for, and an answer.

    Whoever finds them writes nothing, over a connection that has written nothing.
    """
    with await asyncio.to_thread(Group, tmp_path) as group:
        hasty, link = Link(group.url), Link(group.url, replicas=2)
        mine, theirs = (Tickets(each, SystemClock(), Alarms()) for each in (hasty, link))
        try:
            with group.without_a_replica():
                assert isinstance(await _create(hasty, "tkt_1"), Claimed)
                with pytest.raises(RedisAway, match="1 of 2 replicas"):
                    await _create(link, "tkt_2")
            assert await _insisted(lambda: _create(link, "tkt_2")) == Same("tkt_1")

            with group.without_a_replica():
                assert await mine.finish("tkt_1", answer=ANSWER)
                with pytest.raises(RedisAway, match="1 of 2 replicas"):
                    await theirs.looks.whole("tkt_1")
                waiting = asyncio.create_task(theirs.wait("tkt_1"))
                await asyncio.wait([waiting], timeout=1.5)
                assert not waiting.done()
            assert (await asyncio.wait_for(waiting, 30)).answer == ANSWER
        finally:
            await hasty.aclose()
            await link.aclose()


async def _insisted(ask):
    while True:
        try:
            return await ask()
        except RedisAway:
            continue


async def test_group_is_calm(tmp_path) -> None:
    """The group of these tests changes its primary when it is told to, and not once more: a living one would lose writes."""
    with await asyncio.to_thread(Group, tmp_path) as group:
        for number in range(1, 4):
            await asyncio.to_thread(group.fail_over)
            give_up = time.monotonic() + 2.5
            while time.monotonic() < give_up:
                assert not await asyncio.to_thread(group.takes_primary_for_dead)
                await asyncio.sleep(0.02)
            assert group.failovers() == number
