"""Calls to an installed daemon whose answers are awaited whole, and tickets, as their callers see them."""

from __future__ import annotations

import aiohttp
import grpc

from headrace.v1 import (
    messages_service_pb2,
    messages_service_pb2_grpc,
    tickets_pb2,
    tickets_service_pb2,
    tickets_service_pb2_grpc,
)
from listening import body_of


async def whole_of(at, text: str, **headers: str) -> tuple[int, str]:
    """Ask for a whole answer; return its status, and its id or the type of the error."""
    sent = {"anthropic-version": "2023-06-01"} | {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession() as session,
        session.post(at.http + "/v1/messages", json=body_of(text), headers=sent) as response,
    ):
        said = await response.json()
        return response.status, said.get("id") or said["error"]["type"]


async def submit(at, text: str) -> str:
    asked = messages_service_pb2.SubmitMessageRequest()
    asked.params.model, asked.params.max_tokens = "claude-haiku-4-5", 40
    asked.params.messages.add(role="user").content.text = text
    async with grpc.aio.insecure_channel(at.grpc) as channel:
        return (await messages_service_pb2_grpc.MessagesServiceStub(channel).SubmitMessage(asked, timeout=10)).ticket.id


async def outcome_of(at, ticket: str) -> str:
    """Wait for a ticket's end, and return its state."""
    async with grpc.aio.insecure_channel(at.grpc) as channel:
        asked = tickets_service_pb2.WaitTicketRequest(id=ticket)
        reply = await tickets_service_pb2_grpc.TicketsServiceStub(channel).WaitTicket(asked, timeout=60)
    return tickets_pb2.TicketState.Name(reply.ticket.state).removeprefix("TICKET_STATE_")
