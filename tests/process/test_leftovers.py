"""What crashes leave in Redis goes within a minute: every key has a time to live, or an owner that looks after it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any

import grpc.aio
import pytest
import redis

from conftest import until
from fleet import Daemon, daemon_beside, simulated
from headrace import keys
from headrace.simulator import Options
from headrace.v1 import messages_service_pb2 as messages

WITHIN_S = 60.0

# Keys that stay, and who looks after what is in them.
OWNED = {
    r"headrace:schema": "every start writes it anew: the version of what lies here",
    r"headrace:tickets": "the sweeper: each entry goes with its ticket",
    r"headrace:due": "the workers: each entry goes with its ticket",
    r"headrace:held": "the sweeper: each entry goes with its attempt",
    r"headrace:hosts": "the hosts: each entry lapses",
    r"headrace:\{budget\}:(heard|holding)": "the pulse: entries go with their processes",
    r"headrace:(limits:.*|keys.*|overrides|cache:.*)": "what people and upstream said, and the books of the cache",
    r"rq:queues": "RQ: the one queue there is",
    r"rq:queue:headrace(:intermediate)?": "the workers: entries go when they are taken",
    r"rq:(scheduled|wip|finished|failed|deferred|canceled):headrace": "the workers: each entry has its time",
    r"rq:workers(:headrace)?": "the workers: entries go with those that are dead",
}


def unowned(client: redis.Redis) -> list[str]:
    """Return what stays for ever and has nobody to look after it."""
    found = []
    for raw in client.scan_iter(count=1000):
        name = raw.decode(errors="replace")
        if client.pttl(raw) == -1 and not any(re.fullmatch(pattern, name) for pattern in OWNED) and not is_live(client, name):
            found.append(name)
    return found


def is_live(client: redis.Redis, name: str) -> bool:
    """Whether a key is a ticket that is looked after, or a job that a worker will come to."""
    if name.startswith(keys.ticket("")):
        return client.zscore(keys.TICKETS, name.removeprefix(keys.ticket(""))) is not None
    return False


def lost(client: redis.Redis) -> list[str]:
    """Return entries of ours whose tickets are gone or have ended."""
    found = []
    for index in (keys.TICKETS, keys.DUE):
        for raw in client.zrange(index, 0, -1):  # type: ignore[union-attr]
            state: Any = client.hget(keys.ticket(raw.decode()), "state")
            if state not in (b"QUEUED", b"RUNNING"):
                found.append(f"{index} {raw.decode()}")
    return found


def of_rq(client: redis.Redis) -> list[str]:
    """Return what is left of RQ's: locks that last, workers that are dead, jobs that nobody runs."""
    left = []
    if client.pttl("rq:clean_registries:headrace") > 60_000:
        left.append("the lock of maintenance")
    dead: Any = [name for name in client.smembers("rq:workers") if not client.exists(name)]  # type: ignore[union-attr]
    left += [f"dead worker {name.decode()}" for name in dead]
    left += ["taken, and not begun"] * int(client.llen("rq:queue:headrace:intermediate"))  # type: ignore[arg-type]
    left += [f"begun {raw!r}" for raw in client.zrangebyscore("rq:wip:headrace", "-inf", time.time() - 30)]  # type: ignore[union-attr]
    return left


async def submit(at: Daemon, count: int, *, for_s: int) -> None:
    """Submit calls of which each is tried now and then until its time is over."""
    async with grpc.aio.insecure_channel(at.grpc) as channel:
        rpc: Callable[[bytes], Any] = channel.unary_unary("/headrace.v1.MessagesService/SubmitMessage")
        for number in range(count):
            request = messages.SubmitMessageRequest()
            request.params.model, request.params.max_tokens = "claude-haiku-4-5", 9
            request.params.messages.add(role="user").content.text = f"{number}"
            request.answer_timeout.seconds = for_s
            await rpc(request.SerializeToString())


async def kill(one: Daemon) -> None:
    one.served.process.kill()
    await asyncio.to_thread(one.served.process.wait)


@pytest.mark.parametrize("rounds", [1, pytest.param(8, marks=pytest.mark.long)])
async def test_nothing_stays(valkey_url: str, rounds: int) -> None:
    """Daemons are killed in mid-work, one with RQ's lock of a quarter of an hour: a minute later all is clean."""
    options = Options.instant(rate_429=1.0, retry_after_s=(4, 6))
    more = {"UPSTREAM__OVERLOAD_GATE": "off", "RETRY__BUDGET": "1"}
    with redis.Redis.from_url(valkey_url) as client:
        async with simulated(options) as simulator, daemon_beside(simulator.url, valkey_url, **more) as left:
            for _ in range(rounds):
                async with daemon_beside(simulator.url, valkey_url, **more) as victim:
                    await submit(victim, 30, for_s=12)
                    await submit(left, 10, for_s=8)
                    await until(lambda: bool(client.keys("rq:job:*")), what="no alarm was set")
                    await until(lambda: client.zcard(keys.DUE) > 20)
                    client.set("rq:clean_registries:headrace", 1, ex=899)  # as a worker of an earlier version that was killed
                    client.lpush("rq:queue:headrace:intermediate", "due-1-1")  # and one that was killed between two steps
                    await kill(victim)
            killed = time.monotonic()

            while what := of_rq(client) + unowned(client) + lost(client) + ["tickets"] * bool(client.zcard(keys.TICKETS)):
                assert time.monotonic() - killed < WITHIN_S, what
                await asyncio.sleep(0.5)
            print(f"clean after {time.monotonic() - killed:.0f} s")
