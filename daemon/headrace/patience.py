"""
How long a caller waits for its answer: by the moments that its call names, and by what it sees meanwhile.

Until the first content (or the whole of an answer that is no stream) `deadline` bounds the wait; after it only `ends` does, a
moment that the caller itself has stated. A stream that is slow to begin is opened after a while all the same, so that nobody in
between takes silence for a dead connection: its status goes out, and signs of life follow until the first content.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType

from headrace.clock import Clock
from headrace.deadline import Bound, until
from headrace.model import Answer, Call, Event, Reply, Source

_SIGN_EVERY_S = 9.5  # under the ten seconds that are promised
# A comment, which every reader of server-sent events skips (WHATWG HTML, section 9.2.6).
SIGN_OF_LIFE = Event("", b"", b": waiting\n\n")


def in_time(
    call: Call,
    coming: AbstractAsyncContextManager[Reply],
    clock: Clock,
    events: Callable[[Answer], AsyncIterator[Event]],
    opens_s: float | None = None,
) -> AbstractAsyncContextManager[Reply]:
    """
    Return a context that enters *coming*, which waits for a reply, as long as the call's caller does, else refuses.

    Args:
        coming: leaving it waits for nothing.
        events: tells a whole answer.
        opens_s: a stream's reply is handed over after so many seconds even if there is nothing to say yet. Its events then
            begin with signs of life. None: not before its first content.
    """
    if call.stream and opens_s is not None:
        return _opened(call, coming, clock, events, opens_s)
    return _InTime(call, coming, clock)


class _InTime:
    """The way of most calls, so a class: a generator with its context costs three times as much."""

    __slots__ = ("_bound", "_call", "_clock", "_coming")

    def __init__(self, call: Call, coming: AbstractAsyncContextManager[Reply], clock: Clock) -> None:
        self._call, self._coming, self._clock = call, coming, clock

    async def __aenter__(self) -> Reply:
        self._bound = bound = until(self._call.deadline, self._clock, self._call.trail)
        await bound.__aenter__()
        try:
            reply = await self._coming.__aenter__()
        except BaseException as error:
            await bound.__aexit__(type(error), error, error.__traceback__)
            raise
        bound.move(self._call.ends)
        return reply

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            await self._coming.__aexit__(kind, error, tb)
        finally:
            await self._bound.__aexit__(kind, error, tb)


@contextlib.asynccontextmanager
async def _opened(
    call: Call,
    coming: AbstractAsyncContextManager[Reply],
    clock: Clock,
    events: Callable[[Answer], AsyncIterator[Event]],
    opens_s: float,
) -> AsyncIterator[Reply]:
    """Wait for the reply in a task of its own, so that the stream can be opened meanwhile."""
    async with until(call.deadline, clock, call.trail) as bound, AsyncExitStack() as held:
        entering = asyncio.create_task(held.enter_async_context(coming))
        try:
            with contextlib.suppress(TimeoutError):
                async with clock.timeout(opens_s):
                    await asyncio.wait((entering,))
            if entering.done():
                reply = entering.result()
                bound.move(call.ends)
            else:
                reply = Reply(source=Source.UPSTREAM, attempts=0, is_early=True)
                reply.events = _late(call, reply, entering, clock, bound, events)
            yield reply
        finally:
            # What the task enters is left with `held`, so it must have entered it or given up before.
            entering.cancel()
            await asyncio.gather(entering, return_exceptions=True)


async def _late(
    call: Call,
    reply: Reply,
    entering: asyncio.Task[Reply],
    clock: Clock,
    bound: Bound,
    events: Callable[[Answer], AsyncIterator[Event]],
) -> AsyncIterator[Event]:
    """Yield signs of life until there is a reply, then its events; *reply* learns where they came from."""
    yield SIGN_OF_LIFE
    while not entering.done():
        with contextlib.suppress(TimeoutError):
            async with clock.timeout(_SIGN_EVERY_S):
                await asyncio.wait((entering,))
        if not entering.done():
            yield SIGN_OF_LIFE
    came = entering.result()
    bound.move(call.ends)
    reply.learn(came)
    async for event in events(came.answer) if came.answer is not None else came.events or _nothing():
        yield event


async def _nothing() -> AsyncIterator[Event]:
    return
    yield
