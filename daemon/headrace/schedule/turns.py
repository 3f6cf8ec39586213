"""
Waiting for a turn: a call goes upstream once all its buckets have granted it what it will probably use.

    async with schedule.turn(call, hold_id) as turn:
        turn.sent()
        answer = await upstream.ask(call)
        await turn.settle(answer.usage)

A call that cannot go now waits in order instead of being refused, unless it is plain that its deadline comes first: then it is
refused at once, with the time that would work. The line of this process is in line.py, the order between processes in
the ledger; this module joins the two, and gives back whatever was taken, whichever way a turn ends. A call that no limit
matches costs nothing here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Coroutine, Mapping
from types import TracebackType
from typing import Any

from headrace import observe
from headrace.background import Background
from headrace.budget.estimate import Estimate, Estimator
from headrace.budget.known import Known
from headrace.budget.ledger import Granted, Ledger, Never, Wait
from headrace.budget.limits import Limits, Payer, Want
from headrace.clock import Clock
from headrace.crowd import Crowd
from headrace.endpoints import named
from headrace.errors import BudgetExhausted, DeadlinePassed, Failure, RedisAway
from headrace.link import Link
from headrace.model import Call, Errand, Usage
from headrace.schedule.line import Line, Place

_ASK_EVERY_S = 1.0  # keeps the place in the ledger's line, whose lease is five times that, and finds lost nudges
_REDIS_PATIENCE_S = 5.0
_SCAN_EVERY_S = 1.0
_RENEW_EVERY_S = 10.0
_CLOSING_PATIENCE_S = 0.5  # an answer waits so long for its settlement; it goes on without


class Schedule:
    """
    Hands out turns.

    Args:
        crowd: where whoever waits is counted, and refused if there are too many.
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
    ) -> None:
        self._limits = limits
        self._ledger = ledger
        self._estimator = estimator
        self._clock = clock
        self._inbox = link.inbox
        self._crowd = crowd or Crowd()
        self._lines: dict[tuple[str, ...], Line] = {}
        self._numbers = itertools.count(1)
        self._by_waiter: dict[str, Place] = {}  # those who ask; a nudge finds them here
        self._redis_away_since: float | None = None
        self._known = Known()
        self._permits: dict[str, tuple[Want, ...]] = {}  # what this process holds of concurrency, by hold id
        self._background = Background("schedule", clock)
        link.on("permit", lambda waiter: self.nudge(waiter.decode()))

    def __repr__(self) -> str:
        asking = sum(len(line.asking) for line in self._lines.values())
        waiting = self._crowd.stats().by_kind["turn"].calls
        return f"<Schedule [{waiting} waiting, {asking} asking, {len(self._permits)} permits]>"

    def turn(self, call: Errand, hold_id: str) -> Turn:
        """
        Return the turn of one attempt, to be entered; *hold_id* is never used again.

        Entering raises `BudgetExhausted`, `DeadlinePassed`, `QueueFull` and `RedisAway`.
        """
        return Turn(self, call, hold_id)

    def reload(self, limits: Limits) -> None:
        """Go by other limits from now on; who waits already goes by those it came with."""
        self._limits = limits

    def nudge(self, waiter: str) -> None:
        """Let a place ask again now: the ledger says it fits."""
        place = self._by_waiter.get(waiter)
        if place is not None:
            place.nudge()

    async def close(self) -> None:
        """Stop the work in the background."""
        await self._background.close()

    # Taking.

    async def take(self, call: Errand, hold_id: str) -> tuple[Want, ...]:
        """Wait until all buckets have granted a call's wants, and return them; for `Turn`."""
        if not self._limits.buckets(call):
            return ()
        wants = self._limits.wants(call, self._estimate(call))
        for want in wants:
            if want.cost > want.capacity:
                raise _never(want)
        place = self._place(call, hold_id, wants)
        line = self._line(wants)
        levels: tuple[int, ...] | None = None
        try:
            if not line.join(place):
                await self._stand(line, place)
            levels = await self._ask(line, place)
        except BaseException:
            observe.RESERVATIONS.inc("refused")
            if place.has_asked:
                # Even if it was not granted: the answer may be on its way, and its places in the ledger's lines go too.
                self._ledger.release(hold_id, wants, waiter=place.waiter)
            raise
        finally:
            self._leave(line, place, levels)
        observe.RESERVATIONS.inc("granted")
        observe.TURN_WAIT.observe(max(0.0, self._clock.now() - place.entered))
        self._hold_permits(hold_id, wants)
        return wants

    def _estimate(self, call: Errand) -> Estimate:
        # Of what is only carried nobody has read the body; limits in tokens do not hold for it.
        return self._estimator.estimate(call) if isinstance(call, Call) else Estimate(0, 0)

    def _place(self, call: Errand, hold_id: str, wants: tuple[Want, ...]) -> Place:
        number = next(self._numbers)
        return Place(
            order=(call.arrival, number),
            entered=self._clock.now(),
            deadline=call.deadline,
            hold_id=hold_id,
            waiter=f"{self._inbox}|{number}",
            wants=wants,
            counted=self._crowd.waiting("turn", size=len(call.body) if isinstance(call, Call) else 0),
        )

    def _line(self, wants: tuple[Want, ...]) -> Line:
        key = tuple(want.bucket_id for want in wants)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(wants)
        return line

    def _leave(self, line: Line, place: Place, levels: tuple[int, ...] | None) -> None:
        line.leave(place)
        self._by_waiter.pop(place.waiter, None)
        place.counted.release()
        line.call(levels)
        if line.is_empty:
            self._lines.pop(tuple(want.bucket_id for want in line.wants), None)

    # Standing in line, without a word to the ledger.

    async def _stand(self, line: Line, place: Place) -> None:
        self._count(place)
        now = self._clock.now()
        wait_s = line.wait_s(place, now)
        if now + wait_s > place.deadline:
            raise _exhausted(place.wants[0], wait_s)
        place.called = asyncio.get_running_loop().create_future()
        await place.called

    def _count(self, place: Place) -> None:
        if place.counted.take():
            observe.RESERVATIONS.inc("waited")

    def _refuse_hopeless(self, line: Line, now: float) -> None:
        # Looking at everybody takes a moment, so it is done now and then; the front looks at itself every time.
        if line.waiting and now - line.scanned >= _SCAN_EVERY_S:
            line.scanned = now
            for place, wait_s in line.hopeless(now):
                place.refuse(_exhausted(place.wants[0], wait_s))

    # Asking the ledger.

    async def _ask(self, line: Line, place: Place) -> tuple[int, ...]:
        self._by_waiter[place.waiter] = place
        while True:
            outcome = await self._reserve(line, place)
            now = self._clock.now()
            if isinstance(outcome, Never):
                raise _never(_want(place, outcome.bucket_id))
            self._known.learn(place.wants, outcome.levels, now)
            if isinstance(outcome, Granted):
                if now > place.deadline:
                    raise DeadlinePassed("the call's turn came after its deadline")
                return outcome.levels
            self._consider(line, place, outcome, now)
            await self._nap(place, min(outcome.seconds, _ASK_EVERY_S, place.deadline - now))

    def _consider(self, line: Line, place: Place, wait: Wait, now: float) -> None:
        # What to make of being told to wait: refuse those for whom it is too long, this one and those behind it.
        want = _want(place, wait.bucket_id)
        due = now + wait.seconds if want.rate_per_minute else now  # for a permit, the seconds are a guess
        line.note(place, wait.levels, due, now)
        self._refuse_hopeless(line, now)
        if due > place.deadline or now >= place.deadline:
            raise _exhausted(want, wait.seconds)
        self._count(place)

    async def _reserve(self, line: Line, place: Place) -> Granted | Wait | Never:
        pause_s = 0.05
        while True:
            try:
                outcome = await self._reserve_once(place)
            except RedisAway:
                now = self._clock.now()
                left_s = self._patience_s(place, now)
                if left_s <= 0:
                    self._refuse_stranded(line, now)
                    raise
                await self._nap(place, min(pause_s, left_s))
                pause_s = min(2 * pause_s, 0.5)
            else:
                self._redis_away_since = None
                return outcome

    async def _reserve_once(self, place: Place) -> Granted | Wait | Never:
        place.has_asked = True
        now = self._clock.now()
        asking = self._ledger.reserve(place.hold_id, place.wants, waiter=place.waiter, waited_s=now - place.order[0])
        if self._redis_away_since is None:
            return await asking
        try:
            # A Redis that hangs would hold up each question longer than there is patience left.
            async with asyncio.timeout(max(0.1, self._patience_s(place, now))):
                return await asking
        except TimeoutError as error:
            raise RedisAway("Redis does not answer", retry_after_s=1.0) from error

    def _patience_s(self, place: Place, now: float) -> float:
        if self._redis_away_since is None:
            self._redis_away_since = now
        return min(max(self._redis_away_since, place.entered) + _REDIS_PATIENCE_S, place.deadline) - now

    def _refuse_stranded(self, line: Line, now: float) -> None:
        # Those behind have waited as long; each trying by itself would take them as long again, one after the other.
        for place in line.standing():
            if self._patience_s(place, now) <= 0:
                place.refuse(RedisAway("Redis cannot be reached", retry_after_s=1.0))

    async def _nap(self, place: Place, seconds: float) -> None:
        if not place.is_nudged:
            place.alarm = asyncio.get_running_loop().create_future()
            sleep = asyncio.ensure_future(self._clock.sleep(seconds))
            try:
                await asyncio.wait((place.alarm, sleep), return_when=asyncio.FIRST_COMPLETED)
            finally:
                place.alarm = None
                sleep.cancel()
        place.is_nudged = False

    # Holding and giving back.

    def _hold_permits(self, hold_id: str, wants: tuple[Want, ...]) -> None:
        permits = tuple(want for want in wants if not want.rate_per_minute)
        if not permits:
            return
        self._permits[hold_id] = permits
        if not self._background:
            self._background.lasting(self._renew, "permits")

    async def _renew(self) -> None:
        while self._permits:
            await self._clock.sleep(_RENEW_EVERY_S)
            with contextlib.suppress(RedisAway):
                await self._ledger.renew(dict(self._permits))

    def settle(self, hold_id: str, wants: tuple[Want, ...], actual: Mapping[str, int]) -> Coroutine[Any, Any, None]:
        """Replace what was reserved by what was used; for `Turn`. The command leaves at once."""
        self._permits.pop(hold_id, None)
        return _briefly(self._ledger.settle(hold_id, wants, actual))

    def release(self, hold_id: str, wants: tuple[Want, ...]) -> Coroutine[Any, Any, None]:
        """Give everything back; for `Turn`. The command leaves at once."""
        self._permits.pop(hold_id, None)
        return _briefly(self._ledger.release(hold_id, wants))

    def learn(self, call: Call, usage: Usage) -> None:
        """Let later estimates be better; for `Turn`."""
        self._estimator.learn(call, usage)

    def budget_headers(self, call: Payer) -> tuple[tuple[str, str], ...]:
        """Return the `anthropic-ratelimit-*` headers of a call's own budget, as last seen; asks nobody."""
        buckets = self._limits.buckets(call)
        return self._known.headers(buckets, self._clock.now()) if buckets else ()


class Turn:
    """One attempt's turn: a context. Left without a word, it keeps what may have been used and gives back the rest."""

    __slots__ = ("_call", "_hold_id", "_is_closed", "_is_sent", "_schedule", "_wants")

    def __init__(self, schedule: Schedule, call: Errand, hold_id: str) -> None:
        self._schedule = schedule
        self._call = call
        self._hold_id = hold_id
        self._wants: tuple[Want, ...] = ()
        self._is_sent = False
        self._is_closed = False

    async def __aenter__(self) -> Turn:
        self._wants = await self._schedule.take(self._call, self._hold_id)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._wants and not self._is_closed:
            await (self._settle({}) if self._is_sent else self._release())

    def sent(self) -> None:
        """Say that the attempt is about to be sent: from here on its use is unknown until it is told."""
        self._is_sent = True

    def settle(self, usage: Usage) -> Awaitable[None]:
        """Settle what the answer used. The command leaves when this is called; await it as long as is convenient."""
        if not self._wants:
            return _nothing()
        if isinstance(self._call, Call) and named(self._call.endpoint).is_metered:
            self._schedule.learn(self._call, usage)
        if not usage.known:
            return self._settle({})
        return self._settle({"input_tokens": usage.metered_input_tokens, "output_tokens": usage.output_tokens})

    def fail(self, failure: Failure, sent: bool) -> Awaitable[None]:
        """Settle an attempt that failed: tokens come back unless they may have been used, the request only if unsent."""
        if not self._wants:
            return _nothing()
        if not sent:
            return self._release()
        return self._settle({} if failure is Failure.BROKEN else {"input_tokens": 0, "output_tokens": 0})

    def _settle(self, actual: Mapping[str, int]) -> Awaitable[None]:
        self._is_closed = True
        return self._schedule.settle(self._hold_id, self._wants, actual)

    def _release(self) -> Awaitable[None]:
        self._is_closed = True
        return self._schedule.release(self._hold_id, self._wants)


async def _briefly(closing: asyncio.Future[Any]) -> None:
    # The ledger sees it through by itself, whether we are cancelled here or not; nobody's answer waits long for it.
    # asyncio.wait would do the same for three times the cost, on the way of every call.
    if closing.done():
        return
    loop = asyncio.get_running_loop()
    enough: asyncio.Future[None] = loop.create_future()
    timer = loop.call_later(_CLOSING_PATIENCE_S, _release, enough)
    closing.add_done_callback(lambda _: _release(enough))
    try:
        await enough
    finally:
        timer.cancel()


def _release(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _nothing() -> Awaitable[None]:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done


def _want(place: Place, bucket_id: str) -> Want:
    return next(want for want in place.wants if want.bucket_id == bucket_id)


def _exhausted(want: Want, wait_s: float) -> BudgetExhausted:
    return BudgetExhausted(
        f"the budget of limit {want.limit} has no room for this call before its deadline, but in {wait_s:.1f} s",
        retry_after_s=max(0.001, wait_s),
        metadata={"limit": want.limit, "kind": want.kind},
    )


def _never(want: Want) -> BudgetExhausted:
    return BudgetExhausted(
        f"this call wants {want.cost} {want.kind} at least; limit {want.limit} never holds more than {want.capacity}",
        metadata={"limit": want.limit, "kind": want.kind, "cost": str(want.cost), "capacity": str(want.capacity)},
    )
