"""
Nudges: whoever waits for news of something in this process has an event of its own, found by the name of what it waits for.

Many may wait for one name, and each leaves without disturbing the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
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

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[asyncio.Event]:
        """Have an event set at each nudge for this name."""
        nudged = asyncio.Event()
        self._by_name.setdefault(name, set()).add(nudged)
        try:
            yield nudged
        finally:
            waiting = self._by_name[name]
            waiting.discard(nudged)
            if not waiting:
                del self._by_name[name]
