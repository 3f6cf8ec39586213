"""Processes as rows, of what each says of itself (hosts/fact.py). Pure."""

from __future__ import annotations

from headrace.admin.rows import HostRow
from headrace.hosts import Fact
from headrace.schedule.slots import SlotStats

SILENT = "silent"


def host_row(fact: Fact, *, flights: int = 0, slots: SlotStats | None = None, is_silent: bool = False) -> HostRow:
    """Return a process as a row; *is_silent*: it is known by what it wrote, and did not answer."""
    return HostRow(
        daemon=fact.instance,
        host=fact.host,
        pid=fact.pid,
        role=fact.kind,
        version=fact.version,
        commit=fact.commit,
        config=fact.config,
        started=fact.started or None,
        state=SILENT if is_silent else fact.state.lower(),
        redis_ms=None if fact.redis_ms is None else round(fact.redis_ms, 2),
        worker=fact.worker,
        troubles=[*fact.wrong, *fact.degraded, *fact.troubles],
        addresses=list(fact.addresses),
        waiting=fact.waiting,
        flights=flights,
        running=fact.running,
        slots=slots.slots if slots else 0,
        slots_in_use=slots.in_use if slots else 0,
    )
