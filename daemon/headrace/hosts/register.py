"""
The register of processes: each writes what it is every two seconds, and whoever looks reads what all have written.

A process that is killed is gone from it some seconds later, with its heartbeat (budget/hosts.py); one that leaves, at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable

from headrace import keys, records
from headrace.clock import Clock, until_set
from headrace.errors import RedisAway
from headrace.hosts.fact import Fact, decode, encode, unknown
from headrace.link import Link

_BEAT_S = 2.0
_KEPT_MS = 15_000


class Register:
    """
    What all processes say of themselves. Run `keep` as a task.

    Args:
        here: returns what this one says, of which the last round trip to Redis took so many milliseconds, or was none (None).
    """

    def __init__(self, link: Link, clock: Clock, here: Callable[[float | None], Fact]) -> None:
        self._link = link
        self._clock = clock
        self._here = here
        self._redis_ms: float | None = None
        self._is_stale = asyncio.Event()

    def __repr__(self) -> str:
        return "<Register>"

    @property
    def own(self) -> Fact:
        """What this process says of itself now."""
        return self._here(self._redis_ms)

    @property
    def round_trip_s(self) -> float:
        """How long Redis took to answer last; not a number if it did not."""
        return self._redis_ms / 1000 if self._redis_ms is not None else math.nan

    async def keep(self) -> None:
        """Say it, again and again, until cancelled; then take it away."""
        name = keys.host(self._link.instance)
        try:
            while True:
                self._is_stale.clear()
                with contextlib.suppress(RedisAway):
                    await self.say()
                await until_set(self._is_stale, self._clock, _BEAT_S)
        finally:
            self._link.do("DEL", name)

    def wake(self) -> None:
        """Say it anew now: it is not what it was."""
        self._is_stale.set()

    async def say(self) -> None:
        """Write it; raises `RedisAway`, and then there was no round trip."""
        asked = self._clock.span()
        try:
            await self._link.do("SET", keys.host(self._link.instance), encode(self.own), "PX", _KEPT_MS)
        except RedisAway:
            self._redis_ms = None
            raise
        self._redis_ms = (self._clock.span() - asked) * 1000

    async def all(self) -> list[Fact]:
        """Return what all say, by name; of one that has said nothing yet, its name. Raises `RedisAway`."""
        await self.say()
        known = await records.or_nothing("host", keys.HOSTS, self._link.do("ZRANGE", keys.HOSTS, 0, -1)) or []
        names = {each.decode(errors="replace") for each in known} | {self._link.instance}
        facts = await asyncio.gather(*(self._read(each) for each in sorted(names)))
        return sorted(facts, key=lambda fact: (fact.host, fact.kind, fact.instance))

    async def _read(self, instance: str) -> Fact:
        name = keys.host(instance)
        raw = await records.or_nothing("host", name, self._link.do("GET", name))
        try:
            return unknown(instance) if raw is None else decode(raw)
        except ValueError:
            records.unreadable("host", raw or b"")
            return unknown(instance)
