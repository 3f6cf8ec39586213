"""
The row about tickets: how many a second are durable, how many are worked, and what each costs Redis.

One daemon, which works them too, takes them in as fast as it can; nothing else goes on. What is counted is what was accepted,
what arrived at upstream, and Redis's memory before, with all of them waiting, and when all have ended.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc.aio
import redis
from tests.truth.measured import Measured
from tests.truth.rig import Fleet, fleet

from headrace.v1 import budgets_service_pb2 as budgets
from headrace.v1 import messages_service_pb2 as messages

_CONFIG = """
[retry]
max_tickets = 100000
[schedule]
max_waiting = 100000
[auth]
default_role = "admin"
"""
_AT_ONCE = 32
_WORDS = "x" * 300  # beside which a body has some 130 bytes
_WITHIN_S = 300.0


async def tickets(is_short: bool) -> Measured:
    """Submitted calls, taken in and worked at once; then as many that wait, since their caller is on hold."""
    count = 1000 if is_short else 5000
    async with fleet(1, _CONFIG, "--instant") as rig, grpc.aio.insecure_channel(rig.hosts[0].grpc) as channel:
        with redis.Redis.from_url(rig.valkey.url) as client:
            numbers, before = itertools.count(), used(client)
            began = time.monotonic()
            await submit(channel, numbers, count)
            in_s = time.monotonic() - began
            await ended(client)
            ended_bytes = (used(client) - before) / count
            at = sorted(arrival.at for arrival in await rig.upstream.arrivals())
            waiting_bytes = await waiting(rig, channel, client, numbers, count // 2)
            states = count_states(client)
    figures: dict[str, float | None] = {
        "in": count / in_s, "out": (len(at) - 1) / (at[-1] - at[0]), "bytes": max(ended_bytes, waiting_bytes),
        "unanswered": count + count // 2 - states.get(b"SUCCEEDED", 0), "twice": float(len(at) - count),
    }  # fmt: skip
    notes = [
        f"{count} tickets, {_AT_ONCE} submitted at once, worked meanwhile; {ended_bytes:.0f} bytes of Redis each when they have"
        f" ended, {waiting_bytes:.0f} while they wait, {len(_WORDS) + 130} of them their bodies; {states}"
    ]
    return Measured(figures, notes)


async def submit(channel: grpc.aio.Channel, numbers: Iterator[int], count: int) -> None:
    """Submit so many calls, each with a prompt of its own."""
    rpc: Callable[[bytes], Any] = channel.unary_unary("/headrace.v1.MessagesService/SubmitMessage")
    own = itertools.islice(numbers, count)

    async def go() -> None:
        for number in own:
            request = messages.SubmitMessageRequest()
            request.params.model, request.params.max_tokens = "claude-haiku-4-5", 20
            request.params.messages.add(role="user").content.text = f"ticket {number} {_WORDS}"
            request.answer_timeout.seconds = 600
            await rpc(request.SerializeToString())

    await asyncio.gather(*(go() for _ in range(_AT_ONCE)))


async def waiting(rig: Fleet, channel: grpc.aio.Channel, client: redis.Redis, numbers: Iterator[int], count: int) -> float:
    """Return what a ticket costs that waits, by so many of them; they end afterwards."""
    name, before = "default", used(client)
    hold = budgets.HoldCallerRequest(caller=name)
    await channel.unary_unary("/headrace.v1.BudgetsService/HoldCaller")(hold.SerializeToString())
    await submit(channel, numbers, count)
    cost = (used(client) - before) / count
    release = budgets.ReleaseCallerRequest(caller=name)
    await channel.unary_unary("/headrace.v1.BudgetsService/ReleaseCaller")(release.SerializeToString())
    await ended(client)
    return cost


async def ended(client: redis.Redis) -> None:
    """Wait until no ticket is looked after any more."""
    async with asyncio.timeout(_WITHIN_S):
        while await asyncio.to_thread(client.zcard, "headrace:tickets"):  # noqa: ASYNC110 - what is waited for is elsewhere
            await asyncio.sleep(0.1)


def used(client: redis.Redis) -> int:
    memory: Any = client.info("memory")
    return int(memory["used_memory"])


def count_states(client: redis.Redis) -> dict[bytes, int]:
    """Return how many tickets there are in each state."""
    states: dict[bytes, int] = {}
    for key in client.scan_iter("headrace:ticket:*", count=1000):
        state: Any = client.hget(key, "state")
        states[state] = states.get(state, 0) + 1
    return states
