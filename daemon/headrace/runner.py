"""
What a worker does with a ticket: one attempt, and then the ticket has either ended or a due time for the next.

A parked call comes back into the line at `schedule`; the leader that parked it still holds the flight. A submitted one has not
been anywhere yet, so it goes along the whole line, in a task of its own: while it follows somebody else's flight, or waits
for its own retries, it must not hold a place in the worker that those retries need.
"""

from __future__ import annotations

import asyncio
import random

import structlog

from headrace import observe
from headrace.clock import Clock
from headrace.deadline import until
from headrace.errors import AttemptFailed, BrokenStream, Canceled, Failure, HeadraceError, QueueFull, RedisAway
from headrace.flight.flights import Flight
from headrace.flight.lease import Leases
from headrace.flow import Flow
from headrace.leader import Leader
from headrace.model import Call
from headrace.retry.policy import RetryPolicy
from headrace.retry.ticket import Ticket
from headrace.retry.tickets import Tickets

log = structlog.get_logger()

_COME_BACK_S = 2.0  # to a queue that was full
_TELL_AGAIN_S = 0.5  # Redis, when it was away


class Runner:
    """Makes the attempts of tickets; called by the worker."""

    def __init__(self, clock: Clock, flow: Flow, leases: Leases, leader: Leader, policy: RetryPolicy, tickets: Tickets) -> None:
        self._clock = clock
        self._flow = flow
        self._leases = leases
        self._leader = leader
        self._policy = policy
        self._tickets = tickets
        self._pursuits: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Runner [{len(self._pursuits)} pursued]>"

    async def run(self, ticket_id: str, attempt: int) -> None:
        """Make the attempt that the ticket awaits; nothing happens if it awaits another, or has ended."""
        ticket = await self._tickets.start(ticket_id, attempt)
        if ticket is None or ticket.call is None:
            return
        if ticket.is_submitted and attempt == 1:
            pursuit = asyncio.create_task(self._pursue(ticket.call))
            self._pursuits.add(pursuit)
            pursuit.add_done_callback(self._pursuits.discard)
        else:
            await self._attempt(ticket, ticket.call, attempt)

    async def _pursue(self, call: Call) -> None:
        try:
            await self._flow.pursue(call)
        except (QueueFull, RedisAway):
            # Not the call's fault; the ticket is still ours, and its first attempt is not made.
            await self._park(call, attempts=0, broken=0, due=self._come_back())
        except Exception as error:
            log.exception(observe.CALL_FAILED, edge="worker", kind=type(error).__name__)

    async def _attempt(self, ticket: Ticket, call: Call, attempt: int) -> None:
        flight = Flight(ticket.id)
        try:
            async with (
                self._tickets.held(ticket.id),
                until(call.deadline, self._clock),
                self._leases.publishing(flight, ticket.id),
            ):
                landing = await self._leader.attempt(call, flight, None, number=attempt)
        except AttemptFailed as failure:
            await self._again(ticket, call, attempt, failure)
        except BrokenStream as broken:
            if ticket.is_submitted:  # nobody has seen any of it
                await self._again(ticket, call, attempt, AttemptFailed(Failure.BROKEN, broken))
            else:
                await self._tickets.finish(ticket.id, error=broken)
        except (QueueFull, RedisAway):
            await self._park(call, attempts=attempt - 1, broken=ticket.broken, due=self._come_back())
        except Canceled:
            log.debug(observe.TICKET_LOST, ticket=ticket.id)  # it has ended, or is in other hands
        except HeadraceError as error:
            await self._tickets.finish(ticket.id, error=error)
        except Exception:  # the fault is ours; the ticket would stay in our hands until its deadline
            await self._tickets.finish(ticket.id, error=HeadraceError("internal error"))
            raise
        else:
            await self._tickets.finish(ticket.id, answer=landing.answer, attempts=attempt)

    async def _again(self, ticket: Ticket, call: Call, attempt: int, failure: AttemptFailed) -> None:
        broken = ticket.broken + failure.failure.counts
        try:
            due = self._policy.next_due(
                failure, attempt=attempt, broken=broken, deadline=call.deadline, now=self._clock.now(), random=random.random
            )
        except HeadraceError as final:
            await self._tickets.finish(ticket.id, error=final)
        else:
            await self._park(call, attempts=attempt, broken=broken, due=due)

    async def _park(self, call: Call, *, attempts: int, broken: int, due: float) -> None:
        # The ticket is in our hands: until Redis hears that it is not, nobody else looks at it.
        while True:
            try:
                await self._tickets.park(call, attempts=attempts, broken=broken, due=due)
            except RedisAway:
                await self._clock.sleep(_TELL_AGAIN_S)
            else:
                return

    def _come_back(self) -> float:
        return self._clock.now() + _COME_BACK_S * (0.5 + random.random())  # noqa: S311  # jitter, not a secret

    async def close(self) -> None:
        """Give up what is being pursued; the tickets go back into the queue by `Tickets.leave`."""
        for pursuit in self._pursuits:
            pursuit.cancel()
        await asyncio.gather(*self._pursuits, return_exceptions=True)
