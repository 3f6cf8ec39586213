"""
One key, one answer: whatever is cut, killed or stopped between upstream's answer and the end of its ticket.

Upstream says in each answer which attempt it is of, so that two answers to one key cannot pass for one.
"""

from __future__ import annotations

import asyncio
import collections
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


@dataclass
class Upstream:
    """Answers the first attempt of each call when it is let go, and others at once, each with an id of its own."""

    asked: collections.Counter[str] = field(default_factory=collections.Counter)
    said: set[str] = field(default_factory=set)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def talk(self, line: Line) -> None:
        asked = json.loads(line.body)
        text, is_stream = asked["messages"][0]["content"], bool(asked.get("stream"))
        self.asked[text] += 1
        number = self.asked[text]
        if is_stream:
            await self._begin(line, number)
        if number == 1:
            await self.go.wait()
        if is_stream:
            await self._end(line)
        else:
            message = self._message(number) | {"content": [{"type": "text", "text": f"answer {number}"}]}
            await line.answer(200, json.dumps(message | {"stop_reason": "end_turn"}).encode(), "content-type: application/json")
        self.said.add(text)

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


async def unary_http(at, text, timeout_s=60.0) -> Told:
    # A kept answer would hide a second one.
    sent = {"anthropic-version": "2023-06-01", "x-headrace-timeout-ms": str(round(timeout_s * 1000)), "idempotency-key": text}
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                at.http + "/v1/messages", json=body_of(text), headers=sent | {"cache-control": "no-store"}
            ) as response,
        ):
            said, headers = await response.json(), dict(response.headers)
            is_whole = response.status == 200
            return Told(WHOLE if is_whole else str(response.status), said.get("id", ""), headers=headers)
    except aiohttp.ClientError:
        return Told("broken")


async def stream_http(at, text, timeout_s=60.0) -> Told:
    try:
        heard = await over_http(at, text, timeout_s=timeout_s, idempotency_key=text, cache_control="no-store")
    except aiohttp.ClientError:
        return Told("broken")
    return Told(heard.ending, "".join(heard.ids), headers=heard.headers)


async def unary_grpc(at, text, timeout_s=60.0) -> Told:
    asked = messages_service_pb2.CreateMessageRequest()
    asked.params.model, asked.params.max_tokens = "claude-haiku-4-5", 40
    asked.params.messages.add(role="user").content.text = text
    asked.options.anthropic_version, asked.options.idempotency_key = "2023-06-01", text
    asked.options.cache_control.no_store = True
    async with grpc.aio.insecure_channel(at.grpc) as channel:
        try:
            reply = await messages_service_pb2_grpc.MessagesServiceStub(channel).CreateMessage(asked, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return Told(error.code().name)
    return Told(WHOLE, reply.message.id)


async def stream_grpc(at, text, timeout_s=60.0) -> Told:
    heard = await over_messages(at, text, timeout_s=timeout_s, idempotency_key=text)
    return Told(heard.ending, "".join(heard.ids))


DOORS = {"http": unary_http, "http stream": stream_http, "gRPC": unary_grpc, "gRPC stream": stream_grpc}


def asking(at, doors=DOORS, timeout_s=60.0) -> list[asyncio.Task[Told]]:
    """Ask over every door, each with a call and a key of its own."""
    return [asyncio.create_task(DOORS[door](at, door, timeout_s)) for door in doors]


async def told(tasks: list[asyncio.Task[Told]], within: float = 30.0) -> dict[str, Told]:
    return dict(zip(DOORS, await asyncio.wait_for(asyncio.gather(*tasks), within), strict=False))


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
async def test_cut_while_answered(valkey_url, tmp_path, how):
    """
    Redis is cut off while keyed calls are answered, and the daemon killed soon after, or told to leave with Redis back, or
    nothing of that: who repeats elsewhere is given the answer that the first one was given, if it was given any.
    """
    async with two_daemons(valkey_url, tmp_path) as (upstream, wire, one, two):
        asked = asking(one)
        await until(lambda: len(upstream.asked) == len(DOORS))
        wire.cut()
        upstream.go.set()
        await until(lambda: len(upstream.said) == len(DOORS))
        await asyncio.sleep(0.7)
        wire.mend()
        if how == "killed":
            await asyncio.sleep(0.1)
            one.served.process.kill()
        elif how == "terminated":
            one.served.process.send_signal(signal.SIGTERM)
        first, repeated = await told(asked), await told(asking(two))
    assert {each.ending for each in repeated.values()} == {WHOLE}
    for door in DOORS:
        assert first[door].ending != WHOLE or first[door].answer == repeated[door].answer, door
    if how != "killed":
        assert {each.ending for each in first.values()} == {WHOLE}, "Redis came back while they waited"
        assert set(upstream.asked.values()) == {1}


async def test_away_for_longer_than_callers_wait(valkey_url, tmp_path):
    """Redis is away for longer than callers wait: they are told UNAVAILABLE, to ask again; the repeat gets the answer."""
    async with two_daemons(valkey_url, tmp_path, both=True) as (upstream, wire, one, two):
        asked = asking(one, timeout_s=5.0)
        await until(lambda: len(upstream.asked) == len(DOORS))
        wire.cut()
        upstream.go.set()
        first = await told(asked)
        assert [each.ending for each in first.values()] == ["503", "api_error", "UNAVAILABLE", "UNAVAILABLE"]
        assert first["http"].headers["x-should-retry"] == "true"
        wire.mend()
        mended = time.monotonic()
        repeated = [*(await told(asking(one))).values(), *(await told(asking(two))).values()]
    assert {(each.ending, each.answer) for each in repeated} == {(WHOLE, "msg_1")}
    assert max(each.at for each in repeated) - mended < 4.0
    assert set(upstream.asked.values()) == {1}


@pytest.mark.long
async def test_away_for_longer_than_a_lease(valkey_url, tmp_path):
    """The whole of Redis stands still for 25 s, and nothing is killed: nobody runs a ticket again."""
    async with two_daemons(valkey_url, tmp_path) as (upstream, _, one, two):
        asked = asking(one)
        await until(lambda: len(upstream.asked) == len(DOORS))
        with redis.Redis.from_url(valkey_url) as client:
            client.client_pause(25_000)
        upstream.go.set()
        both = [*(await told(asked, 50)).values(), *(await told(asking(two))).values()]
    assert {(each.ending, each.answer) for each in both} == {(WHOLE, "msg_1")}
    assert set(upstream.asked.values()) == {1}


async def test_stopped_and_woken(valkey_url, tmp_path):
    """A daemon stands still until another one has its tickets; woken, it gives its callers what the tickets ended by."""
    doors = ("http", "gRPC")
    async with two_daemons(valkey_url, tmp_path) as (upstream, _, one, two):
        asked = asking(one, doors)
        await until(lambda: len(upstream.asked) == len(doors))
        one.served.process.send_signal(signal.SIGSTOP)
        try:
            upstream.go.set()  # the answers lie in the sockets of a process that does not read
            repeated = [each.answer for each in await asyncio.gather(*asking(two, doors))]
        finally:
            one.served.process.send_signal(signal.SIGCONT)
        first = await asyncio.wait_for(asyncio.gather(*asked), 30)
    assert [(each.ending, each.answer) for each in first] == [(WHOLE, "msg_2")] * 2
    assert repeated == ["msg_2"] * 2
