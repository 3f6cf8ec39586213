"""Single-flight across processes: two sets of parts on one real Valkey stand for two hosts."""

import asyncio
import contextlib

import pytest
import redis

from conftest import until
from headrace import keys
from headrace.clock import SystemClock
from headrace.errors import BrokenStream, BudgetExhausted, UpstreamError
from headrace.flight.flights import Flight, Flights, Landing, broken_off
from headrace.flight.handover import Handover
from headrace.flight.lease import Leases, NoLease, Recalled
from headrace.link import Link
from headrace.model import Answer, Event, Form, Source
from scripted import CALL

KEY = "f" * 64
EVENTS = [Event("content_block_delta", b'{"n":%d}' % n, b"event %d\n\n" % n) for n in range(6)]
STREAMED = Answer(Form.EVENTS, b"".join(e.raw for e in EVENTS), created=2.0, request_id="req_1")
SAID = Answer(Form.JSON, b'{"type":"message"}', created=1.0, request_id="req_2")


class Host:
    """One host's parts, and what they did."""

    def __init__(self, url, lease_ms):
        self.link = Link(url)
        self.flights = Flights()
        self.handover = Handover(self.link, SystemClock(), follow_ms=lease_ms)
        self.leases = Leases(self.link, SystemClock(), self.flights, self.handover, lease_ms=lease_ms)
        self.led = 0
        self.cancelled = 0
        self.go_on = asyncio.Event()
        self.lead = self.say
        self.tasks = [asyncio.create_task(self.link.listen()), asyncio.create_task(self.leases.keep())]

    async def say(self, flight, lease, ticket):
        await self.go_on.wait()
        return Landing(SAID, attempts=2)

    async def stream(self, flight, lease, ticket):
        flight.begin("one")
        for event in EVENTS[:3]:
            flight.append(event, is_content=True)
        await self.go_on.wait()
        for event in EVENTS[3:]:
            flight.append(event, is_content=True)
        return Landing(STREAMED)

    async def fly(self, flight, fresh_ms=0):
        async def lead(lease):
            self.led += 1
            try:
                return await self.lead(flight, lease, lease.ticket)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise

        outcome = await self.leases.fly(flight, fresh_ms, lead)
        return Landing(source=Source.CACHE) if isinstance(outcome, Recalled) else outcome

    async def ask(self, fresh_ms=0):
        with self.flights.join(KEY, CALL, lambda flight: self.fly(flight, fresh_ms)) as member:
            while not member.is_served:
                await member.changed()
            if error := member.error():
                raise error
            return member.flight.landing

    async def listen(self):
        with self.flights.join(KEY, CALL, self.fly, is_live=True) as member:
            return [event async for event in member.replay()]

    async def die(self):
        """Go as a killed process goes: without a word."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()
        self.link.run = self.link.do = lambda *_: asyncio.get_running_loop().create_future()

    async def close(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.link.aclose()


@contextlib.asynccontextmanager
async def hosts(url, n, lease_ms=600):
    made = [Host(url, lease_ms) for _ in range(n)]
    for host in made:
        await asyncio.wait_for(host.link.listening(), 30)
    yield made
    for host in made:
        await host.close()


async def in_the_air(host):
    await until(lambda: host.led == 1)


async def followed(host):
    await until(lambda: any(lease.is_followed for lease in host.leases._led.values()), what="a follower outside")


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


async def test_nothing_is_published_without_followers(valkey_url):
    """A flight that nobody outside follows leaves no log."""
    async with hosts(valkey_url, 1) as (one,):
        one.lead = one.stream
        one.go_on.set()
        await one.listen()
        assert await one.link.do("KEYS", "headrace:log:*") == []


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


def said(*events):
    flight = Flight("said")
    flight.begin("one")
    for event in events:
        flight.append(event, is_content=True)
    return flight


@contextlib.asynccontextmanager
async def heard(host, ticket):
    """Follow a ticket: the flight, and the task that follows."""
    flight = Flight("heard")
    following = asyncio.create_task(host.handover.follow(flight, ticket))
    yield flight, following
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def hold(host, ticket, holder):
    await host.link.do("HSET", keys.ticket(ticket), "holder", holder)


async def test_ticket_is_followed(valkey_url):
    """What a worker's attempt says reaches the process that parked the call, event by event."""
    async with hosts(valkey_url, 2) as (one, two), heard(two, "t-1") as (flight, _):
        await hold(one, "t-1", "me")
        async with one.handover.publishing(said(*EVENTS), "t-1", 1, "me"):
            await until(lambda: flight.events == EVENTS)


@pytest.mark.parametrize("leaves", [None, 0, 1])
async def test_ticket_is_followed_twice(valkey_url, leaves):
    """Two who follow one ticket in one process are both told at once, and so is one when the other leaves."""
    async with hosts(valkey_url, 2, lease_ms=60_000) as (one, two):
        async with heard(two, "t-1") as first, heard(two, "t-1") as second:
            await until(lambda: one.link.do("EXISTS", keys.audience("flight:ticket:t-1")))
            await hold(one, "t-1", "me")
            await two.link.ping()
            follow = [first, second]
            if leaves is not None:
                _, leaving = follow.pop(leaves)
                leaving.cancel()
                await asyncio.gather(leaving, return_exceptions=True)
            async with one.handover.publishing(said(*EVENTS), "t-1", 1, "me"):
                await until(lambda: all(flight.events == EVENTS for flight, _ in follow))
        await two.link.ping()
        assert not await one.link.do("EXISTS", keys.audience("flight:ticket:t-1"))
        assert two.handover.stats().followed == 0


async def test_next_attempt_is_no_sequel(valkey_url):
    """Who has had some of an attempt is not given the end of the next one, but told that the stream broke off."""
    async with hosts(valkey_url, 2) as (one, two), heard(two, "t-1") as (flight, following):
        await hold(one, "t-1", "first")
        async with one.handover.publishing(said(*EVENTS[:3]), "t-1", 1, "first"):
            await until(lambda: flight.events == EVENTS[:3])
        await hold(one, "t-1", "second")
        async with one.handover.publishing(said(*EVENTS), "t-1", 2, "second"):
            with pytest.raises(BrokenStream):
                await asyncio.wait_for(following, 5)
        assert flight.events == EVENTS[:3]


async def test_late_follower_of_a_ticket(valkey_url):
    """Who comes after an attempt broke off has the next one from its beginning, and nothing of the first."""
    async with hosts(valkey_url, 2) as (one, two):
        await hold(one, "t-1", "first")
        async with heard(two, "t-1") as (early, _), one.handover.publishing(said(*EVENTS[3:]), "t-1", 1, "first"):
            await until(lambda: early.events == EVENTS[3:])
        await hold(one, "t-1", "second")
        async with heard(two, "t-1") as (first, _):
            await until(lambda: first.events == EVENTS[3:])
            async with one.handover.publishing(said(*EVENTS[:3]), "t-1", 2, "second"), heard(one, "t-1") as (late, _):
                await until(lambda: late.events == EVENTS[:3])


async def test_overtaken_attempt_is_silent(valkey_url):
    """An attempt whose ticket is in other hands says nothing any more to those who follow the ticket."""
    async with hosts(valkey_url, 2) as (one, two), heard(two, "t-1") as (flight, _):
        await hold(one, "t-1", "successor")
        stale = one.handover.publishing(said(*EVENTS[:3]), "t-1", 1, "stale")
        async with stale, one.handover.publishing(said(*EVENTS[3:]), "t-1", 2, "successor"):
            await until(lambda: flight.events == EVENTS[3:])
        assert await one.link.do("XLEN", keys.log("flight:ticket:t-1:log")) == 3


async def test_landing_after_an_unanswered_append(valkey_url):
    """A stream that breaks off while its first events are on their way tells its followers upstream's error at once."""
    async with hosts(valkey_url, 2) as (one, two):

        async def break_off(flight, lease, ticket):
            await one.go_on.wait()
            flight.begin("one")
            append, one.link.run = one.link.run, lambda *command: asyncio.shield(append(*command)) and _never()
            for event in EVENTS[:3]:
                flight.append(event, is_content=True)
            await until(lambda: lease.publication.task is not None)
            await asyncio.sleep(0.05)
            one.link.run = append
            raise BrokenStream("upstream broke off", status=529)

        one.lead = break_off
        first = asyncio.create_task(one.listen())
        await in_the_air(one)
        second = asyncio.create_task(two.listen())
        await followed(one)
        one.go_on.set()
        for task in (first, second):
            with pytest.raises(BrokenStream, match="upstream broke off"):
                await asyncio.wait_for(task, 5)


def _never():
    return asyncio.get_running_loop().create_future()


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
