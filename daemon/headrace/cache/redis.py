"""
The far tier: entries in Redis, shared by all hosts, held to a bound of its own.

The server is shared with budgets and tickets, which must never be evicted, so this tier neither relies on eviction nor
invites it: every entry has a TTL, and store.lua keeps the sum of what is held under the bound, dropping what would go soonest.
Around an entry's bytes Redis spends some more; that is counted too.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Sequence
from typing import Any

import structlog

from headrace import keys, observe, records
from headrace.cache.entry import Entry, decode, is_foreign
from headrace.cache.selector import Selector
from headrace.cache.tally import Tally, TierStats, own_stats
from headrace.clock import Clock
from headrace.errors import RedisAway
from headrace.link import Link, Script
from headrace.seal import UNSEALED, Broken, Seal

_log = structlog.get_logger()

_STORE = Script(__package__, "store.lua")
_HELD = Script(__package__, "held.lua")
_PURGE = Script(__package__, "purge.lua")
_BOOKS = (keys.CACHE_INDEX, keys.CACHE_ABOUT, keys.CACHE_BYTES)
_PURGE_BATCH = 500
_MOST_SAID = 2**53
_BEHIND = b"behind"  # store.lua's word


class Redis:
    """
    The Redis tier.

    Args:
        bound: bytes that all hosts' entries together may take.
        seal: what is there without it, or under another's fingerprint, is not there.
    """

    def __init__(self, link: Link, clock: Clock, bound: int, seal: Seal = UNSEALED) -> None:
        self._seal = seal
        self.bound = bound
        self._link = link
        self._clock = clock
        self.tally = Tally("redis")
        self._failing = False

    def __repr__(self) -> str:
        return f"<Redis [{'failing' if self._failing else 'up'}, {self.tally.errors} errors]>"

    async def get(self, fingerprint: str) -> Entry | None:
        """Return the entry, be it stale; None if there is none that is whole."""
        raw = await self._settled(self._link.do("GET", keys.cache_entry(fingerprint)), None)
        return self.read(raw, fingerprint)[0] if raw is not None else None

    def read(self, sealed: bytes, fingerprint: str) -> tuple[Entry | None, bytes]:
        """Decode what Redis held, and return it with its bytes; None, and counted, if it is not what was put there."""
        try:
            raw = self._seal.open(_place(fingerprint), sealed)
        except Broken:
            records.unreadable("cache entry", fingerprint, observe.RECORD_UNSEALED)
            return None, b""
        entry = decode(raw)
        if entry is not None and entry.fingerprint == fingerprint:
            return entry, raw
        if not is_foreign(raw):
            self.tally.failed()
            records.unreadable("cache entry", fingerprint)
        return None, raw

    def put(self, entry: Entry, raw: bytes, purges_seen: str) -> Coroutine[Any, Any, bool]:
        """
        Keep the entry; False if it was refused, since there was a purge after the last one that its host has seen.

        What has to be sent is sent when this is called; what is awaited is the reply.
        """
        ttl_ms = math.ceil((entry.keep_until - self._clock.now()) * 1000)
        books = (keys.cache_entry(entry.fingerprint), *_BOOKS, keys.CACHE_PURGES)
        about = (entry.scope.encode(errors="replace"), entry.model.encode(errors="replace"))
        sealed = self._seal.seal(_place(entry.fingerprint), raw)
        args = (entry.fingerprint, sealed, ttl_ms, self.bound, keys.cache_entry(""), *about, purges_seen)
        return self._stored(self._link.run(_STORE, books, args) if ttl_ms > 0 else None)

    async def _stored(self, reply: asyncio.Future[Any] | None) -> bool:
        dropped = await self._settled(reply, None) if reply is not None else None
        if dropped == _BEHIND:
            return False
        if dropped is None:
            return True
        if dropped < 0:  # not kept, and so counted with those that went in vain
            self.tally.dropped(-dropped)
            return True
        self.tally.stored()
        self.tally.dropped(dropped)
        return True

    async def purge(self, selectors: Sequence[Selector]) -> int:
        """Unlike the rest of the tier this raises `RedisAway`: whoever purges must know that it is not done."""
        return sum([await self._purge(selector) for selector in selectors])

    async def _purge(self, selector: Selector) -> int:
        removed: int = 0
        cursor = b"0"
        wanted = [_argument(part) for part in (selector.fingerprint, selector.scope, selector.model)]
        while True:
            args = (keys.cache_entry(""), cursor, _PURGE_BATCH, *wanted)
            cursor, gone = await self._link.run(_PURGE, _BOOKS, args)
            removed += gone
            if cursor == b"0":
                return removed

    async def stats(self) -> TierStats:
        now_ms = int(self._clock.now() * 1000)
        held = self._link.do("ZCOUNT", keys.CACHE_INDEX, now_ms, "+inf"), self._link.do("GET", keys.CACHE_BYTES)
        entries, size = [await self._settled(reply, 0) for reply in held]
        return self.tally.stats(on=True, entries=int(entries), bytes=_sum(size), bound=self.bound)

    async def held(self, scope: str) -> TierStats:
        """Return what one scope has in Redis, of all hosts."""
        cursor, entries, size = b"0", 0, 0
        while True:
            args = (cursor, _PURGE_BATCH, scope.encode(errors="replace"))
            cursor, more, bytes_ = await self._settled(self._link.run(_HELD, (keys.CACHE_ABOUT,), args), (b"0", 0, 0))
            entries, size = entries + more, size + bytes_
            if cursor == b"0":
                return own_stats(self.tally.tier, entries, size)

    async def close(self) -> None:
        """Nothing to finish: the link is not ours."""

    async def _settled(self, reply: asyncio.Future[Any], otherwise: Any) -> Any:
        """Await a reply; Redis in trouble is counted, logged when it begins, and *otherwise* returned."""
        try:
            value = await reply
        except RedisAway as error:
            self.tally.failed()
            if not self._failing:
                _log.warning(observe.TIER_FAILED, tier="redis", error=error.metadata.get("code") or type(error).__name__)
            self._failing = True
            return otherwise
        self._failing = False
        return value


def _place(fingerprint: str) -> str:
    return f"cache:{fingerprint}"


def _argument(part: str | None) -> bytes:
    # "*" for whatever it is, "=" before what it must be: an empty scope is a scope.
    return b"*" if part is None else b"=" + part.encode(errors="replace")


def _sum(said: bytes | int | None) -> int:
    try:
        return min(max(0, int(said or 0)), _MOST_SAID)
    except ValueError:
        records.unreadable("cache", keys.CACHE_BYTES)
        return 0
