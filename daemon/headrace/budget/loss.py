"""
What each limit does while Redis is away, in words of the configuration, and never silently.

- `closed`: nothing passes; the call waits for Redis (see schedule/turns.py) and is then refused. It wins over the others.
- `share`: each host spends its part, the limit divided by the hosts last seen, from buckets of its own memory. They begin at
  the level last seen, and what was spent is posted as debt when Redis is back (outage.py).
- `open`: calls pass uncounted.

The first decision of each outage is made by asking Redis in vain; then the link is known to be down and nobody waits for it.
Who was granted without Redis is remembered until it settles: Redis knows no reservation of it. What it holds when Redis is back
has been posted; a permit is taken there anew with the next renewal, and its settlement posts what it used beyond.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from headrace import observe
from headrace.budget.ledger import NOTHING_SAID, Granted, Ledger, Reserved, Said, Wait
from headrace.budget.memory import MemoryLedger
from headrace.budget.outage import Outage
from headrace.budget.want import Form, Want
from headrace.errors import RedisAway
from headrace.rank import Flow


@dataclass(frozen=True, slots=True)
class LossStats:
    """How many reservations were granted without Redis and are not settled yet; how many calls wait for one."""

    alone: int
    waiting_alone: int


class LossPolicy:
    """
    A ledger that asks Redis, and without Redis does what each limit says.

    Args:
        shared: the ledger in Redis.
        own: the ledger of this process, for `share`.
        is_up: whether Redis answered last time.
        known_hosts: how many hosts shared the limits when Redis was last seen.
    """

    def __init__(self, shared: Ledger, own: MemoryLedger, *, is_up: Callable[[], bool], known_hosts: Callable[[], int]) -> None:
        self._shared = shared
        self._own = own
        self._is_up = is_up
        self._known_hosts = known_hosts
        self._outage = Outage(own)
        self._alone: dict[str, list[Want]] = {}  # hold id -> what was taken from our own buckets
        self._posted: set[str] = set()  # holds of an outage that is over
        self._waiting_alone: set[str] = set()

    def __repr__(self) -> str:
        return f"<LossPolicy [{self.stats().alone} held without Redis] {self._shared!r}>"

    def stats(self) -> LossStats:
        """Return its state now."""
        return LossStats(len(self._alone) + len(self._posted), len(self._waiting_alone))

    def take(self, hold_id: str, wants: Sequence[Want]) -> tuple[int, ...] | None:
        """Take all costs from what is here of Redis's, while it is there."""
        if not self._is_up():
            return None
        self._come_back()
        levels = self._shared.take(hold_id, wants)
        if levels is not None:
            self._outage.see(wants, levels)
        return levels

    async def reserve(self, hold_id: str, wants: Sequence[Want], *, waiter: str, flow: Flow) -> Reserved:
        """Take all costs or none; from Redis, or as the limits say."""
        is_closed = any(want.on_redis_loss == "closed" for want in wants)
        if is_closed or self._is_up():
            try:
                return await self._reserve_shared(hold_id, wants, waiter, flow)
            except RedisAway:
                if is_closed:
                    if waiter:  # else nothing is enforced
                        observe.REDIS_LOSS.inc("closed")
                    raise
        return await self._reserve_alone(hold_id, wants, waiter, flow)

    async def _reserve_shared(self, hold_id: str, wants: Sequence[Want], waiter: str, flow: Flow) -> Reserved:
        self._come_back()
        outcome = await self._shared.reserve(hold_id, wants, waiter=waiter, flow=flow)
        if isinstance(outcome, (Granted, Wait)):
            self._outage.see(wants, outcome.levels)
        return outcome

    def _come_back(self) -> None:
        """If Redis is back, post what was spent without it, ahead of whoever asks next."""
        if not (self._alone or self._outage) or not self._is_up():
            return
        self._posted.update(self._alone)
        self._alone.clear()
        if self._outage and (spent := self._outage.end()):
            used = {want.bucket_id: tokens for want, tokens in spent.items()}
            self._shared.settle(f"outage-{os.urandom(8).hex()}", list(spent), used)

    async def _reserve_alone(self, hold_id: str, wants: Sequence[Want], waiter: str, flow: Flow) -> Reserved:
        parts = self._parts(wants)
        for part in parts:
            want = next(want for want in wants if want.bucket_id == part.bucket_id)
            self._outage.begin(want, part, max(1, self._known_hosts()))
        observe.REDIS_LOSS.inc("share" if parts else "open")
        outcome = await self._own.reserve(hold_id, parts, waiter=waiter, flow=flow)
        # Levels are left out: those of our own part tell nothing of the limit's.
        if isinstance(outcome, Granted):
            self._alone[hold_id] = parts
            self._waiting_alone.discard(hold_id)
            return Granted(outcome.at_us, ())
        if waiter:
            self._waiting_alone.add(hold_id)
        return replace(outcome, levels=()) if isinstance(outcome, Wait) else outcome

    def _parts(self, wants: Sequence[Want]) -> list[Want]:
        return [_part(want, self._known_hosts()) for want in wants if want.on_redis_loss == "share"]

    def settle(
        self, hold_id: str, wants: Sequence[Want], actual: Mapping[str, int], said: Said = NOTHING_SAID
    ) -> asyncio.Future[Any]:
        """Replace what was reserved by what was used, where it was reserved."""
        self._waiting_alone.discard(hold_id)
        if hold_id in self._alone:
            return self._own.settle(hold_id, self._alone.pop(hold_id), actual)
        if hold_id in self._posted:
            self._posted.discard(hold_id)
            wants = [want for want in wants if want.on_redis_loss == "share" or want.form in (Form.PERMIT, Form.GATE)]
        return self._shared.settle(hold_id, wants, actual, said)

    def amend(self, hold_id: str, number: int, wants: Sequence[Want], actual: Mapping[str, int]) -> bool:
        """Replace what was reserved of some buckets while the hold stays open; not of what was granted without Redis."""
        if hold_id in self._alone or hold_id in self._posted:
            return False
        return self._shared.amend(hold_id, number, wants, actual)

    def release(self, hold_id: str, wants: Sequence[Want], *, waiter: str = "") -> asyncio.Future[Any]:
        """Give everything back where it was reserved, and leave all lines."""
        if hold_id in self._alone:
            return self._own.release(hold_id, self._alone.pop(hold_id), waiter=waiter)
        self._posted.discard(hold_id)
        if hold_id in self._waiting_alone:
            self._waiting_alone.discard(hold_id)
            self._own.release(hold_id, self._parts(wants), waiter=waiter)
        return self._shared.release(hold_id, wants, waiter=waiter)

    async def renew(self, holds: Mapping[str, Sequence[Want]]) -> None:
        """Renew the concurrency permits of these holds, where they are."""
        self._come_back()
        alone = {hold_id: self._alone[hold_id] for hold_id in holds if hold_id in self._alone}
        await self._own.renew(alone)
        await self._shared.renew({hold_id: wants for hold_id, wants in holds.items() if hold_id not in alone})


def _part(want: Want, hosts: int) -> Want:
    # At least one, or a small limit on many hosts would lock everybody out.
    hosts = max(1, hosts)
    capacity = max(1, want.capacity // hosts)
    rate = max(1, want.rate_per_minute // hosts) if want.form is Form.RATE else 0
    return msgspec.structs.replace(want, capacity=capacity, rate_per_minute=rate, cost=min(want.cost, capacity))
