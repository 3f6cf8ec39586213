"""
Upstream: the Anthropic API as the flow sees it. One attempt is one request; nothing is ever retried here.

`ask` returns a whole answer, `stream` the events of one as they come, `carry` whatever the endpoint says, untouched.
Everything that can go wrong comes out as `AttemptFailed`, which says what it means for retries and budgets: a status, an
error event, half a JSON, half a stream, a connection that broke or fell silent. A caller who is cancelled closes the
connection, so that upstream stops generating.

Time: connecting has seconds; a stream may pause for `gap_s` (pings come in between); a unary answer may be silent for
`attempt_s`, or until the call's deadline. A call comes with one of upstream's slots (schedule/slots.py), of which there are
fewer than the pool has connections, so that it never waits inside the pool.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from types import TracebackType

from headrace import forms, observe
from headrace.allowance import Allowance
from headrace.basin import Basin
from headrace.clock import Clock, SystemClock
from headrace.errors import AttemptFailed, BrokenStream, Failure
from headrace.heads import identifier
from headrace.model import Answer, Call, Errand, Form, Headers
from headrace.pace import Going
from headrace.timeouts import LoopTimeout
from headrace.upstream.carrying import Body, back, incoming
from headrace.upstream.failures import silent
from headrace.upstream.network import NETWORK_ERRORS, failure_of
from headrace.upstream.reading import (
    MAX_ANSWER_BYTES,
    Judge,
    Stream,
    answer_of,
    judge_here,
    read_failure,
    read_in_place,
    read_whole,
)
from headrace.upstream.requests import Requests
from headrace.upstream.transport import Request, Response, Transport
from headrace.upstream.troubles import Troubles

_SPARE_CONNECTIONS = 64  # beyond the slots: connections that are being closed still count in the pool

OnHead = Callable[[Errand, int, Sequence[tuple[bytes, bytes]], float], None]


def _ignore(call: Errand, status: int, raw_headers: Sequence[tuple[bytes, bytes]], sent_at: float) -> None:
    pass


@dataclass(frozen=True, slots=True)
class UpstreamStats:
    """Where upstream is, and how many calls are there."""

    base_url: str
    in_the_air: int


class Upstream:
    """
    Asks the API.

    Args:
        base_url: where it is.
        api_key, admin_key: return our own keys, each time anew, for they may be changed under way.
        version: `anthropic-version` where a call names none.
        max_in_flight: the most calls that come at once; the pool has room for a few more.
        connect_s: bound of making a connection.
        gap_s: how long a stream may say nothing.
        attempt_s: how long a unary answer may be on its way at most, and any other may take to begin, whatever the deadline.
        proxy: the URL of the proxy on the way there; "" for none.
        on_head: told of the head of every answer, whatever its status: the call, the status, the headers as they came, and
            when it was asked.
        judge: says what whole answers are.
    """

    def __init__(
        self,
        base_url: str,
        api_key: Callable[[], str],
        *,
        admin_key: Callable[[], str] = str,
        version: str = "2023-06-01",
        clock: Clock | None = None,
        max_in_flight: int = 512,
        connect_s: float = 5.0,
        gap_s: float = 90.0,
        attempt_s: float = 600.0,
        proxy: str = "",
        on_head: OnHead = _ignore,
        judge: Judge = judge_here,
    ) -> None:
        self._judge = judge
        self._base_url = base_url.rstrip("/")
        self._clock = clock or SystemClock()
        self._gap_s, self._attempt_s = gap_s, attempt_s
        most = max_in_flight + _SPARE_CONNECTIONS
        self._transport = Transport(self._base_url, most=most, connect_s=connect_s, proxy=proxy)
        self._requests = Requests(self._transport.target, api_key, admin_key, version=version, gap_s=gap_s)
        self._on_head = on_head
        self._allowance = Allowance()
        self._basin = Basin(MAX_ANSWER_BYTES, now=time.monotonic)  # of whole answers that come in, and are looked at
        self.troubles = Troubles(self._clock.now)
        self.on_failed: Callable[[Errand, AttemptFailed], None] = lambda call, failed: None
        """Told of each attempt that failed; it must be quick, and raise nothing."""
        self.in_the_air = 0

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Upstream {stats.base_url} [{stats.in_the_air} in the air]>"

    def stats(self) -> UpstreamStats:
        """Return what goes on at present."""
        return UpstreamStats(self._base_url, self.in_the_air)

    async def ask(self, call: Call) -> Answer:
        """Ask for a whole answer; raises `AttemptFailed`."""
        asked = self._ask(call, _Bound.WHOLE)
        async with asked as response:
            await _check(response)
            with self._basin.place(call.owner.text) as place:
                # What is read has no name here: an error that comes through keeps what its frames name.
                payload = read_in_place(response, place)
                answer = await answer_of(await payload, response, self._clock.now(), call.endpoint, self._judge)
            asked.outcome = "answered"
        return answer

    @contextlib.asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[Stream]:
        """
        Ask for a stream: `async with upstream.stream(call) as events: async for event in events: ...`

        Raises `AttemptFailed` on entering, or where an error comes among the events. Leaving early hangs up.
        """
        # A stream that goes on has no end that we may set: others may follow it past its leader's deadline.
        asked = self._ask(call, _Bound.NONE)
        async with asked as response:
            await _check(response)
            events = Stream(response, forms.dialect(call.endpoint), self._allowance)
            yield events
            if events.complete:
                asked.outcome = "answered"
                await events.drain()

    def _ask(self, call: Call, what: _Bound) -> _Asked:
        return _Asked(self, call, what, lambda: self._requests.of(call))

    @contextlib.asynccontextmanager
    async def carry(self, call: Errand, headers: Headers, body: Body) -> AsyncIterator[Carried]:
        """
        Carry a request as it is, and hand over what comes back: a status under 400, headers, and the body as it comes.

        The deadline bounds how long the answer may take to begin; then it may pause for `gap_s`. Raises `AttemptFailed`, whose
        error has all the headers that upstream sent, on entering or among the chunks. Leaving early hangs up.
        """
        asked = _Asked(self, call, _Bound.BEGINNING, lambda: self._requests.carried(call, headers, body))
        async with asked as response:
            carried = Carried(response, self._gap_s)
            await carried.check()
            yield carried
            asked.outcome = "answered"

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    def time_left(self, call: Errand, what: _Bound) -> float | None:
        """Return how long there is for so much of an answer (s); None for as long as it takes."""
        left_s = call.deadline - self._clock.now()
        if left_s <= 0:
            raise silent("the deadline passed before upstream was asked", sent=False)
        if what is _Bound.NONE:
            return None
        return min(self._attempt_s, left_s)

    async def send(self, call: Errand, request: Request) -> Response:
        """Send a request and return its answer once its head is here; raises `AttemptFailed`."""
        sent_at = self._clock.now()
        try:
            response = await self._transport.send(request)
        except NETWORK_ERRORS as error:
            raise failure_of(error) from error
        try:
            self._on_head(call, response.status, response.raw, sent_at)
        except BaseException:
            response.close()
            raise
        return response


class _Bound(Enum):
    """How much of an answer must be here by the call's deadline; its value is how such calls are counted."""

    NONE = Form.EVENTS
    BEGINNING = "carried"
    WHOLE = Form.JSON


class _Asked:
    """
    One request at upstream, from before its first byte until its connection is free again; counted and timed however it ends.

    On the way of every call, so a class. `outcome` is what it is counted as, if it does not fail.

    Args:
        make: makes the request, or raises `AttemptFailed`.
    """

    __slots__ = ("_began", "_bound", "_call", "_make", "_response", "_upstream", "_what", "outcome")

    def __init__(self, upstream: Upstream, call: Errand, what: _Bound, make: Callable[[], Request]) -> None:
        self.outcome = "abandoned"
        self._upstream, self._call, self._what, self._make = upstream, call, what, make
        self._began = time.monotonic()
        self._bound: LoopTimeout | None = None
        self._response: Response | None = None

    async def __aenter__(self) -> Response:
        upstream = self._upstream
        upstream.in_the_air += 1
        try:
            request, left_s = self._make(), upstream.time_left(self._call, self._what)
            if left_s is not None:
                self._bound = LoopTimeout(left_s)  # by the loop: it is a socket's
                await self._bound.__aenter__()
            self._response = await upstream.send(self._call, request)
            if self._bound is not None and self._what is _Bound.BEGINNING:
                self._bound.reschedule(None)
        except BaseException as error:
            await self._leave(error)
            raise
        return self._response

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        await self._leave(error)

    async def _leave(self, error: BaseException | None) -> None:
        self._upstream.in_the_air -= 1
        if self._response is not None:
            self._response.close()
        try:
            if self._bound is not None:
                await self._ring(self._bound, error)
        except AttemptFailed as late:
            error = late
            raise
        finally:
            self._count(error)

    async def _ring(self, bound: LoopTimeout, error: BaseException | None) -> None:
        try:
            await bound.__aexit__(type(error) if error is not None else None, error, None)
        except TimeoutError as rung:
            raise _late() from rung
        # Ours only if our bound ran out: the transport's are translated already, the caller's pass.
        if isinstance(error, TimeoutError) and bound.expired():
            raise _late() from error

    def _count(self, error: BaseException | None) -> None:
        if isinstance(error, AttemptFailed):
            self.outcome = str(error.failure)
            self._upstream.troubles.failed(self._call, error)
            self._upstream.on_failed(self._call, error)
        elif isinstance(error, BrokenStream):  # so it is called once some of it is gone to the caller
            self.outcome = str(Failure.BROKEN)
        elif self.outcome == "answered":
            self._upstream.troubles.answered(self._call)
        observe.ATTEMPTS.inc(self.outcome)
        took_s, trace = time.monotonic() - self._began, self._call.trace
        observe.UPSTREAM_TIME.observe(took_s, self._what.value, self.outcome, trace=trace)


def _late() -> AttemptFailed:
    return silent("upstream gave no answer before the deadline")


class Carried:
    """
    An answer that is carried, up to its body. An error is read whole and raised, all else goes by.

    `status` is under 400; `headers` are those of the caller's hop; `going` is what holds its taker to a pace, if anything does.
    """

    going: Going | None = None

    def __init__(self, response: Response, gap_s: float) -> None:
        self.status: int = response.status
        self.headers = back(response.headers)
        self.request_id = identifier(dict(self.headers).get("request-id", ""))
        self._response = response
        self._gap_s = gap_s

    def __repr__(self) -> str:
        return f"<Carried [{self.status}] {self.request_id}>"

    async def check(self) -> None:
        """Raise `AttemptFailed` if this is an error."""
        if self.status >= 400:
            raise await read_failure(self._response, passed_on=_less_of_encoding(self.headers), within_s=self._gap_s)

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it is on the wire."""
        return self.passing(incoming(self._response, self._gap_s, self.request_id))

    def passing(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield chunks that are given in place of the body; their taker is held to the same pace."""
        return chunks if self.going is None else self.going.passing(chunks)

    async def read(self) -> bytes:
        """Return the whole body, decoded; raises `AttemptFailed`."""
        return await read_whole(self._response, within_s=self._gap_s)


async def _check(response: Response) -> None:
    if response.status != 200:
        raise await read_failure(response)


def _less_of_encoding(headers: Headers) -> Headers:
    return tuple((name, value) for name, value in headers if name not in ("content-encoding", "content-length"))
