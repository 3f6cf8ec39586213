"""Calls that go on without their caller: hands that retries need, and attempts that nobody may cut."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import until
from flow_parts import Daemon, asking, in_turn, overloaded, running, say
from headrace.pursuit import PursuitStats
from headrace.retry.ticket import State
from scripted import Line


async def test_one_hand(valkey_url: str, tmp_path: Path) -> None:
    """Submitted calls that wait for their own retries hold none of the hands that the retries need."""
    async with running(valkey_url, tmp_path, in_turn(overloaded, overloaded, say), RETRY__MAX_RUNNING="1") as (one, _):
        tickets = [await one.parts.pursuits.submit(one.call({"n": n})) for n in range(3)]
        ended = [await asyncio.wait_for(one.parts.tickets.wait(ticket.id), 20) for ticket in tickets]
        assert {ticket.state for ticket in ended} == {State.SUCCEEDED}


async def test_attempt_that_began_in_time(valkey_url: str, tmp_path: Path) -> None:
    """An attempt that began in time goes on past the moment after which none may begin, and its answer is given."""
    go = asyncio.Event()

    async def slow(line: Line) -> None:
        await go.wait()
        await say(line)

    async with running(valkey_url, tmp_path, in_turn(overloaded, slow)) as (one, server):
        call = one.call(timeout_s=30)
        call = replace(call, slack_s=28.0)
        asked = asking(one, call)
        await until(lambda: server.calls == 2)
        await asyncio.sleep(max(0.0, call.begin_by - one.parts.clock.now()) + 0.3)
        assert not asked.done()
        go.set()
        reply = await asyncio.wait_for(asked, 10)
        assert (reply.attempts, server.calls) == (2, 2)


@pytest.mark.parametrize("before", [(), (overloaded,)], ids=["first", "later"])
async def test_fault_of_ours_at_the_end(valkey_url: str, tmp_path: Path, monkeypatch, before) -> None:
    """A fault of ours when the answer is to be recorded ends the ticket: it stays in nobody's hands who does nothing for it."""
    async with running(valkey_url, tmp_path, in_turn(*before, say)) as (one, _):
        finish = one.parts.tickets.finish

        async def crash(*args, answer=None, **options):
            if answer is not None:
                raise ZeroDivisionError
            return await finish(*args, **options)

        monkeypatch.setattr(one.parts.tickets, "finish", crash)
        ticket = await one.parts.pursuits.submit(one.call())
        assert (await asyncio.wait_for(one.parts.tickets.wait(ticket.id), 20)).state is State.FAILED
        assert one.parts.tickets.stats().held == 0


@pytest.mark.parametrize("step", range(0, 24, 2))
async def test_submission_cut_off(valkey_url: str, tmp_path: Path, step: int) -> None:
    """A caller cut off while it submits has a ticket that it can find, or none; repeating it with its key gets that one."""
    async with running(valkey_url, tmp_path, say) as (one, server):
        call = one.call(idempotency_key="k")
        asked = asyncio.create_task(one.parts.pursuits.submit(call))
        for _ in range(step):
            await asyncio.sleep(0)
        asked.cancel()
        await asyncio.wait([asked])
        again = await one.parts.pursuits.submit(call)
        tickets, _ = await one.parts.tickets.listing.page(call.owner.text)
        assert [ticket.id for ticket in tickets] == [again.id]
        assert (await asyncio.wait_for(one.parts.tickets.wait(again.id), 20)).state is State.SUCCEEDED
        assert server.calls == 1


async def test_hands_in_fair_order(valkey_url: str, tmp_path: Path) -> None:
    """One caller's flood of due tickets does not stand before another's: hands are given in fair order, and not first come."""
    go, order = asyncio.Event(), []

    async def note(line: Line) -> None:
        order.append(json.loads(line.body)["who"])
        await go.wait()
        await say(line)

    async with running(valkey_url, tmp_path, note, RETRY__MAX_RUNNING="4") as (one, _):
        parked = [await park(one, "ann", n) for n in range(14)]
        await until(lambda: len(order) == 4 and one.parts.pursuits.stats().waiting == 10)
        parked += [await park(one, "bob", n) for n in range(2)]
        await until(lambda: one.parts.pursuits.stats().waiting == 12)
        go.set()
        ended = [await asyncio.wait_for(one.parts.tickets.wait(ticket), 20) for ticket in parked]
        assert {ticket.state for ticket in ended} == {State.SUCCEEDED}
    assert order.index("bob") <= 5
    assert len(order) == 16


async def test_hands_by_shares(valkey_url: str, tmp_path: Path) -> None:
    """Tickets of one caller that are long in hand leave some hands to another's, which are done meanwhile."""
    go = asyncio.Event()

    async def note(line: Line) -> None:
        if json.loads(line.body)["who"] == "ann":
            await go.wait()
        await say(line)

    async with running(valkey_url, tmp_path, note, RETRY__MAX_RUNNING="20") as (one, _):
        parked = [await park(one, "ann", n) for n in range(30)]
        await until(lambda: one.parts.pursuits.stats() == PursuitStats(running=18, waiting=12))
        mine = [await park(one, "bob", n) for n in range(4)]
        for ticket in mine:
            assert (await asyncio.wait_for(one.parts.tickets.wait(ticket), 20)).state is State.SUCCEEDED
        go.set()
        ended = [await asyncio.wait_for(one.parts.tickets.wait(ticket), 20) for ticket in parked]
        assert {ticket.state for ticket in ended} == {State.SUCCEEDED}


async def park(one: Daemon, caller: str, n: int) -> str:
    """Let a call wait in the queue for its second attempt, due at once, without anybody who waits for it."""
    call = one.call({"who": caller, "n": n}, caller=caller, idempotency_key=f"{caller}{n}")
    return await one.parts.tickets.park(call, attempts=1, broken=0, due=one.parts.clock.now())
