"""
The concurrency permits that this process holds: leases, renewed for as long as their calls run.

A process that dies renews nothing, so its permits are free again when the lease ends.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from headrace.budget.ledger import Ledger
from headrace.budget.want import Form, Want
from headrace.clock import Clock
from headrace.errors import RedisAway

_RENEW_EVERY_S = 10.0  # a lease lasts three times that


@dataclass(frozen=True, slots=True)
class PermitStats:
    """How many calls hold permits."""

    holds: int


class Permits:
    """What this process holds. Run `keep` as a task."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._held: dict[str, tuple[Want, ...]] = {}  # by hold id

    def __repr__(self) -> str:
        return f"<Permits [{self.stats().holds} holds]>"

    def stats(self) -> PermitStats:
        """Return how much is held."""
        return PermitStats(len(self._held))

    def hold(self, hold_id: str, wants: tuple[Want, ...]) -> None:
        """Take in what was granted; only permits among it are of interest."""
        if permits := tuple(want for want in wants if want.form is Form.PERMIT):
            self._held[hold_id] = permits

    def drop(self, hold_id: str) -> None:
        """Renew these no longer."""
        self._held.pop(hold_id, None)

    async def keep(self) -> None:
        """Renew what is held, until cancelled."""
        while True:
            await self._clock.sleep(_RENEW_EVERY_S)
            if self._held:
                with contextlib.suppress(RedisAway):
                    await self._ledger.renew(dict(self._held))
