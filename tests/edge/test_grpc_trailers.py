"""Whatever upstream says, an error over gRPC arrives with its code and its details: it fits into the trailers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from doors import grpc_door
from flow_parts import daemon
from grpc_fakes import FakeFlow, details, serving
from headrace.edge.grpc_routes import ROUTES
from headrace.errors import IdempotencyConflict, InvalidCall, UpstreamError
from headrace.v1 import messages_pb2, messages_service_pb2
from scripted import Line
from scripted import serving as upstream

PARAMS = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": {"text": "hi"}}]}
LONG = ["水" * 1200, "🌊" * 3000, "é" * 5000, "%" * 9000, "x" * 50_000, "\n" * 5000, "\ud83d" * 3000]
CHAT = {"model": "m", "messages": PARAMS["messages"]}
CARRIED = ("ListUsers", "GetWorkspace", "CreateMessageBatch", "StreamMessageBatchResults")


async def failure(channel: grpc.aio.Channel, path: str, raw: bytes, *, streams: bool) -> grpc.aio.AioRpcError:
    call: Any = channel.unary_stream(path)(raw) if streams else channel.unary_unary(path)(raw)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if streams else call)
    return caught.value


def requests() -> dict[str, tuple[bytes, bool]]:
    """Each method by which the flow is asked: the path, a request, and whether it streams."""
    service = "/headrace.v1.MessagesService"
    found = {
        f"{service}/CreateMessage": (messages_service_pb2.CreateMessageRequest(params=PARAMS).SerializeToString(), False),
        f"{service}/StreamMessage": (messages_service_pb2.StreamMessageRequest(params=PARAMS).SerializeToString(), True),
    }
    for route in ROUTES:
        if route.endpoint.is_kept:
            fields: Any = {"id": "x"} if "{id}" in route.path else {} if route.method == "GET" else {"params": CHAT}
            found[f"/headrace.v1.{route.service}/{route.name}"] = (
                route.request(**fields).SerializeToString(),
                route.is_streaming,
            )
    return found


@pytest.mark.parametrize("text", LONG, ids=lambda text: ascii(text[0]))
@pytest.mark.parametrize("path", requests())
async def test_methods(tmp_path: Path, path: str, text: str) -> None:
    """Every method that goes along the flow, unary and streaming, five times: what is too long is refused at random."""
    flow = FakeFlow()
    raw, streams = requests()[path]
    known = {"field": text, "limit": text, "request_id": text}
    flow.respond = lambda call: UpstreamError(text, status=400, type="invalid_request_error", metadata=known)
    async with serving(tmp_path, flow) as (_, channel):
        for _ in range(5):
            error = await failure(channel, path, raw, streams=streams)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details()
            said = details(error)
            assert said["ErrorInfo"].metadata["upstream_status"] == "400"
            assert said["BadRequest"].field_violations[0].field.endswith("...")
            assert text.encode(errors="replace").decode().startswith((error.details() or "")[:-3])


@pytest.mark.parametrize("text", LONG[:3], ids=lambda text: ascii(text[0]))
@pytest.mark.parametrize("name", CARRIED)
async def test_carried(valkey_url: str, tmp_path: Path, name: str, text: str) -> None:
    """What is only carried, too: upstream's own body says it, with a request id and a type of any length."""
    body = json.dumps({"type": "error", "error": {"type": text[:500], "message": text}}).encode()

    async def talk(line: Line) -> None:
        await line.answer(404, body, "content-type: application/json")

    route = next(route for route in ROUTES if route.name == name)
    fields: Any = {"id": "x"} if "{id}" in route.path else {}
    if name == "CreateMessageBatch":
        fields = {"params": {"requests": [{"custom_id": "a", "params": PARAMS}]}}
    raw = route.request(**fields).SerializeToString()
    async with (
        upstream(talk) as server,
        daemon(valkey_url, server.url, tmp_path, AUTH__DEFAULT_ROLE="admin") as one,
        grpc_door(one, tmp_path) as channel,
    ):
        for _ in range(3):
            error = await failure(channel, f"/headrace.v1.{route.service}/{name}", raw, streams=route.is_streaming)
            assert error.code() is grpc.StatusCode.NOT_FOUND, error.details()
            assert details(error)["ErrorInfo"].reason == "UPSTREAM_ERROR"
            assert text.startswith((error.details() or "")[:-3])


@pytest.mark.parametrize("error", [InvalidCall, IdempotencyConflict])
async def test_own(tmp_path: Path, error: type[Any]) -> None:
    """Our own refusals quote what was sent: a key of 255 characters in any script."""
    flow = FakeFlow()
    key = "鍵" * 255
    flow.respond = lambda call: error(f"{key} " * 20, metadata={"idempotency_key": key, "field": key})
    async with serving(tmp_path, flow) as (_, channel):
        for path, (raw, streams) in requests().items():
            assert details(await failure(channel, path, raw, streams=streams))["ErrorInfo"].reason == error.reason


async def test_quoted_request(tmp_path: Path) -> None:
    """A request that is refused for what it says is refused by its name, however long it is."""
    async with serving(tmp_path) as (_, channel):
        params = messages_pb2.MessageParams(model="m", max_tokens=9, extra_json=json.dumps({"model": "水" * 4000}).encode())
        raw = messages_service_pb2.CreateMessageRequest(params=params).SerializeToString()
        error = await failure(channel, "/headrace.v1.MessagesService/CreateMessage", raw, streams=False)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "BadRequest" in details(error)
        betas = {"anthropic_betas": ["水" * 4000]}
        raw = messages_service_pb2.CreateMessageRequest(params=PARAMS, options=betas).SerializeToString()
        error = await failure(channel, "/headrace.v1.MessagesService/CreateMessage", raw, streams=False)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
