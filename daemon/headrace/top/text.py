"""Views as text: columns and rows that fit into 80 characters, and that say all without colour. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from headrace.admin.rows import BudgetRow, CallerRow, CallRow, HostRow, Shown, Summary, TicketRow, UsageRow, WaitingRow
from headrace.admin.words import KINDS, amount, count, moment, money, share, short, whose

WIDTH = 80
VIEWS = ("budgets", "callers", "line", "tickets", "hosts", "calls", "usage")
TITLES: Mapping[str, str] = {
    "budgets": "Budgets", "callers": "Callers", "line": "Line", "tickets": "Tickets", "hosts": "Hosts", "calls": "Calls",
    "usage": "Usage",
}  # fmt: skip

Column = tuple[str, int]
Line = tuple[str, ...]

_BAR = 10
COLUMNS: Mapping[str, Sequence[Column]] = {
    "budgets": (("LIMIT", 20), ("COUNTS", 9), ("USED", 5), ("", _BAR), ("LEFT", 12), ("WAIT", 5), ("OLDEST", 7), ("FULL", 5)),
    "callers": (("CALLER", 18), ("LANE", 8), ("CALLS/M", 7), ("TOK/M", 7),
        ("HITS", 5), ("P95", 7), ("WAIT", 5), ("429", 4), ("$/MIN", 8)),
    "line": (("CALLER", 16), ("LANE", 8), ("HELD BY", 16), ("WANTS", 12), ("SINCE", 8), ("GOES IN", 8), ("WAITS", 6)),
    "tickets": (("TICKET", 12), ("CALLER", 14), ("MODEL", 14), ("STATE", 9), ("TRY", 3), ("DUE IN", 9), ("UNTIL", 9)),
    "hosts": (("HOST", 20), ("ROLE", 6), ("STATE", 8), ("VERSION", 8), ("CONFIG", 8), ("REDIS", 7),
        ("WORKER", 7), ("AIR", 4), ("WAIT", 4)),
    "calls": (("ENDED", 8), ("CALLER", 13), ("MODEL", 14), ("ANSWER", 14), ("TOOK", 7), ("WAITED", 7), ("HELD BY", 9)),
    "usage": (("CALLER", 14), ("MODEL", 17), ("CALLS", 6), ("HITS", 6), ("IN", 7), ("OUT", 7), ("COST", 8), ("SAVED", 8)),
}  # fmt: skip
"""The columns of each view, with their widths; the sum of these and of the blanks between them is 80 at most."""


def rows(shown: Shown) -> list[Line]:
    """Return a view's rows, by its columns."""
    make = _ROWS[shown.view]
    return [make(row, shown.summary.at) for row in shown.rows]


def head(summary: Summary) -> str:
    """Return the line that stands over every view."""
    hosts = f"{summary.heard}" + (f" of {summary.hosts}" if summary.heard < summary.hosts else "")
    redis = f"{summary.redis_ms:.1f} ms" if summary.redis_ms is not None else "away"
    due = f" (next {short(summary.next_due - summary.at)})" if summary.next_due is not None else ""
    parked = f"{count(summary.parked)}{due}"
    return (
        f"{moment(summary.at)}  hosts {hosts}  redis {redis}  in air {summary.flights}  "
        f"waiting {count(summary.waiting)}  parked {parked}"
    )


def lines(shown: Shown) -> list[str]:
    """Return a view as lines of 80 characters at most, its columns named."""
    columns = COLUMNS[shown.view]
    made = [_fitted([name for name, _ in columns], columns), *(_fitted(row, columns) for row in rows(shown))]
    return made if shown.rows else [made[0], "  (none)"]


def _fitted(cells: Iterable[str], columns: Sequence[Column]) -> str:
    return " ".join(cut(cell, width).ljust(width) for cell, (_, width) in zip(cells, columns, strict=True)).rstrip()


def cut(text: str, width: int) -> str:
    """Return a text that is no longer than that, and has nothing in it that a terminal would take for a command."""
    text = "".join(each if each.isprintable() else "?" for each in text)
    return text if len(text) <= width else text[: width - 1] + "…"


def _bar(used: float) -> str:
    return "|" * round(_BAR * max(0.0, min(1.0, used)))


def _budget(row: BudgetRow, now: float) -> Line:
    name = row.limit + (f" {whose(row.of)}" if row.of else "") + (" (shadow)" if row.is_shadow else "")
    oldest = short(None if row.oldest is None else now - row.oldest)
    full = short(row.full_at - now) if row.full_at is not None and row.used > 0 else "-"
    kind = {"input_tokens": "in-tok", "output_tokens": "out-tok", "total_tokens": "tokens", "concurrency": "at once"}.get(
        row.kind, row.kind
    )
    left = f"-{amount(row.kind, row.debt)}" if row.debt else f"{amount(row.kind, row.left)}"
    return (
        name, kind, share(row.used).replace(" ", ""), _bar(row.used), f"{left}/{amount(row.kind, row.capacity)}",
        count(row.waiting) if row.waiting else "-", oldest, full,
    )  # fmt: skip


def _caller(row: CallerRow, now: float) -> Line:
    name = f"{row.name} (hold)" if row.held is not None else row.name
    return (
        name, row.lane, count(row.calls), count(row.tokens), share(row.hits).replace(" ", "") or "-", short(row.wait_p95),
        count(row.waiting) if row.waiting else "-", count(row.limited) if row.limited else "-", money(row.cost),
    )  # fmt: skip


def _waiting(row: WaitingRow, now: float) -> Line:
    caller = row.caller or "(all)"
    return (
        f"{caller} x{row.count}" if row.count > 1 else caller,
        row.lane or "-",
        f"{row.held_by} {whose(row.of)}".strip(),
        f"{amount(row.kind, row.cost)} {KINDS.get(row.kind, row.kind)}" if row.cost else "-",
        short(now - row.since) if row.since is not None else "-",
        short(row.due - now) if row.due is not None else "?",
        short(row.latest - now) if row.latest is not None else "-",
    )


def _ticket(row: TicketRow, now: float) -> Line:
    due = short(row.due - now) if row.due is not None else "-"
    state = "LETTER" if row.is_letter else row.state
    return row.id, row.caller, row.model, state, count(row.attempts), due, "over" if row.ended else short(row.deadline - now)


def _host(row: HostRow, now: float) -> Line:
    redis = f"{row.redis_ms:.1f} ms" if row.redis_ms is not None else "-"
    return (
        row.host or row.daemon, row.role, row.state, row.version or "-", row.config or "-", redis, "no" if row.worker else "ok",
        count(row.flights), count(row.waiting),
    )  # fmt: skip


def _call(row: CallRow, now: float) -> Line:
    return (
        short(now - row.began - row.took), row.caller, row.model, row.reason or row.source or "-", short(row.took),
        short(row.waited) if row.waited else "-", row.limit or "-",
    )  # fmt: skip


def _used(row: UsageRow, now: float) -> Line:
    return (
        row.caller, row.model, count(row.calls), count(row.hits + row.shared), count(row.input), count(row.output),
        money(row.cost), money(row.saved),
    )  # fmt: skip


_ROWS: Mapping[str, Callable[..., Line]] = {
    "budgets": _budget, "callers": _caller, "line": _waiting, "tickets": _ticket, "hosts": _host, "calls": _call,
    "usage": _used,
}  # fmt: skip
