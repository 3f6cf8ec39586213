"""What all makers share: where things are, which version it is, when it was committed, and how a program is run."""

from __future__ import annotations

import os
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]


def version(package: str = "") -> str:
    """Return the version of the package in a folder of the checkout."""
    return str(tomllib.loads((ROOT / package / "pyproject.toml").read_text())["project"]["version"])


def epoch() -> int:
    """Return the second that everything made bears: SOURCE_DATE_EPOCH, or when the commit was made."""
    said = os.environ.get("SOURCE_DATE_EPOCH") or run("git", "log", "-1", "--format=%ct").strip()
    return int(said)


def run(*command: str | Path, cwd: Path = ROOT, **more: str) -> str:
    """Run a program to its end, with *more* in its environment, and return what it printed; what it complains of is shown."""
    environ: Mapping[str, str] = os.environ | more
    return subprocess.run(command, cwd=cwd, env=environ, stdout=subprocess.PIPE, text=True, check=True).stdout
