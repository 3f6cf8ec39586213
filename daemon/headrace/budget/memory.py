"""
The ledger of this process alone: the rules of reserve.lua and settle.lua in Python.

It serves while Redis is away (`on_redis_loss = "share"`), and it is what the scripts are tested against. Everything happens
without an await in between, so it is as atomic as a script.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.budget import ledger
from headrace.budget.bucket import PAST_END_US, UNITS, Bucket, Window
from headrace.budget.gate import LEVEL, Change, Gate, Verdict, made
from headrace.budget.ledger import NOTHING_SAID, Granted, HoldClosed, Never, Reserved, Said, Spent, Wait, all_back, given_back
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
    """One bucket (or the permits of one concurrency bucket, by lease end, or a gate) and its line."""

    bucket: Bucket | Window | None = None
    gate: Gate | None = None
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

    def first(self, now_us: int) -> _Place | None:
        """Return who is first in line; whoever stands before it and has let its lease lapse is gone."""
        for place in sorted(self.line.values(), key=lambda place: place.order):
            if place.until_us > now_us:
                return place
            self.leave(place.waiter)
        return None

    def ahead(self, order: tuple[int, str], now_us: int) -> list[int]:
        """Return the costs of those who stand before a place; whose lease has lapsed is gone."""
        before = [place for place in self.line.values() if place.order < order]
        for place in before:
            if place.until_us <= now_us:
                self.leave(place.waiter)
        return [place.cost for place in before if place.until_us > now_us]

    def is_blank(self, now_us: int) -> bool:
        if isinstance(self.bucket, Window) and now_us >= self.bucket.ends_us + PAST_END_US:
            return True
        is_idle = not self.permits and not self.line and self.gate is None and self.fair_until_us <= now_us
        return is_idle and (self.bucket is None or self.bucket.is_full)


class MemoryLedger:
    """
    The ledger of one process.

    Args:
        now_us: its clock, in microseconds.
        nudge: called with the waiter that now fits.
        on_change: called with the id and the change when a settlement has changed a gate.
    """

    def __init__(
        self,
        now_us: Callable[[], int],
        *,
        nudge: Callable[[str], None] = lambda waiter: None,
        on_change: Callable[[str, Change], None] = lambda bucket_id, change: None,
    ) -> None:
        self._now_us = now_us
        self._nudge = nudge
        self._on_change = on_change
        self._states: dict[str, _State] = {}
        self._holds: dict[str, _Hold] = {}
        self._sweep_at = 1024

    def __repr__(self) -> str:
        held = sum(hold.grant is not None for hold in self._holds.values())
        return f"<MemoryLedger [{held} held, {len(self._states)} buckets]>"

    async def reserve(self, hold_id: str, wants: Sequence[Want], *, waiter: str, flow: Flow) -> Reserved:
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
        for want, state in zip(wants, states, strict=True):
            if state.gate is not None and state.gate.is_spent(now_us):
                return Spent(want.bucket_id, (state.gate.spent_us - now_us) / 1e6)
        asking = _Asking(wants, states, waiter, flow, now_us)
        waits_us = [self._wait_us(want, state, asking) for want, state in zip(wants, states, strict=True)]
        if max(waits_us, default=-1) < 0:
            return self._take(hold_id, asking)
        longest = waits_us.index(max(waits_us))
        if waiter:  # who names no place stands in no line
            asking.join([wait_us >= 0 for wait_us in waits_us], longest)
            for want, state, wait_us in zip(wants, states, waits_us, strict=True):
                if wait_us < 0 and state.leave(waiter):
                    self._nudge_first(want, state, now_us)
        return Wait(waits_us[longest] / 1e6, wants[longest].bucket_id, now_us, _levels(wants, states, now_us))

    def settle(
        self, hold_id: str, wants: Sequence[Want], actual: Mapping[str, int], said: Said = NOTHING_SAID
    ) -> asyncio.Future[Any]:
        """Replace what was reserved by what was used."""
        return self._close(hold_id, wants, given_back(wants, actual, said), "", said)

    def release(self, hold_id: str, wants: Sequence[Want], *, waiter: str = "") -> asyncio.Future[Any]:
        """Give everything back, and leave the lines."""
        return self._close(hold_id, wants, all_back(wants), waiter, NOTHING_SAID)

    async def renew(self, holds: Mapping[str, Sequence[Want]]) -> None:
        """Renew the concurrency permits of these holds."""
        now_us = self._now_us()
        for hold_id, wants in holds.items():
            for want in wants:
                permits = self._look(want, now_us).permits
                if hold_id in permits:
                    permits[hold_id] = now_us + ledger.PERMIT_LEASE_US

    def _hold(self, hold_id: str, now_us: int) -> _Hold | None:
        hold = self._holds.get(hold_id)
        return hold if hold is not None and hold.until_us > now_us else None

    def _look(self, want: Want, now_us: int) -> _State:
        state = self._states.setdefault(want.bucket_id, _State())
        if want.form is Form.PERMIT:
            state.permits = {hold_id: until_us for hold_id, until_us in state.permits.items() if until_us > now_us}
            return state
        if want.form is Form.GATE:
            state.gate = _as_it_is(state.gate, now_us)
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
        earlier = state.ahead((asking.rank, asking.waiter), now_us) if state.line else []
        if not earlier and _level(want, state, now_us) >= want.cost * _unit(want):
            return -1
        if state.bucket is None:
            pause_us = 0 if state.gate is None else state.gate.pause_us(now_us)
            return pause_us or ledger.PERMIT_US
        wait_us = state.bucket.wait_us((sum(earlier) + want.cost) * _unit(want), now_us) or ledger.BEHIND_US
        return max(wait_us, ledger.BEHIND_US) if want.form is Form.WINDOW else wait_us

    def _take(self, hold_id: str, asking: _Asking) -> Granted:
        wants, states, now_us = asking.wants, asking.states, asking.now_us
        for want, state in zip(wants, states, strict=True):
            if state.gate is not None:
                state.gate.take(hold_id, now_us)
            elif want.form is Form.PERMIT:
                state.permits[hold_id] = now_us + ledger.PERMIT_LEASE_US
            elif state.bucket is not None:
                state.bucket.take(want.cost * _unit(want))
        grant = Granted(now_us, _levels(wants, states, now_us))
        self._holds[hold_id] = _Hold(now_us + ledger.HOLD_US, grant, asking.go())
        for want, state in zip(wants, states, strict=True):
            self._nudge_first(want, state, now_us)
        self._sweep(now_us)
        return grant

    def _close(self, hold_id: str, wants: Sequence[Want], back: Sequence[int], waiter: str, said: Said) -> asyncio.Future[Any]:
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
            if isinstance(state.bucket, Bucket) and want.bucket_id in said.most:
                state.bucket.hear(said.most[want.bucket_id] * UNITS)
            if want.form is Form.GATE:
                self._tell_gate(want, state, hold_id, said, now_us)
            if state.line:
                state.leave(waiter)
            self._nudge_first(want, state, now_us)
        if hold is not None and hold.charge is not None:
            self._correct(hold.charge, wants, back)
        return done

    def _tell_gate(self, want: Want, state: _State, hold_id: str, said: Said, now_us: int) -> None:
        if state.gate is None and said.verdict < Verdict.UNKNOWN:
            state.gate = made(said.told)
        if state.gate is None:
            return
        state.gate.holds.pop(hold_id, None)
        change = state.gate.settle(said.verdict, said.told, now_us)
        if change is Change.GONE:
            state.gate = None
        if change:
            self._on_change(want.bucket_id, change)

    def _correct(self, charge: _Charge, wants: Sequence[Want], back: Sequence[int]) -> None:
        # What comes back of a gate is a verdict, and no part of the cost.
        used = charge.cost - (0 if wants[charge.index].form is Form.GATE else back[charge.index])
        more = correction(charge.us, charge.basis - used, charge.basis)
        for bucket_id in charge.bucket_ids:
            state = self._states.get(bucket_id)
            if more and state is not None and state.fair is not None:
                state.fair.correct(charge.flow, more)

    def _nudge_first(self, want: Want, state: _State, now_us: int) -> None:
        first = state.first(now_us) if state.line else None
        if first is not None and _level(want, state, now_us) >= first.cost * _unit(want):
            self._nudge(first.waiter)

    def _sweep(self, now_us: int) -> None:
        # Now and then, forget what has lapsed; doubling the mark keeps this cheap on average.
        if len(self._holds) + len(self._states) < self._sweep_at:
            return
        self._holds = {hold_id: hold for hold_id, hold in self._holds.items() if hold.until_us > now_us}
        for state in self._states.values():
            state.first(now_us)
            state.permits = {hold_id: until_us for hold_id, until_us in state.permits.items() if until_us > now_us}
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


def _level(want: Want, state: _State, now_us: int) -> int:
    if want.form is Form.GATE:
        return LEVEL if state.gate is None else state.gate.level(now_us)
    return want.capacity - len(state.permits) if state.bucket is None else state.bucket.level


def _levels(wants: Sequence[Want], states: Sequence[_State], now_us: int) -> tuple[int, ...]:
    return tuple(_level(want, state, now_us) // _unit(want) for want, state in zip(wants, states, strict=True))


def _as_it_is(gate: Gate | None, now_us: int) -> Gate | None:
    if gate is None or gate.forget_us <= now_us:
        return None
    gate.flow(now_us)
    return gate


class _Asking:
    """One call that asks: its rank, and what its flow is charged, as rank.py says."""

    def __init__(self, wants: Sequence[Want], states: Sequence[_State], waiter: str, flow: Flow, now_us: int) -> None:
        self.wants, self.states, self.waiter, self.now_us = wants, states, waiter, now_us
        self.flow = flow
        self._lines = [index for index, state in enumerate(states) if state.line]
        places = [state.line[waiter] for state in states if waiter in state.line]
        self._charge = places[-1].charge if places else None
        self.rank = places[-1].rank if places else self._start(self._lines)

    def join(self, blocking: Sequence[bool], longest: int) -> None:
        """Stand in the lines of the buckets that block it."""
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
            state, until_us = self.states[index], self.now_us + ledger.WAIT_LEASE_US
            if state.gate is not None:
                state.gate.hold_up(self.now_us)
            state.line[self.waiter] = _Place(self.waiter, self.rank, until_us, self.wants[index].cost, charge)
            state.fair_until_us = until_us + 1_000_000

    def go(self) -> _Charge | None:
        """Leave the lines with a grant; return what it is charged, which is nothing if nobody waits."""
        if not self._lines:
            return None
        charge, charged = self._charge, [index for index in self._lines if self.waiter in self.states[index].line]
        if charge is None:
            charge, charged = self._charge_for(max(self._lines, key=lambda index: self.wants[index].span_us)), self._lines
            for index in charged:
                self._fair(index).add(self.flow, self.rank, charge.us)
        for index in charged:
            self.states[index].line.pop(self.waiter, None)
            self.states[index].fair_until_us = self.now_us + ledger.WAIT_LEASE_US + 1_000_000
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
