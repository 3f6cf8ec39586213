"""
The lines of the buckets of this process's own ledger (memory.py): who waits for what, with which rank, and what its flow is
charged. Line.lua and reserve.lua do the same; what for, rank.py says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from headrace.budget import pulse
from headrace.budget.bucket import PAST_END_US, Bucket, Window
from headrace.budget.gate import Gate
from headrace.budget.want import Want
from headrace.rank import Fair, Flow, together


@dataclass(frozen=True, slots=True)
class Charge:
    """What a flow was charged for a call (us), for how much of which of its wants, and in the lines of which buckets."""

    flow: Flow
    us: int
    index: int
    basis: int
    cost: int = 0
    bucket_ids: tuple[str, ...] = ()


Standing = tuple[int, Charge]
"""The rank of a call that waits and what its flow is charged for it: with these it comes back if it was dropped."""


@dataclass(slots=True)
class Place:
    """A place in one line; the cost is in tokens."""

    waiter: str
    rank: int
    until_us: int
    cost: int
    charge: Charge

    @property
    def order(self) -> tuple[int, str]:
        return self.rank, self.waiter


@dataclass(slots=True)
class State:
    """One bucket (or the permits of one concurrency bucket, by lease end, or a gate) and its line."""

    bucket: Bucket | Window | None = None
    gate: Gate | None = None
    permits: dict[str, int] = field(default_factory=dict)
    line: dict[str, Place] = field(default_factory=dict)
    fair: Fair | None = None
    fair_until_us: int = 0

    def leave(self, waiter: str) -> bool:
        """Take a place out that has not been granted: its flow takes back what it was charged. Return whether it was there."""
        place = self.line.pop(waiter, None)
        if place is not None and self.fair is not None:
            self.fair.correct(place.charge.flow, -place.charge.us)
        return place is not None

    def ahead(self, order: tuple[int, str]) -> list[Place]:
        """Return those who stand before a place, in order."""
        return sorted([place for place in self.line.values() if place.order < order], key=lambda place: place.order)

    def headroom(self, flow: Flow, rank: int, after: int, cost: int, now_us: int) -> int:
        """Return how many units a call leaves to other lanes, as rank.py says; *after* is the rank before its own."""
        if not isinstance(self.bucket, Bucket) or not self.line or self.fair is None or self.fair_until_us <= now_us:
            return 0
        room = self.bucket.capacity - cost
        return self.fair.headroom(flow, rank, after, now_us, rate=self.bucket.rate, room=room)

    def is_behind_other(self, waiter: str) -> bool:
        """Whether the first who stands here is of another lane than this one."""
        first, place = min(self.line.values(), key=lambda place: place.order), self.line[waiter]
        lanes = [(flow.lane, flow.share) for flow in (first.charge.flow, place.charge.flow)]
        return lanes[0] != lanes[1]

    def drop_lapsed(self, lapsed_us: int) -> None:
        """Let go of the permits and places whose leases ended by a moment."""
        for hold_id in [hold_id for hold_id, until_us in self.permits.items() if until_us <= lapsed_us]:
            del self.permits[hold_id]
        for place in [place for place in self.line.values() if place.until_us <= lapsed_us]:
            self.leave(place.waiter)

    def is_blank(self, now_us: int) -> bool:
        if isinstance(self.bucket, Window) and now_us >= self.bucket.ends_us + PAST_END_US:
            return True
        is_idle = not self.permits and not self.line and self.gate is None and self.fair_until_us <= now_us
        return is_idle and (self.bucket is None or self.bucket.is_full)


class Asking:
    """One call that asks: its rank, and what its flow is charged, as rank.py says."""

    def __init__(
        self,
        wants: Sequence[Want],
        states: Sequence[State],
        waiter: str,
        flow: Flow,
        now_us: int,
        standing: Standing | None,
    ) -> None:
        self.wants, self.states, self.waiter, self.now_us = wants, states, waiter, now_us
        self.flow = flow
        self._lines = [index for index, state in enumerate(states) if state.line]
        places = [state.line[waiter] for state in states if waiter in state.line]
        if places:
            standing = places[-1].rank, places[-1].charge
        elif standing and self._lines:
            self._together(self._lines)
        self.rank = standing[0] if standing else self._start(self._lines)
        self._charge = standing[1] if standing else None

    def join(self, blocking: Sequence[bool], longest: int) -> Standing:
        """Stand in the lines of the buckets that block it; return with what."""
        blocked = [index for index, is_blocking in enumerate(blocking) if is_blocking]
        joining = [index for index in blocked if self.waiter not in self.states[index].line]
        if joining and not self.rank:
            self.rank = self._start(blocked)
        elif joining:
            self._together(blocked)
        charge = self._charge or self._charge_for(longest)
        for index in joining:
            self._fair(index).add(self.flow, self.rank, charge.us, self.now_us)
        for index in blocked:
            state, until_us = self.states[index], self.now_us + pulse.LEASE_US
            if state.gate is not None:
                state.gate.hold_up(self.now_us)
            state.line[self.waiter] = Place(self.waiter, self.rank, until_us, self.wants[index].cost, charge)
            state.fair_until_us = until_us + 1_000_000
        return self.rank, charge

    def go(self) -> Charge | None:
        """Leave the lines with a grant; return what it is charged, which is nothing if nobody waits."""
        if not self._lines:
            return None
        charge, charged = self._charge, [index for index in self._lines if self.waiter in self.states[index].line]
        is_out = not charged
        if charge is None:
            charge = self._charge_for(max(self._lines, key=lambda index: self.wants[index].span_us))
        if is_out:
            charged = self._lines
            for index in charged:
                self._fair(index).add(self.flow, self.rank, charge.us, self.now_us)
        for index in charged:
            self.states[index].line.pop(self.waiter, None)
            self.states[index].fair_until_us = self.now_us + pulse.LEASE_US + 1_000_000
            # Those who are overtaken still wait, and their flows begin there.
            self._fair(index).serve(min([self.rank, *(place.rank for place in self.states[index].line.values())]))
        bucket_ids = tuple(self.wants[index].bucket_id for index in charged)
        index = min(charge.index, len(self.wants) - 1)  # they may have become fewer
        return Charge(charge.flow, charge.us, index, charge.basis, self.wants[index].cost, bucket_ids)

    def _charge_for(self, index: int) -> Charge:
        want = self.wants[index]
        return Charge(self.flow, self._fair(index).charge(self.flow, want.span_us), index, want.cost)

    def _start(self, indices: Sequence[int]) -> int:
        if not indices:
            return 0
        self._together(indices)
        return max(self._fair(index).start(self.flow) for index in indices)

    def _together(self, indices: Sequence[int]) -> None:
        for state in (self.states[index] for index in indices):
            if state.fair_until_us <= self.now_us:
                state.fair = None
        known = [state.fair.clock for state in (self.states[index] for index in indices) if state.fair is not None]
        for state in (self.states[index] for index in indices):
            state.fair = state.fair or Fair(max(known, default=self.now_us))
        together([self._fair(index) for index in indices])

    def _fair(self, index: int) -> Fair:
        fair = self.states[index].fair
        if fair is None:
            raise AssertionError("a line has a clock")
        return fair
