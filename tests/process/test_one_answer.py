"""
One key, one answer: whatever is cut, killed or stopped between upstream's answer and the end of its ticket.

Upstream says in each answer which attempt it is of, so that two answers to one key cannot pass for one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from dataclasses import dataclass, field

import aiohttp
import grpc
import pytest
import redis

from conftest import until
from fleet import daemon_beside
from headrace.v1 import messages_service_pb2, messages_service_pb2_grpc
from listening import WHOLE, body_of, over_http, over_messages
from redis_wire import wired
from scripted import Line, serving

pytestmark = pytest.mark.slow

KEYED = {"cache_control": "no-store", "idempotency_key": "k"}  # a kept answer would hide a second one


@dataclass
class Upstream:
    """Answers when it is let go, each attempt with an id of its own."""

    asked: int = 0
    said: int = 0
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def talk(self, line: Line) -> None:
        self.asked += 1
        number = self.asked
        if number == 1:
            if json.loads(line.body).get("stream"):
                await self._begin(line, number)
            await self.go.wait()
        elif json.loads(line.body).get("stream"):
            await self._begin(line, number)
        if json.loads(line.body).get("stream"):
            await self._end(line)
        else:
            message = self._message(number) | {"content": [{"type": "text", "text": f"answer {number}"}]}
            await line.answer(200, json.dumps(message | {"stop_reason": "end_turn"}).encode(), "content-type: application/json")
        self.said += 1

    async def _begin(self, line: Line, number: int) -> None:
        await line.begin_stream()
        await line.chunk(_event("message_start", message=self._message(number)))
        await line.chunk(_event("content_block_start", index=0, content_block={"type": "text", "text": ""}))
        delta = {"type": "text_delta", "text": f"answer {number}"}
        await line.chunk(_event("content_block_delta", index=0, delta=delta))

    async def _end(self, line: Line) -> None:
        await line.chunk(_event("content_block_stop", index=0))
        delta = {"stop_reason": "end_turn", "stop_sequence": None}
        await line.chunk(_event("message_delta", delta=delta, usage={"output_tokens": 2}))
        await line.chunk(_event("message_stop"))
        await line.say(b"0\r\n\r\n")

    def _message(self, number: int) -> dict[str, object]:
        return {
            "id": f"msg_{number}", "type": "message", "role": "assistant", "model": "claude-haiku-4-5", "content": [],
            "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 1},
        }  # fmt: skip


def _event(name: str, **said: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name} | said)}\n\n".encode()


@dataclass
class Told:
    """What a caller was told: how it ended ("whole", or an error), with which answer, and when (monotonic)."""

    ending: str
    answer: str = ""
    at: float = field(default_factory=time.monotonic)
    headers: dict[str, str] = field(default_factory=dict)


async def unary_http(at, timeout_s=60.0) -> Told:
    sent = {"anthropic-version": "2023-06-01", "x-headrace-timeout-ms": str(round(timeout_s * 1000))}
    sent |= {name.replace("_", "-"): value for name, value in KEYED.items()}
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.post(at.http + "/v1/messages", json=body_of("hi"), headers=sent) as response,
        ):
            said, headers = await response.json(), dict(response.headers)
            return (
                Told(WHOLE, said["id"], headers=headers)
                if response.status == 200
                else Told(str(response.status), headers=headers)
            )
    except aiohttp.ClientError:
        return Told("broken")


async def stream_http(at, timeout_s=60.0) -> Told:
    try:
        heard = await over_http(at, "hi", timeout_s=timeout_s, **KEYED)
    except aiohttp.ClientError:
        return Told("broken")
    return Told(heard.ending, "".join(heard.ids), headers=heard.headers)


async def unary_grpc(at, timeout_s=60.0) -> Told:
    asked = messages_service_pb2.CreateMessageRequest()
    asked.params.model, asked.params.max_tokens = "claude-haiku-4-5", 40
    asked.params.messages.add(role="user").content.text = "hi"
    asked.options.anthropic_version, asked.options.idempotency_key = "2023-06-01", "k"
    asked.options.cache_control.no_store = True
    async with grpc.aio.insecure_channel(at.grpc) as channel:
        try:
            reply = await messages_service_pb2_grpc.MessagesServiceStub(channel).CreateMessage(asked, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return Told(error.code().name)
    return Told(WHOLE, reply.message.id)


async def stream_grpc(at, timeout_s=60.0) -> Told:
    heard = await over_messages(at, "hi", timeout_s=timeout_s, idempotency_key="k")
    return Told(heard.ending, "".join(heard.ids))


DOORS = {"http": unary_http, "http stream": stream_http, "gRPC": unary_grpc, "gRPC stream": stream_grpc}


@contextlib.asynccontextmanager
async def two_daemons(valkey_url, tmp_path, *, both=False):
    """An upstream, a daemon whose wire to Redis can be cut, and another one, on the same wire if *both* are to be cut off."""
    async with contextlib.AsyncExitStack() as stack:
        upstream = Upstream()
        server = await stack.enter_async_context(serving(upstream.talk))
        url, wire = await stack.enter_async_context(wired(valkey_url, tmp_path))
        one = await stack.enter_async_context(daemon_beside(server.url, url, DRAIN__TIME="20s"))
        two = await stack.enter_async_context(daemon_beside(server.url, url if both else valkey_url))
        yield upstream, wire, one, two


@pytest.mark.parametrize("how", ["killed", "terminated", "away"])
@pytest.mark.parametrize("door", DOORS)
async def test_cut_while_answered(valkey_url, tmp_path, door, how):
    """
    Redis is cut off while a keyed call is answered, and the daemon killed soon after, or told to leave with Redis back, or
    nothing of that: who repeats elsewhere is given the answer that the first one was given, if it was given any.
    """
    ask = DOORS[door]
    async with two_daemons(valkey_url, tmp_path) as (upstream, wire, one, two):
        first = asyncio.create_task(ask(one))
        await until(lambda: upstream.asked == 1)
        wire.cut()
        upstream.go.set()
        await until(lambda: upstream.said == 1)
        await asyncio.sleep(0.7)
        wire.mend()
        if how == "killed":
            await asyncio.sleep(0.1)  # too short for an end to be said again by a clock that ticks every five seconds
            one.served.process.kill()
        elif how == "terminated":
            one.served.process.send_signal(signal.SIGTERM)
        told = await asyncio.wait_for(first, 30)
        repeated = await asyncio.wait_for(ask(two), 30)
    assert repeated.ending == WHOLE
    if told.ending == WHOLE:
        assert told.answer == repeated.answer
    if how != "killed":
        assert told.ending == WHOLE, "Redis came back while it waited"
        assert upstream.asked == 1


@pytest.mark.parametrize("door", DOORS)
async def test_away_for_longer_than_a_caller_waits(valkey_url, tmp_path, door):
    """Redis is away for longer than the caller waits: it is told UNAVAILABLE, to ask again; the repeat gets the answer."""
    ask = DOORS[door]
    async with two_daemons(valkey_url, tmp_path, both=True) as (upstream, wire, one, two):
        first = asyncio.create_task(ask(one, 4.0))
        await until(lambda: upstream.asked == 1)
        wire.cut()
        upstream.go.set()
        told = await asyncio.wait_for(first, 30)
        assert told.ending in ("503", "api_error", "UNAVAILABLE")
        if told.ending == "503":
            assert told.headers["x-should-retry"] == "true"
        wire.mend()
        mended = time.monotonic()
        repeated = await asyncio.gather(ask(one), ask(two))
    assert max(each.at for each in repeated) - mended < 3.0
    assert [each.ending for each in repeated] == [WHOLE, WHOLE]
    assert {each.answer for each in repeated} == {"msg_1"}
    assert upstream.asked == 1


async def test_away_for_longer_than_a_lease(valkey_url, tmp_path, long):
    """The whole of Redis stands still for 25 s, and nothing is killed: nobody runs a ticket again."""
    seconds = 25.0 if long else 4.0
    async with two_daemons(valkey_url, tmp_path) as (upstream, _, one, two):
        first = asyncio.create_task(unary_http(one, 60.0))
        await until(lambda: upstream.asked == 1)
        with redis.Redis.from_url(valkey_url) as client:
            client.client_pause(round(seconds * 1000))
        upstream.go.set()
        told = await asyncio.wait_for(first, seconds + 20)
        repeated = await asyncio.wait_for(unary_http(two), 30)
    assert (told.ending, told.answer) == (repeated.ending, repeated.answer) == (WHOLE, "msg_1")
    assert upstream.asked == 1


@pytest.mark.parametrize("door", ["http", "gRPC"])
async def test_stopped_and_woken(valkey_url, tmp_path, door):
    """A daemon stands still until another one has its tickets; woken, it gives its callers what the ticket ended by."""
    ask = DOORS[door]
    async with two_daemons(valkey_url, tmp_path) as (upstream, _, one, two):
        first = asyncio.create_task(ask(one))
        await until(lambda: upstream.asked == 1)
        one.served.process.send_signal(signal.SIGSTOP)
        try:
            upstream.go.set()  # the answer lies in the socket of a process that does not read
            repeated = asyncio.create_task(ask(two))
            await until(lambda: upstream.asked == 2, within=30)
            again = await asyncio.wait_for(repeated, 30)
        finally:
            one.served.process.send_signal(signal.SIGCONT)
        told = await asyncio.wait_for(first, 30)
    assert (told.ending, told.answer) == (again.ending, again.answer) == (WHOLE, "msg_2")
