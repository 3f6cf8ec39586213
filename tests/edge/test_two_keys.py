"""Of several keys that a caller presents, whichever is one of ours counts, at both doors; upstream gets one that is not."""

from __future__ import annotations

import contextlib
from pathlib import Path

import grpc
import pytest

from doors import Pairs, call, open_door, open_grpc_door, say
from flow_parts import Daemon
from headrace.callers import KeyStore
from headrace.edge.http_server import HttpServer
from headrace.v1 import content_pb2, messages_pb2, messages_service_pb2
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub

OTHER = "sk-ant-other"
FORGED = f"hr_{'0' * 12}_{'0' * 48}"

# Each with where OURS stands.
PRESENTED: dict[str, Pairs] = {
    "alone, x-api-key": (("x-api-key", "OURS"),),
    "alone, bearer": (("authorization", "Bearer OURS"),),
    "bearer beside another": (("x-api-key", OTHER), ("authorization", "Bearer OURS")),
    "x-api-key beside another": (("x-api-key", "OURS"), ("authorization", f"Bearer {OTHER}")),
    "beside a forged one": (("x-api-key", FORGED), ("authorization", "bearer  OURS")),
    "beside none": (("x-api-key", ""), ("authorization", "Bearer OURS")),
    "beside another scheme": (("x-api-key", "OURS"), ("authorization", "Basic abc")),
    "second of two x-api-keys": (("x-api-key", OTHER), ("x-api-key", "OURS")),
    "second of two bearers": (("authorization", f"Bearer {OTHER}"), ("authorization", "Bearer OURS")),
}
REFUSED: dict[str, Pairs] = {
    "none": (),
    "another": (("x-api-key", OTHER),),
    "two others": (("x-api-key", OTHER), ("authorization", f"Bearer {OTHER}")),
    "forged": (("x-api-key", OTHER), ("authorization", f"Bearer {FORGED}")),
    "basic": (("authorization", "Basic OURS"),),
}


def with_key(pairs: Pairs, key: str) -> Pairs:
    return tuple((name, value.replace("OURS", key)) for name, value in pairs)


async def key_of(one: Daemon) -> str:
    key = await KeyStore(one.parts.link).create("svc")
    await one.parts.callers.load()
    return key


async def over_http(door: HttpServer, pairs: Pairs) -> int:
    return (await say(door, *(f"{name}: {value}" for name, value in pairs)))[0]


@pytest.mark.parametrize("pairs", PRESENTED.values(), ids=PRESENTED.keys())
async def test_http(valkey_url: str, tmp_path: Path, pairs: Pairs) -> None:
    """Over HTTP, kept and carried."""
    async with open_door(valkey_url, tmp_path, AUTH__REQUIRED="true") as (door, server, one):
        said = with_key(pairs, key := await key_of(one))
        assert await over_http(door, said) == 200
        status, _ = await say(door, *(f"{name}: {value}" for name, value in said), target="/v1/things", body=b"{}")
        assert status == 200
        for line in server.lines:
            assert key.encode() not in line.head
            assert OTHER.encode() not in line.head


@pytest.mark.parametrize("pairs", REFUSED.values(), ids=REFUSED.keys())
async def test_http_refused(valkey_url: str, tmp_path: Path, pairs: Pairs) -> None:
    """None of ours among them is none at all."""
    async with open_door(valkey_url, tmp_path, AUTH__REQUIRED="true") as (door, server, one):
        assert await over_http(door, with_key(pairs, await key_of(one))) == 401
        assert server.calls == 0


async def over_grpc(port: int, metadata: Pairs, headers: Pairs) -> set[object]:
    params = messages_pb2.MessageParams(
        model="m", max_tokens=5, messages=[messages_pb2.InputMessage(role="user", content=content_pb2.Content(text="hi"))]
    )
    outcomes: set[object] = set()
    with contextlib.suppress(grpc.aio.AioRpcError):
        outcomes.add((await call(port, "GET", "/v1/things", headers, metadata=metadata))[0])
    if headers:
        return outcomes or {401}
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            await MessagesServiceStub(channel).CreateMessage(
                messages_service_pb2.CreateMessageRequest(params=params), metadata=metadata, timeout=20
            )
            outcomes.add(200)
        except grpc.aio.AioRpcError as error:
            outcomes.add(401 if error.code() is grpc.StatusCode.UNAUTHENTICATED else error.code())
    return outcomes


@pytest.mark.parametrize("place", ["metadata", "headers"])
@pytest.mark.parametrize(
    ("pairs", "right"),
    [*((pairs, 200) for pairs in PRESENTED.values()), *((pairs, 401) for pairs in REFUSED.values())],
    ids=[*PRESENTED, *REFUSED],
)
async def test_grpc(valkey_url: str, tmp_path: Path, pairs: Pairs, place: str, right: object) -> None:
    """Over gRPC, in the metadata, for every RPC; in the headers of a request inside it is none: a stranger's is not read."""
    async with open_grpc_door(valkey_url, tmp_path, AUTH__REQUIRED="true", AUTH__SHARED_RESOURCES="true") as (door, _, one):
        said = with_key(pairs, await key_of(one))
        metadata, headers = (said, ()) if place == "metadata" else ((("x-api-key", OTHER),), (*said, ("x-more", "1")))
        assert await over_grpc(door.ports[0], metadata, headers) == {right if place == "metadata" else 401}


@pytest.mark.parametrize(
    ("headers", "gone"),
    [
        (("x-api-key: k",), "x-api-key: k"),
        (("authorization: Bearer t",), "authorization: bearer t"),
        (("x-api-key: k", "authorization: Bearer t"), "x-api-key: k"),
        ((f"x-api-key: {FORGED}", "authorization: Bearer t"), "authorization: bearer t"),
        (("x-api-key: k", f"authorization: Bearer {FORGED}"), "x-api-key: k"),
        (("x-api-key:", "authorization: Bearer t"), "authorization: bearer t"),
    ],
)
async def test_own_credentials(valkey_url: str, tmp_path: Path, headers: tuple[str, ...], gone: str) -> None:
    """Where callers' own keys go upstream, one with the shape of ours never does."""
    async with open_door(valkey_url, tmp_path, UPSTREAM__CREDENTIALS="caller") as (door, server, _):
        for target in ("/v1/messages", "/v1/things"):
            assert (await say(door, *headers, target=target))[0] == 200
        for line in server.lines:
            said = line.head.decode().lower()
            assert f"\r\n{gone}\r\n" in said
            assert said.count("x-api-key") + said.count("authorization") == 1
        assert (await say(door, f"x-api-key: {FORGED}"))[0] == 401
