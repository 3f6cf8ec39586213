"""
The last quarter of an hour in bins of five seconds: how full buckets were, and what was refused meanwhile. Pure, and bounded.

It is kept in the memory of each process and not in Redis: there it would cost writes all day for the few who look, and what
a process saw is asked of it anyway when somebody does (survey.py). So history begins anew with a process, and what another
one saw is there still.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping

import msgspec

BIN_S = 5
BINS = 180
MOST_BUCKETS = 200
_MOST_MARKS = 200  # kinds of marks in one bin
UNKNOWN = -1

REFUSED, LIMITED = "refused", "limited"


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """
    Something that happened so often in a bin.

    Args:
        kind: "refused" by a limit, or "limited": upstream said 429.
        limit: which refused; "" of upstream.
    """

    kind: str
    limit: str
    caller: str
    model_class: str
    count: int = 1


class Bin(msgspec.Struct, array_like=True):
    """Five seconds: by bucket the share that was used, in percent; and the marks."""

    number: int
    used: dict[str, int] = {}
    marks: list[Mark] = []


def number_of(moment: float) -> int:
    """Return the bin that a moment (Unix seconds) is in."""
    return int(moment // BIN_S)


class Bins:
    """What one process saw."""

    def __init__(self) -> None:
        self._bins: deque[tuple[int, dict[str, int], Counter[tuple[str, str, str, str]]]] = deque(maxlen=BINS)

    def __repr__(self) -> str:
        return f"<Bins [{len(self._bins)} of {BINS}]>"

    def sample(self, now: float, used: Mapping[str, int]) -> None:
        """Take in how full buckets are."""
        into = self._at(now)[1]
        for bucket, percent in used.items():
            if bucket in into or len(into) < MOST_BUCKETS:
                into[bucket] = max(percent, into.get(bucket, UNKNOWN))

    def mark(self, now: float, kind: str, *, limit: str = "", caller: str = "", model_class: str = "") -> None:
        """Take in that something happened."""
        marks, key = self._at(now)[2], (kind, limit, caller, model_class)
        if key not in marks and len(marks) >= _MOST_MARKS:
            key = (kind, limit, "", "")
        marks[key] += 1

    def _at(self, now: float) -> tuple[int, dict[str, int], Counter[tuple[str, str, str, str]]]:
        number = number_of(now)
        if not self._bins or self._bins[-1][0] < number:
            self._bins.append((number, {}, Counter()))
        return self._bins[-1]

    def since(self, number: int) -> list[Bin]:
        """Return the bins from this number on."""
        return [
            Bin(at, dict(used), [Mark(*key, count) for key, count in marks.items()])
            for at, used, marks in self._bins
            if at >= number
        ]


class History:
    """What all processes saw, put together by the one that is asked."""

    def __init__(self) -> None:
        self._told: dict[int, dict[str, Bin]] = {}  # by number, then by process
        self._merged: dict[int, Bin] = {}

    def __repr__(self) -> str:
        return f"<History [{len(self._told)} bins]>"

    def learn(self, daemon: str, bins: Iterable[Bin]) -> None:
        """Take in what a process told; of a bin that it told before, the latest word holds."""
        for each in bins:
            self._told.setdefault(each.number, {})[daemon] = each
            self._merged.pop(each.number, None)

    def forget(self, now: float) -> None:
        """Drop what is too old."""
        oldest = number_of(now) - BINS
        for number in [each for each in self._told if each <= oldest]:
            del self._told[number]
            self._merged.pop(number, None)

    def window(self, now: float) -> list[Bin | None]:
        """Return the bins up to now, the eldest first; None where nobody told one."""
        last = number_of(now)
        return [self._at(number) for number in range(last - BINS + 1, last + 1)]

    def _at(self, number: int) -> Bin | None:
        told = self._told.get(number)
        if told is None:
            return None
        if number not in self._merged:
            self._merged[number] = _merge(number, told.values())
        return self._merged[number]


def _merge(number: int, bins: Iterable[Bin]) -> Bin:
    # Who has not drawn from a bucket for a while takes it to be fuller than it is, so the one that thinks least of it is right.
    used: dict[str, int] = {}
    marks: Counter[tuple[str, str, str, str]] = Counter()
    for each in bins:
        for bucket, percent in each.used.items():
            used[bucket] = max(percent, used.get(bucket, UNKNOWN))
        for mark in each.marks:
            marks[mark.kind, mark.limit, mark.caller, mark.model_class] += mark.count
    return Bin(number, used, [Mark(*key, count) for key, count in marks.items()])
