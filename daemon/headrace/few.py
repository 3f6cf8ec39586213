"""
Names that metrics may have as a label: those of the configuration always, of others so many, and "other" for all the rest.

A name may be a caller's free text, and every one of them is a series for as long as the process lives.
"""

from __future__ import annotations

from collections.abc import Iterable

OTHER = "other"


class Few:
    """
    Says under which name somebody is counted.

    Args:
        most: names that are not named in the configuration.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._always: frozenset[str] = frozenset()
        self._others: set[str] = set()

    def __repr__(self) -> str:
        return f"<Few [{len(self._always)} always, {len(self._others)} of {self._most} others]>"

    def reload(self, always: Iterable[str], most: int) -> None:
        """Go by other names that are always there; who has been counted by name goes on so."""
        self._always, self._most = frozenset(always), most

    def of(self, name: str) -> str:
        """Return the name, or "other"."""
        if name in self._always or name in self._others or not name:
            return name
        if len(self._others) >= self._most or len(name) > 128:
            return OTHER
        self._others.add(name)
        return name
