"""
JSON as upstream would read it, or a refusal that says what is wrong with it and nothing of what it says.

Of a name that comes twice in one object some readers take the first, some the last. If upstream read another call than the one
that is metered and kept here, its answer would be kept for calls that never asked for it: so such a body is refused.
"""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any

import msgspec

from headrace.errors import InvalidCall


def parse(raw: bytes) -> tuple[dict[str, Any], bool]:
    """Return the object that *raw* spells, and whether all its numbers surely are finite; raises `InvalidCall`."""
    with explained(raw):
        body, is_finite = decode(raw)
        refuse_doubles(raw, body, is_plain=is_finite)
    if not isinstance(body, dict):
        raise no_object(body)
    return body, is_finite


class explained:  # noqa: N801  # it is called as a function is; every call goes through it, so it is no generator
    """Say in an `InvalidCall` what is wrong with a body that is read in the block."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if isinstance(error, RecursionError):
            raise InvalidCall("the body is nested too deeply") from error
        if isinstance(error, UnicodeDecodeError):
            raise InvalidCall(f"the body is not valid UTF-8 at byte {_first_bad_byte(self._raw)}") from error
        if isinstance(error, msgspec.DecodeError):
            raise InvalidCall(f"the body is not valid JSON: {error}") from error


def no_object(body: object) -> InvalidCall:
    """Return what is said of a body that is something else."""
    return InvalidCall(f"the body must be a JSON object, not {kind(body)}")


def _first_bad_byte(raw: bytes) -> int:
    # Which the parser counts from the beginning of the string that it is in.
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return error.start
    return 0


def decode(raw: bytes) -> tuple[Any, bool]:
    """Return the value that *raw* spells, and whether all its numbers surely are finite."""
    try:
        return msgspec.json.decode(raw), True
    except msgspec.DecodeError as error:
        # Lone surrogates, a BOM, and numbers past the range of a double are JSON all the same, and upstream's to judge.
        return decode_slow(raw, error), False


def decode_slow(raw: bytes, otherwise: msgspec.DecodeError | None = None) -> Any:
    """Return the value that *raw* spells, as the standard library reads it; *otherwise* is raised if it cannot."""
    text = raw.decode("utf-8-sig")
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError as error:
        raise otherwise or msgspec.DecodeError(str(error)) from None


def refuse_doubles(raw: bytes, body: Any, *, is_plain: bool) -> None:
    """Raise `InvalidCall` if a name stands twice in some object of *raw*, which was decoded as *body*."""
    encoded = _encoded(body) if is_plain else b""
    if encoded == raw:  # a name that was there twice would have been left out
        return
    if is_plain and not _hides_a_name(raw) and _names(msgspec.json.format(raw, indent=-1)) == _names(encoded):
        return
    json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_no_doubles)


def _names(text: bytes) -> int:
    # In compact JSON every name ends so. A text in a string may hold the same, spelled `\":`, as often before as after.
    return text.count(b'":')


def _encoded(body: Any) -> bytes:
    try:
        return msgspec.json.encode(body)
    except (UnicodeEncodeError, OverflowError):
        return b""  # as many names as no body has: look closely


def _hides_a_name(raw: bytes) -> bool:
    # An escape that is written anew as a quote or a colon would count as one name more, and make up for one that was lost.
    return b"\\u00" in raw and any(escape in raw for escape in (b"\\u0022", b"\\u003a", b"\\u003A"))


def _no_doubles(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) < len(pairs):
        raise twice()


def twice() -> InvalidCall:
    """Return what is said of a name that stands twice in one object."""
    return InvalidCall("the body names a field twice in one object: nobody can say which of the two counts")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def kind(value: object) -> str:
    """Return what a value is, and no more: it may be a prompt. Of a number there is nothing to hide."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number(value)
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "null")


_MOST_DIGITS = 20


def _number(value: float) -> str:
    if isinstance(value, int) and abs(value) >= 10**_MOST_DIGITS:
        return "a number of so many digits"
    return repr(value) if abs(value) < float("inf") else "a number of that size"
