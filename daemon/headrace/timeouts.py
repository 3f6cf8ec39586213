"""
A bound on a block of code by the loop's time: `asyncio.timeout`, for a third of what that takes; every call is under two.

What is done with a cancellation is the same: one that comes from elsewhere passes, even at the moment at which the bound rings.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any


class LoopTimeout:
    """
    A block that is cancelled after so many seconds and raises `TimeoutError`; None sets no bound. It is entered once.

    Its alarm is set when it is entered.
    """

    __slots__ = ("_alarm", "_has_rung", "_loop", "_seconds", "_task", "_was_cancelling")

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._alarm: asyncio.Handle | None = None
        self._task: asyncio.Task[Any] | None = None  # whose block runs under it
        self._has_rung = False

    def __repr__(self) -> str:
        state = "rung" if self._has_rung else "set" if self._alarm else "not set"
        return f"<LoopTimeout [{state}]>"

    async def __aenter__(self) -> LoopTimeout:
        self._loop = loop = asyncio.get_running_loop()
        self._task = task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a timeout bounds what a task does")
        self._was_cancelling = task.cancelling()
        if self._seconds is not None:
            self._alarm = loop.call_later(max(0.0, self._seconds), self._ring)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        task, self._task = self._task, None
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._has_rung and task is not None and task.uncancel() <= self._was_cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _ring(self) -> None:
        self._alarm = None
        if self._task is not None:
            self._has_rung = True
            self._task.cancel()

    def expired(self) -> bool:
        """Whether the bound ended the block."""
        return self._has_rung

    def reschedule(self, when: float | None) -> None:
        """Let it ring at another moment of the loop's time, while its block runs; None lifts it."""
        if self._task is None or self._has_rung:
            raise RuntimeError("only a timeout whose block runs can be set anew")
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None if when is None else self._loop.call_at(when, self._ring)
