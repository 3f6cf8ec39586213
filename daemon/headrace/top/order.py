"""In which order a view's rows stand: as the page has them, or by a column that its reader chose. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_BY: Mapping[str, Mapping[str, str]] = {
    "budgets": {"LIMIT": "limit", "USED": "-used", "WAIT": "-waiting", "OLDEST": "oldest"},
    "callers": {
        "CALLER": "name", "CALLS/M": "-calls", "TOK/M": "-tokens", "HITS": "-hits", "P95": "-wait_p95", "WAIT": "-waiting",
        "429": "-limited", "$/MIN": "-cost",
    },
    "line": {"CALLER": "caller", "LANE": "lane", "HELD BY": "held_by", "WANTS": "-cost", "SINCE": "since", "GOES IN": "due"},
    "tickets": {
        "CALLER": "caller", "MODEL": "model", "STATE": "state", "TRY": "-attempts", "DUE IN": "due", "UNTIL": "deadline",
    },
    "hosts": {"HOST": "host", "STATE": "state", "REDIS": "-redis_ms", "AIR": "-flights", "WAIT": "-waiting"},
    "calls": {"CALLER": "caller", "MODEL": "model", "TOOK": "-took", "WAITED": "-waited", "HELD BY": "limit"},
    "usage": {
        "CALLER": "caller", "MODEL": "model", "CALLS": "-calls", "HITS": "-hits+shared", "IN": "-input", "OUT": "-output",
        "COST": "-cost", "SAVED": "-saved",
    },
}  # fmt: skip
"""By view, the columns to sort by, and what in a row each goes by ("+" adds): the least first, or with a "-" the greatest."""


def after(view: str, column: str) -> str:
    """Return the column that a view is sorted by after this one; "" is the order in which its rows came."""
    columns = ["", *_BY[view]]
    return columns[(columns.index(column) + 1) % len(columns)]


def ordered(view: str, column: str, rows: Iterable[Any]) -> list[Any]:
    """Return rows by a column of their view; those that have nothing there come last, and equals as they came."""
    if not column:
        return list(rows)
    name = _BY[view][column].removeprefix("-")
    has: list[Any] = []
    has_not: list[Any] = []
    for row in rows:
        (has_not if _value(row, name) in (None, "") else has).append(row)
    has.sort(key=lambda row: _value(row, name), reverse=_BY[view][column].startswith("-"))
    return has + has_not


def _value(row: Any, name: str) -> Any:
    first, *others = (getattr(row, each) for each in name.split("+"))
    return first + sum(others) if others else first
