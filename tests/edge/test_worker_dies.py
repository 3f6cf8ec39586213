"""A worker that dies in mid-stream: who has had some of it is told so; who has had nothing waits for the next attempt."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from conftest import until
from flow_parts import Daemon, asking, in_turn, later, overloaded, running
from headrace import forms, keys
from headrace.errors import BrokenStream
from headrace.flight import items
from headrace.flight.flight import Flight
from headrace.model import Call, Event
from headrace.retry.ticket import State
from scripted import EVENTS, Line, hang
from ticket_parts import ANSWER


class Streams:
    """Streams that stop after their first content until they are let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, line: Line) -> None:
        await line.begin_stream()
        await line.chunk(b"".join(EVENTS[:3]))
        await self.go.wait()
        for raw in EVENTS[3:]:
            await line.chunk(raw)
        await line.say(b"0\r\n\r\n")


async def listen(one: Daemon, call: Call) -> list[bytes]:
    """Return what a streaming call hears until its stream breaks off."""
    heard: list[bytes] = []
    try:
        async with one.answer(call) as reply:
            assert reply.events is not None
            async for event in reply.events:
                heard.append(event.raw)
    except BrokenStream:
        return heard
    raise AssertionError("it came to its end")


async def the_worker_dies(one: Daemon) -> None:
    """Take the ticket out of its worker's hands, and have it rescued, as the sweeper does when a lease is over."""
    [(ticket, hold)] = one.parts.tickets._held.items()
    await one.parts.link.do("HSET", keys.ticket(ticket), "state", State.QUEUED, "holder", "")
    one.parts.tickets._held.lose(ticket, hold)
    await one.parts.alarms.schedule(ticket, 3, time.time())


def is_open(one: Daemon, call: Call) -> bool:
    flight = one.parts.flights.get(call.fingerprint)
    return flight is not None and flight.is_open


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_upstream_is_paid_once_more(valkey_url: str, tmp_path: Path, where: str) -> None:
    """A unary call that shared the stream waits for its ticket's next attempt, wherever it was asked."""
    dead, next_one = Streams(), Streams()
    async with (
        running(valkey_url, tmp_path / "a", in_turn(overloaded, dead, next_one)) as (one, server),
        later(valkey_url, tmp_path / "b", one) as other,
    ):
        beside = one if where == "here" else other
        live = one.call({"stream": True})
        listening = asyncio.create_task(listen(one, live))
        await until(lambda: server.calls == 1)
        whole = asking(beside, beside.call())
        await until(lambda: is_open(one, live) and is_open(beside, live))
        await the_worker_dies(one)

        assert await asyncio.wait_for(listening, 10) == EVENTS[:3]
        await asyncio.sleep(2.5)  # past the moment at which a ticket that nobody waits for is cancelled
        assert server.calls == 3
        next_one.go.set()
        reply = await asyncio.wait_for(whole, 10)
        assert reply.answer is not None
        assert [event.raw for event in forms.event_list(reply.answer)] == EVENTS
        assert (server.calls, reply.attempts) == (3, 3)
        dead.go.set()


async def test_nobody_comes_back(valkey_url: str, tmp_path: Path) -> None:
    """When all have had some of it, the next attempt is made for nobody, and is cancelled."""
    dead, next_one = Streams(), Streams()
    async with running(valkey_url, tmp_path, in_turn(overloaded, dead, next_one)) as (one, server):
        live = one.call({"stream": True})
        listening = asyncio.create_task(listen(one, live))
        await until(lambda: is_open(one, live))
        await the_worker_dies(one)
        await asyncio.wait_for(listening, 10)
        await until(lambda: not one.parts.upstream.in_the_air, what="the next attempt goes on")
        assert server.calls == 3
        dead.go.set()


async def test_what_is_left_of_a_dead_attempt(valkey_url: str, tmp_path: Path) -> None:
    """Of a ticket that has ended its answer is told, and not what lies in its log of an attempt that died."""
    async with running(valkey_url, tmp_path, hang) as (one, _):
        tickets = one.parts.tickets
        one.parts.alarms.is_mute = True  # type: ignore[attr-defined]  # running() puts Bells there
        ticket = (await one.parts.pursuits.submit(one.call({"stream": True}))).id
        await tickets.start(ticket, 1)
        dead, flight = Flight("dead"), Flight("late")
        said = items.encode_event(Event("content_block_delta", b"{}", b"dead\n\n"), dead)
        await one.parts.link.do("XADD", keys.log(f"flight:ticket:{ticket}:log"), "1-1", "i", said)
        await tickets.finish(ticket, answer=ANSWER)
        landing = await asyncio.wait_for(one.parts.parking.wait(flight, ticket), 5)
        assert (landing.answer, flight.events) == (ANSWER, [])
