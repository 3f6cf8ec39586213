"""
What each process knows of its buckets and of who waits in it, asked of all of them when somebody wants to know.

Nothing of this is kept in Redis: to write it there would cost every call, for the few who look. The question goes out on the
channel that all processes share, and each answers into the inbox of whoever asked. Who is stopped, or has left without a word,
does not answer, and is waited for no longer than a moment; how many were asked and how many answered is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from headrace import keys
from headrace.background import Background
from headrace.budget.want import Form, Kind, Want
from headrace.clock import Clock
from headrace.link import Link
from headrace.schedule.line import Line, Prospects
from headrace.schedule.turns import Schedule

MOST_WAITING = 100  # that are told one by one, of each bucket
MOST_BUCKETS = 2000

_ASKS, _ANSWERS = "census", "census-of"
_PATIENCE_S = 0.5


class Waits(msgspec.Struct, frozen=True):
    """
    A call that waits.

    Args:
        cost: what it wants of the bucket.
        since, latest: Unix seconds; past *latest* a grant is of no use to it.
        due: when it will probably go; None if nobody knows.
        daemon: in which process.
    """

    caller: str
    lane: str
    cost: int
    since: float
    due: float | None
    latest: float
    daemon: str


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


@dataclass(frozen=True, slots=True)
class Taken:
    """The views of those who answered in time, and how many were asked."""

    views: tuple[View, ...]
    asked: int


@dataclass(frozen=True, slots=True)
class CensusStats:
    """How many questions wait for answers."""

    open: int


class _Question:
    """Whose answers come in."""

    def __init__(self) -> None:
        self.views: list[View] = []
        self.asked = 0
        self.is_answered = asyncio.Event()

    def look(self) -> None:
        if self.asked and len(self.views) >= self.asked:
            self.is_answered.set()


class Census:
    """Asks all processes, and answers for this one."""

    def __init__(self, link: Link, clock: Clock, schedule: Schedule) -> None:
        self._link = link
        self._clock = clock
        self._schedule = schedule
        self._open: dict[str, _Question] = {}
        self._background = Background("census", clock)
        link.on(_ASKS, self._asked)
        link.on(_ANSWERS, self._answered)

    def __repr__(self) -> str:
        return f"<Census [{self.stats().open} open]>"

    def stats(self) -> CensusStats:
        """Return its state now."""
        return CensusStats(len(self._open))

    async def take(self) -> Taken:
        """Ask all processes; raises `RedisAway`. One that hears no nudges tells what it knows itself."""
        if not self._link.is_listening:
            return Taken((self.view(),), 1)
        name, question = os.urandom(8).hex(), _Question()
        self._open[name] = question
        try:
            question.asked = int(await self._link.do("PUBLISH", keys.ALL, f"{_ASKS} {self._link.inbox} {name}"))
            question.look()
            with contextlib.suppress(TimeoutError):
                async with self._clock.timeout(_PATIENCE_S):
                    await question.is_answered.wait()
        finally:
            del self._open[name]
        return Taken(tuple(question.views), question.asked)

    def _asked(self, payload: bytes) -> None:
        inbox, name = payload.split()
        self._background.start(self._answer(inbox.decode(), name.decode()), "answer")

    async def _answer(self, inbox: str, name: str) -> None:
        said = msgspec.json.encode(self.view())
        # Whoever asked waits for it but a moment, so it is not sent again.
        await asyncio.wait([self._link.do("PUBLISH", inbox, b"%s %s %s" % (_ANSWERS.encode(), name.encode(), said))])

    def _answered(self, payload: bytes) -> None:
        name, _, said = payload.partition(b" ")
        question = self._open.get(name.decode())
        if question is not None:
            question.views.append(msgspec.json.decode(said, type=View))
            question.look()

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
        await self._background.close()


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
            place.flow.caller, place.flow.lane, place.costs[prospects.bucket], place.entered, due, place.latest, daemon
        )
        for place, due in prospects.first
    ]  # fmt: skip
