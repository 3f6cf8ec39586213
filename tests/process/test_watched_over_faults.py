"""Who watches a ticket at one daemon hears to its end what becomes of it at another: that one is killed, Redis starts anew."""

from __future__ import annotations

import asyncio
import contextlib

import grpc.aio
import pytest

from conftest import start_valkey, until
from fleet import Daemon, daemon_beside
from from_outside import submit
from headrace.v1 import tickets_pb2, tickets_service_pb2, tickets_service_pb2_grpc
from scripted import MESSAGE, Line, serving

pytestmark = pytest.mark.slow

TOLD = ("RUNNING", 1), ("QUEUED", 1), ("RUNNING", 2), ("SUCCEEDED", 2)


class Watch:
    """What is told to one who watches."""

    def __init__(self, at: Daemon, ticket: str) -> None:
        self.told: list[tuple[str, int]] = []
        self.task = asyncio.create_task(self._watch(at, ticket))

    async def _watch(self, at: Daemon, ticket: str) -> None:
        async with grpc.aio.insecure_channel(at.grpc) as channel:
            stub = tickets_service_pb2_grpc.TicketsServiceStub(channel)
            async for said in stub.WatchTicket(tickets_service_pb2.WatchTicketRequest(id=ticket), timeout=60):
                state = tickets_pb2.TicketState.Name(said.ticket.state).removeprefix("TICKET_STATE_")
                self.told.append((state, said.ticket.attempts))


@pytest.mark.parametrize("fault", ["killed", "redis"])
async def test_watched(tmp_path, fault):
    """It is told each state in order, once, and ends by itself with the answer's state."""
    asked, go = 0, asyncio.Event()

    async def talk(line: Line) -> None:
        nonlocal asked
        asked += 1
        if asked == 1 and fault == "killed":
            await line.reader.read()
        await go.wait()
        await line.answer(200, MESSAGE, "content-type: application/json")

    options = "--appendonly", "yes"
    valkey, url = start_valkey(tmp_path, *options)
    async with serving(talk) as server, contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(daemon_beside(server.url, url))
        ticket = await submit(one, "watched")
        await until(lambda: asked == 1)
        two = await stack.enter_async_context(daemon_beside(server.url, url))
        watch = Watch(two, ticket)
        await until(lambda: watch.told == [("RUNNING", 1)])
        if fault == "killed":
            one.served.process.kill()
            await until(lambda: asked == 2, within=15)
        else:
            valkey.terminate()
            await asyncio.to_thread(valkey.wait)
            valkey, _ = await asyncio.to_thread(start_valkey, tmp_path, *options)
        go.set()
        await asyncio.wait_for(watch.task, 30)
        expected = [*TOLD] if fault == "killed" else [("RUNNING", 1), ("SUCCEEDED", 1)]
        # Changes close together come as one.
        assert [each for each in expected if each in watch.told] == watch.told
        assert (watch.told[0], watch.told[-1]) == (expected[0], expected[-1])
    valkey.terminate()
    valkey.wait()
