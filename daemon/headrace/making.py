"""
Makes the parts, and joins them: the only module that names them all.

It does not touch the network. Who hears whom is said here, and nowhere else; a part that another one needs is given to it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace import answers, observe
from headrace.admin.recent import Recent
from headrace.admission import Admission
from headrace.answers import Answers
from headrace.aside import Aside
from headrace.attempts import Attempts
from headrace.background import Background
from headrace.basin import PART_OF_ONE, Basin
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
from headrace.config import Keys, Settings, callers, classes, lanes, prices, settings_hash
from headrace.crowd import Crowd
from headrace.edge import grpc_kept, grpc_params, grpc_tickets
from headrace.edge.exchange import Exchange
from headrace.edge.hits import Hits
from headrace.flight.flights import Flights
from headrace.flight.handover import Handover
from headrace.flight.lease import LEASE_MS, Leases
from headrace.flow import Flow
from headrace.keystore import Hashing
from headrace.link import Link
from headrace.meters import Meters
from headrace.once import Once
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

_AT_HAND = 4  # due tickets that are known to this process for each that it works on: of these it takes the next in fair order


class Made:
    """
    A daemon's parts, joined; those that run beside the calls do not run yet.

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
        self.settings = settings
        self.configured, self._lanes = settings.limit, lanes(settings)
        self.config = settings_hash(settings)
        self._redis_url, self._keeps_disk, self.seal = redis_url, keeps_disk, seal
        self._read_keys = read_keys
        self._keys = read_keys()
        self.is_leaving = False  # whoever asks whether we are ready hears no; calls are still taken until `drain`
        self.passkey = ""
        """Who presents it at the door of gRPC may do what an admin may."""
        self.own_redis: Callable[[], str] = str
        """Why our own Valkey is not there; "" if it is, or if Redis is another's."""
        self.clock = clock = clock or SystemClock()
        self.background = Background("parts", clock)
        self.tally = Tally(prices(settings))
        self._keeping = Keeping(settings.cache.ttl, settings.cache.stale, settings.cache.enabled)
        self._policy = RetryPolicy(settings.retry.max_attempts, *settings.retry.backoff)
        self._make_ground(settings, clock)
        self._make_schedule(settings, clock)
        self._make_upstream(settings, clock)
        self._make_queue(settings, clock)
        self._make_outcomes(settings, clock)
        self._make_line(settings, clock)
        self._make_doors(settings, clock)

    def _make_ground(self, settings: Settings, clock: Clock) -> None:
        """Make what lies under the rest: Redis, who asks, what is kept, and who leads."""
        self.link = Link(self._redis_url, replicas=settings.redis.wait_replicas, clock=clock, tells=True)
        self.check = RedisCheck(self._redis_url, clock)
        self.hosts = Hosts(self.link, clock)
        self.callers = Callers(**self._told_of_callers(settings), link=self.link, clock=clock)
        self.cache = Cache(
            self.link,
            clock,
            directory=Path(settings.state.dir) / "cache",
            memory=settings.cache.memory,
            disk=settings.cache.disk if self._keeps_disk else 0,
            redis=settings.cache.redis,
            max_entry=settings.cache.max_entry,
            enabled=settings.cache.enabled,
            seal=self.seal,
        )
        self.flights = Flights()
        self.handover = Handover(self.link, clock, follow_ms=LEASE_MS, seal=self.seal)
        self.leases = Leases(self.link, clock, self.flights, self.handover)

    def _make_schedule(self, settings: Settings, clock: Clock) -> None:
        """Make the wait for a turn: budgets, and what upstream says of them."""
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
        parts = PART_OF_ONE if settings.auth.required else 1  # a name that anybody may say tells nobody apart
        most_waiting, most_held = settings.schedule.max_waiting_bytes, settings.listen.max_held_bytes
        self.crowd = Crowd(settings.schedule.max_waiting, most_waiting, max_bytes_of_one=most_waiting // parts)
        self.basin = Basin(
            settings.listen.max_coming_bytes, patience_s=settings.listen.body_timeout, now=time.monotonic,
            most_held_bytes=most_held, most_held_of_one=most_held // parts,
        )  # fmt: skip
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

    def _make_upstream(self, settings: Settings, clock: Clock) -> None:
        """Make what asks upstream, and judges what it says."""
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

    def _make_queue(self, settings: Settings, clock: Clock) -> None:
        """Make the queue: tickets, their alarms, and the worker that makes their attempts."""
        self.alarms = Queue(self._redis_url, clock)
        bounds = settings.retry.max_tickets, settings.retry.max_ticket_bytes, settings.retry.max_all_ticket_bytes
        keep = Keep(settings.retry.keep_results, settings.retry.keep_letters, settings.retry.max_letters)
        self.ringer = Ringer(
            self.link, clock, self.alarms, lambda ticket, attempt: self.pursuits.run(ticket, attempt),
            most=settings.retry.max_running * _AT_HAND,
        )  # fmt: skip
        self.tickets = Tickets(self.link, clock, self.ringer, bounds=bounds, keep=keep, seal=self.seal)
        self.letters = Letters(self.link, clock, self.tickets)
        self.sweeper = Sweeper(self.link, clock, self.tickets, self.ringer)
        self.worker = Worker(self._redis_url, clock, concurrency=settings.retry.max_running)

    def _make_outcomes(self, settings: Settings, clock: Clock) -> None:
        """Make what hears of every call: metrics, usage, log, traces, and what the live page remembers."""
        self.outcomes = Outcomes(clock)
        traffic = Traffic() if settings.usage.traffic == "on" else None
        self.meters = Meters(lambda model: self.tuner.classes.of(model), settings.metrics.max_callers)
        for histogram in observe.REACHING:
            histogram.reach(settings.retry.max_age)  # which no reload changes
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

    def _make_line(self, settings: Settings, clock: Clock) -> None:
        """Make the line itself, from the flow to its attempts."""
        self.trails = Trails(self.link, self.seal)
        asked = self.schedule, self.upstream, self.outcomes, self.answers, self.trails
        self.retries = RetryBudget(self.link, clock, Bounds(settings.retry.budget))
        self.attempts = Attempts(clock, self.cache, self._keeping, self.leases, *asked, self.retries)
        self.parking = Parking(clock, self.tickets, self.leases, self.handover, self.crowd, self.trails)
        self.flow = Flow(
            clock, self.cache, self._keeping, self.flights, self.leases, self.attempts, self.parking, self._policy,
            Replies(clock, self.cache, self._keeping, self.crowd),
        )  # fmt: skip
        self.pursuits = Pursuits(
            clock, self.flow, self.flights, self.attempts, self.handover, self._policy, self.tickets, self.outcomes,
            Hands(settings.retry.max_running, self.schedule, clock),
        )  # fmt: skip
        self.once = Once(clock, self.flow, self.flights, self.parking, self.tickets, self.pursuits, self.answers)

    def _make_doors(self, settings: Settings, clock: Clock) -> None:
        """Make what stands behind every door."""
        auth = settings.auth
        self.guard = Guard(Owners(self.link, clock), is_on=auth.keeps_apart, shares_unknown=auth.shares_unknown)
        self.aside = Aside((reader.JOB, grpc_params.JOB))
        self.admission = Admission(
            clock,
            self._keeping,
            reader.Reader(self.aside),
            version=settings.upstream.version,
            is_shared=settings.cache.scope == "shared",
            max_age_s=settings.retry.max_age,
            lanes=lanes(settings),
            guard=self.guard,
        )
        pace = settings.upstream.carried_pace, settings.upstream.carried_patience
        self.carrier = Carrier(clock, self.schedule, self.upstream, self._policy, pace, self.retries, self.outcomes)
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

    def _limits(self) -> Limits:
        """Return the limits that hold now: those of the configuration, or else those learnt, with what is laid over them."""
        limits = self.configured or self.tuner.learner.limits()
        # Of callers' own keys they hold for others' organisations.
        is_ours = self.configured and self.settings.upstream.credentials != "caller"
        own = self.tuner.own_limits.known if is_ours else None
        costs = Costs(self.tally.prices.cost)
        return Limits(self.overrides.over(limits), classes=self.tuner.classes, costs=costs, organisation=own)

    def _name_in_metrics(self, settings: Settings) -> None:
        limits, shadows = [limit.name for limit in settings.limit], [limit.name for limit in settings.limit if limit.shadow]
        self.meters.reload(callers(settings), lanes(settings), limits, shadows, settings.metrics.max_callers)
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
        self.board.reload(self.configured, self.schedule.limits, since)
