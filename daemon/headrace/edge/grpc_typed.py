"""
The typed services that are conveniences over `Exchange`: models, batches, the organisation, chats, and the counting of tokens.

Every RPC is a row of `grpc_routes.py`: a request becomes what HTTP would ask, goes the way of any other call, cache and limits
included, and the JSON that comes back becomes a message, or many. Nothing of the JSON is lost; see `translate.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.message import Message
from multidict import CIMultiDict

from headrace import observe
from headrace.edge import translate
from headrace.edge.exchange import Exchange, Request, Response
from headrace.edge.grpc_asks import origin
from headrace.edge.grpc_calls import Handler, Who, guarded, parse
from headrace.edge.grpc_params import is_light, take_apart
from headrace.edge.grpc_routes import ROUTES, Asked, Route, Shape, ask, has_params
from headrace.errors import UpstreamError
from headrace.forms import Splitter, exact

_MAX_LINE_BYTES = 64 * 2**20  # no more fits into one gRPC message
_DONE = b"[DONE]"


class TypedServicer:
    """All services of the table."""

    def __init__(self, exchange: Exchange, who: Who) -> None:
        self._exchange = exchange
        self._rpcs = [_Rpc(exchange, who, route) for route in ROUTES]

    def __repr__(self) -> str:
        return f"<TypedServicer {self._exchange!r}>"

    def unary(self, service: str) -> dict[str, Handler]:
        """Return the methods of a service that answer once."""
        return {rpc.route.name: rpc.unary for rpc in self._of(service) if not rpc.route.is_streaming}

    def streaming(self, service: str) -> dict[str, Handler]:
        """Return the methods of a service that answer many times."""
        return {rpc.route.name: rpc.stream for rpc in self._of(service) if rpc.route.is_streaming}

    def _of(self, service: str) -> list[_Rpc]:
        name = service.rpartition(".")[2]
        return [rpc for rpc in self._rpcs if rpc.route.service == name]


class _Rpc:
    """One method."""

    def __init__(self, exchange: Exchange, who: Who, route: Route) -> None:
        self.route = route
        self._exchange = exchange
        self._who = who

    @guarded
    async def unary(self, raw: bytes, context: Any) -> bytes:
        """Return what upstream says."""
        async with self._open(raw, context) as response:
            said: Any = _read(self.route, await response.read(), response)
            said.origin.CopyFrom(origin(response))
            return said.SerializeToString()  # type: ignore[no-any-return]

    @guarded
    async def stream(self, raw: bytes, context: Any) -> None:
        """Write what upstream says, part by part."""
        async with self._open(raw, context) as response:
            is_first = True
            async for part in _parts(self.route, response):
                said: Any = _read(self.route, part, response)
                if is_first:
                    said.origin.CopyFrom(origin(response))
                    is_first = False
                await context.write(said.SerializeToString())

    @contextlib.asynccontextmanager
    async def _open(self, raw: bytes, context: Any) -> AsyncIterator[Response]:
        key, own_key = self._who.keys(context)
        request, asked = await self._asked(raw)
        call = Request(
            method=self.route.method,
            target=asked.target,
            caller=self._who.identify(key, request.options.caller),
            headers=CIMultiDict(asked.headers),
            body=asked.body,
            length=len(asked.body),
            timeout_s=context.time_remaining(),
            credential=own_key,
        )
        async with self._exchange.open(call) as response:
            observe.CALLS.inc("grpc", response.source)
            yield response

    async def _asked(self, raw: bytes) -> tuple[Any, Asked]:
        route = self.route
        if is_light(raw) or not has_params(route):
            request: Any = parse(route.request, raw)
            return request, ask(route, request)
        parted = await take_apart(self._exchange.aside, route.request, raw, streams=route.shape is Shape.EVENTS)
        return parted.request, ask(route, parted.request, (parted.body, parted.is_stream))


# What upstream says, part by part.


def _parts(route: Route, response: Response) -> AsyncIterator[bytes]:
    return _events(response) if route.shape is Shape.EVENTS else lines(response.chunks)


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


async def _events(response: Response) -> AsyncIterator[bytes]:
    # To the very end, not only to the last event: whoever leaves early gives the call up.
    splitter = Splitter()
    async for chunk in response.chunks:
        for event in splitter.feed(chunk):
            if event.data and event.data != _DONE:
                yield event.data


# JSON into messages.


def _read(route: Route, raw: bytes, response: Response) -> Message:
    try:
        return _page(route, raw) if route.shape is Shape.PAGE else _whole(route, raw)
    except ValueError as error:
        request_id = (("request-id", response.request_id),) if response.request_id else ()
        raise UpstreamError("upstream's answer is not the JSON that it should be", status=502, headers=request_id) from error


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
