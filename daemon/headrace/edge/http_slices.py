"""
What the parser must not have at once: bodies in tiny chunks, each of which costs it as much as a large one.

Forty thousand of them come in one reading of the socket, and a hundred sockets are read in one turn of the loop. So what may be
such a body waits here, and is given to the parser a little at a time: a connection's next few kilobytes in its turn, and then
the loop's other work.

While there is more of it than that, it gets half the time at most. A loop that never waits leaves gRPC's thread no time to tell
it of calls: each word of that thread costs it a wait for the interpreter, and calls pile up there for seconds.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

SLICE_BYTES = 4096  # six hundred chunks of a byte each, a millisecond's work
_TURN_S = 0.004
_REST_S = 0.004  # after a turn that was not enough


class Sliced(Protocol):
    """A connection that has more than a slice."""

    def parse_slice(self) -> bool:
        """Give the parser the next slice, and return whether more is ready for it."""


class Slices:
    """Gives all such connections their turns."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[Sliced, None] = {}  # in their order
        self._is_due = False

    def __repr__(self) -> str:
        return f"<Slices [{len(self._waiting)} connections]>"

    def add(self, connection: Sliced) -> None:
        """Give a connection turns as long as it has slices; once is as good as twice."""
        self._waiting[connection] = None
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        ends = self._loop.time() + _TURN_S
        try:
            while self._waiting and self._loop.time() < ends:
                connection = next(iter(self._waiting))
                del self._waiting[connection]
                if connection.parse_slice():
                    self._waiting[connection] = None
        finally:
            self._is_due = bool(self._waiting)
            if self._is_due:
                self._loop.call_later(_REST_S, self._run)
