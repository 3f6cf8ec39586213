"""A daemon whose traces come to a receiver here, and ways to ask it as a caller that has a trace of its own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator

import aiohttp
import grpc.aio

from conftest import until
from fleet import daemon_beside, simulated
from headrace.trace import Trace, begun
from headrace.v1 import api_service_pb2, messages_service_pb2
from headrace.v1.api_service_pb2_grpc import ApiServiceStub
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub
from otlp import Receiver, Seen, receiving

MODEL = "claude-sonnet-4-5"
LIMIT = json.dumps([{"name": "narrow", "match": {"caller": "narrow"}, "requests_per_minute": 60, "burst": "1s"}])
SETTINGS = {"LIMIT": LIMIT, "UPSTREAM__OVERLOAD_GATE": "off", "RETRY__BACKOFF": "100ms..200ms", "LOG__CALLS": "all"}


class Stage:
    def __init__(self, simulator, daemon, receiver: Receiver, session, channel) -> None:
        self.simulator, self.daemon, self.receiver = simulator, daemon, receiver
        self.session, self.channel = session, channel

    async def http(self, text: str, trace: Trace | None = None, *, stream=False, caller="ann", **headers: str) -> str:
        """Ask over HTTP; returns where the answer came from."""
        given = dict(trace.headers()) if trace else {}
        said = {"anthropic-version": "2023-06-01", "x-headrace-caller": caller} | given | headers
        async with self.session.post(f"{self.daemon.http}/v1/messages", json=body(text, stream), headers=said) as response:
            await response.read()
            return response.headers.get("x-headrace-source", str(response.status))

    async def typed(self, text: str, trace: Trace, *, stream=False) -> str:
        kind = messages_service_pb2.StreamMessageRequest if stream else messages_service_pb2.CreateMessageRequest
        request = kind()
        request.params.model, request.params.max_tokens = MODEL, 9
        request.params.messages.add(role="user").content.text = text
        stub = MessagesServiceStub(self.channel)
        asked = (stub.StreamMessage if stream else stub.CreateMessage)(request, timeout=20, metadata=tuple(trace.headers()))
        first, *_ = [part async for part in asked] if stream else [await asked]
        return {1: "upstream", 2: "shared", 3: "cache"}.get(first.origin.source, "")

    async def raw(self, text: str, trace: Trace, *, stream=False) -> str:
        said = json.dumps(body(text, stream)).encode()
        head = api_service_pb2.CallRequestHead(method="POST", path="/v1/messages", body=said)
        for name, value in [("anthropic-version", "2023-06-01"), ("content-length", str(len(said))), *trace.headers()]:
            head.headers.add(name=name, value=value)
        first, *_ = [part async for part in ApiServiceStub(self.channel).Call(iter([api_service_pb2.CallRequest(head=head)]))]
        return {header.name: header.value for header in first.head.headers}["x-headrace-source"]

    async def told(self, trace: Trace, *calls: str) -> list[Seen]:
        """Return the spans of a trace, once its call has ended."""
        await until(lambda: self.receiver.is_told(trace.trace_id, *calls), what=f"spans: {self.receiver.of(trace.trace_id)}")
        return self.receiver.of(trace.trace_id)


def body(text: str, stream: bool) -> dict:
    return {"model": MODEL, "max_tokens": 9, "stream": stream, "messages": [{"role": "user", "content": text}]}


def new(*, is_sampled: bool = True) -> Trace:
    """A caller's own place in a trace that it has begun."""
    return begun(None, is_sampled=is_sampled)


def named(spans: list[Seen], name: str) -> Seen:
    [found] = [span for span in spans if span.name == name]
    return found


@contextlib.asynccontextmanager
async def staged(**more: str) -> AsyncIterator[Stage]:
    async with (
        receiving() as receiver,
        simulated() as simulator,
        daemon_with(receiver, simulator.url, **(SETTINGS | more)) as daemon,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        grpc.aio.insecure_channel(daemon.grpc) as channel,
    ):
        yield Stage(simulator, daemon, receiver, session, channel)


@contextlib.asynccontextmanager
async def daemon_with(receiver: Receiver, *asked: str, host: str = "one", **settings: str):
    environ = receiver.environment | {"OTEL_RESOURCE_ATTRIBUTES": f"host.name={host}"}
    async with daemon_beside(*asked, environ=environ, **settings) as daemon:
        yield daemon
