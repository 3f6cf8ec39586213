"""
What operators look at and act by, joined: hosts, the calls that may be asked about, forecasts, and this process out of service.

Out of service means: it says at once that it is not ready, takes no new calls after `drain.delay`, finishes what it has, and
stays. Due retries are left to others while any of them are in service.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from headrace import built, observe
from headrace.audit import Audit
from headrace.background import Background
from headrace.budgets import Board, Census
from headrace.budgets.board import State as Budgets
from headrace.callers import Callers
from headrace.clock import Clock
from headrace.condition import Condition
from headrace.errors import RedisAway
from headrace.explain import Book, Forecasts, Reasons, Stories
from headrace.flow import Flow
from headrace.hosts import Drains, Fact, Register, State
from headrace.link import Link
from headrace.outcome import Outcomes
from headrace.pursuit import Pursuits
from headrace.retry.queue_gauges import Queued, QueueGauges
from headrace.retry.ringer import Ringer
from headrace.retry.tickets import Tickets
from headrace.schedule import Schedule
from headrace.seal import Seal
from headrace.trails import Trails

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Stand:
    """How a process stands: its condition, what is amiss beside it, and why its worker takes no jobs ("" if it does)."""

    condition: Condition
    troubles: tuple[str, ...]
    worker: str
    config: str
    is_leaving: bool


@dataclass(frozen=True, slots=True)
class Status:
    """How all of it stands: every process, every budget, and the tickets that have not ended."""

    hosts: list[Fact]
    budgets: Budgets
    queued: Queued


class Operated:
    """
    Run `start` with the parts.

    Args:
        kind: "daemon" or "worker".
        stand: returns how this process stands.
        delay_s, patience_s: return `drain.delay`, and how long calls wait whose callers say nothing of it.
    """

    def __init__(
        self, link: Link, clock: Clock, *, kind: str, flow: Flow, pursuits: Pursuits, ringer: Ringer,
        schedule: Schedule, callers: Callers, board: Board, census: Census, tickets: Tickets, trails: Trails,
        outcomes: Outcomes, seal: Seal, stand: Callable[[], Stand], delay_s: Callable[[], float],
        patience_s: Callable[[], float], slow_s: float, most: int,
    ) -> None:  # fmt: skip
        self.addresses: tuple[str, ...] = ()
        self.drains = Drains(link, clock, self._go)
        self.register = Register(link, clock, self._fact)
        self.book = Book(link, clock, slow_s=slow_s, most=most, seal=seal)
        outcomes.listen(self.book.heed, kept=False)
        self.stories = Stories(self.book, tickets.looks, trails)
        self.reasons = Reasons(clock, trails, census, lambda: board.overrides.holds)
        self.forecasts = Forecasts(clock, callers, schedule, board, census, patience_s)
        self.queue = QueueGauges(link, clock)
        self.audit = Audit(link)
        self._instance = link.instance
        self._clock = clock
        self._kind = kind
        self._flow, self._pursuits, self._schedule, self._ringer, self._board = flow, pursuits, schedule, ringer, board
        self._stand, self._delay_s = stand, delay_s
        self._started, self._commit = clock.now(), ""
        self._background = Background("operated", clock)
        ringer.is_resting = lambda: self.drains.here is not None and self.drains.others_serve

    def __repr__(self) -> str:
        return f"<Operated {self.drains!r} {self.book!r}>"

    def start(self, start: Callable[[Callable[[], Any], str], object]) -> None:
        """Begin what runs beside the calls."""
        self._commit = built.commit()
        start(self.drains.keep, "drains")
        start(self.register.keep, "register")
        start(self.book.keep, "book")
        start(self.queue.keep, "queue-gauges")

    async def close(self) -> None:
        """End it; what was noted is written."""
        await self._background.close()
        await self.book.close()

    def now(self) -> float:
        """Return the time (Unix seconds)."""
        return self._clock.now()

    async def status(self) -> Status:
        """Return how all of it stands; while Redis is away, as far as this process knows."""
        try:
            return Status(await self.register.all(), await self._board.state(), await self.queue.count())
        except RedisAway:
            return Status([self.register.own], Budgets((), {}, 0, 0), Queued())

    # This process.

    @property
    def out_of_service(self) -> str:
        """By whose word this process is out of service, and why, in a line; "" if it is not."""
        drain = self.drains.here
        if drain is None:
            return ""
        return f"draining, by {drain.by or 'an operator'}{f': {drain.reason}' if drain.reason else ''}"

    def _go(self) -> None:
        drain = self.drains.here
        if drain is None:
            log.info(observe.HOST_BACK)
            self._flow.is_draining = self._stand().is_leaving
            self._ringer.wake()
        else:
            log.info(observe.HOST_OUT, by=drain.by, reason=drain.reason, delay_s=self._delay_s())
            self._background.start(self._shut(), "shut")
        self.register.wake()

    async def _shut(self) -> None:
        # Health says no before calls are refused: a balancer that looks every second sends nothing more by then.
        await self._clock.sleep(self._delay_s())
        if self.drains.here is not None:
            self._flow.is_draining = True
            self.register.wake()

    def _fact(self, redis_ms: float | None) -> Fact:
        stand, running, waiting = self._stand(), self._running(), self._schedule.crowd.stats().calls
        return Fact(
            instance=self._instance, host=socket.gethostname(), pid=os.getpid(), kind=self._kind, version=built.version(),
            commit=self._commit, config=stand.config, state=self._state(stand, running + waiting),
            wrong=tuple(stand.condition.wrong), degraded=tuple(stand.condition.degraded), troubles=stand.troubles,
            drain=self.drains.here, redis_ms=redis_ms, worker=stand.worker, addresses=self.addresses, running=running,
            waiting=waiting, started=self._started, at=self._clock.now(),
        )  # fmt: skip

    def _running(self) -> int:
        return self._flow.stats().in_the_air + self._pursuits.stats().running + self._schedule.slots.stats().carried

    def _state(self, stand: Stand, busy: int) -> State:
        if self.drains.here is not None and not stand.is_leaving:
            return State.DRAINED if self._flow.is_draining and not busy else State.DRAINING
        if stand.is_leaving:
            return State.DRAINING
        return State.UNREADY if stand.condition.wrong else State.SERVING
