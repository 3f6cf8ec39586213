"""The example clients, against a real daemon and the simulator."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from fleet import daemon, simulated

EXAMPLES = Path(__file__).parents[2] / "clients" / "examples"


async def test_cached_prompt():
    """The first answer is upstream's, the second the cache's."""
    async with simulated() as simulator:
        with daemon(simulator.url) as running:
            command = [sys.executable, EXAMPLES / "cached_prompt.py", running.grpc]
            done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30)
    first, second = done.stdout.splitlines()
    assert first.startswith("upstream, ")
    assert second.startswith("cache, ")
    assert first.partition(": ")[2] == second.partition(": ")[2]
