"""Where each caller's own key goes upstream, a name is what anybody says: what outlives a call belongs to name and key."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import redis
from google.protobuf.message import Message

from doors import BODY, call, open_grpc_door
from headrace.v1 import cache_service_pb2 as cache
from headrace.v1 import letters_service_pb2, operator_service_pb2, usage_service_pb2
from headrace.v1 import tickets_service_pb2 as pb
from headrace.v1.cache_service_pb2_grpc import CacheServiceStub
from headrace.v1.tickets_service_pb2_grpc import TicketsServiceStub

OWN = {"UPSTREAM__CREDENTIALS": "caller"}
MINE, YOURS = (("x-api-key", "sk-mine-secret"),), (("x-api-key", "sk-yours-secret"),)


async def ask(port: int, key: tuple[tuple[str, str], ...], **more: str) -> tuple[int, dict[str, str]]:
    headers = (*key, ("content-type", "application/json"), *((name.replace("_", "-"), value) for name, value in more.items()))
    status, said, _ = await call(port, "POST", "/v1/messages", headers, json.dumps(BODY).encode())
    return status, said


@pytest.mark.parametrize("name", ["", "ann"])
async def test_tickets(valkey_url: str, tmp_path: Path, name: str) -> None:
    """Any other string finds no ticket, cancels none, lists none, and meets no idempotency key; a name is not enough."""
    named = {"x_headrace_caller": name} if name else {}
    async with open_grpc_door(valkey_url, tmp_path, **OWN) as (door, server, one):
        port = door.ports[0]
        status, said = await ask(port, MINE, idempotency_key="k", cache_control="no-store", **named)
        assert status == 200
        ticket = said["x-headrace-ticket"]
        assert (await ask(port, MINE, idempotency_key="k", cache_control="no-store", **named))[1]["x-headrace-ticket"] == ticket
        assert server.calls == 1
        assert (await ask(port, YOURS, idempotency_key="k", cache_control="no-store", **named))[1][
            "x-headrace-ticket"
        ] != ticket
        assert server.calls == 2
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub, options = TicketsServiceStub(channel), {"caller": name}
            for rpc, request in (
                (stub.GetTicket, pb.GetTicketRequest(id=ticket, options=options)),
                (stub.WaitTicket, pb.WaitTicketRequest(id=ticket, options=options)),
                (stub.CancelTicket, pb.CancelTicketRequest(id=ticket, options=options)),
            ):
                for metadata in (YOURS, (("authorization", "Bearer sk-mine-secret"),), (("x-api-key", "x"),)):
                    with pytest.raises(grpc.aio.AioRpcError) as refused:
                        await rpc(request, metadata=metadata)
                    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
                assert (await rpc(request, metadata=MINE)).ticket.id == ticket
            listed = {
                key: [
                    each.id for each in (await stub.ListTickets(pb.ListTicketsRequest(options=options), metadata=key)).tickets
                ]
                for key in (MINE, YOURS, (("x-api-key", "x"),))
            }
        assert [len(ids) for ids in listed.values()] == [1, 1, 0]
        assert listed[MINE] == [ticket]
        assert "secret" not in str(one.parts)
    with redis.Redis.from_url(valkey_url) as client:
        for key in client.scan_iter():
            held = client.dump(key) or b""
            assert b"sk-mine" not in key + held, key


async def test_purges(valkey_url: str, tmp_path: Path) -> None:
    """Another's kept answers stay, whatever a purge asks for."""
    async with open_grpc_door(valkey_url, tmp_path, **OWN) as (door, server, _):
        await ask(door.ports[0], MINE)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{door.ports[0]}") as channel:
            stub = CacheServiceStub(channel)
            for request in (cache.PurgeCacheRequest(all=True), cache.PurgeCacheRequest(model="m")):
                assert (await stub.PurgeCache(request, metadata=YOURS)).purged_entry_count == 0
            stats = await stub.GetCacheStats(cache.GetCacheStatsRequest(), metadata=YOURS)
            assert {tier.entry_count for tier in stats.tiers} == {0}
            await ask(door.ports[0], MINE)
            assert server.calls == 1
            assert (await stub.PurgeCache(cache.PurgeCacheRequest(all=True), metadata=MINE)).purged_entry_count == 1
            await ask(door.ports[0], MINE)
            assert server.calls == 2


async def test_all_else(valkey_url: str, tmp_path: Path) -> None:
    """Nor does another string, by the same name, watch a ticket, have a call explained, or see its usage, letters and waits."""
    async with open_grpc_door(valkey_url, tmp_path, **OWN) as (door, _, _):
        ticket = (await ask(door.ports[0], MINE, idempotency_key="k", x_headrace_caller="ann"))[1]["x-headrace-ticket"]
        options = {"caller": "ann"}
        async with grpc.aio.insecure_channel(f"127.0.0.1:{door.ports[0]}") as channel:

            async def said(rpc: str, request: Message, key: tuple[tuple[str, str], ...]) -> bytes:
                return await channel.unary_unary(f"/headrace.v1.{rpc}")(request.SerializeToString(), metadata=key, timeout=10)

            explain = operator_service_pb2.ExplainCallRequest(id=ticket, options=options)
            letter = letters_service_pb2.GetLetterRequest(id=ticket, options=options)
            for rpc, request in (("OperatorService/ExplainCall", explain), ("LettersService/GetLetter", letter)):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await said(rpc, request, YOURS)
                assert refused.value.code() is grpc.StatusCode.NOT_FOUND, rpc
            assert ticket.encode() in await said("OperatorService/ExplainCall", explain, MINE)
            watch = channel.unary_stream("/headrace.v1.TicketsService/WatchTicket")
            watched = watch(pb.WatchTicketRequest(id=ticket, options=options).SerializeToString(), metadata=YOURS, timeout=10)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await watched.read()
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND
            used, name = usage_service_pb2.GetUsageRequest(group_by=["caller"]), (("x-headrace-caller", "ann"),)

            async def rows(key: tuple[tuple[str, str], ...]) -> list[Any]:
                raw = await said("UsageService/GetUsage", used, (*key, *name))
                return list(usage_service_pb2.GetUsageResponse.FromString(raw).rows)

            async with asyncio.timeout(20):
                while not await rows(MINE):  # noqa: ASYNC110  # it is posted a moment later
                    await asyncio.sleep(0.1)
            assert await rows(YOURS) == []
            letters = letters_service_pb2.ListLettersRequest(options=options)
            listed = letters_service_pb2.ListLettersResponse.FromString(
                await said("LettersService/ListLetters", letters, YOURS)
            )
            assert not listed.letters
