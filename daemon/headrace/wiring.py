"""
The parts, and how they live: what runs beside the calls, in which order it begins and ends, and what a reload changes.

`running` starts what runs beside the calls (the listening link, renewals, heartbeats, the sweeper) and stops it in the opposite
order; edges and worker are opened by the daemon. What there is and who hears whom, making.py says; how it stands, standing.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from headrace import memory
from headrace.cache.gauges import CacheGauges
from headrace.clock import Clock
from headrace.condition import Condition
from headrace.config import Keys, Settings, classes, lanes, prices, settings_hash
from headrace.errors import RedisAway
from headrace.making import Made
from headrace.seal import UNSEALED, Seal
from headrace.standing import Standing
from headrace.worker import serve_with

_SETTLE_IN_S = 2.0
_SETTLE_IN_TURN_S = 0.02


class Parts(Made):
    """A daemon's parts, with their lives. Arguments as `Made` has them."""

    def __init__(
        self,
        settings: Settings,
        redis_url: str,
        read_keys: Callable[[], Keys],
        clock: Clock | None = None,
        *,
        keeps_disk: bool = True,
        seal: Seal = UNSEALED,
    ) -> None:
        super().__init__(settings, redis_url, read_keys, clock, keeps_disk=keeps_disk, seal=seal)
        self._leave_by: float | None = None
        self.standing = Standing(self, "daemon" if keeps_disk else "worker")
        self.reporter, self.operated = self.standing.reporter, self.standing.operated

    def __repr__(self) -> str:
        parts = (
            self.hits, self.flow, self.leases, self.schedule, self.borrowing, self.cache, self.tickets, self.pursuits,
            self.crowd, self.link, self.worker, self.usage, self.batches, self.guard, self.tuner, self.board, self.answers,
            self.operated, self.background,
        )  # fmt: skip
        return f"<Parts {' '.join(map(repr, parts))}>"

    def condition(self) -> Condition:
        """Return how it stands."""
        return self.standing.condition()

    def wrong(self) -> list[str]:
        """Return why this daemon should not be asked, a line each; [] if all is well."""
        return self.condition().wrong

    def details(self) -> list[str]:
        """Return what is amiss though this daemon can be asked, a line each."""
        return self.standing.details()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run what runs beside the calls. Redis away delays nothing here: each part comes to itself when it is back."""
        async with contextlib.AsyncExitStack() as stack:
            if self.sending is not None:
                stack.push_async_callback(self.sending.close)
            stack.push_async_callback(self.link.aclose)
            stack.push_async_callback(self.usage.close)
            stack.push_async_callback(self.batches.close)
            stack.push_async_callback(self.operated.close)
            stack.push_async_callback(self.guard.owners.close)
            stack.push_async_callback(self.alarms.aclose)
            stack.push_async_callback(self.retries.close)
            stack.push_async_callback(self.upstream.aclose)
            stack.push_async_callback(self.aside.aclose)
            stack.push_async_callback(self.answers.aside.aclose)
            await self.cache.start()
            stack.push_async_callback(self.cache.close)
            stack.push_async_callback(self.borrowing.close)
            stack.push_async_callback(self.schedule.close)
            stack.push_async_callback(self.census.close)
            stack.push_async_callback(self.reporter.close)
            stack.push_async_callback(self.background.close)
            self._start_beside()
            stack.push_async_callback(self.flights.aclose)
            self.standing.measure()
            yield

    def _start_beside(self) -> None:
        start = self.background.lasting
        start(self.link.listen, "listener")
        start(self.leases.keep, "leases")
        start(self.schedule.keep, "permits")
        start(self.borrowing.keep, "borrowing")
        start(self.tickets.keep, "tickets")
        start(self.sweeper.run, "sweeper")
        start(self.retries.keep, "retry-budget")
        self.operated.start(start)
        start(self.callers.keep_fresh, "keys")
        start(self.hosts.stay, "hosts")
        start(self.overrides.keep, "overrides")
        start(self.usage.keep, "usage")
        start(self.recent.keep, "recent")
        start(self.check.run, "redis-check")
        start(CacheGauges(self.cache, self.clock).keep, "cache-gauges")
        start(lambda: memory.keep_small(self.clock, lambda: self.crowd.stats().calls, lambda: self.cache.near_bytes), "memory")
        start(self.tuner.learner.keep, "learner")
        start(self.tuner.own_limits.keep, "own-limits")
        if self.account is not None and self._keys.admin:
            start(self.account.keep, "account")

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Make the attempts of tickets, this process's or any other's."""
        serve_with(self.ringer.ring, self.clock)
        await self.look()
        self.background.lasting(self.ringer.keep, "ringer")
        self.worker.start()
        try:
            yield
        finally:
            await self._leave()

    def drain(self) -> None:
        """Take no new calls; what runs has until `drain.time` from now."""
        self.is_leaving = self.flow.is_draining = True
        self._leave_by = self.clock.now() + self.settings.drain.time

    async def _leave(self) -> None:
        """Let what goes on without a caller end, too, as long as there is time; then hand over what is left of it."""
        leave_by = self._leave_by or self.clock.now() + self.settings.drain.time
        await self.ringer.stop()
        await self.worker.stop(max(0.0, leave_by - self.clock.now()))
        with contextlib.suppress(TimeoutError):
            async with self.clock.timeout(leave_by - self.clock.now()):
                await asyncio.gather(self.tickets.idle(), self.flights.finish())
        await self.pursuits.close()
        await self.flights.aclose()
        # Last of all, so that nobody else asks upstream for what is still being answered here.
        with contextlib.suppress(RedisAway):
            await self.tickets.leave()

    async def look(self) -> None:
        """Look whether Redis is there, and what time it is by its clock; what follows from it, `wrong` says."""
        with contextlib.suppress(RedisAway):
            await self.link.set_clock(self.clock)
            await self.link.probe()

    async def settle_in(self) -> None:
        """Wait until the worker takes jobs, so that nobody is told of a start as of a fault; not for a Redis that is away."""
        give_up = self.clock.now() + _SETTLE_IN_S
        await self.look()
        while self.link.is_up and not self.worker.is_healthy and self.clock.now() < give_up:
            await self.clock.sleep(_SETTLE_IN_TURN_S)

    def reload(self, settings: Settings) -> None:
        """Go on with new limits and callers, and with upstream's key as it is now."""
        self._keys = self._read_keys()
        self.configured = settings.limit
        self.tuner.classes = classes(settings)
        self.tuner.learner.is_on = not settings.limit
        self.tally.prices = prices(settings)
        self._lanes = lanes(settings)
        self.config = settings_hash(settings)
        self._name_in_metrics(settings)
        self.operated.book.reload(slow_s=settings.log.slow, most=settings.log.explain)
        self.call_log.reload(settings.log.calls, settings.log.slow)
        self.outcomes.listen_to_kept(self.call_log.heed, is_on=settings.log.calls == "all")
        self._go_by_limits()
        self.admission.reload(lanes(settings))
        self.hits.forget()  # what they remember of callers
        self.guard.reload(is_on=settings.auth.keeps_apart, shares_unknown=settings.auth.shares_unknown)
        self.callers.reload(**self._told_of_callers(settings))
