"""
A script as the API writes it: one JSON message, or the pieces of an event stream.

A `Form` is what another endpoint writes in its place; the names of its pieces are still those of the Messages API.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from headrace.simulator.checks import Ask
from headrace.simulator.refusals import Refused
from headrace.simulator.script import Block, Script
from headrace.simulator.tokens import slices, text_tokens

_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Piece:
    """One event of a stream: its bytes, the output tokens that it brings, and the input and output that it says were used."""

    name: str
    raw: bytes
    tokens: int = 0
    told: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """
    How an endpoint writes.

    Args:
        whole: the answer in one, of script, call and id.
        pieces: the same as a stream, in deltas of so many tokens.
        error: the end of a stream that fails, of the error and the request's id.
    """

    whole: Callable[[Script, Ask, str], bytes]
    pieces: Callable[[Script, Ask, str, int], Iterator[Piece]]
    error: Callable[[Refused, str], bytes]


def event(name: str, data: dict[str, Any]) -> bytes:
    """Write one server-sent event."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode(data))


def message(script: Script, ask: Ask, message_id: str) -> bytes:
    """Write the answer to a call that wants JSON."""
    return _encode(
        _frame(ask, message_id)
        | {
            "content": [_whole(block) for block in script.blocks],
            "stop_reason": script.stop_reason,
            "stop_sequence": script.stop_sequence,
            "usage": _usage(ask, script.output_tokens),
        }
    )


def pieces(script: Script, ask: Ask, message_id: str, delta_tokens: int) -> Iterator[Piece]:
    """Write the answer to a call that wants a stream, event by event."""
    yield replace(_piece("message_start", {"message": _frame(ask, message_id)}), told=(ask.input_tokens, 1))
    if not script.blocks:
        yield _piece("ping", {})
    for index, block in enumerate(script.blocks):
        yield _piece("content_block_start", {"index": index, "content_block": _opening(block)})
        if index == 0:
            yield _piece("ping", {})
        for delta, tokens in _deltas(block, delta_tokens):
            yield _piece("content_block_delta", {"index": index, "delta": delta}, tokens)
        yield _piece("content_block_stop", {"index": index})
    ending = {"stop_reason": script.stop_reason, "stop_sequence": script.stop_sequence}
    totals = _totals(ask, script.output_tokens)
    yield replace(_piece("message_delta", {"delta": ending, "usage": totals}), told=(ask.input_tokens, script.output_tokens))
    yield _piece("message_stop", {})


def error_event(error: Refused, request_id: str) -> bytes:
    """Write the event that ends a stream which fails."""
    return event("error", {"type": "error", "error": error.error(), "request_id": request_id})


MESSAGES = Form(message, pieces, error_event)


def _piece(name: str, data: dict[str, Any], tokens: int = 0) -> Piece:
    return Piece(name, event(name, {"type": name} | data), tokens)


def _frame(ask: Ask, message_id: str) -> dict[str, Any]:
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": ask.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(ask, 1),
    }


def _totals(ask: Ask, output_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": ask.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output_tokens,
    }


def _usage(ask: Ask, output_tokens: int) -> dict[str, Any]:
    by_age = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
    return _totals(ask, output_tokens) | {"cache_creation": by_age, "service_tier": "standard"}


def _whole(block: Block) -> dict[str, Any]:
    match block.kind:
        case "tool_use":
            return {"type": "tool_use", "id": block.id, "name": block.name, "input": msgspec.Raw(block.text.encode())}
        case "thinking":
            return {"type": "thinking", "thinking": block.text, "signature": block.signature}
        case _:
            return {"type": "text", "text": block.text}


def _opening(block: Block) -> dict[str, Any]:
    match block.kind:
        case "tool_use":
            return {"type": "tool_use", "id": block.id, "name": block.name, "input": {}}
        case "thinking":
            return {"type": "thinking", "thinking": "", "signature": ""}
        case _:
            return {"type": "text", "text": ""}


def _deltas(block: Block, delta_tokens: int) -> Iterator[tuple[dict[str, str], int]]:
    """Cut a block into deltas; their tokens add up to the block's."""
    kind, key = {
        "tool_use": ("input_json_delta", "partial_json"),
        "thinking": ("thinking_delta", "thinking"),
        "text": ("text_delta", "text"),
    }[block.kind]
    left = text_tokens(block.text)
    for part in slices(block.text, delta_tokens):
        tokens = min(left, text_tokens(part))
        left -= tokens
        yield {"type": kind, key: part}, tokens
    if block.signature:
        yield {"type": "signature_delta", "signature": block.signature}, 0
