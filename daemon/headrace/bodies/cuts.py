"""
Where to cut a large body: at a comma between two members of a list or an object, or after a member that is no piece by itself.

That a cut is between two members, and not in one, is known by trying: a piece that is valid by itself ends where a member does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

_MOST_TIMES = 24  # that each byte is skipped over, on an average: values inside each other, each a giant, are not that deep

_BLANK = re.compile(rb"[ \t\r\n]*")
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|["\[\]{}]', re.DOTALL)
_TRAILING = re.compile(r"trailing characters \(byte (\d+)\)")
_COMMA_AFTER = {ord("{"): b"},", ord("["): b"],", ord('"'): b'",'}
_skip = msgspec.json.Decoder(msgspec.Raw).decode  # reads, and makes nothing of it


def outline(raw: bytes) -> bytes:
    """Return a text in which all stands where it does in the body, but for halves of characters; raises msgspec's errors."""
    has_halves = b"\\ud" in raw or b"\\uD" in raw
    seen = raw.replace(b"\\ud", b"\\u0").replace(b"\\uD", b"\\u0") if has_halves else raw
    _skip(seen)
    return seen


def after_blanks(raw: bytes, at: int) -> int:
    """Return where the next thing stands that is no blank."""
    found = _BLANK.match(raw, at)
    return found.end() if found else at


class Cuts:
    """
    Finds them.

    Args:
        outline: of the body, as `outline` returns it.
        piece_bytes: how long a piece is at the most.
    """

    def __init__(self, raw: bytes, outline: bytes, piece_bytes: int) -> None:
        self._raw, self._seen, self._piece = raw, outline, piece_bytes
        self._may_skip = _MOST_TIMES * len(raw)

    def __repr__(self) -> str:
        return f"<Cuts [{len(self._raw)} bytes in pieces of {self._piece}]>"

    def slices(
        self, begin: int, end: int, *, is_object: bool, whole_bytes: int | None = None
    ) -> Iterator[tuple[int, int, bool]]:
        """
        Yield where members of a list or an object begin and end, many at once, or one that is no piece by itself.

        *whole_bytes*: of so many at most there are many at once, of what comes then one each.
        """
        at = after_blanks(self._raw, begin)
        while at < end:
            piece = self._piece if whole_bytes is None else max(0, min(self._piece, whole_bytes))
            if end - at <= piece:
                yield at, end, False
                return
            comma = self._comma(at, at + piece, is_object=is_object)
            if comma >= 0:
                yield at, comma, False
                whole_bytes = whole_bytes and whole_bytes - (comma - at)
            else:
                comma = self._end_of_member(at, is_object=is_object)
                yield at, comma, True
            at = after_blanks(self._raw, comma + 1)

    def _comma(self, at: int, limit: int, *, is_object: bool) -> int:
        sign = b',"' if is_object else _COMMA_AFTER.get(self._raw[at], b",")
        found = self._raw.rfind(sign, at, limit)
        if found >= 0:
            comma = found if is_object else found + len(sign) - 1
            if self._is_whole(self._seen[at:comma], is_object=is_object):
                return comma
        return _last_comma(self._raw, at, limit)

    def _is_whole(self, text: bytes, *, is_object: bool) -> bool:
        try:
            _skip((b"{%b}" if is_object else b"[%b]") % text)
        except msgspec.DecodeError:
            return False
        return True

    def _end_of_member(self, at: int, *, is_object: bool) -> int:
        if is_object:
            at = after_blanks(self._raw, self._raw.index(b":", self.end(at)) + 1)
        return self.end(at)

    def end(self, at: int) -> int:
        """Return where the value that begins somewhere has ended, blanks included."""
        try:
            _skip(memoryview(self._seen)[at:])
        except msgspec.DecodeError as error:
            if found := _TRAILING.search(str(error)):
                self._may_skip -= int(found[1])
                if self._may_skip >= 0:
                    return at + int(found[1]) - 1
        raise MemoryError


def _last_comma(raw: bytes, at: int, limit: int) -> int:
    """Return the last comma between members that begin somewhere, or -1."""
    depth, last = 0, -1
    for token in _TOKEN.finditer(raw, at, limit):
        begin = token.start()
        if not depth:
            last = max(last, raw.rfind(b",", at, begin))
        at = token.end()
        if (sign := raw[begin]) in b"[{":
            depth += 1
        elif sign in b"]}":
            depth -= 1
        elif at == begin + 1:  # a text that goes on past the limit
            return last
    return last if depth else max(last, raw.rfind(b",", at, limit))
