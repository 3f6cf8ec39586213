"""Hosts, told calls, forecasts and acts as protobuf has them."""

from __future__ import annotations

import math

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from headrace.audit import Act
from headrace.budgets.board import State as Budgets
from headrace.edge import budget_messages
from headrace.explain import Forecast, Told
from headrace.explain.forecast import Part
from headrace.explain.timeline import Phase, phases
from headrace.hosts import Fact, State
from headrace.hosts.fact import configs
from headrace.operated import Status
from headrace.owner import name_in
from headrace.v1 import operator_service_pb2 as pb

_MOST_FULL = 10
_STATES = {
    State.SERVING: pb.HOST_STATE_SERVING,
    State.UNREADY: pb.HOST_STATE_UNREADY,
    State.DRAINING: pb.HOST_STATE_DRAINING,
    State.DRAINED: pb.HOST_STATE_DRAINED,
    State.UNKNOWN: pb.HOST_STATE_UNSPECIFIED,
}


def host(fact: Fact) -> pb.Host:
    """Return a process."""
    said = pb.Host(
        instance=fact.instance, host=fact.host, pid=fact.pid, kind=fact.kind, version=fact.version, commit=fact.commit,
        config_hash=fact.config, state=_STATES[fact.state], wrong=fact.wrong, degraded=fact.degraded, troubles=fact.troubles,
        worker_trouble=fact.worker, addresses=fact.addresses, running_calls=fact.running, waiting_calls=fact.waiting,
        start_time=_stamp(fact.started) if fact.started else None, update_time=_stamp(fact.at) if fact.at else None,
        redis_round_trip=None if fact.redis_ms is None else _span(fact.redis_ms / 1000),
    )  # fmt: skip
    if fact.drain is not None:
        said.drain.CopyFrom(pb.HostDrain(since_time=_stamp(fact.drain.since), by=fact.drain.by, reason=fact.drain.reason))
    return said


def status(status: Status, dead_letters: int) -> pb.GetStatusResponse:
    """Return how all of it stands."""
    facts, budgets, queued = status.hosts, status.budgets, status.queued
    return pb.GetStatusResponse(
        hosts=[host(fact) for fact in facts],
        config_hashes=sorted(configs(facts)),
        versions=sorted({fact.version for fact in facts if fact.version}),
        troubles=sorted({trouble for fact in facts for trouble in fact.troubles}),
        fullest=fullest(budgets),
        queued_tickets=queued.queued,
        running_tickets=queued.running,
        oldest_queued_time=_stamp(queued.eldest) if queued.eldest < math.inf else None,
        dead_letters=dead_letters,
        holds=[budget_messages.hold(name, held, waiting) for name, (held, waiting) in sorted(budgets.held.items())],
        daemons=budgets.daemons,
        daemons_heard=budgets.heard,
    )


def fullest(budgets: Budgets) -> list[pb.FullBucket]:
    """Return the fullest buckets of all limits that hold, the fullest first."""
    said = [
        pb.FullBucket(
            limit=shown.limit.name,
            bucket=budget.seen.id,
            kind=budget.seen.kind,
            used_ratio=budget.used,
            waiting_calls=sum(budget.flows.values()),
            full_time=_stamp(budget.level.full_at) if budget.level.full_at is not None else None,
        )
        for shown in budgets.shown
        if not shown.limit.shadow
        for budget in shown.budgets
    ]
    return sorted(said, key=lambda full: (-full.used_ratio, -full.waiting_calls))[:_MOST_FULL]


def told(call: Told) -> pb.ToldCall:
    """Return a call that has ended."""
    said = pb.ToldCall(
        id=call.id, instance=call.host, edge=call.edge, caller=name_in(call.caller), team=call.team, endpoint=call.endpoint,
        lane=call.lane, model=call.model, source=call.source, reason=call.reason, upstream_status=call.status,
        limit=call.limit, ticket=call.ticket, request_id=call.request_id, input_tokens=call.input_tokens,
        cache_read_tokens=call.cache_read_tokens, output_tokens=call.output_tokens, attempts=call.attempts,
        begin_time=_stamp(call.began), took=_span(call.took_s), first=None if call.first_s is None else _span(call.first_s),
    )  # fmt: skip
    said.phases.extend(phase(each) for each in phases(call.tries, began=call.began, took_s=call.took_s, waits=call.waits))
    return said


def phase(phase: Phase) -> pb.Phase:
    """Return a part of a call's time."""
    said = pb.Phase(what=phase.what, after=_span(phase.after_s), took=_span(phase.took_s), about=phase.about)
    if (made := phase.made) is not None:
        said.attempt, said.status, said.request_id, said.host = made.number, made.status, made.request_id, made.host
    return said


def forecast(forecast: Forecast) -> pb.ForecastCallResponse:
    """Return what would become of a call."""
    binding, wait_s = forecast.binding, forecast.wait_s
    said = pb.ForecastCallResponse(
        caller=forecast.caller.name,
        team=forecast.caller.team,
        lane=forecast.lane,
        buckets=[_bucket(part) for part in forecast.parts],
        expected_wait=None if wait_s is None else _span(wait_s),
        limit=binding.want.limit if binding is not None else "",
        never=binding is not None and binding.never,
        refused=forecast.is_refused,
        patience=_span(forecast.patience_s),
        overloaded=forecast.overloaded,
        daemons=forecast.daemons,
        daemons_heard=forecast.heard,
    )
    if forecast.held is not None:
        said.hold.CopyFrom(budget_messages.hold(forecast.caller.name, forecast.held, 0))
    return said


def _bucket(part: Part) -> pb.BucketForecast:
    want, level = part.want, part.level
    return pb.BucketForecast(
        limit=want.limit, bucket=want.bucket_id, kind=want.kind, cost=want.cost, capacity=want.capacity, level=level.left,
        debt=level.debt, rate_per_minute=want.rate_per_minute, waiting_calls=part.waiting, shadow=want.is_shadow,
        expected_wait=None if part.wait_s is None else _span(part.wait_s),
        longest_wait=None if part.longest_s is None else _span(part.longest_s),
    )  # fmt: skip


def act(act: Act) -> pb.Act:
    """Return what somebody did."""
    return pb.Act(
        time=_stamp(act.at), by=act.by, what=act.what, target=act.target, reason=act.reason, details=act.details,
        instance=act.instance,
    )  # fmt: skip


def _stamp(at: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(round(at * 1e6))
    return stamp


def _span(seconds: float) -> Duration:
    span = Duration()
    span.FromMicroseconds(round(seconds * 1e6))
    return span
