"""`headrace demo` as a process: what it shows, how it ends, and that it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import until

STEPS = (
    "a first answer",
    "the same again",
    "100 identical calls in the air",
    "a caller held to its budget",
    "a storm of 429",
    "a storm of 529",
    "a stream and its replay",
)


def environ(home: Path, **more: str) -> dict[str, str]:
    ours = ("HEADRACE_", "ANTHROPIC_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {"TMPDIR": str(home)} | more


# A shell's background job ignores Ctrl-C, and hands that down; the demo is to hear it as in a terminal. Not by `preexec_fn`:
# that forks in full, and gRPC, which other tests have used in this process, then has its say in the child's output.
HEARING = """
import os, signal, sys

signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def start(home: Path, *arguments: str, program: tuple[str, str] = ("-m", "headrace"), **more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HEARING, *program, *arguments]
    return subprocess.Popen(command, env=environ(home, **more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def left(home: Path) -> list[int]:
    """The processes that name the demo's directory in their arguments or their environment, by their pids."""
    return [int(process.name) for process in Path("/proc").glob("[0-9]*") if str(home) in _command(process)]


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace") + (process / "environ").read_text(errors="replace")
    except OSError:  # gone, or another user's
        return ""


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory with a short name: the demo's sockets lie below it, and a socket's path has no more than 108 bytes."""
    with tempfile.TemporaryDirectory(prefix="hr") as path:
        yield Path(path)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts programs in the test's own directory, and ends what a failed test leaves."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, **more: Any) -> subprocess.Popen[str]:
        started.append(start(tmp_path, *arguments, **more))
        return started[-1]

    yield begin
    for process in started:
        process.terminate()
        process.communicate(timeout=60)
    for pid in left(tmp_path):
        os.kill(pid, signal.SIGKILL)


def test_shows_it_all(demo: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """Every step goes as expected, in under a minute, and no process is left."""
    began = time.monotonic()
    process = demo("demo")
    said, _ = process.communicate(timeout=120)

    assert process.returncode == 0, said
    table = said[said.index("expected") :]
    assert [step for step in STEPS if step not in table] == []
    assert table.count("\n  ok ") == len(STEPS)
    assert "7 of 7 as expected" in table
    assert "1 upstream call, 100 equal answers" in said
    assert time.monotonic() - began < 60
    assert left(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_asks_a_real_api(demo: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """With --upstream and a key only three steps are shown, and that API is asked with that key."""
    upstream = demo("simulate", "--port", "0", "--key", "sk-demo")
    assert upstream.stdout is not None
    url = upstream.stdout.readline().split()[-1]
    process = demo("demo", "--upstream", url, ANTHROPIC_API_KEY="sk-demo")
    said, _ = process.communicate(timeout=120)

    assert process.returncode == 0, said
    assert "3 of 3 as expected" in said
    assert "sk-demo" not in said


def test_needs_a_key_for_it(demo: Callable[..., subprocess.Popen[str]]) -> None:
    """Without a key the real API is not asked, and the message names what is missing."""
    process = demo("demo", "--upstream", "https://api.anthropic.com")
    said, _ = process.communicate(timeout=60)

    assert process.returncode == 2
    assert said.startswith("headrace: ANTHROPIC_API_KEY: is not set")


@pytest.mark.parametrize(
    ("number", "after"), [(signal.SIGINT, "ok a first answer"), (signal.SIGQUIT, "starting a worker")], ids=["steps", "start"]
)
async def test_interrupted(
    demo: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: signal.Signals, after: str
) -> None:
    """Ctrl-C or Ctrl-\\, early or late: it ends soon, and every process with it."""
    process = demo("demo")
    assert process.stdout is not None
    seen = ""
    while not (line := process.stdout.readline()).startswith(after):
        seen += line
        assert line, f"the demo ended by itself: {seen}"
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)

    assert process.returncode == 130, said
    assert "interrupted" in said
    await until(lambda: left(tmp_path) == [], what="processes gone")


# The demo, with a signal at the one moment that chance finds rarely: a process was started, and nobody knows it yet.
STRUCK = """
import os, signal, subprocess, sys

class Struck(subprocess.Popen):
    def __init__(self, arguments, **more):
        super().__init__(arguments, **more)
        if sys.argv[1] in arguments:
            os.kill(os.getpid(), signal.SIGTERM)

subprocess.Popen = Struck
from headrace import demo
sys.exit(demo.run())
"""


@pytest.mark.parametrize("command", ["simulate", "serve", "worker"])
async def test_struck(demo: Callable[..., subprocess.Popen[str]], tmp_path: Path, command: str) -> None:
    """A signal just as a process was started ends that process, too."""
    process = demo(command, program=("-c", STRUCK))
    said, _ = process.communicate(timeout=60)

    assert process.returncode == 130, said
    await until(lambda: left(tmp_path) == [], what="processes gone")
    assert os.listdir(tmp_path) == []


def test_fails_loudly(demo: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """An upstream that refuses the key: each step says what it saw, and the exit code is 1."""
    upstream = demo("simulate", "--port", "0", "--key", "sk-another")
    assert upstream.stdout is not None
    url = upstream.stdout.readline().split()[-1]
    process = demo("demo", "--upstream", url, ANTHROPIC_API_KEY="sk-demo")
    said, _ = process.communicate(timeout=120)

    assert process.returncode == 1, said
    assert "0 of 3 as expected" in said
    assert "401" in said
