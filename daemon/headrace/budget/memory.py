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
from headrace.budget.ledger import Granted, HoldClosed, Never, Wait, given_back
from headrace.budget.want import Form, Want


@dataclass(slots=True)
class _Hold:
    until_us: int
    grant: Granted | None  # None once closed


@dataclass(slots=True)
class _Place:
    """A place in one line; the cost is in tokens."""

    waiter: str
    arrival_us: int
    until_us: int
    cost: int

    @property
    def order(self) -> tuple[int, str]:
        return self.arrival_us, self.waiter


@dataclass(slots=True)
class _State:
    """One bucket (or the permits of one concurrency bucket, by lease end) and its line."""

    bucket: Bucket | Window | None = None
    permits: dict[str, int] = field(default_factory=dict)
    line: dict[str, _Place] = field(default_factory=dict)

    def is_blank(self, now_us: int) -> bool:
        if isinstance(self.bucket, Window) and now_us >= self.bucket.ends_us + PAST_END_US:
            return True
        return not self.permits and not self.line and (self.bucket is None or self.bucket.is_full)


class MemoryLedger:
    """
    The ledger of one process.

    Args:
        now_us: its clock, in microseconds.
        nudge: called with the waiter that now fits.
    """

    def __init__(self, now_us: Callable[[], int], *, nudge: Callable[[str], None] = lambda waiter: None) -> None:
        self._now_us = now_us
        self._nudge = nudge
        self._states: dict[str, _State] = {}
        self._holds: dict[str, _Hold] = {}
        self._sweep_at = 1024

    def __repr__(self) -> str:
        held = sum(hold.grant is not None for hold in self._holds.values())
        return f"<MemoryLedger [{held} held, {len(self._states)} buckets]>"

    async def reserve(self, hold_id: str, wants: Sequence[Want], *, waiter: str, waited_s: float) -> Granted | Wait | Never:
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
        arrival_us = self._arrival_us(states, waiter, now_us - round(max(0.0, waited_s) * 1e6))
        waits_us = [self._wait_us(want, state, (arrival_us, waiter), now_us) for want, state in zip(wants, states, strict=True)]
        if max(waits_us, default=-1) < 0:
            return self._take(hold_id, wants, states, waiter, now_us)
        for want, state, wait_us in zip(wants, states, waits_us, strict=True):
            if not waiter:
                break  # who names no place stands in no line
            if wait_us >= 0:
                state.line[waiter] = _Place(waiter, arrival_us, now_us + ledger.WAIT_LEASE_US, want.cost)
            elif state.line.pop(waiter, None):
                self._nudge_first(want, state, now_us)
        longest = waits_us.index(max(waits_us))
        return Wait(waits_us[longest] / 1e6, wants[longest].bucket_id, now_us, _levels(wants, states))

    def settle(self, hold_id: str, wants: Sequence[Want], actual: Mapping[str, int]) -> asyncio.Future[Any]:
        """Replace what was reserved by what was used."""
        return self._close(hold_id, wants, given_back(wants, actual), "")

    def release(self, hold_id: str, wants: Sequence[Want], *, waiter: str = "") -> asyncio.Future[Any]:
        """Give everything back, and leave the lines."""
        return self._close(hold_id, wants, [want.cost for want in wants], waiter)

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
        bucket = state.bucket = state.bucket or _new_bucket(want, now_us)
        bucket.capacity = want.capacity * _unit(want)
        if isinstance(bucket, Bucket):
            bucket.rate = want.rate_per_minute
        bucket.flow(now_us)
        bucket.give_back(0)  # the capacity may have shrunk
        return state

    def _arrival_us(self, states: Sequence[_State], waiter: str, arrival_us: int) -> int:
        return next((state.line[waiter].arrival_us for state in states if waiter in state.line), arrival_us)

    def _wait_us(self, want: Want, state: _State, order: tuple[int, str], now_us: int) -> int:
        # -1: this bucket does not stand in the way.
        _drop_lapsed(state, now_us)
        earlier = [place.cost for place in state.line.values() if place.order < order]
        if not earlier and _level(want, state) >= want.cost * _unit(want):
            return -1
        if state.bucket is None:
            return ledger.PERMIT_US
        wait_us = state.bucket.wait_us((sum(earlier) + want.cost) * _unit(want), now_us) or ledger.BEHIND_US
        return max(wait_us, ledger.BEHIND_US) if want.form is Form.WINDOW else wait_us

    def _take(self, hold_id: str, wants: Sequence[Want], states: Sequence[_State], waiter: str, now_us: int) -> Granted:
        for want, state in zip(wants, states, strict=True):
            if state.bucket is None:
                state.permits[hold_id] = now_us + ledger.PERMIT_LEASE_US
            else:
                state.bucket.take(want.cost * _unit(want))
        grant = Granted(now_us, _levels(wants, states))
        self._holds[hold_id] = _Hold(now_us + ledger.HOLD_US, grant)
        for want, state in zip(wants, states, strict=True):
            state.line.pop(waiter, None)
            self._nudge_first(want, state, now_us)
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
            state.line.pop(waiter, None)
            self._nudge_first(want, state, now_us)
        return done

    def _nudge_first(self, want: Want, state: _State, now_us: int) -> None:
        if not state.line:
            return
        _drop_lapsed(state, now_us)
        first = min(state.line.values(), key=lambda place: place.order, default=None)
        if first is not None and _level(want, state) >= first.cost * _unit(want):
            self._nudge(first.waiter)

    def _sweep(self, now_us: int) -> None:
        # Now and then, forget what has lapsed; doubling the mark keeps this cheap on average.
        if len(self._holds) + len(self._states) < self._sweep_at:
            return
        self._holds = {hold_id: hold for hold_id, hold in self._holds.items() if hold.until_us > now_us}
        for state in self._states.values():
            _drop_lapsed(state, now_us)
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


def _level(want: Want, state: _State) -> int:
    return want.capacity - len(state.permits) if state.bucket is None else state.bucket.level


def _levels(wants: Sequence[Want], states: Sequence[_State]) -> tuple[int, ...]:
    return tuple(_level(want, state) // _unit(want) for want, state in zip(wants, states, strict=True))


def _drop_lapsed(state: _State, now_us: int) -> None:
    for place in [place for place in state.line.values() if place.until_us <= now_us]:
        del state.line[place.waiter]
