"""
MessagesService: bytes in, bytes out.

A hit never parses anything: the hash of the request's bytes finds a kept answer, serialised once, and what differs from hit
to hit is appended to it, since serialised messages concatenate. Only bytes that are new to us are parsed and translated.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from typing import Any

from google.protobuf.message import Message

from headrace import forms, observe
from headrace.admission import Admission
from headrace.aside import aloof
from headrace.cache import status
from headrace.edge import translate
from headrace.edge.grpc_asks import answer_timeout_s, origin, read_ask
from headrace.edge.grpc_calls import Handler, Who, guarded
from headrace.edge.grpc_params import Parted, take_apart
from headrace.edge.grpc_tickets import ticket_message
from headrace.flow import Flow, Hit
from headrace.model import Answer, Call, Event, Reply
from headrace.v1 import events_pb2, messages_pb2, messages_service_pb2, options_pb2

_UNARY = "grpc.unary"
_STREAM = "grpc.stream"

_Response = messages_service_pb2.CreateMessageResponse | messages_service_pb2.StreamMessageResponse


class MessagesServicer:
    """One short method per RPC."""

    def __init__(self, flow: Flow, admission: Admission, who: Who) -> None:
        self._flow = flow
        self._admission = admission
        self._who = who

    def __repr__(self) -> str:
        return f"<MessagesServicer {self._flow!r}>"

    @property
    def unary(self) -> dict[str, Handler]:
        """The methods that answer once."""
        return {"CreateMessage": self.create, "SubmitMessage": self.submit}

    @property
    def streaming(self) -> dict[str, Handler]:
        """The methods that answer many times."""
        return {"StreamMessage": self.stream}

    @guarded
    async def create(self, raw: bytes, context: Any) -> bytes:
        """Return one answer whole."""
        key, own_key = self._who.keys(context)
        digest = await aloof(raw, _digest, b"create", self._who.scope(key, own_key), raw)
        if hit := self._flow.glance(digest):
            observe.CALLS.inc("grpc", "cache")
            return _kept_unary(hit) + _UNARY_TAIL.of(hit)
        parted = await self._take_apart(messages_service_pb2.CreateMessageRequest, raw)
        call = await self._admit(parted, key, own_key, stream=False, timeout_s=context.time_remaining())
        self._flow.remember(digest, call)
        async with self._flow.answer(call) as reply:
            observe.CALLS.inc("grpc", reply.source)
            return _unary(_whole(reply)) + _unary_origin(reply)

    @guarded
    async def stream(self, raw: bytes, context: Any) -> None:
        """Write the events of one answer."""
        key, own_key = self._who.keys(context)
        digest = await aloof(raw, _digest, b"stream", self._who.scope(key, own_key), raw)
        if hit := self._flow.glance(digest):
            observe.CALLS.inc("grpc", "cache")
            await _write(context, _kept_events(hit), _STREAM_TAIL.of(hit))
            return
        parted = await self._take_apart(messages_service_pb2.StreamMessageRequest, raw, streams=True)
        call = await self._admit(parted, key, own_key, stream=True, timeout_s=context.time_remaining())
        self._flow.remember(digest, call)
        async with self._flow.answer(call) as reply:
            observe.CALLS.inc("grpc", reply.source)
            if reply.events is None:
                await _write(context, _events(_whole(reply)), _stream_origin(reply))
            else:
                await _write_live(context, reply.events, _stream_origin(reply))

    @guarded
    async def submit(self, raw: bytes, context: Any) -> bytes:
        """Return the ticket of a call that is to be answered later."""
        key, own_key = self._who.keys(context)
        parted = await self._take_apart(messages_service_pb2.SubmitMessageRequest, raw)
        call = await self._admit(parted, key, own_key, stream=False, timeout_s=answer_timeout_s(parted.request))
        ticket = await self._flow.submit(call)
        return messages_service_pb2.SubmitMessageResponse(ticket=ticket_message(ticket)).SerializeToString()

    def _take_apart(self, cls: type[Message], raw: bytes, *, streams: bool = False) -> Awaitable[Parted]:
        return take_apart(self._admission.aside, cls, raw, streams=streams)

    async def _admit(self, parted: Parted, key: str, own_key: str, *, stream: bool, timeout_s: float | None) -> Call:
        caller = self._who.identify(key, parted.request.options.caller)
        ask = read_ask(parted.request, parted.body, caller, stream=stream, timeout_s=timeout_s, credential=own_key)
        return await self._admission.admit(ask)


def _digest(method: bytes, scope: str, raw: bytes) -> bytes:
    # The lengths keep the parts apart.
    head = b"grpc:%b:%d:%b" % (method, len(scope), scope.encode("utf-8", "surrogateescape"))
    state = hashlib.sha256(head)
    state.update(raw)
    return state.digest()


# Answers whole.


def _whole(reply: Reply) -> Answer:
    if reply.answer is None:
        raise RuntimeError("a reply has an answer or events")
    return reply.answer


def _kept_unary(hit: Hit) -> bytes:
    kept: bytes | None = hit.entry.renditions.get(_UNARY)
    if kept is None:
        kept = hit.entry.renditions[_UNARY] = _unary(hit.entry.answer)
    return kept


def _unary(answer: Answer) -> bytes:
    message = translate.read(forms.json_payload(answer), messages_pb2.Message)
    return messages_service_pb2.CreateMessageResponse(message=message).SerializeToString()


# Answers as events.


def _kept_events(hit: Hit) -> tuple[bytes, ...]:
    kept: tuple[bytes, ...] | None = hit.entry.renditions.get(_STREAM)
    if kept is None:
        kept = hit.entry.renditions[_STREAM] = tuple(_events(hit.entry.answer))
    return kept


def _events(answer: Answer) -> Iterator[bytes]:
    return (_event(event) for event in forms.event_list(answer) if event.data)


def _event(event: Event) -> bytes:
    try:
        said = translate.read(event.data, events_pb2.StreamEvent)
    except ValueError:
        said = events_pb2.StreamEvent(other_json=event.data)
    name = "" if said.WhichOneof("event") == event.name else event.name
    return messages_service_pb2.StreamMessageResponse(event=said, event_name=name).SerializeToString()


async def _write(context: Any, responses: Iterable[bytes], tail: bytes) -> None:
    for response in responses:
        await context.write(response + tail)
        tail = b""  # in the first response only


async def _write_live(context: Any, events: AsyncIterator[Event], tail: bytes) -> None:
    async for event in events:
        if event.data:  # a comment between events says nothing
            await context.write(_event(event) + tail)
            tail = b""


# Where they came from: the tail of a response.


def _unary_origin(reply: Reply) -> bytes:
    return messages_service_pb2.CreateMessageResponse(origin=origin(reply)).SerializeToString()


def _stream_origin(reply: Reply) -> bytes:
    return messages_service_pb2.StreamMessageResponse(origin=origin(reply)).SerializeToString()


class _HitTail:
    """Makes the tails of hits in one message, over and over: building it anew would cost as much as the rest of a hit."""

    def __init__(self, response: _Response) -> None:
        self._response = response
        self._origin = response.origin
        self._origin.source = options_pb2.ANSWER_SOURCE_CACHE
        self._age = self._origin.age

    def of(self, hit: Hit) -> bytes:
        entry, age_s = hit.entry, hit.age_s
        self._age.seconds = int(age_s)
        self._age.nanos = int(age_s % 1 * 1000) * 1_000_000
        self._origin.cache_status = status.hit(entry.fingerprint, entry.fresh_until - entry.answer.created - age_s)
        self._origin.request_id = entry.answer.request_id
        return self._response.SerializeToString()


_UNARY_TAIL = _HitTail(messages_service_pb2.CreateMessageResponse())
_STREAM_TAIL = _HitTail(messages_service_pb2.StreamMessageResponse())
