"""A month's usage as rows, by caller and model, with what was saved. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from headrace.admin.rows import UsageRow
from headrace.errors import InvalidCall
from headrace.owner import name_in
from headrace.usage import Granularity, Question, Row
from headrace.usage.tally import AT, FIELDS

MOST_ROWS = 500
_CALLS = tuple(AT[name] for name in FIELDS if name.startswith("calls_"))
_INPUT = AT["input"], AT["cache_write_5m"], AT["cache_write_1h"], AT["cache_read"]


def question_of(month: str, now: datetime) -> Question:
    """Return what is asked for a month, "2026-11"; "" for this one. Raises `InvalidCall`."""
    try:
        begins = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC) if month else now.replace(day=1, hour=0, minute=0)
        ends = (begins + timedelta(days=32)).replace(day=1) - timedelta(seconds=1)
    except (ValueError, OverflowError):  # the latter of the last month that there is
        raise InvalidCall(f"month: {month[:20]!r} is no month such as 2026-11", metadata={"field": "month"}) from None
    until = min(now, ends)
    return Question(since=min(begins, until), until=until, group_by=("caller", "model"), granularity=Granularity.MONTH)


def usage_rows(rows: Iterable[Row]) -> list[UsageRow]:
    """Return the rows, the dearest first."""
    return [_row(row) for row in rows]


def _row(row: Row) -> UsageRow:
    figures, (owner, model) = row.figures, row.group
    return UsageRow(
        caller=name_in(owner),
        model=model,
        calls=sum(figures[at] for at in _CALLS),
        hits=figures[AT["calls_cache"]] + figures[AT["calls_stale"]],
        shared=figures[AT["calls_shared"]],
        input=sum(figures[at] for at in _INPUT),
        output=figures[AT["output"]],
        cost=figures[AT["cost"]],
        saved=figures[AT["kept_cost"]] + figures[AT["shared_cost"]],
        unpriced=figures[AT["unpriced"]],
    )


def totals(rows: Iterable[UsageRow]) -> dict[str, int]:
    """Return the sums of all rows."""
    rows = list(rows)
    names = ("calls", "hits", "shared", "input", "output", "cost", "saved")
    return {name: sum(getattr(row, name) for row in rows) for name in names}
