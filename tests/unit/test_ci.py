"""What CI installs is what tests ask for: a tool that is missing fails there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What CI has already; what is there or not, whoever asks; and what comes with another one.
THERE = {"node", "npm", "go", "dpkg", "redis-server", "valkey-server", "litellm", "grpcurl"}
WITH = {"promtool": "prometheus", "systemd-sysusers": "systemd-analyze"}


def test_tools() -> None:
    """Each program that a test looks for is in `.ci/tools`."""
    asked = {name for path in (ROOT / "tests").rglob("*.py") for name in re.findall(r'which\("([\w-]+)"\)', path.read_text())}
    brought = set(re.findall(r"^(\S+) \S+$", (ROOT / ".ci" / "tools").read_text().partition("PROGRAMS'\n")[2], re.M))
    assert {WITH.get(name, name) for name in asked - THERE} <= brought


def test_scripts() -> None:
    """A shell reads them."""
    for script in (ROOT / ".ci").iterdir():
        subprocess.run(["bash", "-n", script], check=True)
