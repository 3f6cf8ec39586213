"""
How much is done in one turn of the loop for many who come at once: hundreds of streams that have more to be read, or told.

The loop hears all sockets that have something in one turn, and then gives everybody in it a turn of its own; a slice each is
quick, hundreds of slices are a second in which nobody else is heard. So slices share an allowance for each turn of the loop.
Who comes when it is spent waits for a turn to come, in the order of coming. Nothing waits while there is little to do.
"""

from __future__ import annotations

import asyncio
from collections import deque

SLICE = 1 << 14  # bytes of a stream: a millisecond's work where its events are small
_TURN = SLICE  # four of them, and four hundred streams that nobody reads keep the others waiting three times as long


class Allowance:
    """So many bytes for each turn of the loop; one loop uses it at a time."""

    def __init__(self, most: int = _TURN) -> None:
        self._most = most
        self._taken = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self._is_due = False

    def __repr__(self) -> str:
        return f"<Allowance [{self._taken} of {self._most} bytes taken, {len(self._waiting)} waiting]>"

    @property
    def is_spent(self) -> bool:
        """Whether whoever comes now has to wait."""
        return bool(self._waiting) or self._taken >= self._most

    async def take(self, size: int) -> None:
        """Take so many bytes of this turn of the loop, or of the first to come that has some left."""
        if not self.is_spent:
            self.count(size)
            return
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((called, size))
        self._begin()
        await called

    def count(self, size: int) -> None:
        """Count what was done without asking: nobody could know before how much it would be."""
        self._taken += size
        self._begin()

    def _begin(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._is_due, self._taken = False, 0
        while self._waiting and self._taken < self._most:
            called, size = self._waiting.popleft()
            if not called.done():  # else whoever waited was cancelled
                called.set_result(None)
                self.count(size)
        if self._waiting:
            self._begin()
