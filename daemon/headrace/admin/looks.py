"""
A look at all processes at once: what the board says of budgets, and what each process says of itself.

One look serves all views, and all who look within a quarter of a second. The history that processes remember is asked for in
full now and then, since a process may have come, and else only as far as it is new.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.admin.bins import Bin, History, number_of
from headrace.admin.fresh import Fresh
from headrace.admin.reporter import News, Reporter
from headrace.admin.rows import HostRow
from headrace.budgets import Board
from headrace.budgets.board import State
from headrace.clock import Clock

_FRESH_S = 0.25
_WHOLE_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at a moment (Unix seconds); *asked*: how many processes there were to answer."""

    at: float
    state: State
    news: Sequence[News]
    asked: int
    history: Sequence[Bin | None]

    @property
    def hosts(self) -> list[HostRow]:
        """The processes that answered."""
        return [each.host for each in self.news if each.host is not None]


class Looks:
    """Looks."""

    def __init__(self, clock: Clock, board: Board, reporter: Reporter) -> None:
        self._clock = clock
        self._board = board
        self._reporter = reporter
        self._history = History()
        self._whole_at = -_WHOLE_EVERY_S
        self._known_to = 0
        self._fresh: Fresh[None, Look] = Fresh(self._look, _FRESH_S, time.monotonic)

    def __repr__(self) -> str:
        return f"<Looks {self._fresh!r} {self._history!r}>"

    async def look(self) -> Look:
        """Return a look that is fresh; raises `RedisAway`."""
        return await self._fresh.get(None)

    async def _look(self, _: None) -> Look:
        now = self._clock.now()
        is_whole = time.monotonic() - self._whole_at >= _WHOLE_EVERY_S
        state, taken = await asyncio.gather(self._board.state(), self._reporter.news(0 if is_whole else self._known_to - 1))
        for each in taken.views:
            self._history.learn(each.daemon, each.bins)
        self._history.forget(now)
        self._known_to = number_of(now)
        if is_whole:
            self._whole_at = time.monotonic()
        return Look(now, state, taken.views, taken.asked, self._history.window(now))
