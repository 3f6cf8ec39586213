"""Redis falls silent while upstream answers: the answer that is here is given, though nobody else can hear of it yet."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
import redis

from conftest import until
from fleet import daemon_beside, simulated
from headrace.simulator import Options
from listening import WHOLE, body_of, over_http

pytestmark = pytest.mark.slow

LEFT_S = 3.5  # less than it takes to give Redis up
LIMIT = '[{name = "org", requests_per_minute = 6000, concurrency = 50}]'


async def whole(at, text: str, **headers: str) -> int:
    sent = {"anthropic-version": "2023-06-01", "x-headrace-timeout-ms": str(round(1000 * LEFT_S))} | headers
    async with (
        aiohttp.ClientSession() as session,
        session.post(at.http + "/v1/messages", json=body_of(text), headers=sent) as response,
    ):
        await response.read()
        return response.status


async def test_answer_in_hand(valkey_url) -> None:
    """Whole and as a stream, kept and not, shared and alone: all before their deadlines, which come before Redis does."""
    async with (
        simulated(Options.instant(first_token_s=1.5)) as upstream,
        daemon_beside(upstream.url, valkey_url, LIMIT=LIMIT) as one,
    ):
        calls = [whole(one, "a"), whole(one, "a"), whole(one, "b", **{"cache-control": "no-store"})]
        asking = [asyncio.create_task(call) for call in calls]
        streaming = asyncio.create_task(over_http(one, "c", timeout_s=LEFT_S))
        await until(lambda: upstream.counts.running == 3)
        with redis.Redis.from_url(valkey_url) as client:
            client.client_pause(6000)
        assert await asyncio.gather(*asking) == [200, 200, 200]
        assert (await streaming).ending == WHOLE
    assert "Traceback" not in one.served.log
