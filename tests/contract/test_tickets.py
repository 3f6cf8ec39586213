"""Tickets on a real Valkey: one terminal state each, whatever comes twice, late, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import until
from gate import gated
from headrace import keys
from headrace.errors import Abandoned, BudgetExhausted, Canceled, DeadlinePassed, InvalidCall, RedisAway, TicketNotFound
from headrace.model import CacheControl, Caller, Lane, Source
from headrace.owner import Owner
from headrace.retry import making, tickets
from headrace.retry.ticket import Claimed, Conflict, Same, State, Timing, decode_call, encode_call
from ticket_parts import ANSWER, ERROR, QUICK, Process, a_call


@pytest.fixture
async def processes(valkey_url):
    """A maker of processes on one Redis."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(*args) -> Process:
            process = await Process(valkey_url, *args).start()
            stack.push_async_callback(process.aclose)
            return process

        yield make


@pytest.fixture
async def here(processes):
    return await processes()


@pytest.fixture
async def quick(processes):
    return await processes(QUICK)


# Values.


@given(
    model=st.text(st.characters()),
    body=st.binary(),
    stream=st.booleans(),
    deadline=st.floats(0, 1e10),
    lane=st.sampled_from(Lane),
)
def test_call_as_bytes(model, body, stream, deadline, lane):
    """A call comes back as it was, but for its credential and its key, which never go in."""
    call = a_call(
        model=model,
        body=body,
        stream=stream,
        deadline=deadline,
        lane=lane,
        cache=CacheControl(no_store=True, max_age_s=1.5),
        labels=(("env", "prod"),),
        credential="x-api-key:secret",
        idempotency_key="key",
    )
    raw = encode_call(call)
    assert b"secret" not in raw
    assert decode_call(raw, body, "tkt_1") == replace(call, credential="", idempotency_key="", ticket="tkt_1")


# A life.


async def test_submitted(here):
    """A submitted call is queued, durably, with an alarm for attempt 1; it runs, and ends by its answer."""
    call = a_call()
    ticket_id = (await here.tickets.submit(call)).ticket

    ticket = await here.tickets.get(ticket_id, Owner("checkout"))
    assert (ticket.state, ticket.attempts, ticket.is_submitted, ticket.call) == (State.QUEUED, 0, True, None)
    assert [alarm[:2] for alarm in here.alarms.set] == [(ticket_id, 1)]

    running = await here.tickets.start(ticket_id, 1)
    assert (running.state, running.attempts) == (State.RUNNING, 1)
    assert running.call == replace(call, ticket=ticket_id)
    assert repr(here.tickets) == "<Tickets [1 held, 0 waited for]>"

    assert await here.tickets.finish(ticket_id, answer=ANSWER, source=Source.CACHE)
    ended = await here.tickets.get(ticket_id, Owner("checkout"))
    assert (ended.state, ended.answer, ended.error, ended.source) == (State.SUCCEEDED, ANSWER, None, "cache")
    assert repr(here.tickets) == "<Tickets [0 held, 0 waited for]>"
    assert await here.link.do("ZCARD", keys.TICKETS) == 0
    assert await here.link.do("HMGET", keys.ticket(ticket_id), "call", "body") == [None, None]
    assert 86_000_000 < await here.link.do("PTTL", keys.ticket(ticket_id)) <= 86_400_000


async def test_parked_again_and_again(here):
    """Attempts and broken ones are counted from park to park; only the awaited attempt starts."""
    call = a_call()
    ticket_id = await here.tickets.park(call, attempts=1, broken=1, due=call.arrival + 9)
    assert here.alarms.set == [(ticket_id, 2, call.arrival + 9, 0)]

    for wrong in (0, 1, 3):
        assert await here.tickets.start(ticket_id, wrong) is None
    ticket = await here.tickets.start(ticket_id, 2)
    assert await here.tickets.start(ticket_id, 2) is None, "it runs already"

    assert await here.tickets.park(ticket.call, attempts=2, broken=1, due=call.arrival + 20) == ticket_id
    ticket = await here.tickets.get(ticket_id, Owner("checkout"))
    assert (ticket.state, ticket.attempts, ticket.broken, ticket.due) == (State.QUEUED, 2, 1, call.arrival + 20)
    assert here.alarms.set[1:] == [(ticket_id, 3, call.arrival + 20, 0)]


async def test_attempt_taken_back(here):
    """An attempt that began but was not made is awaited anew, by alarms of other names."""
    ticket_id = (await here.tickets.submit(a_call())).ticket
    for n in (1, 2):
        ticket = await here.tickets.start(ticket_id, 1)
        await here.tickets.park(ticket.call, attempts=0, broken=0, due=5.0)
        assert here.alarms.set[-1] == (ticket_id, 1, 5.0, n)
    await here.tickets.start(ticket_id, 1)
    await here.tickets.finish(ticket_id, answer=ANSWER, attempts=0)
    assert (await here.tickets.get(ticket_id, Owner("checkout"))).attempts == 0


async def test_failed(here):
    """A failed ticket keeps its error whole, class and all, for a week, with its call for a person to look at."""
    ticket_id = (await here.tickets.submit(a_call())).ticket
    await here.tickets.start(ticket_id, 1)
    await here.tickets.finish(ticket_id, error=ERROR)

    ticket = await here.tickets.get(ticket_id, Owner("checkout"))
    assert ticket.state is State.FAILED
    assert vars(ticket.error) == vars(ERROR)
    assert await here.link.do("PTTL", keys.ticket(ticket_id)) > 6 * 86_400_000
    assert await here.link.do("HEXISTS", keys.ticket(ticket_id), "body") == 1


@pytest.mark.parametrize(
    ("error", "state"),
    [(DeadlinePassed("d"), State.EXPIRED), (Canceled("c"), State.CANCELED), (BudgetExhausted("b"), State.FAILED)],
)
async def test_terminal_state(here, error, state):
    """The error says which end it is."""
    ticket_id = (await here.tickets.submit(a_call())).ticket
    await here.tickets.finish(ticket_id, error=error)
    ticket = await here.tickets.get(ticket_id, Owner("checkout"))
    assert (ticket.state, type(ticket.error)) == (state, type(error))


async def test_first_end_wins(processes):
    """Of many ends at once, from several processes, exactly one wins, and it stays."""
    one, two = await processes(), await processes()
    for _ in range(20):
        ticket_id = (await one.tickets.submit(a_call())).ticket
        await one.tickets.start(ticket_id, 1)
        ends = [
            one.tickets.finish(ticket_id, answer=ANSWER),
            two.tickets.finish(ticket_id, error=ERROR),
            two.tickets.finish(ticket_id, error=DeadlinePassed("late")),
            two.tickets.finish(ticket_id, error=Canceled("bye")),
        ]
        won = await asyncio.gather(*ends)
        assert sum(won) == 1
        state = [State.SUCCEEDED, State.FAILED, State.EXPIRED, State.CANCELED][won.index(True)]
        assert await one.state(ticket_id) is state


async def test_one_starts(processes):
    """An alarm that rings in several processes starts one attempt."""
    fleet = [await processes() for _ in range(3)]
    ticket_id = (await fleet[0].tickets.submit(a_call())).ticket
    started = await asyncio.gather(*(process.tickets.start(ticket_id, 1) for process in fleet for _ in range(3)))
    assert sum(ticket is not None for ticket in started) == 1


async def test_sent_twice(here, monkeypatch):
    """Every script that arrives twice does its work once, and says the same."""
    run = here.link.run

    async def twice(script, names, args):
        first = await run(script, names, args)
        assert await run(script, names, args) == first, script
        return first

    monkeypatch.setattr(here.link, "run", twice)
    claimed = await here.tickets.claim(a_call(idempotency_key="k"))
    assert isinstance(claimed, Claimed)
    call = a_call(ticket=claimed.ticket)
    await here.tickets.park(call, attempts=1, broken=0, due=0.0)
    assert (await here.tickets.start(claimed.ticket, 2)).attempts == 2
    assert await here.tickets.finish(claimed.ticket, answer=ANSWER)
    assert await here.link.do("ZCARD", keys.tickets_of("checkout")) == 1


# Idempotency.


async def test_idempotency(processes):
    """The same call with the same key gets the first one's ticket, another call a conflict; another caller's key is its own."""
    one, two = await processes(), await processes()
    call = a_call(idempotency_key="k")
    first = await one.tickets.claim(call)
    assert isinstance(first, Claimed)
    assert await two.tickets.claim(call) == Same(first.ticket)
    assert await two.tickets.submit(call) == Same(first.ticket)
    assert await two.tickets.claim(replace(call, fingerprint="0" * 64)) == Conflict()
    assert isinstance(await two.tickets.claim(replace(call, caller=Caller("other"))), Claimed)

    await one.tickets.finish(first.ticket, answer=ANSWER)
    assert await two.tickets.claim(call) == Same(first.ticket), "kept for a day"
    ticket = await one.tickets.get(first.ticket, Owner("checkout"))
    assert (ticket.attempts, ticket.answer) == (1, ANSWER)


async def test_one_claims(processes):
    """Of many who claim a key at once, one has it."""
    fleet = [await processes() for _ in range(3)]
    call = a_call(idempotency_key="k")
    outcomes = await asyncio.gather(*(process.tickets.claim(call) for process in fleet for _ in range(5)))
    assert sum(isinstance(outcome, Claimed) for outcome in outcomes) == 1
    assert len({outcome.ticket for outcome in outcomes}) == 1


@pytest.mark.parametrize("error", [ERROR, Canceled("c"), DeadlinePassed("d")])
async def test_key_freed(here, error):
    """After a failed first, its key is free again."""
    call = a_call(idempotency_key="k")
    first = await here.tickets.claim(call)
    await here.tickets.finish(first.ticket, error=error)
    assert isinstance(await here.tickets.claim(replace(call, fingerprint="0" * 64)), Claimed)


async def test_late_failure_frees_no_other(here):
    """A first that fails after its key went to another leaves that one's claim alone."""
    call = a_call(idempotency_key="k")
    first = await here.tickets.claim(call)
    await here.link.do("DEL", keys.idempotency("checkout", "k"))
    second = await here.tickets.claim(call)
    await here.tickets.finish(first.ticket, error=ERROR)
    assert await here.tickets.claim(call) == Same(second.ticket)


# Waiting.


async def test_wait_is_woken(processes):
    """Waiters in other processes are woken at once, well before their next look."""
    one, two = await processes(), await processes()
    ticket_id = (await one.tickets.submit(a_call())).ticket
    waits = [asyncio.create_task(two.tickets.wait(ticket_id)) for _ in range(2)]
    await until(lambda: one.link.do("EXISTS", keys.audience(f"ticket:{ticket_id}")))
    ended_at = time.monotonic()
    await one.tickets.finish(ticket_id, answer=ANSWER)
    for ticket in await asyncio.gather(*waits):
        assert (ticket.state, ticket.answer) == (State.SUCCEEDED, ANSWER)
    assert time.monotonic() - ended_at < 0.5
    assert repr(two.tickets) == "<Tickets [0 held, 0 waited for]>"


async def test_wait_without_nudge(processes):
    """A lost nudge costs a sixth of the time that a ticket is wanted without a look, or little more."""
    one, two = await processes(), await processes(Timing(want_s=3.0))
    ticket_id = (await one.tickets.submit(a_call())).ticket
    await two.die()  # hears nothing any more
    wait = asyncio.create_task(two.tickets.wait(ticket_id))
    await until(lambda: one.link.do("EXISTS", keys.audience(f"ticket:{ticket_id}")))
    await one.tickets.finish(ticket_id, answer=ANSWER)
    assert (await asyncio.wait_for(wait, 3)).answer == ANSWER


async def test_wait_times_out(here):
    """A wait with a time-out returns the ticket as it is; one for a ticket that has ended, or is none, does not wait."""
    ticket_id = (await here.tickets.submit(a_call())).ticket
    assert (await here.tickets.wait(ticket_id, 0.05)).state is State.QUEUED
    await here.tickets.finish(ticket_id, error=ERROR)
    assert (await here.tickets.wait(ticket_id)).state is State.FAILED
    with pytest.raises(TicketNotFound):
        await here.tickets.wait("tkt_none")


# Whose it is.


async def test_anothers_ticket(here):
    """Another caller's ticket is not found: not to see, not to cancel, not in the list."""
    ticket_id = (await here.tickets.submit(a_call())).ticket
    for attempt in (here.tickets.get(ticket_id, Owner("other")), here.tickets.cancel(ticket_id, Owner("other"))):
        with pytest.raises(TicketNotFound):
            await attempt
    assert await here.tickets.list(Owner("other")) == ([], "")
    assert await here.state(ticket_id) is State.QUEUED


async def test_list(here):
    """Pages hold each ticket once, newest first; a state narrows them."""
    ids = [(await here.tickets.submit(a_call())).ticket for _ in range(5)]
    await here.tickets.finish(ids[1], answer=ANSWER)
    seen, token = [], ""
    for size in (2, 2, 1):
        page, token = await here.tickets.list(Owner("checkout"), page_size=2, page_token=token)
        assert len(page) == size
        seen += [ticket.id for ticket in page]
    assert (seen, token) == (ids[::-1], "")

    page, token = await here.tickets.list(Owner("checkout"), state=State.SUCCEEDED)
    assert ([ticket.id for ticket in page], page[0].answer, token) == ([ids[1]], None, "")
    with pytest.raises(InvalidCall):
        await here.tickets.list(Owner("checkout"), page_token="x")


# Canceling.


async def test_cancel(here):
    """A canceled ticket does not start; canceling again, or what has ended, changes nothing."""
    ticket_id = (await here.tickets.submit(a_call())).ticket
    assert (await here.tickets.cancel(ticket_id, Owner("checkout"))).state is State.CANCELED
    assert await here.tickets.start(ticket_id, 1) is None
    assert not await here.tickets.finish(ticket_id, answer=ANSWER)
    assert (await here.tickets.cancel(ticket_id, Owner("checkout"))).state is State.CANCELED


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_cancel_stops_the_attempt(processes, where):
    """Canceling a running ticket stops its attempt, in this process or another, at once."""
    runner = await processes()
    canceler = runner if where == "here" else await processes()
    ticket_id = (await runner.tickets.submit(a_call())).ticket
    await runner.tickets.start(ticket_id, 1)

    async def attempt() -> None:
        async with runner.tickets.held(ticket_id):
            await asyncio.sleep(60)

    task = asyncio.create_task(attempt())
    await asyncio.sleep(0)
    await canceler.tickets.cancel(ticket_id, Owner("checkout"))
    with pytest.raises(Canceled):
        await asyncio.wait_for(task, 1)
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
    one.tickets.cancel_soon(ticket_id)
    await until(lambda: not one.tickets._background)
    assert await one.state(ticket_id) is State.QUEUED

    wait.cancel()
    await asyncio.gather(wait, return_exceptions=True)
    two.tickets.cancel_soon(ticket_id)

    async def canceled():
        return await one.state(ticket_id) is State.CANCELED

    await until(canceled)


# What falls through.


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
    """A holder that stood still and was succeeded cannot end the ticket by its own failure; its answer may win."""
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
        assert (won, await other.state(ticket_id)) == ((False, State.RUNNING) if "error" in last else (True, State.SUCCEEDED))
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
    assert not await stale.tickets.finish(ticket_id, by=hold, error=ERROR)
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
        await until(lambda: _is(here, ticket_id, State.RUNNING))
        if reply == "read":
            await gate.let_reply()  # the script's was heard
            await asyncio.wait_for(_said_something(gate), 10)
        await _cancel(starting)
        gate.open()
        await until(lambda: other.alarms.set, what="an alarm")
        assert [alarm[1::2] for alarm in other.alarms.set] == [(1, 1)]
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
        await until(lambda: not other.tickets._background)
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
        await until(lambda: _is(here, ticket_id, State.QUEUED))
        await _cancel(parking)
        gate.open()
        await until(lambda: other.alarms.set, what="an alarm")
        assert other.alarms.set == [(ticket_id, 2, 9.0, 0)]
        assert repr(other.tickets) == "<Tickets [0 held, 0 waited for]>"


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


async def test_lost_alarm(quick):
    """A queued ticket whose alarm was lost gets another, under a new number, each time it is found without one."""
    quick.alarms.is_away = True
    ticket_id = (await quick.tickets.submit(a_call())).ticket
    assert quick.alarms.set == []
    quick.alarms.is_away = False
    await quick.swept(lambda: len(quick.alarms.set) == 2)
    assert [(alarm[1], alarm[3]) for alarm in quick.alarms.set] == [(1, 1), (1, 2)]
    assert await quick.tickets.start(ticket_id, 1)


async def test_busy_workers(quick):
    """An overdue ticket whose alarm waits in the queue is left alone: the workers will come to it."""
    ticket_id = (await quick.tickets.submit(a_call())).ticket
    quick.alarms.waiting = {(ticket_id, 1, 0)}
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
            await other.swept(lambda ticket_id=ticket_id: _is(other, ticket_id, State.CANCELED))
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


async def _is(process: Process, ticket_id: str, state: State, credential: str = "") -> bool:
    return await process.state(ticket_id, credential) is state


async def test_expired(quick):
    """Past its deadline a queued ticket is EXPIRED, and does not start."""
    soon = time.time() + 0.2
    queued = (await quick.tickets.submit(a_call(deadline=soon))).ticket
    unswept = (await quick.tickets.submit(a_call(deadline=soon))).ticket
    await asyncio.sleep(0.2)
    assert await quick.tickets.start(unswept, 1) is None
    assert await quick.state(unswept) is State.EXPIRED
    await quick.swept(lambda: _is(quick, queued, State.EXPIRED))


async def test_callers_own_key(processes):
    """A call with its caller's own key is nobody else's to repeat: when its process dies it fails, and its key is free."""
    dead, other = await processes(QUICK), await processes(QUICK)
    call = a_call(idempotency_key="k", credential="bearer:secret")
    first = await dead.tickets.claim(call)
    stored = await other.link.do("HVALS", keys.ticket(first.ticket))
    assert len(stored) > 15
    assert not any(b"secret" in value for value in stored)
    await dead.die()
    await other.swept(lambda: _is(other, first.ticket, State.FAILED, call.credential))
    assert other.alarms.set == []
    assert isinstance(await other.tickets.claim(call), Claimed)


async def test_owners(here):
    """Where callers' own keys go upstream, a name is not enough: another's key finds neither ticket nor idempotency key."""
    mine, yours = (a_call(idempotency_key="k", credential=f"bearer:{whose}") for whose in ("mine", "yours"))
    first = await here.tickets.claim(mine)
    assert await here.tickets.claim(mine) == Same(first.ticket)
    second = await here.tickets.claim(yours)
    assert isinstance(second, Claimed)
    for owner in (yours.owner, Owner("checkout"), Owner("checkout", "mine"), Owner.of("checkout", "x-api-key:mine")):
        for attempt in (here.tickets.get(first.ticket, owner), here.tickets.cancel(first.ticket, owner)):
            with pytest.raises(TicketNotFound):
                await attempt
    assert [ticket.id for ticket in (await here.tickets.list(mine.owner))[0]] == [first.ticket]
    assert [ticket.id for ticket in (await here.tickets.list(yours.owner))[0]] == [second.ticket]
    assert (await here.tickets.cancel(first.ticket, mine.owner)).state is State.CANCELED
    stored = [*await here.link.do("KEYS", "*"), *await here.link.do("HVALS", keys.ticket(second.ticket))]
    assert not any(b"yours" in value for value in stored)


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
    await until(lambda: _is(quick, ticket_id, State.SUCCEEDED))
