"""
What is made at most once in a while, however many ask for it, and by one at a time: so cost does not grow with who looks.

What took much to make is also good for longer: looking never takes more than a share of a process. What counts is the process's
own time and not how long it took, which on a busy machine, or with a host that is silent, says nothing of cost.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

_REST = 10  # times what it took to make
_LONGEST_S = 2.0


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
        spent: seconds that this process has worked.
    """

    def __init__(
        self,
        make: Callable[[K], Awaitable[T]],
        fresh_s: float,
        now: Callable[[], float],
        *,
        most: int = 50,
        spent: Callable[[], float] = time.process_time,
    ) -> None:
        self._make, self._fresh_s, self._now, self._most, self._spent = make, fresh_s, now, most, spent
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
            if made.value is None or self._now() >= made.good_until:
                began = self._spent()
                made.value = await self._make(key)
                self._made += 1
                rest_s = min(_LONGEST_S, _REST * (self._spent() - began))
                made.good_until = self._now() + max(self._fresh_s, rest_s)
            else:
                self._spared += 1
            return made.value
