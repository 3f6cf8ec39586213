"""What is configured for callers that cannot say it themselves: how long they wait, and what they want of the cache."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path

import grpc
import pytest

from conftest import until
from doors import BODY, call, open_door, open_grpc_door, say
from headrace import config
from headrace.errors import ConfigError
from headrace.v1 import content_pb2, messages_pb2, messages_service_pb2, options_pb2
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub
from scripted import Line, hang, say_message

ANN = "x-headrace-caller: ann"


def source_of(came: bytes) -> bytes:
    return re.findall(rb"x-headrace-source: (\w+)", came.lower())[0]


@pytest.mark.parametrize(("wish", "second"), [("on", b"cache"), ("off", b"upstream"), ("1h", b"cache")])
async def test_cache(valkey_url: str, tmp_path: Path, wish: str, second: bytes) -> None:
    """What is configured for a caller counts as if each of its calls said it; what they say themselves comes to that."""
    async with open_door(valkey_url, tmp_path, CALLER__ANN__CACHE=wish) as (door, server, _):
        assert [source_of((await say(door, ANN))[1]) for _ in range(2)] == [b"upstream", second]
        for asks, right in (("no-store", b"upstream"), ("no-cache", b"upstream"), ("max-age=60", second)):
            assert source_of((await say(door, ANN, f"cache-control: {asks}"))[1]) == right
        before = server.calls
        await say(door, "x-headrace-caller: bob")
        await say(door, "x-headrace-caller: bob")
        assert server.calls == before + 1


async def test_cache_off_is_distinct(valkey_url: str, tmp_path: Path) -> None:
    """Off is off for flights, too: calls at the same time are asked each by itself."""
    go = asyncio.Event()

    async def talk(line: Line) -> None:
        await go.wait()
        await say_message(line)

    async with open_door(valkey_url, tmp_path, talk, CALLER__ANN__CACHE="off") as (door, server, _):
        asking = [asyncio.create_task(say(door, ANN)) for _ in range(3)]
        await until(lambda: server.calls == 3)
        go.set()
        assert {status for status, _ in await asyncio.gather(*asking)} == {200}


async def test_cache_over_grpc(valkey_url: str, tmp_path: Path) -> None:
    """The same over gRPC, typed or as HTTP has it."""
    async with open_grpc_door(valkey_url, tmp_path, CALLER__ANN__CACHE="off") as (door, server, _):
        for _ in range(2):
            await call(door.ports[0], "POST", "/v1/messages", (("x-headrace-caller", "ann"),), json.dumps(BODY).encode())
        assert server.calls == 2
        params = messages_pb2.MessageParams(
            model="m", max_tokens=6, messages=[messages_pb2.InputMessage(role="user", content=content_pb2.Content(text="hi"))]
        )
        async with grpc.aio.insecure_channel(f"127.0.0.1:{door.ports[0]}") as channel:
            stub = MessagesServiceStub(channel)
            for options in (options_pb2.CallOptions(caller="ann"), options_pb2.CallOptions(caller="ann")):
                await stub.CreateMessage(messages_service_pb2.CreateMessageRequest(params=params, options=options), timeout=20)
        assert server.calls == 4


async def test_age(valkey_url: str, tmp_path: Path) -> None:
    """A time of its own is how old an answer may be, and how long it is kept: shorter or longer than the usual."""
    settings = {"CACHE__TTL": "1m", "CALLER__ANN__CACHE": "2h", "CALLER__BOB__CACHE": "10s"}
    async with open_door(valkey_url, tmp_path, **settings) as (door, _, one):
        for name, ttl_s in (("ann", 7200), ("bob", 10)):
            await say(door, f"x-headrace-caller: {name}")
            _, came = await say(door, f"x-headrace-caller: {name}")
            (said,) = re.findall(rb"cache-status: headrace; hit; ttl=(\d+)", came.lower())
            assert ttl_s - 10 <= int(said) <= ttl_s
        callers = config.callers(one.parts.settings)
        assert (callers["bob"].cache_ttl_s, callers["ann"].cache_ttl_s) == (10.0, 7200.0)


async def test_age_passes(valkey_url: str, tmp_path: Path) -> None:
    """An answer older than its caller wants is asked for anew, though it is kept."""
    async with open_door(valkey_url, tmp_path, CALLER__ANN__CACHE="0s") as (door, server, _):
        await say(door, ANN)
        await asyncio.sleep(0.002)
        await say(door, ANN)
        assert server.calls == 2


async def test_reload(valkey_url: str, tmp_path: Path) -> None:
    """A reload counts for calls that were seen before, too."""
    async with open_door(valkey_url, tmp_path) as (door, server, one):
        await say(door, ANN)
        await say(door, ANN)
        assert server.calls == 1
        environ = {"HEADRACE_STATE__DIR": str(tmp_path), "HEADRACE_CALLER__ANN__CACHE": "off"}
        one.parts.reload(config.load(None, environ))
        await say(door, ANN)
        assert server.calls == 2


@pytest.mark.parametrize("target", ["/v1/messages", "/v1/chat/completions", "/v1/things"])
async def test_timeout(valkey_url: str, tmp_path: Path, target: str) -> None:
    """A call that does not say how long it waits waits as configured; what it says goes before that."""
    async with open_door(valkey_url, tmp_path, hang, CALLER__ANN__TIMEOUT="300ms", CALLER__BOB__TIMEOUT="1h") as (door, _, one):
        bob = "x-headrace-caller: bob"
        for headers in ((ANN,), (bob, "x-headrace-timeout-ms: 300"), (bob, "x-stainless-timeout: 0.3")):
            began = time.monotonic()
            status, came = await say(door, *headers, target=target)
            assert (status, b"timeout_error" in came) == (504, True)
            assert time.monotonic() - began >= 0.25
        await until(lambda: not one.held(), what=one.held())


async def test_timeout_over_grpc(valkey_url: str, tmp_path: Path) -> None:
    """The same for an RPC without a deadline."""
    async with open_grpc_door(valkey_url, tmp_path, hang, CALLER__ANN__TIMEOUT="300ms") as (door, _, _):
        for path in ("/v1/messages", "/v1/things"):
            status, _, said = await call(
                door.ports[0], "POST", path, (("x-headrace-caller", "ann"),), json.dumps(BODY).encode()
            )
            assert (status, b"timeout_error" in said) == (504, True)


@pytest.mark.parametrize(
    ("key", "value"), [("TIMEOUT", "0s"), ("TIMEOUT", "5"), ("CACHE", "yes"), ("CACHE", "no-store"), ("CACHE", "10")]
)
def test_wrong(key: str, value: str) -> None:
    """What is no time and no wish is a mistake that is named."""
    with pytest.raises(ConfigError, match=f"caller.ann.{key.lower()}"):
        config.load(None, {"HOME": "/", f"HEADRACE_CALLER__ANN__{key}": value})


def test_shown() -> None:
    """They are shown as they are written."""
    settings = config.load(None, {"HOME": "/", "HEADRACE_CALLER": '{ann = {cache = "10m", timeout = "50s"}, bob = {}}'})
    shown = settings.redacted()["caller"]
    assert (shown["ann"]["cache"], shown["ann"]["timeout"]) == ("10m", "50s")
    assert (shown["bob"]["cache"], "timeout" in shown["bob"]) == ("on", False)
