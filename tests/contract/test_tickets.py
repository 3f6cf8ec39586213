"""Tickets on a real Valkey: one terminal state each, whatever comes twice, late, or not at all."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import until
from headrace import keys
from headrace.errors import BudgetExhausted, Canceled, DeadlinePassed, InvalidCall, TicketNotFound
from headrace.model import CacheControl, Lane, Source
from headrace.owner import Owner
from headrace.retry.listing import Wanted
from headrace.retry.ticket import Claimed, State, Timing, decode_call, encode_call
from ticket_parts import ANSWER, ERROR, a_call

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
    assert here.alarms.set == [(ticket_id, 2, call.arrival + 9)]

    for wrong in (0, 1, 3):
        assert await here.tickets.start(ticket_id, wrong) is None
    ticket = await here.tickets.start(ticket_id, 2)
    assert await here.tickets.start(ticket_id, 2) is None, "it runs already"

    assert await here.tickets.park(ticket.call, attempts=2, broken=1, due=call.arrival + 20) == ticket_id
    ticket = await here.tickets.get(ticket_id, Owner("checkout"))
    assert (ticket.state, ticket.attempts, ticket.broken, ticket.due) == (State.QUEUED, 2, 1, call.arrival + 20)
    assert here.alarms.set[1:] == [(ticket_id, 3, call.arrival + 20)]


async def test_attempt_taken_back(here):
    """An attempt that began but was not made is awaited anew."""
    ticket_id = (await here.tickets.submit(a_call())).ticket
    for _ in range(2):
        ticket = await here.tickets.start(ticket_id, 1)
        await here.tickets.park(ticket.call, attempts=0, broken=0, due=5.0)
        assert here.alarms.set[-1] == (ticket_id, 1, 5.0)
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
    assert await here.tickets.listing.page("other") == ([], "")
    assert await here.state(ticket_id) is State.QUEUED


async def test_list(here):
    """Pages hold each ticket once, newest first; a state narrows them."""
    ids = [(await here.tickets.submit(a_call())).ticket for _ in range(5)]
    await here.tickets.finish(ids[1], answer=ANSWER)
    seen, token = [], ""
    for size in (2, 2, 1):
        page, token = await here.tickets.listing.page("checkout", page_size=2, page_token=token)
        assert len(page) == size
        seen += [ticket.id for ticket in page]
    assert (seen, token) == (ids[::-1], "")

    page, token = await here.tickets.listing.page("checkout", Wanted(state=State.SUCCEEDED))
    assert ([ticket.id for ticket in page], page[0].answer, token) == ([ids[1]], None, "")
    with pytest.raises(InvalidCall):
        await here.tickets.listing.page("checkout", page_token="x")
