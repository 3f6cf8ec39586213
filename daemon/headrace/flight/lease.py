"""
Flights across processes: a lease in Redis says which process leads the flight for a fingerprint.

`fly` is the whole story. Ask to recall a kept answer, or lead, or follow, all in one script; a follower reads the log that the
leader hands over (handover.py), and asks again every few seconds. Asking again is what finds everything that can have happened
meanwhile: the leader landed and the nudge was lost, or it died and its lease lapsed, and then the one who asks first leads. It
also tells which limit holds the leader's call: who has followed as long as it can is refused by that name, as the leader is.

An ordinary miss costs no more than the one question before and the one landing after, and the landing leaves in the same round
trip as the settlement and the kept entry.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from headrace import keys
from headrace.clock import Clock, until_set
from headrace.deadline import no_room
from headrace.errors import BrokenStream, HeadraceError, RedisAway, Refusal
from headrace.flight import items
from headrace.flight.flight import Flight, Landing, broken_off
from headrace.flight.flights import Flights
from headrace.flight.handover import LOG_MS, Handover
from headrace.flight.role import Following, Lease, NoLease, Recalled, log_of, name_of, token_of
from headrace.flight.strays import Strays
from headrace.flight.succession import pass_on
from headrace.link import Link, Script
from headrace.model import Source
from headrace.trace import read as trace_of

LEASE_MS = 15_000

_ASK_AGAIN_S = 1.0
_TELL_S = 0.5  # that what holds a call may have changed, and its followers elsewhere not have heard
_LEAST_S = 0.02  # between two questions, however near the time of who asks
_SILENT_US = 1_500_000

_LEAD = Script(__package__, "lead.lua")
_RENEW = Script(__package__, "renew.lua")
_END = Script(__package__, "end.lua")
_LAND = Script(__package__, "land.lua")
_LEAVE = Script(__package__, "leave.lua")


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
        # Names of flights that are followed already, and of which we have yet to hear that we lead them.
        self._early: set[str] = set()
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
        token, followed = token_of(flight), ""
        flight.trail.hear("")
        with self._asking(flight, token):
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
                self._heed(flight, role.held)
                landing = await self._listen(flight, followed)
                if landing is not None and not isinstance(landing.error, Refusal):
                    return landing  # a refusal is its leader's own: ask again who leads

    @contextlib.contextmanager
    def _asking(self, flight: Flight, token: str) -> Iterator[None]:
        try:
            with self._strays.asking(flight.key, token):
                yield
        finally:
            if self._early and not self._strays.is_asked(flight.key):
                self._early.discard(name_of(flight.key))

    async def _listen(self, flight: Flight, token: str) -> Landing | None:
        """Follow until the landing; None when it is time to ask again, so that we do not lapse as one who follows."""
        flight.source = Source.SHARED
        name, is_nudged = name_of(flight.key), False
        try:
            # Not asyncio.wait_for: before Python 3.12 it loses a cancellation that comes together with the nudge.
            with self._handover.nudged(name) as nudged, contextlib.suppress(TimeoutError):
                # So soon that a leader's death is found in time; the nudge of a landing may be lost, too.
                async with self._clock.timeout(self._look_again_s(flight)):
                    while True:
                        nudged.clear()
                        if landing := await self._read(flight, token):
                            return landing
                        if is_nudged and not flight.length:
                            return None  # what is new stands beside the log
                        await nudged.wait()
                        is_nudged = True
        except asyncio.CancelledError:
            self._leave(flight)
            raise
        return None

    def _look_again_s(self, flight: Flight) -> float:
        # So soon that a leader's death is found in time, and that who is held by its limit hears so before its own clock rings.
        often_s = min(self._lease_ms / 3000, _ASK_AGAIN_S)
        if not flight.trail.told or flight.is_open:
            return often_s
        return min(often_s, max(_LEAST_S, flight.lead().call.begin_by - self._clock.now()))

    def _heed(self, flight: Flight, limit: str) -> None:
        """Note what holds the call that leads elsewhere; it is the no of whoever here has no time left to begin, and leads."""
        flight.trail.hear(limit)
        leader, now = flight.lead(), self._clock.now()
        if limit and not flight.is_open and now >= leader.call.begin_by:
            try:
                pass_on(flight, leader, no_room(limit), now)
            except Refusal:
                self._leave(flight)
                raise

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
            return await self._handover.read(flight, log_of(flight.key, token), token)
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
        name = name_of(fingerprint)
        self._link.run(_LEAVE, (keys.audience(name), keys.flight(fingerprint)), (self._link.inbox, name))

    async def _ask(self, flight: Flight, token: str, fresh_ms: int) -> Lease | Recalled | Following:
        """Recall, lead or follow, in one step; asked again with the same token, nothing changes."""
        key, name = flight.key, name_of(flight.key)
        names = (keys.cache_entry(key), keys.flight(key), keys.audience(name), keys.HEARD, keys.PULSE)
        reply = self._link.run(_LEAD, names, (token, self._link.inbox, self._lease_ms, fresh_ms, name, _SILENT_US))
        # As `asyncio.shield` does, for a third of the time: who is cancelled must not take the reply along.
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        reply.add_done_callback(lambda _: _wake(heard))
        try:
            await heard
            what, value, *held = reply.result()
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
        if what == b"recalled":
            return Recalled(value)
        return Following(value.decode(errors="replace"), b"".join(held).decode(errors="replace"))

    def _undo(self, flight: Flight, token: str, reply: asyncio.Future[Any]) -> None:
        if reply.cancelled():
            return
        if reply.exception() is not None:
            self._strays.add(flight.key, token)
            return
        what, value, *_ = reply.result()
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
        flight.trail.hear("")
        self._led[lease.name], lease.flight = lease, flight
        if lease.name in self._early:
            self._early.discard(lease.name)
            self._handover.publish(flight, lease.publication)
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
            lease.ending = self._link.run(_END, lease.keys[:2], [lease.token])
        elif not (lease.tells_events(landing) and self._handover.lags(flight, lease.publication)):
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
                if lease.tells_events(landing):
                    await self._handover.catch_up(flight, lease.publication)
                lease.ending = self._send_landing(flight, lease, landing)
                await lease.ending
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
        is_told = flight.is_open and lease.tells_events(landing) and not is_much
        said = items.encode_events(flight.events.since(published), flight, published) if is_told else []
        rest = [*said, items.encode_landing(landing, flight)]
        rest = self._handover.sealed(lease.publication.log, rest)
        first = end + 1 - len(said)
        # Who has had nothing of a stream that broke off goes on waiting for the ticket's next attempt, as the next leader.
        ticket = lease.ticket if isinstance(landing.error, BrokenStream) else ""
        return self._link.run(_LAND, lease.keys, [lease.token, LOG_MS, lease.name, first, ticket, *rest])

    async def give_up(self, lease: Lease) -> None:
        """End a flight that we lead without a word; whoever follows asks again at once, and is told its ticket."""
        with contextlib.suppress(RedisAway):
            await self._send_give_up(lease)

    def _send_give_up(self, lease: Lease) -> asyncio.Future[int]:
        return self._link.run(_LAND, lease.keys, [lease.token, 1, lease.name, 1, lease.ticket])

    async def note_ticket(self, lease: Lease, ticket: str) -> None:
        """Leave word of the ticket on which this flight waits, for whoever leads after us."""
        lease.ticket = ticket
        with contextlib.suppress(RedisAway):
            await self._renew(lease, self._lease_ms)

    def sent(self, lease: Lease) -> None:
        """Tell those who were told of a limit that it holds the call no more, before it is the no of one whose time is up."""
        if lease.told and lease.has_news:
            self._renew(lease, self._lease_ms)

    async def _is_followed(self, lease: Lease) -> bool:
        time = await self._link.do("TIME")
        now_us = int(time[0]) * 1_000_000 + int(time[1])
        return int(await self._link.do("ZCOUNT", keys.audience(lease.name), now_us, "+inf")) > 0

    def _renew(self, lease: Lease, lease_ms: int) -> asyncio.Future[int]:
        lease.told = lease.holds
        return self._link.run(_RENEW, lease.keys[:2], [lease.token, lease_ms, lease.ticket, lease.told, lease.name])

    async def _give_up_stray(self, fingerprint: str, token: str) -> bool:
        if not self._strays.is_asked(fingerprint):  # we may be noted as followers, too
            self._send_leave(fingerprint)
        return await self._send_give_up(Lease(fingerprint, token)) >= 0

    async def keep(self) -> None:
        """Renew the leases of all flights that we lead, and give up what we lead by mistake. Run it as a task."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._strays.keep())
            group.create_task(self._keep_leading())
            group.create_task(self._tell())

    async def _tell(self) -> None:
        """Tell those who follow elsewhere what holds the calls that we lead, as it changes."""
        while True:
            await self._clock.sleep(min(self._lease_ms / 3000, _TELL_S))
            fresh = [lease for lease in self._led.values() if (lease.is_followed or lease.told) and lease.has_news]
            await asyncio.gather(*(self._renew(lease, self._lease_ms) for lease in fresh), return_exceptions=True)

    async def _keep_leading(self) -> None:
        while True:
            self._is_back.clear()
            await until_set(self._is_back, self._clock, self._lease_ms / 3000)
            renewals = [self._renew(lease, self._lease_ms) for lease in self._led.values() if not lease.is_ending]
            await asyncio.gather(*renewals, return_exceptions=True)
            for lease in self._led.values():
                if lease.flight and not lease.flight.waiting:  # those outside may have died without a word
                    self._flights.look_after(lease.flight)

    def _on_audience(self, name: bytes) -> None:
        lease, fingerprint = self._led.get(name.decode()), name.decode().removeprefix(name_of(""))
        flight = lease.flight if lease else None
        if lease is None or flight is None or lease.is_ending:
            # The reply by which we lead may be read after this; whoever follows nudges once.
            if self._strays.is_asked(fingerprint):
                self._early.add(name.decode())
            self._strays.suspect(fingerprint)
            return
        self._handover.publish(flight, lease.publication)
        if lease.has_news:
            self._renew(lease, self._lease_ms)
        if not flight.waiting:  # somebody may just have left who was the last
            self._flights.look_after(flight)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
