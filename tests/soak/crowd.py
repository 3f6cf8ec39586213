"""Ten thousand calls that wait at one daemon and leave: what that takes of memory, and whether the next crowd takes more."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.chaos.house import Host, memory_mb

WAITING = 10_000
ROOM = {  # settings of a daemon where so many may wait, and whose cache is full soon: what grows then is no cache
    "CACHE__MEMORY": "4MB",
    "LISTEN__MAX_CONNECTIONS": "20000",
    "LISTEN__MAX_CONNECTIONS_PER_PEER": "20000",
    "SCHEDULE__MAX_WAITING": "20000",
}
_MORE_MB = 40.0
_AFTER_S = 15.0
_AT_ONCE = 200
_BODY_BYTES = 2_000


@dataclass(slots=True)
class Left:
    """
    What a daemon held in memory, from before they came until a while after they left.

    Args:
        waiting: how many waited at the same time.
        left_s: when the last had left, on the same scale as `at_s`.
    """

    waiting: int = 0
    before_mb: float = 0.0
    left_s: float = 0.0
    at_s: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)

    def line(self) -> str:
        most, last = max(self.memory_mb), self.memory_mb[-1]
        return (
            f"{self.waiting:,} waited: {self.before_mb:.0f} MB before, {most:.0f} MB at most, {last:.0f} MB when they had left"
        )

    def wrong(self, again: Left) -> list[str]:
        """Return what is wrong, given another crowd after this one: what Python keeps is bounded by the largest crowd."""
        return ["a second crowd takes more memory"] if max(again.memory_mb) > max(self.memory_mb) + _MORE_MB else []


async def waited(host: Host, count: int = WAITING, after_s: float = _AFTER_S) -> Left:
    """Let so many calls wait at a daemon, for an upstream that does not answer; then let them leave."""
    left = Left(before_mb=memory_mb(host.pid))
    began = time.monotonic()
    looking = asyncio.create_task(_look(host, left, began))
    writers: list[asyncio.StreamWriter] = []
    with contextlib.ExitStack() as stack:
        stack.callback(looking.cancel)
        address, port = host.http.removeprefix("http://").rsplit(":", 1)
        for first in range(0, count, _AT_ONCE):
            calls = (_begin(address, int(port), number) for number in range(first, min(count, first + _AT_ONCE)))
            writers += await asyncio.gather(*calls)
        left.waiting = len(writers)
        await asyncio.sleep(3.0)  # they wait
        for writer in writers:
            writer.transport.abort()
        left.left_s = time.monotonic() - began
        await asyncio.sleep(after_s)
        _note(host, left, began)
    return left


async def _begin(address: str, port: int, number: int) -> asyncio.StreamWriter:
    said = {
        "model": "claude-haiku-4-5",
        "max_tokens": 50,
        "messages": [{"role": "user", "content": f"{number} wait ".ljust(_BODY_BYTES, "~")}],
    }
    body = json.dumps(said).encode()
    _, writer = await asyncio.open_connection(address, port)
    writer.write("\r\n".join(_head(len(body))).encode() + b"\r\n\r\n" + body)
    await writer.drain()
    return writer


def _head(length: int) -> Iterator[str]:
    yield "POST /v1/messages HTTP/1.1"
    yield from ("host: localhost", "x-api-key: any", "anthropic-version: 2023-06-01", "content-type: application/json")
    yield f"content-length: {length}"


async def _look(host: Host, left: Left, began: float) -> None:
    while True:
        _note(host, left, began)
        await asyncio.sleep(0.5)


def _note(host: Host, left: Left, began: float) -> None:
    left.at_s.append(time.monotonic() - began)
    left.memory_mb.append(memory_mb(host.pid))
