"""
The row about what metering costs: the commands that reach Redis for a call while nobody waits.

Valkey's own MONITOR is the witness: it tells those that clients sent from those that scripts call, and which keys they name.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

from tests.truth.measured import Measured
from tests.truth.rig import fleet

_PLENTY = """
[[limit]]
name = "org"
requests_per_minute = 10000000
input_tokens_per_minute = 1000000000
output_tokens_per_minute = 1000000000
burst = "5s"
"""
_CONNECTIONS = 32


@dataclass(slots=True)
class Seen:
    """Commands that clients sent."""

    all: int = 0
    metering: int = 0


async def commands(is_short: bool) -> Measured:
    """One daemon under a limit that nobody reaches."""
    seconds = 3.0 if is_short else 10.0
    async with fleet(1, _PLENTY, "--instant") as rig:
        await _load(rig.hosts[0].url, 1.0)
        before = len(await rig.upstream.arrivals())
        async with _watched(rig.valkey.url.removeprefix("unix://")) as seen:
            report = await _load(rig.hosts[0].url, seconds)
        calls = len(await rig.upstream.arrivals()) - before
    notes = [f"{seen.all / calls:.2f} commands a call in all, at {calls / report['seconds']:,.0f} calls a second"]
    return Measured({"metering": seen.metering / calls}, notes)


async def _load(url: str, seconds: float) -> dict[str, float]:
    address = url.removeprefix("http://")
    command = ("-m", "tests.bench.load", "http", address, "miss", str(_CONNECTIONS), str(seconds))
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    report: dict[str, float] = json.loads(said)
    assert not report["errors"], report
    return report


@contextlib.asynccontextmanager
async def _watched(path: str) -> AsyncIterator[Seen]:
    """Count the commands that reach Redis while the block lasts."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"MONITOR\r\n")
    await reader.readline()
    seen = Seen()
    counting = asyncio.create_task(_count(reader, seen))
    try:
        yield seen
    finally:
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)
        writer.close()


async def _count(reader: asyncio.StreamReader, seen: Seen) -> None:
    rest = b""
    while block := await reader.read(1 << 20):
        *lines, rest = (rest + block).split(b"\n")
        sent = [line for line in lines if b" lua] " not in line[:60]]
        seen.all += len(sent)
        # Who leads a flight is asked with a look at the pulse, which lies beside the budgets; that meters nothing.
        seen.metering += sum(b"headrace:{budget}" in line and b"headrace:flight:" not in line for line in sent)
