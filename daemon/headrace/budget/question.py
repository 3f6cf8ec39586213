"""
What upstream's `count_tokens` is asked about a call: the parts of its body that are input, and nothing else. Pure.

The endpoint refuses whatever only matters at run time, so what it takes is listed here, and the rest stays behind. A value is
passed on as the very bytes that were said. A chat is retold as the messages that it means, as upstream itself does it; where
that is not plain, there is no question, and the call is estimated by what such calls used before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec

from headrace.endpoints import CHAT, COUNT_TOKENS
from headrace.forms import exact
from headrace.model import Call

PATH = "/v1/messages/count_tokens"

COUNTED = frozenset({
    "billing_policy", "cache_control", "compaction", "context_management", "mcp_servers", "messages", "model", "output_config",
    "output_format", "speed", "system", "thinking", "tool_choice", "tools", "user_profile_id", "workspace_id",
})  # fmt: skip
"""The parameters of a message that the count takes, too."""

_LARGEST_BYTES = 8_000_000  # of a body that is taken apart here, which holds the loop for some milliseconds
_LARGEST_CHAT_BYTES = 200_000  # a chat is decoded
_FIELDS = msgspec.json.Decoder(exact.Fields)
_SYSTEM = ("system", "developer")


def question(call: Call) -> Call | None:
    """Return the call that asks how many tokens of input another one has, or None where there is none to ask."""
    if call.weight is not None and not call.weight.is_plain:
        return None
    if len(call.body) > (_LARGEST_CHAT_BYTES if call.endpoint == CHAT.name else _LARGEST_BYTES):
        return None
    try:
        body = _of_chat(call.body) if call.endpoint == CHAT.name else _of_message(call.body)
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError, RecursionError):
        return None
    _, mark, query = call.path.partition("?")
    path = PATH + mark + query if call.endpoint != CHAT.name else PATH
    return replace(
        call, body=body, path=path, endpoint=COUNT_TOKENS.name, stream=False, max_tokens=0, credential=_credential(call)
    )


def _credential(call: Call) -> str:
    # OpenAI's clients send as a bearer what the API's own send as x-api-key.
    return call.credential.replace("bearer:", "x-api-key:", 1) if call.endpoint == CHAT.name else call.credential


def _of_message(body: bytes) -> bytes:
    # The quick reader alone: what it refuses is rare, and the patient one takes twenty times as long.
    said = _FIELDS.decode(body)
    return exact.spell({name: value for name, value in said.items() if name in COUNTED})


def _of_chat(body: bytes) -> bytes:
    said = exact.parse(body)
    system = "\n".join(_text(message["content"]) for message in said["messages"] if message["role"] in _SYSTEM)
    asked = {"model": said["model"], "messages": list(_messages(said["messages"]))}
    if system:
        asked["system"] = system
    if tools := [_tool(tool["function"]) for tool in said.get("tools") or ()]:
        asked["tools"] = tools
    return exact.dump(asked)


def _messages(messages: list[Any]) -> Iterator[dict[str, Any]]:
    for message in messages:
        match message["role"]:
            case "user":
                yield {"role": "user", "content": _content(message["content"])}
            case "assistant":
                spoken = [{"type": "text", "text": _text(message["content"])}] if message.get("content") else []
                yield {"role": "assistant", "content": [*spoken, *map(_use, message.get("tool_calls") or ())]}
            case "tool":
                result = {"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": _text(message["content"])}
                yield {"role": "user", "content": [result]}
            case role if role not in _SYSTEM:
                raise ValueError("a role that is not known here")


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content)


def _content(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(map(_part, content))


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    return {"type": "image", "source": _source(part["image_url"]["url"])}


def _source(url: str) -> dict[str, Any]:
    if not url.startswith("data:"):
        return {"type": "url", "url": url}
    kind, mark, data = url.removeprefix("data:").partition(";base64,")
    if not mark:
        raise ValueError("not in base64")
    return {"type": "base64", "media_type": kind, "data": data}


def _use(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {"type": "tool_use", "id": call["id"], "name": function["name"], "input": json.loads(function["arguments"] or "{}")}


def _tool(function: dict[str, Any]) -> dict[str, Any]:
    about = {"description": function["description"]} if function.get("description") else {}
    return {"name": function["name"], "input_schema": function.get("parameters") or {"type": "object"}} | about
