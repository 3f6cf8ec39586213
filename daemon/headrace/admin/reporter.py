"""
What one process says of itself to whoever looks at all of them: where it stands, what it saw of late, which calls ended.

Asked by survey (survey.py), so that it costs nothing while nobody looks. However many look, at however many hosts, it is made
anew at most a few times a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from headrace.admin.bins import Bin
from headrace.admin.calls import row_of
from headrace.admin.recent import Recent
from headrace.admin.rows import CallRow, HostRow
from headrace.clock import Clock
from headrace.link import Link
from headrace.survey import Survey, Taken

MOST_CALLS = 100
_FRESH_S = 0.2
_NEWS, _CALLS, _CALL = "news", "calls", "call"


class News(msgspec.Struct):
    """
    What one process says.

    Args:
        waits, limited: as `Recent` has them.
        slots_waiting: calls that have their budget and wait for a slot.
    """

    daemon: str
    host: HostRow | None = None
    bins: list[Bin] = []
    waits: dict[str, list[int]] = {}
    limited: dict[str, int] = {}
    slots_waiting: int = 0
    calls: list[CallRow] = []


class Reporter:
    """
    Answers for this process, and asks all.

    Args:
        about: returns where this process stands, and how many wait for a slot.
    """

    def __init__(self, link: Link, clock: Clock, recent: Recent, about: Callable[[], tuple[HostRow, int]]) -> None:
        self._instance = link.instance
        self._recent = recent
        self._about = about
        self._made: dict[str, tuple[float, News]] = {}
        self._survey = Survey(link, clock, "admin", self._say, News)

    def __repr__(self) -> str:
        return f"<Reporter {self._survey!r}>"

    async def news(self, since: int) -> Taken[News]:
        """Return what all processes say, bins from the number *since* on; raises `RedisAway`."""
        return await self._survey.take(f"{_NEWS} {since}")

    async def calls(self) -> list[CallRow]:
        """Return the calls that ended last, on all hosts, the latest first; raises `RedisAway`."""
        taken = await self._survey.take(_CALLS)
        found = [call for each in taken.views for call in each.calls]
        return sorted(found, key=lambda call: call.began + call.took, reverse=True)[:MOST_CALLS]

    async def call(self, name: str) -> list[CallRow]:
        """Return what is remembered of a call, by an id of ours, of upstream's or of its ticket; raises `RedisAway`."""
        taken = await self._survey.take(f"{_CALL} {name}")
        return sorted((call for each in taken.views for call in each.calls), key=lambda call: call.began)

    async def close(self) -> None:
        """Answer no longer."""
        await self._survey.close()

    def _say(self, about: str) -> News:
        made = self._made.get(about)
        if made is None or not 0 <= time.monotonic() - made[0] < _FRESH_S:
            if len(self._made) > 20:
                self._made.clear()
            made = self._made[about] = time.monotonic(), self._make(*about.partition(" ")[::2])
        return made[1]

    def _make(self, what: str, which: str) -> News:
        if what == _CALLS:
            return News(self._instance, calls=[row_of(each, self._instance) for each in self._recent.calls()[:MOST_CALLS]])
        if what == _CALL:
            return News(
                self._instance, calls=[row_of(each, self._instance, is_whole=True) for each in self._recent.named(which)]
            )
        host, slots_waiting = self._about()
        bins = self._recent.bins.since(int(which) if which.isdecimal() else 0)
        return News(self._instance, host, bins, self._recent.waits(), self._recent.limited(), slots_waiting)
