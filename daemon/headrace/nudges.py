"""
Nudges: whoever waits for news of something in this process has an event of its own, found by the name of what it waits for.

Many may wait for one name, and each leaves without disturbing the others.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NudgesStats:
    """How many names somebody waits for, and how many wait."""

    names: int
    waiting: int


class Nudges:
    """All who wait, by name; `name in nudges` says whether anybody does, and `len` for how many names."""

    def __init__(self) -> None:
        self._by_name: dict[str, set[asyncio.Event]] = {}

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Nudges [{stats.names} names, {stats.waiting} waiting]>"

    def stats(self) -> NudgesStats:
        """Return its state now."""
        return NudgesStats(len(self._by_name), sum(map(len, self._by_name.values())))

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def nudge(self, name: str) -> None:
        """Wake whoever waits for this name."""
        for nudged in self._by_name.get(name, ()):
            nudged.set()

    async def nudge_all(self) -> None:
        """Wake all who wait: nudges may have been lost. As `Link.on_connect` calls back."""
        for name in self._by_name:
            self.nudge(name)

    def of(self, name: str) -> Nudged:
        """Return a context that has an event set at each nudge for this name."""
        return Nudged(self._by_name, name)


class Nudged:
    """One who waits, as a context; on the way of every miss, so a class."""

    __slots__ = ("_by_name", "_event", "_name")

    def __init__(self, by_name: dict[str, set[asyncio.Event]], name: str) -> None:
        self._by_name, self._name, self._event = by_name, name, asyncio.Event()

    def __enter__(self) -> asyncio.Event:
        self._by_name.setdefault(self._name, set()).add(self._event)
        return self._event

    def __exit__(self, *_: object) -> None:
        waiting = self._by_name[self._name]
        waiting.discard(self._event)
        if not waiting:
            del self._by_name[self._name]
