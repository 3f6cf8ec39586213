"""One caller's downloads that nobody reads, and uploads of a byte a second, hold up no other; and they end."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import grpc.aio
import pytest

from conftest import until
from doors import BODY, grpc_server, http_door, say
from flow_parts import Daemon, daemon
from headrace import observe
from headrace.v1 import api_service_pb2
from headrace.v1.api_service_pb2_grpc import ApiServiceStub
from scripted import Line, Server, say_message, serving

LARGE = b"x" * 30_000_000  # more than all the buffers on the way hold
SLOTS = 8


async def talk(line: Line) -> None:
    if line.head.startswith(b"POST /v1/messages "):
        await say_message(line)
    else:
        await line.answer(200, LARGE, "content-type: application/octet-stream")


class House:
    """A daemon, its two doors, and what a flood does at one of them."""

    def __init__(self, one: Daemon, server: Server, http: int, grpc: int, door) -> None:
        self.one, self.server, self.http, self.grpc, self.door = one, server, http, grpc, door

    @property
    def slots(self):
        return self.one.parts.schedule.stats().slots

    @contextlib.asynccontextmanager
    async def begun(self, by: str, method: str, target: str, length: int) -> AsyncIterator[object]:
        """Begin a request in flood's name, and neither send its body nor read what comes."""
        if by == "http":
            reader, writer = await asyncio.open_connection("127.0.0.1", self.http, limit=1024)
            lines = [f"{method} {target} HTTP/1.1", "host: localhost", "x-headrace-caller: flood", f"content-length: {length}"]
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
            with contextlib.closing(writer):
                yield reader, writer
        else:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{self.grpc}") as channel:
                said = {"x-headrace-caller": "flood"} | ({"content-length": str(length)} if length else {})
                pairs = [api_service_pb2.Header(name=name, value=value) for name, value in said.items()]
                asked = ApiServiceStub(channel).Call(metadata=(("x-headrace-caller", "flood"),))
                head = api_service_pb2.CallRequestHead(method=method, path=target, headers=pairs)
                await asked.write(api_service_pb2.CallRequest(head=head))
                yield asked
                asked.cancel()


@contextlib.asynccontextmanager
async def house(url: str, path, **settings: str) -> AsyncIterator[House]:
    settings = {"UPSTREAM__MAX_IN_FLIGHT": str(SLOTS)} | settings
    async with (
        serving(talk) as server,
        daemon(url, server.url, path, **settings) as one,
        http_door(one) as door,
        grpc_server(one, path) as other,
    ):
        yield House(one, server, door.port, other.ports[0], door)


async def kept(house: House, number: int = 0) -> int:
    body = {**BODY, "max_tokens": 5 + number, "stream": False}
    async with asyncio.timeout(5):
        return (await say(house.door, "x-headrace-caller: other", body=body))[0]


@pytest.mark.parametrize("by", ["http", "grpc"])
@pytest.mark.parametrize("way", ["downloads", "uploads"])
async def test_kept_calls_go_on(valkey_url, tmp_path, by, way):
    """However many are under way, others' kept calls go at once; and so does one more carried call of another."""
    async with house(valkey_url, tmp_path) as at, contextlib.AsyncExitStack() as stack:
        ask = ("GET", "/v1/files/f/content", 0) if way == "downloads" else ("POST", "/v1/files", 50_000_000)
        for _ in range(SLOTS):
            begun = await stack.enter_async_context(at.begun(by, *ask))
            if by == "grpc" and way == "uploads":
                await begun.write(api_service_pb2.CallRequest(chunk=b"x"))
        await until(lambda: at.slots.in_use + at.slots.waiting >= SLOTS)
        assert [await kept(at, number) for number in range(3)] == [200] * 3


@pytest.mark.parametrize("target", ["/v1/files/f/content", "/v1/messages/batches"])
@pytest.mark.parametrize("by", ["http", "grpc"])
async def test_unread_ends(valkey_url, tmp_path, by, target):
    """An answer that its caller does not read ends after the patience, passed along or read whole first; the slot is free."""
    async with house(valkey_url, tmp_path, UPSTREAM__CARRIED_PATIENCE="400ms", UPSTREAM__CARRIED_PACE="1MB") as at:
        async with at.begun(by, "GET", target, 0):
            await until(lambda: at.slots.in_use == 1)
            await until(lambda: at.slots.in_use == 0)
            if target.endswith("content"):
                await asyncio.wait_for(at.server.hung_up.wait(), 5)
        assert at.one.parts.upstream.in_the_air == 0


async def test_read_slowly(valkey_url, tmp_path):
    """One that is read slowly but steadily comes whole, however long it takes."""
    async with (
        house(valkey_url, tmp_path, UPSTREAM__CARRIED_PATIENCE="400ms", UPSTREAM__CARRIED_PACE="1MB") as at,
        at.begun("http", "GET", "/v1/files/f/content", 0) as (reader, _),
    ):
        await reader.readuntil(b"\r\n\r\n")
        left = len(LARGE)
        while left:
            left -= len(await reader.read(min(left, 1_000_000)))
            await asyncio.sleep(0.002)
        assert at.slots.in_use <= 1


async def test_trickle_http(valkey_url, tmp_path):
    """An upload of a byte now and then is told 408 after the patience, and upstream is hung up on."""
    async with (
        house(valkey_url, tmp_path, UPSTREAM__CARRIED_PATIENCE="400ms") as at,
        at.begun("http", "POST", "/v1/files", 50_000_000) as (reader, writer),
    ):
        reading = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
        while not reading.done():
            writer.write(b"x")
            await asyncio.wait([reading], timeout=0.1)
        assert (await reading).split()[1] == b"408"
        async with asyncio.timeout(5):
            said = json.loads(await reader.read(1000))
        assert said["error"]["type"] == "timeout_error"
        assert "pace" in said["error"]["message"]
        await until(lambda: at.slots.in_use == 0)
        await asyncio.wait_for(at.server.hung_up.wait(), 5)


async def test_trickle_grpc(valkey_url, tmp_path):
    """The same by the other door."""
    async with (
        house(valkey_url, tmp_path, UPSTREAM__CARRIED_PATIENCE="400ms") as at,
        at.begun("grpc", "POST", "/v1/files", 50_000_000) as asked,
    ):
        reading = asyncio.ensure_future(asked.read())
        while not reading.done():
            await asked.write(api_service_pb2.CallRequest(chunk=b"x"))
            await asyncio.wait([reading], timeout=0.1)
        assert (await reading).head.status == 408
        await until(lambda: at.slots.in_use == 0)


async def test_counted(valkey_url, tmp_path):
    """What was too slow is counted as that."""
    before = observe.ERRORS.at("http", "TOO_SLOW").count
    async with (
        house(valkey_url, tmp_path, UPSTREAM__CARRIED_PATIENCE="400ms") as at,
        at.begun("http", "POST", "/v1/files", 50_000_000) as (reader, _),
    ):
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert observe.ERRORS.at("http", "TOO_SLOW").count == before + 1
