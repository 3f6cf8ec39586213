"""A storm of 429 and 529, ridden out by the queue. `make storm` rides out a whole minute."""

from __future__ import annotations

import asyncio
import statistics
import time

import aiohttp
import grpc

from fleet import daemon, simulated
from headrace.simulator import Options
from headrace.v1 import messages_service_pb2, messages_service_pb2_grpc, options_pb2

DEADLINE_S = 120.0
EVERY_S = 0.05


async def over_http(session, url, number):
    body = {"model": "claude-x", "max_tokens": 9, "messages": [{"role": "user", "content": f"storm {number}"}]}
    headers = {"anthropic-version": "2023-06-01", "x-headrace-timeout-ms": str(int(DEADLINE_S * 1000))}
    async with session.post(f"{url}/v1/messages", json=body | {"stream": number % 3 == 0}, headers=headers) as response:
        await response.read()
        return response.status == 200, int(response.headers.get("x-headrace-attempts", 0))


async def over_grpc(stub, number):
    request = messages_service_pb2.CreateMessageRequest(options=options_pb2.CallOptions(anthropic_version="2023-06-01"))
    request.params.model, request.params.max_tokens = "claude-x", 9
    request.params.messages.add(role="user").content.text = f"storm {number}"
    reply = await stub.CreateMessage(request, timeout=DEADLINE_S)
    return bool(reply.message.id), reply.origin.attempts


async def timed(ask):
    began = time.monotonic()
    is_answered, attempts = await ask
    return is_answered, attempts, time.monotonic() - began


async def test_every_call_is_answered(valkey_url, long):
    """30 % 429 and 20 % 529: all calls are answered within their deadlines, and no retry-after is undercut."""
    seconds = 60.0 if long else 6.0
    options = Options.instant(rate_429=0.3, rate_529=0.2, retry_after_s=(1, 3))
    async with simulated(options) as simulator:
        with daemon(simulator.url, valkey_url, RETRY__BACKOFF="0.5s..5s") as running:
            answers = await weather(running, seconds)
        assert running.served.process.returncode == 0

    assert all(is_answered for is_answered, _, _ in answers)
    early, late = undercut(simulator.journal.visits)
    took = [seconds for _, _, seconds in answers]
    print(
        f"{len(answers)} calls in {seconds:.0f} s, {simulator.counts.total} attempts ({simulator.counts.outcomes}), "
        f"at most {max(attempts for _, attempts, _ in answers)} for one call; p50 {statistics.median(took):.2f} s, "
        f"longest {max(took):.1f} s; after a retry-after {early * 1000:.0f} ms late at the least, {late:.2f} s at the most"
    )
    assert early >= 0


async def weather(running, seconds):
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        grpc.aio.insecure_channel(running.grpc) as channel,
    ):
        stub = messages_service_pb2_grpc.MessagesServiceStub(channel)
        asked, until = [], time.monotonic() + seconds
        while time.monotonic() < until:
            number = len(asked)
            ask = over_grpc(stub, number) if number % 2 else over_http(session, running.http, number)
            asked.append(asyncio.create_task(timed(ask)))
            await asyncio.sleep(EVERY_S)
        return await asyncio.gather(*asked)


def undercut(visits):
    """Return how much later than its retry-after the earliest and the latest attempt of a body came."""
    due, late = {}, []
    for visit in visits:
        if visit.fingerprint in due:
            late.append(visit.at_unix - due.pop(visit.fingerprint))
        if visit.retry_after_s:
            due[visit.fingerprint] = visit.at_unix + visit.retry_after_s
    return min(late), max(late)
