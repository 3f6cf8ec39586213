"""
What a change of the limits, or of the callers on hold, does to those who wait: they take their places anew, the oldest first.

Who comes meanwhile stands back, until all who were there before the change have moved: else it would go before them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from headrace.clock import Clock
from headrace.crowd import Waiting
from headrace.schedule.place import Place
from headrace.schedule.slices import Slices, Work


@dataclass(frozen=True, slots=True)
class MovingStats:
    """How many changes are being carried out, and how many stand back meanwhile."""

    changes: int
    newcomers: int


class Moving:
    """
    Moves those who wait.

    Args:
        places: returns all who wait in lines.
        is_outdated: whether one of them is to take its place anew.
    """

    def __init__(
        self, clock: Clock, slices: Slices, places: Callable[[], Iterable[Place]], is_outdated: Callable[[Place], bool]
    ) -> None:
        self._clock = clock
        self._slices = slices
        self._places = places
        self._is_outdated = is_outdated
        self._changes = 0  # whose moves go on
        self._newcomers: deque[asyncio.Future[None]] = deque()  # since a change, until all who were there have moved

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Moving [{stats.changes} changes, {stats.newcomers} stand back]>"

    def stats(self) -> MovingStats:
        """Return its state now."""
        return MovingStats(self._changes, len(self._newcomers))

    @property
    def is_on(self) -> bool:
        """Whether somebody may still have to move."""
        return self._changes > 0

    def start(self) -> None:
        """Something has changed: look at all who wait."""
        self._changes += 1
        self._slices.start(self._move(), "reload")

    def _move(self) -> Work:
        try:
            moving: deque[Place] = deque()
            for place in sorted(self._places(), key=_arrival):
                if self._is_outdated(place):
                    place.is_outdated = True  # whoever is called before it has moved asks for nothing under the old limits
                    moving.append(place)
                yield 0
            # The oldest first, a few at a time: taking ten thousand places anew would hold the loop for a second, and so would
            # letting go of all the old ones in the end.
            while moving:
                moving.popleft().outdate()
                yield 1
            while self._newcomers and self._changes == 1:
                yield self._let_in()
        finally:
            self._changes -= 1
            while self._newcomers and not self._changes:  # only if something broke
                self._let_in()

    def _let_in(self) -> bool:
        newcomer = self._newcomers.popleft()
        if newcomer.done():  # it has left
            return False
        newcomer.set_result(None)
        return True

    async def stand_back(self, counted: Waiting, latest: float) -> None:
        """
        Wait until all who were there before have moved, though they may not have taken their places anew yet.

        No longer than until *latest* (Unix seconds): whose time to begin is over takes its place now, and is told so there.
        """
        counted.take()
        newcomer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._newcomers.append(newcomer)
        with contextlib.suppress(TimeoutError):
            async with self._clock.timeout(latest - self._clock.now()):
                await newcomer


def _arrival(place: Place) -> tuple[float, int]:
    _, arrival, number = place.urgency
    return arrival, number
