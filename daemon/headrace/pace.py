"""
Pace: whether what comes or goes in pieces gets on.

There is patience of so many seconds. Waiting uses it up, and each byte brings back the time that it may take at the least pace.
A byte a second is no progress, then; and a pause after much has come is none of anybody's business.

`coming` and `Going` hold a caller to it: while it sends its body, and while it takes in what it is given. Their clock is the
loop's, since it is a socket's.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from types import TracebackType

from headrace.errors import TooSlow

_PIECE_BYTES = 65_536  # of a larger one nobody would know for long whether it gets on


class Pace:
    """
    The pace of one body in one direction.

    Args:
        least: bytes a second; 0 for any pace.
        patience_s: how long it may fall behind that.
    """

    __slots__ = ("_least", "_left_s", "_patience_s")

    def __init__(self, least: int, patience_s: float) -> None:
        self._least, self._patience_s = least, patience_s
        self._left_s = patience_s

    def __repr__(self) -> str:
        return f"<Pace [{self.left():.1f} s left]>"

    def left(self, size: int = 0) -> float:
        """Return how long may be waited (s), for a piece of *size* bytes to go, or for one of unknown size to come."""
        return self._left_s + size / self._least if self._least else math.inf

    def moved(self, size: int, waited_s: float) -> None:
        """So many bytes have come or gone after so long."""
        if self._least:
            self._left_s = min(self._patience_s, self.left(size) - waited_s)


async def coming(chunks: AsyncIterator[bytes], pace: Pace) -> AsyncIterator[bytes]:
    """Yield what comes; raises `TooSlow` when its sender falls too far behind."""
    now = asyncio.get_running_loop().time
    while True:
        began = now()
        bound = asyncio.timeout(_finite(pace.left()))
        try:
            async with bound:
                chunk = await anext(chunks, None)
        except TimeoutError as error:
            if bound.expired():
                raise TooSlow("the body comes at less than the least pace") from error
            raise
        if chunk is None:
            return
        pace.moved(len(chunk), now() - began)
        yield chunk


class Going:
    """
    A block in which somebody takes in what `passing` yields: `TooSlow` breaks it off wherever it is when the taker falls too
    far behind. Time counts while the taker has a piece, and not while the next one is waited for; nor after the block.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._bound = asyncio.timeout(None)
        self._is_on = False

    def __repr__(self) -> str:
        return f"<Going {self._pace!r}>"

    async def __aenter__(self) -> Going:
        await self._bound.__aenter__()
        self._is_on = True
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._is_on = False
        try:
            await self._bound.__aexit__(kind, error, tb)
        except TimeoutError as late:
            raise TooSlow("the answer is taken in at less than the least pace") from late

    async def passing(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the chunks to the taker."""
        now = asyncio.get_running_loop().time
        async for chunk in chunks:
            for begin in range(0, len(chunk), _PIECE_BYTES):
                piece = chunk[begin : begin + _PIECE_BYTES] if len(chunk) > _PIECE_BYTES else chunk
                began = now()
                self._ring(began, self._pace.left(len(piece)))
                yield piece
                self._ring(began, math.inf)
                self._pace.moved(len(piece), now() - began)

    def _ring(self, began: float, in_s: float) -> None:
        if self._is_on:
            self._bound.reschedule(None if (left_s := _finite(in_s)) is None else began + left_s)


def _finite(seconds: float) -> float | None:
    return None if seconds == math.inf else max(0.0, seconds)
