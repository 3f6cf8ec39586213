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
import itertools
from collections import deque
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from types import TracebackType
from typing import Any

from headrace import observe
from headrace.background import Background
from headrace.budget.estimate import Estimate, Estimator
from headrace.budget.ledger import Ledger
from headrace.budget.limits import Limits, Payer, Want
from headrace.budget.measure import Measure
from headrace.clock import Clock
from headrace.crowd import Crowd, Waiting
from headrace.endpoints import named
from headrace.errors import Failure
from headrace.link import Link
from headrace.model import Call, Errand, Headers, Usage
from headrace.schedule.asking import Asking, never
from headrace.schedule.line import Outdated, Place
from headrace.schedule.permits import Permits
from headrace.schedule.slices import Slices, Work
from headrace.schedule.slots import Slots, SlotStats
from headrace.schedule.standing import Rank

_CLOSING_PATIENCE_S = 0.5  # an answer waits so long for its settlement; it goes on without


@dataclass(frozen=True, slots=True)
class Hold:
    """
    What a call was granted, under the id by which it is settled; no wants: no limit matches it.

    `held` is what its body was measured to hold, for the estimator.
    """

    id: str
    wants: tuple[Want, ...] = ()
    held: Measure | None = None


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
        self._numbers = itertools.count(1)
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
        return Turn(self, call, hold_id, self.crowd.waiting("turn", size=size))

    def rank(self, call: Errand) -> Rank:
        """Return the place in the order of all that wait: by arrival, which a call that comes back has kept."""
        return call.arrival, next(self._numbers)

    def reload(self, limits: Limits) -> None:
        """Go by other limits from now on. Who waits under limits that have changed takes its place anew, in the same order."""
        self._limits = limits
        self._reloads += 1
        self._slices.start(self._move(), "reload")

    def _move(self) -> Work:
        try:
            moving = []
            for place in sorted(self._asking.places(), key=attrgetter("rank")):
                if place.buckets != self._limits.buckets(place.call):
                    place.is_outdated = True  # whoever is called before it has moved asks for nothing under the old limits
                    moving.append(place)
                yield 0
            # The oldest first, a few at a time: taking ten thousand places anew would hold the loop for a second.
            for place in moving:
                place.outdate()
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

    async def take(self, call: Errand, hold_id: str, rank: Rank, counted: Waiting) -> Hold:
        """Wait until all buckets have granted a call's wants, and return what was granted; for `Turn`."""
        entered, estimate = self._clock.now(), None
        if self._reloads and self._limits.buckets(call):
            await self._stand_back(counted)
        for number in itertools.count():
            buckets = self._limits.buckets(call)
            if not buckets:
                return Hold(hold_id)
            estimate = estimate or self._estimate(call)
            # An id that was given up is closed for good, so whoever takes its place anew does so under another.
            wants = _granting(self._limits.wants(call, estimate))
            place = Place(
                call=call,
                rank=rank,
                entered=entered,
                latest=call.begin_by,
                hold_id=f"{hold_id}.{number}" if number else hold_id,
                waiter=f"{self._inbox}|{rank[1]:012}",  # ledgers sort equal arrivals by name
                buckets=buckets,
                wants=wants,
                counted=counted,
            )
            try:
                await self._asking.grant(place)
            except Outdated:
                continue
            except BaseException as error:
                observe.RESERVATIONS.inc(self._outcome(call, error))
                raise
            observe.RESERVATIONS.inc("granted")
            self._permits.hold(place.hold_id, place.wants)
            return Hold(place.hold_id, place.wants, estimate.held)
        raise AssertionError("there is always another number")

    def _estimate(self, call: Errand) -> Estimate:
        # Of what is only carried nobody has read the body; limits in tokens do not hold for it.
        return self._estimator.estimate(call) if isinstance(call, Call) else Estimate(0, 0)

    def _outcome(self, call: Errand, error: BaseException) -> str:
        # At its deadline a call is cancelled, too; then it was the wait that was too long, and not the caller who left.
        left = isinstance(error, asyncio.CancelledError) and self._clock.now() < call.begin_by
        return "cancelled" if left else "refused"

    # Giving back.

    def settle(self, hold: Hold, actual: Mapping[str, int]) -> Awaitable[None]:
        """Replace what was reserved by what was used; for `Turn`. The command leaves at once."""
        self._permits.drop(hold.id)
        self._asking.forget()
        return _briefly(self._ledger.settle(hold.id, hold.wants, actual))

    def release(self, hold: Hold) -> Awaitable[None]:
        """Give everything back; for `Turn`. The command leaves at once."""
        self._permits.drop(hold.id)
        self._asking.forget()
        return _briefly(self._ledger.release(hold.id, hold.wants))

    def give_up(self, hold: Hold) -> None:
        """Give everything back without waiting for it; for `Turn`."""
        self._permits.drop(hold.id)
        self._asking.forget()
        if hold.wants:
            self._ledger.release(hold.id, hold.wants)

    def learn(self, call: Call, usage: Usage, hold: Hold) -> None:
        """Let later estimates be better; for `Turn`."""
        self._estimator.learn(call, usage, hold.held)

    def budget_headers(self, call: Payer) -> Headers:
        """Return the `anthropic-ratelimit-*` headers of a call's own budget, as last seen; asks nobody."""
        buckets = self._limits.buckets(call)
        return self._asking.known.headers(buckets, self._clock.now()) if buckets else ()

    def now(self) -> float:
        """Return the time; for `Turn`."""
        return self._clock.now()


class Turn:
    """
    One attempt's turn: a context. Left without a word, it keeps what may have been used and gives back the rest.

    `waited_s` is how long it waited for its budgets and its slot.
    """

    __slots__ = ("_call", "_counted", "_has_slot", "_hold", "_is_closed", "_is_sent", "_schedule", "waited_s")

    def __init__(self, schedule: Schedule, call: Errand, hold_id: str, counted: Waiting) -> None:
        self.waited_s = 0.0
        self._schedule = schedule
        self._call = call
        self._counted = counted
        self._hold = Hold(hold_id)
        self._has_slot = False
        self._is_sent = False
        self._is_closed = False

    async def __aenter__(self) -> Turn:
        came = self._schedule.now()
        rank = self._schedule.rank(self._call)
        try:
            self._hold = await self._schedule.take(self._call, self._hold.id, rank, self._counted)
            await self._take_slot(rank)
        finally:
            self._counted.release()
        self.waited_s = max(0.0, self._schedule.now() - came)
        observe.TURN_WAIT.observe(self.waited_s)
        return self

    async def _take_slot(self, rank: Rank) -> None:
        try:
            await self._schedule.slots.take(rank, self._call.begin_by, self._counted)
        except BaseException:
            self._schedule.give_up(self._hold)  # surely nothing was sent
            raise
        self._has_slot = True

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._give_slot_back()
        if self._hold.wants and not self._is_closed:
            await (self._settle({}) if self._is_sent else self._release())

    def sent(self) -> None:
        """Say that the attempt is about to be sent: from here on its use is unknown until it is told."""
        self._is_sent = True

    def settle(self, usage: Usage) -> Awaitable[None]:
        """Settle what the answer used. The command leaves when this is called; await it as long as is convenient."""
        self._give_slot_back()
        if not self._hold.wants:
            return _nothing()
        if isinstance(self._call, Call) and named(self._call.endpoint).is_metered:
            self._schedule.learn(self._call, usage, self._hold)
        if not usage.known:
            return self._settle({})
        return self._settle({"input_tokens": usage.metered_input_tokens, "output_tokens": usage.output_tokens})

    def fail(self, failure: Failure, sent: bool) -> Awaitable[None]:
        """Settle an attempt that failed: tokens come back unless they may have been used, the request only if unsent."""
        self._give_slot_back()
        if not self._hold.wants:
            return _nothing()
        if not sent:
            return self._release()
        return self._settle({} if failure.has_used else {"input_tokens": 0, "output_tokens": 0})

    def _give_slot_back(self) -> None:
        # Once the attempt is over, not once its settlement has arrived.
        if self._has_slot:
            self._has_slot = False
            self._schedule.slots.give_back()

    def _settle(self, actual: Mapping[str, int]) -> Awaitable[None]:
        self._is_closed = True
        return self._schedule.settle(self._hold, actual)

    def _release(self) -> Awaitable[None]:
        self._is_closed = True
        return self._schedule.release(self._hold)


def _granting(wants: tuple[Want, ...]) -> tuple[Want, ...]:
    """Return the wants, or raise `BudgetExhausted` if a bucket can never hold what is wanted of it."""
    for want in wants:
        if want.cost > want.capacity:
            raise never(want)
    return wants


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
