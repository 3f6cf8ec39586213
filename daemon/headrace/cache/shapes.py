"""
Where the order of names says nothing: in the objects whose shape is the API's own.

A message means the same with `role` before `content` or after it, and a call that comes by gRPC has its fields in another
order than the same call by HTTP. A schema or a tool's input is another matter: the model reads it in the order in which the
caller wrote it. So the table below is an allow-list, by path: an object on it is sorted, and whatever is not on it keeps its
order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from headrace.endpoints import CHAT

_MAX_DEPTH = 16  # of blocks inside blocks, as in edge/translate.py: deeper ones are text to both doors


@dataclass(frozen=True, slots=True)
class Tagged:
    """An object that its "type" tells apart. A type that is not listed is unknown to us: it keeps its order."""

    kinds: Mapping[str, Mapping[str, Any]]


# An object of the API's, and those of its members that are such objects again, or lists of them.
Shape: TypeAlias = Mapping[str, "Shape | Tagged"]

_FLAT: Shape = {}
_CACHED: Shape = {"cache_control": _FLAT}

_KINDS: dict[str, Shape] = {}
_BLOCK = Tagged(_KINDS)
_SOURCED: Shape = {**_CACHED, "source": {"content": _BLOCK}, "citations": _FLAT}
_RESULT: Shape = {**_CACHED, "content": _BLOCK}
_KINDS.update({
    "text": {**_CACHED, "citations": _FLAT},
    "image": _SOURCED,
    "document": _SOURCED,
    "search_result": {**_CACHED, "content": _BLOCK, "citations": _FLAT},
    "thinking": _FLAT,
    "redacted_thinking": _FLAT,
    "tool_use": _CACHED,  # not its input
    "server_tool_use": _CACHED,
    "mcp_tool_use": _CACHED,
    "tool_result": _RESULT,
    "mcp_tool_result": _RESULT,
    "web_search_tool_result": _CACHED,
    "web_fetch_tool_result": _CACHED,
    "code_execution_tool_result": _CACHED,
    "bash_code_execution_tool_result": _CACHED,
    "text_editor_code_execution_tool_result": _CACHED,
    "tool_search_tool_result": _CACHED,
    "container_upload": _CACHED,
    "tool_reference": _CACHED,
    "compaction": _CACHED,
    "fallback": {"from": _FLAT, "to": _FLAT},
})  # fmt: skip

_MESSAGES: Shape = {
    "messages": {"content": _BLOCK},
    "system": _BLOCK,
    "tools": {**_CACHED, "user_location": _FLAT, "citations": _FLAT},  # not a tool's input_schema
    "tool_choice": _FLAT,
    "thinking": _FLAT,
    "metadata": _FLAT,
    "cache_control": _FLAT,
    "output_config": {"format": _FLAT},  # not the format's schema
    "output_format": _FLAT,
}

_PART = Tagged({
    "text": _CACHED,
    "image_url": {"image_url": _FLAT},
    "input_audio": {"input_audio": _FLAT},
    "file": {"file": _FLAT},
    "refusal": _FLAT,
})  # fmt: skip
_NAMED: Shape = {"function": _FLAT}  # its arguments are a text, its parameters the caller's own

_CHAT: Shape = {
    "messages": {"content": _PART, "tool_calls": _NAMED, "function_call": _FLAT, "audio": _FLAT},
    "tools": _NAMED,
    "tool_choice": _NAMED,
    "functions": _FLAT,
    "function_call": _FLAT,
    "stream_options": _FLAT,
    "response_format": {"json_schema": _FLAT},  # not the schema in it
    "thinking": _FLAT,
    "audio": _FLAT,
}


def shape_of(endpoint: str) -> Shape:
    """Return the shape of an endpoint's bodies; the endpoint by its name."""
    return _CHAT if endpoint == CHAT.name else _MESSAGES


def ordered(value: Any, shape: Shape | Tagged, depth: int = 0) -> Any:
    """Return a JSON value with the names sorted where their order says nothing; all else is the very same."""
    if type(value) is list:
        # One list only: the API has no lists of lists, and what is none of the API's keeps its order.
        return [_ordered(item, shape, depth) if type(item) is dict else item for item in value]
    return _ordered(value, shape, depth) if type(value) is dict else value


def _ordered(value: dict[str, Any], tagged: Shape | Tagged, depth: int) -> dict[str, Any]:
    shape, depth = of_object(value, tagged, depth)
    if shape is None:
        return value
    names = sorted(value)
    if shape.keys().isdisjoint(names):
        return {name: value[name] for name in names}
    return {name: ordered(value[name], shape[name], depth) if name in shape else value[name] for name in names}


def of_object(value: Mapping[str, Any], shape: Shape | Tagged, depth: int) -> tuple[Shape | None, int]:
    """Return the shape of an object, None if its names keep their order, and how deep it lies."""
    if not isinstance(shape, Tagged):
        return shape, depth
    kind, depth = value.get("type"), depth + 1
    found = shape.kinds.get(kind) if type(kind) is str and depth <= _MAX_DEPTH else None
    return found, depth
