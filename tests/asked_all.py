"""Every RPC that only looks, every view of the live page: what comes of asking for all of them, of whatever lies in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import aiohttp
import grpc.aio
from google.protobuf.message import Message

from headrace.admin.views import VIEWS
from headrace.v1 import (
    budgets_service_pb2,
    cache_service_pb2,
    letters_service_pb2,
    message_batches_service_pb2,
    operator_service_pb2,
    tickets_service_pb2,
    usage_service_pb2,
)

_ID = "tkt_rubbish"
_USAGE = usage_service_pb2.GetUsageRequest(group_by=["caller", "model"])
ASKS: dict[str, tuple[Message, ...]] = {
    "TicketsService/ListTickets": (tickets_service_pb2.ListTicketsRequest(),),
    "TicketsService/GetTicket": (tickets_service_pb2.GetTicketRequest(id=_ID),),
    "TicketsService/WaitTicket": (tickets_service_pb2.WaitTicketRequest(id=_ID),),
    "TicketsService/CancelTicket": (tickets_service_pb2.CancelTicketRequest(id=_ID),),
    "LettersService/ListLetters": (letters_service_pb2.ListLettersRequest(),),
    "LettersService/GetLetter": (letters_service_pb2.GetLetterRequest(id=_ID),),
    "CacheService/GetCacheStats": (cache_service_pb2.GetCacheStatsRequest(),),
    "UsageService/GetUsage": (_USAGE, usage_service_pb2.GetUsageRequest()),
    "BudgetsService/ListBudgets": (budgets_service_pb2.ListBudgetsRequest(),),
    "BudgetsService/GetBudget": (budgets_service_pb2.GetBudgetRequest(limit="org"),),
    "OperatorService/GetStatus": (operator_service_pb2.GetStatusRequest(),),
    "OperatorService/ListHosts": (operator_service_pb2.ListHostsRequest(),),
    "OperatorService/ExplainCall": tuple(operator_service_pb2.ExplainCallRequest(id=each) for each in (_ID, "id")),
    "OperatorService/ForecastCall": (operator_service_pb2.ForecastCallRequest(caller="checkout", model="claude-sonnet-4-5"),),
    "OperatorService/ListAllTickets": (operator_service_pb2.ListAllTicketsRequest(),),
    "OperatorService/GetAnyTicket": (operator_service_pb2.GetAnyTicketRequest(id=_ID),),
    "OperatorService/ListActs": (operator_service_pb2.ListActsRequest(),),
    "MessageBatchesService/ListMessageBatches": (message_batches_service_pb2.ListMessageBatchesRequest(),),
    "MessageBatchesService/GetMessageBatch": (message_batches_service_pb2.GetMessageBatchRequest(id="id"),),
}  # fmt: skip
FINE = {grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND}


async def wrong_rpcs(channel: grpc.aio.Channel, metadata: Any, *, but: Iterable[str] = ()) -> list[str]:
    """Return what came of those RPCs that did not answer."""
    wrong = []
    for name, request in ((name, request) for name, requests in ASKS.items() if name not in but for request in requests):
        call = channel.unary_unary(f"/headrace.v1.{name}")(request.SerializeToString(), metadata=metadata, timeout=10)
        code = await call.code()
        if code not in FINE:
            wrong.append(f"{name}: {code.name}: {await call.details()}")
    return wrong


async def wrong_views(session: aiohttp.ClientSession, admin: str, headers: dict[str, str]) -> list[str]:
    """Return what came of those views that were not shown, as JSON and as HTML."""
    asked = await asyncio.gather(
        *(_view(session, f"{admin}/admin{form}/{view}", headers) for form in ("", "/api") for view in (*VIEWS, "calls/id"))
    )
    return [each for each in asked if each]


async def _view(session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> str:
    async with session.get(url, headers=headers) as response:
        said = await response.text()
        return "" if response.status == 200 and '"trouble":' not in said else f"{url}: {response.status} {said[:300]}"
