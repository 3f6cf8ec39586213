"""
ApiService: HTTP over gRPC, for every endpoint there is or will be.

The head says what a request line and headers say, and is answered as the HTTP edge would answer it: an error of the API, or a
refusal of ours, is a response with its status. Bodies go through in chunks; each side waits for the other, so neither piles
up here. A repeat is a hit by the bytes of its first part, where they are all of it, or else by what HTTP would say.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from multidict import CIMultiDict

from headrace.admission import check_size
from headrace.aside import aloof
from headrace.basin import Place
from headrace.edge import http_errors
from headrace.edge.asked import HeaderMap, Request, Response, endpoint_of, is_events, new_id
from headrace.edge.exchange import Budget, Exchange
from headrace.edge.grpc_calls import Who, guarded
from headrace.edge.grpc_ids import call_id, delimited, give, named_by, trace_of
from headrace.edge.grpc_parts import Beginning, beginning, more
from headrace.edge.hits import (
    TOLD_S,
    Hit,
    Hits,
    constant_headers,
    digest,
    http_digest,
    outcome_of,
    payload,
    varying_headers,
)
from headrace.edge.http_protocol import LINGER_S
from headrace.edge.taken import whole_body
from headrace.errors import HeadraceError, TooSlow, UnknownCaller
from headrace.heads import readable
from headrace.model import Call
from headrace.owner import text_of
from headrace.trace import Trace
from headrace.trail import GIVEN_HEADER, ID_HEADER, MAX_ID, id_of
from headrace.v1 import api_service_pb2

_CHUNK_BYTES = 1 << 20  # of one message; more at once is cut
_HEAD_TAG = api_service_pb2.CallResponse.DESCRIPTOR.fields_by_name["head"].number << 3 | 2
_HEADERS_FIELD: int = api_service_pb2.CallResponseHead.DESCRIPTOR.fields_by_name["headers"].number
_VALUE_FIELD: int = api_service_pb2.Header.DESCRIPTOR.fields_by_name["value"].number
_ID_NAME = api_service_pb2.Header(name=ID_HEADER).SerializeToString()
_NAMED = b"ApiService.Call\n"  # begins what its bytes' digests are made of
_WITHOUT_BODY = frozenset({"GET", "HEAD"})
_Pairs = Iterable[tuple[str, str]]


class ApiServicer:
    """
    One method.

    Args:
        budget_headers: `anthropic-ratelimit-*` of a call's caller; no I/O.
    """

    def __init__(self, exchange: Exchange, hits: Hits, who: Who, budget_headers: Budget) -> None:
        self._exchange = exchange
        self._hits = hits
        self._who = who
        self._budget_headers = budget_headers

    def __repr__(self) -> str:
        return f"<ApiServicer {self._exchange!r}>"

    @guarded
    async def call(self, parts: AsyncIterator[bytes], context: Any) -> None:
        """Send a request, and write its response."""
        raw = await anext(parts, b"")
        # Where keys decide nothing, a hit needs no headers: these bytes have been parsed before.
        if not self._who.asks_for_keys and (hit := self._hits.near(_NAMED, raw) or await self._far(_NAMED, raw)):
            entered = None if self._exchange.outcomes.enters is None else await self._entered(raw, context)
            await context.write(*self._given(hit, entered))
            return None
        first, seen = await beginning(raw), [raw]
        del raw  # it may be large, and is wanted for a moment more
        writer = _Writer(context)
        try:
            await self._answer(seen, first, parts, context, writer)
        except HeadraceError as error:
            if writer.has_begun and (isinstance(error, TooSlow) or not writer.has_events):
                raise  # the status is gone: the RPC itself has to fail, and so where nobody would read a last event
            self._exchange.outcomes.refused("grpc", error, id=call_id(context))
            await self._exchange.delay_late_word(error)  # every client of gRPC's has a clock
            if writer.has_begun:
                # The error is the stream's last event, as upstream itself would have it.
                return await writer.body(http_errors.error_event(error, new_id()))
            await writer.say(error)
            if isinstance(error, UnknownCaller):
                return None
        if writer.is_refusal and not _is_whole(first, _headers(first.head)):
            await _hear_out(parts)
        return None

    async def refuse(self, context: Any, error: HeadraceError) -> None:
        """Say that a request is refused, of which nothing was read: as HTTP says it."""
        await _Writer(context).say(error)

    async def _far(self, head: bytes, raw: bytes) -> Hit | None:
        if hit := self._hits.glance(await aloof(raw, digest, head, raw)):
            self._hits.bring_near(head, raw, hit)
        return hit

    async def _answer(
        self, seen: list[bytes], first: Beginning, parts: AsyncIterator[bytes], context: Any, writer: _Writer
    ) -> None:
        head, headers = first.head, _headers(first.head)
        give(headers.get(GIVEN_HEADER))
        key, own_key, scope, given = self._who.keys(context, headers)
        named, outcomes = _NAMED + scope, self._exchange.outcomes
        if self._who.asks_for_keys and (hit := self._hits.near(named, seen[0]) or await self._far(named, seen[0])):
            await context.write(*self._given(hit, outcomes.entered(headers, trace_of(context)), given))
            return
        call_named, trace = named_by(context)
        request = Request(
            method=head.method,
            target=f"{head.path}?{head.query}" if head.query else head.path,
            caller=self._who.identify(key, headers.get("x-headrace-caller", "")),
            headers=headers,
            timeout_s=context.time_remaining(),
            credential=own_key,
            id=call_named,
            trace=trace,
        )
        with self._exchange.basin.place(text_of(request.caller.name, own_key)) as place:
            request.place = place
            await place.came(len(seen[0]))
            raw = seen.pop()
            digests = [await aloof(raw, digest, named, raw)]
            del raw
            if not _is_whole(first, headers):
                digests.clear()  # the same first part may have another body after it
            if hit := await self._read(request, first, parts, digests, place):
                await context.write(*self._given(hit, outcomes.entered(headers, request.trace), call_id(context)))
                return
            async with self._exchange.open(request, seen=lambda call: self._remember(digests, call)) as response:
                await writer.pass_on(response)
        return

    async def _read(
        self, request: Request, first: Beginning, parts: AsyncIterator[bytes], digests: list[bytes], place: Place
    ) -> Hit | None:
        """Take in the body; where the answer may be kept, all of it, and look for a hit by what HTTP would say."""
        endpoint = endpoint_of(request.method, request.target)
        request.body, request.length = await _body(first, request.headers, parts)
        if not endpoint.is_kept:
            place.hold(len(request.body) if isinstance(request.body, bytes) else 0)  # a stream goes by
            return None
        check_size(endpoint, request.length)
        request.body = body = await whole_body(request.body, endpoint, place)
        place.fill()
        if "idempotency-key" in request.headers:
            return None
        named = (request.caller.name, request.credential, request.method, request.target, request.headers)
        asked = await aloof(body, http_digest, *named, body)
        digests.append(asked)
        return self._hits.glance(asked)

    def _remember(self, digests: Iterable[bytes], call: Call) -> None:
        for known in digests:
            self._hits.remember(known, call)

    async def _entered(self, raw: bytes, context: Any) -> Trace | None:
        # What a request's head says of a trace is read where spans are made, and not otherwise.
        return self._exchange.outcomes.entered(_headers((await beginning(raw)).head), trace_of(context))

    def _given(self, hit: Hit, trace: Trace | None, given: str = "") -> tuple[bytes, ...]:
        """Return the response to a hit in its parts, and tell of it."""
        call = id_of(given)
        self._exchange.outcomes.tell(outcome_of(hit, "grpc", call, trace))
        kept, *chunks = _kept(hit)
        return (_said(b"%b%b%b%b" % (kept, self._varying(hit), _ID_HEADS[len(call)], call.encode())), *chunks)

    def _varying(self, hit: Hit) -> bytes:
        made, age_s, told = hit.entry.answer.created, hit.age_s, hit.seen.told
        if told is None or told[0] != made or not 0 <= age_s - told[1] < TOLD_S:
            own = [*varying_headers(hit), *self._budget_headers(hit.seen)]
            told = hit.seen.told = made, age_s, _response_head(own).SerializeToString()
        return told[2]


# Hits: serialised once, but for the headers that differ from hit to hit.


def _kept(hit: Hit) -> tuple[bytes, ...]:
    # The fields of the head, and the messages that hold the body.
    renditions = hit.entry.renditions
    rendition = "call.events" if hit.seen.stream else "call.json"
    kept: tuple[bytes, ...] | None = renditions.get(rendition)
    if kept is None:
        head = _response_head(constant_headers(hit), status=200).SerializeToString()
        kept = renditions[rendition] = (head, *_chunks_of(payload(hit)))
    return kept


def _said(head: bytes) -> bytes:
    """Return a response that holds a head, given its serialised fields: they cannot be appended to once they are inside."""
    return _begun(len(head)) + head


@functools.lru_cache(4096)
def _begun(left: int) -> bytes:
    # What comes before so many bytes of a head.
    said = bytearray([_HEAD_TAG])
    while left > 0x7F:
        said.append(left & 0x7F | 0x80)
        left >>= 7
    said.append(left)
    return bytes(said)


def _id_head(id: bytes) -> bytes:
    return delimited(_HEADERS_FIELD, _ID_NAME + delimited(_VALUE_FIELD, id)).removesuffix(id)


_ID_HEADS = tuple(_id_head(b"0" * length) for length in range(MAX_ID + 1))  # by an id's length, what comes before it


def _response_head(headers: _Pairs, status: int = 0) -> api_service_pb2.CallResponseHead:
    said = [api_service_pb2.Header(name=name, value=readable(value)) for name, value in headers]
    return api_service_pb2.CallResponseHead(status=status, headers=said)


def _chunks_of(body: bytes) -> Iterator[bytes]:
    for begin in range(0, len(body), _CHUNK_BYTES):
        yield api_service_pb2.CallResponse(chunk=body[begin : begin + _CHUNK_BYTES]).SerializeToString()


# Requests.


def _headers(head: api_service_pb2.CallRequestHead) -> CIMultiDict[str]:
    return CIMultiDict((header.name.lower(), header.value) for header in head.headers)


def _stated(headers: HeaderMap) -> int | None:
    # The length that is stated for the body, in bytes.
    stated = headers.get("content-length", "")
    return int(stated) if stated.isascii() and stated.isdecimal() and len(stated) < 19 else None


def _is_whole(first: Beginning, headers: HeaderMap) -> bool:
    # Whether the head tells by itself that nothing comes after it; its caller need not have said so then.
    length = _stated(headers)
    if length is None:
        return not first.body and first.head.method in _WITHOUT_BODY
    return length == len(first.body)


async def _body(
    first: Beginning, headers: HeaderMap, parts: AsyncIterator[bytes]
) -> tuple[bytes | AsyncIterator[bytes], int | None]:
    if _is_whole(first, headers) or (second := await anext(parts, None)) is None:
        return first.body, len(first.body)
    return _chunks(first.body, second, parts), _stated(headers)


async def _chunks(first: bytes, second: bytes, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    yield await more(second)
    async for raw in parts:
        yield await more(raw)


async def _hear_out(parts: AsyncIterator[bytes]) -> None:
    """Let a caller send what it will of a refused body for a moment: one that is cut off hears INTERNAL, of its own library."""
    with contextlib.suppress(TimeoutError, HeadraceError):
        async with asyncio.timeout(LINGER_S):  # by the loop: it is a socket's
            async for _ in parts:
                pass


class _Writer:
    """Writes a response in its parts."""

    def __init__(self, context: Any) -> None:
        self.has_begun = self.has_events = self.is_refusal = False
        self._context = context

    async def pass_on(self, response: Response) -> None:
        await self.begin(response.status, response.headers)
        async for chunk in response.chunks:
            await self.body(chunk)

    async def say(self, error: HeadraceError) -> None:
        said = http_errors.say(error, new_id())
        await self.begin(said.status, said.headers)
        await self.body(said.body)

    async def begin(self, status: int, headers: _Pairs) -> None:
        self.has_begun, self.is_refusal = True, status >= 400
        said = [*((name.lower(), value) for name, value in headers), (ID_HEADER, call_id(self._context))]
        self.has_events = is_events(said)
        await self._context.write(_said(_response_head(said, status).SerializeToString()))

    async def body(self, body: bytes) -> None:
        for chunk in _chunks_of(body):
            await self._context.write(chunk)
