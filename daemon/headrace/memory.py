"""
Memory that is free and that the allocator keeps, as after a flood: given back to the system, where glibc can do that.

What Python itself keeps is another matter: it takes memory by the megabyte, and gives a megabyte back once nothing at all is in
it. After thousands of calls have waited, a little of what goes on is left in most of them. That part stays, is used by the next
crowd, and so grows no further than the largest crowd needed (docs/performance.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
from collections.abc import Callable

from headrace.clock import Clock

_LOOKS_EVERY_S = 5.0
_CROWD = 500


def give_back() -> None:
    """Give back what is free. It takes milliseconds, and lets go of the interpreter's lock."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


async def keep_small(clock: Clock, waiting: Callable[[], int]) -> None:
    """Give back what a crowd took whenever one has left, until cancelled; *waiting* says how many wait."""
    most = 0
    while True:
        await clock.sleep(_LOOKS_EVERY_S)
        most = max(most, now := waiting())
        if most >= _CROWD and now < most / 2:
            most = now
            await asyncio.to_thread(give_back)
