"""
The processes of the demo: simulator, daemon and worker, in a temporary directory and on free loopback ports.

The daemon runs its own Valkey, as it does by default, and the worker is told where that is. All are sessions of their own, so
that a Ctrl-C reaches only us, and we end them in the right order: worker, daemon, simulator.

An interrupt is a cancellation, not an exception at any moment: it could come between a process's start and our knowing of it.
So what starts a process and takes it down for ending does not wait in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from headrace.config.sealing import OWN_KEY
from headrace.embedded import running_url
from headrace.errors import StartupError

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_PATIENCE_S = 30.0
_TURN_S = 0.02

_CONFIG = """\
[upstream]
base_url = "{upstream}"
[listen]
grpc = ["127.0.0.1:0"]
http = "127.0.0.1:0"
admin = []
[drain]
time = "2s"
[[limit]]
name = "metered"
match = {{ caller = "metered" }}
per = ["caller"]
requests_per_minute = 30
burst = "6s"
"""


class Stage:
    """
    What runs while the demo lasts. Where it is, `http`, `grpc` and `simulator` say.

    Args:
        upstream: the API to ask; None starts the simulator.
        key: for that API.
        tell: is told what is being started.
    """

    def __init__(self, upstream: str | None, key: str, *, tell: Callable[[str], None]) -> None:
        self._upstream = upstream
        self._key = key
        self._tell = tell
        self._stack = contextlib.AsyncExitStack()
        self.http = self.grpc = ""
        self.simulator: str | None = None

    async def __aenter__(self) -> Stage:
        async with contextlib.AsyncExitStack() as stack:
            home = tempfile.TemporaryDirectory(prefix="headrace-demo-", ignore_cleanup_errors=True)
            await self._start(Path(stack.enter_context(home)), stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self, home: Path, stack: contextlib.AsyncExitStack) -> None:
        environ = _environment(home, self._key or "demo")
        if self._upstream is None:
            self.simulator = await self._start_simulator(home, environ, stack)
        config = home / "config.toml"
        config.write_text(_CONFIG.format(upstream=self._upstream or self.simulator))
        self._tell("starting the daemon, with a Valkey of its own")
        daemon = await stack.enter_async_context(Child("serve", "--config", str(config), environ=environ, home=home))
        self.grpc, self.http = json.loads(await daemon.wait_for("daemon.started"))["addresses"]
        self._tell(f"  gRPC on {self.grpc}, HTTP on {self.http}")
        self._tell("starting a worker beside it")
        theirs = {
            "HEADRACE_STATE__DIR": str(home / "worker"),
            "HEADRACE_STATE__MAC_KEY_FILE": str(home / OWN_KEY),
            "HEADRACE_REDIS__URL": running_url(home / "valkey") or "",
        }
        worker = await stack.enter_async_context(Child("worker", "--config", str(config), environ=environ | theirs, home=home))
        await worker.wait_for("worker.started")

    async def _start_simulator(self, home: Path, environ: Mapping[str, str], stack: contextlib.AsyncExitStack) -> str:
        self._tell("starting the simulator, a stand-in for the API")
        simulator = await stack.enter_async_context(Child("simulate", "--port", "0", "--seed", "7", environ=environ, home=home))
        url = (await simulator.wait_for("listening on")).split()[-1]
        self._tell(f"  on {url}")
        return url


class Child:
    """One process, from its start to its end; what it says goes into a file."""

    def __init__(self, *arguments: str, environ: Mapping[str, str], home: Path) -> None:
        self._name = arguments[0]
        self._log = home / f"{self._name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own program
                [sys.executable, "-m", "headrace", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environ),
                start_new_session=True,
            )

    def __repr__(self) -> str:
        return f"<Child {self._name} [pid {self._process.pid}]>"

    async def __aenter__(self) -> Child:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        give_up = time.monotonic() + _PATIENCE_S
        try:
            while self._process.poll() is None and time.monotonic() < give_up:  # noqa: ASYNC110  # a process sets no event
                await asyncio.sleep(_TURN_S)
        finally:  # out of patience, or a second Ctrl-C
            self._process.kill()
            self._process.wait()

    async def wait_for(self, words: str) -> str:
        """Return the first whole line of its output that has these words in it."""
        give_up = time.monotonic() + _PATIENCE_S
        while time.monotonic() < give_up:
            is_alive = self._process.poll() is None
            for line in self._log.read_text(errors="replace").splitlines(keepends=True):
                if words in line and line.endswith("\n"):
                    return line.strip()
            if not is_alive:
                break
            await asyncio.sleep(_TURN_S)
        tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-5:])
        raise StartupError(f"headrace {self._name} did not say {words!r}; the end of what it said:\n{tail}")


def _environment(home: Path, key: str) -> dict[str, str]:
    # Nothing of an installation on this machine may leak in, and nothing of ours into it.
    ours = ("HEADRACE_", "ANTHROPIC_")
    theirs = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours) and name not in theirs}
    return kept | {"STATE_DIRECTORY": str(home), "RUNTIME_DIRECTORY": str(home), "HEADRACE_UPSTREAM__API_KEY": key}


@contextlib.contextmanager
def interrupting(task: asyncio.Task[Any]) -> Iterator[None]:
    """Take Ctrl-C and what else ends a program as a cancellation of this task; a second one hurries the end."""
    loop = task.get_loop()
    numbers = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]  # as nohup wants it
    for number in numbers:
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
