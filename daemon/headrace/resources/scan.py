"""
The ids of things in a body that goes by, piece by piece. Pure.

Every string that looks like an id counts, whatever it is called there: bodies of endpoints that nobody has heard of name things
as they like. In a batch of message calls that is so, too, but for the names that its caller gives them. A string may be written
with escapes (`\\u0066ile_`), and is read with them undone; it may begin in one piece and end in the next. In what is no JSON
nothing tells where a string ends, so that every word that looks like an id counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from headrace.errors import InvalidCall
from headrace.resources.ids import MOST, OF_NO_THING, is_full, may_name, of_thread
from headrace.resources.places import PREFIXES, kind_of_id

# As upstream makes them: letters that name the kind, and so many that mean nothing that no name is like it.
_MEANS_NOTHING = rb"_[A-Za-z0-9]{16,100}"
_KNOWN = re.compile(
    rb'"((?:msg|' + b"|".join(prefix.rstrip("_").encode() for prefix in PREFIXES) + rb")" + _MEANS_NOTHING + rb')"'
)
# Kinds of one word or several (memory_store_...), and what tells no kind: UUIDs, hex digits.
_HAS_DIGIT = rb"(?=[A-Za-z-]{0,100}[0-9])"
_LIKE_AN_ID = (
    rb"[a-z]{2,24}(?:_[a-z]{2,24}){0,3}_" + _HAS_DIGIT + rb"[A-Za-z0-9-]{1,100}|" + _HAS_DIGIT + rb"[A-Za-z0-9-]{16,100}"
)
_ANY = re.compile(rb'"(' + _LIKE_AN_ID + rb')"')
# Embeddings are thousands of numbers, whose digits after the point are as many as an id has.
_NO_FRACTION = rb"(?!(?<=[0-9]\.)[0-9]+(?:[eE][+-]?[0-9]+)?(?![A-Za-z0-9_-]))"
_WORD = re.compile(rb"(?<![A-Za-z0-9_-])" + _NO_FRACTION + rb"(" + _LIKE_AN_ID + rb")(?![A-Za-z0-9_-])")
_POINT = len(b"0.")  # which stays with the digits that come behind it
_NOT_OF_A_WORD = re.compile(rb"[^A-Za-z0-9_%\\-]")
_PERCENT = re.compile(rb"%(3[0-9]|[46][1-9a-fA-F]|[57][0-9aA]|5[fF]|2[dD])")
# Of what an id is made of; hardly anybody writes it so who does not mean to hide one.
_ESCAPE = re.compile(rb"\\u00(3[0-9]|[46][1-9a-fA-F]|[57][0-9aA]|5[fF]|2[dD])")
_LONGEST = 128 * 6 + 2  # bytes of one string, all of it escaped
_LONGEST_FIELD = 1 << 20
_REMEMBERED = 50_000  # things of a batch, or of an answer, that are not asked for again
_NAMED = re.compile(rb'"([^"\\]{1,64})"\s{0,16}:\s{0,16}$')
_NAME = 64 + 36
# As browsers and libraries write it, either name first; what is written otherwise may be a field to another reader.
_PARAM = rb'(?:name="[^"\\\r\n]*"|name=[^\s";\\]+|filename\*=[^\s";\\]+)'
_FILENAME = rb'filename=(?:"[^"\r\n]*"|[^\s";\\]+)'
_OF_FILE = re.compile(
    rb"content-disposition:\s*form-data(?:\s*;\s*" + _PARAM + rb")*\s*;\s*" + _FILENAME + rb"(?:\s*;\s*" + _PARAM + rb")*\s*",
    re.IGNORECASE,
)
_EXTENDED = re.compile(r"boundary\s*\*", re.IGNORECASE)
_BOUNDARY = re.compile(r"""boundary\s*=\s*(?:"([^"]*)"|([^\s;"]+))""", re.IGNORECASE)


class Scan:
    """Reads one body of JSON."""

    def __init__(self) -> None:
        self._tail = b""
        self._seen: set[str] = set()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} [{len(self._seen)} ids]>"

    def feed(self, piece: bytes) -> list[str]:
        """Return the ids that end in this piece and were not there before; `InvalidCall` for what is no JSON, or too many."""
        if b"\0" in piece:
            raise InvalidCall("the body is not valid JSON in UTF-8: it has a byte of zero")
        text = self._tail + piece
        self._tail = text[-_LONGEST:]
        return self._new(self._ids(text))

    def end(self) -> list[str]:
        """Return what the end of the body shows to be ids."""
        return []

    def _new(self, things: Iterator[str]) -> list[str]:
        found = list(dict.fromkeys(thing for thing in things if thing not in self._seen))
        self._seen.update(found)
        self._bound()
        return found

    def _bound(self) -> None:
        if len(self._seen) > MOST:
            raise InvalidCall(f"the body names more than {MOST:,} things")

    def _ids(self, text: bytes) -> Iterator[str]:
        for string in _ANY.finditer(_unescaped(text)):
            if (thing := string[1].decode()).partition("_")[0] not in OF_NO_THING:
                yield thing


class Calls(Scan):
    """
    Reads the body of a batch: message calls, with names that their caller gives them.

    Of what is no id of a kind that is known there is no bound: a hundred thousand calls have as many texts that look like one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._known = 0
        self._told = 0  # strings that end before it were looked at, each with the name before it

    def feed(self, piece: bytes) -> list[str]:
        """Return the same; a string whose name is no longer here is not looked at again."""
        self._told = _unescaped(self._tail).rfind(b'"') + 1
        return super().feed(piece)

    def _ids(self, text: bytes) -> Iterator[str]:
        text = _unescaped(text)
        for string in _ANY.finditer(text):
            if string.end() <= self._told:
                continue
            thing = string[1].decode()
            if thing.startswith("msg_"):
                if _KNOWN.fullmatch(string[0]):
                    yield of_thread(thing)  # in a message's params nothing else is named by a message's id
            elif thing.partition("_")[0] not in OF_NO_THING and not _is_named_freely(text, string.start()):
                yield thing

    def _new(self, things: Iterator[str]) -> list[str]:
        found = super()._new(things)
        self._known += sum(kind_of_id(thing) is not None and is_full(thing) for thing in found)
        self._bound()
        return found

    def _bound(self) -> None:
        if self._known > MOST:
            raise InvalidCall(f"the body names more than {MOST:,} things")
        if len(self._seen) > _REMEMBERED:
            self._seen.clear()


def _is_named_freely(text: bytes, at: int) -> bool:
    name = _NAMED.search(text[max(0, at - _NAME) : at])
    return name is not None and (name[1] in (b"custom_id", b"type") or not may_name(name[1].decode(errors="replace")))


class Words(Scan):
    """Reads one body of whatever: a form in a line, lines of text."""

    begun_bytes = 0
    """How many of the last bytes are of a word that may go on."""

    def feed(self, piece: bytes) -> list[str]:
        """Return the ids in the words that end in this piece."""
        text = self._tail + piece
        whole = max((found.end() for found in _NOT_OF_A_WORD.finditer(text, max(0, len(text) - _LONGEST))), default=0)
        if not whole and len(text) > _LONGEST:  # one word, too long for an id
            whole = len(text)
        self._tail, self.begun_bytes = text[max(0, whole - _POINT) :], len(text) - whole
        return self._new(self._ids(text[:whole]))

    def end(self) -> list[str]:
        """Return the ids in the last words."""
        last, self._tail = self._tail, b""
        return self._new(self._ids(last))

    def _ids(self, text: bytes) -> Iterator[str]:
        text = _unescaped(text)  # it may be JSON by another name
        if b"%" in text:
            text = _PERCENT.sub(_sign, text)
        yield from (word[1].decode() for word in _WORD.finditer(text))


class Told(Words):
    """Reads an answer, which may tell of any number of things."""

    def _bound(self) -> None:
        if len(self._seen) > _REMEMBERED:
            self._seen.clear()


class FormFields(Words):
    """
    Reads one multipart form: what its fields say. What is in its files names nothing.

    Args:
        boundary: what parts it, as its content type says.
    """

    def __init__(self, boundary: bytes) -> None:
        super().__init__()
        self._mark = b"--" + boundary
        self._part = b""
        self._is_file = False
        self._is_head = False

    def feed(self, piece: bytes) -> list[str]:
        """Return the ids in the fields that end in this piece; `InvalidCall` for fields that are too large to be looked at."""
        self._part += piece
        found: list[str] = []
        while (at := self._part.find(self._mark)) >= 0:
            found += self._read(self._part[:at])
            self._part = self._part[at + len(self._mark) :]
            self._is_head, self._is_file = True, False
        if self._is_head and b"\r\n\r\n" in self._part:
            head, _, self._part = self._part.partition(b"\r\n\r\n")
            found += self._said(head)
            self._is_head, self._is_file = False, _is_of_file(head)
        if self._is_file:
            self._part = self._part[-len(self._mark) :]
        elif len(self._part) > _LONGEST_FIELD:
            raise InvalidCall(f"a field of the form has more than {_LONGEST_FIELD:,} bytes, or there is no form")
        return found

    def end(self) -> list[str]:
        """Return the ids in what is left."""
        return self._read(self._part)

    def _read(self, part: bytes) -> list[str]:
        if self._is_head:
            head, _, part = part.partition(b"\r\n\r\n")
            return self._said(head) + ([] if _is_of_file(head) else self._said(part))
        return [] if self._is_file else self._said(part)

    def _said(self, text: bytes) -> list[str]:
        return self._new(self._ids(text))


def _is_of_file(head: bytes) -> bool:
    # For every reader: one that takes it for a field must find nothing in it that we did not.
    said = [line for line in head.split(b"\r\n") if line.strip()]
    disposed = [line for line in said if line.lower().startswith(b"content-disposition")]
    return len(disposed) == 1 and _OF_FILE.fullmatch(disposed[0]) is not None and not any(line[:1] in b" \t" for line in said)


def _unescaped(text: bytes) -> bytes:
    return _ESCAPE.sub(_sign, text) if b"\\u00" in text else text


def _sign(escape: re.Match[bytes]) -> bytes:
    return bytes.fromhex(escape[1].decode())


def scan_of(content_type: str, *, is_of_calls: bool) -> Scan:
    """
    Return what reads a body of this type; `InvalidCall` for a form that two could read in two ways.

    Args:
        is_of_calls: whether message calls are in it.
    """
    kind, _, params = content_type.partition(";")
    kind = kind.strip().lower()
    if kind.startswith("multipart/"):
        boundaries = _BOUNDARY.findall(params)
        is_one = len(boundaries) == 1 and not _EXTENDED.search(params)
        if not is_one or not (boundary := (boundaries[0][0] or boundaries[0][1])):
            raise InvalidCall("content-type: a form has one boundary")
        return FormFields(boundary.encode(errors="surrogateescape"))
    return (Calls() if is_of_calls else Scan()) if kind in ("", "application/json") or kind.endswith("+json") else Words()
