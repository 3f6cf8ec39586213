"""
The matrix of roles: every RPC that there is (by the descriptors) and every path, asked by everybody, against the one table.

A cell is one question by one asker, and what came of it: unknown, not allowed, not there, or let through. Where a question is
about something of ann's, "let through" means that ann's thing is in the answer.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from headrace import endpoints, keys, roles
from headrace.callers import KeyStore
from headrace.edge.grpc_routes import FILES, ROUTES
from headrace.errors import UpstreamError
from headrace.model import Role
from headrace.v1 import api_service_pb2 as api
from headrace.v1 import (
    budgets_service_pb2,
    cache_service_pb2,
    letters_service_pb2,
    message_batches_service_pb2,
    messages_service_pb2,
    operator_service_pb2,
    tickets_service_pb2,
    usage_service_pb2,
)
from lent import CALL, House, opened

PARAMS = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": {"text": "hi"}}]}
SERVICES = [
    service
    for file in (
        tickets_service_pb2,
        letters_service_pb2,
        cache_service_pb2,
        usage_service_pb2,
        budgets_service_pb2,
        operator_service_pb2,
        api,
        *FILES,
    )
    for service in file.DESCRIPTOR.services_by_name.values()
]
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
METHODS = {f"{service.full_name}.{method.name}": method for service in SERVICES for method in service.methods}
OTHERS = {f"{service.full_name}.{method.name}": method for service in (HEALTH, REFLECTION) for method in service.methods}

ROLE = {
    "caller": Role.CALLER, "other caller": Role.CALLER, "observer": Role.OBSERVER, "operator": Role.OPERATOR,
    "admin": Role.ADMIN,
}  # fmt: skip
NAMED = {"caller": "ann", "other caller": "bob", "observer": "eye", "operator": "ops", "admin": "boss"}
STRANGERS = ("nobody", "rubbish", "revoked")
ASKERS = (*STRANGERS, *ROLE)
UNKNOWN, REFUSED, ABSENT, THROUGH = "unknown", "not allowed", "not there", "through"

LIMITS = json.dumps([{"name": "anns", "match": {"caller": "ann"}, "requests_per_minute": 1000}])


def test_every_rpc_has_a_row() -> None:
    """No RPC is without a rule, and no rule without an RPC; the second reflection is the first by a newer name."""
    named = {name.replace("v1alpha", "v1") for name in (*METHODS, *OTHERS)}
    assert {name.replace("v1alpha", "v1") for name in roles.RPCS} - {"grpc.health.v1.Health.List"} == named - {
        "grpc.health.v1.Health.List"
    }


def test_rpcs_and_paths_agree() -> None:
    """A typed RPC is for whom its path is, and the admin key is used where admins alone may ask."""
    for route in ROUTES:
        path = route.path.replace("{id}", "x")
        assert roles.of_rpc(route.rpc) is roles.of_path(route.method, path), route.rpc
    for method in ("GET", "POST", "DELETE"):
        for path in ("/v1/organizations", "/v1/organizations/", "/v1/organizations/users/x", "/v1/organizationsx", "/v1/files"):
            assert endpoints.find(method, path).is_admins == (roles.of_path(method, path) is roles.ADMINS)


def expected(rule: roles.Rule, asker: str, *, is_anns: bool) -> set[str]:
    """What may come of a question, by the table."""
    if rule.least is None:
        return {THROUGH, ABSENT}
    if asker in STRANGERS:
        return {UNKNOWN}
    role = ROLE[asker]
    if list(Role).index(role) < list(Role).index(rule.least):
        return {REFUSED}
    if is_anns and asker != "caller" and rule.is_limited(role, told_apart=True):
        return {ABSENT, REFUSED}
    return {THROUGH}


class Matrix:
    """Asks, and holds what comes of it against the table."""

    def __init__(self, house: House, keys: dict[str, str], channel: grpc.aio.Channel, web: httpx.AsyncClient) -> None:
        self.house, self.keys, self.channel, self.web = house, keys, channel, web
        self.cells: Counter[str] = Counter()
        self.wrong: list[str] = []

    def tell(self, what: str, asker: str, rule: roles.Rule, came: str, *, is_anns: bool) -> None:
        self.cells[what.partition(" ")[0]] += 1
        if came not in (may := expected(rule, asker, is_anns=is_anns)):
            self.wrong.append(f"{what} as {asker}: {came}, not {may}")

    def metadata(self, asker: str) -> tuple[tuple[str, str], ...]:
        return (("x-api-key", self.keys[asker]),) if self.keys[asker] else ()

    # RPCs.

    async def rpc(self, name: str, method: Any, asker: str, request: Message, sees: Callable[[bytes], bool] | None) -> str:
        path = f"/{name.rpartition('.')[0]}/{method.name}"
        is_many_in, is_many_out = method.client_streaming, method.server_streaming
        metadata = self.metadata(asker)
        try:
            if is_many_in:
                call = self.channel.stream_stream(path)(iter([request.SerializeToString()]), metadata=metadata, timeout=20)
            elif is_many_out:
                call = self.channel.unary_stream(path)(request.SerializeToString(), metadata=metadata, timeout=20)
            else:
                raw = await self.channel.unary_unary(path)(request.SerializeToString(), metadata=metadata, timeout=20)
                return THROUGH if sees is None or sees(raw) else ABSENT
            first = await call.read()  # Watch never ends
            call.cancel()
            if name.endswith("ApiService.Call"):
                return _of_status(api.CallResponse.FromString(first).head.status)
        except grpc.aio.AioRpcError as error:
            return _of_code(error.code())
        return THROUGH

    # Paths.

    async def http(self, method: str, path: str, asker: str, body: bytes) -> tuple[int, bytes]:
        said = await self.web.request(method, path, content=body, headers=[*self.metadata(asker), *JSON])
        return said.status_code, said.content

    async def inside(self, method: str, path: str, asker: str, body: bytes) -> tuple[int, bytes]:
        headers = [api.Header(name=name, value=value) for name, value in JSON]
        request = api.CallRequest(head=api.CallRequestHead(method=method, path=path, headers=headers, body=body))
        call = self.channel.stream_stream("/headrace.v1.ApiService/Call")(
            iter([request.SerializeToString()]), metadata=self.metadata(asker), timeout=20
        )
        first, *rest = [api.CallResponse.FromString(part) async for part in call]
        return first.head.status, b"".join(part.chunk for part in rest)


JSON = [("content-type", "application/json")]


def _of_code(code: grpc.StatusCode) -> str:
    known = {
        grpc.StatusCode.UNAUTHENTICATED: UNKNOWN,
        grpc.StatusCode.PERMISSION_DENIED: REFUSED,
        grpc.StatusCode.NOT_FOUND: ABSENT,
    }
    assert code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
    return known.get(code, THROUGH)


def _of_status(status: int) -> str:
    assert status != 500
    return {401: UNKNOWN, 403: REFUSED, 404: ABSENT}.get(status, THROUGH)


@contextlib.asynccontextmanager
async def asked(url: str, path: Path) -> AsyncIterator[Matrix]:
    async with (
        opened(url, path, LIMIT=LIMITS, RETRY__MAX_TICKETS="100000") as house,
        grpc.aio.insecure_channel(f"127.0.0.1:{house.port}") as channel,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{house.http.port}", timeout=20) as web,
    ):
        store = KeyStore(house.one.parts.link)
        gone = await store.create("ann")
        await house.one.parts.callers.load()
        await store.revoke(gone.split("_")[1])
        await house.one.parts.callers.load()
        keys = {asker: house.keys[name] for asker, name in NAMED.items()}
        yield Matrix(house, keys | {"nobody": "", "rubbish": "hr_0123456789ab_" + "0" * 48, "revoked": gone}, channel, web)


# What of ann's an RPC is about, made anew for each cell, and whether it is in the answer.

Anns = Callable[[House], Awaitable[tuple[Message, Callable[[bytes], bool] | None]]]


async def _ticket(house: House) -> str:
    params = PARAMS | {"max_tokens": 100 + len(house.upstream.asked)}
    async with grpc.aio.insecure_channel(f"127.0.0.1:{house.port}") as channel:
        submit = channel.unary_unary("/headrace.v1.MessagesService/SubmitMessage")
        request = messages_service_pb2.SubmitMessageRequest(params=params)
        raw = await submit(request.SerializeToString(), metadata=(("x-api-key", house.keys["ann"]),))
    return messages_service_pb2.SubmitMessageResponse.FromString(raw).ticket.id


def of_ticket(cls: type[Message]) -> Anns:
    async def make(house: House) -> tuple[Message, None]:
        return cls(id=await _ticket(house)), None

    return make


async def listed_ticket(house: House) -> tuple[Message, Callable[[bytes], bool]]:
    ticket = await _ticket(house)
    return tickets_service_pb2.ListTicketsRequest(), lambda raw: ticket.encode() in raw


async def _letter(house: House) -> str:
    ticket, tickets = await _ticket(house), house.one.parts.tickets
    await tickets.finish(ticket, error=UpstreamError("no", status=400))
    if not await house.one.parts.link.do("ZSCORE", keys.LETTERS, f"{ticket}|ann"):
        return await _letter(house)  # the worker was quicker, and it was answered
    return ticket


def of_letter(cls: type[Message]) -> Anns:
    async def make(house: House) -> tuple[Message, None]:
        return cls(id=await _letter(house)), None

    return make


async def listed_letter(house: House) -> tuple[Message, Callable[[bytes], bool]]:
    letter = await _letter(house)
    return letters_service_pb2.ListLettersRequest(), lambda raw: letter.encode() in raw


def of_batch(cls: type[Message]) -> Anns:
    async def make(house: House) -> tuple[Message, None]:
        return cls(id=await house.make("ann", "/v1/messages/batches")), None

    return make


async def listed_batch(house: House) -> tuple[Message, Callable[[bytes], bool]]:
    batch = await house.make("ann", "/v1/messages/batches")
    return message_batches_service_pb2.ListMessageBatchesRequest(), lambda raw: batch.encode() in raw


def just(request: Message, sees: Callable[[bytes], bool] | None = None) -> Anns:
    async def make(house: House) -> tuple[Message, Callable[[bytes], bool] | None]:
        return request, sees

    return make


def _has_hers(raw: bytes) -> bool:
    return any(tier.entry_count for tier in cache_service_pb2.GetCacheStatsResponse.FromString(raw).tiers)


ANNS: dict[str, Anns] = {
    "TicketsService.GetTicket": of_ticket(tickets_service_pb2.GetTicketRequest),
    "TicketsService.WaitTicket": of_ticket(tickets_service_pb2.WaitTicketRequest),
    "TicketsService.CancelTicket": of_ticket(tickets_service_pb2.CancelTicketRequest),
    "TicketsService.WatchTicket": of_ticket(tickets_service_pb2.WatchTicketRequest),
    "TicketsService.ListTickets": listed_ticket,
    "LettersService.GetLetter": of_letter(letters_service_pb2.GetLetterRequest),
    "LettersService.RequeueLetter": of_letter(letters_service_pb2.RequeueLetterRequest),
    "LettersService.DropLetter": of_letter(letters_service_pb2.DropLetterRequest),
    "LettersService.ListLetters": listed_letter,
    "MessageBatchesService.GetMessageBatch": of_batch(message_batches_service_pb2.GetMessageBatchRequest),
    "MessageBatchesService.CancelMessageBatch": of_batch(message_batches_service_pb2.CancelMessageBatchRequest),
    "MessageBatchesService.DeleteMessageBatch": of_batch(message_batches_service_pb2.DeleteMessageBatchRequest),
    "MessageBatchesService.StreamMessageBatchResults": of_batch(message_batches_service_pb2.StreamMessageBatchResultsRequest),
    "MessageBatchesService.ListMessageBatches": listed_batch,
    "OperatorService.ExplainCall": of_ticket(operator_service_pb2.ExplainCallRequest),
    "OperatorService.ForecastCall": just(operator_service_pb2.ForecastCallRequest(caller="ann", model="m")),
    "CacheService.PurgeCache": just(cache_service_pb2.PurgeCacheRequest(caller="ann")),
    "CacheService.GetCacheStats": just(cache_service_pb2.GetCacheStatsRequest(), _has_hers),
    "UsageService.GetUsage": just(usage_service_pb2.GetUsageRequest(caller="ann")),
    "BudgetsService.ListBudgets": just(budgets_service_pb2.ListBudgetsRequest(), lambda raw: b"anns" in raw),
    "BudgetsService.GetBudget": just(budgets_service_pb2.GetBudgetRequest(limit="anns")),
}
REQUESTS: dict[str, Message] = {
    "OperatorService.DrainHost": operator_service_pb2.DrainHostRequest(host="nowhere"),
    "OperatorService.ResumeHost": operator_service_pb2.ResumeHostRequest(host="nowhere"),
    "ApiService.Call": api.CallRequest(head=api.CallRequestHead(method="GET", path="/v1/models")),
    "BudgetsService.SetLimit": budgets_service_pb2.SetLimitRequest(limit="anns"),
    "BudgetsService.DeleteLimit": budgets_service_pb2.DeleteLimitRequest(limit="anns"),
    "BudgetsService.HoldCaller": budgets_service_pb2.HoldCallerRequest(caller="somebody"),
    "BudgetsService.ReleaseCaller": budgets_service_pb2.ReleaseCallerRequest(caller=""),
}
LIMITED = {name for name, rule in roles.RPCS.items() if rule.all_from not in (Role.CALLER,) and rule is not roles.PUBLIC}


def test_everything_of_ones_own_is_tried() -> None:
    """Each RPC that is limited to one's own is asked about ann's things, but for the one that only makes some."""
    assert {f"headrace.v1.{name}" for name in ANNS} == LIMITED - {"headrace.v1.MessageBatchesService.CreateMessageBatch"}


async def test_every_rpc(valkey_url: str, tmp_path: Path, record_property: Any) -> None:
    """Every RPC, as everybody."""
    async with asked(valkey_url, tmp_path) as matrix:
        assert (await matrix.http("POST", "/v1/messages", "caller", json.dumps(CALL).encode()))[0] == 200  # for the cache
        for name, method in (METHODS | OTHERS).items():
            short = name.removeprefix("headrace.v1.")
            for asker in ASKERS:
                request, sees = REQUESTS.get(short, GetMessageClass(method.input_type)()), None
                if anns := ANNS.get(short):
                    request, sees = await anns(matrix.house)
                came = await matrix.rpc(name, method, asker, request, sees)
                if came == ABSENT and anns is None:
                    came = THROUGH  # it was let through, and found nothing
                if short == "CacheService.PurgeCache" and came == THROUGH:
                    await matrix.http("POST", "/v1/messages", "caller", json.dumps(CALL).encode())
                matrix.tell(f"rpc {short}", asker, roles.RPCS[name], came, is_anns=anns is not None)
    record_property("cells", matrix.cells.total())
    assert matrix.wrong == []
    assert matrix.cells.total() == len(ASKERS) * len(METHODS | OTHERS)


KNOWN = ("messages/batches", "files", "skills", "sessions", "vaults", "memory_stores", "containers")
PATHS = (
    "/v1/messages", "/v1/messages/count_tokens", "/v1/chat/completions", "/v1/models", "/v1/models/m",
    *(f"/v1/{name}" for name in (*KNOWN, "never_heard_of")),
    *(f"/v1/{name}/ANNS{below}" for name in (*KNOWN, "never_heard_of") for below in ("", "/", "/content", "/cancel", "/a/b")),
    "/v1/organizations", "/v1/organizations/users", "/v1/organizations/users/x", "/v1/organizations/api_keys/x",
    "/v1/organizations/workspaces/x/archive", "/v1/organizations/never/heard/of",
)  # fmt: skip
CALLS = PATHS[:3]
CHANGES = ("PUT", "PATCH", "DELETE")
OURS = ("/healthz", "/readyz", "/metrics", "/", "/v2/messages", "/healthz/x")


@pytest.mark.parametrize("verb", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
async def test_every_path(valkey_url: str, tmp_path: Path, verb: str, record_property: Any) -> None:
    """Every path with every method, as everybody, by HTTP and inside `ApiService.Call`."""
    async with asked(valkey_url, tmp_path) as matrix:
        doors = {"http": matrix.http, "call": matrix.inside}
        for path, asker in ((path, asker) for path in PATHS for asker in ASKERS):
            collection, has_anns, below = path.partition("/ANNS")
            for door, ask in doors.items():
                hers = await matrix.house.make("ann", collection) if has_anns else ""
                target = f"{collection}/{hers}{below}" if has_anns else path
                body = b"" if verb in ("GET", "HEAD") else json.dumps(CALL).encode()
                status, _ = await ask(verb, target, asker, body)
                came, rule = _of_status(status), roles.of_path(verb, target)
                is_all = not has_anns and rule is roles.LENT and (verb in CHANGES or (verb == "GET" and path in CALLS))
                if is_all and asker == "caller":
                    assert came in (REFUSED, ABSENT), target  # all that there is, which is not ann's alone
                    came = THROUGH
                is_anns = bool(has_anns) or is_all
                if came == ABSENT and expected(rule, asker, is_anns=is_anns) == {THROUGH} and not has_anns:
                    came = THROUGH  # upstream has nothing there
                matrix.tell(f"{door} {verb} {target}", asker, rule, came, is_anns=is_anns)
        for path, asker in ((path, asker) for path in OURS for asker in ASKERS):
            status, _ = await matrix.http(verb, path, asker, b"")
            matrix.tell(f"http {verb} {path}", asker, roles.of_path(verb, path), _of_status(status), is_anns=False)
    record_property("cells", matrix.cells.total())
    assert matrix.wrong == []
    assert matrix.cells.total() == len(ASKERS) * (2 * len(PATHS) + len(OURS))
