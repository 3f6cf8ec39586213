"""
Anthropic's JSON, as Python values <-> the typed messages of `headrace_client.v1`, losing nothing either way.

What a message looks like decides what it stands for, by the rules at the top of `protos/headrace/v1/content.proto`:

- with `extra_json`, an object: members go to the fields of their names; what has no field, or does not fit it exactly, to
  `extra_json`.
- with `other_json`, an object that its "type" tells apart: the member of that name has the rest; any other value is kept whole.
- with neither, whatever fits one of its fields, tried in order: a text or a list of blocks.

Fields of type bytes hold JSON text. So a parameter that is younger than this package needs no new version of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)

# Descriptors are Any: they have two classes, Python's own and that of the C library, which types cannot name alike.
_MISFIT: Any = object()  # what a value is that a field cannot hold exactly
_MAX_DEPTH = 16  # of blocks inside blocks; protobuf stops at 100 messages inside messages. Deeper ones stay JSON.


def from_dict(cls: type[M], value: Mapping[str, Any]) -> M:
    """
    Return a JSON object as a message of *cls*.

    Mappings, sequences, messages of `headrace_client.v1` and Pydantic models (an SDK's answers) may stand for what they say.
    Raises TypeError for what JSON cannot say.
    """
    shaped = _shape(cls.DESCRIPTOR, plain(value), 0)
    if shaped is _MISFIT:
        raise TypeError(f"a {cls.DESCRIPTOR.name} must be a mapping, not {type(value).__name__}")
    return cls(**shaped)


def to_dict(message: Message) -> Any:
    """Return the JSON value that a message stands for: a dict for all but `Content`, which may be a str or a list."""
    return _tell(message, "")


def plain(value: Any) -> Any:
    """Return *value* in the types that `json` makes: dict, list, str, int, float, bool, None."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, Message):
        return to_dict(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no JSON; binary data goes in base64")


def dump(value: Any) -> bytes:
    """Return *value* as JSON text."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


# Into messages: each function returns what a message's constructor takes for a field, or _MISFIT.


def _shape(descriptor: Any, value: Any, depth: int) -> Any:
    fields = descriptor.fields_by_name
    if "other_json" in fields:
        return _shape_tagged(descriptor, value, depth)
    if "extra_json" in fields:
        return _shape_object(descriptor, value, depth) if isinstance(value, dict) else _MISFIT
    for name, field in fields.items():
        if (held := _shape_field(field, value, depth, may_be_empty=True)) is not _MISFIT:
            return {name: held}
    return _MISFIT


def _shape_object(descriptor: Any, value: dict[str, Any], depth: int) -> dict[str, Any]:
    shaped, extra = {}, {}
    for name, item in value.items():
        field = descriptor.fields_by_name.get(name) if name != "extra_json" else None
        held = _MISFIT if field is None else _shape_field(field, item, depth)
        if held is _MISFIT:
            extra[name] = item
        else:
            shaped[name] = held
    return shaped | ({"extra_json": dump(extra)} if extra else {})


def _shape_tagged(descriptor: Any, value: Any, depth: int) -> dict[str, Any]:
    tag = value.get("type") if isinstance(value, dict) else None
    if not isinstance(tag, str) or tag == "other_json" or tag not in descriptor.fields_by_name or depth >= _MAX_DEPTH:
        return {"other_json": dump(value)}
    rest = {name: item for name, item in value.items() if name != "type"}
    return {tag: _shape_object(descriptor.fields_by_name[tag].message_type, rest, depth + 1)}


def _shape_field(field: Any, value: Any, depth: int, *, may_be_empty: bool = False) -> Any:
    if not field.is_repeated:
        return _shape_one(field, value, depth)
    # A repeated field cannot tell an empty list from none.
    if not isinstance(value, list) or not (value or may_be_empty):
        return _MISFIT
    items = [_shape_one(field, item, depth) for item in value]
    return _MISFIT if any(item is _MISFIT for item in items) else items


def _shape_one(field: Any, value: Any, depth: int) -> Any:
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        return _shape(field.message_type, value, depth)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return dump(value)
    return value if _fits(field.cpp_type, value) else _MISFIT


def _fits(kind: int, value: Any) -> bool:
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return isinstance(value, str) and _is_unicode(value)
    if kind == FieldDescriptor.CPPTYPE_BOOL or isinstance(value, bool):
        return kind == FieldDescriptor.CPPTYPE_BOOL and isinstance(value, bool)
    if kind == FieldDescriptor.CPPTYPE_DOUBLE:
        return (isinstance(value, float) and math.isfinite(value)) or (isinstance(value, int) and abs(value) <= 2**53)
    return isinstance(value, int) and -(2**63) <= value < 2**63


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


# Out of messages.


def _tell(message: Message, tag: str) -> Any:
    fields = message.DESCRIPTOR.fields_by_name
    if "extra_json" in fields:
        return _tell_object(message, tag)
    name = message.WhichOneof(message.DESCRIPTOR.oneofs[0].name) if message.DESCRIPTOR.oneofs else next(iter(fields))
    if name is None:
        raise ValueError(f"{message.DESCRIPTOR.name}: none of its members is set")
    held = getattr(message, name)
    if name == "other_json":
        return json.loads(held)
    return _tell_object(held, name) if "other_json" in fields else _tell_field(fields[name], held)


def _tell_object(message: Message, tag: str) -> dict[str, Any]:
    said: dict[str, Any] = {"type": tag} if tag else {}
    for field, held in message.ListFields():
        if field.name == "extra_json":
            said |= json.loads(held)
        else:
            said[field.name] = _tell_field(field, held)
    return said


def _tell_field(field: Any, held: Any) -> Any:
    return [_tell_one(field, item) for item in held] if field.is_repeated else _tell_one(field, held)


def _tell_one(field: Any, held: Any) -> Any:
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        return _tell(held, "")
    return json.loads(held) if field.type == FieldDescriptor.TYPE_BYTES else held
