"""
Server-sent events, split without losing a byte.

The raw bytes of all events, in order, and what is left over are the input again, however it was cut into chunks. So a stored
stream can be replayed exactly, comments and line ends included; but for a byte order mark, which only says how to read the
beginning. A block that dispatches nothing (only comments, or a name without data) is an event with the name "": pass it on or
leave it out, but look for nothing in it.

A line ends with LF, CRLF or CR. Nearly everybody sends LF, so the first CR only makes a splitter look for the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from headrace.forms import exact
from headrace.model import Event

_LINE_END = re.compile(rb"\r\n|\n|\r")
# So written that what comes next changes nothing in what was found; hence CR after LF is a line's end once no LF follows.
_BLANK_LINE = re.compile(rb"\n\n|\n\r\n|\n\r(?=[^\n])|\r\r")
_BOM = b"\xef\xbb\xbf"
_PIECE_BYTES = 1 << 14  # of which the smallest event is two

CONTENT = "content_block_delta"
_BLOCK_START = "content_block_start"
TERMINAL = "message_stop"
ERROR = "error"

# The events that we read, what each must have, and how that must begin.
_NUMBER, _OBJECT, _OBJECT_IF_ANY = b"0123456789", b"{", b"{n "
_MISSING = b" "  # with which no value begins
_MEMBERS = {
    "message_start": {"message": _OBJECT},
    _BLOCK_START: {"index": _NUMBER, "content_block": _OBJECT},
    CONTENT: {"index": _NUMBER, "delta": _OBJECT},
    "content_block_stop": {"index": _NUMBER},
    "message_delta": {"delta": _OBJECT, "usage": _OBJECT_IF_ANY},
    TERMINAL: {},
}


class Splitter:
    """Cuts a stream into events as its chunks come."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self.pending_lines = 0  # of an incomplete event
        self._has_begun = False
        self._has_cr = False

    def __repr__(self) -> str:
        return f"<Splitter [{len(self._buffer)} bytes left over]>"

    @property
    def leftover(self) -> bytes:
        """What came after the last complete event. More than white space means that the stream broke off inside one."""
        return bytes(self._buffer)

    @property
    def pending_bytes(self) -> int:
        """How much of an incomplete event is held."""
        return len(self._buffer)

    def feed(self, chunk: bytes) -> list[Event]:
        """Take a chunk in; return the events that it completed."""
        buffer = self._buffer
        buffer += chunk
        if not (self._has_begun or self._begins()):
            return []
        self._has_cr = self._has_cr or b"\r" in chunk
        events, begin = [], 0
        # The last two bytes were seen before, but may be the beginning of a blank line.
        end = self._end(max(0, self._scanned - 2))
        while end > 0:
            events.append(_event(bytes(buffer[begin:end])))
            begin = end
            end = self._end(begin)
        del buffer[:begin]
        self._scanned = len(buffer)
        self.pending_lines = self._lines(buffer) if events else self.pending_lines + self._lines(chunk)
        return events

    def _lines(self, part: bytes | bytearray) -> int:
        return part.count(b"\n") + (part.count(b"\r") if self._has_cr else 0)

    def finish(self) -> list[Event]:
        """Return the event at whose end the stream ended, its blank line added; the standard would leave it out."""
        return self.feed(b"\n\n") if self._buffer.strip() else []

    def _begins(self) -> bool:
        # Whether it is plain that the stream begins with a mark, which goes, or without one.
        if len(self._buffer) < len(_BOM) and _BOM.startswith(self._buffer):
            return False
        if self._buffer.startswith(_BOM):
            del self._buffer[: len(_BOM)]
        self._has_begun = True
        self._has_cr = b"\r" in self._buffer
        return True

    def _end(self, begin: int) -> int:
        if not self._has_cr:
            at = self._buffer.find(b"\n\n", begin)
            return at + 2 if at >= 0 else 0
        found = _BLANK_LINE.search(self._buffer, begin)
        return found.end() if found else 0


def split(stream: bytes) -> list[Event]:
    """Return the events of a whole stream; raises `ValueError` if it breaks off inside one."""
    splitter = Splitter()
    events = splitter.feed(stream)
    if splitter.leftover.strip():
        raise ValueError("the stream breaks off inside an event")
    return events


def by_pieces(stream: bytes) -> Iterator[list[Event]]:
    """Yield the events of a whole stream, those of a piece at a time: of half a million all together take seconds."""
    splitter = Splitter()
    for begin in range(0, len(stream), _PIECE_BYTES):
        yield splitter.feed(stream[begin : begin + _PIECE_BYTES])


def is_whole(stream: bytes) -> bool:
    """Whether there is an event, and the last does not break off; by its end alone."""
    end = stream[len(stream.rstrip()) :]
    return _BLANK_LINE.search(end) is not None


def _event(block: bytes) -> Event:
    name, data = "", []
    for line in _LINE_END.split(block) if b"\r" in block else block.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ").decode(errors="replace")
    if not data:
        return Event("", b"", block)
    return Event(name or "message", b"\n".join(data), block)


def make_event(name: str, data: bytes) -> Event:
    """Say *data* (JSON on one line) as upstream would."""
    return Event(name, data, b"event: %b\ndata: %b\n\n" % (name.encode(), data))


def is_content(event: Event) -> bool:
    """Whether this is a piece of the answer: once a caller has one, no retry can be invisible."""
    return event.name == CONTENT


def is_terminal(event: Event) -> bool:
    """Whether the answer is complete with this event."""
    return event.name == TERMINAL


def is_sound(event: Event) -> bool:
    """
    Whether an event of a kind that we read is in UTF-8 and has what it must, so that a message can be made of it.

    Other kinds are not ours to judge.
    """
    members = _MEMBERS.get(event.name)
    if members is None:
        return True
    try:
        event.data.decode()
        said = exact.fields(event.data)
    except ValueError:
        return False
    if not all(bytes(said.get(member, _MISSING))[:1] in openings for member, openings in members.items()):
        return False
    return event.name != _BLOCK_START or exact.may_say(said["content_block"], "type")


def error_of(event: Event) -> tuple[str, str] | None:
    """Return the type and the message of an error event, whatever its shape; None for all others."""
    if event.name != ERROR:
        return None
    try:
        said = exact.parse(event.data)
    except ValueError:
        said = None
    error = said.get("error") if isinstance(said, dict) else None
    if not isinstance(error, dict):
        error = {}
    return str(error.get("type") or "api_error"), str(error.get("message") or "upstream reported an error inside the stream")


def join(events: Iterable[Event]) -> bytes:
    """Return the stream that *events* are."""
    return b"".join(event.raw for event in events)
