"""
MessagesService: one answer whole, one answer as events, and calls that are to be answered later.

`CreateMessage` and `StreamMessage` are two forms of one call, and go the way of all RPCs whose answers are kept (grpc_kept.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.message import Message

from headrace import forms
from headrace.admission import Admission, Ask
from headrace.edge import translate
from headrace.edge.exchange import Exchange
from headrace.edge.grpc_asks import answer_timeout_s, read_ask
from headrace.edge.grpc_calls import Handler, Who, ending, guarded
from headrace.edge.grpc_ids import named_by
from headrace.edge.grpc_kept import KeptRpc, Method
from headrace.edge.grpc_params import Parted, take_apart
from headrace.edge.grpc_tickets import ticket_message
from headrace.model import Answer, Caller, Event
from headrace.v1 import events_pb2, messages_pb2, messages_service_pb2


class MessagesServicer:
    """The methods of the service but `CountTokens`, which is a row of `grpc_routes.py`."""

    def __init__(self, exchange: Exchange, admission: Admission, who: Who, kept: Callable[[Method], KeptRpc]) -> None:
        self._exchange = exchange
        self._admission = admission
        self._who = who
        self._create = kept(_CREATE)
        self._stream = kept(_STREAM)

    def __repr__(self) -> str:
        return f"<MessagesServicer {self._exchange.pursuits!r}>"

    @property
    def unary(self) -> dict[str, Handler]:
        """The methods that answer once."""
        return {"CreateMessage": self._create.unary, "SubmitMessage": ending(self._exchange.last_word, self.submit)}

    @property
    def streaming(self) -> dict[str, Handler]:
        """The methods that answer many times."""
        return {"StreamMessage": self._stream.stream}

    @guarded
    async def submit(self, raw: bytes, context: Any) -> bytes:
        """Return the ticket of a call that is to be answered later."""
        keys = self._who.keys(context)
        cls = messages_service_pb2.SubmitMessageRequest
        with self._exchange.basin.place(self._who.whose(keys)) as place:
            await place.came(len(raw))
            parted = await take_apart(self._admission.aside, cls, raw, streams=False)
            caller = self._who.identify(keys.ours, parted.request.options.caller)
            asked = _CREATE.ask(parted, caller, timeout_s=answer_timeout_s(parted.request), credential=keys.own)
            del raw, parted  # the call has all that they say
            asked["id"], trace = named_by(context)
            asked["trace"] = self._exchange.outcomes.entered({}, trace)
            call = await self._exchange.admit(asked, place)
            ticket = await self._exchange.pursuits.submit(call)
        return messages_service_pb2.SubmitMessageResponse(ticket=ticket_message(ticket)).SerializeToString()


class _Form:
    """One of the two forms of an answer."""

    def __init__(self, name: str, request: type[Message], response: type[Message], *, is_streaming: bool) -> None:
        self.name = f"MessagesService.{name}"
        self.is_streaming = is_streaming
        self.request = request
        self.response = response

    def ask(self, parted: Parted, caller: Caller, *, timeout_s: float | None, credential: str) -> Ask:
        options = parted.request.options
        return read_ask(options, caller, parted.body, stream=self.is_streaming, timeout_s=timeout_s, credential=credential)

    def whole(self, answer: Answer) -> Iterator[bytes]:
        if self.is_streaming:
            return (said for event in forms.event_list(answer) if (said := self.event(event, answer.request_id)))
        message: Any = translate.shape(forms.json_payload(answer), messages_pb2.Message)  # made in its place: none is copied
        return iter([messages_service_pb2.CreateMessageResponse(message=message).SerializeToString()])

    def event(self, event: Event, request_id: str) -> bytes:
        if not event.data:
            return b""  # a comment between events says nothing
        try:
            said = translate.read(event.data, events_pb2.StreamEvent)
        except ValueError:
            said = events_pb2.StreamEvent(other_json=event.data)
        name = "" if said.WhichOneof("event") == event.name else event.name
        return messages_service_pb2.StreamMessageResponse(event=said, event_name=name).SerializeToString()


_CREATE = _Form(
    "CreateMessage",
    messages_service_pb2.CreateMessageRequest,
    messages_service_pb2.CreateMessageResponse,
    is_streaming=False,
)
_STREAM = _Form(
    "StreamMessage",
    messages_service_pb2.StreamMessageRequest,
    messages_service_pb2.StreamMessageResponse,
    is_streaming=True,
)
METHODS = (_CREATE, _STREAM)
