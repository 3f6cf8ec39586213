"""
What each process knows of its buckets and of who waits in it, asked of all of them (survey.py) when somebody wants to know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from headrace.budget.want import Form, Kind, Want
from headrace.clock import Clock
from headrace.link import Link
from headrace.model import Call
from headrace.schedule.line import Line, Prospects
from headrace.schedule.turns import Schedule
from headrace.survey import Survey, SurveyStats, Taken

MOST_WAITING = 100  # that are told one by one, of each bucket
MOST_BUCKETS = 2000


class Waits(msgspec.Struct, frozen=True):
    """
    A call that waits.

    Args:
        cost: what it wants of the bucket.
        since, latest: Unix seconds; past *latest* a grant is of no use to it.
        due: when it will probably go; None if nobody knows.
        daemon: in which process.
        ticket: whose attempt it is; "" of a call without one.
    """

    caller: str
    lane: str
    cost: int
    since: float
    due: float | None
    latest: float
    daemon: str
    ticket: str = ""


class Seen(msgspec.Struct):
    """What one process knows of one bucket; *flows* counts who waits, as "<lane>/<owner>"."""

    id: str
    limit: str
    kind: Kind
    form: Form
    rate_per_minute: int
    capacity: int
    ends_us: int = 0
    reserved_calls: int = 0
    reserved: int = 0
    flows: dict[str, int] = {}
    waiting: list[Waits] = []


class View(msgspec.Struct):
    """What one process knows; *held* counts the calls that wait since their callers are on hold."""

    daemon: str
    buckets: list[Seen] = []
    held: dict[str, int] = {}


class Census:
    """Asks all processes, and answers for this one."""

    def __init__(self, link: Link, clock: Clock, schedule: Schedule) -> None:
        self._link = link
        self._clock = clock
        self._schedule = schedule
        self._survey = Survey(link, clock, "census", lambda _: self.view(), View)

    def __repr__(self) -> str:
        return f"<Census [{self.stats().open} open]>"

    def stats(self) -> SurveyStats:
        """Return its state now."""
        return self._survey.stats()

    async def take(self) -> Taken[View]:
        """Ask all processes; raises `RedisAway`. One that hears no nudges tells what it knows itself."""
        return await self._survey.take()

    def view(self) -> View:
        """Return what this process knows."""
        now, schedule, daemon = self._clock.now(), self._schedule, self._link.instance
        known = schedule.limits.known(now)
        seen = {want.bucket_id: seen_of(want) for want in list(known.values())[:MOST_BUCKETS]}
        for bucket_id, share in schedule.reserved.stats().items():
            if bucket_id in seen:
                seen[bucket_id].reserved_calls, seen[bucket_id].reserved = share.calls, share.amount
        for line in schedule.lines():
            _note(seen, line, line.prospects(now, MOST_WAITING), daemon)
        return View(daemon, list(seen.values()), dict(schedule.halting.stats().waiting))

    async def close(self) -> None:
        """Answer no longer."""
        await self._survey.close()


def seen_of(want: Want) -> Seen:
    """Return a bucket of which no more is known than what a call wants of it."""
    return Seen(want.bucket_id, want.limit, want.kind, want.form, want.rate_per_minute, want.capacity, want.ends_us)


def _note(seen: Mapping[str, Seen], line: Line, prospects: Prospects, daemon: str) -> None:
    """Note who waits in a line at the bucket that holds it up."""
    wants = next((place.wants for place, _ in prospects.first), ())
    bucket = seen.get(wants[prospects.bucket].bucket_id) if wants else None
    if bucket is None:
        return
    flows = Counter({f"{flow.lane}/{flow.caller}": count for flow, count in prospects.flows.items()})
    bucket.flows = dict(Counter(bucket.flows) + flows)
    bucket.waiting = bucket.waiting + [
        Waits(
            place.flow.caller, place.flow.lane, place.costs[prospects.bucket], place.entered, due, place.latest, daemon,
            place.call.ticket if isinstance(place.call, Call) else "",
        )
        for place, due in prospects.first
    ]  # fmt: skip
