"""
The connections of one port: how many there may be, in all and from one address, and which of them give way.

Every connection holds a descriptor and some memory before anybody knows whose it is. So there are never more than the process
has descriptors for, with as many left for all else. Where a newcomer finds no room, those that have been idle longest give it
theirs, of its own address if that has too many: whoever opens connections and asks nothing keeps nobody out. If none is idle,
the newcomer is refused.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

_REST_S = 0.02  # between two searches: each looks at all connections
_INTAKE_BYTES = 16_000_000  # the library holds each three times over


class Idle(Protocol):
    """A connection, as far as making room is concerned."""

    @property
    def peer(self) -> str: ...

    def idle_since(self) -> float | None:
        """Return since when it has nothing to do, on the loop's clock; None if it has."""

    def give_way(self) -> None:
        """Close."""


@dataclass(frozen=True, slots=True)
class ConnectionsStats:
    """
    How it stands.

    Args:
        open, peers, most: connections, the addresses that they come from, and how many there may be.
        gave_way: how many had to, so far.
        intake_bytes: of heads that have begun and not ended.
    """

    open: int
    peers: int
    most: int
    gave_way: int
    intake_bytes: int


class Connections:
    """
    Counts connections, and makes room.

    Args:
        most, most_per_peer: how many there may be, in all and from one address.
        now: the loop's clock.
    """

    def __init__(self, most: int, most_per_peer: int, *, now: Callable[[], float]) -> None:
        self.most, self._most_per_peer = most, most_per_peer
        self._now = now
        self._open: set[Idle] = set()
        self._by_peer: Counter[str] = Counter()
        self._idle: dict[str | None, deque[tuple[float, Idle]]] = {}  # as the last searches found them
        self._searched_at = -_REST_S
        self._gave_way = self._intake_bytes = 0

    def __repr__(self) -> str:
        said = self.stats()
        return f"<Connections [{said.open} of {said.most} from {said.peers} addresses]>"

    def stats(self) -> ConnectionsStats:
        """Return how it stands."""
        return ConnectionsStats(len(self._open), len(self._by_peer), self.most, self._gave_way, self._intake_bytes)

    def enter(self, connection: Idle) -> bool:
        """Count one more, if there is room for it, and return whether there is."""
        peer = connection.peer
        is_full, is_many = len(self._open) >= self.most, self._by_peer[peer] >= self._most_per_peer
        if (is_full or is_many) and not self._make_room(peer if is_many else None):
            return False
        self._open.add(connection)
        self._by_peer[peer] += 1
        return True

    def leave(self, connection: Idle) -> None:
        """Count one less; one that was not counted changes nothing."""
        if connection in self._open:
            self._open.discard(connection)
            self._by_peer[connection.peer] -= 1
            if not self._by_peer[connection.peer]:
                del self._by_peer[connection.peer]
            if 2 * len(self._open) < self.most:
                self._idle.clear()  # there is room again, and nobody need remember who closed long ago

    def take_in(self, size: int) -> bool:
        """Count so many bytes more, or less, of heads that have not ended, and return whether there is room for them."""
        self._intake_bytes += size
        return self._intake_bytes <= _INTAKE_BYTES

    def _make_room(self, peer: str | None) -> bool:
        # Each newcomer has the room of one that is idle. They were found together, so that looking for them is rare.
        if self._has_given_way(peer):
            return True
        now = self._now()
        if now - self._searched_at < _REST_S:
            return False
        self._searched_at = now
        idle = [(since, one) for one in self._open if peer in (None, one.peer) and (since := one.idle_since()) is not None]
        idle.sort(key=lambda pair: pair[0])
        self._idle[peer] = deque(idle)
        return self._has_given_way(peer)

    def _has_given_way(self, peer: str | None) -> bool:
        found = self._idle.get(peer, deque())
        while found:
            since, one = found.popleft()
            if one in self._open and one.idle_since() == since:  # as it was when it was found
                one.give_way()
                self.leave(one)
                self._gave_way += 1
                return True
        self._idle.pop(peer, None)
        return False
