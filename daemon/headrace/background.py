"""
Work in the background, supervised: no task ends by a fault without being noticed.

What happens when one dies is a policy with two cases. Work that is done once (`start`) is logged and counted; nobody else is
harmed. Work that must go on as long as the process lives (`lasting`: leases, nudges, the heartbeat) is logged, counted and
started anew after a second; while it keeps dying, `failing` names it, and health says so. What cannot be started anew is the
loop itself: when that stands still no word goes to systemd's watchdog any more, which then ends the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from headrace import observe
from headrace.clock import Clock, SystemClock

log = structlog.get_logger()

_AGAIN_S = 1.0
_WELL_S = 10.0  # who has lived so long since it died is well again
_CANCEL_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class BackgroundStats:
    """What runs, by name; how many have died so far; which lasting work died within the last ten seconds."""

    running: tuple[str, ...]
    failures: int
    failing: tuple[str, ...]


class Background:
    """
    The tasks that one part runs beside the calls; `close` ends them.

    Args:
        name: the part's. With a task's own name, as in "budget.close", it is the label of the metric, so both are constants.
    """

    def __init__(self, name: str, clock: Clock | None = None) -> None:
        self._name = name
        self._clock = clock or SystemClock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._died: dict[str, tuple[float, str]] = {}  # lasting work -> when (Unix seconds) and by which kind of error
        self._failures = 0
        self._is_closed = False

    def __len__(self) -> int:
        return sum(not task.done() for task in self._tasks)

    def __repr__(self) -> str:
        stats = self.stats()
        failing = f", failing: {', '.join(stats.failing)}" if stats.failing else ""
        return f"<Background {self._name} [{len(stats.running)} running, {stats.failures} died{failing}]>"

    def stats(self) -> BackgroundStats:
        """Return its state now."""
        return BackgroundStats(tuple(sorted(task.get_name() for task in self._tasks)), self._failures, self.failing)

    @property
    def failing(self) -> tuple[str, ...]:
        """The lasting work that died within the last ten seconds."""
        now = self._clock.now()
        return tuple(sorted(part for part, (died_at, _) in self._died.items() if now - died_at < _WELL_S))

    def start(self, work: Coroutine[Any, Any, object], name: str) -> asyncio.Task[None]:
        """Do something once, in a task. An error it ends by is logged and counted, and not raised to who awaits the task."""
        task = self._spawn(self._once(work, self._part(name)), self._part(name))
        task.add_done_callback(lambda _: work.close())  # a task that is cancelled before its first step never began it
        return task

    def lasting(self, work: Callable[[], Coroutine[Any, Any, object]], name: str) -> asyncio.Task[None]:
        """Do something until it returns, beginning anew whenever it dies."""
        return self._spawn(self._again_and_again(work, self._part(name)), self._part(name))

    async def close(self) -> None:
        """Cancel all that runs and wait until it has ended; what is started from now on is cancelled at once."""
        self._is_closed = True
        # Again, if need be: a library that waits with asyncio.wait_for may swallow a cancellation (Python 3.11 does). By the
        # loop, so that it ends also where the clock stands still.
        while left := [task for task in self._tasks if task is not asyncio.current_task()]:
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=_CANCEL_AGAIN_S)

    def _part(self, name: str) -> str:
        return f"{self._name}.{name}"

    def _spawn(self, work: Coroutine[Any, Any, None], part: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=part)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._is_closed:
            task.cancel()
        return task

    async def _once(self, work: Coroutine[Any, Any, object], part: str) -> None:
        try:
            await work
        except Exception as error:
            self._note(part)
            log.exception(observe.PART_CRASHED, part=part, kind=type(error).__name__)

    async def _again_and_again(self, work: Callable[[], Coroutine[Any, Any, object]], part: str) -> None:
        while True:
            try:
                await work()
            except asyncio.CancelledError as error:
                # Either we are cancelled, or the work awaited something that somebody else cancelled: then it died.
                if _is_cancelled():
                    raise
                self._mourn(part, error)
            except Exception as error:
                self._mourn(part, error)
            else:
                return
            await self._clock.sleep(_AGAIN_S)

    def _note(self, part: str) -> None:
        self._failures += 1
        observe.BACKGROUND_FAILURES.inc(part)

    def _mourn(self, part: str, error: BaseException) -> None:
        self._note(part)
        kind = type(error).__name__
        # One line a state: what dies of the same every second is counted, and told once.
        if part not in self.failing or self._died[part][1] != kind:
            log.error(observe.PART_CRASHED, part=part, kind=kind, exc_info=error)
        self._died[part] = (self._clock.now(), kind)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
