"""
What runs here: the version, the commit that it was built from, and what it runs on.

A report of a fault is worth little without these three lines, so `headrace --version` says them. The commit is in a file that
the build writes beside this module (hatch_build.py); in a checkout, where nothing was built, git is asked.
"""

from __future__ import annotations

import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

from headrace.embedded import find_binary
from headrace.errors import StartupError

_PACKAGE = Path(__file__).parent


def lines() -> list[str]:
    """Return what `headrace --version` prints, a line an element."""
    return [f"headrace {version('headrace')} (commit {commit()})", f"Python {platform.python_version()}", server()]


def commit() -> str:
    """Return the first 12 digits of the commit, or "unknown"."""
    built = _PACKAGE / "COMMIT"
    if built.exists():
        return built.read_text().strip()
    checkout = _PACKAGE.parents[1]
    # The .git of a checkout of ours alone: installed in somebody's repository, that one's commit would be told for ours.
    return _said("git", "-C", str(checkout), "rev-parse", "--short=12", "HEAD") if (checkout / ".git").exists() else "unknown"


def server() -> str:
    """Return which server would be run where no Redis is configured, such as "Valkey 9.1.2", or that there is none."""
    try:
        said = _said(find_binary(), "--version")
    except StartupError:
        return "Valkey: none, redis.url has to be set"
    found = re.match(r"(\w+) server v=(\S+)", said)
    return f"{found[1]} {found[2]}" if found else f"Valkey {said}"


def _said(*command: str) -> str:
    # A person waits for this: nothing that hangs or fails may keep the rest from being told.
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
