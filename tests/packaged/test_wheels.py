"""Both wheels in environments that were empty: they install as the pages say, run, and a first call is answered."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import pytest
from tests.packaged.place import ROOT, Place, serving_at

CALL = """
from headrace_client import Headrace
with Headrace({address!r}, caller="checkout") as client:
    question = {{"role": "user", "content": "What is a headrace?"}}
    print(client.messages.create(model="claude-haiku-4-5", max_tokens=20, messages=[question]).source)
"""


def empty(directory: Path) -> Path:
    """Make an environment with pip alone; returns its folder of programs."""
    venv.create(directory, with_pip=True)
    return directory / "bin"


def pip(binaries: Path, *arguments: str) -> None:
    """Install, from the place where neither checkout nor anything else of ours can be found by chance."""
    command = [str(binaries / "pip"), "--quiet", "--disable-pip-version-check", "install", *arguments]
    subprocess.run(command, check=True, timeout=300, cwd=binaries)


@pytest.mark.long
def test_both_from_nothing(built, tmp_path):
    """From empty environments to an answer, timed; the client needs nothing of the daemon's."""
    made = built("wheels")
    began = time.monotonic()
    daemon, client = empty(tmp_path / "d"), empty(tmp_path / "c")
    pip(daemon, "--require-hashes", "-r", str(ROOT / "constraints.txt"))
    pip(daemon, "--no-deps", *map(str, made.glob("headrace-*.whl")))
    installed = time.monotonic()
    pip(client, *map(str, made.glob("headrace_client-*.whl")))
    ready = time.monotonic()
    with serving_at(str(daemon / "headrace"), tmp_path, LISTEN__ADMIN='["unix:admin.sock"]') as place:
        up = time.monotonic()
        asked = [str(client / "python"), "-c", CALL.format(address=place.grpc)]
        assert (
            subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60, cwd=tmp_path).stdout == "upstream\n"
        )
        answered = time.monotonic()
        commands_work(daemon / "headrace", place, tmp_path)

    told = (installed - began, ready - installed, up - ready, answered - up)
    print("daemon installed {:.1f} s, client {:.1f} s, serves after {:.1f} s, first call {:.2f} s".format(*told))
    said = subprocess.run(
        [str(daemon / "headrace"), "--version"], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    head = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert f"(commit {head.strip()})" in said
    assert f"Python {sys.version_info.major}." in said
    assert "Valkey 9" in said
    listed = subprocess.run([str(client / "pip"), "list"], capture_output=True, text=True, check=True, timeout=60).stdout
    assert "headrace-client" in listed
    assert "headrace " not in listed


def commands_work(program: Path, place: Place, directory: Path) -> None:
    """What needs data files, or libraries of its own, works out of the wheel: the live page, `top`, `doctor`, completion."""

    def said(*command: str, **more: str) -> str:
        environ = place.served.environ | more
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=directory, env=environ)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    page = ["curl", "-sS", "--fail", "--location", "--unix-socket", str(directory / "admin.sock")]
    for path, word in {"": "Budgets", "page.js": "EventSource", "page.css": "{", "icon.svg": "<svg"}.items():
        assert word in said(*page, f"http://localhost/admin/{path}"), path
    place.served.wait(lambda: "checkout" in said(str(program), "top", "callers", "--once"), within=30)
    assert json.loads(said(str(program), "top", "budgets", "--once", "--json"))
    assert "append-only" in said(str(program), "doctor")
    shell = {"_HEADRACE_COMPLETE": "complete_bash", "COMP_WORDS": "headrace ti", "COMP_CWORD": "1"}
    assert said(str(program), **shell).split() == ["tickets"]


def test_nothing_is_left_out(built):
    """The daemon's wheel has each file of its package, scripts for Redis and parts of the page too; both have their licence."""
    made = built("wheels")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "headrace"]
    files = subprocess.run(listed, cwd=ROOT / "daemon", capture_output=True, text=True, check=True).stdout.split()
    ((daemon, licences), (client, licence)) = [
        ([name for name in names if ".dist-info/" not in name], {Path(name).name for name in names if "/licenses/" in name})
        for names in (zipfile.ZipFile(*made.glob(f"{name}-*.whl")).namelist() for name in ("headrace", "headrace_client"))
    ]
    assert sorted(daemon) == sorted([*files, "headrace/COMMIT"])
    assert any(name.endswith(".lua") for name in files)
    assert {"LICENSE", "NOTICE", "THIRD-PARTY.md"} <= licences
    assert "headrace_client/py.typed" in client
    assert "LICENSE" in licence


@pytest.mark.long
def test_wheel_of_the_sdist(built, tmp_path):
    """What is built from the sdist alone, without a repository, is the same wheel, commit and all."""
    made = built("wheels")
    (sdist,) = made.glob("headrace-*.tar.gz")
    subprocess.run(["tar", "xf", str(sdist), "-C", str(tmp_path)], check=True)
    (source,) = tmp_path.iterdir()
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "w")]
    subprocess.run(command, cwd=source, check=True, timeout=60, capture_output=True)
    (again,), (first,) = (tmp_path / "w").glob("*.whl"), made.glob("headrace-*.whl")
    with zipfile.ZipFile(again) as one, zipfile.ZipFile(first) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())
        assert one.read("headrace/COMMIT") == other.read("headrace/COMMIT")
