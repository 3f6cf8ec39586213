"""A stream settles its use as upstream tells it, not only when it ends."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import redis

from conftest import until
from doors import BODY, open_door, say, taken
from headrace import keys, observe
from scripted import Line

# A token a second flows in, and a thousand are there.
LIMIT = json.dumps([
    {"name": "org", "input_tokens_per_minute": 60, "output_tokens_per_minute": 60, "total_tokens_per_minute": 60,
     "requests_per_minute": 60, "concurrency": 3, "burst": "1000s"}
])  # fmt: skip


def event(name: str, **said: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **said})}\n\n".encode()


USAGE = {"input_tokens": 30, "cache_creation_input_tokens": 10, "cache_read_input_tokens": 500, "output_tokens": 1}
START = event("message_start", message={"id": "m", "type": "message", "role": "assistant", "content": [], "usage": USAGE})
BLOCK = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
TEXT = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "a"})
SO_FAR = event("message_delta", delta={"stop_reason": None}, usage={"output_tokens": 90})
END = event("content_block_stop", index=0) + event(
    "message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 95}
)
STOP = event("message_stop")


class Steps:
    """A stream that goes on when a test says so."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = parts
        self._may = asyncio.Semaphore(0)

    def go_on(self) -> None:
        self._may.release()

    async def __call__(self, line: Line) -> None:
        await line.begin_stream()
        for part in self._parts:
            await line.chunk(part)
            await self._may.acquire()
        await line.say(b"0\r\n\r\n")


def used(url: str) -> dict[str, int]:
    """What is taken of each bucket, and how many permits."""
    with redis.Redis.from_url(url) as client:
        kinds = ("input_tokens", "output_tokens", "total_tokens")
        levels = {kind: client.hget(keys.bucket(f"org:{kind}"), "level") for kind in kinds}
        taken = {kind: 1000 - int(level) // 60_000_000 for kind, level in levels.items() if level is not None}
        return taken | {"permits": client.zcard(keys.permits("org:concurrency"))}


async def is_used(url: str, input_tokens: int, output_tokens: int, total_tokens: int, permits: int) -> None:
    def is_so() -> bool:
        now = used(url)
        wanted = {"input_tokens": input_tokens, "output_tokens": output_tokens, "total_tokens": total_tokens}
        return now["permits"] == permits and all(tokens - 5 <= now[kind] <= tokens for kind, tokens in wanted.items())

    try:
        await until(is_so)
    except AssertionError as error:
        raise AssertionError(used(url)) from error


async def test_as_they_come(valkey_url: str, tmp_path: Path) -> None:
    """`message_start` settles the input, and a `message_delta` on the way what is more than was estimated; the end the rest."""
    observe.ESTIMATED._counts.clear()
    steps = Steps(START + BLOCK + TEXT, SO_FAR + TEXT, END + STOP)
    async with open_door(valkey_url, tmp_path, steps, LIMIT=LIMIT) as (door, _, one):
        asked = asyncio.create_task(say(door, body=BODY | {"max_tokens": 100, "stream": True}))
        await is_used(valkey_url, 40, 50, 90, permits=1)
        held = {bucket.split(":")[1]: share for bucket, share in one.parts.schedule.reserved.stats().items()}
        assert (held["input_tokens"].calls, held["input_tokens"].amount, held["output_tokens"].amount) == (1, 40, 50)
        steps.go_on()
        await is_used(valkey_url, 40, 90, 130, permits=1)
        steps.go_on()
        await is_used(valkey_url, 40, 95, 135, permits=0)
        steps.go_on()
        assert (await asked)[0] == 200
        assert one.parts.schedule.reserved.stats() == {}
    count = observe.ESTIMATED.value
    for kind in ("input_tokens", "output_tokens", "total_tokens"):
        assert count("org", kind, "reserved") == count("org", kind, "closed")
    assert count("org", "output_tokens", "under") == 45
    assert not taken(valkey_url)


async def test_broken_off(valkey_url: str, tmp_path: Path) -> None:
    """A stream that breaks off has settled what it told, once: more output than was estimated among it."""

    async def breaks_off(line: Line) -> None:
        await line.begin_stream()
        await line.chunk(START + BLOCK + TEXT + SO_FAR)
        line.writer.close()

    async with open_door(valkey_url, tmp_path, breaks_off, LIMIT=LIMIT) as (door, _, _):
        await say(door, body=BODY | {"max_tokens": 100, "stream": True})
        await is_used(valkey_url, 40, 90, 130, permits=0)


async def test_without_usage(valkey_url: str, tmp_path: Path) -> None:
    """An answer that never says what it used keeps its estimate."""
    start = event("message_start", message={"id": "m", "type": "message", "role": "assistant", "content": []})
    end = event("content_block_stop", index=0) + event("message_delta", delta={"stop_reason": "end_turn"}) + STOP
    steps = Steps(start + BLOCK + TEXT, end)
    async with open_door(valkey_url, tmp_path, steps, LIMIT=LIMIT) as (door, _, _):
        steps.go_on()
        steps.go_on()
        assert (await say(door, body=BODY | {"max_tokens": 100, "stream": True}))[0] == 200
        assert used(valkey_url)["output_tokens"] in range(45, 51)
        assert used(valkey_url)["input_tokens"] in range(20, 50)
