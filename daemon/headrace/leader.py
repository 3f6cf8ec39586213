"""
Leading a flight: the second half of the line, from `schedule` to the kept answer, and what happens when it fails.

The first attempt is made here, inline. When it fails in a way that a repeat can mend, the call is parked: a ticket with a due
time goes into the durable queue, some worker makes the next attempts (runner.py), and the leader waits for the ticket to end.
Followers notice nothing of this; nor does the caller, since nothing is sent to it before the first content.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from dataclasses import dataclass
from typing import Any

import structlog

from headrace import forms, observe
from headrace.cache import status
from headrace.cache.entry import Entry
from headrace.cache.policy import no_keep_answer
from headrace.cache.tiered import Cache
from headrace.clock import Clock
from headrace.errors import AttemptFailed, BrokenStream, DeadlinePassed, HeadraceError, RedisAway
from headrace.flight.flights import Flight, Landing
from headrace.flight.lease import Lease, Leases, NoLease, Recalled
from headrace.model import Answer, Call, Form, Source
from headrace.retry.policy import RetryPolicy
from headrace.retry.tickets import Tickets
from headrace.schedule import Schedule
from headrace.upstream.client import Upstream

log = structlog.get_logger()

_EARLY_S = 0.005  # by which the loop's timers, that count in whole milliseconds, may ring before the clock's time


@dataclass(frozen=True, slots=True)
class Keeping:
    """How long answers are kept: fresh for `ttl_s`, then `stale_s` more for stale-if-error only."""

    ttl_s: float
    stale_s: float


class Leader:
    """Flies flights: alone, or as the one process that leads."""

    def __init__(
        self,
        clock: Clock,
        cache: Cache,
        leases: Leases,
        schedule: Schedule,
        upstream: Upstream,
        policy: RetryPolicy,
        tickets: Tickets,
        keeping: Keeping,
    ) -> None:
        self._clock = clock
        self._cache = cache
        self._leases = leases
        self._schedule = schedule
        self._upstream = upstream
        self._policy = policy
        self._tickets = tickets
        self._keeping = keeping

    # Flying.

    async def fly(self, call: Call, flight: Flight) -> Landing:
        """Fly a call: recall an answer kept by another host, follow the flight of another process, or lead."""
        if flight.key != call.fingerprint:
            return await self._lead(call, flight, None, "")

        fresh_ms = self._fresh_ms(call)
        while True:
            try:
                outcome = await self._leases.fly(
                    flight, fresh_ms, lambda lease, ticket: self._lead(call, flight, lease, ticket)
                )
            except NoLease as away:
                if flight.is_open:
                    raise BrokenStream("the stream broke off", status=502) from away
                return await self._lead(call, flight, None, "")
            if not isinstance(outcome, Recalled):
                return outcome
            entry = self._cache.take_in(outcome.raw)
            if entry is not None and self.is_fresh(entry, call):
                return Landing(answer=entry.answer, source=Source.CACHE, attempts=0, stored=True)
            fresh_ms = -1  # broken, or hosts disagree about the ttl: do not recall it again

    def is_fresh(self, entry: Entry, call: Call) -> bool:
        """Return whether a kept answer is fresh enough for this call."""
        now, max_age_s = self._clock.now(), call.cache.max_age_s
        return now < entry.fresh_until and (max_age_s is None or now - entry.answer.created <= max_age_s)

    def _fresh_ms(self, call: Call) -> int:
        # What an entry's key must have left to live to be fresh: its age is told by that alone, without reading it.
        if call.cache.no_cache or call.no_keep or not self._cache.is_enabled:
            return -1
        ttl_s, stale_s = self._ttl_s(call), self._keeping.stale_s
        return int(1000 * (stale_s + max(0.0, ttl_s - (ttl_s if call.cache.max_age_s is None else call.cache.max_age_s))))

    async def _lead(self, call: Call, flight: Flight, lease: Lease | None, ticket: str) -> Landing:
        if ticket and (landing := await self._adopt(flight, ticket)):
            return landing
        try:
            return await self.attempt(call, flight, lease, number=1)
        except AttemptFailed as failure:
            return await self._retry(call, flight, lease, failure)

    async def _adopt(self, flight: Flight, ticket: str) -> Landing | None:
        # A leader before us parked this call and died; its ticket goes on, so nobody need call again.
        with contextlib.suppress(HeadraceError):
            return await self.wait(flight, ticket)
        return None

    # One attempt.

    async def attempt(self, call: Call, flight: Flight, lease: Lease | None, *, number: int) -> Landing:
        """
        Ask upstream once, within the budgets.

        Raises `AttemptFailed`, `BrokenStream` when upstream broke off after its first content, and refusals.
        """
        async with self._schedule.turn(call, f"{os.urandom(8).hex()}-{number}") as turn:
            flight.attempts = number
            turn.sent()
            try:
                answer = await self._ask(call, flight)
            except AttemptFailed as failure:
                await turn.fail(failure.failure, failure.sent)
                raise self._as_seen(failure, call, flight) from failure
            observe.UPSTREAM_TOKENS.inc("input", by=answer.usage.metered_input_tokens)
            observe.UPSTREAM_TOKENS.inc("output", by=answer.usage.output_tokens)
            landing = Landing(answer, attempts=number, ticket=flight.ticket, stored=self._may_keep(call, answer))
            # One round trip: the three leave in the same turn of the loop (tasks created first, so that they are in time
            # for the batch). The entry is kept before the flight lands, so no second call slips in between.
            sent: list[asyncio.Task[Any]] = []
            if landing.stored:
                sent.append(asyncio.create_task(self._cache.put(self._entry(call, answer))))
            if lease is not None:
                sent.append(asyncio.create_task(self._leases.land(flight, lease, landing)))
            await turn.settle(answer.usage)
            for task in sent:
                await task
            return landing

    async def _ask(self, call: Call, flight: Flight) -> Answer:
        if not call.stream:
            return await self._upstream.ask(call)
        async with self._upstream.stream(call) as stream:
            flight.request_id = stream.request_id
            is_content = forms.dialect(call.endpoint).is_content
            async for event in stream:
                flight.append(event, is_content=is_content(event))
        return forms.answer_of_events(
            flight.events, created=self._clock.now(), request_id=stream.request_id, endpoint=call.endpoint
        )

    def _as_seen(self, failure: AttemptFailed, call: Call, flight: Flight) -> HeadraceError:
        if flight.is_open:
            # After the first content a retry would be seen: for whoever has had some of it, the failure is final.
            error = failure.error
            return BrokenStream(error.message, status=error.status, type=error.type, body=error.body, headers=error.headers)
        if failure.failure.counts and self._clock.now() >= call.deadline - _EARLY_S:
            # Upstream was given no more time than the leader had: that is its own no, and followers may have longer.
            return DeadlinePassed("the call's deadline passed before upstream had answered")
        return failure

    def _may_keep(self, call: Call, answer: Answer) -> bool:
        if not self._cache.is_enabled or call.cache.no_store or call.no_keep:
            return False
        try:
            return not no_keep_answer(call.endpoint, answer)
        except ValueError:  # nested past reason
            return False

    def _entry(self, call: Call, answer: Answer) -> Entry:
        fresh_until = answer.created + self._ttl_s(call)
        return Entry(
            fingerprint=call.fingerprint,
            answer=answer,
            scope=call.scope,
            model=call.model,
            fresh_until=fresh_until,
            keep_until=fresh_until + self._keeping.stale_s,
        )

    def _ttl_s(self, call: Call) -> float:
        return self._keeping.ttl_s if call.caller.cache_ttl_s is None else call.caller.cache_ttl_s

    # After a failed attempt.

    async def _retry(self, call: Call, flight: Flight, lease: Lease | None, failure: AttemptFailed) -> Landing:
        attempts, broken = 1, 0
        while True:
            broken += failure.failure.counts
            due = self._policy.next_due(
                failure, attempt=attempts, broken=broken, deadline=call.deadline, now=self._clock.now(), random=random.random
            )
            flight.rewind(failure.error)
            if ticket := await self._park(call, attempts, broken, due):
                return await self._wait_parked(call, flight, lease, ticket)
            await self._clock.sleep(due - self._clock.now())
            attempts += 1
            try:
                return await self.attempt(call, flight, lease, number=attempts)
            except AttemptFailed as again:
                failure = again

    async def _park(self, call: Call, attempts: int, broken: int, due: float) -> str:
        """Return the ticket, or "" if the call has to wait right here."""
        if call.credential:
            return ""  # a caller's own key goes into no queue: such a call dies with its RPC
        try:
            ticket = await self._tickets.park(call, attempts=attempts, broken=broken, due=due)
        except RedisAway:
            return ""
        log.info(observe.CALL_PARKED, ticket=ticket, attempts=attempts, due_s=round(due - self._clock.now(), 3))
        return ticket

    async def _wait_parked(self, call: Call, flight: Flight, lease: Lease | None, ticket: str) -> Landing:
        try:
            if lease is not None:
                await self._leases.note_ticket(lease, ticket)
            return await self.wait(flight, ticket)
        except asyncio.CancelledError:
            # Nobody waits any more. A ticket that stands for itself (submitted, or with an idempotency key) goes on.
            if not call.ticket:
                self._tickets.cancel_soon(ticket)
            raise

    async def wait(self, flight: Flight, ticket: str) -> Landing:
        """Wait for a ticket to end, and follow its attempts' events as they come."""
        flight.ticket = ticket
        async with self._leases.following(flight, ticket):
            ended = await self._tickets.wait(ticket)
        if ended.error is not None:
            raise ended.error
        if ended.answer is None:
            raise DeadlinePassed(f"the ticket ended as {ended.state}")
        if ended.answer.form is Form.EVENTS and flight.is_open:
            self._complete(flight, ended.answer)
        source = Source(ended.source or Source.UPSTREAM)
        return Landing(answer=ended.answer, source=source, attempts=ended.attempts, ticket=ticket)

    def _complete(self, flight: Flight, answer: Answer) -> None:
        events, seen = forms.event_list(answer), len(flight.events)
        if [event.raw for event in events[:seen]] != [event.raw for event in flight.events]:
            # A worker stopped in mid-stream and another one asked anew: this is the end of another stream.
            raise BrokenStream("the stream broke off", status=502)
        for event in events[seen:]:
            flight.append(event, is_content=True)

    def cache_status(self, call: Call, landing: Landing | None, *, is_shared: bool) -> str:
        """Return the `Cache-Status` of an answer that came from a flight."""
        if landing is not None and landing.source in (Source.CACHE, Source.STALE) and landing.answer is not None:
            fresh_until = landing.answer.created + self._ttl_s(call)
            return status.hit(call.fingerprint, fresh_until - self._clock.now())
        return status.forwarded(call, is_shared=is_shared, is_stored=bool(landing and landing.stored), detail=call.no_keep)
