"""
Who made what at upstream: one record in Redis a thing, for as long as upstream keeps it.

The first who is recorded stays. An owner never changes, so it is remembered here once it is known. What was made while Redis
went away is remembered here alone until it is back, and only this process knows it; nothing is made while it is away to begin
with (`ready`). What Redis cannot be asked about nobody may have: it may be another's.
"""

from __future__ import annotations

import asyncio
import functools
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import structlog

from headrace import codec, keys, observe
from headrace.background import Background
from headrace.clock import Clock
from headrace.errors import RedisAway, RedisRefused
from headrace.insist import insist
from headrace.link import Link
from headrace.resources.ids import is_id
from headrace.resources.places import UNKNOWN, Kind, kind_of_id

log = structlog.get_logger()

_MOST_KNOWN = 65_536
_MOST_PENDING = 10_000
_AGAIN_S = 1.0
_AT_ONCE = 500

_T = TypeVar("_T")


class _Maker(msgspec.Struct):
    """What batches/counted.py keeps of who made a batch; of batches from before owners were recorded there is only that."""

    caller: str


@dataclass(frozen=True, slots=True)
class OwnersStats:
    """How many owners this process knows by heart, and how many Redis has not heard of."""

    known: int
    pending: int


class Owners:
    """The owners of all things that were made through us, by their ids, as `Owner.text` has them."""

    def __init__(self, link: Link, clock: Clock) -> None:
        self._link = link
        self._clock = clock
        self._known: OrderedDict[str, str] = OrderedDict()
        self._pending: dict[str, tuple[str, Kind]] = {}
        self._background = Background("resources", clock)
        self._writing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Owners [{stats.known} known, {stats.pending} pending]>"

    def stats(self) -> OwnersStats:
        """Return its state now."""
        return OwnersStats(len(self._known), len(self._pending))

    async def close(self) -> None:
        """Let go; what Redis has not heard of is lost."""
        await self._background.close()

    async def ready(self) -> None:
        """Return if an owner can be recorded now; raises `RedisAway` after five seconds in vain."""
        await self._insist(lambda: self._link.do("PING"))

    async def record(self, ids: Iterable[str], owner: str, kind: Kind = UNKNOWN) -> None:
        """Record who made these things, where nobody has; *kind* is that of ids that do not tell it."""
        new = [(thing, kind_of_id(thing) or kind) for thing in ids if is_id(thing) and self._known.get(thing) != owner]
        for thing, its in new:
            self._pending[thing] = owner, its
        if not new:
            return
        try:
            await insist(self._clock, self._write)
        except RedisAway:
            # The thing is there, and its maker must not be told otherwise.
            if self._writing is None or self._writing.done():
                self._writing = self._background.start(self._write_later(), "owners")

    async def _write(self) -> None:
        for thing, (owner, kind) in list(self._pending.items()):
            until = () if kind.kept_s is None else ("EX", kind.kept_s)
            first = await self._link.do("SET", keys.resource(thing), owner, "NX", "GET", *until)
            self._know(thing, first.decode(errors="replace") if first is not None else owner)
            self._pending.pop(thing, None)

    async def _write_later(self) -> None:
        while self._pending:
            while len(self._pending) > _MOST_PENDING:
                log.warning(observe.OWNER_LOST, id=next(iter(self._pending)))
                self._pending.pop(next(iter(self._pending)))
            await self._clock.sleep(_AGAIN_S)
            try:
                await self._write()
            except RedisAway:
                continue

    async def of(self, ids: Iterable[str]) -> dict[str, str]:
        """Return the owners of those things that have one; raises `RedisAway` if some of them cannot be told."""
        found: dict[str, str] = {}
        unknown: list[str] = []
        for thing in ids:
            owner = self._known.get(thing) or self._pending.get(thing, ("", UNKNOWN))[0]
            if owner:
                found[thing] = owner
            elif is_id(thing):
                unknown.append(thing)
        for start in range(0, len(unknown), _AT_ONCE):
            some = unknown[start : start + _AT_ONCE]
            found |= await self._insist(functools.partial(self._read, some))
        return found

    async def _read(self, ids: list[str]) -> dict[str, str]:
        said = await asyncio.gather(*(self._link.do("GET", keys.resource(thing)) for thing in ids))
        found = {thing: owner.decode(errors="replace") for thing, owner in zip(ids, said, strict=True) if owner}
        for thing in ids:
            if thing not in found and (maker := await self._maker(thing)):
                found[thing] = maker
        for thing, owner in found.items():
            self._know(thing, owner)
        return found

    async def _maker(self, thing: str) -> str:
        if not thing.startswith("msgbatch_"):
            return ""
        try:
            return codec.decode(await self._link.do("GET", keys.batch(thing)) or b"{}", _Maker).caller
        except ValueError:
            return ""

    async def forget(self, thing: str) -> None:
        """Forget who made a thing: it was deleted. If Redis is away, its record lies there to no effect."""
        self._known.pop(thing, None)
        self._pending.pop(thing, None)
        try:
            await self._link.do("DEL", keys.resource(thing))
        except RedisAway:
            return

    def _know(self, thing: str, owner: str) -> None:
        self._known[thing] = owner
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)

    async def _insist(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        try:
            return await insist(self._clock, ask)
        except RedisRefused:
            raise
        except RedisAway as error:
            raise RedisAway("whose it is cannot be told while Redis is away", retry_after_s=_AGAIN_S) from error
