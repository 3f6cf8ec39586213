"""
From a message to the events that tell it, as upstream would have streamed it.

What the API streams piecemeal (text, thinking, signatures, citations, tool inputs) is told in one delta each; every other
block is told whole when it starts, so that kinds of block nobody has heard of pass through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Raw

from headrace.forms import exact
from headrace.forms.exact import Fields
from headrace.forms.sse import make_event
from headrace.model import Event

# kind of block -> its fields that come in deltas: field, type of the delta, its member there
_TOOL_INPUT = (("input", "input_json_delta", "partial_json"),)
_PIECEMEAL = {
    "text": (("text", "text_delta", "text"), ("citations", "citations_delta", "citation")),
    "thinking": (("thinking", "thinking_delta", "thinking"), ("signature", "signature_delta", "signature")),
    "tool_use": _TOOL_INPUT,
    "server_tool_use": _TOOL_INPUT,
    "mcp_tool_use": _TOOL_INPUT,
}

# What is known only at the end: null in `message_start`, told in `message_delta`, inside its `delta` or beside it.
_AT_THE_END = ("stop_reason", "stop_sequence", "stop_details", "container")
_BESIDE = ("context_management",)

_TOTALS = (
    "input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens", "output_tokens_details",
    "server_tool_use", "iterations",
)  # fmt: skip


def events_of_message(message: Mapping[str, Any]) -> list[Event]:
    """Return the events that tell *message*."""
    return events_of_json(exact.dump(message))


def events_of_json(payload: bytes) -> list[Event]:
    """Return the events that tell the message spelled by *payload*; raises `ValueError` if it spells none."""
    return list(_tell(exact.fields(exact.on_one_line(payload))))


def _tell(message: Fields) -> Iterator[Event]:
    content = message.get("content")
    blocks = exact.items(content) if content is not None else []
    yield _event("message_start", message=exact.raw(exact.spell(_opening(message))))
    for index, block in enumerate(blocks):
        yield from _tell_block(exact.raw(b"%d" % index), exact.fields(block))
    yield _event("message_delta", **_closing(message))
    yield _event("message_stop")


def _opening(message: Fields) -> Fields:
    opening = message | {key: exact.NULL for key in _AT_THE_END + _BESIDE if key in message}
    if "content" in message:
        opening["content"] = exact.raw(b"[]")
    if exact.opens_with(message.get("usage"), b"{"):
        usage = exact.fields(message["usage"])
        if not exact.is_null(usage.get("output_tokens", exact.NULL)):
            usage["output_tokens"] = exact.raw(b"0")
        opening["usage"] = exact.raw(exact.spell(usage))
    return opening


def _closing(message: Fields) -> Fields:
    delta = {key: message[key] for key in _AT_THE_END if key in message}
    closing = {"delta": exact.raw(exact.spell(delta))}
    if exact.opens_with(message.get("usage"), b"{"):
        usage = exact.fields(message["usage"])
        totals = {key: usage[key] for key in _TOTALS if key in usage}
        closing["usage"] = exact.raw(exact.spell(totals))
    return closing | {key: message[key] for key in _BESIDE if key in message}


def _tell_block(index: Raw, block: Fields) -> Iterator[Event]:
    kind = exact.parse(block.get("type", exact.NULL))
    opening, deltas = dict(block), []
    for field, delta_type, member in _PIECEMEAL.get(kind, ()) if isinstance(kind, str) else ():
        empty, pieces = _pieces(field, block.get(field))
        if pieces:
            opening[field] = empty
        deltas += [exact.raw(exact.spell({"type": _string(delta_type), member: piece})) for piece in pieces]
    yield _event("content_block_start", index=index, content_block=exact.raw(exact.spell(opening)))
    for delta in deltas:
        yield _event("content_block_delta", index=index, delta=delta)
    yield _event("content_block_stop", index=index)


def _pieces(field: str, value: Raw | None) -> tuple[Raw, list[Raw]]:
    """Return what the block starts with in place of *value*, and what its deltas then bring."""
    if value is None:
        return exact.NULL, []
    if field == "input":
        return exact.raw(b"{}"), [_string(bytes(value).decode())]
    if field == "citations":
        return exact.raw(b"[]"), exact.items(value) if exact.opens_with(value, b"[") else []
    return exact.raw(b'""'), [value] if exact.opens_with(value, b'"') and bytes(value) != b'""' else []


def _string(text: str) -> Raw:
    return exact.raw(exact.dump(text))


def _event(name: str, **members: Raw) -> Event:
    return make_event(name, exact.spell({"type": _string(name), **members}))
