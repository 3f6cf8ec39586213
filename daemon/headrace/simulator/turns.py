"""
The messages of a call: whose turns they are, in which order, and of which blocks they are made.

A conversation alternates between user and assistant as it likes. A system message may stand in its middle, where the API takes
one: after a user's message (or an assistant's that ends in the use of a server tool), and last or before an assistant's. The
API takes it from some models only; here every model does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.simulator.refusals import EXTRA, demand

_ROLES = ("user", "assistant", "system")
_FIELDS = frozenset(("role", "content"))
_SYSTEM_FIELDS = _FIELDS | {"clear_at", "output_config"}  # with a beta
_BLOCKS = frozenset(
    (
        "text", "image", "document", "search_result", "tool_use", "tool_result", "thinking", "redacted_thinking",
        "server_tool_use", "web_search_tool_result", "web_fetch_tool_result", "code_execution_tool_result",
        "bash_code_execution_tool_result", "text_editor_code_execution_tool_result", "tool_search_tool_result",
        "container_upload",
    )
)  # fmt: skip
_TOOL_CHANGES = frozenset(("tool_addition", "tool_removal"))
_BETA_BLOCKS = _TOOL_CHANGES | {
    "advisor_tool_result", "compaction", "fallback", "mcp_tool_listing", "mcp_tool_result", "mcp_tool_use", "mid_conv_system",
}  # fmt: skip
# How the use of a server tool ends: with its result, or with its use where the turn was paused.
_SERVER_TOOLS = frozenset(kind for kind in _BLOCKS | _BETA_BLOCKS if kind.endswith("_tool_result")) | {
    "server_tool_use", "mcp_tool_use",
}  # fmt: skip


def check_messages(messages: list[Any], *, is_new: bool, beta: bool) -> None:
    """Refuse messages that the API would refuse; *is_new* is the newer version of the API, *beta* whether any beta is on."""
    demand(bool(messages), "messages: at least one message is required")
    for index, message in enumerate(messages):
        where = f"messages.{index}"
        demand(isinstance(message, dict), f"{where}: Input should be an object")
        demand("role" in message, f"{where}.role: Field required")
        demand(message["role"] in _ROLES, f"{where}.role: Input should be 'user' or 'assistant'")
        if message["role"] == "system":
            _check_system(message, where, beta)
        else:
            _check_turn(message, where, is_new, beta)
    for index, message in enumerate(messages):
        if message["role"] == "system" and message.get("content"):
            _check_place(messages, index)


def prompt_of(messages: list[Any]) -> str:
    """Return the text of the last message that is not the system's; empty if there is none."""
    spoken = (message for message in reversed(messages) if message["role"] != "system")
    return next((_text_of(message["content"]) for message in spoken), "")


def is_text(block: Any) -> bool:
    """Whether it is a block of text."""
    return isinstance(block, dict) and block.get("type") == "text" and isinstance(block.get("text"), str)


def _check_turn(message: Mapping[str, Any], where: str, is_new: bool, beta: bool) -> None:
    _check_names(message, _FIELDS, where)
    demand("content" in message, f"{where}.content: Field required")
    content, blocks = message["content"], _BLOCKS | _BETA_BLOCKS if beta else _BLOCKS
    _check_content(content, where, blocks)
    demand(bool(content), f"{where}: all messages must have non-empty content")
    if is_new and isinstance(content, list):
        for index, block in enumerate(content):
            _check_new(block, message["role"], f"{where}.content.{index}")


def _check_system(message: Mapping[str, Any], where: str, beta: bool) -> None:
    """Refuse what a system message may not say; with a beta it may give directives only, in `output_config`."""
    _check_names(message, _SYSTEM_FIELDS if beta else _FIELDS, where)
    if message.get("output_config") and not message.get("content"):
        return
    demand("content" in message, f"{where}.content: Field required")
    _check_content(message["content"], where, _TOOL_CHANGES | {"text"} if beta else frozenset(("text",)))
    demand(bool(message["content"]), f"{where}: all messages must have non-empty content")


def _check_place(messages: list[Any], index: int) -> None:
    where = f"messages.{index}"
    demand(index > 0, f"{where}: use the top-level 'system' parameter for the initial system prompt")
    after = f"{where}: a system message must follow a user message, or an assistant message that ends in a server tool's use"
    demand(_may_be_followed(messages[index - 1]), after)
    is_last = index + 1 == len(messages)
    before = f"{where}: a system message must be the last message, or be followed by an assistant message"
    demand(is_last or _may_follow(messages[index + 1]), before)


def _may_be_followed(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    if message["role"] == "assistant":
        return isinstance(content, list) and content[-1]["type"] in _SERVER_TOOLS
    return message["role"] == "user" or not content


def _may_follow(message: Mapping[str, Any]) -> bool:
    # A system message without content stands anywhere, so it is no obstacle, either.
    return message["role"] == "assistant" or (message["role"] == "system" and not message.get("content"))


def _check_names(message: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    for name in message:
        demand(name in known, f"{where}.{name[:100]}: {EXTRA}")


def _check_content(content: Any, where: str, kinds: frozenset[str]) -> None:
    demand(isinstance(content, str | list), f"{where}.content: Input should be a valid string or list")
    for index, block in enumerate(content if isinstance(content, list) else ()):
        _check_block(block, f"{where}.content.{index}", kinds)


def _check_block(block: Any, where: str, kinds: frozenset[str]) -> None:
    demand(isinstance(block, dict), f"{where}: Input should be an object")
    demand("type" in block, f"{where}.type: Field required")
    kind = block["type"]
    tags = f"{where}: Input tag '{str(kind)[:100]}' found using 'type' does not match any of the expected tags"
    demand(isinstance(kind, str) and kind in kinds, tags)
    if kind == "text":
        demand(isinstance(block.get("text"), str), f"{where}.text.text: Input should be a valid string")
        demand(bool(block["text"]), "messages: text content blocks must be non-empty")


def _check_new(block: Mapping[str, Any], role: str, where: str) -> None:
    """Refuse what the newer version no longer takes."""
    kind = block["type"]
    in_assistant = kind == "document" and role == "assistant"
    demand(not in_assistant, f"{where}: document blocks are not permitted in assistant messages")
    cited = kind == "text" and role == "user" and bool(block.get("citations"))
    demand(not cited, f"{where}.text.citations: {EXTRA}")


def _text_of(content: str | list[Any]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block["text"] for block in content if is_text(block))
