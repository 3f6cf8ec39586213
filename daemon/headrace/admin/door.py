"""
The door of the live page: HTML for people, JSON for programs, both as events as long as somebody looks, and acts.

A listener of its own (`listen.admin`), with the bounds of the HTTP port. Every request is held to the Host and Origin rules of
that one, always: a browser sends a password along with whatever any page asks of this address. Acts are JSON, which no form of
another page can send.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
import structlog
from aiohttp import web

from headrace import observe, roles
from headrace.admin import assets, page
from headrace.admin.acts import CALLER_ACTS, TICKET_ACTS, Acts
from headrace.admin.asker import Asker, ask
from headrace.admin.feed import Feed
from headrace.admin.places import Socket, is_socket
from headrace.admin.views import CALL, VIEWS, Views, asked_of
from headrace.callers import Callers
from headrace.certificates import Certificates
from headrace.clock import Clock
from headrace.edge import http_errors
from headrace.edge.asked import new_id
from headrace.edge.connections import Connections
from headrace.edge.http_listener import Listener
from headrace.edge.http_pages import Routes
from headrace.edge.http_protocol import LINGER_S
from headrace.edge.http_refusals import Refusals, as_http11
from headrace.edge.http_site import Site
from headrace.edge.http_times import Times
from headrace.edge.origins import Origins
from headrace.errors import HeadraceError, InvalidCall, StartupError, TicketNotFound, UnknownCaller
from headrace.heads import HeadWriter
from headrace.trail import GIVEN_HEADER, id_of

log = structlog.get_logger()

_MOST_CONNECTIONS = 256
_MOST_BODY = 16_384
_SAFE = (
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("x-frame-options", "DENY"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'",
    ),
)
_JSON = ("content-type", "application/json")
_HTML = ("content-type", "text/html; charset=utf-8")
_EVENTS = ("content-type", "text/event-stream")
_LOGIN = ("www-authenticate", 'Basic realm="headrace: any name, and a key as the password", charset="UTF-8"')


def forms() -> dict[str, Callable[..., bytes]]:
    """Return how views are said: as JSON, and as HTML for who may act and for who may not."""
    return {
        "json": msgspec.json.encode,
        "html": lambda shown: msgspec.json.encode({"html": str(page.body(shown, may_act=False))}),
        "html-acts": lambda shown: msgspec.json.encode({"html": str(page.body(shown, may_act=True))}),
    }


class Door:
    """
    Serves the addresses of `listen.admin`.

    Args:
        runtime_dir: where relative sockets, and locks, lie.
        public: pages for whoever is let in at all (metrics, health), by path and method.
        hosts: names by which this daemon may be called.
        passkey: who presents it at a socket needs no key (passkey.py); "" for nobody.
    """

    def __init__(
        self,
        views: Views,
        feed: Feed,
        acts: Acts,
        callers: Callers,
        *,
        clock: Clock,
        addresses: Iterable[str],
        runtime_dir: Path,
        public: Routes,
        hosts: Iterable[str] = (),
        times: Times | None = None,
        certificates: Certificates | None = None,
        passkey: str = "",
    ) -> None:
        addresses = tuple(addresses)
        self._passkey = passkey
        self._views, self._feed, self._acts, self._callers = views, feed, acts, callers
        self._sockets = [Socket(text, runtime_dir) for text in addresses if is_socket(text)]
        self._tcp = [text for text in addresses if not is_socket(text)]
        self._public = public
        named = [text.rpartition(":")[0].strip("[]") for text in self._tcp]
        self._origins = Origins((), (*hosts, *named), is_open=lambda: True)
        self._times = times or Times()
        self._certificates = certificates
        self._refusals = Refusals(clock)
        self._listener: Listener | None = None
        self._runner: web.ServerRunner | None = None
        self._ports: list[int] = []

    def __repr__(self) -> str:
        return f"<Door {', '.join(self.addresses)} {self._feed!r}>"

    @property
    def addresses(self) -> list[str]:
        """Where it is, real ports included."""
        scheme = "https" if self._certificates else "http"
        bound = [f"{text.rpartition(':')[0]}:{port}" for text, port in zip(self._tcp, self._ports, strict=False)]
        return [*(each.text for each in self._sockets), *(f"{scheme}://{text}/admin/" for text in bound or self._tcp)]

    async def start(self) -> None:
        """Listen; raises `StartupError` when an address is occupied."""
        if not self._sockets and not self._tcp:
            return
        connections = Connections(_MOST_CONNECTIONS, _MOST_CONNECTIONS, now=time.monotonic)
        self._listener = Listener(
            self._serve,
            refusals=self._refusals,
            connections=connections,
            times=self._times,
            request_factory=self._make,
            handler_cancellation=True,
            access_log=None,
            tcp_keepalive=True,
            lingering_time=LINGER_S,
        )
        self._runner = web.ServerRunner(self._listener, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            for each in self._sockets:
                await web.SockSite(self._runner, each.bind()).start()
            for text in self._tcp:
                await self._listen(text, connections)
        except BaseException:
            await self.stop()
            raise

    async def _listen(self, text: str, connections: Connections) -> None:
        if self._runner is None:
            return
        host, _, port = text.rpartition(":")
        context = self._certificates.context if self._certificates else None
        site = Site(
            self._runner,
            host.strip("[]"),
            int(port),
            context,
            handshake_s=self._times.head_s,
            connections=connections,
            refusals=self._refusals,
        )
        try:
            await site.start()
        except OSError as error:
            raise StartupError(f"listen.admin: cannot listen on {text}: {error.strerror or error}") from error
        self._ports.append(self._runner.addresses[-1][1])

    async def stop(self) -> None:
        """Stop listening; who looks is let go."""
        await self._feed.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._listener is not None:
            self._listener.rest()
        for each in self._sockets:
            each.release()

    def _make(self, message: Any, payload: Any, protocol: Any, writer: HeadWriter, task: Any) -> web.BaseRequest:
        message = as_http11(message)
        writer.call_id = id_of(message.headers.get(GIVEN_HEADER))
        protocol.writer = writer
        return web.BaseRequest(message, payload, protocol, writer, task, asyncio.get_running_loop())

    # Serving.

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            self._origins.check(request.headers)
            if page := self._public.get(request.path, {}).get(request.method):
                return await page(request)
            return await self._answer(request, self._asker(request))
        except HeadraceError as error:
            return _refusal(error)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            log.exception(observe.CALL_FAILED, edge="admin", kind=type(error).__name__)
            return _refusal(error)

    def _asker(self, request: web.BaseRequest) -> Asker:
        asker = ask(self._callers, request.headers, request.transport, self._passkey)
        roles.of_path(request.method, request.path).check(asker.role)
        return asker

    async def _answer(self, request: web.BaseRequest, asker: Asker) -> web.StreamResponse:
        parts = [unquote(part) for part in request.rel_url.raw_path.strip("/").split("/")]
        if request.method == "POST":
            return await self._act(request, parts, asker)
        if request.method not in ("GET", "HEAD"):
            return _nothing(405)
        match parts:
            case [""] | ["admin"]:
                return _said(302, b"", ("location", "/admin/budgets"))
            case ["admin", "api"]:
                return _said(200, msgspec.json.encode({"views": list(VIEWS), "by": asker.by, "role": asker.role}), _JSON)
            case ["admin", "api", "events"]:
                return await self._events(request, asker, "json")
            case ["admin", "events"]:
                return await self._events(request, asker, "html-acts" if _may_act(asker) else "html")
            case ["admin", name] if (asset := assets.find(name)) is not None:
                return _said(200, asset.body, ("content-type", asset.kind))
            case ["admin", "api", view]:
                return await self._json(view, dict(request.query))
            case ["admin", "api", "calls", call]:
                return await self._json(CALL, {"id": call})
            case ["admin", view]:
                return await self._page(view, dict(request.query), asker)
            case ["admin", "calls", call]:
                return await self._page(CALL, {"id": call}, asker)
        return _nothing(404)

    async def _json(self, view: str, params: dict[str, str]) -> web.StreamResponse:
        if view not in (*VIEWS, CALL):
            return _nothing(404)
        shown = await self._views.show(asked_of(view, params))
        return _said(503 if "trouble" in shown.more else 200, msgspec.json.encode(shown), _JSON)

    async def _page(self, view: str, params: dict[str, str], asker: Asker) -> web.StreamResponse:
        if view not in (*VIEWS, CALL):
            return _nothing(404)
        asked = asked_of(view, params)
        shown = await self._views.show(asked)
        return _said(200, page.whole(shown, asked, by=asker.by, may_act=_may_act(asker)).encode(), _HTML)

    async def _events(self, request: web.BaseRequest, asker: Asker, form: str) -> web.StreamResponse:
        view, params = request.query.get("view", VIEWS[0]), dict(request.query)
        if view not in (*VIEWS, CALL):
            return _nothing(404)
        asked = asked_of(view, params)
        async with contextlib.aclosing(self._feed.follow(asked, form)) as events:
            first = await anext(events)
            response = web.StreamResponse(headers=[*_SAFE, _EVENTS])
            await response.prepare(request)
            await response.write(b"retry: 1000\n\ndata: " + first + b"\n\n")
            async for said in events:
                if not self._is_still(asker, request):
                    break
                await response.write(b"data: " + said + b"\n\n")
        await response.write_eof()
        return response

    def _is_still(self, asker: Asker, request: web.BaseRequest) -> bool:
        # Its key may be revoked, or given another role, while it looks: then it has to ask anew.
        try:
            return self._asker(request) == asker
        except HeadraceError:
            return False

    # Acting.

    async def _act(self, request: web.BaseRequest, parts: list[str], asker: Asker) -> web.StreamResponse:
        said = await _body(request)
        match parts:
            case ["admin", "api", "tickets", ticket_id, act] if act in TICKET_ACTS:
                done = await self._acts.on_ticket(act, ticket_id, said, asker.by)
            case ["admin", "api", "callers", name, act] if act in CALLER_ACTS:
                done = await self._acts.on_caller(act, name, said, asker.by)
            case _:
                return _nothing(404)
        return _said(200, msgspec.json.encode({"done": done}), _JSON)


def _may_act(asker: Asker) -> bool:
    return asker.may("POST", "/admin/api/tickets/x/cancel")


async def _body(request: web.BaseRequest) -> dict[str, Any]:
    # A form of another page can send text and forms, but no JSON.
    if request.content_type != "application/json":
        raise InvalidCall("an act is asked for in JSON: content-type must be application/json")
    if (request.content_length or 0) > _MOST_BODY:
        raise InvalidCall(f"the body has more than {_MOST_BODY} bytes")
    raw = await request.content.read(_MOST_BODY + 1)
    while chunk := await request.content.read(_MOST_BODY + 1):
        raw += chunk
        if len(raw) > _MOST_BODY:
            raise InvalidCall(f"the body has more than {_MOST_BODY} bytes")
    try:
        said = msgspec.json.decode(raw or b"{}")
    except (ValueError, RecursionError):  # msgspec's are ValueErrors; what is no UTF-8 is one, too
        raise InvalidCall("the body is no JSON") from None
    if not isinstance(said, dict):
        raise InvalidCall("the body must be an object")
    return said


def _refusal(error: Exception) -> web.StreamResponse:
    said = http_errors.say(error, new_id())
    more = [_LOGIN] if isinstance(error, UnknownCaller) else []
    status = 404 if isinstance(error, TicketNotFound) else said.status
    headers = [pair for pair in said.headers if pair[0].lower() not in ("cache-control",)]
    return web.Response(status=status, body=said.body, headers=[*headers, *_SAFE, *more])


def _nothing(status: int) -> web.Response:
    kind, text = (
        ("not_found_error", "there is nothing here: see /admin/")
        if status == 404
        else ("invalid_request_error", "this is not done here")
    )
    return _said(status, http_errors.error_body(kind, text, new_id()), _JSON)


def _said(status: int, body: bytes, *headers: tuple[str, str]) -> web.Response:
    return web.Response(status=status, body=body, headers=[*headers, *_SAFE])
