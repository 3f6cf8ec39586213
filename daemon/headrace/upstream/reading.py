"""
Reading what upstream says: a whole answer, a stream of events, or an error. Less than the whole is never taken for an answer.

A unary answer must be one complete message, a stream must reach its `message_stop`, and what we read of either must be
readable. Anything else, and every error of the network on the way, is an `AttemptFailed`.

An error may come with status 200, as the whole body or among events: it is what its type says. And an answer may be whole and
yet not to be read here (NaN, which JSON does not have; a body of another kind): it would come so again, and be paid for again,
so it is said once. What is no JSON, or ends too early, is another matter: a repeat may well be whole.

What upstream says is bounded in sum, a stream's events by their number too, for each is kept until the last; whole answers are
bounded over all of them, too. And what comes at once is read a piece at a time, with others' turns between.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from headrace import forms
from headrace.allowance import SLICE, Allowance
from headrace.basin import Place
from headrace.errors import AttemptFailed
from headrace.heads import identifier
from headrace.model import Answer, Event, Form, Headers, Usage
from headrace.upstream.failures import broken, classify, classify_event, silent, unreadable
from headrace.upstream.network import NETWORK_ERRORS, failure_of
from headrace.upstream.remarks import remarks
from headrace.upstream.transport import Response

MAX_ANSWER_BYTES = 64 << 20  # what one gRPC message of ours can carry
_MAX_EVENTS = 500_000  # of a stream
_MAX_EVENT_BYTES = 16 << 20  # it is looked at whole, by the loop
_MAX_EVENT_LINES = 50_000  # each of which is looked at
_MAX_ERROR_BYTES = 1 << 20
_MAX_TOLD_BYTES = 1 << 18  # of a whole answer in place of its events
_BOM = b"\xef\xbb\xbf"  # RFC 8259, 8.1: whoever reads JSON may ignore it
_JSON_BEGINS = b'{["0123456789'  # and no stream of events

Judge = Callable[[bytes, str], Awaitable[Usage | forms.Wrong]]
"""Says of a payload and an endpoint what `forms.judged` does; a heavy one it may have looked at elsewhere."""


async def judge_here(payload: bytes, endpoint: str) -> Usage | forms.Wrong:
    """Judge at once."""
    return forms.judged(payload, endpoint)


class Stream:
    """
    The events of one answer as they come, up to the last. An error among them is raised.

    Args:
        allowance: from which all streams take what they read.
    """

    def __init__(self, response: Response, dialect: forms.Dialect, allowance: Allowance) -> None:
        self.request_id: str = _request_id(response)
        self.headers = remarks(response.headers)
        self.complete = False
        self._dialect = dialect
        self._allowance = allowance
        self._error_headers = response.headers
        self._chunks = response.unpacked()
        self._splitter = forms.Splitter()
        self._ready: deque[Event] = deque()
        self._started = False
        self._is_events = False  # plain from the first byte; what is no stream of events is heard to its end
        self._heard = bytearray()
        self._came = b""  # and is still to be read
        self._bytes = self._events = 0

    def __repr__(self) -> str:
        return f"<Stream {self.request_id} [{len(self._ready)} ready{', complete' if self.complete else ''}]>"

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Event:
        if self.complete:
            raise StopAsyncIteration
        while not self._ready:
            await self._receive()
        event = self._ready.popleft()
        self._check(event)
        return event

    async def _receive(self) -> None:
        chunk = await self._next()
        if chunk is None:
            self._ready.extend(self._last())
        elif self._is_events:
            self._ready.extend(self._splitter.feed(chunk))
        else:
            self._begin(chunk)
        self._bytes += len(chunk or b"")
        self._events += len(self._ready)
        event = self._splitter
        is_long = event.pending_bytes > _MAX_EVENT_BYTES or event.pending_lines > _MAX_EVENT_LINES
        if is_long or self._bytes > MAX_ANSWER_BYTES or self._events > _MAX_EVENTS:
            raise _too_large(self.request_id)

    async def _next(self) -> bytes | None:
        if not self._came:
            try:
                self._came = await anext(self._chunks, b"")
            except NETWORK_ERRORS as error:
                raise failure_of(error, self.request_id) from error
        chunk, self._came = self._came[:SLICE], self._came[SLICE:]
        await self._allowance.take(len(chunk))
        return chunk or None

    def _begin(self, chunk: bytes) -> None:
        self._heard += chunk
        first = bytes(self._heard[:1024]).removeprefix(_BOM).lstrip()[:1]
        self._is_events = bool(first) and first not in _JSON_BEGINS and not _BOM.startswith(self._heard)
        if self._is_events:
            self._ready.extend(self._splitter.feed(bytes(self._heard)))
            self._heard.clear()

    def _last(self) -> Sequence[Event]:
        # A whole answer in place of its events says the same, where the one can be made of the other; and of the last event
        # only the blank line may be missing.
        if payload := bytes(self._heard).removeprefix(_BOM).strip():
            return self._told(payload)
        events = self._splitter.finish()
        if any(self._dialect.is_terminal(event) and self._dialect.is_sound(event) for event in events):
            return events
        raise broken("upstream ended the stream before the answer was complete", request_id=self.request_id)

    def _told(self, payload: bytes) -> Sequence[Event]:
        if len(payload) > _MAX_TOLD_BYTES:
            raise _too_large(self.request_id)
        try:
            payload.decode()
            return self._dialect.events_of_json(payload)
        except ValueError as error:
            raise _no_answer(payload, _why(payload), self._error_headers, self.request_id) from error

    def _check(self, event: Event) -> None:
        dialect = self._dialect
        if dialect.error_of(event):
            raise classify_event(event.data, self._error_headers)
        is_terminal = dialect.is_terminal(event)
        if not dialect.is_sound(event) or (is_terminal and not self._started):
            raise _no_answer(event.data, _why(event.data), self._error_headers, self.request_id)
        self._started |= dialect.is_start(event)
        self.complete = is_terminal

    async def drain(self) -> None:
        """Read the last bytes after the last event, if they are there, so that the connection can serve again."""
        with contextlib.suppress(TimeoutError, *NETWORK_ERRORS):
            async with asyncio.timeout(0.05):  # by the loop: it is a socket's
                async for _ in self._chunks:
                    pass


def _request_id(response: Response) -> str:
    for name, value in response.headers:
        if name == "request-id":
            return identifier(value)
    return ""


async def read_whole(response: Response, *, within_s: float | None = None, most: int = MAX_ANSWER_BYTES) -> bytes:
    """Return the whole body, of so many bytes at most; it may take *within_s*, where no other bound is set."""
    if within_s is None:
        return await _read_whole(response, most)
    try:
        async with asyncio.timeout(within_s) as bound:  # by the loop: it is a socket's
            return await _read_whole(response, most)
    except TimeoutError as error:
        if not bound.expired():
            raise
        raise silent("upstream fell silent", request_id=_request_id(response)) from error


async def read_in_place(response: Response, place: Place) -> bytes:
    """
    Return the whole body of an answer; what comes after its first piece lies in *place*, and so waits for room there.

    Nearly all answers come in one piece. Raises `QueueFull` when there is no room for long.
    """
    body = await _read_whole(response, MAX_ANSWER_BYTES, place)
    place.fill()
    return body


async def _read_whole(response: Response, most: int, place: Place | None = None) -> bytes:
    # What is written is given out as it lies there: to join pieces would take as much once more.
    first, rest = b"", io.BytesIO()
    try:
        async for chunk in response.unpacked():
            if not first:
                first = chunk
                continue
            rest.write(chunk if rest.tell() else first + chunk)
            if rest.tell() > most:
                raise _too_large(_request_id(response))
            if place is not None:
                await place.add(len(chunk))
    except NETWORK_ERRORS as error:
        raise failure_of(error, _request_id(response)) from error
    return rest.getvalue() or first


def _too_large(request_id: str) -> AttemptFailed:
    return unreadable("upstream's answer is larger than an answer may be", request_id=request_id)


async def answer_of(payload: bytes, response: Response, now: float, endpoint: str, judge: Judge) -> Answer:
    """Return the answer that *payload* spells, if it is a whole one."""
    payload = payload.removeprefix(_BOM)
    verdict = await judge(payload, endpoint)
    if isinstance(verdict, forms.Wrong):
        failure = _no_answer(payload, verdict, response.headers, _request_id(response))
        del payload  # it may be large, and an error keeps what the frames name that it comes through
        raise failure
    return Answer(Form.JSON, payload, now, verdict, _request_id(response), headers=remarks(response.headers))


def _why(payload: bytes) -> forms.Wrong:
    # Of an event. One of megabytes is looked through by nobody.
    return forms.wrong(payload) if len(payload) <= _MAX_ERROR_BYTES else forms.Wrong.STRANGE


def _no_answer(payload: bytes, wrong: forms.Wrong, headers: Headers, request_id: str) -> AttemptFailed:
    if wrong is forms.Wrong.CUT_OFF:
        return broken("upstream's answer is not complete", request_id=request_id)
    if wrong is forms.Wrong.ERROR and len(payload) <= _MAX_ERROR_BYTES:
        return classify_event(payload, headers)
    return unreadable("upstream's answer is whole, but not one that can be read here", request_id=request_id)


async def read_failure(response: Response, *, passed_on: Headers | None = None, within_s: float | None = None) -> AttemptFailed:
    """Return what a response other than 200 means; with the headers *passed_on*, if they are not the usual ones."""
    try:
        body = await read_whole(response, within_s=within_s, most=_MAX_ERROR_BYTES)
    except AttemptFailed:
        # The status says enough; half an error page, or a flood, is nothing to pass on.
        body = b""
    return classify(response.status, response.headers, body, passed_on=passed_on)
