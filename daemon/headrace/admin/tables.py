"""The views as HTML: a table each, every cell named, so that a narrow screen can show a row as a card. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

from headrace.admin import pictures
from headrace.admin.call_tables import call, calls
from headrace.admin.cells import Cell, button, chip, short_name, state, table
from headrace.admin.html import Child, Markup, join, joined, tag
from headrace.admin.rows import BudgetRow, CallerRow, HostRow, Shown, TicketRow, UsageRow, WaitingRow
from headrace.admin.words import KINDS, amount, count, money, share, span, whose

_OVER = ("SUCCEEDED", "FAILED", "CANCELED", "EXPIRED")


# The views.


def budgets(shown: Shown, may_act: bool) -> Markup:
    """Return the budgets: a bar, a quarter of an hour, figures."""
    rows: list[BudgetRow] = shown.rows
    now = shown.summary.at
    said = table(
        "budgets",
        ((f"{row.limit} {whose(row.of)} {row.kind}", _budget(row, now)) for row in rows),
        "No call has drawn from a limit yet.",
    )
    idle = shown.more.get("idle", ())
    more = tag("p", f"No calls yet: {', '.join(idle)}.", class_="more") if idle else None
    return join(said, _legend(), more)


def _budget(row: BudgetRow, now: float) -> list[Cell]:
    rate = f" of {amount(row.kind, row.rate_per_minute)}/min" if row.rate_per_minute else ""
    left = f"{amount(row.kind, row.left)} of {amount(row.kind, row.capacity)}"
    debt = tag("span", f"debt {amount(row.kind, row.debt)}", class_="bad") if row.debt else None
    waits = f"{row.waiting}, the first for {span(now - row.oldest)}" if row.oldest is not None else count(row.waiting)
    is_full = row.full_at is None or row.used <= 0
    return [
        (
            "limit",
            join(
                tag("b", row.limit),
                chip("shadow") if row.is_shadow else None,
                chip("learnt") if row.source == "learned" else None,
                tag("small", whose(row.of) or "all calls"),
                tag("small", row.note, class_="note") if row.note else None,
            ),
        ),
        ("counts", f"{KINDS.get(row.kind, row.kind)}{rate}"),
        ("used", join(pictures.bar(row), tag("span", share(row.used), class_="percent"))),
        ("last 15 minutes", pictures.history(row)),
        ("left", join(left, " ", debt) if debt else left),
        ("reserved", f"{amount(row.kind, row.reserved)} by {row.reserved_calls}" if row.reserved_calls else ""),
        ("waiting", waits if row.waiting else ""),
        ("full again", "" if is_full else f"{span((row.full_at or now) - now)}"),
    ]


def _legend() -> Markup:
    marks = (("area", "share used"), ("refused", "refused by the limit"), ("limited", "upstream said 429"))
    return tag("p", *(join(tag("i", class_=f"swatch {kind}"), words, " ") for kind, words in marks), class_="legend")


def line(shown: Shown, may_act: bool) -> Markup:
    """Return who waits."""
    rows: list[WaitingRow] = shown.rows
    now, by_limit = shown.summary.at, shown.more.get("by_limit", {})
    counts = tag("p", *(join(tag("b", name), f" {number:,} ") for name, number in by_limit.items()), class_="counts")
    said = table(
        "line",
        ((f"{row.held_by} {row.caller} {row.lane} {row.since} {at}", _waiting(row, now)) for at, row in enumerate(rows)),
        "Nobody waits.",
    )
    return join(counts if by_limit else None, said)


def _waiting(row: WaitingRow, now: float) -> list[Cell]:
    caller: Child = tag("b", row.caller or "(all callers)")
    if row.count > 1:
        caller = join(caller, f" and {row.count:,} calls in all" if row.since is None else f" {row.count:,} calls")
    wants = f"{amount(row.kind, row.cost)} {KINDS.get(row.kind, row.kind)}" if row.cost else KINDS.get(row.kind, row.kind)
    return [
        ("caller", caller),
        ("lane", row.lane),
        ("held by", join(tag("b", row.held_by), tag("small", whose(row.of)) if row.of else None)),
        ("wants", wants),
        ("since", span(now - row.since) if row.since is not None else ""),
        ("goes in", span(row.due - now) if row.due is not None else ""),
        ("would wait", span(row.latest - now) if row.latest is not None else ""),
        ("host", short_name(row.daemon)),
    ]


def tickets(shown: Shown, may_act: bool) -> Markup:
    """Return tickets: a filter, counts, a timeline each, and what may be done."""
    rows: list[TicketRow] = shown.rows
    now, counts = shown.summary.at, shown.more.get("counts", {})
    said = " · ".join(
        f"{counts.get(name, 0):,} {words}"
        for name, words in (
            ("queued", "queued"),
            ("running", "running"),
            ("letters", "dead letters"),
        )
    )
    axis = tag("p", tag("span", "5 min ago"), tag("span", "now"), tag("span", "in 15 min"), class_="axis")
    listed = table("tickets", ((row.id, _ticket(row, now, may_act)) for row in rows), "There are no such tickets.")
    asked = shown.more.get("asked", {})
    return join(
        _ticket_filter(asked), tag("p", said, class_="counts"), axis if rows else None, listed,
        _next(asked, shown.more.get("next")), _left_out(rows, counts) if not asked else None,
    )  # fmt: skip


def _left_out(rows: Sequence[TicketRow], counts: Mapping[str, int]) -> Markup | None:
    more = sum(counts.get(name, 0) for name in ("queued", "running", "letters")) - sum(
        row.is_letter or row.state not in _OVER for row in rows
    )
    return tag("p", f"{more:,} more are not shown: a filter shows all, page by page.", class_="more") if more > 0 else None


def _next(asked: Mapping[str, str], token: str | None) -> Markup | None:
    if not token:
        return None
    return tag("p", tag("a", "Next page →", href=f"/admin/tickets?{urlencode({**asked, 'page': token})}"), class_="more")


def _ticket_filter(asked: Mapping[str, str]) -> Markup:
    states = ("", "QUEUED", "RUNNING", "LETTER", *_OVER)
    return tag(
        "form",
        tag(
            "label", "Caller ", tag("input", name="caller", value=asked.get("caller", ""), placeholder="reports*", id="filter")
        ),
        tag("label", "Model ", tag("input", name="model", value=asked.get("model", ""), placeholder="claude-*")),
        tag(
            "label",
            "State ",
            tag(
                "select",
                *(
                    tag("option", state.lower() or "any", value=state, selected=state == asked.get("state", "").upper())
                    for state in states
                ),
                name="state",
            ),
        ),
        tag("button", "Filter"),
        method="get",
        action="/admin/tickets",
        class_="filter",
    )


def _ticket(row: TicketRow, now: float, may_act: bool) -> list[Cell]:
    due = span(row.due - now) if row.due is not None else f"ended {span(now - row.ended)} ago" if row.ended else ""
    cells: list[Cell] = [
        (
            "ticket",
            join(
                tag("a", row.id[:16], href=f"/admin/calls/{quote(row.id, safe='')}", title=row.id),
                tag("small", row.error or (f"waits for {row.waits_for}" if row.waits_for else "")),
            ),
        ),
        ("caller", tag("b", row.caller)),
        ("model", row.model),
        ("state", join(state(row.state), chip("dead letter") if row.is_letter else None)),
        ("attempts", count(row.attempts)),
        ("time", pictures.ticket(row, now)),
        ("due in", due),
        ("until", "" if row.ended else span(row.deadline - now)),
    ]
    if may_act:
        cells.append(("acts", _ticket_acts(row)))
    return cells


def _ticket_acts(row: TicketRow) -> Markup:
    path = f"/admin/api/tickets/{quote(row.id, safe='')}"
    acts = ("requeue", "drop") if row.is_letter else () if row.state in _OVER else ("cancel",)
    return joined(button(act, f"{path}/{act}", f"{act} ticket {row.id[:16]} of {row.caller}") for act in acts)


def callers(shown: Shown, may_act: bool) -> Markup:
    """Return callers."""
    rows: list[CallerRow] = shown.rows
    now = shown.summary.at
    return table("callers", ((row.name, _caller(row, now, may_act)) for row in rows), "Nobody has called for a while.")


def _caller(row: CallerRow, now: float, may_act: bool) -> list[Cell]:
    until = f" for {span(row.held_until - now)}" if row.held_until else ""
    held = join(chip("on hold"), tag("small", f"{row.held}{until}")) if row.held is not None else None
    cells: list[Cell] = [
        ("caller", join(tag("b", row.name), tag("small", " ".join(filter(None, (row.team, row.lane)))), held)),
        ("calls/min", count(row.calls)),
        ("tokens/min", count(row.tokens)),
        ("hits", share(row.hits)),
        ("p95 wait", span(row.wait_p95)),
        ("waiting", count(row.waiting) if row.waiting else ""),
        ("refused/min", count(row.refused) if row.refused else ""),
        ("429, 529", count(row.limited) if row.limited else ""),
        ("$/min", money(row.cost)),
    ]
    if may_act:
        act = "release" if row.held is not None else "hold"
        path = f"/admin/api/callers/{quote(row.name, safe='')}/{act}"
        cells.append(("acts", button(act, path, f"{act} caller {row.name}")))
    return cells


def hosts(shown: Shown, may_act: bool) -> Markup:
    """Return hosts."""
    rows: list[HostRow] = shown.rows
    differ = len(shown.more.get("configs", ())) > 1
    warning = tag("p", "Hosts go by different configurations.", class_="bad") if differ else None
    return join(warning, table("hosts", ((row.daemon, _host(row, shown.summary.at)) for row in rows), "No host answers."))


def _host(row: HostRow, now: float) -> list[Cell]:
    worker = "takes jobs" if not row.worker else tag("span", row.worker, class_="bad")
    troubles = joined(tag("small", each, class_="bad") for each in row.troubles)
    return [
        ("host", join(tag("b", row.host or row.daemon), tag("small", f"{row.role} {row.pid}" if row.pid else row.daemon))),
        ("state", join(state(row.state), troubles)),
        ("version", join(row.version, tag("small", row.commit))),
        ("config", tag("code", row.config)),
        ("up", span(now - row.started) if row.started else ""),
        ("Redis", f"{row.redis_ms:.1f} ms" if row.redis_ms is not None else ""),
        ("worker", worker if row.state != "silent" else ""),
        ("slots", f"{row.slots_in_use} of {row.slots}" if row.slots else ""),
        ("waiting", count(row.waiting)),
        ("flights", count(row.flights)),
    ]


def usage(shown: Shown, may_act: bool) -> Markup:
    """Return a month's usage, and what was saved."""
    rows: list[UsageRow] = shown.rows
    month, sums = shown.more.get("month", ""), shown.more.get("totals", {})
    said = tag(
        "p",
        tag("b", money(sums.get("cost", 0))),
        " spent, ",
        tag("b", money(sums.get("saved", 0))),
        " saved by the cache and by sharing, ",
        f"{sums.get('calls', 0):,} calls, {share(_part(sums))} of them without asking upstream.",
        class_="counts",
    )
    listed = table("usage", ((f"{row.caller} {row.model}", _used(row)) for row in rows), "Nothing was used in this month.")
    return join(_months(month), said, listed)


def _part(sums: Mapping[str, Any]) -> float | None:
    return (sums.get("hits", 0) + sums.get("shared", 0)) / sums["calls"] if sums.get("calls") else None


def _months(month: str) -> Markup:
    begins = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC) if month else datetime.now(UTC)
    before = (begins - timedelta(days=1)).strftime("%Y-%m")
    after = (begins + timedelta(days=32)).strftime("%Y-%m")
    return tag(
        "p",
        tag("a", f"← {before}", href=f"/admin/usage?month={before}"),
        " ",
        tag("b", month),
        " ",
        tag("a", f"{after} →", href=f"/admin/usage?month={after}"),
        class_="months",
    )


def _used(row: UsageRow) -> list[Cell]:
    unpriced = tag("small", f"{row.unpriced:,} without a price", class_="note") if row.unpriced else None
    return [
        ("caller", tag("b", row.caller)),
        ("model", join(row.model, unpriced)),
        ("calls", count(row.calls)),
        ("from the cache", count(row.hits) if row.hits else ""),
        ("shared", count(row.shared) if row.shared else ""),
        ("tokens in", count(row.input)),
        ("tokens out", count(row.output)),
        ("cost", money(row.cost)),
        ("saved", money(row.saved) if row.saved else ""),
    ]


VIEWS: Mapping[str, Callable[[Shown, bool], Markup]] = {
    "budgets": budgets,
    "line": line,
    "tickets": tickets,
    "callers": callers,
    "hosts": hosts,
    "calls": calls,
    "call": call,
    "usage": usage,
}
