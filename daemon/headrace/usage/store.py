"""
Usage in Redis: posted once a second, exactly once, and read back.

Each bucket of time (minute, day, month, by UTC) is one hash: a cell's name, and its figures as one text. A post adds the same
figures to all three, so that nothing need be added up later, and carries a number: one that arrives twice, since its reply was
lost with a connection, changes nothing. A post goes out again and again until Redis says that it has it; meanwhile the tally
goes on, within its bounds. So Redis away loses nothing, and the crash of a process what it tallied since its last post: the
last second.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from headrace import keys, observe, records
from headrace.clock import Clock
from headrace.link import Link, Script
from headrace.posting import Posting
from headrace.usage.question import MINUTES_KEPT, Granularity, Question, Row, Sums, begin, buckets, end, kind_of
from headrace.usage.tally import AT, MINUTE_S, OTHER, Cell, Tally, Who, read, read_figures, spelled
from headrace.usage.traffic import Traffic

MOST_CELLS = {Granularity.MINUTE: 100, Granularity.DAY: 500, Granularity.MONTH: 1000}
MOST_LINES = 200_000

_POST = Script(__package__, "post.lua")
_KEPT = {
    Granularity.MINUTE: MINUTES_KEPT,
    Granularity.DAY: timedelta(days=396),  # 13 months
    Granularity.MONTH: timedelta(days=396),
}
_LINES_KEPT = timedelta(days=8)
_A_POST = 200  # cells, so that none holds Redis up for more than a millisecond or two
_LINES_A_POST = 2000
_CELLS_AT_ONCE = 1000  # that are read before the loop may go on with something else

Part = tuple[int, int, Sequence[Cell], Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class StoreStats:
    """How many posts wait for Redis, and how many cells for a post; how many posts this process has made."""

    posts: int
    cells: int
    posted: int


class Store(Posting):
    """
    The usage of all processes on one Redis. Run `keep` as a task, and `close` it.

    Args:
        traffic: whose lines are kept with it; None: none are.
        used: is told the figures of each cell, once.
    """

    def __init__(
        self, link: Link, clock: Clock, tally: Tally, traffic: Traffic | None = None,
        used: Callable[[Who, Sequence[int]], None] = lambda who, figures: None,
    ) -> None:  # fmt: skip
        super().__init__(clock)
        self._used = used
        self._link = link
        self._tally = tally
        self._traffic = traffic
        self._numbers = itertools.count(1)
        self._waiting: Part | None = None
        self._posted = 0

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Store [{stats.posts} posts and {stats.cells} cells waiting, {stats.posted} posted]>"

    def stats(self) -> StoreStats:
        """Return its state now."""
        return StoreStats(int(self._waiting is not None), self._tally.stats().cells, self._posted)

    # Writing.

    async def _post(self) -> None:
        self._tally.settle()
        await self._send()  # what Redis did not take before
        left = self._tally.stats().cells  # and not what comes meanwhile: that is the next second's
        while cells := self._tally.take(min(_A_POST, left)):
            left -= len(cells)
            self._put(cells)
            await self._send()
        if self._traffic:
            self._put([])
            await self._send()

    def _put(self, cells: list[Cell]) -> None:
        """Make a post; from here on it goes out until Redis has it, whoever is cancelled meanwhile."""
        lines = self._traffic.take(_LINES_A_POST) if self._traffic is not None else []
        minute = cells[0][0] if cells else int(self._clock.now() // MINUTE_S)
        self._waiting = next(self._numbers), minute, cells, lines
        self._show(cells)

    async def _send(self) -> None:
        # One after the other: a post that was overtaken by a later one would count as known.
        if self._waiting is not None:
            await self._link.run(_POST, *self._script(self._waiting))
            self._waiting = None
            self._posted += 1

    def _script(self, part: Part) -> tuple[list[str], list[object]]:
        number, minute, cells, lines = part
        at = datetime.fromtimestamp(minute * MINUTE_S, UTC)
        begins = {kind: begin(kind, at) for kind in MOST_CELLS}
        names = [keys.usage_posted(self._link.instance), *(_key(kind, begins[kind]) for kind in begins), keys.USAGE_TRAFFIC]
        args: list[object] = [
            number,
            _seconds(MINUTES_KEPT),
            *MOST_CELLS.values(),
            *(int((end(kind, begins[kind]) + _KEPT[kind]).timestamp()) for kind in begins),
            spelled(OTHER),
            MOST_LINES,
            _seconds(_LINES_KEPT),
            len(cells),
        ]
        for _, who, figures in cells:
            args += (spelled(who), " ".join(map(str, figures)))
        return names, [*args, *lines]

    def _show(self, cells: Sequence[Cell]) -> None:
        """Keep the metrics, by the names of price rows: models are anything that a caller makes up."""
        for _, who, figures in cells:
            self._used(who, figures)
            row = self._tally.prices.row(who.model) or "unpriced"
            for name in ("input", "cache_write_5m", "cache_write_1h", "cache_read", "output"):
                if tokens := figures[AT[name]]:
                    observe.USED_TOKENS.inc(row, name, by=tokens)
            if cost := figures[AT["cost"]]:
                observe.COST.inc(row, by=cost)
            for how in ("kept", "shared"):
                if tokens := figures[AT[f"{how}_input"]] + figures[AT[f"{how}_output"]]:
                    observe.SAVED_TOKENS.inc(how, by=tokens)
                if cost := figures[AT[f"{how}_cost"]]:
                    observe.SAVED_COST.inc(how, by=cost)

    # Reading.

    async def ask(self, question: Question) -> tuple[list[Row], datetime, datetime]:
        """
        Return the rows, and the span that they cover: whole buckets. What this process has not posted yet is posted first.

        Raises `InvalidCall`, and `RedisAway`.
        """
        question.check()
        await records.or_nothing("usage", "usage", self.post())
        kind = kind_of(question, datetime.fromtimestamp(self._clock.now(), UTC))
        spans, sums = buckets(kind, question.since, question.until), Sums(question)
        at_once = max(1, _CELLS_AT_ONCE // MOST_CELLS[kind])
        for first in range(0, len(spans), at_once):
            await self._read(kind, spans[first : first + at_once], sums)
        return sums.rows(), spans[0], min(end(kind, spans[-1]), max(question.until, spans[0]))

    async def _read(self, kind: Granularity, spans: Sequence[datetime], sums: Sums) -> None:
        names = [_key(kind, begins) for begins in spans]
        hashes = await asyncio.gather(*(records.or_nothing("usage", name, self._link.do("HGETALL", name)) for name in names))
        for begins, cells in zip(spans, hashes, strict=True):
            for name, figures in (cells or {}).items():
                try:
                    who, counts = read(name), read_figures(figures)
                except ValueError:
                    records.unreadable("usage", name + figures)
                else:
                    sums.add(begins, who, counts)

    async def lines(self, most: int = MOST_LINES) -> list[bytes]:
        """Return the last lines of traffic that are kept, oldest first; raises `RedisAway`."""
        found: list[bytes] = await self._link.do("LRANGE", keys.USAGE_TRAFFIC, -most, -1)
        return found


def _key(kind: Granularity, begins: datetime) -> str:
    form = {Granularity.MINUTE: "%Y-%m-%dT%H:%M", Granularity.DAY: "%Y-%m-%d", Granularity.MONTH: "%Y-%m"}[kind]
    return keys.usage(kind.value, begins.strftime(form))


def _seconds(span: timedelta) -> int:
    return int(span.total_seconds())
