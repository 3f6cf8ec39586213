"""
One call's walk through the daemon: the page to read first.

    admission -> cache -> flight -> schedule -> upstream -> settle -> cache
     what is     known?   in the    reserve,    the API     actual    keep the
     asked       answer   air?      wait a                  use       answer
     (no I/O)    and go   join      turn
                             '-- failed: park in the queue, wait, schedule again

Hits and followers cost no budget: it is asked after the cache and inside the flight. Whatever a caller holds (a place in a
flight and, through it, a turn, a lease, a parked ticket) is given back when it leaves `answer`, whichever way it leaves.

    patience    how long a caller waits      replies     what it is given
    attempts    one attempt, from its turn to the kept answer
    parking     the wait in the queue        pursuit     calls that go on without their caller
"""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from headrace.attempts import Attempts
from headrace.cache.keeping import Keeping
from headrace.cache.tiered import Cache
from headrace.clock import Clock
from headrace.errors import AttemptFailed, Draining, HeadraceError, NotCached, OutOfTime, Refusal
from headrace.flight.flight import Flight, Landing, broken_off
from headrace.flight.flights import Flights
from headrace.flight.lease import Leases
from headrace.flight.role import Lease, NoLease, Recalled
from headrace.flight.stay import Stay
from headrace.flight.succession import pass_on, refuse_likewise
from headrace.model import Call, Reply, Source
from headrace.parking import Parking
from headrace.patience import in_time
from headrace.replying import Replies
from headrace.retry.policy import RetryPolicy, Tries


@dataclass(frozen=True, slots=True)
class FlowStats:
    """Whether new calls are refused, and the flights in the air."""

    is_draining: bool
    in_the_air: int
    waiting: int


class Flow:
    """The line that every call goes along."""

    def __init__(
        self,
        clock: Clock,
        cache: Cache,
        keeping: Keeping,
        flights: Flights,
        leases: Leases,
        attempts: Attempts,
        parking: Parking,
        policy: RetryPolicy,
        replies: Replies,
    ) -> None:
        self.is_draining = False
        self.replies = replies
        self._clock = clock
        self._cache = cache
        self._keeping = keeping
        self._flights = flights
        self._leases = leases
        self._attempts = attempts
        self._parking = parking
        self._policy = policy

    def __repr__(self) -> str:
        stats = self.stats()
        state = "draining" if stats.is_draining else "open"
        return f"<Flow [{state}, {stats.in_the_air} in the air, {stats.waiting} waiting]>"

    def stats(self) -> FlowStats:
        """Return its state now."""
        flights = self._flights.stats()
        return FlowStats(self.is_draining, flights.in_the_air, flights.waiting)

    def answer(self, call: Call, *, opens_s: float | None = None) -> AbstractAsyncContextManager[Reply]:
        """
        Answer a call. The reply is good while the context is open; leaving it early gives the call up.

        Raises a `Refusal` (ours, to this caller) or an `UpstreamError` (upstream's final word). *opens_s* is as in patience.py.
        """
        self.refuse_if_draining()
        return in_time(call, self.walk(call, is_live=call.stream), self._clock, self._attempts.answers.events, opens_s)

    def sharing(self, call: Call) -> Call:
        """Return the call with the bytes of an equal one that is in the air: see `Flights.sharing`."""
        return self._flights.sharing(call)

    def refuse_if_draining(self) -> None:
        """Raise `Draining` if no new calls are taken."""
        if self.is_draining:
            raise Draining("the daemon is draining; ask another one, or again in a moment", retry_after_s=1.0)

    # Cache, and flight.

    def walk(self, call: Call, *, is_live: bool) -> AbstractAsyncContextManager[Reply]:
        """Find a kept answer, or join the flight for this call, for what this caller is given; without any deadline."""
        return Stay(self._flights, lambda stay: self._find(call, stay, is_live))

    async def _find(self, call: Call, stay: Stay, is_live: bool) -> Reply:
        looked = self._clock.now()
        kept = await self.replies.kept(call)
        if call.trail is not None:
            call.trail.steps.append(("cache", looked, self._clock.now()))
        if kept is not None:
            return kept
        if call.cache.only_if_cached:
            raise NotCached("only-if-cached was asked, and there is no fresh answer")
        # no-store neither joins nor leads: that is how one asks for distinct samples.
        key = f"alone:{os.urandom(8).hex()}" if call.cache.no_store else call.fingerprint
        while True:
            member = stay.hold(self._flights.enter(key, call, self._fly, is_live=is_live))
            if reply := await self.replies.of_member(member):
                return reply
            stay.let_go()

    async def _fly(self, flight: Flight) -> Landing:
        """Recall what another host keeps, follow the process that leads, or lead; the flight's task."""
        if flight.key.startswith("alone:"):
            return await self._lead(flight, None)
        fresh_ms = self._keeping.fresh_ms(flight.lead().call)
        while True:
            try:
                outcome = await self._leases.fly(flight, fresh_ms, lambda lease: self._lead(flight, lease))
            except NoLease as away:
                if flight.is_open:
                    raise broken_off() from away
                return await self._lead(flight, None)
            if isinstance(outcome, Recalled):
                if landing := self._recalled(flight.lead().call, outcome):
                    return landing
                fresh_ms = -1  # broken, or hosts disagree about the ttl: do not recall it again
            elif isinstance(outcome.error, OutOfTime):
                await self._outlast(flight, outcome.error)
            else:
                if fresh_ms >= 0:
                    self._cache.take_in(flight.key, None)  # nothing was kept there
                return outcome

    def _recalled(self, call: Call, recalled: Recalled) -> Landing | None:
        entry = self._cache.take_in(call.fingerprint, recalled.raw)
        if entry is None or not self._keeping.is_fresh(entry, call.cache, self._clock.now()):
            return None
        return Landing(answer=entry.answer, source=Source.CACHE, attempts=0)

    async def _outlast(self, flight: Flight, word: OutOfTime) -> None:
        """Wait as long as upstream asked, with those members who have longer than the leader on the other host."""
        wait_s = word.retry_after_s or 0.0
        refuse_likewise(flight, flight.lead().call, word, self._clock.now())
        await self._clock.sleep(wait_s)

    # Schedule, upstream, settle: again and again, while that helps.

    async def _lead(self, flight: Flight, lease: Lease | None) -> Landing:
        """
        Ask upstream for the member that leads, until there is an answer or upstream's final word.

        A refusal is that member's own. Then the next one leads, with its own budget and deadline, under the same lease.
        """
        tries = Tries(self._policy, self._clock)
        # A leader before us, now gone, had parked the call; that goes on, so nobody need call again.
        if lease is not None and lease.ticket and (landing := await self._adopt(flight, lease.ticket)):
            return landing
        while True:
            leader, tries.made = flight.lead(), flight.attempts
            try:
                if tries.has_failed and (landing := await self._wait_again(leader.call, flight, lease, tries)):
                    return landing
                return await self._attempts.make(leader.call, flight, lease, number=tries.made + 1)
            except AttemptFailed as failure:
                tries.failed(failure)
                flight.rewind(failure.error)
            except (Refusal, OutOfTime) as no:
                if flight.is_open:
                    raise broken_off() from no
                if isinstance(no, OutOfTime):
                    tries.must_wait(no)
                pass_on(flight, leader, no, self._clock.now())

    async def _wait_again(self, call: Call, flight: Flight, lease: Lease | None, tries: Tries) -> Landing | None:
        """Wait until the next attempt is due: parked in the queue, it is made by some worker; by None it is ours to make."""
        due = tries.due(call)
        if ticket := await self._parking.park(call, flight, tries, due):
            return await self._parking.wait_parked(call, flight, lease, ticket, tries.last_word(due), due)
        await self._clock.sleep(due - self._clock.now())
        return None

    async def _adopt(self, flight: Flight, ticket: str) -> Landing | None:
        """Wait for the ticket of a leader that is gone. If it fails, ask anew, unless callers here have had some of it."""
        flight.is_ticket_anothers = True
        try:
            landing = await self._parking.wait(flight, ticket)
        except HeadraceError as error:
            if flight.is_open:
                raise broken_off() from error
        else:
            if not landing.answer or flight.is_open or landing.answer.created >= flight.lead().call.arrival:
                return landing  # else it had ended before anybody here asked: that is an old answer, and no flight in the air
        flight.ticket, flight.is_ticket_anothers = "", False
        return None
