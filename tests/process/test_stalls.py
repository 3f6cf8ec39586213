"""No request of any shape holds up the loop, measured inside the installed daemon: at either door, one or two dozen at once."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gzip
import json
import socket
from collections.abc import AsyncIterator, Iterable, Iterator

import aiohttp
import brotli
import grpc
import pytest

from headrace.v1 import (
    api_service_pb2,
    api_service_pb2_grpc,
    content_pb2,
    messages_pb2,
    messages_service_pb2,
    options_pb2,
    tickets_pb2,
    tickets_service_pb2,
)
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub
from headrace.v1.tickets_service_pb2_grpc import TicketsServiceStub
from stalling import SEEN_AGAIN, Watched, house

pytestmark = [pytest.mark.slow, SEEN_AGAIN]

UNBOUND = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
AT_ONCE = 24


def body(content: object, **more: object) -> bytes:
    said = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": content}], **more}
    return json.dumps(said, separators=(",", ":")).encode()


def text(of: str, n: int = 0, size: int = 31_000_000) -> bytes:
    return body((of * (size // len(of) + 1))[:size], n=n)


SHAPES = {
    "plain text": lambda n: text("The quick brown fox jumps over the lazy dog. ", n),
    "one letter": lambda n: text("x", n),
    "long words": lambda n: text("y" * 600 + " ", n),
    "base64": lambda n: body([{"type": "image", "source": {"type": "base64", "data": "iVBORw0KGgo" + "A" * 30_000_000}}], n=n),
    "links": lambda n: body([{"type": "image", "source": {"type": "url", "url": "http://x/y"}}] * 300_000, n=n),
    "quotes": lambda n: text('"', n, 15_000_000),
    "keys": lambda n: body("x", x={f"k{n}": n for n in range(1_000_000)}, n=n),
    "integers": lambda n: body("x", x=[1] * 15_000_000, n=n),
    "deep": lambda n: b'{"model":' + b"[" * 15_000_000 + b"%d" % n,
    "many texts": lambda n: body([{"type": "text", "text": "t"}] * 600_000, n=n),
}
# How many at once; two of all others, each of which is seconds of work for the helper.
MANY = {"plain text": AT_ONCE, "long words": AT_ONCE, "one letter": 6, "base64": 6}


# All that is found out of a body for some limit: how much it holds, at least and at most, and what upstream counts.
PLENTY = {"burst": "1s", "input_tokens_per_minute": 9_000_000_000}
LIMITS = json.dumps([{"name": way, "estimate": way, **PLENTY} for way in ("learned", "ceiling", "counted")])


@pytest.fixture
async def here() -> AsyncIterator[Watched]:
    async with house(SCHEDULE__MAX_WAITING_BYTES="2GB", LIMIT=LIMITS) as made:
        yield made


async def post(url: str, raw: bytes, *, path: str = "/v1/messages", **headers: str) -> int:
    timeout = aiohttp.ClientTimeout(total=300)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(url + path, data=pieces(raw, 1 << 18), headers=headers) as answer,
    ):
        await answer.read()
        return answer.status


async def pieces(raw: bytes, size: int) -> AsyncIterator[bytes]:
    for begin in range(0, len(raw), size):
        yield raw[begin : begin + size]


def some(shapes: Iterable[str | bytes], *for_long: str | bytes) -> list[object]:
    """Return shapes to try, those named last in the long form alone: they are much like others."""
    return [pytest.param(shape, marks=pytest.mark.long) if shape in for_long else shape for shape in shapes]


@pytest.mark.parametrize("shape", some(SHAPES, *(SHAPES.keys() - {"deep", "many texts"})))
async def test_http(here: Watched, shape: str, long: bool) -> None:
    """Over HTTP, one and two dozen at once."""
    first = SHAPES[shape](0)
    async with here.at_ease(f"one: {shape}"):
        await post(here.http, first)
        await post(here.http, first)
    many = MANY.get(shape, 2) if long else 4
    bodies = [SHAPES[shape](n) for n in range(1, many + 1)]
    async with here.at_ease(f"{many} at once: {shape}"):
        await asyncio.gather(*(post(here.http, raw) for raw in bodies))


@pytest.mark.long
async def test_same(here: Watched) -> None:
    """Two dozen of the very same, one after the other: they are compared, and share one."""
    raw = SHAPES["plain text"](0)
    async with here.at_ease("two dozen of the same"):
        assert await asyncio.gather(*(post(here.http, raw) for _ in range(AT_ONCE))) == [200] * AT_ONCE


@pytest.mark.long
async def test_carried(here: Watched) -> None:
    """What is only carried, and of which the beginning may be held."""
    async with here.at_ease("carried"):
        raw = bytes(60_000_000)
        assert await asyncio.gather(*(post(here.http, raw, path="/v1/files") for _ in range(8))) == [200] * 8


def chunked(target: bytes, *parts: bytes) -> bytes:
    return b"POST " + target + b" HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n" + b"".join(parts)


TINY = b"".join(b"1\r\n%c\r\n" % letter for letter in body("x" * 1_000_000)) + b"0\r\n\r\n"
HEADS = b"".join(b"x-%d: %s\r\n" % (n, b"y" * 200) for n in range(950))


def told(http: str, sent: bytes) -> bytes:
    host, _, port = http.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=120) as wire:
        with contextlib.suppress(ConnectionError):
            wire.sendall(sent)
        with contextlib.suppress(ConnectionError):
            return wire.recv(65_536)
    return b""


@pytest.mark.parametrize("target", some([b"/v1/messages", b"/v1/files", b"/healthz"], b"/v1/files", b"/healthz"))
async def test_tiny_chunks(here: Watched, target: bytes) -> None:
    """A million chunks of a byte each, from many at once."""
    sent = chunked(target, TINY)
    async with here.at_ease("tiny chunks"):
        said = await asyncio.gather(*(asyncio.to_thread(told, here.http, sent) for _ in range(4)))
    assert all(came.startswith(b"HTTP/1.1") for came in said)


async def test_heads(here: Watched) -> None:
    """Heads of hundreds of headers, and hundreds of requests at once."""
    head = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n" + HEADS + b"\r\n"
    async with here.at_ease("many headers"):
        await asyncio.gather(*(asyncio.to_thread(told, here.http, head * 4) for _ in range(AT_ONCE)))
    async with here.at_ease("many requests"):
        sent = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n" * 20_000
        await asyncio.gather(*(asyncio.to_thread(told, here.http, sent) for _ in range(4)))


def bombs() -> Iterator[tuple[str, bytes]]:
    yield "br", brotli.compress(bytes(512 << 20), quality=5)
    yield "gzip", gzip.compress(bytes(256 << 20), 6)
    yield "deflate", gzip.zlib.compress(bytes(256 << 20), 6)


LINES = [b"GET /healthz", b"GET /nothing", b"POST /metrics", b"POST /v1/messages", b"POST /v1/files"]


@pytest.mark.parametrize("line", some(LINES, *LINES[1:4]))
async def test_bombs(line: bytes) -> None:
    """A few kilobytes that are packed gigabytes, without a key, half a dozen at once."""
    async with house(AUTH__REQUIRED="true") as here:
        for encoding, packed in bombs():
            head = b" HTTP/1.1\r\nhost: localhost\r\ncontent-encoding: %s\r\ncontent-length: %d\r\n\r\n"
            sent = line + head % (encoding.encode(), len(packed)) + packed
            async with here.at_ease(f"{encoding} at {line.decode()}"):
                await asyncio.gather(*(asyncio.to_thread(told, here.http, sent) for _ in range(6)))


@pytest.mark.long
async def test_bombs_with_a_key(here: Watched) -> None:
    """The same from callers who are known: refused, and unpacked by nobody in the loop."""
    for encoding, packed in bombs():
        async with here.at_ease(encoding):
            said = await asyncio.gather(*(post(here.http, packed, **{"content-encoding": encoding}) for _ in range(6)))
        assert said == [413] * 6
        async with here.at_ease(f"{encoding}, carried"):
            more = {"path": "/v1/files", "content-encoding": encoding}
            await asyncio.gather(*(post(here.http, packed, **more) for _ in range(3)))


# The other door.


@contextlib.asynccontextmanager
async def channel(here: Watched) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(here.grpc, options=UNBOUND) as made:
        yield made


async def call(made: grpc.aio.Channel, raw: bytes, **head: object) -> int:
    said = api_service_pb2.CallRequestHead(method="POST", path="/v1/messages", body=raw, **head)
    try:
        parts = [part async for part in api_service_pb2_grpc.ApiServiceStub(made).Call(
            iter([api_service_pb2.CallRequest(head=said)]), timeout=300
        )]  # fmt: skip
    except grpc.aio.AioRpcError as error:
        return -error.code().value[0]
    return parts[0].head.status


@pytest.mark.parametrize("shape", some(["plain text", "long words", "integers", "keys"], "long words", "integers", "keys"))
async def test_grpc(here: Watched, shape: str) -> None:
    """Over gRPC, as HTTP has it, one and a dozen at once."""
    async with channel(here) as made:
        raw = SHAPES[shape](0)
        async with here.at_ease(f"one: {shape}"):
            await call(made, raw)
        many = MANY.get(shape, 4) // 2
        bodies = [SHAPES[shape](n) for n in range(1, many + 1)]
        async with here.at_ease(f"{many} at once: {shape}"):
            await asyncio.gather(*(call(made, raw) for raw in bodies))


async def test_grpc_headers(here: Watched) -> None:
    """A head of millions of headers."""
    async with channel(here) as made:
        headers = [api_service_pb2.Header()] * 3_000_000
        async with here.at_ease("headers"):
            assert await call(made, b"", headers=headers) < 0


def typed(*blocks: content_pb2.ContentBlock) -> messages_service_pb2.CreateMessageRequest:
    content = content_pb2.Content(blocks=content_pb2.ContentBlocks(blocks=blocks))
    message = messages_pb2.InputMessage(role="user", content=content)
    params = messages_pb2.MessageParams(model="m", max_tokens=5, messages=[message])
    return messages_service_pb2.CreateMessageRequest(params=params)


def block(said: str) -> content_pb2.ContentBlock:
    return content_pb2.ContentBlock(text=content_pb2.TextBlock(text=said))


def labelled() -> messages_service_pb2.CreateMessageRequest:
    options = options_pb2.CallOptions(labels={f"k{n}": "v" for n in range(500_000)})
    return messages_service_pb2.CreateMessageRequest(options=options, params=typed(block("t")).params)


TYPED = {
    "one text": lambda: typed(block("The quick brown fox. " * 1_450_000)),
    "many texts": lambda: typed(*[block("t")] * 400_000),
    "just light": lambda: typed(*[block("")] * 8_000),
    "many labels": labelled,
}


@pytest.mark.parametrize("shape", some(TYPED, *list(TYPED)[1:]))
async def test_typed(here: Watched, shape: str) -> None:
    """Over gRPC, typed."""
    first = TYPED[shape]()
    async with channel(here) as made:
        async with here.at_ease(shape):
            with contextlib.suppress(grpc.aio.AioRpcError):
                await MessagesServiceStub(made).CreateMessage(first, timeout=300)
        others = [copy.deepcopy(first) for _ in range(4)]
        for number, one in enumerate(others):
            one.params.max_tokens = 10 + number
        async with here.at_ease(f"four of {shape}"):
            said = (MessagesServiceStub(made).CreateMessage(one, timeout=300) for one in others)
            await asyncio.gather(*said, return_exceptions=True)


@pytest.mark.long
async def test_submitted(here: Watched) -> None:
    """A large call that goes on without its caller: it is written down, and read again."""
    params = TYPED["one text"]().params
    async with channel(here) as made, here.at_ease("submitted"):
        asked = messages_service_pb2.SubmitMessageRequest(params=params)
        ticket = (await MessagesServiceStub(made).SubmitMessage(asked, timeout=120)).ticket
        waiting = tickets_service_pb2.WaitTicketRequest(id=ticket.id)
        said = await TicketsServiceStub(made).WaitTicket(waiting, timeout=120)
        assert said.ticket.state == tickets_pb2.TICKET_STATE_SUCCEEDED


@pytest.mark.long
async def test_idempotent(here: Watched) -> None:
    """The same of one with an idempotency key."""
    raw = SHAPES["plain text"](0)
    async with here.at_ease("with a key of its own"):
        assert await post(here.http, raw, **{"idempotency-key": "k"}) == 200
