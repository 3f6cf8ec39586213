"""
One key, one answer: calls that come with an idempotency key, or are to go on without their caller.

The first one claims the key with a ticket, and goes along the whole line for all who come with it; it goes on when its caller
leaves, unless all of them said that it should not (disconnect.py). Others wait for the ticket, on whatever host they are. What
is handed out is what the ticket ended by: whoever has an answer and cannot know yet whether it is the first waits for that, and
whoever lost the ticket waits for it as the others do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import replace

from headrace.answers import Answers
from headrace.clock import Clock
from headrace.deadline import no_room
from headrace.disconnect import OnDisconnect
from headrace.errors import Abandoned, Canceled, DeadlinePassed, HeadraceError, OutOfTime, RedisAway, Refusal, TicketNotFound
from headrace.flight.flight import Flight, Landing, Member, broken_off
from headrace.flight.flights import Flights
from headrace.flight.succession import pass_on, refuse_likewise
from headrace.flow import Flow
from headrace.model import Call, Reply
from headrace.parking import Parking
from headrace.patience import in_time
from headrace.pursuit import Pursuits, conflict, unrecorded
from headrace.retry.ticket import Claimed, Conflict, Same
from headrace.retry.tickets import Tickets


class Once:
    """Answers calls that have a ticket from the beginning."""

    def __init__(
        self,
        clock: Clock,
        flow: Flow,
        flights: Flights,
        parking: Parking,
        tickets: Tickets,
        pursuits: Pursuits,
        answers: Answers,
    ) -> None:
        self._clock = clock
        self._flow = flow
        self._flights = flights
        self._parking = parking
        self._tickets = tickets
        self._pursuits = pursuits
        self._answers = answers

    def __repr__(self) -> str:
        return f"<Once {self._tickets!r}>"

    @contextlib.asynccontextmanager
    async def answer(self, call: Call, *, opens_s: float | None = None) -> AsyncIterator[Reply]:
        """Answer a call that has a ticket, as `Flow.answer` does: all who come with its idempotency key get the same answer."""
        self._flow.refuse_if_draining()
        try:
            async with in_time(call, self._join_once(call), self._clock, self._answers.events, opens_s) as reply:
                yield reply
        except DeadlinePassed as late:
            if not self._tickets.is_cut_off:
                raise
            raise unrecorded() from late

    @contextlib.asynccontextmanager
    async def _join_once(self, call: Call) -> AsyncIterator[Reply]:
        """Join those in this process who came with the same key and call; the one that leads claims the key."""
        name = f"={call.idempotency_key}" if call.idempotency_key else os.urandom(8).hex()  # without a key nobody can join it
        key = f"once:{call.owner.text}:{call.fingerprint}:{name}"
        while True:
            with self._flights.join(key, call, self._fly_once, is_live=call.stream) as member:
                member.flight.goes_on |= call.goes_on
                if reply := await self._reply_to(member):
                    yield reply
                    return

    async def _reply_to(self, member: Member) -> Reply | None:
        """As `Replies.of_member`; whom Redis, or a limit elsewhere, keeps waiting is told so while it still listens."""
        with contextlib.suppress(TimeoutError):
            async with self._clock.timeout(member.call.begin_by - self._clock.now()):
                return await self._flow.replies.of_member(member)
        if self._tickets.is_cut_off:
            raise unrecorded()
        trail = member.call.trail
        if trail is not None and trail.told and not member.is_served and (limit := trail.stopped_by):
            raise no_room(limit)
        return await self._flow.replies.of_member(member)

    async def _fly_once(self, flight: Flight) -> Landing:
        """Claim the key and answer for all, or wait for the ticket of whoever claimed it before; the flight's task."""
        while True:
            flight.trail.hear("")  # what held another's call holds none that is made here
            leader = flight.lead()
            if leader.call.on_disconnect is OnDisconnect.CONTINUE:
                flight.outside = _somebody  # it goes on from the very beginning
            try:
                claim = await self._tickets.claim(leader.call)
            except Refusal as no:
                pass_on(flight, leader, no, self._clock.now())
                continue
            if isinstance(claim, Conflict):
                _refuse_all(flight, conflict(leader.call.idempotency_key))
            elif isinstance(claim, Same):
                flight.outside = _nobody
                if landing := await self._wait_for(flight, claim):
                    return landing
            else:
                try:
                    return await self._answer_for_all(leader.call, claim, flight)
                except Canceled:
                    # It was canceled, or its hold was lost and it goes on in other hands: its ticket says which.
                    if landing := await self._wait_for(flight, Same(claim.ticket)):
                        return landing
                except (Refusal, OutOfTime) as no:
                    if flight.is_open:
                        raise (no if isinstance(no, RedisAway) else broken_off()) from no
                    pass_on(flight, leader, no, self._clock.now())

    async def _wait_for(self, flight: Flight, claim: Same) -> Landing | None:
        """Wait for the ticket that the key stands for; None if that ended by another's own no: then the key is free again."""
        try:
            return await self._parking.wait(flight, claim.ticket)
        except Abandoned:
            return None  # its caller left before anybody else had come
        except (Canceled, TicketNotFound) as error:
            _refuse_all(flight, error)
        except (Refusal, OutOfTime) as no:  # the first one's own: its budget, its time
            if flight.is_open:
                raise broken_off() from no
            if isinstance(no, OutOfTime):
                refuse_likewise(flight, flight.lead().call, no, self._clock.now())
                await self._clock.sleep(no.retry_after_s or 0.0)
        return None

    async def _answer_for_all(self, call: Call, claim: Claimed, flight: Flight) -> Landing:
        """Answer the call that claimed a key, whether its caller stays or not."""
        flight.ticket = claim.ticket
        flight.outside = lambda: self._is_sought(flight)
        try:
            return await self._pursuits.answer_for_ticket(
                replace(call, idempotency_key="", ticket=claim.ticket, trail=flight.trail), flight
            )
        except asyncio.CancelledError:
            if not flight.waiting and not flight.goes_on:  # they have all gone, and wanted it to end with them
                self._tickets.let_go(claim.ticket)
            raise
        finally:
            flight.outside = _nobody

    async def _is_sought(self, flight: Flight) -> bool:
        return flight.goes_on or await self._tickets.unwanted.has_company(flight.ticket)


def _refuse_all(flight: Flight, no: HeadraceError) -> None:
    """Tell a no to all members, for it holds for each of them; it is raised when the last one has heard it."""
    for member in flight.members:
        flight.refuse(member, no.again())
    raise no


async def _somebody() -> bool:
    return True


async def _nobody() -> bool:
    return False
