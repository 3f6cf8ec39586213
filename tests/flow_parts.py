"""What tests of the whole flow share: one daemon's real parts, without its doors, calls to it, and upstreams that wait."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar

from multidict import CIMultiDict

from conftest import until
from headrace import config, forms
from headrace.allowance import Allowance
from headrace.deadline import Wait
from headrace.edge.http_asks import read_ask
from headrace.endpoints import MESSAGES
from headrace.errors import RedisAway
from headrace.flight.lease import LEASE_MS
from headrace.model import Call, Caller, Event, Reply
from headrace.wiring import Parts
from scripted import EVENTS, OVERLOADED, Line, Server, Talk, say_events, say_message, serving

T = TypeVar("T")

LIMIT = json.dumps([{"name": "org", "requests_per_minute": 60_000, "input_tokens_per_minute": 6_000_000, "concurrency": 40}])
QUICK = {"HEADRACE_RETRY__BACKOFF": "0.05s..0.2s", "HEADRACE_CACHE__DISK": "0"}


class Bells:
    """A clockwork that rings in this very process, at its time; in place of the queue, whose threads take a second to stop."""

    def __init__(self) -> None:
        self.parts: Parts | None = None
        self.is_mute = False
        self._ringing: set[asyncio.Task[None]] = set()

    async def schedule(self, ticket_id: str, attempt: int, due: float) -> None:
        ringing = asyncio.create_task(self._ring(ticket_id, attempt, due))
        self._ringing.add(ringing)
        ringing.add_done_callback(self._ringing.discard)

    async def _ring(self, ticket_id: str, attempt: int, due: float) -> None:
        await asyncio.sleep(due - time.time())
        if self.parts is not None:
            await self.parts.ringer.ring(ticket_id, attempt)

    async def run(self, ticket_id: str, attempt: int) -> None:
        """Make an attempt, unless all attempts are others' to make."""
        if self.parts is not None and not self.is_mute:
            await self.parts.pursuits.run(ticket_id, attempt)

    async def aclose(self) -> None:
        for ringing in self._ringing:
            ringing.cancel()
        await asyncio.gather(*self._ringing, return_exceptions=True)


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


class Daemon:
    """One daemon's real parts on a real Valkey."""

    def __init__(self, parts: Parts) -> None:
        self.parts, self.flow = parts, parts.flow
        parts.admission._arrivals = Allowance(sys.maxsize)  # calls are made here by the dozen in one turn of the loop

    def answer(self, call: Call) -> AbstractAsyncContextManager[Reply]:
        return self.parts.exchange.answer(call, "http")

    def call(
        self, body: Any = None, *, cache: str = "", caller: str | Caller = "ann", timeout_s: float | None = None, **ask: Any
    ) -> Call:
        body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]} | (body or {})
        who, wait = caller if isinstance(caller, Caller) else Caller(caller), Wait(stated_s=timeout_s)
        headers = CIMultiDict({"cache-control": cache} if cache else {})
        asked = read_ask(
            who, headers, json.dumps(body).encode(),
            method="POST", path="/v1/messages", endpoint=MESSAGES, credential="", wait=wait,
        )  # fmt: skip
        return at_once(self.parts.admission.admit(**(asked | ask)))

    async def ask(self, call: Call) -> Reply:
        """Return the whole reply, its events read to the end."""
        async with self.answer(call) as reply:
            if reply.events is not None:
                events = [event async for event in reply.events]
                reply.events, reply.answer = None, forms.answer_of_events(events, created=0.0, request_id=reply.request_id)
            return reply

    def held(self) -> str:
        """What is held of anything, by the parts' own word; "" if nothing is."""
        parts = self.parts
        said = [repr(parts.flights), repr(parts.leases), repr(parts.schedule), repr(parts.tickets)]
        nothing = [
            "<Flights [0 in the air, 0 waiting]>",
            "<Leases [0 led, 0 asked]>",
            "<Schedule [0 waiting, 0 asking, 0 permits]>",
            "<Tickets [0 held, 0 waited for]>",
        ]
        upstream = parts.upstream.in_the_air
        return "" if said == nothing and not upstream else f"{said} {upstream} in the air"


@contextlib.asynccontextmanager
async def daemon(
    valkey_url: str, upstream_url: str, directory: Path, *, lease_ms: int = LEASE_MS, **settings: str
) -> AsyncIterator[Daemon]:
    """Run one; settings by the names of the environment, less the prefix."""
    environ = QUICK | {"HEADRACE_STATE__DIR": str(directory), "HEADRACE_UPSTREAM__BASE_URL": upstream_url}
    environ |= {f"HEADRACE_{name}": value for name, value in settings.items()}
    parts = Parts(config.load(None, environ), valkey_url, lambda: config.Keys("own-key", "admin-key"))
    parts.account = None  # its question would be counted among the calls
    parts.leases._lease_ms = lease_ms
    bells = Bells()
    await parts.alarms.aclose()
    parts.alarms = parts.ringer._clockwork = bells  # type: ignore[assignment]
    bells.parts, parts.ringer._run = parts, bells.run
    async with parts.running():
        await asyncio.wait_for(parts.link.listening(), 30)
        ringing = asyncio.create_task(parts.ringer.keep())
        yield Daemon(parts)
        ringing.cancel()
        await parts.ringer.stop()
        await parts.pursuits.close()
        await parts.flights.aclose()
        with contextlib.suppress(RedisAway):
            await parts.tickets.leave()


# Behind an upstream that says what a test wants.


async def say(line: Line) -> None:
    """Answer in the form that was asked for."""
    await (say_events if json.loads(line.body).get("stream") else say_message)(line)


async def overloaded(line: Line) -> None:
    await line.answer(529, OVERLOADED)


def in_turn(*talks: Talk) -> Talk:
    """Talk to the first call as the first says, and so on; to all others as the last."""
    rest = itertools.chain(talks, itertools.repeat(talks[-1]))

    async def talk(line: Line) -> None:
        await next(rest)(line)

    return talk


@contextlib.asynccontextmanager
async def running(url: str, path: Path, talk: Talk = say, **settings: str) -> AsyncIterator[tuple[Daemon, Server]]:
    """Run one behind a scripted upstream; at the end nothing may be held."""
    async with serving(talk) as server, daemon(url, server.url, path, **settings) as one:
        yield one, server
        await until(lambda: not one.held(), what=one.held())


def later(url: str, path: Path, one: Daemon, **settings):
    """Return another daemon for the same upstream."""
    return daemon(url, str(one.parts.upstream).split()[1], path, **settings)


async def joined(one: Daemon, count: int) -> None:
    await until(lambda: f"{count} waiting" in repr(one.parts.flights), what=repr(one.parts.flights))


def asking(one: Daemon, call: Call) -> asyncio.Task[Reply]:
    return asyncio.create_task(one.ask(call))


class Held:
    """An upstream that answers when it is let go."""

    def __init__(self, then: Talk = say) -> None:
        self.go = asyncio.Event()
        self._then = then

    async def __call__(self, line: Line) -> None:
        await self.go.wait()
        await self._then(line)


class SlowStream:
    """A stream that stops after its first content until it is let go; then it goes on, or breaks off."""

    def __init__(self, *, breaks: bool = False, events: list[bytes] = EVENTS) -> None:
        self.go = asyncio.Event()
        self._breaks, self._events = breaks, events

    async def __call__(self, line: Line) -> None:
        await line.begin_stream()
        await line.chunk(b"".join(self._events[:3]))
        await self.go.wait()
        if self._breaks:
            line.reset()
            return
        for raw in self._events[3:]:
            await line.chunk(raw)
        await asyncio.sleep(0.01)
        await line.say(b"0\r\n\r\n")


async def read(one: Daemon, call: Call) -> tuple[list[Event], Exception | None]:
    """Return the events that a streaming call is given, and the error they end in."""
    events: list[Event] = []
    try:
        async with one.answer(call) as reply:
            if reply.events is None:
                assert reply.answer is not None
                return forms.event_list(reply.answer), None
            async for event in reply.events:
                events.append(event)
    except Exception as error:
        return events, error
    return events, None


def raws(events: list[Event]) -> list[bytes]:
    return [event.raw for event in events]
