"""What a hit over gRPC says of its origin: made once for those who come together, told of its own entry, gone with it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio

from conftest import until
from doors import open_grpc_door
from flow_parts import Daemon
from headrace.cache.entry import Entry
from headrace.cache.selector import Selector
from headrace.v1 import messages_pb2, messages_service_pb2, messages_service_pb2_grpc, options_pb2


@contextlib.asynccontextmanager
async def asking(url: str, path: Path) -> AsyncIterator[tuple[Daemon, Any]]:
    """Yields a daemon, and what asks it for a prompt: the answer's origin."""
    async with (
        open_grpc_door(url, path) as (door, _, one),
        grpc.aio.insecure_channel(f"127.0.0.1:{door.ports[0]}") as channel,
    ):
        create = messages_service_pb2_grpc.MessagesServiceStub(channel).CreateMessage

        async def ask(prompt: str) -> options_pb2.Origin:
            params = messages_pb2.MessageParams(
                model="m", max_tokens=9, messages=[{"role": "user", "content": {"text": prompt}}]
            )
            return (await create(messages_service_pb2.CreateMessageRequest(params=params))).origin

        yield one, ask


async def test_each_its_own(valkey_url: str, tmp_path: Path) -> None:
    """Hits of two entries in turn, as fast as they go: each names its own entry."""
    async with asking(valkey_url, tmp_path) as (_, ask):
        named = {prompt: (await ask(prompt)).cache_status.partition("key=")[2].partition(";")[0] for prompt in ("a", "b")}
        told = await asyncio.gather(*(ask(prompt) for prompt in "ab" * 20))
        assert {origin.source for origin in told} == {options_pb2.ANSWER_SOURCE_CACHE}
        keys = [origin.cache_status.partition("key=")[2].partition(";")[0] for origin in told]
        assert keys == [named[prompt] for prompt in "ab" * 20]
        assert len(set(keys)) == 2


async def test_goes_with_its_entry(valkey_url: str, tmp_path: Path) -> None:
    """Of an answer that was purged nothing stays in memory, however lately it was a hit."""
    async with asking(valkey_url, tmp_path) as (one, ask):
        for _ in range(3):
            origin = await ask("a")
        assert origin.source == options_pb2.ANSWER_SOURCE_CACHE
        await one.parts.cache.purge(Selector(all=True))
        await until(lambda: not _living(), what="an entry is still held")


def _living() -> list[Entry]:
    gc.collect()
    return [entry for entry in gc.get_objects() if isinstance(entry, Entry)]
