"""
How an answer gets onto the wire: at the pace of a model, and with the fault that was ordered for it.

Output tokens are charged as they are produced. A fault that breaks an answer off does so just before the content delta after
`after_deltas`, or at the latest before the events that end the message; a JSON answer is broken off in its middle. One that
drips is cut wherever it happens to be, in the middle of a line, too.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from aiohttp.web import BaseRequest, Response, StreamResponse

from headrace.simulator.breaking import BREAKS, break_off
from headrace.simulator.checks import Ask
from headrace.simulator.encodings import Encoder, encoder
from headrace.simulator.faults import Kind, Rule
from headrace.simulator.options import Options
from headrace.simulator.refusals import Refused
from headrace.simulator.render import Form, Piece
from headrace.simulator.script import Script

_TICK_S = 0.1  # how often the output of a JSON answer is charged
_DRIPS = 50
GARBAGE = b"<html><head><title>Oops</title></head><body>This is not the API you are looking for.</body></html>\n"


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast one answer is said."""

    first_token_s: float
    tokens_per_s: float

    @classmethod
    def of(cls, options: Options, dice: random.Random) -> Self:
        slower = 1 + options.jitter * dice.uniform(-1, 1)
        return cls(options.first_token_s * slower, options.tokens_per_s / slower)

    def due_s(self, tokens_before: int) -> float:
        """Return when the token after these is said, in seconds from the start."""
        return self.first_token_s + (tokens_before / self.tokens_per_s if self.tokens_per_s else 0.0)

    def said_by(self, elapsed_s: float, most: int) -> int:
        """Return how many tokens are said by then."""
        speaking_s = elapsed_s - self.first_token_s
        if speaking_s < 0:
            return 0
        return min(most, int(speaking_s * self.tokens_per_s)) if self.tokens_per_s else most


@dataclass(slots=True)
class Saying:
    """
    One answer on its way out.

    Args:
        message_id: of the answer.
        produced: told of output tokens as they are produced.
        told: told of all the input and output tokens that the answer has said were used, whenever it has said so.
        headers: of the answer.
        encoding: of a stream; empty: none. (Whole answers are encoded at the door.)
    """

    request: BaseRequest
    ask: Ask
    script: Script
    form: Form
    message_id: str
    request_id: str
    pace: Pace
    rule: Rule | None
    delta_tokens: int
    produced: Callable[[int], None]
    told: Callable[[tuple[int, int]], None]
    headers: dict[str, str]
    encoding: str = ""
    _started: float = field(default_factory=lambda: asyncio.get_running_loop().time())

    async def say(self) -> StreamResponse:
        """Say it all, or as much as the fault lets through."""
        rule = self.rule
        if rule and rule.kind is Kind.SLOW:
            await asyncio.sleep(rule.delay_s)
            self._started += rule.delay_s
        if rule and rule.kind is Kind.GARBAGE:
            return Response(status=rule.status, body=GARBAGE, headers=self.headers | {"content-type": "text/html"})
        if rule and rule.kind in (Kind.HANG, Kind.RESET) and rule.after_deltas is None:
            await self._break_off(rule, StreamResponse())
            return Response()
        return await (self._say_events() if self.ask.stream else self._say_json())

    async def _say_json(self) -> StreamResponse:
        body = self.form.whole(self.script, self.ask, self.message_id)
        headers = self.headers | {"content-type": "application/json"}
        await self._produce()
        if self.rule is None or self.rule.kind not in (*BREAKS, Kind.DRIP):
            self.told((self.ask.input_tokens, self.script.output_tokens))
            return Response(body=body, headers=headers)
        response = StreamResponse(headers=headers)
        response.content_length = len(body)
        await response.prepare(self.request)
        if self.rule.kind is Kind.DRIP:
            self.told((self.ask.input_tokens, self.script.output_tokens))
            await _drip(response, body, self.rule.delay_s)
            return response
        await response.write(body[: len(body) // 2])
        await self._break_off(self.rule, response)
        return response

    async def _produce(self) -> None:
        """Take the time that the output takes, charging it on the way."""
        said, total = 0, self.script.output_tokens
        end_s = self.pace.due_s(total)
        while (left_s := end_s - self._elapsed_s()) > 0:
            await asyncio.sleep(min(_TICK_S, left_s))
            now_said = self.pace.said_by(self._elapsed_s(), total)
            self.produced(now_said - said)
            said = now_said
        self.produced(total - said)

    async def _say_events(self) -> StreamResponse:
        response = StreamResponse(headers=self.headers | {"content-type": "text/event-stream; charset=utf-8"})
        if packer := encoder(self.encoding):
            response.headers["content-encoding"] = self.encoding
        unsent: list[bytes] = []
        said = deltas = 0
        for piece in self.form.pieces(self.script, self.ask, self.message_id, self.delta_tokens):
            if self.rule and self._breaks_before(piece, deltas):
                await self._send(response, unsent)
                await self._break_off(self.rule, response, packer)
                return response
            # The message opens halfway to its first token, as upstream's does once it has read the prompt.
            due_s = self.pace.first_token_s / 2 if not deltas and not piece.tokens else self.pace.due_s(said)
            if (wait_s := due_s - self._elapsed_s()) > 0:
                if not self._drips:
                    await self._send(response, unsent)
                await asyncio.sleep(wait_s)
            unsent.append(packer.encode(piece.raw) if packer else piece.raw)
            if piece.told:
                self.told(piece.told)
            if piece.name == "content_block_delta":
                deltas += 1
                said += piece.tokens
                self.produced(piece.tokens)
        if packer:
            unsent.append(packer.finish())
        await self._send(response, unsent)
        return response

    def _breaks_before(self, piece: Piece, deltas: int) -> bool:
        if self.rule is None or self.rule.kind not in BREAKS:
            return False
        if piece.name == "message_delta":
            return True
        default = 3 if self.rule.kind is Kind.HALF_STREAM else 0
        wanted = default if self.rule.after_deltas is None else self.rule.after_deltas
        return piece.name == "content_block_delta" and deltas >= wanted

    async def _send(self, response: StreamResponse, unsent: list[bytes]) -> None:
        if not response.prepared:
            await response.prepare(self.request)
        if unsent:
            said = b"".join(unsent)
            unsent.clear()
            if self._drips and self.rule:
                await _drip(response, said, self.rule.delay_s)
            else:
                await response.write(said)

    async def _break_off(self, rule: Rule, response: StreamResponse, packer: Encoder | None = None) -> None:
        if rule.kind is Kind.STREAM_ERROR:
            sentence = "Overloaded" if "overloaded" in rule.error_type else "Internal server error"
            error = self.form.error(Refused(200, rule.error_type, sentence), self.request_id)
            await response.write(packer.encode(error) + packer.finish() if packer else error)
        else:
            await break_off(self.request, rule)

    @property
    def _drips(self) -> bool:
        return self.rule is not None and self.rule.kind is Kind.DRIP

    def _elapsed_s(self) -> float:
        return asyncio.get_running_loop().time() - self._started


async def _drip(response: StreamResponse, said: bytes, over_s: float) -> None:
    size = -(-len(said) // _DRIPS)
    for begin in range(0, len(said), size):
        await response.write(said[begin : begin + size])
        await asyncio.sleep(over_s / _DRIPS)
