"""OperatorService: all daemons seen and acted on by those who operate them. Nothing of what was asked or answered is in it."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

from headrace import audit, globs
from headrace.audit import Audit
from headrace.edge import operator_messages as messages
from headrace.edge.grpc_calls import Asker, Handler, Who, guarded, parse
from headrace.edge.grpc_letters import lasts_s
from headrace.edge.grpc_tickets import page_size, ticket_id, ticket_message, wanted
from headrace.errors import InvalidCall, NotAllowed, RedisAway
from headrace.explain import Asked
from headrace.explain.timeline import phases
from headrace.hosts import Fact
from headrace.hosts.fact import named
from headrace.labels import labels_of
from headrace.operated import Operated
from headrace.retry.letters import Letters
from headrace.retry.listing import EVERYBODY
from headrace.retry.ticket import Ticket
from headrace.retry.tickets import Tickets
from headrace.v1 import operator_service_pb2 as pb
from headrace.v1 import tickets_pb2

_MAX_TOKENS = 1024


class OperatorServicer:
    """One short method per RPC."""

    def __init__(self, operated: Operated, tickets: Tickets, letters: Letters, audit: Audit, who: Who) -> None:
        self._operated = operated
        self._tickets = tickets
        self._letters = letters
        self._audit = audit
        self._who = who

    def __repr__(self) -> str:
        return f"<OperatorServicer {self._operated!r}>"

    @property
    def unary(self) -> dict[str, Handler]:
        """The methods that answer once."""
        return {
            "GetStatus": self.status, "ListHosts": self.hosts, "DrainHost": self.drain, "ResumeHost": self.resume,
            "ExplainCall": self.explain, "ForecastCall": self.forecast, "ListAllTickets": self.tickets,
            "GetAnyTicket": self.ticket, "CancelAnyTicket": self.cancel, "RequeueTicket": self.requeue,
            "DropTicket": self.drop, "ListActs": self.acts,
        }  # fmt: skip

    def _ask(self, method: str, context: Any, named: str = "") -> Asker:
        return self._who.ask(context, f"OperatorService.{method}", named)

    def _by(self, method: str, context: Any, reason: str) -> str:
        by = self._ask(method, context).caller.name
        audit.check(reason)
        return by

    # Hosts.

    @guarded
    async def status(self, raw: bytes, context: Any) -> bytes:
        """Return how all of it stands."""
        self._ask("GetStatus", context)
        parse(pb.GetStatusRequest, raw)
        status, letters = await self._operated.status(), 0
        with contextlib.suppress(RedisAway):
            letters = await self._letters.count()
        return messages.status(status, letters).SerializeToString()

    @guarded
    async def hosts(self, raw: bytes, context: Any) -> bytes:
        """Return the processes."""
        self._ask("ListHosts", context)
        parse(pb.ListHostsRequest, raw)
        facts = await self._operated.register.all()
        return pb.ListHostsResponse(hosts=[messages.host(fact) for fact in facts]).SerializeToString()

    @guarded
    async def drain(self, raw: bytes, context: Any) -> bytes:
        """Take processes out of service."""
        request = parse(pb.DrainHostRequest, raw)
        by = self._by("DrainHost", context, request.reason)
        facts = await self._named(request.host)
        for fact in facts:
            await self._operated.drains.begin(fact.instance, by=by, reason=request.reason)
            await self._audit.note("host.drained", fact.instance, by=by, reason=request.reason)
        return pb.DrainHostResponse(hosts=[messages.host(fact) for fact in facts]).SerializeToString()

    @guarded
    async def resume(self, raw: bytes, context: Any) -> bytes:
        """Put processes back into service."""
        request = parse(pb.ResumeHostRequest, raw)
        by = self._by("ResumeHost", context, request.reason)
        facts = await self._named(request.host)
        for fact in facts:
            if await self._operated.drains.end(fact.instance):
                await self._audit.note("host.resumed", fact.instance, by=by, reason=request.reason)
        return pb.ResumeHostResponse(hosts=[messages.host(fact) for fact in facts]).SerializeToString()

    async def _named(self, name: str) -> list[Fact]:
        globs.check(name, "host")
        return named(await self._operated.register.all(), name)

    # Calls.

    @guarded
    async def explain(self, raw: bytes, context: Any) -> bytes:
        """Return what is known of a call, as far as whoever asks may see it."""
        request = parse(pb.ExplainCallRequest, raw)
        asker = self._ask("ExplainCall", context, request.options.caller)
        if not request.id:
            raise InvalidCall("id: must be a call's or a ticket's, and is missing", metadata={"field": "id"})
        story = await self._operated.stories.of(request.id, asker.owner.text if asker.is_limited else "")
        reply = pb.ExplainCallResponse(calls=[messages.told(call) for call in story.calls])
        if (ticket := story.ticket) is not None:
            reply.ticket.CopyFrom(await self._with_reason(ticket))
            took_s = (ticket.ended or self._operated.now()) - ticket.created
            said = phases(story.tries, began=ticket.created, took_s=max(0.0, took_s))
            reply.ticket_phases.extend(messages.phase(each) for each in said)
        return reply.SerializeToString()

    @guarded
    async def forecast(self, raw: bytes, context: Any) -> bytes:
        """Return what would become of a call, as far as whoever asks may know."""
        request = parse(pb.ForecastCallRequest, raw)
        asker = self._ask("ForecastCall", context, request.options.caller)
        name = request.caller or asker.caller.name
        if asker.is_limited and name != asker.caller.name:
            raise NotAllowed("Callers ask of their own calls only; the role observer asks of everybody's.")
        caller = self._operated.forecasts.caller(name)
        asked = Asked(
            caller=name, model=request.model, input_tokens=request.input_tokens, max_tokens=request.max_tokens or _MAX_TOKENS,
            lane=request.lane.lower(), labels=labels_of(request.labels.items(), caller),
        )  # fmt: skip
        return messages.forecast(await self._operated.forecasts.of(asked)).SerializeToString()

    # Tickets.

    @guarded
    async def tickets(self, raw: bytes, context: Any) -> bytes:
        """Return a page of tickets of all callers."""
        request = parse(pb.ListAllTicketsRequest, raw)
        self._ask("ListAllTickets", context)
        globs.check(request.caller, "caller")
        tickets, token = await self._tickets.listing.page(
            EVERYBODY,
            replace(wanted(request), caller=request.caller or "*"),
            page_size=page_size(request.page_size),
            page_token=request.page_token,
        )
        why = await self._operated.reasons.of(tickets)
        said = [ticket_message(ticket, is_whole=False, waits_for=why.get(ticket.id, "")) for ticket in tickets]
        return pb.ListAllTicketsResponse(tickets=said, next_page_token=token).SerializeToString()

    @guarded
    async def ticket(self, raw: bytes, context: Any) -> bytes:
        """Return a ticket."""
        request = parse(pb.GetAnyTicketRequest, raw)
        self._ask("GetAnyTicket", context)
        ticket = await self._tickets.look(ticket_id(request.id))
        return pb.GetAnyTicketResponse(ticket=await self._with_reason(ticket)).SerializeToString()

    async def _with_reason(self, ticket: Ticket) -> tickets_pb2.Ticket:
        why = await self._operated.reasons.of([ticket])
        return ticket_message(replace(ticket, call=None), is_whole=False, waits_for=why.get(ticket.id, ""))

    @guarded
    async def cancel(self, raw: bytes, context: Any) -> bytes:
        """Cancel a ticket."""
        request = parse(pb.CancelAnyTicketRequest, raw)
        by = self._by("CancelAnyTicket", context, request.reason)
        ticket = await self._tickets.cancel(ticket_id(request.id), None)
        await self._audit.note("ticket.canceled", ticket.id, by=by, reason=request.reason)
        return pb.CancelAnyTicketResponse(ticket=ticket_message(ticket, is_whole=False)).SerializeToString()

    @guarded
    async def requeue(self, raw: bytes, context: Any) -> bytes:
        """Make a ticket of a dead letter again."""
        request = parse(pb.RequeueTicketRequest, raw)
        by = self._by("RequeueTicket", context, request.reason)
        ticket = await self._letters.requeue(ticket_id(request.id), lasts_s=lasts_s(request))
        await self._audit.note("ticket.requeued", ticket.id, by=by, reason=request.reason)
        return pb.RequeueTicketResponse(ticket=ticket_message(ticket)).SerializeToString()

    @guarded
    async def drop(self, raw: bytes, context: Any) -> bytes:
        """Remove a ticket that has ended."""
        request = parse(pb.DropTicketRequest, raw)
        by = self._by("DropTicket", context, request.reason)
        await self._letters.erase(ticket_id(request.id))
        await self._audit.note("ticket.dropped", request.id, by=by, reason=request.reason)
        return pb.DropTicketResponse().SerializeToString()

    # Acts.

    @guarded
    async def acts(self, raw: bytes, context: Any) -> bytes:
        """Return what was done."""
        request = parse(pb.ListActsRequest, raw)
        self._ask("ListActs", context)
        acts, token = await self._audit.page(page_size(request.page_size), request.page_token)
        return pb.ListActsResponse(acts=[messages.act(act) for act in acts], next_page_token=token).SerializeToString()
