"""
The ids of things at upstream in the bodies of message calls, and in their answers. Pure.

In a body only what upstream itself takes for an id is one: the same text in a prompt is text. In an answer only what upstream
says of itself is: a model writes what it is asked to, and must not be able to claim a thing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote_plus

from headrace.forms import exact
from headrace.resources.places import kind_of_id

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_FULL = re.compile(r"[a-z]+_[A-Za-z0-9]{16,100}")
_SAID = re.compile(r"[A-Za-z0-9_-]{12,128}")  # that long an id means the same wherever it stands: a version may be called "1"
_RESULT = re.compile(r"((bash_|text_editor_)?code_execution|server)\w*_result")
_MARKS = (b"container", b"file_id")  # one of which is in every answer that tells of a thing
_DEEPEST = 12
# With a date for its end it is a tool's, or a version's: `code_execution_20250825`.
_LIKE_ONE = re.compile(
    r"[a-z]{2,24}(_[a-z]{2,24}){0,3}_(?![0-9]{8}\Z)(?=[A-Za-z-]{0,100}[0-9])[A-Za-z0-9-]{8,100}|[0-9a-f-]{32,36}"
)
_SECRET = re.compile(r"token|key|secret|authorization|password", re.IGNORECASE)
_PLAIN_TEXT = frozenset({"type", "text", "cache_control"})
CALLERS_OWN = frozenset({
    "cache_control", "content", "description", "function", "input", "input_examples", "input_schema", "name", "parameters",
})  # fmt: skip
_OF_A_MESSAGE = CALLERS_OWN | {"function_call", "refusal", "role", "tool_call_id", "tool_calls"}
_OF_A_BLOCK = CALLERS_OWN | {"caller", "citations"}  # what upstream has said itself of earlier turns
# Blocks that are known: texts in them are their callers' own, but for what is called an id, or stands inside an object.
_KNOWN_BLOCKS = frozenset({
    "bash_code_execution_result", "bash_code_execution_tool_result", "code_execution_result", "code_execution_tool_result",
    "compaction", "container_upload", "document", "fallback", "file", "image", "image_url", "input_audio", "mcp_tool_result",
    "mcp_tool_use", "redacted_thinking", "refusal", "search_result", "server_tool_use", "text",
    "text_editor_code_execution_tool_result", "thinking", "tool_reference", "tool_result", "tool_search_tool_result",
    "tool_use", "web_fetch_result", "web_fetch_tool_result", "web_search_result", "web_search_tool_result",
})  # fmt: skip
_NAMES_NO_THING = frozenset({"tool_use_id", "tool_call_id", "call_id", "tool_id"})
# What the API and its chat dialect have that names nothing, or that is looked at for itself.
KNOWN_PARAMS = frozenset({
    "container", "context_management", "diagnostics", "fallback_credit_token", "functions", "inference_geo", "logit_bias",
    "max_completion_tokens", "max_tokens", "mcp_servers", "messages", "metadata", "model", "output_config", "output_format",
    "prediction", "prompt_cache_key", "response_format", "safety_identifier", "service_tier", "speed", "stop", "stop_sequences",
    "stream", "stream_options", "system", "temperature", "thinking", "thread", "tool_choice", "tools", "top_k", "top_p", "user",
    "workspace_id",
})  # fmt: skip
LOOKED_THROUGH = frozenset({"container", "context_management", "diagnostics", "mcp_servers", "thinking", "thread"})
"""Parameters that are known, and in which nothing is a caller's own text: they may come to name more than they do today."""
MOST = 10_000
"""How many things a call may name."""
OF_NO_THING = frozenset({"toolu", "srvtoolu", "mcptoolu", "msg", "req"})
"""What ids begin with that name parts of calls and of answers."""
_THREAD = "thread_"
_BEGINS = b"message_start"


def is_id(text: object) -> bool:
    """Whether it can be an id of upstream's, and so a part of a key in Redis."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def is_full(id: str) -> bool:
    """Whether an id is as upstream makes them: its kind, and so much that means nothing that no name is like it."""
    return _FULL.fullmatch(id) is not None


def asked_by(*said: str) -> list[str]:
    """Return what may be ids in the rest of a path, in a query, in headers: every word that is long enough."""
    return list(dict.fromkeys(word for text in said for word in _SAID.findall(unquote_plus(text))))


def may_name(name: str) -> bool:
    """Whether what is called by this name may be an id, and no secret: what is asked in Redis is seen there."""
    return _SECRET.search(name) is None


def of_thread(message_id: str) -> str:
    """Return the id of the conversation that upstream holds under the id of a message."""
    return _THREAD + message_id


def is_of_thread(id: str) -> bool:
    """Whether it may be the id of a conversation; upstream itself gives none that begins so."""
    return id.startswith(_THREAD)


def said_of(id: str) -> str:
    """Return the id by which a caller names a thing."""
    return id.removeprefix(_THREAD)


def asked_in(body: Mapping[str, Any]) -> tuple[str, ...]:
    """
    Return the ids of things that a message call names: its container, its skills, files, and a thread; each once.

    What a parameter, a message, a tool or a block names that we do not know counts, too: what is called an id in a block, what
    looks like one anywhere.

    Of more than `MOST` it returns one too many.
    """
    found: dict[str, None] = {}
    for thing in _asked(body):
        found[thing] = None
        if len(found) > MOST:
            break
    return tuple(found)


def _asked(body: Mapping[str, Any]) -> Iterator[str]:
    container = body.get("container")
    thread = body.get("thread")
    if isinstance(thread, dict):
        yield from map(of_thread, _texts(thread.get("previous_message_id")))
    if isinstance(container, str):
        yield container
    elif isinstance(container, dict):
        yield from _texts(container.get("id"))
        for skill in _maps(container.get("skills")):
            if skill.get("type") != "anthropic":
                yield from _texts(skill.get("skill_id"))
    yield from _unheard_of(body)
    waiting: list[Any] = [body.get("system"), *(message.get("content") for message in _maps(body.get("messages")))]
    while waiting:
        for block in _blocks(waiting.pop()):
            if block.get("type") == "text" and block.keys() <= _PLAIN_TEXT:
                continue
            source = block.get("source")
            yield from _named(block)
            yield from _of_block_asked(block)
            waiting += (block.get("content"), source.get("content") if isinstance(source, dict) else None)


def _blocks(content: Any) -> Sequence[Mapping[str, Any]]:
    return [content] if type(content) is dict else _maps(content)  # a tool's result has one, and who knows what else


def _of_block_asked(block: Mapping[str, Any]) -> Iterator[str]:
    is_known = str(block.get("type")) in _KNOWN_BLOCKS
    for name, value in block.items():
        if name in _OF_A_BLOCK or name in _NAMES_NO_THING:
            continue
        if type(value) is dict:
            yield from _named(value)
            yield from _like_ids({name: inner for name, inner in value.items() if name != "content"}, _DEEPEST)
        elif not is_known or type(value) is list:
            yield from _like_ids({name: value}, _DEEPEST)


def _named(holder: Mapping[str, Any]) -> Iterator[str]:
    for name, value in holder.items():
        if name.endswith("_id") and name not in _NAMES_NO_THING:
            yield from _texts(value)
        elif name.endswith("_ids") and type(value) is list:
            yield from (each for each in value if isinstance(each, str) and each)


def _unheard_of(body: Mapping[str, Any]) -> Iterator[str]:
    for name, value in body.items():
        if name not in KNOWN_PARAMS or name in LOOKED_THROUGH:
            yield from _like_ids(value, _DEEPEST)
    for known, items in ((CALLERS_OWN, body.get("tools")), (_OF_A_MESSAGE, body.get("messages"))):
        for item in _maps(items):
            if not item.keys() <= known:
                yield from _like_ids({name: value for name, value in item.items() if name not in known}, _DEEPEST)


def _like_ids(value: Any, depth: int) -> Iterator[str]:
    if type(value) is str:
        if _LIKE_ONE.fullmatch(value) and _is_of_upstreams(value):
            yield value
    elif depth and type(value) is dict:
        for name, inner in value.items():
            if name != "type" and may_name(name):
                yield from _like_ids(inner, depth - 1)
    elif depth and type(value) is list:
        for inner in value:
            yield from _like_ids(inner, depth - 1)


def _is_of_upstreams(text: str) -> bool:
    # Callers give their tools names like `file_converter2`; and `thread_...` is a name of ours, that upstream gives to nothing.
    begins = text.partition("_")[0]
    return begins not in OF_NO_THING and (kind_of_id(text) is None or (is_full(text) and not is_of_thread(text)))


def tells(payload: bytes | bytearray) -> bool:
    """Whether an answer may tell of a thing; whoever asks has no more to do with most."""
    return any(mark in payload for mark in _MARKS)


def made_in(payload: bytes, *, has_thread: bool = False) -> tuple[str, ...]:
    """
    Return the ids of things that an answer, or one event of it, tells to have been made for it.

    Args:
        has_thread: whether upstream holds the conversation, by the id of this very message.
    """
    if not has_thread and not tells(payload):
        return ()
    try:
        said = exact.parse(bytes(payload))
    except ValueError:
        return ()
    if not isinstance(said, dict):
        return ()
    return tuple(dict.fromkeys((*_made(said), *(_thread(said) if has_thread else ()))))


def made_by(payload: bytes, *, is_events: bool, has_thread: bool) -> list[str]:
    """Return the same of a whole answer, all its events if it *is_events*."""
    payloads = payload.split(b"\n") if is_events else [payload]
    said = ((each.removeprefix(b"data:"), each is payloads[0] or _BEGINS in each) for each in payloads)
    return [thing for each, begins in said for thing in made_in(each, has_thread=has_thread and begins)]


def _made(said: Mapping[str, Any]) -> Iterator[str]:
    for holder in (said, said.get("delta"), said.get("message")):
        if not isinstance(holder, dict):
            continue
        container = holder.get("container")
        if isinstance(container, dict):
            yield from _texts(container.get("id"))
        for block in _maps(holder.get("content")):
            yield from _of_block(block)
    begun = said.get("content_block")
    if isinstance(begun, dict):
        yield from _of_block(begun)


def _thread(said: Mapping[str, Any]) -> Iterator[str]:
    message = said.get("message") if said.get("type") == "message_start" else said
    if isinstance(message, dict) and message.get("type") == "message":
        yield from map(of_thread, _texts(message.get("id")))


def _of_block(block: Mapping[str, Any]) -> Iterator[str]:
    if _RESULT.fullmatch(str(block.get("type"))):
        yield from _file_ids(block.get("content"), _DEEPEST)


def _file_ids(value: Any, depth: int) -> Iterator[str]:
    if depth and isinstance(value, dict):
        yield from _texts(value.get("file_id"))
        value = list(value.values())
    if depth and isinstance(value, list):
        for item in value:
            yield from _file_ids(item, depth - 1)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value:
        yield value


def _maps(value: Any) -> Sequence[Mapping[str, Any]]:
    return [item for item in value if type(item) is dict] if type(value) is list else ()
