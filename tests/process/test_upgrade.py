"""A daemon that seals takes over the tickets of one that did not, in its own Valkey: what waits is made, answers are found."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import redis

from daemon_process import environment, serving
from fleet import addresses
from headrace import keys
from headrace.v1 import content_pb2, messages_pb2, messages_service_pb2, tickets_pb2, tickets_service_pb2
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub
from headrace.v1.tickets_service_pb2_grpc import TicketsServiceStub
from scripted import MESSAGE, OVERLOADED, Line
from scripted import serving as scripted

SEAL_BYTES = 4 + 16  # before what was said
WAIT_S = 6


async def talk(line: Line) -> None:
    """Answer; who is to wait is told so the first time."""
    if b'"later"' in line.body and line.body not in _told:
        _told.add(line.body)
        await line.answer(529, OVERLOADED, f"retry-after: {WAIT_S}")
    else:
        await line.answer(200, MESSAGE)


_told: set[bytes] = set()


@contextlib.asynccontextmanager
async def running(directory: Path, upstream: str) -> AsyncIterator[grpc.aio.Channel]:
    environ = environment(
        directory,
        HEADRACE_UPSTREAM__BASE_URL=upstream,
        HEADRACE_UPSTREAM__API_KEY="sk-test",
        HEADRACE_LISTEN__GRPC='["127.0.0.1:0"]',
        HEADRACE_UPSTREAM__OVERLOAD_GATE="off",
    )
    entered = serving(environ)
    served = await asyncio.to_thread(entered.__enter__)
    try:
        async with grpc.aio.insecure_channel(addresses(served)[-2]) as channel:
            yield channel
    finally:
        await asyncio.to_thread(entered.__exit__, None, None, None)


async def submit(channel: grpc.aio.Channel, model: str) -> str:
    said = messages_pb2.InputMessage(role="user", content=content_pb2.Content(text="hi"))
    params = messages_pb2.MessageParams(model=model, max_tokens=5, messages=[said])
    asked = messages_service_pb2.SubmitMessageRequest(params=params)
    return (await MessagesServiceStub(channel).SubmitMessage(asked, timeout=10)).ticket.id


async def reach(
    channel: grpc.aio.Channel, ticket: str, state: tickets_pb2.TicketState, *, attempts: int = 1
) -> tickets_pb2.Ticket:
    """Wait until a ticket is so far."""
    async with asyncio.timeout(30):
        while True:
            asked = tickets_service_pb2.GetTicketRequest(id=ticket)
            said = (await TicketsServiceStub(channel).GetTicket(asked, timeout=10)).ticket
            if (said.state, said.attempts) == (state, attempts):
                return said
            await asyncio.sleep(0.02)


def unseal(directory: Path, ticket: str) -> None:
    """Leave a ticket as a version would that knew no seals."""
    with redis.Redis(unix_socket_path=str(directory / "valkey" / "valkey.sock")) as valkey:
        name = keys.ticket(ticket)
        for field in ("call", "body", "answer"):
            if said := valkey.hget(name, field):
                assert said.startswith(b"HRm1")
                valkey.hset(name, field, said[SEAL_BYTES:])
        assert valkey.hdel(name, "facts")


async def test_tickets(tmp_path_factory):
    """One that had its answer shows it after the upgrade, and one that waited gets its own."""
    _told.clear()
    directory = tmp_path_factory.mktemp("u")
    async with scripted(talk) as upstream:
        async with running(directory, upstream.url) as channel:
            soon, later = await submit(channel, "soon"), await submit(channel, "later")
            await reach(channel, soon, tickets_pb2.TICKET_STATE_SUCCEEDED)
            await reach(channel, later, tickets_pb2.TICKET_STATE_QUEUED)
            for ticket in (soon, later):
                await asyncio.to_thread(unseal, directory, ticket)
        async with running(directory, upstream.url) as channel:
            assert (await reach(channel, soon, tickets_pb2.TICKET_STATE_SUCCEEDED)).message.id == "msg_1"
            found = await reach(channel, later, tickets_pb2.TICKET_STATE_SUCCEEDED, attempts=2)
            assert found.message.id == "msg_1"
