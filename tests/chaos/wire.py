"""What lies between the daemons and Redis: a wire that passes everything on, or hangs, drops and delays."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

_PIECE = 1 << 18
_TORN = 7  # of so many pieces that come back one is torn


class Wire:
    """Connections to one unix socket, by way of another."""

    def __init__(self, to: str) -> None:
        self._to = to
        self._writers: set[asyncio.StreamWriter] = set()
        self._passes = asyncio.Event()
        self._passes.set()
        self._delay_s = 0.0
        self._is_torn, self._pieces = False, 0

    def __repr__(self) -> str:
        return f"<Wire [{len(self._writers) // 2} connections{'' if self._passes.is_set() else ', hangs'}]>"

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """Pass nothing on, either way, and keep all connections; what was said meanwhile arrives when the block ends."""
        self._passes.clear()
        try:
            yield
        finally:
            self._passes.set()

    @contextlib.contextmanager
    def late(self, seconds: float) -> Iterator[None]:
        """Pass everything on so much later, in both directions."""
        self._delay_s = seconds
        try:
            yield
        finally:
            self._delay_s = 0.0

    @contextlib.contextmanager
    def torn(self) -> Iterator[None]:
        """Break connections in the middle of what comes back, now and then."""
        self._is_torn = True
        try:
            yield
        finally:
            self._is_torn = False

    def drop(self) -> None:
        """Reset all connections, whatever is on its way."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_unix_connection(self._to)
            self._writers |= {writer, back}
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pass(reader, back))
                    group.create_task(self._pass(there, writer, is_back=True))
            except* OSError:
                pass
            finally:
                self._writers -= {writer, back}
                await end(back)
        except OSError:
            pass  # Valkey is away
        finally:
            await end(writer)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_back: bool = False) -> None:
        while data := await reader.read(_PIECE):
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            await self._passes.wait()
            self._pieces += is_back
            if is_back and self._is_torn and self._pieces % _TORN == 0:
                writer.write(data[: len(data) // 2])
                break
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError  # and the other direction with it


async def end(writer: asyncio.StreamWriter) -> None:
    """Reset a connection, and wait until it is closed."""
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def wired(to: Path, at: Path) -> AsyncIterator[Wire]:
    """Yield a wire from one path of a unix socket to another."""
    wire = Wire(str(to))
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(task := asyncio.current_task())  # type: ignore[arg-type]
        try:
            await wire.serve(reader, writer)
        except asyncio.CancelledError:
            pass  # the block ends
        finally:
            tasks.discard(task)  # type: ignore[arg-type]

    server = await asyncio.start_unix_server(serve, at)
    try:
        yield wire
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
