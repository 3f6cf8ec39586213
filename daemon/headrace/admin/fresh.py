"""
What is made at most once in a while, however many ask for it, and by one at a time: so cost does not grow with who looks.

What took long is also good for longer: looking never takes more than a share of a process.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

_REST = 10  # times as long as it took to make


@dataclass(slots=True)
class _Made(Generic[T]):
    good_until: float = 0.0
    value: T | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class FreshStats:
    """How many are kept; how often one was made, and how often it was at hand."""

    kept: int
    made: int
    spared: int


class Fresh(Generic[K, T]):
    """
    Makes values by key, and keeps them for a moment.

    Args:
        make: makes one; what it raises goes to all who wait for it then.
        fresh_s: how long a value is good for, at least.
        now: seconds that only go forward.
        most: values that are kept; of more, those that were asked for longest ago are forgotten.
    """

    def __init__(self, make: Callable[[K], Awaitable[T]], fresh_s: float, now: Callable[[], float], *, most: int = 50) -> None:
        self._make, self._fresh_s, self._now, self._most = make, fresh_s, now, most
        self._kept: OrderedDict[K, _Made[T]] = OrderedDict()
        self._made = self._spared = 0

    def __repr__(self) -> str:
        said = self.stats()
        return f"<Fresh [{said.kept} kept, {said.made} made, {said.spared} spared]>"

    def stats(self) -> FreshStats:
        """Return its state now."""
        return FreshStats(len(self._kept), self._made, self._spared)

    async def get(self, key: K) -> T:
        """Return a value that is fresh."""
        made = self._kept.setdefault(key, _Made())
        self._kept.move_to_end(key)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        async with made.lock:
            began = self._now()
            if made.value is None or began >= made.good_until:
                made.value = await self._make(key)
                self._made += 1
                ended = self._now()
                made.good_until = ended + max(self._fresh_s, min(10.0, _REST * (ended - began)))
            else:
                self._spared += 1
            return made.value
