"""
Whose the state directory is, and all that is ours in it: one user's, the daemon's.

A command that another user runs, root above all, would leave files there that the daemon cannot read. So it refuses, and says
as whom to run it; and where somebody has left such files, what to chown.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from headrace.errors import StartupError

_OURS = ("valkey", "valkey/appendonlydir", "cache", "headrace.lock", "mac_key", "valkey/headrace.lock", "valkey/valkey.lock")


def require(directory: Path) -> None:
    """Raise `StartupError` unless this user is the one whose the directory is, or may make it, and all in it is his."""
    if not directory.exists():
        if os.geteuid() == 0:
            raise StartupError(
                f"state.dir: {directory} is not there yet, and root's command would make it root's; start the daemon first, or "
                f"make it for the daemon's user: install -d -m 0700 -o USER {directory}"
            )
        return
    owner = directory.stat().st_uid
    if owner != os.geteuid():
        raise StartupError(
            f"state.dir: {directory} belongs to {name_of(owner)}; start the daemon, or run this as that user: "
            f"runuser -u {name_of(owner)} -- headrace ..."
        )
    require_whole(directory)


def require_whole(directory: Path) -> None:
    """Raise `StartupError` where some of what is ours in it is another user's; root reads everything."""
    user = os.geteuid()
    for path in _foreign(directory, user) if user else ():
        raise StartupError(
            f"state.dir: {path} belongs to {name_of(path.lstat().st_uid)}; as root: chown -R {name_of(user)}: {directory}"
        )


def _foreign(directory: Path, user: int) -> Iterator[Path]:
    for name in _OURS:
        path = directory / name
        try:
            if path.lstat().st_uid != user:
                yield path
        except (FileNotFoundError, PermissionError):
            continue


def name_of(user: int) -> str:
    """Return a user's name, or "#" and the number of one who has none."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"#{user}"
