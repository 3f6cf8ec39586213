"""The image's description: what a linter says of it, and what it promises. It is built where there is a builder."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from tests.packaged.place import ROOT

from conftest import missing

IMAGE = ROOT / "deploy" / "image" / "Containerfile"


@pytest.mark.long
def test_lint() -> None:
    """hadolint has nothing to say."""
    tool = ROOT / ".venv-tools" / "bin" / "hadolint"
    if not tool.exists():
        missing("hadolint (make packaged)")
    done = subprocess.run([tool, IMAGE], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_promises() -> None:
    """It ends as a user by number, takes nothing that is not pinned, and no secret is an argument or in the environment."""
    lines = re.sub(r"\\\n", " ", IMAGE.read_text()).splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users == ["10001:10001"]
    assert [line for line in lines if "pip install" in line and not re.search("--require-hashes|--no-deps", line)] == []
    assert not [line for line in lines if re.match("(ARG|ENV)", line) and re.search("(?i)key|secret|password|token", line)]
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    assert not [line for line in lines if re.match(r"ADD|RUN.*(curl|wget)", line)]


def test_context() -> None:
    """A build sees what it copies and nothing else: no repository, no keys that lie about."""
    allowed = (ROOT / ".dockerignore").read_text().split()
    assert allowed[0] == "*"
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", IMAGE.read_text(), re.M)
    assert {word.removeprefix("./") for row in copied for word in row.split()} <= {word.removeprefix("!") for word in allowed}


@pytest.mark.long
def test_builds() -> None:
    """It builds, and runs on a read-only root. Not in CI: there is no builder."""
    builder = next((name for name in ("podman", "docker") if shutil.which(name)), None)
    if builder is None or subprocess.run([builder, "info"], capture_output=True, check=False, timeout=60).returncode != 0:
        pytest.skip("no builder of images runs here")
    build = [builder, "build", "-f", str(IMAGE), "-t", "headrace-test", "."]
    subprocess.run(build, cwd=ROOT, check=True, timeout=900)
    said = [builder, "run", "--rm", "--read-only", "headrace-test", "--version"]
    assert "Valkey" in subprocess.run(said, capture_output=True, text=True, check=True, timeout=60).stdout
