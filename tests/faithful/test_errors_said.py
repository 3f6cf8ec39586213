"""Both edges of a daemon say each error as docs/errors.md says, be it upstream's or its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from aiohttp import web
from grpc import StatusCode

from faithful.page import OTHERS, OURS, UPSTREAMS
from fleet import Daemon, daemon
from grpc_fakes import details
from headrace import forms
from headrace.edge import translate
from headrace.v1 import api_service_pb2, messages_pb2, options_pb2, organization_service_pb2, tickets_service_pb2
from headrace.v1 import messages_service_pb2 as service
from headrace.v1.api_service_pb2_grpc import ApiServiceStub
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub
from headrace.v1.organization_service_pb2_grpc import OrganizationServiceStub
from headrace.v1.tickets_service_pb2_grpc import TicketsServiceStub


def body_of(kind: str, message: str = "non, désolé \\u00e9") -> bytes:
    """A body as no encoder of ours would spell it."""
    spelled = '{ "type":"error",\r\n "error": {"type":"%s", "message":"%s", "new": 1.50}, "request_id" : "req_u" }\n'
    return (spelled % (kind, message)).encode()


# status, type, whether it comes with retry-after
SAID = [
    (400, "invalid_request_error", False), (401, "authentication_error", False), (402, "billing_error", False),
    (403, "permission_error", False), (404, "not_found_error", False), (408, "timeout_error", False),
    (409, "conflict_error", False), (413, "request_too_large", False), (422, "invalid_request_error", False),
    (429, "rate_limit_error", True), (429, "billing_error", False), (500, "api_error", False), (502, "api_error", False),
    (503, "api_error", True), (504, "timeout_error", False), (529, "overloaded_error", True), (418, "teapot_error", False),
    (520, "api_error", False),
]  # fmt: skip
BROKEN, ANSWERED, SILENT = "broken", "answered", "silent"  # what these models do
MESSAGE = {"id": "m", "type": "message", "content": [{"type": "text", "text": "half"}], "usage": {"output_tokens": 1}}


class Upstream:
    """Says what the model's name, or the end of the path, asks for: "429-rate_limit_error-True-17"."""

    def __init__(self) -> None:
        self.asked: dict[str, int] = {}
        self.is_over = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        wanted = request.path.rpartition("/")[2]
        if request.path == "/v1/messages":
            wanted = json.loads(await request.read())["model"]
        self.asked[wanted] = self.asked.get(wanted, 0) + 1
        if wanted.startswith(BROKEN):
            return await self._broken(request)
        if wanted == SILENT:
            await self.is_over.wait()
        if wanted == ANSWERED:
            return web.json_response(MESSAGE)
        number, kind, waits = wanted.split("-")[:3]
        headers = {"request-id": "req_u", "content-type": "application/json; charset=utf-8", "anthropic-organization-id": "org"}
        headers |= {"retry-after": "30"} if waits == "True" else {}
        return web.Response(status=int(number), body=body_of(kind), headers=headers)

    async def _broken(self, request: web.Request) -> web.StreamResponse:
        events = forms.events_of_message(MESSAGE)
        response = web.StreamResponse(headers={"content-type": "text/event-stream", "request-id": "req_u"})
        await response.prepare(request)
        await response.write(
            forms.join(events[:3]) + b"event: error\ndata: " + body_of("overloaded_error").replace(b"\r\n", b"") + b"\n"
        )
        return response


class Stage:
    """A daemon's two doors, and the upstream behind it."""

    def __init__(self, upstream: Upstream, http: httpx.AsyncClient, channel: grpc.aio.Channel) -> None:
        self.upstream, self.http = upstream, http
        self.messages, self.tickets = MessagesServiceStub(channel), TicketsServiceStub(channel)
        self.api, self.organization = ApiServiceStub(channel), OrganizationServiceStub(channel)


@contextlib.asynccontextmanager
async def doors(running: Daemon, upstream: Upstream) -> AsyncIterator[Stage]:
    async with httpx.AsyncClient(base_url=running.http) as http, grpc.aio.insecure_channel(running.grpc) as channel:
        yield Stage(upstream, http, channel)


@contextlib.asynccontextmanager
async def upstreaming() -> AsyncIterator[tuple[Upstream, str]]:
    upstream = Upstream()
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", upstream.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield upstream, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        upstream.is_over.set()
        await runner.cleanup()


LIMITS = json.dumps([
    {"name": "poor", "match": {"caller": "poor"}, "requests_per_minute": 1},
    {"name": "small", "match": {"caller": "small"}, "input_tokens_per_minute": 10},
])  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with upstreaming() as (upstream, url):
        with daemon(url, RETRY__MAX_ATTEMPTS="1", LIMIT=LIMITS) as running:
            async with doors(running, upstream) as stage:
                yield stage


asynchronous = pytest.mark.asyncio(loop_scope="module")


def ask(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}], **more}


async def over_grpc(stage: Stage, body: dict[str, Any], *, is_stream: bool = False, timeout: float = 5, **options: Any) -> Any:
    """Ask for what must fail; return the error and its details by name."""
    params, how = translate.read(json.dumps(body).encode(), messages_pb2.MessageParams), options_pb2.CallOptions(**options)
    if is_stream:
        call = stage.messages.StreamMessage(service.StreamMessageRequest(params=params, options=how), timeout=timeout)
    else:
        call = stage.messages.CreateMessage(service.CreateMessageRequest(params=params, options=how), timeout=timeout)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await (_to_the_end(call) if is_stream else call)
    return failed.value, details(failed.value)


async def _to_the_end(responses: AsyncIterator[Any]) -> None:
    async for _ in responses:
        pass


def row_of(number: int) -> list[str]:
    other = {value: name for name, value in OTHERS.items()}
    return next(row for row in UPSTREAMS if row[0] == other.get(number, str(number)))


@asynchronous
@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("number", "kind", "waits"), SAID)
async def test_upstream_over_http(stage: Stage, number: int, kind: str, waits: bool, is_stream: bool) -> None:
    """Status, body and headers come as upstream sent them, and the SDKs are told to leave it at that."""
    model = f"{number}-{kind}-{waits}-http-{is_stream}"
    said = await stage.http.post("/v1/messages", json=ask(model, stream=is_stream), headers={"x-headrace-timeout-ms": "5000"})
    assert (said.status_code, said.content) == (number, body_of(kind))
    assert said.headers["content-type"] == "application/json; charset=utf-8"
    assert (said.headers["request-id"], said.headers["x-should-retry"]) == ("req_u", "false")
    assert said.headers.get("retry-after") == ("30" if waits else None)
    assert stage.upstream.asked[model] == 1


@asynchronous
@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("number", "kind", "waits"), SAID)
async def test_upstream_over_grpc(stage: Stage, number: int, kind: str, waits: bool, is_stream: bool) -> None:
    """The code and the details are those of the page, and what upstream said is in them."""
    failed, found = await over_grpc(stage, ask(f"{number}-{kind}-{waits}-grpc-{is_stream}"), is_stream=is_stream)
    row = row_of(number)
    assert failed.code().name == row[3]
    assert found.keys() == {"ErrorInfo", *filter(None, row[4].split(", "))} | ({"RetryInfo"} if waits else set())
    info = found["ErrorInfo"]
    assert (info.domain, info.reason) == ("headrace", "UPSTREAM_ERROR")
    known = {"upstream_status": str(number), "upstream_type": kind, "request_id": "req_u"}
    assert dict(info.metadata).items() >= known.items()
    text = json.loads(body_of(kind))["error"]["message"]
    assert failed.details() == text
    if waits:
        assert 20 < found["RetryInfo"].retry_delay.seconds <= 30
    if "QuotaFailure" in found:
        assert [violation.subject for violation in found["QuotaFailure"].violations] == ["upstream"]
    if "BadRequest" in found:
        assert [violation.description for violation in found["BadRequest"].field_violations] == [""], "said once"


@asynchronous
@pytest.mark.parametrize(("number", "kind", "waits"), SAID)
async def test_upstream_carried(stage: Stage, number: int, kind: str, waits: bool) -> None:
    """Endpoints that are only carried keep their errors, too; over ApiService.Call they are HTTP as well."""
    path = f"/v1/files/{number}-{kind}-{waits}"
    said = await stage.http.get(path, headers={"x-headrace-timeout-ms": "5000"})
    head = api_service_pb2.CallRequestHead(method="GET", path=path)
    first, *rest = [part async for part in stage.api.Call(iter([api_service_pb2.CallRequest(head=head)]), timeout=5)]
    carried = {header.name: header.value for header in first.head.headers}
    assert (said.status_code, said.content) == (number, body_of(kind))
    assert (first.head.status, b"".join(part.chunk for part in rest)) == (number, body_of(kind))
    for headers in (said.headers, carried):
        assert (headers["request-id"], headers["x-should-retry"]) == ("req_u", "false")
        assert headers.get("retry-after") == ("30" if waits else None)
        assert headers["anthropic-organization-id"] == "org"


@asynchronous
async def test_inside_a_stream(stage: Stage) -> None:
    """After the first content an error ends the stream, on each edge in its way."""
    said = await stage.http.post("/v1/messages", json=ask(f"{BROKEN}-http", stream=True))
    last = forms.split(said.content)[-1]
    assert (said.status_code, last.name, forms.error_of(last)[0]) == (200, "error", "overloaded_error")
    failed, found = await over_grpc(stage, ask(f"{BROKEN}-grpc"), is_stream=True)
    assert (failed.code(), found["ErrorInfo"].reason) == (StatusCode.UNAVAILABLE, "BROKEN_STREAM")
    assert "RetryInfo" in found


# What the daemon says itself.


async def say_both(stage: Stage, body: dict[str, Any], *, http: dict[str, str], timeout_s: float = 5, **options: Any) -> Any:
    """Return what each edge says to a call that it refuses."""
    said = await stage.http.post(
        "/v1/messages", json=body, headers={"x-headrace-timeout-ms": f"{timeout_s * 1000:.0f}", **http}
    )
    failed, found = await over_grpc(stage, body, timeout=timeout_s, **options)
    return said, failed, found


def assert_row(name: str, said: httpx.Response, failed: grpc.aio.AioRpcError, found: dict[str, Any]) -> None:
    """Hold what was said against the row of the page."""
    row = next(row for row in OURS if row[0] == name)
    error = said.json()["error"]
    assert f"{said.status_code} `{error['type']}`" == row[1], said.text
    assert failed.code().name == row[2], failed
    assert found.keys() == {"ErrorInfo", *filter(None, row[3].split(", "))}
    assert said.headers.get("x-should-retry", "") == row[4]
    assert (int(said.headers.get("retry-after", 0)) > 0) == ("RetryInfo" in found)
    assert found["ErrorInfo"].reason == name.split("`")[1]
    assert said.json()["request_id"] == said.headers["request-id"]
    assert said.headers["request-id"].startswith("req_headrace_")


@asynchronous
async def test_invalid_call(stage: Stage) -> None:
    """A wrong body; the field is named."""
    body = ask("m", max_tokens="five")
    said, failed, found = await say_both(stage, body, http={})
    assert_row("`INVALID_CALL`", said, failed, found)
    assert found["BadRequest"].field_violations[0].field == found["ErrorInfo"].metadata["field"] == "max_tokens"


@asynchronous
async def test_budget(stage: Stage) -> None:
    """A budget that has no room in time, and one that never has."""
    spend = ask("400-invalid_request_error-False-budget")
    await stage.http.post("/v1/messages", json=spend, headers={"x-headrace-caller": "poor"})
    said, failed, found = await say_both(stage, ask("m"), http={"x-headrace-caller": "poor"}, caller="poor")
    assert_row("`BUDGET_EXHAUSTED`, with a wait", said, failed, found)
    assert found["QuotaFailure"].violations[0].subject == found["ErrorInfo"].metadata["limit"] == "poor"
    assert 40 < found["RetryInfo"].retry_delay.seconds <= 60

    long = ask("m", system="water " * 100)
    said, failed, found = await say_both(stage, long, http={"x-headrace-caller": "small"}, caller="small")
    assert_row("`BUDGET_EXHAUSTED`", said, failed, found)
    assert found["QuotaFailure"].violations[0].subject == "small"


@asynchronous
async def test_not_cached(stage: Stage) -> None:
    """Nothing kept, and nothing may be asked."""
    options = options_pb2.CacheControl(only_if_cached=True)
    said, failed, found = await say_both(stage, ask("m"), http={"cache-control": "only-if-cached"}, cache_control=options)
    assert_row("`NOT_CACHED`", said, failed, found)


@asynchronous
async def test_idempotency_conflict(stage: Stage) -> None:
    """A key that belongs to another call."""
    first = await stage.http.post("/v1/messages", json=ask(ANSWERED), headers={"idempotency-key": "k1"})
    assert first.status_code == 200
    said, failed, found = await say_both(stage, ask("m"), http={"idempotency-key": "k1"}, idempotency_key="k1")
    assert_row("`IDEMPOTENCY_CONFLICT`", said, failed, found)


@asynchronous
async def test_not_allowed(stage: Stage) -> None:
    """An endpoint for callers with the role admin."""
    said = await stage.http.get("/v1/organizations/users")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stage.organization.ListUsers(organization_service_pb2.ListUsersRequest(), timeout=5)
    assert_row("`NOT_ALLOWED`", said, failed.value, details(failed.value))


@asynchronous
async def test_too_large(stage: Stage) -> None:
    """A body that upstream would not take."""
    said, failed, found = await say_both(stage, ask("m", system="x" * 33_000_000), http={}, timeout_s=60)
    assert_row("`TOO_LARGE`", said, failed, found)


@asynchronous
async def test_unknown_caller(stage: Stage) -> None:
    """Where keys are asked for, nobody without one is let in."""
    with daemon("http://127.0.0.1:1", AUTH__REQUIRED="true") as running:
        async with doors(running, stage.upstream) as locked:
            said, failed, found = await say_both(locked, ask("m"), http={})
    assert_row("`UNKNOWN_CALLER`", said, failed, found)


@asynchronous
async def test_ticket_not_found(stage: Stage) -> None:
    """A ticket that nobody has."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stage.tickets.GetTicket(tickets_service_pb2.GetTicketRequest(id="t_none"), timeout=5)
    found = details(failed.value)
    assert failed.value.code().name == next(row[2] for row in OURS if row[0] == "`TICKET_NOT_FOUND`")
    assert (found["ErrorInfo"].reason, "ResourceInfo" in found) == ("TICKET_NOT_FOUND", True)


@asynchronous
async def test_elsewhere(stage: Stage) -> None:
    """Paths that are not the API's, and methods that they do not have."""
    lost, wrong = await asyncio.gather(stage.http.get("/v2/messages"), stage.http.post("/healthz"))
    assert (lost.status_code, lost.json()["error"]["type"]) == (404, "not_found_error")
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (405, "invalid_request_error")


@asynchronous
async def test_deadline_passed(stage: Stage) -> None:
    """Upstream does not answer in the time that the caller gave. Over gRPC the caller's own clock may strike first."""
    row = next(row for row in OURS if row[0] == "`DEADLINE_PASSED`")
    said = await stage.http.post("/v1/messages", json=ask(SILENT), headers={"x-headrace-timeout-ms": "300"})
    assert [f"{said.status_code} `{said.json()['error']['type']}`", said.headers["x-should-retry"]] == [row[1], row[4]]
    params = translate.read(json.dumps(ask(SILENT)).encode(), messages_pb2.MessageParams)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stage.messages.CreateMessage(service.CreateMessageRequest(params=params), timeout=0.3)
    assert failed.value.code().name == row[2], failed.value
