"""
Telling systemd how we are: `sd_notify` in the standard library.

Without `NOTIFY_SOCKET` (no systemd, or another type of unit) every message goes nowhere, so the daemon need not ask. Nothing
here blocks or fails: a service manager that does not listen is no reason to stop serving.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NotifierStats:
    """Whether a service manager listens, and how many messages it was sent."""

    is_heard: bool
    sent: int


class Notifier:
    """
    The daemon's voice to its service manager.

    Args:
        environ: where `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` are looked up.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog_interval_s = _watchdog_interval_s(environ)
        self.sent = 0

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Notifier [{'listening' if stats.is_heard else 'nobody listens'}, {stats.sent} sent]>"

    def stats(self) -> NotifierStats:
        """Return its state now."""
        return NotifierStats(bool(self._address), self.sent)

    def ready(self, status: str = "") -> None:
        """Say that we serve: after the start, and again at the end of a reload."""
        self._send("READY=1", *_status(status))

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._send(*_status(text))

    def stopping(self, status: str = "") -> None:
        """Say that we are leaving."""
        self._send("STOPPING=1", *_status(status))

    def reloading(self) -> None:
        """Say that a reload has begun; `ready` ends it. The time lets systemd tell this reload from an earlier one."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")  # systemd's own clock

    def watchdog(self) -> None:
        """Say that we are alive. Call it from the event loop, every `watchdog_interval_s`, after looking that it is true."""
        self._send("WATCHDOG=1")

    def extend(self, seconds: float) -> None:
        """Ask for *seconds* from now on to finish the start, the reload or the stop."""
        self._send(f"EXTEND_TIMEOUT_USEC={max(0, round(seconds * 1_000_000))}")

    def _send(self, *assignments: str) -> None:
        if not self._address or not assignments:
            return
        message = "\n".join(assignments).encode()
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.setblocking(False)
            to.sendto(message, self._address)
            self.sent += 1


def _address(path: str) -> str:
    # "@name" stands for a socket in the abstract namespace, whose name begins with a zero byte.
    if path.startswith("@"):
        return "\0" + path[1:]
    return path if path.startswith("/") else ""


def _status(text: str) -> tuple[str, ...]:
    # A line break would start another assignment.
    return (f"STATUS={' '.join(text.split())}",) if text else ()


def _watchdog_interval_s(environ: Mapping[str, str]) -> float | None:
    # Half of the time after which systemd gives us up, as its manual advises; None when it does not watch this process.
    micros, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not micros.isdecimal() or int(micros) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(micros) / 2_000_000
