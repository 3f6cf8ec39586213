"""
Time, handed in from outside, so that tests turn it by hand.

A deadline is a moment in Unix seconds: it travels with the call, through the queue and to other hosts. Redis keeps its own
clock for everything that several hosts must agree on. So a process goes by Redis's clock as soon as it has heard it, and in
between by the machine's monotonic one: however wrong a host's own clock is, and however often somebody sets it, a moment is the
same for all.

Two things do not go by this clock. What is only measured goes by `time.monotonic`, or by `span` where tests turn it. And
patience with a socket or a process goes by the loop's time or the machine's: those are real in every test, and a hand that
turns the clock must not turn them.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

from headrace.timeouts import LoopTimeout

_APART_S = 0.05
_END_OF_TIME = 253_402_300_800.0  # the year 10,000, which no timestamp of protobuf can say


def is_moment(seconds: float) -> bool:
    """Whether a number can be a moment, in Unix seconds: one that comes out of a record may be anything."""
    return 0 <= seconds < _END_OF_TIME


class Timeout(Protocol):
    """A bound on a block of code; `asyncio.Timeout` is one, too."""

    def expired(self) -> bool:
        """Whether the bound ended the block."""

    def reschedule(self, when: float | None) -> None:
        """Lift the bound (None), or let it ring at once (0.0); for other moments there is `Clock.reset`."""

    async def __aenter__(self) -> Any: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...


class Clock(Protocol):
    """What the parts need of time."""

    def now(self) -> float:
        """Return the time in Unix seconds."""

    def span(self) -> float:
        """Return seconds that only go forward, to measure by."""

    def go_by(self, moment: float, asked: float, heard: float) -> None:
        """Go by another clock, which said *moment* (Unix seconds) between two moments by `span`."""

    async def sleep(self, seconds: float) -> None:
        """Wait; zero and below only yields."""

    def timeout(self, seconds: float | None) -> Timeout:
        """
        Return `asyncio.timeout`, but by this clock: a block that is cancelled after so many seconds and raises `TimeoutError`.

        None sets no bound.
        """

    def reset(self, timeout: Timeout, seconds: float | None) -> None:
        """Let a timeout whose block runs ring so many seconds from now instead; None lifts it."""

    def call_later(self, seconds: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call back in so many seconds, unless the timer is cancelled before."""


async def until_set(event: asyncio.Event, clock: Clock, seconds: float) -> None:
    """Wait until an event is set, for so many seconds at most."""
    # Not by `asyncio.wait_for`: before Python 3.12 it loses a cancellation that comes together with the event.
    with contextlib.suppress(TimeoutError):
        async with clock.timeout(seconds):
            await event.wait()


class Timer(Protocol):
    """What `call_later` returns."""

    def cancel(self) -> object: ...


class Timers(Protocol):
    """Callbacks at a later time, as an event loop has them; the loop itself is one."""

    def time(self) -> float:
        """Return seconds that only go forward."""

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call back in *delay* seconds."""


class SystemClock:
    """The machine's clock as it was when the process began, until it hears of a better one."""

    _ahead = time.time() - time.monotonic()

    def __repr__(self) -> str:
        return f"<SystemClock [{self.now():.3f}]>"

    def now(self) -> float:
        return time.monotonic() + self._ahead

    span = staticmethod(time.monotonic)

    def go_by(self, moment: float, asked: float, heard: float) -> None:
        ahead = moment - (asked + heard) / 2
        # A clock that runs on undisturbed is worth more than one that is heard anew over a network each time.
        if abs(ahead - self._ahead) > max(_APART_S, (heard - asked) / 2):
            self._ahead = ahead

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    def timeout(self, seconds: float | None) -> Timeout:
        return LoopTimeout(seconds)

    def reset(self, timeout: Timeout, seconds: float | None) -> None:
        timeout.reschedule(None if seconds is None else asyncio.get_running_loop().time() + max(0.0, seconds))

    def call_later(self, seconds: float, callback: Callable[..., object], *args: Any) -> Timer:
        return asyncio.get_running_loop().call_later(max(0.0, seconds), callback, *args)


class HandClock:
    """A clock for tests: it stands still until `advance` is called, which wakes the sleepers that are due, in order."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def __repr__(self) -> str:
        return f"<HandClock [{len(self._sleepers)} asleep]>"

    def now(self) -> float:
        return self._now

    span = now

    def go_by(self, moment: float, asked: float, heard: float) -> None:
        pass  # a test says what time it is

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        await self._alarm(seconds)

    def timeout(self, seconds: float | None) -> Timeout:
        return _HandTimeout(None if seconds is None else self._alarm(seconds))

    def reset(self, timeout: Timeout, seconds: float | None) -> None:
        timeout.reschedule(None)
        if isinstance(timeout, _HandTimeout) and seconds is not None:
            timeout.ring_with(self._alarm(seconds))

    def call_later(self, seconds: float, callback: Callable[..., object], *args: Any) -> Timer:
        timer = self._alarm(seconds)
        timer.add_done_callback(lambda rung: None if rung.cancelled() else callback(*args))
        return timer

    def _alarm(self, seconds: float) -> asyncio.Future[None]:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if seconds <= 0:
            woken.set_result(None)
        else:
            heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), woken))
        return woken

    async def advance(self, seconds: float) -> None:
        """Move time on, stopping at each sleeper's moment so that it sees the time it asked for."""
        until = self._now + seconds
        while self._sleepers and self._sleepers[0][0] <= until:
            due, _, woken = heapq.heappop(self._sleepers)
            self._now = max(self._now, due)
            if not woken.done():
                woken.set_result(None)
            for _ in range(10):
                await asyncio.sleep(0)
        self._now = until


class _HandTimeout:
    """A timeout that rings when its alarm does, unless it was lifted or left before."""

    def __init__(self, alarm: asyncio.Future[None] | None) -> None:
        self._timeout = asyncio.timeout(None)
        self._alarm: asyncio.Future[None] | None = None
        if alarm is not None:
            self.ring_with(alarm)

    def ring_with(self, alarm: asyncio.Future[None]) -> None:
        self._alarm = alarm
        alarm.add_done_callback(self._ring)

    def _ring(self, alarm: asyncio.Future[None]) -> None:
        if not alarm.cancelled():
            with contextlib.suppress(RuntimeError):  # its block has ended just now
                self._timeout.reschedule(asyncio.get_running_loop().time())

    def _quiet(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()

    def expired(self) -> bool:
        return self._timeout.expired()

    def reschedule(self, when: float | None) -> None:
        self._quiet()
        self._timeout.reschedule(when)

    async def __aenter__(self) -> _HandTimeout:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._quiet()
        await self._timeout.__aexit__(kind, error, trace)
