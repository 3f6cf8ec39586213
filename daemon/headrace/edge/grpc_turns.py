"""
Large messages that have come are taken in turn: few bytes of them in each turn of the loop.

grpcio copies a message when its reader goes on, and holds the interpreter meanwhile: 31 MB take 15 ms. A dozen that have come
together would go on together, and nobody else be heard until all of them are copied. How large one is nobody knows before: so
whoever comes when a turn has had its share waits for a turn of its own. Otherwise nobody waits.

Whatever comes is taken, also when nobody wants it any more: a message lies in memory of grpcio's, which only its reading gives
back. To cancel a reading would leave that for good, 31 MB for each message that came a moment later. So who is cancelled goes
at once, and its reading goes on without it, until its message is here or its call is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any

from headrace.allowance import Allowance
from headrace.basin import LIGHT_BYTES

TURN_BYTES = 1 << 22  # that are copied in a turn, more or less; and one message more
Reading = Coroutine[Any, Any, Any]
_Yields = Generator[Any, None, Any]


@types.coroutine
def in_turn(reading: Reading, allowance: Allowance) -> _Yields:
    """Return what a reading of grpcio's does, which waits once, until its message is there, and then takes it."""
    # All in one: every call comes by here.
    cancelled: asyncio.CancelledError | None = None
    try:
        coming = reading.send(None)
    except StopIteration as said:
        return said.value
    try:
        yield _Awaited(coming)
    except asyncio.CancelledError as error:
        if not coming.done():
            coming.add_done_callback(functools.partial(_drop, reading, allowance))
            raise
        cancelled = error
    while allowance.is_spent:
        try:
            yield from allowance.take(TURN_BYTES).__await__()
            break
        except asyncio.CancelledError as error:
            cancelled = error
    raw = _take(reading)
    if isinstance(raw, bytes) and len(raw) > LIGHT_BYTES:
        allowance.count(len(raw))
    if cancelled is not None:
        raise cancelled
    return raw


def _take(reading: Reading) -> Any:
    try:
        reading.send(None)
    except StopIteration as said:
        return said.value
    raise RuntimeError("grpcio waits twice for one message")


def _drop(reading: Reading, allowance: Allowance, coming: asyncio.Future[None]) -> None:
    # A message for nobody; that its call is over may be all that there is to be read.
    if allowance.is_spent:
        asyncio.get_running_loop().call_soon(_drop, reading, allowance, coming)
        return
    with contextlib.suppress(Exception):
        if isinstance(raw := _take(reading), bytes):
            allowance.count(len(raw))


class _Awaited:
    # What a task waits for in place of a future, which goes on being awaited when the task is cancelled. Other than
    # `asyncio.shield`, that takes no second future and no second turn of the loop, unless somebody is cancelled.

    __slots__ = ("_asyncio_future_blocking", "_context", "_future", "_is_left", "_wake")

    def __init__(self, future: asyncio.Future[None]) -> None:
        self._asyncio_future_blocking = True  # by which a task knows what it may wait for
        self._future = future
        self._is_left = False

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._future.get_loop()

    def add_done_callback(self, wake: Callable[[asyncio.Future[None]], object], *, context: Context) -> None:
        self._wake, self._context = wake, context
        self._future.add_done_callback(wake, context=context)

    def cancel(self, msg: object = None) -> bool:
        if self._is_left or self._future.done():
            return False
        self._is_left = True
        self._future.remove_done_callback(self._wake)
        left: asyncio.Future[None] = self._future.get_loop().create_future()
        left.cancel(msg)
        left.add_done_callback(self._wake, context=self._context)
        return True
