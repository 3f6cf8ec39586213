"""
The crowd: everything that waits in this process, counted in calls and bytes in one place, and bounded there.

    with crowd.waiting("turn", size=len(call.body)) as place:
        ...                      # QueueFull on entering if there is no room
        place.add(len(chunk))    # a body that comes in pieces; QueueFull again
        place.release()          # before the block ends; the end of the block finds nothing left to do

Who counts: a body that is being read, a follower of a flight, a call that waits for its turn or for one of upstream's slots,
and a call that is parked while its RPC waits. Each holds memory that no other bound holds. A call that is answered from the
cache, or that upstream is answering, does not count: `upstream.max_in_flight` bounds the latter.

The bounds are `schedule.max_waiting` and `schedule.max_waiting_bytes`, and of each a caller has its share (share.py). Whoever
comes when there is no room for it is refused; whoever waits already is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from headrace import observe
from headrace.errors import QueueFull
from headrace.share import Share

Kind = Literal["reading", "following", "turn", "slot", "parked"]

_RETRY_AFTER_S = 1.0  # a guess: nobody knows when somebody leaves


@dataclass(frozen=True, slots=True)
class Part:
    """How many wait for one and the same thing, and the bytes of their bodies."""

    calls: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class CrowdStats:
    """All that wait, and their parts by what they wait for; and of how many callers they are."""

    calls: int
    bytes: int
    by_kind: dict[Kind, Part]
    callers: int = 0


class Crowd:
    """
    Counts what waits.

    Args:
        max_calls, max_bytes: how much may wait at once.
        max_bytes_of_one: of one caller; by default all.
    """

    def __init__(self, max_calls: int = 10_000, max_bytes: int = 512_000_000, *, max_bytes_of_one: int | None = None) -> None:
        self._all_calls, self._all_bytes = Share(max_calls), Share(max_bytes, most_of_one=max_bytes_of_one)
        self._calls = dict.fromkeys(get_args(Kind), 0)
        self._bytes = dict.fromkeys(get_args(Kind), 0)

    def __repr__(self) -> str:
        return f"<Crowd [{self._all_calls.taken} calls of {self._all_bytes.taken} bytes]>"

    def stats(self) -> CrowdStats:
        """Return who waits now."""
        by_kind = {kind: Part(calls, self._bytes[kind]) for kind, calls in self._calls.items()}
        return CrowdStats(self._all_calls.taken, self._all_bytes.taken, by_kind, self._all_calls.stats().callers)

    def measure(self) -> None:
        """Let the gauges of waiting calls and bytes read from here."""
        observe.WAITING.read = lambda: self._all_calls.taken
        observe.WAITING_BYTES.read = lambda: self._all_bytes.taken

    def waiting(self, kind: Kind, *, calls: int = 1, size: int = 0, caller: str = "") -> Waiting:
        """
        Return a place for so many calls of *size* bytes in all; it counts once it is entered. Raises `QueueFull` then.

        *caller* is whose they are (`Owner.text`); "" if that is not known yet.
        """
        return Waiting(self, kind, calls, size, caller)

    def take(self, kind: Kind, calls: int, size: int, caller: str) -> None:
        """Count so much more, or raise `QueueFull`; for `Waiting`."""
        if not (self._all_calls.has_room(caller, calls) and self._all_bytes.has_room(caller, size)):
            waiting, waiting_bytes = self._all_calls.taken, self._all_bytes.taken
            raise QueueFull(
                f"{waiting} calls of {waiting_bytes} bytes wait already",
                retry_after_s=_RETRY_AFTER_S,
                metadata={"waiting": str(waiting), "waiting_bytes": str(waiting_bytes)},
            )
        self.count(kind, calls, size, caller)

    def count(self, kind: Kind, calls: int, size: int, caller: str) -> None:
        """Count so much more, or less, whatever the bounds; for `Waiting`."""
        self._calls[kind] += calls
        self._bytes[kind] += size
        self._all_calls.take(caller, calls)
        self._all_bytes.take(caller, size)


class Waiting:
    """A place in the crowd, for as long as the block lasts. It may be taken and given back any number of times."""

    __slots__ = ("_caller", "_calls", "_crowd", "_held", "_is_counted", "_kind", "_size")

    def __init__(self, crowd: Crowd, kind: Kind, calls: int, size: int, caller: str) -> None:
        self._crowd = crowd
        self._kind: Kind = kind
        self._caller = caller
        self._calls = calls
        self._size = size
        self._is_counted = False
        self._held: list[tuple[str, float]] = []

    def __enter__(self) -> Waiting:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def take(self) -> bool:
        """Count from now on, and return whether that is new; raises `QueueFull`."""
        if self._is_counted:
            return False
        self._crowd.take(self._kind, self._calls, self._size, self._caller)
        self._is_counted = True
        return True

    def become(self, kind: Kind) -> None:
        """Wait for something else from now on; nobody is refused for that."""
        if self._is_counted:
            self._crowd.count(self._kind, -self._calls, -self._size, self._caller)
            self._crowd.count(kind, self._calls, self._size, self._caller)
        self._kind = kind

    def add(self, size: int) -> None:
        """Count so many bytes more; raises `QueueFull`, and then counts what it did before."""
        if self._is_counted:
            self._crowd.take(self._kind, 0, size, self._caller)
        self._size += size

    def held_by(self, what: str, now: float) -> None:
        """Say what holds it from now on: a limit's name, or one of those in trail.py."""
        if not self._held or self._held[-1][0] != what:
            self._held.append((what, now))

    def held(self, until: float) -> list[tuple[str, float]]:
        """Return what held it, each time for how many seconds."""
        if not self._held:
            return []
        ends = [*(since for _, since in self._held[1:]), until]
        return [(what, max(0.0, end - since)) for (what, since), end in zip(self._held, ends, strict=True)]

    def release(self) -> None:
        """Count no longer."""
        if self._is_counted:
            self._is_counted = False
            self._crowd.count(self._kind, -self._calls, -self._size, self._caller)
