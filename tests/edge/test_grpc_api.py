"""ApiService.Call over a real server and real parts, with a scripted upstream."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from conftest import until
from doors import BODY, grpc_door
from flow_parts import Daemon, daemon
from headrace.v1 import api_service_pb2, api_service_pb2_grpc
from scripted import EVENTS, MESSAGE, Line, Server, say_events, say_message, serving

ASK = json.dumps(BODY).encode()
# What grpc's client in Python says of its own deadline, if that passes while the request is still on its way. No word of ours.
UNSENT = grpc.StatusCode.INTERNAL, "Internal error from Core"


@contextlib.asynccontextmanager
async def called(
    url: str, path: Path, talk=say_message, **settings: str
) -> AsyncIterator[tuple[api_service_pb2_grpc.ApiServiceAsyncStub, Server, Daemon]]:
    async with (
        serving(talk) as server,
        daemon(url, server.url, path, **settings) as one,
        grpc_door(one, path, **settings) as channel,
    ):
        yield api_service_pb2_grpc.ApiServiceStub(channel), server, one


def head(method: str, path: str, body: bytes = b"", **headers: str) -> api_service_pb2.CallRequest:
    said = [api_service_pb2.Header(name=name.replace("_", "-"), value=value) for name, value in headers.items()]
    path, _, query = path.partition("?")
    return api_service_pb2.CallRequest(
        head=api_service_pb2.CallRequestHead(method=method, path=path, query=query, headers=said, body=body)
    )


def chunk(data: bytes) -> api_service_pb2.CallRequest:
    return api_service_pb2.CallRequest(chunk=data)


async def ask(stub, *parts: api_service_pb2.CallRequest, **options: object) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body."""
    first, *rest = [part async for part in stub.Call(iter(parts), **options)]
    assert first.WhichOneof("part") == "head"
    headers = {header.name: header.value for header in first.head.headers}
    return first.head.status, headers, b"".join(part.chunk for part in rest)


async def test_same_as_http(valkey_url: str, tmp_path: Path) -> None:
    """A message is answered through the cache, in one piece or in several, as JSON or as events."""
    async with called(valkey_url, tmp_path) as (stub, server, _):
        status, headers, body = await ask(stub, head("POST", "/v1/messages", ASK))
        assert (status, body, headers["x-headrace-source"]) == (200, MESSAGE, "upstream")
        status, headers, body = await ask(stub, head("POST", "/v1/messages", ASK[:5]), chunk(ASK[5:9]), chunk(ASK[9:]))
        assert (status, body, headers["x-headrace-source"]) == (200, MESSAGE, "cache")
        stream = json.dumps(BODY | {"stream": True}).encode()
        status, headers, body = await ask(stub, head("POST", "/v1/messages", stream))
        assert (status, body) == (200, b"".join(EVENTS))
        assert server.calls == 1


async def test_live(valkey_url: str, tmp_path: Path) -> None:
    """Events come one by one, as they are said."""
    async with called(valkey_url, tmp_path, say_events) as (stub, _, _):
        stream = json.dumps(BODY | {"stream": True}).encode()
        parts = [part async for part in stub.Call(iter([head("POST", "/v1/messages", stream)]))]
        assert [part.chunk for part in parts[1:]] == EVENTS


async def test_carried(valkey_url: str, tmp_path: Path) -> None:
    """Any other request goes through with its query, headers and body; and so does the answer."""

    async def talk(line: Line) -> None:
        assert line.head.startswith(b"POST /v1/things?x=1 ")
        assert (line.headers["x-mine"], line.headers.get("content-length")) == ("1", None)
        await line.answer(201, line.body[::-1], "x-theirs: 2")

    async with called(valkey_url, tmp_path, talk) as (stub, _, _):
        status, headers, body = await ask(stub, head("POST", "/v1/things?x=1", b"ab", x_mine="1"), chunk(b"cd"), chunk(b"ef"))
        assert (status, headers["x-theirs"], body) == (201, "2", b"fedcba")


async def test_errors_are_http(valkey_url: str, tmp_path: Path) -> None:
    """What HTTP can say is said as HTTP: upstream's no, and our own."""

    async def talk(line: Line) -> None:
        await line.answer(404, b'{"type":"error"}', "content-type: application/json")

    async with called(valkey_url, tmp_path, talk) as (stub, _, _):
        assert (await ask(stub, head("GET", "/v1/files/none")))[::2] == (404, b'{"type":"error"}')
        status, headers, body = await ask(stub, head("GET", "/v1/organizations/users"))
        assert (status, json.loads(body)["error"]["type"]) == (403, "permission_error")
        assert headers["request-id"].startswith("req_headrace_")
        assert (await ask(stub, head("GET", "/v2/things")))[0] == 400
        assert (await ask(stub, head("POST", "/v1/messages", b"{}")))[0] == 400


@pytest.mark.parametrize("parts", [[], [chunk(b"x")]])
async def test_no_head(valkey_url: str, tmp_path: Path, parts: list[api_service_pb2.CallRequest]) -> None:
    """What does not begin with a head is no request: INVALID_ARGUMENT."""
    async with called(valkey_url, tmp_path) as (stub, _, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(stub, *parts)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_two_heads(valkey_url: str, tmp_path: Path) -> None:
    """A second head is a body that makes no sense: 400, and nothing stays behind."""
    async with called(valkey_url, tmp_path) as (stub, _, one):
        twice = [head("POST", "/v1/things", b"x"), head("POST", "/v1/things")]
        assert (await ask(stub, *twice))[0] == 400
        await until(lambda: not one.held(), what=one.held())


@pytest.mark.parametrize("source", ["metadata", "headers"])
async def test_keys(valkey_url: str, tmp_path: Path, source: str) -> None:
    """A key counts in the request's own headers as in the RPC's metadata."""
    async with called(valkey_url, tmp_path, UPSTREAM__CREDENTIALS="caller") as (stub, server, _):
        assert (await ask(stub, head("GET", "/v1/things")))[0] == 401
        if source == "metadata":
            await ask(stub, head("GET", "/v1/things"), metadata=(("x-api-key", "mine"),))
        else:
            await ask(stub, head("GET", "/v1/things", x_api_key="mine"))
        assert server.lines[0].headers["x-api-key"] == "mine"


async def test_leaving(valkey_url: str, tmp_path: Path) -> None:
    """A cancelled RPC hangs up upstream, and leaves nothing behind; so does one whose deadline passes."""

    async def talk(line: Line) -> None:
        await line.say(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nbegun")
        await line.reader.read()

    async with called(valkey_url, tmp_path, talk) as (stub, server, one):
        call = stub.Call(iter([head("GET", "/v1/things")]))
        await call.read()
        call.cancel()
        await asyncio.wait_for(server.hung_up.wait(), 5)
        await until(lambda: not one.held(), what=one.held())
        server.hung_up.clear()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(stub, head("GET", "/v1/things"), timeout=0.5)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(server.hung_up.wait(), 5)
        await until(lambda: not one.held(), what=one.held())


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/things"])
@pytest.mark.parametrize("is_begun", [False, True])
async def test_deadline(valkey_url: str, tmp_path: Path, path: str, is_begun: bool) -> None:
    """A deadline that passes is always gRPC's own error, and never an answer that says so: the client's clock rings first."""

    async def talk(line: Line) -> None:
        if is_begun:
            await line.begin_stream()
            await line.chunk(b"".join(EVENTS[:3]))
        await line.reader.read()

    async def late(number: int) -> tuple[grpc.StatusCode, bytes]:
        came = []
        body = json.dumps(BODY | {"stream": True, "max_tokens": 5 + number}).encode()
        try:
            async for part in stub.Call(iter([head("POST", path, body)]), timeout=0.5):
                came.append(part.chunk)
        except grpc.aio.AioRpcError as error:
            is_unsent = (error.code(), error.details()) == UNSENT
            return grpc.StatusCode.DEADLINE_EXCEEDED if is_unsent else error.code(), b"".join(came)
        return grpc.StatusCode.OK, b"".join(came)

    async with called(valkey_url, tmp_path, talk) as (stub, _, one):
        for code, came in await asyncio.gather(*(late(number) for number in range(40))):
            assert code is grpc.StatusCode.DEADLINE_EXCEEDED, came
            assert b"error" not in came
        await until(lambda: not one.held(), what=one.held())


async def test_stream_breaks_off(valkey_url: str, tmp_path: Path) -> None:
    """A stream of events that breaks off ends with an error event, as on the HTTP edge."""

    async def talk(line: Line) -> None:
        await line.begin_stream()
        await line.chunk(b"".join(EVENTS[:3]))
        line.reset()

    async with called(valkey_url, tmp_path, talk) as (stub, _, _):
        stream = json.dumps(BODY | {"stream": True}).encode()
        status, _, body = await ask(stub, head("POST", "/v1/messages", stream))
        assert (status, body[: len(EVENTS[0])]) == (200, EVENTS[0])
        assert body.split(b"event: ")[-1].startswith(b"error\n")


async def test_breaks_off(valkey_url: str, tmp_path: Path) -> None:
    """An answer that breaks off in the middle ends the RPC as UNAVAILABLE: half of it must not look whole."""

    async def talk(line: Line) -> None:
        await line.say(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf")
        line.reset()

    async with called(valkey_url, tmp_path, talk) as (stub, _, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(stub, head("POST", "/v1/things"))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_remarks(valkey_url: str, tmp_path: Path) -> None:
    """What upstream says beside an answer comes with it, from the cache, too; not what is of the one exchange."""

    async def talk(line: Line) -> None:
        await line.answer(
            200, MESSAGE, "anthropic-organization-id: org-1", "set-cookie: a=b", "etag: x", "x-odd: 1", "x-odd: 2"
        )

    async with called(valkey_url, tmp_path, talk) as (stub, server, _):
        for _ in range(2):
            first, *_ = [part async for part in stub.Call(iter([head("POST", "/v1/messages", ASK)]))]
            pairs = [(header.name, header.value) for header in first.head.headers]
            assert [pair for pair in pairs if pair[0] in ("anthropic-organization-id", "x-odd")] == [
                ("anthropic-organization-id", "org-1"),
                ("x-odd", "1"),
                ("x-odd", "2"),
            ]
            assert not {"set-cookie", "etag"} & dict(pairs).keys()
        assert server.calls == 1
