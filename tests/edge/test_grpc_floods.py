"""What one connection of gRPC's can do to the others: nothing, whatever it sends, and itself it loses."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import itertools
import struct
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest

from conftest import until
from grpc_fakes import FakeCallers, FakeFlow, event, reply, serving
from headrace.edge.grpc_intake import peer_of
from headrace.edge.grpc_watch import Bounds, Watch
from headrace.errors import UnknownCaller
from headrace.v1 import messages_service_pb2, messages_service_pb2_grpc
from raw_http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Raw,
    connect,
    frame,
    head,
    literal,
    message,
)

CREATE, STREAM, CALL, CHECK = (
    "/headrace.v1.MessagesService/CreateMessage",
    "/headrace.v1.MessagesService/StreamMessage",
    "/headrace.v1.ApiService/Call",
    "/grpc.health.v1.Health/Check",
)
PARAMS = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": {"text": "hi"}}]}
KEYS = {"key": "me"}
LARGE = message(b"a" * 60_000_000)[:-100]  # and its end never comes


def status(code: grpc.StatusCode) -> bytes:
    said = str(code.value[0]).encode()
    return b"grpc-status" + bytes((len(said),)) + said


async def ask(channel: grpc.aio.Channel, key: str = "key") -> str:
    stub = messages_service_pb2_grpc.MessagesServiceStub(channel)
    call = messages_service_pb2.CreateMessageRequest(params=PARAMS)
    return (await stub.CreateMessage(call, metadata=(("x-api-key", key),), timeout=60)).message.id


@contextlib.asynccontextmanager
async def others(channel: grpc.aio.Channel) -> AsyncIterator[None]:
    """Somebody else asks all the while; none of these calls fails."""

    async def go_on() -> None:
        while True:
            assert await ask(channel) == "msg_1"
            await asyncio.sleep(0.01)

    asking = asyncio.create_task(go_on())
    try:
        yield
        assert not asking.done(), asking.exception()
    finally:
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking


@pytest.mark.parametrize("path", [CREATE, STREAM, CALL])
async def test_strangers_are_not_read(tmp_path: Path, path: str) -> None:
    """A stranger hears at once that it is one, and what it sends stays with it."""
    async with serving(tmp_path, callers=FakeCallers(KEYS)) as (server, _), connect(server.ports[0]) as raw:
        raw.say(frame(HEADERS, END_HEADERS, 1, head(path)))
        sending = asyncio.create_task(raw.upload(1, LARGE))
        said = b'"authentication_error"' if path == CALL else status(grpc.StatusCode.UNAUTHENTICATED)
        await until(lambda: said in raw.of(1), what=repr(raw.heard))
        assert raw.sent < 2_000_000
        sending.cancel()


@pytest.mark.parametrize("path", [CREATE, CALL, CHECK])
async def test_compressed(tmp_path: Path, path: str) -> None:
    """What is small until it is unpacked is refused: no message is compressed here."""
    async with serving(tmp_path) as (server, _), connect(server.ports[0]) as raw:
        raw.say(frame(HEADERS, END_HEADERS, 1, head(path, ("grpc-encoding", "gzip"))))
        sending = asyncio.create_task(raw.upload(1, message(gzip.compress(bytes(60_000_000)), is_compressed=True)))
        await until(lambda: status(grpc.StatusCode.UNIMPLEMENTED) in raw.of(1), what=repr(raw.heard))
        sending.cancel()


async def test_too_much_at_once(tmp_path: Path) -> None:
    """What comes at once is bounded over all connections: the largest are refused, and told when to come again."""
    async with serving(tmp_path) as (server, channel), contextlib.AsyncExitStack() as stack, others(channel):
        raws = [await stack.enter_async_context(connect(server.ports[0])) for _ in range(4)]
        for raw in raws:
            raw.say(frame(HEADERS, END_HEADERS, 1, head(CREATE)))
        sending = [asyncio.create_task(raw.upload(1, LARGE)) for raw in raws]
        refused = status(grpc.StatusCode.RESOURCE_EXHAUSTED)
        await until(lambda: any(refused in raw.of(1) for raw in raws), within=30, what=repr(server))
        for task in sending:
            task.cancel()


def resets(path: str, *more: tuple[str, str]) -> Iterator[bytes]:
    block = head(path, *more)
    for first in itertools.count(1, 400):
        yield b"".join(
            frame(HEADERS, END_HEADERS, stream, block) + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))
            for stream in range(first, first + 400, 2)
        )


@pytest.mark.parametrize("key", ["", "key"])
async def test_rapid_reset(tmp_path: Path, key: str) -> None:
    """Calls that are given up as soon as they were made, as fast as they come: nobody else's fails, and their maker is cut."""
    presented = [("x-api-key", key)] if key else []
    async with (
        serving(tmp_path, callers=FakeCallers(KEYS), bounds=Bounds(held_s=0.5)) as (server, channel),
        others(channel),
        connect(server.ports[0]) as raw,
    ):
        flooding = asyncio.create_task(raw.send_all(resets(CREATE, *presented)))
        await asyncio.wait_for(raw.closed.wait(), 60)
        flooding.cancel()


async def test_held() -> None:
    """Of many calls in vain over one connection all but the first few are held, and let go as they are forgiven, one by one."""
    watch, took = Watch(Bounds(), now=time.monotonic), list[float]()

    async def in_vain() -> None:
        began = time.monotonic()
        await watch.note_vain("ipv4:192.0.2.1:5")
        took.append(time.monotonic() - began)

    await asyncio.gather(*(in_vain() for _ in range(30)))
    assert took[19] < 0.05
    assert took[29] > 0.4


async def test_a_server_that_leaves_holds_nobody() -> None:
    """Whoever is held goes when the server does, which would have to wait for them: a quarter of a minute after a flood."""
    watch = Watch(Bounds(), now=time.monotonic)
    calls = [asyncio.create_task(watch.note_vain("ipv4:192.0.2.1:5")) for _ in range(300)]
    await until(lambda: sum(call.done() for call in calls) >= 20)
    watch.let_go()
    async with asyncio.timeout(5):
        await asyncio.gather(*calls)
        await asyncio.gather(*(watch.note_vain("ipv4:192.0.2.1:6") for _ in range(300)))


@pytest.mark.parametrize("before", [0, 25], ids=["refused at once", "held"])
async def test_who_has_left_is_told_nothing(before: int) -> None:
    """Of what is said to those who have gone grpcio keeps half a KB for good, thousands of times a second."""
    watch, peer = Watch(Bounds(), now=time.monotonic), "ipv4:192.0.2.1:5"
    for _ in range(before):
        watch._strikes.add(peer_of(peer))
    call = asyncio.create_task(watch.note_vain(peer))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(call, 10)


async def test_calls_of_a_connection_that_was_cut_are_let_go_of() -> None:
    """Nobody's streams are taken by them any more, and each holds 25 KB."""
    watch, peer = Watch(Bounds(), now=time.monotonic), ("192.0.2.1", 5)
    calls = [asyncio.create_task(watch.note_vain("ipv4:192.0.2.1:5")) for _ in range(100)]
    await until(lambda: sum(call.done() for call in calls) >= 20)
    watch._gone[peer] = time.monotonic()
    while not all(call.done() for call in calls):
        watch._let_go_of_gone()
        await asyncio.sleep(0.01)
    assert sum(call.cancelled() for call in calls) >= 70
    with pytest.raises(asyncio.CancelledError):
        await watch.note_vain("ipv4:192.0.2.1:5")


async def test_nothing_stays(tmp_path: Path) -> None:
    """A call that was refused leaves nothing of ours behind that would have to be looked for: its headers may be large."""
    async with serving(tmp_path, callers=FakeCallers(KEYS)) as (server, _), connect(server.ports[0]) as raw:
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for stream in range(1, 21, 2):
                raw.say(frame(HEADERS, END_HEADERS, stream, head(CREATE)))
            await until(lambda: all(status(grpc.StatusCode.UNAUTHENTICATED) in raw.of(stream) for stream in range(1, 21, 2)))
            gc.collect()
            assert not [each for each in gc.garbage if isinstance(each, UnknownCaller | grpc.aio.AbortError)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()


def floods() -> dict[str, tuple[bytes, bytes]]:
    """How each flood begins, and what it says again and again."""
    unfinished = frame(HEADERS, 0, 1, head(CREATE))
    priorities = b"".join(frame(2, 0, stream, struct.pack(">IB", 0, 1)) for stream in range(1, 4001, 2))
    return {
        "settings": (b"", frame(SETTINGS, payload=100 * struct.pack(">HI", 4, 65_535))),
        "acknowledgements": (b"", frame(SETTINGS, ACK)),
        "pings": (b"", frame(PING, payload=bytes(8))),
        "windows": (b"", frame(WINDOW_UPDATE, payload=struct.pack(">I", 1))),
        "priorities": (b"", priorities),
        "continuations": (unfinished, frame(CONTINUATION, 0, 1, literal(b"x-a", b"a" * 16_000))),
        "empty continuations": (unfinished, frame(CONTINUATION, 0, 1)),
        "one header": (frame(HEADERS, 0, 1, b"\0\x03x-a\x7f\x80\x80\x80\x80\x04"), frame(CONTINUATION, 0, 1, b"a" * 16_384)),
        "empty data": (frame(HEADERS, END_HEADERS, 1, head(CALL)), frame(DATA, 0, 1)),
        "unknown": (b"", frame(200, 0, 0, bytes(1000))),
    }


@pytest.mark.parametrize(("begins", "goes_on"), floods().values(), ids=floods().keys())
async def test_floods(tmp_path: Path, begins: bytes, goes_on: bytes) -> None:
    """Frames without end that are no calls cost the connection over which they come: it is cut, or not listened to any more."""
    async with serving(tmp_path) as (server, channel), others(channel), connect(server.ports[0]) as raw:
        raw.say(begins)
        flooding = asyncio.create_task(raw.flood(goes_on * (1 + 65_536 // len(goes_on))))
        await until(lambda: raw.closed.is_set() or raw.is_sent_away, within=30)
        flooding.cancel()


async def test_many_waiting(tmp_path: Path) -> None:
    """A thousand calls wait over one connection, and none of them fails."""
    go = asyncio.Event()

    class Slow(FakeFlow):
        @contextlib.asynccontextmanager
        async def answer(self, call, opens_s=None):  # type: ignore[no-untyped-def]
            self.asked.append(call)
            await go.wait()
            async with super().answer(call, opens_s) as said:
                yield said

    flow = Slow()
    async with serving(tmp_path, flow) as (_, channel):
        asking = [asyncio.create_task(ask(channel)) for _ in range(1000)]
        await until(lambda: len(flow.asked) == 1000, within=30)
        go.set()
        assert await asyncio.gather(*asking) == ["msg_1"] * 1000


async def test_mistaken_key(tmp_path: Path) -> None:
    """A client that has tried a wrong key some times goes on over the same connection with a right one."""
    async with serving(tmp_path, callers=FakeCallers(KEYS)) as (_, channel):
        for _ in range(40):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(channel, "wrong")
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert await ask(channel) == "msg_1"


@pytest.mark.parametrize("path", [CREATE, STREAM, CALL, CHECK])
async def test_silent_body(tmp_path: Path, path: str) -> None:
    """A message that stops coming ends its call, and nothing else of the connection."""
    async with serving(tmp_path, bounds=Bounds(body_s=0.5)) as (server, _), connect(server.ports[0]) as raw:
        raw.say(frame(HEADERS, END_HEADERS, 1, head(path)), frame(DATA, 0, 1, message(bytes(100))[:50]))
        await until(lambda: status(grpc.StatusCode.DEADLINE_EXCEEDED) in raw.of(1), what=repr(raw.heard))
        assert not raw.closed.is_set()


async def test_unread(tmp_path: Path) -> None:
    """A stream that nobody reads ends with its connection, and its call is given up."""
    flow = FakeFlow()

    async def endless():  # type: ignore[no-untyped-def]
        while True:
            yield event({"type": "ping"})

    flow.respond = lambda call: reply(events=endless())
    bounds = Bounds(write_s=0.5)
    async with serving(tmp_path, flow, bounds=bounds) as (server, _), connect(server.ports[0], window=0) as raw:
        asked = messages_service_pb2.StreamMessageRequest(params=PARAMS).SerializeToString()
        raw.say(frame(HEADERS, END_HEADERS, 1, head(STREAM)), frame(DATA, 1, 1, message(asked)))
        await asyncio.wait_for(raw.closed.wait(), 10)
        await until(lambda: flow.left == 1)


async def test_connections(tmp_path: Path) -> None:
    """There are never many more connections than there may be; those over which something was asked stay."""
    async with serving(tmp_path, bounds=Bounds(most=32)) as (server, channel), contextlib.AsyncExitStack() as stack:
        assert await ask(channel) == "msg_1"
        raws: list[Raw] = []
        for _ in range(60):
            raws.append(await stack.enter_async_context(connect(server.ports[0])))
        await until(lambda: sum(not raw.closed.is_set() for raw in raws) <= 32, what=repr(server))
        assert await ask(channel) == "msg_1"
