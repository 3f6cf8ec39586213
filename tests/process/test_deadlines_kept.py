"""
No word comes after its deadline, whatever Redis does: hang, drop, lag. Asked by a client in Go, which tells the daemon of the
deadline and does not keep it itself, so that what is measured is the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.chaos.others import go_asker
from tests.chaos.wire import wired

from conftest import missing
from fleet import daemon_beside, simulated
from headrace.simulator import Options

DEADLINE_S = 2.0
LATE_S = 1.5  # on a busy machine
LIMIT = '[{name = "org", requests_per_minute = 60000, output_tokens_per_minute = 6000000, concurrency = 40}]'
WAYS = ("unary", "stream", "keyed", "keyed-stream", "shared", "submit", "wait")
CALLERS = 21


class Asker:
    """The program in Go, and what it heard."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count(1)
        self._waiting: dict[str, asyncio.Future[dict]] = {}
        self.reading = asyncio.create_task(self._read())

    async def ask(self, way: str, grpc: str, prompt: str, key: str = "") -> dict:
        name, heard = str(next(self._numbers)), asyncio.get_running_loop().create_future()
        self._waiting[name] = heard
        asked = {"name": name, "key": key, "way": way, "grpc": grpc, "prompt": prompt, "timeout_ms": round(1000 * DEADLINE_S)}
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        return await asyncio.wait_for(heard, 30)

    async def _read(self) -> None:
        async for line in self._process.stdout:
            said = json.loads(line)
            self._waiting.pop(said["name"]).set_result(said)


@contextlib.asynccontextmanager
async def asker(directory: Path):
    if not shutil.which("go"):
        missing("go")
    command = await go_asker(directory)
    if not command:
        missing("what the client in Go needs")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    one = Asker(process)
    try:
        yield one
    finally:
        process.kill()
        await process.wait()
        one.reading.cancel()


async def hang(wire) -> None:
    with wire.hanging():
        await asyncio.sleep(5)


async def drop(wire) -> None:
    give_up = time.monotonic() + 4
    while time.monotonic() < give_up:
        wire.drop()
        await asyncio.sleep(0.1)


async def lag(wire) -> None:
    with wire.late(0.4):
        await asyncio.sleep(4)


async def all_of_it(wire) -> None:
    for _ in range(3):
        with wire.hanging():
            await asyncio.sleep(1)
        wire.drop()
        with wire.late(0.3):
            await asyncio.sleep(0.5)


@pytest.mark.parametrize("trouble", [*(pytest.param(one, marks=pytest.mark.long) for one in (hang, drop, lag)), all_of_it])
async def test_kept(tmp_path: Path, valkey_url: str, trouble) -> None:
    """Joining, leading, reserving, parking, settling, landing, claiming, submitting and waiting: each word comes in time."""
    path = Path(valkey_url.removeprefix("unix://"))
    upstream_is = Options(first_token_s=0.3, tokens_per_s=200, jitter=0, seed=1)
    at = tmp_path / "w"
    async with (
        asker(tmp_path) as asking,
        wired(path, at) as wire,
        simulated(upstream_is) as upstream,
        daemon_beside(upstream.url, f"unix://{at}", LIMIT=LIMIT, UPSTREAM__OVERLOAD_GATE="off") as one,
        daemon_beside(upstream.url, f"unix://{at}", LIMIT=LIMIT, UPSTREAM__OVERLOAD_GATE="off") as two,
    ):
        upstream.faults.add("overloaded", probability=0.2)
        is_over, heard = asyncio.Event(), []

        async def caller(number: int) -> None:
            turn, ticket = 0, ""
            while not is_over.is_set():
                turn += 1
                way, to = WAYS[(number + turn) % len(WAYS)], (one, two)[(number + turn) % 2].grpc
                prompt = f"shared {turn}" if way == "shared" else f"{number} {turn} answer in 40 tokens"
                key = f"{number}.{turn}" if way.startswith("keyed") else ""
                kind = {"keyed": "unary", "keyed-stream": "stream", "shared": "unary"}.get(way, way)
                if way == "wait" and not ticket:
                    continue
                said = await asking.ask(kind, to, ticket if way == "wait" else prompt, key)
                ticket = said.get("id", "") if way == "submit" else ticket
                heard.append((way, said))
                await asyncio.sleep(0.02)

        callers = [asyncio.create_task(caller(number)) for number in range(CALLERS)]
        await asyncio.sleep(1)
        await trouble(wire)
        await asyncio.sleep(1)
        is_over.set()
        await asyncio.gather(*callers)
    late = [(way, said) for way, said in heard if said["took_ms"] > 1000 * (DEADLINE_S + LATE_S) or said.get("why") == "hangs"]
    assert not late, late[:10]
    assert {way for way, _ in heard} == set(WAYS)
    assert sum(not said.get("why") for _, said in heard) > CALLERS, Counter(said.get("why") for _, said in heard)
