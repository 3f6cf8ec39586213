"""OperatorService at the door: who may see what of calls, tickets and hosts; acts are audited; root needs no key."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from conftest import until
from doors import grpc_server
from headrace import passkey
from headrace.errors import UpstreamError
from headrace.v1 import budgets_service_pb2, budgets_service_pb2_grpc, cache_service_pb2, cache_service_pb2_grpc
from headrace.v1 import operator_service_pb2 as pb
from headrace.v1.letters_service_pb2 import ListLettersRequest
from headrace.v1.letters_service_pb2_grpc import LettersServiceStub
from headrace.v1.messages_service_pb2 import SubmitMessageRequest
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub
from headrace.v1.operator_service_pb2_grpc import OperatorServiceStub
from headrace.v1.organization_service_pb2 import ListApiKeysRequest
from headrace.v1.organization_service_pb2_grpc import OrganizationServiceStub
from headrace.v1.tickets_pb2 import TICKET_STATE_CANCELED, TICKET_STATE_QUEUED
from lent import House, opened

PARAMS = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": {"text": "hi"}}]}
LIMITS = json.dumps([{"name": "anns", "match": {"caller": "ann"}, "requests_per_minute": 60, "burst": "2s"}])


class Desk:
    """The service, asked by one caller or another."""

    def __init__(self, house: House, channel: grpc.aio.Channel) -> None:
        self.house, self.channel = house, channel
        self.parts = house.one.parts
        self.number = 0

    def metadata(self, name: str) -> tuple[tuple[str, str], ...]:
        if name.startswith("uid:"):
            return ((passkey.HEADER, passkey.said(self.parts.passkey or "none", name)),)
        return (("x-api-key", self.house.keys[name]),)

    async def ask(self, method: str, by: str = "ops", **request):
        asked = getattr(pb, f"{method}Request")(**request)
        return await getattr(OperatorServiceStub(self.channel), method)(asked, metadata=self.metadata(by), timeout=20)

    async def refused(self, method: str, by: str = "ops", **request) -> grpc.StatusCode:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await self.ask(method, by, **request)
        return raised.value.code()

    async def submit(self, by: str = "ann") -> str:
        self.number += 1
        request = SubmitMessageRequest(params=PARAMS | {"max_tokens": self.number})
        reply = await MessagesServiceStub(self.channel).SubmitMessage(request, metadata=self.metadata(by))
        return reply.ticket.id

    async def letter(self) -> str:
        ticket = await self.submit()
        await self.parts.tickets.finish(ticket, error=UpstreamError("no", status=400))
        return ticket

    async def acts(self) -> list[tuple[str, str, str, str]]:
        return [(act.what, act.target, act.by, act.reason) for act in (await self.ask("ListActs")).acts]


@contextlib.asynccontextmanager
async def desk_at(url: str, path: Path, **settings: str) -> AsyncIterator[Desk]:
    async with (
        opened(url, path, LIMIT=LIMITS, **settings) as house,
        grpc.aio.insecure_channel(f"127.0.0.1:{house.port}") as channel,
    ):
        yield Desk(house, channel)


@pytest.fixture
async def desk(valkey_url, tmp_path):
    async with desk_at(valkey_url, tmp_path) as made:
        yield made


async def test_tickets(desk: Desk) -> None:
    """Of all callers for who may, by filters and without answers; acts on them say who did it and why."""
    desk.parts.ringer.is_resting = lambda: True  # nobody makes their attempts
    anns, bobs = await desk.submit("ann"), await desk.submit("bob")

    async def listed(**filters) -> list[str]:
        return [ticket.id for ticket in (await desk.ask("ListAllTickets", "eye", **filters)).tickets]

    assert set(await listed()) == {anns, bobs}
    assert await listed(caller="a*") == [anns]
    assert await listed(caller="a*", state=TICKET_STATE_CANCELED) == []
    assert set(await listed(state=TICKET_STATE_QUEUED)) == {anns, bobs}
    assert (await desk.ask("GetAnyTicket", "eye", id=bobs)).ticket.caller == "bob"
    assert await desk.refused("CancelAnyTicket", "eye", id=bobs) is grpc.StatusCode.PERMISSION_DENIED
    assert await desk.refused("DropTicket", id=bobs) is grpc.StatusCode.INVALID_ARGUMENT  # it has not ended
    assert (await desk.ask("CancelAnyTicket", id=bobs, reason="flood")).ticket.state == TICKET_STATE_CANCELED
    await desk.ask("DropTicket", id=bobs, reason="erasure")
    assert await desk.refused("GetAnyTicket", id=bobs) is grpc.StatusCode.NOT_FOUND
    assert await desk.refused("CancelAnyTicket", id=anns, reason="x" * 201) is grpc.StatusCode.INVALID_ARGUMENT
    assert await desk.acts() == [("ticket.dropped", bobs, "ops", "erasure"), ("ticket.canceled", bobs, "ops", "flood")]


async def test_dead_letters(desk: Desk) -> None:
    """One is queued again by an operator, and one dropped, its place among the letters with it."""
    desk.parts.ringer.is_resting = lambda: True
    first, second = await desk.letter(), await desk.letter()
    assert (await desk.ask("GetStatus", "eye")).dead_letters == 2
    assert (await desk.ask("RequeueTicket", id=first)).ticket.state == TICKET_STATE_QUEUED
    await desk.ask("DropTicket", id=second)
    assert (await desk.ask("GetStatus", "eye")).dead_letters == 0
    assert await desk.refused("RequeueTicket", id=second) is grpc.StatusCode.NOT_FOUND
    assert [what for what, *_ in await desk.acts()] == ["ticket.dropped", "ticket.requeued"]


async def test_explained(desk: Desk) -> None:
    """What became of a submitted call its caller and observers learn, and no other caller; never what was asked."""
    ticket = await desk.submit()

    async def is_told() -> bool:
        return len((await desk.ask("ExplainCall", "ann", id=ticket)).calls) == 1

    await until(is_told)
    for asker in ("ann", "eye", "ops"):
        reply = await desk.ask("ExplainCall", asker, id=ticket)
        assert (reply.calls[0].caller, reply.calls[0].edge, reply.ticket.id) == ("ann", "queue", ticket)
        assert not reply.ticket.HasField("message")
        assert b"hello" not in reply.SerializeToString()
        assert [phase.what for phase in reply.ticket_phases if phase.what == "attempt"] == ["attempt"]
        assert (await desk.ask("ExplainCall", asker, id=reply.calls[0].id)).ticket.id == ticket
    assert await desk.refused("ExplainCall", "bob", id=ticket) is grpc.StatusCode.NOT_FOUND
    assert await desk.refused("ExplainCall", "ann") is grpc.StatusCode.INVALID_ARGUMENT


async def test_forecast(desk: Desk) -> None:
    """A caller asks of itself, an observer of all; a hold is told; nothing is reserved."""
    first = await desk.ask("ForecastCall", "ann", model="m", input_tokens=10)
    assert [bucket.limit for bucket in first.buckets] == ["anns"]
    assert (first.limit, first.refused, first.expected_wait.ToMicroseconds()) == ("", False, 0)
    assert (await desk.ask("ForecastCall", "eye", caller="ann", model="m")).buckets[0].level == first.buckets[0].level == 2
    assert (await desk.ask("ForecastCall", "eye", caller="bob", model="m")).buckets == []
    assert await desk.refused("ForecastCall", "bob", caller="ann", model="m") is grpc.StatusCode.PERMISSION_DENIED
    assert await desk.refused("ForecastCall", "eye", caller="ann", input_tokens=-1) is grpc.StatusCode.INVALID_ARGUMENT
    budgets = budgets_service_pb2_grpc.BudgetsServiceStub(desk.channel)
    hold = budgets_service_pb2.HoldCallerRequest(caller="ann", refuse=True, reason="why")
    await budgets.HoldCaller(hold, metadata=desk.metadata("ops"))
    held = await desk.ask("ForecastCall", "ann", model="m")
    assert (held.refused, held.hold.reason) == (True, "why")


async def test_other_acts(desk: Desk) -> None:
    """Limits, holds and purges are audited, too, each with its reason."""
    budgets, by = budgets_service_pb2_grpc.BudgetsServiceStub(desk.channel), desk.metadata("ops")
    figures = budgets_service_pb2.LimitFigures(requests_per_minute=6000)
    await budgets.SetLimit(budgets_service_pb2.SetLimitRequest(limit="anns", figures=figures, reason="a"), metadata=by)
    await budgets.DeleteLimit(budgets_service_pb2.DeleteLimitRequest(limit="anns", reason="b"), metadata=by)
    await budgets.HoldCaller(budgets_service_pb2.HoldCallerRequest(caller="bob", reason="c"), metadata=by)
    await budgets.ReleaseCaller(budgets_service_pb2.ReleaseCallerRequest(caller="bob", reason="d"), metadata=by)
    cache = cache_service_pb2_grpc.CacheServiceStub(desk.channel)
    purge = cache_service_pb2.PurgeCacheRequest(model="m", reason="e")
    await cache.PurgeCache(purge, metadata=desk.metadata("boss"))
    assert await desk.acts() == [
        ("cache.purged", "model=m", "boss", "e"), ("caller.released", "bob", "ops", "d"), ("caller.held", "bob", "ops", "c"),
        ("limit.unset", "anns", "ops", "b"), ("limit.set", "anns", "ops", "a"),
    ]  # fmt: skip
    assert (await desk.ask("ListActs")).acts[-1].details == "requests_per_minute=6000"


@contextlib.asynccontextmanager
async def doors_at(desk: Desk, path: Path) -> AsyncIterator[tuple[Desk, Desk]]:
    """Open a unix socket and a port of a daemon that has a passkey; root stands at each."""
    desk.parts.passkey = passkey.make(path)
    async with (
        grpc_server(desk.house.one, path, ("unix:o.sock", "127.0.0.1:0")) as door,
        grpc.aio.insecure_channel(f"unix:{path}/o.sock") as socket,
        grpc.aio.insecure_channel(f"127.0.0.1:{door.ports[1]}") as port,
    ):
        yield Desk(desk.house, socket), Desk(desk.house, port)


async def test_root(desk: Desk, tmp_path) -> None:
    """Who can read the daemon's passkey may operate it without a key, and is named; who cannot is a stranger as ever."""
    assert await desk.refused("ListHosts", "uid:0") is grpc.StatusCode.UNAUTHENTICATED
    async with doors_at(desk, tmp_path) as (root, _):
        await root.parts.operated.drains.end("nobody")
        assert (await root.ask("ListHosts", "uid:0")).hosts != []
        assert await root.refused("DrainHost", "uid:0", host="nowhere") is grpc.StatusCode.NOT_FOUND
        ticket = await desk.submit()
        await root.ask("CancelAnyTicket", "uid:0", id=ticket)
        assert ("ticket.canceled", ticket, "uid:0", "") in await desk.acts()
        desk.parts.passkey = "other"
        assert await root.refused("ListHosts", "uid:0") is grpc.StatusCode.UNAUTHENTICATED


async def test_root_makes_no_calls(desk: Desk, tmp_path) -> None:
    """Calls have to say whose they are, and what upstream is asked for by an admin's key, an admin has to ask for."""
    async with doors_at(desk, tmp_path) as (root, _):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await root.submit("uid:0")
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
        stub = OrganizationServiceStub(root.channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.ListApiKeys(ListApiKeysRequest(), metadata=root.metadata("uid:0"))
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert desk.house.upstream.asked == []


async def test_root_at_a_port(desk: Desk, tmp_path) -> None:
    """At a port the passkey is nothing, so that a copy of the file is worth nothing wherever a port can be reached from."""
    async with doors_at(desk, tmp_path) as (_, root):
        for method in ("GetStatus", "ListHosts", "ListAllTickets", "ListActs"):
            assert await root.refused(method, "uid:0") is grpc.StatusCode.UNAUTHENTICATED
        assert await root.refused("DrainHost", "uid:0", host="*") is grpc.StatusCode.UNAUTHENTICATED
        letters = LettersServiceStub(root.channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await letters.ListLetters(ListLettersRequest(), metadata=root.metadata("uid:0"))
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
        # Beside a key it is no more than the key.
        both = (*root.metadata("uid:0"), *root.metadata("ann"))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await OperatorServiceStub(root.channel).ListHosts(pb.ListHostsRequest(), metadata=both)
        assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_root_at_a_port_without_keys(valkey_url, tmp_path) -> None:
    """Where no keys are asked for, whoever presents it at a port has everybody's role, and is not named root."""
    async with desk_at(valkey_url, tmp_path, AUTH__REQUIRED="false") as desk, doors_at(desk, tmp_path) as (socket, port):
        assert await port.refused("ListHosts", "uid:0") is grpc.StatusCode.PERMISSION_DENIED
        assert (await socket.ask("ListHosts", "uid:0")).hosts != []
