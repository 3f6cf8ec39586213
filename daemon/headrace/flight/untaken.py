"""
Streams that some caller here takes, whether upstream still says them or has said them to the end: bounded in sum.

A flight keeps its events for as long as a member takes them, and so for as long as the slowest of its readers likes, up to
`listen.write_timeout`: hundreds of readers who take nothing would hold gigabytes. So when too much lies here, those are ended
who have hardly taken anything between two looks, the largest answers first. Whoever takes all of it within two minutes, at its
pace, is left in peace; and so is, while upstream speaks, whoever has had the most of what it said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from headrace import observe

_MOST_BYTES = 64_000_000
_LOOK_S = 1.0
_LEAST_PARTS = 120  # of an answer one in so many is taken between two looks
_CLOSE = 0.25  # of what was said so far: who lacks no more follows it


class Reader(Protocol):
    """Somebody who takes an answer."""

    @property
    def taken(self) -> int:
        """How many of its events were taken so far."""

    def end(self) -> None:
        """Give it up."""


class Held(Protocol):
    """An answer, or what there is of it so far, that is kept for those who take it."""

    @property
    def readers(self) -> Sequence[Reader]: ...

    @property
    def length(self) -> int:
        """How many events it has."""

    @property
    def is_over(self) -> bool:
        """Whether it will have no more."""

    @property
    def cost_bytes(self) -> int:
        """What it takes in memory."""


class Untaken:
    """
    Counts what lies here.

    Args:
        most_bytes: how much that may be, in memory and not on the wire.
        call_later: of the loop, by default of the one that runs when it is needed.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES, *, call_later: Callable[..., object] | None = None) -> None:
        self._most = most_bytes
        self._call_later = call_later
        self._costs: dict[Held, int] = {}
        self._bytes = 0
        self._seen: dict[Reader, int] = {}  # how far each was at the last look
        self._is_looking = False

    def __repr__(self) -> str:
        return f"<Untaken [{len(self._costs)} answers, {self._bytes} of {self._most} bytes]>"

    def count(self, held: Held) -> None:
        """Count an answer as it is now: it has grown, or is over."""
        cost_bytes = held.cost_bytes
        self._bytes += cost_bytes - self._costs.get(held, 0)
        self._costs[held] = cost_bytes
        if self._bytes > self._most:
            self._look_later()

    def discard(self, held: Held) -> None:
        """Count an answer no longer: nobody takes it any more."""
        self._bytes -= self._costs.pop(held, 0)

    def _look_later(self) -> None:
        if not self._is_looking:
            self._is_looking = True
            (self._call_later or asyncio.get_running_loop().call_later)(_LOOK_S, self._look)

    def _look(self) -> None:
        self._is_looking = False
        before, self._seen = self._seen, {reader: reader.taken for held in self._costs for reader in held.readers}
        over = self._bytes - self._most
        for held in sorted(self._costs, key=self._costs.__getitem__, reverse=True):
            if over <= 0:
                break
            readers = held.readers
            if readers and all(reader in before and _is_deaf(reader, before[reader], held) for reader in readers):
                over -= self._costs[held]
                self._end(readers)
        if self._bytes > self._most:
            self._look_later()
        else:
            self._seen = {}

    def _end(self, readers: Sequence[Reader]) -> None:
        for reader in readers:
            reader.end()
        observe.REFUSED.inc("any", "unread", by=len(readers))


def _is_deaf(reader: Reader, before: int, held: Held) -> bool:
    """Whether it has taken next to nothing since it had taken so many, and has much to take."""
    lag = held.length - before
    if not held.is_over and lag <= held.length * _CLOSE:
        return False
    return reader.taken - before < (held.length if held.is_over else lag) / _LEAST_PARTS
