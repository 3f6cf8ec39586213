"""What tests of tickets at the gRPC door share: a flow that only takes calls in, alarms that never ring, and the services."""

from __future__ import annotations

from typing import Any

import grpc.aio

from grpc_fakes import FakeFlow
from headrace.model import Call
from headrace.retry.ticket import Claimed, Ticket
from headrace.retry.tickets import Tickets
from headrace.v1 import messages_service_pb2, messages_service_pb2_grpc, tickets_pb2, tickets_service_pb2_grpc

PARAMS = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": {"text": "hi"}}]}


class SilentAlarms:
    """Alarms that never ring: the tests make the attempts."""

    async def schedule(self, ticket_id: str, attempt: int, due: float) -> None:
        pass

    def wake(self) -> None:
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

    async def submit(self, *, metadata: Any = None, **request: Any) -> tickets_pb2.Ticket:
        asked = messages_service_pb2.SubmitMessageRequest(params=PARAMS, **request)
        response = await self._messages.SubmitMessage(asked, metadata=metadata)
        return response.ticket

    async def finish(self, ticket_id: str, **end: Any) -> None:
        assert await self.tickets.start(ticket_id, 1)
        await self.tickets.finish(ticket_id, **end)
