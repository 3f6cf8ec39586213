"""
When a server of ours that died is started again: at once, and ever more rarely if it dies again; never while it could not live.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_FIRST_S = 1.0
_MOST_S = 30.0
_WELL_S = 30.0  # who has lived so long died of something else before


@dataclass(frozen=True, slots=True)
class DeathsStats:
    """How often it died in a row, and why it is not there ("" if it is)."""

    in_a_row: int
    why: str


class Deaths:
    """
    The deaths of one server.

    Args:
        now: seconds that only go forward.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._in_a_row = 0
        self._is_dead = False
        self._hinders = ""
        self._due = 0.0
        self._lives_since = now()

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Deaths [{stats.in_a_row} in a row{f', {stats.why}' if stats.why else ''}]>"

    def stats(self) -> DeathsStats:
        """Return its state now."""
        return DeathsStats(self._in_a_row, self.why)

    @property
    def why(self) -> str:
        """Why there is no server, in words; "" if there is one."""
        if not self._is_dead:
            return ""
        return f"our own Valkey ended{f', and nothing can be written there: {self._hinders}' if self._hinders else ''}"

    @property
    def is_due(self) -> bool:
        """Whether it should be started now; if so it is taken for started."""
        if not self._is_dead or self._hinders or self._now() < self._due:
            return False
        self._is_dead, self._lives_since = False, self._now()
        return True

    def lives(self) -> None:
        """Say that it lives."""
        if self._now() - self._lives_since > _WELL_S:
            self._in_a_row = 0

    def note(self, hinders: str) -> bool:
        """Say that it is dead, and what keeps it from living ("" for nothing); return whether that is news."""
        is_news = not self._is_dead or hinders != self._hinders
        if not self._is_dead:
            self._is_dead = True
            self._due = self._now() + (min(_MOST_S, _FIRST_S * 2 ** (self._in_a_row - 1)) if self._in_a_row else 0.0)
            self._in_a_row += 1
        self._hinders = hinders
        return is_news
