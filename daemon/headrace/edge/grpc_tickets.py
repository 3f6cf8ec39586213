"""TicketsService: calls that may outlive their RPC. A caller sees its own only."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any, Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from headrace import forms, globs, roles
from headrace.answers import Answers, is_light
from headrace.aside import joined
from headrace.edge import status, trailers, translate
from headrace.edge.grpc_asks import SOURCES
from headrace.edge.grpc_calls import Asker, Handler, Who, guarded, parse
from headrace.edge.leaving import Leaving
from headrace.errors import HeadraceError, InvalidCall, UpstreamError
from headrace.model import Answer, Form, Source
from headrace.owner import Owner, name_in
from headrace.resources import Guard
from headrace.retry.listing import Wanted
from headrace.retry.ticket import State, Ticket
from headrace.retry.tickets import Tickets
from headrace.v1 import messages_pb2, options_pb2, tickets_pb2, tickets_service_pb2

JOB = "headrace.edge.grpc_tickets:job"

_PAGE = 50
_MAX_PAGE = 1000


class Asking(Protocol):
    """A request of TicketsService."""

    @property
    def options(self) -> options_pb2.CallOptions: ...


class Filters(Protocol):
    """A request for tickets of some kind."""

    @property
    def model(self) -> str: ...
    @property
    def lane(self) -> str: ...
    @property
    def state(self) -> tickets_pb2.TicketState.ValueType: ...
    @property
    def since_time(self) -> Timestamp: ...
    @property
    def until_time(self) -> Timestamp: ...
    def HasField(self, field_name: Any) -> bool: ...  # noqa: N802


class TicketsServicer:
    """One short method per RPC."""

    def __init__(self, tickets: Tickets, who: Who, guard: Guard, answers: Answers) -> None:
        self._tickets = tickets
        self._guard = guard
        self._answers = answers
        self._who = who
        self._leaving = Leaving("the daemon is draining; the ticket goes on, so ask another one, or again in a moment")

    def __repr__(self) -> str:
        return f"<TicketsServicer {self._tickets!r}>"

    @property
    def unary(self) -> dict[str, Handler]:
        """The methods that answer once."""
        return {"GetTicket": self.get, "WaitTicket": self.wait, "CancelTicket": self.cancel, "ListTickets": self.list}

    @property
    def streaming(self) -> dict[str, Handler]:
        """The method that answers many times."""
        return {"WatchTicket": self.watch}

    def leave(self) -> None:
        """End what waits: the daemon drains, and any other can be asked."""
        self._leaving.begin()

    @guarded
    async def get(self, raw: bytes, context: Any) -> bytes:
        """Return a ticket as it is now."""
        request = parse(tickets_service_pb2.GetTicketRequest, raw)
        owner = self._owner("GetTicket", request, context)
        ticket = await self._noted(await self._tickets.get(ticket_id(request.id), owner), owner)
        return await self._said(tickets_service_pb2.GetTicketResponse, ticket)

    @guarded
    async def wait(self, raw: bytes, context: Any) -> bytes:
        """Return a ticket once it has ended."""
        request = parse(tickets_service_pb2.WaitTicketRequest, raw)
        owner = self._owner("WaitTicket", request, context)
        ticket = await self._tickets.get(ticket_id(request.id), owner)  # not another's
        if not ticket.state.is_terminal:
            async with self._leaving.unless():
                ticket = await self._tickets.wait(ticket.id)
            self._owner("WaitTicket", request, context)  # whose key may have been revoked meanwhile
        await self._noted(ticket, owner)
        return await self._said(tickets_service_pb2.WaitTicketResponse, ticket)

    @guarded
    async def watch(self, raw: bytes, context: Any) -> None:
        """Tell a ticket at each change, until it ends."""
        request = parse(tickets_service_pb2.WatchTicketRequest, raw)
        owner = self._owner("WatchTicket", request, context)
        changes = self._tickets.watching.changes(ticket_id(request.id), owner)
        async with contextlib.aclosing(changes):
            # Only the waiting ends when the daemon leaves: a message that is half said is said to its end.
            while (ticket := await self._next(changes)) is not None:
                self._owner("WatchTicket", request, context)  # whose key may have been revoked meanwhile
                await self._noted(ticket, owner)
                await context.write(await self._said(tickets_service_pb2.WatchTicketResponse, ticket))

    async def _next(self, changes: AsyncGenerator[Ticket, None]) -> Ticket | None:
        async with self._leaving.unless():
            return await anext(changes, None)
        return None

    @guarded
    async def cancel(self, raw: bytes, context: Any) -> bytes:
        """Cancel a ticket, and return it."""
        request = parse(tickets_service_pb2.CancelTicketRequest, raw)
        ticket = await self._tickets.cancel(ticket_id(request.id), self._owner("CancelTicket", request, context))
        return await self._said(tickets_service_pb2.CancelTicketResponse, ticket)

    @guarded
    async def list(self, raw: bytes, context: Any) -> bytes:
        """Return a page of the caller's tickets, or for admins of others'."""
        request = parse(tickets_service_pb2.ListTicketsRequest, raw)
        asker = self._who.ask(context, "TicketsService.ListTickets", request.options.caller)
        tickets, token = await self._tickets.listing.page(
            self._whose(request.owner, asker),
            wanted(request),
            page_size=page_size(request.page_size),
            page_token=request.page_token,
        )
        return tickets_service_pb2.ListTicketsResponse(
            tickets=[ticket_message(ticket, is_whole=False) for ticket in tickets], next_page_token=token
        ).SerializeToString()

    def _whose(self, asked: str, asker: Asker) -> str:
        if asked in ("", asker.owner.text):
            return asker.owner.text
        if self._who.tells_apart:
            roles.ADMINS.check(asker.caller.role)
        return asked

    async def _noted(self, ticket: Ticket, owner: Owner) -> Ticket:
        if ticket.answer is not None and self._guard.may_tell(ticket.answer, has_thread=True):
            await self._guard.note(owner, await self._answers.made(ticket.answer, has_thread=True))
        return ticket

    async def _said(self, response: Any, ticket: Ticket) -> bytes:
        """Return a response that has a ticket, with its answer."""
        answer = ticket.answer
        if answer is None or is_light(answer.payload):
            said: bytes = response(ticket=ticket_message(ticket)).SerializeToString()
            return said
        head = ticket_message(ticket, is_whole=False).SerializeToString()
        rest = await self._answers.aside.run(JOB, answer.form.encode(), answer.payload)
        return await joined((_prefix(response, len(head) + len(rest)), head, rest))

    def _owner(self, method: str, request: Asking, context: Any) -> Owner:
        return self._who.ask(context, f"TicketsService.{method}", request.options.caller).owner


def ticket_message(ticket: Ticket, *, is_whole: bool = True, waits_for: str = "") -> tickets_pb2.Ticket:
    """Return a ticket as callers see it, with its answer if it *is_whole*, and for operators with what it waits for."""
    said = tickets_pb2.Ticket(
        id=ticket.id,
        state=tickets_pb2.TicketState.Value(f"TICKET_STATE_{ticket.state.value}"),
        model=ticket.model.encode("utf-8", "replace").decode(),
        create_time=timestamp(ticket.created),
        expire_time=timestamp(ticket.deadline),
        attempt_time=timestamp(ticket.due) if ticket.state is State.QUEUED else None,
        attempts=ticket.attempts,
        error=_error(ticket.error) if ticket.error is not None else None,
        caller=name_in(ticket.owner),
        lane=ticket.lane,
        end_time=timestamp(ticket.ended) if ticket.ended else None,
        waits_for=waits_for,
    )
    if is_whole and ticket.answer is not None:
        _add_answer(said, ticket.answer)
    if ticket.state is State.SUCCEEDED:
        said.origin.CopyFrom(_origin(ticket))
    return said


def job(form: bytes, payload: bytes) -> bytes:
    """Return those fields of a ticket that say its answer, in the helper: serialised messages concatenate."""
    said = tickets_pb2.Ticket()
    _add_answer(said, Answer(Form(form.decode()), payload, 0.0))
    return said.SerializeToString()


def _prefix(response: Any, length: int) -> bytes:
    # What stands before a ticket of so many bytes: its tag, and the length as a varint.
    said = bytearray([response.DESCRIPTOR.fields_by_name["ticket"].number << 3 | 2])
    while length > 0x7F:
        said.append(length & 0x7F | 0x80)
        length >>= 7
    said.append(length)
    return bytes(said)


def _add_answer(said: tickets_pb2.Ticket, answer: Answer) -> None:
    try:
        payload = forms.json_payload(answer)
    except ValueError:  # events that tell no message: a chat's
        payload = answer.payload
    if forms.is_message(payload):
        said.message.CopyFrom(translate.read(payload, messages_pb2.Message))
    else:
        said.other_answer = payload


def _origin(ticket: Ticket) -> options_pb2.Origin:
    return options_pb2.Origin(
        source=SOURCES[Source(ticket.source or Source.UPSTREAM)],
        attempts=ticket.attempts,
        ticket=ticket.id,
        request_id=ticket.answer.request_id if ticket.answer else "",
    )


def _error(error: HeadraceError) -> tickets_pb2.TicketError:
    said = status.say(error)
    upstreams = error if isinstance(error, UpstreamError) else None
    return tickets_pb2.TicketError(
        code=said.code,
        reason=error.reason,
        message=said.message,
        metadata=trailers.bounded(error.metadata),
        upstream_status=upstreams.status if upstreams else 0,
        upstream_body=upstreams.body if upstreams else b"",
    )


def timestamp(seconds: float) -> Timestamp:
    """Return a moment (Unix seconds), to the millisecond."""
    time = Timestamp()
    time.FromMilliseconds(round(seconds * 1000))
    return time


def ticket_id(text: str) -> str:
    """Return a ticket's id as a request has it; raises `InvalidCall` if it is missing."""
    if not text:
        raise InvalidCall("id: must be a ticket's, and is missing", metadata={"field": "id"})
    return text


def page_size(asked: int) -> int:
    """Return how many a page may hold; raises `InvalidCall` for less than 0."""
    if asked < 0:
        raise InvalidCall(f"page_size: must be 0 or more, not {asked}", metadata={"field": "page_size"})
    return min(asked or _PAGE, _MAX_PAGE)


def wanted(request: Filters) -> Wanted:
    """Return which tickets a request asks for; raises `InvalidCall`."""
    globs.check(request.model, "model")
    return Wanted(
        state=_state(request.state),
        model=request.model or "*",
        lane=request.lane.lower(),
        since=_seconds(request.since_time) if request.HasField("since_time") else 0.0,
        until=_seconds(request.until_time) if request.HasField("until_time") else None,
    )


def _seconds(time: Timestamp) -> float:
    return max(0.0, time.seconds + time.nanos / 1e9)


def _state(asked: tickets_pb2.TicketState.ValueType) -> State | None:
    if asked == tickets_pb2.TICKET_STATE_UNSPECIFIED:
        return None
    if asked not in tickets_pb2.TicketState.values():
        raise InvalidCall(f"state: there is no state {asked}", metadata={"field": "state"})
    return State(tickets_pb2.TicketState.Name(asked).removeprefix("TICKET_STATE_"))
