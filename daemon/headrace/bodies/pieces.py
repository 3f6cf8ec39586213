"""
Large bodies, read piece by piece: what `read.py` would say of the whole, and at no time more than a piece of it as values.

Thirty megabytes of JSON may be fifteen million values, and take Python ten times as much. So lists and objects are cut where
they are long, between two of their own members, and each piece is parsed, looked at, spelled anew and hashed before the next
one is. What a call is judged by besides, its few fields and the ids that it names, is kept of each piece; of what is too large
for one piece, a stand-in.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from headrace.bodies.cuts import Cuts, after_blanks, outline
from headrace.bodies.parse import decode, decode_slow, explained, no_object, refuse_doubles, twice
from headrace.cache.fingerprint import counts, spelled_slow
from headrace.cache.policy import no_keep_call
from headrace.cache.shapes import Shape, Tagged, of_object, ordered, shape_of
from headrace.resources.ids import CALLERS_OWN, KNOWN_PARAMS, LOOKED_THROUGH, MOST, asked_in

PIECE_BYTES = 1 << 18
_MOST_NAMES = 100_000  # of one object that is the API's own, whose names are sorted: none has a hundred
_STAND_IN = 4096  # characters of a long text: what kind of URL it is stands there, and no id and no name is as long
_HELD_PIECES = 4  # of an object whose names are sorted so many are held as values; what comes then is decoded when it is said
_TINY_BYTES = 64
_BUCKETS = 64
_ASCII_END, _LONGEST_ESCAPES = 0x80, 12
_BOM = b"\xef\xbb\xbf"
_NO_OBJECTS: Mapping[int, Any] = {ord("["): [], ord('"'): ""}

_LIKE_ONE = re.compile(rb'"(?:[a-z]{2,24}_[A-Za-z0-9_-]{8,200}|[0-9a-f-]{32,36})"')  # or like more, but never like less
_encode = msgspec.json.Encoder().encode


# What a list or an object is to `no_keep_call` and `asked_in`, by what it is a member of. An item is what its list is called.
_Role: TypeAlias = str
_CONTENT: Mapping[str, _Role] = {"content": "block", "source": "source", "file": "part", "image_url": "part"}
_ROLES: Mapping[_Role, Mapping[str, _Role]] = {
    "body": {"messages": "message", "system": "block", "tools": "tool", "container": "container", "thread": "thread"},
    "message": {"content": "block"},
    "block": _CONTENT,
    "source": {"content": "block"},
    "container": {"skills": "skill"},
}
_NO_LISTS = ("container", "thread", "part", "source")  # a list of these is something that nobody here knows
_LOOKED_THROUGH = ("container", "skill", "thread")  # nothing in these is the caller's own words
_UNKNOWN = "unknown"  # of what nobody here knows, and whatever is in that: ids may stand anywhere
_FRAGMENTS: Mapping[_Role, Callable[[Any], dict[str, Any]]] = {
    "message": lambda items: {"messages": items},
    "block": lambda items: {"system": items},
    "tool": lambda items: {"tools": items},
    "skill": lambda items: {"container": {"skills": items}},
    **dict.fromkeys((_UNKNOWN, *_NO_LISTS), lambda value: {_UNKNOWN: value}),  # lists of these there are none
}


class _OtherwiseError(Exception):
    """It has to be begun anew, in another way of decoding or spelling."""


class Pieces:
    """
    What is known of a body, once it has been read.

    Args:
        body: it, with stand-ins for what is too large.
        essence: as `fingerprint.essence` returns it.
        no_keep: why an answer may not be kept, or "".
        ids: what it names of what lives at upstream.
    """

    def __init__(self, body: dict[str, Any], essence: bytes, no_keep: str, ids: tuple[str, ...]) -> None:
        self.body, self.essence, self.no_keep, self.ids = body, essence, no_keep, ids

    def __repr__(self) -> str:
        return f"<Pieces {self.no_keep or 'may be kept'}>"


def pieces(raw: bytes, endpoint: str, piece_bytes: int = PIECE_BYTES) -> Pieces:
    """Read a body of an endpoint, by its name; raises `InvalidCall`, and MemoryError for what is past all reason."""
    with explained(raw):
        return _pieces(raw, endpoint, piece_bytes)


def _pieces(raw: bytes, endpoint: str, piece_bytes: int) -> Pieces:
    is_plain, is_slow = not raw.startswith(_BOM), False
    raw = raw if is_plain else raw[len(_BOM) :]
    seen = outline(raw)
    begin = after_blanks(raw, 0)
    if raw[begin] != ord("{"):
        raise no_object(_NO_OBJECTS[raw[begin]] if raw[begin] in _NO_OBJECTS else decode(raw)[0])
    while True:
        reading = _Reading(raw, seen, endpoint, piece_bytes, is_plain=is_plain, is_slow=is_slow)
        try:
            return reading.read(begin)
        except _OtherwiseError:
            is_plain, is_slow = reading.is_plain, reading.is_slow


class _Giant:
    """Where a value begins and ends that is no piece."""

    __slots__ = ("begin", "end")

    def __init__(self, begin: int, end: int) -> None:
        self.begin, self.end = begin, end


class _Reading:
    """One way through a body: *is_plain* and *is_slow* say how it is decoded and spelled, and how it should have been."""

    def __init__(self, raw: bytes, seen: bytes, endpoint: str, piece_bytes: int, *, is_plain: bool, is_slow: bool) -> None:
        self.is_plain, self.is_slow = is_plain, is_slow
        self._raw, self._endpoint, self._piece = raw, endpoint, piece_bytes
        self._cuts = Cuts(raw, seen, piece_bytes)
        self._hash = hashlib.sha256()
        self._is_mute = False
        self._no_keep = ""
        self._ids: dict[str, None] = {}

    def read(self, begin: int) -> Pieces:
        end = self._raw.rfind(b"}") + 1
        members = self._members(begin, end)
        counted = {name: value for name, value in members.items() if counts(name, value, self._endpoint)}
        body = self._say_members(counted, shape_of(self._endpoint), 0, "body")
        self._is_mute = True  # what does not count is looked at all the same
        body |= self._say_members({name: value for name, value in members.items() if name not in counted}, None, 0, "body")
        self._look(body)
        return Pieces(body, self._hash.digest(), no_keep_call(body) or self._no_keep, tuple(self._ids))

    # Values, of whatever size: what counts of them is said, and they are returned, or something that stands in for them.

    def _value(self, begin: int, end: int, shape: Shape | Tagged | None, depth: int, role: _Role) -> Any:
        first = self._raw[begin]
        if end - begin > max(self._piece, _STAND_IN) and first == ord('"') and self.is_plain:
            return self._text(begin, self._raw.rfind(b'"', begin, end))
        if end - begin <= self._piece or first not in b"[{":
            value = self._decoded(self._raw[begin:end])
            self._say(self._spelled(ordered(value, shape, depth) if shape is not None else value))
            if role == _UNKNOWN:
                self._look_for_ids(value, begin, end)
            return self._stand_in(value, role)
        if first == ord("["):
            return self._list(begin, self._raw.rfind(b"]", begin, end), shape, depth, role)
        end = self._raw.rfind(b"}", begin, end) + 1
        if shape is None and role in ("", _UNKNOWN):
            return self._plain_object(begin, end, role)
        return self._object(self._members(begin, end), shape, depth, role)

    def _stand_in(self, value: Any, role: _Role) -> Any:
        if type(value) is str:
            return value[:_STAND_IN]
        if type(value) is list:
            if role in _FRAGMENTS and role != _UNKNOWN:
                self._look(_FRAGMENTS[role](value))
            return value and [None]
        return value and {"": None} if type(value) is dict and role in ("", _UNKNOWN) else value

    def _text(self, begin: int, end: int) -> str:
        self._say(b'"')
        at, stand_in = begin + 1, ""
        while at < end:
            stop = _between_characters(self._raw, at + self._piece, end)
            part: str = self._decoded(b'"%b"' % self._raw[at:stop])
            self._say(self._spelled(part)[1:-1])
            at, stand_in = stop, stand_in or part[:_STAND_IN]
        self._say(b'"')
        return stand_in

    def _list(self, begin: int, end: int, shape: Shape | Tagged | None, depth: int, role: _Role) -> list[Any]:
        role = _UNKNOWN if role in _NO_LISTS else role
        between = b"["
        for at, stop, is_giant in self._cuts.slices(begin + 1, end, is_object=False):
            self._say(between)
            between = b","
            if is_giant:
                is_object = self._raw[at] == ord("{")  # of lists in lists none is the API's
                inner = role if is_object or role == _UNKNOWN else ""
                items = [self._value(at, stop, shape if is_object else None, depth, inner)]
            else:
                items = self._decoded(b"[%b]" % self._raw[at:stop])
                self._say(self._spelled(ordered(items, shape, depth) if shape is not None else items)[1:-1])
            if role == _UNKNOWN:
                self._look_for_ids(items, at, stop)
            elif role in _FRAGMENTS:
                self._look(_FRAGMENTS[role](items))
        self._say(b"[]" if between == b"[" else b"]")
        return [] if between == b"[" else [None]

    def _plain_object(self, begin: int, end: int, role: _Role) -> dict[str, Any]:
        names = array("q")
        between = b"{"
        for at, stop, is_giant in self._cuts.slices(begin + 1, end - 1, is_object=True):
            self._say(between)
            between = b","
            if is_giant:
                name, value = self._name(at)
                names.append(hash(name))
                self._say(self._spelled(name) + b":")
                self._value(value, stop, None, 0, role)
            else:
                members = self._decoded(b"{%b}" % self._raw[at:stop])
                names.extend(map(hash, members))
                self._say(self._spelled(members)[1:-1])
                if role == _UNKNOWN:
                    self._look_for_ids(members, at, stop)
        self._say(b"{}" if between == b"{" else b"}")
        _refuse_equal(names)
        return {"": None}

    def _object(self, members: dict[str, Any], shape: Shape | Tagged | None, depth: int, role: _Role) -> dict[str, Any]:
        if shape is not None:
            shape, depth = of_object(members, shape, depth)
        return self._say_members(members, shape, depth, role)

    def _say_members(self, members: Mapping[str, Any], shape: Shape | None, depth: int, role: _Role) -> dict[str, Any]:
        said: dict[str, Any] = {}
        between = b"{"
        for name in members if shape is None else sorted(members):
            value, inner = members[name], shape.get(name) if shape is not None else None
            self._say(between + self._spelled(name) + b":")
            between = b","
            if type(value) is _Giant:
                said[name] = self._value(value.begin, value.end, inner, depth, _role_of(name, role))
            else:
                said[name] = value
                self._say(self._spelled(ordered(value, inner, depth) if inner is not None else value))
        self._say(b"{}" if between == b"{" else b"}")
        return said

    def _members(self, begin: int, end: int) -> dict[str, Any]:
        """Return the members of an object by name, those that are no pieces as `_Giant`."""
        members: dict[str, Any] = {}
        whole_bytes = _HELD_PIECES * self._piece
        for at, stop, is_giant in self._cuts.slices(begin + 1, end - 1, is_object=True, whole_bytes=whole_bytes):
            if is_giant:
                name, value = self._name(at)
                is_small = stop - value <= (_STAND_IN if name == "type" else _TINY_BYTES)  # by these the others are judged
                some: dict[str, Any] = {name: self._decoded(self._raw[value:stop]) if is_small else _Giant(value, stop)}
            else:
                some = self._decoded(b"{%b}" % self._raw[at:stop])
            if not members.keys().isdisjoint(some):
                raise twice()
            members |= some
            if len(members) > _MOST_NAMES:
                raise MemoryError
        return members

    def _name(self, at: int) -> tuple[str, int]:
        """Return the name that stands somewhere, and where its value begins."""
        end = self._cuts.end(at)
        name: str = self._decoded(self._raw[at:end])
        return name, after_blanks(self._raw, self._raw.index(b":", end) + 1)

    def _look(self, fragment: Mapping[str, Any]) -> None:
        self._no_keep = self._no_keep or no_keep_call(fragment)
        if len(self._ids) <= MOST:
            self._ids.update(dict.fromkeys(asked_in(fragment)[: MOST + 1 - len(self._ids)]))

    def _look_for_ids(self, value: Any, begin: int, end: int) -> None:
        # To walk through millions of numbers takes seconds; what is like an id is found in the text, if no escape hides it.
        piece = self._raw[begin:end]
        if b"\\" in piece or _LIKE_ONE.search(piece):
            self._look(_FRAGMENTS[_UNKNOWN](value))
        if type(value) is dict and b"_id" in piece:
            self._look({"system": [{"type": _UNKNOWN, _UNKNOWN: value}]})

    def _say(self, text: bytes) -> None:
        if not self._is_mute:
            self._hash.update(text)

    # Ways to decode and to spell: for the whole body the same, since its fingerprint must not depend on where it is cut.

    def _decoded(self, raw: bytes) -> Any:
        if not self.is_plain:
            value = decode_slow(raw)
        else:
            value, self.is_plain = decode(raw)
            if not self.is_plain:
                raise _OtherwiseError
        refuse_doubles(raw, value, is_plain=self.is_plain)
        return value

    def _spelled(self, value: Any) -> bytes:
        if self._is_mute:
            return b""
        if self.is_slow:
            return spelled_slow(value)
        try:
            text = _encode(value)
            if self.is_plain or b"null" not in text:
                return text
        except (UnicodeEncodeError, OverflowError):
            pass
        self.is_slow = True
        raise _OtherwiseError


def _role_of(name: str, inside: _Role) -> _Role:
    if inside == _UNKNOWN:
        return _UNKNOWN
    if inside in _LOOKED_THROUGH:
        return _ROLES.get(inside, {}).get(name) or _UNKNOWN
    known = KNOWN_PARAMS - LOOKED_THROUGH if inside == "body" else CALLERS_OWN
    return _ROLES.get(inside, {}).get(name) or ("" if name in known or not inside else _UNKNOWN)


def _between_characters(raw: bytes, at: int, end: int) -> int:
    """Return a place in a text, not before *at*, where no character and no escape is cut, pairs of them included."""
    while at < end:
        if raw[at - 1] < _ASCII_END and raw[at] < _ASCII_END and raw.rfind(b"\\", max(0, at - _LONGEST_ESCAPES), at) < 0:
            return at
        at += 1
    return end


def _refuse_equal(names: array[int]) -> None:
    # By their hashes: two of a million that are equal by chance are one case in thirty millions.
    for bucket in range(_BUCKETS if len(names) > _MOST_NAMES else 1):
        some = names if len(names) <= _MOST_NAMES else [name for name in names if name % _BUCKETS == bucket]
        if len(set(some)) < len(some):
            raise twice()
