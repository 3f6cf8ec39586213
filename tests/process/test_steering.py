"""Two installed daemons on one Redis: what an admin changes at one, the other goes by, until it ends."""

from __future__ import annotations

import asyncio
import json
import time

import aiohttp
import grpc.aio
import pytest

from conftest import until
from daemon_process import environment, headrace
from fleet import Daemon, daemon_beside, simulated
from headrace.budgets import show
from headrace.v1.budgets_service_pb2 import ListBudgetsRequest
from headrace.v1.budgets_service_pb2_grpc import BudgetsServiceStub

LIMIT = '[{name = "org", requests_per_minute = 1, burst = "1m"}, {name = "crowd", concurrency = 50, per = ["caller"]}]'
SETTINGS = {"LIMIT": LIMIT, "AUTH__DEFAULT_ROLE": "admin"}


class Pair:
    """Two daemons, callers at both, and the commands against either."""

    def __init__(self, session: aiohttp.ClientSession, one: Daemon, two: Daemon, path) -> None:
        self.session, self.one, self.two, self.path = session, one, two, path
        self.number = 0

    async def call(self, at: Daemon, caller: str = "ann", *, within_ms: int = 60_000) -> tuple[int, str, float]:
        """Make a call of its own; return its status, what it was told, and how long it took."""
        self.number += 1
        body = {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": f"{self.number}"}]}
        headers = {
            "anthropic-version": "2023-06-01", "x-headrace-caller": caller, "x-headrace-timeout-ms": f"{within_ms}",
        }  # fmt: skip
        began = time.monotonic()
        async with self.session.post(f"{at.http}/v1/messages", json=body, headers=headers) as response:
            return response.status, (await response.read()).decode(), time.monotonic() - began

    async def command(self, at: Daemon, *words: str, code: int = 0) -> str:
        environ = environment(self.path, HEADRACE_LISTEN__GRPC=json.dumps([at.grpc]))
        ran = await asyncio.to_thread(headrace, *words, environ=environ)
        assert ran.returncode == code, ran.stdout + ran.stderr
        return ran.stdout or ran.stderr

    async def state(self, at: Daemon) -> dict:
        """Return what `headrace limits --json` says, without the second that a command takes to start."""
        async with grpc.aio.insecure_channel(at.grpc) as channel:
            reply = await BudgetsServiceStub(channel).ListBudgets(ListBudgetsRequest(), timeout=10)
        return json.loads(show.as_json(reply))


@pytest.fixture
async def pair(valkey_url, tmp_path):
    async with (
        simulated() as simulator,
        daemon_beside(simulator.url, valkey_url, **SETTINGS) as one,
        daemon_beside(simulator.url, valkey_url, **SETTINGS) as two,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        yield Pair(session, one, two, tmp_path)


async def test_raised(pair):
    """Raised at one daemon, a limit is raised at the other within a second, also for those who wait; then it ends at both."""
    assert (await pair.call(pair.one))[0] == 200
    waiting = [asyncio.create_task(pair.call(at, within_ms=500_000)) for at in (pair.one, pair.two) for _ in range(3)]

    async def all_wait() -> bool:
        [org, _] = (await pair.state(pair.two))["limits"]
        return org["budgets"][0]["waiting_calls"] == 6

    await until(all_wait)
    state = await pair.state(pair.one)
    assert (state["daemons"], state["daemons_heard"]) == (2, 2)
    calls = state["limits"][0]["budgets"][0]["waiting"]
    assert [call["position"] for call in calls] == [1, 2, 3, 4, 5, 6]
    assert len({call["daemon"] for call in calls}) == 2
    assert all(call["caller"] == "ann" and "expected_time" in call for call in calls)
    assert "ann" in await pair.command(pair.two, "limits", "show", "org")

    raised = await pair.command(
        pair.one, "limits", "set", "org", "--requests-per-minute", "6000", "--for", "8s", "--reason", "launch"
    )  # fmt: skip
    began = time.monotonic()
    assert '"limit.set"' in pair.one.served.log
    assert "6,000 requests/min" in raised
    assert [status for status, *_ in await asyncio.gather(*waiting)] == [200] * 6
    assert time.monotonic() - began < 1.5
    for at in (pair.one, pair.two):
        [org, _] = (await pair.state(at))["limits"]
        assert org["source"] == "LIMIT_SOURCE_OVERRIDDEN"
        assert org["override"]["reason"] == "launch"
    assert json.loads(await pair.command(pair.two, "limits", "--json"))["limits"][0]["name"] == "org"

    async def is_over(at: Daemon) -> bool:
        return (await pair.state(at))["limits"][0]["source"] == "LIMIT_SOURCE_CONFIGURED"

    await until(lambda: is_over(pair.one), within=15)
    await until(lambda: is_over(pair.two), within=1.5)
    # What the raised limit let flow in is spent at the old rate: a bucket of one call, then one a minute.
    statuses = [(await pair.call(pair.two, within_ms=200))[0] for _ in range(3)]
    assert statuses[1:] == [429, 429]


async def test_unset(pair):
    """Taken back at one, it is taken back at the other; what is not there is said with what is."""
    await pair.command(pair.one, "limits", "set", "org", "--requests-per-minute", "6000")
    await pair.command(pair.two, "limits", "unset", "org")
    await asyncio.sleep(1)  # that is what is promised
    assert (await pair.state(pair.one))["limits"][0]["source"] == "LIMIT_SOURCE_CONFIGURED"
    assert "there are: org, crowd" in await pair.command(pair.one, "limits", "set", "or", "--concurrency", "5", code=3)
    assert "at least 1" in await pair.command(pair.one, "limits", "set", "org", "--concurrency", "0", code=1)
    assert "nothing is laid over limit org" in await pair.command(pair.one, "limits", "unset", "org", code=3)
    assert "duration" in await pair.command(pair.one, "limits", "set", "org", "--for", "soon", code=2)


async def test_held(pair):
    """A caller held at one daemon waits at the other, and goes once it is released; or is refused, and told why."""
    await pair.command(pair.one, "limits", "set", "org", "--requests-per-minute", "6000")
    said = json.loads(await pair.command(pair.one, "hold", "bob", "--reason", "runs wild", "--json"))
    assert said["hold"]["reason"] == "runs wild"
    await asyncio.sleep(1)  # that is what is promised
    waiting = asyncio.create_task(pair.call(pair.two, "bob"))
    assert (await pair.call(pair.two, "ann"))[0] == 200

    async def waits() -> bool:
        return [hold["waiting_calls"] for hold in (await pair.state(pair.one))["holds"]] == [1]

    await until(waits)
    assert "bob is on hold, its calls wait" in await pair.command(pair.two, "limits")
    status, told, took_s = await pair.call(pair.two, "bob", within_ms=300)
    assert (status, took_s < 2) == (429, True)
    assert "bob is on hold: runs wild" in told
    assert "bob goes on" in await pair.command(pair.one, "release", "bob")
    assert (await asyncio.wait_for(waiting, 1.5))[0] == 200

    await pair.command(pair.two, "hold", "bob", "--refuse", "--for", "1h")
    await asyncio.sleep(1)
    status, told, _ = await pair.call(pair.one, "bob")
    assert status == 429
    assert "bob is on hold" in told
    assert '"caller.held"' in pair.two.served.log
    assert "there are: bob" in await pair.command(pair.one, "release", "ann", code=3)
