"""Where each caller's own key goes upstream, a name is what anybody says: what outlives a call belongs to name and key."""

from __future__ import annotations

import json
from pathlib import Path

import grpc.aio
import pytest
import redis

from doors import BODY, call, open_grpc_door
from headrace.v1 import cache_service_pb2 as cache
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
