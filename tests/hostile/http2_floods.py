"""What anybody can do to the gRPC port, and some who have a key: frames as no client of gRPC's says them."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import struct
from collections.abc import AsyncIterator, Iterator, Mapping

from tests.hostile.others import MODEL
from tests.hostile.target import Attack, Target, at, by_many

from headrace.v1 import api_service_pb2, messages_service_pb2
from raw_http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADERS,
    PING,
    PRIORITY,
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

_CREATE = "/headrace.v1.MessagesService/CreateMessage"
_STREAM = "/headrace.v1.MessagesService/StreamMessage"
_CALL = "/headrace.v1.ApiService/Call"
_HEADS_AT_ONCE, _HEAD_BYTES = 15, 60_000_000


@contextlib.asynccontextmanager
async def _connected(target: Target, *, window: int | None = None) -> AsyncIterator[Raw]:
    async with connect(at(target.grpc)[1], window=window) as raw:
        target.tally["connections"] += 1
        yield raw


def _key(target: Target, is_known: bool) -> tuple[tuple[str, str], ...]:
    return (("x-api-key", target.key),) if is_known else ()


def _heads(*, is_known: bool) -> Attack:
    async def flood(target: Target) -> None:
        said = api_service_pb2.CallRequestHead(method="POST", path="/v1/messages", body=bytes(_HEAD_BYTES))
        large = message(api_service_pb2.CallRequest(head=said).SerializeToString())
        block = head(_CALL, *_key(target, is_known))

        async def once(_: int) -> None:
            async with _connected(target) as raw:
                for stream in itertools.count(1, 2):
                    before = raw.sent
                    raw.say(frame(HEADERS, END_HEADERS, stream, block))
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(20):
                            await _until_answered(raw, stream, large)
                    target.tally["MB"] += (raw.sent - before) // 1_000_000
                    target.tally["calls"] += 1
                    if raw.closed.is_set():
                        return

        await by_many(target, _HEADS_AT_ONCE, once)

    return flood


async def _until_answered(raw: Raw, stream: int, data: bytes) -> None:
    sending = asyncio.create_task(raw.upload(stream, data))
    try:
        while not raw.of(stream) and not raw.closed.is_set():  # noqa: ASYNC110  # it has no event for an answer
            await asyncio.sleep(0.05)
    finally:
        sending.cancel()


def _unfinished(*, is_known: bool, connections: int = 40, messages: int = 100) -> Attack:
    async def flood(target: Target) -> None:
        block, begun = head(_CALL, *_key(target, is_known)), message(bytes(60_000))[:-1]

        async def once(_: int) -> None:
            async with _connected(target) as raw:
                for stream in range(1, 2 * messages, 2):
                    raw.say(frame(HEADERS, END_HEADERS, stream, block))
                    await raw.upload(stream, begun)
                    target.tally["messages"] += 1
                await raw.closed.wait()

        await by_many(target, connections, once)

    return flood


async def compressed(target: Target) -> None:
    """Messages that are small until they are unpacked, from one who has a key."""
    bomb = message(gzip.compress(bytes(_HEAD_BYTES)), is_compressed=True)
    block = head(_CALL, ("grpc-encoding", "gzip"), *_key(target, True))

    async def once(_: int) -> None:
        async with _connected(target) as raw:
            for stream in itertools.count(1, 2):
                raw.say(frame(HEADERS, END_HEADERS, stream, block))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(10):
                        await _until_answered(raw, stream, bomb)
                target.tally["calls"] += 1
                if raw.closed.is_set():
                    return

    await by_many(target, _HEADS_AT_ONCE, once)


def _resets(block: bytes) -> Iterator[bytes]:
    for first in itertools.count(1, 400):
        yield b"".join(
            frame(HEADERS, END_HEADERS, stream, block) + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))
            for stream in range(first, first + 400, 2)
        )


async def mixed_resets(target: Target) -> None:
    """Calls given up at once of methods that ask for no key, and with messages, pings, settings and priorities between."""
    between = frame(PING, payload=bytes(8)) + frame(SETTINGS)
    paths = (
        _CREATE,
        _STREAM,
        _CALL,
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    )
    blocks = [head(path) for path in paths]

    def call(stream: int) -> bytes:
        said = frame(HEADERS, END_HEADERS, stream, blocks[stream // 2 % len(blocks)])
        said += frame(PRIORITY, 0, stream, struct.pack(">IB", 0, 1)) + frame(DATA, 0, stream, message(bytes(stream % 40)))
        return said + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))

    async def once(_: int) -> None:
        async with _connected(target) as raw:
            for first in itertools.count(1, 100):
                if raw.closed.is_set():
                    return
                await raw.send(between + b"".join(map(call, range(first, first + 100, 2))))
                target.tally["calls"] += 50

    await by_many(target, 4, once)


async def few_resets(target: Target) -> None:
    """Over each of a thousand connections no more calls than anybody may leave."""
    said = next(_resets(head(_CREATE)))
    few = said[: len(said) // 10]

    async def once(_: int) -> None:
        async with _connected(target) as raw:
            await raw.send(few)
            target.tally["calls"] += 20
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(raw.closed.wait(), 2)

    await by_many(target, 1000, once)


def _rapid_reset(*, is_known: bool) -> Attack:
    async def flood(target: Target) -> None:
        block = head(_CREATE, *_key(target, is_known))

        async def once(_: int) -> None:
            async with _connected(target) as raw:
                for said in _resets(block):
                    if raw.closed.is_set():
                        return
                    await raw.send(said)
                    target.tally["calls"] += 200

        await by_many(target, 4, once)

    return flood


def _frames(*floods: tuple[bytes, bytes]) -> Attack:
    """Frames without end: how each flood begins, and what it says again and again."""
    said = [(begins, goes_on * (1 + 65_536 // len(goes_on))) for begins, goes_on in floods]

    async def flood(target: Target) -> None:
        async def once(number: int) -> None:
            begins, goes_on = said[number % len(said)]
            async with _connected(target) as raw:
                raw.say(begins)
                while not raw.closed.is_set():
                    await raw.send(goes_on)
                    target.tally["KB"] += len(goes_on) // 1000

        await by_many(target, 8, once)

    return flood


async def unread_streams(target: Target) -> None:
    """Streams whose events nobody reads, of answers as long as there are."""

    async def once(number: int) -> None:
        asked = messages_service_pb2.StreamMessageRequest(
            params={"model": MODEL, "max_tokens": 8000, "messages": [{"role": "user", "content": {"text": _long(number)}}]}
        ).SerializeToString()
        async with _connected(target, window=0) as raw:
            for stream in range(1, 20, 2):
                raw.say(frame(HEADERS, END_HEADERS, stream, head(_STREAM, *_key(target, True))))
                raw.say(frame(DATA, 1, stream, message(asked)))
                target.tally["streams"] += 1
            await raw.closed.wait()

    await by_many(target, 40, once)


def _long(number: int) -> str:
    return f"unread {number} answer in 8000 tokens"


_UNFINISHED = frame(HEADERS, 0, 1, head(_CREATE))
_CONTINUATIONS = (_UNFINISHED, frame(CONTINUATION, 0, 1, literal(b"x-a", b"a" * 16_000)))
_HEADERS = (
    (_UNFINISHED, frame(CONTINUATION, 0, 1)),
    (frame(HEADERS, 0, 1, b"\0\x03x-a\x7f\x80\x80\x80\x80\x04"), frame(CONTINUATION, 0, 1, b"a" * 16_384)),
)
_CONTROL = (
    (b"", frame(SETTINGS, payload=100 * struct.pack(">HI", 4, 65_535))),
    (b"", frame(SETTINGS, ACK)),
    (b"", frame(PING, payload=bytes(8))),
    (b"", frame(WINDOW_UPDATE, payload=struct.pack(">I", 1))),
    (b"", frame(200, 0, 0, bytes(1000))),
    (frame(HEADERS, END_HEADERS, 1, head(_CALL)), frame(DATA, 0, 1)),
)
ATTACKS: Mapping[str, Attack] = {
    "grpc-heads": _heads(is_known=False),
    "grpc-heads-known": _heads(is_known=True),
    "grpc-unfinished": _unfinished(is_known=False),
    "grpc-unfinished-known": _unfinished(is_known=True),
    "grpc-unfinished-spread": _unfinished(is_known=True, connections=1000, messages=4),
    "grpc-compressed": compressed,
    "rapid-reset": _rapid_reset(is_known=False),
    "rapid-reset-known": _rapid_reset(is_known=True),
    "mixed-resets": mixed_resets,
    "few-resets": few_resets,
    "continuations": _frames(_CONTINUATIONS),
    "headers": _frames(*_HEADERS),
    "control-frames": _frames(*_CONTROL),
    "grpc-unread": unread_streams,
}
