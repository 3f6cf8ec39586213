"""
The passkey of a daemon: who can read it is root, or the daemon's own user, and so may do what an admin may.

Such a user may read and write all that the daemon has, its Redis included, so to refuse its commands would protect nothing, and
would ask for a key where none is configured. The file is made anew at each start, in the state directory, for its owner alone.
Only what operators look at and act by takes it; calls never do.

It goes over unix sockets alone, from both ends. Whoever listens at a port while the daemon is down may be anybody, and would
be shown it; and a copy of the file, out of a backup, would be worth something from wherever a port can be reached.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import re
from collections.abc import Mapping
from pathlib import Path

HEADER = "x-headrace-operator"

_NAME = "operator.key"
_MOST_READ = 64  # characters
_is_key = re.compile(r"[0-9a-f]{48}").fullmatch
_is_who = re.compile(r"uid:[0-9]{1,10}( \(sudo by [A-Za-z0-9._-]{1,32}\))?").fullmatch


def make(directory: Path) -> str:
    """Return a new passkey, which who may read *directory*'s file has from now on."""
    key, path = os.urandom(24).hex(), directory / _NAME
    fresh = directory / f".{_NAME}-{os.getpid()}"
    fresh.unlink(missing_ok=True)  # of a process that was killed here: its mode is not ours
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{key}\n")
    fresh.replace(path)
    return key


def read(directory: Path) -> str:
    """Return the passkey of the daemon with this state directory; "" for who may not read it, or if there is none."""
    # Root reads it, where another user, the daemon's, may lay whatever he likes: no link is followed, no pipe waited for, and
    # what is no passkey is presented to nobody.
    with contextlib.suppress(OSError, ValueError):
        descriptor = os.open(directory / _NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor) as file:
            key = file.read(_MOST_READ).strip()
        return key if _is_key(key) else ""
    return ""


def whoever(environ: Mapping[str, str]) -> str:
    """Return who runs this program, as acts have it: "uid:0", by sudo with the name of whoever asked for it."""
    asked = re.sub(r"[^A-Za-z0-9._-]", "", environ.get("SUDO_USER", ""))[:32]
    return f"uid:{os.getuid()}" + (f" (sudo by {asked})" if asked else "")


def said(key: str, who: str) -> str:
    """Return what is presented in `HEADER`."""
    return f"{key} {who}"


def who(presented: str, key: str) -> str:
    """Return who presents the passkey, as acts have it; "" for whoever does not."""
    given, _, name = presented.partition(" ")
    is_right = bool(key) and hmac.compare_digest(given.encode(errors="replace"), key.encode())
    return name if is_right and _is_who(name) else ""
