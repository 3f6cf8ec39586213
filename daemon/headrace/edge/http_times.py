"""
How long a connection may take over what it does: to say its head, to go on with its body, to take its answer.

A head has one time for all of it. A body, and an answer, may last for hours; but so many seconds long without as much as a
few kilobytes on their way, and nobody is there any more, or somebody holds on to what others wait for.
"""

from __future__ import annotations

from dataclasses import dataclass

_LEAST_PARTS = 120  # of what waits to be taken one in so many is, between two looks
_LEAST_BYTES = 16_384  # in each span: a line of 5 kbit/s does that


@dataclass(frozen=True, slots=True)
class Times:
    """
    All in seconds.

    Args:
        head_s: from the connection, or from a head's first byte, to its end.
        body_s: for the next 16 KiB of a body.
        write_s: for the next 16 KiB of an answer.
        idle_s: between two requests.
    """

    head_s: float = 10.0
    body_s: float = 30.0
    write_s: float = 60.0
    idle_s: float = 3600.0


class Pace:
    """Whether enough of something goes by."""

    __slots__ = ("_bytes", "_since")

    def __init__(self) -> None:
        self._since: float | None = None
        self._bytes = 0

    def __repr__(self) -> str:
        return "<Pace [at rest]>" if self._since is None else f"<Pace [since {self._since:.1f}: {self._bytes} bytes]>"

    def rest(self) -> None:
        """Nothing is due to go by at present."""
        self._since = None

    def is_too_slow(self, now: float, gone_by: int, within_s: float) -> bool:
        """Return whether too little went by for too long; *gone_by* are all bytes so far."""
        if self._since is None or gone_by - self._bytes >= _LEAST_BYTES:
            self._since, self._bytes = now, gone_by
        return now - self._since >= within_s


class Taking(Pace):
    """
    How an answer is taken.

    Args:
        stuck_bytes: that wait, if hardly any were taken between the last two looks.
    """

    __slots__ = ("_gone_by", "stuck_bytes")

    def __init__(self) -> None:
        super().__init__()
        self.stuck_bytes = self._gone_by = 0

    def see(self, gone_by: int, waiting: int) -> None:
        """Take note, at each look, of how many bytes are gone by so far and how many wait."""
        is_stuck = gone_by - self._gone_by < waiting / _LEAST_PARTS
        self.stuck_bytes, self._gone_by = waiting * is_stuck, gone_by
