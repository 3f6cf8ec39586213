"""CacheService: what the tiers say, and what a purge means."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from grpc_fakes import FakeCallers, details, serving
from headrace.cache.selector import Selector
from headrace.cache.tally import TierStats
from headrace.model import Role
from headrace.owner import Owner
from headrace.v1 import cache_service_pb2, cache_service_pb2_grpc

Purge = cache_service_pb2.PurgeCacheRequest
Stub = cache_service_pb2_grpc.CacheServiceStub
ME = (("x-api-key", "k"),)


class FakeCache:
    """Says what it is told, and notes what is purged."""

    def __init__(self) -> None:
        self.purged: list[Selector] = []

    async def stats(self, scope: str | None = None) -> tuple[TierStats, ...]:
        return TierStats("memory", True, 1, 20, 100, 3, 4, 5, 6, 7), TierStats("disk", False, 0, 0, 0, 0, 0, 0, 0, 0)

    async def purge(self, selector: Selector) -> int:
        self.purged.append(selector)
        return 7


async def test_stats(tmp_path: Path) -> None:
    """Each tier that is on says what it holds and did."""
    async with serving(tmp_path, cache=FakeCache()) as (_, channel):
        response = await Stub(channel).GetCacheStats(cache_service_pb2.GetCacheStatsRequest())
    assert [tier.tier for tier in response.tiers] == ["memory"]
    figures = [value for _, value in response.tiers[0].ListFields()]
    assert figures == ["memory", 1, 20, 100, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("request_", "selector"),
    [
        (Purge(key="f"), Selector(fingerprint="f")),
        (Purge(caller="c"), Selector(scope="c")),
        (Purge(caller=""), Selector(scope="")),
        (Purge(model="m"), Selector(model="m")),
        (Purge(all=True), Selector(all=True)),
    ],
)
async def test_purge(tmp_path: Path, request_: Purge, selector: Selector) -> None:
    """By key, caller, model or all."""
    cache = FakeCache()
    async with serving(tmp_path, cache=cache) as (_, channel):
        assert (await Stub(channel).PurgeCache(request_)).purged_entry_count == 7
    assert cache.purged == [selector]


@pytest.mark.parametrize("request_", [Purge(), Purge(key=""), Purge(model=""), Purge(all=False)])
async def test_purge_what(tmp_path: Path, request_: Purge) -> None:
    """Nothing is purged by omission."""
    cache = FakeCache()
    async with serving(tmp_path, cache=cache) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await Stub(channel).PurgeCache(request_)
    assert details(refused.value)["BadRequest"].field_violations[0].field == "selector"
    assert cache.purged == []


@pytest.mark.parametrize(
    ("request_", "selector"),
    [
        (Purge(key="f"), Selector(fingerprint="f", scope="me")),
        (Purge(caller="me"), Selector(scope="me")),
        (Purge(model="m"), Selector(model="m", scope="me")),
        (Purge(all=True), Selector(scope="me")),
    ],
)
async def test_own_only(tmp_path: Path, request_: Purge, selector: Selector) -> None:
    """Where keys are required, a purge means the caller's own answers, whatever it asks for."""
    cache = FakeCache()
    async with serving(tmp_path, cache=cache, callers=FakeCallers({"k": "me"})) as (_, channel):
        await Stub(channel).PurgeCache(request_, metadata=ME)
    assert cache.purged == [selector]


@pytest.mark.parametrize("request_", [Purge(key="f"), Purge(caller="default"), Purge(model="m"), Purge(all=True)])
async def test_own_key(tmp_path: Path, request_: Purge) -> None:
    """Where each caller's own key goes upstream, a purge means what that key asked for; other names are others."""
    cache, whose = FakeCache(), Owner.of("default", "x-api-key:k")
    async with serving(tmp_path, cache=cache, passes_credentials=True) as (_, channel):
        await Stub(channel).PurgeCache(request_, metadata=ME)
        if request_.WhichOneof("selector") == "caller":
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await Stub(channel).PurgeCache(request_, metadata=(*ME, ("x-headrace-caller", "you")))
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await Stub(channel).PurgeCache(request_)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert [selector.scope for selector in cache.purged] == [whose.text]


async def test_shared(tmp_path: Path) -> None:
    """What callers share is nobody's own: an admin alone purges it."""
    cache, callers = FakeCache(), FakeCallers({"k": "me", "boss": "boss"}, boss=Role.ADMIN)
    async with serving(tmp_path, cache=cache, callers=callers, is_shared=True) as (_, channel):
        for request_ in (Purge(key="f"), Purge(caller="me"), Purge(caller=""), Purge(model="m"), Purge(all=True)):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await Stub(channel).PurgeCache(request_, metadata=ME)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert cache.purged == []
        await Stub(channel).PurgeCache(Purge(all=True), metadata=(("x-api-key", "boss"),))
    assert cache.purged == [Selector(all=True)]


async def test_not_allowed(tmp_path: Path) -> None:
    """Another's answers are not for us to purge, nor anything for strangers, who do not see the stats either."""
    cache = FakeCache()
    async with serving(tmp_path, cache=cache, callers=FakeCallers({"k": "me"})) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await Stub(channel).PurgeCache(Purge(caller="you"), metadata=ME)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        for call in (
            Stub(channel).PurgeCache(Purge(all=True)),
            Stub(channel).GetCacheStats(cache_service_pb2.GetCacheStatsRequest()),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert cache.purged == []
