"""
The board: all limits with what is laid over them, their buckets, and who waits, as all processes together know them.

Levels are read from Redis as they are, and flow in since; the rest is what the census says. Of limits without `per` all
buckets are there; of the others those from which calls drew since the limits last changed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from headrace import keys, records
from headrace.budget.bucket import UNITS, Bucket, Window
from headrace.budget.limits import Limit, Limits
from headrace.budget.matching import shared_by
from headrace.budget.want import Form, Want
from headrace.budgets.census import MOST_WAITING, Census, Seen, View, Waits, seen_of
from headrace.budgets.override import Held, Override
from headrace.budgets.overrides import Overrides, find
from headrace.clock import Clock
from headrace.link import Link
from headrace.model import Caller

_INBOX = keys.inbox("").encode()
_MOST = 2**63  # what an integer of a message can say
_END_OF_TIME = 253_402_300_800.0  # the year 10,000
_AT_ONCE = 200  # buckets that are read before the loop may go on with something else


@dataclass(frozen=True, slots=True)
class Loan:
    """What a process holds of a bucket in advance, and until when (Unix seconds)."""

    daemon: str
    amount: int
    ends: float


@dataclass(frozen=True, slots=True)
class Level:
    """What is in a bucket; *debt* is what it lacks to nothing. *full_at*: when it is full again (Unix seconds), if known."""

    left: int
    debt: int = 0
    full_at: float | None = None
    loans: tuple[Loan, ...] = ()


@dataclass(frozen=True, slots=True)
class Budget:
    """
    One bucket, as all processes together know it.

    Args:
        whose: the values of what its limit's `per` names.
        flows: how many wait, by lane and owner.
        waiting: the first of them, in the order in which they are expected to go.
        lowered_since: since when it is held at the organisation's own rate, which is less than the limit's (Unix seconds).
    """

    seen: Seen
    whose: Mapping[str, str]
    level: Level
    flows: Mapping[tuple[str, str], int]
    waiting: Sequence[Waits]
    lowered_since: float | None = None

    @property
    def used(self) -> float:
        """The share of it that is used; more than 1 in debt. What is lent is not used yet."""
        left = self.level.left - self.level.debt + sum(loan.amount for loan in self.level.loans)
        return 1 - left / self.seen.capacity


@dataclass(frozen=True, slots=True)
class Shown:
    """One limit: as it is in force, as it is configured, what is laid over it, its buckets; and since when it was learnt."""

    limit: Limit
    configured: Limit | None
    override: Override | None
    budgets: Sequence[Budget] = ()
    since: float | None = None


@dataclass(frozen=True, slots=True)
class State:
    """All that was asked for; *held* has the holds with how many calls of each wait."""

    shown: Sequence[Shown]
    held: Mapping[str, tuple[Held, int]]
    daemons: int
    heard: int


class Board:
    """Shows budgets; what is to be changed, its `overrides` change."""

    def __init__(self, link: Link, clock: Clock, overrides: Overrides, census: Census) -> None:
        self.overrides = overrides
        self._link = link
        self._clock = clock
        self._census = census
        self._configured: Sequence[Limit] = ()
        self._limits = Limits()
        self._since: Mapping[str, float] = {}

    def __repr__(self) -> str:
        return f"<Board {self.overrides!r} {self._census!r}>"

    def reload(self, configured: Sequence[Limit], limits: Limits, since: Mapping[str, float] | None = None) -> None:
        """Show these limits from now on: those that are configured, and those that hold; *since*: when each was learnt."""
        self._configured, self._limits, self._since = tuple(configured), limits, since or {}

    def find(self, name: str) -> Limit:
        """Return a configured limit; raises `LimitNotFound`."""
        return find(self._configured, name)

    def shown(self, name: str) -> Shown | None:
        """Return one limit as it is now, without its buckets; None if there is none of that name."""
        limit = next((limit for limit in self._limits.all if limit.name == name), None)
        return None if limit is None else self._shown(limit)

    def _shown(self, limit: Limit) -> Shown:
        configured = next((other for other in self._configured if other.name == limit.name), None)
        override = self.overrides.overrides.get(limit.name)
        is_laid = override is not None and configured is not None and limit != configured
        return Shown(limit, configured, override if is_laid else None, since=self._since.get(limit.name))

    async def state(self, glob: str = "*", *, of: Caller | None = None) -> State:
        """Return the limits whose names match, as far as the caller *of* may see them (None: all); raises `RedisAway`."""
        taken = await self._census.take()
        limits = [limit for limit in self._limits.all if fnmatchcase(limit.name, glob)]
        names = {limit.name for limit in limits}
        merged = [each for each in merge(taken.views) if each.limit in names]
        budgets = await self._budgets(merged)
        shown = [_seen_by(self._with_budgets(limit, budgets), of) for limit in limits]
        held = Counter[str]()
        for view in taken.views:
            held.update(view.held)
        holds = {name: (hold, held[name]) for name, hold in self.overrides.holds.items() if of is None or of.name == name}
        return State([each for each in shown if each is not None], holds, taken.asked, len(taken.views))

    def _with_budgets(self, limit: Limit, budgets: Sequence[Budget]) -> Shown:
        mine = [
            replace(each, lowered_since=self._limits.lowered_since(limit, each.seen.kind, each.whose))
            for each in budgets
            if each.seen.limit == limit.name
        ]
        return replace(self._shown(limit), budgets=mine)

    async def _budgets(self, seen: Sequence[Seen]) -> list[Budget]:
        budgets: list[Budget] = []
        for first in range(0, len(seen), _AT_ONCE):
            some = seen[first : first + _AT_ONCE]
            levels = await self._levels(some)
            budgets += [_budget(each, level) for each, level in zip(some, levels, strict=True)]
        return budgets

    async def levels(self, wants: Sequence[Want]) -> list[Level]:
        """Return what is in buckets, one after the other, as Redis has it; raises `RedisAway`."""
        return await self._levels([seen_of(want) for want in wants])

    async def _levels(self, seen: Sequence[Seen]) -> list[Level]:
        looks = (records.or_nothing("bucket", each.id, self._link.do(*_look(each))) for each in seen)
        time, *found = await asyncio.gather(self._link.do("TIME"), *looks)
        now_us = int(time[0]) * 1_000_000 + int(time[1])
        return [_level_or_none(each, reply, now_us) for each, reply in zip(seen, found, strict=True)]


def _look(seen: Seen) -> tuple[str, ...]:
    if seen.form is Form.PERMIT:
        return ("ZCARD", keys.permits(seen.id))
    return ("HGETALL", keys.bucket(seen.id))


def _level_or_none(seen: Seen, reply: Any, now_us: int) -> Level:
    # Of a bucket that cannot be read nothing is known; nothing can be drawn from it either.
    try:
        return Level(0) if reply is None else _sane(level(seen, reply, now_us))
    except (ValueError, ArithmeticError):
        records.unreadable("bucket", seen.id)
        return Level(0)


def _sane(found: Level) -> Level:
    if max(found.left, found.debt) >= _MOST or not 0 <= (found.full_at or 0.0) < _END_OF_TIME:
        raise ValueError("no level of ours")
    return found


def level(seen: Seen, reply: Any, now_us: int) -> Level:
    """Return what is in a bucket by what Redis has of it. Pure."""
    if isinstance(reply, int):
        return Level(max(0, seen.capacity - reply), max(0, reply - seen.capacity))
    fields: Mapping[bytes, bytes] = reply
    loans = tuple(_loans(fields, now_us))
    if seen.form is Form.WINDOW:
        window = Window(seen.capacity, seen.ends_us, int(fields.get(b"used", 0)))
        return Level(max(0, window.level), max(0, -window.level), seen.ends_us / 1e6, loans)
    # As bucket.lua has it: what others use does not flow in for us, and what is lent has left room for nothing else.
    foreign = min(int(fields.get(b"foreign", 0)), seen.rate_per_minute)
    capacity = (seen.capacity - sum(loan.amount for loan in loans)) * UNITS
    stored, at_us = int(fields.get(b"level", seen.capacity * UNITS)), int(fields.get(b"at", now_us))
    bucket = Bucket(seen.rate_per_minute - foreign * 9 // 10, capacity, stored, at_us)
    bucket.flow(now_us)
    left = min(capacity, bucket.level)
    full_at = (now_us + bucket.wait_us(capacity, now_us)) / 1e6
    return Level(max(0, left // UNITS), max(0, -(left // UNITS)), full_at, loans)


def _loans(fields: Mapping[bytes, bytes], now_us: int) -> Iterator[Loan]:
    for name, value in fields.items():
        if name.startswith(_INBOX):
            amount, until_us, _ = map(int, value.split())
            if amount and until_us > now_us:
                yield Loan(name.removeprefix(_INBOX).decode(), amount, until_us / 1e6)


def merge(views: Sequence[View]) -> list[Seen]:
    """Return what all know of each bucket. Pure."""
    merged: dict[str, Seen] = {}
    for view in views:
        for seen in view.buckets:
            into = merged.setdefault(seen.id, seen)
            if into is not seen:
                into.reserved_calls += seen.reserved_calls
                into.reserved += seen.reserved
                into.flows = dict(Counter(into.flows) + Counter(seen.flows))
                into.waiting = into.waiting + seen.waiting
    for seen in merged.values():
        seen.waiting = sorted(seen.waiting, key=_order)[:MOST_WAITING]
    return sorted(merged.values(), key=lambda seen: seen.id)


def _order(waits: Waits) -> tuple[float, float]:
    # Of those of whom nobody knows when they go, the first to come is first.
    return (float("inf") if waits.due is None else waits.due), waits.since


def _budget(seen: Seen, level: Level) -> Budget:
    flows = {(lane, caller): count for (lane, _, caller), count in ((name.partition("/"), n) for name, n in seen.flows.items())}
    return Budget(seen, shared_by(seen.id), level, flows, seen.waiting)


def _seen_by(shown: Shown, caller: Caller | None) -> Shown | None:
    """Return what a caller may see of a limit: the buckets that its calls may draw from."""
    if caller is None:
        return shown
    match, own = shown.limit.match, {"caller": caller.name, "team": caller.team, "workspace": caller.workspace}
    globs = (("caller", match.caller), ("team", match.team), ("workspace", match.workspace))
    if not all(fnmatchcase(own[name], glob) for name, glob in globs):
        return None
    budgets = [each for each in shown.budgets if all(each.whose.get(name, value) == value for name, value in own.items())]
    return replace(shown, budgets=budgets)
