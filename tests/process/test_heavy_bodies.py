"""Bodies of many small things, through the installed program: they are answered, and hold up nobody else, at any door."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import grpc
import pytest
from aiohttp import web

from conftest import until
from fleet import Daemon, daemon
from headrace.v1 import api_service_pb2, api_service_pb2_grpc, content_pb2, messages_pb2, messages_service_pb2
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub
from scripted import MESSAGE
from stalling import SEEN_AGAIN, Stalled

pytestmark = SEEN_AGAIN

BLOCK = {"type": "text", "text": "a small block"}
BLOCKS = 250_000
UNBOUND = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))

HELD = Path(__file__).parent.parent / "held.py"
MOST_S = 0.2  # that /healthz may take, whatever else comes in


def body(*items: object, **more: object) -> bytes:
    said = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": items}], **more}
    return json.dumps(said, separators=(",", ":")).encode()


# Made when they are asked for: whoever reads this file to see what tests there are would take seconds for them.
@functools.cache
def heavy() -> dict[str, bytes]:
    """Bodies of very many small things, by what these are."""
    return {
        "blocks": body(*[BLOCK] * BLOCKS),
        "null": body(*[{"type": "text", "text": "a null block"}] * BLOCKS),
        "objects": body(*[{}] * 1_000_000),
        "numbers": body(x=[1] * 4_000_000),
        "names": body(x={f"name {number}": number for number in range(400_000)}),
        "escapes": body(*[{"type": "text", "text": '":'}] * 200_000).replace(b'\\"', b"\\u0022"),
        "lists": body(x=[[]] * 1_500_000),
    }


def wrong() -> dict[str, bytes]:
    """Bodies as heavy that are no calls, by what is wrong about them."""
    return {
        "deep": b'{"model":' + b"[" * 10_000_000,
        "no JSON": b"x" * 10_000_000,
        "cut off": heavy()["blocks"][:-3],
        "no text": heavy()["blocks"].replace(b"a small block", b"\xff" * 13),
        "twice": heavy()["blocks"][:-1] + b',"model":"n"}',
    }


CHAT = json.dumps({
    "id": "c", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}).encode()  # fmt: skip


async def take(request: web.BaseRequest) -> web.Response:
    async for _ in request.content.iter_any():
        pass
    said = CHAT if request.path.endswith("completions") else MESSAGE
    return web.Response(body=said, content_type="application/json")


@dataclass
class House:
    """A daemon with an upstream that takes anything, and somebody who watches its health."""

    daemon: Daemon
    probe: subprocess.Popen[str]

    async def health(self) -> tuple[float, float, float, int]:
        """What `held.py` saw since the last time."""
        assert self.probe.stdin is not None
        assert self.probe.stdout is not None
        self.probe.stdin.write("\n")
        self.probe.stdin.flush()
        *longest, count = (await asyncio.to_thread(self.probe.stdout.readline)).split()
        longest_s, own_s, used_s = map(float, longest)
        return longest_s, own_s, used_s, int(count)

    @contextlib.asynccontextmanager
    async def at_ease(self, what: str = "") -> AsyncIterator[None]:
        """Fail if the daemon held health up; that the machine had no CPU for it is not the daemon's fault."""
        await self.health()
        yield
        longest_s, own_s, used_s, count = await self.health()
        said = f"{what}: {longest_s:.3f} s, {own_s:.3f} s with a CPU, {used_s:.3f} s of CPU; {count} answers"
        print(said)
        if max(own_s, used_s) >= MOST_S:
            raise Stalled(said)


@contextlib.asynccontextmanager
async def house() -> AsyncIterator[House]:
    runner = web.ServerRunner(web.Server(take))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    running = await asyncio.to_thread((context := daemon(f"http://127.0.0.1:{runner.addresses[0][1]}")).__enter__)
    command = [sys.executable, HELD, running.http.removeprefix("http://"), str(running.served.process.pid)]
    probe = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    try:
        yield House(running, probe)
    finally:
        probe.kill()
        await asyncio.to_thread(probe.communicate)
        await asyncio.to_thread(context.__exit__, None, None, None)
        await runner.cleanup()


@pytest.fixture
async def here() -> AsyncIterator[House]:
    async with house() as made:
        yield made


def helpers(log: str) -> list[int]:
    said = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [line["pid"] for line in said if line["event"] == "helper.started"]


def environ(pid: int) -> str:
    return Path(f"/proc/{pid}/environ").read_bytes().decode()


async def post(url: str, raw: bytes, *, path: str = "/v1/messages") -> tuple[int, bytes]:
    async with aiohttp.ClientSession() as session, session.post(url + path, data=io.BytesIO(raw)) as answer:
        return answer.status, await answer.read()


async def test_http(here: House) -> None:
    """Over HTTP, whatever the many things are: each is answered, and found again by its bytes."""
    for name, raw in heavy().items():
        async with here.at_ease(name):
            assert await post(here.daemon.http, raw) == (200, MESSAGE), name
    assert await post(here.daemon.http, heavy()["blocks"]) == (200, MESSAGE)


async def test_chat(here: House) -> None:
    """In the other dialect, too."""
    async with here.at_ease("chat"):
        status, _ = await post(here.daemon.http, heavy()["null"], path="/v1/chat/completions")
    assert status == 200


async def test_wrong(here: House) -> None:
    """What is no call is refused for what it is, and nobody waits for that."""
    for name, raw in wrong().items():
        async with here.at_ease(name):
            status, said = await post(here.daemon.http, raw)
        assert (status, json.loads(said)["error"]["type"]) == (400, "invalid_request_error"), name


async def test_many_at_once(here: House) -> None:
    """Many at once have their turn, one after the other."""
    async with here.at_ease():
        said = await asyncio.gather(*(post(here.daemon.http, body(BLOCK, *[BLOCK] * 60_000, n=n)) for n in range(8)))
    assert said == [(200, MESSAGE)] * 8


async def test_large_at_once(here: House) -> None:
    """Twelve of thirty megabytes at once, of which each is put together and hashed, hold up nobody either."""
    text = {"type": "text", "text": "x" * 30_000_000}
    bodies = [body(text, n=n) for n in range(12)]
    async with here.at_ease("twelve of 30 MB"):
        said = await asyncio.gather(*(post(here.daemon.http, raw) for raw in bodies))
    assert said == [(200, MESSAGE)] * 12


def typed() -> messages_service_pb2.CreateMessageRequest:
    block = content_pb2.ContentBlock(text=content_pb2.TextBlock(text=BLOCK["text"]))
    content = content_pb2.Content(blocks=content_pb2.ContentBlocks(blocks=[block] * BLOCKS))
    message = messages_pb2.InputMessage(role="user", content=content)
    params = messages_pb2.MessageParams(model="m", max_tokens=5, messages=[message])
    return messages_service_pb2.CreateMessageRequest(params=params)


async def test_grpc(here: House) -> None:
    """The same over gRPC, typed and raw; and all of them are one call, which is asked for once."""
    async with grpc.aio.insecure_channel(here.daemon.grpc, options=UNBOUND) as channel:
        async with here.at_ease():
            said = await MessagesServiceStub(channel).CreateMessage(typed(), timeout=120)
        assert said.message.id == "msg_1"
        raw = heavy()["blocks"]
        parts = [api_service_pb2.CallRequest(head=api_service_pb2.CallRequestHead(method="POST", path="/v1/messages"))]
        parts += [api_service_pb2.CallRequest(chunk=raw[at : at + 1_000_000]) for at in range(0, len(raw), 1_000_000)]
        async with here.at_ease():
            answers = [part async for part in api_service_pb2_grpc.ApiServiceStub(channel).Call(iter(parts), timeout=120)]
        assert b"".join(part.chunk for part in answers) == MESSAGE
        assert {header.name: header.value for header in answers[0].head.headers}["x-headrace-source"] == "cache"


async def test_helper(here: House) -> None:
    """Small bodies need no helper; the one that large ones have can be killed, and leaves with the daemon."""
    log = here.daemon.served
    assert (await post(here.daemon.http, body(BLOCK)))[0] == 200
    assert helpers(log.log) == []
    assert (await post(here.daemon.http, body(*[BLOCK] * 50_000)))[0] == 200
    [first] = helpers(log.log)
    os.kill(first, 9)
    assert (await post(here.daemon.http, body(*[BLOCK] * 50_001)))[0] == 200
    second = helpers(log.log)[-1]
    assert second != first
    assert "sk-test" not in environ(second)
    here.daemon.served.process.kill()
    await until(lambda: not Path(f"/proc/{second}/exe").exists(), what="the helper outlives its daemon")
