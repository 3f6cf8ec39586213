"""Several servers at each port: connections come in where the kernel is told, and a flood keeps only its own booth waiting."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import grpc.aio

from conftest import until
from grpc_fakes import FakeCallers, serving
from headrace.edge.grpc_booths import COUNT, Entrances
from headrace.v1 import messages_service_pb2, messages_service_pb2_grpc
from raw_http2 import END_HEADERS, HEADERS, connect, frame, head

CREATE = "/headrace.v1.MessagesService/CreateMessage"
KEYS = {"key": "me"}
STREAMS, CONNECTIONS = 60, 10


async def ask(channel: grpc.aio.Channel) -> None:
    params = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": {"text": "hi"}}]}
    call = messages_service_pb2.CreateMessageRequest(params=params)
    stub = messages_service_pb2_grpc.MessagesServiceStub(channel)
    await stub.CreateMessage(call, metadata=(("x-api-key", "key"),), timeout=60)


def listen(port: int, host: str = "127.0.0.1") -> socket.socket:
    one = socket.create_server((host, port), reuse_port=True)
    one.setblocking(False)
    return one


def has_come(one: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        one.accept()[0].close()
        return True
    return False


def test_connections_come_in_where_they_are_told() -> None:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(listen(0))
        port = first.getsockname()[1]
        booths = [first, *(stack.enter_context(listen(port)) for _ in range(7))]
        entrances = Entrances({port})
        entrances.find()
        for booth in (0, 7, 3, 3, 5):
            entrances.steer(booth)
            for _ in range(10):
                with socket.create_connection(("127.0.0.1", port)):
                    assert [number for number, one in enumerate(booths) if has_come(one)] == [booth]


def test_entrances_that_have_closed_are_let_be() -> None:
    with listen(0) as one:
        entrances = Entrances({one.getsockname()[1]})
        entrances.find()
    entrances.steer(3)


async def test_a_flood_keeps_only_its_own_booth_waiting(tmp_path: Path) -> None:
    """Six hundred calls stand in line at one booth: a call at another is not the six hundred and first."""
    async with serving(tmp_path, callers=FakeCallers(KEYS)) as (server, channel), contextlib.AsyncExitStack() as stack:
        watch = server._watch
        await ask(channel)
        before = watch._booths.stats().opened
        await until(lambda: watch._booths.stats().opened != before, within=10)
        block = head(CREATE, ("x-api-key", "key"))
        calls = b"".join(frame(HEADERS, END_HEADERS, stream, block) for stream in range(1, 2 * STREAMS, 2))
        for _ in range(CONNECTIONS):
            raw = await stack.enter_async_context(connect(server.ports[0]))
            raw.say(calls)
        await until(lambda: len(watch.intake) > 0, within=10)
        had = len(watch.intake)
        await ask(channel)
        assert len(watch.intake) - had < STREAMS * CONNECTIONS / 2, "the call stood behind the flood's"
        await until(lambda: len(watch.intake) == CONNECTIONS * STREAMS, within=30)


async def test_who_comes_while_there_is_trouble_is_answered(tmp_path: Path) -> None:
    """Not heard until it is its turn, and nothing of what it said meanwhile is lost; and so is who came just before."""
    async with serving(tmp_path, callers=FakeCallers(KEYS)) as (server, before), contextlib.AsyncExitStack() as stack:
        await ask(before)
        watch = server._watch
        await until(lambda: len(watch._lines) == 1)
        watch._porch.trouble()
        assert watch._porch.stats().waiting == 1
        target, own = f"127.0.0.1:{server.ports[0]}", (("grpc.use_local_subchannel_pool", 1),)
        channels = [await stack.enter_async_context(grpc.aio.insecure_channel(target, options=own)) for _ in range(5)]
        async with asyncio.timeout(30):
            await asyncio.gather(*map(ask, [before, *channels]))
        await until(lambda: not watch._porch.is_shut, within=10)
        assert watch._porch.stats().waiting == 0


async def test_each_port_has_all_booths_and_is_nobody_elses(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, channel):
        assert len(server._servers) == COUNT + 1
        for _ in range(COUNT):
            with socket.socket() as other, contextlib.suppress(OSError):
                other.bind(("127.0.0.1", server.ports[0]))
                raise AssertionError("the port was free")
        await asyncio.wait_for(ask(channel), 30)
