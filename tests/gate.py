"""A door before a Valkey that holds replies back until the test lets them through, and timers that the test turns."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any


class HandTimers:
    """What a loop has of timers, standing still until `advance` is called."""

    def __init__(self) -> None:
        self._now = 0.0
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._cancelled: set[int] = set()

    def time(self) -> float:
        return self._now

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> HandTimer:
        number = next(self._order)
        heapq.heappush(self._due, (self._now + delay, number, callback, args))
        return HandTimer(self._cancelled, number)

    def advance(self, seconds: float) -> None:
        """Move time on and call back whoever is due, in order."""
        until = self._now + seconds
        while self._due and self._due[0][0] <= until:
            self._now, number, callback, args = heapq.heappop(self._due)
            if number not in self._cancelled:
                callback(*args)
        self._now = until


class HandTimer:
    def __init__(self, cancelled: set[int], number: int) -> None:
        self._cancelled, self._number = cancelled, number

    def cancel(self) -> None:
        self._cancelled.add(self._number)


class Gate:
    """Held open, it passes everything on at once; shut, it keeps what Valkey says, or what it is asked, until told."""

    def __init__(self) -> None:
        self.said = asyncio.Queue[bytes]()
        self.takes = asyncio.Queue[None]()
        self.is_open = True
        self.hears = True
        self._to_us: asyncio.StreamWriter | None = None

    async def let_reply(self) -> None:
        """Pass on the next thing that Valkey says."""
        self.say(await asyncio.wait_for(self.said.get(), 10))

    def open(self) -> None:
        """Pass on what was kept, and everything from now on."""
        self.is_open = True
        while not self.said.empty():
            self.say(self.said.get_nowait())

    def say(self, data: bytes) -> None:
        """Pass this on."""
        assert self._to_us is not None
        self._to_us.write(data)

    def take_some(self) -> None:
        """While it does not hear: read a little of what Valkey is asked."""
        self.takes.put_nowait(None)

    def hear(self) -> None:
        """Read everything from now on."""
        self.hears = True
        self.take_some()

    async def serve(self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(path)
        self._to_us = writer
        tasks = [asyncio.create_task(self._replies(there, writer)), asyncio.create_task(self._questions(reader, back))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for each in (writer, back):
                each.close()
                with contextlib.suppress(OSError):
                    await each.wait_closed()

    async def _replies(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await there.read(65536):
            if self.is_open:
                writer.write(data)
            else:
                self.said.put_nowait(data)

    async def _questions(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        while True:
            if not self.hears:
                await self.takes.get()
            data = await reader.read(131072)
            if not data:
                return
            back.write(data)


@contextlib.asynccontextmanager
async def gated(url: str, directory: Path) -> AsyncIterator[tuple[str, Gate]]:
    """A gate before the Valkey at *url*; yields its own URL and the gate."""
    gate, path = Gate(), directory / "gate.sock"
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())  # type: ignore[arg-type]
        await gate.serve(url.removeprefix("unix://"), reader, writer)

    async with await asyncio.start_unix_server(serve, path, limit=65536):
        yield f"unix://{path}", gate
        gate.hear()
        if serving:  # whoever used it has closed its end
            await asyncio.wait(serving, timeout=10)
