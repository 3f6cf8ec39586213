"""A call's deadline as a block of code: what is not done by then is given up."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from headrace.clock import Clock, Timeout
from headrace.errors import DeadlinePassed


class Bound:
    """The moment by which a block must be done. It can be moved while the block runs."""

    def __init__(self, timeout: Timeout, clock: Clock) -> None:
        self._timeout = timeout
        self._clock = clock
        self.is_moved = False

    def move(self, deadline: float | None) -> None:
        """Let the block take until another moment (Unix seconds), or as long as it does (None)."""
        if not self._timeout.expired():
            self.is_moved = True
            self._clock.reset(self._timeout, None if deadline is None else deadline - self._clock.now())


@contextlib.asynccontextmanager
async def until(deadline: float, clock: Clock) -> AsyncIterator[Bound]:
    """Run the block until *deadline* (Unix seconds), then cancel it and raise `DeadlinePassed`."""
    timeout = clock.timeout(deadline - clock.now())
    bound = Bound(timeout, clock)
    try:
        async with timeout:
            yield bound
    except TimeoutError as error:
        if not timeout.expired():
            raise
        what = "its answer was whole" if bound.is_moved else "there was an answer"
        raise DeadlinePassed(f"the call's deadline passed before {what}") from error
