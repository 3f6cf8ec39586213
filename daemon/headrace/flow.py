"""
One call's walk through the daemon: the page to read first.

    admission -> cache -> flight -> schedule -> upstream -> settle -> cache
     what is     known?   in the    reserve,    the API     actual    keep the
     asked       answer   air?      wait a                  use       answer
     (no I/O)    and go   join      turn
                          '-------------- leader.py ------------------------'

Hits and followers cost no budget: it is asked after the cache and inside the flight. Whatever a caller holds (a place aboard
a flight and, through it, a turn, a lease, a parked ticket) is given back when it leaves `answer`, whichever way it leaves.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from headrace import forms
from headrace.cache import status
from headrace.cache.entry import Entry
from headrace.cache.tiered import Cache
from headrace.clock import Clock
from headrace.deadline import until
from headrace.errors import (
    BrokenStream,
    Canceled,
    Draining,
    HeadraceError,
    IdempotencyConflict,
    InvalidCall,
    NotCached,
    OutOfTime,
    QueueFull,
    RedisAway,
    Refusal,
    TicketNotFound,
    UpstreamError,
)
from headrace.flight.flights import Flight, Flights, Fly, Landing
from headrace.leader import Leader
from headrace.model import Answer, Call, Caller, Event, Lane, Reply, Source
from headrace.retry.ticket import Ticket
from headrace.retry.tickets import Claimed, Conflict, Same, Tickets

_MEMO = 65_536  # digests remembered; about 300 bytes each


@dataclass(slots=True)
class Seen:
    """What the bytes of an earlier call asked; not frozen, since that would triple what it costs to remember a call."""

    fingerprint: str
    caller: Caller
    model: str
    lane: Lane
    endpoint: str
    stream: bool
    max_age_s: float | None


@dataclass(slots=True)
class Hit:
    """A kept answer that may be given as it stands, to a call that was seen before."""

    entry: Entry
    age_s: float
    seen: Seen


class Flow:
    """The line that every call goes along."""

    def __init__(self, clock: Clock, cache: Cache, flights: Flights, leader: Leader, tickets: Tickets) -> None:
        self.cache = cache
        self.tickets = tickets
        self.is_draining = False
        self._clock = clock
        self._flights = flights
        self._leader = leader
        # By the digest of a call's raw bytes: a repeat is found without parsing it.
        self._memo: OrderedDict[bytes, Seen] = OrderedDict()

    def __repr__(self) -> str:
        state = "draining" if self.is_draining else "open"
        return f"<Flow [{state}, {len(self._memo)} remembered] {self._flights!r}>"

    # The hot path: no I/O, no parsing, no locks.

    def glance(self, digest: bytes) -> Hit | None:
        """Return the fresh answer to the very bytes of this digest, if it lies in memory."""
        seen = self._memo.get(digest)
        if seen is None or self.is_draining:
            return None
        entry = self.cache.glance(seen.fingerprint)
        if entry is None:
            return None
        now = self._clock.now()
        age_s = max(0.0, now - entry.answer.created)
        is_fresh = now < entry.fresh_until and (seen.max_age_s is None or age_s <= seen.max_age_s)
        return Hit(entry, age_s, seen) if is_fresh else None

    def remember(self, digest: bytes, call: Call) -> None:
        """Remember what these bytes ask, unless they ask for more than a look-up."""
        asks = call.cache
        if call.idempotency_key or asks.no_store or asks.no_cache or call.no_keep:
            return
        self._memo[digest] = Seen(
            call.fingerprint, call.caller, call.model, call.lane, call.endpoint, call.stream, asks.max_age_s
        )
        if len(self._memo) > _MEMO:
            self._memo.popitem(last=False)

    def forget_seen(self) -> None:
        """Forget what bytes ask: who asked them is configured otherwise now."""
        self._memo.clear()

    # The whole line.

    @contextlib.asynccontextmanager
    async def answer(self, call: Call) -> AsyncIterator[Reply]:
        """
        Answer a call. The reply is good while the context is open; leaving it early gives the call up.

        Raises a `Refusal` (ours, to this caller) or an `UpstreamError` (upstream's final word).
        """
        if self.is_draining:
            raise draining()
        async with until(call.deadline, self._clock), contextlib.AsyncExitStack() as aboard:
            yield await (self._once(call, aboard) if call.idempotency_key else self._answer(call, aboard, live=call.stream))

    async def _answer(self, call: Call, aboard: contextlib.AsyncExitStack, *, live: bool) -> Reply:
        if reply := await self._kept(call):
            return reply
        if call.cache.only_if_cached:
            raise NotCached("only-if-cached was asked, and there is no fresh answer")
        # no-store neither joins nor leads: that is how one asks for distinct samples.
        key = f"alone:{os.urandom(8).hex()}" if call.cache.no_store else call.fingerprint
        return await self._share(call, aboard, key, lambda flight: self._leader.fly(call, flight), live=live)

    async def _kept(self, call: Call) -> Reply | None:
        asks = call.cache
        if asks.no_store or asks.no_cache or call.no_keep:
            return None
        # Shared with other hosts is one more place to look, but asking there is part of flying, unless there is no flight.
        look = self.cache.far if asks.only_if_cached else self.cache.near
        entry = await look(call.fingerprint)
        if entry is None or not self._leader.is_fresh(entry, call):
            return None
        return self._reply_kept(entry, Source.CACHE)

    async def _share(self, call: Call, aboard: contextlib.AsyncExitStack, key: str, fly: Fly, *, live: bool) -> Reply:
        while True:
            flight, leads = aboard.enter_context(self._flights.board(key, fly))
            try:
                reply = await self._ride(call, flight, leads, live=live)
                if leads or self._accepts(call, reply):
                    return reply
            except BrokenStream:
                if live:
                    raise  # some of it may have been seen; those who have had nothing of it ask again
            except Refusal:
                if leads:
                    raise  # this no was to us; the others board again, and one of them leads
            except UpstreamError as error:
                if stale := await self._stale(call, error):
                    return stale
                await self._outlast(call, error)

    async def _ride(self, call: Call, flight: Flight, leads: bool, *, live: bool) -> Reply:
        setback: HeadraceError | None = None
        while flight.landing is None and not (live and flight.is_open):
            if flight.setback not in (None, setback):
                setback = flight.setback
                if stale := await self._stale(call, setback):
                    return stale
                continue  # the flight went on while we looked
            await flight.changed()
        if flight.landing is not None and flight.landing.error is not None:
            raise flight.landing.error
        return self._reply(call, flight, leads)

    def _accepts(self, call: Call, reply: Reply) -> bool:
        # A flight that we joined may have found a kept answer, which was good enough for whoever led it.
        asks = call.cache
        is_kept = reply.source in (Source.CACHE, Source.STALE)
        return not is_kept or not (asks.no_cache or (asks.max_age_s is not None and reply.age_s > asks.max_age_s))

    async def _outlast(self, call: Call, error: UpstreamError) -> None:
        # Raise it, unless it only says that whoever led had no time to ask again, and this call has.
        wait_s = error.retry_after_s or 0.0
        if not isinstance(error, OutOfTime) or self._clock.now() + wait_s >= call.deadline:
            raise error
        await self._clock.sleep(wait_s)

    async def _stale(self, call: Call, error: HeadraceError) -> Reply | None:
        # RFC 5861: an answer past its time is better than upstream's trouble, if the caller says so.
        allowed_s = call.cache.stale_if_error_s
        in_trouble = not isinstance(error, UpstreamError) or error.status >= 500 or error.status in (408, 429)
        if allowed_s is None or not in_trouble:
            return None
        entry = await self.cache.far(call.fingerprint)
        if entry is None or self._clock.now() - entry.fresh_until > allowed_s:
            return None
        return self._reply_kept(entry, Source.STALE)

    # Calls with a ticket go on without their caller.

    async def submit(self, call: Call) -> Ticket:
        """Queue a call, durably, and return its ticket; a worker pursues it."""
        if self.is_draining:
            raise draining()
        if call.credential:
            raise InvalidCall("a call with its caller's own key cannot be submitted: no key goes into a queue")
        claim = await self.tickets.submit(call)
        if isinstance(claim, Conflict):
            raise _conflict()
        return await self.tickets.get(claim.ticket, call.caller.name)

    async def pursue(self, call: Call) -> None:
        """
        Answer a call whose ticket is in our hands; the ticket ends with what comes of it.

        Raises `QueueFull` and `RedisAway`, which say nothing of the call, and leave the ticket as it is.
        """
        async with self._ending(call, spared=(QueueFull, RedisAway)), contextlib.AsyncExitStack() as aboard:
            reply = await self._answer(call, aboard, live=False)
            if reply.answer is not None:
                await self._finish(call, reply, reply.answer)

    async def _once(self, call: Call, aboard: contextlib.AsyncExitStack) -> Reply:
        # The first call with an idempotency key is answered on behalf of all who come with it; they ride along.
        while True:
            claim = await self.tickets.claim(call)
            if isinstance(claim, Conflict):
                raise _conflict()
            flight, leads = aboard.enter_context(self._flights.board(f"ticket:{claim.ticket}", self._flying(call, claim)))
            try:
                return await self._ride(call, flight, leads, live=call.stream)
            except (Refusal, BrokenStream) as error:
                if isinstance(claim, Claimed) or isinstance(error, Canceled | TicketNotFound):
                    raise  # to the first: it was its own no; to those who ride along it is none, and the key is free again
            except UpstreamError as error:
                if stale := await self._stale(call, error):
                    return stale
                await self._outlast(call, error)

    def _flying(self, call: Call, claim: Claimed | Same) -> Fly:
        if isinstance(claim, Same):
            return lambda flight: self._leader.wait(flight, claim.ticket)
        return lambda flight: self._sponsor(replace(call, idempotency_key="", ticket=claim.ticket), flight)

    async def _sponsor(self, call: Call, flight: Flight) -> Landing:
        flight.outside, flight.ticket = _somebody, call.ticket
        async with self._ending(call), contextlib.AsyncExitStack() as aboard:
            reply = await self._answer(call, aboard, live=call.stream)
            answer = reply.answer or await self._listen(flight, reply, call.endpoint)
            await self._finish(call, reply, answer)
            return Landing(answer, source=reply.source, attempts=reply.attempts, ticket=call.ticket)

    @contextlib.asynccontextmanager
    async def _ending(self, call: Call, *, spared: tuple[type[HeadraceError], ...] = ()) -> AsyncIterator[None]:
        try:
            async with self.tickets.held(call.ticket), until(call.deadline, self._clock):
                yield
        except HeadraceError as error:
            # Canceled: it has ended, or is in other hands.
            if not isinstance(error, (Canceled, *spared)):
                with contextlib.suppress(RedisAway):
                    await self.tickets.finish(call.ticket, error=error)
            raise
        except Exception:  # the fault is ours; the ticket would stay in our hands until its deadline
            await self.tickets.finish(call.ticket, error=HeadraceError("internal error"))
            raise

    async def _finish(self, call: Call, reply: Reply, answer: Answer) -> None:
        # Redis is away only for a ticket that is no longer in our hands: it was parked, and whoever made the attempt ended it.
        with contextlib.suppress(RedisAway):
            await self.tickets.finish(call.ticket, answer=answer, source=reply.source, attempts=reply.attempts)

    async def _listen(self, flight: Flight, reply: Reply, endpoint: str) -> Answer:
        flight.request_id, flight.attempts, flight.source = reply.request_id, reply.attempts, reply.source
        async for event in reply.events or _silence():
            flight.append(event, is_content=True)
        return forms.answer_of_events(flight.events, created=self._clock.now(), request_id=reply.request_id, endpoint=endpoint)

    # Replies.

    def _reply_kept(self, entry: Entry, source: Source) -> Reply:
        now = self._clock.now()
        return Reply(
            source=source,
            attempts=0,
            age_s=max(0.0, now - entry.answer.created),
            cache_status=status.hit(entry.fingerprint, entry.fresh_until - now),
            request_id=entry.answer.request_id,
            answer=entry.answer,
        )

    def _reply(self, call: Call, flight: Flight, leads: bool) -> Reply:
        landing = flight.landing
        answer = landing.answer if landing else None
        source = landing.source if landing else flight.source
        if source is Source.UPSTREAM and not leads:
            source = Source.SHARED
        return Reply(
            source=source,
            attempts=landing.attempts if landing else flight.attempts,
            age_s=max(0.0, self._clock.now() - answer.created) if answer and source in (Source.CACHE, Source.STALE) else 0.0,
            ticket=_ticket(call, flight, leads),
            cache_status=self._leader.cache_status(call, landing, is_shared=source is Source.SHARED),
            request_id=answer.request_id if answer else flight.request_id,
            answer=answer,
            events=None if answer else flight.replay(),
        )


def _ticket(call: Call, flight: Flight, leads: bool) -> str:
    # Where callers share answers, the ticket on which a flight waited may be another's; not even its name is told.
    ticket = flight.landing.ticket if flight.landing else flight.ticket
    return ticket if call.scope or call.idempotency_key or (leads and ticket == flight.ticket) else ""


async def _somebody() -> bool:
    return True


async def _silence() -> AsyncIterator[Event]:
    return
    yield


def draining() -> Draining:
    """Return the refusal of a daemon that is leaving."""
    return Draining("the daemon is draining; ask another one, or again in a moment", retry_after_s=1.0)


def _conflict() -> IdempotencyConflict:
    return IdempotencyConflict("this idempotency key was used for another call in the last 24 hours")
