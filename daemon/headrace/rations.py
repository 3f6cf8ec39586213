"""
So many lines of one kind, and then one every while: a log that a fault cannot flood.

What is said of a state is said when it changes. But a state may change many times a second, and some lines are about one call,
of which there are thousands. So each kind has some lines at once and gets more only slowly; the next one that is said tells how
many were left out before it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass


@dataclass(slots=True)
class _Kind:
    lines: float
    at: float
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class RationsStats:
    """How many kinds are known, and how many lines were left out of which nothing was said yet."""

    kinds: int
    left_out: int


class Rations:
    """
    All kinds of lines.

    Args:
        now: seconds that only go forward.
        at_once: lines of one kind, after it was quiet; every_s: after so long there is one more.
        most: kinds that are known; of more, those that were quiet longest are forgotten.
    """

    def __init__(self, now: Callable[[], float], *, at_once: int = 5, every_s: float = 10.0, most: int = 1000) -> None:
        self._now = now
        self._at_once, self._every_s, self._most = at_once, every_s, most
        self._kinds: dict[Hashable, _Kind] = {}

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Rations [{stats.kinds} kinds, {stats.left_out} left out]>"

    def stats(self) -> RationsStats:
        """Return its state now."""
        return RationsStats(len(self._kinds), sum(kind.left_out for kind in self._kinds.values()))

    def take(self, name: Hashable) -> int | None:
        """Return how many lines of a kind were left out before this one; None if this one is left out, too."""
        now = self._now()
        kind = self._kinds.pop(name, None) or _Kind(self._at_once, now)
        self._kinds[name] = kind  # the last one now
        if len(self._kinds) > self._most:
            del self._kinds[next(iter(self._kinds))]
        kind.lines, kind.at = min(self._at_once, kind.lines + (now - kind.at) / self._every_s), now
        if kind.lines < 1:
            kind.left_out += 1
            return None
        kind.lines -= 1
        left_out, kind.left_out = kind.left_out, 0
        return left_out
