"""An error of a call that has a ticket names it, at every door and for whatever reason it came."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import grpc.aio
import pytest

import doors
from doors import BODY, grpc_server, open_door
from flow_parts import Daemon, in_turn
from headrace.v1 import messages_service_pb2 as messages
from headrace.v1 import messages_service_pb2_grpc as messages_grpc
from headrace.v1 import options_pb2
from scripted import Line, hang

PARAMS = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": {"text": "hi"}}]}
WRONG = b'{"type":"error","error":{"type":"invalid_request_error","message":"m"}}'


async def wrong(line: Line) -> None:
    await line.answer(400, WRONG)


async def busy(line: Line) -> None:
    await line.answer(429, b'{"type":"error","error":{"type":"rate_limit_error","message":"m"}}', "retry-after: 0.1")


Way = tuple[int, int, Daemon, str, int]
WAYS = {
    "at once": ((wrong,), "k", 20_000),
    "parked": ((busy, wrong), "", 20_000),
    "late": ((hang,), "k", 1000),
    "parked and late": ((busy, hang), "k", 1500),
}


@pytest.fixture(params=WAYS)
async def way(request: pytest.FixtureRequest, valkey_url: str, tmp_path: Path) -> AsyncIterator[Way]:
    """A daemon's two ports, itself, a key and the time of a call that fails."""
    talks, key, ms = WAYS[request.param]
    async with open_door(valkey_url, tmp_path, in_turn(*talks)) as (door, _, one), grpc_server(one, tmp_path) as other:
        yield door.port, other.ports[0], one, key, ms


async def tickets(one: Daemon) -> list[str]:
    return [ticket.id for ticket in (await one.parts.tickets.listing.page("*"))[0]]


def headers(key: str, ms: int) -> dict[str, str]:
    said = {"anthropic-version": "2023-06-01", "x-headrace-timeout-ms": str(ms)}
    return said | ({"idempotency-key": key} if key else {})


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_http(way: Way, stream: bool) -> None:
    """Among the headers."""
    port, _, one, key, ms = way
    async with aiohttp.ClientSession() as web:
        url = f"http://127.0.0.1:{port}/v1/messages"
        async with web.post(url, json=BODY | {"stream": stream}, headers=headers(key, ms)) as response:
            assert response.status >= 400
            named = response.headers["x-headrace-ticket"]
    assert [named] == await tickets(one)


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_grpc(way: Way, stream: bool) -> None:
    """Among the trailers."""
    _, port, one, key, ms = way
    options = options_pb2.CallOptions(idempotency_key=key)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = messages_grpc.MessagesServiceStub(channel)
        how = {"params": PARAMS, "options": options}
        if stream:
            asked = stub.StreamMessage(messages.StreamMessageRequest(**how), timeout=ms / 1000).read()
        else:
            asked = stub.CreateMessage(messages.CreateMessageRequest(**how), timeout=ms / 1000)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await asked
    trailers = dict(raised.value.trailing_metadata())
    if "grpc-status-details-bin" not in trailers:
        pytest.skip("its own clock rang first")
    assert [trailers["x-headrace-ticket"]] == await tickets(one)


async def test_api(way: Way) -> None:
    """HTTP said by gRPC."""
    _, port, one, key, ms = way
    body = json.dumps(BODY).encode()
    status, said, _ = await doors.call(port, "POST", "/v1/messages", tuple(headers(key, ms).items()), body)
    assert status >= 400
    assert [said["x-headrace-ticket"]] == await tickets(one)
