"""
The HTTP edge: the Anthropic API as the official SDKs know it, at another address.

aiohttp's low-level server and a dict of routes: a hit is a digest, a look-up and stored bytes, so a router and middlewares
would cost more than the answer. Nothing is sent to a caller, its status included, before the first content delta, so that
whatever goes wrong until then can still be retried, or be a proper status. A caller that goes away cancels its handler, and
with it its part of the flight.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from headrace import forms, observe
from headrace.admission import MAX_BODY, Admission
from headrace.cache import status
from headrace.callers import Callers
from headrace.edge import http_errors
from headrace.edge.http_asks import credential, digest, presented_key, read_ask
from headrace.errors import HeadraceError, InvalidCall, StartupError, TooLarge, UnknownCaller
from headrace.flow import Flow, Hit, Seen
from headrace.model import Answer, Call, Caller, Reply, Source

log = structlog.get_logger()

_JSON = ("content-type", "application/json")
_SSE = ("content-type", "text/event-stream; charset=utf-8")
_BODY_SLACK = 1_000_000  # read this much past the limit, so that the answer can be a 413 and not a reset

Headers = list[tuple[str, str]]
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Budget = Callable[[Call | Seen], tuple[tuple[str, str], ...]]


class HttpServer:
    """
    Serves one address.

    Args:
        passes_credentials: callers' own keys go upstream (`upstream.credentials = "caller"`).
        budget_headers: `anthropic-ratelimit-*` of a call's caller; no I/O.
        readiness: what is wrong, if anything is; [] means ready.
        metrics: the page for Prometheus.
        grace_s: how long running requests have to end when it stops.
    """

    def __init__(
        self,
        flow: Flow,
        admission: Admission,
        callers: Callers,
        *,
        address: str,
        passes_credentials: bool,
        budget_headers: Budget,
        readiness: Callable[[], list[str]],
        metrics: Callable[[], bytes],
        grace_s: float,
    ) -> None:
        self._flow = flow
        self._admission = admission
        self._callers = callers
        self._address = address
        self._passes_credentials = passes_credentials
        self._budget_headers = budget_headers
        self._readiness = readiness
        self._metrics = metrics
        self._grace_s = grace_s
        self._runner: web.ServerRunner | None = None
        self._routes: dict[str, dict[str, Handler]] = {
            "/v1/messages": {"POST": self._messages},
            "/healthz": {"GET": self._healthz, "HEAD": self._healthz},
            "/readyz": {"GET": self._readyz, "HEAD": self._readyz},
            "/metrics": {"GET": self._show_metrics},
        }
        self.port = 0

    def __repr__(self) -> str:
        return f"<HttpServer {self.address}>"

    @property
    def address(self) -> str:
        """Where it listens, its real port included."""
        return f"{self._address.rpartition(':')[0]}:{self.port}" if self.port else self._address

    async def start(self) -> None:
        """Listen; raises `StartupError` when the address is occupied."""
        host, _, port = self._address.rpartition(":")
        server = web.Server(
            self._serve, request_factory=_make_request, handler_cancellation=True, access_log=None, tcp_keepalive=True
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=self._grace_s)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host.strip("[]"), int(port), reuse_port=False)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise StartupError(f"listen.http: cannot listen on {self._address}: {error.strerror or error}") from error
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening; requests that run have the grace to end, and are cancelled then."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        methods = self._routes.get(request.path)
        handler = methods.get(request.method) if methods else None
        if handler is not None:
            return await handler(request)
        request_id = _new_id()
        if methods is None:
            body = http_errors.error_body("not_found_error", f"there is nothing at {request.path[:200]}", request_id)
            return _response(404, body, [_JSON, ("request-id", request_id)])
        body = http_errors.error_body("invalid_request_error", f"{request.method} is not allowed here", request_id)
        return _response(405, body, [_JSON, ("request-id", request_id), ("allow", ", ".join(methods))])

    # Messages.

    async def _messages(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            body = await _read(request)
            headers = request.headers
            caller = self._callers.identify(presented_key(headers), headers.get("x-headrace-caller", ""))
            own_key = credential(headers) if self._passes_credentials else ""
            if self._passes_credentials and not own_key:
                raise UnknownCaller("Send your own key for upstream in x-api-key or as Authorization: Bearer.")
            key = b""
            if "idempotency-key" not in headers:
                # By name, even where answers are shared: the budget that a hit shows is the caller's own.
                key = digest(f"{caller.name}\n{self._admission.scope(caller, own_key)}", request.path_qs, headers, body)
                if hit := self._flow.glance(key):
                    observe.CALLS.inc("http", "cache")
                    return self._hit(hit)
            return await self._miss(request, caller, body, own_key, key)
        except HeadraceError as error:
            return self._refuse(error)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            log.exception(observe.CALL_FAILED, edge="http", kind=type(error).__name__)
            return self._refuse(error)

    def _hit(self, hit: Hit) -> web.StreamResponse:
        entry = hit.entry
        rendition = "http.events" if hit.seen.stream else "http.json"
        body = entry.renditions.get(rendition)
        if body is None:
            body = entry.renditions[rendition] = _payload(entry.answer, stream=hit.seen.stream)
        headers = [
            _SSE if hit.seen.stream else _JSON,
            ("request-id", entry.answer.request_id),
            ("cache-status", status.hit(entry.fingerprint, entry.fresh_until - entry.answer.created - hit.age_s)),
            ("age", str(int(hit.age_s))),
            ("x-headrace-source", "cache"),
            ("x-headrace-attempts", "0"),
            *self._budget_headers(hit.seen),
        ]
        return _response(200, body, headers)

    async def _miss(
        self, request: web.BaseRequest, caller: Caller, body: bytes, own_key: str, key: bytes
    ) -> web.StreamResponse:
        call = self._admission.admit(read_ask(caller, request.headers, body, request.path_qs, own_key))
        if key:
            self._flow.remember(key, call)
        stream: web.StreamResponse | None = None
        try:
            async with self._flow.answer(call) as reply:
                observe.CALLS.inc("http", reply.source)
                headers = self._headers(call, reply)
                if reply.answer is not None:
                    return _response(200, _payload(reply.answer, stream=call.stream), headers)
                if reply.events is None:
                    raise RuntimeError("a reply has an answer or events")
                stream = web.StreamResponse(status=200, headers=[*headers, ("cache-control", "no-cache")])
                await stream.prepare(request)
                async for event in reply.events:
                    await stream.write(event.raw)
        except HeadraceError as error:
            if stream is None:
                raise
            # The status is long gone: the error is the stream's last event, as upstream itself would have it.
            observe.ERRORS.inc("http", error.reason)
            await stream.write(http_errors.error_event(error, _new_id()))
        await stream.write_eof()
        return stream

    def _headers(self, call: Call, reply: Reply) -> Headers:
        headers = [
            _SSE if call.stream else _JSON,
            ("request-id", reply.request_id or _new_id()),
            ("cache-status", reply.cache_status),
            ("x-headrace-source", str(reply.source)),
            ("x-headrace-attempts", str(reply.attempts)),
            *self._budget_headers(call),
        ]
        if reply.source in (Source.CACHE, Source.STALE):
            headers.append(("age", str(int(reply.age_s))))
        if reply.ticket:
            headers.append(("x-headrace-ticket", reply.ticket))
        return headers

    def _refuse(self, error: Exception) -> web.StreamResponse:
        observe.ERRORS.inc("http", getattr(error, "reason", "INTERNAL"))
        said = http_errors.say(error, _new_id())
        return _response(said.status, said.body, list(said.headers))

    # The rest.

    async def _healthz(self, request: web.BaseRequest) -> web.StreamResponse:
        return _response(200, b"ok\n", [("content-type", "text/plain")])

    async def _readyz(self, request: web.BaseRequest) -> web.StreamResponse:
        wrong = self._readiness()
        text = "\n".join(wrong) if wrong else "ready"
        return _response(503 if wrong else 200, f"{text}\n".encode(), [("content-type", "text/plain; charset=utf-8")])

    async def _show_metrics(self, request: web.BaseRequest) -> web.StreamResponse:
        return _response(200, self._metrics(), [("content-type", "text/plain; version=0.0.4; charset=utf-8")])


def _make_request(message: Any, payload: Any, protocol: RequestHandler, writer: Any, task: Any) -> web.BaseRequest:
    limit = MAX_BODY + _BODY_SLACK
    return web.BaseRequest(message, payload, protocol, writer, task, asyncio.get_running_loop(), client_max_size=limit)


async def _read(request: web.BaseRequest) -> bytes:
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise TooLarge(f"the body is over {MAX_BODY:,} bytes, the most that upstream takes") from error
    except web.RequestPayloadError as error:
        raise InvalidCall("the body ended before it was whole") from error


def _payload(answer: Answer, *, stream: bool) -> bytes:
    return forms.sse_payload(answer) if stream else forms.json_payload(answer)


def _response(status: int, body: bytes, headers: Headers) -> web.Response:
    return web.Response(status=status, body=body, headers=headers)


def _new_id() -> str:
    return f"req_headrace_{os.urandom(9).hex()}"
