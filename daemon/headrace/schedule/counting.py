"""
Counting: asking upstream's `count_tokens` how much input a call has, where a limit has `estimate = "counted"`.

A better estimate is worth a short wait and nothing more. So the answer has a second, and no longer than half of what the call
itself has left; whatever goes wrong, the call goes on with what such calls used before, and a metric says why. When upstream
says that it has enough, or is silent, nobody asks it for a while.

The question draws on limits that match the endpoint `count_tokens`, of which upstream has its own; it waits for none of them.
Of a flight it is asked once, whoever leads it: before asking, a claim is laid down in Redis, and the count in its place. So
another attempt, in whichever process, finds the one or the other. Without Redis nobody asks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final

from headrace import forms, keys, observe, records
from headrace.budget.ledger import Granted, Ledger
from headrace.budget.limits import Limits
from headrace.budget.question import question
from headrace.clock import Clock
from headrace.crowd import Waiting
from headrace.errors import AttemptFailed, HeadraceError, QueueFull
from headrace.link import Link
from headrace.model import Answer, Call
from headrace.rank import NOBODY
from headrace.schedule.slots import Slots

PATIENCE_S: Final = 1.0
_KEPT_S: Final = 600.0  # a count, at least; else as long as its call has
_FIRST_REST_S, _LONGEST_REST_S = 1.0, 60.0
_MOST_RESTS = 1024

Ask = Callable[[Call], Awaitable[Answer]]


class _Uncounted(Exception):
    """There is no count; the message says why, as the metric has it."""


@dataclass(frozen=True, slots=True)
class CountingStats:
    """How many questions are in the air, and for how many callers' keys none is asked for now."""

    asking: int
    resting: int


@dataclass(slots=True)
class _Rest:
    until: float
    length_s: float


class Counting:
    """
    Asks for counts.

    Args:
        ask: asks upstream.
    """

    def __init__(self, ask: Ask, link: Link, ledger: Ledger, slots: Slots, clock: Clock) -> None:
        self._ask = ask
        self._link = link
        self._ledger = ledger
        self._slots = slots
        self._clock = clock
        self._asking = 0
        self._rests: dict[str, _Rest] = {}  # by who brings its own key; "": ours

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Counting [{stats.asking} asking, {stats.resting} resting]>"

    def stats(self) -> CountingStats:
        """Return its state now."""
        now = self._clock.now()
        return CountingStats(self._asking, sum(now < rest.until for rest in self._rests.values()))

    async def count(self, call: Call, limits: Limits, counted: Waiting) -> int | None:
        """Return how many tokens of input a call has by upstream's count, or None if that cannot be had soon; never fails."""
        try:
            with self._waiting(counted):
                tokens = await self._count(call, limits)
        except _Uncounted as why:
            observe.COUNTS.inc(str(why))
            return None
        observe.COUNTS.inc("counted")
        return tokens

    @contextlib.contextmanager
    def _waiting(self, counted: Waiting) -> Iterator[None]:
        try:
            is_new = counted.take()
        except QueueFull:
            raise _Uncounted("busy") from None
        self._asking += 1
        try:
            yield
        finally:
            self._asking -= 1
            if is_new:
                counted.release()  # it may well go at once from here

    async def _count(self, call: Call, limits: Limits) -> int:
        if self._is_resting(_whose(call)):
            raise _Uncounted("resting")
        asked = question(call)
        if asked is None:
            raise _Uncounted("unfit")
        if not self._slots.take_free():
            raise _Uncounted("busy")
        bound = self._clock.timeout(min(PATIENCE_S, (call.begin_by - self._clock.now()) / 2))
        try:
            async with bound:
                return await self._claimed(asked, limits)
        except TimeoutError:
            if not bound.expired():
                raise
            self._rest(_whose(call), None)
            raise _Uncounted("slow") from None
        except AttemptFailed as failed:
            if not failed.failure.is_final:
                self._rest(_whose(call), failed.retry_after_s)
            raise _Uncounted(str(failed.failure)) from failed
        except HeadraceError as away:
            raise _Uncounted("away") from away
        finally:
            self._slots.give_back()

    async def _claimed(self, asked: Call, limits: Limits) -> int:
        key, kept_s = keys.counted(asked.fingerprint), round(max(_KEPT_S, asked.deadline - self._clock.now()))
        known = await self._link.do("SET", key, "", "NX", "GET", "EX", kept_s)
        if known is not None:
            if not known:
                raise _Uncounted("asked")
            try:
                return int(known)
            except ValueError:
                records.unreadable("count", known)
                raise _Uncounted("away") from None
        tokens = _tokens(await self._paid(asked, limits))
        self._link.do("SET", key, tokens, "EX", kept_s)
        self._rests.pop(_whose(asked), None)
        return tokens

    async def _paid(self, asked: Call, limits: Limits) -> Answer:
        wants = limits.draw(asked, self._clock.now()).enforced
        if not wants:
            return await self._ask(asked)
        hold_id = f"count-{os.urandom(8).hex()}"
        try:
            if not isinstance(await self._ledger.reserve(hold_id, wants, waiter="", flow=NOBODY), Granted):
                raise _Uncounted("held")
            return await self._ask(asked)
        finally:
            self._ledger.settle(hold_id, wants, {})  # its request is used, if it was granted

    def _is_resting(self, whose: str) -> bool:
        rest = self._rests.get(whose)
        return rest is not None and self._clock.now() < rest.until

    def _rest(self, whose: str, retry_after_s: float | None) -> None:
        if self._is_resting(whose):
            return  # of those that were in the air together, the first has said it
        before = self._rests.get(whose)
        length_s = min(2 * before.length_s, _LONGEST_REST_S) if before else _FIRST_REST_S
        if len(self._rests) >= _MOST_RESTS:  # names may be the callers' free text
            self._rests.clear()
        self._rests[whose] = _Rest(self._clock.now() + max(length_s, retry_after_s or 0.0), length_s)


def _whose(call: Call) -> str:
    return call.owner.text if call.credential else ""


def _tokens(answer: Answer) -> int:
    try:
        tokens = forms.parse(answer.payload).get("input_tokens")
    except (ValueError, AttributeError):
        tokens = None
    if not isinstance(tokens, int) or isinstance(tokens, bool) or not 0 <= tokens < 2**53:
        raise _Uncounted("unreadable")
    return tokens
