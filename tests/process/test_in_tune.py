"""In tune with upstream: two installed daemons, an upstream that holds limits, and others who use them too."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from conftest import until
from daemon_process import environment, headrace
from fleet import Daemon, daemon_beside, simulated
from headrace.simulator import Options
from headrace.simulator.server import Simulator

RATES = {"requests_per_minute": 1200, "input_tokens_per_minute": 660_000, "output_tokens_per_minute": 264_000}
LIMITED = Options(**RATES, burst_s=5, first_token_s=0.2, tokens_per_s=1000, answer_tokens=(100, 300))
CONFIGURED = json.dumps([{"name": "org", "per": ["model"], "burst": "5s", **RATES}])
LEARNING_S, MEASURED_S = 10.0, 10.0
MODEL = "claude-haiku-4-5"

_numbers, _dice = itertools.count(1), random.Random(8)


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


async def ask(http: aiohttp.ClientSession, url: str, mark: str, within_s: float = 30.0) -> int:
    text = f"{mark} {next(_numbers)} ".ljust(4 * _dice.randint(400, 600), "~")
    body = {"model": MODEL, "max_tokens": 400, "messages": [{"role": "user", "content": text}]}
    headers = {
        "anthropic-version": "2023-06-01", "content-type": "application/json", "x-api-key": "sk-others",
        "x-headrace-timeout-ms": str(round(1000 * within_s)),
    }  # fmt: skip
    async with http.post(f"{url}/v1/messages", data=json.dumps(body).encode(), headers=headers) as response:
        await response.read()
        return response.status


async def over_demand(http: aiohttp.ClientSession, urls: list[str], callers: int, seconds: float) -> None:
    end = time.monotonic() + seconds

    async def caller(url: str) -> None:
        while time.monotonic() < end:
            await ask(http, url, "ours")

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(caller(urls[number % len(urls)]) for number in range(callers)))


async def others(http: aiohttp.ClientSession, url: str, a_second: float, seconds: float) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(int(a_second * seconds)):
            group.create_task(ask(http, url, "theirs"))
            await asyncio.sleep(1 / a_second)


@contextlib.asynccontextmanager
async def pair(simulator: Simulator, valkey_url: str, **settings: str) -> AsyncIterator[list[str]]:
    one, other = (daemon_beside(simulator.url, valkey_url, **settings) for _ in range(2))
    async with one as first, other as second:
        yield [first.http, second.http]


async def shown(at: Daemon, path: Path) -> dict[str, int]:
    """Return the requests a minute that `headrace limits` shows, by the values of `per`, once it has something to note."""
    environ = environment(path, HEADRACE_LISTEN__GRPC=json.dumps([at.grpc]))
    reply = json.loads((await asyncio.to_thread(headrace, "limits", "--json", environ=environ)).stdout)
    buckets = [bucket for limit in reply["limits"] for bucket in limit["budgets"] if bucket["kind"] == "requests"]
    return {bucket["bucket"]: bucket["rate_per_minute"] for bucket in buckets}


def measured(simulator: Simulator, since: float) -> tuple[float, float]:
    """Return which share of our attempts was refused from then on, and how much of upstream's requests was used by all."""
    visits = [visit for visit in simulator.journal.visits if since <= visit.at_unix < since + MEASURED_S and visit.status]
    ours = [visit for visit in visits if visit.text.startswith("ours")]
    refused = sum(visit.status == 429 for visit in ours) / len(ours)
    used = sum(visit.status == 200 for visit in visits) / (RATES["requests_per_minute"] / 60 * MEASURED_S)
    print(f"{len(ours)} of ours, {100 * refused:.2f} % refused, {100 * used:.1f} % of upstream's requests used")
    return refused, used


@pytest.mark.slow
@pytest.mark.long  # its short form is a row of `make truth-short`
async def test_no_limit(valkey_url, http):
    """With nothing configured, what upstream says is enough: hardly an attempt is refused, and what there is is used."""
    async with simulated(LIMITED) as simulator, pair(simulator, valkey_url) as urls:
        since = time.time() + LEARNING_S
        await over_demand(http, urls, 100, LEARNING_S + MEASURED_S)
        refused, used = measured(simulator, since)
    assert refused < 0.02
    assert used >= 0.95


@pytest.mark.slow
@pytest.mark.long  # its short form is a row of `make truth-short`
async def test_others(valkey_url, http):
    """Where others take a third of what is configured, their use is seen, and hardly an attempt of ours is refused."""
    async with simulated(LIMITED) as simulator, pair(simulator, valkey_url, LIMIT=CONFIGURED) as urls:
        since = time.time() + LEARNING_S
        theirs = others(http, simulator.url, 0.3 * 20, LEARNING_S + MEASURED_S)
        await asyncio.gather(over_demand(http, urls, 100, LEARNING_S + MEASURED_S), theirs)
        refused, used = measured(simulator, since)
    assert refused < 0.01
    assert used >= 0.95


async def test_own_list(valkey_url, tmp_path):
    """
    No limit is held above what upstream's own list says that there is, by a daemon without the admin key neither; a lower one
    stays as it is; and the log and `headrace limits` say so.
    """
    limits = [
        {"name": "org", "match": {"model": "claude-haiku-4-5"}, "requests_per_minute": 5000},
        {"name": "modest", "match": {"model": "claude-haiku-4-5"}, "requests_per_minute": 100},
        {"name": "anns", "match": {"caller": "ann"}, "requests_per_minute": 5000},
    ]
    own = {"org:requests": 1200, "modest:requests": 100, "anns:requests": 5000}
    settings = {"LIMIT": json.dumps(limits)}
    async with (
        simulated(LIMITED) as simulator,
        daemon_beside(simulator.url, valkey_url, UPSTREAM__ADMIN_API_KEY="sk-ant-admin", **settings) as knows,
        daemon_beside(simulator.url, valkey_url, **settings) as hears,
    ):
        for at in (knows, hears):
            await until(lambda at=at: "limit.lowered" in at.served.log)
            assert await shown(at, tmp_path) == own
        environ = environment(tmp_path, HEADRACE_LISTEN__GRPC=json.dumps([hears.grpc]))
        said = (await asyncio.to_thread(headrace, "limits", environ=environ)).stdout
        assert "org: held at 1,200 requests/min, the organisation's own; it says 5,000" in said
        assert said.count("held at") == 1
        assert [at.served.log.count("limit.lowered") for at in (knows, hears)] == [1, 1]
