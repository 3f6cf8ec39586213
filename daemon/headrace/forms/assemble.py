"""
From events to the message that they tell.

The message is put together as the unary API would have said it: texts joined, tool inputs whole, usage merged (counts in a
`message_delta` are totals). Nothing is decoded that need not be. A kind of delta that nobody knew when this was written is
merged by its shape: strings and arrays grow, all else replaces. A compaction comes whole, and replaces as in the official SDKs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import MsgspecError, Raw, Struct
from msgspec.json import Decoder

from headrace.forms import exact
from headrace.forms.exact import Fields
from headrace.model import Event, Usage


class _Shape(Struct):
    type: str = ""


_BLOCKS = Decoder(list[_Shape])


def message_of_events(events: Iterable[Event]) -> dict[str, Any]:
    """Return the message that *events* tell; raises `ValueError` if they tell none."""
    message: dict[str, Any] = exact.parse(message_bytes(events))
    return message


def message_bytes(events: Iterable[Event]) -> bytes:
    """Return that message as JSON, every value spelled as upstream spelled it."""
    try:
        return _assemble(events)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError("the events tell no message") from error


def _assemble(events: Iterable[Event]) -> bytes:
    message: Fields | None = None
    blocks: dict[bytes, _Block] = {}
    for event in events:
        match event.name:
            case "message_start":
                message = exact.fields(exact.fields(event.data)["message"])
            case "content_block_start":
                said = exact.fields(event.data)
                blocks[bytes(said["index"])] = _Block(exact.fields(said["content_block"]))
            case "content_block_delta":
                said = exact.fields(event.data)
                # A delta whose block nobody opened still says something.
                blocks.setdefault(bytes(said["index"]), _Block({})).add(exact.fields(said["delta"]))
            case "message_delta" if message is not None:
                _finish(message, exact.fields(event.data))
    if message is None:
        raise ValueError("no message_start")
    return exact.spell(message | _contents(blocks.values()))


def _contents(blocks: Iterable[_Block]) -> Fields:
    told = [block.whole() for block in blocks]
    contents = {"content": exact.raw(b"[%b]" % b",".join(exact.spell(block) for block in told))}
    for block in told:
        # The last fallback block names the model that served in the end; the unary message bears its name.
        if bytes(block.get("type", b"")) == b'"fallback"' and exact.opens_with(block.get("to"), b"{"):
            served = exact.fields(block["to"]).get("model")
            contents |= {"model": served} if served is not None else {}
    return contents


def _finish(message: Fields, said: Fields) -> None:
    said.pop("type", None)
    if (usage := said.pop("usage", exact.NULL)) and not exact.is_null(usage):
        merged = exact.fields(message["usage"]) if exact.opens_with(message.get("usage"), b"{") else {}
        _update(merged, exact.fields(usage))
        message["usage"] = exact.raw(exact.spell(merged))
    _update(message, exact.fields(said.pop("delta")))
    _update(message, said)


def _update(old: Fields, new: Fields) -> None:
    # A null says "nothing new" here: what was known stays.
    for key, value in new.items():
        if key not in old or not exact.is_null(value):
            old[key] = value


class _Block:
    """A content block that grows: its fields, and for those that grow their pieces, without quotes or brackets."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._pieces: dict[str, list[bytes]] = {}
        self._input: list[str] = []

    def add(self, delta: Fields) -> None:
        if bytes(delta.get("type", b"")) == b'"compaction_delta"':
            self._fields |= {key: value for key, value in delta.items() if key != "type"}
            return
        for key, value in delta.items():
            match key:
                case "type":
                    pass
                case "partial_json":
                    self._input.append(str(exact.parse(value)))
                case "citation":
                    self._grow("citations", b"[%b]" % bytes(value))
                case "signature":
                    self._fields[key] = value
                case _:
                    self._grow(key, bytes(value))

    def _grow(self, key: str, value: bytes) -> None:
        old = bytes(self._fields.get(key, exact.NULL))
        kind = value[:1]
        if kind not in (b'"', b"[") or (old != b"null" and old[:1] != kind):
            self._pieces.pop(key, None)
            self._fields[key] = exact.raw(value)
            return
        if key not in self._pieces:
            self._pieces[key] = [] if old == b"null" else [_inside(old)]
            self._fields[key] = exact.raw(b'""' if kind == b'"' else b"[]")
        self._pieces[key].append(_inside(value))

    def whole(self) -> Fields:
        """Return the block as the unary API would say it."""
        for key, pieces in self._pieces.items():
            opening, closing = bytes(self._fields[key])
            between = b"" if opening == ord('"') else b","
            self._fields[key] = exact.raw(b"%c%b%c" % (opening, between.join(filter(None, pieces)), closing))
        if spoken := "".join(self._input):
            self._fields["input"] = _tool_input(spoken)
        return self._fields


def _inside(value: bytes) -> bytes:
    return value[1:-1] if value[:1] == b'"' else value[1:-1].strip()


def _tool_input(spoken: str) -> Raw:
    # Half a surrogate pair becomes an escape, which JSON can carry; beside its other half it is a character again.
    said = spoken.encode(errors="backslashreplace")
    try:
        exact.parse_exactly(said)
    except ValueError:
        # Cut off by max_tokens, say. The API's own advice for input that is no JSON is to wrap it so.
        said = exact.dump({"INVALID_JSON": spoken})
    return exact.raw(said)


_MOST_TOKENS = 2**40  # of one kind in one answer

_COUNTS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


def usage_of(said: Mapping[str, Any] | Iterable[Event]) -> Usage:
    """
    Return what a message, or the events that tell one, say was used. Never raises: a count that makes no sense is 0.

    Events without their `message_delta` give what is known of the input, as not `known`.
    """
    if isinstance(said, Mapping):
        return _usage(said.get("usage"), complete=True)
    counting = MessageCounting()
    for event in said:
        counting.add(event)
    return counting.usage


class MessageCounting:
    """What events say was used, as they come."""

    def __init__(self) -> None:
        self._counted: dict[str, Any] = {}
        self._is_complete = False

    def add(self, event: Event) -> None:
        """Take in an event."""
        if event.name in ("message_start", "message_delta"):
            told = _told_usage(event)
            self._counted |= {key: value for key, value in told.items() if value is not None}
            self._is_complete |= event.name == "message_delta" and bool(told)

    @property
    def usage(self) -> Usage:
        """What was said so far."""
        return _usage(self._counted, complete=self._is_complete)


def usage_of_json(payload: bytes) -> Usage:
    """Return what the message spelled by *payload* says was used; raises `ValueError` if it is no complete message."""
    try:
        message = exact.fields(payload)
    except ValueError as error:
        raise ValueError("not a message: no whole JSON object") from error
    if bytes(message.get("type", b"")) != b'"message"' or not _are_blocks(message.get("content")):
        raise ValueError("not a message")
    usage = message.get("usage", exact.NULL)
    return _usage(exact.parse(usage), complete=True)


def _are_blocks(content: Raw | None) -> bool:
    if not exact.opens_with(content, b"["):
        return False
    try:
        _BLOCKS.decode(content or b"")
    except (MsgspecError, UnicodeDecodeError, RecursionError):  # it may be JSON that only the patient read
        return all(exact.opens_with(item, b"{") and exact.may_say(item, "type") for item in exact.items(content or b""))
    return True


def _told_usage(event: Event) -> dict[str, Any]:
    try:
        said = exact.parse(event.data)
        usage = (said["message"] if event.name == "message_start" else said)["usage"]
    except (ValueError, KeyError, TypeError):
        return {}
    return usage if isinstance(usage, dict) else {}


def _usage(counted: Any, *, complete: bool) -> Usage:
    if type(counted) is not dict:
        return Usage(known=False)
    known = complete and _is_count(counted.get("output_tokens"))
    by_age = counted.get("cache_creation")
    fresh, output, created, read = [count(counted.get(name)) for name in _COUNTS]
    return Usage(
        input_tokens=fresh,
        output_tokens=output,
        cache_creation_input_tokens=created,
        cache_read_input_tokens=read,
        known=known,
        cache_creation_1h_input_tokens=count(by_age.get("ephemeral_1h_input_tokens")) if type(by_age) is dict else 0,
        tier="fast" if counted.get("speed") == "fast" else _tier(counted.get("service_tier")),
    )


def _is_count(value: Any) -> bool:
    return value == 0 or count(value) > 0


def count(value: Any) -> int:
    """Return so many tokens as a count says; one that makes no sense is 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST_TOKENS else 0


def _tier(value: Any) -> str:
    return value if isinstance(value, str) and value != "standard" and len(value) <= 32 else ""
