"""What `make` says when something that it starts fails."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from conftest import missing

ROOT = Path(__file__).parents[2]
INSTALLED = "clients/typescript/node_modules/.package-lock.json"


def test_npm_says_why(tmp_path):
    """An `npm ci` that fails ends `make`, and npm's own reason is there to read."""
    if not shutil.which("npm"):
        missing("npm")
    package = tmp_path / "clients/typescript"
    package.mkdir(parents=True)
    for name in ("Makefile", "clients/typescript/package.json"):
        shutil.copy(ROOT / name, tmp_path / name)
    (package / "package-lock.json").write_text("{")

    made = subprocess.run(["make", INSTALLED], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert made.returncode != 0
    assert "npm error" in made.stderr
    assert "package-lock.json" in made.stderr
