"""What somebody can do who writes to Redis: rubbish beside all that is there, of every type and in every family of keys."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
from collections.abc import Mapping

import redis
from tests.hostile.target import Attack, Target

from planted import RUBBISH, families, named, plant_jobs, put

_TYPES = ("string", "hash", "list", "set", "zset", "stream")


async def planted(target: Target) -> None:
    """Rubbish in all keys that are not there yet, again and again, and beside what is in those that are."""
    with tempfile.TemporaryDirectory() as directory, redis.Redis.from_url(target.redis_url) as client:
        async with target.under_attack():
            for turn in itertools.count():
                await asyncio.to_thread(_plant, client, target, turn)
                await asyncio.to_thread(plant_jobs, client, f"{directory}/mark")
                await asyncio.sleep(0.2)


def _plant(client: redis.Redis, target: Target, turn: int) -> None:
    for family, kind in families().items():
        for number, name in enumerate(named(family)):
            key = name.encode(errors="surrogateescape")
            values = [b"%d" % turn + RUBBISH[-1], *RUBBISH[number:]]
            if not client.exists(key):
                put(client, key, kind if turn % 3 else _TYPES[(turn + number) % len(_TYPES)], values)
            elif kind in ("hash", "set", "zset", "stream"):
                with contextlib.suppress(redis.ResponseError):
                    _add(client, key, kind, values)
            target.tally["keys"] += 1


def _add(client: redis.Redis, key: bytes, kind: str, values: list[bytes]) -> None:
    match kind:
        case "hash":
            client.hset(key, mapping={value[:100]: value for value in values})
        case "set":
            client.sadd(key, *values)
        case "zset":
            client.zadd(key, {value[:100]: 1.0 for value in values})
        case "stream":
            client.xadd(key, {b"purge": values[0], b"i": values[-1]})


ATTACKS: Mapping[str, Attack] = {"planted": planted}
