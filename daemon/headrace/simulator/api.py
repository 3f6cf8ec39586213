"""
The simulator's door: routes, keys, versions and endpoints.

It speaks aiohttp's low level: one handler for everything, since the API has few paths here and each call should cost as little
as the calls it stands in for cost us.
"""

from __future__ import annotations

import itertools
import random
import secrets
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from headrace.simulator import checks
from headrace.simulator.faults import Faults, refusal
from headrace.simulator.journal import Journal, Visit
from headrace.simulator.limits import Limits
from headrace.simulator.options import Options
from headrace.simulator.refusals import Refused, invalid
from headrace.simulator.saying import Pace, Saying
from headrace.simulator.script import write

ORGANIZATION_ID = "7d3b2a10-5e1c-4c6b-9a55-5151a7015151"
MODELS = {
    "claude-sonnet-5": "Claude Sonnet 5",
    "claude-opus-4-1-20250805": "Claude Opus 4.1",
    "claude-3-5-haiku-20241022": "Claude Haiku 3.5",
    "sim-1": "Simulator 1",
}

_Handler = Callable[[web.BaseRequest, Visit, dict[str, str]], Awaitable[web.StreamResponse]]


class Api:
    """The endpoints, and the state that calls change: faults, limits, journal."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._dice = random.Random(options.seed)  # noqa: S311  # faults, not secrets
        self._ids = itertools.count(1)
        self._run = secrets.token_hex(4)
        self.faults = Faults(options, self._dice)
        self.limits = Limits(options)
        self.journal = Journal(options.journal)
        self._routes: Mapping[str, tuple[str, _Handler]] = {
            "/v1/messages": ("POST", self._messages),
            "/v1/messages/count_tokens": ("POST", self._count_tokens),
            "/v1/models": ("GET", self._list_models),
        }

    def __repr__(self) -> str:
        return f"<Api {self.journal} {self.faults} {self.limits}>"

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one call, and note it in the journal."""
        visit = self.journal.open(request.path[:200])
        visit.request_id = self._id("req")
        headers = {"request-id": visit.request_id, "anthropic-organization-id": ORGANIZATION_ID}
        try:
            response = await self._answer(request, visit, headers)
            if response.prepared or not _is_cut(request):
                visit.status = response.status
        except Refused as refused:
            response = _error_response(refused, visit, headers)
        finally:
            if visit.outcome == "open":
                visit.outcome = "gone"
            self.journal.close(visit)
        return response

    async def _answer(self, request: web.BaseRequest, visit: Visit, headers: dict[str, str]) -> web.StreamResponse:
        method, handler = self._routes.get(request.path) or _model_route(request.path)
        if request.method != method:
            raise Refused(405, "invalid_request_error", "Method Not Allowed", headers={"allow": method})
        visit.key = self._check_key(request)
        checks.check_version(request.headers.get("anthropic-version", "").strip())
        response = await handler(request, visit, headers)
        if visit.outcome == "open":
            visit.outcome = "answered"
        return response

    async def _messages(self, request: web.BaseRequest, visit: Visit, headers: dict[str, str]) -> web.StreamResponse:
        ask = checks.read_ask(await self._body(request, visit), **_spoken(request))
        self.journal.describe(visit, ask.model, ask.stream, ask.prompt)
        if rule := self.faults.strike(ask):
            if refused := refusal(rule, self.faults.retry_after_s(rule)):
                raise refused
            visit.outcome = rule.kind.value
        try:
            self.limits.enter(ask.model, ask.input_tokens)
        except Refused as refused:
            refused.headers |= self.limits.headers(ask.model)
            raise
        try:
            visit.message_id = self._id("msg")
            saying = Saying(
                request=request,
                ask=ask,
                script=write(ask, self._options.answer_tokens, self._id("toolu")),
                message_id=visit.message_id,
                request_id=visit.request_id,
                pace=Pace.of(self._options, self._dice),
                rule=rule,
                delta_tokens=self._options.delta_tokens,
                produced=lambda tokens: self._produced(ask.model, tokens),
                headers=headers | self.limits.headers(ask.model),
            )
            return await saying.say()
        finally:
            self.limits.leave(ask.model)

    def _produced(self, model: str, tokens: int) -> None:
        self.journal.counts.output_tokens += tokens
        self.limits.produced(model, tokens)

    async def _count_tokens(self, request: web.BaseRequest, visit: Visit, headers: dict[str, str]) -> web.StreamResponse:
        ask = checks.read_count(await self._body(request, visit), **_spoken(request))
        self.journal.describe(visit, ask.model, ask.stream, ask.prompt)
        return _json_response({"input_tokens": ask.input_tokens}, headers)

    async def _list_models(self, request: web.BaseRequest, visit: Visit, headers: dict[str, str]) -> web.StreamResponse:
        models = [_model(name) for name in MODELS]
        page = {"data": models, "has_more": False, "first_id": models[0]["id"], "last_id": models[-1]["id"]}
        return _json_response(page, headers)

    async def _body(self, request: web.BaseRequest, visit: Visit) -> bytes:
        too_large = Refused(413, "request_too_large", "Request exceeds the maximum size")
        if (request.content_length or 0) > self._options.max_body_bytes:
            raise too_large
        if request.headers.get("expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise too_large from None
        except (web.RequestPayloadError, HttpProcessingError):
            raise invalid("The request body could not be read") from None
        self.journal.identify(visit, body)
        return body

    def _check_key(self, request: web.BaseRequest) -> str:
        """Return a hash of the key presented; `x-api-key` counts where both headers are there."""
        kind, _, bearer = request.headers.get("authorization", "").partition(" ")
        key = request.headers.get("x-api-key", bearer if kind.lower() == "bearer" else "").strip()
        if not key:
            raise Refused(401, "authentication_error", "x-api-key or Authorization header is required")
        if self._options.keys and key not in self._options.keys:
            raise Refused(401, "authentication_error", "invalid x-api-key")
        return sha256(key.encode(errors="replace")).hexdigest()[:16]

    def _id(self, kind: str) -> str:
        return f"{kind}_01{self._run}{next(self._ids):014d}"


def _is_cut(request: web.BaseRequest) -> bool:
    return request.transport is None or request.transport.is_closing()


def _spoken(request: web.BaseRequest) -> dict[str, Any]:
    """Return the version and whether any beta is asked for."""
    headers = request.headers
    return {"version": headers["anthropic-version"].strip(), "beta": bool(headers.get("anthropic-beta", "").strip())}


def _model_route(path: str) -> tuple[str, _Handler]:
    name = path.removeprefix("/v1/models/")
    if name == path or not name or "/" in name:
        raise Refused(404, "not_found_error", "Not Found")

    async def show(request: web.BaseRequest, visit: Visit, headers: dict[str, str]) -> web.StreamResponse:
        checks.check_model(name)
        return _json_response(_model(name), headers)

    return "GET", show


def _model(name: str) -> dict[str, str]:
    shown = MODELS.get(name, name)
    return {"type": "model", "id": name, "display_name": shown, "created_at": "2026-01-01T00:00:00Z"}


def _json_response(value: object, headers: dict[str, str]) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), headers=headers | {"content-type": "application/json"})


def _error_response(refused: Refused, visit: Visit, headers: dict[str, str]) -> web.Response:
    visit.outcome, visit.status = refused.outcome, refused.status
    if wait := refused.headers.get("retry-after"):
        visit.retry_after_s = float(wait)
    said = headers | refused.headers | {"content-type": "application/json"}
    return web.Response(status=refused.status, body=refused.body(visit.request_id), headers=said)
