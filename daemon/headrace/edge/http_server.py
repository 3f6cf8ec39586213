"""
The HTTP edge: the Anthropic API as the official SDKs know it, at another address. Whatever begins with /v1/ is a call.

aiohttp's low-level server and a dict of routes: a hit is a digest, a look-up and stored bytes, so a router and middlewares
would cost more than the answer. Nothing is sent to a caller, its status included, before the first content delta, so that
whatever goes wrong until then can still be retried, or be a proper status. A caller that goes away cancels its handler, and
with it its part of the flight.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import HttpVersion11, web
from multidict import CIMultiDict, MultiMapping

from headrace import observe
from headrace.admission import check_size
from headrace.aside import aloof
from headrace.basin import Place
from headrace.callers import Callers
from headrace.certificates import Certificates
from headrace.clock import Clock, SystemClock
from headrace.crowd import Crowd
from headrace.edge import http_bodies, http_errors, http_ready, peers
from headrace.edge.asked import Request, endpoint_of, is_events, new_id
from headrace.edge.connections import Connections, ConnectionsStats
from headrace.edge.exchange import Budget, Exchange
from headrace.edge.hits import JSON, Hits, http_digest, outcome_of
from headrace.edge.http_asks import credential, presented_keys
from headrace.edge.http_listener import Listener
from headrace.edge.http_pages import pages
from headrace.edge.http_protocol import LINGER_S
from headrace.edge.http_refusals import Refusals, RefusalStats, as_http11
from headrace.edge.http_site import Site
from headrace.edge.http_times import Times
from headrace.edge.origins import Origins
from headrace.edge.waits import has_own_clock
from headrace.endpoints import MESSAGES
from headrace.errors import HeadraceError, InvalidCall, StartupError, TooLarge, TooSlow, UnknownCaller
from headrace.heads import HeadWriter
from headrace.model import Call, Caller
from headrace.owner import text_of
from headrace.room import connections_of
from headrace.trace import of_headers
from headrace.trail import GIVEN_HEADER, id_of

log = structlog.get_logger()

_WHOLE = 1_000_000  # a body up to this size is taken in whole, so that it can be sent again


@dataclass(frozen=True, slots=True)
class HttpStats:
    """Where the port is, its connections, and what was refused before it was a request."""

    address: str
    connections: ConnectionsStats
    refused: RefusalStats


class HttpServer:
    """
    Serves one address.

    Args:
        passes_credentials: callers' own keys go upstream (`upstream.credentials = "caller"`).
        budget_headers: `anthropic-ratelimit-*` of a call's caller; no I/O.
        readiness: what is wrong, if anything is; [] means ready.
        metrics: the page for Prometheus; openmetrics: the same in OpenMetrics, which has exemplars, for who asks for that.
        details: what is amiss though it is ready.
        grace_s: how long running requests have to end when it stops.
        crowd: where bodies count while they are read.
        origins: web pages that may ask, and read the answers (`listen.origins`).
        hosts: names by which this daemon may be called where no key is asked for (`listen.hosts`).
        times: what a connection may take.
        max_connections, max_connections_per_peer: how many there may be, in all (descriptors permitting) and from one address.
        certificates: for TLS; None for none.
    """

    def __init__(
        self,
        exchange: Exchange,
        hits: Hits,
        callers: Callers,
        *,
        address: str,
        passes_credentials: bool,
        budget_headers: Budget,
        readiness: Callable[[], list[str]],
        metrics: Callable[[], bytes],
        grace_s: float,
        openmetrics: Callable[[], bytes] | None = None,
        details: Callable[[], list[str]] = list,
        crowd: Crowd | None = None,
        origins: Iterable[str] = (),
        hosts: Iterable[str] = (),
        times: Times | None = None,
        max_connections: int = 10_000,
        max_connections_per_peer: int = 5_000,
        clock: Clock | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        self._certificates = certificates
        self._exchange = exchange
        self._outcomes = exchange.outcomes
        self._hits = hits
        self._callers = callers
        self._address = address
        self._passes_credentials = passes_credentials
        self._budget_headers = budget_headers
        self._grace_s = grace_s
        self._crowd = crowd or Crowd()
        self._refusals = Refusals(clock or SystemClock())
        named = address.rpartition(":")[0].strip("[]")
        self._origins = Origins(origins, (*hosts, named), is_open=lambda: not (callers.required or passes_credentials))
        self._times = times or Times()
        self._connections = Connections(connections_of(max_connections), max_connections_per_peer, now=time.monotonic)
        self._listener: Listener | None = None
        self._runner: web.ServerRunner | None = None
        self._routes = pages(readiness, details, metrics, openmetrics or metrics)
        self.port = 0

    def __repr__(self) -> str:
        return f"<HttpServer {self.stats().address}>"

    def stats(self) -> HttpStats:
        """Return what the port does at present."""
        return HttpStats(self.address, self._connections.stats(), self._refusals.stats())

    @property
    def address(self) -> str:
        """Where it listens, its real port included."""
        return f"{self._address.rpartition(':')[0]}:{self.port}" if self.port else self._address

    async def start(self) -> None:
        """Listen; raises `StartupError` when the address is occupied."""
        host, _, port = self._address.rpartition(":")
        self._listener = Listener(
            self._serve,
            refusals=self._refusals,
            connections=self._connections,
            times=self._times,
            request_factory=self._make_request,
            handler_cancellation=True,
            access_log=None,
            tcp_keepalive=True,
            lingering_time=LINGER_S,
        )
        self._runner = web.ServerRunner(self._listener, shutdown_timeout=self._grace_s)
        await self._runner.setup()
        context = self._certificates.context if self._certificates else None
        site = Site(
            self._runner, host.strip("[]"), int(port), context,
            handshake_s=self._times.head_s, connections=self._connections, refusals=self._refusals,
        )  # fmt: skip
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise StartupError(f"listen.http: cannot listen on {self._address}: {error.strerror or error}") from error
        self.port = self._runner.addresses[0][1]
        # In a thread: it may ask a name server, which may not answer.
        asking = asyncio.get_running_loop().run_in_executor(None, socket.getfqdn)
        asking.add_done_callback(lambda asked: None if asked.cancelled() else self._origins.add_host(asked.result()))

    async def stop(self) -> None:
        """Stop listening; requests that run have the grace to end, and are cancelled then."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._listener is not None:
            self._listener.rest()

    def _make_request(self, message: Any, payload: Any, protocol: Any, writer: HeadWriter, task: Any) -> web.BaseRequest:
        message = as_http11(message)
        if more := self._origins.said(message.headers):
            writer.more = more
        writer.call_id = id_of(message.headers.get(GIVEN_HEADER))
        protocol.writer = writer
        return web.BaseRequest(message, payload, protocol, writer, task, asyncio.get_running_loop())

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            if request.method == "OPTIONS":
                return _response(204, b"", self._origins.preflight(request.headers))
            self._origins.check(request.headers)
        except HeadraceError as error:
            observe.ERRORS.inc("http", error.reason)
            return _refusal(error)
        if request.path.startswith("/v1/") and not request.path.startswith("/v1/v1/"):
            return await self._call(request)
        methods = self._routes.get(request.path)
        handler = methods.get(request.method) if methods else None
        if handler is not None:
            return await handler(request)
        request_id = new_id()
        if methods is None:
            body = http_errors.error_body("not_found_error", _nothing_at(request.path), request_id)
            return _response(404, body, [JSON, ("request-id", request_id)])
        body = http_errors.error_body("invalid_request_error", f"{request.method} is not allowed here", request_id)
        return _response(405, body, [JSON, ("request-id", request_id), ("allow", ", ".join(methods))])

    # The API.

    async def _call(self, request: web.BaseRequest) -> web.StreamResponse:
        place: Place | None = None
        try:
            headers, target = request.headers, request.rel_url.raw_path_qs
            caller, own_key = self._identify(headers, request.transport)
            endpoint = endpoint_of(request.method, target)
            check_size(endpoint, request.content_length)
            _invite(request)
            place = self._exchange.basin.place(text_of(caller.name, own_key))
            if not endpoint.is_kept:
                body, length = await self._pass(request, place)
                place.hold(len(body) if isinstance(body, bytes) else 0)  # a stream goes by
                return await self._answer(request, _asked(request, target, caller, own_key, body, length))
            body = await self._read(request, place)
            key = b""
            if "idempotency-key" not in headers:
                key = await aloof(body, http_digest, caller.name, own_key, request.method, target, headers, body)
                if hit := self._hits.glance(key):
                    enters = self._outcomes.enters
                    trace = None if enters is None else enters(of_headers(headers))
                    self._outcomes.tell(outcome_of(hit, "http", _id(request), trace))
                    return http_ready.response(request, hit, self._budget_headers(hit.seen))
            asked = _asked(request, target, caller, own_key, body, len(body))
            asked.place = place
            del body  # it is the call's from here on, which may share another's
            return await self._answer(request, asked, key)
        except HeadraceError as error:
            self._outcomes.refused("http", error, id=_id(request))
            if isinstance(error, TooLarge):
                request.protocol.hear_out()  # type: ignore[attr-defined]  # it is our `Connection`
            if has_own_clock(request.headers):
                await self._exchange.delay_late_word(error)
            return _refusal(error)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            log.exception(observe.CALL_FAILED, edge="http", kind=type(error).__name__)
            self._outcomes.refused("http", error, id=_id(request))
            return _refusal(error)
        finally:
            if place is not None:
                place.release()

    def _identify(self, headers: Mapping[str, str], transport: asyncio.Transport | None) -> tuple[Caller, str]:
        names = peers.of_http(transport) if self._callers.knows_certificates else ()
        key = self._callers.ours(presented_keys(headers), names) if self._callers.required or names else ""
        caller = self._callers.identify(key, headers.get("x-headrace-caller", ""))
        own_key = credential(headers) if self._passes_credentials else ""
        if self._passes_credentials and not own_key:
            raise UnknownCaller("Send your own key for upstream in x-api-key or as Authorization: Bearer.")
        return caller, own_key

    async def _pass(self, request: web.BaseRequest, place: Place) -> tuple[bytes | AsyncIterator[bytes], int | None]:
        if not request.body_exists:
            return b"", 0
        length = request.content_length
        if length is not None and length <= _WHOLE:
            body = await self._read(request, place)
            return body, len(body)
        return http_bodies.chunks(request), None if http_bodies.packing(request) else length

    async def _read(self, request: web.BaseRequest, place: Place) -> bytes:
        if (body := http_bodies.come(request)) is not None:
            return body
        with self._exchange.last_word.call():
            return await http_bodies.read(request, self._crowd, place, most_bytes=MESSAGES.max_body or 0)

    async def _answer(self, request: web.BaseRequest, asked: Request, key: bytes = b"") -> web.StreamResponse:
        def seen(call: Call) -> None:
            if key:
                self._hits.remember(key, call)

        stream: web.StreamResponse | None = None
        try:
            async with self._exchange.open(asked, seen=seen) as reply:
                if reply.whole is not None:
                    return http_ready.whole(request, reply.whole, reply.headers)
                stream = web.StreamResponse(status=reply.status, headers=reply.headers)
                await stream.prepare(request)
                async for chunk in reply.chunks:
                    await stream.write(chunk)
        except HeadraceError as error:
            if stream is None:
                raise
            # The status is long gone.
            if isinstance(error, TooSlow) or not is_events((name.lower(), value) for name, value in stream.headers.items()):
                return _cut(request, stream)
            # The error is the stream's last event, as upstream itself would have it.
            await stream.write(http_errors.error_event(error, new_id()))
        await stream.write_eof()
        return stream


def _nothing_at(path: str) -> str:
    why = "it has /v1 twice" if path.startswith("/v1/v1/") else "the path begins with /v1"
    return f"there is nothing at {path[:200]}: {why} (some clients want /v1 in their base URL, others add it)"


def _invite(request: web.BaseRequest) -> None:
    # A caller that asked whether to send its body is told to: nothing that we know by now speaks against it.
    if (asked := request.headers.get("expect")) is None:
        return
    if asked.lower() != "100-continue":
        raise InvalidCall(f"expect: {asked[:32]!r} is not known here; 100-continue is")
    if request.version >= HttpVersion11 and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _asked(
    request: web.BaseRequest, target: str, caller: Caller, own_key: str, body: bytes | AsyncIterator[bytes], length: int | None
) -> Request:
    headers: MultiMapping[str] = request.headers
    if http_bodies.packing(request):
        headers = CIMultiDict(pair for pair in headers.items() if pair[0].lower() != "content-encoding")
    asked = Request(request.method, target, caller, headers=headers, body=body, length=length, edge="http", credential=own_key)
    asked.id = _id(request)
    return asked


def _id(request: web.BaseRequest) -> str:
    # It was found out with the head, for whatever will be answered.
    return request.writer.call_id  # type: ignore[attr-defined, no-any-return]  # it is our `HeadWriter`


def _cut(request: web.BaseRequest, stream: web.StreamResponse) -> web.StreamResponse:
    # A body that is not whole must not look like one.
    if request.transport is not None:
        request.transport.abort()
    return stream


def _refusal(error: Exception) -> web.StreamResponse:
    said = http_errors.say(error, new_id())
    return _response(said.status, said.body, said.headers)


def _response(status: int, body: bytes, headers: Iterable[tuple[str, str]]) -> web.Response:
    return web.Response(status=status, body=body, headers=headers)
