"""Streams heard from outside, over every door of an installed daemon: what was said, when, and how it ended."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import grpc
from google.protobuf import json_format

from headrace.v1 import (
    api_service_pb2,
    api_service_pb2_grpc,
    chat_service_pb2,
    chat_service_pb2_grpc,
    messages_service_pb2,
    messages_service_pb2_grpc,
)

MODEL = "claude-haiku-4-5"
WHOLE = "whole"


@dataclass
class Heard:
    """
    What one caller heard.

    Args:
        status: of HTTP; 0 where there was none.
        headed_s: when the head came, in seconds after the question.
        signs_s: when each sign of life came: a line that every reader of events skips.
        ids: of the answers that were begun.
        ending: "whole"; the type of an error; a gRPC code; or "broken", if it just ended.
    """

    door: str
    began: float = field(default_factory=time.monotonic)
    status: int = 0
    headed_s: float = 0.0
    signs_s: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    ending: str = "broken"
    took_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    _rest: bytes = b""

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def since_s(self) -> float:
        return time.monotonic() - self.began

    def take(self, data: bytes) -> None:
        """Take in some bytes of an event stream, as its readers are told to."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b":"):
                self.signs_s.append(self.since_s())
            elif line.startswith(b"data: [DONE]"):
                self.ending = WHOLE
            elif line.startswith(b"data:"):
                self.hear(json.loads(line[5:]))

    def hear(self, said: dict[str, Any]) -> None:
        """Take in one event of messages, or one chunk of a chat."""
        if "error" in said:
            self.ending = said["error"]["type"]
        elif "choices" in said:
            self.ids += [said["id"]] if said["id"] not in self.ids else []
            self.texts += [choice["delta"].get("content") or "" for choice in said["choices"]]
        elif said["type"] == "message_start":
            self.ids.append(said["message"]["id"])
        elif said["type"] == "content_block_delta":
            self.texts.append(said["delta"].get("text", ""))
        elif said["type"] == "message_stop":
            self.ending = WHOLE


def body_of(text: str, max_tokens: int = 40, **more: Any) -> dict[str, Any]:
    """Return the body of a message, and of a chat as well."""
    return {"model": MODEL, "max_tokens": max_tokens, "messages": [{"role": "user", "content": text}], **more}


async def over_http(at: Any, text: str, *, path: str = "/v1/messages", timeout_s: float = 0, **headers: str) -> Heard:
    heard = Heard("http" if path == "/v1/messages" else "http chat")
    sent = {"anthropic-version": "2023-06-01", **_headers(headers, timeout_s)}
    bound = aiohttp.ClientTimeout(None)
    async with (
        aiohttp.ClientSession(timeout=bound) as session,
        session.post(at.http + path, json=body_of(text, stream=True), headers=sent) as response,
    ):
        heard.status, heard.headed_s, heard.headers = response.status, heard.since_s(), dict(response.headers)
        if response.content_type == "application/json":
            heard.hear(await response.json())
        else:
            try:
                async for data in response.content.iter_any():
                    heard.take(data)
            except aiohttp.ClientPayloadError:
                heard.ending = "broken"
    heard.took_s = heard.since_s()
    return heard


async def over_chat(at: Any, text: str, **how: Any) -> Heard:
    return await over_http(at, text, path="/v1/chat/completions", **how)


async def over_api(at: Any, text: str, *, timeout_s: float = 0, **headers: str) -> Heard:
    """`ApiService.Call`, which the clients' transports use."""
    heard = Heard("ApiService.Call")
    sent = {"anthropic-version": "2023-06-01", "content-type": "application/json", **_headers(headers, 0)}
    head = api_service_pb2.CallRequestHead(
        method="POST", path="/v1/messages", body=json.dumps(body_of(text, stream=True)).encode(),
        headers=[api_service_pb2.Header(name=name, value=value) for name, value in sent.items()],
    )  # fmt: skip

    async def said(channel: grpc.aio.Channel) -> None:
        stub, is_json = api_service_pb2_grpc.ApiServiceStub(channel), False
        async for part in stub.Call(iter([api_service_pb2.CallRequest(head=head)]), timeout=timeout_s or None):
            if part.HasField("head"):
                heard.status, heard.headed_s = part.head.status, heard.since_s()
                is_json = heard.status != 200
            else:
                heard.take(b"data: " + part.chunk.strip() + b"\n" if is_json else part.chunk)

    return await _over_grpc(at, heard, said)


async def over_messages(at: Any, text: str, *, timeout_s: float = 0, **headers: str) -> Heard:
    """`MessagesService.StreamMessage`."""
    heard = Heard("StreamMessage")
    asked = messages_service_pb2.StreamMessageRequest()
    json_format.ParseDict({"model": MODEL, "maxTokens": 40}, asked.params)
    asked.params.messages.add(role="user").content.text = text
    asked.options.anthropic_version = "2023-06-01"
    asked.options.idempotency_key = headers.get("idempotency_key", "")

    async def said(channel: grpc.aio.Channel) -> None:
        stub = messages_service_pb2_grpc.MessagesServiceStub(channel)
        async for reply in stub.StreamMessage(asked, timeout=timeout_s or None):
            _hear_typed(heard, reply)

    return await _over_grpc(at, heard, said)


async def over_typed_chat(at: Any, text: str, *, timeout_s: float = 0, **headers: str) -> Heard:
    """`ChatService.StreamChatCompletion`."""
    heard = Heard("StreamChatCompletion")
    asked = chat_service_pb2.StreamChatCompletionRequest()
    json_format.ParseDict({"model": MODEL, "maxTokens": 40}, asked.params)
    asked.params.messages.add(role="user").content.text = text
    asked.options.idempotency_key = headers.get("idempotency_key", "")

    async def said(channel: grpc.aio.Channel) -> None:
        stub = chat_service_pb2_grpc.ChatServiceStub(channel)
        async for reply in stub.StreamChatCompletion(asked, timeout=timeout_s or None):
            for choice in reply.chunk.choices:
                heard.texts.append(choice.delta.content.text)
                heard.ending = WHOLE if choice.HasField("finish_reason") else heard.ending
            heard.ids += [reply.chunk.id] if reply.chunk.id and reply.chunk.id not in heard.ids else []

    return await _over_grpc(at, heard, said)


Door = Callable[..., Awaitable[Heard]]
DOORS: dict[str, Door] = {
    "http": over_http, "http chat": over_chat, "ApiService.Call": over_api, "StreamMessage": over_messages,
    "StreamChatCompletion": over_typed_chat,
}  # fmt: skip


async def _over_grpc(at: Any, heard: Heard, said: Callable[[grpc.aio.Channel], Awaitable[None]]) -> Heard:
    async with grpc.aio.insecure_channel(at.grpc) as channel:
        try:
            await said(channel)
        except grpc.aio.AioRpcError as error:
            heard.ending = error.code().name
    heard.took_s = heard.since_s()
    return heard


def _hear_typed(heard: Heard, reply: messages_service_pb2.StreamMessageResponse) -> None:
    match reply.event.WhichOneof("event"):
        case "message_start":
            heard.ids.append(reply.event.message_start.message.id)
        case "content_block_delta":
            heard.texts.append(reply.event.content_block_delta.delta.text_delta.text)
        case "message_stop":
            heard.ending = WHOLE


def _headers(headers: dict[str, str], timeout_s: float) -> dict[str, str]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return sent | ({"x-headrace-timeout-ms": str(int(timeout_s * 1000))} if timeout_s else {})
