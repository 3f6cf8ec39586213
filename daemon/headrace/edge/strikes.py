"""What is held against whom: it grows by one a time, and so much a second is forgiven."""

from __future__ import annotations

from collections.abc import Callable, Hashable

_FEW = 1000  # names, before those against whom nothing is held any more are forgotten


class Strikes:
    """
    Counts by name.

    Args:
        forgiven: how many a second.
        now: a clock, in seconds.
    """

    def __init__(self, forgiven: float, *, now: Callable[[], float]) -> None:
        self._forgiven, self._now = forgiven, now
        self._struck: dict[Hashable, tuple[float, float]] = {}  # what was held against it, and when
        self._next_look = _FEW

    def __repr__(self) -> str:
        return f"<Strikes [{len(self._struck)} names]>"

    def add(self, name: Hashable) -> float:
        """Count one more, and return how many there are."""
        now = self._now()
        count = self.count(name) + 1
        self._struck[name] = count, now
        if len(self._struck) > self._next_look:
            self._struck = {name: told for name, told in self._struck.items() if self.count(name)}
            self._next_look = max(_FEW, 2 * len(self._struck))
        return count

    def count(self, name: Hashable) -> float:
        """Return how many there are."""
        now = self._now()
        count, then = self._struck.get(name, (0.0, now))
        return max(0.0, count - (now - then) * self._forgiven)
