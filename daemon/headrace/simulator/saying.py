"""
How an answer gets onto the wire: at the pace of a model, and with the fault that was ordered for it.

Output tokens are charged as they are produced. A fault that breaks an answer off does so just before the content delta after
`after_deltas`, or at the latest before the events that end the message; a JSON answer is broken off in its middle.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from aiohttp.web import BaseRequest, Response, StreamResponse

from headrace.simulator.checks import Ask
from headrace.simulator.faults import Kind, Rule
from headrace.simulator.options import Options
from headrace.simulator.refusals import Refused
from headrace.simulator.render import Piece, event, message, pieces
from headrace.simulator.script import Script

_TICK_S = 0.1  # how often the output of a JSON answer is charged
_GARBAGE = b"<html><head><title>Oops</title></head><body>This is not the API you are looking for.</body></html>\n"
_BREAKS = (Kind.HANG, Kind.RESET, Kind.HALF_JSON, Kind.HALF_STREAM, Kind.STREAM_ERROR)


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
        produced: told of output tokens as they are produced.
        headers: of the answer.
    """

    request: BaseRequest
    ask: Ask
    script: Script
    message_id: str
    request_id: str
    pace: Pace
    rule: Rule | None
    delta_tokens: int
    produced: Callable[[int], None]
    headers: dict[str, str]
    _started: float = field(default_factory=lambda: asyncio.get_running_loop().time())

    async def say(self) -> StreamResponse:
        """Say it all, or as much as the fault lets through."""
        rule = self.rule
        if rule and rule.kind is Kind.SLOW:
            await asyncio.sleep(rule.delay_s)
            self._started += rule.delay_s
        if rule and rule.kind is Kind.GARBAGE:
            return Response(status=rule.status, body=_GARBAGE, headers=self.headers | {"content-type": "text/html"})
        if rule and rule.kind in (Kind.HANG, Kind.RESET) and rule.after_deltas is None:
            await self._break_off(rule, StreamResponse())
            return Response()
        return await (self._say_events() if self.ask.stream else self._say_json())

    async def _say_json(self) -> StreamResponse:
        body = message(self.script, self.ask, self.message_id)
        headers = self.headers | {"content-type": "application/json"}
        await self._produce()
        if self.rule is None or self.rule.kind not in _BREAKS:
            return Response(body=body, headers=headers)
        response = StreamResponse(headers=headers)
        response.content_length = len(body)
        await response.prepare(self.request)
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
        unsent: list[bytes] = []
        said = deltas = 0
        for piece in pieces(self.script, self.ask, self.message_id, self.delta_tokens):
            if self.rule and self._breaks_before(piece, deltas):
                await self._send(response, unsent)
                await self._break_off(self.rule, response)
                return response
            # The message opens halfway to its first token, as upstream's does once it has read the prompt.
            due_s = self.pace.first_token_s / 2 if not deltas and not piece.tokens else self.pace.due_s(said)
            if (wait_s := due_s - self._elapsed_s()) > 0:
                await self._send(response, unsent)
                await asyncio.sleep(wait_s)
            unsent.append(piece.raw)
            if piece.name == "content_block_delta":
                deltas += 1
                said += piece.tokens
                self.produced(piece.tokens)
        await self._send(response, unsent)
        return response

    def _breaks_before(self, piece: Piece, deltas: int) -> bool:
        if self.rule is None or self.rule.kind not in _BREAKS:
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
            await response.write(b"".join(unsent))
            unsent.clear()

    async def _break_off(self, rule: Rule, response: StreamResponse) -> None:
        match rule.kind:
            case Kind.HANG:
                await asyncio.get_running_loop().create_future()  # until the caller leaves
            case Kind.RESET:
                _reset(self.request)
            case Kind.STREAM_ERROR:
                error = Refused(
                    200, rule.error_type, "Overloaded" if "overloaded" in rule.error_type else "Internal server error"
                )
                said = {"type": "error", "error": error.error(), "request_id": self.request_id}
                await response.write(event("error", said))
            case _ if not rule.clean and self.request.transport is not None:
                self.request.transport.close()

    def _elapsed_s(self) -> float:
        return asyncio.get_running_loop().time() - self._started


def _reset(request: BaseRequest) -> None:
    """Close the connection so that the other side sees a reset and not an end."""
    transport = request.transport
    if transport is None:
        return
    wire = transport.get_extra_info("socket")
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
