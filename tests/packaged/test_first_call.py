"""The pages of the first call, executed: what docs/first-call.md and the clients' README say works as it is written there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.packaged.place import ROOT, Place, first_answer

from conftest import missing

PAGE = (ROOT / "docs" / "first-call.md").read_text()
pytestmark = pytest.mark.long


def blocks(section: str, language: str, page: str = PAGE) -> list[str]:
    """Return the blocks of code under a heading."""
    under = re.split(r"^## ", page, flags=re.M)
    (found,) = [part for part in under if part.startswith(f"{section}\n")]
    return re.findall(rf"^```{language}\n(.*?)^```", found, re.M | re.S)


def shell(script: str, directory: Path, **more: str) -> str:
    """Run a block of shell to its end in a directory, and return what it printed."""
    done = subprocess.run(
        ["sh", "-euc", script], cwd=directory, capture_output=True, text=True, timeout=300, env=os.environ | more, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_something_to_call() -> None:
    """The programs are told as this place runs them."""
    said = "".join(blocks("Something to call", "sh"))
    assert said.split("\n")[0] == "headrace simulate"
    assert "HEADRACE_UPSTREAM__BASE_URL=http://127.0.0.1:7490" in said


def test_curl(place: Place, tmp_path: Path) -> None:
    """curl is answered by upstream; again, by the cache."""
    (script,) = blocks("curl", "sh")
    for source in ("upstream", "cache"):
        said = shell(place.put_into(script), tmp_path)
        assert f"x-headrace-source: {source}" in said.lower()
        assert "You said" in said


def test_python(place: Place, built, tmp_path: Path) -> None:
    """The client's wheel, in an environment of its own."""
    for wheel in built("wheels").glob("headrace_client-*.whl"):
        shutil.copy(wheel, tmp_path)
    (install,), (program, *_) = blocks("Python", "sh"), blocks("Python", "python")
    shell(install.replace("python3 -m venv", f"{sys.executable} -m venv"), tmp_path)
    (tmp_path / "call.py").write_text(place.put_into(program))
    first_answer(*shell("first-call/bin/python call.py", tmp_path).split(" ", 1))


def test_typescript(place: Place, built, tmp_path: Path) -> None:
    """The npm package, installed from its file: it imports, calls, and ends by itself; its types are those of the page."""
    for package in built("npm").glob("*.tgz"):
        shutil.copy(package, tmp_path)
    (install,), (program,) = blocks("TypeScript", "sh"), blocks("TypeScript", "ts")
    shell(install, tmp_path)
    (tmp_path / "first-call.mjs").write_text(place.put_into(program))
    source, text = shell("node first-call.mjs", tmp_path).split(" ", 1)
    first_answer(source, re.sub(r".*text: ['\"](You said.*)", r"\1", text, flags=re.S))
    (tmp_path / "call.mts").write_text(program)
    compiler = ROOT / "clients/typescript/node_modules/.bin/tsc"
    shell(f"{compiler} --noEmit --strict --module nodenext --target es2022 --skipLibCheck call.mts", tmp_path)


def test_go(place: Place, tmp_path: Path) -> None:
    """The whole program compiles and runs, with the module told where it is."""
    if not shutil.which("go"):
        missing("go")
    (script,), (program,) = blocks("Go", "sh"), blocks("Go", "go")
    (tmp_path / "first-call").mkdir()
    (tmp_path / "headrace").symlink_to(ROOT)
    (tmp_path / "first-call" / "main.go").write_text(place.put_into(program))
    first_answer(*shell(script, tmp_path / "first-call").split(" ", 1))


def test_go_readme(place: Place, tmp_path: Path) -> None:
    """The README of the module in Go: its programs compile, and its typed call is answered."""
    if not shutil.which("go"):
        missing("go")
    page = (ROOT / "clients/go/README.md").read_text()
    (install,) = re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S)
    programs = re.findall(r"^```go\n(package main.*?)^```", page, re.M | re.S)
    assert len(programs) == 2
    (tmp_path / "headrace").symlink_to(ROOT)
    for number, program in enumerate(programs):
        directory = tmp_path / f"p{number}"
        directory.mkdir()
        socket = "unix:/run/headrace/headrace.sock"
        (directory / "main.go").write_text(place.put_into(program).replace(socket, place.grpc))
        first_answer(*shell(f"{install}\ngo run .", directory).split(" ", 1))
