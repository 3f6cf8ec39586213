"""
The simulator's door: which endpoint is asked, with which key and version, and what becomes of the call.

It speaks aiohttp's low level: one handler for everything, since each call should cost as little as the calls it stands in for
cost us. The endpoints themselves are in modules of their own; each brings its routes.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
from hashlib import sha256

from aiohttp import web

from headrace.simulator import checks, models
from headrace.simulator.answers import Answers, give
from headrace.simulator.batches import Batches
from headrace.simulator.breaking import break_off
from headrace.simulator.call import Call, breaks_before_headers, halved
from headrace.simulator.conversation import Conversation
from headrace.simulator.encodings import agreed, packed
from headrace.simulator.faults import Faults, Kind, Rule, refusal
from headrace.simulator.files import Files
from headrace.simulator.journal import Journal, Visit, shown
from headrace.simulator.limits import Limits
from headrace.simulator.options import Options
from headrace.simulator.organization import ORGANIZATION_ID, Organization
from headrace.simulator.refusals import Refused
from headrace.simulator.routes import Door, Handler, Routes, allowed, door_of
from headrace.simulator.saying import GARBAGE

_ADMIN = "sk-ant-admin"


class Api:
    """The endpoints, and the state that calls change: faults, limits, journal, batches, files, the organization."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._dice = random.Random(options.seed)  # noqa: S311  # faults, not secrets
        self._ids = itertools.count(1)
        self._run = secrets.token_hex(4)
        self.encodings = options.encodings
        self.faults = Faults(options, self._dice)
        self.limits = Limits(options)
        self.journal = Journal(options.journal)
        self.answers = Answers()
        self.batches = Batches(options, self._id)
        self.files = Files(options, self._id)
        self.organization = Organization(options, self._id)
        talk = Conversation(options, self._dice, self._id, self.faults, self.limits, self.journal)
        parts = (talk.routes(), models.routes(), self.batches.routes(), self.files.routes(), self.organization.routes())
        self._routes = Routes(itertools.chain(*parts))

    def __repr__(self) -> str:
        return f"<Api {self.journal} {self.faults} {self.limits}>"

    def reset(self) -> None:
        """Return to the state after the start."""
        self.encodings = self._options.encodings
        for part in (self.journal, self.faults, self.limits, self.batches, self.files, self.organization):
            part.reset()
        self.answers.clear()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one call, and note it in the journal."""
        visit = self.journal.open(request.path[:200])
        visit.request_id = self._id("req")
        visit.method, visit.target, visit.headers = request.method, request.raw_path, shown(request.headers)
        headers = {"request-id": visit.request_id, "anthropic-organization-id": ORGANIZATION_ID}
        encoding = agreed(self.encodings, request.headers.get("accept-encoding", ""))
        try:
            response = await self._answer(Call(request, visit, self.journal, headers, encoding=encoding))
            if visit.outcome == "open":
                visit.outcome = "answered"
            if response.prepared or not _is_cut(request):
                visit.status = response.status
        except Refused as refused:
            response = _error_response(refused, visit, headers)
        finally:
            if visit.outcome == "open":
                visit.outcome = "gone"
            self.journal.close(visit)
        return packed(response, encoding)

    async def _answer(self, call: Call) -> web.StreamResponse:
        request = call.request
        if self.answers and (ordered := self.answers.find(request.method, request.path)):
            self._admit(call)
            return await self._strike(call, lambda call: give(ordered, call))
        methods, call.ids = self._routes.find(request.path)
        if not methods:
            raise Refused(404, "not_found_error", "Not Found")
        if request.method == "OPTIONS":
            return web.Response(status=204, headers=call.headers | {"allow": allowed(methods)})
        route = methods.get("GET" if request.method == "HEAD" else request.method)
        if route is None:
            raise Refused(405, "invalid_request_error", "Method Not Allowed", headers={"allow": allowed(methods)})
        self._admit(call)
        return await (route.handler(call) if route.strikes else self._strike(call, route.handler))

    def _admit(self, call: Call) -> None:
        door = door_of(call.request.path)
        call.visit.key = self._check_key(call.request, is_admins=door is Door.ADMIN)
        if door is Door.CHAT or (door is Door.BOTH and not call.version and "x-api-key" not in call.request.headers):
            return
        checks.check_version(call.version)

    async def _strike(self, call: Call, handler: Handler) -> web.StreamResponse:
        """Let a call meet the fault that was ordered for its endpoint, if any, on its way in or out."""
        rule = self.faults.strike(None, call.request.method, call.request.path)
        if rule is None:
            return await handler(call)
        refused = refusal(rule, self.faults.retry_after_s(rule))
        call.visit.outcome = rule.kind.value
        if not rule.early and (refused or rule.kind is Kind.GARBAGE or breaks_before_headers(rule)):
            await call.drain()
        if refused:
            raise refused
        return await self._tamper(call, rule, handler)

    async def _tamper(self, call: Call, rule: Rule, handler: Handler) -> web.StreamResponse:
        if rule.kind is Kind.GARBAGE:
            return web.Response(status=rule.status, body=GARBAGE, headers=call.headers | {"content-type": "text/html"})
        if breaks_before_headers(rule):
            await break_off(call.request, rule)
            return web.Response()
        if rule.kind is Kind.SLOW:
            await asyncio.sleep(rule.delay_s)
        call.rule = rule
        return await halved(call, await handler(call))

    def _check_key(self, request: web.BaseRequest, *, is_admins: bool) -> str:
        """Return a hash of the key presented; `x-api-key` counts where both headers are there."""
        kind, _, bearer = request.headers.get("authorization", "").partition(" ")
        key = request.headers.get("x-api-key", bearer if kind.lower() == "bearer" else "").strip()
        if not key:
            raise Refused(401, "authentication_error", "x-api-key or Authorization header is required")
        if not self._opens(key, is_admins=is_admins):
            raise Refused(401, "authentication_error", "invalid x-api-key")
        return sha256(key.encode(errors="replace")).hexdigest()[:16]

    def _opens(self, key: str, *, is_admins: bool) -> bool:
        """Whether a key is of the right kind, and one of those that are named if any are."""
        if key in self._options.keys:
            return not is_admins
        if key.startswith(_ADMIN) or key in self._options.admin_keys:
            return is_admins
        return not is_admins and not self._options.keys

    def _id(self, kind: str) -> str:
        return f"{kind}_01{self._run}{next(self._ids):014d}"


def _is_cut(request: web.BaseRequest) -> bool:
    return request.transport is None or request.transport.is_closing()


def _error_response(refused: Refused, visit: Visit, headers: dict[str, str]) -> web.Response:
    visit.outcome, visit.status = refused.outcome, refused.status
    if wait := refused.headers.get("retry-after"):
        visit.retry_after_s = float(wait)
    said = headers | refused.headers | {"content-type": "application/json"}
    body = refused.openai_body() if door_of(visit.path) is Door.CHAT else refused.body(visit.request_id)
    return web.Response(status=refused.status, body=body, headers=said)
