"""Redis stands still and goes on: what we gave up meanwhile and it did all the same, for nobody, holds nobody up."""

from __future__ import annotations

import asyncio
import collections
import time

import grpc
import pytest
import redis

from conftest import until
from fleet import daemon_beside, simulated
from from_outside import outcome_of, submit, whole_of
from headrace.simulator import Options

pytestmark = pytest.mark.slow

RECOVERY_S = 3.0
CALL_S = 0.3
BEFORE_S = 1.0
CALLS = 60
KINDS = ("keyed", "shared", "submitted")


@pytest.mark.parametrize("seconds", [3.0, 5.0])
async def test_paused(valkey_url, seconds):
    """
    Redis answers nobody for a while, longer than we wait for it: calls of every kind are answered within 3 s of its return, to
    callers who ask again when they are told to.
    """
    late: dict[str, list[float]] = collections.defaultdict(list)
    async with (
        simulated(Options.instant(first_token_s=CALL_S)) as simulator,
        daemon_beside(simulator.url, valkey_url) as one,
        daemon_beside(simulator.url, valkey_url) as two,
    ):
        back = time.monotonic() + BEFORE_S + seconds

        async def ask(number: int) -> None:
            await asyncio.sleep(number * (BEFORE_S + seconds) / CALLS)
            at, text, kind = (one, two)[number % 2], f"call {number // 2}", KINDS[number // 2 % 3]
            await until(lambda: is_answered(at, kind, text), within=60)
            late[kind].append(round(time.monotonic() - back, 1))

        asking = [asyncio.create_task(ask(number)) for number in range(CALLS)]
        await asyncio.sleep(BEFORE_S)
        with redis.Redis.from_url(valkey_url) as client:
            client.client_pause(round(seconds * 1000))
        await asyncio.wait_for(asyncio.gather(*asking), 90)
    print({kind: max(each) for kind, each in late.items()})
    assert max(max(each) for each in late.values()) <= RECOVERY_S + CALL_S, late


async def is_answered(at, kind: str, text: str) -> bool:
    """Ask once; whether there was an answer, and not the word that Redis is away."""
    if kind == "submitted":
        try:
            return await outcome_of(at, await submit(at, text)) == "SUCCEEDED"
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
    status, said = await whole_of(at, text, **({"idempotency_key": text} if kind == "keyed" else {}))
    assert status in (200, 503), said
    return status == 200
