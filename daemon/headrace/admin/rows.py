"""
What the live page, its JSON and `headrace top` show: one struct a row, one a view. Values only.

Times are Unix seconds by Redis's clock, spans seconds, shares from 0 to 1 (more where there is debt), money nano-USD, and what
is counted is counted in the unit of its kind. A name may be anything that a caller gave itself: whoever shows it escapes it.
"""

from __future__ import annotations

from typing import Any

import msgspec


class BudgetRow(msgspec.Struct, kw_only=True):
    """
    One bucket, as all hosts together know it.

    Args:
        of: the values of what its limit's `per` names.
        used: the share that is used, debt included.
        full_at: when it is full again.
        oldest: since when the first of those who wait for it waits.
        history: the share in percent, bin by bin, the eldest first; -1 where nobody knew it.
        refused, limited: in the same bins: calls that it refused, and 429s of upstream's for calls that draw from it.
        note: what is laid over the limit, or lowers it, in words.
    """

    limit: str
    of: dict[str, str]
    kind: str
    form: str
    rate_per_minute: int
    capacity: int
    left: int
    debt: int
    reserved: int
    reserved_calls: int
    used: float
    waiting: int
    oldest: float | None = None
    full_at: float | None = None
    is_shadow: bool = False
    source: str = "configured"
    note: str = ""
    history: list[int] = []
    refused: list[int] = []
    limited: list[int] = []


class WaitingRow(msgspec.Struct, kw_only=True):
    """
    One call that waits; or several of one caller's, where they are not told one by one.

    Args:
        held_by: the limit's name, "hold" or "slots".
        due: when it will probably go; latest: when it gives up.
        count: how many this row stands for.
    """

    caller: str
    lane: str
    held_by: str
    kind: str = ""
    of: dict[str, str] = {}
    cost: int = 0
    since: float | None = None
    due: float | None = None
    latest: float | None = None
    daemon: str = ""
    count: int = 1


class TicketRow(msgspec.Struct, kw_only=True):
    """
    A ticket.

    Args:
        due: while it is queued; ended: once it is over.
        is_letter: it may be made a ticket again, or dropped.
        waits_for: a limit, or what upstream said last, as `explain/reasons.py` has it.
    """

    id: str
    caller: str
    model: str
    lane: str
    state: str
    attempts: int
    created: float
    deadline: float
    due: float | None = None
    ended: float | None = None
    is_letter: bool = False
    error: str = ""
    waits_for: str = ""


class CallerRow(msgspec.Struct, kw_only=True):
    """
    What a caller did in the last minute.

    Args:
        lane: the one of most of its calls.
        calls, tokens, cost: of one minute.
        hits: share of its calls that asked upstream for nothing.
        wait_p95: of the last five minutes, of calls that went upstream; None if there were none.
        limited: 429s and 529s of upstream's, in the last five minutes.
        waiting: how many wait now.
        held: why it is on hold, in words; None if it is not.
    """

    name: str
    lane: str = ""
    team: str = ""
    calls: float = 0.0
    tokens: float = 0.0
    cost: float = 0.0
    hits: float | None = None
    refused: float = 0.0
    failed: float = 0.0
    wait_p95: float | None = None
    limited: int = 0
    waiting: int = 0
    held: str | None = None
    held_until: float | None = None


class HostRow(msgspec.Struct, kw_only=True):
    """
    One process: a daemon, or a worker beside it.

    Args:
        state: that of hosts/fact.py, or "silent" where it has beaten of late but did not answer.
        running: calls and attempts that it has in hand.
        redis_ms: how long Redis took to answer it last; None if it did not.
        worker: "" while it takes jobs, else why not.
        troubles: what is wrong, what it lacks, and what upstream is in, a line each.
        slots, slots_in_use: at upstream.
    """

    daemon: str
    host: str = ""
    pid: int = 0
    role: str = "daemon"
    version: str = ""
    commit: str = ""
    config: str = ""
    started: float | None = None
    state: str = "serving"
    redis_ms: float | None = None
    worker: str = ""
    troubles: list[str] = []
    addresses: list[str] = []
    waiting: int = 0
    flights: int = 0
    running: int = 0
    slots: int = 0
    slots_in_use: int = 0


class TryRow(msgspec.Struct, kw_only=True):
    """One attempt at upstream, as trail.py has it."""

    number: int
    status: int
    outcome: str
    began: float
    took: float
    waited: float = 0.0
    held_by: str = ""
    request_id: str = ""


class CallRow(msgspec.Struct, kw_only=True):
    """A call that has ended; *phases* are its bar: what it did from when on (after it came) for how long."""

    id: str
    caller: str
    model: str
    lane: str
    edge: str
    endpoint: str
    source: str
    reason: str
    status: int
    limit: str
    ticket: str
    began: float
    took: float
    first: float | None
    waited: float
    attempts: int
    input: int = 0
    output: int = 0
    request_id: str = ""
    daemon: str = ""
    tries: list[TryRow] = []
    waits: dict[str, float] = {}
    phases: list[Phase] = []


class Phase(msgspec.Struct, kw_only=True):
    """A part of a call's time: *kind* is "wait", "parked", "attempt", "failed" or "other"."""

    kind: str
    label: str
    start: float
    took: float


class UsageRow(msgspec.Struct, kw_only=True):
    """What a caller used of a model in a month, and what was saved; tokens, and nano-USD."""

    caller: str
    model: str
    calls: int
    hits: int
    shared: int
    input: int
    output: int
    cost: int
    saved: int
    unpriced: int = 0


class Summary(msgspec.Struct, kw_only=True):
    """The line that stands over every view."""

    at: float
    hosts: int
    heard: int
    redis_ms: float | None
    troubles: list[str]
    flights: int
    waiting: int
    parked: int
    next_due: float | None = None
    letters: int = 0


class Shown(msgspec.Struct, kw_only=True):
    """One view at one moment: its rows, and what else stands there."""

    view: str
    summary: Summary
    rows: list[Any]
    more: dict[str, Any] = {}
