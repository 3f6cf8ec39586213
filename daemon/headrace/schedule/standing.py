"""
Those who stand in a line, by rank, with running totals of what they want. Pure.

They are kept in blocks of at most `_BLOCK`, each with the sum of its costs. So to know what those before a place want takes a
look at a few blocks and the places of one, not at everybody; and so does finding those who will not be granted in time.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Generic, Protocol, TypeVar

from headrace.schedule.outlook import Delay, Outlook

Rank = tuple[int, int]  # how equals are told apart: by the number of their call

_BLOCK = 256


class Standing(Protocol):
    """What is needed of a place."""

    @property
    def rank(self) -> Rank: ...
    @property
    def costs(self) -> tuple[int, ...]: ...
    @property
    def latest(self) -> float: ...


P = TypeVar("P", bound=Standing)
_rank = attrgetter("rank")


class _Block(Generic[P]):
    """Neighbours in line. `worst` is None until it is worked out anew after a change."""

    __slots__ = ("earliest", "places", "sums", "worst")

    def __init__(self, places: list[P], width: int) -> None:
        self.places = places
        self.sums = [0] * width
        for place in places:
            self.count(place, 1)
        self.worst: list[float] | None = None
        self.earliest = 0.0

    def count(self, place: P, sign: int) -> None:
        self.sums = [total + sign * cost for total, cost in zip(self.sums, place.costs, strict=True)]
        self.worst = None

    def weigh(self, outlook: Outlook) -> list[float]:
        """Return, bucket by bucket, by how much the latest of them would be late if the block were the first in line."""
        if self.worst is None:
            self.earliest = min(place.latest for place in self.places)
            worst, needs = [float("-inf")] * len(self.sums), [0] * len(self.sums)
            for place in self.places:
                needs = plus(needs, place.costs)
                worst = [max(most, span - place.latest) for most, span in zip(worst, outlook.spans(needs), strict=True)]
            self.worst = worst
        return self.worst

    def late(self, needs: Sequence[int], outlook: Outlook, now: float) -> tuple[list[tuple[P, Delay]], Sequence[int]]:
        """Return those who are late, if *needs* come before all here, and what is needed up to here without them."""
        worst = self.weigh(outlook)  # before `earliest` is read
        ahead = zip(outlook.spans(needs), worst, outlook.headstarts(), strict=True)
        flows_in = max(now, outlook.front_due) <= self.earliest and all(before + most <= start for before, most, start in ahead)
        if flows_in and outlook.has_room(plus(needs, self.sums), self.earliest):
            return [], plus(needs, self.sums)
        found: list[tuple[P, Delay]] = []
        for place in self.places:
            with_it = plus(needs, place.costs)
            delay = outlook.delay(with_it, now)
            if now + delay.seconds > place.latest:
                found.append((place, delay))
            else:
                needs = with_it
        return found, needs


class Ranks(Generic[P]):
    """Places by rank. *width* is the number of buckets, and so of costs, of each."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._blocks: list[_Block[P]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[P]:
        for block in self._blocks:
            yield from block.places

    @property
    def first(self) -> P | None:
        """The one that is next."""
        return self._blocks[0].places[0] if self._blocks else None

    def add(self, place: P) -> None:
        """Let a place stand where its rank is."""
        self._count += 1
        if not self._blocks:
            self._blocks.append(_Block([place], self._width))
            return
        index, block = len(self._blocks) - 1, self._blocks[-1]
        if place.rank > block.places[-1].rank:  # as nearly all who come
            block.places.append(place)
        else:
            index = self._find(place.rank)
            block = self._blocks[index]
            bisect.insort(block.places, place, key=_rank)
        block.count(place, 1)
        if len(block.places) > _BLOCK:
            half = len(block.places) // 2
            halves = block.places[:half], block.places[half:]
            self._blocks[index : index + 1] = [_Block(places, self._width) for places in halves]

    def remove(self, place: P) -> bool:
        """Take a place out; return whether it was there."""
        index = self._find(place.rank)
        if index == len(self._blocks):
            return False
        block = self._blocks[index]
        at = bisect.bisect_left(block.places, place.rank, key=_rank)
        if block.places[at] is not place:
            return False
        del block.places[at]
        block.count(place, -1)
        self._count -= 1
        if not block.places:
            del self._blocks[index]
        return True

    def at(self, rank: Rank) -> P:
        """Return who has this rank; raises `KeyError` if nobody has."""
        index = self._find(rank)
        places = self._blocks[index].places if index < len(self._blocks) else []
        at = bisect.bisect_left(places, rank, key=_rank)
        if at == len(places) or places[at].rank != rank:
            raise KeyError(rank)
        return places[at]

    def holds(self, place: P) -> bool:
        """Whether a place stands here."""
        try:
            return self.at(place.rank) is place
        except KeyError:
            return False

    def before(self, rank: Rank) -> list[int]:
        """Return what those of lower rank want, bucket by bucket."""
        needs = [0] * self._width
        for block in self._blocks:
            if block.places[-1].rank < rank:
                needs = plus(needs, block.sums)
                continue
            for place in block.places:
                if place.rank >= rank:
                    break
                needs = plus(needs, place.costs)
            break
        return needs

    def late(self, needs: Sequence[int], outlook: Outlook, now: float) -> Iterator[list[tuple[P, Delay]]]:
        """
        Yield, block by block, those who will be granted past their latest moment, if *needs* come before all.

        Who is late, leaves. Between two blocks the places may change; who comes in the meantime is not looked at.
        """
        rank: Rank = (-1, 0)
        while (index := self._find(rank)) < len(self._blocks):
            block = self._blocks[index]
            if block.places[0].rank < rank:
                return  # who has joined the last block since it was looked at
            first, number = block.places[-1].rank
            rank = first, number + 1
            found, needs = block.late(needs, outlook, now)
            yield found

    def _find(self, rank: Rank) -> int:
        # The first block that may hold this rank; one past the end if all hold lower ones.
        return bisect.bisect_left(self._blocks, rank, key=lambda block: block.places[-1].rank)


def plus(some: Sequence[int], more: Sequence[int]) -> list[int]:
    """Return two lists of costs added up."""
    return [one + other for one, other in zip(some, more, strict=True)]
