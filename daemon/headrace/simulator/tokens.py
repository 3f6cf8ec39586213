"""
How the simulator counts tokens: one token is four bytes of UTF-8, rounded up.

Nobody outside can count as the models do; what matters here is that the rule is simple, always gives the same figure and can
be checked by hand. Input is the text of `system` and `messages` plus the compact JSON of `tools`, of tool inputs and of
blocks we know nothing of. A base64 or file source counts as a constant, whatever its bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

BYTES_PER_TOKEN = 4
SOURCE_TOKENS = 1_600  # about one large image


def tokens(size_bytes: int) -> int:
    """Count the tokens in that many bytes of text."""
    return -(-size_bytes // BYTES_PER_TOKEN)


def text_tokens(text: str) -> int:
    return tokens(_size(text))


def input_tokens(body: Mapping[str, Any]) -> int:
    """Count what a call puts in; at least 1."""
    size = _content_size(body.get("system") or "")
    for message in body["messages"]:
        size += _content_size(message.get("content") or "")  # a system message may only give directives
    if tools := body.get("tools"):
        size += len(msgspec.json.encode(tools))
    return max(1, tokens(size))


def cut(text: str, most_tokens: int) -> str:
    """Return the longest beginning of *text* that has at most *most_tokens* tokens, no character split."""
    return text.encode()[: most_tokens * BYTES_PER_TOKEN].decode(errors="ignore")


def slices(text: str, each_tokens: int) -> list[str]:
    """Split *text* into pieces of about *each_tokens* tokens (exactly so where it is ASCII)."""
    step = each_tokens * BYTES_PER_TOKEN
    return [text[start : start + step] for start in range(0, len(text), step)]


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _content_size(content: str | list[Any]) -> int:
    return _size(content) if isinstance(content, str) else sum(map(_block_size, content))


def _block_size(block: Any) -> int:
    match block:
        case {"type": "text", "text": str(text)}:
            return _size(text)
        case {"type": "thinking", "thinking": str(text)}:
            return _size(text)
        case {"type": "tool_result"}:
            return _content_size(block.get("content") or "")
        case {"type": "tool_use", "input": given}:
            return len(msgspec.json.encode(given))
        case {"type": "image" | "document", "source": {"type": "text", "data": str(text)}}:
            return _size(text)
        case {"type": "image" | "document"}:
            return SOURCE_TOKENS * BYTES_PER_TOKEN
        case _:
            return len(msgspec.json.encode(block))
