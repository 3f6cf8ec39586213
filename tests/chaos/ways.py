"""
The ways in which callers ask, each as its SDK does: what it counts as worth a repeat, and what it makes of a broken answer.

A way asks once (the official SDK up to three times, as it does by itself). Whoever asks again, and where, is in callers.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import ContextVar
from typing import Any, Protocol

import aiohttp
import anthropic
import grpc
import grpc.aio
import httpx2
from google.rpc import error_details_pb2, status_pb2
from tests.chaos.books import Call
from tests.chaos.house import Host

from headrace.v1 import (
    messages_service_pb2,
    messages_service_pb2_grpc,
    options_pb2,
    tickets_pb2,
    tickets_service_pb2,
    tickets_service_pb2_grpc,
)

MODEL = "claude-haiku-4-5"
_MAX_TOKENS = 400
_HEADERS = {"anthropic-version": "2023-06-01", "content-type": "application/json"}
_REPEATED = frozenset((408, 409, 429))
_AGAIN = frozenset((grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED))


Waits = Callable[[bool], None]

WAITS: ContextVar[Waits] = ContextVar("waits", default=lambda waits: None)
"""Told by a way that repeats by itself when it waits for the daemon's word, and when it has had one and only pauses."""


class Again(Exception):
    """No answer, but a repeat may bring one, after so many seconds."""

    def __init__(self, why: str, after_s: float = 0.0) -> None:
        super().__init__(why)
        self.after_s = after_s


class No(Exception):
    """No answer, and a repeat would bring none."""


class Way(Protocol):
    """One way of asking."""

    async def ask(self, call: Call, host: Host, prompt: str, timeout_s: float) -> None:
        """Ask once; the call hears what comes. Raises `Again` or `No`, and whatever a broken connection raises."""


# Over HTTP.


class Http:
    """Plain HTTP: a whole answer, or (*streams*) one by events."""

    def __init__(self, session: aiohttp.ClientSession, *, streams: bool) -> None:
        self._session, self._streams = session, streams

    async def ask(self, call: Call, host: Host, prompt: str, timeout_s: float) -> None:
        headers = _HEADERS | {"x-api-key": "any", "x-headrace-timeout-ms": str(round(1000 * timeout_s))}
        if call.key:
            headers["idempotency-key"] = call.key
        data = json.dumps(asked_body(prompt) | ({"stream": True} if self._streams else {})).encode()
        async with self._session.post(f"{host.http}/v1/messages", data=data, headers=headers) as response:
            if response.status != 200:
                raise _refusal(response.status, response.headers, await response.read())
            if self._streams:
                await _read_events(call, response.content)
            else:
                _read_whole(call, await response.json())


def asked_body(prompt: str) -> dict[str, Any]:
    """Return what is asked, as the API has it."""
    return {"model": MODEL, "max_tokens": _MAX_TOKENS, "messages": [{"role": "user", "content": prompt}]}


def _read_whole(call: Call, said: Mapping[str, Any]) -> None:
    call.hear(said["id"], "".join(block["text"] for block in said["content"]), is_whole=True)


async def _read_events(call: Call, lines: AsyncIterator[bytes]) -> None:
    mark = text = ""
    is_whole = False
    failed: Exception | None = None
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: mark and call.hear(mark, text, is_whole=is_whole))
        async for line in lines:
            if not line.startswith(b"data:"):
                continue
            event = json.loads(line[5:])
            match event["type"]:
                case "message_start":
                    if mark:
                        call.spliced.append(f"two beginnings: {mark}, {event['message']['id']}")
                    mark = event["message"]["id"]
                case "content_block_delta":
                    text += event["delta"]["text"]
                case "message_stop":
                    is_whole = True
                case "error":
                    failed = Again(f"event {event['error']['type']}")
    if failed:
        raise failed
    if not is_whole:
        raise Again("the stream broke off")


def _refusal(status: int, headers: Mapping[str, str], body: bytes) -> Exception:
    said = headers.get("x-should-retry", "")
    # A status of 200 is a stream's, which ended in an error event.
    is_worth_it = said == "true" if said else status in _REPEATED or status >= 500 or status == 200
    with contextlib.suppress(ValueError, KeyError, TypeError):
        body = json.loads(body)["error"]["message"].encode()
    why = f"{status} {body[:70].decode(errors='replace')}"
    return Again(why, _seconds(headers.get("retry-after", ""))) if is_worth_it else No(why)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        return max(0.0, float(text))
    return 0.0


class Sdk:
    """Anthropic's own SDK, which repeats twice by itself."""

    def __init__(self, *, streams: bool) -> None:
        self._streams = streams
        self._clients: dict[str, anthropic.AsyncAnthropic] = {}

    async def ask(self, call: Call, host: Host, prompt: str, timeout_s: float) -> None:
        client = self._client(host.http, timeout_s)
        headers = {"x-headrace-timeout-ms": str(round(1000 * timeout_s))} | ({"idempotency-key": call.key} if call.key else {})
        try:
            if self._streams:
                await self._stream(call, client, prompt, headers)
            else:
                said = await client.messages.create(**asked_body(prompt), extra_headers=headers)
                call.hear(said.id, "".join(block.text for block in said.content), is_whole=True)  # type: ignore[union-attr]
        except anthropic.APIStatusError as error:
            raise _refusal(error.status_code, error.response.headers, error.message.encode()) from None
        except (anthropic.APIError, httpx2.HTTPError) as error:
            raise Again(f"SDK: {type(error).__name__}") from None

    async def _stream(self, call: Call, client: anthropic.AsyncAnthropic, prompt: str, headers: dict[str, str]) -> None:
        mark = text = ""
        is_whole = False
        try:
            async with client.messages.stream(**asked_body(prompt), extra_headers=headers) as stream:
                async for event in stream:
                    if event.type == "message_start":
                        mark = event.message.id
                    elif event.type == "text":
                        text += event.text
                    elif event.type == "message_stop":
                        is_whole = True
        finally:
            if mark:
                call.hear(mark, text, is_whole=is_whole)
        if not is_whole:
            raise Again("the stream broke off")

    def _client(self, url: str, timeout_s: float) -> anthropic.AsyncAnthropic:
        if url not in self._clients:
            http = anthropic.DefaultAsyncHttpxClient(event_hooks={"request": [_asks], "response": [_hears]})
            self._clients[url] = anthropic.AsyncAnthropic(base_url=url, api_key="any", timeout=timeout_s + 1, http_client=http)
        return self._clients[url]

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()


async def _asks(_: object) -> None:
    WAITS.get()(True)


async def _hears(response: httpx2.Response) -> None:
    if response.is_error:
        WAITS.get()(False)


# Over gRPC.


class Channels:
    """A channel for each address; a daemon that was started anew has another address."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}

    def to(self, address: str) -> grpc.aio.Channel:
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(address)
        return self._channels[address]

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()


class Grpc:
    """Our own API: a whole answer, or (*streams*) one by events."""

    def __init__(self, channels: Channels, *, streams: bool) -> None:
        self._channels, self._streams = channels, streams

    async def ask(self, call: Call, host: Host, prompt: str, timeout_s: float) -> None:
        stub = messages_service_pb2_grpc.MessagesServiceStub(self._channels.to(host.grpc))
        with _heard():
            if self._streams:
                request = messages_service_pb2.StreamMessageRequest(params=_params(prompt), options=_options(call))
                await self._read(call, stub.StreamMessage(request, timeout=timeout_s))
            else:
                asked = messages_service_pb2.CreateMessageRequest(params=_params(prompt), options=_options(call))
                _hear_message(call, (await stub.CreateMessage(asked, timeout=timeout_s)).message)

    async def _read(self, call: Call, replies: Any) -> None:
        try:
            await hear_events(call, (reply.event async for reply in replies))
        finally:
            replies.cancel()


async def hear_events(call: Call, events: AsyncIterator[Any]) -> None:
    """Note what a stream of our events comes to; raises `Again` if it is not whole."""
    mark = text = ""
    is_whole = False
    try:
        async for event in events:
            match event.WhichOneof("event"):
                case "message_start":
                    mark = event.message_start.message.id
                case "content_block_delta":
                    text += event.content_block_delta.delta.text_delta.text
                case "message_stop":
                    is_whole = True
    finally:
        if mark:
            call.hear(mark, text, is_whole=is_whole)
    if not is_whole:
        raise Again("the stream ended early")


class Submitted:
    """A call that is handed in; its ticket is waited for, at any daemon. Its key makes a second submission the same."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    async def ask(self, call: Call, host: Host, prompt: str, timeout_s: float) -> None:
        channel = self._channels.to(host.grpc)
        with _heard():
            if not call.ticket:
                request = messages_service_pb2.SubmitMessageRequest(params=_params(prompt), options=_options(call))
                stub = messages_service_pb2_grpc.MessagesServiceStub(channel)
                call.ticket = (await stub.SubmitMessage(request, timeout=timeout_s)).ticket.id
            tickets = tickets_service_pb2_grpc.TicketsServiceStub(channel)
            wait = tickets_service_pb2.WaitTicketRequest(id=call.ticket)
            ticket = (await tickets.WaitTicket(wait, timeout=timeout_s)).ticket
        if ticket.state != tickets_pb2.TICKET_STATE_SUCCEEDED:
            raise No(f"{tickets_pb2.TicketState.Name(ticket.state)} {ticket.error.reason} {ticket.error.message[:60]}")
        _hear_message(call, ticket.message)


def _params(prompt: str) -> Any:
    request = messages_service_pb2.CreateMessageRequest()
    request.params.model, request.params.max_tokens = MODEL, _MAX_TOKENS
    request.params.messages.add(role="user").content.text = prompt
    return request.params


def _options(call: Call) -> options_pb2.CallOptions:
    return options_pb2.CallOptions(anthropic_version="2023-06-01", idempotency_key=call.key)


def _hear_message(call: Call, message: Any) -> None:
    call.hear(message.id, "".join(block.text.text for block in message.content), is_whole=True)


@contextlib.contextmanager
def _heard() -> Any:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        code, reason, after_s = error.code(), *_details(error)
        why = f"{code.name} {reason} {(error.details() or '')[:60]}"
        raise (Again(why, after_s) if code in _AGAIN else No(why)) from None


def _details(error: grpc.aio.AioRpcError) -> tuple[str, float]:
    """Return the reason that a status gives, and after how many seconds a repeat makes sense."""
    reason, after_s = "", 0.0
    packed = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    for detail in status_pb2.Status.FromString(packed).details if packed else ():
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(retry):
            after_s = retry.retry_delay.ToTimedelta().total_seconds()
    return reason, after_s


class Spoken:
    """
    A client in another language: a program that reads calls as lines of JSON, and says what it heard in lines of JSON.

    A line to it: name, key, way, http, grpc, prompt, timeout_ms. A line from it: name; id and text of what came; why not, and
    whether to ask again.
    """

    def __init__(self, process: asyncio.subprocess.Process, way: str) -> None:
        self._process, self._way = process, way
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = 0
        self._reading = asyncio.create_task(self._read())

    async def ask(self, call: Call, host: Host, prompt: str, timeout_s: float) -> None:
        self._numbers += 1
        name, heard = str(self._numbers), asyncio.get_running_loop().create_future()
        self._waiting[name] = heard
        asked = {"name": name, "key": call.key, "way": self._way, "http": host.http, "grpc": host.grpc, "prompt": prompt}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked | {"timeout_ms": round(1000 * timeout_s)}).encode() + b"\n")
        said = await heard
        if said.get("id"):
            call.hear(said["id"], said.get("text", ""), is_whole=not said.get("why"))
        if why := said.get("why"):
            raise Again(why) if said.get("again") else No(why)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said = json.loads(line)
            heard = self._waiting.pop(said["name"], None)
            if heard is not None and not heard.done():  # else who asked has given it up
                heard.set_result(said)

    async def close(self) -> None:
        self._reading.cancel()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
