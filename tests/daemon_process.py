"""The installed program in a process of its own, and how a test hears that it serves: as systemd does."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

KEPT = ("PATH", "CI", "LANG")  # of this process's own environment
HEADRACE = str(Path(sys.executable).with_name("headrace"))


def environment(directory: Path, **more: str) -> dict[str, str]:
    """Return an environment in which *directory* is all that there is: no configuration, no key, no runtime directory."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    # As by default, but for the ports: another test may run beside this one.
    ports = {
        "HEADRACE_LISTEN__GRPC": '["unix:headrace.sock", "127.0.0.1:0"]',
        "HEADRACE_LISTEN__HTTP": "127.0.0.1:0",
        "HEADRACE_LISTEN__ADMIN": "[]",
    }
    return kept | {"HOME": str(directory), "HEADRACE_STATE__DIR": str(directory)} | ports | more


def headrace(*arguments: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run([HEADRACE, *arguments], env=environ, capture_output=True, text=True, timeout=30, check=False)


@contextlib.contextmanager
def serving(
    environ: Mapping[str, str], command: Sequence[str] = (HEADRACE, "serve"), *, within: float = 20.0
) -> Iterator[Served]:
    """Run the daemon until the block ends, from the moment it says READY, which it has to within so many seconds."""
    with tempfile.TemporaryDirectory(prefix="n") as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        address = f"{directory}/notify.sock"
        ear.bind(address)
        ear.settimeout(0.1)
        with open(f"{directory}/log", "w+") as log:
            process = subprocess.Popen(command, env={**environ, "NOTIFY_SOCKET": address}, stdout=log, stderr=log)
            served = Served(process, ear, Path(log.name), dict(environ))
            try:
                served.hear("READY=1", within=within)
                yield served
            finally:
                try:
                    served.stop()
                finally:
                    served.keep_log()


class Served:
    """A daemon that serves."""

    def __init__(self, process: subprocess.Popen[bytes], ear: socket.socket, log: Path, environ: dict[str, str]) -> None:
        self.process, self._ear, self._log = process, ear, log
        self.environ = environ  # what it was started with
        self._kept = ""

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._kept or self._log.read_text()

    def keep_log(self) -> None:
        """Remember what it has said: its file goes with the block."""
        self._kept = self._log.read_text()

    def hear(self, word: str, *, within: float = 20.0) -> None:
        """Wait until it tells its service manager *word*."""
        give_up = time.monotonic() + within
        while time.monotonic() < give_up and self.process.poll() is None:
            with contextlib.suppress(TimeoutError):
                if word in self._ear.recv(4096).decode().split("\n"):
                    return
        raise AssertionError(f"no {word} within {within} s, exit code {self.process.poll()}:\n{self.log}")

    def wait(self, condition: Callable[[], bool], *, within: float = 10.0) -> None:
        """Wait for a condition."""
        give_up = time.monotonic() + within
        while not condition():
            assert time.monotonic() < give_up, f"not within {within} s:\n{self.log}"
            time.sleep(0.01)

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
