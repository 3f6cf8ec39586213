"""
The last word of a drain: whoever still waits when its time is nearly over hears why, and when to come again.

Without it gRPC ends what runs with a status that says nothing, and HTTP cuts connections. The task of a call is cancelled where
it waits, and that comes out of its block as `Draining`, which each door tells as it tells any refusal: as a status, as an
answer, or as the last event of a stream that has begun. Whoever has not said all that it asks hears it, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from headrace.errors import Draining

_AGAIN_S = 1.0


class LastWord:
    """All calls that run, of every door."""

    def __init__(self) -> None:
        self._running: set[Running] = set()
        self._others: list[Callable[[Draining], object]] = []

    def __repr__(self) -> str:
        return f"<LastWord [{len(self)} calls run]>"

    def __len__(self) -> int:
        return len(self._running)

    def call(self) -> Running:
        """Return the block of one call; it raises `Draining` if the last word comes while it runs."""
        return Running(self._running)

    def also(self, end: Callable[[Draining], object]) -> None:
        """Have others end, too, who are no blocks."""
        self._others.append(end)

    def say(self) -> None:
        """End all calls that run; said again, those that have begun since."""
        for running in list(self._running):
            running.end()
        for end in self._others:
            end(_no_time())


class Running:
    """One call. On the way of every call, so a class."""

    __slots__ = ("_all", "_cancels", "_is_ended", "_task")

    def __init__(self, all_running: set[Running]) -> None:
        self._all = all_running
        self._task: asyncio.Task[object] | None = None
        self._cancels = 0
        self._is_ended = False

    def __enter__(self) -> Running:
        self._task = asyncio.current_task()
        self._cancels = self._task.cancelling() if self._task else 0
        self._all.add(self)
        return self

    def end(self) -> None:
        """Let it hear the last word."""
        if self._task is not None and not self._is_ended:
            self._is_ended = True
            self._task.cancel()

    def leave(self, error: BaseException | None) -> Draining | None:
        """Go out of the block; return what is to be raised instead of the cancellation, if that was ours alone."""
        self._all.discard(self)
        task, self._task = self._task, None  # else the two would keep each other
        if not self._is_ended or task is None:
            return None
        if task.uncancel() > self._cancels or not isinstance(error, asyncio.CancelledError):
            return None  # its caller has left besides, or it had ended already
        return _no_time()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if said := self.leave(error):
            raise said from None


def _no_time() -> Draining:
    return Draining("the daemon leaves, and had no time left for this call", retry_after_s=_AGAIN_S)
