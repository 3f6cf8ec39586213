"""A call's deadline as a block of code: what is not done by then is given up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from headrace.clock import Clock
from headrace.errors import DeadlinePassed


@contextlib.asynccontextmanager
async def until(deadline: float, clock: Clock) -> AsyncIterator[None]:
    """Run the block until *deadline* (Unix seconds), then cancel it and raise `DeadlinePassed`."""
    timeout = asyncio.timeout(max(0.0, deadline - clock.now()))
    try:
        async with timeout:
            yield
    except TimeoutError as error:
        if not timeout.expired():
            raise
        raise DeadlinePassed("the call's deadline passed before there was an answer") from error
