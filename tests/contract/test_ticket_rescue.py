"""What falls through is found again: a holder that dies, stands still or leaves, an alarm or a caller that is lost."""

from __future__ import annotations

import asyncio
import time

import pytest

from conftest import until
from headrace import keys
from headrace.errors import Canceled, RedisAway
from headrace.owner import Owner
from headrace.retry.ticket import Claimed, State, Timing
from ticket_parts import ANSWER, ERROR, QUICK, Process, a_call, is_now


async def test_crashed_attempt(processes):
    """When the holder dies its lease lapses; the next attempt is queued, and the dead one counts as broken."""
    dead, other = await processes(QUICK), await processes(QUICK)
    ticket_id = (await dead.tickets.submit(a_call())).ticket
    await dead.tickets.start(ticket_id, 1)
    await dead.die()
    await other.swept(lambda: other.alarms.set)
    assert other.alarms.set[0][:2] == (ticket_id, 2)
    ticket = await other.tickets.start(ticket_id, 2)
    assert (ticket.attempts, ticket.broken) == (2, 1)
    await other.tickets.finish(ticket_id, answer=ANSWER)
    assert not await dead.tickets.finish(ticket_id, error=ERROR), "it was not dead after all, but it is late"
    assert await other.state(ticket_id) is State.SUCCEEDED


async def test_stale_failure(processes):
    """A holder that stood still and was succeeded cannot end the ticket, by whatever came of its attempt."""
    stale, other = await processes(QUICK), await processes(QUICK)
    for last in ({"error": ERROR}, {"answer": ANSWER}):
        other.alarms.set.clear()
        ticket_id = (await stale.tickets.submit(a_call())).ticket
        await stale.tickets.start(ticket_id, 1)
        hold = stale.tickets.hold(ticket_id)
        await stale.die()
        await other.swept(lambda: other.alarms.set)
        await other.tickets.start(ticket_id, 2)
        won = await stale.tickets.finish(ticket_id, by=hold, **last)
        assert (won, await other.state(ticket_id)) == (False, State.RUNNING)
        await stale.start()
        await other.tickets.finish(ticket_id, answer=ANSWER)


async def test_stale_failure_in_between(processes):
    """The same while the ticket waits in the queue for its next holder."""
    stale, other = await processes(QUICK), await processes(QUICK)
    ticket_id = (await stale.tickets.submit(a_call())).ticket
    await stale.tickets.start(ticket_id, 1)
    hold = stale.tickets.hold(ticket_id)
    await stale.die()
    await other.swept(lambda: other.alarms.set)
    assert not await stale.tickets.finish(ticket_id, by=hold, answer=ANSWER)
    assert not await hold.counts()
    assert await other.state(ticket_id) is State.QUEUED
    assert (await other.tickets.start(ticket_id, 2)).broken == 1


async def test_lost_hold(processes):
    """Who has been told that its ticket is in other hands says nothing of how its attempt ended, if it failed."""
    here = await processes()
    ticket_id = (await here.tickets.submit(a_call())).ticket
    await here.tickets.start(ticket_id, 1)
    hold = here.tickets.hold(ticket_id)
    here.tickets._held.lose(ticket_id, hold)
    assert not await here.tickets.finish(ticket_id, by=hold, error=ERROR)
    assert await here.state(ticket_id) is State.RUNNING


async def test_running_past_its_deadline(processes):
    """A ticket whose holder lives is left to it past its deadline, too: a stream that has begun may take its time."""
    runner, other = await processes(QUICK), await processes(QUICK)
    ticket_id = (await runner.tickets.submit(a_call(deadline=time.time() + 0.2))).ticket
    await runner.tickets.start(ticket_id, 1)
    await asyncio.sleep(2 * QUICK.lease_s)
    for _ in range(3):
        await other.sweeper.sweep()
    assert await other.state(ticket_id) is State.RUNNING
    await runner.die()
    await other.swept(lambda: _has_ended(other, ticket_id))
    assert await other.state(ticket_id) is State.EXPIRED


async def _has_ended(process: Process, ticket_id: str) -> bool:
    return (await process.state(ticket_id)).is_terminal


async def test_older_hold(here):
    """Who held a ticket before it was taken anew in this very process has no say about it, and is stopped."""
    ticket_id = (await here.tickets.submit(a_call())).ticket
    ticket = await here.tickets.start(ticket_id, 1)
    older = here.tickets.hold(ticket_id)
    await here.link.do("HSET", keys.ticket(ticket_id), "state", State.QUEUED)  # as a sweeper does
    async with asyncio.TaskGroup() as group:
        stopped = group.create_task(_work(here, ticket_id))
        await asyncio.sleep(0)
        await here.tickets.start(ticket_id, 2)
        await asyncio.wait_for(stopped, 5)
    newer = here.tickets.hold(ticket_id)

    await here.tickets.park(ticket.call, attempts=1, broken=0, due=9.0, by=older)
    assert here.tickets._held.drop(ticket_id, older) is False
    assert here.tickets.hold(ticket_id) is newer
    assert await here.state(ticket_id) is State.RUNNING


async def _work(process: Process, ticket_id: str) -> None:
    with pytest.raises(Canceled):
        async with process.tickets.held(ticket_id):
            await asyncio.sleep(30)


async def test_live_attempt_is_left_alone(processes):
    """As long as its holder lives an attempt may take any time."""
    runner, other = await processes(QUICK), await processes(QUICK)
    ticket_id = (await runner.tickets.submit(a_call())).ticket
    await runner.tickets.start(ticket_id, 1)
    give_up = time.monotonic() + 4 * QUICK.lease_s
    async with runner.tickets.held(ticket_id):
        while time.monotonic() < give_up:
            await other.sweeper.sweep()
            await asyncio.sleep(0.02)
    assert (await other.state(ticket_id), other.alarms.set) == (State.RUNNING, [])


async def test_crashes_are_bounded(quick):
    """A call that kills its process each time is a dead letter in the end."""
    ticket_id = (await quick.tickets.submit(a_call())).ticket
    await quick.die()
    for attempt in (1, 2, 3):
        assert await quick.tickets.start(ticket_id, attempt), attempt
        before = len(quick.alarms.set)
        await quick.swept(lambda before=before: _moved(quick, ticket_id, before))
    ticket = await quick.tickets.get(ticket_id, Owner("checkout"))
    assert (ticket.state, ticket.attempts, ticket.error.status) == (State.FAILED, 3, 502)


async def _moved(process: Process, ticket_id: str, before: int) -> bool:
    return len(process.alarms.set) > before or (await process.state(ticket_id)).is_terminal


async def test_lost_attempt_stops(processes):
    """A holder whose lease lapsed and was taken over stops its attempt."""
    slow, other = await processes(QUICK), await processes(QUICK)
    ticket_id = (await slow.tickets.submit(a_call())).ticket
    await slow.tickets.start(ticket_id, 1)
    await slow.die()
    await other.swept(lambda: other.alarms.set)
    await slow.start()
    with pytest.raises(Canceled):
        async with slow.tickets.held(ticket_id):
            await asyncio.sleep(5)
    assert await other.state(ticket_id) is State.QUEUED


async def test_lost_from_the_due(quick):
    """A queued ticket that is not among those that are due, as one of an earlier version, is put there and rung for."""
    ticket_id = (await quick.tickets.submit(a_call())).ticket
    quick.alarms.set.clear()
    for _ in range(2):
        await quick.link.do("ZREM", keys.DUE, ticket_id)
        await quick.swept(lambda: quick.alarms.set)
        assert quick.alarms.set.pop()[:2] == (ticket_id, 1)
        assert await quick.link.do("ZSCORE", keys.DUE, ticket_id)
    assert await quick.tickets.start(ticket_id, 1)


async def test_busy_workers(quick):
    """An overdue ticket that is among those that are due is left alone: the workers will come to it."""
    await quick.tickets.submit(a_call())
    for _ in range(10):
        await quick.sweeper.sweep()
        await asyncio.sleep(0.05)
    assert len(quick.alarms.set) == 1


async def test_one_sweeper_each(processes):
    """Of several sweepers one rescues each ticket."""
    fleet = [await processes(QUICK, 60.0) for _ in range(3)]
    for _ in range(50):
        await fleet[0].tickets.submit(a_call())
    fleet[0].alarms.set.clear()
    await fleet[0].link.do("DEL", keys.DUE)
    await asyncio.sleep(0.01)
    await asyncio.gather(*(process.sweeper.sweep() for process in fleet))
    rung = [alarm[0] for process in fleet for alarm in process.alarms.set]
    assert len(rung) == len(set(rung)) == 50


async def test_unwanted(processes):
    """A parked call whose RPC died with its process is canceled when its want lapses; by the sweeper or at its start."""
    dead, other = await processes(QUICK), await processes(QUICK)
    for due in (time.time(), time.time() + 30):
        ticket_id = await dead.tickets.park(a_call(), attempts=1, broken=0, due=due)
        wait = asyncio.create_task(dead.tickets.wait(ticket_id, 0.05))
        await wait
        if due < time.time():
            await other.swept(lambda ticket_id=ticket_id: is_now(other, ticket_id, State.CANCELED))
        else:
            await asyncio.sleep(QUICK.want_s)
            assert await other.tickets.start(ticket_id, 2) is None
            assert await other.state(ticket_id) is State.CANCELED


async def test_wanted(processes):
    """As long as somebody waits, a parked call is wanted."""
    one = await processes(Timing(lease_s=1, want_s=1.5, grace_s=0))
    ticket_id = await one.tickets.park(a_call(), attempts=1, broken=0, due=time.time())
    assert (await one.tickets.wait(ticket_id, 2.5)).state is State.QUEUED
    assert await one.tickets.start(ticket_id, 2)


async def test_expired(quick):
    """Past its deadline a queued ticket is EXPIRED, and does not start."""
    soon = time.time() + 0.2
    queued = (await quick.tickets.submit(a_call(deadline=soon))).ticket
    unswept = (await quick.tickets.submit(a_call(deadline=soon))).ticket
    await asyncio.sleep(0.2)
    assert await quick.tickets.start(unswept, 1) is None
    assert await quick.state(unswept) is State.EXPIRED
    await quick.swept(lambda: is_now(quick, queued, State.EXPIRED))


async def test_callers_own_key(processes):
    """A call with its caller's own key is nobody else's to repeat: when its process dies it fails, and its key is free."""
    dead, other = await processes(QUICK), await processes(QUICK)
    call = a_call(idempotency_key="k", credential="bearer:secret")
    first = await dead.tickets.claim(call)
    stored = await other.link.do("HVALS", keys.ticket(first.ticket))
    assert len(stored) > 15
    assert not any(b"secret" in value for value in stored)
    await dead.die()
    await other.swept(lambda: is_now(other, first.ticket, State.FAILED, call.credential))
    assert other.alarms.set == []
    assert isinstance(await other.tickets.claim(call), Claimed)


async def test_leave(here):
    """A process that leaves gives back what it holds: to the queue, or, where nobody else can do it, to its caller."""
    submitted = (await here.tickets.submit(a_call())).ticket
    await here.tickets.start(submitted, 1)
    bound = await here.tickets.claim(a_call(idempotency_key="k", credential="bearer:secret"))
    await here.tickets.leave()
    ticket = await here.tickets.get(submitted, Owner("checkout"))
    assert (ticket.state, ticket.attempts, ticket.broken) == (State.QUEUED, 1, 0)
    assert here.alarms.set[-1][:2] == (submitted, 2)
    assert await here.state(bound.ticket, "bearer:secret") is State.FAILED
    assert repr(here.tickets) == "<Tickets [0 held, 0 waited for]>"


async def test_end_while_redis_is_away(quick, monkeypatch):
    """An answer that comes while Redis is away is not lost: it is said again until Redis hears it."""
    ticket_id = (await quick.tickets.submit(a_call())).ticket
    await quick.tickets.start(ticket_id, 1)
    run = quick.link.run

    async def away(*_):
        raise RedisAway("away")

    monkeypatch.setattr(quick.link, "run", away)
    assert await quick.tickets.finish(ticket_id, answer=ANSWER)
    monkeypatch.setattr(quick.link, "run", run)
    assert await quick.state(ticket_id) is State.RUNNING
    await until(lambda: is_now(quick, ticket_id, State.SUCCEEDED))
