"""
Anthropic's JSON <-> our typed messages, losing nothing either way, whatever the JSON holds.

The messages themselves say how: nothing here knows a name of the API's, so a new field or block needs a proto and no code. What
a message looks like decides what it stands for:

- with `extra_json`, an object: members go to the fields of their names; what has no field, or does not fit it exactly (another
  type, null, half a surrogate pair, an empty list, which a repeated field cannot tell from none), goes to `extra_json`. A
  number is kept as the number it is: what no double is equal to goes there, too, and is spelled as it was.
- with `other_json`, an object that its "type" tells apart: the member of that name has the rest; any other value is kept whole.
- with neither, whatever fits one of its fields, tried in order: a text or a list of blocks.

Fields of type bytes hold JSON text, maps hold objects of texts. What a response says besides upstream's JSON (`origin`) is no
part of it. The plan of each message type is made once.
"""

from __future__ import annotations

import functools
import math
from decimal import Decimal
from typing import Any, Protocol, TypeVar

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from headrace.errors import InvalidCall
from headrace.forms.exact import dump, fields, parse_exactly

M = TypeVar("M", bound=Message)

_MISFIT: Any = object()  # what `shape` returns for a value that the field cannot hold exactly
_MAX_DEPTH = 16  # of blocks inside blocks; protobuf stops at 100 messages inside messages. Deeper ones stay JSON.

_OURS = frozenset({"headrace.v1.Origin"})  # messages that stand for no JSON of the API's

_encode = msgspec.json.encode


def read(raw: bytes, cls: type[M]) -> M:
    """Return the JSON object *raw* as a message; ValueError if it is none."""
    return cls(**shape(raw, cls))


def shape(raw: bytes, cls: type[Message]) -> dict[str, Any]:
    """Return what makes a message of *raw*, as `read` does: for who makes it inside another one."""
    shaped: Any = _plan(cls.DESCRIPTOR).shape(parse_exactly(raw), 0)
    if shaped is _MISFIT:
        raise ValueError(f"a {cls.DESCRIPTOR.name} must be a JSON object")
    made: dict[str, Any] = shaped
    return made


def write(message: Message) -> bytes:
    """Return the JSON that a message stands for; `InvalidCall` if a part of it stands for none."""
    return _plan(message.DESCRIPTOR).text(message)


class _Codec(Protocol):
    """`shape` makes of a JSON value what a message's constructor takes; `text` makes JSON of what a field holds."""

    def shape(self, value: Any, depth: int) -> Any: ...

    def text(self, value: Any) -> bytes: ...


class _String:
    def shape(self, value: Any, depth: int) -> Any:
        return value if type(value) is str and (value.isascii() or _is_unicode(value)) else _MISFIT

    def text(self, value: str) -> bytes:
        return _encode(value)


class _Int:
    def shape(self, value: Any, depth: int) -> Any:
        return value if type(value) is int and -(2**63) <= value < 2**63 else _MISFIT

    def text(self, value: int) -> bytes:
        return b"%d" % value


class _Double:
    def shape(self, value: Any, depth: int) -> Any:
        if type(value) is int:
            return float(value) if abs(value) <= 2**53 else _MISFIT
        return _double(value) if type(value) is msgspec.Raw else _MISFIT

    def text(self, value: float) -> bytes:
        if not math.isfinite(value):
            raise InvalidCall(f"{value} is not a number that JSON has")
        return _encode(value)


class _Bool:
    def shape(self, value: Any, depth: int) -> Any:
        return value if type(value) is bool else _MISFIT

    def text(self, value: bool) -> bytes:
        return b"true" if value else b"false"


class _Json:
    """A bytes field: any JSON value, as text."""

    def __init__(self, field: FieldDescriptor) -> None:
        self._where = _name(field)

    def shape(self, value: Any, depth: int) -> Any:
        return dump(value)

    def text(self, value: bytes) -> bytes:
        _check(value, self._where)
        return value


class _List:
    def __init__(self, item: _Codec, *, may_be_empty: bool) -> None:
        self._item = item
        self._may_be_empty = may_be_empty

    def shape(self, value: Any, depth: int) -> Any:
        if type(value) is not list or not (value or self._may_be_empty):
            return _MISFIT
        shape = self._item.shape
        items = [shape(item, depth) for item in value]
        return _MISFIT if _MISFIT in items else items

    def text(self, value: Any) -> bytes:
        return b"[%b]" % b",".join(map(self._item.text, value))


class _Map:
    """A map of texts: an object, of which none is not told from an empty one."""

    _string = _String()

    def shape(self, value: Any, depth: int) -> Any:
        if type(value) is not dict or not value:
            return _MISFIT
        shape = self._string.shape
        fits = all(shape(text, depth) is not _MISFIT for pair in value.items() for text in pair)
        return value if fits else _MISFIT

    def text(self, value: Any) -> bytes:
        return _encode(dict(value))


class _Object:
    """A message with `extra_json`."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._where = f"{descriptor.name}.extra_json"
        self._fields = {field.name: _Lazy(field) for field in descriptor.fields if _is_json(field)}
        # The same by the descriptor, which protobuf hands out one of: its name would be made anew each time.
        self._by_field = {descriptor.fields_by_name[name]: lazy for name, lazy in self._fields.items()}

    def shape(self, value: Any, depth: int) -> Any:
        if type(value) is not dict:
            return _MISFIT
        shaped, extra, known = {}, {}, self._fields
        for name, item in value.items():
            field = known.get(name)
            held = field.codec.shape(item, depth) if field is not None else _MISFIT
            if held is _MISFIT:
                extra[name] = item
            else:
                shaped[name] = held
        if extra:
            shaped["extra_json"] = dump(extra)
        return shaped

    def text(self, value: Any, tag: str = "") -> bytes:
        parts = [b'"type":' + _encode(tag)] if tag else []
        for field, held in value.ListFields():
            if (known := self._by_field.get(field)) is not None:
                parts.append(known.key + known.codec.text(held))
        if value.extra_json and (rest := self._rest(value, tag)):
            parts.append(rest)
        return b"{%b}" % b",".join(parts)

    def _rest(self, value: Any, tag: str) -> bytes:
        # Spliced in as text, so that nothing in it changes; hence the check that it is an object, and no second opinion.
        try:
            extra = fields(value.extra_json)
        except ValueError as error:
            raise InvalidCall(f"{self._where}: must be a JSON object", metadata={"field": self._where}) from error
        taken = {field.name for field, _ in value.ListFields()} - {"extra_json"} | ({"type"} if tag else set())
        if again := extra.keys() & taken:
            raise InvalidCall(f"{self._where}: repeats {min(again)!r}, which is set already", metadata={"field": self._where})
        return bytes(value.extra_json.strip()[1:-1].strip())


class _Tagged:
    """A message with `other_json`: one member for each known "type"."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._name = descriptor.name
        self._oneof = descriptor.oneofs[0].name
        self._members = {field.name: _Lazy(field) for field in descriptor.fields if field.name != "other_json"}

    def shape(self, value: Any, depth: int) -> Any:
        tag = value.get("type") if type(value) is dict else None
        if type(tag) is not str or tag not in self._members or depth >= _MAX_DEPTH:
            return {"other_json": dump(value)}
        rest = value.copy()
        del rest["type"]
        return {tag: self._members[tag].codec.shape(rest, depth + 1)}

    def text(self, value: Any) -> bytes:
        tag = value.WhichOneof(self._oneof)
        if tag is None:
            raise InvalidCall(f"{self._name}: none of its members is set", metadata={"field": self._name})
        if tag == "other_json":
            _check(value.other_json, f"{self._name}.other_json")
            return bytes(value.other_json)
        member: Any = self._members[tag].codec
        return bytes(member.text(getattr(value, tag), tag))


class _Either:
    """A message with neither: it stands for what the one set field holds."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._name = descriptor.name
        self._oneof = descriptor.oneofs[0].name if descriptor.oneofs else ""
        self._fields = {field.name: _Lazy(field, may_be_empty=True) for field in descriptor.fields}

    def shape(self, value: Any, depth: int) -> Any:
        for name, field in self._fields.items():
            held = field.codec.shape(value, depth)
            if held is not _MISFIT:
                return {name: held}
        return _MISFIT

    def text(self, value: Any) -> bytes:
        name = value.WhichOneof(self._oneof) if self._oneof else next(iter(self._fields))
        if name is None:
            raise InvalidCall(f"{self._name}: none of its members is set", metadata={"field": self._name})
        return self._fields[name].codec.text(getattr(value, name))


class _Lazy:
    """A field, whose codec is made when it is first needed: messages contain each other."""

    def __init__(self, field: FieldDescriptor, *, may_be_empty: bool = False) -> None:
        self.key = _encode(field.name) + b":"
        self._field = field
        self._may_be_empty = may_be_empty

    @functools.cached_property
    def codec(self) -> _Codec:
        if _is_map(self._field):
            return _Map()
        one = _codec_of_one(self._field)
        return _List(one, may_be_empty=self._may_be_empty) if self._field.is_repeated else one


def _is_json(field: FieldDescriptor) -> bool:
    is_ours = field.message_type is not None and field.message_type.full_name in _OURS
    return field.name != "extra_json" and not is_ours


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _codec_of_one(field: FieldDescriptor) -> _Codec:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_MESSAGE:
            return _plan(field.message_type)
        case FieldDescriptor.CPPTYPE_STRING:
            return _Json(field) if field.type == FieldDescriptor.TYPE_BYTES else _String()
        case FieldDescriptor.CPPTYPE_INT64:
            return _Int()
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return _Double()
        case FieldDescriptor.CPPTYPE_BOOL:
            return _Bool()
    raise TypeError(f"{_name(field)}: no JSON for a field of this type")


@functools.cache
def _plan(descriptor: Descriptor) -> _Codec:
    names = descriptor.fields_by_name
    if "extra_json" in names:
        return _Object(descriptor)
    return _Tagged(descriptor) if "other_json" in names else _Either(descriptor)


def _check(text: bytes, where: str) -> None:
    try:
        parse_exactly(text)
    except ValueError as error:
        raise InvalidCall(f"{where}: is not valid JSON", metadata={"field": where}) from error


def _double(said: msgspec.Raw) -> Any:
    number = float(bytes(said))
    if not math.isfinite(number):
        return _MISFIT
    try:
        # 0.10 is the double that is written 0.1; 0.1000000000000000055 is another number.
        return number if Decimal(bytes(said).decode()) == Decimal(_encode(number).decode()) else _MISFIT
    except ArithmeticError:
        return _MISFIT  # an exponent beyond even a Decimal's


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _name(field: FieldDescriptor) -> str:
    return field.full_name.removeprefix("headrace.v1.")
