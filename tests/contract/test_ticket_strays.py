"""Who is dead, and what nobody holds: by the pulse of all processes, and by what Redis notes in whose hands."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from conftest import until
from headrace import keys
from headrace.errors import RedisAway
from headrace.flight import lease
from headrace.flight.flight import Flight
from headrace.owner import Owner
from headrace.retry import making, tickets
from headrace.retry.ticket import State
from lease_parts import KEY, hosts, in_the_air
from ticket_parts import ANSWER, Process, a_call, is_now


def lose_replies(monkeypatch, process, *scripts):
    """Let Redis do what these scripts say, and say nothing of it, once each; the next giving back is lost on the way."""
    run, silent = process.link.run, set(scripts)

    async def lost(script, names, args):
        if script in silent:
            silent.discard(script)
            await run(script, names, args)
            raise RedisAway("no word of it")
        if silent != set(scripts) and script is tickets._PARK and not undone:
            undone.append(script)
            raise RedisAway("away")
        return await run(script, names, args)

    undone: list[object] = []
    monkeypatch.setattr(process.link, "run", lost)


async def test_started_for_nobody(here, monkeypatch):
    """Redis gave a ticket into our hands after we had given up asking: it is given back, its attempt not made."""
    ticket_id = (await here.tickets.submit(a_call())).ticket
    lose_replies(monkeypatch, here, tickets._START)
    with pytest.raises(RedisAway):
        await here.tickets.start(ticket_id, 1)
    assert await here.state(ticket_id) is State.RUNNING
    began = time.monotonic()
    await until(lambda: is_now(here, ticket_id, State.QUEUED))
    assert time.monotonic() - began < 5, "a lease is fifteen seconds long"
    ticket = await here.tickets.get(ticket_id, Owner("checkout"))
    assert (ticket.attempts, ticket.broken) == (0, 0)
    assert here.alarms.set[-1][:2] == (ticket_id, 1)
    assert await here.link.do("ZCARD", keys.HELD) == 0


async def test_claimed_for_nobody(here, monkeypatch):
    """The same with a key that was claimed: somebody makes its call, and who comes with the key gets the answer."""
    lose_replies(monkeypatch, here, making._CREATE)
    monkeypatch.setattr(tickets, "insist", lambda clock, ask: ask())
    call = a_call(idempotency_key="k")
    with pytest.raises(RedisAway):
        await here.tickets.claim(call)
    [ticket_id] = [each.decode() for each in await here.link.do("ZRANGE", keys.tickets_of("checkout"), 0, -1)]
    await until(lambda: _is_free(here, ticket_id))


async def _is_free(process: Process, ticket_id: str) -> bool:
    return await process.state(ticket_id) in (State.QUEUED, State.CANCELED)


async def test_what_is_held_stays(here):
    """What is in our hands is not given back, whatever time it takes, and it is noted until it ends."""
    held = (await here.tickets.submit(a_call())).ticket
    claimed = (await here.tickets.claim(a_call(idempotency_key="k"))).ticket
    await here.tickets.start(held, 1)
    await asyncio.sleep(2.5)
    assert await here.state(held) is await here.state(claimed) is State.RUNNING
    assert await here.link.do("ZCARD", keys.HELD) == 2
    await here.tickets.finish(held, answer=ANSWER)
    await here.tickets.park(a_call(ticket=claimed), attempts=1, broken=0, due=time.time() + 9)
    assert await here.link.do("ZCARD", keys.HELD) == 0


@contextlib.asynccontextmanager
async def beating(process: Process, *alive: str, settled: bool = True):
    """The pulse as processes that live make it; only those named are heard."""

    async def beat() -> None:
        while True:
            now_us = round(time.time() * 1e6)
            from_us = now_us - 1_000_000 if settled else now_us + 5_000_000
            await process.link.do("SET", keys.PULSE, f"{from_us} {now_us + 1_250_000}")
            await process.link.do("DEL", keys.HEARD)
            await process.link.do("ZADD", keys.HEARD, now_us, "somebody", *[each for name in alive for each in (now_us, name)])
            await asyncio.sleep(0.1)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_dead_by_the_pulse(processes):
    """A process that is not heard any more is dead: its tickets go on long before their leases end, and nobody else's."""
    dead, alive, other = await processes(), await processes(), await processes()
    lost = (await dead.tickets.submit(a_call())).ticket
    kept = (await dead.tickets.submit(a_call())).ticket
    await dead.tickets.start(lost, 1)
    await alive.tickets.start(kept, 1)
    await dead.die()
    async with beating(other, alive.link.inbox, other.link.inbox):
        began = time.monotonic()
        await other.swept(lambda: is_now(other, lost, State.QUEUED))
        assert time.monotonic() - began < 4
        assert await other.state(kept) is State.RUNNING
    assert not await dead.tickets.finish(lost, by=dead.tickets.hold(lost), answer=ANSWER)


async def test_silence_of_redis_is_nobodys_death(quick, processes):
    """After Redis was away no lease has ended until those who live had the time to say so."""
    other = await processes()
    ticket_id = (await quick.tickets.submit(a_call())).ticket
    await quick.tickets.start(ticket_id, 1)
    await quick.die()
    async with beating(other, settled=False):
        for _ in range(10):
            await asyncio.sleep(0.1)
            await other.sweeper.sweep()
        assert await other.state(ticket_id) is State.RUNNING
    async with beating(other):
        await other.swept(lambda: is_now(other, ticket_id, State.QUEUED))


async def test_it_crashed_three_times(processes):
    """A call whose attempts kill their process is a dead letter after the third, however many attempts it may have."""
    other = await processes()
    ticket_id = (await other.tickets.submit(a_call())).ticket
    async with beating(other, other.link.inbox):
        for attempt in (1, 2, 3):
            dead = await processes()
            assert await dead.tickets.start(ticket_id, attempt)
            await dead.die()
            await other.link.do("HSET", keys.ticket(ticket_id), "lease_us", 0)
            await other.link.do("ZADD", keys.TICKETS, 0, ticket_id)
            await other.swept(lambda: _is_moved(other, ticket_id))
    ticket = await other.tickets.get(ticket_id, Owner("checkout"))
    assert (ticket.state, ticket.attempts) == (State.FAILED, 3)
    assert await other.link.do("HEXISTS", keys.ticket(ticket_id), "body"), "a person may want to repeat it"


async def _is_moved(process: Process, ticket_id: str) -> bool:
    return await process.state(ticket_id) is not State.RUNNING


# Flights.


async def test_led_by_nobody(valkey_url, monkeypatch):
    """Redis let us lead after we had given up asking: who asks next leads, and does not wait for a lease to end."""
    async with hosts(valkey_url, 2, 15_000) as (one, two):
        run = one.link.run

        def lost(script, names, args):
            reply = run(script, names, args)
            if script is not lease._LEAD:
                return reply
            monkeypatch.setattr(one.link, "run", run)
            refused = asyncio.get_running_loop().create_future()
            reply.add_done_callback(lambda _: refused.set_exception(RedisAway("no word of it")))
            return refused

        monkeypatch.setattr(one.link, "run", lost)
        with pytest.raises(lease.NoLease):
            await one.leases.fly(Flight(KEY), 0, one.lead)
        asking = asyncio.create_task(two.ask())
        await in_the_air(two)
        two.go_on.set()
        await asking


async def test_leader_dead_by_the_pulse(valkey_url, processes):
    """Who follows a leader that is not heard any more leads long before its lease ends."""
    other = await processes()
    async with hosts(valkey_url, 2, 15_000) as (one, two):
        leading = asyncio.create_task(one.ask())
        await in_the_air(one)
        async with beating(other, two.link.inbox):
            following = asyncio.create_task(two.ask())
            await one.die()
            began = time.monotonic()
            await in_the_air(two)
            assert time.monotonic() - began < 4
            two.go_on.set()
            await following
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)
