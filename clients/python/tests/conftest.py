"""A real daemon in front of the simulator, as processes of their own: what `tests/stage.py` of the daemon's tests puts up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace_client import Headrace
from transport_parts import Library

ROOT = Path(__file__).parents[3]


class Stage:
    """
    A simulator and a daemon in front of it.

    Attributes:
        http, simulator: URLs.
        grpc: host and port.
        socket: a path; `address` is the same for gRPC.
    """

    def __init__(self, http: str, grpc: str, socket: str, simulator: str) -> None:
        self.http, self.grpc, self.socket, self.simulator = http, grpc, socket, simulator
        self.address = f"unix:{socket}"
        self._control = httpx.Client(base_url=f"{simulator}/_simulator")

    def fault(self, kind: str, **rule: Any) -> None:
        """Let the simulator fail."""
        self._control.post("/faults", json={"kind": kind, **rule}).raise_for_status()

    def heal(self) -> None:
        """Let it fail no longer."""
        self._control.delete("/faults").raise_for_status()

    def reset(self) -> None:
        """Forget what was asked, here and in the daemon's cache."""
        self._control.post("/reset").raise_for_status()
        with Headrace(self.address) as client:
            client.cache.purge(all=True)

    @property
    def asked(self) -> int:
        """How many calls have reached the simulator."""
        return int(self._control.get("/counts").json()["total"])

    def calls(self, text: str) -> list[dict[str, Any]]:
        """The calls whose prompt has *text*, as the simulator's journal has them."""
        visits: list[dict[str, Any]] = self._control.get("/journal", params={"text": text}).json()["visits"]
        return visits

    async def runs(self, text: str) -> None:
        """Wait until a call with *text* is at the simulator."""
        await self._until(lambda: any(not call["took_s"] for call in self.calls(text)), f"{text!r} runs")

    async def ended(self, text: str) -> None:
        """Wait until calls with *text* have been there, and have gone."""
        await self._until(lambda: all(call["took_s"] for call in self.calls(text) or [{"took_s": 0}]), f"{text!r} has ended")

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        give_up = time.monotonic() + 10
        while not await asyncio.to_thread(condition):
            assert time.monotonic() < give_up, f"not within 10 s: {what}"
            await asyncio.sleep(0.01)

    def close(self) -> None:
        self._control.close()


@contextlib.contextmanager
def staged(**settings: str) -> Iterator[Stage]:
    """Put a stage up for as long as the block lasts."""
    command = [sys.executable, "-m", "tests.stage", *(f"{name}={value}" for name, value in settings.items())]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the stage did not come up"
        stage = Stage(**json.loads(line))
        try:
            yield stage
        finally:
            stage.close()
            process.stdin.close()
            process.wait(30)


@pytest.fixture(scope="session")
def session_stage() -> Iterator[Stage]:
    with staged() as stage:
        yield stage


@pytest.fixture
def stage(session_stage: Stage) -> Stage:
    """A stage on which nothing has happened."""
    session_stage.reset()
    return session_stage


@pytest.fixture(scope="session")
def own_stage() -> Callable[..., contextlib.AbstractContextManager[Stage]]:
    """For a stage with settings of the test's own."""
    return staged


@pytest.fixture
def ask() -> Callable[..., dict[str, Any]]:
    """Keywords of a call."""

    def keywords(text: str, **more: Any) -> dict[str, Any]:
        message = {"role": "user", "content": text}
        return {"model": "claude-haiku-4-5", "max_tokens": 40, "messages": [message], **more}

    return keywords


@pytest.fixture(params=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> Library:
    return Library(request.param)
