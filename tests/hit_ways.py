"""All ways to ask a daemon that may find a hit, and the two doors of one before a scripted upstream."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio

from doors import BODY, grpc_door, http_door
from flow_parts import Daemon, daemon
from headrace.edge.grpc_routes import ROUTES
from headrace.edge.http_server import HttpServer
from headrace.v1 import api_service_pb2, messages_service_pb2, options_pb2
from scripted import EVENTS, MESSAGE, Line, Server, serving

ASK = json.dumps(BODY).encode()
ASK_EVENTS = json.dumps(BODY | {"stream": True}).encode()
CHOICE = {"index": 0, "message": {"content": "ho"}, "finish_reason": "stop"}
CHAT = {"id": "c", "object": "chat.completion", "choices": [CHOICE], "usage": {"prompt_tokens": 3, "completion_tokens": 7}}
DELTA = [{"index": 0, "delta": {"content": "ho"}, "finish_reason": None}]
CHUNKS = [
    b"data: %b\n\n" % json.dumps({"object": "chat.completion.chunk", "choices": DELTA}).encode(),
    b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b"data: [DONE]\n\n",
]
MODEL = {"id": "m-1", "type": "model", "display_name": "M", "created_at": "2025-01-01T00:00:00Z"}
PAGE = {"data": [MODEL], "has_more": False, "first_id": "m-1", "last_id": "m-1"}
ANSWERS = {
    "/v1/messages": json.loads(MESSAGE),
    "/v1/messages/count_tokens": {"input_tokens": 3},
    "/v1/chat/completions": CHAT,
    "/v1/models": PAGE,
    "/v1/models/m-1": MODEL,
}
PARAMS = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": {"text": "hi"}}]}
UNCOUNTED = {name: value for name, value in PARAMS.items() if name != "max_tokens"}


async def talk(line: Line) -> None:
    """Answer as the API does, by path and form."""
    target = line.head.split(b" ", 2)[1].decode()
    streams = b'"stream": true' in line.body or b'"stream":true' in line.body
    if streams:
        await line.begin_stream()
        for event in CHUNKS if "chat" in target else EVENTS:
            await line.chunk(event)
        await line.say(b"0\r\n\r\n")
        return
    await line.answer(200, json.dumps(ANSWERS[target]).encode(), "content-type: application/json")


@dataclass
class Doors:
    """Both doors of one daemon, whose upstream is scripted."""

    channel: grpc.aio.Channel
    http: HttpServer
    server: Server
    daemon: Daemon

    def seal(self) -> None:
        """From now on nothing may be admitted: whatever is answered was found by its bytes."""
        # A fault put in, for good: the daemon ends with its test.
        self.daemon.parts.admission.admit = sealed  # type: ignore[method-assign]


def sealed(ask: Any) -> Any:
    raise AssertionError("it was parsed")


@contextlib.asynccontextmanager
async def opened(valkey: str, path: Path, **settings: str) -> AsyncIterator[Doors]:
    async with (
        serving(talk) as server,
        daemon(valkey, server.url, path, **settings) as one,
        http_door(one, **settings) as http,
        grpc_door(one, path, **settings) as channel,
    ):
        yield Doors(channel, http, server, one)


# The ways to ask: each returns where the answer came from, and the answer.

Told = tuple[str, Any]
Way = Callable[[Doors], Awaitable[Told]]
SOURCES = {value: name.rpartition("_")[2].lower() for name, value in options_pb2.AnswerSource.items()}


def typed(name: str, **fields: Any) -> Way:
    """A typed RPC."""
    kept: Any = {f"{route.service}.{route.name}": route for route in ROUTES}.get(name)
    method = name.rpartition(".")[2]
    asked = kept.request if kept else getattr(messages_service_pb2, f"{method}Request")
    said = kept.response if kept else getattr(messages_service_pb2, f"{method}Response")

    async def ask(doors: Doors, metadata: Any = None) -> Told:
        multi = doors.channel.unary_stream if method.startswith("Stream") else doors.channel.unary_unary
        call = multi(f"/headrace.v1.{name.replace('.', '/')}", asked.SerializeToString, said.FromString)(
            asked(**fields), metadata=metadata
        )
        came = [one async for one in call] if method.startswith("Stream") else [await call]
        source = SOURCES[came[0].origin.source]
        assert [one.HasField("origin") for one in came] == [True] + [False] * (len(came) - 1)
        came[0].ClearField("origin")
        return source, came

    return ask


def over_http(method: str, target: str, body: bytes = b"", *headers: str) -> Way:
    async def ask(doors: Doors) -> Told:
        reader, writer = await asyncio.open_connection("127.0.0.1", doors.http.port)
        head = [f"{method} {target} HTTP/1.1", "host: 127.0.0.1", "connection: close", f"content-length: {len(body)}", *headers]
        with contextlib.closing(writer):
            writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
            came = await asyncio.wait_for(reader.read(), 10)
        first, _, said = came.partition(b"\r\n\r\n")
        named = dict(line.lower().split(": ", 1) for line in first.decode().split("\r\n")[1:])
        return named["x-headrace-source"], events_of(said) if "chunked" in first.decode() else said

    return ask


def events_of(chunked: bytes) -> bytes:
    said = b""
    while chunked:
        size, _, rest = chunked.partition(b"\r\n")
        said, chunked = said + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return said


def rpc_of(doors: Doors) -> Any:
    return doors.channel.stream_stream(
        "/headrace.v1.ApiService/Call",
        api_service_pb2.CallRequest.SerializeToString,
        api_service_pb2.CallResponse.FromString,
    )


def call(method: str, target: str, *parts: bytes, length: bool = True, **headers: str) -> Way:
    """ApiService.Call, the body in so many parts."""
    first, *rest = parts or (b"",)
    named = {"content-length": str(sum(map(len, parts)))} if length else {}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = api_service_pb2.CallRequestHead(
        method=method,
        path=target,
        body=first,
        headers=[api_service_pb2.Header(name=name, value=value) for name, value in named.items()],
    )
    requests = [api_service_pb2.CallRequest(head=head), *(api_service_pb2.CallRequest(chunk=chunk) for chunk in rest)]

    async def ask(doors: Doors, metadata: Any = None) -> Told:
        begun, *came = [one async for one in rpc_of(doors)(iter(requests), metadata=metadata)]
        assert begun.head.status == 200, came
        named = {header.name: header.value for header in begun.head.headers}
        assert len(named) == len(begun.head.headers)
        return named["x-headrace-source"], b"".join(one.chunk for one in came)

    return ask


JSON_BODIES = {
    "/v1/messages": ASK,
    "/v1/messages/count_tokens": json.dumps({"model": "m", "messages": BODY["messages"]}).encode(),
    "/v1/chat/completions": json.dumps({"model": "m", "messages": BODY["messages"]}).encode(),
}
EVENT_BODIES = {
    "/v1/messages": ASK_EVENTS,
    "/v1/chat/completions": json.dumps({"model": "m", "messages": BODY["messages"], "stream": True}).encode(),
}
WAYS: dict[str, Way] = {
    "CreateMessage": typed("MessagesService.CreateMessage", params=PARAMS),
    "StreamMessage": typed("MessagesService.StreamMessage", params=PARAMS),
    "CountTokens": typed("MessagesService.CountTokens", params=UNCOUNTED),
    "ListModels": typed("ModelsService.ListModels"),
    "GetModel": typed("ModelsService.GetModel", id="m-1"),
    "CreateChatCompletion": typed("ChatService.CreateChatCompletion", params=UNCOUNTED),
    "StreamChatCompletion": typed("ChatService.StreamChatCompletion", params=UNCOUNTED),
    "HTTP models": over_http("GET", "/v1/models"),
    "Call models": call("GET", "/v1/models", length=False),
    "Call model": call("GET", "/v1/models/m-1"),
}
for target, body in JSON_BODIES.items():
    WAYS[f"HTTP {target}"] = over_http("POST", target, body)
    WAYS[f"Call {target}"] = call("POST", target, body)
    WAYS[f"Call {target}, in parts"] = call("POST", target, body[:9], body[9:20], body[20:])
    WAYS[f"Call {target}, no length"] = call("POST", target, body, length=False)
    WAYS[f"Call {target}, in parts, no length"] = call("POST", target, b"", body[:30], body[30:], length=False)
for target, body in EVENT_BODIES.items():
    WAYS[f"HTTP {target}, events"] = over_http("POST", target, body)
    WAYS[f"Call {target}, events"] = call("POST", target, body)
    WAYS[f"Call {target}, events, in parts"] = call("POST", target, body[:9], body[9:])
