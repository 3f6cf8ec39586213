"""
The two forms of an answer, and the way from each to the other.

Upstream says an answer as one JSON message or as a sequence of server-sent events. Whoever asks later may want the other
form: `sse` splits streams, `assemble` makes messages of events, `tell` makes events of messages, and `exact` sees to it that
nothing inside is spelled anew on the way. That is so for the Messages API; `dialects` knows how other endpoints say theirs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

from headrace.endpoints import MESSAGES
from headrace.forms import exact, sse
from headrace.forms.assemble import message_bytes, message_of_events, usage_of, usage_of_json
from headrace.forms.dialects import Counting, Dialect, concludes, dialect, is_an_error
from headrace.forms.exact import parse
from headrace.forms.sse import Splitter, by_pieces, error_of, is_content, is_sound, is_terminal, join, make_event, split
from headrace.forms.tell import events_of_json, events_of_message
from headrace.model import Answer, Event, Form, Usage

__all__ = [
    "Counting",
    "Dialect",
    "Splitter",
    "Wrong",
    "answer_of_events",
    "by_pieces",
    "concludes",
    "counted",
    "dialect",
    "error_of",
    "event_list",
    "events_of_message",
    "is_an_error",
    "is_content",
    "is_message",
    "is_sound",
    "is_terminal",
    "is_whole",
    "join",
    "json_payload",
    "judged",
    "make_event",
    "message",
    "message_of_events",
    "parse",
    "split",
    "sse_payload",
    "usage_of",
    "usage_of_json",
    "wrong",
]


def json_payload(answer: Answer) -> bytes:
    """Return the answer as one JSON message."""
    return answer.payload if answer.form is Form.JSON else message_bytes(split(answer.payload))


def is_message(payload: bytes) -> bool:
    """Whether *payload* is a message of the Messages API."""
    try:
        return bytes(exact.fields(payload).get("type", b"")) == b'"message"'
    except ValueError:
        return False


def is_whole(answer: Answer) -> bool:
    """Whether an answer can be read: it is an object, or events that do not break off."""
    try:
        return bool(exact.fields(answer.payload)) if answer.form is Form.JSON else sse.is_whole(answer.payload)
    except ValueError:
        return False


class Wrong(StrEnum):
    """Why a payload is no answer."""

    ERROR = "error"  # an error in its place
    STRANGE = "strange"  # it is whole, and cannot be read here
    CUT_OFF = "cut off"  # it is not whole


def judged(payload: bytes, endpoint: str) -> Usage | Wrong:
    """Return what a whole answer of an endpoint says was used, or why it is none."""
    try:
        payload.decode()
        return dialect(endpoint).usage_of_json(payload)
    except ValueError:
        return wrong(payload)


def wrong(payload: bytes) -> Wrong:
    """Return why a payload is no answer, if it is none."""
    if is_an_error(payload):
        return Wrong.ERROR
    # As the most patient of readers would have it: with NaN, and whatever the bytes spell.
    try:
        json.loads(payload.decode(errors="replace"))
    except RecursionError:
        return Wrong.STRANGE
    except ValueError:
        return Wrong.CUT_OFF
    return Wrong.STRANGE


def message(answer: Answer) -> dict[str, Any]:
    """Return the answer as a message, decoded; raises `ValueError` if it is nested deeper than JSON readers go."""
    said: dict[str, Any] = parse(json_payload(answer))
    return said


def answer_of_events(events: Sequence[Event], *, created: float, request_id: str = "", endpoint: str = MESSAGES.name) -> Answer:
    """Return the complete answer that *events*, the last one included, are."""
    return Answer(Form.EVENTS, join(events), created, counted(events, endpoint), request_id)


def counted(events: Iterable[Event], endpoint: str) -> Usage:
    """Return what events say was used."""
    counting = dialect(endpoint).counting()
    for event in events:
        counting.add(event)
    return counting.usage


def event_list(answer: Answer) -> list[Event]:
    """Return the answer as events."""
    return split(answer.payload) if answer.form is Form.EVENTS else events_of_json(answer.payload)


def sse_payload(answer: Answer) -> bytes:
    """Return the answer as a stream of events."""
    return answer.payload if answer.form is Form.EVENTS else join(event_list(answer))
