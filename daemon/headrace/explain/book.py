"""
The book of calls that somebody may ask about: what all processes have told of them, for a day.

A call is noted when it ends, in memory alone, and what was noted goes to Redis once a second in one script, so that nobody's
answer waits for it. In a bad hour more calls are worth it than anybody will ask about: beyond a bound a second they are left
out, and counted; and of those that are kept, the eldest go first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from headrace import keys, observe, records
from headrace.clock import Clock
from headrace.explain.told import Told, decode, encode, is_worth, told_of
from headrace.link import Link, Script
from headrace.outcome import Outcome
from headrace.posting import Posting
from headrace.rations import Rations
from headrace.seal import UNSEALED, Broken, Seal

_KEEP = Script(__package__, "keep.lua")

_MOST_A_POST = 200
_KEPT_S = 86_400
_OF_ONE_ID = 20
_AT_ONCE, _EVERY_S = 100, 0.2  # calls of one caller that end alike


@dataclass(frozen=True, slots=True)
class BookStats:
    """How many calls wait to be written, how many were, and how many were left out."""

    waiting: int
    kept: int
    left_out: int


class Book(Posting):
    """
    Listens to outcomes. Run `keep` as a task, and `close` it.

    Args:
        slow_s: from how long a call is slow.
        most: how many ids are kept, of all processes; 0: nothing is.
    """

    def __init__(self, link: Link, clock: Clock, *, slow_s: float, most: int, seal: Seal = UNSEALED) -> None:
        super().__init__(clock)
        self._link = link
        self._seal = seal
        self._new: list[Outcome] = []
        # One caller's flood, each call of which ends alike, leaves the book to others.
        self._rations = Rations(clock.span, at_once=_AT_ONCE, every_s=_EVERY_S)
        self._kept = self._left_out = 0
        self.reload(slow_s=slow_s, most=most)

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Book [{stats.waiting} waiting, {stats.kept} kept, {stats.left_out} left out]>"

    def stats(self) -> BookStats:
        """Return its state now."""
        return BookStats(len(self._new), self._kept, self._left_out)

    def reload(self, *, slow_s: float, most: int) -> None:
        """Go by other settings from now on."""
        self._slow_s, self._most = slow_s, most

    # Writing.

    def heed(self, outcome: Outcome) -> None:
        """Note a call, if it is worth it."""
        if not self._most or not is_worth(outcome, self._slow_s):
            return
        has_room = len(self._new) < _MOST_A_POST
        if has_room and self._rations.take((outcome.caller, outcome.reason)) is not None:
            self._new.append(outcome)
        else:
            self._left_out += 1
            observe.CALLS_UNTOLD.inc()

    async def _post(self) -> None:
        # What Redis took and could not say so is written twice at worst.
        new = self._new[:]
        if not new:
            return
        before_us = round((self._clock.now() - _KEPT_S) * 1e6)
        args: list[object] = [keys.call(""), _KEPT_S, self._most, _OF_ONE_ID, before_us]
        for outcome in new:
            args += self._written(outcome)
        await self._link.run(_KEEP, [keys.CALLS], args)
        self._new = self._new[len(new) :]
        self._kept += len(new)

    def _written(self, outcome: Outcome) -> list[object]:
        """Return what the script takes: once under the call's own id, and once under its ticket's."""
        at_us = round(outcome.began * 1e6)
        try:
            said = encode(told_of(outcome, self._link.instance))
        except UnicodeEncodeError:  # upstream's id of it is none
            return []
        names = (outcome.id, outcome.ticket) if outcome.ticket else (outcome.id,)
        return [part for name in names for part in (name, at_us, self._seal.seal(keys.call(name), said))]

    # Reading.

    async def find(self, id: str) -> list[Told]:
        """Return what was told of an id, or of a ticket, the first call first; raises `RedisAway`."""
        await self._posted()
        name = keys.call(id)
        rows = await records.or_nothing("told call", name, self._link.do("LRANGE", name, 0, -1)) or []
        found = [told for told in (self._read(name, row) for row in rows) if told is not None]
        return sorted(found, key=lambda told: told.began)

    async def latest(self, most: int = 50) -> list[Told]:
        """Return the last calls that were told, the latest first; raises `RedisAway`."""
        await self._posted()
        ids = await records.or_nothing("told call", keys.CALLS, self._link.do("ZRANGE", keys.CALLS, 0, 2 * most - 1, "REV"))
        lists = await asyncio.gather(*(self.find(each.decode(errors="replace")) for each in ids or []))
        return _latest([told for found in lists for told in found])[:most]

    async def _posted(self) -> None:
        # What lies where the calls should be keeps ours from being told, and not from being asked for.
        await records.or_nothing("told call", keys.CALLS, self.post())

    def _read(self, name: str, row: bytes) -> Told | None:
        try:
            return decode(self._seal.open(name, row))
        except Broken:
            records.unreadable("told call", row, observe.RECORD_UNSEALED)
        except ValueError:
            records.unreadable("told call", row)
        return None


def _latest(found: Sequence[Told]) -> list[Told]:
    # A call with a ticket was found twice.
    return sorted({(told.id, told.began, told.host): told for told in found}.values(), key=lambda told: -told.began)
