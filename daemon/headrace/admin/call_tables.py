"""Calls as HTML: those that ended last, and one with its phases as a bar and its attempts. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from headrace.admin import pictures
from headrace.admin.cells import Cell, state, table
from headrace.admin.html import Markup, join, joined, tag
from headrace.admin.rows import CallRow, Shown
from headrace.admin.words import count, day, moment, span


def calls(shown: Shown, may_act: bool) -> Markup:
    """Return the calls that ended last."""
    rows: list[CallRow] = shown.rows
    find = tag(
        "form",
        tag("label", "A call, by its id ", tag("input", name="id", placeholder="hr_…, req_…, tkt_…", id="filter", size=34)),
        tag("button", "Look"),
        method="get",
        action="/admin/call",
        class_="filter",
    )
    listed = table(
        "calls",
        ((f"{row.id} {row.edge}", _call(row, shown.summary.at)) for row in rows),
        "No call has ended here of late, but for those answered from the cache.",
    )
    return join(find, listed)


def _call(row: CallRow, now: float) -> list[Cell]:
    return [
        ("call", tag("a", row.id[-14:], href=f"/admin/calls/{quote(row.id, safe='')}", title=row.id)),
        ("ended", f"{span(now - row.began - row.took)} ago"),
        ("caller", tag("b", row.caller)),
        ("model", row.model),
        ("lane", row.lane),
        ("answer", state(row.reason or row.source or "-")),
        ("took", span(row.took)),
        ("waited", span(row.waited) if row.waited else ""),
        ("held by", row.limit),
        ("attempts", count(row.attempts)),
        ("tokens", f"{count(row.input)} + {count(row.output)}" if row.input or row.output else ""),
    ]


def call(shown: Shown, may_act: bool) -> Markup:
    """Return one call: its phases as a bar, and its attempts."""
    rows: list[CallRow] = shown.rows
    if not rows:
        said = shown.more.get("asked", {}).get("id", "")
        return join(tag("p", "No host remembers a call with this id: ", tag("code", said), class_="nothing"), calls_link())
    return joined(_whole_call(row) for row in rows)


def calls_link() -> Markup:
    """Return the way back to all calls."""
    return tag("p", tag("a", "All calls", href="/admin/calls"))


def _whole_call(row: CallRow) -> Markup:
    facts = (
        ("caller", row.caller),
        ("model", row.model),
        ("lane", row.lane),
        ("door", f"{row.edge}, {row.endpoint}"),
        ("came", day(row.began)),
        ("took", span(row.took)),
        ("something to say after", span(row.first)),
        ("answer", row.source or "none"),
        ("reason", row.reason),
        ("upstream's status", count(row.status) if row.status else ""),
        ("held by", row.limit),
        ("ticket", row.ticket),
        ("upstream's id", row.request_id),
        ("host", row.daemon),
        ("tokens", f"{row.input:,} in, {row.output:,} out" if row.input or row.output else ""),
    )
    waits = [
        (f"wait {name}", [("what", f"waited for {name}"), ("from", ""), ("took", span(s))]) for name, s in row.waits.items()
    ]
    phases: list[tuple[str, Sequence[Cell]]] = [
        (
            f"{at}",
            [
                ("what", join(tag("i", class_=f"swatch {phase.kind}"), phase.label)),
                ("from", span(phase.start)),
                ("took", span(phase.took)),
            ],
        )
        for at, phase in enumerate(row.phases)
    ]
    tries = (
        (
            f"{each.number}",
            [
                ("attempt", count(each.number)),
                ("sent", moment(each.began)),
                ("took", span(each.took)),
                ("status", state(f"{each.status}" if each.status else each.outcome)),
                ("came to", each.outcome),
                ("waited before", span(each.waited) if each.waited else ""),
                ("for", each.held_by),
                ("upstream's id", tag("code", each.request_id)),
            ],
        )
        for each in row.tries
    )
    return tag(
        "section",
        tag("h2", "Call ", tag("code", row.id)),
        pictures.call(row),
        table("phases", phases or waits, "It did nothing that takes time."),
        tag("dl", *(join(tag("dt", name), tag("dd", value)) for name, value in facts if value)),
        table("tries", tries, "Upstream was not asked for this call."),
        calls_link(),
        class_="call",
    )
