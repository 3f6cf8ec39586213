"""Messages over gRPC that nobody wants, when they come or when they are here: none of them stays in memory."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from conftest import until
from headrace import memory
from headrace.edge.grpc_calls import guarded
from headrace.edge.grpc_intake import Intake
from headrace.edge.grpc_options import options
from headrace.errors import QueueFull
from raw_http2 import END_HEADERS, HEADERS, connect, frame, head, message

SIZE, COUNT = 5_000_000, 8


class GivesUp(grpc.GenericRpcHandler):  # type: ignore[misc]  # gRPC has no types
    """One method stops waiting for its message when some of that is here, and ends when all of it must be; "No" refuses it."""

    def __init__(self) -> None:
        async def nobody(_: str) -> None:
            pass

        loop = asyncio.get_running_loop()
        self._intake = Intake(nobody, body_s=30, write_s=30, now=loop.time)
        self.gives_up, self.may_end = asyncio.Event(), asyncio.Event()

    def service(self, details: Any) -> grpc.RpcMethodHandler:
        if details.method == "/any/No":
            return self._intake.unary(guarded(_refuse).__get__(self))

        async def run(_: Any, context: Any) -> bytes:
            reading = asyncio.create_task(self._intake.read(context))
            await self.gives_up.wait()
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
            await self.may_end.wait()
            return b""

        return grpc.stream_unary_rpc_method_handler(run)


async def _refuse(_: Any, raw: bytes, context: Any) -> bytes:
    raise QueueFull(f"{len(raw)} bytes are too many")


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[tuple[GivesUp, int]]:
    handler = GivesUp()
    server = grpc.aio.server(options=options())
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield handler, port
    finally:
        await server.stop(None)


async def test_what_comes_for_nobody_is_not_kept() -> None:
    said = message(bytes(SIZE))
    async with served() as (handler, port):

        async def once() -> None:
            handler.gives_up.clear()
            handler.may_end.clear()
            async with connect(port) as raw:
                raw.say(frame(HEADERS, END_HEADERS, 1, head("/any/Method")))
                uploading = asyncio.create_task(raw.upload(1, said))
                await until(lambda: raw.sent > SIZE / 5, what="some of it")
                handler.gives_up.set()
                await asyncio.wait_for(uploading, 30)
                handler.may_end.set()
                await until(lambda: bool(raw.of(1)), what="an answer")

        await nothing_is_left_of(once)


async def test_what_is_refused_is_not_kept() -> None:
    said = message(bytes(SIZE))
    async with served() as (_, port):

        async def once() -> None:
            async with connect(port) as raw:
                raw.say(frame(HEADERS, END_HEADERS, 1, head("/any/No")))
                await asyncio.wait_for(raw.upload(1, said), 30)
                await until(lambda: b"too many" in raw.of(1), what="a refusal")

        gc.disable()  # which would find it in the end
        try:
            await nothing_is_left_of(once)
        finally:
            gc.enable()


async def nothing_is_left_of(once: Callable[[], Awaitable[None]]) -> None:
    await once()
    memory.give_back()
    before = memory.resident()
    for _ in range(COUNT):
        await once()
    memory.give_back()
    assert memory.resident() - before < COUNT * SIZE / 4
