"""
Reading what upstream says: a whole answer, a stream of events, or an error. Less than the whole is never taken for an answer.

A unary answer must be one complete message, a stream must reach its `message_stop`, and what we read of either must be
readable. Anything else, and every error of the network on the way, is an `AttemptFailed`.

An error may come with status 200, as the whole body or among events: it is what its type says. And an answer may be whole and
yet not to be read here (NaN, which JSON does not have; a body of another kind): it would come so again, and be paid for again,
so it is said once. What is no JSON, or ends too early, is another matter: a repeat may well be whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Sequence

from headrace import forms
from headrace.errors import AttemptFailed
from headrace.heads import readable
from headrace.model import Answer, Event, Form, Headers
from headrace.upstream.failures import broken, classify, classify_event, silent, unreadable
from headrace.upstream.network import NETWORK_ERRORS, failure_of
from headrace.upstream.remarks import remarks
from headrace.upstream.transport import Response

MAX_ANSWER_BYTES = 64 << 20  # what one gRPC message of ours can carry
_BOM = b"\xef\xbb\xbf"  # RFC 8259, 8.1: whoever reads JSON may ignore it
_JSON_BEGINS = (b"{", b"[")


class Stream:
    """The events of one answer as they come, up to the last. An error among them is raised."""

    def __init__(self, response: Response, dialect: forms.Dialect) -> None:
        self.request_id: str = _request_id(response)
        self.headers = remarks(response.headers)
        self.complete = False
        self._dialect = dialect
        self._error_headers = response.headers
        try:
            self._chunks = response.unpacked()
        except NETWORK_ERRORS as error:
            raise failure_of(error, self.request_id) from error
        self._splitter = forms.Splitter()
        self._ready: deque[Event] = deque()
        self._started = False
        self._is_events = False  # plain from the first byte; what is no stream of events is heard to its end
        self._heard = bytearray()

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
        try:
            chunk = await anext(self._chunks, None)
        except NETWORK_ERRORS as error:
            raise failure_of(error, self.request_id) from error
        if chunk is None:
            self._ready.extend(self._last())
        elif self._is_events:
            self._ready.extend(self._splitter.feed(chunk))
        else:
            self._begin(chunk)
        if self._splitter.pending_bytes + len(self._heard) > MAX_ANSWER_BYTES:
            raise broken("upstream's event is larger than an answer may be", request_id=self.request_id)

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
        try:
            payload.decode()
            return self._dialect.events_of_json(payload)
        except ValueError as error:
            raise _no_answer(payload, self._error_headers, self.request_id) from error

    def _check(self, event: Event) -> None:
        dialect = self._dialect
        if dialect.error_of(event):
            raise classify_event(event.data, self._error_headers)
        is_terminal = dialect.is_terminal(event)
        if not dialect.is_sound(event) or (is_terminal and not self._started):
            raise _no_answer(event.data, self._error_headers, self.request_id)
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
            return readable(value)
    return ""


async def read_whole(response: Response, *, within_s: float | None = None) -> bytes:
    """Return the whole body; it may take *within_s*, where no other bound is set."""
    if within_s is None:
        return await _read_whole(response)
    try:
        async with asyncio.timeout(within_s) as bound:  # by the loop: it is a socket's
            return await _read_whole(response)
    except TimeoutError as error:
        if not bound.expired():
            raise
        raise silent("upstream fell silent", request_id=_request_id(response)) from error


async def _read_whole(response: Response) -> bytes:
    received, size = [], 0
    try:
        async for chunk in response.unpacked():
            received.append(chunk)
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                raise broken("upstream's answer is larger than an answer may be", request_id=_request_id(response))
    except NETWORK_ERRORS as error:
        raise failure_of(error, _request_id(response)) from error
    return received[0] if len(received) == 1 else b"".join(received)


def answer_of(payload: bytes, response: Response, now: float, dialect: forms.Dialect) -> Answer:
    """Return the answer that *payload* spells, if it is a whole one."""
    request_id = _request_id(response)
    payload = payload.removeprefix(_BOM)
    try:
        payload.decode()
        usage = dialect.usage_of_json(payload)
    except ValueError as error:
        raise _no_answer(payload, response.headers, request_id) from error
    return Answer(Form.JSON, payload, now, usage, request_id, headers=remarks(response.headers))


def _no_answer(payload: bytes, headers: Headers, request_id: str) -> AttemptFailed:
    if forms.is_an_error(payload):
        return classify_event(payload, headers)
    if _is_whole(payload):
        return unreadable("upstream's answer is whole, but not one that can be read here", request_id=request_id)
    return broken("upstream's answer is not complete", request_id=request_id)


def _is_whole(payload: bytes) -> bool:
    # As the most patient of readers would have it: with NaN, and whatever the bytes spell.
    try:
        json.loads(payload.decode(errors="replace"))
    except RecursionError:
        return True
    except ValueError:
        return False
    return True


async def read_failure(response: Response, *, passed_on: Headers | None = None, within_s: float | None = None) -> AttemptFailed:
    """Return what a response other than 200 means; with the headers *passed_on*, if they are not the usual ones."""
    try:
        body = await read_whole(response, within_s=within_s)
    except AttemptFailed:
        # The status says enough; half an error page is nothing to pass on.
        body = b""
    return classify(response.status, response.headers, body, passed_on=passed_on)
