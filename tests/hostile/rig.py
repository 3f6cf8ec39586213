"""
What an attack is made on: the installed daemon with its loop watched from inside, a Valkey, an upstream; and two keys.

The attack runs in a process of its own that gives way to all others (nice 19): a machine has cores enough for attackers
elsewhere, and what they need of this one is not what is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from tests.truth.rig import Upstream

import held
from audit import AUDIT
from conftest import start_valkey
from daemon_process import environment, serving
from fleet import addresses
from headrace.keystore import KeyStore
from headrace.link import Link
from stalling import STALLS, Watched

_TESTS = Path(__file__).parents[1]
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6
_SIMULATED = ("--first-token", "0.02", "--tokens-per-second", "1000")
_MOST_CONNECTIONS = 2000  # to each port, and from one address


@dataclass(frozen=True, slots=True)
class House:
    """
    A daemon that serves.

    Args:
        socket: its unix socket.
        ours, theirs: keys of the others and of the attacker.
        redis_url: its Redis.
        pids: of the daemon and its Redis; what they start is found by them.
    """

    daemon: Watched
    socket: str
    ours: str
    theirs: str
    redis_url: str
    pids: tuple[int, ...]

    def memory_mb(self) -> dict[str, float]:
        """Return what its processes hold in memory: the daemon itself, those that it has started, and its Redis."""
        daemon, redis = self.pids
        helpers = [pid for pid in _with_children((daemon,)) if pid != daemon]
        told = {"daemon": (daemon,), "helpers": helpers, "Redis": _with_children((redis,))}
        return {name: sum(map(_resident_mb, pids)) for name, pids in told.items()}

    def log_lines(self) -> int:
        return self.daemon.served.log.count("\n")

    def used_s(self) -> float:
        """Return the CPU time that the daemon has used; its children's is not in it."""
        return held.used_s(self.pids[0])

    @contextlib.asynccontextmanager
    async def attacked(self, attack: str, seconds: float) -> AsyncIterator[Attack]:
        """Let an attack go on for as long as the block lasts; it may end by itself after so many seconds."""
        target = {
            "http": self.daemon.http.removeprefix("http://"), "grpc": self.daemon.grpc, "key": self.theirs,
            "redis_url": self.redis_url, "seconds": seconds,
        }  # fmt: skip
        command = [sys.executable, "-m", "tests.hostile.attack", attack, json.dumps(target)]
        path = os.pathsep.join((str(_TESTS), str(_TESTS.parent)))
        process = await asyncio.create_subprocess_exec(
            *command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}, cwd=_TESTS.parent
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"attacking\n"
        made = Attack()
        try:
            yield made
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            made.said = (await process.stdout.read()).decode().strip()
            await process.wait()


@dataclass(slots=True)
class Attack:
    """What an attack says of itself in the end."""

    said: str = ""


@contextlib.asynccontextmanager
async def house(upstream_program: str, **settings: str) -> AsyncIterator[House]:
    """Run a daemon until the block ends; *settings* as in `fleet.daemon`. An *upstream_program* is "" for the simulator."""
    async with contextlib.AsyncExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="h")))
        upstream = await stack.enter_async_context(_Odd() if upstream_program else Upstream(*_SIMULATED))
        (root / "v").mkdir()
        valkey, redis_url = await asyncio.to_thread(start_valkey, root / "v")
        stack.callback(valkey.wait)
        stack.callback(valkey.kill)
        ours, theirs = await _keys(redis_url)
        more = {
            "UPSTREAM__BASE_URL": upstream.url,
            "UPSTREAM__API_KEY": "sk-test",
            "REDIS__URL": redis_url,
            "AUDIT": AUDIT,
            "AUTH__REQUIRED": "true",
            "LISTEN__GRPC": f'["127.0.0.1:0", "unix:{root}/s"]',
            "LISTEN__MAX_CONNECTIONS": str(_MOST_CONNECTIONS),
            "LISTEN__MAX_CONNECTIONS_PER_PEER": str(_MOST_CONNECTIONS),
        } | settings
        watching = {"PYTHONPATH": str(STALLS), "STALLS": f"{root}/stalls"}
        environ = environment(root, **{f"HEADRACE_{name}": value for name, value in more.items()}, **watching)
        served = await asyncio.to_thread(stack.enter_context, serving(environ, within=60))
        stack.callback(served.process.kill)  # how it takes leave of those that attack it is not measured
        port, _, http = addresses(served)[-3:]
        watched = Watched(http, port, served, watching["STALLS"])
        yield House(watched, f"{root}/s", ours, theirs, redis_url, (served.process.pid, valkey.pid))


async def _keys(redis_url: str) -> tuple[str, str]:
    link = Link(redis_url)
    store = KeyStore(link)
    try:
        return await store.create("others"), await store.create("attacker")
    finally:
        await link.aclose()


class _Odd(Upstream):
    """An upstream that means harm, where it is asked to."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.hostile.odd_upstream"]
        path = os.pathsep.join((str(_TESTS), str(_TESTS.parent)))
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}, cwd=_TESTS.parent
        )
        self.url = ""


class Memory:
    """The most that a house holds while a block lasts, beyond what it held at its beginning, in MB."""

    def __init__(self, of: House) -> None:
        self._house = of
        self._before_mb = of.memory_mb()
        self.most_mb: dict[str, float] = dict.fromkeys(self._before_mb, 0.0)  # beyond that, by process, when it was most in all

    def __repr__(self) -> str:
        return f"<Memory {_said(self.most_mb)}>"

    def risen_mb(self) -> dict[str, float]:
        """Return how much more it is now, by process."""
        return {name: now - self._before_mb[name] for name, now in self._house.memory_mb().items()}

    @property
    def most_rise_mb(self) -> float:
        return sum(self.most_mb.values())

    @property
    def said(self) -> str:
        """Which processes hold it: at its most, and now."""
        return f"{_said(self.most_mb)}, and left of it {_said(self.risen_mb())}"

    async def look(self) -> None:
        """Look some times a second, until cancelled."""
        while True:
            self.most_mb = max(self.most_mb, self.risen_mb(), key=_sum)
            await asyncio.sleep(0.05)

    async def back(self, within_mb: float, patience_s: float) -> float:
        """Wait until the rise is as small as this, for so long at most, and return what is left of it."""
        give_up = time.monotonic() + patience_s
        while (left_mb := _sum(self.risen_mb())) > within_mb and time.monotonic() < give_up:  # noqa: ASYNC110  # nobody tells it
            await asyncio.sleep(0.5)
        return left_mb


def _sum(parts: dict[str, float]) -> float:
    return sum(parts.values())


def _said(parts: dict[str, float]) -> str:
    return ", ".join(f"{name} {mb:,.0f}" for name, mb in parts.items()) + " MB"


def _resident_mb(pid: int) -> float:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MB
    return 0.0


def _with_children(pids: tuple[int, ...]) -> list[int]:
    found = list(pids)
    for pid in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    found += [int(child) for child in (task / "children").read_text().split()]
    return found
