"""
Twenty thousand tickets with 45 s to live, where five thousand can be worked: what is taken in is answered, the rest refused.

    pytest tests/process/test_ticket_flood.py --long -s
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass, field

import grpc.aio
import pytest
import redis
from google.rpc import error_details_pb2, status_pb2
from tests.truth.rig import Upstream

from conftest import until
from fleet import daemon_beside
from headrace.v1 import messages_service_pb2, messages_service_pb2_grpc, options_pb2

TICKETS = 20_000
LIVE_S = 45
A_MINUTE = 7_000  # 5,250 in 45 s
AT_ONCE = 64
LIMIT = f'[{{name = "org", requests_per_minute = {A_MINUTE}, burst = "1s"}}]'


@dataclass(slots=True)
class Told:
    """What submitters were told: the tickets that they have, and how long the others should wait, in seconds."""

    tickets: list[str] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)


async def submit(stub: messages_service_pb2_grpc.MessagesServiceStub, number: int, told: Told) -> None:
    options = options_pb2.CallOptions(anthropic_version="2023-06-01")
    request = messages_service_pb2.SubmitMessageRequest(options=options)
    request.params.model, request.params.max_tokens = "claude-x", 9
    request.params.messages.add(role="user").content.text = f"flood {number}"
    request.answer_timeout.FromSeconds(LIVE_S)
    try:
        told.tickets.append((await stub.SubmitMessage(request, timeout=30)).ticket.id)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        reason, wait_s = said(error)
        told.reasons[reason] += 1
        told.waits_s.append(wait_s)


def said(error: grpc.aio.AioRpcError) -> tuple[str, float]:
    """Return which limit a refusal names, and after how long a repeat makes sense."""
    limit, wait_s = "", 0.0
    packed = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    for detail in status_pb2.Status.FromString(packed).details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            limit = info.metadata["limit"]
        elif detail.Unpack(retry):
            wait_s = retry.retry_delay.ToTimedelta().total_seconds()
    return limit, wait_s


@pytest.mark.slow
@pytest.mark.long
async def test_more_than_can_be_worked(valkey_url: str) -> None:
    """Of those taken in nearly none expires; all others are refused with a time, and as many are answered as can be."""
    told, numbers = Told(), itertools.count(1)
    async with (
        Upstream("--first-token", "0.02", "--tokens-per-second", "0") as upstream,
        daemon_beside(upstream.url, valkey_url, LIMIT=LIMIT, RETRY__MAX_TICKETS="50000") as at,
        grpc.aio.insecure_channel(at.grpc) as channel,
    ):
        stub = messages_service_pb2_grpc.MessagesServiceStub(channel)

        async def submitter() -> None:
            while (number := next(numbers)) <= TICKETS:
                await submit(stub, number, told)

        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(submitter() for _ in range(AT_ONCE)))
        took_s = asyncio.get_running_loop().time() - began
        with redis.Redis.from_url(valkey_url) as client:
            await until(lambda: client.zcard("headrace:tickets") == 0, within=LIVE_S + 30)
            states = Counter(client.hget(f"headrace:ticket:{ticket}", "state").decode() for ticket in told.tickets)
    accepted = len(told.tickets)
    print(
        f"{TICKETS:,} submitted in {took_s:.0f} s: {accepted:,} accepted, {dict(states)}; {len(told.waits_s):,} refused "
        f"({dict(told.reasons)}), told to wait {min(told.waits_s, default=0):.1f} to {max(told.waits_s, default=0):.1f} s"
    )
    assert accepted + len(told.waits_s) == TICKETS
    assert set(told.reasons) == {"deadline"}
    assert min(told.waits_s) > 0
    assert states["EXPIRED"] <= accepted / 50
    assert states["SUCCEEDED"] == accepted - states["EXPIRED"]
    assert states["SUCCEEDED"] > 0.8 * A_MINUTE / 60 * LIVE_S
