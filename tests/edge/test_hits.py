"""Every door finds a hit by the bytes of a call: a repeat is neither parsed nor admitted, and says the same answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from doors import BODY, open_grpc_door
from headrace.cache.selector import Selector
from headrace.callers import KeyStore
from headrace.edge.grpc_kept import KeptRpcStats
from headrace.edge.hits import digest
from headrace.v1 import api_service_pb2, messages_pb2, messages_service_pb2, messages_service_pb2_grpc
from hit_ways import ASK, ASK_EVENTS, JSON_BODIES, PARAMS, UNCOUNTED, WAYS, Doors, Told, Way, call, opened, over_http, typed
from scripted import MESSAGE, Line


@pytest.mark.parametrize("name", WAYS)
async def test_found_by_bytes(valkey_url: str, tmp_path: Path, name: str) -> None:
    """A repeat is answered without being parsed, from the cache, with the same answer."""
    way = WAYS[name]
    async with opened(valkey_url, tmp_path) as doors:
        first = await way(doors)
        doors.seal()
        again = [await way(doors) for _ in range(2)]
    assert first[0] == "upstream"
    assert again == [("cache", first[1])] * 2
    assert doors.server.calls == 1


@pytest.mark.parametrize("name", WAYS)
async def test_unanswered(valkey_url: str, tmp_path: Path, name: str) -> None:
    """A call that is not answered is not remembered: nothing would be found by it, and a crowd would leave thousands."""

    async def refuse(line: Line) -> None:
        await line.answer(400, b'{"type":"error","error":{"type":"invalid_request_error","message":"no"}}')

    async with opened(valkey_url, tmp_path) as doors:
        doors.server.talk = refuse
        with contextlib.suppress(grpc.aio.AioRpcError, LookupError, ValueError, AssertionError):
            await WAYS[name](doors)
        assert doors.server.calls == 1
        assert doors.daemon.parts.hits.stats().remembered == 0


@pytest.mark.parametrize("target", JSON_BODIES)
async def test_doors_share(valkey_url: str, tmp_path: Path, target: str) -> None:
    """What HTTP has seen is known to ApiService.Call, however its body comes, and the other way round."""
    body = JSON_BODIES[target]
    async with opened(valkey_url, tmp_path) as doors:
        await over_http("POST", target, body)(doors)
        doors.seal()
        assert (await call("POST", target, body[:7], body[7:])(doors))[0] == "cache"
        assert (await call("POST", target, body)(doors))[0] == "cache"
        assert (await over_http("POST", target, body)(doors))[0] == "cache"


async def test_same_beginning(valkey_url: str, tmp_path: Path) -> None:
    """The same first part with another body after it is another call, whatever was seen before."""
    other = json.dumps(BODY | {"max_tokens": 7}).encode()
    shared = ASK[:10]
    assert other.startswith(shared)
    async with opened(valkey_url, tmp_path) as doors:
        for _ in range(2):
            await call("POST", "/v1/messages", shared, ASK[10:], length=False)(doors)
            await call("POST", "/v1/messages", shared, other[10:], length=False)(doors)
    assert doors.server.calls == 2


async def test_more_than_stated(valkey_url: str, tmp_path: Path) -> None:
    """A body that is whole for itself, but followed by more, is not taken for the whole one."""
    async with opened(valkey_url, tmp_path) as doors:
        await call("POST", "/v1/messages", ASK, length=False)(doors)
        with pytest.raises(AssertionError, match="invalid_request_error"):
            await call("POST", "/v1/messages", ASK, b"x", length=False)(doors)


@pytest.mark.parametrize(("setting", "where"), [("required", "metadata"), ("caller", "metadata"), ("caller", "head")])
async def test_whose(valkey_url: str, tmp_path: Path, where: str, setting: str) -> None:
    """One caller's bytes are not another's, by whichever way the key comes; a wrong key gets nothing."""
    settings = {"AUTH__REQUIRED": "true"} if setting == "required" else {"UPSTREAM__CREDENTIALS": "caller"}
    async with opened(valkey_url, tmp_path, **settings) as doors:
        keys = ["mine", "theirs"]
        if setting == "required":
            keys = [await KeyStore(doors.daemon.parts.link).create(name) for name in ("a", "b")]

        async def told(key: str) -> Told:
            by_head = {"x_api_key": key} if where == "head" else {}
            way: Any = call("POST", "/v1/messages", ASK, **by_head)
            return await way(doors, metadata=None if by_head else (("x-api-key", key),))

        for key in keys:
            await eventually(lambda key=key: told(key))
            assert (await told(key))[0] == "cache"
        assert doors.server.calls == 2
        if setting == "required":
            with pytest.raises(AssertionError, match="authentication_error"):
                await told("hr_000000000000_" + "0" * 48)


async def eventually(ask: Callable[[], Awaitable[Told]]) -> None:
    """Ask until the daemon has heard of the key."""
    for _ in range(100):
        with contextlib.suppress(AssertionError):
            await ask()
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it never knew the key")


@pytest.mark.parametrize(
    "way",
    [
        over_http("POST", "/v1/messages", ASK, "idempotency-key: k"),
        over_http("POST", "/v1/messages", ASK, "cache-control: no-cache"),
        call("POST", "/v1/messages", ASK, idempotency_key="k"),
        call("POST", "/v1/messages", ASK[:5], ASK[5:], idempotency_key="k"),
        call("POST", "/v1/messages", ASK, cache_control="no-store"),
        typed("ChatService.CreateChatCompletion", params=UNCOUNTED, options={"idempotency_key": "k"}),
        typed("ChatService.CreateChatCompletion", params=UNCOUNTED, options={"cache_control": {"no_cache": True}}),
        typed("MessagesService.CreateMessage", params=PARAMS, options={"cache_control": {"no_store": True}}),
    ],
)
async def test_asks_for_more(valkey_url: str, tmp_path: Path, way: Way) -> None:
    """What asks for more than a look-up is never found by its bytes, even where the same call without it was."""
    async with opened(valkey_url, tmp_path) as doors:
        await over_http("POST", "/v1/messages", ASK)(doors)
        await way(doors)
        remembered = doors.daemon.parts.hits.stats().remembered
        await way(doors)
        assert doors.daemon.parts.hits.stats().remembered == remembered
        doors.seal()
        with pytest.raises((AssertionError, grpc.aio.AioRpcError, KeyError)):
            await way(doors)


@pytest.mark.parametrize("name", ["HTTP /v1/messages", "Call /v1/messages", "StreamChatCompletion", "CreateMessage"])
async def test_draining(valkey_url: str, tmp_path: Path, name: str) -> None:
    """A daemon that leaves gives no hits either."""
    async with opened(valkey_url, tmp_path) as doors:
        for _ in range(3):  # the third is found by its bytes alone
            await WAYS[name](doors)
        doors.daemon.flow.is_draining = True
        with pytest.raises((AssertionError, grpc.aio.AioRpcError, KeyError)):
            await WAYS[name](doors)


async def test_forgets(valkey_url: str, tmp_path: Path) -> None:
    """After a reload nothing is remembered of what callers were before; the answers are still there."""
    async with opened(valkey_url, tmp_path) as doors:
        parts = doors.daemon.parts
        for _ in range(3):
            await WAYS["CreateMessage"](doors)
        assert (parts.hits.stats().remembered, parts.hits.stats().near) == (1, 1)
        parts.reload(parts.settings)
        assert repr(parts.hits) == "<Hits [0 remembered, 0 near of 0 bytes]>"
        assert (await WAYS["CreateMessage"](doors))[0] == "cache"


@pytest.mark.parametrize("name", ["CreateMessage", "StreamMessage", "Call /v1/messages"])
async def test_purged(valkey_url: str, tmp_path: Path, name: str) -> None:
    """What was found again and again is asked for anew once it is purged."""
    async with opened(valkey_url, tmp_path) as doors:
        for _ in range(3):
            await WAYS[name](doors)
        assert doors.daemon.parts.hits.stats().near == 1
        await doors.daemon.parts.cache.purge(Selector(all=True))
        assert (await WAYS[name](doors))[0] == "upstream"
    assert doors.server.calls == 2


async def test_near_is_bounded(valkey_url: str, tmp_path: Path) -> None:
    """What is kept near is some megabytes, whatever is found; a large body is not kept there at all."""
    async with opened(valkey_url, tmp_path) as doors:
        await WAYS["CreateMessage"](doors)
        await WAYS["CreateMessage"](doors)
        hits = doors.daemon.parts.hits
        (key, seen), *_ = hits._near.items()
        hit = hits._fresh(seen)
        for number in range(60):
            hits.bring_near(b"%d" % number, bytes(1_000_000), hit)
            hits.bring_near(b"%d" % number, bytes(1_000_000), hit)
            assert hits.stats().near_bytes == sum(200 + len(body) for _, body in hits._near) < 16_000_001
        assert key not in hits._near
        hits.bring_near(b"", bytes(2_000_000), hit)
        assert hits.near(b"", bytes(2_000_000)) is None


async def test_budget_is_shown(valkey_url: str, tmp_path: Path) -> None:
    """A hit over ApiService.Call shows its caller's budget, as one over HTTP does."""
    limit = json.dumps([{"name": "r", "requests_per_minute": 60}])
    async with opened(valkey_url, tmp_path, LIMIT=limit) as doors:
        rpc = doors.channel.stream_stream(
            "/headrace.v1.ApiService/Call",
            api_service_pb2.CallRequest.SerializeToString,
            api_service_pb2.CallResponse.FromString,
        )
        head = api_service_pb2.CallRequestHead(method="POST", path="/v1/messages", body=ASK)
        for _ in range(2):
            begun, *_rest = [one async for one in rpc(iter([api_service_pb2.CallRequest(head=head)]))]
            assert "anthropic-ratelimit-requests-limit" in {header.name for header in begun.head.headers}
        assert {header.name for header in begun.head.headers} >= {"age", "cache-status", "request-id", "content-type"}


async def talked(doors: Doors, *requests: bytes) -> list[tuple[dict[str, str], bytes]]:
    """Send requests over one connection at once; return the heads and bodies that come back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", doors.http.port)
    said = []
    with contextlib.closing(writer):
        writer.write(b"".join(requests))
        for _ in requests:
            first, *lines = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode().strip().split("\r\n")
            named = dict(line.lower().split(": ", 1) for line in lines)
            assert first.split()[1] == "200"
            assert len(named) == len(lines)
            said.append((named, await reader.readexactly(int(named["content-length"]))))
    return said


@pytest.mark.parametrize("body", [ASK, ASK_EVENTS])
async def test_heads_are_alike(valkey_url: str, tmp_path: Path, body: bytes) -> None:
    """Whether a connection stays open or not, and in whichever version: a hit says the same headers, and the same body."""
    limit = json.dumps([{"name": "r", "requests_per_minute": 60}])
    async with opened(valkey_url, tmp_path, LIMIT=limit) as doors:
        await over_http("POST", "/v1/messages", body)(doors)
        doors.seal()
        head = b"POST /v1/messages HTTP/1.%d\r\nhost: 127.0.0.1\r\ncontent-length: %d\r\n%b\r\n%b"
        open_, again = await talked(doors, *[head % (1, len(body), b"", body)] * 2)
        (closed,) = await talked(doors, head % (1, len(body), b"connection: close\r\n", body))
        (old,) = await talked(doors, head % (0, len(body), b"", body))
        (kept_old,) = await talked(doors, head % (0, len(body), b"connection: keep-alive\r\n", body))
    assert open_[1] == again[1] == closed[1] == old[1] == kept_old[1]
    assert closed[0].pop("connection") == "close"
    assert kept_old[0].pop("connection") == "keep-alive"
    for other in (again, closed, old, kept_old):
        assert other[0].keys() == open_[0].keys()
        varying = {"age", "date", "cache-status", "anthropic-ratelimit-requests-reset", "x-headrace-request-id"}
        same = open_[0].keys() - varying
        assert {name: other[0][name] for name in same} == {name: open_[0][name] for name in same}


async def test_large_hit(valkey_url: str, tmp_path: Path) -> None:
    """A large answer arrives whole, however slowly it is read; the next call on the connection is answered, too."""
    large = json.loads(MESSAGE) | {"content": [{"type": "text", "text": "x" * 3_000_000}]}
    async with opened(valkey_url, tmp_path) as doors:

        async def say_much(line: Line) -> None:
            await line.answer(200, json.dumps(large).encode(), "content-type: application/json")

        doors.server.talk = say_much
        request = b"POST /v1/messages HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: %d\r\n\r\n%b" % (len(ASK), ASK)
        came = await talked(doors, request, request, request)
        assert [json.loads(body) for _, body in came] == [large] * 3
        assert [named["x-headrace-source"] for named, _ in came] == ["upstream", "cache", "cache"]


def test_parts_keep_apart() -> None:
    """However bytes are cut into parts, another cut is another digest."""
    cuts = [(b"ab", b"c"), (b"a", b"bc"), (b"", b"abc"), (b"abc", b""), (b"1:a", b"bc"), (b"1", b":abc"), (b"", b"1:abc")]
    assert len({digest(*cut) for cut in cuts}) == len(cuts)


async def test_a_method_counts(valkey_url: str, tmp_path: Path) -> None:
    """Each method says how many requests it knew by their bytes, and how many went on."""
    async with (
        open_grpc_door(valkey_url, tmp_path) as (door, _, _),
        grpc.aio.insecure_channel(f"127.0.0.1:{door.ports[0]}") as channel,
    ):
        create = messages_service_pb2_grpc.MessagesServiceStub(channel).CreateMessage
        params = messages_pb2.MessageParams(model="m", max_tokens=9, messages=[{"role": "user", "content": {"text": "hi"}}])
        for _ in range(3):
            await create(messages_service_pb2.CreateMessageRequest(params=params))
        rpc = door._messages._create
        assert rpc.stats() == KeptRpcStats("MessagesService.CreateMessage", hits=2, misses=1)
        assert repr(rpc) == "<KeptRpc MessagesService.CreateMessage [2 hits, 1 misses]>"
