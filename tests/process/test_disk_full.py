"""Our own Valkey on a full or read-only disk: no storm of starts, a clear word, and well again when it can be written."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from pathlib import Path

import aiohttp
import pytest
from tests.chaos.disks import read_only
from tests.chaos.faults import filled
from tests.chaos.house import CannotMount, small_disk

from conftest import until
from daemon_process import environment, serving
from fleet import addresses, simulated

HEADERS = {"anthropic-version": "2023-06-01"}
DISK_MB = 32


@pytest.fixture
def disk(tmp_path_factory):
    """A small disk of its own."""
    root = Path(tmp_path_factory.mktemp("d"))
    try:
        with small_disk(root, DISK_MB):
            yield root
    except CannotMount as error:
        pytest.skip(f"nothing can be mounted here: {error}")


async def ready(url):
    async with aiohttp.ClientSession() as session, session.get(f"{url}/readyz") as response:
        return response.status, await response.text()


async def ask(url, text):
    sent = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": text}]}
    headers = HEADERS | {"idempotency-key": text, "x-headrace-timeout-ms": "3000"}
    async with aiohttp.ClientSession() as session, session.post(f"{url}/v1/messages", json=sent, headers=headers) as response:
        return response.status


def events(served, name):
    lines = [json.loads(line) for line in served.log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


@contextlib.asynccontextmanager
async def served_on(state):
    """A daemon whose state, and so its own Valkey, lies there; it answers, and what it said before is heard after it."""
    async with simulated() as upstream:
        environ = environment(
            state, HEADRACE_UPSTREAM__BASE_URL=upstream.url, HEADRACE_UPSTREAM__API_KEY="k", HEADRACE_LISTEN__GRPC="[]"
        )
        entered = serving(environ)
        served = await asyncio.to_thread(entered.__enter__)
        try:
            url = addresses(served)[-1]
            assert await ask(url, "before") == 200
            yield served, url
            await until(lambda: is_ready(url), within=30)
            assert await ask(url, "after") == 200
            assert await ask(url, "before") == 200
        finally:
            await asyncio.to_thread(entered.__exit__, None, None, None)
    assert "Traceback" not in served.log


async def is_ready(url):
    return (await ready(url))[0] == 200


async def hindered(served, url, why):
    """Ask on until readiness says why nothing can be written; then, for seconds, no server is started, and the log is short."""
    began = len(served.log)

    async def is_told():
        await ask(url, f"meanwhile {time.monotonic()}")
        status, text = await ready(url)
        return status == 503 and f"our own Valkey ended, and nothing can be written there: {why}" in text

    await until(is_told, within=20)
    starts = len(events(served, "valkey.started"))
    for number in range(4):
        await ask(url, f"again {number}")
        await asyncio.sleep(1)
    assert not await is_ready(url)
    assert len(events(served, "valkey.started")) == starts, "a server that would die at once"
    assert len(events(served, "valkey.died")) <= 3
    assert len(served.log) - began < 8_000, "one line a state"


async def test_full(disk) -> None:
    """A full disk: readiness names it, the server is started no more until there is room, and then by itself."""
    (disk / "state").mkdir()
    async with served_on(disk / "state") as (served, url):
        with filled(disk / "ballast"):
            await hindered(served, url, "No space left")


async def test_read_only(tmp_path_factory) -> None:
    """A disk that has become read-only, where the server ends: the same, until it can be written again."""
    state = Path(tmp_path_factory.mktemp("r"))
    async with served_on(state) as (served, url):
        try:
            with read_only(state):
                os.kill(events(served, "valkey.started")[-1]["pid"], signal.SIGKILL)
                await hindered(served, url, "Read-only file system")
        except CannotMount as error:
            pytest.skip(f"nothing can be mounted here: {error}")
