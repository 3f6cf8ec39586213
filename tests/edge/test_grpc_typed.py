"""The typed services over a real server and real parts, with a scripted upstream."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message

from conftest import until
from grpc_fakes import details
from headrace.edge import translate
from headrace.edge.grpc_routes import ROUTES, Route, Shape
from headrace.v1 import options_pb2
from scripted import Line, Server, Talk, serving
from typed_calls import ADMIN, BY_NAME, PARAMS, Caller, calling

CHOICE = {"index": 0, "message": {"content": "ho"}, "finish_reason": "stop"}
CHAT = {"id": "c", "object": "chat.completion", "choices": [CHOICE], "usage": {"prompt_tokens": 3, "completion_tokens": 7}}
JSON = "content-type: application/json"


@contextlib.asynccontextmanager
async def called(valkey: str, path: Path, talk: Talk, **settings: str) -> AsyncIterator[tuple[Caller, Server]]:
    async with serving(talk) as server, calling(valkey, path, server.url, **settings) as caller:
        yield caller, server


def saying(body: object, status: int = 200, *headers: str) -> Talk:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def talk(line: Line) -> None:
        await line.answer(status, raw, JSON, *headers)

    return talk


def streaming(*chunks: bytes, ends: bool = True) -> Talk:
    async def talk(line: Line) -> None:
        await line.begin_stream()
        for raw in chunks:
            await line.chunk(raw)
        if ends:
            await line.say(b"0\r\n\r\n")
        else:
            line.reset()

    return talk


def data(said: object) -> bytes:
    return b"data: %b\n\n" % json.dumps(said).encode()


def request_line(line: Line) -> tuple[str, str]:
    method, target, _ = line.head.decode().split(" ", 2)
    return method, target


# Every RPC.


def upstreams(route: Route) -> tuple[object, Talk]:
    """What a route's upstream says, and its saying it."""
    one = {"id": "x", "unheard_of": [1, None]}
    match route.shape:
        case Shape.PAGE:
            return one, saying({"data": [one], "has_more": False, "next_page": None, "odd": 1})
        case Shape.LINES:
            return one, streaming(b'{"id": "x", "unhe', b'ard_of": [1, null]}\n')
        case Shape.EVENTS:
            chunk = one | {"choices": [{"index": 0, "delta": {"content": "ho"}, "finish_reason": "stop"}]}
            return chunk, streaming(data(chunk), b"data: [DONE]\n\n")
    if route.service == "ChatService":
        return CHAT, saying(CHAT)
    return one, saying(one)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.rpc)
async def test_each(valkey_url: str, tmp_path: Path, route: Route) -> None:
    """Each asks the method and path that it should, and hands over all that upstream says, and where it came from."""
    said, talk = upstreams(route)
    fields: dict[str, Any] = {"id": "a b"} if "{id}" in route.path else {}
    if route.path in ("/v1/chat/completions", "/v1/messages/count_tokens"):
        fields["params"] = PARAMS
    async with called(valkey_url, tmp_path, talk, **ADMIN) as (caller, server):
        options = options_pb2.CallOptions(anthropic_version="2026-10-21", anthropic_betas=["b-1"])
        if route.is_streaming:
            (response,) = await caller.all(route.name, options=options, **fields)
        else:
            response = await caller.ask(route.name, options=options, **fields)
    (line,) = server.lines
    assert request_line(line) == (route.method, route.path.replace("{id}", "a%20b"))
    assert (line.headers["anthropic-version"], line.headers["anthropic-beta"]) == ("2026-10-21", "b-1")
    assert json.loads(translate.write(heard(route, response))) == said
    assert (response.origin.source, response.origin.attempts) == (options_pb2.ANSWER_SOURCE_UPSTREAM, 1)
    assert response.origin.request_id == "req_1"
    assert ("organizations" in route.path) == (line.headers.get("x-api-key") == "admin-key")
    assert (route.method == "POST") == (line.headers.get("content-type") == "application/json")


def heard(route: Route, response: Any) -> Message:
    if route.shape is Shape.PAGE:
        assert json.loads(response.extra_json) == {"has_more": False, "next_page": None, "odd": 1}
        (one,) = getattr(response, route.answer)
        return one
    return getattr(response, route.answer) if route.answer else response


# Lists.


@pytest.mark.parametrize(("name", "cursor"), [("ListMessageBatches", "after_id"), ("GetRateLimits", "page")])
async def test_pages(valkey_url: str, tmp_path: Path, name: str, cursor: str) -> None:
    """A list is walked by its tokens, whichever way upstream has of going on."""
    there = [f"item {number}" for number in range(5)]

    async def talk(line: Line) -> None:
        query = parse_qs(request_line(line)[1].partition("?")[2])
        begin = there.index(query[cursor][0]) + 1 if cursor in query else 0
        page = there[begin : begin + int(query["limit"][0])]
        has_more = begin + len(page) < len(there)
        ways = {"after_id": {"has_more": has_more, "last_id": page[-1]}, "page": {"next_page": page[-1] if has_more else None}}
        await saying({"data": [{"id": name} for name in page]} | ways[cursor])(line)

    async with called(valkey_url, tmp_path, talk, **ADMIN) as (caller, _):
        came: list[list[str]] = []
        token = ""
        while token or not came:
            page = await caller.ask(name, page_size=2, page_token=token)
            came.append([item.id for item in getattr(page, BY_NAME[name].answer)])
            token = page.next_page_token
    assert came == [there[:2], there[2:4], there[4:]]


@pytest.mark.parametrize("said", [{"data": None}, {"data": ["a", "b"]}, {"data": [{"id": "x"}, 1]}, {}, {"has_more": True}])
async def test_odd_page(valkey_url: str, tmp_path: Path, said: dict[str, Any]) -> None:
    """A list that is none stays JSON, and is no reason to fail."""
    async with called(valkey_url, tmp_path, saying(said)) as (caller, _):
        page = await caller.ask("ListMessageBatches")
    assert not page.message_batches
    assert page.next_page_token == ""
    assert json.loads(page.extra_json or b"{}") == said


# The cache.


async def test_kept(valkey_url: str, tmp_path: Path) -> None:
    """Counts, models and completions are kept, as on the HTTP edge; what options say of the cache counts."""
    async with called(valkey_url, tmp_path, saying(CHAT | {"input_tokens": 3, "data": []})) as (caller, server):
        prompt: dict[str, Any] = {"params": PARAMS}
        asked = {"CountTokens": prompt, "GetModel": {"id": "m"}, "ListModels": {}, "CreateChatCompletion": prompt}
        for name, fields in asked.items():
            first, again = [await caller.ask(name, **fields) for _ in range(2)]
            assert first.origin.source == options_pb2.ANSWER_SOURCE_UPSTREAM
            assert again.origin.source == options_pb2.ANSWER_SOURCE_CACHE, name
            assert again.origin.attempts == 0
            assert "hit" in again.origin.cache_status
        assert server.calls == 4
        fresh = await caller.ask("GetModel", id="m", options={"cache_control": {"no_cache": True}})
        assert (fresh.origin.source, server.calls) == (options_pb2.ANSWER_SOURCE_UPSTREAM, 5)
        failure = await caller.failure("GetModel", id="other", options={"cache_control": {"only_if_cached": True}})
        assert (failure.code(), server.calls) == (grpc.StatusCode.NOT_FOUND, 5)


async def test_not_kept(valkey_url: str, tmp_path: Path) -> None:
    """A batch's state is asked for anew each time; to accept only a kept one is NOT_FOUND, and upstream is not asked."""
    async with called(valkey_url, tmp_path, saying({"id": "b"})) as (caller, server):
        await caller.ask("GetMessageBatch", id="b")
        await caller.ask("GetMessageBatch", id="b")
        failure = await caller.failure("GetMessageBatch", id="b", options={"cache_control": {"only_if_cached": True}})
        assert (failure.code(), server.calls) == (grpc.StatusCode.NOT_FOUND, 2)


# Chats.

CHUNKS = [
    {"id": "c", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
    {"id": "c", "choices": [{"index": 0, "delta": {"content": "ho"}, "finish_reason": None}]},
    {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"id": "c", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 7}},
]


async def test_chat_stream(valkey_url: str, tmp_path: Path) -> None:
    """Chunks come one by one without [DONE], are kept, and come again; the first says where from."""
    talk = streaming(*map(data, CHUNKS), b": a comment\n\n", b"data: [DONE]\n\n")
    async with called(valkey_url, tmp_path, talk) as (caller, server):
        for source in (options_pb2.ANSWER_SOURCE_UPSTREAM, options_pb2.ANSWER_SOURCE_CACHE):
            came = await caller.all("StreamChatCompletion", params=PARAMS)
            assert [json.loads(translate.write(response.chunk)) for response in came] == CHUNKS
            assert [response.HasField("origin") for response in came] == [True, False, False, False]
            assert came[0].origin.source == source
        assert server.calls == 1
        assert json.loads(server.lines[0].body)["stream"] is True


async def test_chat_breaks(valkey_url: str, tmp_path: Path) -> None:
    """What breaks off after its first content is UNAVAILABLE; what came before it has come."""
    async with called(valkey_url, tmp_path, streaming(*map(data, CHUNKS[:2]), ends=False)) as (caller, _):
        call = caller.begin("StreamChatCompletion", params=PARAMS)
        assert (await call.read()).HasField("origin")
        assert (await call.read()).chunk.choices[0].delta.content.text == "ho"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_ticket(valkey_url: str, tmp_path: Path) -> None:
    """A completion with an idempotency key has a ticket, and the same key gets the same answer."""
    async with called(valkey_url, tmp_path, saying(CHAT)) as (caller, server):
        options = options_pb2.CallOptions(idempotency_key="k", cache_control={"no_store": True})
        first = await caller.ask("CreateChatCompletion", params=PARAMS, options=options)
        again = await caller.ask("CreateChatCompletion", params=PARAMS, options=options)
        assert first.origin.ticket
        assert (first.origin.ticket, server.calls) == (again.origin.ticket, 1)
        assert first.completion == again.completion


# Results.


def result(number: int) -> dict[str, Any]:
    return {"custom_id": f"c{number}", "result": {"type": "canceled"}}


async def test_results_live(valkey_url: str, tmp_path: Path) -> None:
    """Results are handed over as they come, while upstream still speaks."""
    go_on = asyncio.Event()

    async def talk(line: Line) -> None:
        await line.begin_stream()
        await line.chunk(json.dumps(result(1)).encode() + b"\n" + json.dumps(result(2)).encode()[:9])
        await go_on.wait()
        await line.chunk(json.dumps(result(2)).encode()[9:])
        await line.say(b"0\r\n\r\n")

    async with called(valkey_url, tmp_path, talk) as (caller, _):
        call = caller.begin("StreamMessageBatchResults", id="b")
        first = await call.read()
        assert (first.response.custom_id, first.response.result.WhichOneof("result")) == ("c1", "canceled")
        assert first.origin.attempts == 1
        go_on.set()
        second = await call.read()
        assert (second.response.custom_id, second.HasField("origin")) == ("c2", False)
        assert await call.read() is grpc.aio.EOF


async def test_results_break(valkey_url: str, tmp_path: Path) -> None:
    """Results that break off are UNAVAILABLE after those that came; the daemon does not begin them again by itself."""
    async with called(valkey_url, tmp_path, streaming(json.dumps(result(1)).encode() + b"\n{", ends=False)) as (caller, server):
        call = caller.begin("StreamMessageBatchResults", id="b")
        assert (await call.read()).response.custom_id == "c1"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert (caught.value.code(), server.calls) == (grpc.StatusCode.UNAVAILABLE, 1)


async def test_cancelled(valkey_url: str, tmp_path: Path) -> None:
    """Whoever cancels hangs up on upstream, and nothing is held any more."""

    async def talk(line: Line) -> None:
        await line.begin_stream()
        await line.chunk(json.dumps(result(1)).encode() + b"\n")
        await line.reader.read()  # until it hangs up

    async with called(valkey_url, tmp_path, talk) as (caller, server):
        call = caller.begin("StreamMessageBatchResults", id="b")
        await call.read()
        call.cancel()
        await asyncio.wait_for(server.hung_up.wait(), 10)
        await until(lambda: not caller.daemon.held(), what="nothing is held")


# Failures.


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, grpc.StatusCode.INVALID_ARGUMENT),
        (401, grpc.StatusCode.UNAUTHENTICATED),
        (404, grpc.StatusCode.NOT_FOUND),
        (409, grpc.StatusCode.ABORTED),
    ],
)
@pytest.mark.parametrize("name", ["GetMessageBatch", "StreamMessageBatchResults", "GetModel"])
async def test_upstreams_no(valkey_url: str, tmp_path: Path, name: str, status: int, code: grpc.StatusCode) -> None:
    """Upstream's refusals are those of MessagesService: by code, with its status, type and request ID."""
    body = {"type": "error", "error": {"type": "some_error", "message": "no"}}
    async with called(valkey_url, tmp_path, saying(body, status)) as (caller, _):
        failure = await caller.failure(name, id="x")
    info: Any = details(failure)["ErrorInfo"]
    assert (failure.code(), info.reason, info.metadata["upstream_status"]) == (code, "UPSTREAM_ERROR", str(status))
    assert (info.metadata["upstream_type"], info.metadata["request_id"]) == ("some_error", "req_1")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"", b'{"a": NaN}', b"\xff"])
@pytest.mark.parametrize("name", ["GetMessageBatch", "ListMessageBatches", "StreamMessageBatchResults"])
async def test_garbage(valkey_url: str, tmp_path: Path, name: str, body: bytes) -> None:
    """What is not the JSON that it should be is upstream's fault, and says so; no results are no fault."""
    fields = {} if name.startswith("List") else {"id": "b"}
    async with called(valkey_url, tmp_path, saying(body)) as (caller, _):
        if not body and name == "StreamMessageBatchResults":
            assert await caller.all(name, **fields) == []
            return
        failure = await caller.failure(name, **fields)
    info: Any = details(failure)["ErrorInfo"]
    assert (failure.code(), info.reason, info.metadata["request_id"]) == (
        grpc.StatusCode.UNAVAILABLE,
        "UPSTREAM_ERROR",
        "req_1",
    )


async def test_roles(valkey_url: str, tmp_path: Path) -> None:
    """The organisation is for admins; everything else is for all."""
    async with called(valkey_url, tmp_path, saying({"id": "x"})) as (caller, server):
        for name in (route.name for route in ROUTES if route.service == "OrganizationService"):
            fields = {"id": "x"} if "{id}" in BY_NAME[name].path else {}
            assert (await caller.failure(name, **fields)).code() is grpc.StatusCode.PERMISSION_DENIED
        assert not server.calls
        assert (await caller.ask("GetModel", id="x")).model.id == "x"


async def test_own_keys(valkey_url: str, tmp_path: Path) -> None:
    """Where callers' own keys go upstream, the one in the metadata does; without one it is UNAUTHENTICATED."""
    async with called(valkey_url, tmp_path, saying({"id": "b"}), UPSTREAM__CREDENTIALS="caller") as (caller, server):
        await caller.ask("GetMessageBatch", id="b", metadata=(("x-api-key", "mine"),))
        assert server.lines[0].headers["x-api-key"] == "mine"
        failure = await caller.failure("GetMessageBatch", id="b")
        assert (failure.code(), server.calls) == (grpc.StatusCode.UNAUTHENTICATED, 1)


async def test_refused(valkey_url: str, tmp_path: Path) -> None:
    """What makes no sense is INVALID_ARGUMENT by the name of its field, and upstream is not asked."""
    wrong: list[tuple[str, str, dict[str, Any]]] = [
        ("GetModel", "id", {}),
        ("ListUsers", "page_size", {"page_size": -1}),
        ("CreateMessageBatch", "options.idempotency_key", {"options": {"idempotency_key": "k"}}),
        ("CreateChatCompletion", "params.stream", {"params": PARAMS | {"stream": True}}),
        ("CountTokens", "messages", {"params": {"model": "m"}}),
    ]
    async with called(valkey_url, tmp_path, saying({}), **ADMIN) as (caller, server):
        for name, field, fields in wrong:
            failure = await caller.failure(name, **fields)
            said: Any = details(failure)["BadRequest"]
            assert (failure.code(), said.field_violations[0].field) == (grpc.StatusCode.INVALID_ARGUMENT, field)
        assert not server.calls


async def test_deadline(valkey_url: str, tmp_path: Path) -> None:
    """The gRPC deadline is the call's."""

    async def talk(line: Line) -> None:
        await line.reader.read()

    async with called(valkey_url, tmp_path, talk) as (caller, _):
        assert (await caller.failure("GetMessageBatch", id="b", timeout=0.2)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: not caller.daemon.held(), what="nothing is held")


async def test_no_vain_wait(valkey_url: str, tmp_path: Path) -> None:
    """The daemon knows the deadline: what upstream puts off to after it fails at once, with the time that would do."""
    busy = saying({"type": "error", "error": {"type": "rate_limit_error"}}, 429, "retry-after: 60")
    async with called(valkey_url, tmp_path, busy) as (caller, server):
        begun = time.monotonic()
        failure = await caller.failure("CreateMessageBatch", timeout=30)
        assert time.monotonic() - begun < 15
        wait: Any = details(failure)["RetryInfo"]
        assert (failure.code(), wait.retry_delay.seconds) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 60)
        assert server.calls == 1


@pytest.mark.parametrize(("status", "kind", "calls"), [(529, "overloaded_error", 2), (500, "api_error", 1)])
async def test_once(valkey_url: str, tmp_path: Path, status: int, kind: str, calls: int) -> None:
    """A batch is created again only where upstream surely did nothing."""
    talks = [saying({"type": "error", "error": {"type": kind}}, status), saying({"id": "b"})]

    async def talk(line: Line) -> None:
        await talks.pop(0)(line)

    async with called(valkey_url, tmp_path, talk) as (caller, server):
        if calls == 1:
            assert (await caller.failure("CreateMessageBatch")).code() is grpc.StatusCode.UNAVAILABLE
        else:
            assert (await caller.ask("CreateMessageBatch")).origin.attempts == 2
        assert server.calls == calls
