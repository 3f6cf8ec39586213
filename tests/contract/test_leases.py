"""Single-flight across processes: two sets of parts on one real Valkey stand for two hosts."""

import asyncio

import pytest
import redis

from conftest import until
from headrace import keys
from headrace.clock import SystemClock
from headrace.errors import BrokenStream, BudgetExhausted, UpstreamError
from headrace.flight.flight import Flight, Landing, broken_off
from headrace.flight.flights import Flights
from headrace.flight.handover import Handover
from headrace.flight.lease import Leases
from headrace.flight.role import NoLease
from headrace.link import Link
from headrace.model import Source
from lease_parts import EVENTS, KEY, SAID, STREAMED, followed, hosts, in_the_air


async def test_one_call_over_two_hosts(valkey_url):
    """Two hosts ask the same: one leads, and both have its answer, attempts and all."""
    async with hosts(valkey_url, 2) as (one, two):
        first = asyncio.create_task(one.ask())
        await in_the_air(one)
        second = asyncio.create_task(two.ask())
        await followed(one)
        one.go_on.set()

        ours, theirs = await first, await second
        assert theirs.answer == ours.answer == SAID
        assert theirs.attempts == 2
        assert (one.led, two.led) == (1, 0)
        assert await one.link.do("KEYS", "headrace:flight:*") == []


async def test_kept_answer_is_recalled(valkey_url):
    """An entry that has long enough to live is recalled in the same step, and nobody leads; no-cache asks all the same."""
    async with hosts(valkey_url, 1) as (one,):
        await one.link.do("SET", keys.cache_entry(KEY), b"entry", "PX", 60_000)
        assert (await one.ask(fresh_ms=30_000)).source is Source.CACHE
        assert one.led == 0

        one.go_on.set()
        assert (await one.ask(fresh_ms=90_000)).answer == SAID
        assert (await one.ask(fresh_ms=-1)).answer == SAID


async def test_stream_is_followed_live(valkey_url):
    """A follower outside has the events so far while the leader still speaks, and then the rest."""
    async with hosts(valkey_url, 2) as (one, two):
        one.lead = one.stream
        leading = asyncio.create_task(one.listen())
        await in_the_air(one)
        following = asyncio.create_task(two.listen())
        await until(lambda: two.flights.get(KEY) is not None and len(two.flights.get(KEY).events) == 3)
        flight = two.flights.get(KEY)
        one.go_on.set()

        assert await following == await leading == EVENTS
        assert flight.landing.answer == STREAMED
        assert two.led == 0


async def test_refusal_is_the_leaders_own(valkey_url):
    """A leader's refusal is not shared: the follower leads next."""
    async with hosts(valkey_url, 2) as (one, two):

        async def refuse(flight, lease, ticket):
            await one.go_on.wait()
            raise BudgetExhausted("spent")

        one.lead = refuse
        two.go_on.set()
        first = asyncio.create_task(one.ask())
        await in_the_air(one)
        second = asyncio.create_task(two.ask())
        await followed(one)
        one.go_on.set()

        with pytest.raises(BudgetExhausted):
            await first
        assert (await second).answer == SAID
        assert two.led == 1


async def test_upstreams_error_is_shared(valkey_url):
    """What upstream said is shared, its exact body included."""
    async with hosts(valkey_url, 2) as (one, two):

        async def fail(flight, lease, ticket):
            await one.go_on.wait()
            raise UpstreamError("no such model", status=404, type="not_found_error", body=b'{"a":1}')

        one.lead = fail
        first = asyncio.create_task(one.ask())
        await in_the_air(one)
        second = asyncio.create_task(two.ask())
        await followed(one)
        one.go_on.set()

        for task in (first, second):
            with pytest.raises(UpstreamError) as caught:
                await task
            assert (caught.value.status, caught.value.body) == (404, b'{"a":1}')
        assert two.led == 0


async def test_dead_leader(valkey_url):
    """A leader that dies without a word is succeeded when its lease lapses."""
    async with hosts(valkey_url, 2, lease_ms=300) as (one, two):
        first = asyncio.create_task(one.ask())
        await in_the_air(one)
        two.go_on.set()
        second = asyncio.create_task(two.ask())
        await followed(one)
        await one.die()

        assert (await asyncio.wait_for(second, 5)).answer == SAID
        assert two.led == 1
        first.cancel()


async def test_leader_dies_in_mid_stream(valkey_url):
    """Those who have had some of a stream whose leader died are told that it broke off."""
    async with hosts(valkey_url, 2, lease_ms=300) as (one, two):
        one.lead = one.stream
        first = asyncio.create_task(one.listen())
        await in_the_air(one)
        second = asyncio.create_task(two.listen())
        await until(lambda: two.flights.get(KEY) is not None and len(two.flights.get(KEY).events) == 3)
        await one.die()

        with pytest.raises(BrokenStream):
            await asyncio.wait_for(second, 5)
        first.cancel()


async def test_ticket_outlives_a_broken_stream(valkey_url):
    """The ticket of a leader that died in mid-stream is there for those who have had nothing of the stream."""
    async with hosts(valkey_url, 2, lease_ms=300) as (one, two):
        told = []

        async def stream(flight, lease, ticket):
            await one.leases.note_ticket(lease, "t-1")
            return await one.stream(flight, lease, ticket)

        async def break_off(flight, lease, ticket):
            told.append(ticket)
            if len(told) > 1:
                return Landing(SAID)
            flight.begin("two")
            flight.append(EVENTS[0], is_content=True)
            raise broken_off()

        one.lead, two.lead = stream, break_off
        first = asyncio.create_task(one.listen())
        await in_the_air(one)
        second = asyncio.create_task(two.listen())
        await until(lambda: two.flights.get(KEY) is not None and len(two.flights.get(KEY).events) == 3)
        await one.die()
        for following in (second, two.ask()):  # it dies with its leader, and then once more while its ticket is waited for
            with pytest.raises(BrokenStream):
                await asyncio.wait_for(following, 5)

        cancelled = asyncio.create_task(two.ask())
        await asyncio.sleep(0)
        cancelled.cancel()  # while it asks who leads
        assert (await two.ask()).answer == SAID
        assert set(told) == {"t-1"}
        first.cancel()


async def test_leader_leaves_last_follower_stays(valkey_url):
    """The leader's callers may all leave: while somebody outside follows, the call goes on."""
    async with hosts(valkey_url, 2) as (one, two):
        first = asyncio.create_task(one.ask())
        await in_the_air(one)
        second = asyncio.create_task(two.ask())
        await followed(one)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        one.go_on.set()

        assert (await second).answer == SAID
        assert (one.led, one.cancelled, two.led) == (1, 0, 0)


async def test_last_to_leave_anywhere_cancels(valkey_url):
    """When the last one leaves, on whatever host, the call is cancelled and its lease is gone."""
    async with hosts(valkey_url, 2) as (one, two):
        first = asyncio.create_task(one.ask())
        await in_the_air(one)
        second = asyncio.create_task(two.ask())
        await followed(one)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        second.cancel()

        await until(lambda: one.cancelled == 1, what="the call to be cancelled")
        two.go_on.set()
        assert (await asyncio.wait_for(two.ask(), 5)).answer == SAID


async def test_ticket_of_a_dead_leader(valkey_url):
    """Whoever leads after a leader that had parked the call is told the ticket."""
    async with hosts(valkey_url, 2, lease_ms=300) as (one, two):
        told = []

        async def park(flight, lease, ticket):
            await one.leases.note_ticket(lease, "t-1")
            await one.go_on.wait()

        async def adopt(flight, lease, ticket):
            told.append(ticket)
            return Landing(SAID)

        one.lead, two.lead = park, adopt
        first = asyncio.create_task(one.ask())
        await in_the_air(one)
        await until(lambda: any(lease.ticket for lease in one.leases._led.values()))
        await one.link.ping()
        await one.die()

        assert (await asyncio.wait_for(two.ask(), 5)).answer == SAID
        assert told == ["t-1"]
        first.cancel()


async def test_followed_before_it_is_known_who_leads(valkey_url):
    """A nudge that is read before the reply by which a process leads is not lost: who follows has the events as they come."""
    async with hosts(valkey_url, 2) as (one, two):
        known, run, suspect, nudged = asyncio.Event(), one.link.run, one.leases._strays.suspect, asyncio.Event()

        async def later(reply):
            await known.wait()
            return await reply

        def suspected(fingerprint):
            nudged.set()
            suspect(fingerprint)

        one.link.run = lambda script, *said: asyncio.ensure_future(later(run(script, *said)))
        one.leases._strays.suspect = suspected
        one.lead = one.stream
        leading = asyncio.create_task(one.listen())
        await until(lambda: not _is_free(valkey_url))
        following = asyncio.create_task(two.listen())
        await asyncio.wait_for(nudged.wait(), 5)
        one.link.run = run
        known.set()
        await until(lambda: len(two.flights.get(KEY).events) == 3, within=3)
        one.go_on.set()
        assert await following == await leading == EVENTS
        await until(lambda: not one.leases._strays.ours)
        assert not one.leases._early


async def test_cancelled_at_every_step(valkey_url):
    """Whenever who asks for the lead is cancelled, nobody after it waits for a lease that nobody has."""
    async with hosts(valkey_url, 1, lease_ms=60_000) as (host,):
        for step in range(60):
            flying = asyncio.create_task(host.fly(_flight(), -1))
            for _ in range(step):
                await asyncio.sleep(0)
            flying.cancel()
            await asyncio.gather(flying, return_exceptions=True)
            await until(lambda: _is_free(valkey_url), what=f"step {step}: the flight is still led")
        assert host.led


def _is_free(url):
    with redis.Redis.from_url(url) as client:
        return not client.exists(keys.flight(KEY))


async def test_redis_away():
    """Without Redis nobody can say who leads."""
    link = Link("unix:///nowhere/valkey.sock")
    flights = Flights()
    handover = Handover(link, SystemClock(), follow_ms=600)
    host = Leases(link, SystemClock(), flights, handover)
    with pytest.raises(NoLease):
        await host.fly(_flight(), 0, None)
    await link.aclose()


def _flight():
    return Flight(KEY)
