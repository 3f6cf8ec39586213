"""
What was said in a flight, packed.

An event as an object takes four times its bytes: it has them, its data once more, and a name of its own. Hundreds of streams
of thousands of events are in the air at once, and each event stays for whoever joins late. So only the newest lie here as
objects, for those who follow closely. Older ones are joined in blocks, and made anew, just as they were, for who reads them.

Once the whole answer is there, the blocks are parts of it, and the events take next to nothing beside it.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from headrace.model import Event

_MOST_EVENTS = 32  # as objects
_MOST_BYTES = 1 << 14  # of them
_OBJECT_BYTES = 320  # that an event takes as an object, beside its bytes
_PACKED_BYTES = 32  # and in a block


@dataclass(slots=True)
class _Block:
    """
    Some events in a row.

    Args:
        whole, begin, end: where their bytes are.
        marks: of each event three numbers: how long it is; where its data begins in it; how long that is.
        odd: those whose data is not a piece of their bytes, by number.
    """

    whole: bytes
    begin: int
    end: int
    names: tuple[str, ...]
    marks: array[int]
    odd: dict[int, Event]

    def raw(self) -> bytes:
        return self.whole[self.begin : self.end]

    def events(self, first: int) -> list[Event]:
        """Return its events from a number on."""
        whole, made, marks = self.whole, [], iter(self.marks[3 * first :])
        at = self.begin + sum(self.marks[: 3 * first : 3])
        for name, size, data, length in zip(self.names[first:], marks, marks, marks, strict=True):
            data += at
            made.append(Event(name, whole[data : data + length], whole[at : at + size]))
            at += size
        for number, event in self.odd.items():
            if number >= first:
                made[number - first] = event
        return made


def _packed(events: Sequence[Event]) -> _Block:
    raws = [event.raw for event in events]
    begins = [event.raw.find(event.data) for event in events]
    odd = {number: events[number] for number, at in enumerate(begins) if at < 0} if min(begins) < 0 else {}
    marks = array("I", [0]) * (3 * len(events))
    marks[0::3] = array("I", map(len, raws))
    marks[1::3] = array("I", [max(at, 0) for at in begins] if odd else begins)
    marks[2::3] = array("I", [len(event.data) for event in events])
    whole = b"".join(raws)
    return _Block(whole, 0, len(whole), tuple([sys.intern(event.name) for event in events]), marks, odd)


class Said:
    """Events in the order in which they were said."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._firsts: list[int] = []  # the number of each block's first event
        self._newest: list[Event] = []
        self._packed = 0  # how many are in blocks
        self._newest_bytes = self._bytes = 0

    def __repr__(self) -> str:
        return f"<Said [{len(self)} events, {self._bytes} bytes, {len(self._newest)} as objects]>"

    def __len__(self) -> int:
        return self._packed + len(self._newest)

    def __iter__(self) -> Iterator[Event]:
        return self.since(0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Said, list)) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # it grows

    @property
    def cost_bytes(self) -> int:
        """What they take in memory, more or less."""
        return self._bytes + self._newest_bytes + _PACKED_BYTES * self._packed + _OBJECT_BYTES * len(self._newest)

    def append(self, event: Event) -> bool:
        """Add an event; return whether those before it were packed."""
        # Those before it have been read by whoever follows closely.
        is_full = len(self._newest) >= _MOST_EVENTS or self._newest_bytes >= _MOST_BYTES
        if is_full:
            self._pack()
        size = len(event.raw)
        self._newest.append(event)
        self._newest_bytes += size
        self._bytes += size
        return is_full

    def _pack(self) -> None:
        self._blocks.append(_packed(self._newest))
        self._firsts.append(self._packed)
        self._packed += len(self._newest)
        self._newest, self._newest_bytes = [], 0

    def piece(self, first: int) -> list[Event]:
        """Return the event of this number, and those after it that lie together with it: all to the last, or some."""
        if first >= self._packed:
            return self._newest[first - self._packed :]
        at = bisect_right(self._firsts, first) - 1
        return self._blocks[at].events(first - self._firsts[at])

    def since(self, first: int) -> Iterator[Event]:
        """Yield the events from a number on, to the last that there is by then."""
        while piece := self.piece(first):
            yield from piece
            first += len(piece)

    def chunks(self) -> list[bytes]:
        """Return pieces of bytes that joined are the stream."""
        return [*(block.raw() for block in self._blocks), *(event.raw for event in self._newest)]

    def rest_on(self, payload: bytes) -> None:
        """Keep no bytes of its own: *payload* is here anyway, and says the same. If it does not, nothing changes."""
        if self._newest:
            self._pack()
        at = 0
        for block in self._blocks:
            size = block.end - block.begin
            if not payload.startswith(block.raw(), at):
                return
            block.whole, block.begin, block.end = payload, at, at + size
            at += size
