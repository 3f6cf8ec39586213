"""
The ledger of all processes: its state is in Redis, its rules are in the Lua scripts, its clock is Redis's.

A settlement must arrive, but nobody should wait for it long. It is sent at once; if Redis is away, it is sent again in the
background for a minute. After that, permits have lapsed by themselves, and what the rate buckets gave stays taken.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from typing import Any

from headrace import keys
from headrace.budget import ledger
from headrace.budget.ledger import Granted, HoldClosed, Never, Wait, given_back
from headrace.budget.limits import Want
from headrace.clock import Clock, SystemClock
from headrace.errors import RedisAway
from headrace.link import Link, Script

_RESERVE = Script(__package__, "reserve.lua")
_SETTLE = Script(__package__, "settle.lua")
_RENEW = Script(__package__, "renew.lua")

_KEEP_TRYING_S = 60.0
_TRY_EVERY_S = 1.0


class RedisLedger:
    """
    The ledger of all processes that share one Redis.

    Args:
        audit: a stream that gets one entry for each grant of a rate bucket; for tests of the promise.
    """

    def __init__(self, link: Link, *, clock: Clock | None = None, audit: str = "") -> None:
        self._link = link
        self._clock = clock or SystemClock()
        self._audit = audit
        self._closing: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<RedisLedger [{len(self._closing)} closing]>"

    async def reserve(self, hold_id: str, wants: Sequence[Want], *, waiter: str, waited_s: float) -> Granted | Wait | Never:
        """Take all costs or none."""
        names = _names(hold_id, wants)
        if self._audit:
            names.append(self._audit)
        args: list[Any] = [
            hold_id,
            waiter,
            round(max(0.0, waited_s) * 1e6),
            ledger.HOLD_US,
            ledger.PERMIT_LEASE_US,
            ledger.WAIT_LEASE_US,
            ledger.BEHIND_US,
            ledger.PERMIT_US,
        ]
        for want in wants:
            args += want.rate_per_minute, want.capacity, want.cost
        return _outcome(hold_id, wants, await self._link.run(_RESERVE, names, args))

    def settle(self, hold_id: str, wants: Sequence[Want], actual: Mapping[str, int]) -> Awaitable[None]:
        """Replace what was reserved by what was used."""
        return self._close(hold_id, wants, given_back(wants, actual), "")

    def release(self, hold_id: str, wants: Sequence[Want], *, waiter: str = "") -> Awaitable[None]:
        """Give everything back, and leave the lines."""
        return self._close(hold_id, wants, [want.cost for want in wants], waiter)

    async def renew(self, holds: Mapping[str, Sequence[Want]]) -> None:
        """Renew the concurrency permits of these holds."""
        permits = [(want.bucket_id, hold_id) for hold_id, wants in holds.items() for want in wants if not want.rate_per_minute]
        if permits:
            args = [ledger.PERMIT_LEASE_US, *(hold_id for _, hold_id in permits)]
            await self._link.run(_RENEW, [keys.permits(bucket_id) for bucket_id, _ in permits], args)

    def _close(self, hold_id: str, wants: Sequence[Want], back: Sequence[int], waiter: str) -> Awaitable[None]:
        names = _names(hold_id, wants)
        args: list[Any] = [hold_id, waiter, ledger.CLOSED_US]
        for want, tokens in zip(wants, back, strict=True):
            args += want.rate_per_minute, want.capacity, tokens
        # Whoever awaits it may be cancelled; the closing goes on.
        return asyncio.shield(self._in_background(self._see_closed(self._link.run(_SETTLE, names, args), names, args)))

    def _in_background(self, closing: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    async def _see_closed(self, reply: asyncio.Future[Any], names: list[str], args: list[Any]) -> None:
        try:
            await reply
        except RedisAway:
            self._in_background(self._keep_trying(names, args))

    async def _keep_trying(self, names: list[str], args: list[Any]) -> None:
        give_up = self._clock.now() + _KEEP_TRYING_S
        while self._clock.now() < give_up:
            await self._clock.sleep(_TRY_EVERY_S)
            with contextlib.suppress(RedisAway):
                await self._link.run(_SETTLE, names, args)
                return


def _names(hold_id: str, wants: Sequence[Want]) -> list[str]:
    names = [keys.hold(hold_id)]
    for want in wants:
        bucket_id = want.bucket_id
        bucket = keys.bucket(bucket_id) if want.rate_per_minute else keys.permits(bucket_id)
        names += bucket, keys.line(bucket_id), keys.waits(bucket_id)
    return names


def _outcome(hold_id: str, wants: Sequence[Want], reply: list[Any]) -> Granted | Wait | Never:
    match reply:
        case [b"granted", figures]:
            at_us, *levels = map(int, figures.split())
            return Granted(at_us, tuple(levels))
        case [b"wait", wait_us, index, figures]:
            at_us, *levels = map(int, figures.split())
            return Wait(wait_us / 1e6, wants[index - 1].bucket_id, at_us, tuple(levels))
        case [b"never", index]:
            return Never(wants[index - 1].bucket_id)
        case _:
            raise HoldClosed(hold_id)
