"""
A gigabyte up and a gigabyte down through the installed daemon, which never holds more than a little of either.

A fifth of it in CI; `make large` is the whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import grpc
import pytest
from aiohttp import web

from fleet import daemon
from headrace.v1 import api_service_pb2, api_service_pb2_grpc

MOST_BYTES = 32_000_000  # that the daemon's memory may rise
BLOCK = bytes(range(256)) * 1024  # 256 KiB


@pytest.fixture(scope="module")
def size(long: bool) -> int:
    """How much goes each way, in bytes."""
    return 1_000_000_000 if long else 200_000_000


@pytest.fixture(scope="module")
def expected(size: int) -> str:
    digest = hashlib.blake2b()
    for block in blocks(size):
        digest.update(block)
    return digest.hexdigest()


def blocks(size: int) -> Iterator[bytes]:
    for left in range(size, 0, -len(BLOCK)):
        yield BLOCK[:left]


async def sent(size: int) -> AsyncIterator[bytes]:
    for block in blocks(size):
        yield block


async def take(request: web.BaseRequest) -> web.StreamResponse:
    """An upstream that hashes what comes, and says as much as the query asks for."""
    if request.method == "POST":
        digest, size = hashlib.blake2b(), 0
        async for chunk in request.content.iter_any():
            digest.update(chunk)
            size += len(chunk)
        return web.json_response({"size": size, "digest": digest.hexdigest(), "length": request.headers.get("content-length")})
    asked = request.query["bytes"]
    response = web.StreamResponse(headers={"content-length": asked, "content-type": "application/octet-stream"})
    await response.prepare(request)
    for block in blocks(int(asked)):
        await response.write(block)
    return response


@contextlib.asynccontextmanager
async def upstream() -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(take))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def little_memory(pid: int):
    """Fail if the process's memory rises by more than it may at any moment in the block."""
    status = Path(f"/proc/{pid}/status")
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the high-water mark begins anew
    before = _kilobytes(status, "VmRSS")
    yield
    rise = (_kilobytes(status, "VmHWM") - before) * 1024
    print(f"memory rose by {rise / 1e6:.1f} MB")
    assert rise < MOST_BYTES


def _kilobytes(status: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(f"{name}:"))


async def test_http(size: int, expected: str) -> None:
    """Over HTTP, with a length and without one."""
    async with upstream() as url:
        running = await asyncio.to_thread((context := daemon(url)).__enter__)
        try:
            async with aiohttp.ClientSession(running.http) as session:
                await (await session.get("/v1/files/file_small/content?bytes=1")).read()
                for headers in ({"content-length": str(size)}, {}):
                    with little_memory(running.served.process.pid):
                        async with session.post("/v1/skills", data=sent(size), headers=headers) as response:
                            said = await response.json()
                    assert said == {"size": size, "digest": expected, "length": headers.get("content-length")}
                with little_memory(running.served.process.pid):
                    digest = hashlib.blake2b()
                    async with session.get(f"/v1/files/file_big/content?bytes={size}") as response:
                        assert response.headers["content-length"] == str(size)
                        async for chunk in response.content.iter_any():
                            digest.update(chunk)
                assert digest.hexdigest() == expected
        finally:
            await asyncio.to_thread(context.__exit__, None, None, None)


async def test_grpc(size: int, expected: str) -> None:
    """Over ApiService.Call."""
    async with upstream() as url:
        running = await asyncio.to_thread((context := daemon(url)).__enter__)
        try:
            async with grpc.aio.insecure_channel(running.grpc) as channel:
                stub = api_service_pb2_grpc.ApiServiceStub(channel)
                with little_memory(running.served.process.pid):
                    said = b"".join([part.chunk async for part in stub.Call(_upload(size))])
                assert expected.encode() in said
                with little_memory(running.served.process.pid):
                    digest = hashlib.blake2b()
                    async for part in stub.Call(_download(size)):
                        digest.update(part.chunk)
                assert digest.hexdigest() == expected
        finally:
            await asyncio.to_thread(context.__exit__, None, None, None)


async def _upload(size: int) -> AsyncIterator[api_service_pb2.CallRequest]:
    yield api_service_pb2.CallRequest(head=api_service_pb2.CallRequestHead(method="POST", path="/v1/skills"))
    for block in blocks(size):
        yield api_service_pb2.CallRequest(chunk=block)


async def _download(size: int) -> AsyncIterator[api_service_pb2.CallRequest]:
    head = api_service_pb2.CallRequestHead(method="GET", path="/v1/files/file_big/content", query=f"bytes={size}")
    yield api_service_pb2.CallRequest(head=head)
