"""What a leader hands over to those who follow elsewhere: how much at once, in which order, and what becomes of gaps."""

import asyncio

import pytest
import redis

from conftest import until
from headrace import keys
from headrace.errors import BrokenStream
from headrace.flight.flight import Landing
from headrace.model import Event
from lease_parts import EVENTS, KEY, STREAMED, followed, hosts, in_the_air


@pytest.mark.parametrize("when", ["it was followed all the while", "it had been said before"])
async def test_long_stream_goes_in_pieces(valkey_url, when):
    """However much there is to hand over, what leaves for Redis and what is read from it at once is little; nothing is lost."""
    said = [Event("content_block_delta", b'{"n":%d}' % n, b"event %d\n\n" % n) for n in range(5_000)]

    async def speak(flight, lease, ticket):
        flight.begin("one")
        if "all the while" in when:
            flight.append(said[0], is_content=True)
            await until(lambda: lease.is_followed)
        for event in said[len(flight.events) :]:
            flight.append(event, is_content=True)
        await host_two_follows.wait()
        return Landing(STREAMED)

    host_two_follows = asyncio.Event()
    async with hosts(valkey_url, 2, lease_ms=10_000) as (one, two):  # none lapses, however long it takes
        written = _sizes_of(one.link)
        one.lead = speak
        leading = asyncio.create_task(one.listen())
        await until(lambda: one.flights.get(KEY) is not None and one.flights.get(KEY).events)
        following = asyncio.create_task(two.listen())
        await followed(one)
        host_two_follows.set()
        assert await following == await leading == said
        assert max(written) < 300


def _sizes_of(link):
    """Return a list that grows by the number of words of each script that is run."""
    sizes, run = [], link.run

    def counted(script, names, args):
        sizes.append(len(names) + len(args))
        return run(script, names, args)

    link.run = counted
    return sizes


async def test_nothing_is_published_without_followers(valkey_url):
    """A flight that nobody outside follows leaves no log."""
    async with hosts(valkey_url, 1) as (one,):
        one.lead = one.stream
        one.go_on.set()
        await one.listen()
        assert await one.link.do("KEYS", "headrace:log:*") == []


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


async def test_stream_that_was_not_followed_here(valkey_url):
    """A leader that has an answer in one piece, since its ticket ended before it heard anything of it, hands over all."""
    async with hosts(valkey_url, 2) as (one, two):

        async def land(flight, lease, ticket):
            flight.begin("an attempt that failed")
            flight.append(EVENTS[5], is_content=False)
            await one.go_on.wait()
            return Landing(STREAMED, ticket="t-1")

        one.lead = land
        first = asyncio.create_task(one.ask(fresh_ms=-1))
        await in_the_air(one)
        second = asyncio.create_task(two.ask(fresh_ms=-1))
        await followed(one)
        one.go_on.set()
        assert (await asyncio.wait_for(first, 5)).answer == STREAMED
        assert (await asyncio.wait_for(second, 5)).answer == STREAMED
        assert two.led == 0


async def test_log_with_a_gap(valkey_url):
    """Who follows late, when what was handed over first is lost, is told nothing of the rest, and asks anew when it is over."""
    async with hosts(valkey_url, 3, lease_ms=5000) as (one, two, three):
        one.lead = one.stream
        two.lead = three.lead = three.stream
        three.go_on.set()
        first = asyncio.create_task(one.listen())
        await in_the_air(one)
        second = asyncio.create_task(two.listen())
        with redis.Redis.from_url(valkey_url) as client:
            await until(lambda: client.keys(keys.log(f"flight:{KEY}:*")))
            log = client.keys(keys.log(f"flight:{KEY}:*"))[0]
            await until(lambda: client.xlen(log) == 3)
            await until(lambda: two.flights.get(KEY).events == EVENTS[:3])
            client.delete(log)
        third = asyncio.create_task(three.listen())
        await until(lambda: three.handover.stats().followed)
        one.go_on.set()
        for task in (first, second, third):
            assert await asyncio.wait_for(task, 10) == EVENTS
        assert three.led == 1
