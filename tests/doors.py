"""A real HTTP edge over real parts, with a scripted upstream behind it; and a client that says exactly what a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import redis

from conftest import until
from flow_parts import Daemon, daemon
from headrace import keys
from headrace.edge.grpc_server import GrpcServer
from headrace.edge.http_server import HttpServer
from headrace.edge.http_times import Times
from headrace.v1 import api_service_pb2
from headrace.v1.api_service_pb2_grpc import ApiServiceStub
from scripted import Server, say_message, serving

Pairs = tuple[tuple[str, str], ...]
Response = tuple[int, dict[str, str], bytes]
BODY = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}


@contextlib.asynccontextmanager
async def open_door(
    url: str, path: Path, talk=say_message, **settings: str
) -> AsyncIterator[tuple[HttpServer, Server, Daemon]]:
    async with serving(talk) as server, daemon(url, server.url, path, **settings) as one, http_door(one, **settings) as door:
        yield door, server, one


@contextlib.asynccontextmanager
async def http_door(
    one: Daemon, *, times: Times | None = None, most: int = 1000, most_per_peer: int = 1000, **settings: str
) -> AsyncIterator[HttpServer]:
    """Open a daemon's HTTP port."""
    parts = one.parts
    door = HttpServer(
        parts.exchange, parts.hits, parts.callers,
        address="127.0.0.1:0", passes_credentials=settings.get("UPSTREAM__CREDENTIALS") == "caller",
        budget_headers=parts.schedule.budget_headers, readiness=list, metrics=lambda: b"", grace_s=1.0, crowd=parts.crowd,
        origins=parts.settings.listen.origins, hosts=(*parts.settings.listen.hosts, "edge.example"),
        times=times, max_connections=most, max_connections_per_peer=most_per_peer,
    )  # fmt: skip
    await door.start()
    try:
        yield door
    finally:
        await door.stop()


@contextlib.asynccontextmanager
async def grpc_door(one: Daemon, path: Path, **settings: str) -> AsyncIterator[grpc.aio.Channel]:
    """Open a daemon's gRPC port, and a channel to it."""
    async with (
        grpc_server(one, path, **settings) as door,
        grpc.aio.insecure_channel(f"127.0.0.1:{door.ports[0]}") as channel,
    ):
        yield channel


@contextlib.asynccontextmanager
async def grpc_server(
    one: Daemon, path: Path, addresses: tuple[str, ...] = ("127.0.0.1:0",), **settings: str
) -> AsyncIterator[GrpcServer]:
    """Open a daemon's gRPC port, or other addresses."""
    parts = one.parts
    door = GrpcServer(
        parts.exchange, parts.hits, parts.admission, parts.callers, parts.tickets, parts.letters, parts.cache,
        parts.usage, parts.board, parts.operated,
        clock=parts.clock, addresses=addresses, budget_headers=parts.schedule.budget_headers, runtime_dir=path,
        passes_credentials=settings.get("UPSTREAM__CREDENTIALS") == "caller", passkey=parts.passkey,
    )  # fmt: skip
    await door.start()
    try:
        yield door
    finally:
        await door.stop()


@contextlib.asynccontextmanager
async def open_grpc_door(
    url: str, path: Path, talk=say_message, **settings: str
) -> AsyncIterator[tuple[GrpcServer, Server, Daemon]]:
    """The same with the other door, at `door.ports[0]`."""
    async with (
        serving(talk) as server,
        daemon(url, server.url, path, **settings) as one,
        grpc_server(one, path, **settings) as door,
    ):
        yield door, server, one


async def call(
    port: int, method: str, path: str, headers: Pairs, body: bytes = b"", metadata: Pairs = (), query: str = ""
) -> Response:
    """Ask over ApiService.Call; return status, headers and body."""
    said = [api_service_pb2.Header(name=name, value=value) for name, value in headers]
    head = api_service_pb2.CallRequestHead(method=method, path=path, query=query, headers=said, body=body)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, asyncio.timeout(20):
        asked = ApiServiceStub(channel).Call(iter([api_service_pb2.CallRequest(head=head)]), metadata=metadata)
        first, *rest = [part async for part in asked]
    named = {header.name: header.value for header in first.head.headers}
    return first.head.status, named, b"".join(part.chunk for part in rest)


async def say(door: HttpServer, *headers: str | bytes, body: object = BODY, target: str = "/v1/messages") -> tuple[int, bytes]:
    """Say exactly this on the wire; return the status and everything that came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"POST {target} HTTP/1.1", "host: localhost", "connection: close", f"content-length: {len(raw)}", *headers]
    with contextlib.closing(writer):
        writer.write(b"\r\n".join(line if isinstance(line, bytes) else line.encode() for line in head) + b"\r\n\r\n" + raw)
        came = await asyncio.wait_for(reader.read(), 60)
    return int(came.split()[1]), came


def taken(url: str) -> str:
    """What of the budgets is still taken or waited for; "" if nothing is."""
    with redis.Redis.from_url(url) as client:
        left = [key for kind in ("permits", "line", "waits") for key in client.keys(f"headrace:{{budget}}:{kind}:*")]
        left += [key for key in client.keys("headrace:{budget}:hold:*") if client.get(key) != b"closed"]
        return str(left) if left else ""


async def cancel_at_every_step(one: Daemon, url: str, begin: Callable[[int], asyncio.Task[Any]], *, every: int) -> None:
    """
    Begin a call again and again, each time cancelled a little later, until one ends by itself; each time all is given back.

    The steps are the turns of the loop one by one, then time by the millisecond; *every* so many of them are tried.
    """
    for step in range(0, 400, every):
        asked = begin(step)
        for _ in range(min(step, 60)):
            await asyncio.sleep(0)
        await asyncio.sleep(max(0, step - 60) / 1000)
        if asked.done():
            break
        asked.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asked
        await until(lambda: not one.held(), what=f"step {step}: {one.held()}")
        await until(lambda: not taken(url), what=f"step {step}: {taken(url)}")
        with redis.Redis.from_url(url) as client:
            await until(lambda: client.zcard(keys.TICKETS) == 0, what=f"step {step}: a ticket is left")
    else:
        pytest.fail("the call never ended")
    assert step > 5
    await asked
