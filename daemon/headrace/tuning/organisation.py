"""
The organisation's own limits as upstream's list has them, for the daemons that have limits configured: they are never held
above them.

Who has the admin key reads the list (account.py); through Redis all processes go by it, the workers too. What was read
last holds until something else is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import msgspec
import structlog

from headrace import codec, keys, observe, records
from headrace.budget.limits import Limit
from headrace.budget.organisation import Lowered, Organisation, Own
from headrace.clock import Clock, until_set
from headrace.errors import RedisAway
from headrace.link import Link

log = structlog.get_logger()

_TOPIC = "organisation"
_KEPT_S = 2 * 86_400
_LOOK_EVERY_S = 60.0  # should a nudge have been lost


class _Stored(msgspec.Struct, frozen=True):
    own: dict[str, Own]
    since: float


class OwnLimits:
    """
    Knows them. Run `keep` as a task.

    Args:
        on_change: called when others are known than before.
    """

    def __init__(self, link: Link, clock: Clock, on_change: Callable[[], None] = lambda: None) -> None:
        self.known = Organisation()
        self._link = link
        self._clock = clock
        self._on_change = on_change
        self._said: set[Lowered] = set()
        self._is_stale = asyncio.Event()
        link.on(_TOPIC, lambda _: self._is_stale.set())

    def __repr__(self) -> str:
        return f"<OwnLimits [{len(self.known.own)} classes]>"

    def read(self, own: Mapping[str, Own]) -> None:
        """Take in what upstream's list says, and let the others know."""
        self._go_by(Organisation(dict(own), self._clock.now()))
        stored = msgspec.json.encode(_Stored(dict(own), self.known.since))
        self._link.do("SET", keys.ORGANISATION, stored, "EX", _KEPT_S)
        self._link.do("PUBLISH", keys.ALL, f"{_TOPIC} ")

    def say(self, limits: Sequence[Limit]) -> None:
        """Say in the log, once, which of these limits are more than there is."""
        lowered = set(self.known.lowered(limits))
        for each in sorted(lowered - self._said, key=lambda each: (each.limit, each.kind, each.model_class)):
            log.warning(
                observe.LIMIT_LOWERED, limit=each.limit, kind=each.kind, model_class=each.model_class,
                configured=each.configured, own=each.own,
            )  # fmt: skip
        self._said = lowered

    def _go_by(self, found: Organisation) -> None:
        before, self.known = self.known, found
        if before.own != found.own:
            self._on_change()

    async def keep(self) -> None:
        """Read what others have read: at the start, whenever they have, and now and then; until cancelled."""
        while True:
            self._is_stale.clear()
            await self._load()
            await until_set(self._is_stale, self._clock, _LOOK_EVERY_S)

    async def _load(self) -> None:
        try:
            stored = await self._link.do("GET", keys.ORGANISATION)
        except RedisAway:
            return
        found = _read(stored) if stored else None
        if found is not None and found.since > self.known.since:
            self._go_by(Organisation(found.own, found.since))


def _read(stored: bytes) -> _Stored | None:
    try:
        found = codec.decode(stored, _Stored)
        if any(rate < 1 for own in found.own.values() for rate in own.rates.values()):
            raise ValueError("no rates")
    except ValueError:
        records.unreadable("organisation's limits", stored)
        return None
    return found
