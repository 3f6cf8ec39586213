"""Hosts that share a Redis, each with a cache of its own, and looks into their tiers."""

import asyncio
import contextlib
import time

from cache_samples import key
from headrace.cache.tiered import Cache
from headrace.clock import SystemClock
from headrace.link import Link


class Host:
    """A host of its own: a link that listens when told to, and a cache with all three tiers."""

    def __init__(self, url, directory, clock=None):
        self.clock = clock or SystemClock()
        self.directory = directory
        self.link = Link(url, timeout_s=0.5)
        self.cache = self.make()
        self.listener = None

    def make(self, **changed):
        sizes = {"memory": 10**6, "disk": 10**7, "redis": 10**6, "max_entry": 10**5, **changed}
        return Cache(self.link, self.clock, directory=self.directory, **sizes)

    async def listen(self):
        self.listener = asyncio.create_task(self.link.listen())
        await asyncio.wait_for(self.link.listening(), 30)

    async def close(self):
        if self.listener:
            self.listener.cancel()
            await asyncio.gather(self.listener, return_exceptions=True)
        await self.cache.close()
        await self.link.aclose()


@contextlib.asynccontextmanager
async def hosts(valkey_url, directory):
    """Make hosts by their names; the same name is the same directory."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(name, *, listens=True, url=valkey_url, clock=None):
            made = Host(url, directory / name, clock)
            stack.push_async_callback(made.close)
            if listens:
                await made.listen()
            await made.cache.start()
            return made

        yield make


def glance(cache, name, max_age_s=None):
    """What is in memory, and fresh."""
    return cache.glance(key(name), time.time(), max_age_s)


async def has(cache, name):
    """Say which tiers have it: m, d, r."""
    found = "m" if glance(cache, name) else ""
    await cache._disk.flush()
    found += "d" if await cache._disk.get(key(name)) else ""
    return found + ("r" if await cache._shared.get(key(name)) else "")
