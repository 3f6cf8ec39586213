"""
Chat completions, in OpenAI's shape: read as the messages that they mean, and written as OpenAI writes.

What the compatibility endpoint of the API does not support is ignored, as it is there; so are sampling parameters, since
nothing here is left to chance. Errors are in OpenAI's shape, too: `{"error": {"type", "message", "code", "param"}}`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec

from headrace.simulator.checks import OLD_VERSION, Ask, check_ask
from headrace.simulator.refusals import Refused, invalid
from headrace.simulator.render import Form, Piece
from headrace.simulator.script import Block, Script
from headrace.simulator.tokens import slices, text_tokens

_MAX_TOKENS = 4_096  # where none is given
_SYSTEM = ("system", "developer")
_FINISH = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls"}
_CHOICES = {"auto": "auto", "none": "none", "required": "any"}


def read(fields: dict[str, Any]) -> tuple[Ask, Form]:
    """Return what a call asks for, and how its answer is written; or refuse it."""
    if "model" not in fields or not isinstance(fields.get("messages"), list):
        raise invalid("model and messages are required")
    if fields.get("n", 1) not in (1, None):
        raise invalid("n: only 1 is supported")
    ask = check_ask(_as_messages(fields), version=OLD_VERSION, beta=False)
    includes_usage = bool((fields.get("stream_options") or {}).get("include_usage"))
    writer = _Writer(int(time.time()), includes_usage)
    return ask, Form(writer.whole, writer.pieces, writer.error)


def _as_messages(fields: dict[str, Any]) -> dict[str, Any]:
    messages = [message for message in fields["messages"] if isinstance(message, dict)]
    limits = (fields.get("max_completion_tokens"), fields.get("max_tokens"), _MAX_TOKENS)
    stop = fields.get("stop")
    tools = [_tool(tool["function"]) for tool in fields.get("tools") or () if isinstance(tool.get("function"), dict)]
    said = {
        "model": fields["model"],
        "max_tokens": next(limit for limit in limits if limit is not None),
        "messages": [_message(message) for message in messages if message.get("role") not in _SYSTEM],
        "stream": fields.get("stream") or False,
        "system": "\n".join(_text(message.get("content")) for message in messages if message.get("role") in _SYSTEM),
        "stop_sequences": [stop] if isinstance(stop, str) else stop,
        "tools": tools,
        "tool_choice": _choice(fields.get("tool_choice")) if tools else None,
    }
    return {name: value for name, value in said.items() if value not in (None, "", [])}


def _message(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    match message.get("role"):
        case "tool":
            result = {"type": "tool_result", "tool_use_id": message.get("tool_call_id"), "content": _text(content)}
            return {"role": "user", "content": [result]}
        case "assistant" if message.get("tool_calls"):
            spoken = [{"type": "text", "text": _text(content)}] if content else []
            return {"role": "assistant", "content": [*spoken, *map(_used, message["tool_calls"])]}
        case role:
            return {"role": role, "content": _parts(content) if isinstance(content, list) else content}


def _parts(content: list[Any]) -> list[Any]:
    return [_part(part) if isinstance(part, dict) else part for part in content]


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part.get("type") != "image_url":
        return part
    return {"type": "image", "source": {"type": "url", "url": (part.get("image_url") or {}).get("url")}}


def _used(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    try:
        given = msgspec.json.decode(function.get("arguments") or "{}")
    except msgspec.DecodeError:
        raise invalid("messages: tool_calls.function.arguments should be JSON") from None
    return {"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": given}


def _tool(function: dict[str, Any]) -> dict[str, Any]:
    return {"name": function.get("name"), "input_schema": function.get("parameters") or {"type": "object"}}


def _choice(choice: Any) -> dict[str, Any] | None:
    if isinstance(choice, dict):
        return {"type": "tool", "name": (choice.get("function") or {}).get("name")}
    return {"type": _CHOICES.get(choice, choice)} if choice else None


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


class _Writer:
    """Writes one answer, at *created* (seconds since the epoch)."""

    def __init__(self, created: int, includes_usage: bool) -> None:
        self._created = created
        self._includes_usage = includes_usage

    def whole(self, script: Script, ask: Ask, answer_id: str) -> bytes:
        used = [_call(block) for block in script.blocks if block.kind == "tool_use"]
        text = "".join(block.text for block in script.blocks if block.kind == "text")
        message: dict[str, Any] = {"role": "assistant", "content": text if text or not used else None, "refusal": None}
        message |= {"tool_calls": used} if used else {}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _FINISH[script.stop_reason]}
        said = self._head(ask, answer_id, "chat.completion") | {"choices": [choice], "usage": _usage(script, ask)}
        return msgspec.json.encode(said)

    def pieces(self, script: Script, ask: Ask, answer_id: str, delta_tokens: int) -> Iterator[Piece]:
        head = self._head(ask, answer_id, "chat.completion.chunk")
        yield self._chunk("message_start", head, {"role": "assistant", "content": ""})
        for block in script.blocks:
            if block.kind == "tool_use":  # the script has one at most
                opening = {"index": 0} | _call(block, arguments="")
                yield self._chunk("content_block_start", head, {"tool_calls": [opening]})
            left = text_tokens(block.text)
            for part in slices(block.text, delta_tokens):
                tokens = min(left, text_tokens(part))
                left -= tokens
                yield self._chunk("content_block_delta", head, _delta(block, part), tokens=tokens)
        yield self._chunk("message_delta", head, {}, _FINISH[script.stop_reason])
        if self._includes_usage:
            said = _data(head | {"choices": [], "usage": _usage(script, ask)})
            yield Piece("message_delta", said, told=(ask.input_tokens, script.output_tokens))
        yield Piece("message_stop", b"data: [DONE]\n\n")

    def error(self, error: Refused, request_id: str) -> bytes:
        return b"data: %b\n\n" % error.openai_body()

    def _head(self, ask: Ask, answer_id: str, kind: str) -> dict[str, Any]:
        return {"id": answer_id, "object": kind, "created": self._created, "model": ask.model}

    def _chunk(self, name: str, head: dict[str, Any], delta: Any, finish: str | None = None, tokens: int = 0) -> Piece:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        said = head | {"choices": [choice]} | ({"usage": None} if self._includes_usage else {})
        return Piece(name, _data(said), tokens)


def _call(block: Block, arguments: str | None = None) -> dict[str, Any]:
    function = {"name": block.name, "arguments": block.text if arguments is None else arguments}
    return {"id": block.id, "type": "function", "function": function}


def _delta(block: Block, part: str) -> dict[str, Any]:
    if block.kind == "tool_use":
        return {"tool_calls": [{"index": 0, "function": {"arguments": part}}]}
    return {"content": part}


def _usage(script: Script, ask: Ask) -> dict[str, int]:
    spoken = script.output_tokens
    return {"prompt_tokens": ask.input_tokens, "completion_tokens": spoken, "total_tokens": ask.input_tokens + spoken}


def _data(value: object) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(value)
