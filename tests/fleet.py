"""A small fleet for tests: a simulator in this process, and installed daemons on one Redis, each a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from audit import AUDIT
from daemon_process import Served, environment, serving
from headrace.simulator import Options, Simulator, start


@dataclass(frozen=True)
class Daemon:
    """A daemon that serves: where, and its process."""

    http: str
    grpc: str
    served: Served


@contextlib.asynccontextmanager
async def simulated(options: Options | None = None) -> AsyncIterator[Simulator]:
    """Run a simulator that answers at once, unless told otherwise."""
    simulator = await start(options or Options.instant())
    try:
        yield simulator
    finally:
        await simulator.stop()


@contextlib.contextmanager
def daemon(upstream: str, redis_url: str = "", environ: Mapping[str, str] | None = None, **settings: str):
    """Run a daemon; *settings* are environment variables less their prefix, such as CACHE__TTL, *environ* others."""
    with tempfile.TemporaryDirectory(prefix="d") as directory:
        more = (
            {
                "HEADRACE_UPSTREAM__BASE_URL": upstream,
                "HEADRACE_UPSTREAM__API_KEY": "sk-test",
                "HEADRACE_LISTEN__GRPC": '["127.0.0.1:0"]',
            }
            | {f"HEADRACE_{name}": value for name, value in settings.items()}
            | dict(environ or {})
        )
        if redis_url:
            more["HEADRACE_AUDIT"] = AUDIT
            more["HEADRACE_REDIS__URL"] = redis_url
        with serving(environment(Path(directory), **more)) as served:
            *_, grpc, http = addresses(served)
            yield Daemon(http, grpc, served)


@contextlib.asynccontextmanager
async def daemon_beside(*asked: str, environ: Mapping[str, str] | None = None, **settings: str) -> AsyncIterator[Daemon]:
    """Run a daemon as `daemon` does, and let this loop go on while it starts and stops: what it waits for may be in here."""
    entered = daemon(*asked, environ=environ, **settings)
    running = await asyncio.to_thread(entered.__enter__)
    try:
        yield running
    finally:
        await asyncio.to_thread(entered.__exit__, None, None, None)


def addresses(served: Served) -> list[str]:
    """Return where a daemon listens, as its log says."""
    for line in served.log.splitlines():
        with contextlib.suppress(ValueError):
            said = json.loads(line)
            if said.get("event") == "daemon.started":
                return said["addresses"]
    raise AssertionError(f"it does not say where it listens:\n{served.log}")
