"""This machine: what the daemon needs of it, whether one runs, whose files lie in its directory, how much room there is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from headrace import aof, needs
from headrace.config import Settings, warnings
from headrace.doctor.finding import Finding, fail, ok, warn
from headrace.lockfile import holder, is_locked

_AREA = "machine"
_LEAST_SHARE = 0.05


def examine(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what there is to say of this machine, and of the configuration on it."""
    unmet = needs.unmet(settings, environ)
    yield from (fail(_AREA, str(error)) for error in unmet)
    if not unmet:
        yield ok(_AREA, "has all that the daemon needs: directories, keys, certificates, addresses")
    yield from (warn("config", text) for text in warnings(settings, environ))
    directory = Path(settings.state.dir)
    yield _running(directory)
    if directory.is_dir():
        yield from _directory(directory)


def _running(directory: Path) -> Finding:
    lock = directory / "headrace.lock"
    if is_locked(lock):
        return ok(_AREA, f"a daemon runs here ({holder(lock)})")
    return warn(_AREA, f"no daemon runs with the state directory {directory}", "systemctl start headrace")


def _directory(directory: Path) -> Iterator[Finding]:
    if os.geteuid() == directory.stat().st_uid and directory.stat().st_mode & 0o022:
        yield warn(_AREA, f"others may write to {directory}", f"chmod go-w {directory}")
    usage = shutil.disk_usage(directory)
    if usage.free < _LEAST_SHARE * usage.total:
        said = f"{usage.free / usage.total:.0%} of the disk of {directory} are free"
        yield warn(_AREA, said, "Make room: a full disk stops our own Valkey")
    for aside in aof.asides(directory / "valkey"):
        said = f"{aside} has what could not be read of our own Valkey's data"
        yield warn(_AREA, said, "Keep or remove it; docs/operate/state.md says what it is")
