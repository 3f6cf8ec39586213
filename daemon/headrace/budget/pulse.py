"""
The pulse of all processes: since when Redis has heard them without a gap, and so whose leases may lapse. Pure; renew.lua does
the same.

A process that lives renews its permits and its places several times a lease; what a dead one held is over when its lease ends.
But a Redis that stands still, or is started anew, hears nobody, and its clock runs on: by the time it answers all leases have
ended. So each renewal is a beat for all, and where the beat has stopped nothing is over until a whole lease has passed since it
came back.
"""

from __future__ import annotations

from dataclasses import dataclass

LEASE_US = 2_000_000
BEAT_S = 0.5  # every process, whether it holds anything or not
SILENT_US = 650_000  # who misses a beat and listens no more is dead; who listens may stand still, and has its lease
GAP_US = 1_250_000  # without a beat: then Redis was away. A beat and a gap are less than a lease, so no gap goes unseen


@dataclass(slots=True)
class Pulse:
    """From when until when leases that have ended are over (us)."""

    from_us: int = 0
    until_us: int = -1

    def beat(self, now_us: int) -> None:
        """Somebody was heard."""
        if not self.until_us - GAP_US <= now_us <= self.until_us:
            self.from_us = now_us + LEASE_US
        self.until_us = now_us + GAP_US

    def lapsed_us(self, now_us: int) -> int:
        """Return by when a lease must have ended to be over."""
        return now_us if self.from_us <= now_us <= self.until_us else 0
