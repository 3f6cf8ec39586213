"""A call's deadline as a block of code: what is not done by then is given up."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from headrace.clock import Clock, Timeout
from headrace.errors import DeadlinePassed


class Bound:
    """The moment by which a block must be done; it can be moved while the block runs."""

    def __init__(self, timeout: Timeout) -> None:
        self._timeout = timeout

    def lift(self) -> None:
        """Let the block take as long as it does. After the block, or after the deadline, this changes nothing."""
        with contextlib.suppress(RuntimeError, AssertionError):
            self._timeout.reschedule(None)


@contextlib.asynccontextmanager
async def until(deadline: float | None, clock: Clock) -> AsyncIterator[Bound]:
    """Run the block until *deadline* (Unix seconds; None: no bound), then cancel it and raise `DeadlinePassed`."""
    timeout = clock.timeout(None if deadline is None else deadline - clock.now())
    try:
        async with timeout:
            yield Bound(timeout)
    except TimeoutError as error:
        if not timeout.expired():
            raise
        raise DeadlinePassed("the call's deadline passed before there was an answer") from error
