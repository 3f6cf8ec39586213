"""With a key of ours, nothing is taken from Redis that was not sealed with it, for the place where it lies."""

from __future__ import annotations

import asyncio

import pytest

from cache_samples import entry, key
from headrace import keys, observe
from headrace.cache.tiered import Cache
from headrace.clock import SystemClock
from headrace.errors import BrokenStream, Refusal, TicketNotFound
from headrace.flight.flights import Flights
from headrace.flight.handover import Handover
from headrace.link import Link
from headrace.owner import Owner
from headrace.retry.ticket import State
from headrace.retry.tickets import Tickets
from headrace.seal import UNSEALED, Mac
from scripted import CALL
from ticket_parts import ANSWER, Alarms, a_call

OURS, OTHERS = Mac(b"k" * 32), Mac(b"o" * 32)
WRONG = [UNSEALED, OTHERS]


def cache(link, directory, seal):
    return Cache(link, SystemClock(), directory=directory, memory=10**6, disk=0, redis=10**6, max_entry=10**5, seal=seal)


@pytest.fixture
async def tickets(valkey_url):
    """A maker of tickets under a seal."""
    links = []

    def make(seal):
        links.append(Link(valkey_url))
        return Tickets(links[-1], SystemClock(), Alarms(), seal=seal)

    yield make
    for link in links:
        await link.aclose()


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
async def test_entries(link, tmp_path, wrong):
    """A kept answer without our seal, or of another call, is a miss and counted; our own is found by all who share the key."""
    one, two, other = (cache(link, tmp_path, seal) for seal in (OURS, OURS, wrong))
    payload = b'{"type":"message"}'
    await one.put(entry(1, payload))
    await other.put(entry(2, payload))
    assert (await two.far(key(1))).answer.payload == payload
    before = observe.BAD_RECORDS.value("cache entry")
    assert await two.far(key(2)) is None
    await link.do("COPY", keys.cache_entry(key(1)), keys.cache_entry(key(3)))
    assert await two.far(key(3)) is None
    assert two.take_in(key(3), await link.do("GET", keys.cache_entry(key(1)))) is None
    assert two.take_in(key(1), await link.do("GET", keys.cache_entry(key(1))))
    assert observe.BAD_RECORDS.value("cache entry") == before + 3


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
async def test_tickets(link, tickets, wrong):
    """A ticket without our seal is neither listed, nor shown, nor made; nor is one that was changed."""
    ours, theirs = tickets(OURS), tickets(wrong)
    mine, planted, changed, moved = [
        (await each.submit(a_call(fingerprint=f"{n}" * 64))).ticket for n, each in enumerate((ours, theirs, ours, ours))
    ]
    await link.do("HSET", keys.ticket(changed), "caller", "other")
    await link.do("ZADD", keys.tickets_of("other"), 1, changed)
    for field in ("call", "body"):
        await link.do("HSET", keys.ticket(moved), field, await link.do("HGET", keys.ticket(mine), field))
    listed, _ = await ours.listing.page("checkout")
    assert {each.id for each in listed} == {mine, moved}
    assert await ours.listing.page("other") == ([], "")
    for ticket_id in (planted, changed):
        with pytest.raises(TicketNotFound):
            await ours.get(ticket_id, Owner("checkout"))
    for ticket_id in (planted, changed, moved):
        assert await ours.start(ticket_id, 1) is None
        assert await link.do("HGET", keys.ticket(ticket_id), "state") == b"FAILED"

    started = await ours.start(mine, 1)
    assert started.call.body == a_call().body
    await ours.finish(mine, answer=ANSWER)
    got = await tickets(OURS).get(mine, Owner("checkout"))
    assert (got.state, got.answer) == (State.SUCCEEDED, ANSWER)
    await link.do("HSET", keys.ticket(mine), "answer", b"anything")
    with pytest.raises(TicketNotFound):
        await ours.get(mine, Owner("checkout"))


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
async def test_flights(link, wrong):
    """What was not sealed for a flight's log ends the following of it: asked anew who leads, or a stream that broke off."""
    handover, flights = Handover(link, SystemClock(), follow_ms=600, seal=OURS), Flights()
    flight = flights.join("f" * 64, CALL, lambda _: asyncio.Event().wait()).__enter__().flight
    await link.do("XADD", "log", "1-1", "i", wrong.seal("log", b"l1 upstream \n="))
    landing = await handover.read(flight, "log", "leader")
    assert isinstance(landing.error, Refusal)
    flight.begin("leader")
    await link.do("DEL", "log")
    await link.do("XADD", "log", "1-1", "i", OURS.seal("another log", b"e{}\n"))
    before = observe.BAD_RECORDS.value("flight")
    landing = await handover.read(flight, "log", "leader")
    assert isinstance(landing.error, Refusal | BrokenStream)
    assert observe.BAD_RECORDS.value("flight") == before + 1
    await flights.aclose()
