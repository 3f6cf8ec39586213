"""
The audit stream, read: what one bucket granted, and what came back to it.

The promise is about what is reserved, so what a hold gives back before it was used counts against its grant: another may
take it in the same window. Whether it came back once, and no more than was granted, is looked at hold by hold: else a
bucket that is filled twice by one give-back would look whole. A debt is no grant, and is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import redis

from headrace import keys

AUDIT = "audit"


@dataclass(frozen=True)
class Move:
    """What one hold took from a bucket at a time of Redis's; tokens below zero came back, of a stream *part* by part."""

    at_us: int
    hold: str
    tokens: int
    part: str = ""


@dataclass(frozen=True)
class Audit:
    """All moves of one bucket, in the order in which they happened."""

    moves: tuple[Move, ...]

    @property
    def grants(self) -> list[Move]:
        """What was granted, whatever became of it."""
        return [move for move in self.moves if move.tokens > 0]

    @property
    def net(self) -> list[tuple[int, int]]:
        """Time (us) and tokens of every move, as `windows` wants them."""
        return [(move.at_us, move.tokens) for move in self.moves]

    @property
    def until_last_grant(self) -> list[tuple[int, int]]:
        """The same, less what came back when nobody wanted it any more."""
        last = max(index for index, move in enumerate(self.moves) if move.tokens > 0)
        return self.net[: last + 1]

    @property
    def seconds(self) -> float:
        """How long it was from the first grant to the last."""
        return (self.grants[-1].at_us - self.grants[0].at_us) / 1e6

    @property
    def kept(self) -> list[Move]:
        """The grants of which something stayed taken."""
        left = self._left()
        return [move for move in self.grants if left[move.hold] > 0]

    def unsound(self) -> list[str]:
        """Return what cannot be: holds granted twice, or that gave back twice, before their grant, or more than it."""
        wrong, granted, closed = [], dict[str, int](), set[tuple[str, str]]()
        for move in self.moves:
            if move.tokens > 0:
                if move.hold in granted:
                    wrong.append(f"{move.hold} was granted twice")
                granted[move.hold] = move.tokens
            else:
                if (move.hold, move.part) in closed:
                    wrong.append(f"{move.hold} gave back twice")
                left = granted.get(move.hold, 0)
                if -move.tokens > left:
                    wrong.append(f"{move.hold} gave back {-move.tokens} of {left}")
                closed.add((move.hold, move.part))
                if move.hold in granted:
                    granted[move.hold] = left + move.tokens
        return wrong

    def _left(self) -> dict[str, int]:
        left: dict[str, int] = {}
        for move in self.moves:
            left[move.hold] = left.get(move.hold, 0) + move.tokens
        return left


def read(url: str, kind: str) -> Audit:
    """Return what the audit stream says of the bucket of this kind of limit "org"."""
    bucket = keys.bucket(f"org:{kind}").encode()
    with redis.Redis.from_url(url) as client:
        entries = [entry for _, entry in client.xrange(AUDIT) if entry[b"bucket"] == bucket]
    return Audit(tuple(_moves(entries)))


def _moves(entries: Iterable[dict[bytes, bytes]]) -> Iterable[Move]:
    owed: dict[str, int] = {}
    for entry in entries:
        hold, _, part = entry[b"hold"].decode().partition("|told")
        at_us, back = int(entry[b"at_us"]), int(entry.get(b"back", 0))
        if b"cost" in entry:
            yield Move(at_us, hold, int(entry[b"cost"]))
        elif back < 0:
            owed[hold] = owed.get(hold, 0) - back
        else:  # a debt that a stream had taken too much comes back first
            paid = min(back, owed.get(hold, 0))
            owed[hold] = owed.get(hold, 0) - paid
            if back > paid:
                yield Move(at_us, hold, paid - back, part)
