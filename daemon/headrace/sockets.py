"""
Where a server's unix socket lies, and whether anybody listens there.

It lies beside the server's data. But a socket's path has at most 107 bytes, and a state directory may be deep; then the socket
lies in a private directory with a short name, and a pointer file beside the data says where.
"""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import stat
import tempfile
from pathlib import Path

from headrace.errors import StartupError

MAX_PATH_BYTES = 107


def find(directory: Path, name: str) -> Path | None:
    """Return where the socket of the server in *directory* lies, listening or not; None if it has none yet."""
    path = directory / f"{name}.sock"
    if len(os.fsencode(path)) <= MAX_PATH_BYTES:
        return path
    with contextlib.suppress(OSError):
        pointed = Path(_pointer(directory, name).read_text().strip())
        return pointed if _is_private(pointed.parent) else None
    return None


def choose(directory: Path, name: str) -> Path:
    """Return a path for the socket of the server in *directory*: the one it has, or a new one."""
    found = find(directory, name)
    if found is not None:
        return found
    parent = os.environ.get("RUNTIME_DIRECTORY") or os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    path = Path(tempfile.mkdtemp(prefix="headrace-", dir=parent.split(":")[0]), f"{name}.sock")
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        path.parent.rmdir()
        raise StartupError(f"{path} is too long for a socket, and so is one in {directory}; set state.dir to a shorter path")
    _pointer(directory, name).write_text(f"{path}\n")
    return path


def remove(directory: Path, path: Path, name: str) -> None:
    """Clean up after a server that has left: its socket, and what `choose` has made for it."""
    path.unlink(missing_ok=True)
    if path.parent != directory:
        _pointer(directory, name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()


def is_listening(path: Path) -> bool:
    """Whether anybody listens on the socket. What lies there and is no socket at all is a `StartupError`."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise StartupError(f"{path} is in the way: it is not a socket; move it elsewhere")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            probe.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    except TimeoutError:  # a full backlog: somebody is there, and busy
        return True
    return True


def check_length(path: Path) -> None:
    """Raise `StartupError` for a path that is longer than a socket's may be."""
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise StartupError(f"listen.grpc: {path} is longer than the {MAX_PATH_BYTES} bytes that a socket's may be")


def group_id(name: str) -> int | None:
    """Return the id of `listen.socket_group`, None for no name; raises `StartupError` where there is no such group."""
    if not name:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise StartupError(f"listen.socket_group: there is no group {name!r} on this machine") from error


def check_group(name: str) -> None:
    """Raise `StartupError` unless there is the group, and this user may give it a file."""
    number = group_id(name)
    if number is not None and os.geteuid() != 0 and number not in (os.getegid(), *os.getgroups()):
        raise StartupError(f"listen.socket_group: this user may not give a socket to {name!r}; make it a member")


def _pointer(directory: Path, name: str) -> Path:
    return directory / f"{name}.socket"


def _is_private(directory: Path) -> bool:
    # Under /tmp anybody may make a directory, and ours may be gone since a restart of the machine.
    try:
        found = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
