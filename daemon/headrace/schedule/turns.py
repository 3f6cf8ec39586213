"""
Waiting for a turn: a call goes upstream once all its buckets have granted it what it will probably use, and a slot is free.

    async with schedule.turn(call, hold_id) as turn:
        turn.sent()
        answer = await upstream.ask(call)
        await turn.settle(answer.usage)

A call that cannot go now waits in order instead of being refused, unless it is plain that its deadline comes first: then it is
refused at once, with the time that would work. Whatever was taken is given back, whichever way a turn ends: a call that leaves
before `sent` was said, while it waits for a slot for instance, has used nothing. A call that no limit matches costs nothing
here but its slot.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections import deque
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any

from headrace import observe
from headrace.background import Background
from headrace.budget.estimate import Estimate, Estimator
from headrace.budget.estimated import count_closed, count_reserved
from headrace.budget.ledger import Ledger
from headrace.budget.limits import Limits, Payer
from headrace.budget.want import Want
from headrace.clock import Clock
from headrace.crowd import Crowd, Waiting
from headrace.link import Link
from headrace.model import Call, Errand, Headers, Usage
from headrace.rank import LANES, Flow
from headrace.schedule.asking import Asking
from headrace.schedule.hold import Hold, granting, parted
from headrace.schedule.line import Outdated, Place
from headrace.schedule.order import Urgency
from headrace.schedule.permits import Permits
from headrace.schedule.shadows import Shadows
from headrace.schedule.slices import Slices, Work
from headrace.schedule.slots import Slots, SlotStats
from headrace.schedule.turn import Turn

_MEMO = 4096
_CLOSING_PATIENCE_S = 0.5  # an answer waits so long for its settlement; it goes on without


@dataclass(frozen=True, slots=True)
class ScheduleStats:
    """How many calls wait for their turn, how many of them ask the ledger, how many hold permits; and upstream's slots."""

    waiting: int
    asking: int
    permits: int
    slots: SlotStats


class Schedule:
    """
    Hands out turns. Run `keep` as a task.

    Args:
        crowd: where whoever waits is counted, and refused if there are too many.
        max_in_flight: requests at upstream at once.
        lanes: the share of each lane, in millionths.
    """

    def __init__(
        self,
        limits: Limits,
        ledger: Ledger,
        estimator: Estimator,
        link: Link,
        clock: Clock,
        *,
        crowd: Crowd | None = None,
        max_in_flight: int = 512,
        lanes: Mapping[str, int] = LANES,
    ) -> None:
        self.crowd = crowd or Crowd()
        self.slots = Slots(max_in_flight, clock)
        self._limits = limits
        self._ledger = ledger
        self._estimator = estimator
        self._clock = clock
        self._inbox = link.inbox
        self._background = Background("schedule", clock)
        self._slices = Slices(self._background)
        self._asking = Asking(ledger, clock, self._slices)
        self._permits = Permits(ledger, clock)
        self._shadows = Shadows(ledger, self._permits, self._background)
        self._numbers = itertools.count(1)
        self._lanes = lanes
        self._flows = functools.lru_cache(_MEMO)(self._new_flow)
        self._reloads = 0  # whose moves go on
        self._newcomers: deque[asyncio.Future[None]] = deque()  # since a reload, until all who were there have moved
        link.on("permit", lambda waiter: self.nudge(waiter.decode()))

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Schedule [{stats.waiting} waiting, {stats.asking} asking, {stats.permits} permits]>"

    def stats(self) -> ScheduleStats:
        """Return how it stands now."""
        waiting = self.crowd.stats().by_kind["turn"].calls
        return ScheduleStats(waiting, self._asking.stats().asking, self._permits.stats().holds, self.slots.stats())

    def turn(self, call: Errand, hold_id: str, *, size: int | None = None) -> Turn:
        """
        Return the turn of one attempt, to be entered; *hold_id* is never used again.

        *size* is how many bytes it holds while it waits; by default those of the call's body.
        Entering raises `BudgetExhausted`, `DeadlinePassed`, `QueueFull` and `RedisAway`.
        """
        if size is None:
            size = len(call.body) if isinstance(call, Call) else 0
        return Turn(self, call, hold_id, self.crowd.waiting("turn", size=size, caller=call.caller.name))

    def urgency(self, call: Errand) -> Urgency:
        """Return a call's order within its flow: by deadline and arrival, which a call that comes back has kept."""
        return call.begin_by, call.arrival, next(self._numbers)

    def flow(self, call: Errand) -> Flow:
        """Return whose calls it is one of."""
        return self._flows(call.caller.name, call.lane, call.caller.weight)

    def _new_flow(self, caller: str, lane: str, weight: int) -> Flow:
        return Flow(caller, lane, self._lanes.get(lane, min(self._lanes.values())), weight)

    def reload(self, limits: Limits, lanes: Mapping[str, int] = LANES) -> None:
        """
        Go by other limits and lanes from now on.

        Who waits under limits that have changed takes its place anew, in the order in which they came.
        """
        self._limits = limits
        if lanes != self._lanes:
            self._lanes = lanes
            self._flows.cache_clear()
        self._reloads += 1
        self._slices.start(self._move(), "reload")

    def _move(self) -> Work:
        try:
            moving: deque[Place] = deque()
            for place in sorted(self._asking.places(), key=_arrival):
                if place.buckets != self._limits.buckets(place.call, self._clock.now()):
                    place.is_outdated = True  # whoever is called before it has moved asks for nothing under the old limits
                    moving.append(place)
                yield 0
            # The oldest first, a few at a time: taking ten thousand places anew would hold the loop for a second, and so would
            # letting go of all the old ones in the end.
            while moving:
                moving.popleft().outdate()
                yield 1
            while self._newcomers and self._reloads == 1:
                yield self._let_in()
        finally:
            self._reloads -= 1
            while self._newcomers and not self._reloads:  # only if something broke
                self._let_in()

    def _let_in(self) -> bool:
        newcomer = self._newcomers.popleft()
        if newcomer.done():  # it has left
            return False
        newcomer.set_result(None)
        return True

    async def _stand_back(self, counted: Waiting) -> None:
        # Whoever was there before a reload goes first, though it may not have taken its place anew yet.
        counted.take()
        newcomer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._newcomers.append(newcomer)
        await newcomer

    async def close(self) -> None:
        """Stop the work in the background."""
        await self._background.close()

    def nudge(self, waiter: str) -> None:
        """Let a place ask again now: the ledger says it fits."""
        self._asking.nudge(waiter)

    async def keep(self) -> None:
        """Renew the permits of the calls that run, until cancelled."""
        await self._permits.keep()

    # Taking.

    async def take(self, call: Errand, hold_id: str, urgency: Urgency, counted: Waiting) -> Hold:
        """Wait until all buckets have granted a call's wants, and return what was granted; for `Turn`."""
        entered, estimate = self._clock.now(), None
        waiter, has_asked = f"{self._inbox}|{urgency[2]:012}", False
        if self._reloads and self._limits.buckets(call, entered):
            await self._stand_back(counted)
        for number in itertools.count():
            now = self._clock.now()
            buckets = self._limits.buckets(call, now)
            if not buckets:
                return Hold(hold_id)
            estimate = estimate or self._estimate(call, buckets)
            enforced, shadows = parted(self._limits.wants(call, estimate, now))
            # An id that was given up is closed for good, so whoever takes its place anew does so under another.
            hold = Hold(f"{hold_id}.{number}" if number else hold_id, granting(enforced), shadows, estimate)
            if not enforced:
                return self._granted(hold)
            place = Place(
                call=call,
                flow=self.flow(call),
                urgency=urgency,
                entered=entered,
                latest=call.begin_by,
                hold_id=hold.id,
                waiter=waiter,
                has_asked=has_asked,
                buckets=buckets,
                wants=hold.wants,
                counted=counted,
            )
            try:
                await self._asking.grant(place)
            except Outdated:
                waiter, has_asked = place.waiter, place.has_asked
                self._leave_others(place, self._limits.buckets(call, self._clock.now()))
                continue
            except BaseException as error:
                observe.RESERVATIONS.inc(self._outcome(call, error))
                raise
            observe.RESERVATIONS.inc("granted")
            self._permits.hold(hold.id, hold.wants)
            return self._granted(hold)
        raise AssertionError("there is always another number")

    def _granted(self, hold: Hold) -> Hold:
        count_reserved(hold.wants)
        if hold.shadows:
            self._shadows.take(hold.id, hold.shadows)
        return hold

    def _leave_others(self, place: Place, buckets: tuple[Want, ...]) -> None:
        # It keeps its places in the lines in which it will go on waiting, and so its rank.
        kept = {want.bucket_id for want in buckets}
        left = tuple(want for want in place.wants if want.bucket_id not in kept)
        if left and place.has_asked:
            self._ledger.release(f"{place.hold_id}.left", left, waiter=place.waiter)

    def _estimate(self, call: Errand, buckets: tuple[Want, ...]) -> Estimate:
        # Of what is only carried nobody has read the body; limits in tokens do not hold for it.
        if not isinstance(call, Call):
            return Estimate(0, 0)
        return self._estimator.estimate(call, has_ceilings=any(want.is_ceiling for want in buckets))

    def _outcome(self, call: Errand, error: BaseException) -> str:
        # At its deadline a call is cancelled, too; then it was the wait that was too long, and not the caller who left.
        left = isinstance(error, asyncio.CancelledError) and self._clock.now() < call.begin_by
        return "cancelled" if left else "refused"

    # Giving back.

    def settle(self, hold: Hold, model: str, usage: Usage) -> Awaitable[None]:
        """Replace what was reserved by what was used, as far as it is known; for `Turn`. The command leaves at once."""
        actual = self._limits.used((*hold.wants, *hold.shadows), model, usage, hold.estimate)
        self._close(hold, actual)
        if hold.shadows:
            self._shadows.settle(hold.id, hold.shadows, actual)
        return _briefly(self._ledger.settle(hold.id, hold.wants, actual)) if hold.wants else _nothing()

    def release(self, hold: Hold) -> Awaitable[None]:
        """Give everything back; for `Turn`. The command leaves at once."""
        self._close(hold, {})
        if hold.shadows:
            self._shadows.release(hold.id, hold.shadows)
        return _briefly(self._ledger.release(hold.id, hold.wants)) if hold.wants else _nothing()

    def give_up(self, hold: Hold) -> None:
        """Give everything back without waiting for it; for `Turn`."""
        self._close(hold, {})
        if hold.shadows:
            self._shadows.release(hold.id, hold.shadows)
        if hold.wants:
            self._ledger.release(hold.id, hold.wants)

    def _close(self, hold: Hold, actual: Mapping[str, int]) -> None:
        self._permits.drop(hold.id)
        self._asking.forget()
        count_closed(hold.wants, actual)

    def learn(self, call: Call, usage: Usage, estimate: Estimate) -> None:
        """Let later estimates be better; for `Turn`."""
        self._estimator.learn(call, usage, estimate.held)

    def budget_headers(self, call: Payer) -> Headers:
        """Return the `anthropic-ratelimit-*` headers of a call's own budget, as last seen; asks nobody."""
        now = self._clock.now()
        buckets = self._limits.buckets(call, now)
        return self._asking.known.headers(buckets, now) if buckets else ()

    def now(self) -> float:
        """Return the time; for `Turn`."""
        return self._clock.now()


def _arrival(place: Place) -> tuple[float, int]:
    _, arrival, number = place.urgency
    return arrival, number


def _briefly(closing: asyncio.Future[Any]) -> asyncio.Future[None]:
    # The ledger sees it through by itself, whether we are cancelled here or not; nobody's answer waits long for it.
    # asyncio.wait would do the same for three times the cost, on the way of every call.
    loop = asyncio.get_running_loop()
    enough: asyncio.Future[None] = loop.create_future()

    def release(_: object = None) -> None:
        timer.cancel()
        if not enough.done():
            enough.set_result(None)

    timer = loop.call_later(_CLOSING_PATIENCE_S, release)
    closing.add_done_callback(release)
    return enough


def _nothing() -> Awaitable[None]:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done
