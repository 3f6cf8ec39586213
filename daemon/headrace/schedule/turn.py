"""
One attempt's turn: taken when all its budgets and a slot are, and given back, or settled, when the attempt is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING

from headrace import observe
from headrace.crowd import Waiting
from headrace.endpoints import named
from headrace.errors import AttemptFailed
from headrace.model import UNTOLD, Call, Errand, Usage
from headrace.rank import Flow
from headrace.schedule.hold import Hold
from headrace.schedule.order import Urgency
from headrace.trail import Trail
from headrace.tuning.overload import ANSWERED, UNKNOWN, End

if TYPE_CHECKING:  # the schedule makes turns; a turn only names its kind
    from headrace.schedule.turns import Schedule

TAKEN_S = 10.0  # an overload is said sooner: whoever has heard nothing for so long has been taken


class Turn:
    """
    One attempt's turn: a context. Left without a word, it keeps what may have been used and gives back the rest.

    `waited_s` is how long it waited for its budgets and its slot, `held_by` what it waited for longest.
    """

    __slots__ = (
        "_call", "_counted", "_hold", "_is_begun", "_is_closed", "_is_sent", "_is_well", "_schedule", "_silence", "_slot",
        "_told", "_trail", "held_by", "waited_s",
    )  # fmt: skip

    def __init__(self, schedule: Schedule, call: Errand, hold_id: str, counted: Waiting, trail: Trail | None = None) -> None:
        self.waited_s, self.held_by = 0.0, ""
        self._trail = trail
        self._schedule = schedule
        self._call = call
        self._counted = counted
        self._hold = Hold(hold_id)
        self._slot: Flow | None = None  # whose slot it has
        self._is_sent = False
        self._is_begun = False
        self._is_well = False  # and has said so
        self._is_closed = False
        self._silence: asyncio.TimerHandle | None = None  # until upstream must have taken it
        self._told: Callable[[], Usage] = _untold

    async def __aenter__(self) -> Turn:
        came = self._schedule.now()
        urgency = self._schedule.urgency(self._call)
        if self._trail is not None:
            self._trail.holding = lambda: self._counted.held(self._schedule.now())
        try:
            self._hold = await self._schedule.take(self._call, self._hold.id, urgency, self._counted)
            await self._take_slot(urgency)
            while self._schedule.is_fenced(self._hold):
                await self._take_anew(urgency)
        finally:
            self._counted.release()
            self._note_wait(came)
        observe.TURN_WAIT.observe(self.waited_s, trace=self._call.trace)
        return self

    def _note_wait(self, came: float) -> None:
        now = self._schedule.now()
        self.waited_s = max(0.0, now - came)
        if held := self._counted.held(now):
            self.held_by = max(held, key=lambda each: each[1])[0]
        if self._trail is not None:
            self._trail.waited(held)

    async def _take_anew(self, urgency: Urgency) -> None:
        self._give_slot_back()
        self._schedule.give_up(self._hold)
        self._hold = Hold(f"{self._hold.id}+")
        self._hold = await self._schedule.take(self._call, self._hold.id, urgency, self._counted)
        await self._take_slot(urgency)

    async def _take_slot(self, urgency: Urgency) -> None:
        schedule = self._schedule
        try:
            flow, is_carried = schedule.flow(self._call), not isinstance(self._call, Call)
            if not schedule.slots.take_free(flow, is_carried=is_carried):
                await schedule.slots.take(flow, urgency, self._call.begin_by, self._counted, is_carried=is_carried)
        except BaseException:
            schedule.give_up(self._hold)  # surely nothing was sent
            raise
        self._slot = flow

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._give_slot_back()
        if not self._is_closed:
            await (self._settle(self._told()) if self._is_sent else self._release())

    def sent(self, told: Callable[[], Usage] | None = None) -> None:
        """
        Say that the attempt is about to be sent: from here on its use is unknown until it is told.

        *told* returns what upstream has said of it so far, if it breaks off.
        """
        self._is_sent = True
        self._told = told or _untold
        if self._schedule.has_gate(self._hold):
            self._silence = asyncio.get_running_loop().call_later(TAKEN_S, self.begun)  # by the loop: it is a socket's

    def begun(self) -> None:
        """Say that upstream has taken the call, since it has begun to answer; however long the answer takes."""
        if not self._is_begun:
            self._is_begun = True
            self._is_well = self._schedule.begin(self._hold)

    def told(self, usage: Usage) -> None:
        """Settle what a stream that goes on has said of its use, as far as that is known. The command leaves at once."""
        self._hold = self._schedule.amend(self._hold, self._call.model, usage)

    def settle(self, usage: Usage) -> Awaitable[None]:
        """Settle what the answer used. The command leaves when this is called; await it as long as is convenient."""
        self._give_slot_back()
        estimate = self._hold.estimate
        if estimate is not None and isinstance(self._call, Call) and named(self._call.endpoint).is_metered:
            self._schedule.learn(self._call, usage, estimate)
        return self._settle(usage, UNKNOWN if self._is_well else ANSWERED)

    def fail(self, failed: AttemptFailed) -> Awaitable[None]:
        """Settle an attempt that failed: tokens come back unless they may have been used, the request only if unsent."""
        self._give_slot_back()
        if not failed.sent:
            return self._release()
        told = self._told()
        return self._settle(told if failed.failure.has_used or told != UNTOLD else Usage(), End(failed))

    def _give_slot_back(self) -> None:
        # Once the attempt is over, not once its settlement has arrived.
        if self._slot is not None:
            flow, self._slot = self._slot, None
            self._schedule.slots.give_back(flow, is_carried=not isinstance(self._call, Call))

    def _settle(self, usage: Usage, end: End = UNKNOWN) -> Awaitable[None]:
        self._close()
        return self._schedule.settle(self._hold, self._call.model, usage, end)

    def _release(self) -> Awaitable[None]:
        self._close()
        return self._schedule.release(self._hold)

    def _close(self) -> None:
        self._is_closed = True
        if self._silence is not None:
            self._silence.cancel()


def _untold() -> Usage:
    return UNTOLD
