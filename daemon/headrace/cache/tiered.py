"""
The cache: three tiers behind one door, near before far.

What is found far away is kept nearby too. No tier fails: one in trouble misses, and counts. Purges are the exception, since
whoever purges must know that it was done.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Coroutine, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from redis.exceptions import RedisError

from headrace import records
from headrace.cache.disk import Disk
from headrace.cache.entry import Entry
from headrace.cache.memory import Memory
from headrace.cache.purges import Purges
from headrace.cache.redis import Redis
from headrace.cache.selector import Selector
from headrace.cache.tally import Tally, TierStats
from headrace.clock import Clock
from headrace.errors import RedisAway
from headrace.link import Link
from headrace.seal import UNSEALED, Seal


class Cache:
    """
    What the flow sees. `start` it before use.

    Args:
        directory: of the disk tier, ours alone.
        memory, disk, redis: bounds in bytes; 0 leaves the tier out.
        max_entry: payloads of more bytes are not kept.
        enabled: False leaves every tier out.
        seal: of what lies in Redis; and on disk, if it hides what was said.
    """

    def __init__(
        self,
        link: Link,
        clock: Clock,
        *,
        directory: Path,
        memory: int,
        disk: int,
        redis: int,
        max_entry: int,
        enabled: bool = True,
        seal: Seal = UNSEALED,
    ) -> None:
        self._clock = clock
        self._max_entry = max_entry
        self.is_enabled = enabled
        self._memory = Memory(memory if enabled else 0)
        self._disk = Disk(directory, disk, clock, seal=seal) if disk and enabled else None
        self._shared = Redis(link, clock, redis, seal)  # a purge reaches it even where this process keeps nothing there
        self._redis = self._shared if redis and enabled else None
        self._purges = Purges(
            link,
            clock,
            apply=self._purge_here,
            read_seen=self._disk.read_seen if self._disk else _nothing_seen,
            write_seen=self._disk.write_seen if self._disk else _no_note,
        )
        self.glance = self._memory.glance
        """
        `glance(fingerprint, now, max_age_s)`: the entry in memory, if it is fresh; no I/O. The method of the tier itself, since
        a hit is to cost next to nothing.
        """

    def __repr__(self) -> str:
        return f"<Cache [{self._memory!r}, {self._disk!r}, {self._redis!r}, {self._purges!r}]>"

    async def start(self) -> None:
        if self._disk:
            await self._disk.open()
        await self._purges.start()

    async def close(self) -> None:
        await self._purges.close()
        if self._disk:
            await self._disk.close()

    def near(self, fingerprint: str, max_age_s: float | None = None) -> Coroutine[Any, Any, Entry | None]:
        """
        Return the entry this host has, be it stale, or None.

        Args:
            max_age_s: how old it may be to be of use; only the counts heed it.
        """
        return self._near(fingerprint, _Looking(self._clock.now(), max_age_s))

    def far(self, fingerprint: str, max_age_s: float | None = None) -> Coroutine[Any, Any, Entry | None]:
        """Return the freshest entry that any tier has, be it stale, or None."""
        return self._far(fingerprint, _Looking(self._clock.now(), max_age_s))

    def lapsed(self, fingerprint: str) -> Coroutine[Any, Any, Entry | None]:
        """Return what `far` does, for stale-if-error: the call has been counted when it first looked."""
        return self._far(fingerprint, None)

    async def _near(self, fingerprint: str, looking: _Looking | None) -> Entry | None:
        entry = _counted(self._memory.tally, self._memory.get(fingerprint), looking)
        # Until we know of every purge that passed while we were away, what lies on disk is not to be trusted.
        if entry is None and self._disk and self._purges.caught_up:
            losses = self._purges.losses
            found = await self._disk.get(fingerprint) if self._disk.may_have(fingerprint) else None
            entry = self._admit(_counted(self._disk.tally, found if losses == self._purges.losses else None, looking))
        if entry is not None and entry.keep_until <= self._clock.now():
            self._memory.drop(fingerprint)
            return None
        return entry

    async def _far(self, fingerprint: str, looking: _Looking | None) -> Entry | None:
        entry = await self._near(fingerprint, looking)
        if self._redis and not (entry and entry.fresh(self._clock.now())):
            kept = _counted(self._redis.tally, _sound(await self._redis.get(fingerprint)), looking)
            if kept and (entry is None or kept.fresh_until > entry.fresh_until):
                entry = self._admit(kept) or entry
        return entry

    def take_in(self, fingerprint: str, sealed: bytes | None) -> Entry | None:
        """
        Keep nearby what Redis was asked for by somebody else, in a script of its own; None if it had nothing.

        So is what is not whole, or was purged on its way.
        """
        looking = _Looking(self._clock.now(), None)
        found, raw = self._shared.read(sealed, fingerprint) if sealed is not None else (None, b"")
        entry = self._admit(_counted(self._shared.tally, _sound(found), looking))
        if entry and self._disk:
            self._disk.write_soon(entry, raw)
        return entry

    def put(self, entry: Entry) -> Coroutine[Any, Any, str]:
        """
        Keep a new answer everywhere; return why it was not kept, or "".

        What goes to Redis is sent when this is called, together with whatever else leaves in this turn of the loop; what is
        awaited is its reply. The disk follows in its own time.
        """
        if reason := self.no_keep(entry):
            return _said(reason)
        self._memory.put(entry, self._clock.now())
        raw = entry.encode() if self._disk or self._redis else b""
        if self._disk:
            self._disk.write_soon(entry, raw)
        if self._redis is None:
            return _said("")
        return self._put_far(entry, raw, self._redis.put(entry, raw, self._purges.seen))

    async def _put_far(self, entry: Entry, raw: bytes, stored: Awaitable[bool]) -> str:
        if not await stored:
            await self._put_again(entry, raw)
        return ""

    async def _put_again(self, entry: Entry, raw: bytes) -> None:
        # Redis has seen a purge of which we had not heard. By now it may mean this entry.
        with contextlib.suppress(RedisAway, RedisError):
            await self._purges.catch_up()
        if self._redis and not self._purges.forbids_new(entry):
            await self._redis.put(entry, raw, self._purges.seen)

    async def purge(self, selector: Selector) -> int:
        """
        Drop what the selector means from every tier of every host; return how many entries this host saw go.

        Raises `RedisAway` when it is gone from here, but other hosts could not be told.
        """
        # Announced before Redis is searched: from then on nothing comes in there that the purge means, since either its host
        # knows of the purge or store.lua refuses it. Nor does anybody let in again what is still there, for the same reason.
        self._purges.remember(selector)
        here = await self._purge_here([selector])
        await self._purges.announce(selector)
        shared = await self._shared.purge([selector])
        if self._purges.caught_up:  # a daemon's cache; what it answers from now on may be kept at once
            await self._purges.catch_up()
        return max(here, shared)

    @property
    def near_bytes(self) -> int:
        """How many bytes the entries in memory take."""
        return self._memory.stats().bytes

    async def stats(self, scope: str | None = None) -> tuple[TierStats, ...]:
        """Return what each tier holds and did; of one *scope*, only what it holds of that."""
        far = [tier for tier in (self._disk, self._redis) if tier is not None]
        if scope is not None:
            return (self._memory.held(scope), *[await tier.held(scope) for tier in far])
        return (self._memory.stats(), *[await tier.stats() for tier in far])

    def no_keep(self, entry: Entry) -> str:
        """Return why the cache will not take an entry, or ""."""
        if not self.is_enabled:
            return "cache-off"
        if len(entry.answer.payload) > self._max_entry:
            return "too-large"
        return "purged" if self._purges.forbids_new(entry) else ""

    def _admit(self, entry: Entry | None) -> Entry | None:
        if entry is None or self._purges.forbids(entry):
            return None
        self._memory.put(entry, self._clock.now())
        return entry

    async def _purge_here(self, selectors: Sequence[Selector]) -> int:
        in_memory = self._memory.purge(selectors)
        on_disk = await self._disk.purge(selectors) if self._disk else 0
        return max(in_memory, on_disk)


class _Looking(NamedTuple):
    """A look-up that counts: when, and how old an entry may be to be of use."""

    now: float
    max_age_s: float | None


def _counted(tally: Tally, entry: Entry | None, looking: _Looking | None) -> Entry | None:
    if looking is not None:
        tally.looked(entry is not None and entry.fresh(looking.now, looking.max_age_s))
    return entry


def _sound(entry: Entry | None) -> Entry | None:
    # Anybody who may write to Redis can make a checksum of anything.
    if entry is None or entry.is_sound():
        return entry
    records.unreadable("cache entry", entry.fingerprint)
    return None


async def _said(reason: str) -> str:
    return reason


async def _nothing_seen() -> str:
    return ""


async def _no_note(_: str) -> None:
    return None
