"""
What the simulator says: a pure function of the call, so that the same prompt gets the same text and a test knows its answer.

An answer quotes the beginning of the prompt and goes on with words about water, as many as the prompt's checksum says.
`max_tokens`, `stop_sequences`, tools, thinking and `output_config.format` (or a beta's `output_format`) shape it the way they
shape a real one:

- `tool_choice` of `any` or `tool`, or the words "use the tool" in the prompt, give a tool_use block with an input that
  fits the tool's schema;
- thinking `enabled` or `adaptive` gives a thinking block with a signature first;
- a `json_schema` format gives JSON of that schema;
- the words "answer in 120 tokens" say how long the answer is;
- the words "sign every word" give the answer's own id, word for word: who has read it knows whether it is of one piece.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from headrace.simulator.checks import Ask
from headrace.simulator.tokens import BYTES_PER_TOKEN, cut, text_tokens

_EXCERPT = 60
_MOST_SCHEMA_DEPTH = 16
_SIGNED = "sign every word"
_ASKED_LENGTH = re.compile(r"\banswer in (\d{1,6}) tokens\b")

_RIVER = (
    "The headrace brings the water from the river to the wheel, and the gate decides how much of it. When the river is "
    "high the miller closes the gate a little, and when it is low he waits, for a wheel that starves and a wheel that "
    "floods both stand still. What comes in the night is kept in the pond above, so that the first sack of the morning "
    "need not wait for rain. Two neighbours who want the same flour share one turn of the stone. A sluice that sticks is "
    "tried again, not at once but after a while, and longer each time, since the river does not hurry for anyone. In the "
    "tailrace the water leaves quietly, having done its work, and nobody downstream can tell how many hands it passed. "
)


@dataclass(frozen=True, slots=True)
class Block:
    """One content block; `text` is the input's JSON where it is a tool_use."""

    kind: str
    text: str
    name: str = ""
    id: str = ""
    signature: str = ""


@dataclass(frozen=True, slots=True)
class Script:
    """All that will be said."""

    blocks: tuple[Block, ...]
    stop_reason: str
    stop_sequence: str | None = None

    @property
    def output_tokens(self) -> int:
        return sum(text_tokens(block.text) for block in self.blocks)


def write(ask: Ask, answer_tokens: tuple[int, int], tool_use_id: str, message_id: str = "") -> Script:
    """Return what this call is answered."""
    thinking = _thinking(ask)
    left = ask.max_tokens - sum(text_tokens(block.text) for block in thinking)
    tool = _tool(ask)
    spoken = _use(tool, ask, left, tool_use_id) if tool else _speak(ask, left, answer_tokens, message_id)
    return Script((*thinking, *spoken.blocks), spoken.stop_reason, spoken.stop_sequence)


def sample(schema: Any, prompt: str, depth: int = 0) -> Any:
    """Return a value that fits a simple JSON schema; strings are the beginning of the prompt."""
    if not isinstance(schema, Mapping) or depth > _MOST_SCHEMA_DEPTH:
        return excerpt(prompt)
    for choices in ("enum", "examples"):
        if schema.get(choices):
            return schema[choices][0]
    if "const" in schema:
        return schema["const"]
    for branches in ("anyOf", "oneOf", "allOf"):
        if schema.get(branches):
            return sample(schema[branches][0], prompt, depth + 1)
    kind = schema.get("type")
    match kind[0] if isinstance(kind, list) and kind else kind:
        case "object":
            properties: Mapping[str, Any] = schema.get("properties") or {}
            return {name: sample(inner, prompt, depth + 1) for name, inner in properties.items()}
        case "array":
            return [sample(schema.get("items"), prompt, depth + 1)]
        case "integer":
            return int(schema.get("minimum", len(prompt)))
        case "number":
            return float(schema.get("minimum", len(prompt)))
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return excerpt(prompt)


def excerpt(prompt: str) -> str:
    return prompt[:_EXCERPT]


def signed(message_id: str, length: int) -> str:
    """Return so many characters of an answer that is signed word for word."""
    word = f"{message_id} "
    return (word * (length // len(word) + 1))[:length].rstrip()


def _thinking(ask: Ask) -> tuple[Block, ...]:
    kind = (ask.body.get("thinking") or {}).get("type")
    if kind not in ("enabled", "adaptive"):
        return ()
    text = cut(f'The prompt begins with "{excerpt(ask.prompt)}". I will quote it and go on about water.', ask.max_tokens)
    signature = base64.b64encode(hashlib.sha512(text.encode()).digest()).decode()
    return (Block("thinking", text, signature=signature),) if text else ()


def _tool(ask: Ask) -> Mapping[str, Any] | None:
    """Return the tool to use, if this call gets one."""
    own = [tool for tool in ask.body.get("tools") or () if tool.get("type", "custom") == "custom"]
    choice = ask.body.get("tool_choice") or {"type": "auto"}
    match choice["type"]:
        case "tool":
            return next((tool for tool in own if tool["name"] == choice["name"]), None)
        case "any":
            return next(iter(own), None)
        case "auto" if "use the tool" in ask.prompt.lower():
            return next(iter(own), None)
        case _:
            return None


def _use(tool: Mapping[str, Any], ask: Ask, left: int, tool_use_id: str) -> Script:
    given = msgspec.json.encode(sample(tool["input_schema"], ask.prompt)).decode()
    if text_tokens(given) > left:
        return Script((), "max_tokens")  # half an input would be of no use to anyone
    return Script((Block("tool_use", given, name=tool["name"], id=tool_use_id),), "tool_use")


def _speak(ask: Ask, left: int, answer_tokens: tuple[int, int], message_id: str) -> Script:
    text = _whole_text(ask, answer_tokens, message_id)
    said = cut(text, max(0, left))
    reason, stopped_by = ("max_tokens" if len(said) < len(text) or not left else "end_turn"), None
    if ends := [(said.find(end), end) for end in ask.body.get("stop_sequences") or () if end and end in said]:
        where, stopped_by = min(ends)
        said, reason = said[:where], "stop_sequence"
    return Script((Block("text", said),) if said else (), reason, stopped_by)


def _whole_text(ask: Ask, answer_tokens: tuple[int, int], message_id: str) -> str:
    wanted = (ask.body.get("output_config") or {}).get("format") or ask.body.get("output_format") or {}
    if isinstance(wanted, Mapping) and wanted.get("type") == "json_schema":
        return msgspec.json.encode(sample(wanted.get("schema"), ask.prompt)).decode()
    dice = zlib.crc32(ask.prompt.encode())
    length = _length(ask.prompt, answer_tokens, dice) * BYTES_PER_TOKEN
    if _SIGNED in ask.prompt:
        return signed(message_id, length)
    quote = f'You said: "{excerpt(ask.prompt)}". '
    return (quote + _flow(dice, max(0, length - len(quote)))).rstrip()


def _length(prompt: str, answer_tokens: tuple[int, int], dice: int) -> int:
    if asked := _ASKED_LENGTH.search(prompt):
        return int(asked[1])
    low, high = answer_tokens
    return low + dice % (high - low + 1)


def _flow(start: int, length: int) -> str:
    """Return *length* characters of the river, from the word at *start* on."""
    first = _RIVER.find(" ", start % (len(_RIVER) - 1)) + 1
    turns = -(-(length + first) // len(_RIVER))
    return (_RIVER * turns)[first : first + length]
