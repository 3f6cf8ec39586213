"""
The ledger of this process alone: the rules of reserve.lua and settle.lua in Python.

It serves while Redis is away (`on_redis_loss = "share"`), and it is what the scripts are tested against. Everything happens
without an await in between, so it is as atomic as a script.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.budget import ledger, pulse
from headrace.budget.bucket import PAST_END_US, UNITS, Bucket, Window
from headrace.budget.ledger import Granted, HoldClosed, Never, Wait, given_back
from headrace.budget.pulse import Pulse
from headrace.budget.want import Form, Want
from headrace.rank import Fair, Flow, correction, together


@dataclass(frozen=True, slots=True)
class _Charge:
    """What a flow was charged for a call (us), for how much of which of its wants, and in the lines of which buckets."""

    flow: Flow
    us: int
    index: int
    basis: int
    cost: int = 0
    bucket_ids: tuple[str, ...] = ()


@dataclass(slots=True)
class _Hold:
    until_us: int
    grant: Granted | None  # None once closed
    charge: _Charge | None = None


_Standing = tuple[int, _Charge]
"""The rank of a call that waits and what its flow is charged for it: with these it comes back if it was dropped."""


@dataclass(slots=True)
class _Place:
    """A place in one line; the cost is in tokens."""

    waiter: str
    rank: int
    until_us: int
    cost: int
    charge: _Charge

    @property
    def order(self) -> tuple[int, str]:
        return self.rank, self.waiter


@dataclass(slots=True)
class _State:
    """One bucket (or the permits of one concurrency bucket, by lease end) and its line."""

    bucket: Bucket | Window | None = None
    permits: dict[str, int] = field(default_factory=dict)
    line: dict[str, _Place] = field(default_factory=dict)
    fair: Fair | None = None
    fair_until_us: int = 0

    def leave(self, waiter: str) -> bool:
        """Take a place out that has not been granted: its flow takes back what it was charged. Return whether it was there."""
        place = self.line.pop(waiter, None)
        if place is not None and self.fair is not None:
            self.fair.correct(place.charge.flow, -place.charge.us)
        return place is not None

    def is_blank(self, now_us: int) -> bool:
        if isinstance(self.bucket, Window) and now_us >= self.bucket.ends_us + PAST_END_US:
            return True
        is_idle = not self.permits and not self.line and self.fair_until_us <= now_us
        return is_idle and (self.bucket is None or self.bucket.is_full)


class MemoryLedger:
    """
    The ledger of one process.

    Args:
        now_us: its clock, in microseconds.
        nudge: called with the waiter that now fits.
    """

    def __init__(self, now_us: Callable[[], int], *, nudge: Callable[[str], None] = lambda waiter: None) -> None:
        self.now_us = self._now_us = now_us
        self._nudge = nudge
        self._states: dict[str, _State] = {}
        self._holds: dict[str, _Hold] = {}
        self._pulse = Pulse()
        self._standings: dict[str, _Standing] = {}  # by waiter: its place may lapse while it lives
        self._sweep_at = 1024

    def __repr__(self) -> str:
        held = sum(hold.grant is not None for hold in self._holds.values())
        return f"<MemoryLedger [{held} held, {len(self._states)} buckets]>"

    async def reserve(self, hold_id: str, wants: Sequence[Want], *, waiter: str, flow: Flow) -> Granted | Wait | Never:
        """Take all costs or none."""
        now_us = self._now_us()
        hold = self._hold(hold_id, now_us)
        if hold is not None:
            if hold.grant is None:
                raise HoldClosed(hold_id)
            return hold.grant
        if never := [want.bucket_id for want in wants if want.cost > want.capacity]:
            return Never(never[0])
        states = [self._look(want, now_us) for want in wants]
        asking = _Asking(wants, states, waiter, flow, now_us, self._standings.get(waiter))
        waits_us = [self._wait_us(want, state, asking) for want, state in zip(wants, states, strict=True)]
        if max(waits_us, default=-1) < 0:
            return self._take(hold_id, asking)
        longest = waits_us.index(max(waits_us))
        if waiter:  # who names no place stands in no line
            self._standings[waiter] = asking.join([wait_us >= 0 for wait_us in waits_us], longest)
            for want, state, wait_us in zip(wants, states, waits_us, strict=True):
                if wait_us < 0 and state.leave(waiter):
                    self._nudge_next(want, state, now_us)
        return Wait(waits_us[longest] / 1e6, wants[longest].bucket_id, now_us, _levels(wants, states))

    def settle(self, hold_id: str, wants: Sequence[Want], actual: Mapping[str, int]) -> asyncio.Future[Any]:
        """Replace what was reserved by what was used."""
        return self._close(hold_id, wants, given_back(wants, actual), "")

    def release(self, hold_id: str, wants: Sequence[Want], *, waiter: str = "") -> asyncio.Future[Any]:
        """Give everything back, and leave the lines."""
        return self._close(hold_id, wants, [want.cost for want in wants], waiter)

    async def renew(self, holds: Mapping[str, Sequence[Want]]) -> None:
        """Say that this process lives, and renew the concurrency permits of these holds."""
        now_us = self._now_us()
        self._pulse.beat(now_us)
        for hold_id, wants in holds.items():
            for want in wants:
                if want.form is Form.PERMIT:
                    self._look(want, now_us).permits[hold_id] = now_us + pulse.LEASE_US

    def begin(self, want: Want, level: int) -> None:
        """Let the bucket of a rate or a window hold so many whole tokens now."""
        state = self._look(want, self._now_us())
        if state.bucket is not None:
            state.bucket.take(state.bucket.level - level * _unit(want))

    def level(self, want: Want) -> int:
        """Return what is left in a bucket, in whole tokens."""
        return _level(want, self._look(want, self._now_us())) // _unit(want)

    def forget(self, bucket_id: str) -> None:
        """Forget a bucket: whoever asks of it next finds it full."""
        self._states.pop(bucket_id, None)

    def _hold(self, hold_id: str, now_us: int) -> _Hold | None:
        hold = self._holds.get(hold_id)
        return hold if hold is not None and hold.until_us > now_us else None

    def _look(self, want: Want, now_us: int) -> _State:
        state = self._states.setdefault(want.bucket_id, _State())
        if want.form is Form.PERMIT:
            self._drop_lapsed(state, now_us)
            return state
        bucket = state.bucket = state.bucket or _new_bucket(want, now_us)
        bucket.capacity = want.capacity * _unit(want)
        if isinstance(bucket, Bucket):
            bucket.rate = want.rate_per_minute
        bucket.flow(now_us)
        bucket.give_back(0)  # the capacity may have shrunk
        return state

    def _wait_us(self, want: Want, state: _State, asking: _Asking) -> int:
        # -1: this bucket does not stand in the way.
        now_us = asking.now_us
        self._drop_lapsed(state, now_us)
        order = asking.rank, asking.waiter
        earlier = [place.cost for place in state.line.values() if place.order < order]
        if not earlier and _level(want, state) >= want.cost * _unit(want):
            return -1
        if state.bucket is None:
            left_us = min(state.permits.values(), default=0) - now_us
            return min(ledger.PERMIT_US, left_us) if left_us > 0 else ledger.PERMIT_US
        wait_us = state.bucket.wait_us((sum(earlier) + want.cost) * _unit(want), now_us) or ledger.BEHIND_US
        return max(wait_us, ledger.BEHIND_US) if want.form is Form.WINDOW else wait_us

    def _take(self, hold_id: str, asking: _Asking) -> Granted:
        wants, states, now_us = asking.wants, asking.states, asking.now_us
        for want, state in zip(wants, states, strict=True):
            if state.bucket is None:
                state.permits[hold_id] = now_us + pulse.LEASE_US
            else:
                state.bucket.take(want.cost * _unit(want))
        grant = Granted(now_us, _levels(wants, states))
        self._holds[hold_id] = _Hold(now_us + ledger.HOLD_US, grant, asking.go())
        self._standings.pop(asking.waiter, None)
        for want, state in zip(wants, states, strict=True):
            self._nudge_next(want, state, now_us)
        self._sweep(now_us)
        return grant

    def _close(self, hold_id: str, wants: Sequence[Want], back: Sequence[int], waiter: str) -> asyncio.Future[Any]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        now_us = self._now_us()
        hold = self._hold(hold_id, now_us)
        if hold is not None and hold.grant is None:
            return done
        self._holds[hold_id] = _Hold(now_us + ledger.CLOSED_US, None)
        for want, tokens in zip(wants, back, strict=True):
            state = self._look(want, now_us)
            state.permits.pop(hold_id, None)
            if state.bucket is not None:
                state.bucket.give_back((tokens if hold is not None else min(tokens, 0)) * _unit(want))
            if state.line:
                state.leave(waiter)
            self._nudge_next(want, state, now_us)
        self._standings.pop(waiter, None)
        if hold is not None and hold.charge is not None:
            self._correct(hold.charge, back)
        return done

    def _correct(self, charge: _Charge, back: Sequence[int]) -> None:
        more = correction(charge.us, charge.basis - charge.cost + back[charge.index], charge.basis)
        for bucket_id in charge.bucket_ids:
            state = self._states.get(bucket_id)
            if more and state is not None and state.fair is not None:
                state.fair.correct(charge.flow, more)

    def _nudge_next(self, want: Want, state: _State, now_us: int) -> None:
        if not state.line:
            return
        self._drop_lapsed(state, now_us)
        left, answer_us = _level(want, state), now_us + ledger.ANSWER_US
        for place in heapq.nsmallest(ledger.MOST_NUDGED, state.line.values(), key=lambda place: place.order):
            left -= place.cost * _unit(want)
            if left < 0:
                return
            if place.until_us > answer_us:  # else it was nudged already
                place.until_us = answer_us
                self._nudge(place.waiter)

    def _drop_lapsed(self, state: _State, now_us: int) -> None:
        lapsed_us = self._pulse.lapsed_us(now_us)
        for hold_id in [hold_id for hold_id, until_us in state.permits.items() if until_us <= lapsed_us]:
            del state.permits[hold_id]
        for place in [place for place in state.line.values() if place.until_us <= lapsed_us]:
            state.leave(place.waiter)

    def _sweep(self, now_us: int) -> None:
        # Now and then, forget what has lapsed; doubling the mark keeps this cheap on average.
        if len(self._holds) + len(self._states) < self._sweep_at:
            return
        self._holds = {hold_id: hold for hold_id, hold in self._holds.items() if hold.until_us > now_us}
        for state in self._states.values():
            self._drop_lapsed(state, now_us)
            if state.bucket is not None:
                state.bucket.flow(now_us)
        self._states = {bucket_id: state for bucket_id, state in self._states.items() if not state.is_blank(now_us)}
        self._sweep_at = max(1024, 2 * (len(self._holds) + len(self._states)))


def _new_bucket(want: Want, now_us: int) -> Bucket | Window:
    if want.form is Form.WINDOW:
        return Window(want.capacity, want.ends_us)
    return Bucket(want.rate_per_minute, want.capacity * UNITS, want.capacity * UNITS, now_us)


def _unit(want: Want) -> int:
    return UNITS if want.form is Form.RATE else 1


def _level(want: Want, state: _State) -> int:
    return want.capacity - len(state.permits) if state.bucket is None else state.bucket.level


def _levels(wants: Sequence[Want], states: Sequence[_State]) -> tuple[int, ...]:
    return tuple(_level(want, state) // _unit(want) for want, state in zip(wants, states, strict=True))


class _Asking:
    """One call that asks: its rank, and what its flow is charged, as rank.py says."""

    def __init__(
        self,
        wants: Sequence[Want],
        states: Sequence[_State],
        waiter: str,
        flow: Flow,
        now_us: int,
        standing: _Standing | None,
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

    def join(self, blocking: Sequence[bool], longest: int) -> _Standing:
        """Stand in the lines of the buckets that block it; return with what."""
        blocked = [index for index, is_blocking in enumerate(blocking) if is_blocking]
        joining = [index for index in blocked if self.waiter not in self.states[index].line]
        if joining and not self.rank:
            self.rank = self._start(blocked)
        elif joining:
            self._together(blocked)
        charge = self._charge or self._charge_for(longest)
        for index in joining:
            self._fair(index).add(self.flow, self.rank, charge.us)
        for index in blocked:
            state, until_us = self.states[index], self.now_us + pulse.LEASE_US
            state.line[self.waiter] = _Place(self.waiter, self.rank, until_us, self.wants[index].cost, charge)
            state.fair_until_us = until_us + 1_000_000
        return self.rank, charge

    def go(self) -> _Charge | None:
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
                self._fair(index).add(self.flow, self.rank, charge.us)
        for index in charged:
            self.states[index].line.pop(self.waiter, None)
            self.states[index].fair_until_us = self.now_us + pulse.LEASE_US + 1_000_000
            self._fair(index).serve(self.rank)
        bucket_ids = tuple(self.wants[index].bucket_id for index in charged)
        return _Charge(charge.flow, charge.us, charge.index, charge.basis, self.wants[charge.index].cost, bucket_ids)

    def _charge_for(self, index: int) -> _Charge:
        want = self.wants[index]
        return _Charge(self.flow, self._fair(index).charge(self.flow, want.span_us), index, want.cost)

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
