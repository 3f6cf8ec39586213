"""
The endpoints that speak: messages, chat completions, and the count of tokens.

Messages and chat are one thing here: what differs is how a call is read (`checks`, `chat`) and how its answer is written
(`render`, `chat`). Limits, and faults that name words or a model, hold for both.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from aiohttp import web

from headrace.simulator import chat, checks, render
from headrace.simulator.call import Call
from headrace.simulator.checks import Ask
from headrace.simulator.faults import Faults, refusal
from headrace.simulator.journal import Journal, Visit
from headrace.simulator.limits import Limits
from headrace.simulator.options import Options
from headrace.simulator.refusals import Refused
from headrace.simulator.render import Form
from headrace.simulator.routes import Route
from headrace.simulator.saying import Pace, Saying
from headrace.simulator.script import write


class Conversation:
    """What these endpoints share: faults, limits and the journal, which all calls change."""

    def __init__(
        self,
        options: Options,
        dice: random.Random,
        new_id: Callable[[str], str],
        faults: Faults,
        limits: Limits,
        journal: Journal,
    ) -> None:
        self._options = options
        self._dice = dice
        self._new_id = new_id
        self._faults = faults
        self._limits = limits
        self._journal = journal

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("POST", "/v1/messages", self._messages, strikes=True),
            Route("POST", "/v1/messages/count_tokens", self._count_tokens),
            Route("POST", "/v1/chat/completions", self._chat, strikes=True),
        )

    async def _messages(self, call: Call) -> web.StreamResponse:
        ask = checks.read_ask(await call.body(self._options.max_body_bytes), version=call.version, beta=call.is_beta)
        return await self._say(call, ask, render.MESSAGES, self._new_id("msg"))

    async def _chat(self, call: Call) -> web.StreamResponse:
        ask, form = chat.read(await call.fields(self._options.max_body_bytes))
        return await self._say(call, ask, form, self._new_id("chatcmpl"))

    async def _count_tokens(self, call: Call) -> web.StreamResponse:
        ask = checks.read_count(await call.body(self._options.max_body_bytes), version=call.version, beta=call.is_beta)
        self._journal.describe(call.visit, ask.model, ask.stream, ask.prompt)
        return call.say({"input_tokens": ask.input_tokens})

    async def _say(self, call: Call, ask: Ask, form: Form, message_id: str) -> web.StreamResponse:
        visit = call.visit
        self._journal.describe(visit, ask.model, ask.stream, ask.prompt)
        if rule := self._faults.strike(ask, call.request.method, call.request.path, self._limits.running(ask.model)):
            if refused := refusal(rule, self._faults.retry_after_s(rule)):
                raise refused
            visit.outcome = rule.kind.value
        try:
            self._limits.enter(ask.model, ask.input_tokens)
        except Refused as refused:
            refused.headers |= self._limits.headers(ask.model)
            raise
        visit.input_tokens = ask.input_tokens
        try:
            visit.message_id = message_id
            saying = Saying(
                request=call.request,
                ask=ask,
                script=write(ask, self._options.answer_tokens, self._new_id("toolu"), message_id),
                form=form,
                message_id=message_id,
                request_id=visit.request_id,
                pace=Pace.of(self._options, self._dice),
                rule=rule,
                delta_tokens=self._options.delta_tokens,
                told=lambda tokens: self._told(visit, tokens),
                produced=lambda tokens: self._produced(visit, ask.model, tokens),
                headers=call.headers | self._limits.headers(ask.model),
                encoding=call.encoding,
            )
            return await saying.say()
        finally:
            self._limits.leave(ask.model)

    def _told(self, visit: Visit, tokens: tuple[int, int]) -> None:
        self._journal.tell(visit, *tokens)

    def _produced(self, visit: Visit, model: str, tokens: int) -> None:
        # Through the journal each time: a reset puts new counts in it.
        self._journal.counts.output_tokens += tokens
        visit.output_tokens += tokens
        self._limits.produced(model, tokens)
