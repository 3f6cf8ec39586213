"""
How a service calls the daemon: plain HTTP and the generated gRPC stub, nothing of ours in between. And how the simulator is
asked what it has seen, and told what shall go wrong.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc
import msgspec
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from headrace.v1 import messages_pb2, messages_service_pb2, options_pb2
from headrace.v1.content_pb2 import Content
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub

MODEL = "claude-haiku-4-5"
_MAX_TOKENS = 64
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Got:
    """An answer, and where the daemon says that it came from."""

    id: str
    text: str
    source: str
    attempts: int
    took_s: float


@dataclass(frozen=True, slots=True)
class Streamed:
    """The events of an answer, as bytes, and when the first and the last of them came."""

    events: tuple[bytes, ...]
    source: str
    first_s: float
    took_s: float


class Refused(Exception):
    """The daemon said no: with what word, and when it would be worth asking again."""

    def __init__(self, word: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{word}: {message}")
        self.word = word
        self.retry_after_s = retry_after_s


class OverHttp:
    """Calls over HTTP, as any client of the Anthropic API makes them."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = f"{url}/v1/messages"

    async def ask(self, prompt: str, *, caller: str = "demo") -> Got:
        """Ask for one answer whole."""
        began = time.perf_counter()
        async with self._post(prompt, caller, stream=False) as response:
            said = await response.json()
            took_s = time.perf_counter() - began
            _check(response.status, said)
            text = "".join(block.get("text", "") for block in said["content"])
            return Got(said["id"], text, response.headers["x-headrace-source"], _attempts(response), took_s)

    async def stream(self, prompt: str) -> Streamed:
        """Ask for the events of one answer."""
        began = time.perf_counter()
        async with self._post(prompt, "demo", stream=True) as response:
            if response.status != 200:
                _check(response.status, await response.json())
            first = await response.content.readany()
            first_s = time.perf_counter() - began
            raw = first + await response.read()
            took_s = time.perf_counter() - began
            return Streamed(_events(raw), response.headers["x-headrace-source"], first_s, took_s)

    def _post(self, prompt: str, caller: str, *, stream: bool) -> Any:
        body = {"model": MODEL, "max_tokens": _MAX_TOKENS, "messages": [{"role": "user", "content": prompt}]}
        headers = {"x-headrace-caller": caller}
        return self._session.post(self._url, json=body | ({"stream": True} if stream else {}), headers=headers)


def _check(status: int, said: Any) -> None:
    if status != 200:
        raise Refused(str(status), said["error"]["message"])


def _attempts(response: aiohttp.ClientResponse) -> int:
    return int(response.headers["x-headrace-attempts"])


def _events(raw: bytes) -> tuple[bytes, ...]:
    return tuple(event for event in raw.split(b"\n\n") if event)


def text_of(events: tuple[bytes, ...]) -> str:
    """Return the text that the events of an answer say."""
    datas = (msgspec.json.decode(event.partition(b"data: ")[2]) for event in events)
    return "".join(data["delta"].get("text", "") for data in datas if data["type"] == "content_block_delta")


class OverGrpc:
    """Calls over gRPC, with the generated stub."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = MessagesServiceStub(channel)

    async def ask(self, prompt: str, *, caller: str = "demo", timeout_s: float = _TIMEOUT_S) -> Got:
        """Ask for one answer whole."""
        request = messages_service_pb2.CreateMessageRequest(params=_params(prompt), options=_options(caller))
        began = time.perf_counter()
        try:
            reply = await self._stub.CreateMessage(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise _refused(error) from error
        took_s = time.perf_counter() - began
        text = "".join(block.text.text for block in reply.message.content)
        return Got(reply.message.id, text, _source(reply.origin), reply.origin.attempts, took_s)

    async def stream(self, prompt: str) -> tuple[list[str], str]:
        """Ask for the events of one answer; return their names and the text that they say."""
        request = messages_service_pb2.StreamMessageRequest(params=_params(prompt), options=_options("demo"))
        try:
            events = [reply.event async for reply in self._stub.StreamMessage(request, timeout=_TIMEOUT_S)]
        except grpc.aio.AioRpcError as error:
            raise _refused(error) from error
        text = "".join(event.content_block_delta.delta.text_delta.text for event in events)
        return [event.WhichOneof("event") for event in events], text


def _params(prompt: str) -> messages_pb2.MessageParams:
    message = messages_pb2.InputMessage(role="user", content=Content(text=prompt))
    return messages_pb2.MessageParams(model=MODEL, max_tokens=_MAX_TOKENS, messages=[message])


def _options(caller: str) -> options_pb2.CallOptions:
    return options_pb2.CallOptions(caller=caller)


def _source(origin: options_pb2.Origin) -> str:
    return options_pb2.AnswerSource.Name(origin.source).removeprefix("ANSWER_SOURCE_").lower()


def _refused(error: grpc.aio.AioRpcError) -> Refused:
    status = rpc_status.from_call(error)
    info = error_details_pb2.RetryInfo()
    has_time = any(detail.Unpack(info) for detail in (status.details if status else ()))
    return Refused(error.code().name, error.details() or "", _seconds(info.retry_delay) if has_time else None)


def _seconds(span: Duration) -> float:
    return span.seconds + span.nanos / 1e9


class Control:
    """The simulator's own endpoints."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = f"{url}/_simulator"

    async def asked(self) -> int:
        """Return how often it was asked so far."""
        async with self._session.get(f"{self._url}/counts") as response:
            return int((await response.json())["total"])

    async def visits(self, text: str) -> list[dict[str, Any]]:
        """Return the calls whose prompt has *text* in it, in the order of their arrival."""
        async with self._session.get(f"{self._url}/journal", params={"text": text}) as response:
            visits: list[dict[str, Any]] = (await response.json())["visits"]
            return visits

    async def fail(self, **rule: Any) -> None:
        """Let calls fail from now on, as the rule says."""
        async with self._session.post(f"{self._url}/faults", json=rule) as response:
            response.raise_for_status()


@dataclass(slots=True)
class Scene:
    """What the steps have to do with: two ways to call, the simulator if it is there, and the first answer."""

    http: OverHttp
    grpc: OverGrpc
    simulator: Control | None
    first: Got | None = None

    @property
    def control(self) -> Control:
        """The simulator, for steps that need it."""
        if self.simulator is None:
            raise RuntimeError("this step needs the simulator")
        return self.simulator


@contextlib.asynccontextmanager
async def open_scene(http: str, grpc_address: str, simulator: str | None) -> AsyncIterator[Scene]:
    """Open the connections of the callers."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        grpc.aio.insecure_channel(grpc_address) as channel,
    ):
        control = Control(session, simulator) if simulator else None
        yield Scene(OverHttp(session, http), OverGrpc(channel), control)
