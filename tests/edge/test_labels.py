"""Labels at both doors, and the limits that go by them; what a broken stream told, in Redis."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest
import redis

from conftest import until
from doors import BODY, call, open_door, open_grpc_door, say
from headrace import keys
from headrace.v1 import content_pb2, messages_pb2, messages_service_pb2, options_pb2
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub
from scripted import Line

ANN = "x-headrace-caller: ann"
SETTINGS = {
    "CALLER__ANN__LABELS": '["feature", "env"]',
    "CALLER__ANN__TEAM": "shop",
    "LIMIT": '[{ name = "few", match = { team = "shop", label.feature = "s*" }, per = ["label.feature"], '
    "requests_per_minute = 1 }]",
}


def buckets(url: str) -> set[str]:
    with redis.Redis.from_url(url) as client:
        return {key.decode().removeprefix(keys.bucket("")) for key in client.keys(keys.bucket("*"))}


async def test_over_http(valkey_url: str, tmp_path: Path) -> None:
    """A call draws from the bucket of its label; one without it, or with another, from none; and they split no cache entry."""
    async with open_door(valkey_url, tmp_path, **SETTINGS) as (door, server, _):
        for labels in ("x-headrace-labels: env=prod", "x-headrace-labels: feature=other", ANN):
            assert (await say(door, ANN, "cache-control: no-store", labels))[0] == 200
        assert buckets(valkey_url) == set()
        status, came = await say(door, ANN, "x-headrace-labels: feature=search, env=prod")
        assert status == 200
        assert b"anthropic-ratelimit-requests-remaining: 0" in came.lower()
        assert buckets(valkey_url) == {"few:requests:label.feature=search"}
        asked = server.calls
        assert (await say(door, ANN, "x-headrace-labels: feature=search"))[0] == 200
        assert server.calls == asked


async def test_refused_over_http(valkey_url: str, tmp_path: Path) -> None:
    """A label that is not the caller's is refused at every endpoint, and the answer says which it has."""
    async with open_door(valkey_url, tmp_path, **SETTINGS) as (door, server, _):
        for target in ("/v1/messages", "/v1/files"):
            status, came = await say(door, ANN, "x-headrace-labels: colour=red", target=target)
            assert status == 400
            assert b"label 'colour' is not one that ann may send: it may send feature, env" in came
        assert (await say(door, "x-headrace-labels: env=prod"))[0] == 400
        assert server.calls == 0


async def test_over_grpc(valkey_url: str, tmp_path: Path) -> None:
    """The same over gRPC: in the options of a typed call, and as a header of one that is said as HTTP has it."""
    said = content_pb2.Content(text="hi")
    params = messages_pb2.MessageParams(
        model="m", max_tokens=6, messages=[messages_pb2.InputMessage(role="user", content=said)]
    )
    async with open_grpc_door(valkey_url, tmp_path, **SETTINGS) as (door, _, _):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{door.ports[0]}") as channel:
            stub = MessagesServiceStub(channel)

            async def ask(**labels: str) -> None:
                options = options_pb2.CallOptions(caller="ann", labels=labels)
                await stub.CreateMessage(messages_service_pb2.CreateMessageRequest(params=params, options=options))

            await ask(feature="search")
            assert buckets(valkey_url) == {"few:requests:label.feature=search"}
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(colour="red")
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "it may send feature, env" in refused.value.details()
        headers = (("x-headrace-caller", "ann"), ("x-headrace-labels", "feature=sale"))
        status, _, came = await call(door.ports[0], "POST", "/v1/messages", headers, json.dumps(BODY).encode())
        assert status == 200, came
        assert "few:requests:label.feature=sale" in buckets(valkey_url)


START = b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":40,"output_tokens":1}}}\n\n'
CONTENT = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}\n\n'
)


async def test_stream_that_breaks_off(valkey_url: str, tmp_path: Path) -> None:
    """Of a stream that broke off its input is settled as told, and of its output the estimate stays."""

    async def breaks_off(line: Line) -> None:
        line.writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + START + CONTENT)
        await line.writer.drain()
        line.writer.close()

    limits = '[{ name = "org", input_tokens_per_minute = 1000, output_tokens_per_minute = 1000 }]'
    async with open_door(valkey_url, tmp_path, breaks_off, LIMIT=limits) as (door, _, _):
        await say(door, body={**BODY, "max_tokens": 100, "stream": True})
        with redis.Redis.from_url(valkey_url) as client:

            def used(kind: str) -> int:
                return 1000 - int(client.hget(keys.bucket(f"org:{kind}"), "level")) // 60_000_000

            await until(lambda: used("input_tokens") in range(35, 41))
            assert used("output_tokens") in range(40, 51)
