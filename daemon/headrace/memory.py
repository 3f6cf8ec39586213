"""
Memory that was taken for a while and is free again (a crowd's, a flood's, a large body's): given back to the system.

Two keep what is free. The C library does, and gives it back when it is told to (glibc). Python itself takes memory by the
megabyte, and gives a megabyte back once nothing at all is in it; so small things that outlive a crowd, scattered over all that
it took, keep everything: tuples that Python keeps to use again until it collects garbage, and circles that waited so long that
Python looks for them last. So where the process holds much more than it did at rest, garbage is collected, if nearly nobody
waits and there is hardly anything to walk through, and what is free is given back. What stays all the same is in use, or the
next crowd uses it (docs/performance.md): then it is tried again more and more rarely, until something moves. What kept answers
take is in use, too, and known: while a cache fills, nothing is looked for that is free.

What is large lies apart from the beginning, and is given back at once when it is free: a body of 31 MB among small things would
leave a hole of its size that the next one hardly fits into. The C library does that by itself until the first one is free, and
from then on no more: it takes what comes again for something to keep.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headrace.clock import Clock

_LOOKS_EVERY_S = 5.0
_RAREST_S = 300.0
_MUCH, _MOVED = 20_000_000, 5_000_000  # bytes: more than at rest, and more or less than the last time
_SHARE = 0.01  # of the loop's time, at most, for collecting garbage
_CROWD, _TIMES = 500, 4  # what left last leaves something in its turn: words to Redis, timers, connections that close
_FEW = 50  # of whom a collection takes a few milliseconds
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # parameters of mallopt
_LARGE_BYTES = 1 << 20  # of what lies apart: to ask the system for less of it would cost as much as what is done with it
_KEPT_BYTES = 16 << 20  # that may be free at the end of an arena: to take and give it back in each turn would cost more
_ARENAS = 2


def lay_apart() -> None:
    """Have the C library keep what is large apart, for as long as this process lives; nothing where it cannot be told."""
    with contextlib.suppress(AttributeError, OSError):
        tell = ctypes.CDLL(None).mallopt
        tell(_MMAP_THRESHOLD, _LARGE_BYTES)
        tell(_TRIM_THRESHOLD, _KEPT_BYTES)
        tell(_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Give back what is free. It takes milliseconds, and lets go of the interpreter's lock."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def resident() -> int:
    """Return how many bytes this process holds in memory; 0 where that is not told."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    return 0


@dataclass(slots=True)
class Pace:
    """
    How often giving back is tried.

    Args:
        rest: bytes that are held at rest: the fewest seen so far.
        left: bytes that were held when it was last tried.
    """

    rest: int
    left: int = 0
    due_s: float = 0.0
    pause_s: float = _LOOKS_EVERY_S

    def is_due(self, held: int, now_s: float) -> bool:
        """Whether to try now, with so many bytes held."""
        self.rest = min(self.rest, held)
        if abs(held - self.left) > _MOVED:
            self.due_s, self.pause_s = now_s, _LOOKS_EVERY_S
        return held - self.rest > _MUCH and now_s >= self.due_s

    def tried(self, held: int, now_s: float) -> None:
        """Take note of how many bytes are held when it has been tried."""
        self.left, self.due_s = held, now_s + self.pause_s
        self.pause_s = min(2 * self.pause_s, _RAREST_S)


async def keep_small(clock: Clock, waiting: Callable[[], int], kept: Callable[[], int] = int) -> None:
    """
    Lay apart what is large, and give back what is free when a crowd has left, and when much more is held than at rest.

    Args:
        waiting: says how many wait.
        kept: says how many bytes kept answers take, which do not count among those that are held.
    """

    def held() -> int:
        return max(0, resident() - kept())

    lay_apart()
    pace, collected_s = Pace(held()), 0.0
    most = times = 0
    while True:
        await clock.sleep(_LOOKS_EVERY_S)
        most = max(most, now := waiting())
        if most >= _CROWD and now < most / 2:
            most, times = now, _TIMES
        now_s = clock.span()
        if not (times or pace.is_due(held(), now_s)):
            continue
        if now < _FEW and (times or now_s >= collected_s):
            collected_s = now_s + _collect() / _SHARE
        times = max(0, times - 1)
        await asyncio.to_thread(give_back)
        pace.tried(held(), now_s)


def _collect() -> float:
    # Returns how long it took, in seconds.
    began = time.thread_time()
    gc.collect()
    return time.thread_time() - began
