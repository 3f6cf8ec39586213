"""
What runs here: the version, the commit that it was built from, and what it runs on.

A report of a fault is worth little without these three lines, so `headrace --version` says them.
"""

from __future__ import annotations

import re

from headrace.built import commit, python, said, version
from headrace.embedded import find_binary
from headrace.errors import StartupError


def lines() -> list[str]:
    """Return what `headrace --version` prints, a line an element."""
    return [f"headrace {version()} (commit {commit()})", f"Python {python()}", server()]


def server() -> str:
    """Return which server would be run where no Redis is configured, such as "Valkey 9.1.2", or that there is none."""
    try:
        told = said(find_binary(), "--version")
    except StartupError:
        return "Valkey: none, redis.url has to be set"
    found = re.match(r"(\w+) server v=(\S+)", told)
    return f"{found[1]} {found[2]}" if found else f"Valkey {told}"
