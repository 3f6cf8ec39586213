"""
Moves of tickets that go to their end, though whoever wanted them may be cancelled meanwhile.

A script that is on its way to Redis cannot be called back, and what it has done can be undone only once that is known: what is
sent again, after its connection was lost, would come second. So a move is a task of its own; who is cancelled leaves it alone,
and starts another one that undoes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class MovesStats:
    """How many moves are on their way."""

    moving: int


class Moves:
    """The moves that this process makes."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"<Moves [{self.stats().moving} moving]>"

    def stats(self) -> MovesStats:
        """Return its state now."""
        return MovesStats(len(self._tasks))

    def start(self, work: Coroutine[Any, Any, _Made]) -> asyncio.Task[_Made]:
        """Begin a move; await it behind `asyncio.shield`."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # who was cancelled never looks; that is no news

    async def settled(self) -> None:
        """Wait until nothing moves."""
        while self._tasks:
            await asyncio.wait(self._tasks)
