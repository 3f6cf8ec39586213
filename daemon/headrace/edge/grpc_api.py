"""
ApiService: HTTP over gRPC, for every endpoint there is or will be.

The head says what a request line and headers say, and is answered as the HTTP edge would answer it: an error of the API, or a
refusal of ours, is a response with its status. Bodies go through in chunks; each side waits for the other, so neither piles
up here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

from multidict import CIMultiDict

from headrace import observe
from headrace.edge import http_errors
from headrace.edge.exchange import Exchange, Request, Response, is_events, new_id
from headrace.edge.grpc_calls import Who, guarded, parse
from headrace.errors import HeadraceError, InvalidCall
from headrace.heads import readable
from headrace.v1 import api_service_pb2

_CHUNK_BYTES = 1 << 20  # of one message; more at once is cut
_WITHOUT_BODY = frozenset({"GET", "HEAD"})
_Head = api_service_pb2.CallRequestHead
_Pairs = Iterable[tuple[str, str]]


class ApiServicer:
    """One method."""

    def __init__(self, exchange: Exchange, who: Who) -> None:
        self._exchange = exchange
        self._who = who

    def __repr__(self) -> str:
        return f"<ApiServicer {self._exchange!r}>"

    @guarded
    async def call(self, parts: AsyncIterator[bytes], context: Any) -> None:
        """Send a request, and write its response."""
        writer = _Writer(context)
        head = await _head(parts)
        try:
            request = await self._request(head, parts, context)
            async with self._exchange.open(request) as response:
                observe.CALLS.inc("grpc", response.source)
                await writer.pass_on(response)
        except HeadraceError as error:
            if writer.has_begun and not writer.has_events:
                raise  # the status is gone: the RPC itself has to fail
            observe.ERRORS.inc("grpc", error.reason)
            await self._exchange.let_ring(error)  # every client of gRPC's has a clock
            if writer.has_begun:
                # The error is the stream's last event, as upstream itself would have it.
                await writer.body(http_errors.error_event(error, new_id()))
                return
            said = http_errors.say(error, new_id())
            await writer.begin(said.status, said.headers)
            await writer.body(said.body)

    async def _request(self, head: _Head, parts: AsyncIterator[bytes], context: Any) -> Request:
        headers = CIMultiDict((header.name.lower(), header.value) for header in head.headers)
        # A key may come as HTTP has it, in the head, or as gRPC has it.
        key, own_key = self._who.keys(context, headers)
        body, length = await _body(head, parts, headers.get("content-length", ""))
        return Request(
            method=head.method,
            target=f"{head.path}?{head.query}" if head.query else head.path,
            caller=self._who.identify(key, headers.get("x-headrace-caller", "")),
            headers=headers,
            body=body,
            length=length,
            timeout_s=context.time_remaining(),
            credential=own_key,
        )


async def _head(parts: AsyncIterator[bytes]) -> _Head:
    raw = await anext(parts, None)
    part = parse(api_service_pb2.CallRequest, raw or b"")
    if part.WhichOneof("part") != "head":
        raise InvalidCall("head: must be the first part, and is missing", metadata={"field": "head"})
    return part.head


async def _body(head: _Head, parts: AsyncIterator[bytes], stated: str) -> tuple[bytes | AsyncIterator[bytes], int | None]:
    # Whole if it came with the head, as is known when the stream of parts ends after it.
    length = int(stated) if stated.isascii() and stated.isdecimal() and len(stated) < 19 else None
    if length is not None and length == len(head.body):
        return head.body, length
    if length is None and not head.body and head.method in _WITHOUT_BODY:
        return b"", 0  # nor need its caller have said that nothing more comes
    second = await anext(parts, None)
    if second is None:
        return head.body, len(head.body)
    return _chunks(head.body, second, parts), length


async def _chunks(first: bytes, second: bytes, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    yield _chunk(second)
    async for raw in parts:
        yield _chunk(raw)


def _chunk(raw: bytes) -> bytes:
    part = parse(api_service_pb2.CallRequest, raw)
    if part.WhichOneof("part") != "chunk":
        raise InvalidCall("head: comes once, and chunks after it", metadata={"field": "head"})
    return part.chunk


class _Writer:
    """Writes a response in its parts."""

    def __init__(self, context: Any) -> None:
        self.has_begun = self.has_events = False
        self._context = context

    async def pass_on(self, response: Response) -> None:
        await self.begin(response.status, response.headers)
        async for chunk in response.chunks:
            await self.body(chunk)

    async def begin(self, status: int, headers: _Pairs) -> None:
        self.has_begun = True
        said = [api_service_pb2.Header(name=name.lower(), value=readable(value)) for name, value in headers]
        self.has_events = is_events((header.name, header.value) for header in said)
        head = api_service_pb2.CallResponseHead(status=status, headers=said)
        await self._context.write(api_service_pb2.CallResponse(head=head).SerializeToString())

    async def body(self, body: bytes) -> None:
        for begin in range(0, len(body), _CHUNK_BYTES):
            chunk = body[begin : begin + _CHUNK_BYTES]
            await self._context.write(api_service_pb2.CallResponse(chunk=chunk).SerializeToString())
