"""
Budgets for people and for other programs: tables, lines and JSON.

What comes in are messages of `BudgetsService`; spend is shown in dollars, all else as it is counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

COLUMNS = ("limit", "bucket", "counts", "a minute", "holds", "left", "debt", "reserved", "waiting", "full again")
WAITING = ("place", "caller", "lane", "counts", "wants", "for", "goes in", "would wait")

_KINDS = {"requests": "requests", "input_tokens": "input", "output_tokens": "output", "total_tokens": "tokens"}
_NANO = Decimal(1_000_000_000)


def as_json(message: Any) -> str:
    """Return a message as JSON, under the names of its fields, figures that are 0 included."""
    return json.dumps(_plain(message), indent=2)


def _plain(message: Any) -> dict[str, Any]:
    said = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        said[field.name] = _value(field, getattr(message, field.name))
    return said


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return [_single(field, item) for item in value]
    return _single(field, value)


def _single(field: Any, value: Any) -> Any:
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    if field.message_type is None:
        return value
    return value.ToJsonString() if hasattr(value, "ToJsonString") else _plain(value)


def rows(limits: Sequence[Any]) -> list[tuple[str, ...]]:
    """Return a row for each bucket, in the order of `COLUMNS`; a limit without buckets has one, too."""
    return [row for limit in limits for row in _rows(limit)]


def _rows(limit: Any) -> Iterator[tuple[str, ...]]:
    name = limit.name + (" *" if limit.HasField("override") else "") + (" (shadow)" if limit.shadow else "")
    if not limit.budgets:
        yield (name, "-", figures(limit.figures), *["-"] * (len(COLUMNS) - 3))
    for budget in limit.budgets:
        whose = " ".join(f"{key}={value}" for key, value in sorted(budget.of.items()))
        amounts = (budget.capacity, budget.level, budget.debt, budget.reserved)
        holds, left, debt, reserved = (_amount(budget.kind, amount) for amount in amounts)
        rate = f"{budget.rate_per_minute:,}" if budget.rate_per_minute else "-"
        waiting = f"{budget.waiting_calls}" if budget.waiting_calls else "-"
        yield (
            name, whose or "-", budget.kind, rate, holds, left, debt if budget.debt else "-", reserved, waiting, _full(budget)
        )  # fmt: skip


def _amount(kind: str, amount: int) -> str:
    return f"${Decimal(amount) / _NANO:,.2f}" if kind == "spend" else f"{amount:,}"


def _full(budget: Any) -> str:
    return _until(budget.full_time) if budget.HasField("full_time") and budget.level < budget.capacity else "-"


def waiting(limit: Any) -> list[tuple[str, ...]]:
    """Return a row for each call that waits for a limit, in the order of `WAITING`."""
    return [
        (
            f"{call.position}", call.caller, call.lane, budget.kind, _amount(budget.kind, call.cost),
            span(_now() - _at(call.since_time)), _until(call.expected_time) if call.HasField("expected_time") else "?",
            _until(call.latest_time),
        )
        for budget in limit.budgets for call in budget.waiting
    ]  # fmt: skip


def notes(reply: Any) -> Iterator[str]:
    """Yield what is laid over the limits, who is on hold, and whose word is missing."""
    for limit in reply.limits if hasattr(reply, "limits") else [reply.limit]:
        if limit.HasField("override"):
            yield f"* {limit_line(limit)}"
        yield from _lowered(limit)
    for held in getattr(reply, "holds", ()):
        yield f"{hold_line(held)}; {held.waiting_calls} calls wait"
    if reply.daemons_heard < reply.daemons:
        yield f"{reply.daemons - reply.daemons_heard} of {reply.daemons} daemons did not answer: who waits there is missing"


def _lowered(limit: Any) -> Iterator[str]:
    for budget in limit.budgets:
        configured = getattr(limit.figures, f"{budget.kind}_per_minute", 0)
        if budget.source != limit.source and budget.rate_per_minute < configured:
            whose = "".join(f", {key}={value}" for key, value in sorted(budget.of.items()))
            rates = (
                f"held at {budget.rate_per_minute:,} {_KINDS[budget.kind]}/min, the organisation's own; it says {configured:,}"
            )
            yield f"{limit.name}{whose}: {rates}"


def limit_line(limit: Any) -> str:
    """Return what a limit is, and if something is laid over it what, until when, by whom, why."""
    if not limit.HasField("override"):
        return f"{limit.name}: {figures(limit.figures)}, as configured"
    over = limit.override
    return f"{limit.name}: {figures(over.figures)} {_terms(over)}; configured: {figures(limit.configured)}"


def hold_line(hold: Any) -> str:
    """Return who is on hold, how, until when, by whom, why."""
    return f"{hold.caller} is on hold, its calls {'are refused' if hold.refuse else 'wait'}, {_terms(hold)}"


def _terms(said: Any) -> str:
    until = f"for {_until(said.expire_time)}" if said.HasField("expire_time") else "until it is taken back"
    return f"{until}, by {said.by}" + (f": {said.reason}" if said.reason else "")


def figures(said: Any) -> str:
    """Return the figures of a limit in words."""
    parts = []
    for field, value in said.ListFields():
        name = field.name
        if name.endswith("_nano_usd"):
            parts.append(f"${Decimal(value) / _NANO:,.2f} a {name.split('_')[2]}")
        elif name.endswith("_per_minute"):
            parts.append(f"{value:,} {_KINDS[name.removesuffix('_per_minute')]}/min")
        elif name == "concurrency":
            parts.append(f"{value:,} at once")
        else:
            parts.append(f"burst {span(value.ToMicroseconds() / 1e6)}")
    return ", ".join(parts)


def span(seconds: float) -> str:
    """Return a span as people say it, in its two largest units."""
    whole = max(0, round(seconds))
    days, hours, minutes = whole // 86_400, whole // 3600 % 24, whole // 60 % 60
    parts = [f"{count}{unit}" for count, unit in ((days, "d"), (hours, "h"), (minutes, "m"), (whole % 60, "s")) if count]
    return " ".join(parts[:2]) or "0s"


def _until(stamp: Any) -> str:
    return span(_at(stamp) - _now())


def _at(stamp: Any) -> float:
    return float(stamp.ToMicroseconds()) / 1e6


def _now() -> float:
    return datetime.now(UTC).timestamp()
