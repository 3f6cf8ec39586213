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

from conftest import until
from grpc_fakes import MESSAGE, FakeFlow, details, json_answer, serving
from headrace.clock import SystemClock
from headrace.edge import translate
from headrace.errors import UpstreamError
from headrace.link import Link
from headrace.model import Call
from headrace.retry.ticket import Claimed, Ticket
from headrace.retry.tickets import Tickets
from headrace.v1 import (
    messages_service_pb2,
    messages_service_pb2_grpc,
    tickets_pb2,
    tickets_service_pb2,
    tickets_service_pb2_grpc,
)

Get = tickets_service_pb2.GetTicketRequest
Wait = tickets_service_pb2.WaitTicketRequest
Cancel = tickets_service_pb2.CancelTicketRequest
List = tickets_service_pb2.ListTicketsRequest
PARAMS = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": {"text": "hi"}}]}


class SilentAlarms:
    """Alarms that never ring: the tests make the attempts."""

    async def schedule(self, ticket_id: str, attempt: int, due: float, *, rescue: int = 0) -> None:
        pass


class Submitting(FakeFlow):
    """A flow that only takes calls in."""

    def __init__(self, tickets: Tickets) -> None:
        super().__init__()
        self._tickets = tickets

    async def submit(self, call: Call) -> Ticket:
        claim = await self._tickets.submit(call)
        assert isinstance(claim, Claimed)
        return await self._tickets.get(claim.ticket, call.owner)


class Desk:
    """Both services, and the tickets behind them."""

    def __init__(self, tickets: Tickets, channel: grpc.aio.Channel) -> None:
        self.tickets = tickets
        self.service = tickets_service_pb2_grpc.TicketsServiceStub(channel)
        self._messages = messages_service_pb2_grpc.MessagesServiceStub(channel)

    async def submit(self, **request: Any) -> tickets_pb2.Ticket:
        response = await self._messages.SubmitMessage(messages_service_pb2.SubmitMessageRequest(params=PARAMS, **request))
        return response.ticket

    async def finish(self, ticket_id: str, **end: Any) -> None:
        assert await self.tickets.start(ticket_id, 1)
        await self.tickets.finish(ticket_id, **end)


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


async def test_anothers(desk: Desk) -> None:
    """One caller's ticket does not exist for another."""
    mine = await desk.submit(options={"caller": "me"})
    for call in (
        desk.service.GetTicket(Get(id=mine.id)),
        desk.service.WaitTicket(Wait(id=mine.id)),
        desk.service.CancelTicket(Cancel(id=mine.id, options={"caller": "you"})),
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
