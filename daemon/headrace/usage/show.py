"""
An answer of `UsageService` for people and for other programs: a table, CSV or JSON; and how spans of time are given.

A table shows what fits beside each other; CSV and JSON have every figure, under the same names, costs as exact decimals of a
dollar.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from headrace import units

_NANO = Decimal(1_000_000_000)
_CLASSES = ("input", "cache_write_5m", "cache_write_1h", "cache_read", "output")


def moment(text: str, now: datetime) -> datetime:
    """Return the moment that "30d", "12h", "2026-11-01" or "2026-11-01T08:30Z" means; UTC by default. Raises ValueError."""
    try:
        return now - timedelta(seconds=units.parse_duration(text))
    except ValueError:
        at = datetime.fromisoformat(text)
        return at if at.tzinfo else at.replace(tzinfo=UTC)


def flat(row: Any, group_by: Sequence[str], *, has_times: bool) -> dict[str, Any]:
    """Return a `UsageRow` as one value a name."""
    calls = {f"calls_{field.name}": getattr(row.calls, field.name) for field in row.calls.DESCRIPTOR.fields}
    return {
        **({"begins": f"{row.begin_time.ToDatetime():%Y-%m-%dT%H:%MZ}"} if has_times else {}),
        **dict(zip(group_by, row.group, strict=True)),
        "calls": sum(calls.values()),
        **calls,
        "attempts": row.attempts.total,
        "attempts_failed": row.attempts.failed,
        "attempts_untold": row.attempts.untold,
        **{f"{name}_tokens": getattr(row.tokens, name) for name in _CLASSES},
        "unpriced_tokens": row.unpriced_tokens,
        "cost_usd": _usd(row.cost_nano_usd),
        **_saved("cache", row.saved_by_cache),
        **_saved("sharing", row.saved_by_sharing),
        "waited_s": row.waited_ms / 1000,
        "took_s": row.took_ms / 1000,
    }


def _saved(how: str, saved: Any) -> dict[str, Any]:
    return {
        f"saved_by_{how}_input_tokens": saved.input_tokens,
        f"saved_by_{how}_output_tokens": saved.output_tokens,
        f"saved_by_{how}_usd": _usd(saved.cost_nano_usd),
    }


def _usd(nano: int) -> str:
    return f"{Decimal(nano) / _NANO:f}"


def as_json(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a JSON list of objects."""
    return json.dumps(rows, indent=2)


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as CSV, names first."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue().rstrip("\n")


def columns(group_by: Sequence[str], *, has_times: bool) -> tuple[str, ...]:
    """Return the names above a table's columns."""
    figures = ("calls", "spared", "input", "cached", "output", "cost", "saved")
    return (*(("begins",) if has_times else ()), *group_by, *figures)


def cells(row: dict[str, Any], group_by: Sequence[str], *, has_times: bool) -> tuple[str, ...]:
    """
    Return a row of the table. Spared are calls for which upstream was not asked, cached is input that its prompt cache had. A
    cost that leaves tokens out is marked: those of models without a price.
    """
    written = row["cache_write_5m_tokens"] + row["cache_write_1h_tokens"]
    saved = Decimal(row["saved_by_cache_usd"]) + Decimal(row["saved_by_sharing_usd"])
    return (
        *((row["begins"].removesuffix("T00:00Z"),) if has_times else ()),
        *(row[name] or "-" for name in group_by),
        f"{row['calls']:,}",
        f"{row['calls_cache'] + row['calls_stale'] + row['calls_shared']:,}",
        f"{row['input_tokens'] + written:,}",
        f"{row['cache_read_tokens']:,}",
        f"{row['output_tokens']:,}",
        f"${Decimal(row['cost_usd']):,.2f}{' + ?' if row['unpriced_tokens'] else ''}",
        f"${saved:,.2f}",
    )
