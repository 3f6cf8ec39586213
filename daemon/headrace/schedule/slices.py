"""
Work on all who wait, in slices: between two of them the loop has its turn, so that nobody waits for ten thousand others.

The work is a generator that yields after each small step how many it has just woken: whoever is woken has work of its own, and
does it in the next turn of the loop, all of them in one. So a slice ends after some time, or when it has woken some.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from dataclasses import dataclass

from headrace.background import Background

Work = Generator[int, None, None]

_SLICE_S = 0.002
_WOKEN = 16  # each takes its place anew or answers its caller, in a few tenths of a millisecond


@dataclass(frozen=True, slots=True)
class SlicesStats:
    """How many slices there have been."""

    slices: int


class Slices:
    """Does one work after the other, in the order in which they came."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._turn = asyncio.Lock()
        self._slices = 0

    def __repr__(self) -> str:
        return f"<Slices [{self.stats().slices} slices]>"

    def stats(self) -> SlicesStats:
        """Return how much was done."""
        return SlicesStats(self._slices)

    def start(self, work: Work, name: str) -> asyncio.Task[None]:
        """Begin a work, when those that came before are done."""
        return self._background.start(self._run(work), name)

    async def _run(self, work: Work) -> None:
        async with self._turn:
            while _slice(work):
                self._slices += 1
                await asyncio.sleep(0)
            self._slices += 1


def _slice(work: Work) -> bool:
    """Do a slice of the work; return whether more is left."""
    woken, until = 0, time.perf_counter() + _SLICE_S
    for more in work:
        woken += more
        if woken >= _WOKEN or time.perf_counter() >= until:
            return True
    return False
