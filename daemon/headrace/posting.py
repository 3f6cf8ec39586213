"""
What is written to Redis once a second, and at the end: nobody's answer waits for it, and while Redis is away it waits itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod

from headrace.clock import Clock
from headrace.errors import RedisAway

_EVERY_S = 1.0


class Posting(ABC):
    """Writes what its heirs have noted. Run `keep` as a task, and `close` it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()

    async def keep(self) -> None:
        """Post what there is once a second, until cancelled."""
        while True:
            await self._clock.sleep(_EVERY_S)
            await self.close()

    async def close(self) -> None:
        """Post what there is, if Redis is there."""
        with contextlib.suppress(RedisAway):
            await self.post()

    async def post(self) -> None:
        """Post all that there is; raises `RedisAway`, and then it waits for the next time."""
        async with self._one_at_a_time:
            await self._post()

    @abstractmethod
    async def _post(self) -> None: ...
