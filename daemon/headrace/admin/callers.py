"""Callers as rows: what they did in the last minute, how they waited, who is on hold. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from headrace.admin.looks import Look
from headrace.admin.recent import quantile
from headrace.admin.rows import CallerRow
from headrace.budgets.override import Held
from headrace.owner import name_in
from headrace.usage import Row
from headrace.usage.tally import AT, FIELDS

MOST_ROWS = 200
GROUPS = ("caller", "team", "lane")
_CALLS = tuple(AT[name] for name in FIELDS if name.startswith("calls_"))
_HITS = AT["calls_cache"], AT["calls_stale"], AT["calls_shared"]
_TOKENS = AT["input"], AT["cache_write_5m"], AT["cache_write_1h"], AT["cache_read"], AT["output"]


def caller_rows(look: Look, minutes: Iterable[Row], now: datetime) -> list[CallerRow]:
    """
    Return a row for each caller, the dearest first; *minutes* are figures by `GROUPS` of this minute and the one before.

    A minute back from now is this minute and as much of the one before as is left of it.
    """
    rows: dict[str, CallerRow] = {}
    for caller, lane, team, figures in _sums(minutes, now):
        row = rows.setdefault(caller, CallerRow(name=caller, team=team, lane=lane, hits=0.0))
        _add(row, figures)
    for name, counts in _waits(look).items():
        rows.setdefault(name, CallerRow(name=name)).wait_p95 = quantile(counts, 0.95)
    for name, count in _limited(look).items():
        rows.setdefault(name, CallerRow(name=name)).limited = count
    for name, count in _waiting(look).items():
        rows.setdefault(name, CallerRow(name=name)).waiting += count
    for name, (held, _) in look.state.held.items():
        row = rows.setdefault(name, CallerRow(name=name))
        row.held, row.held_until = _words(held), held.until
    for row in rows.values():
        row.hits = row.hits / row.calls if row.hits is not None and row.calls else None
    order = sorted(rows.values(), key=lambda row: (-row.cost, -row.tokens, -row.calls, -row.waiting, row.name))
    return order[:MOST_ROWS]


def _sums(minutes: Iterable[Row], now: datetime) -> Iterable[tuple[str, str, str, Sequence[float]]]:
    into = now.second + now.microsecond / 1e6
    for row in minutes:
        weight = 1.0 if row.begins == now.replace(second=0, microsecond=0) else max(0.0, 1 - into / 60)
        owner, team, lane = row.group
        yield name_in(owner), lane, team, [figure * weight for figure in row.figures]


def _add(row: CallerRow, figures: Sequence[float]) -> None:
    row.calls += sum(figures[at] for at in _CALLS)
    row.hits = (row.hits or 0.0) + sum(figures[at] for at in _HITS)
    row.tokens += sum(figures[at] for at in _TOKENS)
    row.cost += figures[AT["cost"]]
    row.refused += figures[AT["calls_refused"]]
    row.failed += figures[AT["calls_failed"]]


def _waits(look: Look) -> dict[str, list[int]]:
    sums: dict[str, list[int]] = {}
    for each in look.news:
        for caller, counts in each.waits.items():
            sums[caller] = [one + two for one, two in zip(sums.get(caller, [0] * len(counts)), counts, strict=False)]
    return sums


def _limited(look: Look) -> Counter[str]:
    sums = Counter[str]()
    for each in look.news:
        sums.update(each.limited)
    return sums


def _waiting(look: Look) -> Counter[str]:
    sums = Counter[str]()
    for shown in look.state.shown:
        for budget in shown.budgets:
            for (_, owner), count in budget.flows.items():
                sums[name_in(owner)] += count
    for name, (_, count) in look.state.held.items():
        sums[name] += count
    return sums


def _words(held: Held) -> str:
    said = f"its calls {'are refused' if held.refuse else 'wait'}, by {held.by}"
    return f"{said}: {held.reason}" if held.reason else said
