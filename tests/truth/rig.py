"""
What a row runs on: a simulator, a Valkey, and installed daemons, each a process of its own that can be killed or stopped.

Whatever a row does to them, they end with its block.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
from tests.truth.counting import Arrival

from audit import AUDIT
from conftest import start_valkey
from daemon_process import HEADRACE, Served, environment, serving

_AOF = ("--appendonly", "yes", "--appendfsync", "always")  # as the daemon's own
_STARTING = asyncio.Semaphore(2)  # daemons at once: on a small machine more of them only take longer each
_NOWHERE = "http://127.0.0.1:9"  # where callers go while no daemon is up
_STARTS_WITHIN_S = 60.0  # a machine that is kept busy by other rows


class Upstream:
    """A simulator in a process of its own."""

    def __init__(self, *options: str) -> None:
        command = [HEADRACE, "simulate", "--port", "0", "--journal", "200000", "--seed", "1", "--jitter", "0", *options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.url = ""

    async def __aenter__(self) -> Upstream:
        assert self._process.stdout is not None
        said = await asyncio.to_thread(self._process.stdout.readline)
        assert "listening on" in said, f"the simulator does not start: {said!r}"
        self.url = said.split()[-1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._process.kill()
        await asyncio.to_thread(self._process.wait)
        if self._process.stdout is not None:
            self._process.stdout.close()

    async def arrivals(self) -> list[Arrival]:
        """Return its log of calls, in the order in which they came."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/_simulator/arrivals") as response:
            return [Arrival.of(told) for told in (await response.json())["arrivals"]]


class Valkey:
    """A real Valkey on a socket, that can be stopped for a while and started anew on what it had."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._directory = directory
        self._options = (*_AOF, *options)
        self._process, self.url = start_valkey(directory, *self._options)

    def __enter__(self) -> Valkey:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    async def pause(self, seconds: float) -> None:
        with stopped(self._process):
            await asyncio.sleep(seconds)

    async def restart(self) -> None:
        """Kill it, and start it on the same socket with what it had written."""
        self._end()
        self._process, _ = await asyncio.to_thread(start_valkey, self._directory, *self._options)

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()


class Host:
    """One daemon."""

    def __init__(self, directory: Path, config: str) -> None:
        self._file = directory / "config.toml"
        self._file.write_text(config)
        self._environ = environment(directory, HEADRACE_CONFIG=str(self._file), HEADRACE_AUDIT=AUDIT)
        self._stack = contextlib.ExitStack()
        self._served: Served | None = None
        self.url = self.grpc = ""

    @property
    def is_up(self) -> bool:
        return bool(self.url)

    async def start(self) -> None:
        async with _STARTING:
            beginning = serving(self._environ, within=_STARTS_WITHIN_S)
            self._served = await asyncio.to_thread(self._stack.enter_context, beginning)
        self.url, self.grpc = _address(self._served.log), _address(self._served.log, "127")

    async def kill(self) -> None:
        """Let it die at once; nobody is sent there any more."""
        self.url = ""
        served = self._now_served()
        served.process.kill()
        await asyncio.to_thread(served.process.wait)
        self._stack.close()

    async def pause(self, seconds: float) -> None:
        """Stop it in mid-air for a while; nobody new is sent there meanwhile."""
        url, self.url = self.url, ""
        with stopped(self._now_served().process):
            await asyncio.sleep(seconds)
        self.url = url

    async def stop(self) -> None:
        if self.url:
            await asyncio.to_thread(self._stack.close)

    def _now_served(self) -> Served:
        assert self._served is not None
        return self._served


@contextlib.contextmanager
def stopped(process: subprocess.Popen[Any]) -> Iterator[None]:
    """Hold a process still for as long as the block lasts."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


class Fleet:
    """Several daemons on one Valkey, before one simulator."""

    def __init__(self, hosts: list[Host], valkey: Valkey, upstream: Upstream) -> None:
        self.hosts, self.valkey, self.upstream = hosts, valkey, upstream

    def anyone(self) -> Callable[[], str]:
        """Return what picks a daemon for each call: those that are up, in turn."""
        turns = itertools.count()

        def pick() -> str:
            up = [host.url for host in self.hosts if host.is_up] or [_NOWHERE]
            return up[next(turns) % len(up)]

        return pick


@contextlib.asynccontextmanager
async def fleet(count: int, config: str, *upstream_options: str) -> AsyncIterator[Fleet]:
    """Run so many daemons with *config* (TOML, beside what the rig itself has to say) until the block ends."""
    async with contextlib.AsyncExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="t")))
        upstream = await stack.enter_async_context(Upstream(*upstream_options))
        (root / "v").mkdir()
        valkey = stack.enter_context(await asyncio.to_thread(Valkey, root / "v"))
        hosts = []
        for number in range(count):
            (root / str(number)).mkdir()
            hosts.append(Host(root / str(number), _config(config, upstream.url, valkey.url, root / str(number))))
            stack.push_async_callback(hosts[-1].stop)
        await asyncio.gather(*(host.start() for host in hosts))
        yield Fleet(hosts, valkey, upstream)


def _config(more: str, upstream: str, redis_url: str, directory: Path) -> str:
    return f"""
[upstream]
base_url = "{upstream}"
api_key = "ours"
[listen]
grpc = ["127.0.0.1:0"]
http = "127.0.0.1:0"
admin = []
[state]
dir = "{directory}"
[redis]
url = "{redis_url}"
[cache]
enabled = false
{more}
"""


def takes(setting: str) -> bool:
    """Whether the installed daemon knows a setting, in TOML."""
    with tempfile.TemporaryDirectory(prefix="t") as directory:
        file = Path(directory) / "config.toml"
        file.write_text(setting)
        command = [HEADRACE, "config", "check", "--config", str(file)]
        done = subprocess.run(command, env=environment(Path(directory)), capture_output=True, text=True, check=False)
    return "no such key" not in done.stdout + done.stderr


def _address(log: str, beginning: str = "http") -> str:
    for line in log.splitlines():
        with contextlib.suppress(ValueError):
            said = json.loads(line)
            if said.get("event") == "daemon.started":
                return next(address for address in said["addresses"] if address.startswith(beginning))
    raise AssertionError(f"it does not say where it listens:\n{log}")
