"""
Share: one bound for many callers, who takes of it how much. Pure.

An equal part (or one by weight) for each caller that has anything, and for one more that may come, is a caller's share. What is
idle is lent: a caller takes more than its share as long as the *spare* stays free. Up to its share it takes of the spare too,
all but a quarter; and that is for those who have nothing yet. So a flood finds nearly all when it is alone, others that come
then find room at once, and as the flood gives back, it is they who get it until each has its share.

Where callers are known by keys, one of them may have a bound of its own, too: then a flood finds that much, and never more.

All of it never passes the bound. Nothing is taken away again from who has it, so between a flood and the first that it gives
back others have the spare, and no more. A bound under ten has no spare: there one thing set apart would be too much.
"""

from __future__ import annotations

from dataclasses import dataclass

_SPARE = 10  # one part in so many is never lent
_FIRST = 4  # one part of that in so many is for who has nothing


@dataclass(frozen=True, slots=True)
class ShareStats:
    """How much there is, how much of it is taken, and by how many callers."""

    most: int
    taken: int
    callers: int


@dataclass(slots=True)
class _Own:
    weight: int
    taken: int = 0


class Share:
    """
    What is taken of one bound, and by whom.

    Args:
        most: how much may be taken in all.
        spare: how much of it is not lent; by default a tenth.
        most_of_one: how much one caller may take that has something already; by default all.
    """

    __slots__ = ("_first", "_most_of_one", "_owns", "_spare", "_taken", "_weights", "most")

    def __init__(self, most: int, spare: int | None = None, *, most_of_one: int | None = None) -> None:
        self.most = most
        self._most_of_one = most if most_of_one is None else most_of_one
        self._spare = most // _SPARE if spare is None else spare
        self._first = self._spare // _FIRST
        self._owns: dict[str, _Own] = {}
        self._taken = self._weights = 0

    def __repr__(self) -> str:
        return f"<Share [{self._taken} of {self.most}, {len(self._owns)} callers]>"

    def stats(self) -> ShareStats:
        """Return how it stands now."""
        return ShareStats(self.most, self._taken, len(self._owns))

    @property
    def taken(self) -> int:
        """How much is taken in all."""
        return self._taken

    def has_room(self, caller: str, more: int = 1, weight: int = 1) -> bool:
        """Whether a caller may take so much more."""
        if not more:
            return True
        left = self.most - self._taken - more
        own = self._owns.get(caller)
        if own is not None and own.taken + more > self._most_of_one:
            return False
        if left >= self._spare:
            return True
        if own is None or not own.taken:
            return left >= 0
        return left >= self._first and own.taken + more <= self.part(weight)

    def of(self, caller: str) -> int:
        """How much of it a caller has."""
        own = self._owns.get(caller)
        return own.taken if own is not None else 0

    def part(self, weight: int = 1) -> int:
        """Return the share of a caller of this weight that is here: one more, as heavy as itself, may come."""
        return self.most * weight // (self._weights + weight)

    def take(self, caller: str, more: int = 1, weight: int = 1) -> None:
        """Take so much more, or less, whatever there is room for."""
        if not more:
            return
        own = self._owns.get(caller)
        if own is None:
            own = self._owns[caller] = _Own(weight)
            self._weights += weight
        own.taken += more
        self._taken += more
        if not own.taken:
            self._weights -= own.weight
            del self._owns[caller]

    def give_back(self, caller: str, less: int = 1) -> None:
        """Give so much back."""
        self.take(caller, -less)
