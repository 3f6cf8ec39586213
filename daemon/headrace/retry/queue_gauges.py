"""
Tickets as gauges: how many there are on all hosts, by state, dead letters, and how old the eldest is that is queued.

Looked at now and then, and not when somebody asks: it is a walk through what waits, and anybody may ask.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

from headrace import keys, observe, records
from headrace.clock import Clock
from headrace.errors import RedisAway
from headrace.link import Link, Script
from headrace.retry.letters import count_letters

_EVERY_S = 15.0
_MOST = 2000  # tickets that are looked at

_COUNT = Script(__package__, "count.lua")


@dataclass(frozen=True, slots=True)
class Queued:
    """How many tickets are queued on all hosts, and how many run; when the eldest of the queued was made (Unix seconds)."""

    queued: int = 0
    running: int = 0
    eldest: float = math.inf


class QueueGauges:
    """Run `keep` as a task."""

    def __init__(self, link: Link, clock: Clock) -> None:
        self._link = link
        self._clock = clock
        self._eldest = math.inf

    def __repr__(self) -> str:
        return "<QueueGauges>"

    async def keep(self) -> None:
        """Look every fifteen seconds, until cancelled."""
        observe.OLDEST_PARKED.read = self._oldest_s
        while True:
            with contextlib.suppress(RedisAway):
                await self._look()
            await self._clock.sleep(_EVERY_S)

    async def _look(self) -> None:
        found = await self.count()
        observe.TICKETS_NOW.set({("QUEUED",): float(found.queued), ("RUNNING",): float(found.running)})
        self._eldest = found.eldest
        observe.DEAD_LETTERS.set(float(await count_letters(self._link)))

    async def count(self) -> Queued:
        """Return how many tickets have not ended; raises `RedisAway`."""
        asked = self._link.run(_COUNT, (keys.TICKETS,), (keys.ticket(""), _MOST))
        said = await records.or_nothing("ticket", keys.TICKETS, asked)
        if said is None:
            return Queued()
        all_, queued, running, eldest = said
        # Of more than are looked at the rest is taken to be as these are, and most that wait are queued.
        return Queued(queued + max(0, all_ - queued - running), running, _moment(eldest))

    def _oldest_s(self) -> float:
        return max(0.0, self._clock.now() - self._eldest) if self._eldest < math.inf else 0.0


def _moment(text: bytes) -> float:
    try:
        return float(text) if text else math.inf
    except ValueError:
        records.unreadable("ticket", text)
        return math.inf
