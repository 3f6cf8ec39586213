"""Ten thousand calls that wait at one daemon and leave, three times: what that takes of memory, and whether it is bounded."""

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
_CROWDS = 3
_AFTER_S = 60.0  # by when what is given back has been
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


async def crowds(host: Host) -> list[Left]:
    """Let one crowd after the other wait at a daemon, for an upstream that does not answer."""
    began = time.monotonic()
    return [await waited(host, began) for _ in range(_CROWDS)]


def wrong(crowds: list[Left]) -> list[str]:
    """Return what is wrong. Python keeps what two crowds needed in one order or the other; the third finds room in that."""
    *before, last = (max(each.memory_mb) for each in crowds)
    return ["one more crowd takes more memory"] if last > max(before) + _MORE_MB else []


async def waited(host: Host, began: float) -> Left:
    """Let a crowd wait, leave, and be gone for a while; times are since *began*."""
    left = Left(before_mb=memory_mb(host.pid))
    looking = asyncio.create_task(_look(host, left, began))
    writers: list[asyncio.StreamWriter] = []
    with contextlib.ExitStack() as stack:
        stack.callback(looking.cancel)
        address, port = host.http.removeprefix("http://").rsplit(":", 1)
        for first in range(0, WAITING, _AT_ONCE):
            calls = (_begin(address, int(port), number) for number in range(first, first + _AT_ONCE))
            writers += await asyncio.gather(*calls)
        left.waiting = len(writers)
        await asyncio.sleep(3.0)  # they wait
        for writer in writers:
            writer.transport.abort()
        left.left_s = time.monotonic() - began
        await asyncio.sleep(_AFTER_S)
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
