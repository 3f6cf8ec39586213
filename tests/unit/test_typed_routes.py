"""What a typed request comes to in HTTP: paths, queries, headers and bodies, and what is refused by the name of its field."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from headrace import endpoints
from headrace.edge import grpc_typed
from headrace.edge.grpc_params import Parted, written
from headrace.edge.grpc_routes import FILES, ROUTES, Route, Shape, ask, headers_of
from headrace.errors import InvalidCall, UpstreamError
from headrace.v1 import chat_pb2, message_batches_pb2, messages_pb2, options_pb2

BY_NAME = {route.name: route for route in ROUTES}
CHAT = {"model": "m", "messages": [chat_pb2.ChatMessage(role="user", content={"text": "hi"})]}


def asked(name: str, **fields: Any) -> tuple[str, dict[str, str], bytes]:
    route = BY_NAME[name]
    request = route.request(**fields)
    body, is_stream = (
        written(request.params, streams=route.is_streaming)
        if "params" in route.request.DESCRIPTOR.fields_by_name
        else (b"", False)
    )
    said = ask(route, Parted(request, body, is_stream))
    return said.target, dict(headers_of(route, request)), said.body


def refusal(name: str, **fields: Any) -> str:
    with pytest.raises(InvalidCall) as refused:
        asked(name, **fields)
    return refused.value.metadata["field"]


# The table.


def test_table() -> None:
    """Every RPC of the services that are typed has one row, but for those of MessagesService with a way of their own."""
    own = {"MessagesService.CreateMessage", "MessagesService.StreamMessage", "MessagesService.SubmitMessage"}
    services = [service for file in FILES for service in file.DESCRIPTOR.services_by_name.values()]
    there = {f"{service.name}.{method.name}" for service in services for method in service.methods}
    assert sorted(route.rpc for route in ROUTES) == sorted(there - own)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.rpc)
def test_rows(route: Route) -> None:
    """A row fits its proto: the answer's field, the page's, the path's, and whether it streams."""
    fields, answers = route.request.DESCRIPTOR.fields_by_name, route.response.DESCRIPTOR.fields_by_name
    assert "origin" in answers
    assert "options" in fields
    assert ("id" in fields) == ("{id}" in route.path)
    assert ("page_token" in fields) == ("next_page_token" in answers) == (route.shape is Shape.PAGE)
    assert not route.answer or answers[route.answer].is_repeated == (route.shape is Shape.PAGE)
    assert route._descriptor.server_streaming == route.is_streaming
    assert endpoints.find(route.method, route.path.replace("{id}", "x")).name not in ("other", "messages", "files")


# Paths.


@pytest.mark.parametrize(
    ("id", "path"),
    [
        ("claude-sonnet-5", "/v1/models/claude-sonnet-5"),
        ("a b?c#d%2e", "/v1/models/a%20b%3Fc%23d%252e"),
        ("модель", "/v1/models/%D0%BC%D0%BE%D0%B4%D0%B5%D0%BB%D1%8C"),
        ("...", "/v1/models/..."),
    ],
)
def test_path(id: str, path: str) -> None:
    """An ID is one segment of the path, whatever is in it, and the path is one that the table knows."""
    assert asked("GetModel", id=id)[0] == path
    assert endpoints.find("GET", path).name == "models"


@pytest.mark.parametrize("id", ["", ".", "..", "a/b", "../organizations/users", "a\\b", "a\0b"])
@pytest.mark.parametrize("name", ["GetModel", "CancelMessageBatch", "StreamMessageBatchResults", "RemoveUser"])
def test_no_path(name: str, id: str) -> None:
    """One that is missing, or leads elsewhere, is refused."""
    assert refusal(name, id=id) == "id"


def test_inside() -> None:
    """An ID in the middle of a path."""
    assert asked("CancelMessageBatch", id="b 1") == (
        "/v1/messages/batches/b%201/cancel",
        {"content-type": "application/json"},
        b"",
    )
    assert asked("ArchiveWorkspace", id="w")[0] == "/v1/organizations/workspaces/w/archive"


# Queries.


def test_page() -> None:
    """A page is bounded by `limit`, and goes on after the last ID or at the cursor."""
    assert asked("ListModels")[0] == "/v1/models"
    assert asked("ListModels", page_size=2, page_token="a&b=c")[0] == "/v1/models?limit=2&after_id=a%26b%3Dc"
    assert asked("ListUsers", page_size=5000)[0] == "/v1/organizations/users?limit=1000"
    assert asked("GetRateLimits", page_size=2, page_token="t")[0] == "/v1/organizations/rate_limits?limit=2&page=t"
    assert refusal("ListModels", page_size=-1) == "page_size"


def test_filters() -> None:
    """What a list is filtered by has the API's names; lists are said as the official SDKs say them."""
    assert asked("ListApiKeys", status="active", workspace_id="w", created_by_user_id="u")[0] == (
        "/v1/organizations/api_keys?status=active&workspace_id=w&created_by_user_id=u"
    )
    assert asked("ListUsers", roles=["user", "admin"], email="a+b@c.d")[0] == (
        "/v1/organizations/users?email=a%2Bb%40c.d&roles%5B%5D=user&roles%5B%5D=admin"
    )
    assert asked("ListWorkspaces", include_archived=True, include_default=False)[0] == (
        "/v1/organizations/workspaces?include_archived=true&include_default=false"
    )


def test_extra_query() -> None:
    """Parameters without a field go along, spelled anew; one that is set already, or makes no sense, is refused."""
    assert asked("ListMessageBatches", extra_query="odd=a%20b&x=&ids[]=1&ids%5B%5D=2")[0] == (
        "/v1/messages/batches?odd=a%20b&x=&ids%5B%5D=1&ids%5B%5D=2"
    )
    assert refusal("ListUsers", email="a", extra_query="email=b") == "extra_query"
    for wrong in ("limit=2", "after_id=a", "before_id=a", "page=a", "x", "a=%ff", "&", "&".join(["a=1"] * 101)):
        assert refusal("ListMessageBatches", extra_query=wrong) == "extra_query"


# Bodies.


def test_body() -> None:
    """The params are the body, and a body is JSON; without params there is none."""
    target, headers, body = asked("UpdateApiKey", id="k", params={"name": "n", "extra_json": b'{"status":null}'})
    assert (target, headers) == ("/v1/organizations/api_keys/k", {"content-type": "application/json"})
    assert json.loads(body) == {"name": "n", "status": None}
    assert asked("CreateMessageBatch")[2] == b"{}"
    assert asked("DeleteInvite", id="i")[1:] == ({}, b"")
    call = message_batches_pb2.MessageBatchRequest(custom_id="a", params={"model": "m", "stream": False})
    assert json.loads(asked("CreateMessageBatch", params={"requests": [call]})[2]) == {
        "requests": [{"custom_id": "a", "params": {"model": "m", "stream": False}}]
    }


def test_stream() -> None:
    """The method says whether it is a stream, and what says otherwise is refused, wherever it is said."""
    assert json.loads(asked("StreamChatCompletion", params=CHAT)[2])["stream"] is True
    assert "stream" not in json.loads(asked("CreateChatCompletion", params=CHAT)[2])
    assert json.loads(asked("CreateChatCompletion", params=CHAT | {"stream": False})[2])["stream"] is False
    assert refusal("CreateChatCompletion", params=CHAT | {"stream": True}) == "params.stream"
    assert refusal("CreateChatCompletion", params=CHAT | {"extra_json": b'{ "stream" : true }'}) == "params.stream"
    assert refusal("StreamChatCompletion", params=CHAT | {"stream": False}) == "params.stream"
    assert refusal("CountTokens", params=messages_pb2.MessageParams(model="m", stream=True)) == "params.stream"


# Headers.


def test_headers() -> None:
    """Options are what the headers of HTTP say; the caller is none of them."""
    options = options_pb2.CallOptions(
        caller="ann", lane=options_pb2.LANE_BATCH, idempotency_key="k", anthropic_version="2026-10-21",
        anthropic_betas=["b", "a"], anthropic_headers={"anthropic-workspace-id": "w"},
    )  # fmt: skip
    options.cache_control.CopyFrom(options_pb2.CacheControl(no_cache=True, only_if_cached=True))
    options.cache_control.max_age.FromMilliseconds(2900)
    options.cache_control.stale_if_error.FromSeconds(60)
    assert asked("GetModel", id="m", options=options)[1] == {
        "x-headrace-lane": "batch",
        "idempotency-key": "k",
        "anthropic-version": "2026-10-21",
        "anthropic-beta": "b,a",
        "anthropic-workspace-id": "w",
        "cache-control": "no-cache, only-if-cached, max-age=2, stale-if-error=60",
    }
    nothing = options_pb2.CallOptions(cache_control={"max_age": {}})
    assert asked("GetModel", id="m", options=nothing)[1] == {"cache-control": "max-age=0"}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"anthropic_version": "a\r\nb"}, "options.anthropic_version"),
        ({"anthropic_betas": ["ok", ""]}, "options.anthropic_betas"),
        ({"anthropic_headers": {"anthropic-x": "a\nb"}}, "options.anthropic_headers"),
        ({"anthropic_headers": {"x-api-key": "k"}}, "options.anthropic_headers"),
        ({"anthropic_headers": {"anthropic-version": "v"}}, "options.anthropic_headers"),
        ({"lane": 77}, "options.lane"),
    ],
)
def test_wrong_headers(options: dict[str, Any], field: str) -> None:
    """What HTTP could not say, or another field says, is refused."""
    assert refusal("ListModels", options=options) == field


@pytest.mark.parametrize("name", ["CreateMessageBatch", "CreateInvite", "ListUsers"])
def test_no_idempotency(name: str) -> None:
    """An idempotency key is refused where it would be no promise, and taken where it is one."""
    options = options_pb2.CallOptions(idempotency_key="k")
    assert refusal(name, options=options) == "options.idempotency_key"
    assert asked("CreateChatCompletion", params=CHAT, options=options)[1]["idempotency-key"] == "k"


# Lines.


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
async def test_lines(size: int) -> None:
    """Lines are the same however they were cut; blank ones are none, and the last may have no end."""
    text = b'{"a":1}\n\n{"b":2}\r\n \n{"c":3}'

    async def chunks() -> AsyncIterator[bytes]:
        for begin in range(0, len(text), size):
            yield text[begin : begin + size]

    assert [line async for line in grpc_typed.lines(chunks())] == [b'{"a":1}', b'{"b":2}', b'{"c":3}']


async def test_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line without an end is not gathered for ever."""
    monkeypatch.setattr(grpc_typed, "_MAX_LINE_BYTES", 1000)
    given = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal given
        while True:
            given += 1
            yield b"x" * 100

    with pytest.raises(UpstreamError):
        [line async for line in grpc_typed.lines(chunks())]
    assert given == 11
