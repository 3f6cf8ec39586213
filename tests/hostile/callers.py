"""What one caller, who has a key, can do to the others."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Callable, Mapping

import aiohttp
import grpc.aio
from tests.hostile.others import MODEL, body
from tests.hostile.target import Attack, Target, by_many

from headrace.v1 import api_service_pb2, messages_service_pb2
from headrace.v1.api_service_pb2_grpc import ApiServiceStub
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub

_FILE_BYTES = 20_000_000
_PIECE = 1 << 18
_OWN_CHANNEL = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1))


def head(target: Target, line: str, *more: str) -> bytes:
    """Return the head of a request with the attacker's key."""
    lines = [f"{line} HTTP/1.1", "host: localhost", f"x-api-key: {target.key}", "anthropic-version: 2023-06-01", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


async def downloads(target: Target) -> None:
    """560 downloads that nobody reads."""
    async with aiohttp.ClientSession() as session:
        form = aiohttp.FormData()
        form.add_field("file", bytes(_FILE_BYTES), filename="f", content_type="application/octet-stream")
        headers = {"x-api-key": target.key, "anthropic-version": "2023-06-01", "anthropic-beta": "files-api-2025-04-14"}
        async with session.post(f"http://{target.http}/v1/files", data=form, headers=headers) as response:
            made = await response.json()
    line = f"GET /v1/files/{made['id']}/content"

    async def once(_: int) -> None:
        async with target.connected(is_deaf=True) as (_, writer):
            writer.write(head(target, line, "anthropic-beta: files-api-2025-04-14"))
            await asyncio.sleep(3600)

    await by_many(target, 560, once)


async def unread(target: Target) -> None:
    """Streams that nobody reads."""

    async def once(number: int) -> None:
        said = body(f"unread {number} answer in 8000 tokens", 8000, ',"stream":true')
        async with target.connected(is_deaf=True) as (_, writer):
            writer.write(head(target, "POST /v1/messages", f"content-length: {len(said)}") + said)
            await asyncio.sleep(3600)

    await by_many(target, 400, once)


async def uploads(target: Target) -> None:
    """560 uploads of a byte a second."""

    async def once(number: int) -> None:
        path = "/v1/files" if number % 2 else "/v1/messages"
        async with target.connected() as (reader, writer):
            writer.write(head(target, f"POST {path}", "content-length: 20000000"))
            while not reader.at_eof():
                writer.write(b" ")
                await asyncio.sleep(1.0)

    await by_many(target, 560, once)


async def waiting(target: Target) -> None:
    """More calls than there is room for, that all wait for the attacker's own limit."""
    numbers = itertools.count()

    async def once(_: int) -> None:
        said = body(f"wait {next(numbers)} answer in 200 tokens", 300)
        async with target.connected() as (reader, writer):
            writer.write(head(target, "POST /v1/messages", f"content-length: {len(said)}", "connection: close") + said)
            target.tally["calls"] += 1
            came = await reader.read(4096)
            target.tally["answers " + came[9:12].decode()] += 1
            await asyncio.sleep(0 if came[9:12] == b"200" else 0.1)  # as retry-after asks it not to

    await by_many(target, 1500, once)


async def bodies(target: Target, count: int, made: bytes) -> None:
    """Send so many at once of a body, that begins "{": members are put there that tell one from the other."""
    numbers = itertools.count()
    rest = memoryview(made)[1:]  # twenty-four copies would take as long as the attack

    async def once(number: int) -> None:
        beginning = b'{"metadata":{"user_id":"%d"},"top_k":%d,' % (number, next(numbers))
        lines = head(target, "POST /v1/messages", f"content-length: {len(beginning) + len(rest)}", "connection: close")
        async with target.connected() as (reader, writer), asyncio.timeout(60):
            writer.write(lines + beginning)
            for at in range(0, len(rest), _PIECE):
                writer.write(rest[at : at + _PIECE])
                await writer.drain()
            target.tally["MB"] += len(rest) // 1_000_000
            came = await reader.read(4096)
            target.tally["answers " + came[9:12].decode()] += 1

    await by_many(target, count, once)


def _text(size: int) -> bytes:
    return body(("The quick brown fox jumps over the lazy dog. " * (size // 45 + 1))[:size])


def said(**members: object) -> bytes:
    """Return a small call with some other members."""
    messages = [{"role": "user", "content": "x"}]
    return json.dumps({"model": MODEL, "max_tokens": 5, "messages": messages, **members}, separators=(",", ":")).encode()


def _of(count: int, make: Callable[[], bytes]) -> Attack:
    async def flood(target: Target) -> None:
        await bodies(target, count, make())

    return flood


def _short_messages() -> bytes:
    return said(messages=[{"role": "user", "content": "x"}] * 1_000_000)


def _nested() -> bytes:
    return said(
        messages=[{"role": "user", "content": [{"type": "tool_use", "id": "i", "name": "n", "input": [1] * 15_000_000}]}]
    )


async def over_grpc(target: Target) -> None:
    """24 bodies of 31 MB over gRPC, half of them raw, half as typed messages: which come whole, whoever waits."""
    numbers, text = itertools.count(), "The quick brown fox jumps over the lazy dog. " * (31_000_000 // 45)
    raw, metadata = memoryview(body(text)), (("x-api-key", target.key),)

    async def ask_raw(channel: grpc.aio.Channel) -> None:
        call = ApiServiceStub(channel).Call(metadata=metadata)
        headers = [api_service_pb2.Header(name="x-no", value=f"{next(numbers)}")]
        head = api_service_pb2.CallRequestHead(method="POST", path="/v1/messages", headers=headers)
        await call.write(api_service_pb2.CallRequest(head=head))
        await call.write(api_service_pb2.CallRequest(chunk=b'{"top_k":%d,' % next(numbers)))
        for at in range(1, len(raw), _PIECE):
            await call.write(api_service_pb2.CallRequest(chunk=bytes(raw[at : at + _PIECE])))
        await call.done_writing()
        target.tally[f"answers {(await call.read()).head.status}"] += 1

    async def ask_typed(channel: grpc.aio.Channel) -> None:
        messages = [{"role": "user", "content": {"text": text}}]
        params = {"model": MODEL, "max_tokens": 5, "top_k": next(numbers), "messages": messages}
        request = messages_service_pb2.CreateMessageRequest(params=params)
        await MessagesServiceStub(channel).CreateMessage(request, metadata=metadata)
        target.tally["answers"] += 1

    async def once(number: int) -> None:
        async with grpc.aio.insecure_channel(target.grpc, options=_OWN_CHANNEL) as channel:
            try:
                await asyncio.wait_for((ask_raw if number % 2 else ask_typed)(channel), 60)
            except grpc.aio.AioRpcError as error:
                if (this := asyncio.current_task()) is not None and this.cancelling():  # which gRPC may say in its own words
                    raise asyncio.CancelledError from error
                target.tally[f"refused {error.code().name}"] += 1
                await asyncio.sleep(1)

    await by_many(target, 24, once)


async def odd_answers(target: Target) -> None:
    """Calls to which upstream says things that make no sense, or have no end (odd_upstream.py)."""
    numbers = itertools.count()

    async def once(number: int) -> None:
        is_stream = ',"stream":true' if number % 2 else ""
        said = body(f"odd {next(numbers)}", 20, is_stream)
        async with target.connected() as (reader, writer), asyncio.timeout(20):
            writer.write(head(target, "POST /v1/messages", f"content-length: {len(said)}", "connection: close") + said)
            came = await reader.read(4096)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    while await reader.read(1 << 16):
                        pass
            target.tally["answers " + came[9:12].decode()] += 1

    await by_many(target, 12, once)


async def innocent(target: Target) -> None:
    """Nothing but hunger: as much of the machine as an attack takes at the most."""
    async with target.under_attack():
        while True:
            for _ in range(200_000):
                pass
            await asyncio.sleep(0)


ATTACKS: Mapping[str, Attack] = {
    "downloads": downloads,
    "unread": unread,
    "uploads": uploads,
    "waiting": waiting,
    "text": _of(24, lambda: _text(31_000_000)),
    "keys": _of(6, lambda: said(x={f"k{number}": number for number in range(1_000_000)})),
    "integers": _of(6, lambda: said(x=[1] * 15_000_000)),
    "nested": _of(6, _nested),
    "short-messages": _of(6, _short_messages),
    "many-bodies": _of(300, lambda: _text(4_000_000)),
    "slow-answers": _of(24, lambda: body("answer in 20000 tokens " + "x" * 31_000_000, 20_000)),
    "grpc-bodies": over_grpc,
    "odd-upstream": odd_answers,
    "innocent": innocent,
}
