"""
A call to the API as a door hands it over, whatever the door: the same for the HTTP edge, for `ApiService.Call` and for the
typed services, which are conveniences over it.

    async with exchange.open(Request("GET", "/v1/models", caller=caller)) as response:
        ...  # response.status, response.headers, response.reply
        whole = await response.read()

What the endpoint's row in `endpoints.py` says decides the way: along the flow (cache, flights, schedule, retries, tickets),
or past it, as a stream in both directions that is still held to limits and tried again where that is safe.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

from headrace import disconnect, roles
from headrace.admission import Admission, Ask, check_size
from headrace.answers import Answers
from headrace.aside import Aside
from headrace.basin import Basin, Place
from headrace.batches import Batches
from headrace.batches.results import readable
from headrace.carry import Carrier, Load
from headrace.clock import Clock
from headrace.edge.addresses import readdressed
from headrace.edge.asked import Request, Response, endpoint_of, new_id
from headrace.edge.hits import JSON, SSE, Seen
from headrace.edge.http_asks import cache_control, labels, read_ask
from headrace.edge.last_word import LastWord
from headrace.edge.taken import bounded, whole_body
from headrace.edge.told import Told
from headrace.edge.visits import entered, walk
from headrace.edge.waits import read_wait
from headrace.endpoints import Endpoint
from headrace.errors import AttemptFailed, BrokenStream, DeadlinePassed, HeadraceError, NotCached
from headrace.flow import Flow
from headrace.model import Call, Errand, Event, Form, Headers, Reply, Source
from headrace.once import Once
from headrace.outcome import Outcomes
from headrace.pursuit import Pursuits
from headrace.resources import Guard, Visit, said_of_own
from headrace.trail import TICKET_HEADER, TIMING_HEADER, timing
from headrace.upstream.carrying import Body
from headrace.upstream.client import Carried

Budget = Callable[[Errand | Seen], Headers]

_MOMENT_S = 0.5  # by so much a caller's clock and ours may differ, and either may be late


class Exchange:
    """
    The way of every call that is not a hit of the very bytes (hits.py).

    Args:
        budget_headers: `anthropic-ratelimit-*` of a call's caller; no I/O.
        upstream_url: where upstream is, as it names itself in answers.
    """

    def __init__(
        self,
        clock: Clock,
        flow: Flow,
        pursuits: Pursuits,
        once: Once,
        carrier: Carrier,
        admission: Admission,
        outcomes: Outcomes,
        batches: Batches,
        guard: Guard,
        answers: Answers,
        basin: Basin,
        *,
        budget_headers: Budget,
        upstream_url: str,
        opens_s: float,
    ) -> None:
        self.outcomes = outcomes
        self.pursuits = pursuits
        self.basin = basin
        self._once = once
        self._clock = clock
        self._flow = flow
        self._carrier = carrier
        self._admission = admission
        self.guard = guard
        self.answers = answers
        self.last_word = LastWord()
        self._batches = batches
        self._budget_headers = budget_headers
        self._upstream_url = upstream_url.encode()
        self._opens_s = opens_s

    def __repr__(self) -> str:
        return f"<Exchange {self._flow!r} {self._carrier!r}>"

    def open(
        self, request: Request, *, seen: Callable[[Call], None] = lambda call: None
    ) -> AbstractAsyncContextManager[Response]:
        """
        Answer a request. Leaving early gives it up.

        Raises a `Refusal` (ours, to this caller) or an `UpstreamError` with upstream's status, body and headers.

        Args:
            seen: is told the call, once it is answered, if its answer may be kept.
        """
        endpoint = endpoint_of(request.method, request.target)
        roles.of_path(request.method, request.target.partition("?")[0]).check(request.caller.role)
        check_size(endpoint, request.length)
        return self._kept(request, endpoint, seen) if endpoint.is_kept else self._carried(request, endpoint)

    async def admit(self, ask: Ask, place: Place | None) -> Call:
        """
        Return the call that a door read from the wire; equal calls in the air have one body between them.

        What it holds is counted by the *place* where its body lay, until that is released.
        """
        call = await self._admission.admit(**ask)
        shared = self._flow.sharing(call)
        if place is not None:
            place.hold(len(call.body) if shared is call else 0)
        return shared

    def answer(self, call: Call, edge: str, *, opens_s: float | None = None) -> AbstractAsyncContextManager[Reply]:
        """Answer a call whose answer may be kept, and tell what came of it; see `Flow.answer`."""
        way = self._once.answer if call.has_ticket else self._flow.answer
        told = Told(self.outcomes.of(edge, call), self.last_word.call(), lambda: way(call, opens_s=opens_s))
        return self._noted(call, told) if call.no_keep and self.guard.is_on else told

    @contextlib.asynccontextmanager
    async def _noted(self, call: Call, told: Told) -> AsyncIterator[Reply]:
        has_thread = b'"thread"' in call.body
        async with told as reply:
            if reply.answer is not None and self.guard.may_tell(reply.answer, has_thread=has_thread):
                await self.guard.note(call.owner, await self.answers.made(reply.answer, has_thread=has_thread))
            if reply.events is not None:
                reply.events = self.guard.noted(call.owner, reply.events, has_thread=has_thread)
            yield reply

    def now(self) -> float:
        """Return the time, in Unix seconds."""
        return self._clock.now()

    @property
    def aside(self) -> Aside:
        """Where work is done that would hold up the loop."""
        return self._admission.aside

    async def delay_late_word(self, error: HeadraceError) -> None:
        """
        Keep back for a moment that the deadline passed, from a caller with a clock of its own.

        Both clocks ring at once. Its caller set the other one, and expects that one's error: a 504 that comes first is another
        error, now and then.
        """
        if isinstance(error, DeadlinePassed):
            await self._clock.sleep(_MOMENT_S)

    # Along the flow.

    @contextlib.asynccontextmanager
    async def _kept(self, request: Request, endpoint: Endpoint, seen: Callable[[Call], None]) -> AsyncIterator[Response]:
        trace = self.outcomes.entered(request.headers, request.trace)
        body = await whole_body(request.body, endpoint)
        ask = read_ask(
            request.caller,
            request.headers,
            body,
            method=request.method,
            path=request.target,
            endpoint=endpoint,
            credential=request.credential,
            wait=read_wait(request.headers, request.timeout_s, is_http=request.edge == "http"),
            id=request.id,
            trace=trace,
        )
        del body
        request.body = b""  # the call has it
        call = await self.admit(ask, request.place)
        async with self.answer(call, request.edge, opens_s=self._opens_s) as reply:
            whole = None
            if reply.events is None:
                whole = await self.answers.whole(reply, Form.EVENTS if call.stream else Form.JSON)
            chunks = _live(reply.events) if reply.events is not None else _once(whole or b"")
            yield Response(200, self._headers(call, reply), chunks, reply, whole, call.trail)
        seen(call)

    def _headers(self, call: Call, reply: Reply) -> list[tuple[str, str]]:
        if reply.is_early:
            # Nobody knows yet where the answer will come from, nor whether there will be one.
            return [SSE, ("request-id", new_id()), ("cache-control", "no-cache"), *self._budget_headers(call)]
        headers = [
            SSE if call.stream else JSON,
            ("request-id", reply.request_id or new_id()),
            ("cache-status", reply.cache_status),
            ("x-headrace-source", str(reply.source)),
            ("x-headrace-attempts", str(reply.attempts)),
            self._timing(call),
            *self._budget_headers(call),
            *reply.headers,
        ]
        if reply.source in (Source.CACHE, Source.STALE):
            headers.append(("age", str(int(reply.age_s))))
        if reply.ticket:
            headers.append((TICKET_HEADER, reply.ticket))
        if call.stream and reply.events is not None:
            headers.append(("cache-control", "no-cache"))
        return headers

    def _timing(self, errand: Errand) -> tuple[str, str]:
        return TIMING_HEADER, timing(errand.trail, self.now()) or 'cache;desc="hit"'

    # Past it.

    @contextlib.asynccontextmanager
    async def _carried(self, request: Request, endpoint: Endpoint) -> AsyncIterator[Response]:
        self._flow.refuse_if_draining()
        load = self._load(request, endpoint)
        with self.outcomes.of(request.edge, load.errand) as record, self.last_word.call():
            if visit := self.guard.visit(load.errand):
                load = await entered(visit, load)
            if visit and visit.is_list:
                carried, attempts, page = await walk(visit, load, self._carrier.carry, _read)
                record.reply = reply = self._reply(carried, attempts)
                yield self._response(load, request, carried, reply, page, visit)
                return
            async with self._carrier.carry(load) as (carried, attempts):
                record.reply = reply = self._reply(carried, attempts)
                body = await self._whole_answer(load, request, carried, visit)
                yield self._response(load, request, carried, reply, body, visit)

    def _reply(self, carried: Carried, attempts: int) -> Reply:
        return Reply(Source.UPSTREAM, attempts, request_id=carried.request_id, came_at=self._clock.now())

    async def _whole_answer(self, load: Load, request: Request, carried: Carried, visit: Visit | None) -> bytes | None:
        """Return the answer where something must be read in it, or be done before it is given; None where it may go by."""
        body = None
        if request.method != "HEAD" and (
            (load.endpoint.has_addresses and carried.status == 200) or (visit and visit.is_making and _is_json(carried))
        ):
            body = await _read(carried)
        if visit:
            if visit.may_tell and body is not None:
                await visit.hear(body)
            await visit.done(body)
        if body is not None and load.endpoint.batch == "made":
            self._batches.made(load.errand, body)
        return body

    def _response(
        self, load: Load, request: Request, carried: Carried, reply: Reply, body: bytes | None, visit: Visit | None = None
    ) -> Response:
        own = self._budget_headers(load.errand)
        named = said_of_own(carried.headers) if visit and visit.is_of_all else carried.headers
        said = [pair for pair in named if not (own and pair[0].startswith("anthropic-ratelimit-"))]
        said += [("x-headrace-source", "upstream"), ("x-headrace-attempts", str(reply.attempts))]
        said += [self._timing(load.errand), *own]
        if body is None:
            chunks = _unbroken(carried.chunks())
            if visit and visit.may_tell:
                chunks = visit.hearing(chunks, carried.headers)
            if load.endpoint.batch == "results" and carried.status == 200:
                chunks = self._batches.passing(load.errand, dict(carried.headers), chunks, visit.told if visit else None)
            return Response(carried.status, said, chunks, reply, trail=load.errand.trail)
        if load.endpoint.has_addresses:
            body = readdressed(body, request.headers, self._upstream_url)
        said = [pair for pair in said if pair[0] not in ("content-length", "content-encoding")]
        said.append(("content-length", str(len(body))))
        return Response(carried.status, said, carried.passing(_once(body)), reply, trail=load.errand.trail)

    def _load(self, request: Request, endpoint: Endpoint) -> Load:
        headers = request.headers
        asks = cache_control(headers)
        if asks.only_if_cached:
            raise NotCached("only-if-cached was asked, and answers of this endpoint are never kept")
        disconnect.check_carried(headers)
        now = self._clock.now()
        wait = read_wait(headers, request.timeout_s)
        moments = self._admission.moments(now, wait, endpoint, request.caller, is_stream=True)
        errand = Errand(
            caller=request.caller,
            lane=self._admission.lane_of(headers.get("x-headrace-lane", ""), request.caller),
            method=request.method,
            path=request.target,
            endpoint=endpoint.name,
            version=headers.get("anthropic-version", ""),
            arrival=now,
            deadline=moments.deadline,
            slack_s=moments.slack_s,
            credential=request.credential,
            labels=labels(headers, request.caller),
            id=request.id,
            trace=self.outcomes.entered(headers, request.trace),
        )
        body = Body(bounded(request.body, endpoint), request.length)
        onward = tuple((name.lower(), value) for name, value in headers.items())
        return Load(errand, endpoint, readable(onward) if endpoint.batch == "results" else onward, body)


# Answers.


def _is_json(carried: Carried) -> bool:
    kind = dict(carried.headers).get("content-type", "").partition(";")[0].strip().lower()
    return kind in ("", "application/json") or kind.endswith("+json")


async def _once(body: bytes) -> AsyncIterator[bytes]:
    if body:
        yield body


async def _live(events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    async for event in events:
        yield event.raw


async def _read(carried: Carried) -> bytes:
    try:
        return await carried.read()
    except AttemptFailed as failure:
        raise failure.error from failure


async def _unbroken(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    # What breaks off in the middle is final: some of it is gone to the caller.
    try:
        async for chunk in chunks:
            yield chunk
    except AttemptFailed as failure:
        error = failure.error
        raise BrokenStream(error.message, status=error.status, type=error.type, headers=error.headers) from failure
