"""
What waits for as long as its caller likes, and ends when the daemon drains: its caller can wait elsewhere.

A call that is being answered is another thing: it has until the end of the drain.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from headrace.errors import Draining

_AGAIN_S = 1.0


class Leaving:
    """
    All waits of one kind.

    Args:
        said: what each is told.
    """

    def __init__(self, said: str) -> None:
        self._said = said
        self._has_begun = False
        self._waits: set[asyncio.Timeout] = set()

    def __repr__(self) -> str:
        return f"<Leaving [{len(self._waits)} wait]>"

    def begin(self) -> None:
        """End all waits, and those that are yet to come."""
        self._has_begun = True
        for wait in self._waits:
            wait.reschedule(0)

    @contextlib.asynccontextmanager
    async def unless(self) -> AsyncIterator[None]:
        """Wait; raises `Draining` when the daemon drains meanwhile."""
        wait = asyncio.timeout(0 if self._has_begun else None)
        self._waits.add(wait)
        try:
            async with wait:
                yield
        except TimeoutError as error:
            if not wait.expired():
                raise
            raise Draining(self._said, retry_after_s=_AGAIN_S) from error
        finally:
            self._waits.discard(wait)
