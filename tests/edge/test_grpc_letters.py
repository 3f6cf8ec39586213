"""LettersService over a real Valkey: who sees what, what was asked goes to its owner alone, and letters are tickets again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from desk import Desk, SilentAlarms, Submitting
from grpc_fakes import FakeCallers, details, serving
from headrace.clock import SystemClock
from headrace.errors import UpstreamError
from headrace.link import Link
from headrace.model import Role
from headrace.retry.letters import Letters
from headrace.retry.tickets import Tickets
from headrace.v1 import letters_service_pb2 as pb
from headrace.v1 import letters_service_pb2_grpc, tickets_pb2

KEYS = {"ka": "ann", "kb": "bob", "ko": "ops"}


class Office(Desk):
    """The desk, and the letters behind it."""

    def __init__(self, tickets: Tickets, channel: grpc.aio.Channel) -> None:
        super().__init__(tickets, channel)
        self.letters = letters_service_pb2_grpc.LettersServiceStub(channel)

    async def failed(self, key: str = "ka") -> str:
        ticket = await self.submit(metadata=as_(key))
        await self.finish(ticket.id, error=UpstreamError("no", status=400, type="invalid_request_error", body=b"{}"))
        return ticket.id


def as_(key: str) -> tuple[tuple[str, str], ...]:
    return (("x-api-key", key),)


@pytest.fixture
async def office(tmp_path: Path, link: Link) -> AsyncIterator[Office]:
    tickets = Tickets(link, SystemClock(), SilentAlarms())
    letters = Letters(link, SystemClock(), tickets)
    callers = FakeCallers(KEYS, ops=Role.OPERATOR)
    async with serving(tmp_path, Submitting(tickets), tickets=tickets, letters=letters, callers=callers) as (_, channel):
        yield Office(tickets, channel)


async def test_whose(office: Office) -> None:
    """Everybody sees its own, an operator everybody's; only the owner is told what was asked."""
    letter = await office.failed()
    for key, count in (("ka", 1), ("kb", 0), ("ko", 1)):
        said = await office.letters.ListLetters(pb.ListLettersRequest(), metadata=as_(key))
        assert [each.ticket.id for each in said.letters] == [letter] * count
    for key, is_told in (("ka", True), ("ko", False)):
        got = (await office.letters.GetLetter(pb.GetLetterRequest(id=letter), metadata=as_(key))).letter
        assert (got.ticket.caller, got.ticket.error.upstream_status, got.path) == ("ann", 400, "/v1/messages")
        assert got.fail_time.ToSeconds() > 0
        assert got.body_bytes > 0
        assert bool(got.body) == is_told
    assert json.loads((await office.letters.GetLetter(pb.GetLetterRequest(id=letter), metadata=as_("ka"))).letter.body)["model"]
    for rpc, request in (
        (office.letters.GetLetter, pb.GetLetterRequest(id=letter)),
        (office.letters.RequeueLetter, pb.RequeueLetterRequest(id=letter)),
        (office.letters.DropLetter, pb.DropLetterRequest(id=letter)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await rpc(request, metadata=as_("kb"))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        assert "ResourceInfo" in details(refused.value)


async def test_of_one_caller(office: Office) -> None:
    """An operator picks one caller's; for another caller there is nothing of others to pick."""
    mine, yours = await office.failed("ka"), await office.failed("kb")
    for key, owner, found in (("ko", "ann", [mine]), ("ko", "", [yours, mine]), ("kb", "ann", []), ("kb", "bob", [yours])):
        said = await office.letters.ListLetters(pb.ListLettersRequest(owner=owner), metadata=as_(key))
        assert [each.ticket.id for each in said.letters] == found, (key, owner)


@pytest.mark.parametrize("key", ["ka", "ko"])
async def test_requeue_and_drop(office: Office, key: str) -> None:
    """Its owner and an operator can have it tried again, for as long as they say, and drop it."""
    letter = await office.failed()
    request = pb.RequeueLetterRequest(id=letter, answer_timeout=Duration(seconds=1000))
    ticket = (await office.letters.RequeueLetter(request, metadata=as_(key))).ticket
    assert (ticket.id, ticket.state, ticket.attempts) == (letter, tickets_pb2.TICKET_STATE_QUEUED, 0)
    await office.finish(letter, error=UpstreamError("no", status=400))
    await office.letters.DropLetter(pb.DropLetterRequest(id=letter), metadata=as_(key))
    with pytest.raises(grpc.aio.AioRpcError) as gone:
        await office.letters.GetLetter(pb.GetLetterRequest(id=letter), metadata=as_(key))
    assert gone.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("GetLetter", pb.GetLetterRequest(), "id"),
        ("DropLetter", pb.DropLetterRequest(), "id"),
        ("ListLetters", pb.ListLettersRequest(page_size=-1), "page_size"),
        ("ListLetters", pb.ListLettersRequest(page_token="x"), "page_token"),
        ("ListLetters", pb.ListLettersRequest(model="*" * 301), "model"),
        ("RequeueLetter", pb.RequeueLetterRequest(id="x", answer_timeout=Duration(seconds=86_401)), "answer_timeout"),
    ],
)
async def test_bad_input(office: Office, method: str, request_: Any, field: str) -> None:
    """What makes no sense is refused by name."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await getattr(office.letters, method)(request_, metadata=as_("ka"))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(refused.value)["BadRequest"].field_violations[0].field == field
