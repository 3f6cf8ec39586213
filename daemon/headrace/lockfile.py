"""
Locks on a place that only one daemon may use: a state directory, an address.

A lock is a `flock` on a file with the holder's pid inside. The kernel lets go of it when the holder dies, however it dies, so
there is no stale lock to clean up; and the file stays where it is when the lock is released, since removing it would let two
newcomers lock two different files of the same name.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from headrace.errors import StartupError


@dataclass(frozen=True, slots=True)
class LockStats:
    """Whether this object holds the lock."""

    is_held: bool


class FileLock:
    """
    One file, one holder. `acquire` raises `StartupError` with the holder's pid when it is taken.

    Args:
        path: the lock file; its directory is made (0700) if it is not there.
        place: what the lock stands for, as the error message calls it.
        remedy: what a person can do when it is taken or cannot be made.
    """

    def __init__(self, path: Path, *, place: str, remedy: str) -> None:
        self.path = path
        self._place = place
        self._remedy = remedy
        self._fd: int | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path} [{'held' if self.stats().is_held else 'free or not ours'}]>"

    def stats(self) -> LockStats:
        """Return its state now."""
        return LockStats(self.is_held)

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd is not None

    def acquire(self) -> None:
        """Take the lock, or say who has it."""
        if self._fd is not None:
            raise RuntimeError(f"{self!r} is held already")
        fd = self._open()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise StartupError(
                f"{self._place} is in use by {holder(self.path)} (lock file {self.path}); {self._remedy}"
            ) from None
        write_pid(fd, os.getpid())
        self._fd = fd

    def release(self) -> None:
        """Let go; harmless when it is not held."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
        os.close(fd)

    def _open(self) -> int:
        try:
            if not self.path.parent.exists():
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return open_lock_file(self.path)
        except OSError as error:
            raise StartupError(
                f"{self._place} cannot be used: {self.path}: {error.strerror} (as user {os.geteuid()}); {self._remedy}"
            ) from error


class StateLock(FileLock):
    """The lock on a state directory."""

    def __init__(self, directory: Path) -> None:
        super().__init__(
            directory / "headrace.lock",
            place=f"the state directory {directory}",
            remedy="stop the other daemon, or set state.dir to a directory of its own that this user may write",
        )


class AddressLock(FileLock):
    """
    The lock on an address that we listen on: grpcio would take over a live socket without a word.

    Args:
        address: "unix:<path>" (the lock lies beside the socket) or "<host>:<port>".
        directory: where the locks of TCP addresses lie, the same for all daemons of a machine that might clash.
    """

    def __init__(self, address: str, directory: Path) -> None:
        super().__init__(
            _beside(address, directory),
            place=f"the address {address}",
            remedy="stop the other daemon, or give this one another address under [listen]",
        )


def _beside(address: str, directory: Path) -> Path:
    if address.startswith("unix:"):
        socket = Path(address.removeprefix("unix:").removeprefix("//"))
        return socket.with_name(socket.name + ".lock")
    return directory / (re.sub(r"[^A-Za-z0-9.-]", "_", address) + ".lock")


def open_lock_file(path: Path) -> int:
    """Open or make a lock file, for its owner only, and never through a symbolic link."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock of this file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def write_pid(fd: int, pid: int) -> None:
    """Write a pid into a lock file, in place of what was there."""
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{pid}\n".encode(), 0)


def holder(path: Path) -> str:
    """Say who holds the lock, as far as the file tells."""
    try:
        pid = path.read_text().strip()
    except OSError:
        pid = ""
    return f"process {pid}" if pid.isdecimal() else "another process"
