"""
The buckets of a rehearsal and the lines before them: one ledger for all daemons, driven by events. Pure.

The rules are those of budget/ledger.py, and the sums those of bucket.py and rank.py. What is different is how they are found:
the ledger looks at a line when somebody asks, and whoever waits asks again and again; here nobody asks twice in vain. A line
says when its first may go (`alarm`), and whoever gives something back stirs the line. So a call that waits costs a few
look-ups, however long it does, and hours go by in seconds. The answers are held against those of `MemoryLedger`.

Only one call of each flow stands in the lines (queues.py), as the best of its flow asks for a daemon; the others are behind it.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from headrace.budget.bucket import UNITS, Bucket, Window
from headrace.budget.ledger import BEHIND_US, PERMIT_US
from headrace.budget.pulse import LEASE_US
from headrace.budget.want import Form, Want
from headrace.rank import Fair, Flow, correction, together

_FAIR_US = LEASE_US + 1_000_000  # so long a line's clock outlasts whoever stood there last


class Wanting(Protocol):
    """What is needed of a call that asks."""

    @property
    def wants(self) -> tuple[Want, ...]: ...


W = TypeVar("W", bound=Wanting)


@dataclass(slots=True)
class Charge:
    """What a flow was charged for a call (us), for how much of which of its wants, and in which lines."""

    us: int
    index: int
    basis: int
    lines: Sequence[Line] = ()


class Line:
    """One bucket, and who stands before it. `alarm_us` is when it is looked at next (0: not by itself)."""

    __slots__ = ("alarm_us", "bucket", "fair", "fair_until_us", "in_use", "lent", "loans", "places", "unit", "want")

    def __init__(self, want: Want, now_us: int) -> None:
        self.want = want
        self.unit = UNITS if want.form is Form.RATE else 1
        self.bucket: Bucket | Window | None = None
        if want.form is Form.RATE:
            self.bucket = Bucket(want.rate_per_minute, want.capacity * UNITS, want.capacity * UNITS, now_us)
        elif want.form is Form.WINDOW:
            self.bucket = Window(want.capacity, want.ends_us)
        self.in_use = 0  # permits
        self.places: list[tuple[int, int, int, Place[Any]]] = []  # by rank and number; with what they want
        self.fair: Fair | None = None
        self.fair_until_us = self.alarm_us = 0
        self.lent = 0  # tokens that daemons have borrowed, by lending.py
        self.loans: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Line {self.want.bucket_id} [{len(self.places)} standing]>"

    def fits(self, cost: int, now_us: int, headroom: int = 0) -> bool:
        """Whether so much is there, and so many units beside."""
        if self.bucket is None:
            return self.in_use + cost <= self.want.capacity
        self.bucket.flow(now_us)
        return self.bucket.level >= cost * self.unit + headroom

    def headroom(self, place: Place[Any], cost: int, now_us: int) -> int:
        """Return how many units a place leaves to other lanes, as rank.py says."""
        if not isinstance(self.bucket, Bucket) or not self.places or self.fair is None:
            return 0
        after = max([rank for rank, *_ in self.places[: _index(self, place)]], default=0)
        room, rate = self.bucket.capacity - cost * self.unit, self.bucket.rate
        return self.fair.headroom(place.flow, place.rank, after, now_us, rate=rate, room=room)

    def wait_us(self, tokens: int, now_us: int, headroom: int = 0) -> int:
        """Return how long until so many tokens are there, and so many units beside; of permits nobody knows."""
        if self.bucket is None:
            return PERMIT_US
        self.bucket.flow(now_us)
        wait_us = self.bucket.wait_us(tokens * self.unit + headroom, now_us) or BEHIND_US
        return max(wait_us, BEHIND_US) if self.want.form is Form.WINDOW else wait_us

    def take(self, tokens: int) -> None:
        """Take tokens that are there."""
        if self.bucket is None:
            self.in_use += tokens
        else:
            self.bucket.take(tokens * self.unit)

    def give_back(self, tokens: int, now_us: int) -> None:
        """Give tokens back; below zero: take more, as debt."""
        if self.bucket is None:
            self.in_use -= tokens
        else:
            self.bucket.flow(now_us)
            self.bucket.give_back(tokens * self.unit)


@dataclass(slots=True, eq=False)
class Place(Generic[W]):
    """
    A place in some of the lines of the buckets that a call wants.

    Args:
        waiting: the call that has it; a more urgent one of the same flow may take it over.
        number: tells equals apart; who came first goes first.
        ends_us: when the first of its windows ends, and its wants with it; 0 if none does.
        standing: the lines in which it stands.
    """

    waiting: W
    flow: Flow
    lines: tuple[Line, ...]
    number: int
    ends_us: int = 0
    rank: int = 0
    charge: Charge | None = None
    standing: list[Line] = field(default_factory=list)

    @property
    def wants(self) -> tuple[Want, ...]:
        return self.waiting.wants


class Lines(Generic[W]):
    """
    All lines.

    Args:
        called: told of each place that is first in line and fits there, for it to ask; after whatever stirred the line.
        alarm: told of each line that is to be looked at, and when (us).
    """

    def __init__(self, called: Callable[[Place[W], int], None], alarm: Callable[[int, Line], None]) -> None:
        self._called = called
        self._alarm = alarm
        self._lines: dict[str, Line] = {}
        self._stirred: list[Line] = []
        self._is_looking = False

    def __repr__(self) -> str:
        return f"<Lines [{len(self._lines)} buckets, {sum(len(line.places) for line in self._lines.values())} standing]>"

    def all(self) -> Mapping[str, Line]:
        """Return the lines by the ids of their buckets."""
        return self._lines

    def of(self, wants: Sequence[Want], now_us: int) -> tuple[Line, ...]:
        """Return the lines of the buckets that are wanted."""
        return tuple(self._line(want, now_us) for want in wants)

    def _line(self, want: Want, now_us: int) -> Line:
        line = self._lines.get(want.bucket_id)
        if line is None:
            line = self._lines[want.bucket_id] = Line(want, now_us)
        return line

    # Asking.

    def ask(self, place: Place[W], now_us: int) -> int:
        """Take all that a place wants and return 0; or let it stand, and return how long it will wait (us; 1: nobody knows)."""
        wants, lines = place.wants, place.lines
        crowded = [line for line in lines if line.places]
        if crowded and not place.rank:
            place.rank = _start(crowded, place.flow, now_us)
        blocking = [
            not line.fits(
                (_before(line, place) if line.places else 0) + want.cost, now_us, line.headroom(place, want.cost, now_us)
            )
            for want, line in zip(wants, lines, strict=True)
        ]
        if True not in blocking:
            self._take(place, crowded, now_us)
            return 0
        return self._stand(place, blocking, now_us)

    def _take(self, place: Place[W], crowded: Sequence[Line], now_us: int) -> None:
        for want, line in zip(place.wants, place.lines, strict=True):
            line.take(want.cost)
        if not crowded:  # nobody waits, so nobody is charged
            return
        if place.charge is None:
            place.charge = _charge(place, max(crowded, key=lambda line: place.wants[place.lines.index(line)].span_us))
            for line in crowded:
                _clock(line).add(place.flow, place.rank, place.charge.us, now_us)
            charged = list(crowded)
        else:
            charged = place.standing
        for line in charged:
            _remove(line, place)
            line.fair_until_us = now_us + _FAIR_US
            _clock(line).serve(min(place.rank, line.places[0][0]) if line.places else place.rank)
        place.charge.lines, place.standing = charged, []
        self._stir(place.lines)

    def _stand(self, place: Place[W], blocking: Sequence[bool], now_us: int) -> int:
        wants, lines = place.wants, place.lines
        blocked = [line for line, is_blocking in zip(lines, blocking, strict=True) if is_blocking]
        joining = [line for line in blocked if line not in place.standing]
        if joining and not place.rank:
            place.rank = _start(blocked, place.flow, now_us)
        elif joining:
            _together(blocked, now_us)
        waits_us = [
            _wait_us(line, place, want.cost, now_us) if is_blocking else -1
            for want, line, is_blocking in zip(wants, lines, blocking, strict=True)
        ]
        longest = waits_us.index(max(waits_us))
        place.charge = place.charge or _charge(place, lines[longest])
        for line in joining:
            _clock(line).add(place.flow, place.rank, place.charge.us, now_us)
            bisect.insort(line.places, (place.rank, place.number, wants[lines.index(line)].cost, place))
        self._stir([line for line in joining if line.places[0][3] is not place])  # the first may have to leave less to others
        for line in blocked:
            line.fair_until_us = now_us + _FAIR_US
        left = [line for line in place.standing if line not in blocked]
        place.standing = blocked
        for line in left:
            self._leave(line, place, place.charge)
        for want, line in zip(wants, lines, strict=True):
            if line in blocked and line.places[0][3] is place:
                self._wake(line, place, want.cost, now_us)
        return waits_us[longest] if lines[longest].bucket is not None else 1

    def _wake(self, line: Line, place: Place[W], cost: int, now_us: int) -> None:
        if line.bucket is None:
            return  # whoever gives a permit back stirs it
        at_us = now_us + _wait_us(line, place, cost, now_us)
        if not line.alarm_us or at_us < line.alarm_us:
            line.alarm_us = at_us
            self._alarm(at_us, line)

    def take_over(self, place: Place[W], waiting: W) -> W:
        """Let a more urgent call have a place; return who had it."""
        place.waiting, other = waiting, place.waiting
        for line in place.standing:
            _remove(line, place)
            bisect.insort(line.places, (place.rank, place.number, place.wants[place.lines.index(line)].cost, place))
        return other

    # Giving back, and leaving.

    def give_up(self, place: Place[W]) -> None:
        """Leave all lines without a grant: its flow takes back what it was charged."""
        standing, place.standing = place.standing, []
        for line in standing:
            if place.charge is not None:
                self._leave(line, place, place.charge)

    def _leave(self, line: Line, place: Place[W], charge: Charge) -> None:
        _remove(line, place)
        _clock(line).correct(place.flow, -charge.us)
        self._stir((line,))

    def give_back(self, place: Place[W], back: Sequence[int], now_us: int) -> None:
        """
        Replace what a place took by what was used: give back so much of each want (`ledger.given_back`), and permits.

        Below zero more was used than was taken, and the bucket has that as debt.
        """
        for want, line, tokens in zip(place.wants, place.lines, back, strict=True):
            line.give_back(want.cost if line.bucket is None else tokens, now_us)
        if (charge := place.charge) is not None:
            # What a call has paid for is what it took, which may be more than what the place was charged for.
            cost = place.wants[charge.index].cost
            more = correction(charge.us, charge.basis - cost + back[charge.index], charge.basis)
            for line in charge.lines if more else ():
                if line.fair is not None:
                    line.fair.correct(place.flow, more)
        self._stir(place.lines)

    # Who comes next.

    def stir(self, line: Line) -> None:
        """Something came back to a bucket: `look` has its first asked."""
        self._stir((line,))

    def _stir(self, lines: Sequence[Line]) -> None:
        for line in lines:
            if line.places:
                self._stirred.append(line)

    def look(self, now_us: int, line: Line | None = None) -> None:
        """Call whoever is first in a stirred line and fits there; and in *line*, whose alarm rings."""
        if line is not None:
            if line.alarm_us > now_us:
                return  # another alarm came before this one
            line.alarm_us = 0
            self._stir((line,))
        if self._is_looking:
            return  # whoever looks already will see it
        self._is_looking = True
        while self._stirred:
            self._look(self._stirred.pop(), now_us)
        self._is_looking = False

    def _look(self, line: Line, now_us: int) -> None:
        if not line.places:
            return
        _, _, cost, first = line.places[0]
        if line.fits(cost, now_us, line.headroom(first, cost, now_us)) or (first.ends_us and first.ends_us <= now_us):
            self._called(first, now_us)
        else:
            self._wake(line, first, cost, now_us)


def _before(line: Line, place: Place[Any]) -> int:
    """Return what those before a place want of a line's bucket."""
    return sum([cost for _, _, cost, _ in line.places[: _index(line, place)]])


def _wait_us(line: Line, place: Place[Any], cost: int, now_us: int) -> int:
    return line.wait_us(_before(line, place) + cost, now_us, line.headroom(place, cost, now_us))


def _index(line: Line, place: Place[Any]) -> int:
    return bisect.bisect_left(line.places, (place.rank, place.number))


def _remove(line: Line, place: Place[Any]) -> None:
    at = _index(line, place)
    if at < len(line.places) and line.places[at][3] is place:
        del line.places[at]


def _charge(place: Place[Any], line: Line) -> Charge:
    index = place.lines.index(line)
    want = place.wants[index]
    return Charge(_clock(line).charge(place.flow, want.span_us), index, want.cost)


def _start(lines: Sequence[Line], flow: Flow, now_us: int) -> int:
    return max([clock.start(flow) for clock in _together(lines, now_us)])


def _together(lines: Sequence[Line], now_us: int) -> list[Fair]:
    for line in lines:
        if line.fair_until_us <= now_us and not line.places:
            line.fair = None
    latest = max([line.fair.clock for line in lines if line.fair is not None], default=now_us)
    for line in lines:
        line.fair = line.fair or Fair(latest)
    clocks = [_clock(line) for line in lines]
    together(clocks)
    return clocks


def _clock(line: Line) -> Fair:
    if line.fair is None:
        raise AssertionError("a line in which somebody stands has a clock")
    return line.fair
