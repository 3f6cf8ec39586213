"""CacheService: looking into the cache, and emptying it."""

from __future__ import annotations

from typing import Any

from headrace.admission import Admission
from headrace.cache.selector import Selector
from headrace.cache.tally import TierStats
from headrace.cache.tiered import Cache
from headrace.edge.grpc_calls import Handler, Who, guarded, parse
from headrace.errors import InvalidCall, NotAllowed
from headrace.v1 import cache_service_pb2


class CacheServicer:
    """One short method per RPC."""

    def __init__(self, cache: Cache, admission: Admission, who: Who) -> None:
        self._cache = cache
        self._admission = admission
        self._who = who

    def __repr__(self) -> str:
        return f"<CacheServicer {self._cache!r}>"

    @property
    def unary(self) -> dict[str, Handler]:
        """The methods that answer once."""
        return {"GetCacheStats": self.stats, "PurgeCache": self.purge}

    @guarded
    async def stats(self, raw: bytes, context: Any) -> bytes:
        """Return what each tier holds and did."""
        self._who.identify(self._who.keys(context).ours, "")
        parse(cache_service_pb2.GetCacheStatsRequest, raw)
        tiers = [_tier(stats) for stats in await self._cache.stats() if stats.on]
        return cache_service_pb2.GetCacheStatsResponse(tiers=tiers).SerializeToString()

    @guarded
    async def purge(self, raw: bytes, context: Any) -> bytes:
        """Remove kept answers from every tier on every host."""
        request = parse(cache_service_pb2.PurgeCacheRequest, raw)
        count = await self._cache.purge(self._selector(request, context))
        return cache_service_pb2.PurgeCacheResponse(purged_entry_count=count).SerializeToString()

    def _selector(self, request: cache_service_pb2.PurgeCacheRequest, context: Any) -> Selector:
        key, own_key, _ = self._who.keys(context)
        caller = self._who.identify(key, "")
        asked = request.WhichOneof("selector")
        if not self._who.required:
            return _selector(request, asked, None)
        if asked == "caller" and request.caller != caller.name:
            raise NotAllowed("callers may purge their own answers only")
        # Whatever is asked for, only what this caller itself could be given.
        return _selector(request, asked, self._admission.scope(caller, own_key))


def _selector(request: cache_service_pb2.PurgeCacheRequest, asked: str | None, scope: str | None) -> Selector:
    match asked:
        case "key" if request.key:
            return Selector(fingerprint=request.key, scope=scope)
        case "model" if request.model:
            return Selector(model=request.model, scope=scope)
        case "caller":
            return Selector(scope=request.caller if scope is None else scope)
        case "all" if request.all:
            return Selector(all=True) if scope is None else Selector(scope=scope)
    raise InvalidCall("selector: must be a key, a caller, a model or all", metadata={"field": "selector"})


def _tier(stats: TierStats) -> cache_service_pb2.CacheTierStats:
    return cache_service_pb2.CacheTierStats(
        tier=stats.tier,
        entry_count=stats.entries,
        size_bytes=stats.bytes,
        max_size_bytes=stats.bound,
        hit_count=stats.hits,
        miss_count=stats.misses,
        store_count=stats.stores,
        drop_count=stats.drops,
        error_count=stats.errors,
    )
