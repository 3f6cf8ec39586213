"""
The ids of things in a JSON body that goes by, piece by piece. Pure.

Every string that looks like an id counts, whatever it is called there: bodies of endpoints that nobody has heard of name things
as they like. A string may be written with escapes (`\\u0066ile_`), and is read with them undone; it may begin in one piece and
end in the next.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from headrace.errors import InvalidCall
from headrace.resources.ids import MOST, of_thread
from headrace.resources.places import PREFIXES

# As upstream makes them: letters that name the kind, and so many that mean nothing that no name is like it.
_MEANS_NOTHING = rb"_[A-Za-z0-9]{16,100}"
_KNOWN = re.compile(
    rb'"((?:msg|' + b"|".join(prefix.rstrip("_").encode() for prefix in PREFIXES) + rb")" + _MEANS_NOTHING + rb')"'
)
_ANY = re.compile(rb'"([a-z]{2,24}' + _MEANS_NOTHING + rb')"')
# Of what an id is made of; hardly anybody writes it so who does not mean to hide one.
_ESCAPE = re.compile(rb"\\u00(3[0-9]|[46][1-9a-fA-F]|[57][0-9aA]|5[fF])")
_LONGEST = 128 * 6 + 2  # bytes of one string, all of it escaped
_OF_NO_THING = frozenset({"toolu", "srvtoolu", "mcptoolu", "msg", "req"})


class Scan:
    """
    Reads one body.

    Args:
        is_wide: whether ids of kinds that are not known count, too.
    """

    def __init__(self, *, is_wide: bool) -> None:
        self._is_wide = is_wide
        self._tail = b""
        self._seen: set[str] = set()

    def __repr__(self) -> str:
        return f"<Scan [{len(self._seen)} ids]>"

    def feed(self, piece: bytes) -> list[str]:
        """Return the ids that end in this piece and were not there before; `InvalidCall` for what is no JSON, or too many."""
        if b"\0" in piece:
            raise InvalidCall("the body is not valid JSON in UTF-8: it has a byte of zero")
        text = self._tail + piece
        self._tail = text[-_LONGEST:]
        found = [thing for thing in self._ids(text) if thing not in self._seen]
        self._seen.update(found)
        if len(self._seen) > MOST:
            raise InvalidCall(f"the body names more than {MOST:,} things")
        return list(dict.fromkeys(found))

    def _ids(self, text: bytes) -> Iterator[str]:
        if b"\\u00" in text:
            text = _ESCAPE.sub(lambda escape: bytes.fromhex(escape[1].decode()), text)
        for string in (_ANY if self._is_wide else _KNOWN).finditer(text):
            thing = string[1].decode()
            kind, _, _ = thing.partition("_")
            if kind == "msg" and not self._is_wide:
                yield of_thread(thing)  # in a message's params nothing else is named by a message's id
            elif kind not in _OF_NO_THING:
                yield thing
