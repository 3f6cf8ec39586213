"""
From a place to its grant: through the line of this process, then by asking the ledger until it says yes.

The order within this process is in line.py, the order between processes in the ledger; this module joins the two, refuses those
whose latest moment will come first, and gives back whatever was taken when somebody leaves before the grant.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from headrace import observe
from headrace.budget.known import Known
from headrace.budget.ledger import PERMIT_US, Granted, Ledger, Never, Reserved, Spent, Wait
from headrace.budget.want import Form, Want
from headrace.clock import Clock
from headrace.errors import BudgetExhausted, DeadlinePassed, RedisAway, RedisRefused, UpstreamOverloaded
from headrace.insist import PATIENCE_S
from headrace.schedule.line import Line
from headrace.schedule.outlook import Delay
from headrace.schedule.place import Outdated, Place
from headrace.schedule.slices import Slices, Work

_ASK_EVERY_S = 1.0  # keeps the place in the ledger's line, whose lease is twice that, and finds lost nudges
_LEAST_PATIENCE_S = 0.1  # for the answer to a question that is asked at all
_SCAN_EVERY_S = 1.0
_GUESSED = (Form.PERMIT, Form.GATE)  # what comes back, or opens, when it will
_TRUST_S = 0.05  # so long it is taken for granted that no other host gives anything back

_Key = tuple[tuple[str, int, int], ...]  # bucket, rate and capacity: those who wait at other rates stand in another line


@dataclass(frozen=True, slots=True)
class AskingStats:
    """How many lines there are, and how many calls in them ask the ledger or stand and wait."""

    lines: int
    asking: int
    standing: int


class Asking:
    """All lines of this process, and its talk with the ledger."""

    def __init__(self, ledger: Ledger, clock: Clock, slices: Slices) -> None:
        self.known = Known()
        self._ledger = ledger
        self._clock = clock
        self._slices = slices
        self._lines: dict[_Key, Line] = {}
        self._by_waiter: dict[str, Place] = {}  # those who ask; a nudge finds them here
        self._last: tuple[_Key, Line | None] = (), None  # the line that emptied last
        self._overdue: deque[tuple[Line, Place]] = deque()  # who stood when its latest moment came
        self._refusing: asyncio.Task[None] | None = None  # these
        self._redis_away_since: float | None = None

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Asking [{stats.lines} lines, {stats.asking} asking, {stats.standing} standing]>"

    def stats(self) -> AskingStats:
        """Return how many wait here."""
        lines = [line.stats() for line in self._lines.values()]
        return AskingStats(len(lines), sum(line.asking for line in lines), sum(line.waiting for line in lines))

    def places(self) -> Iterator[Place]:
        """Yield all who have not been granted what they want."""
        for line in self._lines.values():
            yield from line.places()

    def lines(self) -> list[Line]:
        """Return all lines."""
        return list(self._lines.values())

    def nudge(self, waiter: str) -> None:
        """Let a place ask again now: the ledger says it fits."""
        place = self._by_waiter.get(waiter)
        if place is not None:
            place.nudge()

    def take(self, hold_id: str, wants: tuple[Want, ...], now: float) -> bool:
        """Grant what the ledger has here, where nobody is held up: without a place, and without asking anybody."""
        if self._lines and (line := self._lines.get(_key(wants))) is not None and line.is_held_up:
            return False
        levels = self._ledger.take(hold_id, wants)
        if levels is None:
            return False
        self.known.learn(wants, levels, now)
        return True

    async def grant(self, place: Place) -> None:
        """
        Wait until all buckets have granted what a place wants.

        Raises `Outdated` when the limits have changed meanwhile, `BudgetExhausted`, `DeadlinePassed`, `QueueFull` and
        `RedisAway`. Whichever way it leaves without a grant, nothing stays reserved.
        """
        line = self._line(place.wants)
        levels: tuple[int, ...] | None = None
        try:
            if line.join(place):
                self._displace(line, place)
                self._refuse_as_told(line, place)
            else:
                self._leave_ledger(place)
                await self._stand(line, place)
                self._displace(line, place)
            levels = await self._ask(line, place)
            self._leave_renamed(line, place)
        except BaseException as error:
            if place.has_asked:
                # Even if it was not granted: the answer may be on its way, and its places in the ledger's lines go too.
                # Who takes its place anew keeps those.
                is_leaving = not isinstance(error, Outdated)
                if is_leaving:
                    self._hand_down(line, place)
                self._ledger.release(place.hold_id, place.wants, waiter=place.waiter if is_leaving else "")
            raise
        finally:
            self._leave(line, place, levels)

    def _leave_renamed(self, line: Line, place: Place) -> None:
        # It was granted by the name it had when it asked; the place of the name that it has by now would be nobody's.
        if place.waiter != place.asked_as:
            self._hand_down(line, place)
            self._ledger.release(f"{place.hold_id}.renamed", place.wants, waiter=place.waiter)

    def _leave_ledger(self, place: Place) -> None:
        # It has asked under other limits, and now does not: nobody may wait behind one who does not ask.
        if place.has_asked:
            place.has_asked = False
            self._ledger.release(f"{place.hold_id}.stands", place.wants, waiter=place.waiter)

    def _displace(self, line: Line, place: Place) -> None:
        # Within a flow the earliest deadline goes first, in the ledger's lines too: there it takes the place of another.
        others = line.displace(place)
        self._rename(others)
        place.displaced = others[-1] if others else None

    def _hand_down(self, line: Line, place: Place) -> None:
        others = line.hand_down(place)
        self._rename(others)
        if others:
            others[0].nudge()

    def _rename(self, places: list[Place]) -> None:
        for place in places:
            self._by_waiter[place.waiter] = place

    def _line(self, wants: tuple[Want, ...]) -> Line:
        key = _key(wants)
        line = self._lines.get(key)
        if line is None:
            last_key, last = self._last
            line = last if last is not None and last_key == key else _new_line(wants)
            self._lines[key] = line
        return line

    def _leave(self, line: Line, place: Place, levels: tuple[int, ...] | None) -> None:
        line.leave(place, is_granted=levels is not None)
        self._by_waiter.pop(place.waiter, None)
        if levels is not None:
            line.learn(levels, self._clock.now())
        line.call(levels)
        if line.is_empty:
            key = _key(place.wants)
            self._lines.pop(key, None)
            self._last = key, line

    def freed(self, wants: tuple[Want, ...]) -> None:
        """These were given back: what the ledger said a moment ago holds no longer, and others may ask for them."""
        self._last = (), None
        if self._lines and any(want.form is Form.PERMIT for want in wants) and (line := self._lines.get(_key(wants))):
            line.free(self._clock.now())

    # Remembering, for a moment, what the ledger said.

    def _refuse_as_told(self, line: Line, place: Place) -> None:
        """
        Refuse a place that the ledger would only tell what it has just told another one.

        A thousand equal calls that share a flight lead it one after the other, each to be refused for the same reason.
        """
        now = self._clock.now()
        if not 0 <= now - line.heard_at < _TRUST_S:
            return
        delay = line.delay(place, now)
        if now + delay.seconds > place.latest:
            raise _exhausted(place.wants[delay.bucket], delay.seconds)

    # Standing in line, without a word to the ledger.

    async def _stand(self, line: Line, place: Place) -> None:
        _count(place)
        now = self._clock.now()
        delay = line.delay(place, now)
        if now + delay.seconds > place.latest:
            raise self._too_late(line, place, delay)
        place.counted.held_by(place.wants[line.binding(now)].limit, now)
        place.called = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(place.latest - now, self._ring, line, place)
        try:
            await place.called
        finally:
            timer.cancel()
            # The error holds this frame, and so the place: a circle, that only the collector would end, in one long halt.
            place.called = None

    def _ring(self, line: Line, place: Place) -> None:
        # Those who ask look over who stands only now and then, and this one's caller gives up soon. Ten thousand may ring in
        # one moment, so they are refused in slices.
        self._overdue.append((line, place))
        if self._refusing is None or self._refusing.done():
            self._refusing = self._slices.start(self._refuse_overdue(), "overdue")

    def _refuse_overdue(self) -> Work:
        while self._overdue:
            line, place = self._overdue.popleft()  # before anything else: a fault that it brings must not meet the next
            # Meanwhile it may have been called, or have left.
            yield place.stands and place.refuse(self._too_late(line, place, line.delay(place, self._clock.now())))

    def _too_late(self, line: Line, place: Place, delay: Delay) -> BudgetExhausted:
        # Of permits nobody knows how long they take: then it is those who ask that know which bucket has none.
        bucket = delay.bucket if delay.seconds > 0 else line.binding(self._clock.now())
        return _exhausted(place.wants[bucket], delay.seconds)

    def _look_over(self, line: Line, now: float) -> None:
        # Now and then, since it looks at all who stand; the front looks at itself every time.
        if line.waiting and now - line.scanned >= _SCAN_EVERY_S:
            line.scanned = now
            self._sort_out(line, self._refuse_hopeless(line, now))

    def _sort_out(self, line: Line, work: Work) -> None:
        if line.sorting is None or line.sorting.done():
            line.sorting = self._slices.start(work, "sort")

    def _refuse_hopeless(self, line: Line, now: float) -> Work:
        for found in line.hopeless(now):
            for place, delay in found:
                yield place.refuse(self._too_late(line, place, delay))
            yield 0

    # Asking the ledger.

    async def _ask(self, line: Line, place: Place) -> tuple[int, ...]:
        self._by_waiter[place.waiter] = place
        while True:
            outcome = await self._reserve(line, place)
            now = self._clock.now()
            if isinstance(outcome, Never):
                raise never(place.wants[_index(place, outcome.bucket_id)])
            if isinstance(outcome, Spent):
                raise _spent(place.wants[_index(place, outcome.bucket_id)], outcome.seconds)
            self.known.learn(place.wants, outcome.levels, now)
            if isinstance(outcome, Wait):
                if place.is_outdated:
                    raise Outdated
                self._consider(line, place, outcome, now)
            if place.displaced is not None:
                place.displaced.nudge()  # to take a place anew; not before it is known that this one stays
                place.displaced = None
            if isinstance(outcome, Granted):
                # `latest` is for what is planned: a grant that is there is good until the deadline itself.
                if now > place.call.deadline:
                    raise DeadlinePassed("the call's turn came after its deadline")
                return outcome.levels
            await self._nap(place, min(outcome.seconds, _ASK_EVERY_S, place.latest - now, max(0.0, place.ends - now)))

    def _consider(self, line: Line, place: Place, wait: Wait, now: float) -> None:
        """The ledger lets a place wait: refuse it if that is too long for it, and those behind it for whom it is."""
        bucket = _index(place, wait.bucket_id)
        place.counted.held_by(place.wants[bucket].limit, now)
        line.learn(wait.levels, now)
        line.block(place, wait.seconds, bucket, now, wait.levels)
        self._look_over(line, now)
        # For a permit the ledger's seconds are a guess, which refuses nobody before its time; so is what follows a pause.
        due = now if place.wants[bucket].form in _GUESSED else now + wait.seconds
        if due > place.latest or now >= place.latest:
            raise _exhausted(place.wants[bucket], wait.seconds)
        _count(place)

    async def _reserve(self, line: Line, place: Place) -> Reserved:
        pause_s = 0.05
        while True:
            if place.is_outdated or self._clock.now() >= place.ends:
                raise Outdated
            try:
                outcome = await self._reserve_once(place)
            except RedisRefused:  # there is nothing to wait for
                raise
            except RedisAway:
                now = self._clock.now()
                left_s = self._patience_s(place, now)
                if left_s <= 0:
                    self._sort_out(line, self._refuse_stranded(line, now))
                    raise
                await self._nap(place, min(pause_s, left_s))
                pause_s = min(2 * pause_s, 0.5)
            else:
                self._redis_away_since = None
                return outcome

    async def _reserve_once(self, place: Place) -> Reserved:
        place.has_asked, place.asked_as = True, place.waiter
        now = place.asked_at = self._clock.now()
        asking = self._ledger.reserve(place.hold_id, place.wants, waiter=place.waiter, flow=place.flow)
        if self._redis_away_since is None:
            return await asking
        try:
            # A Redis that hangs would hold up each question longer than there is patience left.
            async with self._clock.timeout(max(_LEAST_PATIENCE_S, self._patience_s(place, now))):
                return await asking
        except TimeoutError as error:
            raise RedisAway("Redis does not answer", retry_after_s=1.0) from error

    def _patience_s(self, place: Place, now: float) -> float:
        if self._redis_away_since is None:
            self._redis_away_since = now
        return min(max(self._redis_away_since, place.entered) + PATIENCE_S, place.latest) - now

    def _refuse_stranded(self, line: Line, now: float) -> Work:
        # Those behind have waited as long; each trying by itself would take them as long again, one after the other.
        for place in line.standing():
            is_stranded = self._redis_away_since is not None and self._patience_s(place, now) <= 0
            yield place.refuse(RedisAway("Redis cannot be reached", retry_after_s=1.0)) if is_stranded else 0

    async def _nap(self, place: Place, seconds: float) -> None:
        """Wait so long, or until the place is nudged."""
        if not place.is_nudged:
            place.alarm = asyncio.get_running_loop().create_future()
            bound = self._clock.timeout(seconds)
            try:
                async with bound:
                    await place.alarm
            except TimeoutError:
                if not bound.expired():
                    raise
            finally:
                place.alarm = None
        place.is_nudged = False


def _new_line(wants: tuple[Want, ...]) -> Line:
    ends = tuple(want.ends_us / 1e6 if want.form is Form.WINDOW else math.inf for want in wants)
    return Line(tuple(want.rate_per_minute for want in wants), ends if min(ends) < math.inf else ())


def _key(wants: tuple[Want, ...]) -> _Key:
    return tuple((want.bucket_id, want.rate_per_minute, want.capacity) for want in wants)


def _index(place: Place, bucket_id: str) -> int:
    return next(index for index, want in enumerate(place.wants) if want.bucket_id == bucket_id)


def _count(place: Place) -> None:
    if place.counted.take():
        observe.RESERVATIONS.inc("waited")


def _held(want: Want) -> str:
    return want.worded(want.capacity) if want.kind == "spend" else str(want.capacity)


def _exhausted(want: Want, wait_s: float) -> BudgetExhausted:
    if want.form in _GUESSED:
        wait_s = wait_s or PERMIT_US / 1e6  # of who stands behind another nobody knows: it is told what the ledger would guess
    if want.form is Form.GATE:
        return UpstreamOverloaded(
            f"upstream is overloaded for this model class; it may be asked in {wait_s:.1f} s, past this call's deadline",
            retry_after_s=max(0.001, wait_s),
            metadata={"limit": want.limit, "kind": want.kind},
        )
    return BudgetExhausted(
        f"the budget of limit {want.limit} has no room for this call before its deadline, but in {wait_s:.1f} s",
        retry_after_s=max(0.001, wait_s),
        metadata={"limit": want.limit, "kind": want.kind},
    )


def _spent(want: Want, seconds: float) -> BudgetExhausted:
    return BudgetExhausted(
        "upstream's spend limit is reached for this model class, and it holds for longer than this call can wait",
        retry_after_s=max(0.001, seconds),
        metadata={"limit": want.limit, "kind": "spend"},
    )


def never(want: Want) -> BudgetExhausted:
    """Return the refusal of a call that wants more than a bucket can ever hold."""
    return BudgetExhausted(
        f"this call wants {want.worded(want.cost)} at least; limit {want.limit} never holds more than {_held(want)}",
        metadata={"limit": want.limit, "kind": want.kind, "cost": str(want.cost), "capacity": str(want.capacity)},
    )
