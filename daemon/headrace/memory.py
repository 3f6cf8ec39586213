"""
Memory that a crowd took and that is free once it has left: given back to the system, as far as that goes.

Two keep what is free. The C library does, and gives it back when it is told to (glibc). Python itself takes memory by the
megabyte, and gives a megabyte back once nothing at all is in it; so small things that outlive a crowd, scattered over all that
it took, keep everything. Most of them are tuples that Python keeps to use again, thousands, until it collects garbage; so that
is done once nearly nobody waits any more, and there is hardly anything to walk through. Others are not made while calls wait
(`Hits.remember`). What stays all the same is used by the next crowd (docs/performance.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
from collections.abc import Callable

from headrace.clock import Clock

_LOOKS_EVERY_S = 5.0
_CROWD = 500
_FEW = 50  # of whom a collection takes a few milliseconds
_TIMES = 4  # what left last leaves something in its turn: words to Redis, timers, connections that close


def give_back() -> None:
    """Give back what is free. It takes milliseconds, and lets go of the interpreter's lock."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


async def keep_small(clock: Clock, waiting: Callable[[], int]) -> None:
    """Give back what a crowd took whenever one has left, until cancelled; *waiting* says how many wait."""
    most = times = 0
    while True:
        await clock.sleep(_LOOKS_EVERY_S)
        most = max(most, now := waiting())
        if most >= _CROWD and now < most / 2:
            most, times = now, _TIMES
        if times:
            times -= 1
            if now < _FEW:
                gc.collect()
            await asyncio.to_thread(give_back)
