"""CacheService: looking into the cache, and emptying it."""

from __future__ import annotations

from typing import Any

from headrace import audit
from headrace.admission import Admission
from headrace.audit import Audit
from headrace.cache.selector import Selector
from headrace.cache.tally import TierStats
from headrace.cache.tiered import Cache
from headrace.edge.grpc_calls import Handler, Who, guarded, parse
from headrace.errors import InvalidCall, NotAllowed
from headrace.v1 import cache_service_pb2


class CacheServicer:
    """One short method per RPC."""

    def __init__(self, cache: Cache, admission: Admission, who: Who, audit: Audit) -> None:
        self._audit = audit
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
        """Return what each tier holds and did, or what it holds of the caller's own."""
        asker = self._who.ask(context, "CacheService.GetCacheStats")
        parse(cache_service_pb2.GetCacheStatsRequest, raw)
        scope = self._admission.scope(asker.caller, asker.own) if asker.is_limited else None
        tiers = [_tier(stats) for stats in await self._cache.stats(scope) if stats.on]
        return cache_service_pb2.GetCacheStatsResponse(tiers=tiers).SerializeToString()

    @guarded
    async def purge(self, raw: bytes, context: Any) -> bytes:
        """Remove kept answers from every tier on every host."""
        request = parse(cache_service_pb2.PurgeCacheRequest, raw)
        selector = self._selector(request, context)
        audit.check(request.reason)
        count = await self._cache.purge(selector)
        by = self._who.ask(context, "CacheService.PurgeCache").caller.name
        await self._audit.note("cache.purged", _words(request), by=by, reason=request.reason, details=f"entries={count}")
        return cache_service_pb2.PurgeCacheResponse(purged_entry_count=count).SerializeToString()

    def _selector(self, request: cache_service_pb2.PurgeCacheRequest, context: Any) -> Selector:
        asked = request.WhichOneof("selector")
        asker = self._who.ask(context, "CacheService.PurgeCache")
        if not asker.is_limited:
            return _selector(request, asked, None)
        # Whatever is asked for, only what is this caller's own: what all share is nobody's.
        if asked == "caller" and request.caller != asker.caller.name:
            raise NotAllowed("callers purge their own answers only; the role admin purges all")
        scope = self._admission.scope(asker.caller, asker.own)
        if scope != asker.owner.text:
            raise NotAllowed('callers share their answers (cache.scope = "shared"), so that only the role admin purges them')
        return _selector(request, asked, scope)


def _words(request: cache_service_pb2.PurgeCacheRequest) -> str:
    asked = str(request.WhichOneof("selector"))
    return "all" if asked == "all" else f"{asked}={getattr(request, asked)}"


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
