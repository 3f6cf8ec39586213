"""Targets: what upstream says, in heads, errors, answers and streams."""

from __future__ import annotations

import contextlib
import json

from tests.fuzz.inputs import NOW, finite, head_and_body, pairs, text
from tests.fuzz.target import Target

from headrace import forms
from headrace.batches.results import Results
from headrace.cache.policy import no_keep_answer
from headrace.edge import http_errors, status
from headrace.endpoints import CHAT, MESSAGES
from headrace.errors import AttemptFailed
from headrace.forms.sse import make_event
from headrace.model import Answer, Form
from headrace.resources.ids import made_in
from headrace.resources.listing import Listing
from headrace.tuning.heed import heed
from headrace.upstream.failures import classify, classify_event, is_spend_limit, retry_after
from headrace.upstream.remarks import remarks

_AT_ONCE = 1 << 14  # bytes of a stream that are read in one turn of the loop
_LOOKED_AT = 500  # events of a stream, for many inputs are nothing but line ends
_STATUSES = (200, 302, 400, 401, 404, 408, 413, 429, 500, 503, 529, 599)


def waits(data: bytes) -> None:
    finite(retry_after(pairs(data)))


def limits(data: bytes) -> None:
    """The headers in which upstream names its limits."""
    raw = [(name.strip(), value.strip()) for name, _, value in (line.partition(b":") for line in data.split(b"\n"))]
    for code in (200, 429):
        word = heed(code, raw, NOW, NOW)
        finite(word.short_s)
        assert all(each.per_minute > 0 and 0 <= each.burst_s <= 60 for each in word.readings.values())


def kept_headers(data: bytes) -> None:
    remarks(tuple((name.lower(), value) for name, value in pairs(data)))


def error(data: bytes) -> None:
    """An error of upstream's, on to both kinds of callers."""
    headers, body = head_and_body(data)
    code = _STATUSES[len(body) % len(_STATUSES)]
    _said(classify(code, headers, body))
    _said(classify_event(body, headers))


def _said(failed: AttemptFailed) -> None:
    is_spend_limit(failed)
    finite(failed.retry_after_s)
    assert status.say(failed.error).ByteSize() < 8192
    said = http_errors.say(failed.error, "req_1")
    assert 400 <= said.status < 600
    json.dumps(said.headers).encode()
    event = http_errors.error_event(failed.error, "req_1")
    assert event.count(b"\n") == 3


def splitter(data: bytes) -> None:
    """Whatever the chunks, the events and what is left over are what came, but for a byte order mark."""
    data = data[:_AT_ONCE]
    whole = forms.Splitter()
    events = whole.feed(data)
    said = forms.join(events) + whole.leftover
    assert said in (data, data.removeprefix(b"\xef\xbb\xbf"))
    pieces, step = forms.Splitter(), max(1, len(data) % 7, len(data) // 50)
    cut = [event for at in range(0, len(data), step) for event in pieces.feed(data[at : at + step])]
    assert forms.join(cut) + pieces.leftover == said
    for name in (MESSAGES.name, CHAT.name):
        dialect = forms.dialect(name)
        counting = dialect.counting()
        for event in events[:_LOOKED_AT]:
            if dialect.is_sound(event):
                counting.add(event)
            if dialect.is_sound(event) and not dialect.error_of(event):
                dialect.is_terminal(event), dialect.is_start(event), dialect.is_content(event), dialect.tells_usage(event)
        assert counting.usage.output_tokens >= 0
    whole.finish()


def told(data: bytes) -> None:
    """A stream put together as the message that it tells."""
    data = data[:_AT_ONCE]
    message = forms.message_of_events(forms.split(data))
    answer = Answer(Form.EVENTS, data, NOW)
    no_keep_answer(MESSAGES.name, answer)
    assert forms.message(answer) == message
    again = forms.events_of_message(message)
    assert all(make_event(event.name, event.data) == event for event in again)


def chat_stream(data: bytes) -> None:
    no_keep_answer(CHAT.name, Answer(Form.EVENTS, data[:_AT_ONCE], NOW))


def message(data: bytes) -> None:
    """A whole message: told in events, and put together again, it says the same."""
    forms.dialect(MESSAGES.name).usage_of_json(data)
    data.decode()
    answer = Answer(Form.JSON, data, NOW)
    no_keep_answer(MESSAGES.name, answer)
    events = forms.event_list(answer)
    assert forms.split(forms.join(events)) == events
    with contextlib.suppress(ValueError):
        forms.message_of_events(events)


def completion(data: bytes) -> None:
    forms.dialect(CHAT.name).usage_of_json(data)
    no_keep_answer(CHAT.name, Answer(Form.JSON, data, NOW))


def made(data: bytes) -> None:
    """The ids of things that an answer tells to have been made."""
    for has_thread in (False, True):
        made_in(data, has_thread=has_thread)


def listing(data: bytes) -> None:
    """A page of upstream's list, of which a caller is given its own: the first line is what it asks for."""
    target, _, page = data.partition(b"\n")
    listed = Listing(text(target), 100)
    listed.keep(listed.take(page), lambda thing, item: len(thing) % 2 == 0)
    listed.body()


def batch_results(data: bytes) -> None:
    results = Results(lambda model: 1000)
    for at in range(0, len(data), 512):
        results.feed(data[at : at + 512])
    results.end()
    assert all(0 <= each.usage.output_tokens < 2**63 for each in results.sums())
    results.stats()


_EVENTS = (b"event: ", b"data: ", b"\n\n", b"event: message_start\n", b'"delta":', b'"usage":', b'"output_tokens":', b"[DONE]")

TARGETS = (
    Target("upstream.waits", waits, (), "upstream.heads", (b"retry-after: ", b"retry-after-ms: ", b"date: ")),
    Target("upstream.limits", limits, (), "upstream.heads"),
    Target("upstream.remarks", kept_headers, (), "upstream.heads"),
    Target("upstream.errors", error, weight=2),
    Target("sse.splitter", splitter, (), "streams", _EVENTS, weight=4),
    Target("sse.message", told, (ValueError,), "streams", _EVENTS, weight=4),
    Target("sse.chat", chat_stream, (ValueError,), "streams", _EVENTS),
    Target("answers.message", message, (ValueError,), "answers", _EVENTS, weight=4),
    Target("answers.chat", completion, (ValueError,), "answers", _EVENTS),
    Target("batches.results", batch_results),
    Target("resources.made", made, (), "resources.made"),
    Target("resources.listing", listing, (ValueError,), "resources.listing"),
)
