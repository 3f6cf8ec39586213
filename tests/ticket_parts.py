"""What tests of tickets share: a call, an answer, alarms that only remember, and one process's part in the tickets."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

from conftest import until
from headrace.clock import SystemClock
from headrace.errors import RedisAway, UpstreamError
from headrace.link import Link
from headrace.model import Answer, Call, Caller, Form, Lane, Usage
from headrace.owner import Owner
from headrace.retry.letters import Letters
from headrace.retry.sweeper import Sweeper
from headrace.retry.ticket import Keep, State, Timing
from headrace.retry.tickets import Tickets

ANSWER = Answer(Form.JSON, b'{"type":"message"}\n', 1.5, Usage(1, 2, 3, 4), "req_1")
ERROR = UpstreamError(
    "busy", status=529, type="overloaded_error", body=b"\xff{", headers=(("a", "b"),), retry_after_s=2.0, metadata={"k": "v"}
)
QUICK = Timing(lease_s=0.3, want_s=0.3, grace_s=0.0)


class Alarms:
    """Remembers what was set."""

    def __init__(self) -> None:
        self.set: list[tuple[str, int, float]] = []
        self.is_away = False

    async def schedule(self, ticket_id: str, attempt: int, due: float) -> None:
        if self.is_away:
            raise RedisAway("away")
        self.set.append((ticket_id, attempt, due))

    def wake(self) -> None:
        pass


def a_call(**changes) -> Call:
    now = time.time()
    call = Call(
        caller=Caller("checkout", Lane.BATCH, 2),
        body=b'{"model": "m",\n "x": "\xc3\xa9"}',
        model="m",
        max_tokens=5,
        stream=True,
        version="2023-06-01",
        betas=("b1",),
        headers=(("anthropic-x", "1"),),
        lane=Lane.BATCH,
        fingerprint="f" * 64,
        scope="checkout",
        arrival=now,
        deadline=now + 60,
    )
    return replace(call, **changes)


class Process:
    """One process's tickets, on a link of its own."""

    def __init__(
        self, url: str, timing: Timing | None = None, again_s: float = 0.2, *, keep: Keep | None = None, **bounds: Any
    ) -> None:
        self.link = Link(url)
        self.alarms = Alarms()
        self.tickets = Tickets(self.link, SystemClock(), self.alarms, timing=timing, keep=keep, **bounds)
        self.letters = Letters(self.link, SystemClock(), self.tickets)
        self.sweeper = Sweeper(self.link, SystemClock(), self.tickets, self.alarms, again_s=again_s, grace_s=0.0)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> Process:
        self._tasks = [asyncio.create_task(self.link.listen()), asyncio.create_task(self.tickets.keep())]
        await asyncio.wait_for(self.link.listening(), 30)
        return self

    async def die(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def aclose(self) -> None:
        await self.die()
        await self.link.aclose()

    async def swept(self, condition) -> None:
        """Sweep until the condition holds."""

        async def look() -> bool:
            await self.sweeper.sweep()
            value = condition()
            return await value if asyncio.iscoroutine(value) else value

        await until(look)

    async def state(self, ticket_id: str, credential: str = "") -> State:
        return (await self.tickets.get(ticket_id, Owner.of("checkout", credential))).state


async def is_now(process: Process, ticket_id: str, state: State, credential: str = "") -> bool:
    return await process.state(ticket_id, credential) is state
