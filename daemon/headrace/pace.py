"""
Pace: whether what comes or goes in pieces gets on. Pure.

There is patience of so many seconds. Waiting uses it up, and each byte brings back the time that it may take at the least pace.
A byte a second is no progress, then; and a pause after much has come is none of anybody's business.
"""

from __future__ import annotations

import math


class Pace:
    """
    The pace of one body in one direction.

    Args:
        least: bytes a second; 0 for any pace.
        patience_s: how long it may fall behind that.
    """

    __slots__ = ("_least", "_left_s", "_patience_s")

    def __init__(self, least: int, patience_s: float) -> None:
        self._least, self._patience_s = least, patience_s
        self._left_s = patience_s

    def __repr__(self) -> str:
        return f"<Pace [{self.left():.1f} s left]>"

    def left(self, size: int = 0) -> float:
        """Return how long may be waited (s), for a piece of *size* bytes to go, or for one of unknown size to come."""
        return self._left_s + size / self._least if self._least else math.inf

    def moved(self, size: int, waited_s: float) -> None:
        """So many bytes have come or gone after so long."""
        if self._least:
            self._left_s = min(self._patience_s, self.left(size) - waited_s)
