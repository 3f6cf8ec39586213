"""
The basin: where the bodies of requests lie while they come in, and until it is known what they ask. Whole answers of
upstream's have another.

    with basin.place(caller) as place:
        await place.add(len(piece))   # waits while too much is here; QueueFull if that lasts
        place.fill()                  # it is all here
        place.hold(len(body))         # it is known what it asks: its call has it, until the block ends

A body costs memory from its first byte on, and a machine takes in 800 MB of them in a second: so what is here at once, of all
connections and whatever the door, is bounded. Nobody reads on whose `add` has not returned, and its sender notices by its own
connection.

Room cannot be kept free for all that a body may become: a sender of a byte a second would hold it for hours. So every body
takes what has come of it, and when the basin is full, one of them goes on all the same until it has been read, or stops coming:
the whole is never more than the bound and one body. Whose turn that is goes by what callers have here: the one with least
comes first, and of its bodies the one that has waited longest. A caller has three quarters of the basin at most.

A body that has left the basin is there as long as its call is, whatever that waits for and however long upstream takes. So what
calls hold is bounded, too, where it is large: a caller whose calls hold as much as they may sends nothing more until one of
them is over, and waits for that outside, where it costs next to nothing. It holds up nobody else, and one body always passes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from headrace import observe
from headrace.errors import QueueFull
from headrace.share import Share

MOST_BYTES = 32_000_000  # one of the largest, or some dozens of what long conversations are
MOST_HELD_BYTES = 256_000_000
HEAVY_BYTES = 262_144  # bodies up to this are not counted among those held: `max_in_flight` and the crowd bound them
LIGHT_BYTES = 65_536  # a body of so many is not counted: a connection holds as much anyway, and most have fewer
_MOST_PARTS = (3, 4)  # of the basin, for one caller
_FAR_OVER = 3  # times the bound: what came all at once, so that nobody could ask before, is refused from there on
_PIECE_BYTES = 1 << 18  # that somebody who goes on brings, more or less, before it asks again
_IDLE_S = 1.0  # whose turn it is, and brings nothing for so long, loses it
_AGAIN_S = 2.0
PART_OF_ONE = 4  # of what may be held, or wait, one part in so many is for one caller, where callers are known by keys


@dataclass(frozen=True, slots=True)
class BasinStats:
    """How many bytes are here, of how many bodies and callers, how many of the bodies wait; and how many bytes calls hold."""

    bytes: int
    bodies: int
    callers: int
    waiting: int
    held_bytes: int = 0


class Basin:
    """
    Counts what is here.

    Args:
        most_bytes: how much that may be.
        patience_s: how long a body waits for room; by the loop, as all that is a socket's.
        now: the loop's clock.
        most_held_bytes: how much calls may hold of large bodies.
        most_held_of_one: those of one caller; by default all.
    """

    def __init__(
        self, most_bytes: int = MOST_BYTES, *, patience_s: float = 30.0, now: Callable[[], float],
        most_held_bytes: int = MOST_HELD_BYTES, most_held_of_one: int | None = None,
    ) -> None:  # fmt: skip
        self._held = Share(most_held_bytes, most_of_one=most_held_of_one)
        self._most_held_of_one = most_held_bytes if most_held_of_one is None else most_held_of_one
        self._most = most_bytes
        self._most_of_one = most_bytes * _MOST_PARTS[0] // _MOST_PARTS[1]
        self._patience_s = patience_s
        self.now = now
        self._taken = 0
        self._by_caller: Counter[str] = Counter()
        self._places: set[Place] = set()
        self._waiting: dict[Place, asyncio.Future[None]] = {}  # in their order
        self._next: Place | None = None  # whose turn it is
        self._look: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        said = self.stats()
        return f"<Basin [{said.bytes} of {self._most} bytes, {said.bodies} bodies, {said.waiting} waiting]>"

    def stats(self) -> BasinStats:
        """Return how it stands now."""
        return BasinStats(self._taken, len(self._places), len(self._by_caller), len(self._waiting), self._held.taken)

    def measure(self) -> None:
        """Let the gauge of bytes that come in read from here."""
        observe.COMING_BYTES.read = lambda: self._taken
        observe.HELD_BYTES.read = lambda: self._held.taken

    def place(self, caller: str) -> Place:
        """Return a place for one body; *caller* is `Owner.text` of whose it is."""
        return Place(self, caller)

    # For `Place`.

    def count(self, place: Place, size: int) -> None:
        """Count so much more, or less; of the last of it, the place is forgotten."""
        self._taken += size
        self._by_caller[place.caller] += size
        place.size += size
        if place.size:
            self._places.add(place)
            return
        self._places.discard(place)
        if not self._by_caller[place.caller]:
            del self._by_caller[place.caller]
        if place is self._next:
            self._next = None
        self._wake()

    def count_held(self, caller: str, size: int) -> None:
        """Count so much more, or less, that a caller's calls hold."""
        self._held.take(caller, size)
        if size < 0:
            self._wake()

    def has_room(self, place: Place) -> bool:
        """Whether more of this body may come."""
        if place is self._next:
            return True
        theirs = self._by_caller[place.caller]
        return self._is_below(self._taken, theirs) and self._may_hold(place, theirs)

    def is_far_over(self, place: Place) -> bool:
        """Whether too much is here for this body to wait with what it has: of all, or of its caller's if it came at one go."""
        theirs = self._by_caller[place.caller]
        is_past_part = place.is_full and theirs > max(place.size, self._most)
        is_past_part = is_past_part and theirs + self._held.of(place.caller) > self._most_held_of_one
        return is_past_part or self._taken > _FAR_OVER * self._most

    async def wait(self, place: Place) -> None:
        """Wait until there is room for more of this body."""
        woken = self._waiting[place] = asyncio.get_running_loop().create_future()
        if self._is_turn_free():
            self._wake()
        self._look_again()
        tiring = _Tiring(self._patience_s, lambda: self._tire(place, woken))
        try:
            await woken
        finally:
            tiring.cancel()
            self._waiting.pop(place, None)

    def _tire(self, place: Place, woken: asyncio.Future[None]) -> None:
        # Whose own calls hold too much waits for them, as a call does for its turn.
        if self._may_hold(place, place.size) and not woken.done():
            woken.set_exception(self.full())

    def full(self) -> QueueFull:
        """Return what those are told for whom there is no room."""
        return QueueFull(
            f"bodies of {self._taken:,} bytes are coming in already",
            retry_after_s=_AGAIN_S,
            metadata={"waiting_bytes": str(self._taken)},
        )

    def _wake(self) -> None:
        if not self._waiting:
            return
        taken, theirs = self._taken, Counter(self._by_caller)
        # Who has least comes first; sorting leaves all else in its order, which is that of coming.
        for place in sorted(self._waiting, key=lambda place: self._by_caller[place.caller]):
            if self._is_below(taken, theirs[place.caller]) and self._may_hold(place, theirs[place.caller]):
                taken, theirs[place.caller] = taken + _PIECE_BYTES, theirs[place.caller] + _PIECE_BYTES
            elif self._is_turn_free() and self._may_hold(place, place.size):
                self._next = place
                place.moved = self.now()
            else:
                continue
            if not (woken := self._waiting.pop(place)).done():  # else whoever waited was cancelled
                woken.set_result(None)

    def _look_again(self) -> None:
        # Nobody tells of a body that stops coming.
        if self._waiting and self._look is None:
            self._look = asyncio.get_running_loop().call_later(_IDLE_S, self._looked)

    def _looked(self) -> None:
        self._look = None
        self._wake()
        self._look_again()

    def _is_below(self, taken: int, theirs: int) -> bool:
        return taken <= self._most and theirs <= self._most_of_one

    def _may_hold(self, place: Place, size: int) -> bool:
        # It is not known how much will come of a body: asked is for what has come, so one goes beyond the bound.
        return size <= HEAVY_BYTES or not self._held.of(place.caller) or self._held.has_room(place.caller, size)

    def _is_turn_free(self) -> bool:
        one = self._next
        return one is None or not (one.is_full or self.now() - one.moved < _IDLE_S)


class Place:
    """Where one body lies, for as long as the block lasts."""

    __slots__ = ("_basin", "_held", "caller", "is_full", "moved", "size")

    def __init__(self, basin: Basin, caller: str) -> None:
        self._basin = basin
        self.caller = caller
        self.size = self._held = 0
        self.moved = 0.0  # when it last brought something, if it is its turn
        self.is_full = False

    def __repr__(self) -> str:
        return f"<Place [{self.size} bytes]>"

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    async def add(self, size: int) -> None:
        """Count so many bytes that have come, and return when more may come; raises `QueueFull`."""
        basin = self._basin
        basin.count(self, size)
        if basin.has_room(self):
            self.moved = basin.now()
        elif basin.is_far_over(self):
            raise basin.full()
        else:
            await basin.wait(self)

    async def came(self, size: int) -> None:
        """Count a body that came at one go, if it is a large one, and return when it may be read; raises `QueueFull`."""
        if size > LIGHT_BYTES:
            self.is_full = True
            await self.add(size)

    def fill(self) -> None:
        """All of it is here: it keeps its turn, if it has it, until it is released."""
        self.is_full = True

    def hold(self, size: int) -> None:
        """It is known what it asks: from now on its call holds so many bytes."""
        if size > HEAVY_BYTES:
            self._held = size
            self._basin.count_held(self.caller, size)
        self._leave()

    def release(self) -> None:
        """Count no longer."""
        self._leave()
        if self._held:
            held, self._held = self._held, 0
            self._basin.count_held(self.caller, -held)

    def _leave(self) -> None:
        if self.size:
            self._basin.count(self, -self.size)


class _Tiring:
    """Does something again and again, until it is cancelled."""

    __slots__ = ("_do", "_every_s", "_timer")

    def __init__(self, every_s: float, do: Callable[[], None]) -> None:
        self._every_s, self._do = every_s, do
        self._timer = asyncio.get_running_loop().call_later(every_s, self._ring)

    def _ring(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._every_s, self._ring)
        self._do()

    def cancel(self) -> None:
        self._timer.cancel()
