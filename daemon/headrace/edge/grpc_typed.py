"""
The typed services: models, batches, the organisation, chats, and the counting of tokens.

Every RPC is a row of `grpc_routes.py`: a request becomes what HTTP would ask, goes the way of any other call, and the JSON that
comes back becomes a message, or many. Nothing of the JSON is lost; see `translate.py`. What the API's endpoint is decides the
way: along the flow (grpc_kept.py), or past it, through `Exchange`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from google.protobuf.message import Message
from multidict import CIMultiDict

from headrace import forms, roles
from headrace.admission import Ask
from headrace.edge import translate
from headrace.edge.asked import Request, Response
from headrace.edge.exchange import Exchange
from headrace.edge.grpc_asks import origin, read_ask
from headrace.edge.grpc_calls import Handler, Who, guarded
from headrace.edge.grpc_ids import call_id, named_by, trailers
from headrace.edge.grpc_kept import KeptRpc, Method
from headrace.edge.grpc_params import Parted, take_apart
from headrace.edge.grpc_routes import ROUTES, Route, Shape, ask, headers_of
from headrace.errors import UpstreamError
from headrace.forms import exact
from headrace.model import Answer, Caller, Event

_MAX_LINE_BYTES = 64 * 2**20  # no more fits into one gRPC message
_DONE = b"[DONE]"


class TypedServicer:
    """All services of the table."""

    def __init__(self, exchange: Exchange, who: Who, kept: Callable[[Method], KeptRpc]) -> None:
        self._exchange = exchange
        self._rpcs = {
            route: kept(_KeptRoute(route)) if route.endpoint.is_kept else _CarriedRpc(exchange, who, route) for route in ROUTES
        }

    def __repr__(self) -> str:
        return f"<TypedServicer {self._exchange!r}>"

    def unary(self, service: str) -> dict[str, Handler]:
        """Return the methods of a service that answer once."""
        return {route.name: rpc.unary for route, rpc in self._of(service) if not route.is_streaming}

    def streaming(self, service: str) -> dict[str, Handler]:
        """Return the methods of a service that answer many times."""
        return {route.name: rpc.stream for route, rpc in self._of(service) if route.is_streaming}

    def _of(self, service: str) -> list[tuple[Route, KeptRpc | _CarriedRpc]]:
        name = service.rpartition(".")[2]
        return [(route, rpc) for route, rpc in self._rpcs.items() if route.service == name]


class _KeptRoute:
    """A method whose answers are kept."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self.name = route.rpc
        self.is_streaming = route.is_streaming
        self.request = route.request
        self.response = route.response

    def ask(self, parted: Parted, caller: Caller, *, timeout_s: float | None, credential: str) -> Ask:
        route, asked = self._route, ask(self._route, parted)
        return read_ask(
            parted.request.options,
            caller,
            asked.body,
            stream=None,  # the body says it
            timeout_s=timeout_s,
            credential=credential,
            method=route.method,
            path=asked.target,
            endpoint=route.endpoint,
        )

    def whole(self, answer: Answer) -> Iterator[bytes]:
        if self._route.is_streaming:
            return (said for event in forms.event_list(answer) if (said := self.event(event, answer.request_id)))
        return iter([_read(self._route, forms.json_payload(answer), answer.request_id).SerializeToString()])

    def event(self, event: Event, request_id: str) -> bytes:
        if not event.data or event.data == _DONE:
            return b""
        return _read(self._route, event.data, request_id).SerializeToString()


METHODS = tuple(_KeptRoute(route) for route in ROUTES if route.endpoint.is_kept)


class _CarriedRpc:
    """A method that is asked of upstream each time."""

    def __init__(self, exchange: Exchange, who: Who, route: Route) -> None:
        self._route = route
        self._exchange = exchange
        self._who = who

    @guarded
    async def unary(self, raw: bytes, context: Any) -> bytes:
        """Return what upstream says."""
        async with self._open(raw, context) as response:
            said: Any = _read(self._route, await response.read(), response.reply.request_id)
            said.origin.CopyFrom(origin(response.reply, call_id(context)))
            context.set_trailing_metadata(trailers(context, response.trail, self._exchange.now()))
            return said.SerializeToString()  # type: ignore[no-any-return]  # some message

    @guarded
    async def stream(self, raw: bytes, context: Any) -> None:
        """Write what upstream says, line by line."""
        async with self._open(raw, context) as response:
            is_first = True
            async for line in lines(response.chunks):
                said: Any = _read(self._route, line, response.reply.request_id)
                if is_first:
                    said.origin.CopyFrom(origin(response.reply, call_id(context)))
                    is_first = False
                await context.write(said.SerializeToString())
            context.set_trailing_metadata(trailers(context, response.trail, self._exchange.now()))

    def refused(self, error: Exception, context: Any) -> None:
        """Tell of a request that was refused before it was a call; for `guarded`."""
        self._exchange.outcomes.refused("grpc", error, id=call_id(context))

    @contextlib.asynccontextmanager
    async def _open(self, raw: bytes, context: Any) -> AsyncIterator[Response]:
        key, own_key, *_ = self._who.keys(context)
        parted = await take_apart(self._exchange.aside, self._route.request, raw, streams=self._route.shape is Shape.EVENTS)
        caller = self._who.identify(key, parted.request.options.caller)
        roles.of_rpc(self._route.rpc).check(caller.role)
        asked = ask(self._route, parted)
        call_named, trace = named_by(context)
        call = Request(
            method=self._route.method,
            target=asked.target,
            caller=caller,
            headers=CIMultiDict(headers_of(self._route, parted.request)),
            body=asked.body,
            length=len(asked.body),
            timeout_s=context.time_remaining(),
            credential=own_key,
            id=call_named,
            trace=trace,
        )
        async with self._exchange.open(call) as response:
            yield response


async def lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the lines of a body as they come, blank ones left out; the last may have no end."""
    pending = bytearray()
    async for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for part in whole:
            pending += part
            if line := bytes(pending).strip():
                yield line
            pending.clear()
        pending += rest
        if len(pending) > _MAX_LINE_BYTES:
            raise UpstreamError("upstream's answer has a line of more than 64 MB", status=502)
    if line := bytes(pending).strip():
        yield line


# JSON into messages.


def _read(route: Route, raw: bytes, request_id: str) -> Message:
    try:
        return _page(route, raw) if route.shape is Shape.PAGE else _whole(route, raw)
    except ValueError as error:
        named = (("request-id", request_id),) if request_id else ()
        raise UpstreamError("upstream's answer is not the JSON that it should be", status=502, headers=named) from error


def _whole(route: Route, raw: bytes) -> Message:
    said = translate.read(raw, route.said)
    return route.response(**{route.answer: said}) if route.answer else said


def _page(route: Route, raw: bytes) -> Message:
    rest = exact.fields(raw)
    token = _next(route, rest)
    try:
        items = [translate.read(bytes(item), route.said) for item in exact.items(rest["data"])]
    except (KeyError, ValueError):
        items = []  # not a list of objects: it stays where it is, and is not lost
    else:
        del rest["data"]
    extra = exact.spell(rest) if rest else b""
    return route.response(**{route.answer: items}, next_page_token=token, extra_json=extra)


def _next(route: Route, page: exact.Fields) -> str:
    said = {name: exact.parse(page[name]) for name in ("next_page", "has_more", "last_id") if name in page}
    token = said.get("next_page") if route.cursor == "page" else said.get("has_more") is True and said.get("last_id")
    return token if isinstance(token, str) else ""
