"""TicketsService over real tickets in a real Valkey, and SubmitMessage, which makes them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from conftest import until
from desk import Desk, SilentAlarms, Submitting
from grpc_fakes import MESSAGE, FakeCallers, details, json_answer, serving
from headrace.clock import SystemClock
from headrace.edge import translate
from headrace.errors import UpstreamError
from headrace.link import Link
from headrace.model import Role
from headrace.owner import Owner
from headrace.retry.ticket import State
from headrace.retry.tickets import Tickets
from headrace.v1 import (
    options_pb2,
    tickets_pb2,
    tickets_service_pb2,
)

Get = tickets_service_pb2.GetTicketRequest
Wait = tickets_service_pb2.WaitTicketRequest
Cancel = tickets_service_pb2.CancelTicketRequest
Watch = tickets_service_pb2.WatchTicketRequest
List = tickets_service_pb2.ListTicketsRequest


@pytest.fixture
async def desk(tmp_path: Path, link: Link) -> AsyncIterator[Desk]:
    tickets = Tickets(link, SystemClock(), SilentAlarms())
    async with serving(tmp_path, Submitting(tickets), tickets=tickets) as (_, channel):
        yield Desk(tickets, channel)


async def test_submit(desk: Desk) -> None:
    """A submitted call has a ticket at once, with the time it was given."""
    ticket = await desk.submit(answer_timeout=Duration(seconds=3600))
    assert (ticket.state, ticket.model, ticket.attempts) == (tickets_pb2.TICKET_STATE_QUEUED, "m", 0)
    assert 3500 < ticket.expire_time.ToSeconds() - time.time() < 3601
    assert ticket.HasField("attempt_time")
    got = await desk.service.GetTicket(Get(id=ticket.id))
    assert got.ticket == ticket


@pytest.mark.parametrize("seconds", [0, -1, 86_401])
async def test_answer_timeout(desk: Desk, seconds: int) -> None:
    """A time that makes no sense is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await desk.submit(answer_timeout=Duration(seconds=seconds))
    assert details(refused.value)["BadRequest"].field_violations[0].field == "answer_timeout"


async def test_answered(desk: Desk) -> None:
    """Whoever waits gets the answer, and where it came from; so does whoever asks later."""
    ticket = await desk.submit()
    waiting = asyncio.ensure_future(desk.service.WaitTicket(Wait(id=ticket.id)))
    await until(lambda: "1 waited for" in repr(desk.tickets))
    await desk.finish(ticket.id, answer=json_answer(), attempts=1)
    waited = (await waiting).ticket
    assert waited.state == tickets_pb2.TICKET_STATE_SUCCEEDED
    assert json.loads(translate.write(waited.message)) == MESSAGE
    assert (waited.origin.ticket, waited.origin.attempts, waited.origin.request_id) == (ticket.id, 1, "req_1")
    assert (await desk.service.GetTicket(Get(id=ticket.id))).ticket == waited
    assert (await desk.service.WaitTicket(Wait(id=ticket.id))).ticket == waited


async def test_failed(desk: Desk) -> None:
    """A failed ticket is no failed RPC: it says why, upstream's exact body included."""
    ticket = await desk.submit()
    await desk.finish(ticket.id, error=UpstreamError("no", status=400, type="invalid_request_error", body=b'{"x": 1.0}'))
    failed = (await desk.service.WaitTicket(Wait(id=ticket.id))).ticket
    assert failed.state == tickets_pb2.TICKET_STATE_FAILED
    assert failed.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert (failed.error.reason, failed.error.upstream_status) == ("UPSTREAM_ERROR", 400)
    assert failed.error.upstream_body == b'{"x": 1.0}'
    assert not failed.HasField("message")


async def test_cancel(desk: Desk) -> None:
    """A cancelled ticket stays cancelled, however often it is asked for."""
    ticket = await desk.submit()
    for _ in range(2):
        canceled = (await desk.service.CancelTicket(Cancel(id=ticket.id))).ticket
        assert canceled.state == tickets_pb2.TICKET_STATE_CANCELED
        assert canceled.error.reason == "CANCELED"


async def test_list(desk: Desk) -> None:
    """Tickets come newest first, page by page, without their answers, and by state."""
    ids = [(await desk.submit()).id for _ in range(5)]
    await desk.finish(ids[0], answer=json_answer())
    seen, token = [], ""
    while True:
        page = await desk.service.ListTickets(List(page_size=2, page_token=token))
        seen += list(page.tickets)
        token = page.next_page_token
        if not token:
            break
    assert [ticket.id for ticket in seen] == ids[::-1]
    assert not seen[-1].HasField("message")
    done = await desk.service.ListTickets(List(state=tickets_pb2.TICKET_STATE_SUCCEEDED))
    assert [ticket.id for ticket in done.tickets] == ids[:1]


async def test_list_filtered(desk: Desk) -> None:
    """By model, lane and time; and everybody's, where nobody is told apart."""
    mine = await desk.submit(options={"caller": "me", "lane": options_pb2.LANE_BATCH})
    yours = await desk.submit(options={"caller": "you"})
    me, later = {"caller": "me"}, Timestamp(seconds=int(time.time()) + 100)
    assert (mine.caller, mine.lane) == ("me", "batch")
    for asked, found in (
        ({"options": me, "lane": "batch", "model": "m*"}, [mine.id]),
        ({"options": me, "lane": "standard"}, []),
        ({"options": me, "model": "x*"}, []),
        ({"options": me, "until_time": later}, [mine.id]),
        ({"options": me, "since_time": later}, []),
        ({"owner": "you"}, [yours.id]),
        ({"owner": "*"}, [yours.id, mine.id]),
    ):
        page = await desk.service.ListTickets(List(**asked))  # type: ignore[arg-type]
        assert [ticket.id for ticket in page.tickets] == found, asked


async def test_list_others(tmp_path: Path, link: Link) -> None:
    """Where callers are told apart, others' tickets are for admins to list."""
    tickets = Tickets(link, SystemClock(), SilentAlarms())
    callers = FakeCallers({"ka": "ann", "kb": "boss", "ko": "ops"}, boss=Role.ADMIN, ops=Role.OPERATOR)
    async with serving(tmp_path, Submitting(tickets), tickets=tickets, callers=callers) as (_, channel):
        desk = Desk(tickets, channel)
        ticket = await desk.submit(metadata=(("x-api-key", "ka"),))
        for owner in ("ann", "*"):
            for key in ("ka", "ko"):
                if (key, owner) != ("ka", "ann"):
                    with pytest.raises(grpc.aio.AioRpcError) as refused:
                        await desk.service.ListTickets(List(owner=owner), metadata=(("x-api-key", key),))
                    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
            page = await desk.service.ListTickets(List(owner=owner), metadata=(("x-api-key", "kb"),))
            assert [each.id for each in page.tickets] == [ticket.id]


async def test_watch(desk: Desk) -> None:
    """Whoever watches is told each state, and the answer with the last."""
    ticket = await desk.submit()
    told = desk.service.WatchTicket(Watch(id=ticket.id))
    states = [(await told.read()).ticket.state]
    assert await desk.tickets.start(ticket.id, 1)
    states.append((await told.read()).ticket.state)
    await desk.tickets.finish(ticket.id, answer=json_answer(), attempts=1)
    last = (await told.read()).ticket
    assert [*states, last.state] == [
        tickets_pb2.TICKET_STATE_QUEUED, tickets_pb2.TICKET_STATE_RUNNING, tickets_pb2.TICKET_STATE_SUCCEEDED,
    ]  # fmt: skip
    assert json.loads(translate.write(last.message)) == MESSAGE
    assert last.end_time.ToSeconds() > 0
    assert await told.read() == grpc.aio.EOF
    assert await told.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("rpc", ["WaitTicket", "WatchTicket"])
async def test_drain_is_heard(tmp_path: Path, link: Link, rpc: str) -> None:
    """Who waits for a ticket, or watches one, hears at once that the daemon drains; the ticket goes on."""
    tickets = Tickets(link, SystemClock(), SilentAlarms())
    async with serving(tmp_path, Submitting(tickets), tickets=tickets) as (server, channel):
        desk = Desk(tickets, channel)
        ticket = await desk.submit()
        if rpc == "WatchTicket":
            watching = desk.service.WatchTicket(Watch(id=ticket.id))
            await watching.read()
            waiting = asyncio.ensure_future(watching.read())
        else:
            waiting = asyncio.ensure_future(desk.service.WaitTicket(Wait(id=ticket.id)))
            await until(lambda: "1 waited for" in repr(tickets))
        draining = asyncio.create_task(server.drain(30))
        with pytest.raises(grpc.aio.AioRpcError) as left:
            await asyncio.wait_for(waiting, 5)
        await draining
    assert left.value.code() is grpc.StatusCode.UNAVAILABLE
    said = details(left.value)
    assert said["ErrorInfo"].reason == "DRAINING"
    assert "RetryInfo" in said
    assert (await tickets.get(ticket.id, Owner("default"))).state is State.QUEUED


async def test_anothers(desk: Desk) -> None:
    """One caller's ticket does not exist for another."""
    mine = await desk.submit(options={"caller": "me"})
    for call in (
        desk.service.GetTicket(Get(id=mine.id)),
        desk.service.WaitTicket(Wait(id=mine.id)),
        desk.service.CancelTicket(Cancel(id=mine.id, options={"caller": "you"})),
        desk.service.WatchTicket(Watch(id=mine.id)).read(),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        assert "ResourceInfo" in details(refused.value)
    assert not (await desk.service.ListTickets(List())).tickets
    got = await desk.service.GetTicket(Get(id=mine.id, options={"caller": "me"}))
    assert got.ticket.state == tickets_pb2.TICKET_STATE_QUEUED


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("GetTicket", Get(), "id"),
        ("ListTickets", List(page_size=-1), "page_size"),
        ("ListTickets", List(state=99), "state"),  # type: ignore[arg-type]
    ],
)
async def test_bad_input(desk: Desk, method: str, request_: Any, field: str) -> None:
    """What makes no sense is refused by name."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await getattr(desk.service, method)(request_)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(refused.value)["BadRequest"].field_violations[0].field == field


async def test_wait_gives_up(desk: Desk) -> None:
    """A wait that runs out of time harms nothing."""
    ticket = await desk.submit()
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await desk.service.WaitTicket(Wait(id=ticket.id), timeout=0.2)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: "0 waited for" in repr(desk.tickets))
    assert (await desk.service.GetTicket(Get(id=ticket.id))).ticket.state == tickets_pb2.TICKET_STATE_QUEUED
