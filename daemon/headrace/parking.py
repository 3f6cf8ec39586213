"""
A call that waits in the queue: it is parked, and whoever shares its flight waits for its ticket.

Some worker makes the next attempts (pursuit.py); what they say reaches us event by event, and the ticket's end is the
flight's landing. Callers notice nothing of this but time, since nothing is sent to them before the first content.
"""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from headrace import forms, observe
from headrace.clock import Clock
from headrace.crowd import Crowd
from headrace.disconnect import OnDisconnect
from headrace.errors import BrokenStream, BudgetExhausted, DeadlinePassed, OutOfTime, QueueFull, RedisAway
from headrace.flight.flight import Flight, Landing, broken_off
from headrace.flight.handover import Handover
from headrace.flight.lease import Leases
from headrace.flight.role import Lease
from headrace.model import Answer, Call, Form, Source
from headrace.retry.policy import RETRY_BUDGET, Tries
from headrace.retry.ticket import Ticket
from headrace.retry.tickets import Tickets
from headrace.trails import Trails

log = structlog.get_logger()

_COME_BACK_S = 2.0  # how long those may take who go on waiting for a ticket


class Parking:
    """Parks calls and waits for tickets."""

    def __init__(
        self, clock: Clock, tickets: Tickets, leases: Leases, handover: Handover, crowd: Crowd, trails: Trails
    ) -> None:
        self._clock = clock
        self._tickets = tickets
        self._leases = leases
        self._handover = handover
        self._crowd = crowd
        self._trails = trails

    def __repr__(self) -> str:
        return f"<Parking {self._tickets!r}>"

    async def park(self, call: Call, flight: Flight, tries: Tries, due: float) -> str:
        """Queue a call for its next attempt, and return its ticket; "" if the call has to wait right here."""
        if call.credential:
            return ""  # a caller's own key goes into no queue: such a call dies with its RPC
        try:
            ticket = await self._tickets.park(call, attempts=tries.made, broken=tries.broken, due=due)
        except RedisAway:
            return ""
        self._trails.tell(ticket, flight.trail.tries)
        log.info(observe.CALL_PARKED, ticket=ticket, id=call.id, attempts=tries.made, due_s=round(due - self._clock.now(), 3))
        return ticket

    async def wait_parked(
        self, call: Call, flight: Flight, lease: Lease | None, ticket: str, last_word: OutOfTime, due: float
    ) -> Landing:
        """
        Wait for the ticket of a call that was just parked; whoever leads after us is told of it.

        Raises *last_word*, upstream's on the latest attempt, if the next has not begun by the moment past which none may, or
        may not begin since retries are at their share.
        """
        try:
            with self._crowd.waiting("parked", size=len(call.body), caller=call.owner.text):
                if lease is not None:
                    await self._leases.note_ticket(lease, ticket)
                return await self._wait_in_time(call, flight, ticket, last_word, due)
        except BudgetExhausted as error:
            if error.metadata.get("limit") != RETRY_BUDGET:
                raise
            last_word.retry_after_s = error.retry_after_s
            raise last_word from error
        except (asyncio.CancelledError, QueueFull, BrokenStream) as error:
            # Nobody waits any more. A ticket that stands for itself goes on, unless its callers said that it ends with them; so
            # does one for which somebody comes back who has had nothing of the stream that broke off.
            if not call.ticket or call.on_disconnect is OnDisconnect.CANCEL:
                is_left = isinstance(error, BrokenStream) and lease is not None
                self._tickets.unwanted.cancel_soon(ticket, in_s=_COME_BACK_S if is_left else 0.0)
            raise

    async def _wait_in_time(self, call: Call, flight: Flight, ticket: str, last_word: OutOfTime, due: float) -> Landing:
        waiting = asyncio.create_task(self._follow(flight, ticket))
        try:
            with contextlib.suppress(TimeoutError):
                async with self._clock.timeout(call.begin_by - self._clock.now()):
                    return await asyncio.shield(waiting)
            last_word.retry_after_s = max(0.0, due - self._clock.now())
            if await self._end_queued(ticket, last_word):
                raise last_word
            return await waiting
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    async def _end_queued(self, ticket: str, last_word: OutOfTime) -> bool:
        """End a ticket whose next attempt comes too late, unless it is being made by now; return whether it was not."""
        try:
            return await self._tickets.finish(ticket, error=last_word, condition="queued")
        except RedisAway:
            return False

    async def wait(self, flight: Flight, ticket: str) -> Landing:
        """
        Wait for a ticket to end, and follow its attempts' events as they come.

        Raises the error that it ends in, and `BrokenStream` when callers here have had some of an attempt that another one
        has taken the place of.
        """
        # What is said of one that has ended is its answer, and not what is left of an attempt that died.
        with contextlib.suppress(RedisAway):
            found = await self._tickets.wait(ticket, 0.0)
            if found.state.is_terminal:
                flight.ticket = ticket
                return await self._landing(flight, found)
        return await self._follow(flight, ticket)

    async def _follow(self, flight: Flight, ticket: str) -> Landing:
        flight.ticket = ticket
        following = asyncio.create_task(self._handover.follow(flight, ticket))
        ending = asyncio.create_task(self._tickets.wait(ticket, heed=flight.trail.hear))
        try:
            await asyncio.wait((following, ending), return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()  # it ends by an error only
            ended = await ending
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            return await self._landing(flight, ended)
        finally:
            following.cancel()
            ending.cancel()
            await asyncio.gather(following, ending, return_exceptions=True)

    async def _landing(self, flight: Flight, ended: Ticket) -> Landing:
        flight.attempts = ended.attempts
        await self._trails.learn(ended.id, flight.trail)
        if ended.error is not None:
            raise ended.error
        if ended.answer is None:
            raise DeadlinePassed(f"the ticket ended as {ended.state}")
        if flight.is_open:
            await _complete(flight, ended.answer)
        source = Source(ended.source or Source.UPSTREAM)
        return Landing(ended.answer, source=source, attempts=ended.attempts, ticket=ended.id)


async def _complete(flight: Flight, answer: Answer) -> None:
    """Append what callers here lack of a streamed answer; raises `BrokenStream` if what they have had is of another one."""
    if answer.form is not Form.EVENTS:
        raise broken_off()
    had, number = len(flight.events), 0
    said = flight.events.since(0)
    for piece in forms.by_pieces(answer.payload):
        if number:
            await asyncio.sleep(0)  # others have their turn
        for event in piece:
            if number >= had:
                flight.append(event, is_content=True)
            elif event.raw != next(said).raw:
                raise broken_off()
            number += 1
    if number < had:
        raise broken_off()
