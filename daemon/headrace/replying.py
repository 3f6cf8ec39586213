"""
What a caller is given: a kept answer, a place's share of a flight, or an answer past its time while upstream is in trouble.
"""

from __future__ import annotations

import contextlib

from headrace.cache.entry import Entry
from headrace.cache.keeping import Keeping, age_s
from headrace.cache.tiered import Cache
from headrace.clock import Clock
from headrace.crowd import Crowd, Waiting
from headrace.deadline import no_room
from headrace.errors import BrokenStream, HeadraceError, OutOfTime, Refusal, UpstreamError
from headrace.flight.flight import Member
from headrace.model import Call, Reply, Source


class Replies:
    """Makes replies from the cache and from flights."""

    def __init__(self, clock: Clock, cache: Cache, keeping: Keeping, crowd: Crowd) -> None:
        self._clock = clock
        self._cache = cache
        self._keeping = keeping
        self._crowd = crowd

    async def kept(self, call: Call) -> Reply | None:
        """Return a fresh kept answer, if there is one; the shared tier is asked only for a call that will not fly."""
        if not self._keeping.looks_up(call):
            return None
        look = self._cache.far if call.cache.only_if_cached else self._cache.near
        entry = await look(call.fingerprint, call.cache.max_age_s)
        if entry is None or not self._keeping.is_fresh(entry, call.cache, self._clock.now()):
            return None
        return self._of_entry(entry, Source.CACHE)

    async def stale(self, call: Call, error: HeadraceError) -> Reply | None:
        """Return an answer past its time, if the caller takes one while upstream is in trouble (RFC 5861)."""
        in_trouble = not isinstance(error, UpstreamError) or error.status >= 500 or error.status in (408, 429)
        if call.cache.stale_if_error_s is None or not in_trouble:
            return None
        entry = await self._cache.lapsed(call.fingerprint)
        if entry is None or not self._keeping.serves_stale(entry, call.cache, self._clock.now()):
            return None
        return self._of_entry(entry, Source.STALE)

    async def of_member(self, member: Member) -> Reply | None:
        """
        Wait until a flight has something for one of its members, and return what that caller is given.

        None says: leave this flight and join the next. What the flight ended by is another caller's own, or is nothing for
        this call. Raises what is this caller's own refusal, or upstream's word.
        """
        if member.leads:  # it is counted where its call waits: for a turn, or parked
            stale = await self._served(member)
        else:
            with self._counted(member):
                stale = await self._followed(member)
        if stale is not None:
            return stale
        error = member.error()
        if error is None:
            return self._of_flight(member)
        return await self._after(error, member)

    def _counted(self, member: Member) -> Waiting:
        """Count a follower among all that waits."""
        leader = member.flight.leader
        is_shared = leader is not None and member.call.body is leader.call.body
        return self._crowd.waiting("following", size=0 if is_shared else len(member.call.body), caller=member.call.owner.text)

    async def _followed(self, member: Member) -> Reply | None:
        """
        Wait as a follower does: if a limit still holds the flight when it is too late to begin for this caller, that is its no.

        Of a leader the place in line says so. A follower has none, and by its deadline its caller may have given up.
        """
        call = member.call
        with contextlib.suppress(TimeoutError):
            async with self._clock.timeout(call.begin_by - self._clock.now()):
                return await self._served(member)
        is_in_line = member.leads or member.is_served
        if not is_in_line and call.trail is not None and (limit := call.trail.stopped_by):
            raise no_room(limit)
        return await self._served(member)

    async def _served(self, member: Member) -> Reply | None:
        """Wait; after each failed attempt a caller that takes stale answers is given one."""
        flight, looked_at = member.flight, None
        while not member.is_served:
            setback = flight.setback
            if setback is None or setback is looked_at:
                await member.changed()
                continue
            looked_at = setback
            if stale := await self.stale(member.call, setback):
                return stale
        return None

    async def _after(self, error: HeadraceError, member: Member) -> Reply | None:
        if member.refusal is None and isinstance(error, Refusal):
            return None  # the last member's own no
        if isinstance(error, UpstreamError) and (stale := await self.stale(member.call, error)):
            return stale
        if member.refusal is None and isinstance(error, OutOfTime):
            await self._outlast(error, member)
            return None
        if isinstance(error, BrokenStream) and not member.is_live:
            return None  # it has had nothing of the stream: it waits for the ticket's next attempt, or asks again
        raise error

    async def _outlast(self, error: OutOfTime, member: Member) -> None:
        """Wait as long as upstream asked, if this caller has longer than the one that flew; else its word is final."""
        wait_s = error.retry_after_s or 0.0
        if self._clock.now() + wait_s >= member.call.begin_by:
            raise error
        await self._clock.sleep(wait_s)

    def _of_entry(self, entry: Entry, source: Source) -> Reply:
        now = self._clock.now()
        return Reply(
            source=source,
            attempts=0,
            age_s=age_s(entry.answer, now),
            cache_status=self._keeping.hit_status(entry, now),
            request_id=entry.answer.request_id,
            headers=entry.answer.headers,
            came_at=now,
            answer=entry.answer,
            renditions=entry.renditions,
        )

    def _of_flight(self, member: Member) -> Reply | None:
        call, flight, landing, now = member.call, member.flight, member.flight.landing, self._clock.now()
        answer, source = (landing.answer, landing.source) if landing else (None, flight.source)
        is_kept = source in (Source.CACHE, Source.STALE)
        age = age_s(answer, now) if answer and is_kept else 0.0
        if is_kept and not member.leads and not self._keeping.is_young(age, call.cache):
            return None  # a kept answer that was good enough for the leader
        if source is Source.UPSTREAM and not member.leads:
            source = Source.SHARED
        return Reply(
            source=source,
            attempts=landing.attempts if landing else flight.attempts,
            age_s=age,
            ticket=member.ticket,
            cache_status=self._keeping.flight_status(call, answer, source, now),
            request_id=answer.request_id if answer else flight.request_id,
            headers=answer.headers if answer else flight.headers,
            waited_s=landing.waited_s if landing else flight.waited_s,
            came_at=now,
            answer=answer,
            events=None if answer else member.replay(),
            whole=lambda: flight.landing.answer if flight.landing else None,
            renditions=landing.renditions if landing else {},
        )
