"""
Joins the parts: the only module that names them all, and the order in which they live.

`Parts` makes them from the settings without touching the network. `running` starts what runs beside the calls (the listening
link, renewals, heartbeats, the sweeper) and stops it in the opposite order; edges and worker are opened by the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import time
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from headrace import answers, memory, observe
from headrace.admin.hosts import host_row
from headrace.admin.recent import Recent
from headrace.admin.reporter import Reporter
from headrace.admin.rows import HostRow
from headrace.admission import Admission
from headrace.answers import Answers
from headrace.aside import Aside
from headrace.attempts import Attempts
from headrace.background import Background
from headrace.basin import Basin
from headrace.batches import Batches
from headrace.bodies import reader
from headrace.budget.borrowing import Borrowing
from headrace.budget.costs import Costs
from headrace.budget.estimate import Estimator
from headrace.budget.hosts import Hosts
from headrace.budget.limits import Limits
from headrace.budget.loss import LossPolicy
from headrace.budget.memory import MemoryLedger
from headrace.budget.quanta import NOTHING, Terms
from headrace.budget.redis import RedisLedger
from headrace.budgets import Board, Census, LimitGauges, Overrides
from headrace.cache.keeping import Keeping
from headrace.cache.tiered import Cache
from headrace.call_log import CallLog
from headrace.callers import Callers
from headrace.carry import Carrier
from headrace.clock import Clock, SystemClock
from headrace.condition import Condition, condition
from headrace.config import Keys, Settings, callers, classes, lanes, prices, settings_hash
from headrace.crowd import Crowd
from headrace.edge import grpc_kept, grpc_params, grpc_tickets
from headrace.edge.exchange import Exchange
from headrace.edge.hits import Hits
from headrace.errors import RedisAway
from headrace.flight.flights import Flights
from headrace.flight.handover import Handover
from headrace.flight.lease import LEASE_MS, Leases
from headrace.flow import Flow
from headrace.keystore import Hashing
from headrace.link import Link
from headrace.meters import Meters
from headrace.once import Once
from headrace.operated import Operated, Stand
from headrace.outcome import Outcomes
from headrace.parking import Parking
from headrace.pursuit import Pursuits
from headrace.redis_check import RedisCheck
from headrace.replying import Replies
from headrace.resources import Guard, Owners
from headrace.retry.budget import Bounds, RetryBudget
from headrace.retry.letters import Letters
from headrace.retry.policy import RetryPolicy
from headrace.retry.ringer import Ringer
from headrace.retry.rq import Queue
from headrace.retry.rq_worker import Worker
from headrace.retry.sweeper import Sweeper
from headrace.retry.ticket import Keep
from headrace.retry.tickets import Tickets
from headrace.schedule import Schedule
from headrace.schedule.hands import Hands
from headrace.seal import UNSEALED, Seal
from headrace.traces import otlp
from headrace.trails import Trails
from headrace.tuning.account import Account, asked_by
from headrace.tuning.tuner import Tuner
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
        seal: of what lies in Redis for others to read.
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
        seal: Seal = UNSEALED,
    ) -> None:
        clock = clock or SystemClock()
        keeping = Keeping(settings.cache.ttl, settings.cache.stale, settings.cache.enabled)
        self.settings = settings
        self._configured, self._lanes = settings.limit, lanes(settings)
        self.tally = Tally(prices(settings))
        self._read_keys = read_keys
        self._keys = read_keys()
        self.is_leaving = False  # whoever asks whether we are ready hears no; calls are still taken until `drain`
        self.passkey = ""
        """Who presents it at the door of gRPC may do what an admin may."""
        self.own_redis: Callable[[], str] = str
        """Why our own Valkey is not there; "" if it is, or if Redis is another's."""
        self._leave_by: float | None = None
        self.seal = seal
        self.clock = clock
        self._background = Background("parts", clock)
        self.link = Link(redis_url, replicas=settings.redis.wait_replicas, clock=clock, tells=True)
        self.check = RedisCheck(redis_url, clock)
        self.hosts = Hosts(self.link, clock)
        self.callers = Callers(**self._told_of_callers(settings), link=self.link, clock=clock)
        self.cache = Cache(
            self.link,
            clock,
            directory=Path(settings.state.dir) / "cache",
            memory=settings.cache.memory,
            disk=settings.cache.disk if keeps_disk else 0,
            redis=settings.cache.redis,
            max_entry=settings.cache.max_entry,
            enabled=settings.cache.enabled,
            seal=seal,
        )
        self.flights = Flights()
        self.handover = Handover(self.link, clock, follow_ms=LEASE_MS, seal=seal)
        self.leases = Leases(self.link, clock, self.flights, self.handover)
        # For tests of the promise: a stream in Redis that gets every grant. Not a setting, since nobody would trim it.
        audit = os.environ.get("HEADRACE_AUDIT", "")
        self.tuner = Tuner(
            self.link,
            clock,
            classes=classes(settings),
            learns=not settings.limit,
            has_gates=settings.upstream.overload_gate == "on",
            backoff_s=settings.retry.backoff,
            hosts=lambda: self.hosts.known,
            on_limits=self._go_by_limits,
            on_learnt=lambda call: self.schedule.tell(call),
        )
        self.borrowing = Borrowing(
            RedisLedger(self.link, clock=clock, on_change=self.tuner.gates.changed, audit=audit),
            self.link,
            terms=Terms(settings.schedule.borrow_at_most) if settings.schedule.borrow == "auto" else NOTHING,
            clock=clock,
            audit=audit,
            is_open=self.tuner.gates.is_open,
        )
        ledger = LossPolicy(
            self.borrowing,
            MemoryLedger(lambda: int(clock.now() * 1e6)),
            is_up=lambda: self.link.is_up,
            known_hosts=lambda: self.hosts.known,
        )
        self.crowd = Crowd(settings.schedule.max_waiting, settings.schedule.max_waiting_bytes)
        self.basin = Basin(settings.listen.max_coming_bytes, patience_s=settings.listen.body_timeout, now=time.monotonic)
        self.overrides = Overrides(self.link, clock, self._go_by_limits)
        self.schedule = Schedule(
            self._limits(),
            ledger,
            Estimator(),
            self.link,
            clock,
            crowd=self.crowd,
            max_in_flight=settings.upstream.max_in_flight,
            carried=round(settings.upstream.max_in_flight * settings.upstream.carried_share),
            lanes=lanes(settings),
            tuner=self.tuner,
            ask=lambda call: self.upstream.ask(call),
        )
        self.limit_gauges = LimitGauges(self.schedule, clock)
        self.census = Census(self.link, clock, self.schedule)
        self.board = Board(self.link, clock, self.overrides, self.census)
        self.board.reload(settings.limit, self.schedule.limits)
        self.answers = Answers(Aside((answers.JOB, grpc_kept.JOB, grpc_tickets.JOB)))
        self.upstream = Upstream(
            settings.upstream.base_url,
            lambda: self._keys.api,
            admin_key=lambda: self._keys.admin,
            version=settings.upstream.version,
            clock=clock,
            max_in_flight=settings.upstream.max_in_flight,
            gap_s=settings.upstream.silence_timeout,
            attempt_s=settings.upstream.attempt_timeout,
            proxy="" if settings.upstream.proxy == "off" else settings.upstream.proxy,
            on_head=self.tuner.hear,
            judge=self.answers.judge,
        )
        self.account: Account | None = Account(
            clock, asked_by(self.upstream, clock), lambda model: self.tuner.classes.of(model), self.tuner.hear_account
        )
        self.alarms = Queue(redis_url, clock)
        bounds = settings.retry.max_tickets, settings.retry.max_ticket_bytes, settings.retry.max_all_ticket_bytes
        keep = Keep(settings.retry.keep_results, settings.retry.keep_letters, settings.retry.max_letters)
        self.ringer = Ringer(
            self.link, clock, self.alarms, lambda ticket, attempt: self.pursuits.run(ticket, attempt),
            most=settings.retry.max_running * _AT_HAND,
        )  # fmt: skip
        self.tickets = Tickets(self.link, clock, self.ringer, bounds=bounds, keep=keep, seal=seal)
        self.letters = Letters(self.link, clock, self.tickets)
        self.sweeper = Sweeper(self.link, clock, self.tickets, self.ringer)
        self.worker = Worker(redis_url, clock, concurrency=settings.retry.max_running)
        policy = RetryPolicy(settings.retry.max_attempts, *settings.retry.backoff)
        self.outcomes = Outcomes(clock)
        traffic = Traffic() if settings.usage.traffic == "on" else None
        self.meters = Meters(lambda model: self.tuner.classes.of(model), settings.metrics.max_callers)
        self._name_in_metrics(settings)
        self.usage = Store(self.link, clock, self.tally, traffic, self.meters.used)
        self.outcomes.listen(self.meters.heed, kept=False)
        self.outcomes.listen(self.tally.heed)
        self.outcomes.listen_spent(self.tally.spend)
        self.call_log = CallLog(clock, settings.log.calls, settings.log.slow)
        self.outcomes.listen(self.call_log.heed, kept=False)
        self.outcomes.listen_to_kept(self.call_log.heed, is_on=settings.log.calls == "all")
        if traffic is not None:
            self.outcomes.listen(traffic.heed, kept=False)
        self.outcomes.listen_tried(self.meters.tried)
        self.sending = otlp.start(os.environ, settings.upstream.base_url)
        if self.sending is not None:
            traces = self.sending.traces
            self.outcomes.enters = traces.enter
            self.outcomes.listen(traces.heed)
            self.outcomes.listen_tried(traces.tried)
        self.recent = Recent(clock, self.schedule, lambda model: self.tuner.classes.of(model))
        self.outcomes.listen(self.recent.heed, kept=False)
        self.upstream.on_failed = self.recent.failed
        self.reporter = Reporter(self.link, clock, self.recent, self._about)
        trails = Trails(self.link, seal)
        asked = self.schedule, self.upstream, self.outcomes, self.answers, trails
        self.retries = RetryBudget(self.link, clock, Bounds(settings.retry.budget))
        self.attempts = Attempts(clock, self.cache, keeping, self.leases, *asked, self.retries)
        self.parking = Parking(clock, self.tickets, self.leases, self.handover, self.crowd, trails)
        self.flow = Flow(
            clock, self.cache, keeping, self.flights, self.leases, self.attempts, self.parking, policy,
            Replies(clock, self.cache, keeping, self.crowd),
        )  # fmt: skip
        self.pursuits = Pursuits(
            clock, self.flow, self.flights, self.attempts, self.handover, policy, self.tickets, self.outcomes,
            Hands(settings.retry.max_running, self.schedule, clock),
        )  # fmt: skip
        self.once = Once(clock, self.flow, self.flights, self.parking, self.tickets, self.pursuits, self.answers)
        auth = settings.auth
        self.guard = Guard(Owners(self.link, clock), is_on=auth.keeps_apart, shares_unknown=auth.shares_unknown)
        self.aside = Aside((reader.JOB, grpc_params.JOB))
        self.admission = Admission(
            clock,
            keeping,
            reader.Reader(self.aside),
            version=settings.upstream.version,
            is_shared=settings.cache.scope == "shared",
            max_age_s=settings.retry.max_age,
            lanes=lanes(settings),
            guard=self.guard,
        )
        pace = settings.upstream.carried_pace, settings.upstream.carried_patience
        self.carrier = Carrier(clock, self.schedule, self.upstream, policy, pace, self.retries, self.outcomes)
        self.batches = Batches(self.link, clock, self.tally, self.schedule.charge)
        self.exchange = Exchange(
            clock,
            self.flow,
            self.pursuits,
            self.once,
            self.carrier,
            self.admission,
            self.outcomes,
            self.batches,
            self.guard,
            self.answers,
            self.basin,
            budget_headers=self.schedule.budget_headers,
            upstream_url=settings.upstream.base_url,
            opens_s=settings.listen.stream_opens,
        )
        self.hits = Hits(clock, self.cache, self.flow)
        self._config = settings_hash(settings)
        self.operated = Operated(
            self.link, clock, kind="daemon" if keeps_disk else "worker", flow=self.flow, pursuits=self.pursuits,
            ringer=self.ringer, schedule=self.schedule, callers=self.callers, board=self.board,
            census=self.census, tickets=self.tickets, trails=trails, outcomes=self.outcomes, seal=seal, stand=self._stand,
            delay_s=lambda: settings.drain.delay, patience_s=lambda: settings.retry.max_age,
            slow_s=settings.log.slow, most=settings.log.explain,
        )  # fmt: skip

    def __repr__(self) -> str:
        parts = (
            self.hits, self.flow, self.leases, self.schedule, self.borrowing, self.cache, self.tickets, self.pursuits,
            self.crowd, self.link, self.worker, self.usage, self.batches, self.guard, self.tuner, self.board, self.answers,
            self.operated, self._background,
        )  # fmt: skip
        return f"<Parts {' '.join(map(repr, parts))}>"

    def _limits(self) -> Limits:
        """Return the limits that hold now: those of the configuration, or else those learnt, with what is laid over them."""
        limits = self._configured or self.tuner.learner.limits()
        # Of callers' own keys they hold for others' organisations.
        is_ours = self._configured and self.settings.upstream.credentials != "caller"
        own = self.tuner.own_limits.known if is_ours else None
        costs = Costs(self.tally.prices.cost)
        return Limits(self.overrides.over(limits), classes=self.tuner.classes, costs=costs, organisation=own)

    # Living.

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
            stack.push_async_callback(self._background.close)
            self._start_beside()
            stack.push_async_callback(self.flights.aclose)
            self.crowd.measure()
            self.basin.measure()
            self.schedule.slots.measure()
            self.borrowing.measure()
            observe.BUILD_INFO.set({(version("headrace"), platform.python_version()): 1.0})
            self.limit_gauges.measure()
            self.upstream.troubles.measure()
            observe.ATTEMPTS_RUNNING.read = lambda: self.pursuits.stats().running
            observe.RETRIES_WAITING.read = lambda: self.retries.stats().waiting
            observe.LEARNED_CLASSES.read = lambda: len(self.tuner.learner.stats().known)
            observe.IN_FLIGHT.read = lambda: len(self.flights)
            observe.REDIS_UP.read = lambda: float(not self.link.trouble)
            observe.REDIS_LISTENING.read = lambda: float(self.link.is_listening)
            yield

    def _start_beside(self) -> None:
        start = self._background.lasting
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
        start(lambda: memory.keep_small(self.clock, lambda: self.crowd.stats().calls), "memory")
        start(self.tuner.learner.keep, "learner")
        start(self.tuner.own_limits.keep, "own-limits")
        if self.account is not None and self._keys.admin:
            start(self.account.keep, "account")

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Make the attempts of tickets, this process's or any other's."""
        serve_with(self.ringer.ring, self.clock)
        await self.look()
        self._background.lasting(self.ringer.keep, "ringer")
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

    def details(self) -> list[str]:
        """Return what is amiss though this daemon can be asked, a line each."""
        return [*self.condition().degraded, *(trouble.text for trouble in self.upstream.troubles.stats().now)]

    def wrong(self) -> list[str]:
        """Return why this daemon should not be asked, a line each; [] if all is well."""
        return self.condition().wrong

    def condition(self) -> Condition:
        """Return how it stands."""
        return condition(
            self._configured,
            wrong=(
                (self.is_leaving, "draining"),
                (bool(out := self.operated.out_of_service) and not self.is_leaving, out),
                (bool(shut := self.callers.trouble), f"no caller's key is taken: {shut}"),
                (bool(lacks := self.check.fatal), f"Redis does not do: {'; '.join(lacks)}"),
                (bool(dying := self._background.failing), f"work in the background keeps dying: {', '.join(dying)}"),
            ),
            without_redis=(
                (bool(why := self.own_redis()), why),
                (bool(trouble := self.link.trouble), trouble),
                (not self.worker.is_healthy, f"the retry worker does not take jobs: {self.worker.why}"),
            ),
        )

    def _about(self) -> tuple[HostRow, int]:
        """Return where this process stands, as the live page has it, and how many wait for a slot."""
        slots = self.schedule.slots.stats()
        return host_row(self.operated.register.own, flights=len(self.flights), slots=slots), slots.waiting

    def _stand(self) -> Stand:
        worker = "" if self.worker.is_healthy else self.worker.why
        troubles = tuple(trouble.text for trouble in self.upstream.troubles.stats().now)
        return Stand(self.condition(), troubles, worker, self._config, self.is_leaving)

    def reload(self, settings: Settings) -> None:
        """Go on with new limits and callers, and with upstream's key as it is now."""
        self._keys = self._read_keys()
        self._configured = settings.limit
        self.tuner.classes = classes(settings)
        self.tuner.learner.is_on = not settings.limit
        self.tally.prices = prices(settings)
        self._lanes = lanes(settings)
        self._config = settings_hash(settings)
        self._name_in_metrics(settings)
        self.operated.book.reload(slow_s=settings.log.slow, most=settings.log.explain)
        self.call_log.reload(settings.log.calls, settings.log.slow)
        self.outcomes.listen_to_kept(self.call_log.heed, is_on=settings.log.calls == "all")
        self._go_by_limits()
        self.admission.reload(lanes(settings))
        self.hits.forget()  # what they remember of callers
        self.guard.reload(is_on=settings.auth.keeps_apart, shares_unknown=settings.auth.shares_unknown)
        self.callers.reload(**self._told_of_callers(settings))

    def _name_in_metrics(self, settings: Settings) -> None:
        for histogram in observe.REACHING:
            histogram.reach(settings.retry.max_age)
        limits = [limit.name for limit in settings.limit]
        self.meters.reload(callers(settings), lanes(settings), limits, settings.metrics.max_callers)
        observe.CONFIG_INFO.set({(settings_hash(settings),): 1.0})
        observe.CONFIG_AT.set(self.clock.now())
        observe.CONFIG_OK.set(1.0)

    def _told_of_callers(self, settings: Settings) -> dict[str, Any]:
        return {
            "configured": callers(settings), "required": settings.auth.required, "default_role": settings.auth.default_role,
            "certificates": settings.listen.tls_clients, "hashing": Hashing(self._keys.peppers),
        }  # fmt: skip

    def _go_by_limits(self) -> None:
        """Go by the limits of the configuration, what is laid over them, and the callers on hold, as they are now."""
        self.schedule.reload(self._limits(), self._lanes)
        if self.schedule.limits.is_bounded:
            self.tuner.own_limits.say(self.schedule.limits.all)
        self.schedule.hold_callers(self.overrides.halts())
        since = {learnt.limit(name).name: learnt.since for name, learnt in self.tuner.learner.stats().known.items()}
        self.board.reload(self._configured, self.schedule.limits, since)
