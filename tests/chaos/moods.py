"""A Redis that is there and will not: busy with a script, loading, without its primary or its replicas, or only for reading."""

from __future__ import annotations

import asyncio
import contextlib
import random

import redis
from tests.chaos.faults import Form, say_to_redis
from tests.chaos.house import House

_MOST_DELAY_US = 20_000  # for each key that is loaded


async def busy_redis(house: House, dice: random.Random, form: Form) -> None:
    """BUSY: Redis runs a script of somebody else's, which does not end until it is killed."""
    await say_to_redis(house, "CONFIG", "SET", "busy-reply-threshold", "10")
    running = asyncio.create_task(asyncio.to_thread(_run_for_ever, house))
    await asyncio.sleep(dice.uniform(*form.spell_s))
    await say_to_redis(house, "SCRIPT", "KILL")
    await running
    await say_to_redis(house, "CONFIG", "SET", "busy-reply-threshold", "5000")


def _run_for_ever(house: House) -> None:
    with house.redis() as client, contextlib.suppress(redis.RedisError):
        client.eval("while true do end", 0)


async def loading_redis(house: House, dice: random.Random, form: Form) -> None:
    """LOADING: Redis reads its data, and says so to everybody meanwhile."""
    with house.redis() as client:
        count = max(1, await asyncio.to_thread(client.dbsize))  # type: ignore[arg-type]
    delay_us = min(_MOST_DELAY_US, round(1e6 * dice.uniform(*form.spell_s) / count))
    # It looks after its connections each time that it has read so much: else it would be silent.
    await say_to_redis(house, "CONFIG", "SET", "loading-process-events-interval-bytes", "1024", "key-load-delay", str(delay_us))
    await say_to_redis(house, "DEBUG", "RELOAD")
    await say_to_redis(house, "CONFIG", "SET", "key-load-delay", "0")


async def primary_is_down(house: House, dice: random.Random, form: Form) -> None:
    """MASTERDOWN: Redis has become a replica that has lost its primary, and may not even be read."""
    await say_to_redis(house, "CONFIG", "SET", "replica-serve-stale-data", "no")
    await say_to_redis(house, "REPLICAOF", "127.0.0.1", "1")
    await asyncio.sleep(dice.uniform(*form.spell_s))
    await say_to_redis(house, "REPLICAOF", "NO", "ONE")
    await say_to_redis(house, "CONFIG", "SET", "replica-serve-stale-data", "yes")


async def no_replicas(house: House, dice: random.Random, form: Form) -> None:
    """NOREPLICAS: Redis takes no writes until it has replicas, and has none."""
    await say_to_redis(house, "CONFIG", "SET", "min-replicas-to-write", "1")
    await asyncio.sleep(dice.uniform(*form.spell_s))
    await say_to_redis(house, "CONFIG", "SET", "min-replicas-to-write", "0")


async def pause_writes(house: House, dice: random.Random, form: Form) -> None:
    """CLIENT PAUSE WRITE: what only reads is answered, and scripts and writes wait."""
    seconds = dice.uniform(*form.spell_s)
    await say_to_redis(house, "CLIENT", "PAUSE", str(round(1000 * seconds)), "WRITE")
    await asyncio.sleep(seconds)
