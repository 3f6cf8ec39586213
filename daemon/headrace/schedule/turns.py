"""
Waiting for a turn: a call goes upstream once all its buckets have granted it what it will probably use, and a slot is free.

    async with schedule.turn(call, hold_id) as turn:
        turn.sent()                              # a stream says `told` as it goes on
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
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, replace

import msgspec

from headrace import observe
from headrace.background import Background
from headrace.budget.draw import Draw
from headrace.budget.estimate import Estimate, Estimator
from headrace.budget.known import Known
from headrace.budget.ledger import Ledger
from headrace.budget.limits import Limits, Payer
from headrace.budget.want import Want
from headrace.clock import Clock
from headrace.crowd import Crowd, Waiting
from headrace.link import Link
from headrace.model import Call, Errand, Headers, Usage
from headrace.rank import LANES, Flow
from headrace.schedule.asking import Asking
from headrace.schedule.counting import Ask, Counting
from headrace.schedule.halting import Halt, Halting
from headrace.schedule.hold import Hold, granting
from headrace.schedule.holding import Holding
from headrace.schedule.line import Line
from headrace.schedule.moving import Moving
from headrace.schedule.order import Urgency
from headrace.schedule.permits import Permits
from headrace.schedule.place import Outdated, Place
from headrace.schedule.shadows import Shadows
from headrace.schedule.slices import Slices
from headrace.schedule.slots import SPARE, Slots, SlotStats
from headrace.schedule.turn import Turn
from headrace.trail import LEARNING, Trail
from headrace.tuning.overload import ANSWERED, End
from headrace.tuning.tuner import Tuner
from headrace.weight import Measure

_MEMO = 4096
_GRANTED = observe.RESERVATIONS.at("granted")


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
        carried: how many of them may be calls that are only carried; by default half.
        lanes: the share of each lane, in millionths.
        tuner: what upstream says of itself.
        ask: asks upstream to count the input of calls; None: nobody does.
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
        carried: int | None = None,
        lanes: Mapping[str, int] = LANES,
        tuner: Tuner | None = None,
        ask: Ask | None = None,
    ) -> None:
        self.crowd = crowd or Crowd()
        carried = max_in_flight // 2 if carried is None else carried
        self.slots = Slots(max_in_flight, clock, spare=max_in_flight // SPARE, carried=carried)
        self.tuner = tuner or Tuner(link, clock)
        self._limits = limits
        self._ledger = ledger
        self._estimator = estimator
        self._clock = clock
        self._inbox = link.inbox
        self._background = Background("schedule", clock)
        self._slices = Slices(self._background)
        self._asking = Asking(ledger, clock, self._slices)
        self.halting = Halting(clock, self._slices)
        self._permits = Permits(ledger, clock, self._background)
        self._shadows = Shadows(ledger, self._permits, self._background)
        self._holding = Holding(ledger, self._permits, self._shadows, self.tuner.gates, self._asking.freed)
        self.reserved = self._holding.reserved
        self._counting = Counting(ask, link, ledger, self.slots, clock) if ask else None
        self._numbers = itertools.count(1)
        self._lanes = lanes
        self._flows = functools.lru_cache(_MEMO)(self._new_flow)
        self._moving = Moving(clock, self._slices, self._asking.places, self._is_outdated)
        link.on("permit", lambda waiter: self.nudge(waiter.decode()))

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Schedule [{stats.waiting} waiting, {stats.asking} asking, {stats.permits} permits]>"

    def stats(self) -> ScheduleStats:
        """Return how it stands now."""
        waiting = self.crowd.stats().by_kind["turn"].calls
        return ScheduleStats(waiting, self._asking.stats().asking, self._permits.stats().holds, self.slots.stats())

    def turn(self, call: Errand, hold_id: str, *, size: int | None = None, trail: Trail | None = None) -> Turn:
        """
        Return the turn of one attempt, to be entered; *hold_id* is never used again.

        *size* is how many bytes it holds while it waits; by default those of the call's body. *trail* is told what held it; by
        default the call's own.
        Entering raises `BudgetExhausted`, `DeadlinePassed`, `QueueFull` and `RedisAway`.
        """
        if size is None:
            size = len(call.body) if isinstance(call, Call) else 0
        counted = self.crowd.waiting("turn", size=size, caller=call.owner.text)
        return Turn(self, call, hold_id, counted, trail or call.trail)

    def urgency(self, call: Errand) -> Urgency:
        """Return a call's order within its flow: by deadline and arrival, which a call that comes back has kept."""
        return call.begin_by, call.arrival, next(self._numbers)

    def flow(self, call: Errand) -> Flow:
        """Return whose calls it is one of."""
        return self._flows(call.owner.text, call.lane, call.caller.weight)

    def _new_flow(self, caller: str, lane: str, weight: int) -> Flow:
        return Flow(caller, lane, self._lanes.get(lane, min(self._lanes.values())), weight)

    def reload(self, limits: Limits, lanes: Mapping[str, int] | None = None) -> None:
        """
        Go by other limits and lanes from now on; no lanes: by those that there are.

        Who waits under limits that have changed takes its place anew, in the order in which they came.
        """
        self._limits = limits
        if lanes is not None and lanes != self._lanes:
            self._lanes = lanes
            self._flows.cache_clear()
        self._moving.start()

    def hold_callers(self, halts: Mapping[str, Halt]) -> None:
        """Let the calls of these callers, by name, wait or be refused from now on: those that wait already, too."""
        self.halting.reload(halts)
        self._moving.start()

    def _is_outdated(self, place: Place) -> bool:
        return self.halting.holds(place.call) or place.buckets != self._limits.buckets(place.call, self._clock.now())

    def lines(self) -> list[Line]:
        """Return all lines of this process."""
        return self._asking.lines()

    @property
    def known(self) -> Known:
        """What was last seen of the buckets."""
        return self._asking.known

    @property
    def limits(self) -> Limits:
        """The limits that hold now."""
        return self._limits

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
        entered, model_class = self._clock.now(), self.tuner.class_of(call)
        waiter, has_asked = "", False
        is_counted, tokens, estimate, drawn = False, None, None, None
        if model_class and self.tuner.learner.must_wait(model_class):
            counted.take()
            counted.held_by(LEARNING, entered)
            await self.tuner.learner.first_head(model_class, call.begin_by)
        if self._moving.is_on and self._limits.buckets(call, entered):
            await self._moving.stand_back(counted, call.begin_by)
        for number in itertools.count():
            if self.halting.holds(call):
                await self.halting.passed(call, counted)
            now = self._clock.now()
            draw = self._limits.draw(call, now)
            if not draw.buckets and not self.tuner.gates.is_troubled(model_class):
                return self._holding.begin(Hold(hold_id, model_class=model_class, granted_at=now))
            if draw.asks_count and not is_counted and self._counting and isinstance(call, Call):
                is_counted, tokens = True, await self._counting.count(call, self._limits, counted)
                continue  # meanwhile the limits may be others, or its caller on hold
            if estimate is None or draw is not drawn:  # limits with ceilings may have come while it waited
                drawn, estimate = draw, self._estimate(call, draw, tokens)
            enforced = granting(self._limits.reserved(draw.enforced, call.model, estimate))
            shadows = self._limits.reserved(draw.shadows, call.model, estimate) if draw.shadows else ()
            wants = enforced + self.tuner.asks_gate(model_class, enforced)
            # An id that was given up is closed for good, so whoever takes its place anew does so under another.
            hold = Hold(f"{hold_id}.{number}" if number else hold_id, wants, shadows, estimate, model_class, now)
            if not wants:
                return self._holding.begin(hold)
            if not has_asked and now <= call.deadline and self._asking.take(hold.id, wants, now):
                _GRANTED.count += 1
                return self._holding.begin(hold)
            place = Place(
                call=call,
                flow=self.flow(call),
                urgency=urgency,
                entered=entered,
                latest=call.begin_by,
                hold_id=hold.id,
                waiter=waiter or f"{self._inbox}|{urgency[2]:012}",
                has_asked=has_asked,
                buckets=draw.buckets,
                wants=hold.wants,
                counted=counted,
            )
            try:
                await self._asking.grant(place)
            except Outdated:
                waiter, has_asked = place.waiter, place.has_asked
                buckets = self._limits.buckets(call, self._clock.now())
                kept = () if self.halting.holds(call) else (*buckets, *self.tuner.asks_gate(model_class, buckets))
                self._leave_others(place, kept)
                continue
            except BaseException as error:
                observe.RESERVATIONS.inc(self._outcome(call, error))
                raise
            _GRANTED.count += 1
            return self._holding.begin(msgspec.structs.replace(hold, granted_at=place.asked_at))
        raise AssertionError("there is always another number")

    def _leave_others(self, place: Place, buckets: tuple[Want, ...]) -> None:
        # It keeps its places in the lines in which it will go on waiting, and so its rank.
        kept = {want.bucket_id for want in buckets}
        left = tuple(want for want in place.wants if want.bucket_id not in kept)
        if left and place.has_asked:
            self._ledger.release(f"{place.hold_id}.left", left, waiter=place.waiter)

    def _estimate(self, call: Errand, draw: Draw, counted: int | None) -> Estimate:
        # Of what is only carried nobody has read the body; limits in tokens do not hold for it.
        if not isinstance(call, Call):
            return Estimate(0, 0)
        return self._estimator.estimate(call, has_ceilings=draw.has_ceilings, counted=counted, room=draw.room)

    def _outcome(self, call: Errand, error: BaseException) -> str:
        # At its deadline a call is cancelled, too; then it was the wait that was too long, and not the caller who left.
        left = isinstance(error, asyncio.CancelledError) and self._clock.now() < call.begin_by
        return "cancelled" if left else "refused"

    def is_fenced(self, hold: Hold) -> bool:
        """Whether this process stood still until what it holds may have become another's; for `Turn`."""
        return self._permits.has_lapsed(hold.id)

    # Giving back.

    def settle(self, hold: Hold, model: str, usage: Usage, end: End) -> Awaitable[None]:
        """Replace what was reserved by what was used, as far as it is known; for `Turn`. The command leaves at once."""
        actual = self._limits.used((*hold.wants, *hold.shadows), model, usage, hold.estimate)
        said = self.tuner.said(hold.model_class, hold.wants, end, age_s=self._clock.now() - hold.granted_at)
        wants = hold.wants or self.tuner.needed_gate(hold.model_class, said)
        return self._holding.settle(hold, wants, actual, said)

    def amend(self, hold: Hold, model: str, usage: Usage) -> Hold:
        """Replace what was reserved by what a stream that goes on has said of its use; return what it holds now; for `Turn`."""
        if hold.estimate is None:
            return hold
        return self._holding.amend(hold, self._limits.used(hold.wants, model, replace(usage, known=False), hold.estimate))

    def has_gate(self, hold: Hold) -> bool:
        """Whether a call has passed a gate that others may be waiting at; for `Turn`."""
        return bool(self.tuner.troubled_gate(hold.model_class, hold.wants))

    def begin(self, hold: Hold) -> bool:
        """Tell a gate that upstream has taken a call, now that it answers; return whether there was one to tell; for `Turn`."""
        gates = self.tuner.troubled_gate(hold.model_class, hold.wants)
        if gates:
            said = self.tuner.said(hold.model_class, (), ANSWERED, age_s=self._clock.now() - hold.granted_at)
            self._ledger.settle(f"{hold.id}.begun", gates, {}, said)
        return bool(gates)

    def tell(self, call: Errand) -> None:
        """Tell the buckets of a call upstream's latest word at once: they are new and full, and others wait to draw on them."""
        wants = tuple(want.at(0) for want in self._limits.buckets(call, self._clock.now()))
        said = self.tuner.latest(self.tuner.class_of(call), wants)
        if said.most:
            self._ledger.settle(f"{self._inbox}|word {next(self._numbers)}", wants, {}, said)

    def charge(self, payer: Payer, nano_usd: int) -> None:
        """Count money that was spent outside all turns, in each window that it belongs to; it may leave debt there."""
        wants = self._limits.windows(payer, self._clock.now())
        if wants:
            actual = {want.bucket_id: nano_usd for want in wants}
            self._ledger.settle(f"{self._inbox}|charge {next(self._numbers)}", wants, actual)

    def release(self, hold: Hold) -> Awaitable[None]:
        """Give everything back; for `Turn`. The command leaves at once."""
        return self._holding.release(hold)

    def give_up(self, hold: Hold) -> None:
        """Give everything back without waiting for it; for `Turn`."""
        self._holding.give_up(hold)

    def learn(self, call: Call, usage: Usage, estimate: Estimate) -> None:
        """Let later estimates be better; for `Turn`."""
        self._estimator.learn(call, usage, estimate.held)

    def budget_headers(self, call: Payer) -> Headers:
        """Return the `anthropic-ratelimit-*` headers of a call's own budget, as last seen; asks nobody."""
        now = self._clock.now()
        buckets = self._limits.buckets(call, now)
        return self._asking.known.headers(buckets, now) if buckets else ()

    def wanted(self, payer: Payer, input_tokens: int, max_tokens: int) -> tuple[Want, ...]:
        """Return what a call of so many tokens would want of its buckets; nothing is reserved."""
        expect = self._estimator.expect
        likely = expect(payer.caller.name, payer.model, Measure(0), max_tokens, floor=0, most=0, has_ceilings=True)
        likely.input_tokens = likely.most_input_tokens = input_tokens
        return self._limits.wants(payer, likely, self._clock.now())

    def now(self) -> float:
        """Return the time; for `Turn`."""
        return self._clock.now()
