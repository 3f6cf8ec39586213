"""
Flights across processes: a lease in Redis says which process leads the flight for a fingerprint.

`fly` is the whole story. Ask to recall a kept answer, or lead, or follow, all in one script; a follower reads the log that the
leader hands over, and asks again every few seconds. Asking again is what finds everything that can have happened meanwhile:
the leader landed and the nudge was lost, or it died and its lease lapsed, and then the one who asks first leads.

The leader writes to the log only once somebody outside follows, so an ordinary miss costs no more than the one question
before and the one landing after, and the landing leaves in the same round trip as the settlement and the kept entry.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from headrace import keys, observe
from headrace.errors import BrokenStream, HeadraceError, RedisAway, Refusal
from headrace.flight import items
from headrace.flight.flights import Flight, Flights, Landing
from headrace.link import Link, Script
from headrace.model import Source

LEASE_MS = 15_000
LOG_MS = 60_000

_LEAD = Script(__package__, "lead.lua")
_RENEW = Script(__package__, "renew.lua")
_END = Script(__package__, "end.lua")
_LAND = Script(__package__, "land.lua")
_APPEND = Script(__package__, "append.lua")
_JOIN = Script(__package__, "join.lua")
_LEAVE = Script(__package__, "leave.lua")


@dataclass(slots=True)
class Lease:
    """
    The right to lead one flight. `token` fences it: whoever leads later has another.

    `published` is how many of the flight's events followers outside have been handed so far; `ticket` is where the call is
    parked, if it is.
    """

    fingerprint: str
    token: str
    ticket: str = ""
    flight: Flight | None = None
    published: int = 0
    publisher: asyncio.Task[None] | None = None
    is_landed: bool = False

    @property
    def name(self) -> str:
        return f"flight:{self.fingerprint}"

    @property
    def log(self) -> str:
        return keys.log(f"{self.name}:{self.token}")


@dataclass(frozen=True, slots=True)
class Recalled:
    """A kept entry, as the cache encoded it."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class Leading:
    """We lead. *ticket* is where a leader before us, now gone, had parked the call."""

    lease: Lease
    ticket: str


@dataclass(frozen=True, slots=True)
class Following:
    """Another process leads, with this token."""

    token: str


class NoLease(Exception):
    """Redis is away: nobody can say who leads, so whoever asks flies alone."""


Lead = Callable[[Lease, str], Awaitable[Landing]]


class Leases:
    """This process's part in the flights of all processes."""

    def __init__(self, link: Link, flights: Flights, *, lease_ms: int = LEASE_MS) -> None:
        self._link = link
        self._flights = flights
        self._lease_ms = lease_ms
        self._led: dict[str, Lease] = {}
        self._nudges: dict[str, asyncio.Event] = {}
        link.on("log", self._on_log)
        link.on("audience", self._on_audience)

    def __repr__(self) -> str:
        return f"<Leases [{len(self._led)} led, {len(self._nudges)} asked]>"

    async def fly(self, flight: Flight, fresh_ms: int, lead: Lead) -> Landing | Recalled:
        """
        Lead or follow the flight for `flight.key` until it lands, or recall a kept answer.

        Args:
            fresh_ms: what a kept entry must have left to live; -1 asks for no recall.
            lead: flies it, if we lead; it is given the lease and the ticket of a dead leader, if it left one.

        Raises `NoLease` when Redis is away, and whatever *lead* raises.
        """
        token, followed = os.urandom(8).hex(), ""  # once it is open, what we follow is what callers here have had some of
        async with self._nudged(flight) as nudged:
            while True:
                # Who has had some of a stream gets the rest of that one, never of another, nor of a kept one.
                role = await self.ask(flight.key, token, -1 if flight.is_open else fresh_ms)
                if isinstance(role, Recalled):
                    return role
                if isinstance(role, Leading):
                    if landing := await self._late_landing(flight, followed, role.lease):
                        return landing
                    return await self._take_over(flight, role, lead)
                if flight.is_open and role.token != followed:
                    raise _broken_off()
                followed = role.token
                landing = await self._listen(flight, followed, nudged)
                if landing is not None and not isinstance(landing.error, Refusal):
                    return landing  # a refusal is its leader's own no: ask again who leads

    async def _listen(self, flight: Flight, token: str, nudged: asyncio.Event) -> Landing | None:
        """Follow until the landing; None when it is time to ask again, lest we lapse as one who follows."""
        flight.source = Source.SHARED
        # Not asyncio.wait_for: before Python 3.12 it loses a cancellation that comes together with the nudge.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._lease_ms / 3000):
                while True:
                    nudged.clear()
                    if landing := await self._read(flight, token):
                        return landing
                    await nudged.wait()
        return None

    async def _late_landing(self, flight: Flight, followed: str, lease: Lease) -> Landing | None:
        # We lead because the flight that we followed is over; if it landed, there is no need to fly again.
        try:
            landing = await self._read(flight, followed) if followed else None
        except BaseException:
            self._send_give_up(lease)
            raise
        if landing is None or isinstance(landing.error, Refusal):
            return None
        await self.give_up(lease)
        return landing

    @contextlib.asynccontextmanager
    async def _nudged(self, flight: Flight) -> AsyncIterator[asyncio.Event]:
        name = f"flight:{flight.key}"
        nudged = self._nudges[name] = asyncio.Event()
        try:
            yield nudged
        except asyncio.CancelledError:
            # Not awaited: who is cancelled leaves at once, and the place in the audience would lapse anyway.
            if self._nudges.get(name) is nudged:
                self._link.run(_LEAVE, [keys.audience(name), keys.flight(flight.key)], [self._link.inbox, name])
            raise
        finally:
            self._forget(name, nudged)

    def _forget(self, name: str, nudged: asyncio.Event) -> None:
        # Another flight of the same name may have begun here while this one was being given up.
        if self._nudges.get(name) is nudged:
            del self._nudges[name]

    async def ask(self, fingerprint: str, token: str, fresh_ms: int) -> Recalled | Leading | Following:
        """Recall, lead or follow, in one step; asked again with the same token, nothing changes."""
        name = f"flight:{fingerprint}"
        names = [keys.cache_entry(fingerprint), keys.flight(fingerprint), keys.audience(name)]
        reply = self._link.run(_LEAD, names, [token, self._link.inbox, self._lease_ms, fresh_ms, name])
        try:
            with _no_lease():
                what, value = await asyncio.shield(reply)
        except asyncio.CancelledError:
            # The script may have made us the leader of what nobody here flies. Not undone before it is known: a question that
            # is sent again, after its connection was lost, would come second.
            reply.add_done_callback(lambda reply: self._undo(fingerprint, token, reply))
            raise
        if what == b"recalled":
            return Recalled(value)
        if what == b"leading":
            return Leading(Lease(fingerprint, token, ticket=value.decode()), value.decode())
        return Following(value.decode())

    def _undo(self, fingerprint: str, token: str, reply: asyncio.Future[Any]) -> None:
        if not reply.cancelled() and reply.exception() is None and reply.result()[0] == b"leading":
            self._send_give_up(Lease(fingerprint, token))

    async def _read(self, flight: Flight, token: str) -> Landing | None:
        log = keys.log(f"flight:{flight.key}:{token}")
        with _no_lease():
            news = await self._link.do("XRANGE", log, f"({len(flight.events)}-0", "+")
        for _, (_, item) in news:
            if items.is_landing(item):
                observe.FLIGHTS.inc("followed")
                return items.decode_landing(item, flight)
            # What is handed over starts with the first content, so all of it counts as open.
            flight.append(items.decode_event(item, flight), is_content=True)
        return None

    # A ticket's attempts, made by some worker, followed by whoever parked it.

    @contextlib.asynccontextmanager
    async def following(self, flight: Flight, ticket: str) -> AsyncIterator[None]:
        """Append to *flight* what the ticket's attempts say, as they say it."""
        reader = asyncio.create_task(self._follow(flight, f"flight:ticket:{ticket}"))
        try:
            yield
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader

    async def _follow(self, flight: Flight, name: str) -> None:
        nudged = self._nudges[name] = asyncio.Event()
        log = keys.log(f"{name}:log")
        try:
            while True:
                nudged.clear()
                with contextlib.suppress(RedisAway):
                    self._link.run(_JOIN, [keys.audience(name)], [self._link.inbox, self._lease_ms])
                    for _, (_, item) in await self._link.do("XRANGE", log, f"({len(flight.events)}-0", "+"):
                        flight.append(items.decode_event(item, flight), is_content=True)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._lease_ms / 3000):
                        await nudged.wait()
        finally:
            self._forget(name, nudged)
            if name not in self._nudges:
                self._link.do("ZREM", keys.audience(name), self._link.inbox)

    @contextlib.asynccontextmanager
    async def publishing(self, flight: Flight, ticket: str) -> AsyncIterator[None]:
        """Hand on what is said in *flight*, an attempt of a ticket, to whoever follows the ticket."""
        lease = Lease(f"ticket:{ticket}", "log")
        publisher = asyncio.create_task(self._publish(flight, lease))
        try:
            yield
        finally:
            publisher.cancel()

    # The leader's side.

    async def _take_over(self, flight: Flight, role: Leading, lead: Lead) -> Landing:
        if flight.is_open:
            # The leader died in the middle of a stream that callers here have had some of.
            await self.give_up(role.lease)
            raise _broken_off()
        return await self._lead(flight, role, lead)

    async def _lead(self, flight: Flight, role: Leading, lead: Lead) -> Landing:
        lease = role.lease
        flight.source = Source.UPSTREAM
        self._led[lease.name], lease.flight = lease, flight
        flight.outside = lambda: self._is_followed(lease)
        try:
            landing = await lead(lease, role.ticket)
            await self.land(flight, lease, landing)
            return landing
        except HeadraceError as error:
            await self.land(flight, lease, Landing(error=error, ticket=flight.ticket))
            raise
        except BaseException:
            self._send_landing(flight, lease, Landing(error=Refusal("the leader left")))
            raise
        finally:
            if self._led.get(lease.name) is lease:
                del self._led[lease.name]
            if lease.publisher is not None:
                lease.publisher.cancel()

    async def land(self, flight: Flight, lease: Lease, landing: Landing) -> None:
        """
        Hand the landing to whoever follows outside, and end the flight; once.

        Sent before the first await, so that it can share a round trip. Redis away is no error here: followers will find
        the lease lapsed.
        """
        if lease.is_landed:
            return
        lease.is_landed = True
        with contextlib.suppress(RedisAway):
            if lease.publisher is None and await self._link.run(_END, _landing_keys(lease)[:2], [lease.token]):
                return
            await self._send_landing(flight, lease, landing)

    def _send_landing(self, flight: Flight, lease: Lease, landing: Landing) -> asyncio.Future[int]:
        # Half a stream is for those who have had some of it; others had better ask again than get that.
        said = flight.events[lease.published :] if landing.answer or lease.published else []
        rest = [*(items.encode_event(event, flight) for event in said), items.encode_landing(landing)]
        return self._link.run(_LAND, _landing_keys(lease), [lease.token, LOG_MS, lease.name, lease.published + 1, *rest])

    async def give_up(self, lease: Lease) -> None:
        """End a flight that we lead without a word; whoever follows asks again at once."""
        with contextlib.suppress(RedisAway):
            await self._send_give_up(lease)

    def _send_give_up(self, lease: Lease) -> asyncio.Future[int]:
        return self._link.run(_LAND, _landing_keys(lease), [lease.token, 1, lease.name, 1])

    async def leave_to(self, lease: Lease, ticket: str) -> None:
        """Give up the lead, but leave word of the ticket: whoever asks next waits on it instead of calling."""
        lease.ticket = ticket
        with contextlib.suppress(RedisAway):
            await self._renew(lease, 0)

    async def note_ticket(self, lease: Lease, ticket: str) -> None:
        """Leave word of the ticket on which this flight waits, for whoever leads after us."""
        lease.ticket = ticket
        with contextlib.suppress(RedisAway):
            await self._renew(lease, self._lease_ms)

    async def _publish(self, flight: Flight, lease: Lease) -> None:
        # Hand over what was said as it is said, but only from the first content on (before it, an attempt may be forgotten),
        # and only once somebody outside follows; most flights never need this task.
        while True:
            if flight.is_open and lease.published < len(flight.events):
                fresh = flight.events[lease.published :]
                names = [keys.audience(lease.name), lease.log]
                args = [LOG_MS, lease.name, lease.published + 1, *(items.encode_event(event, flight) for event in fresh)]
                try:
                    await self._link.run(_APPEND, names, args)
                except RedisAway:
                    await flight.changed()
                    continue
                lease.published += len(fresh)
                observe.RELAYED.inc(by=len(fresh))
            else:
                await flight.changed()

    async def _is_followed(self, lease: Lease) -> bool:
        time = await self._link.do("TIME")
        now_us = int(time[0]) * 1_000_000 + int(time[1])
        return int(await self._link.do("ZCOUNT", keys.audience(lease.name), now_us, "+inf")) > 0

    def _renew(self, lease: Lease, lease_ms: int) -> asyncio.Future[int]:
        return self._link.run(_RENEW, [keys.flight(lease.fingerprint)], [lease.token, lease_ms, lease.ticket])

    async def keep(self) -> None:
        """Renew the leases of all flights that we lead, until cancelled. Run it as a task."""
        while True:
            await asyncio.sleep(self._lease_ms / 3000)
            renewals = [self._renew(lease, self._lease_ms) for lease in self._led.values()]
            await asyncio.gather(*renewals, return_exceptions=True)
            for lease in self._led.values():
                if lease.flight and not lease.flight.waiting:  # those outside may have died without a word
                    self._flights.look_after(lease.flight)

    # Nudges.

    def _on_log(self, name: bytes) -> None:
        if nudged := self._nudges.get(name.decode()):
            nudged.set()

    def _on_audience(self, name: bytes) -> None:
        lease = self._led.get(name.decode())
        flight = lease.flight if lease else None
        if lease is None or flight is None:
            return
        if lease.publisher is None:
            lease.publisher = asyncio.create_task(self._publish(flight, lease))
        if not flight.waiting:  # somebody may just have left who was the last
            self._flights.look_after(flight)


def _broken_off() -> BrokenStream:
    return BrokenStream("the stream broke off", status=502)


def _landing_keys(lease: Lease) -> list[str]:
    return [keys.flight(lease.fingerprint), keys.audience(lease.name), lease.log]


@contextlib.contextmanager
def _no_lease() -> Iterator[None]:
    try:
        yield
    except RedisAway as error:
        raise NoLease from error
