"""One call at a door: the way to its reply, and the telling of what came of it, however it leaves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from headrace.edge.last_word import Running
from headrace.model import Reply
from headrace.outcome import Record


class Told:
    """The way and the telling. On the way of every call, so a class."""

    __slots__ = ("_go", "_record", "_running", "_way")

    def __init__(self, record: Record, running: Running, go: Callable[[], AbstractAsyncContextManager[Reply]]) -> None:
        self._record, self._running, self._go = record, running, go

    async def __aenter__(self) -> Reply:
        self._running.__enter__()
        try:
            self._way = self._go()
            reply = await self._way.__aenter__()
        except BaseException as error:
            if said := self._running.leave(error):
                self._record.__exit__(type(said), said, None)
                raise said from None
            self._record.__exit__(type(error), error, error.__traceback__)
            raise
        self._record.reply = reply
        return reply

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        said = self._running.leave(error)
        with self._record:  # however it leaves
            await self._way.__aexit__(kind, error, tb)
            if said is not None:
                raise said from None
            if error is not None:
                raise error
