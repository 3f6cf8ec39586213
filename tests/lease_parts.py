"""What tests of flights over processes share: one host's parts, and what is said in them."""

import asyncio
import contextlib

from conftest import until
from headrace.clock import SystemClock
from headrace.flight.flight import Landing
from headrace.flight.flights import Flights
from headrace.flight.handover import Handover
from headrace.flight.lease import Leases
from headrace.flight.role import Recalled
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


async def in_the_air(host):
    await until(lambda: host.led == 1)


@contextlib.asynccontextmanager
async def hosts(url, n, lease_ms=600):
    made = [Host(url, lease_ms) for _ in range(n)]
    for host in made:
        await asyncio.wait_for(host.link.listening(), 30)
    yield made
    for host in made:
        await host.close()


async def followed(host):
    """Wait until somebody outside follows what a host leads."""
    await until(lambda: any(lease.is_followed for lease in host.leases._led.values()), what="a follower outside")
