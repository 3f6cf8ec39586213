"""What is attacked, and ways of connecting that all attacks share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

_NICE = 19  # the least that there is


@dataclass(slots=True)
class Target:
    """
    A daemon.

    Args:
        http, grpc: "127.0.0.1:7480".
        key: the attacker's.
        seconds: how long to go on.
        tally: what was done, counted.
    """

    http: str
    grpc: str
    key: str
    redis_url: str
    seconds: float
    tally: Counter[str] = field(default_factory=Counter)

    @contextlib.asynccontextmanager
    async def under_attack(self) -> AsyncIterator[None]:
        """Say that all is prepared, give way to everybody from now on, and end the block when its time is over."""
        os.nice(_NICE)
        print("attacking", flush=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.seconds):
                yield

    @contextlib.asynccontextmanager
    async def connected(self, *, is_deaf: bool = False) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Connect to the HTTP port; one that is deaf has next to no room for what it does not read."""
        host, port = at(self.http)
        wire = socket.socket()
        wire.setblocking(False)
        if is_deaf:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with contextlib.ExitStack() as stack:
            stack.callback(wire.close)
            await asyncio.get_running_loop().sock_connect(wire, (host, port))
            reader, writer = await asyncio.open_connection(sock=wire, limit=4096)
            stack.callback(writer.transport.abort)
            self.tally["connections"] += 1
            yield reader, writer

    async def say(self, sent: bytes) -> bytes:
        """Say something over a connection of its own, and return the first that comes."""
        with contextlib.suppress(OSError):
            async with self.connected() as (reader, writer), asyncio.timeout(10):
                writer.write(sent)
                await writer.drain()
                said = await reader.read(4096)
                self.tally["requests"] += 1
                return said
        return b""


Attack = Callable[[Target], Awaitable[None]]


def at(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


async def again(once: Callable[[], Awaitable[object]]) -> None:
    """Do something again and again, whatever becomes of it, until cancelled."""
    while True:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            await once()
        await asyncio.sleep(0.001)  # one that is sent away at once comes again, but other attackers have their turn


async def by_many(target: Target, count: int, once: Callable[[int], Awaitable[object]]) -> None:
    """Attack: let so many do something again and again, each told its number."""
    async with target.under_attack(), asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(again(lambda number=number: once(number)))  # type: ignore[misc]
