"""
The ledger of all processes: its state is in Redis, its rules are in the Lua scripts, its clock is Redis's.

A settlement must arrive, but nobody should wait for it long. It is sent at once; if Redis is away, it is sent again in the
background for a minute. After that, permits have lapsed by themselves, and what the rate buckets gave stays taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace import keys
from headrace.background import Background
from headrace.budget import ledger, pulse
from headrace.budget.gate import Change
from headrace.budget.ledger import (
    NOTHING_SAID,
    Granted,
    HoldClosed,
    Never,
    Reserved,
    Said,
    Spent,
    Wait,
    all_back,
    given_back,
    put_right,
)
from headrace.budget.want import Form, Want
from headrace.clock import Clock, SystemClock
from headrace.errors import RedisAway
from headrace.link import Link, Script
from headrace.rank import Flow

_RESERVE = Script(__package__, "reserve.lua", after=("bucket.lua", "gate.lua", "line.lua"))
_SETTLE = Script(__package__, "settle.lua", after=("bucket.lua", "gate.lua", "line.lua"))
_RENEW = Script(__package__, "renew.lua", after=("bucket.lua", "line.lua"))

OnChange = Callable[[str, Change], None]

_NOTHING = "-"  # said of a bucket
_KEEP_TRYING_S = 60.0
_TRY_EVERY_S = 1.0
_NEW = "0 0 0 0"  # the standing of who has never waited
_MOST_STANDINGS = 65536  # more than wait in one process


def _ignore(bucket_id: str, change: Change) -> None:
    pass


@dataclass(frozen=True, slots=True)
class RedisLedgerStats:
    """How many settlements are sent again and again, since Redis did not take them."""

    closing: int


class RedisLedger:
    """
    The ledger of all processes that share one Redis.

    Args:
        on_change: called with the id and the change when a settlement of ours has changed a gate.
        audit: a stream that gets one entry for whatever a rate bucket grants and whatever comes back; for tests of the promise.
    """

    def __init__(self, link: Link, *, clock: Clock | None = None, audit: str = "", on_change: OnChange = _ignore) -> None:
        self._link = link
        self._clock = clock or SystemClock()
        self._audit = audit
        self._on_change = on_change
        self._background = Background("ledger", self._clock)
        self._standings: dict[str, str] = {}  # by waiter, as the script wrote it: rank and charge, to come back with

    def __repr__(self) -> str:
        return f"<RedisLedger [{self.stats().closing} closing]>"

    def stats(self) -> RedisLedgerStats:
        """Return its state now."""
        return RedisLedgerStats(len(self._background))

    def take(self, hold_id: str, wants: Sequence[Want]) -> tuple[int, ...] | None:
        """Nothing is here that all do not share."""
        return None

    async def reserve(self, hold_id: str, wants: Sequence[Want], *, waiter: str, flow: Flow) -> Reserved:
        """Take all costs or none."""
        names = self._names(hold_id, wants)
        spans = (
            f"{ledger.HOLD_US} {pulse.LEASE_US} {pulse.LEASE_US} {ledger.BEHIND_US} {ledger.PERMIT_US} "
            f"{self._standings.get(waiter, _NEW)} {flow.name}"
        )
        figures = " ".join(_figures(wants, [want.cost for want in wants]))
        reply = await self._link.run(_RESERVE, names, [hold_id, waiter, spans, figures, self._link.inbox])
        self._see_standing(waiter, reply)
        return _outcome(hold_id, wants, reply)

    def _see_standing(self, waiter: str, reply: list[Any]) -> None:
        # A place may lapse while we cannot ask; then its rank is known to us alone.
        self._standings.pop(waiter, None)
        if waiter and reply[0] == b"wait":
            self._standings[waiter] = reply[4].decode()
            if len(self._standings) > _MOST_STANDINGS:
                del self._standings[next(iter(self._standings))]

    def settle(
        self, hold_id: str, wants: Sequence[Want], actual: Mapping[str, int], said: Said = NOTHING_SAID
    ) -> asyncio.Future[Any]:
        """Replace what was reserved by what was used."""
        return self._close(hold_id, wants, given_back(wants, actual, said), "", said)

    def amend(self, hold_id: str, number: int, wants: Sequence[Want], actual: Mapping[str, int]) -> bool:
        """Replace what was reserved of some buckets while the hold stays open."""
        self._close(f"{hold_id}|told{number}", wants, put_right(wants, actual), "", NOTHING_SAID)
        return True

    def release(self, hold_id: str, wants: Sequence[Want], *, waiter: str = "") -> asyncio.Future[Any]:
        """Give everything back, and leave the lines."""
        return self._close(hold_id, wants, all_back(wants), waiter, NOTHING_SAID)

    async def renew(self, holds: Mapping[str, Sequence[Want]]) -> None:
        """Say that this process lives, and renew the concurrency permits of these holds."""
        permits: dict[str, list[str]] = {}
        for hold_id, wants in holds.items():
            for want in wants:
                if want.form is Form.PERMIT:
                    permits.setdefault(want.bucket_id, []).append(hold_id)
        spans = f"{pulse.LEASE_US} {pulse.GAP_US} {ledger.HOLD_US} {pulse.SILENT_US}"
        names = [*map(keys.permits, permits), keys.HEARD, keys.HOLDING, keys.PULSE]
        await self._link.run(_RENEW, names, [self._link.inbox, spans, *map(" ".join, permits.values())])

    def _close(self, hold_id: str, wants: Sequence[Want], back: Sequence[int], waiter: str, said: Said) -> asyncio.Future[Any]:
        self._standings.pop(waiter, None)
        names, figures = self._names(hold_id, wants), list(_figures(wants, back))
        args = [hold_id, waiter, ledger.CLOSED_US]
        told = " ".join(map(" ".join, zip(figures, _heard(wants, said), strict=True)))
        reply = self._link.run(_SETTLE, names, [*args, told, self._link.inbox])
        # Later, what upstream said is no longer so.
        later = [*args, " ".join(f"{each} {_NOTHING}" for each in figures), self._link.inbox]
        reply.add_done_callback(lambda reply: self._see_closed(reply, names, later, wants))
        return reply

    def _names(self, hold_id: str, wants: Sequence[Want]) -> list[str]:
        names: list[str] = [keys.hold(hold_id)]
        for want in wants:
            names += names_of(want.bucket_id, want.form is Form.PERMIT)
        if self._audit:
            names.append(self._audit)
        names.append(keys.PULSE)
        return names

    def _see_closed(self, reply: asyncio.Future[Any], names: list[str], args: list[Any], wants: Sequence[Want]) -> None:
        if reply.cancelled() or reply.exception() is not None:
            self._background.start(self._keep_trying(names, args), "settle")
        elif change := reply.result()[2]:
            self._on_change(next(want.bucket_id for want in wants if want.form is Form.GATE), Change(change))

    async def _keep_trying(self, names: list[str], args: list[Any]) -> None:
        give_up = self._clock.now() + _KEEP_TRYING_S
        while self._clock.now() < give_up:
            await self._clock.sleep(_TRY_EVERY_S)
            with contextlib.suppress(RedisAway):
                await self._link.run(_SETTLE, names, args)
                return


@functools.lru_cache(maxsize=4096)
def names_of(bucket_id: str, is_permit: bool) -> tuple[str, str, str]:
    # The same few for every call.
    bucket = keys.permits(bucket_id) if is_permit else keys.bucket(bucket_id)
    return bucket, keys.line(bucket_id), keys.waits(bucket_id)


def _figures(wants: Sequence[Want], tokens: Sequence[int]) -> Iterable[str]:
    # Joined to one argument: the client spends more on each argument than Lua on taking them apart.
    return (f"{want.form} {want.figure} {want.capacity} {number:d}" for want, number in zip(wants, tokens, strict=True))


def _heard(wants: Sequence[Want], said: Said) -> Iterable[str]:
    told = said.told
    for want in wants:
        if want.form is Form.GATE:
            figures = told.chance, told.in_the_air, told.least_us, told.age_us, told.first_us, told.longest_us
            yield "/".join(map(str, figures))
        else:
            yield str(said.most.get(want.bucket_id, _NOTHING))


def _outcome(hold_id: str, wants: Sequence[Want], reply: list[Any]) -> Reserved:
    match reply:
        case [b"granted", figures]:
            at_us, *levels = map(int, figures.split())
            return Granted(at_us, tuple(levels))
        case [b"wait", wait_us, index, figures, *_]:
            at_us, *levels = map(int, figures.split())
            return Wait(wait_us / 1e6, wants[index - 1].bucket_id, at_us, tuple(levels))
        case [b"spent", index, spent_us]:
            return Spent(wants[index - 1].bucket_id, spent_us / 1e6)
        case [b"never", index]:
            return Never(wants[index - 1].bucket_id)
        case _:
            raise HoldClosed(hold_id)
