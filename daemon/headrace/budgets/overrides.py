"""
The overrides of all processes on one Redis, as this one goes by them.

They are read at the start, on a nudge (somebody changed one), when the listening connection is back, and every few seconds,
since nudges may be lost. What runs out ends by itself in every process, at the same moment by Redis's clock: each reading says
how far that is ahead of ours. While Redis is away, what was last read holds, to its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from headrace import keys, observe, records
from headrace.budget.limits import Limit
from headrace.budgets.override import Figures, Held, Override, check, check_hold, decode, encode, ends, in_force, laid
from headrace.clock import Clock
from headrace.errors import LimitNotFound, OverrideNotFound, RedisAway
from headrace.link import Link, Script
from headrace.schedule.halting import Halt

log = structlog.get_logger()

TOPIC = "overrides"

_LOAD = Script(__package__, "load.lua")
_REFRESH_S = 5.0


@dataclass(frozen=True, slots=True)
class OverridesStats:
    """Over how many limits something is laid, how many callers are on hold; whether it was ever read."""

    limits: int
    holds: int
    is_loaded: bool


class Overrides:
    """
    What is laid over the configuration. Run `keep` as a task.

    Args:
        on_change: called when something else is in force than before.
    """

    def __init__(self, link: Link, clock: Clock, on_change: Callable[[], None] = lambda: None) -> None:
        self._link = link
        self._clock = clock
        self._on_change = on_change
        self._read: tuple[dict[str, Override], dict[str, Held]] = {}, {}
        self._in_force: tuple[dict[str, Override], dict[str, Held]] = {}, {}
        self._ahead_s = 0.0  # by so much Redis's clock is
        self._is_loaded = False
        self._is_stale = asyncio.Event()
        link.on(TOPIC, lambda _: self._is_stale.set())
        link.on_connect(self._note_connect)

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Overrides [{stats.limits} limits, {stats.holds} holds{'' if stats.is_loaded else ', not loaded'}]>"

    def stats(self) -> OverridesStats:
        """Return its state now."""
        overrides, holds = self._in_force
        return OverridesStats(len(overrides), len(holds), self._is_loaded)

    # What is in force.

    @property
    def overrides(self) -> Mapping[str, Override]:
        """What is laid over limits, by their names."""
        return self._in_force[0]

    @property
    def holds(self) -> Mapping[str, Held]:
        """The callers on hold."""
        return self._in_force[1]

    def over(self, configured: Sequence[Limit]) -> tuple[Limit, ...]:
        """Return limits with what is laid over them; what does not fit over one, as after a reload, leaves it as it is."""
        return tuple(self._over(limit) for limit in configured)

    def _over(self, limit: Limit) -> Limit:
        override = self.overrides.get(limit.name)
        if override is None:
            return limit
        try:
            return laid(limit, override)
        except ValueError:
            log.warning(observe.OVERRIDE_UNFIT, limit=limit.name)
            return limit

    def halts(self) -> dict[str, Halt]:
        """Return the holds as the schedule goes by them, their ends by our own clock."""
        return {
            name: Halt(held.refuse, held.reason, None if held.until is None else held.until - self._ahead_s)
            for name, held in self.holds.items()
        }

    # Reading.

    async def keep(self) -> None:
        """Read on every nudge and every few seconds, and let what has ended end, until cancelled."""
        while True:
            for step in (self._load_anew, self._is_stale.wait):
                self._look()
                # Bounded both, since what ends does so whether Redis answers or not.
                with contextlib.suppress(TimeoutError, RedisAway):
                    async with self._clock.timeout(self._pause_s()):
                        await step()

    async def _load_anew(self) -> None:
        self._is_stale.clear()
        await self.load()

    async def load(self) -> None:
        """Read what is in Redis, and go by it; raises `RedisAway`."""
        now_us, *rows = await self._link.run(_LOAD, [keys.OVERRIDES], [])
        self._ahead_s = int(now_us) / 1e6 - self._clock.now()
        overrides: dict[str, Override] = {}
        holds: dict[str, Held] = {}
        for field, value in zip(rows[::2], rows[1::2], strict=True):
            kind, _, name = field.decode(errors="replace").partition(":")
            # One that cannot be read, as a newer version may write it, is none here.
            try:
                if kind == "limit":
                    overrides[name] = decode(Override, value)
                elif kind == "caller":
                    holds[name] = decode(Held, value)
            except ValueError:
                records.unreadable("override", value, observe.OVERRIDE_UNREADABLE)
        self._read, self._is_loaded = (overrides, holds), True
        self._look()

    def _look(self) -> None:
        """Go by what was read and has not ended."""
        now = self.now()
        found = in_force(self._read[0], now), in_force(self._read[1], now)
        if found == self._in_force:
            return
        self._in_force = found
        log.info(observe.OVERRIDES_CHANGED, limits=sorted(found[0]), holds=sorted(found[1]))
        self._on_change()

    def now(self) -> float:
        """Return the time by Redis's clock, as far as is known (Unix seconds)."""
        return self._clock.now() + self._ahead_s

    def _pause_s(self) -> float:
        untils = [record.until for record in (*self.overrides.values(), *self.holds.values()) if record.until is not None]
        return min(_REFRESH_S, max(0.0, min(untils, default=math.inf) - self.now()))

    async def _note_connect(self) -> None:
        self._is_stale.set()

    # Changing. Each raises `RedisAway`; then nobody knows whether it is done, and a repeat does no harm.

    async def set_limit(self, limit: Limit, figures: Figures, *, by: str, reason: str = "", **expiry: float | None) -> Override:
        """Lay figures over a limit until *ttl_s* from now, or *at* a moment; raises `InvalidCall`."""
        await self.load()
        until = ends(self.now(), **expiry)
        override = Override(figures=figures, since=self.now(), until=until, by=by, reason=reason)
        check(limit, override)
        await self._link.do("HSET", keys.OVERRIDES, f"limit:{limit.name}", encode(override))
        log.info(observe.LIMIT_SET, limit=limit.name, figures=figures.given(), **_audited(override))
        await self._spread()
        return override

    async def unset_limit(self, name: str, *, by: str) -> None:
        """Let a limit be as it is configured; raises `OverrideNotFound` if nothing is laid over it."""
        if not await self._drop(f"limit:{name}"):
            raise _not_there(f"nothing is laid over limit {name}", self.overrides, "limit", name)
        log.info(observe.LIMIT_UNSET, limit=name, by=by)
        await self._spread()

    async def hold(self, caller: str, *, refuse: bool, by: str, reason: str = "", **expiry: float | None) -> Held:
        """Put a caller on hold until *ttl_s* from now, or *at* a moment; raises `InvalidCall`."""
        await self.load()
        held = Held(refuse=refuse, since=self.now(), until=ends(self.now(), **expiry), by=by, reason=reason)
        check_hold(caller, held)
        await self._link.do("HSET", keys.OVERRIDES, f"caller:{caller}", encode(held))
        log.info(observe.CALLER_HELD, caller=caller, refuse=refuse, **_audited(held))
        await self._spread()
        return held

    async def release(self, caller: str, *, by: str) -> None:
        """Let a caller go on; raises `OverrideNotFound` if it is not on hold."""
        if not await self._drop(f"caller:{caller}"):
            raise _not_there(f"caller {caller[:80]} is not on hold", self.holds, "caller", caller)
        log.info(observe.CALLER_RELEASED, caller=caller, by=by)
        await self._spread()

    async def _drop(self, field: str) -> bool:
        await self.load()  # what has ended is not there
        return bool(await self._link.do("HDEL", keys.OVERRIDES, field))

    async def _spread(self) -> None:
        # Here it holds when whoever asked is answered; the others hear of it.
        await self._link.tell_all(TOPIC)
        await self.load()


def find(limits: Sequence[Limit], name: str) -> Limit:
    """Return the limit of this name; raises `LimitNotFound`, which names those that there are."""
    for limit in limits:
        if limit.name == name:
            return limit
    there = ", ".join(limit.name for limit in limits) or "none"
    raise LimitNotFound(f"there is no limit {name[:80]!r}; there are: {there}", metadata={"limit": name[:80], "limits": there})


def _not_there(said: str, those: Mapping[str, Any], kind: str, name: str) -> OverrideNotFound:
    there = ", ".join(sorted(those)) or "none"
    return OverrideNotFound(f"{said}; there are: {there}", metadata={"override": f"{kind}:{name[:80]}", "there": there})


def _audited(record: Override | Held) -> dict[str, Any]:
    return {"by": record.by, "until": record.until, "reason": record.reason}
