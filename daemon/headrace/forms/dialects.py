"""
How the endpoints whose answers are kept say them: what a reader of one must know of it, and nothing more.

A dialect tells a whole answer from half of one, content from what comes before it, the last event, an error among events, and
what was used. Only the Messages API says one answer in two forms of which each can be made of the other; elsewhere a stream
and a whole answer are two answers.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

from headrace.endpoints import CHAT, MESSAGES
from headrace.forms import exact, sse
from headrace.forms.assemble import MessageCounting, count, usage_of_json
from headrace.forms.tell import events_of_json
from headrace.model import Event, Usage

_EMPTY = re.compile(rb'""|\{\s*\}')
_DONE = b"[DONE]"  # the last event of a chat, and the only one that is no JSON


class Counting(Protocol):
    """What events say was used."""

    def add(self, event: Event) -> None:
        """Take in an event."""

    @property
    def usage(self) -> Usage:
        """What was said so far."""


class Dialect(Protocol):
    """How one endpoint says its answers."""

    def usage_of_json(self, payload: bytes) -> Usage:
        """Return what a whole answer used; ValueError if it is none."""

    def counting(self) -> Counting:
        """Return what takes in an answer's events as they come, and tells what they say was used."""

    def events_of_json(self, payload: bytes) -> list[Event]:
        """Return the events that tell a whole answer; ValueError if it is none, or cannot be told so."""

    def tells_usage(self, event: Event) -> bool:
        """Whether it says something of what is used while the answer goes on: not if the last event follows it."""

    def is_start(self, event: Event) -> bool:
        """Whether an answer begins with it."""

    def is_content(self, event: Event) -> bool:
        """Whether it is a piece of the answer: once a caller has one, no retry can be invisible."""

    def is_terminal(self, event: Event) -> bool:
        """Whether the answer is complete with it."""

    def is_sound(self, event: Event) -> bool:
        """Whether it can be read, if it is of a kind that we read."""

    def error_of(self, event: Event) -> tuple[str, str] | None:
        """Return type and message of an error event; None for all others."""


class _Messages:
    usage_of_json = staticmethod(usage_of_json)
    counting = MessageCounting
    is_content = staticmethod(sse.is_content)
    is_terminal = staticmethod(sse.is_terminal)
    is_sound = staticmethod(sse.is_sound)

    def events_of_json(self, payload: bytes) -> list[Event]:
        usage_of_json(payload)
        return events_of_json(payload)

    def tells_usage(self, event: Event) -> bool:
        return event.name == "message_start" or (event.name == "message_delta" and not _names_a_stop(event))

    def is_start(self, event: Event) -> bool:
        return event.name == "message_start"

    def error_of(self, event: Event) -> tuple[str, str] | None:
        # Some that stand before upstream leave the names of events out; what an event is its data says, too.
        is_named = event.name == sse.ERROR or (event.name in ("", "message") and is_an_error(event.data))
        return sse.error_of(Event(sse.ERROR, event.data, event.raw)) if is_named else None


class _Nothing:
    def __init__(self) -> None:
        self.usage = Usage(known=False)

    def add(self, event: Event) -> None:
        self.usage = Usage()


class _ChatCounting:
    def __init__(self) -> None:
        self.usage = Usage(known=False)

    def add(self, event: Event) -> None:
        if b'"usage"' in event.data and (usage := _object(event.data).get("usage")):
            self.usage = _chat_usage(usage)


class _Plain:
    """One JSON object, which uses no tokens."""

    def usage_of_json(self, payload: bytes) -> Usage:
        exact.fields(payload)
        if is_an_error(payload):
            raise ValueError("an error")
        return Usage()

    def events_of_json(self, payload: bytes) -> list[Event]:
        raise ValueError("no answer of this endpoint is told in events")

    def counting(self) -> Counting:
        return _Nothing()

    def tells_usage(self, event: Event) -> bool:
        return False

    def is_start(self, event: Event) -> bool:
        return True

    def is_content(self, event: Event) -> bool:
        return bool(event.data)

    def is_terminal(self, event: Event) -> bool:
        return False

    def is_sound(self, event: Event) -> bool:
        return True

    error_of = staticmethod(sse.error_of)


class _Chat:
    """OpenAI's chat completions: chunks without names, `[DONE]` at the end, usage in the last chunk if it was asked for."""

    def usage_of_json(self, payload: bytes) -> Usage:
        said = _object(payload)
        choices = said.get("choices")
        if not isinstance(choices, list) or not all(isinstance(each, dict) for each in choices) or said.get("error"):
            raise ValueError("not a chat completion")
        return _chat_usage(said.get("usage"))

    def events_of_json(self, payload: bytes) -> list[Event]:
        raise ValueError("a chat's whole is not made of its chunks")

    def counting(self) -> Counting:
        return _ChatCounting()

    def tells_usage(self, event: Event) -> bool:
        return False  # only at the end

    def is_start(self, event: Event) -> bool:
        return bool(event.data)

    def is_content(self, event: Event) -> bool:
        if not event.data or event.data == _DONE:
            return False
        choices = _object(event.data).get("choices")
        return isinstance(choices, list) and any(_says_something(choice) for choice in choices)

    def is_terminal(self, event: Event) -> bool:
        return event.data == _DONE

    def is_sound(self, event: Event) -> bool:
        if not event.data or event.data == _DONE:
            return True
        try:
            _object(event.data)
        except ValueError:
            return False
        return True

    def error_of(self, event: Event) -> tuple[str, str] | None:
        if event.name == sse.ERROR:
            return sse.error_of(event)
        return sse.error_of(Event(sse.ERROR, event.data, event.raw)) if is_an_error(event.data) else None


def is_an_error(payload: bytes) -> bool:
    """Whether *payload* is an error, in any dialect: an object that says what is wrong, in an object or in words."""
    if b'"error"' not in payload:
        return False
    try:
        said = exact.fields(payload)
    except ValueError:
        return False
    if bytes(said.get("type", b"")) == b'"error"':
        return True
    # In the chat dialect errors have no type; nor has an answer an error. It is not read: it need not be in UTF-8 to be one.
    error = bytes(said.get("error", b""))
    return error[:1] in (b"{", b'"') and not _EMPTY.fullmatch(error)


def _names_a_stop(event: Event) -> bool:
    delta = _object(event.data).get("delta")
    return isinstance(delta, dict) and delta.get("stop_reason") is not None


def _object(payload: bytes) -> dict[str, Any]:
    said = exact.parse(payload)
    if not isinstance(said, dict):
        raise ValueError("not a JSON object")
    return said


def _says_something(choice: Any) -> bool:
    # The first chunk only names the role; and the reason why it ended is the end of an answer, even of an empty one.
    if not isinstance(choice, dict):
        return False
    delta = choice.get("delta")
    said = isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role")
    return said or choice.get("finish_reason") is not None


def _chat_usage(usage: Any) -> Usage:
    if not isinstance(usage, dict) or not isinstance(usage.get("completion_tokens"), int):
        return Usage(known=False)
    return Usage(input_tokens=count(usage.get("prompt_tokens")), output_tokens=count(usage["completion_tokens"]))


def concludes(event: Event) -> bool:
    """Whether an answer is complete with this event, in whatever dialect it is said."""
    return any(each.is_terminal(event) for each in _DIALECTS.values())


_DIALECTS: dict[str, Dialect] = {MESSAGES.name: _Messages(), CHAT.name: _Chat()}
_PLAIN = _Plain()


def dialect(endpoint: str) -> Dialect:
    """Return how an endpoint, by its name, says its answers."""
    return _DIALECTS.get(endpoint, _PLAIN)
