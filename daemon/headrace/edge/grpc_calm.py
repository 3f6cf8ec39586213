"""
When nobody stands before the loop any more: the moment at which a server of grpcio's can be stopped.

grpcio takes calls in before the loop comes to them, and when a server is stopped, those that wait are ended with CANCELLED and
not a word more, which their callers take for final. So who drains goes on taking calls, to refuse each with a reason and a
time, until no more come for a moment; who was told to come again in a second has left the line by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_LOOK_S = 0.05
_LOOKS = 3  # as long as any call waits, each turn of the loop takes one: so many looks without one, and there is none
_LEAST_S, _MOST_S = 0.5, 2.0
_SHARE = 0.25  # of the time of a drain


async def calm(taken: Callable[[], int], grace_s: float) -> float:
    """
    Wait until no call has been taken for a moment, for a part of the grace at most; return what is left of that, in seconds.

    Args:
        taken: returns how many calls have come to the loop.
    """
    loop, looks = asyncio.get_running_loop(), 0  # by the loop's clock: sockets wait
    began = loop.time()
    most_s = min(_MOST_S, max(_LEAST_S, _SHARE * grace_s))
    while looks < _LOOKS and loop.time() - began < most_s:
        before = taken()
        await asyncio.sleep(_LOOK_S)
        looks = looks + 1 if taken() == before else 0
    return max(0.0, grace_s - (loop.time() - began))
