"""
Flights across processes: a lease in Redis says which process leads the flight for a fingerprint.

`fly` is the whole story. Ask to recall a kept answer, or lead, or follow, all in one script; a follower reads the log that the
leader hands over (handover.py), and asks again every few seconds. Asking again is what finds everything that can have happened
meanwhile: the leader landed and the nudge was lost, or it died and its lease lapsed, and then the one who asks first leads.

An ordinary miss costs no more than the one question before and the one landing after, and the landing leaves in the same round
trip as the settlement and the kept entry.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from headrace import keys
from headrace.clock import Clock, until_set
from headrace.errors import BrokenStream, HeadraceError, RedisAway, Refusal
from headrace.flight import items
from headrace.flight.flight import Flight, Landing, broken_off
from headrace.flight.flights import Flights
from headrace.flight.handover import LOG_MS, Handover, Publication
from headrace.flight.strays import Strays
from headrace.link import Link, Script
from headrace.model import Source
from headrace.trace import read as trace_of

LEASE_MS = 15_000

_ASK_AGAIN_S = 1.0
_SILENT_US = 1_500_000

_LEAD = Script(__package__, "lead.lua")
_RENEW = Script(__package__, "renew.lua")
_END = Script(__package__, "end.lua")
_LAND = Script(__package__, "land.lua")
_LEAVE = Script(__package__, "leave.lua")


@dataclass(slots=True)
class Lease:
    """
    The right to lead one flight. `token` fences it: whoever leads later has another.

    `publication` is what followers outside have been handed so far; `ticket` is where the call is parked, if it is: by us, or
    by a leader before us that is gone. `ending` is
    the reply to its end, once that has been sent; `is_told` says that the landing itself went with it.
    """

    fingerprint: str
    token: str
    ticket: str = ""
    flight: Flight | None = None
    is_landed: bool = False
    ending: asyncio.Future[int] | None = None
    is_told: bool = False
    publication: Publication = field(init=False)

    def __post_init__(self) -> None:
        self.publication = Publication(_name(self.fingerprint), _log(self.fingerprint, self.token))

    @property
    def name(self) -> str:
        return self.publication.name

    @property
    def is_followed(self) -> bool:
        """Whether anybody outside has followed so far."""
        return self.publication.task is not None


@dataclass(frozen=True, slots=True)
class Recalled:
    """A kept entry, as the cache encoded it."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class Following:
    """Another process leads, with this token."""

    token: str


class NoLease(Exception):
    """Redis is away: nobody can say who leads, so whoever asks flies alone."""


Lead = Callable[[Lease], Awaitable[Landing]]


@dataclass(frozen=True, slots=True)
class LeaseStats:
    """How many flights this process leads, and how many it is asking about or following."""

    led: int
    asked: int


class Leases:
    """This process's part in the flights of all processes."""

    def __init__(self, link: Link, clock: Clock, flights: Flights, handover: Handover, *, lease_ms: int = LEASE_MS) -> None:
        self._link = link
        self._clock = clock
        self._flights = flights
        self._handover = handover
        self._lease_ms = lease_ms
        self._led: dict[str, Lease] = {}
        self._strays = Strays(link, clock, self._give_up_stray)
        self._is_back = asyncio.Event()
        link.on_return(self._is_back.set)
        link.on("audience", self._on_audience)

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Leases [{stats.led} led, {stats.asked} asked]>"

    def stats(self) -> LeaseStats:
        """Return its state now."""
        return LeaseStats(len(self._led), self._strays.ours)

    async def fly(self, flight: Flight, fresh_ms: int, lead: Lead) -> Landing | Recalled:
        """
        Lead or follow the flight for `flight.key` until it lands, or recall a kept answer.

        Args:
            fresh_ms: what a kept entry must have left to live; -1 asks for no recall.
            lead: flies it, if we lead.

        Raises `NoLease` when Redis is away, `BrokenStream` when callers here have had some of a stream whose leader is gone,
        and whatever *lead* raises.
        """
        token, followed = _token(flight), ""
        with self._strays.asking(flight.key, token):
            while True:
                # Callers who have had some of a stream get the rest of that one, so a kept answer is none for them.
                role = await self._ask(flight, token, -1 if flight.is_open else fresh_ms)
                if isinstance(role, Lease):
                    if followed and (landing := await self._late_landing(flight, followed, role)):
                        return landing
                    return await self._lead(flight, role, lead)
                if isinstance(role, Recalled):
                    return role
                if flight.is_open and role.token != followed:
                    raise broken_off()
                followed = role.token
                flight.trail.led_by = trace_of([followed.partition(".")[2]])
                landing = await self._listen(flight, followed)
                if landing is not None and not isinstance(landing.error, Refusal):
                    return landing  # a refusal is its leader's own: ask again who leads

    async def _listen(self, flight: Flight, token: str) -> Landing | None:
        """Follow until the landing; None when it is time to ask again, so that we do not lapse as one who follows."""
        flight.source = Source.SHARED
        name = _name(flight.key)
        try:
            # Not asyncio.wait_for: before Python 3.12 it loses a cancellation that comes together with the nudge.
            with self._handover.nudged(name) as nudged, contextlib.suppress(TimeoutError):
                # So soon that a leader's death is found in time; the nudge of a landing may be lost, too.
                async with self._clock.timeout(min(self._lease_ms / 3000, _ASK_AGAIN_S)):
                    while True:
                        nudged.clear()
                        if landing := await self._read(flight, token):
                            return landing
                        await nudged.wait()
        except asyncio.CancelledError:
            self._leave(flight)
            raise
        return None

    async def _late_landing(self, flight: Flight, followed: str, lease: Lease) -> Landing | None:
        """Return the landing of the flight that we followed, if it had one: we lead because it is over."""
        try:
            landing = await self._read(flight, followed)
        except BaseException:
            self._send_give_up(lease)
            raise
        if landing is None or isinstance(landing.error, Refusal):
            return None
        await self.give_up(lease)
        return landing

    async def _read(self, flight: Flight, token: str) -> Landing | None:
        try:
            return await self._handover.read(flight, _log(flight.key, token), token)
        except RedisAway as error:
            raise NoLease from error

    def _leave(self, flight: Flight) -> None:
        """
        Leave the audience, unless another flight of the same name has begun here meanwhile.

        Not awaited: who is cancelled leaves at once, and the place in the audience would lapse anyway.
        """
        if self._flights.get(flight.key) in (None, flight):
            self._send_leave(flight.key)

    def _send_leave(self, fingerprint: str) -> None:
        name = _name(fingerprint)
        self._link.run(_LEAVE, (keys.audience(name), keys.flight(fingerprint)), (self._link.inbox, name))

    async def _ask(self, flight: Flight, token: str, fresh_ms: int) -> Lease | Recalled | Following:
        """Recall, lead or follow, in one step; asked again with the same token, nothing changes."""
        key, name = flight.key, _name(flight.key)
        names = (keys.cache_entry(key), keys.flight(key), keys.audience(name), keys.HEARD, keys.PULSE)
        reply = self._link.run(_LEAD, names, (token, self._link.inbox, self._lease_ms, fresh_ms, name, _SILENT_US))
        # As `asyncio.shield` does, for a third of the time: who is cancelled must not take the reply along.
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        reply.add_done_callback(lambda _: _wake(heard))
        try:
            await heard
            what, value = reply.result()
        except RedisAway as error:
            self._strays.add(key, token)
            raise NoLease from error
        except asyncio.CancelledError:
            # The script may have made us the leader of what nobody here flies. Not undone before it is known: a question that
            # is sent again, after its connection was lost, would come second.
            reply.add_done_callback(lambda reply: self._undo(flight, token, reply))
            raise
        if what == b"leading":
            return Lease(key, token, ticket=value.decode(errors="replace"))
        return Recalled(value) if what == b"recalled" else Following(value.decode(errors="replace"))

    def _undo(self, flight: Flight, token: str, reply: asyncio.Future[Any]) -> None:
        if reply.cancelled():
            return
        if reply.exception() is not None:
            self._strays.add(flight.key, token)
            return
        what, value = reply.result()
        if what == b"leading":
            self._send_give_up(Lease(flight.key, token, ticket=value.decode(errors="replace")))
        elif what == b"following":
            self._leave(flight)

    # The leader's side.

    async def _lead(self, flight: Flight, lease: Lease, lead: Lead) -> Landing:
        if flight.is_open:
            # The leader died in the middle of a stream that callers here have had some of; others may wait for its ticket.
            await self.give_up(lease)
            raise broken_off()
        flight.source = Source.UPSTREAM
        self._led[lease.name], lease.flight = lease, flight
        flight.outside = lambda: self._is_followed(lease)
        try:
            landing = await lead(lease)
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
            lease.publication.stop()
            lease.flight = None  # which knows it, too

    def begin_landing(self, flight: Flight, lease: Lease, landing: Landing) -> None:
        """Send the end of the flight, so that it shares a round trip; `land` follows, and sees to it that it is known."""
        if lease.ending is not None:
            return
        flight.land_soon(landing)
        # Who follows a ticket leads next, and is left its name; else the end alone is enough, where nobody follows.
        lease.is_told = lease.is_followed or bool(lease.ticket and isinstance(landing.error, BrokenStream))
        if not lease.is_told:
            lease.ending = self._link.run(_END, _landing_keys(lease)[:2], [lease.token])
        elif not (_tells_events(lease, landing) and self._handover.lags(flight, lease.publication)):
            lease.ending = self._send_landing(flight, lease, landing)

    async def land(self, flight: Flight, lease: Lease, landing: Landing) -> None:
        """
        Hand the landing to whoever follows outside, and end the flight; once.

        Redis away is no error here: when it is back the flight is given up, and followers ask anew.
        """
        if lease.is_landed:
            return
        lease.is_landed = True
        self.begin_landing(flight, lease, landing)
        try:
            if lease.ending is None or (not await lease.ending and not lease.is_told):
                if _tells_events(lease, landing):
                    await self._handover.catch_up(flight, lease.publication)
                await self._send_landing(flight, lease, landing)
        except RedisAway:
            self._strays.add(lease.fingerprint, lease.token)

    def _send_landing(self, flight: Flight, lease: Lease, landing: Landing) -> asyncio.Future[int]:
        """
        Send what the log lacks, the landing last.

        Followers who have had some of a stream that broke off are told the rest of it; those who have had nothing are told
        the error alone, and may ask again. The landing's position is the one after all events, sent or not: an append whose
        reply is still awaited may have taken those before it.
        """
        published, end = lease.publication.published, flight.told
        # A leader that leaves cannot wait until much has been handed over; its followers' streams break off in any case.
        is_much = self._handover.lags(flight, lease.publication)
        is_told = flight.is_open and _tells_events(lease, landing) and not is_much
        said = items.encode_events(flight.events.since(published), flight, published) if is_told else []
        rest = [*said, items.encode_landing(landing, flight)]
        rest = self._handover.sealed(lease.publication.log, rest)
        first = end + 1 - len(said)
        # Who has had nothing of a stream that broke off goes on waiting for the ticket's next attempt, as the next leader.
        ticket = lease.ticket if isinstance(landing.error, BrokenStream) else ""
        return self._link.run(_LAND, _landing_keys(lease), [lease.token, LOG_MS, lease.name, first, ticket, *rest])

    async def give_up(self, lease: Lease) -> None:
        """End a flight that we lead without a word; whoever follows asks again at once, and is told its ticket."""
        with contextlib.suppress(RedisAway):
            await self._send_give_up(lease)

    def _send_give_up(self, lease: Lease) -> asyncio.Future[int]:
        return self._link.run(_LAND, _landing_keys(lease), [lease.token, 1, lease.name, 1, lease.ticket])

    async def note_ticket(self, lease: Lease, ticket: str) -> None:
        """Leave word of the ticket on which this flight waits, for whoever leads after us."""
        lease.ticket = ticket
        with contextlib.suppress(RedisAway):
            await self._renew(lease, self._lease_ms)

    async def _is_followed(self, lease: Lease) -> bool:
        time = await self._link.do("TIME")
        now_us = int(time[0]) * 1_000_000 + int(time[1])
        return int(await self._link.do("ZCOUNT", keys.audience(lease.name), now_us, "+inf")) > 0

    def _renew(self, lease: Lease, lease_ms: int) -> asyncio.Future[int]:
        return self._link.run(_RENEW, [keys.flight(lease.fingerprint)], [lease.token, lease_ms, lease.ticket])

    async def _give_up_stray(self, fingerprint: str, token: str) -> bool:
        if not self._strays.is_asked(fingerprint):  # we may be noted as followers, too
            self._send_leave(fingerprint)
        return await self._send_give_up(Lease(fingerprint, token)) >= 0

    async def keep(self) -> None:
        """Renew the leases of all flights that we lead, and give up what we lead by mistake. Run it as a task."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._strays.keep())
            group.create_task(self._keep_leading())

    async def _keep_leading(self) -> None:
        while True:
            self._is_back.clear()
            await until_set(self._is_back, self._clock, self._lease_ms / 3000)
            renewals = [self._renew(lease, self._lease_ms) for lease in self._led.values()]
            await asyncio.gather(*renewals, return_exceptions=True)
            for lease in self._led.values():
                if lease.flight and not lease.flight.waiting:  # those outside may have died without a word
                    self._flights.look_after(lease.flight)

    def _on_audience(self, name: bytes) -> None:
        lease = self._led.get(name.decode())
        flight = lease.flight if lease else None
        if lease is None or flight is None:
            self._strays.suspect(name.decode().removeprefix(_name("")))
            return
        self._handover.publish(flight, lease.publication)
        if not flight.waiting:  # somebody may just have left who was the last
            self._flights.look_after(flight)


def _token(flight: Flight) -> str:
    # Nobody reads a token but who follows it, who learns whose call leads: it is all that a follower has of the leader at once.
    trace = flight.lead().call.trace if flight.waiting else None
    own = os.urandom(8).hex()
    return own if trace is None else f"{own}.{trace.headers()[0][1]}"


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _name(fingerprint: str) -> str:
    return f"flight:{fingerprint}"


def _log(fingerprint: str, token: str) -> str:
    return keys.log(f"flight:{fingerprint}:{token}")


def _tells_events(lease: Lease, landing: Landing) -> bool:
    """Whether who follows is told what was said: not if it failed before they had any of it."""
    return landing.answer is not None or lease.publication.published > 0


def _landing_keys(lease: Lease) -> list[str]:
    return [keys.flight(lease.fingerprint), keys.audience(lease.name), lease.publication.log]
