"""
JSON taken apart and put together again without re-encoding what is inside.

An object becomes a dict of `msgspec.Raw`: its keys in their order, each value as the very bytes that were said. So `1.0` stays
`1.0`, a number of fifty digits keeps them all, and long texts are joined without ever being decoded.

msgspec refuses lone surrogates (`"\\ud83d"` without its other half), which a model can well emit, and numbers beyond a double;
the standard library reads them, so it is the second try everywhere. Where a value is written again, numbers are kept as they
were said (`parse_exactly`): as a float 1e400 would be infinite, which JSON cannot say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import msgspec

Fields = dict[str, msgspec.Raw]

NULL = msgspec.Raw(b"null")

_FIELDS = msgspec.json.Decoder(Fields)
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_EXACTLY = msgspec.json.Decoder(float_hook=lambda number: msgspec.Raw(number.encode()))
_MOST_DIGITS = 4000
_MINUS_ZERO = re.compile(rb"(?<![^\[,:\s])-0(?![0-9.eE])")  # which as an int would be 0
_REFUSED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

# Inside valid JSON these two are only ever white space: a string holds them escaped.
_LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")


def parse(data: bytes | msgspec.Raw) -> Any:
    """Return the value that *data* spells; raises `ValueError`."""
    try:
        return msgspec.json.decode(data)
    except _REFUSED:
        return _parse_patiently(data, float, _int)


def parse_exactly(data: bytes | msgspec.Raw) -> Any:
    """Return the value that *data* spells, numbers that no int spells so again as `Raw`; raises `ValueError`."""
    if b"-0" in bytes(data) and _MINUS_ZERO.search(data):  # or a text that looks so
        return _parse_patiently(data, _as_said, _whole)
    try:
        return _EXACTLY.decode(data)
    except _REFUSED:
        return _parse_patiently(data, _as_said, _whole)


def _parse_patiently(data: bytes | msgspec.Raw, fraction: Callable[[str], Any], whole: Callable[[str], Any]) -> Any:
    try:  # as text: of bytes it would guess an encoding, and take half a character for one
        return json.loads(bytes(data).decode("utf-8-sig"), parse_float=fraction, parse_int=whole, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("JSON is nested too deeply") from error


def _as_said(number: str) -> msgspec.Raw:
    return raw(number.encode())


def _int(number: str) -> int | float:
    # Python refuses to read longer ones.
    return int(number) if len(number) <= _MOST_DIGITS else float(number)


def _whole(number: str) -> int | msgspec.Raw:
    return int(number) if len(number) <= _MOST_DIGITS and number != "-0" else _as_said(number)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def dump(value: Any) -> bytes:
    """Spell *value*, in which there may be `Raw`, as JSON on one line; raises `ValueError` if it is nested too deeply."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        pass
    except RecursionError as error:
        raise ValueError("too deeply nested for JSON") from error
    try:
        return _dump_patiently(value)
    except RecursionError as error:
        raise ValueError("too deeply nested for JSON") from error


def _dump_patiently(value: Any) -> bytes:
    # Loops, since comprehensions would be a second frame for each level.
    said: list[bytes] = []
    if isinstance(value, dict):
        for key, member in value.items():
            said.append(json.dumps(key).encode() + b":" + _dump_patiently(member))
        return b"{%b}" % b",".join(said)
    if isinstance(value, list):
        for item in value:
            said.append(_dump_patiently(item))
        return b"[%b]" % b",".join(said)
    return bytes(value) if isinstance(value, msgspec.Raw) else json.dumps(value).encode()


def fields(data: bytes | msgspec.Raw) -> Fields:
    """Return the members of an object, each as it was said; raises `ValueError` if *data* is no object."""
    try:
        return _FIELDS.decode(data)
    except _REFUSED:
        value = parse_exactly(data)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return {key: raw(dump(member)) for key, member in value.items()}


def items(data: bytes | msgspec.Raw) -> list[msgspec.Raw]:
    """Return the items of an array, each as it was said; raises `ValueError` if *data* is no array."""
    try:
        return _ITEMS.decode(data)
    except _REFUSED:
        value = parse_exactly(data)
    if not isinstance(value, list):
        raise ValueError("not a JSON array")
    return [raw(dump(item)) for item in value]


def raw(data: bytes) -> msgspec.Raw:
    return msgspec.Raw(data)


def spell(members: Fields) -> bytes:
    """Put an object together from its members."""
    try:
        return msgspec.json.encode(members)
    except UnicodeEncodeError:
        return b"{%b}" % b",".join(json.dumps(key).encode() + b":" + bytes(value) for key, value in members.items())


def is_null(value: msgspec.Raw) -> bool:
    return bytes(value) == b"null"


def opens_with(value: msgspec.Raw | None, opening: bytes) -> bool:
    """Tell a value's kind by its first byte: `"` a string, `[` an array, `{` an object."""
    return value is not None and bytes(value)[:1] == opening


def may_say(value: msgspec.Raw, member: str) -> bool:
    """Whether this member of an object is a text, if it has it."""
    said = fields(value).get(member)
    return said is None or opens_with(said, b'"')


def on_one_line(data: bytes) -> bytes:
    """Return the same JSON without line ends, as an event's data must be."""
    return data.translate(_LINE_ENDS)
