"""
Large messages that have come are taken in turn: few bytes of them in each turn of the loop.

grpcio copies a message when its reader goes on, and holds the interpreter meanwhile: 31 MB take 15 ms. A dozen that have come
together would go on together, and nobody else be heard until all of them are copied. How large one is nobody knows before: so
whoever comes when a turn has had its share waits for a turn of its own. Otherwise nobody waits.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
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
        yield coming
    except asyncio.CancelledError as error:
        if not coming.done() or coming.cancelled():
            reading.throw(error)
        cancelled = error
    # Who is cancelled now takes the message all the same: grpcio would never give back what it lies in.
    while allowance.is_spent:
        try:
            yield from allowance.take(TURN_BYTES).__await__()
            break
        except asyncio.CancelledError as error:
            cancelled = error
    try:
        reading.send(None)
    except StopIteration as said:
        raw = said.value
    else:
        raise RuntimeError("grpcio waits twice for one message")
    if isinstance(raw, bytes) and len(raw) > LIGHT_BYTES:
        allowance.count(len(raw))
    if cancelled is not None:
        raise cancelled
    return raw
