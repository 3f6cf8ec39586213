"""Redis loses all that it had: whoever waits hears something worth a repeat, and the log says it once."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import grpc
import grpc.aio
import pytest
import redis
from google.rpc import error_details_pb2, status_pb2

from conftest import until
from fleet import daemon_beside, simulated
from headrace.v1 import (
    messages_service_pb2,
    messages_service_pb2_grpc,
    options_pb2,
    tickets_service_pb2,
    tickets_service_pb2_grpc,
)

HEADERS = {"anthropic-version": "2023-06-01"}
OPTIONS = options_pb2.CallOptions(anthropic_version="2023-06-01")


async def ask(one, text, **more):
    """Return the status of a call over HTTP, and whether a repeat is worth it."""
    sent = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": text}]} | more
    keyed = {"idempotency-key": text} if text.startswith("keyed") else {}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as session,
        session.post(f"{one.http}/v1/messages", json=sent, headers=HEADERS | keyed) as response,
    ):
        said = await response.text()
        return response.status, response.headers.get("x-should-retry", "true"), said


async def submitted(one, *, is_watched=False):
    """Return the code and the reason by which a wait for a ticket ends, or whoever watches it."""
    request = messages_service_pb2.SubmitMessageRequest(options=OPTIONS)
    request.params.model, request.params.max_tokens = "claude-haiku-4-5", 9
    request.params.messages.add(role="user").content.text = f"submitted, {is_watched=}"
    async with grpc.aio.insecure_channel(one.grpc) as channel:
        ticket = (await messages_service_pb2_grpc.MessagesServiceStub(channel).SubmitMessage(request, timeout=30)).ticket
        stub = tickets_service_pb2_grpc.TicketsServiceStub(channel)
        try:
            if is_watched:
                watching = tickets_service_pb2.WatchTicketRequest(id=ticket.id, options=OPTIONS)
                async for _ in stub.WatchTicket(watching, timeout=60):
                    pass
            else:
                await stub.WaitTicket(tickets_service_pb2.WaitTicketRequest(id=ticket.id, options=OPTIONS), timeout=60)
        except grpc.aio.AioRpcError as error:
            info = error_details_pb2.ErrorInfo()
            packed = dict(error.trailing_metadata())["grpc-status-details-bin"]
            next(detail for detail in status_pb2.Status.FromString(packed).details if detail.Unpack(info))
            return error.code(), info.reason
    return grpc.StatusCode.OK, ""


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_flushed(valkey_url: str, stream: bool) -> None:
    """Parked, keyed, followed elsewhere, waited for, watched: each is answered or told to ask again, never NOT_FOUND."""
    more = {"UPSTREAM__OVERLOAD_GATE": "off"}
    async with (
        simulated() as upstream,
        daemon_beside(upstream.url, valkey_url, **more) as one,
        daemon_beside(upstream.url, valkey_url, **more) as two,
    ):
        upstream.faults.add("overloaded", retry_after_s=20)
        calls = [ask(one, "parked", stream=stream), ask(one, "keyed", stream=stream), ask(two, "parked", stream=stream)]
        calls += [ask(two, "keyed", stream=stream), submitted(two), submitted(two, is_watched=True)]
        asking = [asyncio.create_task(call) for call in calls]
        await until(lambda: upstream.counts.total >= 4, within=20)
        await asyncio.sleep(1.0)  # they wait for their tickets
        with redis.Redis.from_url(valkey_url) as client:
            client.flushall()
        upstream.faults.clear()
        *told, waited, watched = await asyncio.wait_for(asyncio.gather(*asking), 40)
        assert waited == watched == (grpc.StatusCode.UNAVAILABLE, "TICKET_LOST")
        for status, again, said in told:
            assert status == 200 or (status, again) == (503, "true"), said
            assert "error" not in said or "ask again" in said, said
        assert [(await ask(one, text))[0] for text in ("parked", "keyed")] == [200, 200]
    for each in (one, two):
        lines = [json.loads(line) for line in each.served.log.splitlines() if line.startswith("{")]
        assert sum(line["event"] == "redis.lost_data" for line in lines) == 1
        assert "Traceback" not in each.served.log
