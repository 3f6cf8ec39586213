"""Calls as rows, and a call's time as a bar: what it did one after the other. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from headrace.admin.rows import CallRow, Phase, TryRow
from headrace.explain import Told
from headrace.outcome import Outcome
from headrace.owner import name_in
from headrace.trail import Try

MOST_TRIES = 50
_LEAST_S = 0.001  # shorter parts are none
_LONGEST_NAME = 120


def row_of(outcome: Outcome, daemon: str = "", *, is_whole: bool = False) -> CallRow:
    """Return a call as a row; *is_whole*: with its tries and its phases."""
    usage, tries = outcome.usage, outcome.tries[-MOST_TRIES:]
    row = CallRow(
        id=outcome.id,
        caller=name_in(outcome.caller),
        model=outcome.model[:_LONGEST_NAME],
        lane=str(outcome.lane),
        edge=outcome.edge,
        endpoint=outcome.endpoint,
        source=outcome.source,
        reason=outcome.reason,
        status=outcome.status,
        limit=outcome.limit,
        ticket=outcome.ticket,
        began=outcome.began,
        took=outcome.took_s,
        first=outcome.first_s,
        waited=outcome.waited_s,
        attempts=outcome.attempts or len(outcome.tries),
        input=usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens,
        output=usage.output_tokens,
        request_id=outcome.request_id,
        daemon=daemon,
    )
    if is_whole:
        row.tries = [_try(each) for each in tries]
        row.waits = dict(outcome.waits)
        row.phases = list(phases(outcome.began, outcome.took_s, tries))
    return row


def told_row(told: Told) -> CallRow:
    """Return a call as a row, of what the book of calls has of it."""
    return CallRow(
        id=told.id,
        caller=name_in(told.caller),
        model=told.model,
        lane=told.lane,
        edge=told.edge,
        endpoint=told.endpoint,
        source=told.source,
        reason=told.reason,
        status=told.status,
        limit=told.limit,
        ticket=told.ticket,
        began=told.began,
        took=told.took_s,
        first=told.first_s,
        waited=sum(each.waited_s for each in told.tries),
        attempts=told.attempts,
        input=told.input_tokens + told.cache_read_tokens,
        output=told.output_tokens,
        request_id=told.request_id,
        daemon=told.host,
        tries=[_try(each) for each in told.tries],
        waits=dict(told.waits),
        phases=list(phases(told.began, told.took_s, told.tries)),
    )


def _try(made: Try) -> TryRow:
    return TryRow(
        number=made.number,
        status=made.status,
        outcome=made.outcome,
        began=made.began,
        took=made.took_s,
        waited=made.waited_s,
        held_by=made.held_by,
        request_id=made.request_id,
    )


def phases(began: float, took_s: float, tries: Sequence[Try]) -> Iterator[Phase]:
    """
    Yield what a call did, from when on after it came.

    What is before a try's own wait, and is not the try before, it was parked; what is left is our own work, or another flight.
    """
    at = 0.0
    for number, made in enumerate(tries):
        sent = max(at, made.began - began)
        waited = min(made.waited_s, sent - at)
        yield from _phase("parked" if number else "other", "parked" if number else "before", at, sent - waited - at)
        yield from _phase("wait", made.held_by or "its turn", sent - waited, waited)
        is_good = made.outcome == "answered"
        label = f"attempt {made.number}: {made.status or made.outcome}"
        yield from _phase("attempt" if is_good else "failed", label, sent, made.took_s)
        at = sent + made.took_s
    yield from _phase("other", "after" if tries else "no attempt of its own", at, took_s - at)


def _phase(kind: str, label: str, start: float, took: float) -> Iterator[Phase]:
    if took >= _LEAST_S:
        yield Phase(kind=kind, label=label, start=round(start, 4), took=round(took, 4))
