"""Odd manners at the doors: paths in disguise, names that are no names, lengths that do not hold, answers that break off."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from doors import BODY, grpc_door, open_door, taken
from flow_parts import Daemon, daemon
from headrace.edge.http_server import HttpServer
from headrace.v1 import api_service_pb2, api_service_pb2_grpc
from scripted import Line, Server, serving

ASK = json.dumps(BODY).encode()
Pairs = list[tuple[str, str]]


async def say_nothing_much(line: Line) -> None:
    await line.answer(200, b"{}", "content-type: application/json")


async def begin(line: Line, status: int) -> None:
    await line.say(b"HTTP/1.1 %d So\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{" % status)


async def say(door: HttpServer, line: str, *headers: str, body: bytes = b"") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    length = [f"content-length: {len(body)}"] if body else []
    writer.write(
        "\r\n".join([f"{line} HTTP/1.1", "host: localhost", "connection: close", *length, *headers, "", ""]).encode() + body
    )
    async with asyncio.timeout(10):
        came = await reader.read()
    writer.close()
    return came


@contextlib.asynccontextmanager
async def called(url: str, path: Path) -> AsyncIterator[tuple[api_service_pb2_grpc.ApiServiceAsyncStub, Server, Daemon]]:
    async with serving(say_nothing_much) as server, daemon(url, server.url, path) as one, grpc_door(one, path) as channel:
        yield api_service_pb2_grpc.ApiServiceStub(channel), server, one


async def status_of(stub, method: str, path: str, headers: Pairs, *chunks: bytes, query: str = "") -> int:
    said = [api_service_pb2.Header(name=name, value=value) for name, value in headers]
    head = api_service_pb2.CallRequestHead(method=method, path=path, query=query, headers=said)
    parts = [api_service_pb2.CallRequest(head=head), *(api_service_pb2.CallRequest(chunk=chunk) for chunk in chunks)]
    async with asyncio.timeout(10):
        first, *_ = [part async for part in stub.Call(iter(parts))]
        return first.head.status


@pytest.mark.parametrize(
    "line",
    ["POST /v1/%6dessages", "GET /v1/%6Frganizations/me", "GET /v1/organization%73/me", "GET /v1/%2E%2E/x", "GET /v1/.%2e/x"],
)
async def test_disguises(valkey_url: str, tmp_path: Path, line: str) -> None:
    """A letter that is escaped without need would get past the endpoint's role and limits: it is refused."""
    async with open_door(valkey_url, tmp_path, say_nothing_much) as (door, server, _):
        assert (await say(door, line, body=ASK if line.startswith("POST") else b"")).split()[1] == b"400"
        assert (await say(door, "GET /v1/things/a%20b")).split()[1] == b"200"  # an escape that is needed stays good
        assert server.calls == 1


@pytest.mark.parametrize("path", ["/v1/things", "/v1/models"])
@pytest.mark.parametrize("name", ["anthropic-a: b", "anthropic-a ", "anthropic-a\r\nx-api-key", "anthropic-é"])
async def test_names(valkey_url: str, tmp_path: Path, path: str, name: str) -> None:
    """Over gRPC, too, the name of a header is a name, and cannot write a line of its own."""
    async with called(valkey_url, tmp_path) as (stub, server, _):
        assert await status_of(stub, "GET", path, [(name, "x")]) == 400
        assert server.calls == 0


async def test_no_key_by_name(valkey_url: str, tmp_path: Path) -> None:
    """No second key goes upstream beside ours, in the guise of a longer name; nor does a header without one."""
    async with called(valkey_url, tmp_path) as (stub, server, _):
        assert await status_of(stub, "GET", "/v1/things", [("x-api-key: stolen", "x")]) == 400
        assert await status_of(stub, "GET", "/v1/things", [("", "x")]) == 400
        assert server.calls == 0


@pytest.mark.parametrize("query", ["a=\0", "a=1 HTTP/1.1\r\nx: y", "a=" + "x" * 70_000])
async def test_no_url(valkey_url: str, tmp_path: Path, query: str) -> None:
    """A query that no URL can hold is the caller's error, not ours."""
    async with called(valkey_url, tmp_path) as (stub, _, one):
        for path in ("/v1/things", "/v1/models"):
            assert await status_of(stub, "GET", path, [], query=query) == 400
        assert (one.held(), taken(valkey_url)) == ("", "")


@pytest.mark.parametrize("stated", ["10", "3"])
async def test_length(valkey_url: str, tmp_path: Path, stated: str) -> None:
    """A body in pieces that is less or more than its content-length is refused: not waited for, nor cut to fit."""
    async with called(valkey_url, tmp_path) as (stub, _, one):
        assert await status_of(stub, "POST", "/v1/things", [("content-length", stated)], b"abcde", b"") == 400
        assert (one.held(), taken(valkey_url)) == ("", "")


@pytest.mark.parametrize("size", [10, 2_000_000])
async def test_packed(valkey_url: str, tmp_path: Path, size: int) -> None:
    """A body that came compressed is unpacked here, and goes on under neither its old name nor its old length."""
    plain = bytes(range(256)) * (size // 256 + 1)
    packed = gzip.compress(plain, 0)
    async with open_door(valkey_url, tmp_path, say_nothing_much) as (door, server, _):
        assert (await say(door, "POST /v1/things", "content-encoding: gzip", body=packed)).split()[1] == b"200"
        (line,) = server.lines
    assert "content-encoding" not in line.headers
    assert line.body == plain


async def test_list_breaks_off(valkey_url: str, tmp_path: Path) -> None:
    """Where an answer is read whole to put addresses right, half of it is upstream's failure, not an error of ours."""

    async def talk(line: Line) -> None:
        await begin(line, 200)
        line.writer.close()

    async with open_door(valkey_url, tmp_path, talk) as (door, _, one):
        came = await say(door, "GET /v1/messages/batches", "x-headrace-timeout-ms: 2000")
        assert came.split()[1] == b"502"
        assert (one.held(), taken(valkey_url)) == ("", "")


@pytest.mark.parametrize("status", [200, 400])
async def test_list_falls_silent(valkey_url: str, tmp_path: Path, status: int) -> None:
    """An upstream that falls silent in the middle of what is read whole is given up."""

    async def talk(line: Line) -> None:
        await begin(line, status)
        await asyncio.sleep(60)

    async with open_door(valkey_url, tmp_path, talk) as (door, _, one):
        one.parts.upstream._gap_s = 0.3
        came = await say(door, "GET /v1/messages/batches")
        assert came.split()[1] == (b"400" if status == 400 else b"504")
        assert (one.held(), taken(valkey_url)) == ("", "")


async def test_packed_events_break_off(valkey_url: str, tmp_path: Path) -> None:
    """No error event in the clear follows compressed events: such a stream is cut."""

    async def talk(line: Line) -> None:
        await line.say(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        await line.chunk(gzip.compress(b"event: ping\ndata: {}\n\n"))
        line.writer.close()

    async with open_door(valkey_url, tmp_path, talk) as (door, _, _):
        with contextlib.suppress(ConnectionError):
            assert b"event: error" not in await say(door, "GET /v1/things", "accept-encoding: gzip")


async def test_models_take_no_body(valkey_url: str, tmp_path: Path) -> None:
    """A GET whose answer is kept does not take in a body without end; one that states no length has no body."""
    length = [("content-length", "1800000")]
    async with called(valkey_url, tmp_path) as (stub, server, _):
        assert await status_of(stub, "GET", "/v1/models", length, *[b"x" * 600_000] * 3) == 413
        assert server.calls == 0


@pytest.mark.parametrize("whose", ["ours", "upstream's"])
async def test_refused_while_it_still_speaks(valkey_url: str, tmp_path: Path, whose: str) -> None:
    """Over gRPC too a caller hears why it was refused, though it was still sending: not its own library's INTERNAL."""
    chunks = [b"x" * 600_000] * 10

    async def refuse(line: Line) -> None:
        await line.answer(409, b"{}", "content-type: application/json", "connection: close")

    async with serving(refuse) as server, daemon(valkey_url, server.url, tmp_path) as one, grpc_door(one, tmp_path) as channel:
        stub = api_service_pb2_grpc.ApiServiceStub(channel)
        path, status = ("/v1/fil%65s", 400) if whose == "ours" else ("/v1/files", 409)
        for _ in range(10):
            assert await status_of(stub, "POST", path, [], *chunks) == status
        assert server.calls == (0 if whose == "ours" else 10)
