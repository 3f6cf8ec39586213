"""The cache along the whole line: what the configuration says for a caller, and purges while calls are in the air."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from conftest import until
from flow_parts import asking, in_turn, later, running, say
from headrace.cache.selector import Selector
from headrace.errors import NotCached, UpstreamError
from headrace.model import Caller, Source
from scripted import Line

HASTY, PATIENT, WITHOUT = Caller("hasty", cache_ttl_s=0.05), Caller("patient", cache_ttl_s=3600), Caller("off", cache_ttl_s=0)
ANY = Caller("any")
SHARED = {"CACHE__SCOPE": "shared"}


class Held:
    """An upstream that answers when it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, line: Line) -> None:
        await self.go.wait()
        await say(line)


async def broken(line: Line) -> None:
    """Fail, and say that a repeat is in vain."""
    await line.answer(500, b'{"type":"error","error":{"type":"api_error","message":"m"}}', "x-should-retry: false")


# Callers.


@pytest.mark.parametrize("stream", [False, True])
async def test_without_cache(valkey_url: str, tmp_path: Path, stream: bool) -> None:
    """A caller without cache is never given a kept answer, nor are its own kept for anybody."""
    async with running(valkey_url, tmp_path, **SHARED) as (one, server):
        for caller in (ANY, WITHOUT, WITHOUT):
            assert (await one.ask(one.call({"stream": stream}, caller=caller))).source is Source.UPSTREAM
        assert server.calls == 3
        assert (await one.ask(one.call(caller=ANY))).source is Source.CACHE
        with pytest.raises(NotCached):
            await one.ask(one.call(caller=WITHOUT, cache="only-if-cached"))


async def test_own_samples(valkey_url: str, tmp_path: Path) -> None:
    """Its equal calls at one time are as many calls at upstream: whoever asks again wants another sample."""
    held = Held()
    async with running(valkey_url, tmp_path, held) as (one, server):
        asked = [asking(one, one.call(caller=WITHOUT)) for _ in range(3)]
        await until(lambda: server.calls == 3)
        held.go.set()
        for reply in await asyncio.gather(*asked):
            assert reply.source is Source.UPSTREAM
            assert "stored" not in reply.cache_status


async def test_without_stale(valkey_url: str, tmp_path: Path) -> None:
    """Nor is it given a stale one, when upstream is in trouble."""
    settings = SHARED | {"CACHE__TTL": "0.05s"}
    async with running(valkey_url, tmp_path, in_turn(say, broken), **settings) as (one, _):
        await one.ask(one.call(caller=ANY))
        await asyncio.sleep(0.06)
        for caller, cache in ((WITHOUT, "stale-if-error=60"), (ANY, "stale-if-error=60, no-store")):
            with pytest.raises(UpstreamError):
                await one.ask(one.call(caller=caller, cache=cache))
        assert (await one.ask(one.call(caller=ANY, cache="stale-if-error=60"))).source is Source.STALE


@pytest.mark.parametrize(
    ("stored_by", "asked_by", "source"),
    [
        (HASTY, HASTY, Source.UPSTREAM),
        (HASTY, PATIENT, Source.UPSTREAM),
        (PATIENT, HASTY, Source.UPSTREAM),
        (ANY, HASTY, Source.UPSTREAM),
        (HASTY, ANY, Source.UPSTREAM),
        (PATIENT, ANY, Source.CACHE),
    ],
    ids=lambda part: getattr(part, "name", str(part)),
)
@pytest.mark.parametrize("is_far", [False, True])
async def test_own_time(
    valkey_url: str, tmp_path: Path, stored_by: Caller, asked_by: Caller, source: Source, is_far: bool
) -> None:
    """Of two callers' times the shorter counts, on this host and on another one."""
    async with (
        running(valkey_url, tmp_path / "a", **SHARED) as (one, _),
        later(valkey_url, tmp_path / "b", one, **SHARED) as other,
    ):
        await one.ask(one.call(caller=stored_by))
        await asyncio.sleep(0.06)
        asks = other if is_far else one
        assert (await asks.ask(asks.call(caller=asked_by))).source is source


@pytest.mark.parametrize("is_far", [False, True])
async def test_longer_time(valkey_url: str, tmp_path: Path, is_far: bool) -> None:
    """A caller may have a longer time than others."""
    settings = SHARED | {"CACHE__TTL": "0.05s"}
    async with (
        running(valkey_url, tmp_path / "a", **settings) as (one, server),
        later(valkey_url, tmp_path / "b", one, **settings) as other,
    ):
        await one.ask(one.call(caller=PATIENT))
        await asyncio.sleep(0.06)
        asks = other if is_far else one
        assert (await asks.ask(asks.call(caller=PATIENT))).source is Source.CACHE
        assert (await asks.ask(asks.call(caller=ANY))).source is Source.UPSTREAM
        assert server.calls == 2


async def test_hit_by_bytes(valkey_url: str, tmp_path: Path) -> None:
    """Nor does a hit that is found by its bytes come to a caller too late, or to one without cache."""
    async with running(valkey_url, tmp_path, **SHARED) as (one, _):
        for caller in (ANY, HASTY, PATIENT, WITHOUT):
            one.parts.hits.remember(caller.name.encode(), one.call(caller=caller))
        await one.ask(one.call(caller=PATIENT))
        await asyncio.sleep(0.06)
        found = {caller.name for caller in (ANY, HASTY, PATIENT, WITHOUT) if one.parts.hits.glance(caller.name.encode())}
        assert found == {"any", "patient"}


# Purges.


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("is_far", [False, True])
async def test_purged_in_the_air(valkey_url: str, tmp_path: Path, stream: bool, is_far: bool) -> None:
    """An answer that was asked for before a purge, here or on another host, is given and not kept; the next one is."""
    held = Held()
    async with running(valkey_url, tmp_path / "a", held) as (one, server), later(valkey_url, tmp_path / "b", one) as other:
        asked = asking(one, one.call({"stream": stream}))
        await until(lambda: server.calls == 1)
        await (other if is_far else one).parts.cache.purge(Selector(model="m"))
        await until(lambda: one.parts.cache._purges.seen != "0-0")
        held.go.set()
        reply = await asked
        assert reply.source is Source.UPSTREAM
        assert stream or reply.cache_status.endswith("; detail=purged")
        assert [(await host.ask(host.call())).source for host in (one, one, other)] == [
            Source.UPSTREAM,
            Source.CACHE,
            Source.CACHE,
        ]
        assert server.calls == 2


async def test_purged_elsewhere(valkey_url: str, tmp_path: Path) -> None:
    """Nor does one outlive a purge that its host has not heard of yet."""
    held = Held()
    async with running(valkey_url, tmp_path / "a", held) as (one, server), later(valkey_url, tmp_path / "b", one) as other:
        asked = asking(one, one.call())
        await until(lambda: server.calls == 1)
        one.parts.cache._purges._news = asyncio.Event()  # whoever waits for news waits in vain
        await other.parts.cache.purge(Selector(all=True))
        held.go.set()
        await asked
        sources = [(await host.ask(host.call())).source for host in (other, one)]
        assert sources == [Source.UPSTREAM, Source.CACHE]
        assert server.calls == 2
