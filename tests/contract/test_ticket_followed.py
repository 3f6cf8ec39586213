"""A ticket's attempts are followed by other processes, event by event, and no attempt's end comes after another's beginning."""

import asyncio
import contextlib
from functools import partial

import pytest
import redis

from conftest import until
from headrace import keys
from headrace.errors import BrokenStream
from headrace.flight.flight import Flight
from headrace.model import Event
from lease_parts import EVENTS, hosts


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


async def test_long_attempts(valkey_url):
    """However long they are: who comes late has all of the newest, though it is read in pieces, and nothing of those before."""
    first, second = ([Event("e", b"{}", b"%d %d\n\n" % (attempt, n)) for n in range(700)] for attempt in (1, 2))
    async with hosts(valkey_url, 2) as (one, two):
        for attempt, events in enumerate((first, second), 1):
            await hold(one, "t-1", f"holder {attempt}")
            async with one.handover.publishing(said(*events), "t-1", attempt, f"holder {attempt}"):
                await until(partial(_has, one, 700 * attempt))
        async with heard(two, "t-1") as (late, _):
            await until(lambda: len(late.events) == 700)
            assert late.events == second


async def _has(host, events):
    return await host.link.do("XLEN", keys.log("flight:ticket:t-1:log")) == events


async def test_overtaken_attempt_is_silent(valkey_url):
    """An attempt whose ticket is in other hands says nothing any more to those who follow the ticket."""
    async with hosts(valkey_url, 2) as (one, two), heard(two, "t-1") as (flight, _):
        await hold(one, "t-1", "successor")
        stale = one.handover.publishing(said(*EVENTS[:3]), "t-1", 1, "stale")
        async with stale, one.handover.publishing(said(*EVENTS[3:]), "t-1", 2, "successor"):
            await until(lambda: flight.events == EVENTS[3:])
        assert await one.link.do("XLEN", keys.log("flight:ticket:t-1:log")) == 3


@contextlib.contextmanager
def full(url):
    """Let Redis be out of memory while the block lasts."""
    with redis.Redis.from_url(url) as client:
        client.config_set("maxmemory", "1mb")
        try:
            yield
        finally:
            client.config_set("maxmemory", "0")


async def test_full_redis_makes_no_gap(valkey_url):
    """What Redis has no room for is said again when it has: nobody is given what comes after it in its place."""
    async with hosts(valkey_url, 2) as (one, two), heard(two, "t-1") as (flight, _):
        await hold(one, "t-1", "me")
        saying = said(*EVENTS[:2])
        async with one.handover.publishing(saying, "t-1", 1, "me"):
            await until(lambda: flight.events == EVENTS[:2])
            with full(valkey_url):
                for event in EVENTS[2:4]:
                    saying.append(event, is_content=True)
                await until(lambda: one.link.stats().refused)
            for event in EVENTS[4:]:
                saying.append(event, is_content=True)
            await until(lambda: len(flight.events) == len(EVENTS))
        assert flight.events == EVENTS


async def test_gap_in_the_log(valkey_url):
    """Where a part of an attempt is lost, who has had what came before hears that the stream broke off, and others nothing."""
    async with hosts(valkey_url, 2) as (one, two):
        await hold(one, "t-1", "me")
        log = keys.log("flight:ticket:t-1:log")
        saying = said(*EVENTS)
        async with one.handover.publishing(saying, "t-1", 1, "me"):
            await until(lambda: one.link.do("XLEN", log))
        await one.link.do("XDEL", log, "1-3")
        async with heard(two, "t-1") as (early, following):
            with pytest.raises(BrokenStream):
                await asyncio.wait_for(following, 5)
            assert early.events == EVENTS[:2]
        await one.link.do("XDEL", log, "1-1")
        async with heard(two, "t-1") as (late, _):
            await hold(one, "t-1", "next")
            async with one.handover.publishing(said(*EVENTS[:2]), "t-1", 2, "next"):
                await until(lambda: late.events)
            assert late.events == EVENTS[:2]
