"""One idempotency key, whatever way it comes: forms, doors, daemons, odd keys; and other calls that come with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import grpc.aio
import pytest

import doors
from doors import BODY, grpc_server, open_door
from flow_parts import Daemon, Held, asking, later, running, say
from headrace.edge.http_server import HttpServer
from headrace.errors import Canceled, DeadlinePassed, HeadraceError, UpstreamError
from headrace.retry.ticket import State
from headrace.v1 import messages_service_pb2 as messages
from headrace.v1 import messages_service_pb2_grpc as messages_grpc
from headrace.v1 import options_pb2, tickets_pb2
from scripted import Server

PARAMS = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": {"text": "hi"}}]}
HEADERS = {"anthropic-version": "2023-06-01"}


class Doors:
    """Both doors of one daemon, and upstream behind it."""

    def __init__(self, http: HttpServer, port: int, server: Server, one: Daemon) -> None:
        self.http, self.port, self.server, self.one = http, port, server, one

    async def by_http(
        self, key: str, *, stream: bool = False, body: object = BODY, path: str = "/v1/messages"
    ) -> tuple[int, dict, bytes]:
        url = f"http://127.0.0.1:{self.http.port}{path}"
        said = HEADERS | {"idempotency-key": key, "cache-control": "no-store"}
        async with (
            aiohttp.ClientSession() as web,
            web.post(url, json=body | {"stream": stream} if stream else body, headers=said) as response,
        ):
            return response.status, dict(response.headers), await response.read()

    async def by_api(self, key: str) -> tuple[int, dict, bytes]:
        said = tuple((HEADERS | {"idempotency-key": key}).items())
        return await doors.call(self.port, "POST", "/v1/messages", said, json.dumps(BODY).encode())

    async def typed(self, method: str, key: str, **more: object):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            stub = messages_grpc.MessagesServiceStub(channel)
            kind = getattr(messages, f"{method}Request")
            asked = kind(params=PARAMS | more, options=options_pb2.CallOptions(idempotency_key=key))
            call = getattr(stub, method)(asked, timeout=20)
            return [each async for each in call] if method == "StreamMessage" else await call


@pytest.fixture
async def house(valkey_url: str, tmp_path: Path) -> AsyncIterator[Doors]:
    async with open_door(valkey_url, tmp_path, say) as (door, server, one), grpc_server(one, tmp_path) as other:
        yield Doors(door, other.ports[0], server, one)


async def test_every_way(house: Doors):
    """Unary, then a stream, then over gRPC in all its ways: upstream is asked once, and all have one ticket."""
    _, first, _ = await house.by_http("k")
    _, second, said = await house.by_http("k", stream=True)
    assert b"message_stop" in said
    _, third, _ = await house.by_api("k")
    made = await house.typed("CreateMessage", "k")
    streamed = await house.typed("StreamMessage", "k")
    submitted = await house.typed("SubmitMessage", "k")
    tickets = {first["x-headrace-ticket"], second["x-headrace-ticket"], third["x-headrace-ticket"], made.origin.ticket}
    assert tickets == {submitted.ticket.id}
    assert len(streamed) > 3
    assert submitted.ticket.state == tickets_pb2.TICKET_STATE_SUCCEEDED
    assert house.server.calls == 1


async def test_submitted_first(house: Doors):
    """Submitted, then created and streamed: who comes waits for the ticket."""
    submitted = await house.typed("SubmitMessage", "k")
    made, streamed = await asyncio.gather(house.typed("CreateMessage", "k"), house.typed("StreamMessage", "k"))
    assert made.origin.ticket == submitted.ticket.id
    assert streamed
    assert house.server.calls == 1


async def test_another_call(house: Doors):
    """Another body, or another endpoint, is refused by the key's name, at each door and in each form; nothing is sent."""
    assert (await house.by_http("k-1"))[0] == 200
    other = BODY | {"max_tokens": 6}
    for stream in (False, True):
        status, headers, said = await house.by_http("k-1", body=other, stream=stream)
        assert (status, headers["x-should-retry"]) == (409, "false")
        assert "'k-1'" in json.loads(said)["error"]["message"]
    chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    assert (await house.by_http("k-1", body=chat, path="/v1/chat/completions"))[0] == 409
    for method in ("CreateMessage", "StreamMessage", "SubmitMessage"):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await house.typed(method, "k-1", max_tokens=6)
        assert raised.value.code() is grpc.StatusCode.ALREADY_EXISTS
        assert "'k-1'" in raised.value.details()
    assert house.server.calls == 1


@pytest.mark.parametrize("key", ["x" * 255, " a ", "a b;c=d,e", '"quoted"', "{}:*?[a]", "headrace:ticket:1", "a|b", "%00"])
async def test_odd_keys(house: Doors, key: str):
    """Whatever visible characters it has, it is a key of its own."""
    for _ in range(2):
        assert (await house.by_http(key))[0] == 200
    assert house.server.calls == 1
    assert (await house.by_http(f"{key.strip()[:-1]}~"))[0] == 200
    assert house.server.calls == 2


@pytest.mark.parametrize("key", ["\u00fc\u6f22\U0001f511", "a\nb", "\x00", "\u202e"])
async def test_odd_keys_over_grpc(house: Doors, key: str):
    """Over gRPC it is any text; also where an error says it."""
    for _ in range(2):
        await house.typed("CreateMessage", key)
    assert house.server.calls == 1
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await house.typed("CreateMessage", key, max_tokens=6)
    assert raised.value.code() is grpc.StatusCode.ALREADY_EXISTS


async def test_too_long(house: Doors):
    """256 characters are too many, and the error says how many may be."""
    status, _, said = await house.by_http("x" * 256)
    assert (status, b"255" in said) == (400, True)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await house.typed("CreateMessage", "x" * 256)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_hundred_at_two_daemons(valkey_url: str, tmp_path: Path):
    """A hundred who come at once, unary and in streams, at two daemons: upstream is asked once, and all have its answer."""
    held = Held()
    async with running(valkey_url, tmp_path / "a", held) as (one, server), later(valkey_url, tmp_path / "b", one) as two:
        hosts = [(one, two)[number % 2] for number in range(100)]
        calls = [host.call({"stream": number % 4 > 1}, idempotency_key="k") for number, host in enumerate(hosts)]
        asked = [asking(host, call) for host, call in zip(hosts, calls, strict=True)]
        await asyncio.sleep(0)
        held.go.set()
        replies = await asyncio.gather(*asked)
        assert server.calls == 1
        assert len({reply.ticket for reply in replies}) == 1
        assert all(reply.answer is not None for reply in replies)


@pytest.mark.parametrize("end", ["failed", "canceled", "expired"])
async def test_free_after(valkey_url: str, tmp_path: Path, end: str):
    """After a first that failed, was canceled or expired another call may have the key, on any daemon."""
    errors: dict[str, tuple[State, HeadraceError]] = {
        "failed": (State.FAILED, UpstreamError("no", status=400)),
        "canceled": (State.CANCELED, Canceled("c")),
        "expired": (State.EXPIRED, DeadlinePassed("d")),
    }
    state, error = errors[end]
    async with running(valkey_url, tmp_path / "a") as (one, _), later(valkey_url, tmp_path / "b", one) as two:
        call = one.call(idempotency_key="k")
        claim = await one.parts.tickets.claim(call)
        await one.parts.tickets.finish(claim.ticket, error=error)
        assert (await one.parts.tickets.get(claim.ticket, call.owner)).state is state
        reply = await two.ask(two.call({"n": 1}, idempotency_key="k"))
        assert reply.ticket != claim.ticket
        assert (await one.ask(one.call({"n": 1}, idempotency_key="k"))).ticket == reply.ticket
