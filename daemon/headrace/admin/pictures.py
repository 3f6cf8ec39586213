"""Pictures of figures, as SVG that the page's style colours: bars, a quarter of an hour, the times of tickets, calls. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from headrace.admin.bins import UNKNOWN
from headrace.admin.html import Markup, joined, tag
from headrace.admin.rows import BudgetRow, CallRow, TicketRow
from headrace.admin.words import share, span

_WIDE, _HIGH = 180, 40
_BEFORE_S, _AFTER_S = 300.0, 900.0


def bar(row: BudgetRow) -> Markup:
    """Return how full a bucket is; red from 90 % on, and hatched where there is debt."""
    used = max(0.0, min(1.0, row.used))
    level = "debt" if row.debt else "high" if row.used >= 0.9 else "some" if row.used >= 0.7 else "low"
    return _svg(
        "bar",
        "0 0 100 8",
        f"{share(row.used)} used",
        tag("rect", class_="ground", width=100, height=8, rx=1.5),
        tag("rect", class_=f"used {level}", width=round(100 * used, 1), height=8, rx=1.5),
    )


def history(row: BudgetRow) -> Markup:
    """Return a quarter of an hour: the share that was used; refusals as ticks from above, upstream's 429s from below."""
    if not row.history:
        return Markup("")
    said = f"the last 15 minutes: refused {sum(row.refused)}, upstream's 429s {sum(row.limited)}"
    return _svg(
        "history",
        f"0 0 {_WIDE} {_HIGH}",
        said,
        tag("rect", class_="ground", width=_WIDE, height=_HIGH),
        joined(_areas(row.history)),
        joined(_ticks(row.refused, "refused", 0)),
        joined(_ticks(row.limited, "limited", _HIGH - 8)),
    )


def _areas(shares: Sequence[int]) -> Iterator[Markup]:
    # A path for each stretch that is known.
    begin: int | None = None
    for at, percent in enumerate([*shares, UNKNOWN]):
        if percent != UNKNOWN and begin is None:
            begin = at
        if percent == UNKNOWN and begin is not None:
            tops = " ".join(f"L{x} {_y(shares[x])}L{x + 1} {_y(shares[x])}" for x in range(begin, at))
            yield tag("path", class_="area", d=f"M{begin} {_HIGH}{tops}L{at} {_HIGH}Z")
            begin = None


def _y(percent: int) -> float:
    return round(_HIGH - min(100, percent) * _HIGH / 100, 1)


def _ticks(counts: Sequence[int], kind: str, y: int) -> Iterator[Markup]:
    for at, count in enumerate(counts):
        if count:
            yield tag("rect", tag("title", f"{kind}: {count}"), class_=kind, x=at, y=y, width=1.6, height=8)


def ticket(row: TicketRow, now: float) -> Markup:
    """Return a ticket's time, from five minutes ago to a quarter of an hour on: since when, when it is due, until when."""
    begin, end = now - _BEFORE_S, now + _AFTER_S

    def x(moment: float) -> float:
        return round(100 * (min(max(moment, begin), end) - begin) / (end - begin), 2)

    until = row.ended or row.deadline
    due = tag("circle", class_="due", cx=x(row.due), cy=5, r=2.4) if row.due else None
    said = f"made {span(now - row.created)} ago" + (f", due in {span(row.due - now)}" if row.due else "")
    return _svg(
        "timeline",
        "0 0 100 10",
        said,
        tag("rect", class_="ground", y=4.4, width=100, height=1.2),
        tag(
            "rect",
            class_=f"life {row.state.lower()}",
            x=x(row.created),
            y=2.8,
            width=max(0.6, x(until) - x(row.created)),
            height=4.4,
        ),
        tag("rect", class_="now", x=x(now) - 0.2, width=0.4, height=10),
        due,
    )


def call(row: CallRow) -> Markup:
    """Return a call's time: its phases one after the other."""
    whole = max(row.took, 0.001)
    parts = [
        tag(
            "rect",
            tag("title", f"{phase.label}: {span(phase.took)}"),
            class_=f"phase {phase.kind}",
            x=round(100 * phase.start / whole, 3),
            width=max(0.3, round(100 * phase.took / whole, 3)),
            height=12,
        )
        for phase in row.phases
    ]
    first = (
        None
        if row.first is None
        else tag("rect", class_="first", x=round(100 * row.first / whole, 2) - 0.1, width=0.3, height=12)
    )
    return _svg(
        "call",
        "0 0 100 12",
        f"{span(row.took)} in all",
        tag("rect", class_="ground", width=100, height=12),
        joined(parts),
        first,
    )


def _svg(kind: str, box: str, label: str, *children: str | None) -> Markup:
    return tag(
        "svg",
        *children,
        class_=kind,
        viewbox=box,
        preserveaspectratio="none",
        role="img",
        aria_label=label,
    )
