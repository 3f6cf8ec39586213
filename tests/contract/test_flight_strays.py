"""Flights that only Redis knows of: a question or a renewal was done late, or once more, for nobody."""

from __future__ import annotations

import asyncio

import pytest

from conftest import until
from headrace import keys
from headrace.flight import lease
from headrace.flight.lease import Lease
from headrace.link import Link
from lease_parts import EVENTS, KEY, SAID, hosts, in_the_air


def led_late(link: Link, *, token: str, inbox: str):
    """A process's question who leads, said again for nobody."""
    names = [keys.cache_entry(KEY), keys.flight(KEY), keys.audience(f"flight:{KEY}"), keys.HEARD, keys.PULSE]
    return link.run(lease._LEAD, names, [token, inbox, 15_000, -1, f"flight:{KEY}", 1_500_000])


async def test_led_when_it_is_over(valkey_url):
    """A question that is done once more when its flight is over lets its process lead for nobody; who follows ends that."""
    async with hosts(valkey_url, 2, lease_ms=15_000) as (one, other):
        one.go_on.set()
        other.go_on.set()
        await one.ask()
        assert (await led_late(one.link, token="long over", inbox=one.link.inbox))[0] == b"leading"
        assert (await asyncio.wait_for(other.ask(), 3)).answer == SAID
        assert (await led_late(one.link, token="long over", inbox=one.link.inbox))[0] == b"leading"
        assert (await asyncio.wait_for(one.ask(), 3)).answer == SAID


async def test_renewed_when_it_is_over(valkey_url):
    """A renewal that is done when the flight has left its ticket to the next leader keeps nobody from leading."""
    async with hosts(valkey_url, 2, lease_ms=15_000) as (one, other):
        other.go_on.set()
        assert (await led_late(one.link, token="gone", inbox=one.link.inbox))[0] == b"leading"
        left = Lease(KEY, "gone", ticket="t1")
        names = [keys.flight(KEY), keys.audience(f"flight:{KEY}"), left.publication.log]
        await one.link.run(lease._LAND, names, ["gone", 1, f"flight:{KEY}", 1, "t1"])
        assert await one.leases._renew(left, 15_000) == 1
        assert (await asyncio.wait_for(other.ask(), 3)).answer == SAID


async def test_follows_for_nobody(valkey_url):
    """Who is noted as a follower by a question that it gave up leaves as soon as Redis answers: the last to leave cancels."""
    async with hosts(valkey_url, 2, lease_ms=15_000) as (one, other):
        leading = asyncio.create_task(one.ask())
        await in_the_air(one)
        other.leases._strays.add(KEY, "given up")
        assert (await led_late(one.link, token="given up", inbox=other.link.inbox))[0] == b"following"
        await until(lambda: not other.leases._strays._times)
        leading.cancel()
        await until(lambda: one.cancelled == 1, within=3)


@pytest.mark.parametrize("form", ["whole", "stream"])
async def test_redis_is_silent_at_the_landing(valkey_url, form):
    """Redis falls silent before a flight lands: who waits here has the answer all the same, and soon."""
    async with hosts(valkey_url, 1) as (one,):
        one.lead = one.stream if form == "stream" else one.say
        asking = asyncio.create_task(one.listen() if form == "stream" else one.ask())
        await in_the_air(one)
        one.link.run = lambda *_: asyncio.get_running_loop().create_future()
        one.go_on.set()
        said = await asyncio.wait_for(asking, 3)
        assert (said == EVENTS) if form == "stream" else (said.answer == SAID)


async def test_dropped_meanwhile(valkey_url):
    """A stray that another has taken the place of, while it was given up, is no error."""
    async with hosts(valkey_url, 1) as (one,):
        strays = one.leases._strays

        async def give_up(fingerprint, token):
            strays._times.pop((fingerprint, token), None)
            return False

        strays._give_up = give_up
        strays._times[KEY, "gone"] = 4
        await strays._go_through()
        assert not strays._times
