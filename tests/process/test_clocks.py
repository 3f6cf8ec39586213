"""Hosts whose clocks are wrong, and are set while they run: due times and deadlines of tickets are the same for all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path

import pytest

from conftest import until
from daemon_process import environment
from daemon_process import serving as served
from fleet import Daemon, addresses
from from_outside import outcome_of, submit, whole_of
from scripted import MESSAGE, Line, serving

pytestmark = pytest.mark.slow

CLOCKS = Path(__file__).parents[1] / "chaos/clocks"
RETRY_AFTER_S = 3.0  # longer than a wait that is slept through: it goes into RQ's schedule
REFUSED = b'{"type":"error","error":{"type":"rate_limit_error","message":"later"}}'


class Upstream:
    """Refuses the first attempt of each call for a while; remembers when it was asked."""

    def __init__(self) -> None:
        self.asked: dict[str, list[float]] = {}

    async def talk(self, line: Line) -> None:
        text = json.loads(line.body)["messages"][0]["content"]
        asked = self.asked.setdefault(text, [])
        asked.append(time.monotonic())
        if len(asked) == 1:
            await line.answer(429, REFUSED, f"retry-after: {RETRY_AFTER_S:g}", "content-type: application/json")
        else:
            await line.answer(200, MESSAGE, "content-type: application/json")


class Offset:
    """By how much a daemon's clock is wrong."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path = path
        path.parent.mkdir()
        self.set(seconds)

    def set(self, seconds: float) -> None:
        self.path.write_text(str(seconds))


@contextlib.asynccontextmanager
async def daemon_that_is_wrong(upstream: str, redis_url: str, directory: Path, seconds: float):
    """A daemon whose clock is ahead by so many seconds, and what says so."""
    offset = Offset(directory / "offset", seconds)
    more = {
        "HEADRACE_UPSTREAM__BASE_URL": upstream, "HEADRACE_UPSTREAM__API_KEY": "sk-test", "HEADRACE_REDIS__URL": redis_url,
        "HEADRACE_LISTEN__GRPC": '["127.0.0.1:0"]', "PYTHONPATH": str(CLOCKS), "CLOCK_OFFSET": str(offset.path),
        "HEADRACE_UPSTREAM__OVERLOAD_GATE": "off",
    }  # fmt: skip
    entered = served(environment(directory, **more))
    running = await asyncio.to_thread(entered.__enter__)
    try:
        *_, grpc, http = addresses(running)
        yield Daemon(http, grpc, running), offset
    finally:
        await asyncio.to_thread(entered.__exit__, None, None, None)


async def test_wrong_clocks(valkey_url, tmp_path):
    """One host is a minute ahead and one behind; then both are set: each call is made again when it is due, none expires."""
    upstream = Upstream()
    async with (
        serving(upstream.talk) as server,
        daemon_that_is_wrong(server.url, valkey_url, tmp_path / "a", 60.0) as (ahead, of_ahead),
        daemon_that_is_wrong(server.url, valkey_url, tmp_path / "b", -60.0) as (behind, of_behind),
    ):

        async def ask(at: Daemon, name: str) -> list[object]:
            submitted = await submit(at, f"{name} submitted")
            asked = asyncio.gather(
                outcome_of(at, submitted),
                whole_of(at, f"{name} parked", x_headrace_timeout_ms="20000"),
                whole_of(at, f"{name} keyed", idempotency_key=name, x_headrace_timeout_ms="20000"),
            )
            said, parked, keyed = await asyncio.wait_for(asked, 30)
            return [said, parked[0], keyed[0]]

        asking = [asyncio.create_task(ask(*each)) for each in ((ahead, "ahead"), (behind, "behind"))]
        assert await asyncio.gather(*asking) == [["SUCCEEDED", 200, 200]] * 2
        asking = [asyncio.create_task(ask(*each)) for each in ((ahead, "ahead, set"), (behind, "behind, set"))]
        await until(lambda: len(upstream.asked) == 12)
        of_ahead.set(-3600)
        of_behind.set(3600)
        assert await asyncio.gather(*asking) == [["SUCCEEDED", 200, 200]] * 2
    waited = {text: round(later - first, 1) for text, (first, later) in upstream.asked.items()}
    print(waited)
    assert min(waited.values()) >= RETRY_AFTER_S - 0.05
    assert max(waited.values()) <= RETRY_AFTER_S + 10  # a wrong clock was a minute's wait; the rest is for a busy machine
