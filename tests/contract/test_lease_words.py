"""What a leader says in Redis of what holds its call: as it changes, as long as it leads, and of its own call only."""

from __future__ import annotations

import asyncio

import redis

from conftest import until
from headrace import keys
from headrace.flight.flight import Landing
from lease_parts import KEY, SAID, hosts, in_the_air


async def _held(host, flight, lease):
    """Have a flight held by a limit."""
    flight.trail.holding = lambda: [("org", 1.0)]
    await host.go_on.wait()


async def test_held_no_more_by_who_leads_next(valkey_url):
    """What held the call of a leader that is gone is not said of the next one's."""
    async with hosts(valkey_url, 2, lease_ms=300) as (one, two):
        told = []

        async def lead(flight, lease, ticket):
            told.append(flight.trail.told)
            return Landing(SAID)

        one.lead, two.lead = lambda flight, lease, ticket: _held(one, flight, lease), lead
        first = asyncio.create_task(one.ask())
        await in_the_air(one)
        second = asyncio.create_task(two.ask())
        await until(lambda: two.flights.get(KEY) is not None and two.flights.get(KEY).trail.told == "org")
        await one.die()
        assert (await asyncio.wait_for(second, 5)).answer == SAID
        assert told == [""]
        first.cancel()


async def test_told_with_its_ticket(valkey_url):
    """That a limit holds it no more is said also if nobody has followed so far, but whoever follows would hear of the limit."""
    async with hosts(valkey_url, 1, lease_ms=15_000) as (one,):
        one.lead = lambda flight, lease, ticket: _held(one, flight, lease)
        asking = asyncio.create_task(one.ask())
        await in_the_air(one)
        [lease] = one.leases._led.values()
        await until(lambda: lease.holds == "org")
        await one.leases.note_ticket(lease, "t-1")
        held = await one.link.do("HGET", keys.flight(KEY), "held")
        assert held == f"{lease.token} org".encode()
        lease.flight.trail.holding = tuple
        with redis.Redis.from_url(valkey_url) as client:
            await until(lambda: client.hget(keys.flight(KEY), "held") == b"", within=3)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def test_what_held_another_leader(valkey_url):
    """What held the call of the leader before, and was left in Redis by one who does not know of it, is not heeded."""
    async with hosts(valkey_url, 1, lease_ms=15_000) as (one,):
        far = str(9 * 10**15)
        await one.link.do("HSET", keys.flight(KEY), "token", "theirs", "inbox", "i", "until_us", far, "held", "before org")
        asking = asyncio.create_task(one.ask())
        await until(lambda: one.handover.stats().followed)
        assert one.flights.get(KEY).trail.told == ""
        await one.link.do("HSET", keys.flight(KEY), "held", "theirs org")
        await until(lambda: one.flights.get(KEY).trail.told == "org")
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def test_nothing_is_said_behind_the_end(valkey_url):
    """A lease whose end is on its way is not renewed: an ended lead that left its ticket would come back."""
    async with hosts(valkey_url, 1, lease_ms=300) as (one,):
        one.lead = lambda flight, lease, ticket: _held(one, flight, lease)
        asking = asyncio.create_task(one.ask())
        await in_the_air(one)
        [lease] = one.leases._led.values()
        lease.ending, lease.told = asyncio.get_running_loop().create_future(), "org"
        renewed, renew = [], one.leases._renew
        one.leases._renew = lambda *said: renewed.append(said) or renew(*said)
        one.leases._on_audience(lease.name.encode())
        for is_ending in (True, False):
            one.leases._is_back.set()
            await until(lambda: not one.leases._is_back.is_set())
            assert bool(renewed) != is_ending
            lease.ending = None
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
