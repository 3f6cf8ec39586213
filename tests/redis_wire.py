"""A wire to Redis that a test cuts and mends: one process loses Redis while the others have it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path


class Wire:
    """Passes everything on while it is whole; cut, it drops what there is and lets nobody in. Held, it passes nothing on."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_whole = True
        self._flows = asyncio.Event()
        self._flows.set()

    def cut(self) -> None:
        self._is_whole = False
        for end in self._ends:
            end.transport.abort()

    def mend(self) -> None:
        self._is_whole = True

    def hold(self) -> None:
        """Keep what is said, in both directions, until `flow`."""
        self._flows.clear()

    def flow(self) -> None:
        self._flows.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        if not self._is_whole:
            writer.transport.abort()
            return
        there, back = await asyncio.open_unix_connection(self._path)
        ends = {writer, back}
        self._ends |= ends
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, back))
                group.create_task(self._pass(there, writer))
        except* OSError:
            pass
        finally:
            self._ends -= ends
            for end in ends:
                end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._flows.wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def wired(url: str, directory: Path) -> AsyncIterator[tuple[str, Wire]]:
    """A wire to the Redis at *url* (unix://); yields its own URL, and the wire."""
    wire, path = Wire(url.removeprefix("unix://")), directory / "w.sock"
    server = await asyncio.start_unix_server(wire.serve, path)
    try:
        yield f"unix://{path}", wire
    finally:
        server.close()
        await wire.close()
