"""What tests at the edges share: a simulator and who asks it, a queue of retries and who works on it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import anthropic
import pytest
from rq import Queue as StockQueue

from conftest import until
from headrace import worker
from headrace.retry.rq import NAME, Queue, connect
from headrace.retry.rq_worker import Worker
from headrace.simulator import Options, Simulator, start
from rq_parts import Made
from simulator_parts import client


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """An instant simulator with no limits."""
    async with await start(Options.instant()) as running:
        yield running


@pytest.fixture
async def web() -> AsyncIterator[aiohttp.ClientSession]:
    """A plain HTTP client."""
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture(params=["2023-06-01", "2026-10-21"])
async def sdk(simulator: Simulator, request: pytest.FixtureRequest) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """The official SDK, with either version."""
    async with client(simulator, version=request.param) as some:
        yield some


@pytest.fixture
def made():
    runner = Made()
    worker.serve_with(runner)
    yield runner
    worker.serve_with(None)


@pytest.fixture
async def queue(valkey_url):
    queue = Queue(valkey_url)
    yield queue
    await queue.aclose()


@pytest.fixture
async def crew(valkey_url):
    """A running worker."""
    crew = Worker(valkey_url, concurrency=50)
    crew.start()
    await until(lambda: crew.is_healthy)
    yield crew
    await crew.stop(1.0)


@pytest.fixture
def stock(valkey_url):
    """RQ's own view of the queue."""
    with connect(valkey_url, timeout_s=5) as client:
        yield StockQueue(NAME, connection=client, serializer="json")
