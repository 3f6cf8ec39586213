"""Ready, degraded or leaving: what health says, and what becomes of calls meanwhile."""

from __future__ import annotations

import asyncio
import json
import time

import aiohttp
import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from conftest import start_valkey, until
from fleet import daemon_beside, simulated

pytestmark = pytest.mark.slow

DELAY_S = 3.0


def body(text: str) -> dict[str, object]:
    return {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": text}]}


async def ready(web: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    async with web.get(f"{url}/readyz") as response:
        return response.status, await response.text()


async def ask(web: aiohttp.ClientSession, url: str, text: str) -> int:
    async with web.post(f"{url}/v1/messages", json=body(text), headers={"anthropic-version": "2023-06-01"}) as response:
        await response.read()
        return response.status


async def test_delay() -> None:
    """Told to leave, it says no first, and takes calls until balancers have seen that."""
    async with (
        simulated() as simulator,
        daemon_beside(simulator.url, DRAIN__DELAY=f"{DELAY_S:g}s") as one,
        aiohttp.ClientSession() as web,
    ):
        assert (await ready(web, one.http))[0] == 200
        began = time.monotonic()
        one.served.process.terminate()

        async def says_no() -> bool:
            return (await ready(web, one.http))[0] == 503

        while not await says_no():
            assert time.monotonic() - began < DELAY_S
        assert "draining" in (await ready(web, one.http))[1]
        asked = 0
        while time.monotonic() - began < DELAY_S * 0.8:
            asked += 1
            assert await ask(web, one.http, f"late {asked}") == 200
        assert asked
        assert await asyncio.to_thread(one.served.process.wait, 30) == 0
        assert time.monotonic() - began >= DELAY_S


@pytest.mark.parametrize(
    ("losses", "status"), [(("open",), 200), (("share", "open"), 200), (("open", "closed"), 503), ((), 503)]
)
async def test_degraded(tmp_path, losses: tuple[str, ...], status: int) -> None:
    """Without Redis it is ready where all limits say what holds then, says that it is degraded, and answers."""
    valkey, url = await asyncio.to_thread(start_valkey, tmp_path)
    limits = [{"name": loss, "requests_per_minute": 6000, "on_redis_loss": loss} for loss in losses]
    try:
        async with (
            simulated() as simulator,
            daemon_beside(simulator.url, url, LIMIT=json.dumps(limits)) as one,
            aiohttp.ClientSession() as web,
        ):
            assert await ready(web, one.http) == (200, "ready\n")
            valkey.kill()

            async def is_noticed() -> bool:
                return "Redis cannot be reached" in (await ready(web, one.http))[1]

            give_up = time.monotonic() + 20
            while not await is_noticed():
                assert time.monotonic() < give_up
                await asyncio.sleep(0.1)
            said = await ready(web, one.http)
            assert said[0] == status
            assert ("degraded: Redis cannot be reached" in said[1]) == (status == 200)
            async with grpc.aio.insecure_channel(one.grpc) as channel:

                async def is_the_same() -> bool:
                    health = await HealthStub(channel).Check(HealthCheckRequest(), timeout=10)
                    return (health.status == HealthCheckResponse.SERVING) == (status == 200)

                await until(is_the_same)
            if status == 200:
                assert await ask(web, one.http, "without Redis") == 200
                await until(
                    lambda: (
                        '"degraded":["degraded: Redis'
                        in one.served.log.replace(" ", "").replace("degraded:Redis", "degraded: Redis")
                    )
                )
    finally:
        valkey.kill()
        await asyncio.to_thread(valkey.wait)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_attempt_timeout(is_stream: bool) -> None:
    """One attempt that hangs does not use up the call's time: the next one answers."""
    name = "UPSTREAM__SILENCE_TIMEOUT" if is_stream else "UPSTREAM__ATTEMPT_TIMEOUT"
    async with (
        simulated() as simulator,
        daemon_beside(simulator.url, **{name: "1s", "RETRY__BACKOFF": "0.1s..0.2s"}) as one,
        aiohttp.ClientSession() as web,
    ):
        simulator.faults.add("hang", count=1)
        began = time.monotonic()
        async with web.post(f"{one.http}/v1/messages", json=body("hangs") | {"stream": is_stream}) as response:
            await response.read()
        assert response.status == 200
        assert response.headers.get("x-headrace-attempts", "2") == "2"
        assert 0.9 < time.monotonic() - began < 30
        assert simulator.counts.total == 2
