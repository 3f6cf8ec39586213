"""
Insisting: what cannot be done without Redis is asked again for a few seconds while Redis is away, a restart long.

For questions that may arrive twice, as all our scripts may. Whoever can do without Redis (the cache, leases) does not insist.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from headrace.clock import Clock
from headrace.errors import RedisAway, RedisRefused

PATIENCE_S = 5.0

_PAUSE_S = 0.05
_MOST_PAUSE_S = 0.5

_T = TypeVar("_T")


async def insist(clock: Clock, ask: Callable[[], Awaitable[_T]]) -> _T:
    """Return what *ask* comes to; raises `RedisAway` after five seconds in vain, and `RedisRefused` at once."""
    give_up, pause_s = clock.span() + PATIENCE_S, _PAUSE_S
    while True:
        try:
            return await ask()
        except RedisRefused:  # there is nothing to wait for
            raise
        except RedisAway:
            left_s = give_up - clock.span()
            if left_s <= 0:
                raise
            await clock.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _MOST_PAUSE_S)
