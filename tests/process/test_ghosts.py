"""Redis stands still and goes on: what we gave up meanwhile and it did all the same, for nobody, holds nobody up."""

from __future__ import annotations

import asyncio
import collections
import time

import pytest
import redis

from conftest import until
from fleet import daemon_beside, simulated
from from_outside import outcome_of, submit, whole_of
from headrace.simulator import Options
from redis_wire import wired

pytestmark = pytest.mark.slow

RECOVERY_S = 3.0
CALL_S = 0.3


@pytest.mark.parametrize("seconds", [3.0, 6.0])
async def test_paused(valkey_url, seconds):
    """Redis answers nobody for a while: calls of every kind that came before and meanwhile are answered within 3 s of its return."""
    late: dict[str, list[float]] = collections.defaultdict(list)
    failed: list[object] = []
    async with simulated(Options.instant(first_token_s=CALL_S)) as simulator:
        async with daemon_beside(simulator.url, valkey_url) as one, daemon_beside(simulator.url, valkey_url) as two:
            back = time.monotonic() + seconds + 1.0

            async def ask(number: int) -> None:
                await asyncio.sleep(number * (seconds + 1.0) / 60)
                at, text = (one, two)[number % 2], f"call {number // 2}"
                kind = ("keyed", "shared", "submitted")[number // 2 % 3]
                match kind:
                    case "keyed":
                        said = (await whole_of(at, text, idempotency_key=text))[0]
                    case "shared":
                        said = (await whole_of(at, text))[0]
                    case _:
                        said = await outcome_of(at, await submit(at, text))
                late[kind].append(round(time.monotonic() - back, 1))
                if said not in (200, "SUCCEEDED"):
                    failed.append((kind, said))

            asking = [asyncio.create_task(ask(number)) for number in range(60)]
            await asyncio.sleep(1.0)
            with redis.Redis.from_url(valkey_url) as client:
                client.client_pause(round(seconds * 1000))
            await asyncio.wait_for(asyncio.gather(*asking), 90)
    print({kind: max(each) for kind, each in late.items()}, failed)
    assert max(max(each) for each in late.values()) <= RECOVERY_S + CALL_S, late
