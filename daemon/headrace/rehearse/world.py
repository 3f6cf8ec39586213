"""
A rehearsal: a discrete-event simulation of any number of daemons before the calls of some traffic.

Calls come by themselves, in order; all else that happens is in one heap of (moment, number, what, to whom). Nothing happens in
between, and no clock ticks. A call takes as long as it did in the traffic, once it has its turn.

What is not in it: upstream's own errors and pauses, the way to Redis and back, and what is refused later than at the moment at
which a call comes or would be next; a daemon finds some of those earlier.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace.budget.estimate import Estimate
from headrace.budget.ledger import given_back
from headrace.budget.want import Want
from headrace.deadline import margin_s
from headrace.errors import QueueFull
from headrace.model import Usage
from headrace.rank import Flow
from headrace.rehearse.daemons import Daemon, Standing
from headrace.rehearse.lending import Borrower
from headrace.rehearse.lines import Line, Lines, Place
from headrace.rehearse.plan import Kind, Plan, kind_of
from headrace.rehearse.queues import Group, Queue, Waiting
from headrace.rehearse.tally import Tally
from headrace.rehearse.traffic import Traffic
from headrace.weight import Measure

LATE, NEVER, FULL = "late", "never", "full"  # why calls are refused
_BYTES_PER_TOKEN = 4  # of a body of which nobody says how long it is
_TELL_EVERY = 2048
_NOTHING: Final = Estimate(0, 0)


@dataclass(slots=True, eq=False)
class Running:
    """A call that has its budgets; `shadows` is what it took of limits that enforce nothing."""

    waiting: Waiting
    place: Place[Waiting]
    shadows: tuple[tuple[Want, Line], ...] = ()


class World:
    """
    All of it, from the first call to the last.

    Args:
        heed: told of all that buckets give to calls and have back of them: the line, the moment (us), the tokens.
        tell: told now and then how many calls have come.
    """

    def __init__(
        self,
        plan: Plan,
        traffic: Traffic,
        *,
        heed: Callable[[Line, int, int], None] | None = None,
        tell: Callable[[int], None] | None = None,
    ) -> None:
        self.now_us = traffic.at_us[0] if traffic.at_us else 0
        self.tally = Tally(self.now_us, traffic.at_us[-1] if traffic.at_us else 0)
        self._plan, self._traffic, self._heed, self._tell = plan, traffic, heed, tell
        self._events: list[tuple[int, int, Callable[[Any], None], Any]] = []
        self._number = 0
        self._lines: Lines[Waiting] = Lines(self._called, lambda at_us, line: self._at(at_us, self._rings, line))
        self._groups: dict[tuple[str, ...], Group] = {}
        self._kinds = [kind_of(profile, plan) for profile in traffic.profiles]
        for number, output in zip(traffic.profile, traffic.output_tokens, strict=True):
            kind = self._kinds[number]
            kind.most = max(kind.most, output)
        self.daemons = [self._daemon(number) for number in range(plan.daemons)]

    def __repr__(self) -> str:
        return f"<World [{len(self.daemons)} daemons, {len(self._events)} events ahead] {self._lines!r}>"

    def _daemon(self, number: int) -> Daemon[Running]:
        plan, borrower = self._plan, None
        if plan.terms is not None:
            borrower = Borrower(number, plan.terms, lambda at_us: self._at(at_us, self._exchanges, number), self._lines.stir)
        return Daemon(plan.slots, plan.max_waiting, plan.max_waiting_bytes, borrower)

    def run(self) -> Tally:
        """Let everything happen, and return what came of it."""
        traffic, events = self._traffic, self._events
        whose = random.Random(self._plan.seed).choices(range(len(self.daemons)), k=len(traffic))  # noqa: S311 - which daemon a call comes to is no secret
        for call, at_us in enumerate(traffic.at_us):
            while events and events[0][0] <= at_us:
                self._happen()
            self.now_us = at_us
            self._come(call, whose[call])
            self._lines.look(at_us)
            if self._tell is not None and not call % _TELL_EVERY:
                self._tell(call)
        while events:
            self._happen()
        return self.tally

    def _happen(self) -> None:
        self.now_us, _, happens, whom = heapq.heappop(self._events)
        happens(whom)
        self._lines.look(self.now_us)

    def _at(self, at_us: int, happens: Callable[[Any], None], whom: object) -> None:
        self._number += 1
        heapq.heappush(self._events, (at_us, self._number, happens, whom))

    # Coming.

    def _come(self, call: int, number: int) -> None:
        kind = self._kinds[self._traffic.profile[call]]
        queue = self._queue(kind)
        waiting = self._waiting(call, number, kind, queue)
        if any(want.cost > want.capacity for want in waiting.wants):
            self.tally.refused(kind.key, NEVER)
        elif queue.head is None:
            self._ask_first(queue, waiting, kind)
        else:
            self._stand_behind(queue, waiting, kind)

    def _queue(self, kind: Kind) -> Queue:
        if kind.queue is None or 0 < kind.ends_us <= self.now_us:
            kind.want(self._plan.limits.draw(kind.paying, self.now_us / 1e6))
            kind.lines = self._lines.of(kind.buckets, self.now_us)
            kind.shadow_lines = self._lines.of(kind.shadows, self.now_us)
            group = self._groups.setdefault(tuple(want.bucket_id for want in kind.buckets), Group(kind.lines))
            kind.queue = group.queue(kind.flow)
        return kind.queue

    def _waiting(self, call: int, number: int, kind: Kind, queue: Queue) -> Waiting:
        estimate = self._estimate(call, number, kind)
        reserved, model = self._plan.costs.reserved, kind.paying.model
        wants = tuple([reserved(want, model, estimate) for want in kind.buckets])
        shadows = tuple([reserved(want, model, estimate) for want in kind.shadows])
        deadline_us = self._traffic.deadline_us[call]
        latest_us = self._traffic.at_us[call] + deadline_us - int(margin_s(deadline_us / 1e6) * 1e6)
        return Waiting(call, number, (latest_us, call), queue, wants, shadows, estimate)

    def _estimate(self, call: int, number: int, kind: Kind) -> Estimate:
        if not kind.is_estimated:  # nor of what is only carried, for which limits on use do not hold
            return _NOTHING
        held = Measure(self._traffic.body_bytes[call] or self._traffic.input_tokens[call] * _BYTES_PER_TOKEN)
        max_tokens = self._traffic.max_tokens[call] or kind.most
        return self.daemons[number].estimator.expect(
            kind.paying.caller.name, kind.paying.model, held, max_tokens,
            floor=0, most=held.size_bytes, has_ceilings=kind.has_ceilings,
        )  # fmt: skip

    def _ask_first(self, queue: Queue, waiting: Waiting, kind: Kind) -> None:
        place = _place(waiting)
        borrower = self.daemons[waiting.daemon].borrower
        if kind.is_lent and borrower is not None and borrower.take(waiting.wants, kind.lines, self.now_us):
            waiting.is_borrowed = True
            self._granted(place)
        else:
            self._ask(queue, place)

    def _ask(self, queue: Queue, place: Place[Waiting]) -> bool:
        """Let a place ask; return whether it stands there as its queue's head now."""
        wait_us = self._lines.ask(place, self.now_us)
        if not wait_us:
            queue.leave()
            self._granted(place)
            return False
        if self.now_us + wait_us > place.waiting.rank[0]:
            self._refuse_head(queue, place, LATE)
            return False
        if not self._counts(place.waiting):
            self._refuse_head(queue, place, FULL)
            return False
        queue.stand(place)
        self._watch(queue, place)
        for line in place.standing if self._plan.terms is not None else ():
            self._recall(line)
        return True

    def _refuse_head(self, queue: Queue, place: Place[Waiting], why: str) -> None:
        queue.leave()
        self._lines.give_up(place)
        self._refuse(place.waiting, why)

    def _recall(self, line: Line) -> None:
        for number in list(line.loans):
            borrower = self.daemons[number].borrower
            if borrower is not None:
                borrower.recall(line, self.now_us)

    def _stand_behind(self, queue: Queue, waiting: Waiting, kind: Kind) -> None:
        if queue.is_late(waiting, self.now_us):
            self.tally.refused(kind.key, LATE)
            return
        if not self._counts(waiting):
            self.tally.refused(kind.key, FULL)
            return
        head = queue.head
        if head is not None and waiting.rank < head.waiting.rank:  # it takes over the place of a less urgent one
            queue.behind.add(self._lines.take_over(head, waiting))
            self._called(head, self.now_us)
        else:
            queue.behind.add(waiting)

    def _watch(self, queue: Queue, place: Place[Waiting]) -> None:
        # Who waits for permits hears of its latest moment by this alone.
        latest_us = place.waiting.rank[0]
        if queue.alarm_us <= self.now_us or latest_us < queue.alarm_us:
            queue.alarm_us = latest_us
            self._at(latest_us, self._passes, queue)

    # Waiting.

    def _counts(self, waiting: Waiting) -> bool:
        """Count a call among those that wait; return whether there is room for it."""
        if waiting.is_counted:
            return True
        size, key = self._traffic.body_bytes[waiting.call], waiting.queue.flow
        try:
            self.daemons[waiting.daemon].crowd.take("turn", 1, size, key.caller)
        except QueueFull:
            return False
        waiting.is_counted = True
        waiting.queue.count(waiting, 1)
        self.tally.waits(key.lane, 1, self.now_us)
        return True

    def _counts_no_longer(self, waiting: Waiting) -> None:
        if waiting.is_counted:
            waiting.is_counted = False
            size, key = self._traffic.body_bytes[waiting.call], waiting.queue.flow
            self.daemons[waiting.daemon].crowd.count("turn", -1, -size, key.caller)
            waiting.queue.count(waiting, -1)
            self.tally.waits(key.lane, -1, self.now_us)

    def _refuse(self, waiting: Waiting, why: str) -> None:
        self._counts_no_longer(waiting)
        self.tally.refused((waiting.queue.flow.caller, waiting.queue.flow.lane), why)

    def _rings(self, line: Line) -> None:
        self._lines.look(self.now_us, line)

    def _called(self, place: Place[Waiting], now_us: int) -> None:
        queue = place.waiting.queue
        if place.ends_us and place.ends_us <= now_us:
            self._outdate(queue, place)
        elif not self._ask(queue, place):
            self._advance(queue)

    def _advance(self, queue: Queue) -> None:
        """The head has left: the next one asks, until one has to wait."""
        while (waiting := queue.pop()) is not None:
            if waiting.rank[0] < self.now_us:
                self._refuse(waiting, LATE)
                continue
            place = _place(waiting)
            if 0 < place.ends_us <= self.now_us:
                self._take_anew(waiting)
            elif self._ask(queue, place):
                return

    def _passes(self, queue: Queue) -> None:
        """The latest moment of a head has come."""
        if queue.alarm_us > self.now_us:
            return
        queue.alarm_us, place = 0, queue.head
        if place is None:
            return
        if place.waiting.rank[0] > self.now_us:
            self._watch(queue, place)
            return
        self._refuse_head(queue, place, LATE)
        self._advance(queue)

    def _outdate(self, queue: Queue, place: Place[Waiting]) -> None:
        """A window has ended: all who waited for it take their places anew, in order, before what there is now."""
        queue.leave()
        self._lines.give_up(place)
        waiting: Waiting | None = place.waiting
        while waiting is not None:
            self._take_anew(waiting)
            waiting = queue.pop()

    def _take_anew(self, waiting: Waiting) -> None:
        self._counts_no_longer(waiting)
        self._come(waiting.call, waiting.daemon)

    # Running.

    def _granted(self, place: Place[Waiting]) -> None:
        waiting = place.waiting
        self._counts_no_longer(waiting)
        for want, line in zip(waiting.wants, place.lines, strict=True):
            self._moved(line, want.cost)
        running = Running(waiting, place, self._shadowed(waiting) if waiting.shadows else ())
        daemon = self.daemons[waiting.daemon]
        if daemon.take_free(place.flow):
            self._begin(running)
        elif self._counts(waiting):
            latest_us = waiting.rank[0]
            daemon.stand(Standing(place.flow, (latest_us, waiting.call, waiting.call), latest_us, running))
        else:
            self._give_all_back(running, FULL)

    def _shadowed(self, waiting: Waiting) -> tuple[tuple[Want, Line], ...]:
        taken = []
        kind = self._kinds[self._traffic.profile[waiting.call]]
        for want, line in zip(waiting.shadows, kind.shadow_lines, strict=True):
            fits = line.fits(want.cost, self.now_us)
            self.tally.shadows[want.limit, "granted" if fits else "held"] += 1
            if fits:
                line.take(want.cost)
                self._moved(line, want.cost)
                taken.append((want, line))
        return tuple(taken)

    def _moved(self, line: Line, tokens: int) -> None:
        self.tally.took(line, tokens, self.now_us)
        if self._heed is not None:
            self._heed(line, self.now_us, tokens)

    def _begin(self, running: Running) -> None:
        waiting = running.waiting
        self._counts_no_longer(waiting)
        flow = waiting.queue.flow
        self.tally.began((flow.caller, flow.lane), self.now_us - self._traffic.at_us[waiting.call])
        self._at(self.now_us + self._traffic.took_us[waiting.call], self._end, running)

    def _end(self, running: Running) -> None:
        waiting, call = running.waiting, running.waiting.call
        kind, daemon = self._kinds[self._traffic.profile[call]], self.daemons[waiting.daemon]
        actual = self._learn(waiting, kind, daemon) if waiting.estimate.held is not None else {}
        self._give_back(running, given_back(waiting.wants, actual))
        self._give_back_shadows(running, actual)
        self.tally.used(kind.key, self._traffic.input_tokens[call], self._traffic.output_tokens[call])
        self._pass_slot(daemon, running.place.flow)

    def _learn(self, waiting: Waiting, kind: Kind, daemon: Daemon[Running]) -> dict[str, int]:
        """Return what a call used, by bucket, and let its daemon's later estimates be better."""
        call, estimate, model = waiting.call, waiting.estimate, kind.paying.model
        usage = Usage(self._traffic.input_tokens[call], self._traffic.output_tokens[call])
        if estimate.held is not None:
            max_tokens = self._traffic.max_tokens[call] or kind.most
            daemon.estimator.take_in(kind.paying.caller.name, model, estimate.held, max_tokens, usage)
        return self._plan.costs.used((*waiting.wants, *waiting.shadows), model, usage, estimate)

    def _pass_slot(self, daemon: Daemon[Running], flow: Flow) -> None:
        daemon.give_back(flow)
        while (following := daemon.next()) is not None:
            if following.waiting.rank[0] >= self.now_us:
                self._begin(following)
            else:
                daemon.give_back(following.place.flow)
                self._give_all_back(following, LATE)

    def _give_all_back(self, running: Running, why: str) -> None:
        self._refuse(running.waiting, why)
        self._give_back(running, list(running.waiting.costs))
        self._give_back_shadows(running, {want.bucket_id: 0 for want in running.waiting.shadows})

    def _give_back_shadows(self, running: Running, actual: Mapping[str, int]) -> None:
        for want, line in running.shadows:
            [back] = given_back([want], actual) if line.bucket is not None else [want.cost]
            line.give_back(back, self.now_us)
            self._moved(line, -back)

    def _give_back(self, running: Running, back: list[int]) -> None:
        waiting, place = running.waiting, running.place
        borrower = self.daemons[waiting.daemon].borrower
        if waiting.is_borrowed and borrower is not None:
            borrower.put_back(place.lines, back, self.now_us)
        else:
            self._lines.give_back(place, back, self.now_us)
        for want, line, tokens in zip(waiting.wants, place.lines, back, strict=True):
            if line.bucket is None:
                tokens = want.cost
            if tokens:
                self._moved(line, -tokens)

    def _exchanges(self, number: int) -> None:
        borrower = self.daemons[number].borrower
        if borrower is not None:
            borrower.exchange(self.now_us)


def _place(waiting: Waiting) -> Place[Waiting]:
    ends_us = min([want.ends_us for want in waiting.wants if want.ends_us], default=0)
    return Place(waiting, waiting.queue.flow, waiting.queue.group.lines, waiting.call, ends_us)
