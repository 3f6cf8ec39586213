"""
How many instances share the limits: each says every few seconds that it is there, and counts the others.

The count matters when Redis is away and a limit's policy is `share` (each instance then spends its part of the limit). So it
is kept as last seen while Redis is away. And it may not shrink just after Redis came back: by then everybody's heartbeat has
lapsed, the first one back would see itself alone, and with Redis gone again it would spend the whole limit.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace import keys
from headrace.clock import Clock
from headrace.errors import RedisAway
from headrace.link import Link, Script

_BEAT = Script(__package__, "hosts.lua")


@dataclass(frozen=True, slots=True)
class HostsStats:
    """How many instances were last seen, this one included; whether Redis could not be asked last time."""

    known: int
    is_away: bool


class Hosts:
    """
    The instances that are alive; run `stay` as a task.

    Args:
        beat_s: how often to say that we are there.
        lapse_s: after how long a silent instance no longer counts.
    """

    def __init__(self, link: Link, clock: Clock, *, beat_s: float = 5.0, lapse_s: float = 15.0) -> None:
        self._link = link
        self._clock = clock
        self._beat_s = beat_s
        self._lapse_s = lapse_s
        self._is_away = False
        self._back_at = float("-inf")
        self.known = 1

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Hosts [{stats.known} known{', Redis away' if stats.is_away else ''}]>"

    def stats(self) -> HostsStats:
        """Return its state now."""
        return HostsStats(self.known, self._is_away)

    async def stay(self) -> None:
        """Beat until cancelled; then leave at once rather than lapse."""
        try:
            while True:
                await self.beat()
                await self._clock.sleep(self._beat_s)
        finally:
            # Sent even though nobody awaits it; if the link is closed first, the entry lapses.
            self._link.do("ZREM", keys.HOSTS, self._link.instance)

    async def beat(self) -> None:
        """Say that we are there, and count."""
        try:
            count = int(await self._link.run(_BEAT, [keys.HOSTS], [self._link.instance, round(self._lapse_s * 1_000_000)]))
        except RedisAway:
            self._is_away = True
            return
        if self._is_away:
            self._is_away, self._back_at = False, self._clock.now()
        is_settled = self._clock.now() - self._back_at >= self._lapse_s
        self.known = count if is_settled else max(count, self.known)
