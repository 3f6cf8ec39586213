"""
What this was built from, and by what it runs: version, commit and Python.

The commit is in a file that the build writes beside this module (hatch_build.py); in a checkout, where nothing was built, git
is asked.
"""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path

_PACKAGE = Path(__file__).parent


@functools.cache  # to read it from the disk takes milliseconds of the loop, and every process says it every two seconds
def version() -> str:
    """Return the version that is installed."""
    return metadata.version("headrace")


def python() -> str:
    """Return the version of Python."""
    return platform.python_version()


def commit() -> str:
    """Return the first 12 digits of the commit, or "unknown". It may start git, and take a moment."""
    built = _PACKAGE / "COMMIT"
    if built.exists():
        return built.read_text().strip()
    checkout = _PACKAGE.parents[1]
    # The .git of a checkout of ours alone: installed in somebody's repository, that one's commit would be told for ours.
    return said("git", "-C", str(checkout), "rev-parse", "--short=12", "HEAD") if (checkout / ".git").exists() else "unknown"


def said(*command: str) -> str:
    """Return what a program says, or "unknown"."""
    # A person waits for this: nothing that hangs or fails may keep the rest from being told.
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
