"""
What is asked of usage, and the answer: figures of some cells, filtered, grouped and added up. Pure.

There are three sizes of bucket, by UTC: minutes, days and months. A question without a granularity is one row a group over the
whole span, read from the finest buckets that still reach back to its beginning; the span of the answer is that of whole
buckets, and the answer says it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase

from headrace import globs
from headrace.errors import InvalidCall
from headrace.usage.tally import FIELDS, Who, add

MINUTES_KEPT = timedelta(days=2)
MOST_BUCKETS = 3000  # two days of minutes, and some; more than all days that are kept
MOST_ROWS = 5000

_MOST_GROUPS = 16
_GROUPS = ("caller", "team", "model", "lane", "labels")


class Granularity(StrEnum):
    """How long a row's span is."""

    WHOLE = "whole"
    MINUTE = "minute"
    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """
    What is asked.

    Args:
        since, until: of the calls that ended in between; aware of their zone.
        caller, team, model, lane: globs.
        label: a glob for the labels as they are written, "env=prod,feature=search".
        group_by: "caller", "team", "model", "lane", "labels", "label.NAME"; none: all in one row.
    """

    since: datetime
    until: datetime
    caller: str = "*"
    team: str = "*"
    model: str = "*"
    lane: str = "*"
    label: str = "*"
    group_by: tuple[str, ...] = ()
    granularity: Granularity = Granularity.WHOLE

    def check(self) -> None:
        """Raise `InvalidCall` for what cannot be answered, or not in a moment."""
        for field in ("caller", "team", "model", "lane", "label"):
            globs.check(getattr(self, field), field)
        if len(self.group_by) > _MOST_GROUPS:
            raise InvalidCall(
                f"group_by: names {len(self.group_by)}, and may name {_MOST_GROUPS}", metadata={"field": "group_by"}
            )
        for name in self.group_by:
            if name not in _GROUPS and not name.startswith("label."):
                raise InvalidCall(f"group_by: {name[:100]!r} is none of {', '.join(_GROUPS)} and label.NAME")
        if self.since > self.until:
            raise InvalidCall("since: is after until")

    def fits(self, who: Who) -> bool:
        """Whether figures of these are asked for."""
        wanted = (self.caller, self.team, self.model, self.lane, self.label)
        return all(glob == "*" or fnmatchcase(text, glob) for text, glob in zip(who, wanted, strict=True))

    def group(self, who: Who) -> tuple[str, ...]:
        """Return the group that they are in: a value for each of `group_by`."""
        return tuple(_value(who, name) for name in self.group_by)


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one group in one span: `begins` is the bucket's, `group` by `Question.group_by`, `figures` by FIELDS."""

    begins: datetime
    group: tuple[str, ...]
    figures: Sequence[int]


def kind_of(question: Question, now: datetime) -> Granularity:
    """Return the buckets that answer it."""
    if question.granularity is not Granularity.WHOLE:
        return question.granularity
    return Granularity.MINUTE if question.since >= now - MINUTES_KEPT else Granularity.DAY


def buckets(kind: Granularity, since: datetime, until: datetime) -> list[datetime]:
    """Return the beginnings of the buckets of a span, the last of the many if it has too many."""
    found: list[datetime] = []
    at = begin(kind, until)
    while at >= begin(kind, since) and len(found) < MOST_BUCKETS:
        found.append(at)
        at = begin(kind, at - timedelta(microseconds=1))
    return found[::-1] or [begin(kind, until)]


def begin(kind: Granularity, at: datetime) -> datetime:
    """Return the beginning of the bucket that this moment is in."""
    at = at.astimezone(UTC).replace(second=0, microsecond=0)
    if kind is Granularity.MINUTE:
        return at
    at = at.replace(hour=0, minute=0)
    return at.replace(day=1) if kind is Granularity.MONTH else at


def end(kind: Granularity, begins: datetime) -> datetime:
    """Return the end of the bucket that begins then."""
    if kind is Granularity.MINUTE:
        return begins + timedelta(minutes=1)
    if kind is Granularity.DAY:
        return begins + timedelta(days=1)
    return begin(kind, begins + timedelta(days=31))


class Sums:
    """The answer to a question, while cells come in."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._sums: dict[tuple[datetime, tuple[str, ...]], list[int]] = {}

    def __repr__(self) -> str:
        return f"<Sums [{len(self._sums)} rows]>"

    def add(self, begins: datetime, who: Who, figures: Iterable[int]) -> None:
        """Take in a cell; raises `InvalidCall` if the rows become too many."""
        question = self._question
        if not question.fits(who):
            return
        key = (question.since if question.granularity is Granularity.WHOLE else begins), question.group(who)
        if key not in self._sums:
            if len(self._sums) >= MOST_ROWS:
                raise InvalidCall(f"there are more than {MOST_ROWS} rows; group by less, or ask for a shorter span")
            self._sums[key] = [0] * len(FIELDS)
        add(self._sums[key], figures)

    def rows(self) -> list[Row]:
        """Return the rows: the earliest first, in a span the dearest, then those of the most tokens."""
        return sorted((Row(at, group, figures) for (at, group), figures in self._sums.items()), key=_order)


def _order(row: Row) -> tuple[object, ...]:
    said = dict(zip(FIELDS, row.figures, strict=True))
    calls = sum(count for name, count in said.items() if name.startswith("calls_"))
    return row.begins, -said["cost"], -said["input"] - said["output"], -calls, row.group


def _value(who: Who, name: str) -> str:
    if name.startswith("label."):
        return dict(labels(who.labels)).get(name.removeprefix("label."), "")
    return str(getattr(who, name))


def labels(text: str) -> Iterator[tuple[str, str]]:
    """Yield the names and values of labels."""
    for pair in filter(None, text.split(",")):
        name, _, value = pair.partition("=")
        yield name, value
