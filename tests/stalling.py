"""A daemon whose loop is watched from inside: see `stalls/sitecustomize.py`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from daemon_process import Served, environment, serving
from fleet import addresses
from scripted import MESSAGE

STALLS = Path(__file__).parent / "stalls"
MOST_S = 0.05


class Stalled(AssertionError):
    """The loop was held up for too long."""


# What the daemon does holds its loop up each time; what a busy machine does, with its caches and its memory, does not. So a
# stall has to be seen in three daemons, one after the other.
SEEN_AGAIN = pytest.mark.flaky(reruns=2, only_rerun=["Stalled"])

CHAT = json.dumps({
    "id": "c", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}).encode()  # fmt: skip


@dataclass(frozen=True)
class Watched:
    """A daemon, and where its probe is."""

    http: str
    grpc: str
    served: Served
    probe: str

    def longest(self) -> tuple[float, str]:
        """Return the longest stall since the last time, in seconds, and what the loop did then."""
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(30)
            asking.connect(self.probe)
            said = json.loads(b"".join(iter(lambda: asking.recv(65_536), b"")))
        clock = f"{said['wall_s']:.3f} s by the clock, {said['words']} words"
        return said["stall_s"], f"{said['stall_s']:.3f} s ({clock})\n{said['where']}"

    @contextlib.asynccontextmanager
    async def at_ease(self, what: str, *, most_s: float = MOST_S) -> AsyncIterator[None]:
        """Fail if the loop was held up in this block."""
        await asyncio.to_thread(self.longest)
        yield
        stall_s, said = await asyncio.to_thread(self.longest)
        print(f"{what}: {said}")
        if stall_s >= most_s:
            raise Stalled(f"{what}: {said}")


@contextlib.contextmanager
def watched(upstream: str, **settings: str) -> Iterator[Watched]:
    """Run a daemon; *settings* as in `fleet.daemon`."""
    with tempfile.TemporaryDirectory(prefix="d") as directory:
        probe = f"{directory}/stalls.sock"
        more = {
            "HEADRACE_UPSTREAM__BASE_URL": upstream,
            "HEADRACE_UPSTREAM__API_KEY": "sk-test",
            "HEADRACE_LISTEN__GRPC": '["127.0.0.1:0"]',
            "PYTHONPATH": str(STALLS),
            "STALLS": probe,
        } | {f"HEADRACE_{name}": value for name, value in settings.items()}
        with serving(environment(Path(directory), **more), within=60.0) as served:
            *_, grpc, http = addresses(served)
            yield Watched(http, grpc, served, probe)


async def _take(request: web.BaseRequest) -> web.Response:
    async for _ in request.content.iter_any():
        pass
    said = CHAT if request.path.endswith("completions") else MESSAGE
    return web.Response(body=said, content_type="application/json")


Talk = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def house(talk: Talk = _take, **settings: str) -> AsyncIterator[Watched]:
    """Run a daemon before an upstream that takes anything, or talks otherwise."""
    runner = web.ServerRunner(web.Server(talk))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    entered = watched(f"http://127.0.0.1:{runner.addresses[0][1]}", **settings)
    running = await asyncio.to_thread(entered.__enter__)
    try:
        yield running
    finally:
        await asyncio.to_thread(entered.__exit__, None, None, None)
        await runner.cleanup()
