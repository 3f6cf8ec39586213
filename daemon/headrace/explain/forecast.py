"""
How long a call would wait now, and for what: what the schedule would do with it, without reserving anything.

Levels are those in Redis, and who waits is asked of all processes, as for the board. A call's place in line is not known before
it stands there. In fair order a newcomer goes behind all calls of its own flow, and behind one of each other flow: that is what
is expected. At the longest it goes behind everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from headrace.budget.want import Form, Want
from headrace.budgets.board import Board, Level, merge
from headrace.budgets.census import Census, Seen
from headrace.budgets.override import Held
from headrace.callers import Callers
from headrace.clock import Clock
from headrace.errors import InvalidCall
from headrace.model import Caller, Errand, Labels
from headrace.schedule.turns import Schedule

_MOST_TOKENS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Asked:
    """
    A call that nobody makes.

    Args:
        lane: "" for its caller's own.
        input_tokens: what it sends; max_tokens: what it asks for at most, of which callers use their usual share.
    """

    caller: str
    model: str
    input_tokens: int = 0
    max_tokens: int = 1024
    lane: str = ""
    labels: Labels = ()


@dataclass(frozen=True, slots=True)
class Part:
    """
    One bucket that the call would draw from.

    Args:
        want: what it would want there.
        waiting: how many wait for this bucket, on all hosts.
        wait_s: how long it would wait, as is expected; longest_s: behind everybody. None: nobody knows, as of permits that are
            all taken, or never, as of a call that is larger than its bucket (`never`).
    """

    want: Want
    level: Level
    waiting: int
    wait_s: float | None
    longest_s: float | None

    @property
    def never(self) -> bool:
        """Whether the bucket can never hold so much."""
        return self.want.cost > self.want.capacity


@dataclass(frozen=True, slots=True)
class Forecast:
    """
    What would become of the call.

    Args:
        parts: bucket by bucket; those of limits in the shadow hold up nobody.
        held: its caller's hold, if it is on hold.
        overloaded: whether upstream was overloaded of late, so that calls of the model's class ask at its gate.
        patience_s: how long a call of its caller waits that names no deadline.
        heard, daemons: how many processes have said who waits, of how many.
    """

    caller: Caller
    lane: str
    parts: Sequence[Part]
    held: Held | None
    overloaded: bool
    patience_s: float
    heard: int
    daemons: int

    @property
    def binding(self) -> Part | None:
        """The bucket that holds it up, if one does."""
        held = [part for part in self.parts if not part.want.is_shadow and part.wait_s != 0.0]
        return max(held, key=lambda part: (part.never, part.wait_s is None, part.wait_s or 0.0), default=None)

    @property
    def wait_s(self) -> float | None:
        """How long it would wait; None if nobody knows, or it never goes."""
        return 0.0 if self.binding is None else self.binding.wait_s

    @property
    def is_refused(self) -> bool:
        """Whether it would be refused at once: it never goes, not before its caller gives up, or its caller's calls are."""
        if self.held is not None and self.held.refuse:
            return True
        return self.binding is not None and (self.binding.never or (self.wait_s or 0.0) > self.patience_s)


class Forecasts:
    """
    Makes them.

    Args:
        patience_s: returns how long calls wait whose callers say nothing of it.
    """

    def __init__(
        self, clock: Clock, callers: Callers, schedule: Schedule, board: Board, census: Census, patience_s: Callable[[], float]
    ) -> None:
        self._clock = clock
        self._callers = callers
        self._schedule = schedule
        self._board = board
        self._census = census
        self._patience_s = patience_s

    def __repr__(self) -> str:
        return "<Forecasts>"

    def caller(self, name: str) -> Caller:
        """Return the caller of a name; raises `InvalidCall` for what is no name."""
        return self._callers.named(name)

    async def of(self, asked: Asked) -> Forecast:
        """Return what would become of a call; raises `InvalidCall` for one that nobody could make, and `RedisAway`."""
        call = self._call(asked)
        wants = self._schedule.wanted(call, asked.input_tokens, asked.max_tokens)
        taken = await self._census.take()
        levels = await self._board.levels(wants)
        seen = {each.id: each for each in merge(taken.views)}
        flow, now = f"{call.lane}/{call.caller.name}", self._clock.now()
        return Forecast(
            caller=call.caller,
            lane=call.lane,
            parts=[part(want, level, seen.get(want.bucket_id), flow, now) for want, level in zip(wants, levels, strict=True)],
            held=self._board.overrides.holds.get(call.caller.name),
            overloaded=self._schedule.tuner.gates.is_troubled(self._schedule.tuner.class_of(call)),
            patience_s=call.caller.timeout_s or self._patience_s(),
            heard=len(taken.views),
            daemons=taken.asked,
        )

    def _call(self, asked: Asked) -> Errand:
        for field, tokens in (("input_tokens", asked.input_tokens), ("max_tokens", asked.max_tokens)):
            if not 0 <= tokens <= _MOST_TOKENS:
                raise InvalidCall(f"{field}: must be from 0 to {_MOST_TOKENS:,}, not {tokens:,}", metadata={"field": field})
        caller, now = self.caller(asked.caller), self._clock.now()
        lane = asked.lane or caller.lane
        return Errand(caller=caller, lane=lane, model=asked.model, labels=asked.labels, arrival=now, deadline=now)


def part(want: Want, level: Level, seen: Seen | None, flow: str, now: float) -> Part:
    """Return what a call of this flow ("<lane>/<caller>") would find at one bucket. Pure."""
    flows: Mapping[str, int] = seen.flows if seen is not None else {}
    waiting = sum(flows.values())
    # What is lent is granted without a question where nobody waits, and recalled where somebody does.
    left = level.left - level.debt + sum(loan.amount for loan in level.loans)
    cost = _usual(seen, want.cost)
    ahead = flows.get(flow, 0) + sum(1 for other in flows if other != flow)
    wait_s, longest_s = (_wait_s(want, left, count * cost, now) for count in (ahead, waiting))
    return Part(want, level, waiting, wait_s, longest_s)


def _usual(seen: Seen | None, cost: int) -> float:
    """Return what one of those who wait wants, on average."""
    costs = [waits.cost for waits in seen.waiting] if seen is not None else []
    return sum(costs) / len(costs) if costs else cost


def _wait_s(want: Want, left: int, ahead: float, now: float) -> float | None:
    if want.cost > want.capacity:
        return None
    lacks = want.cost + ahead - left
    if lacks <= 0:
        return 0.0
    if want.form is Form.RATE:
        return lacks * 60 / want.rate_per_minute
    return max(0.0, want.ends_us / 1e6 - now) if want.form is Form.WINDOW else None
