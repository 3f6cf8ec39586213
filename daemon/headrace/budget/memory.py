"""
The ledger of this process alone: the rules of reserve.lua and settle.lua in Python.

It serves while Redis is away (`on_redis_loss = "share"`), and it is what the scripts are tested against. Everything happens
without an await in between, so it is as atomic as a script.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.budget import ledger, pulse
from headrace.budget.bucket import UNITS, Bucket, Window
from headrace.budget.gate import LEVEL, Change, Gate, Verdict, made
from headrace.budget.ledger import (
    NOTHING_SAID,
    Granted,
    HoldClosed,
    Never,
    Reserved,
    Said,
    Spent,
    Wait,
    all_back,
    given_back,
    put_right,
)
from headrace.budget.lines import Asking, Charge, Standing, State
from headrace.budget.pulse import Pulse
from headrace.budget.want import Form, Want
from headrace.rank import Flow, correction


@dataclass(slots=True)
class _Hold:
    until_us: int
    grant: Granted | None  # None once closed
    charge: Charge | None = None


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
        self.now_us = self._now_us = now_us
        self._nudge = nudge
        self._on_change = on_change
        self._states: dict[str, State] = {}
        self._holds: dict[str, _Hold] = {}
        self._pulse = Pulse()
        self._standings: dict[str, Standing] = {}  # by waiter: its place may lapse while it lives
        self._sweep_at = 1024

    def __repr__(self) -> str:
        held = sum(hold.grant is not None for hold in self._holds.values())
        return f"<MemoryLedger [{held} held, {len(self._states)} buckets]>"

    def take(self, hold_id: str, wants: Sequence[Want]) -> tuple[int, ...] | None:
        """Nothing is here that all do not share."""
        return None

    async def reserve(self, hold_id: str, wants: Sequence[Want], *, waiter: str, flow: Flow) -> Reserved:
        """Take all costs or none."""
        now_us = self._now_us()
        hold = self._hold(hold_id, now_us)
        if hold is not None:
            if hold.grant is None:
                raise HoldClosed(hold_id)
            if self._has_permits(hold_id, wants, now_us):
                return hold.grant
            self._close(hold_id, wants, all_back(wants), "", NOTHING_SAID)  # it begins anew
            del self._holds[hold_id]
        if never := [want.bucket_id for want in wants if want.cost > want.capacity]:
            return Never(never[0])
        states = [self._look(want, now_us) for want in wants]
        for want, state in zip(wants, states, strict=True):
            if state.gate is not None and state.gate.is_spent(now_us):
                return Spent(want.bucket_id, (state.gate.spent_us - now_us) / 1e6)
        asking = Asking(wants, states, waiter, flow, now_us, self._standings.get(waiter))
        waits_us = [self._wait_us(want, state, asking) for want, state in zip(wants, states, strict=True)]
        if max(waits_us, default=-1) < 0:
            return self._take(hold_id, asking)
        longest = waits_us.index(max(waits_us))
        if waiter:  # who names no place stands in no line
            self._standings[waiter] = asking.join([wait_us >= 0 for wait_us in waits_us], longest)
            for want, state, wait_us in zip(wants, states, waits_us, strict=True):
                # Now that this one is here the first, of another lane, may have to leave less; it was told to wait for more.
                if state.leave(waiter) if wait_us < 0 else want.form is Form.RATE and state.is_behind_other(waiter):
                    self._nudge_next(want, state, now_us, asking=waiter)
        return Wait(waits_us[longest] / 1e6, wants[longest].bucket_id, now_us, _levels(wants, states, now_us))

    def settle(
        self, hold_id: str, wants: Sequence[Want], actual: Mapping[str, int], said: Said = NOTHING_SAID
    ) -> asyncio.Future[Any]:
        """Replace what was reserved by what was used."""
        return self._close(hold_id, wants, given_back(wants, actual, said), "", said)

    def amend(self, hold_id: str, number: int, wants: Sequence[Want], actual: Mapping[str, int]) -> bool:
        """Replace what was reserved of some buckets while the hold stays open."""
        now_us = self._now_us()
        hold = self._hold(hold_id, now_us)
        back = put_right(wants, actual)
        for want, tokens in zip(wants, back, strict=True):
            state = self._look(want, now_us)
            if state.bucket is not None:
                state.bucket.give_back((tokens if hold is not None else min(tokens, 0)) * _unit(want))
                self._nudge_next(want, state, now_us)
        if hold is not None and hold.charge is not None:
            self._correct(hold.charge, back[hold.charge.index])
        return True

    def release(self, hold_id: str, wants: Sequence[Want], *, waiter: str = "") -> asyncio.Future[Any]:
        """Give everything back, and leave the lines."""
        return self._close(hold_id, wants, all_back(wants), waiter, NOTHING_SAID)

    async def renew(self, holds: Mapping[str, Sequence[Want]]) -> None:
        """Say that this process lives, and renew the concurrency permits of these holds."""
        now_us = self._now_us()
        self._pulse.beat(now_us)
        for hold_id, wants in holds.items():
            hold = self._hold(hold_id, now_us)
            if hold is not None and hold.grant is None:
                continue
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
        now_us = self._now_us()
        return _level(want, self._look(want, now_us), now_us) // _unit(want)

    def forget(self, bucket_id: str) -> None:
        """Forget a bucket: whoever asks of it next finds it full."""
        self._states.pop(bucket_id, None)

    def _hold(self, hold_id: str, now_us: int) -> _Hold | None:
        hold = self._holds.get(hold_id)
        return hold if hold is not None and hold.until_us > now_us else None

    def _has_permits(self, hold_id: str, wants: Sequence[Want], now_us: int) -> bool:
        # Who asks again has its permits for another lease. But one that has lapsed may be another's by now.
        permits = [self._states.setdefault(want.bucket_id, State()).permits for want in wants if want.form is Form.PERMIT]
        if not all(hold_id in held for held in permits):
            return False
        for held in permits:
            held[hold_id] = now_us + pulse.LEASE_US
        return True

    def _look(self, want: Want, now_us: int) -> State:
        state = self._states.setdefault(want.bucket_id, State())
        if want.form is Form.PERMIT:
            state.drop_lapsed(self._pulse.lapsed_us(now_us))
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

    def _wait_us(self, want: Want, state: State, asking: Asking) -> int:
        # -1: this bucket does not stand in the way.
        now_us = asking.now_us
        state.drop_lapsed(self._pulse.lapsed_us(now_us))
        earlier, cost = state.ahead((asking.rank, asking.waiter)), want.cost * _unit(want)
        needed = sum([place.cost for place in earlier]) * _unit(want) + cost
        needed += state.headroom(asking.flow, asking.rank, earlier[-1].rank if earlier else 0, cost, now_us)
        if _level(want, state, now_us) >= needed:
            return -1
        if want.form is Form.GATE:
            return (state.gate.pause_us(now_us) if state.gate is not None else 0) or ledger.PERMIT_US
        if state.bucket is None:
            left_us = min(state.permits.values(), default=0) - now_us
            return min(ledger.PERMIT_US, left_us) if left_us > 0 else ledger.PERMIT_US
        wait_us = state.bucket.wait_us(needed, now_us) or ledger.BEHIND_US
        return max(wait_us, ledger.BEHIND_US) if want.form is Form.WINDOW else wait_us

    def _take(self, hold_id: str, asking: Asking) -> Granted:
        wants, states, now_us = asking.wants, asking.states, asking.now_us
        for want, state in zip(wants, states, strict=True):
            if state.gate is not None:
                state.gate.take(hold_id, now_us)
            elif want.form is Form.PERMIT:
                state.permits[hold_id] = now_us + pulse.LEASE_US
            elif state.bucket is not None:
                state.bucket.take(want.cost * _unit(want))
        grant = Granted(now_us, _levels(wants, states, now_us))
        self._holds[hold_id] = _Hold(now_us + ledger.HOLD_US, grant, asking.go())
        self._standings.pop(asking.waiter, None)
        for want, state in zip(wants, states, strict=True):
            self._nudge_next(want, state, now_us)
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
            self._nudge_next(want, state, now_us)
        self._standings.pop(waiter, None)
        if hold is not None and hold.charge is not None:
            # What comes back of a gate is a verdict, and no part of the cost.
            index = hold.charge.index
            left = 0 if wants[index].form is Form.GATE else back[index]
            self._correct(hold.charge, hold.charge.basis - hold.charge.cost + left)
        return done

    def _tell_gate(self, want: Want, state: State, hold_id: str, said: Said, now_us: int) -> None:
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

    def _correct(self, charge: Charge, back: int) -> None:
        more = correction(charge.us, back, charge.basis)
        for bucket_id in charge.bucket_ids:
            state = self._states.get(bucket_id)
            if more and state is not None and state.fair is not None:
                state.fair.correct(charge.flow, more)

    def _nudge_next(self, want: Want, state: State, now_us: int, *, asking: str = "") -> None:
        if not state.line:
            return
        state.drop_lapsed(self._pulse.lapsed_us(now_us))
        left, after, answer_us = _level(want, state, now_us), 0, now_us + ledger.ANSWER_US
        for place in heapq.nsmallest(ledger.MOST_NUDGED, state.line.values(), key=lambda place: place.order):
            cost = place.cost * _unit(want)
            if place.waiter == asking or left < cost + state.headroom(place.charge.flow, place.rank, after, cost, now_us):
                return
            left, after = left - cost, place.rank
            if place.until_us > answer_us:  # else it was nudged already
                place.until_us = answer_us
                self._nudge(place.waiter)

    def _sweep(self, now_us: int) -> None:
        # Now and then, forget what has lapsed; doubling the mark keeps this cheap on average.
        if len(self._holds) + len(self._states) < self._sweep_at:
            return
        self._holds = {hold_id: hold for hold_id, hold in self._holds.items() if hold.until_us > now_us}
        for state in self._states.values():
            state.drop_lapsed(self._pulse.lapsed_us(now_us))
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


def _level(want: Want, state: State, now_us: int) -> int:
    if want.form is Form.GATE:
        return LEVEL if state.gate is None else state.gate.level(now_us)
    return want.capacity - len(state.permits) if state.bucket is None else state.bucket.level


def _levels(wants: Sequence[Want], states: Sequence[State], now_us: int) -> tuple[int, ...]:
    return tuple(_level(want, state, now_us) // _unit(want) for want, state in zip(wants, states, strict=True))


def _as_it_is(gate: Gate | None, now_us: int) -> Gate | None:
    if gate is None or gate.forget_us <= now_us:
        return None
    gate.flow(now_us)
    return gate
