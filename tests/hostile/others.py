"""
The others: well-behaved callers with a few calls a second at each door, while somebody else attacks.

What is asked at a moment is asked whatever became of what was asked before. Hits are what counts; that misses and calls over
new connections are answered at all is part of it: none of them may fail.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp
import grpc.aio

from headrace.v1 import messages_service_pb2, messages_service_pb2_grpc

MODEL = "claude-haiku-4-5"
_PATIENCE_S = 30.0
_QUICK_S = 0.1
_numbers = itertools.count(1)
_OWN = (("grpc.use_local_subchannel_pool", 1),)  # a connection of its own, and not one that another channel has

Door = Callable[[str], Awaitable[None]]


@dataclass(slots=True)
class Report:
    """What they were given: seconds that hits took, by door; that misses took; and what failed, in words."""

    hits: dict[str, list[float]] = field(default_factory=dict)
    misses: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)  # how late they asked: the machine's own slowness


class Others:
    """
    Callers, in this process.

    Args:
        http, grpc: where the daemon is.
        socket: its unix socket; "" for none.
        key: theirs.
        rate: hits a second at each door; a miss, and a call over a new connection, for every ten.
    """

    def __init__(self, http: str, grpc: str, socket: str, key: str, *, rate: float) -> None:
        self._http, self._grpc, self._socket, self._key = http, grpc, socket, key
        self._every_s = 1 / rate
        self._metadata = (("x-api-key", key),)

    async def ask(self, seconds: float) -> Report:
        """Ask for so long, and return what came of it."""
        report = Report()
        async with (
            aiohttp.ClientSession() as session,
            grpc.aio.insecure_channel(self._grpc) as port,
            grpc.aio.insecure_channel(f"unix:{self._socket}") as socket,
            asyncio.TaskGroup() as group,
        ):
            doors = {"HTTP": self._over_http(session), "gRPC": self._over_grpc(port), "socket": self._over_grpc(socket)}
            for door in doors.values():  # so that hits are hits
                await door("kept")
            until = time.monotonic() + seconds
            for name, door in doors.items():
                report.hits[name] = []
                group.create_task(self._go_on(group, report, name, door, until))
            group.create_task(self._come_anew(report, until))
        return report

    async def at_rest(self) -> None:
        """Wait until hits over new connections are quick: what an attack leaves behind is not the next one's."""
        async with asyncio.timeout(_PATIENCE_S):
            for _ in range(3):
                began = -_PATIENCE_S
                while time.monotonic() - began > _QUICK_S:
                    began = time.monotonic()
                    async with grpc.aio.insecure_channel(self._grpc, options=_OWN) as channel:
                        await self._over_grpc(channel)("kept")

    async def _go_on(self, group: asyncio.TaskGroup, report: Report, name: str, door: Door, until: float) -> None:
        due = time.monotonic()
        for number in itertools.count():
            due += self._every_s
            if due > until:
                return
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            report.late_s.append(time.monotonic() - due)
            if number % 10 == 5:
                group.create_task(self._one(report, name, door, f"miss {next(_numbers)}", report.misses))
            else:
                group.create_task(self._one(report, name, door, "kept", report.hits[name]))

    async def _come_anew(self, report: Report, until: float) -> None:
        while time.monotonic() < until:
            async with aiohttp.ClientSession() as session:
                await self._one(report, "HTTP, anew", self._over_http(session), "kept", [])
            async with grpc.aio.insecure_channel(self._grpc, options=_OWN) as channel:
                await self._one(report, "gRPC, anew", self._over_grpc(channel), "kept", [])
            await asyncio.sleep(10 * self._every_s)

    async def _one(self, report: Report, name: str, door: Door, text: str, took: list[float]) -> None:
        began = time.monotonic()
        try:
            await asyncio.wait_for(door(text), _PATIENCE_S)
        except (TimeoutError, aiohttp.ClientError, OSError, grpc.aio.AioRpcError, Refused) as error:
            said = f"{error.code().name} {error.details()}" if isinstance(error, grpc.aio.AioRpcError) else f"{error}"
            report.failures.append(f"{name}, {text.split()[0]}: {type(error).__name__} {said}"[:200])
        took.append(time.monotonic() - began)

    def _over_http(self, session: aiohttp.ClientSession) -> Door:
        headers = {"x-api-key": self._key, "anthropic-version": "2023-06-01", "content-type": "application/json"}

        async def ask(text: str) -> None:
            async with session.post(f"{self._http}/v1/messages", data=body(text), headers=headers) as response:
                said = await response.read()
                if response.status != 200:
                    raise Refused(f"{response.status} {said[:120].decode(errors='replace')}")

        return ask

    def _over_grpc(self, channel: grpc.aio.Channel) -> Door:
        stub = messages_service_pb2_grpc.MessagesServiceStub(channel)

        async def ask(text: str) -> None:
            messages = [{"role": "user", "content": {"text": text}}]
            call = messages_service_pb2.CreateMessageRequest(params={"model": MODEL, "max_tokens": 20, "messages": messages})
            await stub.CreateMessage(call, metadata=self._metadata)

        return ask


class Refused(Exception):
    """An answer with another status than 200."""


def body(text: str, max_tokens: int = 20, more: str = "") -> bytes:
    """Return the body of a message; *more* are members of it, each with a comma before."""
    said = f'{{"model":"{MODEL}","max_tokens":{max_tokens},"messages":[{{"role":"user","content":"{text}"}}]{more}}}'
    return said.encode()
