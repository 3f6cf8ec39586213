"""
Marks that put a process out of service: it says that it is not ready, takes no new calls, finishes what it has, and stays.

A mark is the process's own, and goes with it: who is started anew serves. It is renewed as long as that process lives, so that
none lies about for ever. It is read on a nudge and every two seconds; while Redis is away, what was last read holds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

from headrace import codec, keys, records
from headrace.clock import Clock, until_set
from headrace.errors import RedisAway
from headrace.hosts.fact import Drain
from headrace.link import Link

TOPIC = "drain"

_KEPT_S = 86_400
_LOOK_S = 2.0


class Drains:
    """
    The mark of this process, and the marks that are set from here. Run `keep` as a task.

    Args:
        on_change: called when this process is to go out of service, or back.
    """

    def __init__(self, link: Link, clock: Clock, on_change: Callable[[], None] = lambda: None) -> None:
        self.here: Drain | None = None
        """Who put this process out of service; None if it serves."""
        self.others_serve = True
        """Whether any other process is in service, as was last seen while this one was not."""
        self._link = link
        self._clock = clock
        self._on_change = on_change
        self._is_stale = asyncio.Event()
        link.on(TOPIC, lambda _: self._is_stale.set())

    def __repr__(self) -> str:
        return f"<Drains [{'out of service' if self.here else 'in service'}]>"

    async def keep(self) -> None:
        """Look whether there is a mark, until cancelled; then it goes, with the process that it is for."""
        try:
            while True:
                self._is_stale.clear()
                with contextlib.suppress(RedisAway):
                    await self.look()
                await until_set(self._is_stale, self._clock, _LOOK_S)
        finally:
            self._link.do("DEL", keys.drain(self._link.instance))

    async def look(self) -> None:
        """Go by the mark as it is in Redis; raises `RedisAway`."""
        name = keys.drain(self._link.instance)
        found = _read(await records.or_nothing("drain", name, self._link.do("GET", name)))
        if found is not None:
            await self._link.do("EXPIRE", name, _KEPT_S)
            self.others_serve = await self._do_others_serve()
        if found != self.here:
            self.here = found
            self._on_change()

    async def _do_others_serve(self) -> bool:
        known = await records.or_nothing("host", keys.HOSTS, self._link.do("ZRANGE", keys.HOSTS, 0, -1)) or []
        others = [each.decode(errors="replace") for each in known if each.decode(errors="replace") != self._link.instance]
        marks = await asyncio.gather(*(self._link.do("EXISTS", keys.drain(each)) for each in others))
        return not all(marks)

    async def begin(self, instance: str, *, by: str, reason: str = "") -> Drain:
        """Put a process out of service; raises `RedisAway`."""
        mark = Drain(self._clock.now(), by, reason)
        await self._link.do("SET", keys.drain(instance), msgspec.json.encode(mark), "EX", _KEPT_S)
        await self._link.tell_all(TOPIC)
        return mark

    async def end(self, instance: str) -> bool:
        """Put a process back into service, and return whether it was out of it; raises `RedisAway`."""
        was_out = bool(await self._link.do("DEL", keys.drain(instance)))
        await self._link.tell_all(TOPIC)
        return was_out


def _read(raw: bytes | None) -> Drain | None:
    # One that cannot be read, as a newer version may write it, is a mark all the same: somebody set it.
    if raw is None:
        return None
    try:
        return codec.decode(raw, Drain)
    except ValueError:
        records.unreadable("drain", raw)
        return Drain(0.0)
