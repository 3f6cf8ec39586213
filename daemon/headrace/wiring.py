"""
Joins the parts: the only module that names them all, and the order in which they live.

`Parts` makes them from the settings without touching the network. `running` starts what runs beside the calls (the listening
link, renewals, heartbeats, the sweeper) and stops it in the opposite order; edges and worker are opened by the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from prometheus_client import generate_latest

from headrace import observe
from headrace.admission import Admission
from headrace.aside import Aside
from headrace.attempts import Attempts
from headrace.background import Background
from headrace.bodies import reader
from headrace.budget.costs import Costs
from headrace.budget.estimate import Estimator
from headrace.budget.hosts import Hosts
from headrace.budget.limits import Limits
from headrace.budget.loss import LossPolicy
from headrace.budget.memory import MemoryLedger
from headrace.budget.redis import RedisLedger
from headrace.cache.keeping import Keeping
from headrace.cache.tiered import Cache
from headrace.callers import Callers
from headrace.carry import Carrier
from headrace.clock import Clock, SystemClock
from headrace.config import Keys, Settings, callers, classes, lanes, prices
from headrace.crowd import Crowd
from headrace.edge import grpc_params
from headrace.edge.exchange import Exchange
from headrace.edge.grpc_server import GrpcServer
from headrace.edge.hits import Hits
from headrace.edge.http_server import HttpServer
from headrace.errors import RedisAway
from headrace.flight.flights import Flights
from headrace.flight.handover import Handover
from headrace.flight.lease import LEASE_MS, Leases
from headrace.flow import Flow
from headrace.link import Link
from headrace.outcome import Outcomes
from headrace.parking import Parking
from headrace.pursuit import Pursuits
from headrace.redis_check import RedisCheck
from headrace.replying import Replies
from headrace.retry.policy import RetryPolicy
from headrace.retry.rq import Queue
from headrace.retry.rq_worker import Worker
from headrace.retry.sweeper import Sweeper
from headrace.retry.tickets import Tickets
from headrace.schedule import Schedule
from headrace.schedule.hands import Hands
from headrace.upstream.client import Upstream
from headrace.usage import Store, Tally
from headrace.usage.traffic import Traffic
from headrace.worker import serve_with

_SETTLE_IN_S = 2.0
_SETTLE_IN_TURN_S = 0.02
_AT_HAND = 4  # due tickets that are known to this process for each that it works on: of these it takes the next in fair order


class Parts:
    """
    A daemon's parts, joined.

    Args:
        redis_url: the configured Redis, or our own Valkey's socket.
        read_keys: returns upstream's keys; read at the start and at each reload.
        keeps_disk: whether the disk tier of the cache is ours. A worker beside a daemon leaves it alone: it has one owner.
    """

    def __init__(
        self,
        settings: Settings,
        redis_url: str,
        read_keys: Callable[[], Keys],
        clock: Clock | None = None,
        *,
        keeps_disk: bool = True,
    ) -> None:
        clock = clock or SystemClock()
        keeping = Keeping(settings.cache.ttl, settings.cache.stale, settings.cache.enabled)
        self.settings = settings
        self._read_keys = read_keys
        self._keys = read_keys()
        self.is_draining = False
        self._leave_by: float | None = None
        self.clock = clock
        self._background = Background("parts", clock)
        self.link = Link(redis_url, clock=clock)
        self.check = RedisCheck(redis_url, clock)
        self.hosts = Hosts(self.link, clock)
        self.callers = Callers(
            callers(settings),
            required=settings.auth.required,
            link=self.link,
            clock=clock,
            default_role=settings.auth.default_role,
        )
        self.cache = Cache(
            self.link,
            clock,
            directory=Path(settings.state.dir) / "cache",
            memory=settings.cache.memory,
            disk=settings.cache.disk if keeps_disk else 0,
            redis=settings.cache.redis,
            max_entry=settings.cache.max_entry,
            enabled=settings.cache.enabled,
        )
        self.flights = Flights()
        self.handover = Handover(self.link, clock, follow_ms=LEASE_MS)
        self.leases = Leases(self.link, clock, self.flights, self.handover)
        # For tests of the promise: a stream in Redis that gets every grant. Not a setting, since nobody would trim it.
        shared = RedisLedger(self.link, clock=clock, audit=os.environ.get("HEADRACE_AUDIT", ""))
        ledger = LossPolicy(
            shared,
            MemoryLedger(lambda: int(clock.now() * 1e6)),
            is_up=lambda: self.link.is_up,
            known_hosts=lambda: self.hosts.known,
        )
        self.crowd = Crowd(settings.schedule.max_waiting, settings.schedule.max_waiting_bytes)
        self.schedule = Schedule(
            _limits(settings),
            ledger,
            Estimator(),
            self.link,
            clock,
            crowd=self.crowd,
            max_in_flight=settings.upstream.max_in_flight,
            lanes=lanes(settings),
        )
        self.upstream = Upstream(
            settings.upstream.base_url,
            lambda: self._keys.api,
            admin_key=lambda: self._keys.admin,
            version=settings.upstream.version,
            clock=clock,
            max_in_flight=settings.upstream.max_in_flight,
            proxy="" if settings.upstream.proxy == "off" else settings.upstream.proxy,
        )
        self.alarms = Queue(redis_url)
        self.tickets = Tickets(self.link, clock, self.alarms, max_tickets=settings.retry.max_tickets)
        self.sweeper = Sweeper(self.link, clock, self.tickets, self.alarms, max_broken=settings.retry.max_attempts)
        self.worker = Worker(redis_url, concurrency=settings.retry.max_running, at_hand=_AT_HAND)
        policy = RetryPolicy(settings.retry.max_attempts, *settings.retry.backoff)
        self.outcomes = Outcomes(clock)
        self.tally = Tally(prices(settings))
        traffic = Traffic() if settings.usage.traffic == "on" else None
        self.usage = Store(self.link, clock, self.tally, traffic)
        self.outcomes.listen(self.tally.heed)
        self.outcomes.listen_spent(self.tally.spend)
        if traffic is not None:
            self.outcomes.listen(traffic.heed, kept=False)
        self.attempts = Attempts(clock, self.cache, keeping, self.leases, self.schedule, self.upstream, self.outcomes)
        self.parking = Parking(clock, self.tickets, self.leases, self.handover, self.crowd)
        self.flow = Flow(
            clock,
            self.cache,
            keeping,
            self.flights,
            self.leases,
            self.attempts,
            self.parking,
            policy,
            Replies(clock, self.cache, keeping, self.crowd),
        )
        self.pursuits = Pursuits(
            clock,
            self.flow,
            self.flights,
            self.attempts,
            self.parking,
            self.handover,
            policy,
            self.tickets,
            self.outcomes,
            Hands(settings.retry.max_running, self.schedule, clock),
        )
        self.aside = Aside((reader.JOB, grpc_params.JOB))
        self.admission = Admission(
            clock,
            keeping,
            reader.Reader(self.aside),
            version=settings.upstream.version,
            is_shared=settings.cache.scope == "shared",
            max_age_s=settings.retry.max_age,
            lanes=lanes(settings),
        )
        self.carrier = Carrier(clock, self.schedule, self.upstream, policy)
        self.exchange = Exchange(
            clock,
            self.flow,
            self.pursuits,
            self.carrier,
            self.admission,
            self.outcomes,
            budget_headers=self.schedule.budget_headers,
            upstream_url=settings.upstream.base_url,
            opens_s=settings.listen.stream_opens,
        )
        self.hits = Hits(clock, self.cache, self.flow)

    def __repr__(self) -> str:
        parts = (
            self.hits, self.flow, self.leases, self.schedule, self.cache, self.tickets, self.pursuits, self.crowd, self.link,
            self.worker, self.usage, self._background,
        )  # fmt: skip
        return f"<Parts {' '.join(map(repr, parts))}>"

    # Living.

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run what runs beside the calls. Redis away delays nothing here: each part comes to itself when it is back."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.link.aclose)
            stack.push_async_callback(self.usage.close)
            stack.push_async_callback(self.alarms.aclose)
            stack.push_async_callback(self.upstream.aclose)
            stack.push_async_callback(self.aside.aclose)
            await self.cache.start()
            stack.push_async_callback(self.cache.close)
            stack.push_async_callback(self.schedule.close)
            stack.push_async_callback(self._background.close)
            self._start_beside()
            stack.push_async_callback(self.flights.aclose)
            self.crowd.measure()
            self.schedule.slots.measure()
            observe.ATTEMPTS_RUNNING.read = lambda: self.pursuits.stats().running
            observe.IN_FLIGHT.read = lambda: len(self.flights)
            observe.REDIS_UP.read = lambda: float(not self.link.trouble)
            observe.REDIS_LISTENING.read = lambda: float(self.link.is_listening)
            yield

    def _start_beside(self) -> None:
        start = self._background.lasting
        start(self.link.listen, "listener")
        start(self.leases.keep, "leases")
        start(self.schedule.keep, "permits")
        start(self.tickets.keep, "tickets")
        start(self.sweeper.run, "sweeper")
        start(self.callers.keep_fresh, "keys")
        start(self.hosts.stay, "hosts")
        start(self.usage.keep, "usage")
        start(self.check.run, "redis-check")

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Make the attempts of tickets, this process's or any other's."""
        serve_with(self.pursuits.run, self.clock)
        self.worker.start()
        try:
            yield
        finally:
            await self._leave()

    def drain(self) -> None:
        """Take no new calls; what runs has until `drain.time` from now."""
        self.is_draining = self.flow.is_draining = True
        self._leave_by = self.clock.now() + self.settings.drain.time

    async def _leave(self) -> None:
        """Let what goes on without a caller end, too, as long as there is time; then hand over what is left of it."""
        leave_by = self._leave_by or self.clock.now() + self.settings.drain.time
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
        """Look whether Redis is there; what follows from it, `wrong` says."""
        with contextlib.suppress(RedisAway):
            await self.link.ping()

    async def settle_in(self) -> None:
        """Wait until the worker takes jobs, so that nobody is told of a start as of a fault; not for a Redis that is away."""
        give_up = self.clock.now() + _SETTLE_IN_S
        await self.look()
        while self.link.is_up and not self.worker.is_healthy and self.clock.now() < give_up:
            await self.clock.sleep(_SETTLE_IN_TURN_S)

    def wrong(self) -> list[str]:
        """Return why this daemon should not be asked, a line each; [] if all is well."""
        checks = (
            (self.is_draining, "draining"),
            (bool(trouble := self.link.trouble), trouble),
            (bool(lacks := self.check.fatal), f"Redis does not do: {'; '.join(lacks)}"),
            (not self.worker.is_healthy, f"the retry worker does not take jobs: {self.worker.why}"),
            (bool(dying := self._background.failing), f"work in the background keeps dying: {', '.join(dying)}"),
        )
        return [reason for is_so, reason in checks if is_so]

    def reload(self, settings: Settings) -> None:
        """Go on with new limits and callers, and with upstream's key as it is now."""
        self._keys = self._read_keys()
        self.schedule.reload(_limits(settings), lanes(settings))
        self.admission.reload(lanes(settings))
        self.tally.prices = prices(settings)
        self.hits.forget()  # what they remember of callers
        self.callers.reload(callers(settings), required=settings.auth.required, default_role=settings.auth.default_role)


def _limits(settings: Settings) -> Limits:
    return Limits(settings.limit, classes=classes(settings), costs=Costs(prices(settings).cost))


class Edges:
    """The doors of a daemon: gRPC and HTTP."""

    def __init__(self, parts: Parts, runtime_dir: Path) -> None:
        settings = parts.settings
        passes_credentials = settings.upstream.credentials == "caller"
        self._grpc = GrpcServer(
            parts.exchange,
            parts.hits,
            parts.admission,
            parts.callers,
            parts.tickets,
            parts.cache,
            parts.usage,
            clock=parts.clock,
            addresses=settings.listen.grpc,
            budget_headers=parts.schedule.budget_headers,
            runtime_dir=runtime_dir,
            socket_mode=settings.listen.socket_mode,
            socket_group=settings.listen.socket_group,
            passes_credentials=passes_credentials,
        )
        self._http = HttpServer(
            parts.exchange,
            parts.hits,
            parts.callers,
            address=settings.listen.http,
            passes_credentials=passes_credentials,
            budget_headers=parts.schedule.budget_headers,
            readiness=parts.wrong,
            metrics=generate_latest,
            grace_s=settings.drain.time,
            crowd=parts.crowd,
            origins=settings.listen.origins,
            hosts=settings.listen.hosts,
            clock=parts.clock,
        )

    @property
    def addresses(self) -> list[str]:
        """Where they are."""
        return [*self._grpc.addresses, f"http://{self._http.address}"]

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Listen; raises `StartupError` when an address is occupied."""
        await self._http.start()
        try:
            await self._grpc.start()
            try:
                yield
            finally:
                await self._grpc.stop()
        finally:
            await self._http.stop()

    async def set_serving(self, is_serving: bool) -> None:
        """Tell gRPC's health; HTTP's asks by itself."""
        await self._grpc.set_serving(is_serving)

    async def drain(self, grace_s: float) -> None:
        """Give the calls that run *grace_s* seconds to end, then end them."""
        await asyncio.gather(self._grpc.drain(grace_s), self._http.stop())
