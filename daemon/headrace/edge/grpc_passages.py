"""
Messages on their way over gRPC, in one direction, by the connection over which they go.

How far a message is nobody knows, but how far its connection is: bytes that came over it, for one that comes; that were taken,
for one that goes. So a look costs by connection, and by message only for those that are new since the last one: thousands may
wait over one connection. Of these the eldest is late first.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from headrace.edge.tcp_lines import Peer
from headrace.errors import HeadraceError

Task = asyncio.Task[Any] | None
Peered = Callable[[Any], Peer | None]
SoFar = Callable[[Peer | None], int]

_LITTLE_BYTES = 1024  # that is no progress: answers to pings come and go
_SLOW = 10  # times as long as a message may be silent, it may take


@dataclass(slots=True, eq=False)
class Passage:
    """
    A message on its way.

    Args:
        since: when somebody looked first, in seconds of the loop's clock.
        before: how far its connection was then.
        error: what it was given up with.
    """

    peer: Peer | None
    task: Task
    since: float
    before: int
    error: HeadraceError | None = None

    def end(self, error: HeadraceError) -> None:
        """Give it up: its call ends with the error."""
        if self.error is None and self.task is not None:
            self.error = error
            self.task.cancel()


@dataclass(slots=True, eq=False)
class Course:
    """
    All messages of one connection.

    Args:
        so_far: how far it was, when it last went on.
        moved: when that was.
        passages: by their calls' contexts, the eldest first.
    """

    so_far: int
    moved: float
    passages: dict[Any, Passage] = field(default_factory=dict)

    def see(self, now: float, so_far: int) -> None:
        """Take note of how far it is."""
        if so_far - self.so_far > _LITTLE_BYTES:
            self.so_far, self.moved = so_far, now

    def late(self, now: float, patience_s: float) -> Iterator[Passage]:
        """Yield those that have not gone on for so long, or have taken far too long altogether."""
        for one in self.passages.values():
            if now - max(one.since, self.moved) <= patience_s and now - one.since <= _SLOW * patience_s:
                return
            yield one

    def stale(self, since: float) -> int:
        """Return how many of them somebody saw before a moment."""
        return sum(1 for _ in itertools.takewhile(lambda one: one.since < since, self.passages.values()))

    def size(self, so_far: int) -> int:
        """Return how many bytes may have come of those that are wanted yet: since the eldest of them was seen."""
        eldest = next((one for one in self.passages.values() if one.error is None), None)
        return 0 if eldest is None else so_far - eldest.before


class Passages:
    """
    All messages in one direction.

    Args:
        peered: finds the peer of a call's context; None for one on a unix socket.
    """

    def __init__(self, peered: Peered) -> None:
        self.new: dict[Any, Task] = {}  # that nobody has looked at: a hit's is put here, and taken from here, and that is all
        self.courses: dict[Peer | None, Course] = {}
        self._known: dict[Any, Passage] = {}
        self._peered = peered

    def __repr__(self) -> str:
        return f"<Passages [{len(self)} over {len(self.courses)} connections]>"

    def __len__(self) -> int:
        return len(self.new) + len(self._known)

    def look(self, now: float, so_far: SoFar) -> None:
        """Take note of those that are new, and of how far all connections are; *so_far* says it of a peer's."""
        for peer, course in self.courses.items():
            course.see(now, so_far(peer))
        for context, task in self.new.items():
            peer = self._peered(context)
            passage = self._known[context] = Passage(peer, task, now, so_far(peer))
            self.courses.setdefault(peer, Course(passage.before, now)).passages[context] = passage
        self.new.clear()

    def of(self, context: Any) -> Passage | None:
        """Return what is known of a message, if anybody has looked at it."""
        return self._known.get(context)

    def over(self, context: Any) -> None:
        """Forget a message that is no longer on its way."""
        if self.new.pop(context, self) is self:
            passage = self._known.pop(context)
            course = self.courses[passage.peer]
            del course.passages[context]
            if not course.passages:
                del self.courses[passage.peer]
