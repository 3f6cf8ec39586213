"""
What the tiers of the cache hold, as gauges.

Looked at now and then, and not when somebody asks for metrics: the far tiers are asked for it, and anybody may ask us.
"""

from __future__ import annotations

from headrace import observe
from headrace.cache.tiered import Cache
from headrace.clock import Clock

_EVERY_S = 15.0


class CacheGauges:
    """Run `keep` as a task."""

    def __init__(self, cache: Cache, clock: Clock) -> None:
        self._cache = cache
        self._clock = clock

    def __repr__(self) -> str:
        return "<CacheGauges>"

    async def keep(self) -> None:
        """Look every fifteen seconds, until cancelled."""
        while True:
            tiers = [tier for tier in await self._cache.stats() if tier.on]
            observe.CACHE_ENTRIES.set({(tier.tier,): float(tier.entries) for tier in tiers})
            observe.CACHE_BYTES.set({(tier.tier,): float(tier.bytes) for tier in tiers})
            observe.CACHE_BOUND.set({(tier.tier,): float(tier.bound) for tier in tiers})
            await self._clock.sleep(_EVERY_S)
