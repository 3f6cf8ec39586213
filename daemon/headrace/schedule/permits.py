"""
The concurrency permits that this process holds: leases, renewed for as long as their calls run; and its sign of life.

A process that dies renews nothing, so its permits are free again when the lease ends, or as soon as it has missed a beat if its
connections have ended with it. One that stood still (it was stopped, or its machine slept) finds them gone when it wakes, and
perhaps given to others. What it has at upstream by then cannot be unsent, and the next renewal counts it again. What was not
sent yet is fenced: it must be granted anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import dataclass

from headrace.background import Background
from headrace.budget.ledger import Ledger
from headrace.budget.pulse import BEAT_S, LEASE_US
from headrace.budget.want import Form, Want
from headrace.clock import Clock
from headrace.errors import RedisAway

_LEASE_S = LEASE_US / 1e6


@dataclass(frozen=True, slots=True)
class PermitStats:
    """How many calls hold permits; how often this process was found to have stood still."""

    holds: int
    stops: int


class Permits:
    """What this process holds. Run `keep` as a task."""

    def __init__(self, ledger: Ledger, clock: Clock, background: Background) -> None:
        self._ledger = ledger
        self._clock = clock
        self._background = background
        self._held: dict[str, tuple[Want, ...]] = {}  # by hold id
        self._asked: dict[str, float] = {}  # by hold id: a permit is good for a lease from here on, and then if it was renewed
        self._renewing: asyncio.Task[None] | None = None
        self._moved: float | None = None  # when this process was last seen to move
        self._woke = float("-inf")
        self._stops = 0

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Permits [{stats.holds} holds, {stats.stops} stops]>"

    def stats(self) -> PermitStats:
        """Return how much is held."""
        return PermitStats(len(self._held), self._stops)

    def hold(self, hold_id: str, wants: tuple[Want, ...], asked: float = math.inf) -> None:
        """Take in what was granted to a question asked at *asked*, if that matters; only permits among it are of interest."""
        if permits := [want for want in wants if want.form is Form.PERMIT]:
            self._held[hold_id] = tuple(permits)
            self._asked[hold_id] = asked

    def has_lapsed(self, hold_id: str) -> bool:
        """Whether we stood still since this was asked for, for so long that its permits may be another's by now."""
        if hold_id not in self._asked:
            return False
        self._move()
        return self._asked[hold_id] < self._woke

    def drop(self, hold_id: str) -> None:
        """Renew these no longer."""
        self._held.pop(hold_id, None)
        self._asked.pop(hold_id, None)

    async def keep(self) -> None:
        """Renew what is held, and say that we live though it be nothing, until cancelled."""
        while True:
            self._move()
            if self._renewing is None or self._renewing.done():  # a Redis that hangs is told once
                self._renewing = self._background.start(self._renew(), "renew")
            await self._clock.sleep(BEAT_S)

    async def _renew(self) -> None:
        with contextlib.suppress(RedisAway):
            await self._ledger.renew(dict(self._held))

    def _move(self) -> None:
        now = self._clock.now()
        if self._moved is not None and now - self._moved >= _LEASE_S:
            self._woke = now
            self._stops += 1
        self._moved = now
