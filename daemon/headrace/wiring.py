"""
Joins the parts: the only module that names them all, and the order in which they live.

`Parts` makes them from the settings without touching the network. `running` starts what runs beside the calls (the listening
link, renewals, heartbeats, the sweeper) and stops it in the opposite order; edges and worker are opened by the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import generate_latest

from headrace import observe
from headrace.admission import Admission
from headrace.budget.estimate import Estimator
from headrace.budget.limits import Limits
from headrace.budget.loss import LossPolicy
from headrace.budget.memory import MemoryLedger
from headrace.budget.redis import RedisLedger
from headrace.cache.tiered import Cache
from headrace.callers import Callers
from headrace.clock import Clock, SystemClock
from headrace.config import Keys, Settings, callers
from headrace.edge.exchange import Exchange
from headrace.edge.grpc_server import GrpcServer
from headrace.edge.http_server import HttpServer
from headrace.errors import RedisAway
from headrace.flight.flights import Flights
from headrace.flight.lease import Leases
from headrace.flow import Flow
from headrace.leader import Keeping, Leader
from headrace.link import Link
from headrace.presence import Hosts
from headrace.relay import Relay
from headrace.retry.policy import RetryPolicy
from headrace.retry.rq import Queue
from headrace.retry.rq_worker import Worker
from headrace.retry.sweeper import Sweeper
from headrace.retry.tickets import Tickets
from headrace.runner import Runner
from headrace.schedule import Schedule
from headrace.upstream.client import Upstream
from headrace.worker import serve_with

log = structlog.get_logger()

_AGAIN_S = 1.0


class Parts:
    """
    A daemon's parts, joined.

    Args:
        redis_url: the configured Redis, or our own Valkey's socket.
        read_keys: returns upstream's keys; read at the start and at each reload.
    """

    def __init__(self, settings: Settings, redis_url: str, read_keys: Callable[[], Keys], clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        keeping = Keeping(settings.cache.ttl, settings.cache.stale)
        self.settings = settings
        self._read_keys = read_keys
        self._keys = read_keys()
        self.is_draining = False
        self.clock = clock
        self.link = Link(redis_url)
        self.hosts = Hosts(self.link, clock)
        self.callers = Callers(
            callers(settings), required=settings.auth.required, link=self.link, default_role=settings.auth.default_role
        )
        self.cache = Cache(
            self.link,
            clock,
            directory=Path(settings.state.dir) / "cache",
            memory=settings.cache.memory,
            disk=settings.cache.disk,
            redis=settings.cache.redis,
            max_entry=settings.cache.max_entry,
            enabled=settings.cache.enabled,
        )
        self.flights = Flights()
        self.leases = Leases(self.link, self.flights)
        # For tests of the promise: a stream in Redis that gets every grant. Not a setting, since nobody would trim it.
        shared = RedisLedger(self.link, clock=clock, audit=os.environ.get("HEADRACE_AUDIT", ""))
        ledger = LossPolicy(
            shared,
            MemoryLedger(lambda: int(clock.now() * 1e6)),
            is_up=lambda: self.link.is_up,
            known_hosts=lambda: self.hosts.known,
        )
        self.schedule = Schedule(
            Limits(settings.limit),
            ledger,
            Estimator(),
            self.link,
            clock,
            max_waiting=settings.schedule.max_waiting,
            max_waiting_bytes=settings.schedule.max_waiting_bytes,
        )
        self.upstream = Upstream(
            settings.upstream.base_url,
            lambda: self._keys.api,
            admin_key=lambda: self._keys.admin,
            version=settings.upstream.version,
            clock=clock,
            proxy="" if settings.upstream.proxy == "off" else settings.upstream.proxy,
        )
        self.alarms = Queue(redis_url)
        self.tickets = Tickets(self.link, clock, self.alarms)
        self.sweeper = Sweeper(self.link, clock, self.tickets, self.alarms, max_broken=settings.retry.max_attempts)
        self.worker = Worker(redis_url)
        policy = RetryPolicy(settings.retry.max_attempts, *settings.retry.backoff)
        self.leader = Leader(clock, self.cache, self.leases, self.schedule, self.upstream, policy, self.tickets, keeping)
        self.flow = Flow(clock, self.cache, self.flights, self.leader, self.tickets)
        self.runner = Runner(clock, self.flow, self.leases, self.leader, policy, self.tickets)
        self.admission = Admission(
            clock,
            version=settings.upstream.version,
            is_shared=settings.cache.scope == "shared",
            max_age_s=settings.retry.max_age,
        )
        self.relay = Relay(clock, self.schedule, self.upstream, policy)
        self.exchange = Exchange(
            clock,
            self.flow,
            self.relay,
            self.admission,
            budget_headers=self.schedule.budget_headers,
            upstream_url=settings.upstream.base_url,
        )

    def __repr__(self) -> str:
        return f"<Parts {self.flow!r} {self.leases!r} {self.schedule!r} {self.cache!r} {self.tickets!r} {self.link!r}>"

    # Living.

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run what runs beside the calls. Redis away delays nothing here: each part comes to itself when it is back."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.link.aclose)
            stack.push_async_callback(self.alarms.aclose)
            stack.push_async_callback(self.upstream.aclose)
            await self.cache.start()
            stack.push_async_callback(self.cache.close)
            stack.push_async_callback(self.schedule.close)
            for work in self._beside():
                stack.push_async_callback(_end, asyncio.create_task(_lasting(work)))
            stack.push_async_callback(self.flights.aclose)
            observe.IN_FLIGHT.read = lambda: len(self.flights)
            observe.REDIS_UP.read = lambda: float(self.link.is_up)
            yield

    def _beside(self) -> tuple[Callable[[], Coroutine[Any, Any, None]], ...]:
        return (
            self.link.listen,
            self.leases.keep,
            self.tickets.keep,
            self.sweeper.run,
            self.callers.keep_fresh,
            self.hosts.stay,
        )

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Make the attempts of tickets, this process's or any other's."""
        serve_with(self.runner.run)
        self.worker.start()
        try:
            yield
        finally:
            await self.worker.stop(self.settings.drain.time)
            await self.runner.close()
            with contextlib.suppress(RedisAway):
                await self.tickets.leave()

    async def look(self) -> None:
        """Look whether Redis is there; what follows from it, `wrong` says."""
        with contextlib.suppress(RedisAway):
            await self.link.ping()

    def wrong(self) -> list[str]:
        """Return why this daemon should not be asked, a line each; [] if all is well."""
        checks = (
            (self.is_draining, "draining"),
            (not self.link.is_up, "Redis cannot be reached"),
            (not self.worker.is_healthy, f"the retry worker does not take jobs: {self.worker.why}"),
        )
        return [reason for is_so, reason in checks if is_so]

    def reload(self, settings: Settings) -> None:
        """Go on with new limits and callers, and with upstream's key as it is now."""
        self._keys = self._read_keys()
        self.schedule.reload(Limits(settings.limit))
        self.flow.forget_seen()  # which holds callers as they were configured
        self.callers.reload(callers(settings), required=settings.auth.required, default_role=settings.auth.default_role)


class Edges:
    """The doors of a daemon: gRPC and HTTP."""

    def __init__(self, parts: Parts, runtime_dir: Path) -> None:
        settings = parts.settings
        passes_credentials = settings.upstream.credentials == "caller"
        self._grpc = GrpcServer(
            parts.exchange,
            parts.flow,
            parts.admission,
            parts.callers,
            parts.tickets,
            parts.cache,
            addresses=settings.listen.grpc,
            runtime_dir=runtime_dir,
            socket_mode=settings.listen.socket_mode,
            socket_group=settings.listen.socket_group,
            passes_credentials=passes_credentials,
        )
        self._http = HttpServer(
            parts.exchange,
            parts.flow,
            parts.admission,
            parts.callers,
            address=settings.listen.http,
            passes_credentials=passes_credentials,
            budget_headers=parts.schedule.budget_headers,
            readiness=parts.wrong,
            metrics=generate_latest,
            grace_s=settings.drain.time,
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


async def _lasting(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    # What runs beside the calls must not end by a fault of ours: leases would lapse, nudges stay away, and nobody notice.
    while True:
        try:
            await work()
        except Exception as error:
            log.exception(observe.PART_CRASHED, part=work.__qualname__, kind=type(error).__name__)
            await asyncio.sleep(_AGAIN_S)


async def _end(task: asyncio.Task[None]) -> None:
    # Again, if need be: a library that waits with asyncio.wait_for may swallow a cancellation (Python 3.11 does).
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=1.0)
