"""
Callers who leave while they wait leave nothing that only a collection would find.

Of thousands it would hold the loop for seconds to look through what they left; and until it comes, their memory is kept.
"""

from __future__ import annotations

import asyncio
import gc
import json
import types
from collections import Counter

import pytest

from conftest import BY_THE_CLOCK, until
from doors import BODY, open_door

pytestmark = BY_THE_CLOCK

CALLS = 20
OURS = ("Task", "frame", "traceback", "CancelledError", "Flight", "Lease", "Member", "Running", "Told", "Connection", "Refusal")


async def silent(line):
    await asyncio.Event().wait()


@pytest.mark.parametrize("more", [{}, {"stream": True}], ids=["whole", "stream"])
async def test_hangs_up(valkey_url, tmp_path, more):
    """Frames, tasks, errors and flights of a call are gone with it, led or followed."""
    async with open_door(valkey_url, tmp_path, silent) as (door, _, one):
        await come_and_leave(door, one, 3, "warm", more)
        gc.collect()
        gc.disable()
        try:
            await come_and_leave(door, one, CALLS, "led", more)
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            left = Counter(name_of(each) for each in gc.garbage)
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert not {name: left[name] for name in OURS if left[name] >= CALLS}, left.most_common(30)


def name_of(each) -> str:
    return "frame" if isinstance(each, types.FrameType) else type(each).__name__


async def come_and_leave(door, one, count, name, more):
    """Let so many wait for an upstream that says nothing, two for each call, and hang up."""
    writers = []
    for number in range(count):
        body = json.dumps({**BODY, "messages": [{"role": "user", "content": f"{name} {number // 2}"}], **more}).encode()
        _, writer = await asyncio.open_connection("127.0.0.1", door.port)
        head = [
            "POST /v1/messages HTTP/1.1",
            "host: 127.0.0.1",
            "anthropic-version: 2023-06-01",
            f"content-length: {len(body)}",
        ]
        writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        writers.append(writer)
    await until(lambda: len(one.parts.exchange.last_word) == count)
    for writer in writers:
        writer.transport.abort()
    await until(lambda: len(one.parts.exchange.last_word) == 0 and len(one.parts.flights) == 0)
    await asyncio.sleep(0.2)  # tasks that were cancelled end in the next turns of the loop
