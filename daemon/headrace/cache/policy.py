"""
What may be kept, with a reason for each "no".

An answer may be kept if the call alone determines what upstream could have said. It may not if upstream looked at, or left
behind, something outside the call: then the same call an hour later is another question. Sampling is no reason: who wants
another sample says no-store.

The reasons are tokens for the `detail` of `Cache-Status`:

| reason | why not |
|---|---|
| server-tools | upstream itself searched, fetched or ran code: the world moves on |
| unknown-tool | a tool type we have not heard of may be run by upstream |
| memory-tool | the model is told that it has a store that outlives the call; a replay would answer from an older one |
| mcp | upstream called other people's servers |
| container | files and processes that live on at upstream |
| thread | the conversation is held by upstream, not by the call |
| diagnostics | the answer compares the call with an earlier one |
| fallback-credit | the call spends a token that is good once |
| prewarm | `max_tokens: 0` asks for an effect (upstream's prompt cache), not for an answer |
| url-source | an image or document is fetched from elsewhere |
| file-source | a file, or another thing, is named by its id at upstream, where it can be deleted |
| bad-message | the answer is no message, or is not whole |
| refusal | a classifier's no; it may think better of it |
| pause-turn | half an answer; the call that continues it is another |
| stop-reason | stopped for a cause that is not the answer's own end, or that we do not know |
| fallback | another model than the one asked for spoke |

Client tools (a caller's own, and bash, text editor, computer and browser, which Anthropic only defines) are run by the
caller: what they found comes back inside the next call, so answers that use them are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from headrace import forms
from headrace.endpoints import CHAT, MESSAGES
from headrace.model import Answer, Event, Form

# Only what is known to run at the caller's. The date is part of the pattern: `bash_20250124` is a client tool,
# `bash_code_execution_...` would not be.
_CLIENT_TOOL = re.compile(r"custom|function|(bash|text_editor|computer|(computer|browser)_toolset)_\d{8}")
_SERVER_TOOL = re.compile(r"(web_search|web_fetch|(bash_|text_editor_)?code_execution|tool_search|advisor)(_|$)")

_OUTSIDE_FIELDS = {
    "container": "container",
    "mcp_servers": "mcp",
    "thread": "thread",
    "diagnostics": "diagnostics",
    "fallback_credit_token": "fallback-credit",
}
_OUTSIDE_SOURCES = {"url": "url-source", "file": "file-source"}

_WHOLE = frozenset({"end_turn", "max_tokens", "stop_sequence", "tool_use"})
_HALF = {"refusal": "refusal", "pause_turn": "pause-turn"}
_CHAT_WHOLE = frozenset({"stop", "length", "tool_calls", "function_call"})
_PLAIN_TEXT = frozenset({"type", "text", "cache_control"})
_CLIENT_BLOCKS = frozenset({"text", "thinking", "redacted_thinking", "tool_use"})


def no_keep_answer(endpoint: str, answer: Answer) -> str:
    """Return why this answer of an endpoint may not be kept, or ""; ValueError if it cannot be read."""
    if endpoint == MESSAGES.name:
        return no_keep_message(forms.message(answer))
    return _no_keep_chat(answer) if endpoint == CHAT.name else ""


class Told:
    """What the events of a message say of whether it may be kept, as they come: most say nothing of that."""

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._blocks: list[Any] = []
        self._is_readable = True

    def add(self, event: Event) -> None:
        """Take in an event."""
        if event.name in ("message_start", "content_block_start", "message_delta"):
            try:
                self._add(event.name, _some(forms.parse(event.data)))
            except ValueError:  # nested past reason
                self._is_readable = False

    def _add(self, name: str, said: dict[str, Any]) -> None:
        message = self._message
        if name == "message_start":
            self._message = dict(_map(said.get("message")))
        elif name == "content_block_start":
            self._blocks.append(said.get("content_block"))
        else:
            used = {**_map(message.get("usage")), **_some(said.pop("usage", None))}
            message |= {**_some(said.pop("delta", None)), **said, "type": message.get("type"), "usage": used}

    @property
    def no_keep(self) -> str:
        """Why it may not be kept, or "", now that all has been said."""
        return no_keep_message(self._message | {"content": self._blocks}) if self._is_readable else "bad-message"


def _no_keep_chat(answer: Answer) -> str:
    said = [event.data for event in forms.split(answer.payload)] if answer.form is Form.EVENTS else [answer.payload]
    reasons = {
        str(choice["finish_reason"])
        for payload in said
        if payload.startswith(b"{")
        for choice in _maps(forms.parse(payload).get("choices"))
        if choice.get("finish_reason") is not None
    }
    if not reasons:
        return "bad-message"
    if "content_filter" in reasons:
        return "refusal"
    return "" if reasons <= _CHAT_WHOLE else "stop-reason"


def no_keep_call(body: Mapping[str, Any]) -> str:
    """Return why an answer to this call may not be kept, or ""."""
    for name, reason in _OUTSIDE_FIELDS.items():
        if body.get(name):
            return reason
    if _is_zero(body.get("max_tokens")):
        return "prewarm"
    for tool in _maps(body.get("tools")):
        if reason := _no_keep_tool(tool):
            return reason
    for block in _blocks(body):
        if reason := _no_keep_block(block):
            return reason
    return ""


def no_keep_message(message: Mapping[str, Any]) -> str:
    """Return why this answer (a whole message, as the unary API says it) may not be kept, or ""."""
    stop_reason = message.get("stop_reason")
    if message.get("type") != "message" or not isinstance(stop_reason, str):
        return "bad-message"
    if stop_reason not in _WHOLE:
        return _HALF.get(stop_reason, "stop-reason")
    if message.get("container"):
        return "container"
    usage = message.get("usage")
    if type(usage) is dict and _counts_anything(usage.get("server_tool_use")):
        return "server-tools"
    for block in _maps(message.get("content")):
        if reason := _no_keep_said(str(block.get("type"))):
            return reason
    return ""


def _no_keep_tool(tool: Mapping[str, Any]) -> str:
    kind = tool.get("type", "custom")
    if not isinstance(kind, str):
        return "unknown-tool"
    if _CLIENT_TOOL.fullmatch(kind):
        return ""
    if kind.startswith("memory_"):
        return "memory-tool"
    if kind.startswith("mcp_"):
        return "mcp"
    return "server-tools" if _SERVER_TOOL.match(kind) else "unknown-tool"


def _no_keep_block(block: Mapping[str, Any]) -> str:
    if block.get("type") == "container_upload":
        return "container"
    source = block.get("source")
    kind = source.get("type") if isinstance(source, dict) else None
    file, image = block.get("file"), block.get("image_url")  # a chat's
    if isinstance(file, dict) and file.get("file_id"):
        return "file-source"
    url = image.get("url") if isinstance(image, dict) else image
    if url is not None and not str(url).startswith("data:"):  # one in the call itself
        return "url-source"
    return _OUTSIDE_SOURCES.get(kind, "") if isinstance(kind, str) else ""


def _no_keep_said(kind: str) -> str:
    if kind in _CLIENT_BLOCKS:
        return ""
    if kind == "fallback":
        return "fallback"
    if kind.startswith("mcp_"):
        return "mcp"
    if kind == "container_upload":
        return "container"
    # A block of a kind we do not know is replayed as it came; only what upstream's own tools did is not kept.
    return "server-tools" if kind == "server_tool_use" or kind.endswith("_tool_result") else ""


def _blocks(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield every content block, those inside tool results and documents too; but for empty ones and plain texts."""
    waiting = [body.get("system"), *(message.get("content") for message in _maps(body.get("messages")))]
    while waiting:
        for block in _maps(waiting.pop()):
            if not block or (block.get("type") == "text" and block.keys() <= _PLAIN_TEXT):
                continue
            yield block
            source = block.get("source")
            waiting += (block.get("content"), source.get("content") if isinstance(source, dict) else None)


def _map(value: Any) -> Mapping[str, Any]:
    return value if type(value) is dict else {}


def _some(value: Any) -> dict[str, Any]:
    # What is null says nothing new.
    return {name: said for name, said in _map(value).items() if said is not None}


def _maps(value: Any) -> Sequence[Mapping[str, Any]]:
    # Callers send anything; what is not shaped as it should be is upstream's to refuse.
    return [item for item in value if type(item) is dict] if type(value) is list else ()


def _is_zero(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0


def _counts_anything(usage: Any) -> bool:
    return any(usage.values()) if type(usage) is dict else bool(usage)
