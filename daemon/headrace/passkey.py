"""
The passkey of a daemon: who can read it is root, or the daemon's own user, and so may do what an admin may.

Such a user may read and write all that the daemon has, its Redis included, so to refuse its commands would protect nothing, and
would ask for a key where none is configured. The file is made anew at each start, in the state directory, for its owner alone.
Only what operators look at and act by takes it; calls never do.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import re
from pathlib import Path

HEADER = "x-headrace-operator"

_NAME = "operator.key"
_is_who = re.compile(r"uid:[0-9]{1,10}( \(sudo by [A-Za-z0-9._-]{1,32}\))?").fullmatch


def make(directory: Path) -> str:
    """Return a new passkey, which who may read *directory*'s file has from now on."""
    key, path = os.urandom(24).hex(), directory / _NAME
    fresh = directory / f".{_NAME}-{os.getpid()}"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{key}\n")
    fresh.replace(path)
    return key


def read(directory: Path) -> str:
    """Return the passkey of the daemon with this state directory; "" for who may not read it, or if there is none."""
    with contextlib.suppress(OSError, ValueError):
        return (directory / _NAME).read_text().strip()
    return ""


def said(key: str, who: str) -> str:
    """Return what is presented in `HEADER`."""
    return f"{key} {who}"


def who(presented: str, key: str) -> str:
    """Return who presents the passkey, as acts have it; "" for whoever does not."""
    given, _, name = presented.partition(" ")
    is_right = bool(key) and hmac.compare_digest(given.encode(errors="replace"), key.encode())
    return name if is_right and _is_who(name) else ""
