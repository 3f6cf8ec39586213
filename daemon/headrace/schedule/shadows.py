"""
Limits in the shadow: what they would decide is worked out and counted, and nobody waits for it or is held up by it.

Each is asked by itself, once the call goes: had it room, the call takes from it, and settles like any other; if not, that is
counted and nothing taken. So it counts those that it would have let wait, or refused, while the others went on as they did.
Without a place in line: whoever does not fit leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import attrgetter

from headrace import observe
from headrace.background import Background
from headrace.budget.ledger import Granted, Ledger, Never
from headrace.budget.want import Want
from headrace.errors import RedisAway
from headrace.rank import NOBODY
from headrace.schedule.permits import Permits

_by_limit = attrgetter("limit")


@dataclass(slots=True)
class _Shadow:
    """One reservation; `close` is what is to be done with it if it is granted after all."""

    id: str
    limit: str
    wants: tuple[Want, ...]
    is_granted: bool = False
    close: Callable[[], object] | None = None


@dataclass(frozen=True, slots=True)
class ShadowsStats:
    """How many reservations of limits in the shadow are open."""

    open: int


class Shadows:
    """All reservations in the shadow of this process."""

    def __init__(self, ledger: Ledger, permits: Permits, background: Background) -> None:
        self._ledger = ledger
        self._permits = permits
        self._background = background
        self._open: dict[str, _Shadow] = {}  # by hold id

    def __repr__(self) -> str:
        return f"<Shadows [{self.stats().open} open]>"

    def stats(self) -> ShadowsStats:
        """Return its state now."""
        return ShadowsStats(len(self._open))

    def take(self, hold_id: str, wants: tuple[Want, ...]) -> None:
        """Ask each limit for its wants, for the call that goes under *hold_id*; nobody waits for the answers."""
        for limit, those in groupby(wants, _by_limit):
            shadow = self._open[f"{hold_id}~{limit}"] = _Shadow(f"{hold_id}~{limit}", limit, tuple(those))
            self._background.start(self._decide(shadow), "shadow")

    async def _decide(self, shadow: _Shadow) -> None:
        decision = await self._ask(shadow)
        observe.SHADOW.inc(shadow.limit, decision)
        if decision != "granted":
            self._open.pop(shadow.id, None)
        elif shadow.close is not None:  # the call was over before
            shadow.close()
        else:
            shadow.is_granted = True
            self._permits.hold(shadow.id, shadow.wants)

    async def _ask(self, shadow: _Shadow) -> str:
        try:
            outcome = await self._ledger.reserve(shadow.id, shadow.wants, waiter="", flow=NOBODY)
        except RedisAway:
            return "unknown"
        if isinstance(outcome, Granted):
            return "granted"
        return "refused" if isinstance(outcome, Never) else "held"

    def settle(self, hold_id: str, wants: tuple[Want, ...], actual: Mapping[str, int]) -> None:
        """Replace what was reserved by what was used, where it was reserved."""
        for shadow in self._closing(hold_id, wants):
            self._close(shadow, partial(self._ledger.settle, shadow.id, shadow.wants, actual))

    def release(self, hold_id: str, wants: tuple[Want, ...]) -> None:
        """Give back what was reserved."""
        for shadow in self._closing(hold_id, wants):
            self._close(shadow, partial(self._ledger.release, shadow.id, shadow.wants))

    def _closing(self, hold_id: str, wants: tuple[Want, ...]) -> list[_Shadow]:
        ids = [f"{hold_id}~{limit}" for limit, _ in groupby(wants, _by_limit)]
        return [self._open.pop(shadow_id) for shadow_id in ids if shadow_id in self._open]

    def _close(self, shadow: _Shadow, close: Callable[[], object]) -> None:
        if shadow.is_granted:
            self._permits.drop(shadow.id)
            close()
        else:
            shadow.close = close  # once it is decided: else what was never taken would be given back
