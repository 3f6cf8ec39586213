"""What the calls of this process hold, from the grant on: it is counted, and given back whichever way they end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from headrace.budget.ledger import Ledger, Said
from headrace.budget.want import Want
from headrace.schedule.closing import briefly, nothing
from headrace.schedule.hold import Hold
from headrace.schedule.permits import Permits
from headrace.schedule.reserved import Reserved
from headrace.schedule.shadows import Shadows
from headrace.tuning.overload import Gates


class Holding:
    """
    What is held.

    Args:
        on_close: called with what a call holds no longer, before the ledger is told.
    """

    def __init__(
        self, ledger: Ledger, permits: Permits, shadows: Shadows, gates: Gates, on_close: Callable[[tuple[Want, ...]], None]
    ) -> None:
        self.reserved = Reserved()
        self._ledger = ledger
        self._permits = permits
        self._shadows = shadows
        self._gates = gates
        self._on_close = on_close

    def __repr__(self) -> str:
        return f"<Holding {self.reserved!r} {self._permits!r} {self._shadows!r}>"

    def begin(self, hold: Hold) -> Hold:
        """A call was granted this; return it."""
        self._gates.enter(hold.model_class)
        self.reserved.add(hold.wants)
        self._permits.hold(hold.id, hold.wants, hold.granted_at)
        if hold.shadows:
            self._shadows.take(hold.id, hold.shadows)
        return hold

    def settle(self, hold: Hold, wants: tuple[Want, ...], actual: Mapping[str, int], said: Said) -> Awaitable[None]:
        """Replace what was reserved by what was used, and tell these *wants* what upstream said. The command leaves at once."""
        self._close(hold, actual)
        if hold.shadows:
            self._shadows.settle(hold.id, hold.shadows, actual)
        return briefly(self._ledger.settle(hold.id, wants, actual, said)) if wants else nothing()

    def amend(self, hold: Hold, actual: Mapping[str, int]) -> Hold:
        """Replace what was reserved of some buckets while the call goes on; return what it holds now."""
        wants = tuple([want.at(actual.get(want.bucket_id, want.cost)) for want in hold.wants])
        if wants == hold.wants or not self._ledger.amend(hold.id, hold.amended + 1, hold.wants, actual):
            return hold
        self.reserved.amend(hold.wants, actual)
        return msgspec.structs.replace(hold, wants=wants, amended=hold.amended + 1)

    def release(self, hold: Hold) -> Awaitable[None]:
        """Give everything back. The command leaves at once."""
        self._drop(hold)
        return briefly(self._ledger.release(hold.id, hold.wants)) if hold.wants else nothing()

    def give_up(self, hold: Hold) -> None:
        """Give everything back without waiting for it."""
        self._drop(hold)
        if hold.wants:
            self._ledger.release(hold.id, hold.wants)

    def _drop(self, hold: Hold) -> None:
        self._close(hold, {})
        if hold.shadows:
            self._shadows.release(hold.id, hold.shadows)

    def _close(self, hold: Hold, actual: Mapping[str, int]) -> None:
        self._gates.leave(hold.model_class)
        self._permits.drop(hold.id)
        self.reserved.close(hold.wants, actual)
        self._on_close(hold.wants)
