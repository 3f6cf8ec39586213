"""For tests of the live page: a row of each view, with any name wherever a caller or anybody else could have put one."""

from __future__ import annotations

from headrace.admin.bins import BINS
from headrace.admin.rows import (
    BudgetRow,
    CallerRow,
    CallRow,
    HostRow,
    Phase,
    Shown,
    Summary,
    TicketRow,
    TryRow,
    UsageRow,
    WaitingRow,
)

NOW = 1_800_000_000.0
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&"
SUMMARY = Summary(
    at=NOW, hosts=3, heard=2, redis_ms=0.4, troubles=[EVIL], flights=4, waiting=9, parked=3, next_due=NOW + 4, letters=1
)


def rows_of(name: str) -> dict[str, list]:
    """Return a row of each view, with *name* wherever a caller or anybody else could have put it."""
    return {
        "budgets": [
            BudgetRow(
                limit=name,
                of={"caller": name},
                kind="requests",
                form="rate",
                rate_per_minute=60,
                capacity=60,
                left=6,
                debt=0,
                reserved=3,
                reserved_calls=3,
                used=0.9,
                waiting=2,
                oldest=NOW - 14,
                full_at=NOW + 18,
                is_shadow=True,
                source="learned",
                note=name,
                history=[-1] * (BINS - 3) + [10, 90, 120],
                refused=[0] * (BINS - 1) + [2],
                limited=[0] * (BINS - 1) + [1],
            )
        ],
        "line": [
            WaitingRow(
                caller=name,
                lane=name,
                held_by=name,
                kind="requests",
                of={"model": name},
                cost=1,
                since=NOW - 3,
                due=NOW + 5,
                latest=NOW + 60,
                daemon=name,
            ),
            WaitingRow(caller=name, lane=name, held_by="hold", count=20_000),
        ],
        "tickets": [
            TicketRow(
                id=name,
                caller=name,
                model=name,
                lane=name,
                state="QUEUED",
                attempts=2,
                created=NOW - 60,
                deadline=NOW + 600,
                due=NOW + 4,
                error=name,
            ),
            TicketRow(
                id=name + "2",
                caller=name,
                model=name,
                lane=name,
                state="FAILED",
                attempts=8,
                created=NOW - 60,
                deadline=NOW + 600,
                ended=NOW - 5,
                is_letter=True,
            ),
        ],
        "callers": [
            CallerRow(
                name=name,
                lane=name,
                team=name,
                calls=30,
                tokens=120_000,
                cost=20_000_000,
                hits=0.12,
                refused=1,
                wait_p95=14.0,
                limited=2,
                waiting=9,
                held=name,
                held_until=NOW + 60,
            )
        ],
        "hosts": [
            HostRow(
                daemon=name,
                host=name,
                pid=7,
                version=name,
                commit=name,
                config=name,
                started=NOW - 99,
                redis_ms=0.4,
                worker=name,
                troubles=[name],
                slots=512,
                slots_in_use=4,
            )
        ],
        "calls": [call_row(name)],
        "call": [call_row(name)],
        "usage": [
            UsageRow(
                caller=name,
                model=name,
                calls=100,
                hits=12,
                shared=3,
                input=9000,
                output=800,
                cost=1_200_000_000,
                saved=300_000_000,
                unpriced=1,
            )
        ],
    }


def call_row(name: str) -> CallRow:
    return CallRow(
        id=name,
        caller=name,
        model=name,
        lane=name,
        edge="http",
        endpoint="messages",
        source="",
        reason=name,
        status=529,
        limit=name,
        ticket=name,
        began=NOW - 50,
        took=40.0,
        first=39.0,
        waited=31.0,
        attempts=2,
        input=10,
        output=5,
        request_id=name,
        daemon=name,
        waits={name: 31.0},
        tries=[
            TryRow(number=1, status=529, outcome=name, began=NOW - 19, took=0.1, waited=31.0, held_by=name, request_id=name)
        ],
        phases=[Phase(kind="wait", label=name, start=0.0, took=31.0), Phase(kind="failed", label=name, start=31.0, took=0.1)],
    )


def shown(view: str, name: str = "reports") -> Shown:
    more = {
        "asked": {"id": name, "caller": name, "state": name},
        "idle": [name],
        "by_limit": {name: 9},
        "counts": {"queued": 1},
        "month": "2027-01",
        "totals": {"calls": 9, "hits": 3, "cost": 1, "saved": 2},
        "configs": ["a", "b"],
    }
    return Shown(view=view, summary=SUMMARY, rows=rows_of(name)[view], more=more)
