"""Budgets as protobuf has them, and what an admin says of them in turn."""

from __future__ import annotations

from collections import Counter

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from headrace.budget.limits import Limit
from headrace.budget.want import NANO_USD
from headrace.budgets.board import Budget, Shown
from headrace.budgets.census import Waits
from headrace.budgets.override import Figures, Held, Override
from headrace.errors import InvalidCall
from headrace.owner import name_in
from headrace.v1 import budgets_service_pb2 as pb

_SAME = ("requests_per_minute", "input_tokens_per_minute", "output_tokens_per_minute", "total_tokens_per_minute", "concurrency")
_SPENDS = ("spend_per_day", "spend_per_month")


def limit(shown: Shown, of: str) -> pb.Limit:
    """Return a limit; with *of*, of those who wait only this owner's calls."""
    said = pb.Limit(
        name=shown.limit.name,
        figures=_figures(shown.limit),
        source=pb.LIMIT_SOURCE_CONFIGURED if shown.configured else pb.LIMIT_SOURCE_LEARNT,
        configured=_figures(shown.configured) if shown.configured else None,
        per=shown.limit.per,
        shadow=shown.limit.shadow,
    )
    if shown.since is not None:
        said.since_time.FromMicroseconds(round(shown.since * 1e6))
    if shown.override is not None:
        said.source = pb.LIMIT_SOURCE_OVERRIDDEN
        said.override.CopyFrom(_override(shown.override))
        said.since_time.CopyFrom(said.override.since_time)
    said.budgets.extend(_budget(budget, said, of) for budget in shown.budgets)
    return said


def _figures(limit: Limit | Figures) -> pb.LimitFigures:
    said = pb.LimitFigures(**{name: getattr(limit, name) for name in _SAME})
    for name in _SPENDS:
        if (usd := getattr(limit, name)) is not None:
            setattr(said, f"{name}_nano_usd", round(usd * NANO_USD))
    if limit.burst_s is not None:
        said.burst.CopyFrom(_duration(limit.burst_s))
    return said


def _override(override: Override) -> pb.LimitOverride:
    return pb.LimitOverride(
        figures=_figures(override.figures), since_time=_stamp(override.since), expire_time=_stamp(override.until),
        by=override.by, reason=override.reason,
    )  # fmt: skip


def hold(caller: str, held: Held, waiting: int) -> pb.CallerHold:
    """Return a caller's hold, of which so many calls wait."""
    return pb.CallerHold(
        caller=caller, refuse=held.refuse, since_time=_stamp(held.since), expire_time=_stamp(held.until), by=held.by,
        reason=held.reason, waiting_calls=waiting,
    )  # fmt: skip


def _budget(budget: Budget, limit: pb.Limit, of: str) -> pb.Budget:
    seen, level = budget.seen, budget.level
    waiting_calls: Counter[tuple[str, str]] = Counter()
    for (lane, owner), calls in budget.flows.items():
        if of in ("", owner):
            waiting_calls[lane, name_in(owner)] += calls
    callers = [
        pb.WaitingCaller(caller=caller, lane=lane, calls=calls)
        for (lane, caller), calls in sorted(waiting_calls.items(), key=lambda item: (-item[1], item[0]))
    ]
    is_lowered = budget.lowered_since is not None
    since = _stamp(budget.lowered_since) if is_lowered else limit.since_time if limit.HasField("since_time") else None
    waiting = [_waiting(n, each) for n, each in enumerate(budget.waiting, 1) if of in ("", each.caller)]
    return pb.Budget(
        bucket=seen.id,
        kind=seen.kind,
        of=budget.whose,
        capacity=seen.capacity,
        rate_per_minute=seen.rate_per_minute,
        level=level.left,
        debt=level.debt,
        full_time=_stamp(level.full_at),
        reserved_calls=seen.reserved_calls,
        reserved=seen.reserved,
        borrowings=[
            pb.Borrowing(daemon=loan.daemon, amount=loan.amount, expire_time=_stamp(loan.ends)) for loan in level.loans
        ],
        waiting_calls=sum(budget.flows.values()),
        waiting_callers=callers,
        waiting=waiting,
        source=pb.LIMIT_SOURCE_LEARNT if is_lowered else limit.source,
        since_time=since,
    )


def _waiting(position: int, each: Waits) -> pb.WaitingCall:
    return pb.WaitingCall(
        position=position, caller=name_in(each.caller), lane=each.lane, cost=each.cost, since_time=_stamp(each.since),
        expected_time=_stamp(each.due), latest_time=_stamp(each.latest), daemon=each.daemon,
    )  # fmt: skip


def _stamp(at: float | None) -> Timestamp | None:
    if at is None:
        return None
    stamp = Timestamp()
    stamp.FromMicroseconds(round(at * 1e6))
    return stamp


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMicroseconds(round(seconds * 1e6))
    return duration


# Reading.


def read_figures(said: pb.LimitFigures) -> Figures:
    """Return the figures that are given."""
    given = {name: getattr(said, name) for name in _SAME if said.HasField(name)}  # type: ignore[arg-type]  # each is a field of it
    for name in _SPENDS:
        if said.HasField(field := f"{name}_nano_usd"):  # type: ignore[arg-type]  # each is a field of it
            given[name] = getattr(said, field) / NANO_USD
    if said.HasField("burst"):
        given["burst_s"] = said.burst.ToMicroseconds() / 1e6
    return Figures(**given)


def read_expiry(request: pb.SetLimitRequest | pb.HoldCallerRequest) -> dict[str, float]:
    """Return how long something is to hold, or until when, as `Overrides` takes it; raises `InvalidCall`."""
    field = request.WhichOneof("expiry")
    try:
        if field == "ttl":
            return {"ttl_s": request.ttl.ToMicroseconds() / 1e6}
        if field == "expire_time":
            return {"at": request.expire_time.ToMicroseconds() / 1e6}
    except (ValueError, OverflowError):
        raise InvalidCall(f"{field}: is no time", metadata={"field": str(field)}) from None
    return {}
