"""
Leads that nobody has: Redis was asked to let us lead, and we gave up waiting for its word.

Such a command may be done when a Redis that stood still goes on, and even later where a network held it up. Then all who ask
follow a leader that leads nothing, until its lease lapses. So what may have become ours is given up as soon as Redis answers,
and a few times more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from headrace.clock import Clock
from headrace.errors import RedisAway

_TIMES = 4
_EVERY_S = 0.75
_MOST = 10_000


class Strays:
    """
    What is to be given up, by token. Run `keep` as a task.

    Args:
        give_up: gives a flight up, by its fingerprint, if a token leads it; returns whether it did. It may raise `RedisAway`.
    """

    def __init__(self, clock: Clock, give_up: Callable[[str, str], Awaitable[bool]]) -> None:
        self._clock = clock
        self._give_up = give_up
        self._times: dict[tuple[str, str], int] = {}
        self._has_some = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Strays [{len(self._times)} to give up]>"

    def add(self, fingerprint: str, token: str) -> None:
        """Give this up when Redis answers; of very many the latest, for the leases of the others lapse."""
        self._times[fingerprint, token] = _TIMES
        if len(self._times) > _MOST:
            del self._times[next(iter(self._times))]
        self._has_some.set()

    async def keep(self) -> None:
        """Give up what there is, until cancelled. Redis away is waited out."""
        while True:
            await self._has_some.wait()
            with contextlib.suppress(RedisAway):
                await self._go_through()
            if not self._times:
                self._has_some.clear()
            await self._clock.sleep(_EVERY_S)

    async def _go_through(self) -> None:
        for stray in list(self._times):
            was_ours = await self._give_up(*stray)
            self._times[stray] -= 1
            if was_ours or not self._times[stray]:
                del self._times[stray]
