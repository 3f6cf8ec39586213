"""
Upstream: the Anthropic API as the flow sees it. One attempt is one request; nothing is ever retried here.

`ask` returns a whole answer, `stream` the events of one as they come, `carry` whatever the endpoint says, untouched.
Everything that can go wrong comes out as `AttemptFailed`, which says what it means for retries and budgets: a status, an
error event, half a JSON, half a stream, a connection that broke or fell silent. A caller who is cancelled closes the
connection, so that upstream stops generating.

Time: connecting has seconds; a stream may pause for `gap_s` (pings come in between); a unary answer may be silent until the
call's deadline. A call comes with one of upstream's slots (schedule/slots.py), of which there are fewer than the pool has
connections, so that it never waits inside the pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum, auto
from importlib.metadata import version as installed_version
from types import TracebackType
from typing import cast

from multidict import CIMultiDict

from headrace import endpoints, forms, observe
from headrace.clock import Clock, SystemClock
from headrace.errors import AttemptFailed, BrokenStream, Failure, UpstreamError
from headrace.heads import is_sendable, readable, value_text
from headrace.model import Answer, Call, Errand, Form, Headers
from headrace.upstream.carrying import SLICE_BYTES, Body, InSlices, Outgoing, back, incoming, onward
from headrace.upstream.failures import silent
from headrace.upstream.reading import Stream, Translated, answer_of, read_failure, read_whole
from headrace.upstream.transport import (
    NETWORK_ERRORS,
    URL,
    AsyncByteStream,
    ByteStream,
    InvalidURL,
    Request,
    Response,
    Transport,
    open_transport,
)

_WITHOUT_BODY = frozenset({"GET", "HEAD", "DELETE", "TRACE"})  # which need not say that they have none
# The name of a header: RFC 9110, section 5.6.2. The same few come with every call.
_is_name = functools.lru_cache(256)(re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch)
_SPARE_CONNECTIONS = 64  # beyond the slots: connections that are being closed still count in the pool
_VIA = "1.1 headrace"
_USER_AGENT = f"headrace/{installed_version('headrace')}"
_OURS = (("via", _VIA), ("user-agent", _USER_AGENT))
_OF_A_WHOLE = (*_OURS, ("accept", "application/json"), ("accept-encoding", "gzip"))
# A stream uncompressed: a compressor may hold events back.
_OF_A_STREAM = (*_OURS, ("accept", "text/event-stream"), ("accept-encoding", "identity"))

# Ours to say, or of one hop only; never passed on from a caller.
_NOT_PASSED_ON = frozenset({
    "accept", "accept-encoding", "anthropic-beta", "anthropic-version", "authorization", "connection", "content-length",
    "content-type", "cookie", "expect", "host", "keep-alive", "proxy-authorization", "te", "trailer", "transfer-encoding",
    "upgrade", "user-agent", "x-api-key",
})  # fmt: skip

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
        silence_s: how long a unary answer may be on its way at most, whatever the deadline.
        proxy: the URL of the proxy on the way there; "" for none.
        on_head: told of the head of every answer, whatever its status: the call, the status, the headers as they came, and
            when it was asked.
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
        silence_s: float = 600.0,
        proxy: str = "",
        transport: Transport | None = None,
        on_head: OnHead = _ignore,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._api_key, self._admin_key, self._version = api_key, admin_key, version
        self._clock = clock or SystemClock()
        self._connect_s, self._gap_s, self._silence_s = connect_s, gap_s, silence_s
        self._transport = transport or open_transport(max_in_flight + _SPARE_CONNECTIONS, to=self._base_url, proxy=proxy)
        self._url = functools.lru_cache(64)(lambda path: URL(self._base_url + path))
        self._on_head = on_head
        self.in_the_air = 0

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Upstream {stats.base_url} [{stats.in_the_air} in the air]>"

    def stats(self) -> UpstreamStats:
        """Return what goes on at present."""
        return UpstreamStats(self._base_url, self.in_the_air)

    async def ask(self, call: Call) -> Answer:
        """Ask for a whole answer; raises `AttemptFailed`."""
        with _Measured(Form.JSON) as measure:
            async with self._open(call) as response:
                await _check(response)
                payload = await read_whole(response)
            answer = answer_of(payload, response, self._clock.now(), forms.dialect(call.endpoint))
            measure.outcome = "answered"
            return answer

    @contextlib.asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[Stream]:
        """
        Ask for a stream: `async with upstream.stream(call) as events: async for event in events: ...`

        Raises `AttemptFailed` on entering, or where an error comes among the events. Leaving early hangs up.
        """
        with _Measured(Form.EVENTS) as measure:
            async with self._open(call) as response:
                await _check(response)
                events = Stream(response, forms.dialect(call.endpoint))
                yield events
                if events.complete:
                    measure.outcome = "answered"
                    await events.drain()

    @contextlib.asynccontextmanager
    async def carry(self, call: Errand, headers: Headers, body: Body) -> AsyncIterator[Carried]:
        """
        Carry a request as it is, and hand over what comes back: a status under 400, headers, and the body as it comes.

        The deadline bounds how long the answer may take to begin; then it may pause for `gap_s`. Raises `AttemptFailed`, whose
        error has all the headers that upstream sent, on entering or among the chunks. Leaving early hangs up.
        """
        with _Measured("carried") as measure:
            async with self._opened(call, self._carried(call, headers, body), _Bound.BEGINNING) as response:
                carried = Carried(response, self._gap_s)
                await carried.check()
                yield carried
                measure.outcome = "answered"

    def _carried(self, call: Errand, headers: Headers, body: Body) -> Request:
        named = dict(headers)
        given = [*onward(headers), ("via", _VIA), self._key(call)]
        if "accept-encoding" not in named:
            given.append(("accept-encoding", "identity"))  # else the transport would ask for what it likes itself
        if "anthropic-version" not in named:
            given.append(("anthropic-version", call.version or self._version))
        if body.length is not None and (body.length or call.method not in _WITHOUT_BODY):
            given.append(("content-length", str(body.length)))
        stream = Outgoing(body) if not isinstance(body.content, bytes) else ByteStream(body.content)
        return self._sendable(call, given, stream, read_s=None)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    def _open(self, call: Call) -> AbstractAsyncContextManager[Response]:
        # A stream that goes on has no end that we may set: others may follow it past its leader's deadline. Of a whole answer
        # the bound of all of it is the bound of its silence, too.
        read_s, bound = (self._gap_s, _Bound.NONE) if call.stream else (None, _Bound.WHOLE)
        return self._opened(call, self._request(call, read_s), bound)

    def _opened(self, call: Errand, request: Request, what: _Bound) -> _Opened:
        left_s = self._time_left(call)
        if what is _Bound.WHOLE:
            left_s = min(self._silence_s, left_s)
        bound_s, on_head = None if what is _Bound.NONE else left_s, functools.partial(self._heard, call, self._clock.now())
        return _Opened(self, self._transport, request, bound_s, what, on_head)

    def _heard(self, call: Errand, sent_at: float, response: Response) -> None:
        self._on_head(call, response.status_code, response.headers.raw, sent_at)

    def _time_left(self, call: Errand) -> float:
        left_s = call.deadline - self._clock.now()
        if left_s <= 0:
            raise silent("the deadline passed before upstream was asked", sent=False)
        return left_s

    def _request(self, call: Call, read_s: float | None) -> Request:
        headers = self._headers(call)
        if len(call.body) > SLICE_BYTES:
            headers.append(("content-length", str(len(call.body))))
            return self._sendable(call, headers, InSlices(call.body), read_s)
        # Given as a stream, the body costs no second look at the headers; aiohttp knows its length.
        return self._sendable(call, headers, ByteStream(call.body), read_s)

    def _sendable(
        self, call: Errand, headers: list[tuple[str, str]], body: ByteStream | AsyncByteStream, read_s: float | None
    ) -> Request:
        # A line end in a value, or a colon in a name, would let a caller write headers of its own. All else upstream judges.
        if not is_sendable("".join([value for _, value in headers])):
            raise _unsendable("a header value holds a line end or a NUL, which HTTP cannot carry")
        if not all(map(_is_name, dict(headers))):
            raise _unsendable("the name of a header holds characters that HTTP cannot carry, or is empty")
        # The pool's bound is no bound of waiting for it (see above), but of looking the name up and of TLS.
        timeout = {"connect": self._connect_s, "pool": 2 * self._connect_s, "read": read_s, "write": read_s}
        try:
            url = self._url(call.path)
        except InvalidURL as error:
            raise _unsendable(f"path and query are no URL: {error}") from error
        request = Request(call.method, url, stream=body, extensions={"timeout": timeout})
        # As they are: httpx's own type decodes all values anew, and knows no bytes that are not text.
        request.headers = CIMultiDict(headers)  # type: ignore[assignment]
        return request

    def _headers(self, call: Call) -> list[tuple[str, str]]:
        headers = [
            *(_OF_A_STREAM if call.stream else _OF_A_WHOLE),
            ("anthropic-version", call.version or self._version),
            self._key(call),
        ]
        if call.body:
            headers.append(("content-type", "application/json"))
        if call.betas:
            headers.append(("anthropic-beta", ",".join(call.betas)))
        if call.headers:
            headers += ((name, value) for name, value in call.headers if name.lower() not in _NOT_PASSED_ON)
        return headers

    def _key(self, call: Errand) -> tuple[str, str]:
        if call.credential:
            return _credential(call.credential)
        if endpoints.find(call.method, call.path.partition("?")[0]).is_admins:
            return "x-api-key", self._admin_key()
        # The compatible endpoint is OpenAI's in this, too.
        key = self._api_key()
        return ("authorization", f"Bearer {key}") if call.endpoint == endpoints.CHAT.name else ("x-api-key", key)


class _Bound(Enum):
    """How much of an answer must be here by the call's deadline."""

    NONE = auto()
    BEGINNING = auto()
    WHOLE = auto()


class _Opened:
    """
    One request at upstream, from its first byte until its connection is free again. On the way of every call, so a class.

    Args:
        left_s: how long it may take; None: as long as it does.
        on_head: called with the response once its head is here.
    """

    __slots__ = ("_bound", "_on_head", "_request", "_response", "_transport", "_upstream", "_what")

    def __init__(
        self,
        upstream: Upstream,
        transport: Transport,
        request: Request,
        left_s: float | None,
        what: _Bound,
        on_head: Callable[[Response], None],
    ) -> None:
        self._upstream, self._transport, self._request, self._on_head = upstream, transport, request, on_head
        self._bound, self._what = asyncio.timeout(left_s), what

    async def __aenter__(self) -> Response:
        self._upstream.in_the_air += 1
        await self._bound.__aenter__()
        try:
            with Translated():
                self._response = await self._transport.handle_async_request(self._request)
            self._on_head(self._response)
        except BaseException as error:
            await self._leave(error)
            raise
        if self._what is _Bound.BEGINNING:
            self._bound.reschedule(None)
        return self._response

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            # Not the response's own `aclose`, which does the same in a context of its own.
            await cast("AsyncByteStream", self._response.stream).aclose()
        except NETWORK_ERRORS:
            pass  # whatever was said is here, or has its own error
        except BaseException as raised:
            await self._leave(raised)
            raise
        await self._leave(error)

    async def _leave(self, error: BaseException | None) -> None:
        self._upstream.in_the_air -= 1
        try:
            await self._bound.__aexit__(type(error) if error is not None else None, error, None)
        except TimeoutError as rung:
            raise _late() from rung
        # Ours only if our bound ran out: the transport's are translated already, the caller's pass.
        if isinstance(error, TimeoutError) and self._bound.expired():
            raise _late() from error


def _late() -> AttemptFailed:
    return silent("upstream gave no answer before the deadline")


class Carried:
    """
    An answer that is carried, up to its body. An error is read whole and raised, all else goes by.

    `status` is under 400; `headers` are those of the caller's hop.
    """

    def __init__(self, response: Response, gap_s: float) -> None:
        self.status: int = response.status_code
        self.headers = back((name.decode("latin-1"), value_text(value)) for name, value in response.headers.raw)
        self.request_id = readable(dict(self.headers).get("request-id", ""))
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
        return incoming(aiter(cast("AsyncIterator[bytes]", self._response.stream)), self._gap_s, self.request_id)

    async def read(self) -> bytes:
        """Return the whole body, decoded; raises `AttemptFailed`."""
        return await read_whole(self._response, within_s=self._gap_s)


async def _check(response: Response) -> None:
    if response.status_code != 200:
        raise await read_failure(response)


def _less_of_encoding(headers: Headers) -> Headers:
    return tuple((name, value) for name, value in headers if name not in ("content-encoding", "content-length"))


class _Measured:
    """Counts one attempt and times it, however it ends."""

    def __init__(self, form: str) -> None:
        self.outcome = "abandoned"
        self._form, self._began = form, time.monotonic()

    def __enter__(self) -> _Measured:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, AttemptFailed):
            self.outcome = str(error.failure)
        elif isinstance(error, BrokenStream):  # so it is called once some of it is gone to the caller
            self.outcome = str(Failure.BROKEN)
        observe.ATTEMPTS.inc(self.outcome)
        observe.UPSTREAM_TIME.observe(time.monotonic() - self._began, self._form)


def _unsendable(message: str) -> AttemptFailed:
    error = UpstreamError(message, status=400, type="invalid_request_error")
    return AttemptFailed(Failure.FINAL, error, sent=False)


def _credential(credential: str) -> tuple[str, str]:
    # As the caller presented it: "x-api-key:..." or "bearer:...".
    scheme, _, key = credential.partition(":")
    return ("authorization", f"Bearer {key}") if scheme == "bearer" else ("x-api-key", key)
