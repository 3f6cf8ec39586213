"""
What tickets that have not ended wait for: upstream's word on the last attempt, a limit, a hold, or a worker.

One that is queued waits for its time, since its last attempt failed; one that runs waits in the line of a limit, at whichever
host. What is in no line is at upstream, or waits for a slot there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from headrace.budgets.census import Census, Seen
from headrace.clock import Clock
from headrace.owner import name_in
from headrace.retry.ticket import State, Ticket
from headrace.trail import HOLD, Try
from headrace.trails import Trails

WORKER = "worker"


class Reasons:
    """
    Says it.

    Args:
        held: returns the callers that are on hold, by name.
    """

    def __init__(self, clock: Clock, trails: Trails, census: Census, held: Callable[[], Mapping[str, object]]) -> None:
        self._clock = clock
        self._trails = trails
        self._census = census
        self._held = held

    def __repr__(self) -> str:
        return "<Reasons>"

    async def of(self, tickets: Sequence[Ticket], lines: Mapping[str, str] | None = None) -> dict[str, str]:
        """
        Return by id what each of these tickets waits for, as far as that is known; raises `RedisAway`.

        *lines* is what `in_lines` returns, where that is known; else all processes are asked, if any of the tickets runs.
        """
        running = [ticket for ticket in tickets if ticket.state is State.RUNNING]
        if lines is None:
            lines = in_lines(seen for view in (await self._census.take()).views for seen in view.buckets) if running else {}
        queued = {ticket.id: ticket for ticket in tickets if ticket.state is State.QUEUED}
        tries = await self._trails.latest({ticket.id: ticket.attempts for ticket in queued.values() if ticket.attempts})
        now, held = self._clock.now(), self._held()
        said = {ticket.id: why_queued(ticket, tries.get(ticket.id), now) for ticket in queued.values()}
        for ticket in running:
            if limit := lines.get(ticket.id, HOLD if name_in(ticket.owner) in held else ""):
                said[ticket.id] = limit
        return said


def in_lines(seen: Iterable[Seen]) -> dict[str, str]:
    """Return in the line of which limit tickets stand, by their ids, as far as they are told one by one. Pure."""
    return {waits.ticket: each.limit for each in seen for waits in each.waiting if waits.ticket}


def why_queued(ticket: Ticket, last: Try | None, now: float) -> str:
    """Return what a queued ticket waits for, by its last attempt: as "overloaded (529)". Pure."""
    if ticket.due <= now or last is None:
        return WORKER if ticket.due <= now else ""
    return f"{last.outcome} ({last.status})" if last.status else last.outcome
