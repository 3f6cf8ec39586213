"""
The crowd: everything that waits in this process, counted in calls and bytes in one place, and bounded there.

    with crowd.waiting("turn", size=len(call.body)) as place:
        ...                      # QueueFull on entering if there is no room
        place.add(len(chunk))    # a body that comes in pieces; QueueFull again
        place.release()          # before the block ends; the end of the block finds nothing left to do

Who counts: a body that is being read, a follower of a flight, a call that waits for its turn or for one of upstream's slots,
and a call that is parked while its RPC waits. Each holds memory that no other bound holds. A call that is answered from the
cache, or that upstream is answering, does not count: `upstream.max_in_flight` bounds the latter.

The bounds are `schedule.max_waiting` and `schedule.max_waiting_bytes`. Whoever comes when they are reached is refused; whoever
waits already is not. But a caller that has less than its share of what may wait (an equal part for each caller that waits)
finds a tenth more: one that fills the crowd keeps no other out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from headrace import observe
from headrace.errors import QueueFull

Kind = Literal["reading", "following", "turn", "slot", "parked"]

_EXTRA = 10  # one part in so many, for those who have less than their share
_RETRY_AFTER_S = 1.0  # a guess: nobody knows when somebody leaves


@dataclass(frozen=True, slots=True)
class Share:
    """How many wait for one and the same thing, and the bytes of their bodies."""

    calls: int = 0
    bytes: int = 0


@dataclass(slots=True)
class _Own:
    """What waits of one caller."""

    calls: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class CrowdStats:
    """All that wait, and their shares by what they wait for; and of how many callers they are."""

    calls: int
    bytes: int
    by_kind: dict[Kind, Share]
    callers: int = 0


class Crowd:
    """
    Counts what waits.

    Args:
        max_calls, max_bytes: how much may wait at once.
    """

    def __init__(self, max_calls: int = 10_000, max_bytes: int = 512_000_000) -> None:
        self._max_calls, self._max_bytes = max_calls, max_bytes
        self._calls = dict.fromkeys(get_args(Kind), 0)
        self._bytes = dict.fromkeys(get_args(Kind), 0)
        self._all_calls = self._all_bytes = 0
        self._callers: dict[str, _Own] = {}

    def __repr__(self) -> str:
        return f"<Crowd [{self._all_calls} calls of {self._all_bytes} bytes]>"

    def stats(self) -> CrowdStats:
        """Return who waits now."""
        by_kind = {kind: Share(calls, self._bytes[kind]) for kind, calls in self._calls.items()}
        return CrowdStats(self._all_calls, self._all_bytes, by_kind, len(self._callers))

    def measure(self) -> None:
        """Let the gauges of waiting calls and bytes read from here."""
        observe.WAITING.read = lambda: self._all_calls
        observe.WAITING_BYTES.read = lambda: self._all_bytes

    def waiting(self, kind: Kind, *, calls: int = 1, size: int = 0, caller: str = "") -> Waiting:
        """
        Return a place for so many calls of *size* bytes in all; it counts once it is entered. Raises `QueueFull` then.

        *caller* is whose they are; "" if that is not known yet.
        """
        return Waiting(self, kind, calls, size, caller)

    def take(self, kind: Kind, calls: int, size: int, caller: str) -> None:
        """Count so much more, or raise `QueueFull`; for `Waiting`."""
        if not self._has_room(calls, size, caller):
            raise QueueFull(
                f"{self._all_calls} calls of {self._all_bytes} bytes wait already",
                retry_after_s=_RETRY_AFTER_S,
                metadata={"waiting": str(self._all_calls), "waiting_bytes": str(self._all_bytes)},
            )
        self.count(kind, calls, size, caller)

    def _has_room(self, calls: int, size: int, caller: str) -> bool:
        if self._all_calls + calls <= self._max_calls and self._all_bytes + size <= self._max_bytes:
            return True
        own, callers = self._callers.get(caller, _Own()), len(self._callers) + (caller not in self._callers)
        return (
            (own.calls + calls) * callers <= self._max_calls
            and (own.bytes + size) * callers <= self._max_bytes
            and self._all_calls + calls <= self._max_calls + self._max_calls // _EXTRA
            and self._all_bytes + size <= self._max_bytes + self._max_bytes // _EXTRA
        )

    def count(self, kind: Kind, calls: int, size: int, caller: str) -> None:
        """Count so much more, or less, whatever the bounds; for `Waiting`."""
        own = self._callers.get(caller)
        if own is None:
            own = self._callers[caller] = _Own()
        own.calls += calls
        own.bytes += size
        if not own.calls and not own.bytes:
            del self._callers[caller]
        self._calls[kind] += calls
        self._bytes[kind] += size
        self._all_calls += calls
        self._all_bytes += size


class Waiting:
    """A place in the crowd, for as long as the block lasts. It may be taken and given back any number of times."""

    __slots__ = ("_caller", "_calls", "_crowd", "_is_counted", "_kind", "_size")

    def __init__(self, crowd: Crowd, kind: Kind, calls: int, size: int, caller: str) -> None:
        self._crowd = crowd
        self._kind: Kind = kind
        self._caller = caller
        self._calls = calls
        self._size = size
        self._is_counted = False

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

    def release(self) -> None:
        """Count no longer."""
        if self._is_counted:
            self._is_counted = False
            self._crowd.count(self._kind, -self._calls, -self._size, self._caller)
