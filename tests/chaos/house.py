"""
What chaos is let loose on: a simulator, a Valkey behind a wire, daemons and a worker; each of them a process of its own.

A house also remembers when each of its processes could not possibly answer: what is not heard then hangs nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import redis
from tests.chaos.wire import Wire, wired
from tests.truth.rig import Upstream, Valkey, stopped

from daemon_process import HEADRACE, Served, environment, serving
from fleet import addresses
from sentinels import Group

_STARTING = asyncio.Semaphore(2)
_STARTS_WITHIN_S = 90.0
_CLOCKS = str(Path(__file__).with_name("clocks"))
_AOF = ("--appendonly", "yes", "--appendfsync", "everysec")
_SURE = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "2")
# An upstream that hangs may keep an answer waiting for ten minutes, and that is no fault of ours. Here it is given up while
# callers still wait: who is not answered by then was lost by us.
_GIVEN_UP = {"UPSTREAM__ATTEMPT_TIMEOUT": "8s", "UPSTREAM__SILENCE_TIMEOUT": "4s"}
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


@dataclass(frozen=True, slots=True)
class Span:
    """From when until when, by `time.monotonic`."""

    begin: float
    end: float


class Host:
    """A daemon, or a worker of its own, that is killed, stopped and started anew on the same state."""

    def __init__(self, name: str, environ: dict[str, str], command: str) -> None:
        self.name = name
        self.environ = environ
        self._command = (HEADRACE, command)
        self._stack = contextlib.ExitStack()
        self._served: Served | None = None
        self.http = self.grpc = ""
        self.deaf: list[Span] = []
        self.logs: list[str] = []
        self.starts = 0
        self.fresh_mb = 0.0
        self.fresh_fds = 0

    def __repr__(self) -> str:
        return f"<Host {self.name} [{self.http or ('up' if self.is_up else 'down')}]>"

    @property
    def is_daemon(self) -> bool:
        return self._command[1] == "serve"

    @property
    def is_up(self) -> bool:
        return self._served is not None and self._served.process.poll() is None

    @property
    def pid(self) -> int:
        return self._now().process.pid

    def _now(self) -> Served:
        assert self._served is not None
        return self._served

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._now().process.send_signal(number)

    async def start(self) -> None:
        """Start it, and wait until it serves."""
        async with _STARTING:
            beginning = serving(self.environ, self._command, within=_STARTS_WITHIN_S)
            self._served = await asyncio.to_thread(self._stack.enter_context, beginning)
        self.starts += 1
        if self.is_daemon:
            *_, self.grpc, self.http = addresses(self._served)
        self.fresh_mb, self.fresh_fds = memory_mb(self.pid), descriptors(self.pid)

    async def kill(self) -> None:
        """Let it die at once, without a word. Callers find out for themselves."""
        served = self._now()
        served.process.kill()
        await asyncio.to_thread(served.process.wait)
        self._end()

    async def leave(self) -> None:
        """Ask it to leave (SIGTERM), and wait until it has."""
        self.send(signal.SIGTERM)
        await asyncio.to_thread(self._now().process.wait, 60)
        self._end()

    async def still(self, seconds: float) -> None:
        """Stop it in mid-air for so long; callers go on asking it."""
        began = time.monotonic()
        self.deaf.append(Span(began, began + seconds))  # at once: callers lose their patience while it stands still
        with stopped(self._now().process):
            await asyncio.sleep(seconds)
        self.deaf.append(Span(began, time.monotonic()))

    def was_deaf(self, span: Span) -> bool:
        """Whether it could not possibly answer at some moment of a span."""
        return any(deaf.begin < span.end and span.begin < deaf.end for deaf in self.deaf)

    def _end(self) -> None:
        served, self._served = self._now(), None
        self._stack.close()
        self.logs.append(served.log)

    async def stop(self) -> None:
        if self._served is not None:
            with contextlib.suppress(ProcessLookupError):
                self._served.process.send_signal(signal.SIGCONT)
            self._served.process.kill()
            await asyncio.to_thread(self._served.process.wait)
            self._end()

    @property
    def log(self) -> str:
        """All that it has said, in all its lives."""
        return "".join(self.logs) + (self._served.log if self._served else "")


@dataclass(slots=True)
class House:
    """
    All of it.

    Args:
        valkey, wire: None where the one daemon runs a Valkey of its own, or there is a group.
        group: a primary with replicas and Sentinels, in its place.
        root: the directory in which everybody's state lies.
    """

    root: Path
    upstream: Upstream
    hosts: list[Host]
    valkey: Valkey | None
    wire: Wire | None
    group: Group | None
    kills: int = 0

    @property
    def daemons(self) -> list[Host]:
        return [host for host in self.hosts if host.is_daemon]

    @property
    def workers(self) -> list[Host]:
        return [host for host in self.hosts if not host.is_daemon]

    @contextlib.contextmanager
    def redis(self) -> Iterator[redis.Redis]:
        """A client of the Valkey, past the wire. It blocks."""
        assert self.valkey is not None
        with redis.Redis.from_url(self.valkey.url, socket_timeout=30.0) as client:
            yield client

    async def tell_upstream(self, *rules: dict[str, object]) -> None:
        """Let upstream go by these rules, and by no others."""
        await self._control("faults", rules)

    async def order_answers(self, *answers: dict[str, object]) -> None:
        """Let upstream say these answers, and no others that were ordered."""
        await self._control("answers", answers)

    async def _control(self, what: str, orders: tuple[dict[str, object], ...]) -> None:
        async with aiohttp.ClientSession() as session:
            where = f"{self.upstream.url}/_simulator/{what}"
            async with session.delete(where):
                pass
            if orders:
                async with session.post(where, data=json.dumps(orders)) as response:
                    assert response.status == 200, await response.text()

    async def recovered(self, within_s: float) -> float:
        """Wait until every daemon is ready, and return how long that took; `within_s` if it never was."""
        began = time.monotonic()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(5)) as session:
            while (passed := time.monotonic() - began) < within_s:
                if all([await _is_ready(session, host) for host in self.daemons]):
                    return passed
                await asyncio.sleep(0.1)
        return within_s


async def _is_ready(session: aiohttp.ClientSession, host: Host) -> bool:
    with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
        async with session.get(f"{host.http}/readyz") as response:
            return response.status == 200
    return False


@contextlib.asynccontextmanager
async def house(
    daemons: int = 2,
    workers: int = 1,
    *,
    own_valkey: bool = False,
    is_group: bool = False,
    upstream: tuple[str, ...] = (),
    disk_mb: int = 0,
    **settings: str,
) -> AsyncIterator[House]:
    """Run a house until the block ends; *settings* are environment variables less their prefix."""
    async with contextlib.AsyncExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="c", ignore_cleanup_errors=True)))
        if disk_mb:
            stack.enter_context(small_disk(root, disk_mb))
        simulator = await stack.enter_async_context(Upstream(*upstream))
        valkey = wire = group = None
        more = {"UPSTREAM__BASE_URL": simulator.url, "UPSTREAM__API_KEY": "sk-test"} | _GIVEN_UP | settings
        if is_group:
            group = await asyncio.to_thread(stack.enter_context, Group(root / "v", *_AOF, *_SURE))
            more |= {"REDIS__URL": group.url, "REDIS__WAIT_REPLICAS": "1"}
        elif not own_valkey:
            (root / "v").mkdir()
            valkey = stack.enter_context(await asyncio.to_thread(Valkey, root / "v", "--enable-debug-command", "yes"))
            wire = await stack.enter_async_context(wired(root / "v" / "valkey.sock", root / "w"))
            more["REDIS__URL"] = f"unix://{root}/w"
        hosts = [*(host(root, f"d{n}", "serve", more) for n in range(daemons))]
        hosts += [host(root, f"w{n}", "worker", more) for n in range(0 if own_valkey else workers)]
        for each in hosts:
            stack.push_async_callback(each.stop)
        await asyncio.gather(*(each.start() for each in hosts))
        yield House(root, simulator, hosts, valkey, wire, group)


@contextlib.contextmanager
def small_disk(at: Path, size_mb: int) -> Iterator[None]:
    """Lay a disk of so many MB over a directory until the block ends; `CannotMount` where the machine does not let us."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(at)], capture_output=True, check=False
    )
    if done.returncode:
        raise CannotMount(done.stderr.decode().strip())
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


class CannotMount(Exception):
    """This user may mount nothing."""


def host(root: Path, name: str, command: str, settings: Mapping[str, str]) -> Host:
    """Return a daemon ("serve") or a worker that has a directory of its own; it is yet to be started."""
    directory = root / name
    directory.mkdir()
    more = {f"HEADRACE_{key}": value for key, value in settings.items()}
    more |= {"HEADRACE_LISTEN__GRPC": '["127.0.0.1:0"]', "PYTHONPATH": _CLOCKS, "CLOCK_OFFSET": str(directory / "clock")}
    return Host(name, environment(directory, **more), command)


def memory_mb(pid: int) -> float:
    """Return what a process holds in memory, in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MB


def descriptors(pid: int) -> int:
    """Return how many files and sockets a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))
