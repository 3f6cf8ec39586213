"""
An RPC whose answers are kept: the way of messages, chats, token counts and models, unary and streaming.

Bytes in, bytes out. A hit never parses anything: the digest of the request's bytes finds a kept answer, serialised once, and
what differs from hit to hit is appended to it, since serialised messages concatenate. Only bytes that are new to us are parsed,
admitted, and sent along the flow.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.message import Message

from headrace import roles
from headrace.admission import Admission, Ask
from headrace.answers import SMALL_BYTES, is_light
from headrace.aside import aloof
from headrace.basin import Place
from headrace.cache import status
from headrace.edge.exchange import Exchange
from headrace.edge.grpc_asks import origin
from headrace.edge.grpc_calls import Keys, Who, guarded
from headrace.edge.grpc_ids import call_id, named_by, named_so, trace_of, trailers
from headrace.edge.grpc_params import Parted, take_apart
from headrace.edge.hits import TOLD_S, Hit, Hits, digest, outcome_of
from headrace.errors import InvalidCall, UpstreamError
from headrace.model import Answer, Call, Caller, Event, Form, Reply
from headrace.trail import id_of
from headrace.v1 import options_pb2

JOB = "headrace.edge.grpc_answers:job"


class Method(Protocol):
    """
    What one RPC asks, and how its answers look.

    Args:
        name: service and method, "ChatService.CreateChatCompletion".
        is_streaming: whether it answers many times.
        request, response: their types; the response has an `origin`, which is left out below.
    """

    @property
    def name(self) -> str: ...

    @property
    def is_streaming(self) -> bool: ...

    @property
    def request(self) -> type[Message]: ...

    @property
    def response(self) -> type[Message]: ...

    def ask(self, parted: Parted, caller: Caller, *, timeout_s: float | None, credential: str) -> Ask:
        """Return what a request asks, taken apart; raises `InvalidCall` for what makes no sense."""

    def whole(self, answer: Answer) -> Iterable[bytes]:
        """Return the responses that say a whole answer: one, or those of a stream."""

    def event(self, event: Event, request_id: str) -> bytes:
        """Return the response that says one live event; empty if nothing is to be said of it."""


@dataclass(frozen=True, slots=True)
class KeptRpcStats:
    """Which method it serves; how many requests were answered from memory by their bytes alone, and how many went on."""

    method: str
    hits: int
    misses: int


class KeptRpc:
    """One method's handlers; of `unary` and `stream` the one that the proto names is used."""

    def __init__(self, exchange: Exchange, admission: Admission, hits: Hits, who: Who, method: Method) -> None:
        if roles.of_rpc(method.name) is not roles.CALLS:
            raise ValueError(f"{method.name} is not for whoever is known, and a hit asks for no more")
        self.method = method
        self._exchange = exchange
        self._admission = admission
        self._hits = hits
        self._who = who
        self._named = method.name.encode() + b"\n"
        self._kept = _Kept(method)
        self._rendition = f"grpc.{method.name}"
        self._named_so = named_so(method.response.DESCRIPTOR.fields_by_name["origin"].number)
        self._hit_count = self._miss_count = 0

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<KeptRpc {stats.method} [{stats.hits} hits, {stats.misses} misses]>"

    def stats(self) -> KeptRpcStats:
        """Return its state now."""
        return KeptRpcStats(self.method.name, self._hit_count, self._miss_count)

    @guarded
    def unary(self, raw: bytes, context: Any) -> bytes | Awaitable[bytes]:
        """Return one answer whole: at once, if it is a hit."""
        keys = self._who.keys(context)
        hit = self._hits.near(self._named + keys.scope, raw)
        if hit is None or not self._kept.is_at_hand(hit):
            return self._look_up(raw, context, keys)
        return self._give(hit, context, keys.id)

    async def _look_up(self, raw: bytes, context: Any, keys: Keys) -> bytes:
        with self._exchange.basin.place(self._who.whose(keys)) as place:
            with self._exchange.last_word.call():
                await place.came(len(raw))
            seen, hit = await self._far(self._named + keys.scope, raw)
            if hit is not None:
                return self._give(hit, context, keys.id)
            call = await self._admit(raw, context, keys, place)
            del raw  # the call has all that it says
            return await self._ask(call, context, seen)

    async def _far(self, head: bytes, raw: bytes) -> tuple[bytes, Hit | None]:
        """Return the digest of these bytes, and what is found by it."""
        seen = await aloof(raw, digest, head, raw)
        hit = self._hits.glance(seen)
        if hit is None or not self._kept.is_at_hand(hit):
            return seen, None
        self._hits.bring_near(head, raw, hit)
        return seen, hit

    def _give(self, hit: Hit, context: Any, given: str) -> bytes:
        return self._kept.responses(hit)[0] + self._kept.tail(hit) + self._tell(hit, context, given)

    def _tell(self, hit: Hit, context: Any, given: str) -> bytes:
        # Returns what the answer says of its call's id.
        self._hit_count += 1
        call, outcomes = id_of(given), self._exchange.outcomes
        trace = None if outcomes.enters is None else outcomes.enters(trace_of(context))
        outcomes.tell(outcome_of(hit, "grpc", call, trace))
        return self._named_so[len(call)] + call.encode()

    def refused(self, error: Exception, context: Any) -> None:
        """Tell of a request that was refused before it was a call; for `guarded`."""
        self._exchange.outcomes.refused("grpc", error, id=call_id(context))

    async def _ask(self, call: Call, context: Any, seen: bytes) -> bytes:
        async with self._exchange.answer(call, "grpc") as reply:
            if reply.answer is None:
                raise RuntimeError("an answer that is no stream comes whole")
            said = await self._whole(reply, reply.answer) + self._tail(reply, context)
        self._hits.remember(seen, call)
        context.set_trailing_metadata(trailers(context, call.trail, self._exchange.now()))
        return said

    @guarded
    async def stream(self, raw: bytes, context: Any) -> None:
        """Write the events of one answer."""
        keys = self._who.keys(context)
        head = self._named + keys.scope
        hit = self._hits.near(head, raw)
        if hit is not None and self._kept.is_at_hand(hit):
            await self._give_live(hit, context, keys.id)
            return
        with self._exchange.basin.place(self._who.whose(keys)) as place:
            with self._exchange.last_word.call():
                await place.came(len(raw))
            seen, hit = await self._far(head, raw)
            if hit is not None:
                place.release()
                await self._give_live(hit, context, keys.id)
                return
            call = await self._admit(raw, context, keys, place)
            del raw  # the call has all that it says
            await self._ask_live(call, context)
        self._hits.remember(seen, call)
        context.set_trailing_metadata(trailers(context, call.trail, self._exchange.now()))

    async def _give_live(self, hit: Hit, context: Any, given: str) -> None:
        tail = self._kept.tail(hit) + self._tell(hit, context, given)
        await context.write(*_opened(self._kept.responses(hit), tail))

    async def _ask_live(self, call: Call, context: Any) -> None:
        async with self._exchange.answer(call, "grpc") as reply:
            answer = reply.answer
            if reply.events is not None:
                await self._write_live(context, reply, reply.events)
            elif answer is None:
                raise RuntimeError("a reply has an answer or events")
            elif is_light(answer.payload):
                responses = reply.rendition(self._rendition, lambda answer: tuple(self.method.whole(answer)))
                await context.write(*_opened(responses, self._tail(reply, context)))
            else:
                await self._write_live(context, reply, self._exchange.answers.events(answer))

    async def _admit(self, raw: bytes, context: Any, keys: Keys, place: Place) -> Call:
        self._miss_count += 1
        parted = await take_apart(self._admission.aside, self.method.request, raw, streams=self.method.is_streaming)
        del raw
        caller = self._who.identify(keys.ours, parted.request.options.caller)
        ask = self.method.ask(parted, caller, timeout_s=context.time_remaining(), credential=keys.own)
        del parted
        ask["id"], trace = named_by(context)
        ask["trace"] = self._exchange.outcomes.entered({}, trace)
        return await self._exchange.admit(ask, place)

    async def _write_live(self, context: Any, reply: Reply, events: AsyncIterator[Event]) -> None:
        # To the very end, also past the last event that is told: whoever leaves early gives the call up.
        tail = self._tail(reply, context)
        async for event in events:
            if said := self.method.event(event, reply.request_id):
                await context.write(said + tail)
                tail = b""

    async def _whole(self, reply: Reply, answer: Answer) -> bytes:
        """Return the response that says a whole answer; made once for all who share it."""
        if self._rendition not in reply.renditions:
            reply.renditions[self._rendition] = await self._made(reply, answer)
        return b"".join(reply.renditions[self._rendition])

    async def _made(self, reply: Reply, answer: Answer) -> tuple[bytes, ...]:
        if is_light(answer.payload):
            return tuple(self.method.whole(answer))
        answers = self._exchange.answers
        payload = await answers.whole(reply, Form.JSON)
        try:
            return (await answers.aside.run(JOB, self.method.name.encode(), payload),)
        except InvalidCall as error:  # upstream's fault, and no caller's
            raise UpstreamError(error.message, status=502) from error

    def _tail(self, reply: Reply, context: Any) -> bytes:
        build: Any = self.method.response
        said: bytes = build(origin=origin(reply, call_id(context))).SerializeToString()
        return said


class _Kept:
    """The kept answers of one method, as serialised responses."""

    def __init__(self, method: Method) -> None:
        self._method = method
        self._rendition, self._told = f"grpc.{method.name}", f"grpc.{method.name}.tail"
        # One message for the tails of all hits: building it anew would cost as much as the rest of a hit.
        response: Any = method.response()
        self._response = response
        self._origin = response.origin
        self._origin.source = options_pb2.ANSWER_SOURCE_CACHE
        self._age = self._origin.age

    def responses(self, hit: Hit) -> tuple[bytes, ...]:
        """Return the answer's responses without their origin; made once for an entry."""
        renditions = hit.entry.renditions
        kept: tuple[bytes, ...] | None = renditions.get(self._rendition)
        if kept is None:
            kept = renditions[self._rendition] = tuple(self._method.whole(hit.entry.answer))
        return kept

    def is_at_hand(self, hit: Hit) -> bool:
        """Whether making them takes but a moment."""
        entry = hit.entry
        payload = entry.answer.payload
        return len(payload) <= SMALL_BYTES or self._rendition in entry.renditions or is_light(payload)

    def tail(self, hit: Hit) -> bytes:
        """Return the origin, to be appended to the first response; it is a hundredth of a second old at most."""
        entry, age_s = hit.entry, hit.age_s
        told: tuple[float, bytes] | None = entry.renditions.get(self._told)
        if told is not None and 0 <= age_s - told[0] < TOLD_S:
            return told[1]
        self._age.seconds = int(age_s)
        self._age.nanos = int(age_s % 1 * 1000) * 1_000_000
        self._origin.cache_status = status.hit(entry.fingerprint, entry.fresh_until - entry.answer.created - age_s)
        self._origin.request_id = entry.answer.request_id
        said: bytes = self._response.SerializeToString()
        entry.renditions[self._told] = age_s, said  # with the entry, so that it goes when that is purged
        return said


def _opened(responses: tuple[bytes, ...], tail: bytes) -> tuple[bytes, ...]:
    # The origin is in the first response only.
    return (responses[0] + tail, *responses[1:]) if responses else ()
